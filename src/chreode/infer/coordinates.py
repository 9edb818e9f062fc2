"""Coordinates that are codes already."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.cells import CSR
from chreode.infer.principal import LEAST, Line, moments, usual
from chreode.infer.values import prepared
from chreode.io.regression import solved
from chreode.parts import Code, Given

if TYPE_CHECKING:
    from chreode.cells import Cells
    from chreode.layout import Layout

__all__ = ["Coordinates"]


class Coordinates(nn.Module):
    r"""The values of the first modality as codes, :math:`z_i = x_i`.

    Counts are log-normalised, :math:`z_{ij} = \log(1 + c\,x_{ij}/s_i)`. A feature that a panel did not
    measure is at its mean. Of coordinates that were read in place of features, these are kept as
    :math:`\bar x + L z`.

    Parameters
    ----------
    layout
        Of whose first modality every feature is a dimension.
    per
        The total :math:`c` that the counts of every cell are scaled to.
    """

    free = False  # the code is a function of the values
    mean: Tensor
    noise: Tensor
    level: Tensor
    loadings: Tensor

    def __init__(self, layout: Layout, *, per: float = 1e4) -> None:
        super().__init__()
        name, modality = next(iter(layout.modalities.items()))
        self.modalities, self.per = (name,), per
        self.register_buffer("mean", torch.zeros(modality.n_features))
        self.register_buffer("noise", torch.ones(modality.n_features))
        self.register_buffer("level", torch.zeros(len(modality.readout)))
        self.register_buffer("loadings", torch.zeros(len(modality.readout), modality.n_features))

    def learn(self, cells: Cells, *, seed: int, progress: bool = False) -> None:
        """Note means, how little noise is, and the map back; nothing else is learned."""
        mean, variance = moments(prepared(cells, self.modalities, per=self.per), self.modalities[0])
        self.mean.copy_(mean)
        self.noise.copy_(LEAST * usual(variance))
        if cells.readout:
            level, loadings = solved(cells.readout)
            self.level.copy_(level)
            self.loadings.copy_(loadings)

    def linear(self, modality: str) -> Line:
        """That values are what they are."""
        d = len(self.noise)
        return Line(self.noise.new_zeros(d), torch.eye(d, device=self.noise.device), self.noise)

    def lead(self) -> Line:
        """What values are, and after them the features that coordinates lead back to, of unknown noise."""
        line, unknown = self.linear(self.modalities[0]), torch.full_like(self.level, float("nan"))
        return Line(
            torch.cat([line.mean, self.level]),
            torch.cat([line.weight, self.loadings]),
            torch.cat([line.noise, unknown]),
        )

    def forward(self, cells: Cells, given: Given | None = None) -> Code:
        """The values."""
        (m,) = self.modalities
        values, mask = prepared(cells, self.modalities, per=self.per).measured[m], cells.mask(m)
        dense = values.dense() if isinstance(values, CSR) else values
        return Code(dense if mask is None else dense + ~mask * self.mean)

    def propose(self, cells: Cells) -> Float[Tensor, "n d"]:
        """The values."""
        return self(cells).z
