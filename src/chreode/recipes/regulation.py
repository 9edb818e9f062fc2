"""How cells move in time by the regulation of their genes, learned from snapshots and a network."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Interval
from pydantic import BeforeValidator

from chreode.dynamics.regulation import Regulation
from chreode.errors import InputError
from chreode.io.edges import edges, positions
from chreode.moving import paths
from chreode.recipe import Build, recipe
from chreode.recipes.trajectory import in_motion

if TYPE_CHECKING:
    from torch import nn

    from chreode.layout import Layout

__all__ = ["flecs"]

Network = Annotated[dict[str, tuple[str, ...]], BeforeValidator(edges)] | None
_GENES = 2000  # that are coordinates, at most
_RATE = 1e-2  # a weight of each edge has further to go than those of a network that share its work


@recipe(code="cell", cite=("flecs",))
def flecs(
    layout: Layout,
    *,
    network: Network = None,
    length: Annotated[int, Interval(ge=2, le=16)] = 3,
    steps: Annotated[int, Interval(ge=1, le=64)] = 2,
) -> Build:
    r"""Functional learning of cell dynamics: genes that are made as their regulators say, and decay.

    .. math::
        \frac{dx_i}{dt} = \alpha_i\,m_i\,\mathrm{sigmoid}\Big(b_i + \sum_{j \to i} w_{ij}\,x_j\Big)
                          - \alpha_i\,x_i

    Codes are the genes' values, log-normalised where they are counts. The page *flecs* of the documentation
    says more (doi:10.48550/arXiv.2503.20027).

    Parameters
    ----------
    network
        The targets of each regulator: a mapping, a table with columns regulator and target, or its path. By
        default every gene may regulate every one.
    length
        Of the paths of cells of successive times that are followed, from one to the next by transport.
    steps
        As of `neural_ode`.
    """
    name, modality = next(iter(layout.modalities.items()))
    g = modality.n_features
    if g > _GENES:
        msg = f"Expected at most {_GENES:,} features of {name}, which are coordinates; found {g:,}. "
        raise InputError(msg + "Choose some with chreode.read(..., features=).")
    if network is None:
        found = torch.cartesian_prod(torch.arange(g), torch.arange(g)).T
    else:
        found = torch.tensor(positions(network, modality.names, modality.symbols))

    def field(_: int) -> nn.Module:
        return Regulation(g, found, fastest=2.0 * steps)

    build = in_motion(layout, None, field, (paths("cell", length=length),), steps=steps, genes=True)
    return replace(build, plan=replace(build.plan, lr={**build.plan.lr, "dynamics": _RATE}))
