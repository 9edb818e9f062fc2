"""Coordinates that are codes already."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.cells import CSR
from chreode.infer.principal import LEAST, Line, moments, usual
from chreode.parts import Code, Given

if TYPE_CHECKING:
    from chreode.cells import Cells
    from chreode.layout import Layout

__all__ = ["Coordinates"]


class Coordinates(nn.Module):
    """The values of the first modality as codes, :math:`z_i = x_i`.

    Parameters
    ----------
    layout
        Its first modality is continuous.
    """

    free = False  # the code is a function of the values
    noise: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        name, modality = next(iter(layout.modalities.items()))
        self.modalities = (name,)
        self.register_buffer("noise", torch.ones(modality.n_features))

    def learn(self, cells: Cells, *, seed: int, progress: bool = False) -> None:
        """Note how little noise is; nothing else is learned."""
        _, variance = moments(cells, self.modalities[0])
        self.noise.copy_(LEAST * usual(variance))

    def linear(self, modality: str) -> Line:
        """That values are what they are."""
        d = len(self.noise)
        return Line(torch.zeros(d), torch.eye(d), self.noise)

    def forward(self, cells: Cells, given: Given | None = None) -> Code:
        """The values."""
        values = cells.measured[self.modalities[0]]
        return Code(values.dense() if isinstance(values, CSR) else values)

    def propose(self, cells: Cells) -> Float[Tensor, "n d"]:
        """The values."""
        return self(cells).z
