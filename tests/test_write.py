"""Files are whole or not there, and writing changes nothing in memory."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from chreode.errors import InputError
from chreode.io import atomic_path, write_csv, write_h5ad
from chreode.io.read import read


def example() -> ad.AnnData:
    obs = pd.DataFrame({"type": ["a", None, "b"], "n": [1, 2, 3]}, index=["x", "y", "z"])
    adata = ad.AnnData(sp.csr_matrix(np.eye(3, 4, dtype=np.float32)), obs=obs)
    adata.raw = adata
    adata.obsm["X_code"] = np.arange(6.0).reshape(3, 2)
    adata.uns["chreode"] = '{"a": 1}'
    return adata


def names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def fail(path, write, error: type[BaseException]) -> None:
    with atomic_path(path) as beside:
        write(beside)
        raise error


def folder_with_a_file(path) -> None:
    path.mkdir()
    (path / "a").write_text("half")


@pytest.mark.parametrize(
    "write", [lambda path: path.write_text("half"), folder_with_a_file, lambda path: None]
)
def test_a_failure_leaves_nothing(tmp_path, write):
    with pytest.raises(RuntimeError):
        fail(tmp_path / "new" / "deep" / "out", write, RuntimeError)
    assert names(tmp_path) == []


def test_a_failure_keeps_what_was_there(tmp_path):
    (tmp_path / "out").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "out", lambda path: path.write_text("half"), KeyboardInterrupt)
    assert (tmp_path / "out").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_success_replaces_files_and_folders(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").write_text("old")
    with atomic_path(tmp_path / "file") as beside:
        assert beside.name == "file"
        beside.write_text("new")
        assert (tmp_path / "file").read_text() == "old"
    with atomic_path(tmp_path / "folder") as beside:
        beside.mkdir()
        (beside / "new").write_text("new")
    assert (tmp_path / "file").read_text() == "new"
    assert names(tmp_path / "folder") == ["new"]
    assert names(tmp_path) == ["file", "folder"]


def test_a_file_does_not_replace_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "dear").write_text("x")
    with (
        pytest.raises(InputError, match="Expected to replace a file"),
        atomic_path(tmp_path / "folder") as beside,
    ):
        beside.write_text("x")
    assert names(tmp_path / "folder") == ["dear"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="Expected a folder to write"):
        write_csv(pd.DataFrame(), tmp_path / "file" / "a.csv")
    assert names(tmp_path) == ["file", "folder"]


def test_nothing_written_is_an_error_not_a_loss(tmp_path):
    (tmp_path / "out").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "out"):
        pass
    assert (tmp_path / "out").read_text() == "old"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("part", ["whole", "view", "backed"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_h5ad_comes_back_and_memory_stays(tmp_path, part):
    adata = example()
    if part == "backed":
        adata.write_h5ad(tmp_path / "b.h5ad")
        adata = ad.read_h5ad(tmp_path / "b.h5ad", backed="r")
    adata = adata[1:] if part == "view" else adata
    kinds, x = dict(adata.obs.dtypes), adata.to_memory().X.toarray()
    write_h5ad(adata, tmp_path / "a.h5ad")
    assert dict(adata.obs.dtypes) == kinds
    assert dict(adata.raw.var.dtypes) == {}
    assert adata.is_view == (part == "view")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(back.X.toarray(), x)
    np.testing.assert_array_equal(back.raw.X.toarray(), x)
    np.testing.assert_array_equal(back.obsm["X_code"], adata.obsm["X_code"])
    assert back.uns["chreode"] == '{"a": 1}'
    assert back.obs["type"].isna().tolist() == adata.obs["type"].isna().tolist()
    assert read(tmp_path / "a.h5ad", label="type").layout.covariates["type"].levels[-1] == "b"


def test_an_unwritable_h5ad_leaves_nothing(tmp_path):
    adata = example()
    adata.uns["odd"] = object()
    with pytest.raises(Exception, match=r"odd|object"):
        write_h5ad(adata, tmp_path / "a.h5ad")
    assert names(tmp_path) == []


def test_csv_comes_back_exactly(tmp_path):
    frame = pd.DataFrame({"a": [0.1, 1 / 3], "b": ["x", "y,z"]}, index=pd.Index(["c1", "c2"], name="cell"))
    write_csv(frame, tmp_path / "a.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "a.csv", index_col="cell"), frame)
    assert b"\r" not in (tmp_path / "a.csv").read_bytes()
