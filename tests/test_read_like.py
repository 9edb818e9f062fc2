"""Cells read for a model: its features, levels and scales are reused, and what is missing is masked."""

from __future__ import annotations

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from chreode.cells import CSR, Cells
from chreode.errors import InputError
from chreode.io.read import read
from chreode.layout import Layout

IDS = [f"ENSG{j:011d}" for j in range(8)]
SYMBOLS = ["TP53", "CD3E", "CD3D", "MS4A1", "LYZ", "NKG7", "DUP", "DUP"]


def atlas() -> ad.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"donor": ["a", "b", "c"] * 10, "age": np.arange(30.0), "type": ["T", "B"] * 15},
        index=[f"c{i}" for i in range(30)],
    )
    var = pd.DataFrame({"gene_symbols": SYMBOLS}, index=IDS)
    return ad.AnnData(sp.csr_matrix(rng.poisson(2.0, (30, 8))), obs=obs, var=var)


def trained(**options) -> SimpleNamespace:
    """What a fitted model knows of its cells."""
    adata = atlas()
    adata.layers["umi"] = adata.X.copy()
    cells = read(adata, counts="umi", batch="donor", label="type", covariates=["age"], **options)
    layout = Layout.from_json(cells[:20].numbered().layout.to_json())
    return SimpleNamespace(layout=layout, reading=cells.reading)


def dense(cells: Cells) -> np.ndarray:
    measured = cells.measured["rna"]
    return (measured.dense() if isinstance(measured, CSR) else measured).numpy()


def said(cells: Cells, words: str) -> bool:
    return any(words in message for message in cells.reading.messages)


@pytest.mark.parametrize("store", ["csr", "csc"])
def test_features_are_put_in_the_order_of_the_model(store):
    adata, model = atlas(), trained()
    order = np.asarray([5, 0, 7, 3, 2, 6, 1, 4])
    other = adata[:, order].copy()
    other.X = other.X.asformat(store)
    cells = read(other, like=model)
    np.testing.assert_array_equal(dense(cells), adata.X.toarray())
    assert (cells.measured["rna"].row.diff() * 8 + cells.measured["rna"].col.diff() > 0).all()
    assert cells.layout == Layout(30, model.layout.modalities, model.layout.covariates)
    assert cells.panels == {}
    assert cells.reading.missing == cells.reading.unknown == 0
    assert said(cells, "trained on layer 'umi'; here there is only X")


def test_what_reading_has_to_say_is_said_once(caplog):
    adata, model = atlas(), trained()
    cells = read(adata[:, [6, 1, 4]].copy(), like=model)
    assert cells.reading.messages
    assert tuple(record.getMessage() for record in caplog.records) == cells.reading.messages
    caplog.clear()
    read(cells, like=model)
    assert not caplog.records


def test_missing_features_are_masked_and_sizes_run_over_the_observed():
    adata, model = atlas(), trained()
    other = adata[:, [6, 1, 4]].copy()
    other = ad.concat([other, ad.AnnData(np.full((30, 2), 50.0), obs=other.obs)], axis=1, merge="first")
    cells = read(other, like=model)
    mask = np.isin(np.arange(8), [1, 4, 6])
    assert cells.panels["rna"].tolist() == [mask.tolist()]
    assert (cells.mask("rna").numpy() == mask).all()
    np.testing.assert_array_equal(dense(cells), adata.X.toarray() * mask)
    np.testing.assert_array_equal(cells.size["rna"].numpy(), adata.X.toarray()[:, mask].sum(1))
    assert (cells.reading.missing, cells.reading.unknown) == (5, 2)
    assert said(cells, "5 of the model's 8 features are missing here: they are masked")
    assert said(cells, "2 features that the model does not know were left out")
    assert cells[torch.tensor([3, 1])].mask("rna").shape == (2, 8)


def test_few_shared_features_are_told():
    adata, model = atlas(), trained()
    few = read(adata[:, :2].copy(), like=model)
    assert said(few, "Only 2 of the model's 8 features are here, fewer than a third: codes will be rough")
    assert not said(read(adata[:, :3].copy(), like=model), "rough")


def test_one_is_told_in_the_singular():
    adata, model = atlas(), trained()
    extra = ad.AnnData(np.full((30, 1), 50.0), obs=adata.obs)
    cells = read(ad.concat([adata[:, :7], extra], axis=1, merge="first"), like=model)
    assert said(cells, "1 of the model's 8 features is missing here: it is masked")
    assert said(cells, "1 feature that the model does not know was left out")


def test_ensembl_versions_are_left_out_on_either_side_when_that_matches():
    adata, model = atlas(), trained()
    other = adata.copy()
    other.var_names = [f"{name}.{j}" for j, name in enumerate(IDS)]
    del other.var["gene_symbols"]
    cells = read(other, like=model)
    np.testing.assert_array_equal(dense(cells), adata.X.toarray())
    assert said(cells, "8 features were matched once the Ensembl version suffix was left out")
    versioned = read(other)
    back = read(adata, like=versioned)
    np.testing.assert_array_equal(dense(back), adata.X.toarray())
    assert back.layout.modalities["rna"].names == tuple(other.var_names)
    twice = ad.AnnData(np.ones((2, 3)), var=pd.DataFrame(index=[f"{IDS[0]}.1", f"{IDS[0]}.2", IDS[1]]))
    assert read(twice, like=model).panels["rna"].sum() == 1


def test_symbols_match_ids_where_they_are_unique():
    adata, model = atlas(), trained()
    other = adata.copy()
    other.var_names = [*SYMBOLS[:6], "X", "Y"]
    del other.var["gene_symbols"]
    cells = read(other, like=model)
    np.testing.assert_array_equal(dense(cells)[:, :6], adata.X.toarray()[:, :6])
    assert cells.panels["rna"][0].tolist() == [True] * 6 + [False] * 2
    assert said(cells, "6 features were matched by symbol or identifier")
    keyed_by_symbol = read(other)
    cells = read(adata, like=keyed_by_symbol)
    np.testing.assert_array_equal(dense(cells)[:, :6], adata.X.toarray()[:, :6])
    other.var["gene_ids"] = IDS
    assert read(other, like=model).panels == {}


def test_nothing_shared_is_refused_with_a_hint():
    other = atlas()
    del other.var["gene_symbols"]
    other.var_names = [f"gene{j}" for j in range(8)]
    with pytest.raises(InputError, match=r"found none of them \(the source has 'gene0'.*Rename"):
        read(other, like=trained())
    other.var_names = [s.capitalize() + str(j) for j, s in enumerate(SYMBOLS)]
    human = atlas()
    human.var_names = [s.upper() + str(j) for j, s in enumerate(SYMBOLS)]
    del human.var["gene_symbols"]
    with pytest.raises(InputError, match=r"8 names agree .* another species"):
        read(other, like=read(human))


def test_levels_and_scales_are_those_of_training():
    adata, model = atlas(), trained()
    other = adata[10:].copy()
    other.obs["donor"] = ["c", "new", "b", None] * 5
    other.obs["type"] = "?"
    cells = read(other, like=model)
    assert cells.covariates["donor"][:4].tolist() == [2, -1, 1, -1]
    assert (cells.covariates["type"] == -1).all()
    np.testing.assert_allclose(cells.level_names("age"), adata.obs["age"][10:], rtol=1e-6)
    assert said(cells, "'new' in column 'donor' (batch) is a level the model was not trained with")
    assert said(cells, "Column 'donor' is missing in 5 cells")
    bare = ad.AnnData(adata.X, var=adata.var)
    cells = read(bare, like=model)
    assert (cells.covariates["donor"] == -1).all()
    assert torch.isnan(cells.covariates["age"]).all()
    assert said(cells, "There is no column 'age' (covariate): it is unknown for every cell")


def test_columns_may_have_another_name_here():
    adata, model = atlas(), trained()
    adata.obs = adata.obs.rename(columns={"donor": "patient"})
    cells = read(adata, like=model, batch="patient")
    assert cells.level_names("donor").tolist() == adata.obs["patient"].tolist()
    with pytest.raises(InputError, match=r"Did you mean 'patient'"):
        read(adata, like=model, batch="patients")
    plain = read(adata)
    assert said(read(adata, like=plain, batch="patient"), "The model knows no batch")


def test_levels_read_alike_from_numbers_and_text():
    adata = atlas()
    adata.obs["plate"] = np.asarray([1, 2, 10] * 10)
    model = read(adata, batch="plate")
    for values in (["1", "2", "10"] * 10, [1.0, 2.0, 10.0] * 10, pd.Categorical([1, 2, 10] * 10)):
        adata.obs["plate"] = values
        assert torch.equal(read(adata, like=model).covariates["plate"], model.covariates["plate"])


def test_layers_and_values_follow_the_model():
    adata, model = atlas(), trained()
    adata.layers["umi"] = adata.X.copy()
    adata.X = np.log1p(adata.X)
    np.testing.assert_array_equal(dense(read(adata, like=model)), adata.layers["umi"].toarray())
    adata.layers["other"] = adata.layers.pop("umi")
    with pytest.raises(InputError, match=r"Expected a layer 'umi' .*found 'X', 'other'"):
        read(adata, like=model)
    np.testing.assert_array_equal(
        dense(read(adata, like=model, counts="other")), adata.layers["other"].toarray()
    )
    with pytest.raises(InputError, match=r"found 'continuous'. Leave values out"):
        read(adata, like=model, counts="other", values="continuous")
    for given in ({"features": 3}, {"covariates": ["age"]}):
        with pytest.raises(InputError, match="Leave covariates and features out"):
            read(adata, like=model, **given)
    continuous = read(adata, values="continuous")
    few = adata[:, :3].copy()
    cells = read(few, like=continuous)
    assert cells.layout.modalities["rna"].kind == "continuous"
    np.testing.assert_allclose(dense(cells)[:, :3], few.X.toarray(), rtol=1e-6)
    assert cells.panels["rna"].sum() == 3


def test_wrong_values_are_refused_for_a_model_too():
    adata = atlas()
    adata.X = np.log1p(adata.X)
    with pytest.raises(InputError, match="log-normalised"):
        read(adata, like=trained())


def test_cells_pass_unchanged_or_are_matched_again():
    adata, model = atlas(), trained()
    cells = read(adata, batch="donor", label="type", covariates=["age"])
    assert read(cells) is cells
    assert read(cells, like=model) is cells
    part = read(adata, features=IDS[:5], batch="donor")
    matched = read(part, like=model)
    np.testing.assert_array_equal(dense(matched)[:, :5], adata.X.toarray()[:, :5])
    assert matched.covariates["donor"].equal(cells.covariates["donor"])
    assert (matched.covariates["type"] == -1).all()
    with pytest.raises(InputError, match="Read from the file instead"):
        read(matched, like=part)


def test_cells_without_shared_counts_are_kept():
    adata, model = atlas(), trained()
    other = adata[:, :2].copy()
    other.X[4] = 0
    cells = read(other, like=model)
    assert len(cells) == 30
    assert cells.size["rna"][4] == 0
    assert said(cells, "'c4'")
