"""Discrepancies, total correlation and geometry against references and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics.pairwise import rbf_kernel

import chreode as ch
from chreode.errors import InputError
from chreode.penalties import (
    TRVAE_WIDTHS,
    flatness,
    geodesic_speed,
    median_width,
    mmd,
    mmd_by_level,
    pullback,
    sliced_wasserstein,
    total_correlation,
    wasserstein_by_level,
    wasserstein_to_zero,
)
from chreode.rounding import rounding


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(n: int = 40, m: int = 25, d: int = 3, shift: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = draw()
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, torch.randn(m, d, generator=generator, dtype=torch.float64) * 1.5 + shift


def in_levels() -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of levels with 12, 30, 0, 1 and 7 cells, and of some whose level is unknown, mixed."""
    z, _ = samples(60)
    levels = torch.tensor([0] * 12 + [1] * 30 + [3] + [4] * 7 + [-1] * 10)
    return z + 0.5 * levels[:, None], levels[torch.randperm(60, generator=draw(1))]


def over_pairs(apart, z: torch.Tensor, levels: torch.Tensor) -> float:
    """Mean over pairs of levels with two cells, by the number of cells that tell each."""
    total = weights = 0.0
    for a, b in itertools.combinations([0, 1, 4], 2):
        x, y = z[levels == a], z[levels == b]
        weight = 1 / (1 / len(x) + 1 / len(y))
        total, weights = total + weight * float(apart(x, y)), weights + weight
    return total / weights


# Maximum mean discrepancy


def by_scikit_learn(x: torch.Tensor, y: torch.Tensor, variances: list[float], *, unbiased: bool) -> float:
    total = 0.0
    for variance in variances:
        k = [rbf_kernel(u.numpy(), v.numpy(), gamma=1 / (2 * variance)) for u, v in ((x, x), (y, y), (x, y))]
        within = [m[~np.eye(len(m), dtype=bool)].mean() if unbiased else m.mean() for m in k[:2]]
        total += sum(within) - 2 * k[2].mean()
    return total


@pytest.mark.parametrize("unbiased", [True, False])
def test_mmd_is_that_of_scikit_learns_gaussian_kernels(unbiased: bool):
    x, y = samples()
    sigma = float(median_width(torch.cat([x, y])))
    expected = by_scikit_learn(x, y, [(w * sigma) ** 2 for w in (0.5, 2.0)], unbiased=unbiased)
    assert float(mmd(x, y, widths=(0.5, 2.0), unbiased=unbiased)) == pytest.approx(expected, rel=1e-9)
    expected = by_scikit_learn(x, y, [0.49], unbiased=unbiased)
    assert float(mmd(x, y, widths=(0.7,), unit=1.0, unbiased=unbiased)) == pytest.approx(expected, rel=1e-9)


def test_trvaes_kernels_are_those_it_was_published_with():
    x, y = samples()
    variances = [1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6]
    expected = by_scikit_learn(x, y, variances, unbiased=False)
    found = mmd(x, y, widths=TRVAE_WIDTHS, unit=1.0, unbiased=False)
    assert float(found) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("unbiased", [True, False])
def test_mmd_by_level_is_the_weighted_mean_over_pairs(unbiased: bool):
    z, levels = in_levels()
    sigma = float(median_width(z[(levels >= 0) & (levels != 3)]))
    expected = over_pairs(lambda x, y: mmd(x, y, unit=sigma, unbiased=unbiased), z, levels)
    assert float(mmd_by_level(z, levels, unbiased=unbiased)) == pytest.approx(expected, rel=1e-9)


def test_without_bias_it_is_nothing_on_average_for_one_law_and_asks_for_no_shrinking():
    generator = draw()
    values, slopes = [], {True: [], False: []}
    for _ in range(150):
        x, y = (torch.randn(8, 2, generator=generator, dtype=torch.float64) for _ in range(2))
        values.append(float(mmd(x, y)))
        for unbiased, found in slopes.items():
            scale = torch.ones((), dtype=torch.float64, requires_grad=True)
            mmd(scale * x, scale * y, unit=2.0, unbiased=unbiased).backward()
            found.append(float(scale.grad))
    assert abs(np.mean(values)) < 3 * stats.sem(values)
    assert abs(np.mean(slopes[True])) < 3 * stats.sem(slopes[True])
    assert np.mean(slopes[False]) > 10 * stats.sem(slopes[False])


def test_equal_samples_have_no_discrepancy_but_a_finite_gradient():
    x, _ = samples()
    moving = x.clone().requires_grad_()
    value = mmd(moving, x, unbiased=False)
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(moving.grad).all()


def test_no_gradient_follows_the_median():
    x, y = samples()
    x.requires_grad_()
    unit = float(median_width(torch.cat([x.detach(), y])))
    (found,) = torch.autograd.grad(mmd(x, y), x)
    (expected,) = torch.autograd.grad(mmd(x, y, unit=unit), x)
    torch.testing.assert_close(found, expected)


# Wasserstein distances


def test_slices_are_those_of_the_reference():
    import ot

    x, y = samples(d=1)
    expected = float(ot.wasserstein_1d(x[:, 0], y[:, 0], p=2))
    assert float(sliced_wasserstein(x, y, generator=draw())) == pytest.approx(expected, rel=1e-6)
    x, y = samples()
    expected = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), n_projections=3000, seed=1) ** 2
    found = sliced_wasserstein(x, y, generator=draw(), projections=3000)
    assert float(found) == pytest.approx(expected, rel=0.05)


def test_a_shifted_sample_is_as_far_as_the_shift_along_each_direction():
    x, _ = samples()
    v = torch.tensor([3.0, 4.0, 0.0])
    far = float(sliced_wasserstein(x, x + v, generator=draw(), projections=4000))
    assert far == pytest.approx(25 / 3, rel=0.05)
    again = x[torch.randperm(len(x), generator=draw())].repeat(3, 1)
    assert float(sliced_wasserstein(x, again, generator=draw())) == pytest.approx(0, abs=1e-12)


def test_wasserstein_by_level_is_the_weighted_mean_over_pairs():
    z, levels = in_levels()
    expected = over_pairs(lambda x, y: sliced_wasserstein(x, y, generator=draw(3)), z, levels)
    found = wasserstein_by_level(z, levels, generator=draw(3))
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_the_distance_from_zero_is_the_mean_square_of_draws():
    mean, variance = torch.randn(4, 3, generator=draw()), torch.rand(4, 3, generator=draw(1)) + 0.1
    z = mean + variance.sqrt() * torch.randn(50_000, 4, 3, generator=draw(2))
    torch.testing.assert_close(
        wasserstein_to_zero(mean, variance), z.square().sum(2).mean(0), rtol=0.02, atol=0
    )


# Both, by level

BY_LEVEL = {
    "mmd": mmd_by_level,
    "wasserstein": lambda z, levels: wasserstein_by_level(z, levels, generator=draw(3)),
}
by_levels = pytest.mark.parametrize("penalty", BY_LEVEL.values(), ids=BY_LEVEL)


@by_levels
def test_neither_the_order_of_cells_nor_the_numbers_of_levels_matter(penalty):
    z, levels = in_levels()
    order = torch.randperm(len(z), generator=draw(2))
    renamed = torch.tensor([5, 0, 3, 1, 2, -1])[levels]
    expected = penalty(z, levels)
    torch.testing.assert_close(penalty(z[order], levels[order]), expected)
    torch.testing.assert_close(penalty(z, renamed), expected)


@by_levels
@pytest.mark.parametrize("levels", [[-1] * 5, [0] * 5, [0, 1, 1, 1, -1], [0, 1, 2, 3, 4]])
def test_nothing_to_compare_costs_nothing(penalty, levels: list[int]):
    z = torch.randn(5, 2, generator=draw(), requires_grad=True)
    value = penalty(z, torch.tensor(levels))
    value.backward()
    assert float(value.detach()) == 0
    assert not z.grad.any()


@by_levels
def test_following_the_gradient_brings_levels_together(penalty):
    z, levels = torch.randn(60, 2, generator=draw()), torch.arange(60) % 3
    z = (z + 3 * levels[:, None]).requires_grad_()
    before = float(penalty(z, levels).detach())
    for _ in range(150):
        (slope,) = torch.autograd.grad(penalty(z, levels), z)
        z = (z - 5 * slope).detach().requires_grad_()
    assert float(penalty(z, levels).detach()) < 0.1 * before


@pytest.mark.parametrize("few", [0, 1])
def test_too_few_cells_are_refused(few: int):
    with pytest.raises(InputError, match=f"at least 2 cells in each sample; found {few} and 4"):
        mmd(torch.zeros(few, 2), torch.zeros(4, 2))
    if not few:
        with pytest.raises(InputError, match="at least one cell"):
            sliced_wasserstein(torch.zeros(4, 2), torch.zeros(0, 2), generator=draw())


# Total correlation


def correlated(
    n: int, *, variance: float = 0.5
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draws, means and variances of posteriors that add up to a correlated Gaussian, and its covariance."""
    d = 3
    generator = draw()
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    means = torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix.T
    z = means + variance**0.5 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    whole = mix @ mix.T + variance * torch.eye(d, dtype=torch.float64)
    return z, means, torch.full_like(means, variance), whole


@pytest.mark.parametrize("blocks", [[2, 1], [1, 1, 1]])
def test_total_correlation_is_that_of_a_gaussian(blocks: list[int]):
    z, mean, variance, whole = correlated(1500)
    ends = np.cumsum(blocks)
    apart = sum(whole[e - b : e, e - b : e].logdet() for b, e in zip(blocks, ends, strict=True))
    expected = float(apart - whole.logdet()) / 2
    assert expected > 0.2
    found = total_correlation(z, (mean, variance), blocks=blocks, n_cells=1500)
    assert float(found) == pytest.approx(expected, abs=0.06)
    shuffled = [m[torch.randperm(1500, generator=draw(i))] for i, m in enumerate(mean.split(blocks, 1))]
    independent = torch.cat(shuffled, 1)
    z = independent + variance.sqrt() * torch.randn(z.shape, generator=draw(9), dtype=torch.float64)
    none = total_correlation(z, (independent, variance), blocks=blocks, n_cells=1500)
    assert float(none) == pytest.approx(0, abs=0.06)


def test_densities_are_those_of_the_mixture_that_a_minibatch_stands_for():
    z, mean, variance, _ = correlated(9)
    for sampling, own, other in (("stratified", 1 / 50, 49 / 50 / 8), ("weighted", 1 / 450, 1 / 450)):
        expected = 0.0
        for i in range(9):
            weights = np.where(np.arange(9) == i, own, other)
            p = stats.norm.pdf(z[i].numpy(), mean.numpy(), variance.sqrt().numpy())
            parts = [weights @ p[:, block].prod(1) for block in (slice(None), slice(0, 2), slice(2, 3))]
            expected += (np.log(parts[0]) - np.log(parts[1]) - np.log(parts[2])) / 9
        found = total_correlation(z, (mean, variance), blocks=[2, 1], n_cells=50, sampling=sampling)
        assert float(found) == pytest.approx(expected, rel=1e-9)


def test_one_block_has_nothing_to_be_correlated_with_nor_has_one_cell():
    z, mean, variance, _ = correlated(20)
    assert float(total_correlation(z, (mean, variance), blocks=[3], n_cells=30)) == pytest.approx(
        0, abs=1e-12
    )
    one = z[:1].requires_grad_()
    value = total_correlation(one, (mean[:1], variance[:1]), blocks=[2, 1], n_cells=30)
    value.backward()
    assert float(value.detach()) == 0


@pytest.mark.parametrize(("blocks", "n_cells"), [([1, 1], 20), ([2, 2], 20), ([2, 1], 19)])
def test_blocks_and_cells_must_add_up(blocks: list[int], n_cells: int):
    z, mean, variance, _ = correlated(20)
    with pytest.raises(InputError, match=r"Expected blocks of 3 dimensions together and at least 20 cells"):
        total_correlation(z, (mean, variance), blocks=blocks, n_cells=n_cells)


# Geometry


def decoder(seed: int = 0) -> torch.nn.Sequential:
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    layers = torch.nn.Sequential(
        torch.nn.Linear(2, 8), torch.nn.ELU(), torch.nn.Linear(8, 6), torch.nn.Softmax(1)
    )
    torch.random.set_rng_state(torch_state)
    return layers.double()


def codes(n: int = 5) -> torch.Tensor:
    return torch.randn(n, 2, generator=draw(), dtype=torch.float64)


THETA = torch.tensor([0.1, 1.0, 5.0, 0.5, 100.0, 2.0], dtype=torch.float64)
DISPERSIONS = pytest.mark.parametrize("theta", [None, THETA], ids=["poisson", "nb"])


def by_rows(mean_of, z: torch.Tensor, theta: torch.Tensor | None) -> torch.Tensor:
    """The metric by reverse derivatives, cell by cell."""
    metrics = []
    for row in z:
        mu = mean_of(row[None])[0]
        slope = torch.autograd.functional.jacobian(lambda r: mean_of(r[None])[0], row, create_graph=True)
        variance = mu if theta is None else mu + mu**2 / theta
        metrics.append(slope.T @ torch.diag(1 / variance) @ slope)
    return torch.stack(metrics)


@DISPERSIONS
def test_the_metric_and_its_gradient_are_those_of_reverse_derivatives(theta):
    layers = decoder()
    mean_of = lambda z: 30 * layers(z)  # noqa: E731
    z = codes().requires_grad_()
    wanted = [z, *layers.parameters()]
    found, expected = pullback(mean_of, z, theta=theta), by_rows(mean_of, z, theta)
    torch.testing.assert_close(found, expected)
    slopes = torch.autograd.grad(flatness(found), wanted, allow_unused=True)
    references = torch.autograd.grad(flatness(expected), wanted, allow_unused=True)
    for slope, reference in zip(slopes, references, strict=True):
        torch.testing.assert_close(slope, reference)
        assert slope.abs().max() > 1e-6


@DISPERSIONS
def test_gradients_are_those_of_finite_differences(theta):
    layers, z = decoder(), codes(3)

    def of(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        changed = {"0.weight": weight, "2.bias": bias}
        return flatness(
            pullback(lambda z: 30 * torch.func.functional_call(layers, changed, (z,)), z, theta=theta)
        )

    inputs = [part.detach().clone().requires_grad_() for part in (layers[0].weight, layers[2].bias)]
    assert torch.autograd.gradcheck(of, inputs)


@DISPERSIONS
def test_a_small_step_changes_the_law_of_counts_by_half_its_square(theta):
    layers = decoder()
    mean_of = lambda z: 30 * layers(z)  # noqa: E731
    z, step = codes(1), 1e-2 * torch.tensor([[0.6, -0.8]], dtype=torch.float64)
    counts = np.arange(2000)[:, None]

    def law(z: torch.Tensor) -> np.ndarray:
        mu = mean_of(z).detach().numpy()
        if theta is None:
            return stats.poisson.logpmf(counts, mu)
        return stats.nbinom.logpmf(counts, theta.numpy(), theta.numpy() / (theta.numpy() + mu))

    here, there = law(z - step / 2), law(z + step / 2)
    divergence = (np.exp(here) * (here - there)).sum()
    expected = float(step @ pullback(mean_of, z, theta=theta)[0].detach() @ step.T) / 2
    assert divergence == pytest.approx(expected, rel=2e-2)


def test_squares_of_coordinates_are_flat_for_poisson_counts_and_exponentials_are_not():
    z = codes() + 5
    flat = pullback(lambda z: z.square(), z)
    torch.testing.assert_close(flat, 4 * torch.eye(2, dtype=z.dtype).expand(5, 2, 2))
    assert float(flatness(flat)) == pytest.approx(0, abs=1e-20)
    assert float(flatness(flat, scale=3.0)) == pytest.approx(2)
    speed = geodesic_speed(torch.square, start=z, end=z + 1)
    torch.testing.assert_close(speed, torch.full_like(speed, 8**0.5))
    assert float(flatness(pullback(torch.exp, z))) > 1
    assert float(geodesic_speed(torch.exp, start=z, end=z + 1).var(1).min()) > 1


def test_no_other_scale_gives_less():
    metric = pullback(decoder(), codes()).detach()
    best = float(metric.diagonal(dim1=1, dim2=2).mean())
    assert float(flatness(metric)) == pytest.approx(float(flatness(metric, scale=best)))
    assert float(flatness(metric)) < min(float(flatness(metric, scale=best * by)) for by in (0.99, 1.01))


@DISPERSIONS
def test_speeds_are_the_metrics_and_their_mean_the_length(theta):
    layers = decoder()
    start, end = codes(), codes().flip(0) + 1
    speeds = geodesic_speed(layers, start=start, end=end, theta=theta, steps=4)
    for step in range(4):
        metric = pullback(layers, start + (step + 0.5) / 4 * (end - start), theta=theta)
        square = torch.einsum("nd,nde,ne->n", end - start, metric, end - start)
        torch.testing.assert_close(speeds[:, step], square.detach().sqrt())
    # Of one exponential: from e^(a/2) to e^(b/2), twice their difference.
    long = geodesic_speed(torch.exp, start=torch.zeros(1, 1), end=torch.full((1, 1), 2.0), steps=200).mean()
    assert float(long) == pytest.approx(2 * (np.e - 1), rel=1e-4)


def test_features_that_are_not_expected_leave_metric_and_gradient_finite():
    logits = torch.tensor([[3.0, 0.0], [-40.0, 1.0], [-120.0, 2.0]], requires_grad=True)
    for theta in (None, torch.ones(3)):
        metric = pullback(lambda z: torch.softmax(z @ logits.T, 1), torch.tensor([[1.0, 0.5]]), theta=theta)
        (slope,) = torch.autograd.grad(flatness(metric), logits)
        assert torch.isfinite(metric).all()
        assert torch.isfinite(slope).all()


def test_decoders_of_models_can_be_made_flat():
    cells = ch.read(ch.simulate(8, 20, components=2, seed=0))
    model = ch.recipes.vae(dim=2, hidden=[16]).build(cells.layout).model.eval()
    z = torch.randn(8, 2, generator=draw())

    def mean_of(z: torch.Tensor) -> torch.Tensor:
        return model.decoder({"cell": z}, cells)["rna"].mean

    with rounding(model, on=False):
        metric = pullback(mean_of, z)
        found = torch.autograd.grad(flatness(metric), list(model.decoder.parameters()), allow_unused=True)
    torch.testing.assert_close(metric, by_rows_of(mean_of, z), rtol=1e-3, atol=1e-5)
    assert sum(slope is not None and bool(slope.any()) for slope in found) >= 3


def by_rows_of(mean_of, z: torch.Tensor) -> torch.Tensor:
    """The metric of Poisson counts by reverse derivatives, of all cells at once."""
    slope = torch.autograd.functional.jacobian(lambda z: mean_of(z).sqrt().sum(0), z)
    return 4 * torch.einsum("gnd,gne->nde", slope, slope)


# All of them


def in_single(name: str, z: torch.Tensor) -> torch.Tensor:
    """A penalty of codes, whose other arguments have the precision of the codes."""
    levels = torch.arange(len(z)) % 3
    match name:
        case "mmd":
            return mmd_by_level(z + levels[:, None], levels)
        case "wasserstein":
            return wasserstein_by_level(z + levels[:, None], levels, generator=draw())
        case "correlation":
            return total_correlation(z, (z * 0.9, z.square() + 0.1), blocks=[1, 1], n_cells=1000)
        case _:
            layers = decoder().to(z.dtype)
            return flatness(pullback(lambda z: 30 * layers(z), z, theta=THETA.to(z.dtype)))


@pytest.mark.parametrize("name", ["mmd", "wasserstein", "correlation", "flatness"])
def test_values_and_gradients_in_single_precision_are_those_in_double(name: str):
    z = codes(30) + 4.0 * (name != "flatness")
    found = []
    for dtype in (torch.float32, torch.float64):
        leaf = z.float().to(dtype).requires_grad_()
        value = in_single(name, leaf)
        found.append([value.detach().double(), *(g.double() for g in torch.autograd.grad(value, leaf))])
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single, double, rtol=1e-4, atol=1e-6)
