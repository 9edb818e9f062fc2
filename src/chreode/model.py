"""Named latents, a decoder, and the trace that remembers the cells they explained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.gated import GatedDensity
from chreode.layers import Conditions
from chreode.named import Named
from chreode.parts import Code, Density, Given, Observed
from chreode.rounding import rounding

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from chreode.cells import Cells
    from chreode.gated import Gate

T = TypeVar("T")

__all__ = ["Code", "Density", "Given", "Latent", "LatentModel", "Observed", "Trace"]


class Latent(nn.Module):
    """One latent variable: how its codes are inferred and how they are distributed a priori.

    Parameters
    ----------
    infer
        ``infer(cells, given) -> Code``.
    prior
        ``prior(cells, given) -> Density``; its ``log_hyper()`` is the log density of its parameters.
    only
        Which cells have the latent; None for all.
    """

    infer: Any  # nn.Module's own __getattr__ would call these a Tensor
    prior: Any
    only: Any

    def __init__(self, infer: nn.Module, prior: nn.Module, *, only: Gate | None = None) -> None:
        super().__init__()
        self.infer = infer
        self.prior = prior
        self.only = only

    @property
    def column(self) -> str | None:
        """The column whose levels are the prior's components; None where they are free, or there are none."""
        return getattr(self.prior, "column", None)

    @property
    def columns(self) -> set[str]:
        """Every column whose levels this latent knows: of its prior, its codes, or those that have it."""
        known = ((self.prior, "attribute"), (self.infer, "attribute"), (self.only, "column"))
        found = [self.column, *[getattr(part, name, None) for part, name in known]]
        found += getattr(self.prior, "columns", ())
        return {column for column in found if column}

    @property
    def of_levels(self) -> bool:
        """Whether a cell's code is that of its level alone."""
        return hasattr(self.infer, "attribute")

    def pair(
        self,
        shared: Float[Tensor, "n s"],
        own: Float[Tensor, "n d"],
        cells: Cells,
        *,
        total: Callable[[Tensor], Tensor],
    ) -> None:
        """Learn what own codes go with the shared ones, so that `transport` knows."""
        for part in (self.only, self.prior):
            if hasattr(part, "pair"):
                part.pair(shared, own, cells, total=total)

    def transport(
        self,
        shared: Float[Tensor, "n s"],
        own: Float[Tensor, "n d"],
        *,
        before: Cells,
        after: Cells,
        draw: torch.Generator | None = None,
    ) -> Float[Tensor, "n d"]:
        """Own codes of cells whose levels were changed; drawn where they are not given, with a generator."""
        for part in (self.infer, self.only, self.prior):
            if hasattr(part, "transport"):
                own = part.transport(shared, own, before=before, after=after, draw=draw)
        return own


class Trace:
    """What a model made of some cells: their codes and the distributions of what was measured."""

    __slots__ = ("_shared", "cells", "codes", "observed")

    def __init__(self, cells: Cells, codes: Mapping[str, Code], observed: Mapping[str, Observed]) -> None:
        self.cells = cells
        self.codes = codes
        self.observed = observed
        self._shared: dict[str, Any] = {}

    def shared(self, name: str, make: Callable[[], T]) -> T:
        """What several terms of an objective look at, made by the first of them."""
        if name not in self._shared:
            self._shared[name] = make()
        return self._shared[name]


class LatentModel(nn.Module):
    """Latents inferred in declared order, then decoded together.

    .. math:: z_i \\sim p(z), \\qquad x_i \\sim p(x \\mid f(z_i), \\text{covariates}_i, s_i)

    Parameters
    ----------
    latents
        `Latent` by name.
    decoder
        ``decoder({name: z}, cells) -> {modality: Observed}``.
    dynamics
        How codes move in time (`chreode.dynamics.Motion`); None where they do not.
    critics
        By column, what tries to tell its levels from codes (`chreode.penalties.Critic`).
    """

    latents: Any  # Named, of Latent
    decoder: Any
    dynamics: Any
    critics: Any

    def __init__(
        self,
        latents: Mapping[str, Latent],
        decoder: nn.Module,
        *,
        dynamics: nn.Module | None = None,
        critics: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.latents = Named(latents)
        self.decoder = decoder
        self.dynamics = dynamics
        self.critics = Named(critics or {})

    @property
    def columns(self) -> set[str]:
        """Every column whose levels the model knows: of latents, or as conditions of encoders and decoder."""
        seen = {column for part in self.modules() if isinstance(part, Conditions) for column in part.columns}
        return seen.union(*(latent.columns for latent in self.latents.values()))

    def forward(self, cells: Cells) -> Trace:
        """Infer, then decode."""
        codes: dict[str, Code] = {}
        for name, latent in self.latents.items():
            codes[name] = latent.infer(cells, self.given(name, codes, cells))
        return Trace(cells, codes, self.decode(_values(codes), cells))

    def trace(self, z: Mapping[str, Tensor], cells: Cells) -> Trace:
        """The trace of codes that are given instead of inferred."""
        return Trace(cells, {name: Code(value) for name, value in z.items()}, self.decode(z, cells))

    def decode(self, z: Mapping[str, Tensor], cells: Cells) -> dict[str, Observed]:
        """What codes decode to in some cells: those of latents that a cell does not have count as zero."""
        seen = dict(z)
        for name, latent in self.latents.items():
            if latent.only is not None:
                seen[name] = seen[name] * latent.only(cells)[:, None]
        return self.decoder(seen, cells)

    def prior(self, name: str, trace: Trace) -> Density:
        """The prior of one latent for the cells of a trace."""
        latent = self.latents[name]
        density = latent.prior(trace.cells, self.given(name, trace.codes, trace.cells))
        return density if latent.only is None else GatedDensity(density, latent.only(trace.cells))

    def given(self, name: str, codes: Mapping[str, Code], cells: Cells) -> Given:
        """What one latent may look at, beside the cells."""

        def energy(z: Tensor) -> Tensor:
            return self.energy({**_values(codes), name: z}, cells)

        def decode(z: Tensor) -> dict[str, Observed]:
            with rounding(self, on=False):  # which could be differentiated once only
                return self.decode({**_values(codes), name: z}, cells)

        return Given(codes, energy, decode)

    def energy(self, z: Mapping[str, Tensor], cells: Cells) -> Float[Tensor, " n"]:
        """Negative log joint of codes and counts, in nats: the latents given and the modalities present."""
        trace = self.trace(z, cells)
        parts = [self.prior(name, trace).log_prob(value) for name, value in z.items()]
        for modality, observed in trace.observed.items():
            parts.append(observed.log_prob(cells.measured[modality]) * cells.present[modality])
        return -torch.stack(parts).sum(0)


def _values(codes: Mapping[str, Code]) -> dict[str, Tensor]:
    return {name: code.z for name, code in codes.items()}
