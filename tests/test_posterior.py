"""How well codes are known, and cells drawn again."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch

import chreode as ch
from chreode.errors import InputError
from chreode.posterior import posterior
from parts import table, tiny


@pytest.fixture(scope="module")
def model() -> ch.FittedModel:
    return ch.fit(tiny(), ch.recipes.scdgd(dim=3, hidden=(8,), components=3), epochs=30, progress=False)


def linear(recipe: str, **more: object) -> tuple[ch.FittedModel, np.ndarray]:
    """A linear Gaussian model, and the widths of the best diagonal posterior."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)) @ rng.normal(0, 1.0, (12, 2)).T + rng.normal(size=(200, 12))
    cells = ch.read(ad.AnnData(x.astype(np.float32)), values="continuous")
    made = getattr(ch.recipes, recipe)(dim=2, hidden=(), **more)
    model = ch.fit(cells, made, epochs=200, validation=0, progress=False)
    weight = model.module.decoder.readout.outputs["rna"].weight.detach()
    return model, (1 + (weight**2).sum(0)).rsqrt().numpy()


def test_laplace_is_exact_for_a_linear_gaussian_model() -> None:
    model, width = linear("dgd", mixture=False, noise=0.0)
    np.testing.assert_allclose(model.embedded.uncertainty(), np.tile(width, (200, 1)), rtol=0.01)


def test_a_table_of_gaussians_says_what_it_learned() -> None:
    model, width = linear("vad", code_lr=3e-2)
    found = model.embedded.uncertainty()
    rows = model.module.latents["cell"].infer.posterior
    np.testing.assert_allclose(found, rows.variance.sqrt().numpy(), rtol=1e-5)
    np.testing.assert_allclose(np.median(found, 0), width, rtol=0.2)
    rows_of = torch.tensor([7, 3, 150])
    np.testing.assert_array_equal(
        posterior(model.embedded, rows_of).variance.sqrt().numpy(), found[rows_of.numpy()]
    )
    # Where some of the cells are left, which rows of the table are theirs is not known: by curvature.
    half = model.embedded.pick(np.arange(1, 200, 2))
    np.testing.assert_allclose(half.uncertainty(), np.tile(width, (100, 1)), rtol=0.02)
    new = model.project(ad.AnnData(np.ones((3, 12), dtype=np.float32)))
    np.testing.assert_allclose(new.uncertainty(), np.tile(width, (3, 1)), rtol=0.02)


def test_an_encoder_says_its_own() -> None:
    model = ch.fit(tiny(), ch.recipes.vae(dim=3, hidden=(8,)), epochs=20, progress=False)
    posterior = model.module.latents["cell"].infer(model.embedded.cells, None).posterior
    want = posterior.variance.detach().sqrt().numpy()
    np.testing.assert_allclose(model.embedded.uncertainty(), want, rtol=1e-4)


def test_deep_cells_are_known_better() -> None:
    model = ch.fit(tiny(), ch.recipes.dgd(dim=3, hidden=(8,), mixture=False), epochs=30, progress=False)
    deep = table()
    thin = deep.copy()
    thin.X = thin.X.astype(np.float32)
    thin.X.data = np.random.default_rng(0).binomial(thin.X.data.astype(int), 0.1).astype(np.float32)
    thin.X.eliminate_zeros()
    medians = [np.median(model.project(some).uncertainty()) for some in (thin, deep)]
    assert medians[0] > 1.5 * medians[1]


def test_where_nothing_is_known_it_ends_at_ten() -> None:
    model = ch.fit(tiny(), ch.recipes.glo(dim=3, hidden=(8,)), epochs=3, progress=False)
    with torch.no_grad():
        model.module.decoder.readout.outputs["rna"].weight.zero_()
    np.testing.assert_allclose(model.embedded.uncertainty(), 10.0, rtol=1e-5)


def test_cells_drawn_again_are_counts_like_those_measured(model: ch.FittedModel) -> None:
    drawn = model.embedded.sample(seed=1)
    assert list(drawn.obs_names) == list(model.embedded.names)
    assert list(drawn.obs["plate"]) == list(model.embedded.level_names("plate"))
    counts, measured = drawn.X.toarray(), table().X.toarray()
    assert (counts == np.round(counts)).all()
    assert 0.9 < counts.sum() / measured.sum() < 1.1
    several = np.mean([model.embedded.sample(seed=s).X.toarray() for s in range(30)], 0)
    expected = model.embedded.expected() * measured.sum(1, keepdims=True)
    assert np.corrcoef(several.ravel(), expected.ravel())[0, 1] > 0.95
    np.testing.assert_array_equal(counts, model.embedded.sample(seed=1).X.toarray())
    assert (counts != model.embedded.sample(seed=2).X.toarray()).any()


def test_uncertain_codes_add_to_the_spread() -> None:
    """In a linear Gaussian model the posterior predictive variance is known."""
    model, width = linear("dgd", mixture=False, noise=0.0)
    weight = model.module.decoder.readout.outputs["rna"].weight.detach().numpy()
    drawn = {
        uncertain: np.stack(
            [model.embedded.sample(seed=s, uncertain=uncertain).X.toarray() for s in range(40)]
        )
        .var(0, ddof=1)
        .mean(0)
        for uncertain in (True, False)
    }
    np.testing.assert_allclose(drawn[False], 1.0, rtol=0.06)
    np.testing.assert_allclose(drawn[True], 1 + (weight**2) @ width**2, rtol=0.08)


def test_without_counts_it_is_refused_and_points_are_not(model: ch.FittedModel, tmp_path) -> None:
    model.save(tmp_path / "model")
    loaded = ch.load(tmp_path / "model").embedded
    with pytest.raises(InputError, match=r"cells with their counts.*project\(source\)"):
        loaded.uncertainty()
    with pytest.raises(InputError, match="counts"):
        loaded.sample()
    again = loaded.sample(seed=3, uncertain=False).X.toarray()
    np.testing.assert_array_equal(again, model.embedded.sample(seed=3, uncertain=False).X.toarray())


def test_nothing_of_the_model_changes(model: ch.FittedModel) -> None:
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    state = torch.random.get_rng_state()
    model.embedded.uncertainty()
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(p.grad is None for p in model.module.parameters())
