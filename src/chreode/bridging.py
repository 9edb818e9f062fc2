"""Terms of the objective that teach a field by ways between pairs of cells of successive times."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from chreode.axes import Float, Tensor
from chreode.courses import Course, courses
from chreode.dynamics.bridge import brownian_bridge
from chreode.dynamics.coupling import pairs
from chreode.objective import Term

if TYPE_CHECKING:
    from collections.abc import Callable

    from chreode.dynamics.coupling import Coupling
    from chreode.model import LatentModel, Trace

__all__ = ["Pairing", "bridge_matching", "flow_matching", "geodesic_matching"]

_ENDS = 1e-3  # of a bridge, where its velocity is unbounded: left out


class Pairing(NamedTuple):
    """How cells of one time are paired with those of the next.

    Parameters
    ----------
    coupling
        As of `chreode.dynamics.pairs`.
    blur, penalty
        Its epsilon and penalty for a mean interval, in mean squared distances between two cells.
    noise
        Of a Brownian motion, in units of the field after a mean interval, whose bridges the pairs are ends
        of: it blurs the plan by twice its square.
    """

    coupling: Coupling = "ot"
    blur: float = 0.0
    penalty: float = float("inf")
    noise: float = 0.0


class Ways(NamedTuple):
    """Pairs of cells, and a moment between their times for each; in units of the field."""

    first: Float[Tensor, "n d"]
    last: Float[Tensor, "n d"]
    share: Float[Tensor, "n 1"]
    start: Float[Tensor, "n 1"]
    gap: Float[Tensor, "n 1"]
    course: Course

    @property
    def time(self) -> Float[Tensor, " n"]:
        """The moment."""
        return (self.start + self.share * self.gap)[:, 0]


def flow_matching(latent: str, *, pairing: Pairing, noise: float = 0.1) -> Term:
    r"""Squared distance of the field from straight lines between cells of one time and the next.

    .. math:: E\,\Big\lVert f(z_u, t) - \frac{z_1 - z_0}{t_1 - t_0} \Big\rVert^2 / d, \quad
              z_u = (1 - u) z_0 + u z_1 + \sigma \varepsilon, \quad t = (1 - u) t_0 + u t_1

    over pairs of a coupling of the two samples, u uniform; in units of the field.

    Parameters
    ----------
    latent
        Whose codes are moved.
    pairing
        How cells are paired.
    noise
        :math:`\sigma`.

    References
    ----------
    Tong et al. (2024), doi:10.48550/arXiv.2302.00482.
    """

    def loss(model: LatentModel, ways: Ways, cells: Tensor) -> Tensor:
        line = ways.last - ways.first
        state = ways.first + ways.share * line + noise * torch.randn_like(line)
        return ways.course.free(model.dynamics.field(state, ways.time) - line / ways.gap).square().mean()

    return _term("flow matching", latent, pairing, loss)


def bridge_matching(latent: str, *, noise: float) -> Term:
    r"""Squared distances of flow and score from those of Brownian bridges between paired cells.

    .. math:: E\,\lVert v(z_u, t) - v_u \rVert^2 / d + E\,\lVert \sigma_u s(z_u, t) + \varepsilon \rVert^2 / d

    with `chreode.dynamics.bridge.brownian_bridge`; pairs are of the entropic plan of width
    :math:`2 \sigma^2 h`, h the time between both, which makes the whole a Schroedinger bridge.

    Parameters
    ----------
    latent
        Whose codes are moved.
    noise
        :math:`\sigma`, in units of the field, after a mean interval.

    References
    ----------
    Tong et al. (2024), doi:10.48550/arXiv.2307.03672.
    """

    def loss(model: LatentModel, ways: Ways, cells: Tensor) -> Tensor:
        share = _ENDS + (1 - 2 * _ENDS) * ways.share
        ways = ways._replace(share=share)
        state, slope, drawn, wide = brownian_bridge(
            (ways.first, ways.last), share=share, gap=ways.gap, noise=noise
        )
        field = model.dynamics.field
        flow = ways.course.free(field(state, ways.time) - slope).square().mean()
        return flow + (wide * field.score(state, ways.time) + drawn).square().mean()

    return _term("bridge matching", latent, Pairing(noise=noise), loss)


def geodesic_matching(latent: str, *, pairing: Pairing, noise: float = 0.1) -> Term:
    r"""Squared distance of the field from bent ways between cells, and the length of these by a metric.

    .. math:: E\,\lVert f(z_u + \sigma \varepsilon, t) - \dot z_u \rVert^2 / d
              + E\,\dot z_u^\top G(z_u)\,\dot z_u / d

    with `chreode.dynamics.geodesic.Geodesic`. Ways learn from the second part alone: in the first they stand
    as they are. In time both come to what training one after the other gives.

    Parameters
    ----------
    latent
        Whose codes are moved.
    pairing
        How cells are paired.
    noise
        :math:`\sigma`.

    References
    ----------
    Kapusniak et al. (2024), doi:10.48550/arXiv.2405.14780.
    """

    def loss(model: LatentModel, ways: Ways, cells: Tensor) -> Tensor:
        field = model.dynamics.field
        state, slope = field.way((ways.first, ways.last), share=ways.share, start=ways.start, gap=ways.gap)
        length = (slope.square() * field.metric(state, cells)).mean()
        moved = field(state.detach() + noise * torch.randn_like(state), ways.time)
        return ways.course.free(moved - slope.detach()).square().mean() + length

    return _term("geodesic matching", latent, pairing, loss)


def _term(
    name: str, latent: str, pairing: Pairing, loss: Callable[[LatentModel, Ways, Tensor], Tensor]
) -> Term:
    """A mean over ways between the cells of a minibatch; 0 where no two successive times have some."""

    def of(model: LatentModel, trace: Trace) -> Tensor:
        each, number, cells = [], 0, model.dynamics.inside(trace.codes[latent].z).detach()
        for course in courses(model, trace, latent):
            ways = _ways(course, pairing)
            each.append(len(ways.first) * loss(model, ways, cells))
            number += len(ways.first)
        return torch.stack(each).sum() / number if each else torch.zeros((), device=cells.device)

    return Term(name, of, per="minibatch")


def _ways(course: Course, pairing: Pairing) -> Ways:
    """Pairs of each time's cells and the next one's, and a random moment for each."""
    found = []
    for step in course.steps():
        before, after = step.before.detach(), step.after.detach()
        usual = 2 * before.shape[1]  # the mean squared distance between two cells, as the spread is 1
        gap = float(step.end - step.start)
        rows, columns = pairs(
            before,
            after,
            coupling=pairing.coupling,
            weights=step.grown,
            epsilon=(pairing.blur * usual + 2 * pairing.noise**2) * gap,
            penalty=pairing.penalty * usual * gap,
        )
        share = torch.rand(len(rows), 1, device=before.device)
        start, wide = step.start.expand_as(share), (step.end - step.start).expand_as(share)
        found.append((before[rows], after[columns], share, start, wide))
    return Ways(*map(torch.cat, zip(*found, strict=True)), course=course)
