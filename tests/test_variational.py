"""Posteriors, divergences, and weights that rise during the fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import torch
from torch import distributions

import chreode as ch
from chreode.cells import CSR
from chreode.infer import Encoder
from chreode.infer.posterior import GaussianPosterior
from chreode.objective import Ramp
from chreode.priors import LabelledMixture, MixtureDensity, StandardNormal
from parts import tiny

if TYPE_CHECKING:
    from chreode.recipe import Build


def posterior(n: int = 4, d: int = 3) -> GaussianPosterior:
    draw = torch.Generator().manual_seed(0)
    mean, scale = (torch.randn(n, d, generator=draw, dtype=torch.float64) for _ in range(2))
    return GaussianPosterior(mean, (0.5 * scale).exp())


def test_a_posterior_is_the_normal_of_torch() -> None:
    q, z = posterior(), torch.randn(4, 3, dtype=torch.float64)
    reference = distributions.Normal(q.mean, q.variance.sqrt())
    torch.testing.assert_close(q.log_prob(z), reference.log_prob(z).sum(1))
    many = GaussianPosterior(q.mean.repeat(50_000, 1), q.variance.repeat(50_000, 1))
    drawn = many.sample(torch.Generator().manual_seed(1)).reshape(50_000, 4, 3)
    torch.testing.assert_close(drawn.mean(0), q.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.var(0), q.variance, atol=0.03, rtol=0.03)


def test_the_divergence_from_a_standard_normal_is_exact() -> None:
    q = posterior()
    reference = distributions.kl_divergence(
        distributions.Normal(q.mean, q.variance.sqrt()),
        distributions.Normal(torch.zeros(()).double(), torch.ones(()).double()),
    )
    torch.testing.assert_close(StandardNormal(3)().kl(q, q.mean), reference.sum(1))


def test_the_divergence_from_a_mixture_is_estimated_without_bias() -> None:
    """A mixture of one component has the closed form too."""
    q = posterior()
    one = MixtureDensity(torch.zeros(1), torch.zeros(1, 3).double(), torch.zeros(1, 3).double())
    exact, draw = StandardNormal(3)().kl(q, q.mean), torch.Generator().manual_seed(2)
    estimates = torch.stack([one.kl(q, q.sample(draw)) for _ in range(20_000)])
    error = estimates.std(0) / 20_000**0.5
    assert ((estimates.mean(0) - exact).abs() < 4 * error).all()


def test_the_divergence_from_labelled_components_is_that_from_each_cells_own() -> None:
    cells = tiny()
    prior = LabelledMixture("type", 3, 3)
    with torch.no_grad():
        prior.mixture().means_all.copy_(4 * torch.eye(3))
    density = prior(cells[:4])
    q = GaussianPosterior(torch.zeros(4, 3), torch.ones(4, 3))
    z = q.sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(density.kl(q, z), q.log_prob(z) - density.log_prob(z))


def test_a_weight_rises_by_steps_and_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(Ramp, "__call__", lambda _, progress: seen.append(progress) or 1.0)
    ch.fit(tiny(), ch.recipes.scvi(dim=2, hidden=(4,)), epochs=4, validation=0, progress=False)
    assert len(seen) == 4  # a step an epoch
    np.testing.assert_allclose(seen, [0, 0.25, 0.5, 0.75])


def test_the_full_weight_is_reached_whatever_the_number_of_cells() -> None:
    ramp = Ramp(0.0, 2.0, until=0.25)
    assert [ramp(t) for t in (0.0, 0.125, 0.25, 1.0)] == [0.0, 1.0, 2.0, 2.0]


def test_the_model_returned_is_one_of_the_full_weight() -> None:
    history = ch.fit(tiny(), ch.recipes.scvi(dim=2, hidden=(4,)), epochs=40, progress=False).history
    arrived = history.index[history["event"].str.contains("full weight")]
    assert len(arrived) == 1
    assert history["validation"][arrived[0] + 1 :].notna().any()


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_an_encoder_answers_alike_for_sparse_and_dense_counts(norm: str) -> None:
    cells = tiny()
    torch.manual_seed(0)
    encoder = Encoder(cells.layout, 3, hidden=(5, 4), norm=norm, columns=("plate",)).eval()
    dense = cells.replace(measured={"rna": CSR.of(cells.measured["rna"].dense().numpy())})
    torch.testing.assert_close(encoder(cells).z, encoder(dense).z)


def test_an_encoder_that_does_not_see_the_batch_does_not_depend_on_it() -> None:
    cells = tiny()
    other = cells.do(plate=None)
    for columns, same in (((), True), (("plate",), False)):
        torch.manual_seed(0)
        encoder = Encoder(cells.layout, 3, hidden=(5,), columns=columns).eval()
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        assert torch.equal(encoder(cells).z, encoder(other).z) is same


def test_codes_vary_in_training_alone() -> None:
    cells = tiny().numbered()
    build: Build = ch.recipes.scvi(dim=2, hidden=(4,), dropout=0.0).build(cells.layout)
    model = build.model.eval()
    assert torch.equal(model(cells).codes["cell"].z, model(cells).codes["cell"].z)
    model.train()
    first, second = model(cells).codes["cell"], model(cells).codes["cell"]
    assert not torch.equal(first.z, second.z)
    torch.testing.assert_close(first.centre, second.centre)


def test_groups_are_found_and_batches_are_mixed() -> None:
    from sklearn.decomposition import PCA
    from sklearn.neighbors import KNeighborsClassifier

    from parts import table

    adata, half = table(600), np.arange(600) % 2 == 0
    cells = ch.read(adata, batch="plate", label="type")
    model = ch.fit(cells, ch.recipes.scvi(dim=4, hidden=(32,)), epochs=80, progress=False)
    counts = adata.X.toarray()
    plain = PCA(4).fit_transform(np.log1p(1e4 * counts / counts.sum(1, keepdims=True)))

    def told(z: np.ndarray, column: str) -> float:
        levels = model.embedded.level_names(column).astype(str)
        return KNeighborsClassifier(15).fit(z[half], levels[half]).score(z[~half], levels[~half])

    assert told(model.embedded.embedding, "label") > 0.98
    # Half of it is chance.
    assert told(model.embedded.embedding, "batch") < told(plain, "batch") - 0.1


def test_an_encoders_answer_is_refined_when_asked_for() -> None:
    from parts import table

    model = ch.fit(tiny(), ch.recipes.scvi(dim=4, hidden=(8,)), epochs=20, progress=False)
    new = table(40, seed=0)
    state = {k: v.clone() for k, v in model.module.state_dict().items()}
    encoded, same, refined = model.project(new), model.project(new, refine=0), model.project(new, refine=50)
    np.testing.assert_array_equal(encoded.embedding, same.embedding)

    def energy(embedded: ch.Embedded) -> torch.Tensor:
        with torch.no_grad():
            return model.module.energy(embedded.codes, embedded.cells)

    assert (energy(refined) <= energy(encoded)).all()
    assert (energy(refined) < energy(encoded) - 0.1).any()
    assert all(torch.equal(state[k], v) for k, v in model.module.state_dict().items())


def test_free_gaussians_are_as_wide_as_the_posterior() -> None:
    """With a linear Gaussian decoder the posterior is known: N(M W'(x - b), M), M = (I + W'W)^-1."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(0, 1.0, (12, 2))
    x = rng.normal(size=(300, 2)) @ loadings.T + rng.normal(size=(300, 12))
    cells = ch.read(ad.AnnData(x.astype(np.float32)), values="continuous")
    recipe = ch.recipes.vad(dim=2, hidden=(), code_lr=3e-2)
    model = ch.fit(cells, recipe, epochs=400, validation=0, progress=False).module
    with torch.no_grad():
        weight = model.decoder.readout.outputs["rna"].weight
        bias = model.decoder.readout.outputs["rna"].bias
        inner = torch.linalg.inv(torch.eye(2) + weight.T @ weight)
        exact = (torch.from_numpy(x).float() - bias) @ weight @ inner
        posterior = model.latents["cell"].infer(cells.numbered(), None).posterior
    # The best diagonal Gaussian has the precisions of the posterior.
    width = 1 / torch.linalg.inv(inner).diagonal()
    assert torch.corrcoef(torch.stack([posterior.mean.flatten(), exact.flatten()]))[0, 1] > 0.99
    torch.testing.assert_close(posterior.variance.median(0).values, width, rtol=0.3, atol=0.01)


def test_held_out_cells_are_encoded_anew_at_every_look() -> None:
    """Not by what the encoder said of them at the first look."""
    from chreode.held_out import halves, spent
    from chreode.loop import mix
    from chreode.posthoc import project
    from chreode.train import split

    cells = tiny()
    model = ch.fit(cells, ch.recipes.scvi(dim=3, hidden=(8,)), epochs=60, progress=False)
    held = cells[split(cells, 0.1, 0)[1]]
    first, second = halves(held, torch.Generator().manual_seed(mix(0, 13)))
    with torch.no_grad():
        nats, molecules = spent(model.module.trace(project(model.module, first), second).observed, second)
    history = model.history
    arrived = history.index[history["event"].str.contains("full weight")][0]
    assert nats / molecules == pytest.approx(history["validation"][arrived + 1 :].min(), abs=2e-4)
