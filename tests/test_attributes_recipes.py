"""Recipes with codes of attributes: simulated responses are recovered, shared codes say less of levels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import chreode as ch
from chreode.errors import InputError
from chreode.evaluate import probe_blocks
from chreode.posthoc import project
from parts import table

if TYPE_CHECKING:
    from chreode.fitted import FittedModel
    from chreode.recipe import Recipe

SMALL = {"dim": 4, "hidden": (32,)}
RECIPES = {
    "trvae": lambda: ch.recipes.trvae(**SMALL),
    "cpa": lambda: ch.recipes.cpa(**SMALL),
    "cpa, free": lambda: ch.recipes.cpa(**SMALL, inference="free"),
    "biolord": lambda: ch.recipes.biolord(**SMALL),
    "lord": lambda: ch.recipes.lord(**SMALL),
}


def stimulated(seed: int = 0) -> ad.AnnData:
    """Counts of three types, half of the cells stimulated: 8 genes up, 8 down, 4 more up in one type."""
    rng, n, g = np.random.default_rng(seed), 380, 40
    kind, stimulus = rng.integers(3, size=n), rng.integers(2, size=n)
    effect = np.zeros((3, g))
    effect[:, :8], effect[:, 8:16], effect[1, 16:20] = 1.2, -1.2, 1.2
    base = rng.normal(0, 1, (3, g))[kind] + rng.normal(0, 0.7, (n, 2)) @ rng.normal(0, 0.5, (2, g))

    def share(on: np.ndarray) -> np.ndarray:
        weight = np.exp(base + on[:, None] * effect[kind])
        return weight / weight.sum(1, keepdims=True)

    counts = rng.poisson(share(stimulus) * rng.lognormal(6.4, 0.2, n)[:, None])
    adata = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)))
    adata.obs["condition"] = np.array(["ctrl", "stim"])[stimulus]
    adata.obs["type"] = [f"type {k}" for k in kind]
    adata.obs["dose"] = 2.0 * stimulus
    adata.layers["change"] = np.log(share(np.ones(n)) / share(np.zeros(n)))
    return adata


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    return stimulated()


def told(model: FittedModel, adata: ad.AnnData) -> float:
    """How well the condition of held-out cells is told from shared codes, in each type; chance is 0.5."""
    code = {"shared": model.embedded.embedding}
    within, how = adata.obs["type"].to_numpy(), {"probes": ["linear"], "progress": False}
    return probe_blocks(code, adata.obs["condition"].to_numpy(), within=within, **how).loc["shared", "best"]


def fitted(adata: ad.AnnData, recipe: Recipe, **columns: object) -> FittedModel:
    columns = columns or {"covariates": ["condition"]}
    cells = ch.read(adata, label="type", **columns)
    return ch.fit(cells, recipe, seed=0, epochs=120, validation=0, progress=False)


@pytest.fixture(scope="module")
def models(adata: ad.AnnData) -> dict[str, FittedModel]:
    """Every recipe fitted once, when first asked for."""

    class Fits(dict):
        def __missing__(self, name: str) -> FittedModel:
            self[name] = fitted(adata, RECIPES[name]())
            return self[name]

    return Fits()


@pytest.fixture(scope="module")
def unconditional(adata: ad.AnnData) -> float:
    """What codes of a plain autoencoder tell of the condition."""
    return told(fitted(adata, ch.recipes.vae(**SMALL), covariates=[]), adata)


@pytest.mark.parametrize("name", RECIPES)
def test_the_response_is_recovered(name: str, models: dict, adata: ad.AnnData) -> None:
    embedded, control = models[name].embedded, (adata.obs["condition"] == "ctrl").to_numpy()
    change = np.log(embedded.do(condition="stim").expected() / embedded.do(condition="ctrl").expected())
    true, kind = adata.layers["change"], adata.obs["type"].to_numpy()
    assert np.corrcoef(change[control].mean(0), true[control].mean(0))[0, 1] > 0.95
    # The genes that one type alone changes are changed in it, and not in the others.
    own = change[control & (kind == "type 1")].mean(0) - change[control & (kind != "type 1")].mean(0)
    assert own[16:20].mean() > 0.35
    assert np.abs(own[20:]).mean() < 0.25
    # A change to the level that a cell has changes nothing.
    same = embedded.do(condition="ctrl").expected()[control]
    np.testing.assert_allclose(same, embedded.expected()[control], rtol=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_shared_codes_say_less_of_the_condition(
    name: str, models: dict, adata: ad.AnnData, unconditional: float
) -> None:
    assert unconditional > 0.95
    assert told(models[name], adata) < unconditional - 0.15
    kept = {"shared": models[name].embedded.embedding}
    kinds = probe_blocks(kept, adata.obs["type"].to_numpy(), probes=["linear"], progress=False)
    assert kinds.loc["shared", "best"] > 0.95


def test_added_codes_are_those_of_levels(models: dict) -> None:
    embedded = models["cpa"].embedded
    codes, latent = embedded.codes["condition"], embedded.module.latents["condition"]
    level = embedded.cells.covariates["condition"]
    torch.testing.assert_close(codes, latent.infer.table.detach()[level])
    moved = embedded.do(condition="stim")
    torch.testing.assert_close(moved.codes["shared"], embedded.codes["shared"])
    both = moved.codes["shared"] + moved.codes["condition"]
    alone = embedded.module.decoder.of_sum({"sum": both}, moved.cells)["rna"].proportions
    np.testing.assert_allclose(moved.expected(), alone.detach().numpy(), rtol=1e-5)


def test_a_continuous_attribute_has_a_code(adata: ad.AnnData) -> None:
    for recipe in (ch.recipes.cpa(**SMALL), ch.recipes.biolord(**SMALL)):
        embedded = fitted(adata, recipe, covariates=["dose"]).embedded
        up = np.log(embedded.do(dose=2.0).expected() / embedded.do(dose=0.0).expected()).mean(0)
        assert up[:8].mean() > 0.5
        assert up[8:16].mean() < -0.5
        between = np.log(embedded.do(dose=1.0).expected() / embedded.do(dose=0.0).expected()).mean(0)
        assert 0 < between[:8].mean() < up[:8].mean()
    assert embedded.codes["dose"].shape[1] == 16


def test_distilled_encoders_know_levels_and_say_unknown_ones(models: dict, adata: ad.AnnData) -> None:
    model = models["lord"]
    distilled = ch.distil(model, epochs=100, progress=False)
    known = distilled.project(adata)
    torch.testing.assert_close(known.codes["condition"], model.embedded.codes["condition"])
    agreed = np.corrcoef(known.embedding.ravel(), model.embedded.embedding.ravel())[0, 1]
    assert agreed > 0.8
    # Content and class are refined together, but the class that is known stays.
    refined = distilled.project(adata, refine=3)
    torch.testing.assert_close(refined.codes["condition"], known.codes["condition"])
    assert not torch.equal(refined.codes["shared"], known.codes["shared"])
    blind = adata.copy()
    del blind.obs["condition"]
    found = distilled.project(blind).codes["condition"]
    table_ = model.module.latents["condition"].infer.table.detach()
    nearest = torch.cdist(found, table_).argmin(1)
    assert (nearest == model.embedded.cells.covariates["condition"]).float().mean() > 0.8
    # Without encoders an unknown class is the mean of all.
    mean = model.project(blind[:5].copy()).codes["condition"]
    torch.testing.assert_close(mean, table_.mean(0).expand(5, -1))


def test_empty_cells_keep_the_codes_of_their_levels(models: dict, adata: ad.AnnData) -> None:
    empty = adata[:4].copy()
    empty.X = sp.diags([0, 0, 0, 1.0]) @ empty.X
    for name in ("cpa", "biolord"):
        model = models[name]
        codes = model.project(empty).codes
        torch.testing.assert_close(codes["condition"], model.embedded.codes["condition"][:4])
        assert not codes["shared"][:3].any()
        assert codes["shared"][3].any()


def test_a_label_may_be_an_attribute(adata: ad.AnnData) -> None:
    cells = ch.read(adata, label="type")
    for recipe in (ch.recipes.trvae, ch.recipes.cpa):
        model = ch.fit(cells, recipe(**SMALL, attributes=("type",)), epochs=2, progress=False)
        embedded = model.embedded
        first, second = (embedded.do(type=level).expected() for level in ("type 0", "type 1"))
        assert not np.allclose(first, second)
        # Where codes are to be judged by it, it is hidden.
        judged, unknown = (project(model.module, some) for some in (cells[:5], cells[:5].do(type=None)))
        for name, codes in judged.items():
            torch.testing.assert_close(codes, unknown[name])


@pytest.mark.parametrize("name", ["trvae", "cpa", "biolord", "lord"])
def test_attributes_that_cannot_be_are_refused(name: str) -> None:
    recipe, one = getattr(ch.recipes, name), name == "lord"

    def named(column: str) -> dict[str, object]:
        return {"attribute": column} if one else {"attributes": (column,)}

    fit = {"epochs": 1, "progress": False}
    cells = ch.read(table(60), batch="plate", covariates=["age"])
    with pytest.raises(InputError, match="found 'nothing'"):
        ch.fit(cells, recipe(**named("nothing")), **fit)
    with pytest.raises(InputError, match=r"Expected a .*covariate as attribute; found columns 'plate'"):
        ch.fit(ch.read(table(60), batch="plate"), recipe(), **fit)
    if name in ("trvae", "lord"):
        with pytest.raises(InputError, match="found a continuous column, in 'age'"):
            ch.fit(cells, recipe(**named("age")), **fit)
    alone = table(60)
    alone.obs["one"] = "all"
    with pytest.raises(InputError, match="at least two levels; found one level, 'all'"):
        ch.fit(ch.read(alone, label="one"), recipe(**named("one")), **fit)
    alone.obs["twice"] = alone.obs["plate"].str.upper()
    both = ch.read(alone, covariates=["plate", "twice"])
    expected = "Expected one attribute" if one else "divide the cells"
    with pytest.raises(InputError, match=expected):
        ch.fit(both, recipe(), **fit)


def test_a_hidden_layer_is_needed_to_bring_it_together(adata: ad.AnnData) -> None:
    cells = ch.read(adata, covariates=["condition"])
    with pytest.raises(InputError, match=r"hidden layer for on='hidden'; found hidden=\(\)"):
        ch.fit(cells, ch.recipes.trvae(hidden=(), on="hidden"), epochs=1, progress=False)
    deep = ch.fit(cells, ch.recipes.trvae(hidden=(8, 6), on="hidden"), epochs=2, progress=False)
    assert np.isfinite(deep.history["discrepancy condition"]).all()
