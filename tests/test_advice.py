"""What a message advises about several modalities or several sets can be followed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import chreode as ch
from chreode.errors import InputError
from chreode.fitting import scores_of
from chreode.io.mosaic import mudata_of
from chreode.io.simulate_multiome import Multiome, simulate_multiome
from chreode.report.score_tables import scores_section

if TYPE_CHECKING:
    import mudata

WORLD = Multiome(dim=3, depth=300, atac_depth=30, gene_share=0.2, peak_share=0.2)


@pytest.fixture(scope="module")
def paired():
    return simulate_multiome(120, 60, 80, components=2, batches=2, world=WORLD, seed=3)


@pytest.fixture(scope="module")
def model(paired):
    recipe = ch.recipes.multidgd(dim=3, components=2)
    cells = ch.read(paired, batch="batch", label="component")
    return ch.fit(cells, recipe, epochs=2, seed=0, progress=False, device="cpu")


def changed(paired, modality: str, *, layer: str | None = None) -> mudata.MuData:
    """Logarithms of one modality, its counts in a layer or gone."""
    parts = {m: paired[m].copy() for m in ("rna", "atac")}
    values = sp.csr_matrix(parts[modality].X)
    if layer:
        parts[modality].layers[layer] = values.copy()
    parts[modality].X = sp.csr_matrix(np.log1p(values.toarray() * 0.7))
    return mudata_of(parts, paired.obs.copy())


def refused(*words: str):
    pattern = ".*".join(words)
    return pytest.raises(InputError, match=f"(?s){pattern}")


def test_counts_in_a_layer_of_one_modality(paired):
    data = changed(paired, "rna", layer="counts")
    with refused(r"read with counts=\{'rna': 'counts'\}"):
        ch.read(data)
    assert ch.read(data, counts={"rna": "counts"}).layout.modalities["rna"].kind == "counts"


def test_values_that_are_no_counts_in_one_modality(paired):
    data = changed(paired, "atac")
    with refused(r"values=\{'atac': 'continuous'\}"):
        ch.read(data)
    kinds = {m: d.kind for m, d in ch.read(data, values={"atac": "continuous"}).layout.modalities.items()}
    assert kinds == {"rna": "counts", "atac": "continuous"}


def test_modalities_that_are_given_as_sets_of_cells(paired):
    both = {m: paired[m] for m in ("rna", "atac")}
    with refused("share features of 'rna'", "found none of 'rna'", "belong in one MuData"):
        ch.read(both)
    assert len(ch.read(mudata_of({m: a.copy() for m, a in both.items()}, paired.obs.copy()))) == 120


def test_sets_without_names(paired):
    with refused("found a list", r'chreode.read\(\{"a": ..., "b": ...\}, batch="source"\)'):
        ch.read([paired, paired])  # pyright: ignore[reportArgumentType]


def test_codes_are_written_into_each_set(paired):
    sets = {name: paired["rna"][rows].copy() for name, rows in (("a", slice(60)), ("b", slice(60, 120)))}
    for one in sets.values():
        one.obs_names = [f"cell{i}" for i in range(60)]  # as barcodes do, they meet again
    recipe = ch.recipes.scdgd(dim=2, components=2)
    model = ch.fit(ch.read(sets, batch="source"), recipe, epochs=1, seed=0, progress=False, device="cpu")
    with refused("Several sets were read by name", r"write\(\{'a': ..., 'b': ...\}\)"):
        model.write(sets["a"])
    assert "X_scdgd" not in sets["a"].obsm
    model.write(sets)
    written = np.concatenate([one.obsm["X_scdgd"] for one in sets.values()])
    np.testing.assert_array_equal(written, model.embedded.embedding)
    new = model.project({"a": sets["a"], "c": sets["b"]})
    said = "'c' in column 'source' (batch) is a level the model was not trained with: unknown for 60 cells."
    assert new.cells.reading.messages[-1] == said
    with refused("found 1 others", "project these cells first"):
        sets["b"].obs_names = ["stranger", *sets["b"].obs_names[1:]]
        model.write(sets)


def test_features_of_another_modality(model, paired):
    peak = paired["atac"].var_names[3]
    with refused("features of 'rna'", "of 'atac'", r"expected\('atac', features=...\)"):
        model.embedded.expected(features=[peak])
    assert model.embedded.expected("atac", features=[peak]).shape == (120, 1)


def test_modalities_under_other_names(model, paired):
    other = mudata_of({"gex": paired["rna"].copy()}, paired.obs.copy())
    with refused("found 'gex'", r"mudata.MuData\(\{'rna': mdata\['gex'\], ...\}\)"):
        model.project(other)
    with refused("'atac'", "--modality"):
        ch.read(paired["rna"], modalities=["gex"], like=model)


def test_each_modality_is_scored(model, paired):
    rna, atac = (model.score(paired, modality=m, seed=1) for m in ("rna", "atac"))
    assert model.score(paired, seed=1) == rna
    assert {"nats_per_molecule", "molecules"} <= rna.keys()
    assert {"nats_per_value", "values"} <= atac.keys()
    cut = mudata_of({"rna": paired["rna"].copy(), "atac": paired["atac"][:50].copy()}, paired.obs.copy())
    assert model.score(cut, modality="atac")["cells"] == 50
    groups = scores_of(model, seed=0)
    assert "nats_per_molecule" in groups["held_out rna"]
    assert "nats_per_value" in groups["held_out atac"]
    assert (groups["fit"]["features rna"], groups["fit"]["features atac"]) == (60, 80)
    titles = [table["name"] for table in scores_section(groups)]
    assert titles[:2] == ["held out rna", "held out atac"]
    with refused(r"Expected a modality \(rna, atac\); found 'prot'"):
        model.score(paired, modality="prot")


def test_links_after_loading_are_told_to_be_others(model, paired, tmp_path, caplog):
    model.save(tmp_path / "m")
    loaded = ch.load(tmp_path / "m")
    with caplog.at_level(logging.WARNING):
        ch.linkage(model, "gene7", null=20)
    assert "No counts are at hand" not in caplog.text
    with caplog.at_level(logging.WARNING):
        ch.linkage(loaded, "gene7", null=20)
    assert "No counts are at hand" in caplog.text


def test_an_annotation_is_a_file_or_what_was_read_of_it(model, paired, tmp_path):
    rows = paired["rna"].var.reset_index(names="name")[["chromosome", "start", "end", "name"]]
    rows = rows.assign(score=0, strand=paired["rna"].var["strand"].to_numpy())
    rows.to_csv(tmp_path / "genes.bed", sep="\t", header=False, index=False)
    links = ch.linkage(model, "gene7", null=20, genes=tmp_path / "genes.bed")
    assert np.isfinite(links["distance"].to_numpy()).any()
    with refused("the file of an annotation", "found DataFrame without columns chromosome"):
        ch.linkage(model, "gene7", null=20, genes=rows)


def test_too_few_genes_to_compare_with(paired):
    few = mudata_of({"rna": paired["rna"][:, :12].copy(), "atac": paired["atac"].copy()}, paired.obs.copy())
    recipe = ch.recipes.multidgd(dim=2, components=2)
    model = ch.fit(ch.read(few), recipe, epochs=1, seed=0, progress=False, device="cpu")
    with refused("found 11 other genes for null=100", "Fit more of them"):
        ch.linkage(model, "gene7")


def test_proteins_beside_the_genes_are_said_not_to_be_read(paired, tmp_path):
    adata = paired["rna"].copy()
    names = [f"CD{k}" for k in range(5)]
    proteins = np.random.default_rng(0).poisson(5, (120, 5))
    adata.obsm["protein_expression"] = pd.DataFrame(proteins, index=adata.obs_names, columns=names)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    for source in (adata, tmp_path / "cells.h5ad"):
        (said,) = [m for m in ch.read(source).reading.messages if "protein_expression" in m]
    assert "'prot': anndata.AnnData(adata.obsm['protein_expression'], obs=adata.obs[[]])})" in said
    for table, found in ((adata.obsm["protein_expression"], tuple(names)), (proteins, tuple("01234"))):
        beside = ad.AnnData(table, obs=adata.obs[[]])
        whole = mudata_of({"rna": adata, "prot": beside}, adata.obs.copy())
        assert ch.read(whole).layout.modalities["prot"].names == found


def test_regions_of_ones_and_a_few_twos_are_said_to_be_counts(paired):
    parts = {m: paired[m].copy() for m in ("rna", "atac")}
    parts["atac"].X = sp.csr_matrix(parts["atac"].X)
    parts["atac"].X.data[::20] = 2
    data = mudata_of(parts, paired.obs.copy())
    read = ch.read(data)
    (said,) = [m for m in read.reading.messages if "it is read as counts" in m]
    assert "1.05 in the mean, 2 at most" in said
    assert read.layout.modalities["atac"].kind == "counts"
    assert "adata.X = (adata.X > 0).astype('float32')" in said
    data["atac"].X = (data["atac"].X > 0).astype("float32")
    read = ch.read(data)
    assert read.layout.modalities["atac"].kind == "binary"
    assert not any("it is read as counts" in m for m in read.reading.messages)


def test_a_column_of_two_modalities_is_one_where_they_agree(paired):
    parts = {m: paired[m].copy() for m in ("rna", "atac")}
    for part in parts.values():
        part.obs["donor"] = pd.Categorical(np.where(np.arange(120) % 2, "a", "b"))
        part.obs["age"] = np.arange(120) / 7
        part.obs["dose"] = pd.Categorical(np.arange(120) % 3, categories=[2, 0, 1])
    parts["atac"] = parts["atac"][:90].copy()
    data = mudata_of(parts, paired.obs.copy())
    read = ch.read(data, batch="donor", covariates=["age", "dose"])
    assert read.level_names("donor").tolist() == ["b", "a"] * 60
    assert read.layout.covariates["dose"].levels == ("2", "0", "1")
    np.testing.assert_allclose(read.level_names("age"), np.arange(120) / 7, rtol=1e-5)
    for modality, kind in (("rna", float), ("atac", str)):
        data[modality].obs["dose"] = data[modality].obs["dose"].astype(int).astype(kind)
    assert ch.read(data, batch="dose").layout.covariates["dose"].levels == ("0", "1", "2")
    data["atac"].obs["donor"] = "a"
    with refused(
        "found others in 'atac' than in 'rna' for 45", "first: .cell0., .a., .b.", "Say which is meant"
    ):
        ch.read(data, batch="donor")
    data.obs["donor"] = data["rna"].obs["donor"]
    assert set(ch.read(data, batch="donor").level_names("donor")) == {"a", "b"}
