"""Every kind of bad input is refused with what was expected, what was found and a remedy."""

from __future__ import annotations

import gzip
import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from chreode.errors import InputError
from chreode.io.read import read


def good(n: int = 12, g: int = 6) -> ad.AnnData:
    x = sp.csr_matrix(np.random.default_rng(0).poisson(1.0, (n, g)).astype(np.float32))
    obs = pd.DataFrame(
        {"donor": ["a", "b"] * (n // 2), "age": np.arange(n) / 2.0}, [f"c{i}" for i in range(n)]
    )
    return ad.AnnData(
        x, obs=obs, var=pd.DataFrame({"hvg": [True, False] * (g // 2)}, [f"g{j}" for j in range(g)])
    )


def with_value(value: float) -> ad.AnnData:
    adata = good()
    adata.X[2, 3] = value
    return adata


def logged(**fields) -> ad.AnnData:
    adata = good()
    counts = adata.X.copy()
    if fields.get("raw"):
        adata.raw = adata
    adata.X = np.log1p(adata.X)
    if fields.get("layer"):
        adata.layers["umi"] = counts
    adata.layers["scaled"] = adata.X - 1.5 * (adata.X > 0).astype(np.float32)
    return adata


def renamed(axis: str, names: list[str]) -> ad.AnnData:
    adata = good()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if axis == "obs":
            adata.obs_names = names + list(adata.obs_names[len(names) :])
        else:
            adata.var_names = names + list(adata.var_names[len(names) :])
    return adata


def with_column(name: str, values: object) -> ad.AnnData:
    adata = good()
    adata.obs[name] = values
    return adata


def batches(cells: int, levels: int) -> ad.AnnData:
    adata = ad.AnnData(sp.csr_matrix(np.ones((cells, 3), dtype=np.float32)))
    adata.obs["b"] = np.arange(cells) % levels
    return adata


def with_ids() -> ad.AnnData:
    adata = renamed("var", ["TP53", "TP53"])
    adata.var["gene_ids"] = [f"ENSG{j}" for j in range(6)]
    return adata


def without_main() -> ad.AnnData:
    adata = good()
    adata.layers["umi"] = adata.X.copy()
    adata.X = None
    return adata


half = [None, "a"] * 6
CASES = {
    "negative": (lambda: with_value(-1), {}, r"found negative values \(-1 for cell 'c2', feature 'g3'\)"),
    "NaN": (lambda: with_value(np.nan), {}, "found NaN .*cell 'c2', feature 'g3'"),
    "infinite": (lambda: with_value(np.inf), {}, "found infinite values"),
    "fraction": (lambda: with_value(0.5), {}, "not whole numbers .*No other layer holds counts"),
    "rounding": (lambda: with_value(1.00001), {}, "but for rounding"),
    "infinite, continuous": (lambda: with_value(np.inf), {"values": "continuous"}, "found infinite"),
    "minus infinite": (lambda: with_value(-np.inf), {"values": "continuous"}, "found infinite values"),
    "two, binary": (lambda: with_value(2), {"values": "binary"}, "other than 0 and 1"),
    "log-normalised": (logged, {}, "look log-normalised. No other layer"),
    "counts in a layer": (lambda: logged(layer=True), {}, "Counts are in 'umi': read with counts='umi'"),
    "counts in raw": (lambda: logged(raw=True), {}, "read with counts='raw'"),
    "scaled layer": (lambda: logged(layer=True), {"counts": "scaled"}, "look scaled.*counts='umi'"),
    "no layer": (lambda: logged(layer=True), {"counts": "uni"}, "found 'X', .* Did you mean 'umi'"),
    "no X": (without_main, {}, "Expected a matrix X .*found 'umi'"),
    "no batch": (good, {"batch": "Doner"}, "found columns 'donor', 'age'. Did you mean 'donor'?"),
    "no label": (good, {"label": "celltype"}, "Expected a column 'celltype'"),
    "no covariate": (good, {"covariates": ["donor", "agee"]}, "Did you mean 'age'?"),
    "batch missing": (lambda: with_column("b", half), {"batch": "b"}, "6 of 12 cells without one .*'c0'"),
    "batch of fractions": (good, {"batch": "age"}, "Expected categories"),
    "batches of one cell": (
        lambda: batches(51, 51),
        {"batch": "b"},
        r"batches of several cells each in column 'b'; found 51 levels in 51 cells\..*covariates=",
    ),
    "batches of four cells": (lambda: batches(240, 60), {"batch": "b"}, "found 60 levels in 240 cells"),
    "label all missing": (lambda: with_column("b", np.nan), {"label": "b"}, "found none in any cell"),
    "infinite age": (lambda: with_column("b", [np.inf, 1.0] * 6), {"covariates": "b"}, "found 6 infinite"),
    "two roles": (good, {"batch": "donor", "label": "donor"}, "Expected every column in one role"),
    "column name": (good, {"batch": 3}, "Expected batch to name a field with text; found 3"),
    "values": (good, {"values": "integers"}, "counts, binary, continuous; found 'integers'"),
    "no cells": (lambda: good()[:0].copy(), {}, "found 0 cells x 6 features"),
    "no features": (lambda: good()[:, :0].copy(), {}, "found 12 cells x 0 features"),
    "all zero": (lambda: ad.AnnData(sp.csr_matrix((3, 4))), {}, "nothing but zeros"),
    "cell twice": (lambda: renamed("obs", ["x", "x"]), {}, r"cell name once.*'x'.*obs_names_make_unique"),
    "feature twice": (
        lambda: renamed("var", ["y", "y"]),
        {},
        r"feature name once.*'y'.*var_names_make_unique",
    ),
    "feature twice, ids": (with_ids, {}, r"adata.var_names = adata.var\['gene_ids'\]"),
    "no feature column": (good, {"features": "highly"}, "Expected a column 'highly' in the feature table"),
    "feature absent": (good, {"features": ["g1", "G2"]}, "1 of 2 absent .*Did you mean 'g2'"),
    "feature repeated": (good, {"features": ["g1", "g1"]}, "'g1' more than once"),
    "feature list empty": (good, {"features": []}, "an empty list"),
    "no features asked": (good, {"features": 0}, "found features=0"),
    "features a switch": (good, {"features": True}, "found True"),
    "number, continuous": (good, {"features": 2, "values": "continuous"}, "Expected counts to find"),
}


@pytest.mark.parametrize(
    ("where", "case"),
    [
        *((where, case) for where in ("memory", "h5ad") for case in CASES),
        *(("zarr", case) for case in ("negative", "counts in raw", "no batch", "cell twice", "no X")),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_refused_in_memory_and_on_disk(tmp_path, where, case):
    make, options, expected = CASES[case]
    source = make()
    if where != "memory":
        path = tmp_path / f"a.{where}"
        (source.write_h5ad if where == "h5ad" else source.write_zarr)(path)
        source = path
    with pytest.raises(InputError, match=expected) as caught:
        read(source, **options)
    text = str(caught.value)
    assert text.startswith("Expected ")
    assert "found" in text
    assert "\n" not in text


def test_feature_column_must_be_boolean_and_mark_something():
    adata = good()
    adata.var["score"], adata.var["none"] = np.arange(6.0), False
    adata.var["some"] = pd.array([True, None, *[False] * 4], dtype="boolean")
    for column, expected in {
        "score": "values such as",
        "none": "none marked",
        "some": "missing values",
    }.items():
        with pytest.raises(InputError, match=expected):
            read(adata, features=column)
    adata.X[:, 0] = 0
    adata.var["empty"] = [True, *[False] * 5]
    with pytest.raises(InputError, match="1 chosen features; found nothing but zeros"):
        read(adata, features="empty")


def test_many_batches_are_read_where_each_has_cells():
    for cells, levels in ((50, 50), (300, 60)):
        assert len(read(batches(cells, levels), batch="b").layout.covariates["b"].levels) == levels
    # New cells are read with the levels of training, however many there are here.
    assert len(read(batches(51, 51), like=read(batches(4, 2), batch="b"))) == 51


def test_a_feature_in_other_case_is_offered_alone():
    adata = renamed("var", ["ISG15", "ISG20", "ISG5"])
    with pytest.raises(InputError, match=r"Did you mean 'ISG15'\?"):
        read(adata, features=["isg15"])


def test_other_objects_are_refused_by_name():
    for source in (np.ones((3, 3)), pd.DataFrame({"a": [1]}), 3):
        with pytest.raises(InputError, match=r"Wrap a matrix as anndata\.AnnData"):
            read(source)
    with pytest.raises(InputError, match="Expected like to be a fitted model"):
        read(good(), like=3)


def test_values_that_are_not_numbers_are_refused(tmp_path):
    adata = good()
    adata.layers["words"] = np.full(adata.shape, "a", dtype=object)
    with pytest.raises(InputError, match="Expected numbers in layer 'words'"):
        read(adata, counts="words")
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="Expected numbers in layer 'words'"):
        read(tmp_path / "a.h5ad", counts="words")


def test_two_columns_of_one_name_are_refused():
    adata = good()
    adata.obs = pd.concat([adata.obs, adata.obs[["donor"]]], axis=1)
    with pytest.raises(InputError, match="found 2"):
        read(adata, batch="donor")


# files ---------------------------------------------------------------------------------------------------


def write(path, content: bytes):
    path.write_bytes(content)
    return path


def test_missing_files_offer_their_neighbours(tmp_path):
    good().write_h5ad(tmp_path / "pbmc.h5ad")
    with pytest.raises(InputError, match=r"no file of this name.*Did you mean 'pbmc\.h5ad'"):
        read(tmp_path / "pbcm.h5ad")
    for beside in ("pbmc.chreode", "pbmc.csv.bak"):
        (tmp_path / beside).mkdir()
    with pytest.raises(InputError, match=r"Check the path\.( Did you mean 'pbmc\.h5ad'\?)?$"):
        read(tmp_path / "pbmc.csv")
    (tmp_path / "pbmc10x").mkdir()
    write(tmp_path / "pbmc10x" / "matrix.mtx.gz", b"")
    with pytest.raises(InputError, match=r"Did you mean 'pbmc10x'\?"):
        read(tmp_path / "pbmc10")
    with pytest.raises(InputError, match="found no folder"):
        read(tmp_path / "nowhere" / "pbmc.h5ad")


@pytest.mark.parametrize("name", ["a.h5ad", "a.h5", "a.h5mu", "a.csv", "a.rds", "a.loom"])
def test_files_of_another_kind(tmp_path, name):
    promised = name.startswith("a.h5")
    words = r"cannot be opened as HDF5.*cut off.*again" if promised else "a file of another kind"
    with pytest.raises(InputError, match=words):
        read(write(tmp_path / name, b"gene,c1,c2\nA,1,2\n"))
    with pytest.raises(InputError, match="an empty file"):
        read(write(tmp_path / name, b""))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, share):
    good().write_h5ad(tmp_path / "whole.h5ad")
    content = (tmp_path / "whole.h5ad").read_bytes()
    with pytest.raises(InputError, match="damaged or incomplete"):
        read(write(tmp_path / "cut.h5ad", content[: int(len(content) * share)]))


def test_a_file_with_a_spoilt_chunk_is_refused(tmp_path):
    path = tmp_path / "a.h5ad"
    adata = ad.AnnData(np.random.default_rng(0).poisson(1.0, (300, 50)).astype(np.float32))
    adata.write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        where = file["X"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[where.byte_offset : where.byte_offset + where.size] = b"\xff" * where.size
    with pytest.raises(InputError, match="damaged or incomplete"):
        read(write(path, bytes(content)))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda f: f.__delitem__("var"), "an HDF5 file with"),
        (lambda f: f.__delitem__("X"), "Expected a matrix X"),
        (lambda f: f["X"].__delitem__("indptr"), "CSR or CSC matrix"),
        (lambda f: f["X/indptr"].__setitem__(4, 10_000), "index pointers that contradict"),
        (lambda f: f["X/indices"].__setitem__(4, 77), "Expected indices from 0 to 5; found 0 to 77"),
        (lambda f: f["X"].attrs.__setitem__("shape", [12, 9]), "its tables say; found 12 x 9"),
        (lambda f: f["obs/donor"].attrs.__setitem__("encoding-type", "new"), "column 'donor'"),
    ],
)
def test_files_that_contradict_themselves(tmp_path, spoil, expected):
    path = tmp_path / "a.h5ad"
    good().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        spoil(file)
    with pytest.raises(InputError, match=expected):
        read(path, batch="donor")


def test_other_hdf5_files(tmp_path):
    with h5py.File(tmp_path / "a.h5mu", "w") as file:
        file.create_group("mod")
    with pytest.raises(InputError, match="Expected a MuData file with a cell table"):
        read(tmp_path / "a.h5mu")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_group("GRCh38/barcodes")
        file.create_group("mm10/barcodes")
    with pytest.raises(InputError, match="several genomes"):
        read(tmp_path / "b.h5")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_group("matrix/features")
    with pytest.raises(InputError, match="found one without 'barcodes', 'data'"):
        read(tmp_path / "c.h5")


def test_folders(tmp_path):
    with pytest.raises(InputError, match="found a folder with none"):
        read(tmp_path)
    write(tmp_path / "matrix.mtx", b"%%MatrixMarket matrix coordinate integer general\n2 3 2\n1 1 4\n2 3 1\n")
    with pytest.raises(InputError, match=r"Expected one features.tsv or genes.tsv"):
        read(tmp_path)
    write(tmp_path / "genes.tsv", b"E1\tA\nE2\tB\n")
    write(tmp_path / "barcodes.tsv", b"c1\nc2\n")
    with pytest.raises(InputError, match="3 cells and 2 features; found 2 barcodes"):
        read(tmp_path)
    write(tmp_path / "barcodes.tsv", b"c1\nc2\nc3\n")
    assert read(tmp_path).measured["rna"].dense().tolist() == [[4, 0], [0, 0], [0, 1]]
    assert read(tmp_path / "matrix.mtx").layout.modalities["rna"].symbols == ("A", "B")
    write(tmp_path / "x_matrix.mtx.gz", gzip.compress(b"x"))
    with pytest.raises(InputError, match="Keep one"):
        read(tmp_path)
    (tmp_path / "x_matrix.mtx.gz").unlink()
    write(tmp_path / "matrix.mtx", b"%%MatrixMarket matrix coordinate integer general\n2 3 2\n1 1 4\n")
    with pytest.raises(InputError, match="damaged"):
        read(tmp_path)


def test_spoilt_zarr(tmp_path):
    write(tmp_path / "zarr.json", b"{")
    with pytest.raises(InputError, match="zarr store"):
        read(tmp_path)
    (tmp_path / "zarr.json").unlink()
    write(tmp_path / ".zgroup", b'{"zarr_format": 2}')
    with pytest.raises(InputError, match="written by anndata"):
        read(tmp_path)
