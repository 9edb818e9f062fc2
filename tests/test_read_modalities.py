"""Cells measured in several modalities: where they come from, and which cell misses what."""

from __future__ import annotations

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse as sp

from chreode.errors import InputError
from chreode.io.read import read

N = 30


def modality(n: int, g: int, *, prefix: str, seed: int, names: list[str] | None = None, top: int = 9):
    rng = np.random.default_rng(seed)
    x = np.minimum(rng.poisson(0.8, (n, g)), top).astype(np.int32)
    x[:, 0] = 1
    obs = pd.DataFrame(index=names or [f"c{i}" for i in range(n)])
    return ad.AnnData(sp.csr_matrix(x), obs=obs, var=pd.DataFrame(index=[f"{prefix}{j}" for j in range(g)]))


def paired(**others) -> mudata.MuData:
    parts = {
        "rna": modality(N, 12, prefix="g", seed=0),
        "atac": modality(N, 20, prefix="chr1:1-", seed=1, top=1),
        **others,
    }
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.MuData(parts)
    mdata.obs["donor"] = pd.Categorical([f"d{i % 3}" for i in range(mdata.n_obs)])
    return mdata


def same(a, b) -> bool:
    return list(a.layout.modalities) == list(b.layout.modalities) and all(
        torch.equal(a.measured[m].dense(), b.measured[m].dense())
        and torch.equal(a.size[m], b.size[m])
        and torch.equal(a.present[m], b.present[m])
        for m in a.measured
    )


def test_a_mudata_keeps_its_modalities_and_their_names():
    mdata = paired()
    cells = read(mdata, batch="donor")
    assert list(cells.layout.modalities) == ["rna", "atac"]
    for m in ("rna", "atac"):
        np.testing.assert_array_equal(cells.measured[m].dense(), mdata[m].X.toarray())
        assert cells.layout.modalities[m].names == tuple(mdata[m].var_names)
    assert cells.layout.covariates["donor"].levels == ("d0", "d1", "d2")
    assert all(p.all() for p in cells.present.values())


def test_zeros_and_ones_are_binary_unless_told_otherwise():
    cells = read(paired())
    assert [m.kind for m in cells.layout.modalities.values()] == ["counts", "binary"]
    assert any("0 or 1" in message for message in cells.reading.messages)
    other = read(paired(), values={"atac": "binary"})
    assert other.layout.modalities["atac"].kind == "binary"
    assert not other.reading.messages


@pytest.mark.parametrize("kind", ["h5mu", "zarr"])
def test_files_read_like_memory(tmp_path, kind):
    mdata = paired()
    path = tmp_path / f"a.{kind}"
    mdata.write(path) if kind == "h5mu" else mdata.write_zarr(path)
    assert same(read(path, batch="donor"), read(mdata, batch="donor"))


@pytest.mark.parametrize("column", ["feature_types", "modality"])
def test_types_of_features_are_modalities(tmp_path, column):
    mdata = paired()
    adata = ad.concat(dict(mdata.mod), axis=1, merge="same")
    types = {
        "feature_types": ["Gene Expression"] * 12 + ["Peaks"] * 20,
        "modality": ["rna"] * 12 + ["atac"] * 20,
    }
    adata.var[column] = types[column]
    mixed = adata[:, np.random.default_rng(0).permutation(32)].copy()
    path = tmp_path / "a.h5ad"
    mixed.write_h5ad(path)
    for source in (adata, mixed, path):
        cells = read(source)
        assert list(cells.layout.modalities) in (["rna", "atac"], ["atac", "rna"])
        for m in ("rna", "atac"):
            names = list(cells.layout.modalities[m].names)
            np.testing.assert_array_equal(cells.measured[m].dense(), mdata[m][:, names].X.toarray())
    adata.layers["raw counts"] = adata.X.copy()
    adata.X = adata.X * 0.5
    again = read(adata, counts="raw counts")
    assert torch.equal(again.measured["rna"].dense(), torch.tensor(mdata["rna"].X.toarray()).float())


def test_a_cell_may_miss_a_modality():
    atac = modality(10, 20, prefix="p", seed=1, names=[f"c{i}" for i in (29, 3, 5, 40, 7, 8, 9, 10, 11, 12)])
    prot = modality(N, 4, prefix="cd", seed=2)
    prot.X = sp.csr_matrix(prot.X.toarray() * (np.arange(N) != 4)[:, None])
    mdata = paired(atac=atac, prot=prot)
    cells = read(mdata, batch="donor", values={"prot": "counts"})
    assert len(cells) == 31
    assert cells.names.tolist() == mdata.obs_names.tolist()
    at = {name: i for i, name in enumerate(cells.names)}
    assert int(cells.present["atac"].sum()) == 10
    row = cells.measured["atac"].dense()[at["c29"]]
    np.testing.assert_array_equal(row, atac.X[0].toarray()[0])
    assert not cells.present["rna"][at["c40"]]
    assert not cells.present["prot"][at["c4"]]
    assert cells.size["atac"][at["c0"]] == 0
    assert any("not measured" in message for message in cells.reading.messages)


def test_columns_of_one_modality_are_found():
    mdata = paired()
    mdata["rna"].obs["type"] = pd.Categorical(["a", "b"] * 15)
    assert read(mdata, label="type").layout.covariates["type"].levels == ("a", "b")


def test_features_and_layers_by_modality():
    mdata = paired()
    mdata["rna"].layers["x"] = mdata["rna"].X.copy()
    cells = read(mdata, counts={"rna": "x"}, features={"rna": 5, "atac": ["chr1:1-3"]})
    assert [m.n_features for m in cells.layout.modalities.values()] == [5, 1]
    assert list(read(mdata, modalities="atac").layout.modalities) == ["atac"]
    with pytest.raises(InputError, match=r"features by modality.*features=\{'rna'"):
        read(mdata, features=5)
    with pytest.raises(
        InputError, match=r"\('rna', 'atac'\) in features=; found 'atak'. Did you mean 'atac'"
    ):
        read(mdata, features={"atak": 5})
    with pytest.raises(InputError, match="in modalities=; found 'prot'"):
        read(mdata, modalities="prot")
    with pytest.raises(InputError, match=r"a layer 'x' in atac of MuData"):
        read(mdata, counts="x")


def test_a_source_of_one_modality_is_what_it_is_said_to_be():
    cells = read(modality(N, 20, prefix="p", seed=1), modalities="atac")
    assert list(cells.layout.modalities) == ["atac"]
    with pytest.raises(InputError, match="does not say that it has several"):
        read(modality(N, 20, prefix="p", seed=1), modalities=["rna", "atac"])


def test_cells_for_a_model_may_have_fewer_modalities():
    model = read(paired(), batch="donor")
    rna = read(paired()["rna"], like=model)
    assert not rna.present["atac"].any()
    assert rna.present["rna"].all()
    assert torch.equal(rna.measured["rna"].dense(), model.measured["rna"].dense())
    assert any("No cell was measured in atac" in m for m in rna.reading.messages)
    atac = read(paired()["atac"], like=model, modalities="atac")
    assert atac.present["atac"].all()
    assert not atac.present["rna"].any()
    zeros = paired()
    zeros["atac"].X = sp.csr_matrix(zeros["atac"].shape)
    assert not read(zeros, like=model).present["atac"].any()
    part = read(paired()[:, 3:], like=model)
    assert part.mask("rna").sum(1).unique().tolist() == [9]
    assert same(read(model, like=model), model)
    prot = paired(prot=modality(N, 4, prefix="cd", seed=2))
    assert any("'prot' was left out" in m for m in read(prot, like=model).reading.messages)


def test_sources_with_other_features_are_joined():
    one = paired(prot=modality(N, 4, prefix="cd", seed=2))
    two = paired(prot=modality(N, 6, prefix="cd", seed=3))
    del two.mod["atac"]
    two.update()
    two = two[:, ::-1].copy()
    cells = read({"one": one, "two": two}, batch="source", label="donor", values={"atac": "binary"})
    assert len(cells) == 2 * N
    assert cells.names[0] == "one:c0"
    assert cells.layout.covariates["source"].levels == ("one", "two")
    assert cells.layout.in_role("batch").column == "source"
    assert cells.covariates["source"].tolist() == [0] * N + [1] * N
    assert cells.present["atac"].tolist() == [True] * N + [False] * N
    assert cells.layout.modalities["prot"].names[:4] == ("cd0", "cd1", "cd2", "cd3")
    assert cells.mask("prot").sum(1).tolist() == [4] * N + [6] * N
    assert cells.mask("rna") is None
    where = cells.layout.modalities["prot"].names
    dense = cells.measured["prot"].dense()
    np.testing.assert_array_equal(dense[:N, :4], one["prot"].X.toarray())
    np.testing.assert_array_equal(dense[N:], two["prot"][:, list(where)].X.toarray())
    assert torch.equal(cells.size["prot"], dense.sum(1))
    assert cells.level_names("donor").tolist() == [*one.obs["donor"], *two.obs["donor"]]
    again = read({"two": two, "new": one}, like=cells)
    assert again.covariates["source"].tolist() == [1] * N + [-1] * N
    assert again.mask("prot").sum(1).tolist() == [6] * N + [4] * N


def test_what_cannot_be_joined_is_refused():
    counted = paired(atac=modality(N, 20, prefix="chr1:1-", seed=1))
    with pytest.raises(InputError, match="of one kind; found binary in 'a', counts in 'b'"):
        read({"a": paired(), "b": counted})
    with pytest.raises(InputError, match=r"modality of 'a', 'b' .*found 'prot'"):
        read({"a": paired(), "b": counted}, values={"prot": "counts"})
    with pytest.raises(InputError, match="an empty dictionary"):
        read({})


def test_features_shared_instead_of_cells_are_refused(tmp_path):
    parts = {
        "a": modality(5, 6, prefix="g", seed=0),
        "b": modality(5, 6, prefix="g", seed=1, names=list("vwxyz")),
    }
    mdata = mudata.MuData(parts, axis=1)
    with pytest.raises(InputError, match="axis 1"):
        read(mdata)
    mdata.write(tmp_path / "a.h5mu")
    with pytest.raises(InputError, match="read them together"):
        read(tmp_path / "a.h5mu")
    assert len(read(dict(mdata.mod))) == 10


def test_the_biotype_of_genes_is_no_modality():
    adata = modality(N, 12, prefix="g", seed=0)
    for column, values in {
        "feature_type": ["protein_coding"] * 8 + ["lncRNA"] * 4,
        "feature_types": ["Gene Expression"] * 8 + [None] * 4,
        "modality": [True] * 8 + [False] * 4,
    }.items():
        other = adata.copy()
        other.var[column] = values
        assert list(read(other).layout.modalities) == ["rna"]
    both = adata.copy()
    both.var["feature_types"] = ["Gene Expression"] * 8 + ["rna"] * 4
    assert read(both).layout.modalities["rna"].n_features == 12
    peaks = adata.copy()
    peaks.var["feature_types"] = "Peaks"
    assert list(read(peaks).layout.modalities) == ["atac"]


def test_a_view_of_the_memory_does_not_outlive_it():
    cells = read(paired())
    some = cells[torch.arange(5)].measured["rna"].dense()
    csr = cells.measured["rna"]
    assert csr.__reduce__()[0] is type(csr)
    csr.value = csr.value.clone()  # as when it is moved to shared memory
    assert csr._view is None or csr._view.data.ctypes.data != csr.value.data_ptr()
    torch.testing.assert_close(cells[torch.arange(5)].measured["rna"].dense(), some)


def test_values_that_are_named_are_not_guessed():
    ones = paired()
    assert read(ones, values={"atac": "counts"}).layout.modalities["atac"].kind == "counts"
    counted = paired(atac=modality(N, 20, prefix="chr1:1-", seed=1))
    cells = read({"a": ones, "b": counted}, values={"atac": "counts"})
    assert cells.layout.modalities["atac"].kind == "counts"
    assert len(cells) == 2 * N


def test_a_column_that_one_source_lacks_is_missing_there():
    one, two = paired(), paired()
    del two.obs["donor"]
    cells = read({"one": one, "two": two}, label="donor")
    assert cells.level_names("donor").tolist() == [*one.obs["donor"], *[None] * N]
    with pytest.raises(InputError, match=r"column 'type' with values in one of 'one', 'two'"):
        read({"one": one, "two": two}, label="type")
    with pytest.raises(InputError, match="column 'donor'"):
        read({"one": one, "two": two}, batch="donor")
