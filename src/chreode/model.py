"""Named latents, a decoder, and the trace that remembers the cells they explained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.named import Named
from chreode.parts import Code, Density, Given, Observed
from chreode.rounding import rounding

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from chreode.cells import Cells

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
    """

    infer: Any  # nn.Module's own __getattr__ would call these a Tensor
    prior: Any

    def __init__(self, infer: nn.Module, prior: nn.Module) -> None:
        super().__init__()
        self.infer = infer
        self.prior = prior

    @property
    def column(self) -> str | None:
        """The column whose levels are the prior's components; None where they are free, or there are none."""
        return getattr(self.prior, "column", None)


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
    """

    latents: Any  # Named, of Latent
    decoder: Any
    dynamics: Any

    def __init__(
        self, latents: Mapping[str, Latent], decoder: nn.Module, *, dynamics: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.latents = Named(latents)
        self.decoder = decoder
        self.dynamics = dynamics

    def forward(self, cells: Cells) -> Trace:
        """Infer, then decode."""
        codes: dict[str, Code] = {}
        for name, latent in self.latents.items():
            codes[name] = latent.infer(cells, self.given(name, codes, cells))
        return Trace(cells, codes, self.decoder(_values(codes), cells))

    def trace(self, z: Mapping[str, Tensor], cells: Cells) -> Trace:
        """The trace of codes that are given instead of inferred."""
        return Trace(cells, {name: Code(value) for name, value in z.items()}, self.decoder(z, cells))

    def prior(self, name: str, trace: Trace) -> Density:
        """The prior of one latent for the cells of a trace."""
        return self.latents[name].prior(trace.cells, self.given(name, trace.codes, trace.cells))

    def given(self, name: str, codes: Mapping[str, Code], cells: Cells) -> Given:
        """What one latent may look at, beside the cells."""

        def energy(z: Tensor) -> Tensor:
            return self.energy({**_values(codes), name: z}, cells)

        def decode(z: Tensor) -> dict[str, Observed]:
            with rounding(self, on=False):  # which could be differentiated once only
                return self.decoder({**_values(codes), name: z}, cells)

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
