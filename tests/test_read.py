"""Reading: the same cells whatever they are stored in, and the source is never changed."""

from __future__ import annotations

import gzip
import hashlib
import tracemalloc
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
import torch

from chreode.cells import CSR
from chreode.errors import InputError
from chreode.io import datasets
from chreode.io.features import deviance, most_variable
from chreode.io.matrix import Matrix
from chreode.io.read import _read, read
from chreode.io.schema import Schema


def example(n: int = 60, g: int = 25, *, seed: int = 0) -> ad.AnnData:
    """Counts in X, log-normalised values in a layer, columns of all kinds."""
    rng = np.random.default_rng(seed)
    x = rng.poisson(rng.gamma(0.5, 1.5, size=g), size=(n, g)).astype(np.float32)
    x[3] = 0
    obs = pd.DataFrame(
        {
            "donor": pd.Categorical(rng.choice(["d2", "d1"], n), categories=["d2", "unused", "d1"]),
            "plate": rng.choice([10, 9], n),
            "treated": rng.random(n) < 0.5,
            "age": rng.normal(50, 10, n),
            "type": rng.choice(["B", "A"], n).astype(object),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    obs.iloc[2, [3, 4]] = [np.nan, None]
    var = pd.DataFrame(
        {"gene_symbols": [f"S{j}" for j in range(g)], "chosen": np.arange(g) % 3 == 0},
        index=[f"ENSG{j:011d}" for j in range(g)],
    )
    adata = ad.AnnData(sp.csr_matrix(x), obs=obs, var=var)
    adata.layers["log"] = sp.csr_matrix(np.log1p(x))
    return adata


def dense(cells) -> np.ndarray:
    measured = cells.measured["rna"]
    return (measured.dense() if isinstance(measured, CSR) else measured).numpy()


def digest(adata: ad.AnnData) -> str:
    """A hash of all arrays and tables, in their memory order."""
    h = hashlib.sha256()
    for x in (adata.X, *adata.layers.values(), *([] if adata.raw is None else [adata.raw.X])):
        for part in (x.data, x.indices, x.indptr) if sp.issparse(x) else (x,):
            h.update(part.tobytes() + str(part.dtype).encode())
    for frame in (adata.obs, adata.var):
        h.update(frame.to_csv().encode() + str(dict(frame.dtypes)).encode())
    h.update(repr((list(adata.uns), list(adata.obsm), adata.is_view)).encode())
    return h.hexdigest()


def is_canonical(csr: CSR) -> bool:
    key = csr.row * csr.width + csr.col.long()
    return bool((key.diff() > 0).all()) and bool((csr.value != 0).all()) and csr.value.dtype == torch.float32


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("store", [sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array, np.asarray])
def test_storage_makes_no_difference(store, dtype):
    adata = example()
    truth = adata.X.toarray()
    other = ad.AnnData(np.zeros(adata.shape), obs=adata.obs, var=adata.var)
    stored = store(truth.astype(dtype))
    other.layers["x"] = stored.tocsr() if isinstance(stored, sp.coo_matrix) else stored
    cells = read(other, counts="x")
    assert is_canonical(cells.measured["rna"])
    np.testing.assert_array_equal(dense(cells), truth)
    np.testing.assert_array_equal(cells.size["rna"].numpy(), truth.sum(1))
    assert cells.layout.modalities["rna"].names == tuple(adata.var_names)
    assert cells.layout.modalities["rna"].symbols == tuple(adata.var["gene_symbols"])
    assert cells.layout.n_cells == len(cells) == 60


@pytest.mark.parametrize("store", [sp.csr_matrix, sp.csc_matrix, np.asarray])
@pytest.mark.parametrize("kind", ["h5ad", "zarr", "backed", "backed view", "view"])
def test_files_read_like_memory(tmp_path, store, kind):
    adata = example()
    adata.X = store(adata.X.toarray())
    path = tmp_path / f"a.{kind}"
    if kind == "zarr":
        adata.write_zarr(path)
    elif kind != "view":
        path = tmp_path / "a.h5ad"
        adata.write_h5ad(path)
    rows = np.arange(60)
    source = path
    if "view" in kind:
        rows = np.asarray([50, 3, 4, 20])
        source = (ad.read_h5ad(path, backed="r") if kind == "backed view" else adata)[rows]
    elif kind == "backed":
        source = ad.read_h5ad(path, backed="r")
    options = {"batch": "donor", "label": "type", "covariates": ["age", "treated", "plate"]}
    found, expected = read(source, **options), read(adata[rows].copy(), **options)
    np.testing.assert_array_equal(dense(found), dense(expected))
    assert found.layout == expected.layout
    assert found.names.tolist() == expected.names.tolist()
    for column, values in expected.covariates.items():
        assert torch.equal(found.covariates[column].nan_to_num(-7), values.nan_to_num(-7)), column


def test_raw_is_read_with_its_own_features():
    adata = example()
    adata.raw = adata
    adata = adata[:, 5:].copy()
    adata.X = np.log1p(adata.X.toarray())
    cells = read(adata, counts="raw")
    assert cells.layout.modalities["rna"].n_features == 25
    assert read(adata, counts="raw", features="chosen").layout.modalities["rna"].n_features == 9
    del adata.raw
    with pytest.raises(InputError, match="raw"):
        read(adata, counts="raw")


def test_zeros_duplicates_and_disorder_are_mended_in_a_copy():
    data, col = np.asarray([2.0, 0.0, 1.0, 3.0, 4.0]), np.asarray([2, 1, 0, 1, 1])
    messy = sp.csr_matrix((data, col, np.asarray([0, 3, 5])), shape=(2, 3))
    adata = ad.AnnData(messy)
    before = digest(adata)
    cells = read(adata)
    assert digest(adata) == before
    assert is_canonical(cells.measured["rna"])
    assert dense(cells).tolist() == [[1, 0, 2], [0, 7, 0]]


def test_source_is_never_changed_and_cells_share_nothing_with_it():
    adata = example()
    before = digest(adata)
    cells = read(adata, batch="donor", label="type", covariates=["age"], features=10)
    read(adata, counts="log", values="continuous")
    read(adata, like=cells)
    assert digest(adata) == before
    whole = read(adata)
    kept = dense(whole).copy()
    adata.X.data[:] = -1
    adata.obs_names = [f"other{i}" for i in range(60)]
    np.testing.assert_array_equal(dense(whole), kept)
    assert whole.names[0] == "cell0"


def test_columns_become_levels_or_standardised_values():
    adata = example()
    adata.obs["gut"] = pd.array([None, *([1, 2] * 29), 1], dtype="Int64")
    cells = read(adata, batch="donor", label="type", covariates=["plate", "treated", "age", "gut"])
    known = cells.layout.covariates
    assert list(known) == ["donor", "type", "plate", "treated", "age", "gut"]
    assert known["donor"].levels == ("d2", "d1")
    assert known["type"].levels == ("A", "B")
    assert known["treated"].levels == ("False", "True")
    assert cells.level_names("donor").tolist() == adata.obs["donor"].tolist()
    assert cells.covariates["type"][2] == -1
    assert torch.isnan(cells.covariates["age"][2])
    age = cells.covariates["age"][~cells.covariates["age"].isnan()]
    assert abs(age.mean()) < 1e-6
    assert age.std(correction=0) == pytest.approx(1)
    np.testing.assert_allclose(cells.level_names("age"), adata.obs["age"], rtol=1e-6)
    assert torch.isnan(cells.covariates["gut"][0])
    assert not known["plate"].categorical
    assert read(adata, batch="plate").layout.covariates["plate"].levels == ("9", "10")
    assert read(adata, batch="treated").layout.covariates["treated"].levels == ("False", "True")
    assert any("'type' is missing in 1 cell," in m for m in cells.reading.messages)


def test_a_constant_covariate_of_new_cells_is_read_by_the_model():
    adata = example()
    adata.obs["dose"] = np.tile([1.0, 3.0], 30)
    cells = read(adata, covariates="dose")
    adata.obs["dose"] = 2.0
    assert read(adata, like=cells).covariates["dose"].tolist() == [0.0] * 60


def test_empty_cells_are_kept_and_reported():
    cells = read(example())
    assert len(cells) == 60
    assert cells.size["rna"][3] == 0
    assert any("1 of 60 cells have no count" in m and "cell3" in m for m in cells.reading.messages)


def test_zero_one_matrices_stay_counts_unless_told():
    adata = ad.AnnData((example().X > 0).astype(np.float32))
    assert read(adata).layout.modalities["rna"].kind == "counts"
    assert read(adata, values="binary").layout.modalities["rna"].kind == "binary"


def test_continuous_values_are_dense_or_sparse_by_what_they_are():
    rng = np.random.default_rng(0)
    full = ad.AnnData(rng.normal(size=(50, 7)))
    cells = read(full, values="continuous")
    assert isinstance(cells.measured["rna"], torch.Tensor)
    np.testing.assert_allclose(dense(cells), full.X, rtol=1e-6)
    assert (cells.size["rna"] == 1).all()
    wide = ad.AnnData(sp.random(3000, 4000, density=0.001, format="csc", random_state=0))
    cells = read(wide, values="continuous")
    assert isinstance(cells.measured["rna"], CSR)
    np.testing.assert_allclose(cells.measured["rna"].scipy().sum(0), wide.X.sum(0), rtol=1e-5)
    assert (cells.size["rna"] == 1).all()


# features ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["csr", "csc"])
def test_features_are_chosen_by_column_name_and_number(store):
    adata = example()
    adata.X = adata.X.asformat(store)
    truth = adata.X.toarray()
    cells = read(adata, features="chosen")
    assert cells.layout.modalities["rna"].names == tuple(adata.var_names[::3])
    np.testing.assert_array_equal(dense(cells), truth[:, ::3])
    np.testing.assert_array_equal(cells.size["rna"], truth[:, ::3].sum(1))
    names = [adata.var_names[7], "S2", adata.var_names[20]]
    cells = read(adata, features=names)
    assert cells.layout.modalities["rna"].symbols == ("S7", "S2", "S20")
    np.testing.assert_array_equal(dense(cells), truth[:, [7, 2, 20]])
    assert is_canonical(cells.measured["rna"])
    assert cells.reading.n_source_features == 25
    cells = read(adata, features=30)
    assert cells.layout.modalities["rna"].n_features == 25
    assert any("30 features were asked for" in m for m in cells.reading.messages)


def test_deviance_is_that_of_the_formula_on_zeros_too():
    adata = example(seed=2)
    x = adata.X.toarray().astype(np.float64)
    group = (adata.obs["donor"] == "d1").to_numpy().astype(np.int64)
    found = deviance(Matrix.of(adata.X, where="X"), total=x.sum(1), group=group)
    for b in (0, 1):
        part = x[group == b]
        mean = part.sum(1, keepdims=True) * part.sum(0) / part.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(part > 0, part * np.log(part / mean), 0) - (part - mean)
        np.testing.assert_allclose(found[b], 2 * terms.sum(0), rtol=1e-9, atol=1e-9)


def test_number_of_features_is_batch_aware():
    rng = np.random.default_rng(0)
    n, g = 400, 40
    rate = np.full((n, g), 2.0)
    batch = np.repeat([0, 1], n // 2)
    rate[batch == 1, 0] = 30.0
    kind = rng.random(n) < 0.5
    rate[kind, 1], rate[~kind, 2] = 8.0, 8.0
    obs = pd.DataFrame({"b": batch.astype(str)}, index=[f"c{i}" for i in range(n)])
    adata = ad.AnnData(sp.csc_matrix(rng.poisson(rate)), obs=obs)
    blind, aware = read(adata, features=2), read(adata, features=2, batch="b")
    assert "0" in blind.layout.modalities["rna"].names
    assert aware.layout.modalities["rna"].names == ("1", "2")


def test_most_variable_breaks_ties_in_order():
    assert most_variable(np.zeros((2, 5)), 3).tolist() == [0, 1, 2]


# 10x -----------------------------------------------------------------------------------------------------


def ten_x(path: Path, adata: ad.AnnData, layout: str) -> Path:
    """Write the example as Cell Ranger does; in layout 3 with two antibodies behind the genes."""
    genes = [name.encode() for name in adata.var_names]
    symbols = [b"DUP", b"DUP", *(s.encode() for s in adata.var["gene_symbols"][2:])]
    kinds = [b"Gene Expression"] * len(genes)
    x = adata.X
    if layout != "v2":
        genes, symbols = [*genes, b"AB1", b"AB2"], [*symbols, b"CD3", b"CD4"]
        kinds += [b"Antibody Capture"] * 2
        x = sp.hstack([x, sp.csr_matrix(np.full((x.shape[0], 2), 9))]).tocsr()
    barcodes = [name.encode() for name in adata.obs_names]
    if layout == "mtx":
        path.mkdir()
        with gzip.open(path / "matrix.mtx.gz", "wb") as file:
            scipy.io.mmwrite(file, x.T.astype(np.int64))
        rows = zip(genes, symbols, kinds, strict=True)
        (path / "features.tsv.gz").write_bytes(gzip.compress(b"\n".join(b"\t".join(r) for r in rows) + b"\n"))
        (path / "barcodes.tsv").write_bytes(b"\n".join(barcodes) + b"\n")
        return path
    with h5py.File(path, "w") as file:
        group = file.create_group("GRCh38" if layout == "v2" else "matrix")
        group["barcodes"] = barcodes
        group["data"], group["indices"], group["indptr"] = x.data.astype(np.int32), x.indices, x.indptr
        group["shape"] = np.asarray(x.shape[::-1])
        if layout == "v2":
            group["genes"], group["gene_names"] = genes, symbols
        else:
            features = group.create_group("features")
            features["id"], features["name"], features["feature_type"] = genes, symbols, kinds
    return path


@pytest.mark.parametrize("layout", ["v2", "v3", "mtx"])
def test_10x_is_keyed_by_ids_and_keeps_symbols(tmp_path, layout):
    adata = example()
    cells = read(ten_x(tmp_path / "x.h5", adata, layout))
    np.testing.assert_array_equal(dense(cells), adata.X.toarray())
    assert cells.names.tolist() == adata.obs_names.tolist()
    assert cells.layout.modalities["rna"].names == tuple(adata.var_names)
    assert cells.layout.modalities["rna"].symbols[:3] == ("DUP", "DUP", "S2")
    # The antibodies that newer layouts hold are a modality of their own.
    assert list(cells.layout.modalities) == (["rna"] if layout == "v2" else ["rna", "prot"])
    with pytest.raises(InputError, match=r"column 'donor'.*found none"):
        read(tmp_path / "x.h5", batch="donor")


# size ----------------------------------------------------------------------------------------------------


def mapped(folder: Path) -> int:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc to see mapped files in")
    return sum(str(folder) in line for line in maps.read_text().splitlines())


@pytest.mark.parametrize("store", ["csr", "csc"])
@pytest.mark.parametrize("features", [None, ["S9", "S3", "S4"]])
def test_beyond_the_limit_counts_are_mapped_from_disk(tmp_path, monkeypatch, store, features):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    adata = example()
    adata.X = adata.X.asformat(store)
    schema = Schema.of(features=features)
    before = mapped(tmp_path)
    inside, outside = _read(adata, schema), _read(adata, schema, memory_limit=100)
    assert mapped(tmp_path) == before + 2
    assert list(tmp_path.iterdir()) == []
    assert any("put on disk" in m for m in outside.reading.messages)
    assert inside.reading.messages == tuple(m for m in outside.reading.messages if "disk" not in m)
    for part in ("crow", "col", "value"):
        assert torch.equal(getattr(inside.measured["rna"], part), getattr(outside.measured["rna"], part))
    rows = torch.tensor([5, 1, 30])
    np.testing.assert_array_equal(dense(outside[rows]), dense(inside[rows]))
    del outside
    assert mapped(tmp_path) == before


def test_a_full_disk_is_refused_before_writing(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(InputError, match="TMPDIR"):
        _read(example(), Schema.of(), memory_limit=100)


@pytest.mark.parametrize("store", ["csr", "csc"])
def test_a_file_is_never_made_dense(tmp_path, store):
    path = tmp_path / "wide.h5ad"
    n, g = 20_000, 20_000
    rng = np.random.default_rng(0)
    x = sp.csr_matrix((np.ones(400_000), (rng.integers(0, n, 400_000), rng.integers(0, g, 400_000))), (n, g))
    ad.AnnData(x.asformat(store)).write_h5ad(path)
    total = x.sum()
    del x
    read(example())
    tracemalloc.start()
    try:
        cells = read(path, features=2000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 120e6 < n * g * 4 / 10
    assert read(path).size["rna"].sum() == total
    assert cells.layout.modalities["rna"].n_features == 2000


# data sets -----------------------------------------------------------------------------------------------


def test_pbmc68k_is_raw_counts():
    adata = datasets.pbmc68k()
    cells = read(adata, label="bulk_labels")
    assert adata.shape == (700, 765)
    assert len(cells.layout.covariates["bulk_labels"].levels) == 10
    least = np.minimum.reduceat(adata.X.data, adata.X.indptr[:-1])
    assert (least == 1).all()


@pytest.mark.parametrize("name", ["pbmc3k_2000hvg", "kang_ifnb_muscat", "paul15_tradeseq"])
def test_real_files_read_as_anndata_does(shared, name):
    path = shared / f"{name}.h5ad"
    adata = ad.read_h5ad(path)
    cells = read(path, label="cell_type")
    assert (cells.measured["rna"].scipy() != adata.X).nnz == 0
    assert cells.level_names("cell_type").tolist() == adata.obs["cell_type"].astype(object).tolist()
