"""MultiVI: an encoder a modality, whose answers agree and are averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

import chreode as ch
from chreode.io.mosaic import mosaic
from chreode.io.simulate_multiome import Multiome, simulate_multiome
from chreode.recipes.fused import alignment

if TYPE_CHECKING:
    import mudata

WORLD = Multiome(dim=4, depth=600, atac_depth=60, gene_share=0.2, peak_share=0.2)
RECIPE = {"dim": 6, "hidden": (32, 32)}


@pytest.fixture(scope="module")
def paired() -> mudata.MuData:
    return simulate_multiome(400, 150, 300, components=3, batches=2, world=WORLD, seed=3)


@pytest.fixture(scope="module")
def model(paired):
    cells = ch.read(paired, batch="batch", label="component")
    return ch.fit(cells, ch.recipes.multivi(**RECIPE), epochs=60, seed=0, progress=False)


def told(z: np.ndarray, levels: np.ndarray) -> float:
    half = np.arange(len(z)) % 2 == 0
    return KNeighborsClassifier(15).fit(z[half], levels[half]).score(z[~half], levels[~half])


def gain(expected: np.ndarray, x: np.ndarray) -> float:
    """Nats per molecule over the mean profile."""
    mean = x.sum(0) / x.sum()
    return float((x * (np.log(expected.clip(1e-12)) - np.log(mean.clip(1e-12)))).sum() / x.sum())


def test_groups_are_found_and_both_modalities_explained(model, paired):
    embedded = model.embedded
    assert told(embedded.embedding, embedded.level_names("component").astype(str)) > 0.95
    assert told(embedded.embedding, embedded.level_names("batch").astype(str)) < 0.65
    assert gain(embedded.expected("rna"), paired["rna"].X.toarray()) > 0.05
    open_ = paired["atac"].X.toarray()
    probability, frequency = embedded.expected("atac"), open_.mean(0, keepdims=True).clip(1e-3, 1 - 1e-3)
    better = np.log(np.where(open_, probability, 1 - probability)).sum()
    assert better > np.log(np.where(open_, frequency, 1 - frequency)).sum()


def test_a_cell_of_one_modality_lies_where_both_put_it(model, paired):
    whole = model.project(paired)
    rna = model.project(paired["rna"])
    assert not rna.cells.present["atac"].any()
    atac = model.project(ch.read(paired["atac"], like=model, modalities="atac"))
    spread = np.linalg.norm(whole.embedding - whole.embedding.mean(0), axis=1).mean()
    assert np.linalg.norm(rna.embedding - whole.embedding, axis=1).mean() < 0.5 * spread
    # The mean of what the two say, each alone, is what both say.
    np.testing.assert_allclose(whole.embedding, (rna.embedding + atac.embedding) / 2, atol=1e-5)
    assert gain(atac.expected("rna"), paired["rna"].X.toarray()) > 0.02
    predicted = rna.expected("atac", size="predicted").sum(1)
    assert np.isfinite(predicted).all()


def test_alignment_is_the_divergence_both_ways_of_cells_that_have_both(paired):
    cells = ch.read(mosaic(paired, fraction=0.5, seed=2)).numbered()
    build = ch.recipes.multivi(**RECIPE).build(cells.layout)
    trace = build.model.eval()(cells)
    found = alignment("cell").of(build.model, trace)
    one, two = trace.codes["cell"].posterior.experts.values()
    both = cells.present["rna"] & cells.present["atac"]
    assert both.any()
    assert not both.all()
    torch.testing.assert_close(found, torch.where(both, one.kl(two) + two.kl(one), 0.0))


def test_modalities_agree_where_they_are_made_to():
    few, apart = simulate_multiome(200, 150, 300, components=3, world=WORLD, seed=3), {}
    for align in (0.0, 5.0):
        cells = ch.read(few)
        fitted = ch.fit(cells, ch.recipes.multivi(align=align, **RECIPE), epochs=30, seed=0, progress=False)
        with torch.no_grad():
            experts = fitted.module.latents["cell"].infer(fitted.embedded.cells).posterior.experts
        one, two = experts["rna"], experts["atac"]
        apart[align] = float((one.kl(two) + two.kl(one)).mean())
    assert apart[5.0] < 0.2 * apart[0.0]


@pytest.mark.parametrize("combine", ["average", "product"])
def test_a_mosaic_trains_and_mixes(paired, combine):
    cells = ch.read(mosaic(paired, fraction=0.6, seed=1), label="component")
    recipe = ch.recipes.multivi(combine=combine, **RECIPE)
    fitted = ch.fit(cells, recipe, epochs=60, seed=0, progress=False)
    assert np.isfinite(fitted.history["loss"]).all()
    z, types = fitted.embedded.embedding, fitted.embedded.level_names("component").astype(str)
    assert told(z, types) > 0.9
    # Three in ten cells lack each: so often a guess is right.
    assert told(z, ~cells.present["atac"].numpy()) < 0.85
    lacks = ~cells.present["rna"].numpy()
    at = paired.obs_names.get_indexer(cells.names[lacks])
    assert gain(fitted.embedded.expected("rna")[lacks], paired["rna"].X.toarray()[at]) > 0.02


def test_it_is_saved_and_loaded(model, tmp_path):
    model.save(tmp_path / "m")
    loaded = ch.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.embedded.expected("atac"), model.embedded.expected("atac"))
    assert "Ashuach" in loaded.cite()
