"""Terms of the objective that teach a field to move cells from one time to another."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal

import torch

from chreode.dynamics.coupling import transport
from chreode.dynamics.matching import mmd, shares, sinkhorn
from chreode.objective import Term

if TYPE_CHECKING:
    from chreode.axes import Tensor
    from chreode.model import LatentModel, Trace

__all__ = ["Distance", "kinetic", "marginals", "paths", "sparsity"]

Distance = Literal["mmd", "sinkhorn"]


def marginals(latent: str, *, decay: float = 0.1, distance: Distance = "mmd") -> Term:
    r"""How far the cells of each time, moved to every later one, are from those measured then.

    .. math:: \sum_{s < t} \gamma^{\,k(s, t) - 1}\, D\big(\phi_{s \to t}(Z_s),\ Z_t\big)

    with :math:`\phi` the flow of the field and :math:`k` how many times ahead t is. D is
    `chreode.dynamics.mmd`, or `chreode.dynamics.sinkhorn` for each coordinate, in units of the field. Nothing
    is said of which cell becomes which. Where cells have growth rates, each counts as many as it will be.

    Parameters
    ----------
    latent
        Whose codes are moved.
    decay
        :math:`\gamma`, what a time further ahead counts, from 0 to 1.
    distance
        D.

    References
    ----------
    Cell-MNN (2025), doi:10.48550/arXiv.2510.02903.
    """

    def of(model: LatentModel, trace: Trace) -> Tensor:
        motion, growth = model.dynamics, trace.cells.growth
        groups, at = _groups(model, trace, latent), trace.cells.snapshot
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
                for s, part in zip(began, moving, strict=True) if len(there) else ():
                    grown = None if growth is None else motion.grown(growth[at == s], start=s, end=t)
                    total = total + decay ** (t - s - 1) * _apart(part, there, distance, grown)
            if len(there):
                began.append(t)
                moving.append(there)
        return total

    return Term("marginals", of, per="minibatch")


def paths(latent: str, *, length: int = 3) -> Term:
    r"""Squared distance of cells, moved on and on, from those that they are taken to become.

    .. math:: E\,\big\lVert \phi_{t_0 \to t_k}(z_0) - z_k \big\rVert^2 / d, \qquad k = 1 \ldots K - 1

    along paths of K cells of successive times, each drawn from the plan of least mean squared distance given
    the one before; in units of the field. Where cells have growth rates, each counts in the plan as many as
    it will be.

    Parameters
    ----------
    latent
        Whose codes are moved.
    length
        K, at least 2.

    References
    ----------
    Bertin et al. (2025), doi:10.48550/arXiv.2503.20027.
    """

    def of(model: LatentModel, trace: Trace) -> Tensor:
        motion, groups = model.dynamics, _groups(model, trace, latent)
        growth, at = trace.cells.growth, trace.cells.snapshot
        far: list[Tensor] = []
        under_way: list[tuple[Tensor, Tensor]] = []  # states by now, and which cell each is taken to be
        for t, (before, after) in enumerate(itertools.pairwise(groups)):
            if not len(before) or not len(after):
                under_way = []
                continue
            grown = None if growth is None else motion.grown(growth[at == t], start=t, end=t + 1)
            partner = _partners(before.detach(), after.detach(), grown)
            under_way = [*under_way, (before, torch.arange(len(before), device=before.device))][1 - length :]
            z, cell = (torch.cat(part) for part in zip(*under_way, strict=True))
            start, end = (motion.instants[s].expand(len(z)) for s in (t, t + 1))
            z, cell = motion.move(z, start, end), partner[cell]
            far.append((z - after[cell]).square().mean(1))
            sizes = [len(states) for states, _ in under_way]
            under_way = list(zip(z.split(sizes), cell.split(sizes), strict=True))
        return torch.cat(far).mean() if far else torch.zeros((), device=trace.cells.device)

    return Term("paths", of, per="minibatch")


def sparsity(*, weight: float) -> Term:
    r"""How strongly every input of the field reaches every output, by all paths through its layers.

    .. math:: \overline{C}, \qquad C = |W_L| \cdots |W_2|\,|W_1|

    over state inputs and outputs, the time's left out. Where an entry of C is 0 the output does not depend on
    the input: weights of paths shrink together, and those that data do not ask for vanish.

    Parameters
    ----------
    weight
        Of the term.

    References
    ----------
    Aliee et al. (2022), doi:10.48550/arXiv.2210.14672, who also gate each weight.
    """

    def of(model: LatentModel, trace: Trace) -> Tensor:
        return model.dynamics.field.paths().mean()

    return Term("sparsity", of, weight, "minibatch")


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


def _apart(predicted: Tensor, observed: Tensor, distance: Distance, weights: Tensor | None) -> Tensor:
    if distance == "mmd":
        return mmd(predicted, observed, weights=weights)
    return sinkhorn(predicted, observed, weights=weights) / observed.shape[1]


def _partners(before: Tensor, after: Tensor, grown: Tensor | None) -> Tensor:
    """For each cell one of the next time, drawn from the plan of least mean squared distance."""
    before, after = before.double(), after.double()
    cost = torch.cdist(before, after).square()
    plan = transport(cost, weights=(shares(before, grown), shares(after))).to(before.device)
    return torch.multinomial(plan, 1)[:, 0]


def _groups(model: LatentModel, trace: Trace, latent: str) -> list[Tensor]:
    """The states of each time, in units of the field."""
    z, at = model.dynamics.inside(trace.codes[latent].z), trace.cells.snapshot
    return [z[at == t] for t in range(len(model.dynamics.instants))]
