"""Terms of the objective that teach a field to move cells from one time to another."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

from chreode.dynamics.coupling import pairs
from chreode.dynamics.matching import mmd
from chreode.objective import Term

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chreode.axes import Tensor
    from chreode.dynamics.coupling import Coupling
    from chreode.model import LatentModel, Trace

__all__ = ["flow_matching", "kinetic", "marginals"]


def marginals(latent: str, *, decay: float = 0.1, widths: Sequence[float] = (1.0,)) -> Term:
    r"""How far the cells of each time, moved to every later one, are from those measured then.

    .. math:: \sum_{s < t} \gamma^{\,k(s, t) - 1}\, \mathrm{MMD}^2\big(\phi_{s \to t}(Z_s),\ Z_t\big)

    with :math:`\phi` the flow of the field, :math:`k` how many times ahead t is, and `chreode.dynamics.mmd`
    in units of the field. Nothing is said of which cell becomes which.

    Parameters
    ----------
    latent
        Whose codes are moved.
    decay
        :math:`\gamma`, what a time further ahead counts, from 0 to 1.
    widths
        Of the kernels.

    References
    ----------
    Cell-MNN (2025), doi:10.48550/arXiv.2510.02903.
    """

    def of(model: LatentModel, trace: Trace) -> Tensor:
        motion = model.dynamics
        groups = _groups(model, trace, latent)
        total = torch.zeros((), device=trace.cells.device)
        began, moving = [], []  # the times at which cells set out, and where they have come by now
        for t, there in enumerate(groups):
            if began:
                # An operator that is taken once is that of the start, however far cells have come.
                z = torch.cat([groups[s] for s in began] if motion.once else moving)
                since = torch.tensor(began if motion.once else [t - 1] * len(began), device=z.device)
                number = torch.tensor([len(groups[s]) for s in began], device=z.device)
                start = motion.instants[since].repeat_interleave(number)
                z = motion.move(z, start, motion.instants[t].expand(len(z)))
                moving = list(z.split(number.tolist()))
                if len(there):
                    far = [
                        decay ** (t - s - 1) * mmd(part, there, widths=widths)
                        for s, part in zip(began, moving, strict=True)
                    ]
                    total = total + torch.stack(far).sum()
            if len(there):
                began.append(t)
                moving.append(there)
        return total

    return Term("marginals", of, per="minibatch")


def flow_matching(latent: str, *, coupling: Coupling = "ot", noise: float = 0.1) -> Term:
    r"""Squared distance of the field from straight lines between cells of one time and the next.

    .. math:: E\,\Big\lVert f(z_u, t) - \frac{z_1 - z_0}{t_1 - t_0} \Big\rVert^2 / d, \quad
              z_u = (1 - u) z_0 + u z_1 + \sigma \varepsilon, \quad t = (1 - u) t_0 + u t_1

    over pairs of a coupling of the two samples, u uniform; in units of the field.

    Parameters
    ----------
    latent
        Whose codes are moved.
    coupling
        As of `chreode.dynamics.pairs`.
    noise
        :math:`\sigma`.

    References
    ----------
    Tong et al. (2024), doi:10.48550/arXiv.2302.00482.
    """

    def of(model: LatentModel, trace: Trace) -> Tensor:
        motion, groups = model.dynamics, _groups(model, trace, latent)
        states, slopes, times = [], [], []
        for t, (before, after) in enumerate(itertools.pairwise(groups)):
            if not len(before) or not len(after):
                continue
            rows, columns = pairs(before.detach(), after.detach(), coupling=coupling)
            z, z_next = before[rows], after[columns]
            u = torch.rand(len(z), 1, device=z.device)
            gap = motion.instants[t + 1] - motion.instants[t]
            states.append((1 - u) * z + u * z_next + noise * torch.randn_like(z))
            slopes.append((z_next - z) / gap)
            times.append(motion.instants[t] + u[:, 0] * gap)
        if not states:
            return torch.zeros((), device=trace.cells.device)
        field = motion.field(torch.cat(states), torch.cat(times))
        return (field - torch.cat(slopes)).square().mean()

    return Term("flow matching", of, per="minibatch")


def kinetic(latent: str, *, weight: float = 0.1) -> Term:
    r"""Mean square of the velocity of cells that set out, :math:`\overline{\lVert f(z_i, t_i) \rVert^2 / d}`.

    Of the fields that lead from one time to the next it favours those with short, slow ways. Cells of the
    last time are left out: nothing else speaks for their velocity, and slowing them slows those before.
    """

    def of(model: LatentModel, trace: Trace) -> Tensor:
        motion = model.dynamics
        z, t = motion.inside(trace.codes[latent].z), motion.clock(trace.cells.time)
        before = t < motion.instants[-1]
        if not before.any():
            return torch.zeros((), device=z.device)
        return motion.field(z[before], t[before]).square().mean()

    return Term("kinetic energy", of, weight, "minibatch")


def _groups(model: LatentModel, trace: Trace, latent: str) -> list[Tensor]:
    """The states of each time, in units of the field."""
    z, at = model.dynamics.inside(trace.codes[latent].z), trace.cells.snapshot
    return [z[at == t] for t in range(len(model.dynamics.instants))]
