"""Codes that all cells of a level have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.parts import Code, Given

if TYPE_CHECKING:
    from chreode.cells import Cells
    from chreode.layout import Layout

__all__ = ["LevelCodes"]


class LevelCodes(nn.Module):
    r"""A learned code for every level of a column: the same for all its cells.

    .. math:: z_i = e_{y_i} \qquad \text{or, of a continuous column,} \qquad z_i = h(y_i)

    A cell of unknown level has the mean of the levels' codes. :math:`h` is a network with one hidden layer.

    Parameters
    ----------
    layout
        Covariates.
    attribute
        The column, by name or role.
    dim
        Dimensions of a code.
    hidden
        Units of the network of a continuous column.
    """

    free = False  # the code is a function of the covariates

    def __init__(self, layout: Layout, attribute: str, dim: int, *, hidden: int = 64) -> None:
        super().__init__()
        covariate = layout.resolve(attribute)
        self.attribute, self.categorical = covariate.column, covariate.categorical
        self.codes_of = (
            nn.Embedding(len(covariate.levels), dim)
            if covariate.categorical
            else nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        )

    @property
    def table(self) -> Float[Tensor, "c d"]:
        """The code of each level."""
        return self.codes_of.weight  # type: ignore[return-value]

    def forward(self, cells: Cells, given: Given | None = None) -> Code:
        """The code of each cell's level."""
        value = cells.covariates[self.attribute]
        if self.categorical:
            return Code(torch.cat([self.table, self.table.mean(0, keepdim=True)])[value])
        return Code(self.codes_of(value.nan_to_num(0.0)[:, None]))

    def known(self, cells: Cells, *, otherwise: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The code of each cell's level, and another where that is unknown."""
        value = cells.covariates[self.attribute]
        there = value >= 0 if self.categorical else ~value.isnan()
        return torch.where(there[:, None], self(cells).z, otherwise)

    def transport(
        self,
        shared: Float[Tensor, "n s"],
        own: Float[Tensor, "n d"],
        *,
        before: Cells,
        after: Cells,
        draw: torch.Generator | None = None,
    ) -> Float[Tensor, "n d"]:
        """The codes of the new levels."""
        return self(after).z.detach()
