"""How cells move in time, learned from snapshots: a field over coordinates."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Interval, MinLen

from chreode.decoders import Linear
from chreode.dynamics import LocallyLinear, Motion, Perceptron
from chreode.errors import InputError
from chreode.events import centre_decoder, learn_factors, start_dynamics
from chreode.infer import Coordinates, PrincipalComponents
from chreode.likelihoods import Normal, heads
from chreode.model import Latent, LatentModel
from chreode.moving import Distance, kinetic, marginals
from chreode.moving import sparsity as sparse_paths
from chreode.objective import Objective, reconstruction
from chreode.plan import Plan
from chreode.priors import Flat
from chreode.recipe import Build, recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from chreode.layout import Layout
    from chreode.objective import Term

__all__ = ["cell_mnn", "in_motion", "neural_ode"]

Dim = Annotated[int, Interval(ge=1, le=512)] | None
Width = Annotated[int, Interval(ge=1, le=4096)]
Widths = Annotated[tuple[Width, ...], MinLen(1)]
Share = Annotated[float, Interval(ge=0, le=1)]
Weight = Annotated[float, Interval(ge=0)]
_USUAL = 10  # principal components of counts
_PER_TIME = 200  # cells of each time in a minibatch, where all have as many
_PER_COURSE = 50  # of these at least, of each course
_STEPS = 600


@recipe(code="cell", cite=("cellmnn",))
def cell_mnn(
    layout: Layout,
    *,
    dim: Dim = None,
    hidden: Widths = (64, 64),
    affine: bool = True,
    bound: Annotated[float, Interval(gt=0)] = 4.0,
    rank: Annotated[int, Interval(ge=1, le=512)] = 10,
    steps: Annotated[int, Interval(ge=0, le=64)] = 2,
    decay: Share = 0.1,
    energy: Weight = 0.03,
    distance: Distance = "mmd",
) -> Build:
    r"""Mechanistic neural network of cells: a field that is linear wherever one looks.

    .. math::
        \frac{dz}{dt} = A(z, t)\,z + b(z, t), \quad
        L = \sum_{s < t} \gamma^{k(s, t) - 1}\,\mathrm{MMD}^2\big(\phi_{s \to t}(Z_s), Z_t\big)
            + \lambda E

    with ``A`` and ``b`` by a network, :math:`\phi` the flow from one time's cells to another's and ``E`` the
    kinetic energy of their ways (`chreode.moving.kinetic`). The page *cell_mnn* of the documentation says
    more (doi:10.48550/arXiv.2510.02903).

    Parameters
    ----------
    dim
        Principal components of log-normalised counts, 10 by default, or of other values; None takes
        coordinates as they are.
    hidden
        Widths of the network's hidden layers.
    affine
        Whether there is an offset ``b``; without one, as published, the mean of all cells stands still.
    bound
        Of the operator's root mean square singular value, per mean interval between times.
    rank
        Directions in which the operator is linear, at most; of fewer dimensions it is any matrix.
    steps
        How often the operator is taken anew in a mean interval; 0 for once at a cell's start, as published.
    decay
        :math:`\gamma`: what each time further ahead counts.
    energy
        :math:`\lambda`, weight of the kinetic energy.
    distance
        Between predicted and observed cells: ``mmd``, or ``sinkhorn``, by entropic transport.
    """
    terms = (marginals("cell", decay=decay, distance=distance), kinetic("cell", weight=energy))

    def field(d: int) -> nn.Module:
        return LocallyLinear(d, hidden=hidden, affine=affine, bound=bound, rank=rank)

    return in_motion(layout, dim, field, terms, steps=max(steps, 1), once=steps == 0)


@recipe(code="cell", cite=("neuralode",))
def neural_ode(
    layout: Layout,
    *,
    dim: Dim = None,
    hidden: Widths = (64, 64, 64),
    steps: Annotated[int, Interval(ge=1, le=64)] = 4,
    decay: Share = 0.1,
    energy: Weight = 0.03,
    distance: Distance = "mmd",
    sparsity: Weight = 0.0,
) -> Build:
    r"""Neural ordinary differential equation: a field by a perceptron, taught by the cells of later times.

    .. math:: \frac{dz}{dt} = f(z, t)

    with the objective of `cell_mnn`. The page *neural_ode* of the documentation says more
    (doi:10.48550/arXiv.1806.07366).

    Parameters
    ----------
    dim, decay, energy, distance
        As of `cell_mnn`.
    hidden
        Widths of the perceptron's hidden layers.
    steps
        Of the Runge-Kutta method in a mean interval.
    sparsity
        Weight of PathReg: how strongly every coordinate reaches every other's velocity through the layers.
    """
    terms = (marginals("cell", decay=decay, distance=distance), kinetic("cell", weight=energy))
    if sparsity:
        terms = (*terms, sparse_paths(weight=sparsity))
    return in_motion(layout, dim, lambda d: Perceptron(d, hidden=hidden), terms, steps=steps)


def in_motion(
    layout: Layout,
    dim: int | None,
    field: Callable[[int], nn.Module],
    terms: tuple[Term, ...],
    *,
    steps: int,
    once: bool = False,
    genes: bool = False,
) -> Build:
    """Codes that are coordinates, or principal components with a readout, and a field that moves them."""
    name, modality = next(iter(layout.modalities.items()))
    counted = modality.kind != "continuous"
    as_they_are = genes or (dim is None and not counted)
    if dim is not None and dim > modality.n_features:
        msg = (
            f"Expected at most as many components as features of {name}, {modality.n_features}; found "
            f"dim={dim}. Ask for fewer, or for none to take coordinates as they are."
        )
        raise InputError(msg)
    d = modality.n_features if as_they_are else dim or min(_USUAL, modality.n_features)
    part: Any = Coordinates(layout) if as_they_are else PrincipalComponents(layout, d)
    heads_ = {"counts": heads["nb"], "binary": heads["bernoulli"], "continuous": _normal}
    decoder = Linear(layout, {"cell": d}, heads={name: heads_[modality.kind]})
    decoder.requires_grad_(requires_grad=counted)
    motion = Motion(layout, field(d), dim=d, steps=steps, once=once)
    model = LatentModel({"cell": Latent(part, Flat(d))}, decoder, dynamics=motion)
    events = (centre_decoder(), learn_factors(), start_dynamics("cell"))
    learn = {"by_time": True, "cool": 1.0, "weight_decay": 1e-5, "stop": None}
    size = len(motion.times) * max(_PER_TIME, _PER_COURSE * layout.n_courses)
    plan = replace(Plan(minibatch=size, events=events, **learn), epochs=1)
    plan = plan.with_steps(_STEPS, n_cells=layout.n_cells)
    return Build(model, Objective(*terms, *((reconstruction(),) if counted else ())), plan)


def _normal(n_features: int) -> nn.Module:
    return Normal(n_features, learned=True)
