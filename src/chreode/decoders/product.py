"""The last product of a decoder, nearly all of its arithmetic, and what it may be rounded to in training."""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from chreode.axes import Float, Tensor
from chreode.rounding import Rounds, short_products

__all__ = ["Product"]

_START = 0.1


class Product(nn.Linear, Rounds):
    """A linear layer that may round to bfloat16 what it multiplies, and its gradients too.

    .. math:: y = \\tilde x \\tilde W^\\top + b, \\qquad
              \\frac{\\partial L}{\\partial W} = \\tilde G^\\top \\tilde x, \\quad
              \\frac{\\partial L}{\\partial x} = \\tilde G \\tilde W

    where a tilde rounds (`chreode.rounding`).

    Its weights may have a Gaussian prior of mean 0, whose ``precision`` (a buffer, set by `shrink`) adds
    :math:`\\tfrac{\\lambda}{2} \\lVert W \\rVert^2` to the objective, once per data set.

    Parameters
    ----------
    inputs, outputs
        Widths.
    """

    precision: Tensor | None

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("precision", None)

    @torch.no_grad()
    def shrink(self, precision: float) -> None:
        """Give the weights a prior of this precision, and start them near zero if they had none."""
        if self.precision is None:
            self.precision = torch.empty((), device=self.weight.device)
            # Evidence would take the usual random start for weights that the data ask for.
            self.weight.mul_(_START)
        self.precision.fill_(precision)

    def forward(self, input: Float[Tensor, "n w"]) -> Float[Tensor, "n m"]:  # noqa: A002
        """The product."""
        if self.rounds(input):
            return _Rounded.apply(input, self.weight, self.bias)  # pyright: ignore[reportReturnType]
        return super().forward(input)


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ANN001
        ctx.save_for_backward(x, weight)
        with short_products():
            return linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN001
        x, weight = ctx.saved_tensors
        by_x, by_weight, by_bias = ctx.needs_input_grad
        with short_products():
            return (
                grad @ weight if by_x else None,
                grad.t() @ x if by_weight else None,
                grad.sum(0) if by_bias else None,
            )
