"""Labels of new cells: who is right, how sure, and which cells are like none that the model knows."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy.stats import kstest
from sklearn.metrics import roc_auc_score

import chreode as ch
from chreode.cells import CSR
from chreode.commands import project
from chreode.errors import InputError
from chreode.evaluate import calibration_error
from chreode.evaluate.labels import _temperature
from chreode.evaluate.outliers import reference_of, surprise
from parts import table

if TYPE_CHECKING:
    from pathlib import Path

    from chreode.fitted import FittedModel

RECIPES = {
    "scdgd": lambda: ch.recipes.scdgd(dim=4, hidden=(16,), components=3),
    "scdgd, supervised": lambda: ch.recipes.scdgd(dim=4, hidden=(16,), supervised=True),
    "scanvi": lambda: ch.recipes.scanvi(dim=4, hidden=(16,)),
}
TABLE = table(320, groups=4)
KIND = TABLE.obs["type"].str.removeprefix("type ").astype(int).to_numpy()
TRUTH = TABLE.obs["type"].to_numpy()[KIND < 3]


def fitted_cells(labels: np.ndarray) -> ad.AnnData:
    """The cells of three groups of four, under these labels."""
    adata = TABLE[KIND < 3].copy()
    adata.obs["type"] = labels
    return adata


def new_cells(groups: tuple[int, ...]) -> ad.AnnData:
    """Cells of the same groups' profiles and of the same totals, drawn anew."""
    sums = np.stack([np.asarray(TABLE[group == KIND].X.sum(0)).ravel() for group in range(4)])
    share, depth = sums / sums.sum(1, keepdims=True), np.asarray(TABLE.X.sum(1))
    rng = np.random.default_rng(1)
    drawn = rng.poisson(share[KIND] * depth * rng.gamma(5, 0.2, TABLE.shape))
    adata = ad.AnnData(sp.csr_matrix(drawn, dtype=np.float32), obs=TABLE.obs[["type"]], var=TABLE.var)
    adata.obs_names = [f"new {name}" for name in TABLE.obs_names]
    return adata[np.isin(KIND, groups)].copy()


@pytest.fixture(scope="module", params=RECIPES)
def model(request: pytest.FixtureRequest) -> FittedModel:
    """Knows the labels of two cells in three."""
    cells = ch.read(fitted_cells(np.where(np.arange(len(TRUTH)) % 3 > 0, TRUTH, None)), label="type")
    epochs = (
        150 if request.param == "scanvi" else 20
    )  # an encoder learns by steps, of which there are two each
    return ch.fit(cells, RECIPES[request.param](), epochs=epochs, validation=0.2, progress=False)


@pytest.fixture(scope="module")
def plain() -> FittedModel:
    """Knows no labels: which cells have some makes no difference to its codes."""
    cells = ch.read(fitted_cells(TRUTH))
    return ch.fit(cells, RECIPES["scdgd"](), epochs=20, validation=0.2, progress=False)


def told(plain: FittedModel, labels: np.ndarray) -> FittedModel:
    """The same codes, as if the cells had been read with these labels."""
    cells = ch.read(fitted_cells(labels), label="type")
    other = copy(plain)
    other.layout, other.embedded = cells.layout, plain.embedded.replace(cells=cells)
    return other


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
    assert (found["label"].astype(str) == TRUTH).mean() > 0.95
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


def test_projecting_by_command_writes_labels(model: FittedModel, tmp_path: Path, capsys: Any) -> None:
    new = new_cells((0, 1, 2))
    del new.obs["type"]
    new.write_h5ad(tmp_path / "new.h5ad")
    model.save(tmp_path / "model")
    how = {"refine": None, "add_levels": False, "expected": (), "overwrite": True, "reading": {}}
    project(tmp_path / "model", tmp_path / "new.h5ad", tmp_path / "out.h5ad", labels=True, **how)
    assert "Labels were predicted" in capsys.readouterr().out
    written, found, name = (
        ad.read_h5ad(tmp_path / "out.h5ad").obs,
        model.predict_labels(new),
        model.recipe.name,
    )
    assert (written[f"{name}_label"].astype(str) == found["label"].astype(str)).all()
    np.testing.assert_allclose(written[f"{name}_label_probability"], found["probability"])
    np.testing.assert_allclose(written[f"{name}_outlier"], found["outlier"])
    project(tmp_path / "model", tmp_path / "new.h5ad", tmp_path / "out.h5ad", labels=False, **how)
    assert f"{name}_label" not in ad.read_h5ad(tmp_path / "out.h5ad").obs


def test_cells_like_those_of_the_fit_are_spread_evenly(model: FittedModel) -> None:
    """What the outlier score means: 5 % of them are above 0.95."""
    reference = reference_of(model)
    assert not model.embedded.trained[reference.rows].any()
    scores = model.predict_labels().loc[model.embedded.names[reference.rows], "outlier"]
    assert kstest(scores, "uniform").pvalue > 0.05


def test_five_labels_a_level_are_enough(plain: FittedModel) -> None:
    rank = pd.Series(TRUTH).groupby(TRUTH).cumcount()
    model = told(plain, np.where(rank < 5, TRUTH, None))
    found = model.predict_labels()
    assert (found["label"].astype(str).to_numpy() == TRUTH).mean() > 0.9
    assert found.attrs["calibrated_on"] == 15
    assert found.attrs["classifier"] == "logistic regression"


def test_labelled_cells_are_predicted_by_a_classifier_that_did_not_see_them(plain: FittedModel) -> None:
    """With labels at random it knows nothing of them: neither right nor sure."""
    labels = np.random.default_rng(0).choice(["a", "b"], len(TRUTH))
    found = told(plain, labels).predict_labels()
    assert (found["label"].astype(str).to_numpy() == labels).mean() < 0.62
    assert found["probability"].mean() < 0.62


def test_a_single_cell_of_a_level_teaches(plain: FittedModel) -> None:
    rank = pd.Series(TRUTH).groupby(TRUTH).cumcount()
    found = told(plain, np.where((TRUTH != "type 2") | (rank == 0), TRUTH, None)).predict_labels()
    assert found["type 2"].to_numpy()[TRUTH == "type 2"].mean() > 0.3
    assert found["type 2"].to_numpy()[TRUTH != "type 2"].mean() < 0.1


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


def test_surprise_of_what_the_model_draws_is_standard(plain: FittedModel) -> None:
    cells, codes = plain.embedded.cells, plain.embedded.codes
    observed = plain.module.trace(codes, cells).observed["rna"]
    drawn = observed.sample(torch.Generator().manual_seed(5)).detach()
    found = surprise(plain.module, cells.replace(measured={"rna": CSR.of(drawn.numpy())}), codes).numpy()
    assert abs(found.mean()) < 0.2
    assert 0.9 < found.std() < 1.4  # ten draws estimate each deviation
    elsewhere = {name: -3 * z for name, z in codes.items()}
    assert surprise(plain.module, cells, elsewhere).mean() > 5


def test_what_cannot_be_predicted_is_refused(plain: FittedModel) -> None:
    with pytest.raises(InputError, match="label of at least two levels"):
        plain.predict_labels()
    with pytest.raises(InputError, match="found 'outlier'"):
        told(plain, np.where(TRUTH == "type 0", "outlier", TRUTH)).predict_labels()
    with pytest.raises(InputError, match="at least two levels"):
        told(plain, np.where(TRUTH == "type 1", TRUTH, None)).predict_labels()
