"""Distances between samples, and couplings: those of reference implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics.pairwise import laplacian_kernel

from chreode.dynamics.coupling import interpolate, pairs, transport
from chreode.dynamics.matching import mmd, shares, sinkhorn
from chreode.errors import InputError
from chreode.evaluate.transport import energy_distance, variance_ratio, wasserstein


def samples(n: int = 60, m: int = 45, d: int = 3, shift: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(n, d, generator=generator, dtype=torch.float64),
        torch.randn(m, d, generator=generator, dtype=torch.float64) + shift,
    )


def test_mmd_is_that_of_scikit_learns_laplace_kernels():
    x, y = samples()
    expected = 0.0
    for width in (0.5, 2.0):
        gamma = 1 / (x.shape[1] * width)
        k = lambda u, v, gamma=gamma: laplacian_kernel(u.numpy(), v.numpy(), gamma=gamma).mean()  # noqa: E731
        expected += k(x, x) + k(y, y) - 2 * k(x, y)
    assert float(mmd(x, y, widths=(0.5, 2.0))) == pytest.approx(expected, rel=1e-10)


def test_mmd_of_a_sample_with_itself_is_nothing_and_has_a_finite_gradient():
    x, _ = samples()
    x.requires_grad_()
    value = mmd(x, x.detach().clone())
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-12)
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_pairs_by_transport_are_those_of_the_least_plan():
    x = torch.arange(8.0)[:, None]
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    y = x[order] + 0.1
    rows, columns = pairs(x, y, coupling="ot", generator=torch.Generator().manual_seed(0))
    assert len(rows) == 8
    assert torch.equal(order[columns], rows)


def test_independent_pairs_are_of_all_cells_with_all():
    x, y = samples(400, 300)
    rows, columns = pairs(x, y, coupling="independent", generator=torch.Generator().manual_seed(0))
    assert len(rows) == len(columns) == 400
    assert int(rows.max()) > 380
    assert int(columns.max()) in range(290, 300)
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.15


def test_transport_of_samples_of_unequal_size_keeps_both_marginals():
    x, y = samples(30, 20)
    rows, columns = [], []
    for seed in range(200):
        one, other = pairs(x, y, coupling="ot", generator=torch.Generator().manual_seed(seed))
        rows.append(one)
        columns.append(other)
    for drawn, n in ((torch.cat(rows), 30), (torch.cat(columns), 20)):
        share = torch.bincount(drawn, minlength=n) / len(drawn)
        assert float((share * n - 1).abs().max()) < 0.25


def test_wasserstein_is_that_of_scipy_in_one_dimension_and_a_shift_in_many():
    from scipy.stats import wasserstein_distance

    x, y = (s.numpy() for s in samples(d=1))
    assert wasserstein(x, y) == pytest.approx(wasserstein_distance(x[:, 0], y[:, 0]), rel=1e-8)
    x = samples()[0].numpy()
    assert wasserstein(x, x + np.array([3.0, 4.0, 0.0])) == pytest.approx(5.0, rel=1e-9)


def test_energy_distance_is_that_of_scipy_in_one_dimension():
    x, y = (sample.numpy()[:, :1] for sample in samples())
    expected = stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    assert energy_distance(x, y) == pytest.approx(expected, rel=1e-10)
    assert energy_distance(x, x) == pytest.approx(0, abs=1e-12)


def test_variance_ratio_says_how_wide_a_sample_is():
    x, _ = samples()
    assert variance_ratio(0.5 * x.numpy() + 3, x.numpy()) == pytest.approx(0.25)


def test_interpolation_goes_from_one_sample_to_the_other():
    before, after = (sample.numpy() for sample in samples(40, 40, shift=3.0))
    np.testing.assert_array_equal(interpolate(before, after, share=0.0), before)
    arrived = interpolate(before, after, share=1.0)
    np.testing.assert_allclose(sorted(map(tuple, arrived)), sorted(map(tuple, after)))
    half = interpolate(before, after, share=0.5)
    assert wasserstein(before, half) == pytest.approx(wasserstein(before, after) / 2, rel=1e-6)
    drawn = interpolate(before[:7], after, share=1.0, seed=3)
    assert np.abs(drawn[:, None] - after).sum(2).min(1).max() < 1e-12


def by_pot(x: torch.Tensor, y: torch.Tensor, *, epsilon: float) -> float:
    """The Sinkhorn divergence as the reference solves it, at the width that ours takes from y."""
    import ot

    width = epsilon * 2 * float(y.var(0, correction=0).sum())
    u, v = x.numpy(), y.numpy()
    parts = [ot.solve_sample(*pair, reg=width, tol=1e-10, max_iter=2000) for pair in ((u, v), (u, u), (v, v))]
    whole, own, other = (float(part.value) for part in parts)
    return whole - (own + other) / 2


@pytest.mark.parametrize("epsilon", [1.0, 0.1])
def test_sinkhorn_is_that_of_the_reference(epsilon: float):
    x, y = samples()
    assert float(sinkhorn(x, y, epsilon=epsilon)) == pytest.approx(by_pot(x, y, epsilon=epsilon), rel=1e-4)
    single = sinkhorn(x.float(), y.float(), epsilon=epsilon)
    assert float(single) == pytest.approx(by_pot(x, y, epsilon=epsilon), rel=1e-4)


def test_sinkhorn_is_nothing_for_equal_samples_and_never_negative():
    x, y = samples(50, 50, shift=0.0)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert float(sinkhorn(x, x[order])) == pytest.approx(0, abs=1e-3)
    for size in (2, 10, 50):
        assert float(sinkhorn(x[:size], y[-size:])) > 0
    assert float(sinkhorn(x, x + 3.0)) == pytest.approx(27, rel=1e-3)  # a shift by 3 in 3 dimensions
    one = torch.zeros(1, 2)
    assert float(sinkhorn(one, one)) == 0
    assert float(sinkhorn(one, one + 1)) == pytest.approx(2)


def test_sinkhorns_gradient_is_that_of_finite_differences():
    x, y = samples(12, 9)
    x.requires_grad_()
    (found,) = torch.autograd.grad(sinkhorn(x, y, epsilon=0.2), x)
    h = 1e-4
    for i, j in ((0, 0), (5, 1), (11, 2)):
        step = torch.zeros_like(x)
        step[i, j] = h
        with torch.no_grad():
            slope = (sinkhorn(x + step, y, epsilon=0.2) - sinkhorn(x - step, y, epsilon=0.2)) / (2 * h)
        assert float(found[i, j]) == pytest.approx(float(slope), rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("distance", [mmd, sinkhorn])
def test_a_cell_that_counts_twice_is_two_cells(distance):
    x, y = samples(8, 20)
    number = torch.tensor([1.0, 2, 1, 1, 3, 1, 1, 1], dtype=torch.float64)
    several = x.repeat_interleave(number.long(), 0)
    assert float(distance(x, y, weights=number)) == pytest.approx(float(distance(several, y)), rel=1e-5)


@pytest.mark.parametrize("penalty", [0.3, 2.0])
def test_relaxed_plans_are_those_of_the_reference(penalty: float):
    import ot

    x, y = samples(25, 30)
    a, b = shares(x, torch.rand(25, generator=torch.Generator().manual_seed(1)) + 0.1), shares(y)
    cost = torch.cdist(x, y).square()
    found = transport(cost, weights=(a, b), epsilon=1.0, penalty=penalty)
    marginals = (a.numpy(), b.numpy())
    expected = ot.unbalanced.sinkhorn_unbalanced(
        *marginals, cost.numpy(), 1.0, penalty, numItermax=20000, stopThr=1e-13
    )
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4 * expected.max())
    held = transport(cost, weights=(a, b), epsilon=1.0)
    expected = ot.sinkhorn(*marginals, cost.numpy(), 1.0, numItermax=20000, stopThr=1e-13)
    np.testing.assert_allclose(held.numpy(), expected, atol=1e-4 * expected.max())


def test_relaxed_marginals_ask_for_an_epsilon():
    x, y = samples(5, 6)
    with pytest.raises(InputError, match="epsilon above 0"):
        transport(torch.cdist(x, y), weights=(shares(x), shares(y)), penalty=1.0)


def test_a_pair_that_is_far_apart_keeps_less_of_its_mass():
    one = torch.ones(1, dtype=torch.float64)
    for cost in (0.5, 1.0, 4.0):
        plan = transport(torch.tensor([[cost]]).double(), weights=(one, one), epsilon=1e-3, penalty=1.0)
        assert float(plan) == pytest.approx(np.exp(-cost / 2), rel=1e-2)


@pytest.mark.parametrize("coupling", ["ot", "independent"])
def test_cells_that_stand_for_many_are_drawn_as_often(coupling):
    x, y = samples(10, 4000)
    weights = torch.linspace(1, 4, 10)
    rows, _ = pairs(x, y, coupling=coupling, weights=weights, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(rows, minlength=10) / len(rows)
    assert float((share / (weights / weights.sum()) - 1).abs().max()) < 0.15
