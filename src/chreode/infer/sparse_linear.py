"""The first layer of an encoder, which reads sparse counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.csr import CSR
from chreode.rounding import Rounds, short_products

__all__ = ["SparseLinear"]

_MANY = 1 / 16  # of the entries; fewer non-zeros are multiplied faster one by one


class SparseLinear(nn.Module, Rounds):
    """A linear layer whose input is a `CSR` or a dense tensor.

    .. math:: Y = X W + b, \\qquad \\frac{\\partial L}{\\partial W} = X^\\top G

    at the cost of the non-zeros. Where it may round (`chreode.rounding`), a minibatch of which more than a
    sixteenth is not zero is written out, zeros and all, as its decoded means are, and multiplied as it is.

    Parameters
    ----------
    width
        Input features ``g``.
    hidden
        Output units.
    bias
        Whether :math:`b` is added.
    """

    def __init__(self, width: int, hidden: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, hidden).uniform_(-1, 1) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(hidden)) if bias else None

    def forward(self, values: CSR | Tensor) -> Float[Tensor, "n h"]:
        """``X W + b``."""
        if not isinstance(values, CSR):
            units = values @ self.weight
        elif self.rounds(self.weight) and len(values.value) > _MANY * len(values) * values.width:
            units = _RoundedProduct.apply(self.weight, values.dense())
        else:
            units = _SparseProduct.apply(self.weight, values)
        return units if self.bias is None else units + self.bias  # pyright: ignore[reportReturnType]


class _SparseProduct(torch.autograd.Function):
    """``X W`` for a CSR ``X``; the backward pass is the transposed product ``X^T g``."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, values: CSR) -> Tensor:
        ctx.values = values
        return values @ weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.values.transposed_product(grads[0]), None


class _RoundedProduct(torch.autograd.Function):
    """The same of values that are written out."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        with short_products():
            return values @ weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (values,) = ctx.saved_tensors
        with short_products():
            return values.t() @ grads[0], None
