"""How cells move in time, learned from ways between cells of successive times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval

from chreode.bridging import Pairing, bridge_matching, geodesic_matching
from chreode.bridging import flow_matching as straight
from chreode.dynamics import Perceptron
from chreode.dynamics.bridge import Scored
from chreode.dynamics.geodesic import Guided
from chreode.dynamics.metric import Land, Radial
from chreode.recipe import Build, recipe
from chreode.recipes.trajectory import Dim, Weight, Widths, in_motion

if TYPE_CHECKING:
    from torch import nn

    from chreode.layout import Layout

__all__ = ["flow_matching", "metric_flow_matching", "sf2m"]

Above = Annotated[float, Interval(gt=0)]
_STEPS = 10  # of the solver, in a mean interval
_BLUR = 0.02  # of relaxed plans, in mean squared distances between cells


@recipe(code="cell", cite=("otcfm",))
def flow_matching(
    layout: Layout,
    *,
    dim: Dim = None,
    hidden: Widths = (64, 64, 64),
    coupling: Literal["ot", "independent", "unbalanced"] = "ot",
    penalty: Above = 1.0,
    noise: Weight = 0.1,
) -> Build:
    r"""Conditional flow matching: a field that goes along straight lines between cells of successive times.

    .. math:: L = E\,\Big\lVert f(z_u, t) - \frac{z_1 - z_0}{t_1 - t_0} \Big\rVert^2 / d, \quad
              z_u = (1 - u) z_0 + u z_1 + \sigma \varepsilon

    Nothing is solved while it learns. The page *flow_matching* of the documentation says more
    (doi:10.48550/arXiv.2302.00482).

    Parameters
    ----------
    dim
        As of `cell_mnn`.
    hidden
        As of `neural_ode`.
    coupling
        Which cell may become which: ``ot``, by optimal transport within a minibatch; ``independent``, any;
        ``unbalanced``, by transport that may leave cells behind rather than send them far.
    penalty
        Of cells left behind by ``unbalanced``, in mean squared distances between cells: one that has to go so
        far keeps :math:`e^{-1/2}`, 61 %, of its weight. Infinite as ``ot``, near 0 hardly any cell goes far.
    noise
        :math:`\sigma`, in units of the spread of all cells.
    """
    relaxed = Pairing(blur=_BLUR, penalty=penalty)
    pairing = relaxed if coupling == "unbalanced" else Pairing(coupling)
    term = straight("cell", pairing=pairing, noise=noise)
    return in_motion(layout, dim, lambda d: Perceptron(d, hidden=hidden), (term,), steps=_STEPS)


@recipe(code="cell", cite=("sf2m",))
def sf2m(layout: Layout, *, dim: Dim = None, hidden: Widths = (64, 64, 64), noise: Above = 0.5) -> Build:
    r"""Simulation-free Schroedinger bridges: flow and score of diffusing cells, from Brownian bridges.

    .. math:: L = E\,\lVert v(z_u, t) - v_u \rVert^2 / d
              + E\,\lVert \sigma_u s(z_u, t) + \varepsilon \rVert^2 / d, \quad
              z_u = (1 - u) z_0 + u z_1 + \sigma_u \varepsilon, \quad \sigma_u^2 = \sigma^2 h\,u (1 - u)

    over pairs of the entropic plan of width :math:`2 \sigma^2 h`, h the time between both. Cells are forecast
    along the flow v, which is deterministic. The page *sf2m* of the documentation says more
    (doi:10.48550/arXiv.2307.03672).

    Parameters
    ----------
    dim
        As of `cell_mnn`.
    hidden
        Widths of the hidden layers of flow and score, each.
    noise
        :math:`\sigma`, after a mean interval, in units of the spread of all cells.
    """

    def field(d: int) -> nn.Module:
        return Scored(d, hidden=hidden, noise=noise)

    return in_motion(layout, dim, field, (bridge_matching("cell", noise=noise),), steps=_STEPS)


@recipe(code="cell", cite=("mfm", "otcfm"))
def metric_flow_matching(
    layout: Layout,
    *,
    dim: Dim = None,
    hidden: Widths = (64, 64, 64),
    penalty: Above | None = None,
    metric: Literal["land", "rbf"] = "land",
    bandwidth: Above = 0.25,
    floor: Above = 0.1,
    noise: Weight = 0.1,
) -> Build:
    r"""Metric flow matching: a field along ways between cells that bend to where other cells are.

    .. math:: L = E\,\lVert f(z_u + \sigma \varepsilon, t) - \dot z_u \rVert^2 / d
              + E\,\dot z_u^\top G(z_u)\,\dot z_u / d, \quad
              z_u = (1 - u) z_0 + u z_1 + 2 u (1 - u)\,\varphi(z_0, z_1, t)

    over pairs of a coupling, with a metric G that is small where cells are. The page
    *metric_flow_matching* of the documentation says more (doi:10.48550/arXiv.2405.14780).

    Parameters
    ----------
    dim
        As of `cell_mnn`.
    hidden
        Widths of the hidden layers of the field, and of the network that bends ways.
    penalty
        Of cells left behind by unbalanced couplings, as of `flow_matching`; None pairs all, by optimal
        transport.
    metric
        ``land``, by kernels at the cells of the minibatch; ``rbf``, by kernels at centres of all cells.
    bandwidth
        Of the kernels of ``land``, in units of the spread of all cells.
    floor
        How short a way among cells is, where one far from any is 1.
    noise
        As of `flow_matching`.
    """

    def field(d: int) -> nn.Module:
        land = metric == "land"
        lengths = Land(bandwidth=bandwidth, floor=floor) if land else Radial(d, floor=floor)
        return Guided(d, hidden=hidden, metric=lengths)

    pairing = Pairing() if penalty is None else Pairing(blur=_BLUR, penalty=penalty)
    term = geodesic_matching("cell", pairing=pairing, noise=noise)
    return in_motion(layout, dim, field, (term,), steps=_STEPS)
