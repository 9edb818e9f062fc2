"""Kernels of independence against their definitions."""

from __future__ import annotations

import itertools

import torch

from chreode.penalties import dhsic, gaussian_kernel, hsic, median_width


def values(n: int = 7, *, seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=draw, dtype=torch.float64) for d in (1, 2, 1)]


def by_sums(kernels: list[torch.Tensor]) -> float:
    """The V-statistic, term by term."""
    n = len(kernels[0])
    joint = apart = mixed = 0.0
    for i, j in itertools.product(range(n), repeat=2):
        product = 1.0
        for k in kernels:
            product *= k[i, j].item()
        joint += product / n**2
    for i in range(n):
        product = 1.0
        for k in kernels:
            product *= sum(k[i, j].item() for j in range(n)) / n
        mixed += product / n
    apart = 1.0
    for k in kernels:
        apart *= sum(k[i, j].item() for i, j in itertools.product(range(n), repeat=2)) / n**2
    return joint + apart - 2 * mixed


def test_the_joint_criterion_is_its_definition() -> None:
    some = values()
    assert abs(dhsic(some).item() - by_sums([gaussian_kernel(x) for x in some])) < 1e-12


def test_of_two_variables_it_is_the_trace() -> None:
    x, y, _ = values()
    n = len(x)
    centring = torch.eye(n, dtype=x.dtype) - 1 / n
    trace = (gaussian_kernel(x) @ centring @ gaussian_kernel(y) @ centring).trace() / n**2
    torch.testing.assert_close(hsic(x, y), trace)


def test_it_sees_dependence_that_correlation_does_not() -> None:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(400, 1, generator=draw)
    y = x.square() + 0.1 * torch.randn(400, 1, generator=draw)
    shuffled = [hsic(x, y[torch.randperm(400, generator=draw)]).item() for _ in range(50)]
    assert abs(torch.corrcoef(torch.cat([x, y], 1).T)[0, 1]) < 0.2
    assert hsic(x, y).item() > 3 * max(shuffled)


def test_joint_dependence_of_variables_that_are_independent_in_pairs() -> None:
    draw = torch.Generator().manual_seed(2)
    a, b = (torch.randint(2, (600, 1), generator=draw).float() for _ in range(2))
    both = [a, b, (a + b) % 2]
    apart = [a, b, both[2][torch.randperm(600, generator=draw)]]
    assert all(hsic(*pair).item() < 0.01 for pair in itertools.combinations(both, 2))
    assert dhsic(both).item() > 5 * dhsic(apart).item()


def test_the_width_is_the_median_distance_and_never_zero() -> None:
    x, _, _ = values(9)
    distances = [abs(a - b) for a, b in itertools.combinations(x[:, 0].tolist(), 2)]
    assert abs(median_width(x).item() - sorted(distances)[(len(distances) - 1) // 2]) < 1e-12
    assert median_width(torch.zeros(5, 2)).item() == 1.0
    assert median_width(torch.zeros(1, 2)).item() == 1.0


def test_gradients_are_finite_where_codes_coincide() -> None:
    x = torch.zeros(6, 2, requires_grad=True)
    dhsic(list(x.split(1, 1))).backward()
    assert torch.isfinite(x.grad).all()
