"""Recipes without an encoder network, and priors that go with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

import chreode as ch
from chreode.infer import Codebook, Encoder, GradientOrigin, VariationalEncoder
from chreode.likelihoods import heads
from chreode.loop import seeded
from chreode.posthoc import project
from chreode.priors import Ball, VampPrior
from parts import table, tiny


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- codes in a ball


def test_codes_stay_in_the_ball_while_they_are_fitted_and_projected() -> None:
    model = ch.fit(tiny(), ch.recipes.glo(dim=3, hidden=(8,), radius=0.7), epochs=30, progress=False)
    norms = np.linalg.norm(model.embedded.embedding, axis=1)
    assert norms.max() <= 0.7 * (1 + 1e-5)
    assert (norms > 0.69).any()  # some would go on
    new = model.project(table(40, seed=1)).embedding
    assert np.linalg.norm(new, axis=1).max() <= 0.7 * (1 + 1e-5)


def test_codes_drawn_from_a_ball_look_like_those_learned() -> None:
    prior = Ball(2, radius=1.0)
    codes = 0.1 * torch.randn(5000, 2, generator=draws()) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]])
    prior.describe(codes + 0.2)
    drawn = prior().sample(20_000, draws(1))
    torch.testing.assert_close(drawn.mean(0), codes.mean(0) + 0.2, atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), codes.T.cov(), atol=1e-3, rtol=0.05)
    prior.describe(10 * codes)
    assert prior().sample(1000, draws(2)).norm(dim=1).max() <= 1 + 1e-5


def test_the_density_of_a_ball_integrates_to_one() -> None:
    density = Ball(2, radius=0.5)()
    square = torch.rand(200_000, 2, generator=draws()) * 2 - 1  # of area 4
    assert abs(4 * density.log_prob(square).exp().mean().item() - 1) < 0.02


def test_what_is_allowed_is_the_nearest_code_of_the_ball() -> None:
    book = Codebook(1, 2, radius=1.0)
    z = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    torch.testing.assert_close(book.allowed(z), torch.tensor([[0.6, 0.8], [0.3, 0.4]]))
    assert Codebook(1, 2).allowed(z) is z


# ---- gradients at the origin


def origin_model(name: str = "nb") -> tuple[object, object]:
    cells = tiny()[:12].numbered()
    with seeded(0):
        build = ch.recipes.gon(dim=3, hidden=(6,), likelihood=name).build(cells.layout)
        build.model.decoder.double()
        build.model.latents["cell"].double()
        for parameter in build.model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    measured = cells.measured["rna"].with_value(cells.measured["rna"].value.double())
    return build.model, cells.replace(measured={"rna": measured}, size={"rna": cells.size["rna"].double()})


@pytest.mark.parametrize("name", ["nb", "poisson"])
def test_a_code_is_the_gradient_at_the_origin(name: str) -> None:
    model, cells = origin_model(name)
    z = torch.zeros(12, 3, dtype=torch.float64, requires_grad=True)
    observed = model.decoder({"cell": z}, cells)["rna"]
    (by_z,) = torch.autograd.grad(observed.log_prob(cells.measured["rna"]).sum(), z)
    infer = model.latents["cell"].infer
    want = by_z / cells.size["rna"][:, None] * infer.log_scale.exp()
    found = infer(cells, model.given("cell", {}, cells)).z
    torch.testing.assert_close(found, want)


def test_the_objective_is_differentiated_through_the_gradient() -> None:
    """Against finite differences, for weights that codes depend on."""
    model, cells = origin_model()
    model.train()

    def loss() -> torch.Tensor:
        code = model.latents["cell"].infer(cells, model.given("cell", {}, cells)).z
        return -model.decoder({"cell": code}, cells)["rna"].log_prob(cells.measured["rna"]).sum()

    loss().backward()
    checked = 0
    for parameter in model.parameters():
        at = tuple(0 for _ in parameter.shape)
        with torch.no_grad():
            here, h = parameter[at].item(), 1e-5
            parameter[at] = here + h
        up = loss().item()
        with torch.no_grad():
            parameter[at] = here - h
        down = loss().item()
        with torch.no_grad():
            parameter[at] = here
        slope = (up - down) / (2 * h)
        assert abs(parameter.grad[at].item() - slope) < 1e-3 * (1 + abs(slope))
        checked += 1
    assert checked >= 5


@pytest.mark.parametrize("name", ["nb", "nb_free", "poisson", "bernoulli", "normal"])
def test_a_slope_is_the_gradient_to_the_outputs(name: str) -> None:
    torch.manual_seed(0)
    raw = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(5, 7) > 0.3
    x = torch.poisson(raw.detach().exp()) * mask
    x = (x > 0).double() if name == "bernoulli" else x
    observed = heads[name](7).double()(raw, x.sum(1), mask)
    (gradient,) = torch.autograd.grad(observed.log_prob(x).sum(), raw)
    torch.testing.assert_close(observed.slope(x), gradient)
    assert observed.raw is raw
    assert observed.slope(x).requires_grad


def test_the_decoder_is_its_own_encoder() -> None:
    counts = table(400)
    model = ch.fit(ch.read(counts[:300].copy()), ch.recipes.gon(dim=4, hidden=(16,)), progress=False)
    assert sum(p.numel() for p in model.module.latents["cell"].infer.parameters()) == 4
    assert isinstance(model.module.latents["cell"].infer, GradientOrigin)
    assert model.score(counts[300:].copy())["gain"] > 0.2


# ---- mixtures over posteriors


@pytest.mark.parametrize("name", ["scvae", "vad"])
def test_components_are_found_and_as_wide_as_posteriors_ask(name: str) -> None:
    cells = ch.read(table(300, groups=3, seed=2), batch="plate", label="type")
    more = {"mixture": True} if name == "vad" else {}
    recipe = getattr(ch.recipes, name)(dim=4, hidden=(16,), components=3, **more)
    model = ch.fit(cells, recipe, epochs=120, validation=0, progress=False)
    found = model.embedded.components()
    assert adjusted_rand_score(cells.level_names("type"), found) > 0.9
    infer = model.module.latents["cell"].infer
    with torch.no_grad():
        q = infer(cells.numbered(), None).posterior
        density = model.embedded.density()
        # The prior that explains the posteriors best is as wide as their mean and what they vary within.
        within = torch.stack([q.mean[found == k].var(0, unbiased=False) for k in range(3)]).mean(0)
        widths = density.covariances[0].diagonal()
    torch.testing.assert_close(widths, within + q.variance.mean(0), rtol=0.5, atol=0.05)


def test_a_prior_of_pseudo_cells_is_the_mean_of_their_posteriors() -> None:
    cells = tiny()
    with seeded(0):
        infer = VariationalEncoder(Encoder(cells.layout, 6, hidden=(5,), norm="batch", dropout=0.2))
    prior = VampPrior(infer, 3, inputs=4)
    values = infer.encoder.read(cells).dense()
    prior.start(values, draws())
    rows = torch.cdist(prior.inputs.detach(), values).argmin(1)
    assert len(set(rows.tolist())) == 4  # different cells
    infer.train()
    z = torch.randn(9, 3, generator=draws(1))
    found = prior().log_prob(z)
    assert infer.training
    infer.eval()
    with torch.no_grad():
        q = infer(cells[rows], None).posterior
        each = torch.distributions.Normal(q.mean, q.variance.sqrt())
        want = each.log_prob(z[:, None]).sum(2).logsumexp(1) - np.log(4)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
    assert not list(prior.buffers())
    assert [n for n, _ in prior.named_parameters()] == ["inputs"]


def test_fewer_cells_than_pseudo_cells_are_taken_again() -> None:
    cells = tiny()
    infer = VariationalEncoder(Encoder(cells.layout, 4, hidden=()))
    prior = VampPrior(infer, 2, inputs=7)
    prior.start(infer.encoder.read(cells[:3]).dense(), draws())
    assert len(torch.unique(prior.inputs, dim=0)) == 3


# ---- independent dimensions


def test_the_penalty_makes_dimensions_less_dependent() -> None:
    from chreode.penalties import dhsic

    cells = ch.read(table(300, groups=3, seed=2))
    found = {}
    for penalty in (0.0, 3000.0):
        recipe = ch.recipes.dhsic_vae(dim=4, hidden=(16,), penalty=penalty)
        model = ch.fit(cells, recipe, epochs=100, validation=0, progress=False)
        codes = project(model.module, cells)["cell"]
        found[penalty] = dhsic(list(codes.split(1, 1))).item()
    assert found[3000.0] < 0.7 * found[0.0]
