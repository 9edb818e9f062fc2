"""Layers that may round what they multiply in training, and when they do."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

__all__ = ["Rounds", "rounding", "rounds_fast", "short_products"]


class Rounds:
    """A layer that may round to bfloat16 what it multiplies, and its gradients too, inside of `rounding`.

    It rounds to eight bits, a relative error of at most 1/256 an entry; products and their sums are of single
    precision. Two minibatches differ by far more than that. Everything is exact where no gradient is taken,
    as when held-out molecules are scored, and in double precision.
    """

    rounded = False

    def rounds(self, entries: torch.Tensor) -> bool:
        """Whether entries are rounded now."""
        return self.rounded and entries.dtype == torch.float32 and torch.is_grad_enabled()


@contextmanager
def rounding(model: nn.Module, *, on: bool) -> Iterator[None]:
    """Inside, every layer of a model that may round does where gradients are taken, or none does."""
    layers = [module for module in model.modules() if isinstance(module, Rounds)]
    before = [layer.rounded for layer in layers]
    try:
        for layer in layers:
            layer.rounded = on
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.rounded = value


@contextmanager
def short_products() -> Iterator[None]:
    """Inside, matrix products in single precision on the CPU round what they multiply to bfloat16."""
    products = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before = products.fp32_precision
    products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before


def rounds_fast(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 faster than single precision, and has use for it."""
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and asked is not None and bool(asked())
