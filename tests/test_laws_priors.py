"""Laws of the priors: densities integrate to one, samplers match, EM climbs, placement finds the truth."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import logsumexp
from sklearn.metrics import adjusted_rand_score

from chreode.cells import Cells
from chreode.errors import InputError
from chreode.layout import Covariate, Layout
from chreode.priors import (
    PRIORS,
    LabelledMixture,
    Mixture,
    MixtureDensity,
    Softball,
    StandardNormal,
    count_communities,
)
from chreode.priors.em import CovarianceRule, from_labels, maximise, seeds, statistics
from chreode.priors.gaussians import cholesky_parts
from chreode.priors.placement import separation

KINDS = ["tied", "diagonal", "isotropic", "full"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_mixture(kind: str, *, k: int = 3, d: int = 3, seed: int = 0) -> MixtureDensity:
    draw = generator(seed)
    rows = 1 if kind == "tied" else k
    log_variance = 0.5 * torch.randn(rows, 1 if kind == "isotropic" else d, generator=draw)
    lower = 0.4 * torch.randn(rows, d, d, generator=draw).tril(-1) if kind in ("tied", "full") else None
    weights = torch.randn(k, generator=draw).log_softmax(0)
    return MixtureDensity(weights, 2 * torch.randn(k, d, generator=draw), log_variance, lower)


def covariances(density: MixtureDensity) -> np.ndarray:
    """The covariances by another road: invert the precision that the docstring states."""
    k, d = density.means.shape
    lower = torch.zeros(1, d, d) if density.lower is None else density.lower
    unit = (torch.eye(d) + lower).double()
    precision = unit.mT @ torch.diag_embed((-density.log_variance.double()).exp().expand(-1, d)) @ unit
    return torch.linalg.inv(precision).expand(k, d, d).numpy()


def clusters(k: int, n: int, d: int, *, apart: float, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Unequal, correlated Gaussian groups around means ``apart`` from the origin."""
    draw = np.random.default_rng(seed)
    means = draw.normal(size=(k, d))
    means *= apart / np.linalg.norm(means, axis=1, keepdims=True)
    shares = draw.dirichlet(np.full(k, 5.0))
    labels = draw.choice(k, size=n, p=shares)
    mix = np.eye(d) + 0.2 * draw.normal(size=(d, d))
    z = means[labels] + draw.normal(size=(n, d)) @ mix
    return torch.from_numpy(z).float(), labels


def cells_of(levels: list[int], names: tuple[str, ...]) -> Cells:
    n = len(levels)
    layout = Layout(n, {}, {"type": Covariate("type", "label", names)})
    return Cells(
        layout,
        names=np.array([str(i) for i in range(n)]),
        measured={},
        size={},
        index=torch.arange(n),
        present={},
        covariates={"type": torch.tensor(levels)},
    )


# Densities


@pytest.mark.parametrize("kind", KINDS)
def test_mixture_equals_scipy(kind: str) -> None:
    density = some_mixture(kind)
    z = 3 * torch.randn(50, 3, generator=generator(1))
    expected = np.stack(
        [
            np.log(w) + stats.multivariate_normal(m, c).logpdf(z.numpy())
            for w, m, c in zip(
                density.weights.numpy(), density.means.numpy(), covariances(density), strict=True
            )
        ],
        1,
    )
    np.testing.assert_allclose(density.log_joint(z), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(density.log_prob(z), logsumexp(expected, 1), rtol=1e-4, atol=1e-4)
    posterior = np.exp(expected - logsumexp(expected, 1, keepdims=True))
    np.testing.assert_allclose(density.responsibilities(z), posterior, atol=1e-4)
    np.testing.assert_allclose(density.covariances, covariances(density), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_mixture_integrates_to_one(kind: str) -> None:
    density = some_mixture(kind, d=2)
    axis = torch.linspace(-20, 20, 801)
    grid = torch.cartesian_prod(axis, axis)
    assert float(density.log_prob(grid).exp().sum()) * 0.05**2 == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_mixture_samples_match_theory(kind: str) -> None:
    density = some_mixture(kind)
    z = density.sample(200_000, generator()).double().numpy()
    weights, means, inside = density.weights.numpy(), density.means.numpy(), covariances(density)
    mean = weights @ means
    centred = means - mean
    cov = np.einsum("k,kde->de", weights, inside) + (weights[:, None] * centred).T @ centred
    np.testing.assert_allclose(z.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(z.T), cov, atol=0.02 * np.abs(cov).max())
    one = density.sample(200_000, generator(), component=1).double().numpy()
    np.testing.assert_allclose(one.mean(0), means[1], atol=0.03)
    np.testing.assert_allclose(np.cov(one.T), inside[1], atol=0.02 * np.abs(inside[1]).max())


def test_standard_normal_is_scipy_and_its_samples_are_normal() -> None:
    density = StandardNormal(4)()
    z = torch.randn(20, 4, generator=generator())
    np.testing.assert_allclose(density.log_prob(z), stats.norm.logpdf(z.numpy()).sum(1), rtol=1e-5)
    sample = density.sample(100_000, generator()).numpy()
    np.testing.assert_allclose(np.cov(sample.T), np.eye(4), atol=0.02)
    assert StandardNormal(4).log_hyper() == 0


def test_cholesky_parts_invert() -> None:
    root = torch.randn(3, 5, 5, generator=generator(), dtype=torch.float64)
    covariance = root @ root.mT + torch.eye(5)
    log_variance, lower = cholesky_parts(covariance)
    density = MixtureDensity(torch.zeros(3).double(), torch.zeros(3, 5).double(), log_variance, lower)
    torch.testing.assert_close(density.covariances, covariance)


def priors_for_gradients() -> list[torch.nn.Module]:
    made: list[torch.nn.Module] = [StandardNormal(3), Softball(3)]
    for kind in KINDS:
        mixture = Mixture(4, 3, covariance=kind, start="softball", learn="gradient")
        mixture.initialise(generator())
        made.append(mixture)
    return made


@pytest.mark.parametrize(
    "prior", priors_for_gradients(), ids=lambda p: getattr(p, "covariance", type(p).__name__)
)
@pytest.mark.parametrize("far", [0.0, 1.0, 1e3, 1e6])
def test_gradients_are_finite_however_far(prior: torch.nn.Module, far: float) -> None:
    z = torch.full((2, 3), far, requires_grad=True)
    value = prior(None, None).log_prob(z)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()
    for parameter in prior.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_float32_gradients_equal_float64(kind: str) -> None:
    mixture = Mixture(4, 3, covariance=kind, start="softball", learn="gradient", alpha=2.0)
    mixture.initialise(generator())
    with torch.no_grad():
        mixture.log_variance.fill_(0.3)
    reference = copy.deepcopy(mixture).double()
    z = 2 * torch.randn(40, 3, generator=generator(2))
    for prior, codes in ((mixture, z), (reference, z.double())):
        (prior().log_prob(codes).mean() + prior.log_hyper()).backward()
    for (name, ours), (_, exact) in zip(
        mixture.named_parameters(), reference.named_parameters(), strict=True
    ):
        assert ours.grad is not None, name
        assert ours.grad.abs().sum() > 0, name
        torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_responsibilities_far_from_all_means_do_not_underflow(kind: str) -> None:
    density = some_mixture(kind)
    found = density.responsibilities(torch.tensor([[1e3, -1e3, 5e2], [-1e4, 2e4, 0.0]]))
    torch.testing.assert_close(found.sum(1), torch.ones(2))
    exact = density.log_joint(torch.tensor([[1e3, -1e3, 5e2]]))
    assert found[0].argmax() == exact[0].argmax()
    assert torch.isfinite(exact).all()


# Softball


@pytest.mark.parametrize(
    ("dim", "sharpness", "step"),
    [
        *((1, s, step) for s, step in ((1.0, 1e-2), (5.0, 1e-3), (200.0, 1e-4))),
        *((2, s, step) for s, step in ((1.0, 0.1), (5.0, 0.02), (200.0, 5e-3))),
        *((3, s, step) for s, step in ((5.0, 0.1), (200.0, 0.025))),
    ],
)
def test_softball_integrates_to_one(dim: int, sharpness: float, step: float) -> None:
    ball = Softball(dim, radius=1.5, sharpness=sharpness)
    reach = 1.5 * (1 + 25 / sharpness)
    axis = torch.arange(-reach, reach, step, dtype=torch.float64)
    if dim < 3:
        total = ball.log_prob(torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)).exp().sum()
    else:  # a sheet at a time: the whole grid would fill the memory
        sheet = torch.cartesian_prod(axis, axis)
        total = sum(
            ball.log_prob(torch.cat([sheet, torch.full_like(sheet[:, :1], float(x))], 1)).exp().sum()
            for x in axis
        )
    assert float(total) * step**dim == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(("dim", "radius", "sharpness"), [(20, 1.0, 1.0), (20, 2.0, 5.0), (2, 2.0, 5.0)])
def test_softball_normaliser_is_the_fermi_dirac_integral(dim: int, radius: float, sharpness: float) -> None:
    def integrand(u: float) -> float:
        return math.exp((dim - 1) * math.log(u) - np.logaddexp(0, sharpness * (u - 1)) - shift)

    shift = (dim - 1) * math.log(max(1, dim / sharpness))
    total, _ = integrate.quad(integrand, 1e-12, 1 + 200 / sharpness, points=[1.0], limit=500)
    sphere = math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)
    expected = sphere + dim * math.log(radius) + math.log(total) + shift
    ball = Softball(dim, radius=radius, sharpness=sharpness)
    assert ball.log_normaliser == pytest.approx(expected, abs=1e-6)
    hard = dim * (math.log(radius) + 0.5 * math.log(math.pi)) - math.lgamma(1 + dim / 2)
    gap = {(20, 1.0): 43.3, (20, 2.0): 15.1, (2, 2.0): 0.12}[dim, radius]
    assert ball.log_normaliser - hard == pytest.approx(gap, abs=0.05)


@pytest.mark.parametrize(("dim", "sharpness"), [(1, 3.0), (2, 5.0), (3, 300.0), (20, 1.0)])
def test_softball_samples_follow_the_radial_law(dim: int, sharpness: float) -> None:
    ball = Softball(dim, radius=2.0, sharpness=sharpness)
    z = ball.sample(20_000, generator()).double()
    radius = np.linspace(1e-9, 2 * (1 + (60 + 3 * dim) / sharpness), 400_001)
    density = np.exp(
        (dim - 1) * np.log(radius) - np.logaddexp(0, sharpness * (radius / 2 - 1)) - dim * math.log(dim)
    )
    law = integrate.cumulative_trapezoid(density, radius, initial=0)
    lengths = z.norm(dim=1).numpy()
    assert stats.kstest(lengths, lambda r: np.interp(r, radius, law / law[-1])).pvalue > 1e-3
    assert (z.mean(0).abs() < 4 * lengths.std() / math.sqrt(20_000) + 0.1 * lengths.mean() / dim).all()


def test_published_sampler_fills_the_hard_ball() -> None:
    length = Softball(3, radius=2.0).sample_ball(20_000, generator()).norm(dim=1).numpy()
    assert stats.kstest((length / 2.0) ** 3, "uniform").pvalue > 1e-3


def test_softball_refuses_what_is_no_ball() -> None:
    with pytest.raises(ValueError, match="positive radius"):
        Softball(2, radius=0.0)


# The mixture and its parameters


def test_until_placement_it_is_a_standard_normal() -> None:
    for learn in ("em", "gradient"):
        prior = Mixture(7, 3, learn=learn)
        z = 3 * torch.randn(30, 3, generator=generator())
        torch.testing.assert_close(prior().log_prob(z), StandardNormal(3)().log_prob(z))
        assert prior().log_joint(z).shape == (30, 1)
        assert prior.log_hyper() == 0


def test_a_gradient_before_placement_does_not_move_it() -> None:
    prior = Mixture(7, 3, learn="gradient")
    (prior().log_prob(torch.ones(5, 3)).sum() + prior.log_hyper()).backward()
    for name, parameter in prior.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad == 0).all(), name


def test_learned_by_em_has_no_trainable_parameter() -> None:
    assert not any(p.requires_grad for p in Mixture(3, 2).parameters())
    assert all(p.requires_grad for p in Mixture(3, 2, learn="gradient").parameters())


@pytest.mark.parametrize("k", [2, 100, 300])
def test_published_start_has_the_published_width(k: int) -> None:
    prior = Mixture(k, 5, covariance="diagonal", start="softball", softball=Softball(5, radius=2.0))
    prior.initialise(generator())
    density = prior()
    torch.testing.assert_close(density.covariances[0].diagonal().sqrt(), torch.full((5,), 0.4 / k))
    assert (density.means.norm(dim=1) <= 2.0).all()
    assert len(density.means.unique(dim=0)) == k
    assert torch.isfinite(density.log_prob(torch.zeros(3, 5))).all()


def test_hyperprior_is_the_published_one_counted_once() -> None:
    ball = Softball(3, radius=2.0)
    prior = Mixture(4, 3, covariance="diagonal", start="softball", learn="gradient", softball=ball, alpha=2.0)
    prior.initialise(generator())
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5]))
        prior.log_variance.add_(0.3)
    weights = prior.logits.detach().double().softmax(0).numpy()
    expected = stats.dirichlet(np.full(4, 2.0)).logpdf(weights / weights.sum())
    expected += float(ball.log_prob(prior.means.detach()).sum())
    expected += 12 * stats.norm.logpdf(0.3)
    assert prior.log_hyper().item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_components_not_in_use_appear_nowhere(kind: str) -> None:
    z, _ = clusters(3, 300, 3, apart=8, seed=0)
    one, other = (Mixture(k, 3, covariance=kind, learn="gradient") for k in (3, 9))
    for prior in (one, other):
        prior.place(z, components=3, generator=generator())
    torch.testing.assert_close(one().log_prob(z), other().log_prob(z))
    torch.testing.assert_close(one.log_hyper(), other.log_hyper())
    # the road taken on a GPU, over all the capacity
    torch.testing.assert_close(other()._joint(z, 9).logsumexp(1), one().log_prob(z))
    density = other()
    assert density.log_joint(z).shape == (300, 3)
    assert density.weights.sum().item() == pytest.approx(1, abs=1e-5)
    assert density.means.shape == (3, 3)
    assert density.sample(5, generator()).shape == (5, 3)
    other().log_prob(z).sum().backward()
    assert other.means.grad is not None
    assert (other.means.grad[3:] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_round_trip(kind: str) -> None:
    z, _ = clusters(3, 300, 3, apart=8, seed=0)
    prior, blank = Mixture(9, 3, covariance=kind), Mixture(9, 3, covariance=kind)
    prior.place(z, components=3, generator=generator())
    blank.load_state_dict(prior.state_dict())
    assert blank().count == 3
    assert torch.equal(blank().log_joint(z), prior().log_joint(z))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"components": 0}, "at least one component"),
        ({"covariance": "round"}, "covariance to be one of"),
        ({"start": "zero"}, "start to be one of"),
        ({"learn": "adam"}, "learn to be one of"),
        ({"alpha": 0.5}, "at least 1 when learned by EM"),
    ],
)
def test_refuses_what_it_cannot_be(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Mixture(**{"components": 3, "dim": 2, **arguments})


def test_place_refuses_too_many_components_and_labels_that_do_not_fit() -> None:
    prior = Mixture(5, 2)
    with pytest.raises(ValueError, match="capacity is 5"):
        prior.place(torch.randn(100, 2), components=6, generator=generator())
    with pytest.raises(ValueError, match="there are 3 codes"):
        prior.place(torch.randn(3, 2), components=4, generator=generator())
    with pytest.raises(ValueError, match="one a code"):
        prior.place(torch.randn(9, 2), components=2, labels=torch.arange(9), generator=generator())
    with pytest.raises(ValueError, match="components in use"):
        prior().sample(3, generator(), component=1)


# EM


@pytest.mark.parametrize("kind", KINDS)
def test_em_never_decreases_the_likelihood(kind: str) -> None:
    z, _ = clusters(4, 400, 5, apart=3, seed=1)
    rule = CovarianceRule(kind, shrinkage=0.0, ridge=0.0)
    centres = seeds(z, components=4, starts=1, generator=generator())[0]
    density = from_labels(z, torch.cdist(z, centres).argmin(1), components=4, rule=rule)
    values = []
    for _ in range(30):
        sums = statistics(density, z, kind=kind)
        values.append(float(sums["log_prob"]))
        density = maximise(sums, density, rule=rule)
    assert values[-1] - values[0] > 1
    assert (np.diff(values) > -1e-7).all()


@pytest.mark.parametrize("kind", KINDS)
def test_em_sums_the_log_density_itself(kind: str) -> None:
    z, _ = clusters(4, 300, 5, apart=5, seed=1)
    prior = Mixture(6, 5, covariance=kind)
    prior.place(z, components=4, generator=generator(), starts=2)
    total = prior.statistics(z)["log_prob"].item()
    assert total == pytest.approx(prior().log_prob(z).double().sum().item(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_of_two_halves_are_those_of_the_whole(kind: str) -> None:
    z, _ = clusters(4, 300, 5, apart=5, seed=1)
    prior = Mixture(6, 5, covariance=kind)
    prior.place(z, components=4, generator=generator(), starts=2)
    whole, left, right = prior.statistics(z), prior.statistics(z[:111]), prior.statistics(z[111:])
    added = {name: left[name] + right[name] for name in left}
    for name in whole:
        torch.testing.assert_close(added[name], whole[name])
    twin = copy.deepcopy(prior)
    prior.maximise(whole)
    twin.maximise(added)
    torch.testing.assert_close(prior().log_joint(z), twin().log_joint(z))


@pytest.mark.parametrize("kind", KINDS)
def test_held_scale_keeps_the_variance_within_components(kind: str) -> None:
    z, _ = clusters(3, 400, 4, apart=8, seed=0)
    held, free = Mixture(3, 4, covariance=kind), Mixture(3, 4, covariance=kind)

    def within(prior: Mixture) -> float:
        density = prior()
        return float(density.weights @ density.covariances.diagonal(dim1=1, dim2=2).mean(1))

    for prior in (held, free):
        prior.place(z, components=3, generator=generator(), starts=3)
    placed = within(held)
    for _ in range(20):
        held.update(0.5 * z)
        free.update(0.5 * z, scale="em")
    assert within(held) == pytest.approx(placed, rel=1e-4)
    assert within(free) == pytest.approx(0.25 * placed, rel=0.1)
    held.place(z, components=3, generator=generator(), starts=3, scale=0.7)
    assert within(held) == pytest.approx(0.7, rel=1e-4)


# Placement


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_place_recovers_known_mixtures(kind: str, seed: int) -> None:
    z, labels = clusters(6, 1200, 10, apart=6, seed=seed)
    prior = Mixture(20, 10, covariance=kind)
    value = prior.place(z, components=6, generator=generator(seed), starts=8)
    assert adjusted_rand_score(labels, prior().log_joint(z).argmax(1)) > 0.95
    assert value == pytest.approx(prior().log_prob(z).mean().item(), abs=1e-3)


def test_place_is_a_function_of_the_generator() -> None:
    z, _ = clusters(6, 500, 10, apart=3, seed=0)
    first, second = Mixture(6, 10), Mixture(6, 10)
    for prior in (first, second):
        prior.place(z, components=6, generator=generator(3), starts=4)
    assert torch.equal(first().log_joint(z), second().log_joint(z))


def test_place_from_labels_climbs_from_them() -> None:
    z, labels = clusters(6, 1200, 10, apart=6, seed=0)
    noisy = torch.from_numpy(np.where(np.random.default_rng(0).random(1200) < 0.3, 0, labels))
    noisy[:50] = -1
    prior = Mixture(20, 10)
    prior.place(z, components=6, generator=generator(), labels=noisy)
    found = prior().log_joint(z).argmax(1).numpy()
    assert adjusted_rand_score(labels, found) > 0.95
    assert (found == labels).mean() > 0.95  # the groups keep their numbers


def test_place_on_many_codes_uses_a_subset_and_then_all() -> None:
    z, labels = clusters(10, 30_000, 10, apart=7, seed=0)
    prior = Mixture(10, 10)
    prior.place(z, components=10, generator=generator(), starts=4)
    assert adjusted_rand_score(labels, prior().log_joint(z).argmax(1)) > 0.95
    shares = np.bincount(labels) / len(labels)
    np.testing.assert_allclose(np.sort(prior().weights.numpy()), np.sort(shares), atol=2e-3)


def test_more_than_eighty_components_work() -> None:
    z, labels = clusters(100, 2500, 10, apart=15, seed=0)
    prior = Mixture(120, 10)
    prior.place(z, components=100, generator=generator(), starts=1)
    assert prior().log_joint(z).shape == (2500, 100)
    assert adjusted_rand_score(labels, prior().log_joint(z).argmax(1)) > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_dead_components_are_moved_to_what_is_explained_worst(kind: str) -> None:
    z, labels = clusters(4, 800, 5, apart=10, seed=0)
    prior = Mixture(4, 5, covariance=kind)
    known = torch.from_numpy(np.where(labels == 3, 2, labels))
    seen = torch.from_numpy(labels != 3)
    prior.place(z[seen], components=4, generator=generator(), labels=known[seen])
    assert prior().weights.min() * 800 < 5
    assert prior.move_dead(z, generator()) == 1
    for _ in range(20):
        prior.update(z)
    assert adjusted_rand_score(labels, prior().log_joint(z).argmax(1)) > 0.95
    assert prior.move_dead(z, generator()) == 0


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("k", [2, 5, 12])
def test_communities_count_separated_groups_within_one(k: int, seed: int) -> None:
    z, labels = clusters(k, 150 * k, 20, apart=6, seed=seed)
    count, found = count_communities(z, seed=seed)
    assert abs(count - k) <= 1
    assert int(found.max()) + 1 == count
    assert adjusted_rand_score(labels, found) > 0.9


def test_communities_are_a_function_of_the_seed_and_have_a_least_size() -> None:
    z, _ = clusters(5, 600, 10, apart=3, seed=0)
    _, first = count_communities(z, seed=4)
    _, second = count_communities(z, seed=4)
    assert torch.equal(first, second)
    assert count_communities(z, least=100, seed=4)[1].bincount().min() >= 100


@pytest.mark.parametrize("tails", [np.inf, 5.0])
def test_one_round_group_is_one_group(tails: float) -> None:
    draw = np.random.default_rng(0)
    z = draw.normal(size=(500, 20)) if np.isinf(tails) else draw.standard_t(tails, size=(500, 20))
    assert count_communities(torch.from_numpy(z))[0] == 1
    assert count_communities(torch.from_numpy(z[:2]))[0] == 1


def test_communities_of_many_codes_are_those_of_some() -> None:
    z, labels = clusters(4, 21_000, 5, apart=8, seed=0)
    count, found = count_communities(z, runs=1)
    assert count == 4
    assert adjusted_rand_score(labels, found) > 0.98


def test_separation_knows_two_groups_from_two_halves() -> None:
    z, labels = clusters(2, 600, 10, apart=6, seed=0)
    assert separation(z, torch.from_numpy(labels)) > 0
    one = z[labels == 0]
    axis = torch.linalg.svd(one - one.mean(0), full_matrices=False).Vh[0]
    side = (one @ axis > (one @ axis).median()).long()
    assert separation(one, side) < 0


# Supervised


def test_labelled_cells_get_their_component_and_others_all() -> None:
    prior = LabelledMixture("label", 3, 2, covariance="diagonal")
    prior.initialise(generator())
    with torch.no_grad():
        prior.mixture.logits.copy_(torch.tensor([0.0, 1.0, -1.0]))
        prior.mixture.log_variance.fill_(0.2)
    cells = cells_of([0, 2, -1, 1], ("a", "b", "c"))
    z = torch.randn(4, 2, generator=generator(1))
    density = prior(cells, None)
    means, weights = density.means.detach().numpy(), density.weights.detach().numpy()
    log_normal = np.stack([stats.multivariate_normal(m, math.exp(0.2)).logpdf(z.numpy()) for m in means], 1)
    unknown = log_normal[2] + np.log(weights)
    expected = [log_normal[0, 0], log_normal[1, 2], logsumexp(unknown), log_normal[3, 1]]
    np.testing.assert_allclose(density.log_prob(z).detach(), expected, rtol=1e-5)
    assert density.responsibilities(z)[[0, 1, 3]].argmax(1).tolist() == [0, 2, 1]
    np.testing.assert_allclose(density.log_joint(z)[2].detach(), unknown, rtol=1e-5)
    (density.log_prob(z).sum() + prior.log_hyper()).backward()
    for name, parameter in prior.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_labelled_refuses_levels_it_was_not_built_for() -> None:
    prior = LabelledMixture("type", 2, 2)
    with pytest.raises(ValueError, match="at most 2 levels"):
        prior(cells_of([0, 1], ("a", "b", "c")), None)
    with pytest.raises(InputError, match="a covariate that was read"):
        LabelledMixture("plate", 2, 2)(cells_of([0, 1], ("a", "b")), None)


def test_every_prior_is_found_by_name() -> None:
    known = {"ball", "conditional", "hierarchy", "labelled", "mixture", "normal", "softball", "switched"}
    assert known | {"vamp"} == set(PRIORS)
