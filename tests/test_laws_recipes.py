"""Laws that every recipe obeys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import chreode as ch
from chreode.loop import seeded
from chreode.objective import Step
from chreode.optim import codebooks
from parts import RECIPES, table, tiny

if TYPE_CHECKING:
    from chreode.fitted import FittedModel


@pytest.fixture(scope="module")
def fits() -> dict[str, FittedModel]:
    """Every recipe fitted once, when first asked for."""
    return {}


def fitted(name: str, fits: dict[str, FittedModel]) -> FittedModel:
    if name not in fits:
        fits[name] = ch.fit(tiny(), RECIPES[name](), epochs=12, progress=False)
    return fits[name]


def state(model: FittedModel) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", RECIPES)
def test_loss_falls(name: str) -> None:
    history = ch.fit(tiny(), RECIPES[name](), epochs=60, validation=0, progress=False).history
    assert np.isfinite(history["loss"]).all()
    assert history["reconstruction"].tail(5).mean() < history["reconstruction"].head(5).mean() - 0.5


@pytest.mark.parametrize("name", RECIPES)
def test_same_seed_same_bits(name: str, fits: dict[str, FittedModel]) -> None:
    again = ch.fit(tiny(), RECIPES[name](), epochs=12, progress=False)
    assert same(state(again), state(fitted(name, fits)))
    np.testing.assert_array_equal(again.embedded.embedding, fitted(name, fits).embedded.embedding)


@pytest.mark.parametrize("name", RECIPES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    cells = tiny().numbered()
    with seeded(0):
        build = RECIPES[name]().build(cells.layout)
        for part in build.model.modules():
            # A placed mixture has all its parameters in play.
            if type(part).__name__ == "Mixture" and part.learn == "gradient":
                k, codes = min(part.components, 3), torch.randn(60, part.dim)
                part.place(codes, components=k, generator=torch.Generator().manual_seed(0))
        step = Step(build.model, build.objective).train()
        for book in codebooks(build.model).values():
            book.weight.normal_()
        # Conditions start at zero, where a rectified unit's gradient may vanish by symmetry.
        for parameter in build.model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
        sum(step(cells, float(len(cells))).values()).backward()
    learned = {k: p for k, p in build.model.named_parameters() if p.requires_grad}
    assert learned
    silent = [k for k, p in learned.items() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []
    for latent, book in codebooks(build.model).items():
        only = build.model.latents[latent].only
        has = torch.ones(len(cells), dtype=torch.bool) if only is None else only(cells) > 0
        assert torch.equal(book.visited[1].grad.abs().sum(1) > 0, has)


@pytest.mark.parametrize("name", RECIPES)
def test_projecting_leaves_the_model_bit_identical(name: str, fits: dict[str, FittedModel]) -> None:
    model = fitted(name, fits)
    before = state(model)
    new = model.project(table(30, seed=0)[:, ::-1].copy())
    assert same(before, state(model))
    assert new.embedding.shape == (30, model.embedded.embedding.shape[1])
    assert np.isfinite(new.embedding).all()
    assert all(p.grad is None for p in model.module.parameters())


@pytest.mark.parametrize("name", RECIPES)
def test_save_and_load_are_exact(name: str, fits: dict[str, FittedModel], tmp_path) -> None:
    model = fitted(name, fits)
    model.save(tmp_path / "model")
    again = ch.load(tmp_path / "model")
    assert same(state(again), state(model))
    np.testing.assert_array_equal(again.embedded.embedding, model.embedded.embedding)
    np.testing.assert_array_equal(again.embedded.names, model.embedded.names)
    np.testing.assert_array_equal(again.embedded.expected(), model.embedded.expected())
    assert again.recipe == model.recipe
    new = table(20, seed=3)
    np.testing.assert_array_equal(again.project(new).embedding, model.project(new).embedding)
    assert not {p.suffix for p in (tmp_path / "model").iterdir()} - {".json", ".safetensors", ".csv"}


@pytest.mark.parametrize("name", RECIPES)
def test_embedded_covers_every_cell_in_order(name: str, fits: dict[str, FittedModel]) -> None:
    model, cells = fitted(name, fits), tiny()
    np.testing.assert_array_equal(model.embedded.names, cells.names)
    stops = model.recipe.build(model.layout).plan.stop is not None
    assert model.embedded.trained.sum() == len(cells) - stops * round(0.1 * len(cells))
    for latent, book in codebooks(model.module).items():
        rows = torch.from_numpy(model.embedded.embeddings[latent][model.embedded.trained])
        assert torch.equal(rows, book.codes)


@pytest.mark.parametrize("name", [n for n in RECIPES if n.startswith(("scdgd", "dgd"))])
def test_samples_look_like_cells(name: str, fits: dict[str, FittedModel]) -> None:
    model = fitted(name, fits)
    drawn = model.sample(200, seed=1)
    assert drawn.X.min() >= 0
    assert (drawn.X.data == np.round(drawn.X.data)).all()
    observed, mean = np.asarray(table().X.mean(0)).ravel(), np.asarray(drawn.X.mean(0)).ravel()
    assert np.corrcoef(np.log1p(observed), np.log1p(mean))[0, 1] > 0.8
    np.testing.assert_array_equal(drawn.X.toarray(), model.sample(200, seed=1).X.toarray())


@pytest.mark.parametrize("name", RECIPES)
def test_an_unseen_or_missing_level_is_the_average_one(name: str, fits: dict[str, FittedModel]) -> None:
    model = fitted(name, fits)
    new = table(10, seed=5)
    new.obs["plate"] = "never seen"
    del new.obs["age"]
    embedded = model.project(new)
    if any(latent.column == "plate" for latent in model.module.latents.values()):
        # The level has a code, which is found as if the level were missing.
        del new.obs["plate"]
        other = model.project(new)
    else:
        other = embedded.do(batch=None, age=None)
    np.testing.assert_allclose(embedded.expected(), other.expected(), rtol=1e-6, atol=1e-9)
    changed = embedded.do(batch="plate 1").expected()
    assert not np.allclose(changed, embedded.expected())
