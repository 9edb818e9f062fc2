"""Hidden layers, of encoders and decoders alike, and what batch and covariates do to them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from chreode.axes import Float, Tensor

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from chreode.cells import Cells
    from chreode.layout import Layout

__all__ = ["Conditions", "Layers", "Norm", "has_bias"]

Norm = Literal["none", "batch", "layer"]


def has_bias(norm: Norm) -> bool:
    """Whether a linear layer before it has a bias: batch normalisation would take it out again."""
    return norm != "batch"


class Conditions(nn.Module):
    """A vector for every level of every condition, added up: what batch and covariates do to a layer.

    .. math:: h_i = \\sum_{b} \\Big(e_{b, l_{ib}} - \\frac{1}{c_b} \\sum_{l} e_{bl}\\Big)
              + \\sum_{v} x_{iv}\\, e_v

    The vectors of one column have zero mean by construction, so an unknown or missing level, which adds
    nothing, is the average one. A missing continuous value adds nothing either.

    Parameters
    ----------
    layout
        Its ``conditions`` are used.
    width
        Length of the vectors.
    columns
        Which of them; None for all.
    """

    def __init__(self, layout: Layout, width: int, *, columns: Collection[str] | None = None) -> None:
        super().__init__()
        used = {name: c for name, c in layout.conditions.items() if columns is None or name in columns}
        self.columns = list(used)
        rows = [max(1, len(c.levels)) for c in used.values()]
        self.categorical = [c.categorical for c in used.values()]
        self.vectors = nn.ParameterList([nn.Parameter(torch.zeros(r, width)) for r in rows])

    def forward(self, cells: Cells | None) -> Float[Tensor, "n w"] | None:
        """The sum for each cell; None without conditions, or of no cell in particular."""
        total = None
        if cells is None:
            return total
        for column, categorical, vectors in zip(self.columns, self.categorical, self.vectors, strict=True):
            value = cells.covariates[column]
            if categorical:
                # An extra row of zeros stands for the unknown level -1.
                table = torch.cat([vectors - vectors.mean(0), vectors.new_zeros(1, vectors.shape[1])])
                part = table[value]
            else:
                part = value.nan_to_num(0.0)[:, None] * vectors
            total = part if total is None else total + part
        return total


class Layers(nn.Module):
    """Hidden layers of rectified units, the first of them (or each) shifted by the cell's conditions.

    .. math:: h_l = \\mathrm{drop}\\big(\\mathrm{relu}(\\mathrm{norm}(W_l h_{l-1} + b_l + c_{il}))\\big)

    Parameters
    ----------
    first
        The first linear layer, whatever it reads; with a bias where `has_bias` says so.
    layout
        Its ``conditions`` are used.
    hidden
        Widths, at least one.
    columns
        Which conditions shift the units; None for all.
    deep
        Whether they shift every layer.
    norm
        ``batch`` keeps running means with a momentum of 0.01 and adds 1e-3 to variances, as scVI does;
        ``layer`` brings the units of each cell to mean 0 and variance 1, and learns nothing.
    dropout
        Probability that a unit is dropped in training, from 0 to below 1.
    """

    def __init__(
        self,
        first: nn.Module,
        layout: Layout,
        hidden: Sequence[int],
        *,
        columns: Collection[str] | None = None,
        deep: bool = False,
        norm: Norm = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        later = [nn.Linear(*pair, bias=has_bias(norm)) for pair in itertools.pairwise(hidden)]
        shifted = [columns, *[columns if deep else () for _ in later]]
        self.linear = nn.ModuleList([first, *later])
        self.conditions = nn.ModuleList(
            Conditions(layout, width, columns=some) for width, some in zip(hidden, shifted, strict=True)
        )
        self.after = nn.ModuleList(_after(width, norm, dropout) for width in hidden)

    def forward(
        self, values: object, cells: Cells | None, *, upto: int | None = None
    ) -> Float[Tensor, "n w"]:
        """The last layer's units, or those of the layer after which to stop."""
        units: object = values
        layers = list(zip(self.linear, self.conditions, self.after, strict=True))
        for linear, conditions, after in layers[:upto]:
            sums, shift = linear(units), conditions(cells)
            units = after(sums if shift is None else sums + shift)
        return units  # type: ignore[return-value]


def _after(width: int, norm: Norm, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    if norm == "batch":
        layers.append(nn.BatchNorm1d(width, momentum=0.01, eps=1e-3))
    elif norm == "layer":
        layers.append(nn.LayerNorm(width, elementwise_affine=False))
    layers.append(nn.ReLU())
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)
