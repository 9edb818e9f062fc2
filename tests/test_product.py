"""The last product: rounded only where asked for, and never where no gradient is taken."""

from __future__ import annotations

import pytest
import torch

from chreode.decoders.product import Product, rounding


def gradients(product: Product, x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    product.zero_grad()
    (product(x) * weight).sum().backward()
    return [x.grad, product.weight.grad.clone(), product.bias.grad.clone()]


def test_values_and_gradients_are_rounded_only_inside() -> None:
    torch.manual_seed(0)
    # More outputs than one block of them holds.
    product, x, weight = Product(16, 9000), torch.randn(40, 16), torch.randn(40, 9000)
    exact, values = gradients(product, x, weight), product(x)
    with rounding(torch.nn.Sequential(product), on=True):
        rounded = gradients(product, x, weight)
        short = product(x)
        with torch.no_grad():
            assert torch.equal(product(x), values)
    assert not torch.equal(short, values)
    # Of the product, not of the sum: a bias of any size is added in single precision.
    assert (short - values).abs().max() < 0.01 * (values - product.bias).abs().max()
    for short, true in zip(rounded[:2], exact[:2], strict=True):
        assert not torch.equal(short, true)
        assert (short - true).norm() < 0.01 * true.norm()
    torch.testing.assert_close(rounded[2], exact[2])
    after = gradients(product, x, weight)
    assert all(torch.equal(a, b) for a, b in zip(after, exact, strict=True))


def test_an_error_inside_leaves_no_rounding_behind() -> None:
    product = Product(2, 3)
    with pytest.raises(KeyError), rounding(product, on=True):
        raise KeyError
    assert not product.rounded


def test_double_precision_is_never_rounded() -> None:
    product = Product(4, 5).double()
    x, weight = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    exact = gradients(product, x, weight)
    with rounding(product, on=True):
        assert all(torch.equal(a, b) for a, b in zip(gradients(product, x, weight), exact, strict=True))
