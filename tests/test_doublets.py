"""Doublets: sums of cells are what they are said to be, and planted ones are found."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.metrics import roc_auc_score

import chreode as ch
from chreode.errors import InputError
from chreode.evaluate.doublets import _pairs, _strata, summed

PLANTED = 30


@pytest.fixture(scope="module")
def adata():
    """Cells of four kinds in two batches; the last 30 are sums of two kinds, no deeper than other cells."""
    cells = ch.simulate(330, 100, components=4, batches=2, seed=5)
    kind, batch = (cells.obs[c].cat.codes.to_numpy() for c in ("component", "batch"))
    rng = np.random.default_rng(5)
    first = rng.integers(300, size=PLANTED)
    second = np.array([rng.choice(np.flatnonzero((kind != kind[i]) & (batch == batch[i]))) for i in first])
    both = sp.csr_matrix(cells.X[first] + cells.X[second])
    both.data = rng.binomial(both.data, 0.6)
    counts = sp.vstack([cells.X[:300], both], format="csr").astype(np.float32)
    obs = cells.obs[["batch"]].iloc[np.r_[:300, first]].reset_index(drop=True)
    obs.index = [f"cell{i}" for i in range(330)]
    return ad.AnnData(counts, obs=obs, var=cells.var[[]])


@pytest.fixture(scope="module")
def model(adata):
    recipe = ch.recipes.scdgd(dim=6, components=4)
    return ch.fit(ch.read(adata, batch="batch"), recipe, epochs=10, progress=False)


@pytest.fixture(scope="module")
def table(model):
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    found = ch.doublets(model, rate=PLANTED / 330, refine=40, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    return found


def test_planted_doublets_are_found(table, adata):
    planted = np.arange(330) >= 300
    score = roc_auc_score(planted, table["score"])
    assert score > 0.85
    assert score > roc_auc_score(planted, np.asarray(adata.X.sum(1)).ravel()) + 0.1
    assert table["doublet"].sum() == PLANTED
    assert table["doublet"][planted].mean() > 0.4


def test_what_is_returned(table, adata):
    assert table.index.tolist() == adata.obs_names.tolist()
    assert table["score"].between(0, 1).all()
    assert (table.loc[table["doublet"], "score"] >= table.attrs["threshold"]).all()
    simulated = np.asarray(table.attrs["simulated"])
    assert len(simulated) == 330
    assert table.attrs["recall"] == (simulated >= table.attrs["threshold"]).mean()
    assert np.median(simulated) > table["score"].median()


def test_a_loaded_model_takes_its_counts_in_any_order(model, table, adata, tmp_path):
    model.save(tmp_path / "model")
    loaded = ch.load(tmp_path / "model")
    with pytest.raises(InputError, match="counts"):
        ch.doublets(loaded, progress=False)
    source = adata[::-1].copy()
    again = ch.doublets(loaded, source, rate=PLANTED / 330, refine=40, progress=False)
    assert np.allclose(again["score"], table["score"])


def test_sums_hold_both_cells():
    counts = np.random.default_rng(0).poisson(3, (30, 8)).astype(np.float32)
    cells = ch.read(ad.AnnData(counts))
    first, second = np.array([0, 3]), np.array([1, 2])
    whole = summed(cells, first, second, fraction=np.ones(2), generator=torch.Generator())
    assert np.array_equal(whole.measured["rna"].dense().numpy(), counts[first] + counts[second])
    assert torch.equal(whole.size["rna"], whole.measured["rna"].sum_rows())
    half = summed(cells, first, second, fraction=np.full(2, 0.5), generator=torch.Generator().manual_seed(1))
    assert (half.measured["rna"].dense() <= whole.measured["rna"].dense()).all()
    assert 0.3 < float(half.size["rna"].sum() / whole.size["rna"].sum()) < 0.7


def test_sums_of_zeros_and_ones_are_zeros_and_ones():
    open_ = (np.random.default_rng(0).random((30, 8)) < 0.5).astype(np.float32)
    cells = ch.read(ad.AnnData(open_), values="binary")
    pairs = summed(cells, np.array([0]), np.array([1]), fraction=np.ones(1), generator=torch.Generator())
    modality = next(iter(pairs.measured))
    assert np.array_equal(pairs.measured[modality].dense().numpy()[0], np.maximum(open_[0], open_[1]))


def test_pairs_are_two_cells_of_one_batch(model):
    strata = _strata(model.embedded.cells)
    assert len(np.unique(strata)) == 2
    strata = np.r_[strata, 7]  # a cell alone in its batch
    first, second = _pairs(strata, 5000, np.random.default_rng(0))
    assert (first != second).all()
    assert (strata[first] == strata[second]).all()
    assert len(strata) - 1 not in first
    counts = np.bincount(second, minlength=330)
    assert counts[:330].min() > 0


@pytest.mark.parametrize("changed", [{"rate": 0.0}, {"rate": 0.6}, {"simulated": 3}, {"seed": -1}])
def test_what_cannot_be_asked(model, changed):
    with pytest.raises(InputError, match=str(next(iter(changed)))):
        ch.doublets(model, progress=False, **changed)


def test_continuous_values_are_refused():
    values = np.random.default_rng(0).normal(size=(60, 5))
    cells = ch.read(ad.AnnData(values), values="continuous")
    model = ch.fit(cells, ch.recipes.autodecoder(dim=2), epochs=1, progress=False)
    with pytest.raises(InputError, match="continuous"):
        ch.doublets(model, progress=False)
    with pytest.raises(InputError, match="fitted model"):
        ch.doublets(cells)
