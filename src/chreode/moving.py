"""Terms of the objective that teach a field to move cells from one time to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from chreode.courses import courses
from chreode.dynamics.coupling import transport
from chreode.dynamics.matching import mmd, shares, sinkhorn
from chreode.objective import Term

if TYPE_CHECKING:
    from chreode.axes import Tensor
    from chreode.courses import Course
    from chreode.model import LatentModel, Trace

__all__ = ["Distance", "kinetic", "marginals", "paths", "sparsity"]

Distance = Literal["mmd", "sinkhorn"]


def marginals(latent: str, *, decay: float = 0.1, distance: Distance = "mmd") -> Term:
    r"""How far the cells of each time, moved to every later one, are from those measured then.

    .. math:: \sum_{s < t} \gamma^{\,k(s, t) - 1}\, D\big(\phi_{s \to t}(Z_s),\ Z_t\big)

    with :math:`\phi` the flow of the field and :math:`k` how many times ahead t is. D is
    `chreode.dynamics.mmd`, or `chreode.dynamics.sinkhorn` for each coordinate, in units of the field. Nothing
    is said of which cell becomes which. Where cells have growth rates, each counts as many as it will be. Of
    several courses it is the mean, by how many cells they have.

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
        found = courses(model, trace, latent)
        each = [course.n_cells * _missed(course, decay, distance) for course in found]
        return torch.stack(each).sum() / sum(course.n_cells for course in found) if found else _nothing(trace)

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
        far = [part for course in courses(model, trace, latent) for part in _strayed(course, length)]
        return torch.cat(far).mean() if far else _nothing(trace)

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


def kinetic(latent: str, *, weight: float = 0.03) -> Term:
    r"""Kinetic energy of the ways of cells from each time to the next one.

    .. math:: \overline{\frac{1}{K} \sum_{k=1}^{K} \frac{\lVert u_k - u_{k-1} \rVert^2}{h^2 d}}

    with :math:`u_k` where a cell is after k of the K steps of the solver, of length h, in units of the field
    and mean intervals. Of the fields that lead from one time to the next it favours those with short, even
    ways: it is least for cells that go straight to where transport takes them. Cells of the last time set
    out to none that speaks for their velocity, and are left out.

    Parameters
    ----------
    latent
        Whose codes are moved.
    weight
        Of the term.

    References
    ----------
    Tong et al. (2020), doi:10.48550/arXiv.2002.04461.
    """

    def of(model: LatentModel, trace: Trace) -> Tensor:
        each = [course.ahead.energy for course in courses(model, trace, latent)]
        return torch.cat(each).mean() if each else _nothing(trace)

    return Term("kinetic energy", of, weight, "minibatch")


def _missed(course: Course, decay: float, distance: Distance) -> Tensor:
    """How far the cells of each time of a course, moved to every later one, are from those measured then."""
    states, total = course.states, []
    sizes = [len(z) for z in states]
    ahead = course.ahead.states.split(sizes[:-1])
    moving: list[Tensor] = []  # where the cells of each time have come by now
    for t in range(1, len(states)):
        if moving:
            # An operator that is taken once is that of the start, however far cells have come.
            once = course.motion.once
            some = states[: t - 1] if once else moving
            since = course.times[: t - 1] if once else [course.times[t - 1]] * (t - 1)
            end = course.motion.instants[course.times[t]]
            moving = list(course.move(torch.cat(some), course.at(since, some), end).split(sizes[: t - 1]))
        moving = [*moving, ahead[t - 1]]
        for s, part in enumerate(moving):
            far = _apart(part, states[t], distance, course.step(s, t).grown)
            total.append(decay ** (t - s - 1) * far)
    return torch.stack(total).sum()


def _strayed(course: Course, length: int) -> list[Tensor]:
    """Squared distances of cells, moved on and on, from those of the next times that they are taken to be."""
    far: list[Tensor] = []
    under_way: list[tuple[Tensor, Tensor]] = []  # states by now, and which cell each is taken to be
    for step in course.steps():
        partner = _partners(step.before.detach(), step.after.detach(), step.grown)
        first = torch.arange(len(step.before), device=step.before.device)
        under_way = [*under_way, (step.before, first)][1 - length :]
        z, cell = (torch.cat(part) for part in zip(*under_way, strict=True))
        z, cell = course.move(z, step.start, step.end), partner[cell]
        far.append(course.free(z - step.after[cell]).square().mean(1))
        sizes = [len(states) for states, _ in under_way]
        under_way = list(zip(z.split(sizes), cell.split(sizes), strict=True))
    return far


def _nothing(trace: Trace) -> Tensor:
    """Of a minibatch without cells of two times that become each other."""
    return torch.zeros((), device=trace.cells.device)


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
