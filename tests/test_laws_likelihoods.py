"""Laws every likelihood head obeys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch.nn import functional as F

from chreode.cells import CSR
from chreode.errors import InputError
from chreode.likelihoods import compiled, heads, sparse
from chreode.likelihoods.closed import rising
from chreode.likelihoods.counts import NegativeBinomialCounts

N, G = 7, 60
COUNTS = ("nb", "nb_free", "poisson", "zinb")
BINARY = ("bernoulli", "accessibility")
ALL = tuple(heads)
DISPERSED = ("nb", "nb_free", "zinb", "protein")
WITH_PARAMETERS = ("nb", "nb_free", "zinb", "normal", "protein")


@pytest.fixture(autouse=True, params=["fused", "passes"])
def way(request: Any, monkeypatch: Any) -> str:
    """Both ways to compute: compiled, and in PyTorch, as elsewhere than on the CPU."""
    if request.param == "passes":
        monkeypatch.setattr(compiled, "load", lambda _: None)
    else:
        assert compiled.load("fused") is not None
        assert compiled.load("fused_inflated") is not None
    return request.param


@dataclass
class Case:
    """A head, outputs, sizes, values and a mask, in float64."""

    name: str
    head: Any
    raw: torch.Tensor
    size: torch.Tensor
    x: torch.Tensor
    mask: torch.Tensor | None = None


def make(name: str, g: int, **arguments: Any) -> Any:
    if name == "normal":
        arguments = {"learned": True, "scale": torch.logspace(-1, 1, g), **arguments}
    elif name in DISPERSED:
        # From nearly all zeros to nearly Poisson.
        arguments = {"init": torch.logspace(-6, 8, g)[torch.randperm(g)], **arguments}
    # Without a background drawn anew at each call.
    return heads[name](g, **arguments).eval()


def case(
    name: str, *, n: int = N, g: int = G, masked: bool = False, seed: int = 0, depth: float = 600.0
) -> Case:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    depth = g / 2 if name == "accessibility" else depth
    head = make(name, g)
    raw = 1.5 * torch.randn(n, head.outputs * g)
    mask = torch.rand(n, g) < 0.7 if masked else None
    size = torch.full((n,), depth) * torch.rand(n).add_(0.5)
    with torch.no_grad():
        x = head(raw, size, None).sample(generator)
        if name in COUNTS:
            # Counts the model does not expect, one of them large.
            x = x + torch.poisson(torch.full_like(x, 0.3))
            x[0, 0] = 2000
    if mask is not None:
        x = x * mask
    if name in COUNTS:
        size = x.sum(1)
    return Case(name, head, raw.double(), size.double(), x.double(), mask)


def usual_of(low: torch.Tensor) -> torch.Tensor:
    """What `nb_free` divides by before training: the number of features that were measured."""
    return torch.isfinite(low).sum(1, keepdim=True)


def reference(c: Case, raw: torch.Tensor, parameter: torch.Tensor | None) -> torch.Tensor:
    """Log probability of every value, in plain float64 autograd, masked ones zero."""
    g, x = c.x.shape[1], c.x
    low = raw[:, :g] if c.mask is None else raw[:, :g].masked_fill(~c.mask, -torch.inf)
    if c.name in BINARY:
        if c.name == "accessibility":
            usual = 0.5 * (torch.full((len(x),), g) if c.mask is None else c.mask.sum(1))
            raw = raw + (c.size / usual.clamp_min(1e-20)).clamp_min(1e-20).log()[:, None]
        value = x * F.logsigmoid(raw) + (1 - x) * F.logsigmoid(-raw)
    elif c.name == "normal":
        value = torch.distributions.Normal(raw, parameter.exp(), validate_args=False).log_prob(x)
    elif c.name == "protein":
        low, rise, back, _ = raw.chunk(4, dim=1)
        means, theta = (low, low + F.softplus(rise)), parameter.exp().expand_as(x)
        parts = [_nb(x, log_mu.exp(), log_mu, theta) for log_mu in means]
        value = torch.logaddexp(F.logsigmoid(back) + parts[0], F.logsigmoid(-back) + parts[1])
    else:
        share = torch.log_softmax(low, 1)
        if c.name == "nb_free":
            share = low - usual_of(low).log()
        log_mu = (share + c.size[:, None].clamp_min(1e-300).log()).clamp_min(-700)
        mu = log_mu.exp()
        if c.name == "poisson":
            value = x * log_mu - mu - torch.lgamma(x + 1)
        else:
            value = _nb(x, mu, log_mu, parameter.exp().expand_as(x))
        if c.name == "zinb":
            d = raw[:, g:]
            zero = torch.logaddexp(F.logsigmoid(d), F.logsigmoid(-d) + value)
            value = torch.where(x == 0, zero, F.logsigmoid(-d) + value)
    return value if c.mask is None else torch.where(c.mask, value, 0.0)


def _nb(x, mu, log_mu, theta):
    # The rising factorial term by term: exact where gamma functions cancel.
    k = torch.arange(int(x.max()) + 1)
    rises = F.pad((theta[0, :, None] + k).log().cumsum(1), (1, 0))
    rise = rises.gather(1, x.long().t()).t()
    return rise - torch.lgamma(x + 1) + x * (log_mu - (theta + mu).log()) - theta * torch.log1p(mu / theta)


def parameters_of(head: Any) -> list[torch.nn.Parameter]:
    """Those of the likelihood, not of a background's prior."""
    return [p for name, p in head.named_parameters() if not name.startswith("background")]


def parameter_of(head: Any) -> torch.nn.Parameter | None:
    return next(iter(head.parameters()), None)


def expected(c: Case, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    raw = c.raw.clone().requires_grad_()
    parameter = parameter_of(c.head)
    if parameter is not None:
        parameter = parameter.detach().double().requires_grad_()
    value = reference(c, raw, parameter).sum(1)
    (value * weight).sum().backward()
    return value.detach(), raw.grad, None if parameter is None else parameter.grad


def found(c: Case, weight: torch.Tensor, dtype: torch.dtype = torch.float32, measured: Any = None) -> tuple:
    raw = c.raw.to(dtype).requires_grad_()
    c.head.zero_grad()
    measured = CSR.of(c.x.numpy()) if measured is None else measured
    value = c.head(raw, c.size.to(dtype), c.mask).log_prob(measured)
    (value * weight.to(dtype)).sum().backward()
    parameter = parameter_of(c.head)
    return value.detach(), raw.grad, None if parameter is None else parameter.grad.clone()


def agree(got: torch.Tensor, want: torch.Tensor, x: torch.Tensor, what: str) -> None:
    """Within 1e-4 relative or 1e-6 (1 + x) absolute."""
    error = (got.double() - want).abs()
    allowed = torch.maximum(1e-4 * want.abs(), 1e-6 * (1 + x))
    worst = (error / allowed).max()
    assert worst <= 1, f"{what}: {float(worst):.3g} times the error allowed"


@pytest.mark.parametrize("weights", ["alike", "unlike", "absent"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_value_and_gradients_equal_a_float64_reference(name, masked, weights):
    c = case(name, masked=masked)
    weight = torch.rand(N).double() * 2 - 0.5 if weights == "unlike" else torch.full((N,), 0.5).double()
    if weights == "absent":
        weight[2] = 0.0
        if name in COUNTS:
            c.x[2], c.size[2] = 0.0, 0.0
    value, by_raw, by_parameter = found(c, weight)
    want, want_raw, want_parameter = expected(c, weight)
    x = c.x.abs()
    agree(value, want, x.sum(1), "value")
    spread = torch.cat([x] * c.head.outputs, 1)
    agree(by_raw, want_raw, spread, "gradient to the outputs")
    if want_parameter is not None:
        agree(by_parameter, want_parameter, x.sum(0) + N, "gradient to the parameters")


@pytest.mark.parametrize("name", COUNTS)
def test_deep_cells_and_extreme_outputs(name):
    c = case(name, depth=1e5, seed=3)
    c.raw *= 8
    value, by_raw, _ = found(c, torch.ones(N).double())
    want, want_raw, _ = expected(c, torch.ones(N).double())
    agree(value, want, c.x.sum(1), "value")
    agree(by_raw, want_raw, torch.cat([c.x] * c.head.outputs, 1), "gradient")


def test_counts_of_deep_cells_are_not_lost_to_rounding():
    torch.manual_seed(0)
    head = heads["nb"](2000, init=0.13)
    raw, size = torch.randn(20, 2000), torch.linspace(1e7, 2e7, 20)
    x = head(raw, size, None).sample(torch.Generator().manual_seed(0))
    value, want = (
        head.to(dtype)(raw.to(dtype), x.to(dtype).sum(1), None).log_prob(CSR.of(x.numpy())).detach()
        for dtype in (torch.float32, torch.float64)
    )
    assert ((value.double() - want).abs() / want.abs()).max() < 3e-4


@pytest.mark.parametrize("same", [True, False])
def test_nearly_poisson_features_that_lost_their_counts(same):
    generator = torch.Generator().manual_seed(0)
    theta = torch.logspace(3, 8, 30, dtype=torch.float64)
    raw = torch.randn(6, 30, generator=generator).double()
    weight = torch.ones(6).double() if same else torch.linspace(0.1, 2, 6).double()
    gradients = []
    for dtype in (torch.float64, torch.float32):
        log_theta = theta.log().to(dtype).requires_grad_()
        observed = NegativeBinomialCounts(raw.to(dtype), torch.full((6,), 1e5, dtype=dtype), None, log_theta)
        zeros = torch.zeros(6, 30, dtype=dtype)
        gradients += torch.autograd.grad((observed.log_prob(zeros) * weight.to(dtype)).sum(), log_theta)
    agree(gradients[1].double(), gradients[0], torch.zeros(30), "gradient to theta")


def test_rising_factorial_from_nearly_zero_to_nearly_poisson():
    theta = torch.logspace(-8, 8.6, 80, dtype=torch.float64)[:, None]
    x = torch.cat([torch.arange(40.0), torch.tensor([100.0, 1000.0, 4000.0])]).double()[None]
    up = torch.arange(4000.0, dtype=torch.float64)
    terms = (theta + up).log().cumsum(1)
    slopes = (theta / (theta + up)).cumsum(1)
    at = (x.long() - 1).clamp_min(0).expand(len(theta), -1)
    some = x > 0
    want = terms.gather(1, at) * some - torch.lgamma(x + 1) - x * (theta + 3).log()
    want_slope = slopes.gather(1, at) * some
    x, theta = x.expand_as(want), theta.expand_as(want)
    value, slope = rising(x.float().reshape(-1), theta.float().reshape(-1), slope=True)
    agree(value.view_as(want), want, x, "value")
    agree(slope.view_as(want), want_slope, x, "slope")


@pytest.mark.parametrize("theta", [1e-6, 1e-3, 0.5, 9.0, 11.0, 1e3, 1e6])
def test_negative_binomial_equals_scipy_and_sums_to_one(theta):
    mean, top = 4.0, 20_000
    x = torch.arange(float(top))[:, None]
    head = heads["nb"](1, init=theta)
    value = head(torch.zeros(top, 1), torch.full((top,), mean), None).log_prob(x).detach().double()
    want = torch.from_numpy(stats.nbinom(theta, theta / (theta + mean)).logpmf(np.arange(300)))
    # SciPy itself cancels at the ends: three digits of slack there.
    agree(value[:300], want, x[:300, 0] * (1 if 1e-3 <= theta <= 1e3 else 100), "value")
    tail = stats.nbinom(theta, theta / (theta + mean)).sf(top - 1)
    assert float(value.exp().sum()) + tail == pytest.approx(1, abs=2e-4 if theta < 1e-2 else 1e-5)


def test_poisson_equals_scipy_and_sums_to_one():
    x = torch.arange(60.0)[:, None]
    value = heads["poisson"](1)(torch.zeros(60, 1), torch.full((60,), 7.0), None).log_prob(x).double()
    agree(value, torch.from_numpy(stats.poisson(7.0).logpmf(np.arange(60))), x[:, 0], "value")
    assert float(value.exp().sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("dropout", [-30.0, -1.0, 0.0, 2.0, 30.0])
def test_zero_inflated_equals_scipy_and_sums_to_one(dropout):
    theta, mean, top = 1.5, 4.0, 400
    raw = torch.tensor([[0.0, dropout]]).expand(top, 2)
    x = torch.arange(float(top))[:, None]
    value = heads["zinb"](1, init=theta)(raw, torch.full((top,), mean), None).log_prob(x).detach().double()
    pmf = special.expit(-dropout) * stats.nbinom(theta, theta / (theta + mean)).pmf(np.arange(100))
    pmf[0] += special.expit(dropout)
    np.testing.assert_allclose(value[:100].exp(), pmf, rtol=1e-4)
    assert float(value.exp().sum()) == pytest.approx(1, abs=1e-5)


def test_bernoulli_sums_to_one_over_all_outcomes():
    x = torch.tensor([[a, b, c] for a in (0.0, 1.0) for b in (0.0, 1.0) for c in (0.0, 1.0)])
    raw = torch.tensor([[-1.0, 0.5, 3.0]]).expand(8, 3)
    value = heads["bernoulli"](3)(raw, torch.ones(8), None).log_prob(x)
    assert float(value.exp().sum()) == pytest.approx(1, abs=1e-6)


def test_deeper_cells_have_more_open_peaks_and_unknown_depth_is_the_average():
    head = heads["accessibility"](4)
    bias = torch.zeros(4)
    head.centre(bias, torch.tensor([10.0, 20.0, 40.0, 80.0]), 1000)
    sizes = torch.tensor([0.15, 0.3, torch.nan, 0.0])
    with torch.no_grad():
        mean = head(bias.expand(4, 4), sizes, None).mean
    torch.testing.assert_close(mean[2], torch.tensor([0.01, 0.02, 0.04, 0.08]), rtol=0.06, atol=0)
    odds = mean / (1 - mean)
    torch.testing.assert_close(odds[0] / odds[2], torch.full((4,), 1.0).mul(0.15 / head.frequency.sum()))
    torch.testing.assert_close(odds[1], 2 * odds[0])
    assert mean[3].max() < 1e-10


def test_depth_is_that_of_the_panel():
    head = heads["accessibility"](4)
    bias = torch.zeros(4)
    head.centre(bias, torch.tensor([10.0, 20.0, 40.0, 80.0]), 1000)
    panel = torch.tensor([[True, True, False, True]])
    some = head(bias[None], head.frequency[panel[0]].sum()[None], panel)
    torch.testing.assert_close(some.mean, head.frequency[None])


@pytest.mark.parametrize("name", [name for name in ALL if hasattr(heads[name], "information")])
def test_information_is_the_mean_square_of_the_slope(name):
    c = case(name, n=1)
    draws = 20_000
    raw = (0.3 * c.raw.float()).expand(draws, -1).clone().requires_grad_()
    if name == "zinb":
        raw = torch.cat([raw[:, :G], torch.zeros(draws, G)], 1).detach().requires_grad_()
    head = heads[name](G)
    size = torch.full((draws,), G / 2 if name in BINARY else 60.0)
    observed = head(raw, size, None)
    x = observed.sample(torch.Generator().manual_seed(0))
    observed.log_prob(x).sum().backward()
    slope = raw.grad.double().square().mean(0)
    mean = observed.mean.detach()[0].double()
    share = mean / mean.sum()
    # A softmax takes from each slope the part that all features share.
    told = head.information(mean)
    if name in ("nb", "poisson"):
        told = told * (1 - share) ** 2 + share**2 * (told.sum() - told)
    if name == "zinb":
        assert ((slope[:G] / told[:G]) < 1.3).all()
        assert ((slope[G:] / told[G:]) < 1.05).all()
    else:
        torch.testing.assert_close(slope, told.double(), rtol=0.15, atol=1e-3)


def test_normal_equals_scipy():
    c = case("normal")
    value = c.head(c.raw, c.size, None).log_prob(c.x).detach()
    scale = c.head.scale.detach().double().numpy()
    want = stats.norm(c.raw.numpy(), scale).logpdf(c.x.numpy()).sum(1)
    np.testing.assert_allclose(value, want, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_csr_equals_dense(name):
    c = case(name)
    weight = torch.rand(N).double()
    csr, dense = (found(c, weight, measured=m) for m in (CSR.of(c.x.numpy()), c.x.float()))
    for a, b in zip(csr, dense, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_stored_zeros_change_nothing(name):
    c = case(name)
    n, g = c.x.shape
    every = CSR(torch.arange(n + 1) * g, torch.arange(g).repeat(n).int(), c.x.float().reshape(-1), g)
    weight = torch.rand(N).double()
    for a, b in zip(found(c, weight), found(c, weight, measured=every), strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("name", ALL)
def test_masked_equals_computing_on_the_panel_alone(name):
    c = case(name)
    panel = torch.rand(G) < 0.6
    c.mask = panel.expand(N, G)
    weight = torch.rand(N).double()
    value, by_raw, by_parameter = found(c, weight)  # what is stored for masked features is not looked at
    both = panel.repeat(c.head.outputs)
    parameter = parameter_of(c.head)
    small = make(name, int(panel.sum()))
    if parameter is not None:
        parameter_of(small).data = parameter.data[panel].clone()
    alone = Case(name, small, c.raw[:, both], c.size, c.x[:, panel])
    value_alone, raw_alone, parameter_alone = found(alone, weight)
    torch.testing.assert_close(value, value_alone, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(by_raw[:, both], raw_alone, rtol=1e-4, atol=1e-3)
    assert not by_raw[:, ~both].any()
    if parameter is not None:
        torch.testing.assert_close(by_parameter[panel], parameter_alone, rtol=1e-4, atol=1e-3)
        assert not by_parameter[~panel].any()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_gradcheck(name, masked):
    c = case(name, n=3, g=5, masked=masked, depth=30)
    c.x[0, 0] = 0
    if name == "nb":
        c.head.log_theta.data = torch.linspace(-3, 5, 5).double()
    c.head.double()
    if name in DISPERSED:
        c.head.log_theta.data.clamp_(-4, 6)

    def value(raw: torch.Tensor, size: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return c.head(raw, size, c.mask).log_prob(CSR.of(c.x.numpy()))

    size = (c.size + 1).requires_grad_()
    inputs = (c.raw.clone().requires_grad_(), size, *parameters_of(c.head))
    assert torch.autograd.gradcheck(value, inputs, eps=1e-5, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_a_second_backward_pass_gives_the_same(name):
    c = case(name)
    raw = c.raw.float().requires_grad_()
    inputs = (raw, *parameters_of(c.head))
    total = (c.head(raw, c.size.float(), None).log_prob(CSR.of(c.x.numpy())) * torch.rand(N)).sum()
    first = torch.autograd.grad(total, inputs, retain_graph=True)
    second = torch.autograd.grad(total, inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", COUNTS)
def test_cells_without_counts_or_features_weigh_nothing(name):
    c = case(name, masked=True)
    c.mask[1] = False
    c.x[:2] = 0
    c.size = c.x.sum(1)
    value, by_raw, by_parameter = found(c, torch.ones(N).double())
    assert value[:2].abs().max() < 1e-15
    assert by_raw[:2].abs().max() < 1e-15
    assert by_raw.isfinite().all()
    assert by_parameter is None or by_parameter.isfinite().all()
    observed = c.head(c.raw.float(), c.size.float(), c.mask)
    for what in (observed.mean, observed.variance, observed.proportions, observed.zero_probability):
        assert what.isfinite().all()
    assert torch.equal(observed.mean[:2], torch.zeros(2, G))


@pytest.mark.parametrize("name", COUNTS)
def test_stored_zeros_and_sizes_of_empty_cells_stay_finite(name):
    c = case(name, n=2)
    every = CSR(torch.tensor([0, G, 2 * G]), torch.arange(G).repeat(2).int(), torch.zeros(2 * G), G)
    raw, size = c.raw.float().requires_grad_(), torch.zeros(2, requires_grad=True)
    value = c.head(raw, size, None).log_prob(every)
    value.sum().backward()
    assert value.abs().max() < 1e-4
    assert raw.grad.isfinite().all()
    assert size.grad.isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_rows_in_blocks_equal_rows_at_once(name, monkeypatch):
    c = case(name)
    weight = torch.rand(N).double()
    whole = found(c, weight)
    monkeypatch.setattr(sparse, "_BLOCK", 2 * G)
    for a, b in zip(whole, found(c, weight), strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_same_bits_twice(name):
    c = case(name, n=64, g=300)
    weight = torch.rand(64).double()
    for a, b in zip(found(c, weight), found(c, weight), strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    observed = c.head(c.raw.float(), c.size.float(), None)
    draws = [observed.sample(torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("name", ALL)
def test_samples_have_the_mean_variance_and_zeros_of_theory(name):
    draws, g = 40_000, 4
    arguments = {"scale": torch.tensor([0.5, 1.0, 2.0, 3.0])} if name == "normal" else {}
    if name in DISPERSED:
        arguments = {"init": torch.tensor([0.5, 2.0, 30.0, 1e5])}
    head = make(name, g, **arguments)
    raw = torch.randn(1, head.outputs * g, generator=torch.Generator().manual_seed(1)).expand(draws, -1)
    with torch.no_grad():
        observed = head(raw, torch.full((draws,), 20.0), None)
        x = observed.sample(torch.Generator().manual_seed(2)).double()
        mean, variance, zero = (
            t[0].double() for t in (observed.mean, observed.variance, observed.zero_probability)
        )
    error = (x.var(0) / draws).sqrt()
    assert ((x.mean(0) - mean).abs() < 5 * error).all()
    spread = ((x - x.mean(0)) ** 2).std(0) / draws**0.5
    assert ((x.var(0) - variance).abs() < 5 * spread).all()
    assert (((x == 0).double().mean(0) - zero).abs() < 5 * (zero * (1 - zero) / draws).sqrt() + 1e-9).all()


@pytest.mark.parametrize("name", COUNTS)
def test_proportions_share_the_measured_total(name):
    c = case(name, masked=True)
    observed = c.head(c.raw.float(), c.size.float(), c.mask)
    torch.testing.assert_close(observed.proportions.sum(1), torch.ones(N))
    share = observed.mean / observed.mean.sum(1, keepdim=True)
    torch.testing.assert_close(observed.proportions, share)
    assert not observed.proportions[~c.mask].any()


@pytest.mark.parametrize("name", ALL)
def test_a_value_without_gradients_is_the_same(name):
    c = case(name)
    with torch.no_grad():
        bare = c.head(c.raw.float(), c.size.float(), None).log_prob(CSR.of(c.x.numpy()))
    torch.testing.assert_close(bare, found(c, torch.ones(N).double())[0], rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_no_cells_have_no_gradient(name):
    head = make(name, 5)
    raw = torch.zeros(0, 5 * head.outputs, requires_grad=True)
    value = head(raw, torch.zeros(0), None).log_prob(CSR.of(np.zeros((0, 5), np.float32)))
    value.sum().backward()
    assert value.shape == (0,)
    assert all(not parameter.grad.any() for parameter in head.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("name", ALL)
def test_one_cell_leaves_its_outputs_alone(name):
    c = case(name, n=1)
    raw = c.raw.float()
    before = raw.clone()
    c.head(raw, c.size.float(), None).log_prob(CSR.of(c.x.numpy()))
    asking = raw.requires_grad_()
    c.head(asking, c.size.float(), None).log_prob(CSR.of(c.x.numpy())).sum().backward()
    assert torch.equal(raw.detach(), before)


@pytest.mark.parametrize("name", ALL)
def test_centred_outputs_predict_the_mean_of_the_data(name):
    torch.manual_seed(0)
    n, g = 500, 6
    x = torch.poisson(torch.tensor([1.0, 3.0, 9.0, 0.5, 2.0, 4.0]).expand(n, g))
    x = (x > 1).float() if name in BINARY else x
    head = make(name, g)
    bias = torch.zeros(g)
    head.centre(bias, x.sum(0), n)
    raw = torch.cat([bias, torch.full((g * (head.outputs - 1),), -20.0)])[None]
    with torch.no_grad():
        mean = head(raw, x.sum() / n * torch.ones(1), None).mean[0]
    torch.testing.assert_close(mean, x.mean(0), rtol=0.02, atol=0.01)


@pytest.mark.parametrize("name", ["nb", "nb_free", "zinb"])
def test_dispersion_stays_above_its_floor_and_in_its_range(name):
    head = heads[name](3, init=2.0, floor=1.0)
    torch.testing.assert_close(head.theta, torch.full((3,), 2.0))
    head.log_theta.data = torch.tensor([-1e9, 0.0, 1e9])
    assert (head.theta >= 1).all()
    assert head.theta.isfinite().all()
    with pytest.raises(InputError, match=r"init > floor >= 0.*Raise init or lower floor"):
        heads[name](3, init=0.5, floor=1.0)


def test_a_standard_deviation_must_be_positive():
    with pytest.raises(InputError, match="positive"):
        heads["normal"](3, scale=0.0)


@pytest.mark.parametrize("name", ALL)
def test_values_of_other_cells_are_refused(name):
    c = case(name)
    with pytest.raises(InputError, match=f"{N} cells by {G} features"):
        c.head(c.raw.float(), c.size.float(), None).log_prob(c.x.float()[:-1])
