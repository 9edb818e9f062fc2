"""A network that reads a cell's values and answers with its code."""

from __future__ import annotations

import itertools
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.cells import CSR, Cells
from chreode.parts import Code, Given

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chreode.layout import Layout

__all__ = ["Encoder", "SparseLinear"]


class _SparseProduct(torch.autograd.Function):
    """``X W`` for a CSR ``X``; the backward pass is the transposed product ``X^T g``."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, values: CSR) -> Tensor:
        ctx.values = values
        return values @ weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CS")
            return ctx.values.torch().to_sparse_csc().transpose(0, 1) @ grads[0].contiguous(), None


class SparseLinear(nn.Module):
    """A linear layer whose input is a `CSR` or a dense tensor.

    Parameters
    ----------
    width
        Input features ``g``.
    hidden
        Output units.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, hidden).uniform_(-1, 1) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, values: CSR | Tensor) -> Float[Tensor, "n h"]:
        """``X W + b``."""
        if isinstance(values, CSR):
            return _SparseProduct.apply(self.weight, values) + self.bias
        return values @ self.weight + self.bias


class Encoder(nn.Module):
    """A deterministic encoder: values to code, without looking at the batch.

    .. math:: z_i = W_2\\,\\mathrm{relu}(\\ldots \\mathrm{relu}(W_0 u_i + b_0)), \\qquad
              u_{ig} = \\log(1 + 10^4\\,x_{ig}/s_i)

    for counts; other values enter as they are. Features that a panel did not measure add nothing.

    Parameters
    ----------
    layout
        The features of the first modality are read.
    dim
        Dimensions ``d`` of the code.
    hidden
        Widths of the hidden layers.
    """

    free = False  # the code is a function of the values

    def __init__(self, layout: Layout, dim: int, *, hidden: Sequence[int] = (100,)) -> None:
        super().__init__()
        self.modality = next(iter(layout.modalities))
        described = layout.modalities[self.modality]
        self.counts = described.kind == "counts"
        self.widths = widths = [*hidden, dim]
        self.first = SparseLinear(described.n_features, widths[0])
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.ReLU(), nn.Linear(before, after)]
        self.rest = nn.Sequential(*layers)

    def forward(self, cells: Cells, given: Given | None = None) -> Code:
        """Encode the cells."""
        values = cells.measured[self.modality]
        if self.counts and isinstance(values, CSR):
            factor = 1e4 / cells.size[self.modality].clamp(min=1)
            values = values.with_value(torch.log1p(values.value * factor[values.row]))
        return Code(self.rest(self.first(values)))

    def propose(self, cells: Cells) -> Float[Tensor, "n d"]:
        """The code itself."""
        return self(cells).z
