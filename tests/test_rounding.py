"""Layers that round: only where asked for, and never where no gradient is taken."""

from __future__ import annotations

import pytest
import scipy.sparse as sp
import torch

from chreode.csr import CSR
from chreode.decoders.product import Product
from chreode.infer.sparse_linear import SparseLinear
from chreode.rounding import rounding, rounds_fast

# Elsewhere the same layers multiply in single precision.
rounded_here = rounds_fast(torch.device("cpu"))


def gradients(product: Product, x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    product.zero_grad()
    (product(x) * weight).sum().backward()
    return [x.grad, product.weight.grad.clone(), product.bias.grad.clone()]


def test_values_and_gradients_are_rounded_only_inside() -> None:
    torch.manual_seed(0)
    product, x, weight = Product(32, 9000), torch.randn(40, 32), torch.randn(40, 9000)
    exact, values = gradients(product, x, weight), product(x)
    with rounding(torch.nn.Sequential(product), on=True):
        rounded = gradients(product, x, weight)
        short = product(x)
        with torch.no_grad():
            assert torch.equal(product(x), values)
    assert torch.equal(short, values) != rounded_here
    # Of the product, not of the sum: a bias of any size is added in single precision.
    assert (short - values).abs().max() < 0.01 * (values - product.bias).abs().max()
    for short, true in zip(rounded[:2], exact[:2], strict=True):
        assert torch.equal(short, true) != rounded_here
        assert (short - true).norm() < 0.01 * true.norm()
    torch.testing.assert_close(rounded[2], exact[2])
    after = gradients(product, x, weight)
    assert all(torch.equal(a, b) for a, b in zip(after, exact, strict=True))


@pytest.mark.parametrize(("density", "rounds"), [(0.02, False), (0.2, rounded_here)])
def test_counts_of_which_many_are_not_zero_are_multiplied_rounded(density: float, rounds: bool) -> None:
    counts = sp.random(128, 900, density=density, format="csr", dtype="float32", random_state=0)
    torch.manual_seed(0)
    layer, values, weight = SparseLinear(900, 32), CSR.of(counts), torch.randn(128, 32)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        layer.zero_grad()
        units = layer(values)
        (units * weight).sum().backward()
        return units.detach(), layer.weight.grad.clone()

    exact = run()
    with rounding(layer, on=True):
        rounded = run()
        with torch.no_grad():
            assert torch.equal(layer(values), exact[0])
    for short, true in zip(rounded, exact, strict=True):
        assert torch.equal(short, true) != rounds
        assert (short - true).norm() < 0.01 * true.norm()


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


def test_the_precision_of_products_elsewhere_is_left_as_it_was() -> None:
    products = torch.backends.mkldnn.matmul
    before = products.fp32_precision
    with rounding(product := Product(16, 900), on=True):
        gradients(product, torch.randn(40, 16), torch.randn(40, 900))
    assert products.fp32_precision == before
