"""An annotated copy has everything that was read, and what was written."""

from __future__ import annotations

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from chreode.io.annotate import annotated_copy
from commandline import small


def write(adata: ad.AnnData) -> None:
    adata.obs["scdgd_component"] = pd.Categorical([str(i % 3) for i in range(adata.n_obs)])
    adata.obs["scdgd_trained"] = np.arange(adata.n_obs) % 2 == 0
    adata.obsm["X_scdgd"] = np.arange(2.0 * adata.n_obs, dtype=np.float32).reshape(-1, 2)
    adata.uns["chreode"] = '{"recipe": "scdgd"}'


def rich() -> ad.AnnData:
    adata = small(30)
    adata.raw = adata.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.obsm["X_pca"] = np.ones((30, 4))
    adata.obsp["distances"] = sp.eye(30, format="csr")
    adata.varm["loadings"] = np.ones((40, 4))
    adata.uns["palette"] = np.array(["#000", "#fff"])
    return adata


def test_an_h5ad_keeps_all_it_had(tmp_path):
    adata = rich()
    adata.write_h5ad(tmp_path / "a.h5ad")
    original = (tmp_path / "a.h5ad").read_bytes()
    annotated_copy(tmp_path / "a.h5ad", tmp_path / "b.h5ad", write=write)
    assert (tmp_path / "a.h5ad").read_bytes() == original
    found, expected = ad.read_h5ad(tmp_path / "b.h5ad"), adata.copy()
    write(expected)
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    pd.testing.assert_frame_equal(found.var, expected.var)
    for name in ("X", "raw", "counts"):
        one, other = (
            a.X if name == "X" else a.raw.X if name == "raw" else a.layers[name] for a in (found, expected)
        )
        assert (one != other).nnz == 0
    assert set(found.obsm) == {"X_pca", "X_scdgd"}
    np.testing.assert_array_equal(found.obsm["X_scdgd"], expected.obsm["X_scdgd"])
    assert (found.obsp["distances"] != expected.obsp["distances"]).nnz == 0
    assert found.uns["palette"].tolist() == ["#000", "#fff"]
    assert found.uns["chreode"] == expected.uns["chreode"]


def test_matrices_are_not_loaded(tmp_path, monkeypatch):
    rich().write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        del file["X/data"]  # whoever reads X now fails
    annotated_copy(tmp_path / "a.h5ad", tmp_path / "b.h5ad", write=write)


def test_annotating_again_replaces(tmp_path):
    small(30).write_h5ad(tmp_path / "a.h5ad")
    annotated_copy(tmp_path / "a.h5ad", tmp_path / "b.h5ad", write=write)

    def other(adata: ad.AnnData) -> None:
        write(adata)
        adata.obsm["X_scdgd"] = np.zeros((30, 5))

    annotated_copy(tmp_path / "b.h5ad", tmp_path / "c.h5ad", write=other)
    found = ad.read_h5ad(tmp_path / "c.h5ad")
    assert found.obsm["X_scdgd"].shape == (30, 5)
    assert found.obs.columns.tolist() == ["type", "donor", "age", "scdgd_component", "scdgd_trained"]


@pytest.mark.parametrize("mode", [0o444, 0o644])
def test_a_file_that_may_only_be_read(tmp_path, mode):
    small(30).write_h5ad(tmp_path / "a.h5ad")
    (tmp_path / "a.h5ad").chmod(mode)
    annotated_copy(tmp_path / "a.h5ad", tmp_path / "b.h5ad", write=write)
    assert "X_scdgd" in ad.read_h5ad(tmp_path / "b.h5ad").obsm


@pytest.mark.filterwarnings("ignore")
def test_an_old_h5ad_is_written_anew(tmp_path):
    adata = small(30)
    adata.obs = adata.obs[["age"]].copy()
    adata.write_h5ad(tmp_path / "old.h5ad")
    with h5py.File(tmp_path / "old.h5ad", "r+") as file:
        for table in ("obs", "var"):
            file[table].attrs["encoding-version"] = "0.1.0"
    annotated_copy(tmp_path / "old.h5ad", tmp_path / "new.h5ad", write=write)
    found = ad.read_h5ad(tmp_path / "new.h5ad")
    assert (found.X != adata.X).nnz == 0
    assert found.obs["age"].tolist() == adata.obs["age"].tolist()
    assert "X_scdgd" in found.obsm


def test_an_anndata_is_not_changed(tmp_path):
    adata = small(30)
    annotated_copy(adata, tmp_path / "b.h5ad", write=write)
    assert "X_scdgd" not in adata.obsm
    assert "X_scdgd" in ad.read_h5ad(tmp_path / "b.h5ad").obsm
