"""Labels of new cells: who is right, how sure, and which cells are like none that the model knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy.stats import kstest
from sklearn.metrics import roc_auc_score

import chreode as ch
from chreode.cells import CSR
from chreode.errors import InputError
from chreode.evaluate import calibration_error
from chreode.evaluate.labels import _temperature
from chreode.evaluate.outliers import reference_of, surprise
from parts import table

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad

    from chreode.fitted import FittedModel
    from chreode.recipe import Recipe

GROUPS = 4
RECIPES = {
    "scdgd": lambda: ch.recipes.scdgd(dim=4, hidden=(16,), components=3),
    "scdgd, supervised": lambda: ch.recipes.scdgd(dim=4, hidden=(16,), supervised=True),
    "scvi": lambda: ch.recipes.scvi(dim=4, hidden=(16,)),
    "scanvi": lambda: ch.recipes.scanvi(dim=4, hidden=(16,)),
}


def cells_of(groups: tuple[int, ...], *, labelled: int | None = None) -> ad.AnnData:
    """Cells of some groups of one table; with a number, so many a group have labels and the others none."""
    adata = table(500, groups=GROUPS)
    adata = adata[adata.obs["type"].isin([f"type {g}" for g in groups])].copy()
    adata.obs["truth"] = adata.obs["type"]
    if labelled is not None:
        rank = adata.obs.groupby("type").cumcount()
        adata.obs["type"] = adata.obs["type"].where(rank < labelled)
    return adata


def fitted(recipe: Recipe, adata: ad.AnnData, *, epochs: int = 40, validation: float = 0.2) -> FittedModel:
    cells = ch.read(adata, label="type")
    return ch.fit(cells, recipe, epochs=epochs, validation=validation, progress=False)


def new_cells(groups: tuple[int, ...]) -> ad.AnnData:
    """Cells that no model of `cells_of` trained on: every fifth of the table, drawn anew."""
    adata = table(500, groups=GROUPS)
    share = np.stack([_profile(adata, g) for g in range(GROUPS)])
    kind = adata.obs["type"].str.removeprefix("type ").astype(int).to_numpy()
    rng = np.random.default_rng(1)
    depth = np.asarray(adata.X.sum(1)).ravel()
    drawn = rng.poisson(share[kind] * depth[:, None] * rng.gamma(5, 0.2, adata.shape))
    adata.X = sp.csr_matrix(drawn, dtype=np.float32)
    adata.obs_names = [f"new {name}" for name in adata.obs_names]
    return adata[np.isin(kind, groups)].copy()


def _profile(adata: ad.AnnData, group: int) -> np.ndarray:
    total = np.asarray(adata[adata.obs["type"] == f"type {group}"].X.sum(0)).ravel()
    return total / total.sum()


@pytest.fixture(scope="module", params=RECIPES)
def model(request: pytest.FixtureRequest) -> FittedModel:
    """Knows three of four groups, of all cells but a third."""
    adata = cells_of((0, 1, 2))
    adata.obs["type"] = adata.obs["type"].where(np.arange(len(adata)) % 3 > 0)
    return fitted(RECIPES[request.param](), adata)


def test_new_cells_get_their_label_and_strange_ones_stand_out(model: FittedModel) -> None:
    new = new_cells((0, 1, 2, 3))
    found = model.predict_labels(new)
    truth = new.obs["type"].astype(str).to_numpy()
    known = truth != "type 3"
    assert list(found.index) == list(new.obs_names)
    assert (found["label"].astype(str)[known] == truth[known]).mean() > 0.95
    levels = found[["type 0", "type 1", "type 2"]].to_numpy()
    np.testing.assert_allclose(levels.sum(1), 1.0, atol=1e-9)
    np.testing.assert_array_equal(found["probability"], levels.max(1))
    assert found["outlier"].between(0, 1, inclusive="left").all()
    assert roc_auc_score(~known, found["outlier"]) > 0.95


def test_labels_given_with_new_cells_say_nothing(model: FittedModel) -> None:
    new = new_cells((0, 1, 2))
    other = new.copy()
    other.obs["type"] = np.roll(other.obs["type"], 1)
    pd.testing.assert_frame_equal(model.predict_labels(new), model.predict_labels(other))
    embedded = model.project(other)  # whose codes a supervised prior placed by the wrong labels
    pd.testing.assert_frame_equal(model.predict_labels(new), model.predict_labels(embedded))


def test_the_fitted_cells_get_labels_too(model: FittedModel) -> None:
    found = model.predict_labels()
    truth = cells_of((0, 1, 2)).obs["truth"].to_numpy()
    assert (found["label"].astype(str) == truth).mean() > 0.95
    pd.testing.assert_frame_equal(found, model.predict_labels())


def test_a_loaded_model_says_the_same(model: FittedModel, tmp_path: Path) -> None:
    new = new_cells((0, 1, 2, 3))
    model.save(tmp_path / "model")
    loaded = ch.load(tmp_path / "model")
    found, again = model.predict_labels(new), loaded.predict_labels(new)
    pd.testing.assert_frame_equal(found, again)
    assert found.attrs == again.attrs
    with pytest.raises(InputError, match="Give the data"):
        loaded.predict_labels()
    loaded.save(tmp_path / "again")
    pd.testing.assert_frame_equal(found, ch.load(tmp_path / "again").predict_labels(new))
    model.save(tmp_path / "bare", cells=False)
    with pytest.raises(InputError, match="cells=True"):
        ch.load(tmp_path / "bare").predict_labels(new)


def test_held_out_cells_are_spread_evenly(model: FittedModel) -> None:
    """What the outlier score means: cells like those of the fit are uniform on [0, 1)."""
    reference = reference_of(model)
    assert not model.embedded.trained[reference.rows].any()
    scores = model.predict_labels().loc[model.embedded.names[reference.rows], "outlier"]
    assert kstest(scores, "uniform").statistic < 0.12


def test_five_labels_a_level_are_enough() -> None:
    model = fitted(RECIPES["scdgd"](), cells_of((0, 1, 2), labelled=5), validation=0)
    found = model.predict_labels()
    assert (found["label"].astype(str).to_numpy() == cells_of((0, 1, 2)).obs["truth"]).mean() > 0.9
    assert found.attrs["calibrated_on"] == 15
    assert found.attrs["classifier"] == "logistic regression"


def test_labelled_cells_are_predicted_by_a_classifier_that_did_not_see_them() -> None:
    """With labels at random it knows nothing of them: neither right nor sure."""
    adata = cells_of((0, 1, 2))
    adata.obs["type"] = np.random.default_rng(0).choice(["a", "b"], len(adata))
    found = fitted(RECIPES["scdgd"](), adata, epochs=10).predict_labels()
    assert (found["label"].astype(str).to_numpy() == adata.obs["type"]).mean() < 0.62
    assert found["probability"].mean() < 0.62


def test_temperature_is_what_makes_overconfidence_right() -> None:
    """Logits that were multiplied by three come back, and few cells leave them nearly as they are."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (20_000, 3))
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (rng.random((len(share), 1)) > share.cumsum(1)).sum(1)
    assert _temperature(3 * logits, truth, None) == pytest.approx(3, rel=0.03)
    assert calibration_error(share, truth) < 0.01
    sure = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)
    assert calibration_error(sure, truth) > 0.1
    assert _temperature(logits[:0], truth[:0], None) == pytest.approx(1, abs=1e-4)
    right = np.where(np.arange(3) == truth[:3, None], 1.0, 0.0)
    assert _temperature(right, truth[:3], None) > 0.3  # three right answers are no proof


def test_surprise_of_what_the_model_draws_is_standard() -> None:
    model = fitted(RECIPES["scvi"](), cells_of((0, 1, 2)))
    cells, codes = model.embedded.cells, model.embedded.codes
    observed = model.module.trace(codes, cells).observed["rna"]
    drawn = observed.sample(torch.Generator().manual_seed(5)).detach()
    some = cells.replace(measured={"rna": CSR.of(drawn.numpy())})
    found = surprise(model.module, some, codes).numpy()
    assert abs(found.mean()) < 0.2
    assert 0.9 < found.std() < 1.4  # ten draws estimate each deviation
    assert surprise(model.module, cells[:5].do(), {k: -3 * v[:5] for k, v in codes.items()}).mean() > 5


def test_a_single_cell_of_a_level_teaches() -> None:
    adata = cells_of((0, 1, 2))
    kind = adata.obs["type"].copy()
    kind[kind == "type 2"] = [*["type 2"], *[None] * ((kind == "type 2").sum() - 1)]
    adata.obs["type"] = kind
    found = fitted(RECIPES["scdgd"](), adata).predict_labels()
    assert (found["label"] == "type 2").sum() >= 1


def test_what_cannot_be_predicted_is_refused() -> None:
    adata = cells_of((0, 1, 2))
    recipe = RECIPES["scdgd"]()
    plain = ch.fit(ch.read(adata), recipe, epochs=1, progress=False)
    with pytest.raises(InputError, match="label of at least two levels"):
        plain.predict_labels()
    adata.obs["type"] = adata.obs["type"].replace("type 0", "outlier")
    with pytest.raises(InputError, match="found 'outlier'"):
        fitted(recipe, adata, epochs=1).predict_labels()
    adata.obs["type"] = adata.obs["type"].where(adata.obs["type"] == "type 1")
    with pytest.raises(InputError, match="at least two levels"):
        fitted(recipe, adata, epochs=1).predict_labels()
