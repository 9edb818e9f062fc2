"""The last product of a decoder, nearly all of its arithmetic, and what it may be rounded to in training."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from chreode.axes import Float, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Product", "rounding", "rounds_fast"]

_START = 0.1
_BLOCK = 8192  # outputs


class Product(nn.Linear):
    """A linear layer that may round to bfloat16 what it multiplies, and its gradients too.

    .. math:: y = \\tilde x \\tilde W^\\top + b, \\qquad
              \\frac{\\partial L}{\\partial W} = \\tilde G^\\top \\tilde x, \\quad
              \\frac{\\partial L}{\\partial x} = \\tilde G \\tilde W

    where a tilde rounds to eight bits, a relative error of at most 1/256 an entry, and the product, which is
    rounded too, is summed in single precision. Two minibatches differ by far more than that. Everything is
    exact where no gradient is taken, as when held-out molecules are scored, and everywhere while ``rounded``
    is false, as it is outside of `rounding`.

    Its weights may have a Gaussian prior of mean 0, whose ``precision`` (a buffer, set by `shrink`) adds
    :math:`\\tfrac{\\lambda}{2} \\lVert W \\rVert^2` to the objective, once per data set.

    Parameters
    ----------
    inputs, outputs
        Widths.
    """

    rounded = False
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
        if self.rounded and input.dtype == torch.float32 and torch.is_grad_enabled():
            return _Rounded.apply(input, self.weight, self.bias)  # pyright: ignore[reportReturnType]
        return super().forward(input)


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ANN001
        y, short_x = x.new_empty(len(x), len(weight)), x.bfloat16()
        blocks = [weight[here].bfloat16() for here in _blocks(weight)]
        for here, short in zip(_blocks(weight), blocks, strict=True):
            # In two passes, which are vector instructions: a sum of two types is not.
            y[:, here].copy_(short_x @ short.t()).add_(bias[here])
        ctx.save_for_backward(short_x, *blocks)
        ctx.shape = weight.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN001
        short_x, *blocks = ctx.saved_tensors
        by_x_wanted, by_weight_wanted, by_bias_wanted = ctx.needs_input_grad
        # First, in the place that the last step's left: anything else would split it.
        by_weight = grad.new_empty(ctx.shape) if by_weight_wanted else None
        by_bias = grad.new_empty(ctx.shape[0]) if by_bias_wanted else None
        by_x = grad.new_zeros(short_x.shape) if by_x_wanted else None
        ones = grad.new_ones(len(grad))
        for here, short_weight in zip(_blocks(grad.t()), blocks, strict=True):
            if by_bias is not None:
                # A third of the time of a sum down the columns.
                torch.mv(grad[:, here].t(), ones, out=by_bias[here])
            short = grad[:, here].bfloat16()
            if by_x is not None:
                by_x += short @ short_weight
            if by_weight is not None:
                by_weight[here] = short.t() @ short_x
        return by_x, by_weight, by_bias


def _blocks(outputs: Tensor) -> list[slice]:
    """Of outputs: a block of what is rounded stays in the cache."""
    return [slice(at, at + _BLOCK) for at in range(0, len(outputs), _BLOCK)]


@contextmanager
def rounding(model: nn.Module, *, on: bool) -> Iterator[None]:
    """Inside, every `Product` of a model rounds where gradients are taken, or does not."""
    products = [module for module in model.modules() if isinstance(module, Product)]
    before = [product.rounded for product in products]
    try:
        for product in products:
            product.rounded = on
        yield
    finally:
        for product, value in zip(products, before, strict=True):
            product.rounded = value


def rounds_fast(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 faster than single precision, and has use for it."""
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and asked is not None and bool(asked())
