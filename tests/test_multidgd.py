"""multiDGD: several modalities, some of them missing, and a code for each covariate."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

import chreode as ch
from chreode.errors import InputError
from chreode.infer import JointStart
from chreode.io.mosaic import mosaic
from chreode.io.simulate_multiome import Multiome, simulate_multiome

if TYPE_CHECKING:
    import mudata

WORLD = Multiome(dim=4, depth=600, atac_depth=60, gene_share=0.2, peak_share=0.2)


@pytest.fixture(scope="module")
def paired() -> mudata.MuData:
    return simulate_multiome(500, 150, 300, components=3, batches=2, world=WORLD, seed=3)


@pytest.fixture(scope="module")
def model(paired):
    cells = ch.read(paired, batch="batch", label="component")
    recipe = ch.recipes.multidgd(dim=6, components=3)
    return ch.fit(cells, recipe, epochs=24, seed=0, progress=False)


def nearest_agree(codes: np.ndarray, labels: np.ndarray) -> float:
    """Share of cells whose nearest other cell bears the same label."""
    distance = cdist(codes, codes)
    np.fill_diagonal(distance, np.inf)
    return float((labels[distance.argmin(1)] == labels).mean())


def gain(expected: np.ndarray, x: np.ndarray) -> float:
    """Nats per molecule over the mean profile."""
    mean = x.sum(0) / x.sum()
    ratio = np.log(expected.clip(1e-12)) - np.log(mean.clip(1e-12))
    return float((x * ratio).sum() / x.sum())


def test_components_are_found_and_every_modality_is_explained(model, paired):
    assert model.module.decoder.readout.heads.keys() == {"rna", "atac"}
    labels = model.embedded.level_names("component")
    assert nearest_agree(model.embedded.embedding, labels) > 0.95
    assert ch.evaluate.clustering.ari(labels, model.embedded.components()) > 0.9
    assert gain(model.embedded.expected("rna"), paired["rna"].X.toarray()) > 0.05
    open_ = paired["atac"].X.toarray()
    probability = model.embedded.expected("atac")
    better = np.log(np.where(open_, probability, 1 - probability)).sum()
    frequency = open_.mean(0, keepdims=True).clip(1e-3, 1 - 1e-3)
    assert better > np.log(np.where(open_, frequency, 1 - frequency)).sum() + 1000


def test_a_missing_modality_is_completed(model, paired):
    whole = model.project(paired, progress=False)
    rna = model.project(paired["rna"], progress=False)
    assert not rna.cells.present["atac"].any()
    apart = np.linalg.norm(rna.embedding - whole.embedding, axis=1).mean()
    spread = np.linalg.norm(whole.embedding - whole.embedding.mean(0), axis=1).mean()
    assert apart < 0.4 * spread
    open_, frequency = paired["atac"].X.toarray(), paired["atac"].X.toarray().mean(0)
    assert np.corrcoef((rna.expected("atac") - frequency).ravel(), (open_ - frequency).ravel())[0, 1] > 0.1
    atac = ch.read(paired["atac"], like=model, modalities="atac")
    assert gain(model.project(atac, progress=False).expected("rna"), paired["rna"].X.toarray()) > 0.03


def test_the_batch_has_its_own_code(model, paired):
    codes = model.embedded.embeddings["batch"]
    batch = model.embedded.level_names("batch")
    assert codes.shape == (500, 2)
    assert nearest_agree(codes, batch) > 0.95
    assert abs(nearest_agree(model.embedded.embedding, batch) - 0.5) < 0.12
    truth = np.asarray(paired["rna"].varm["batch_effect"])
    shift = model.embedded.do(batch="batch1").expected("rna") / model.embedded.do(batch="batch0").expected(
        "rna"
    )
    found = np.log(shift).mean(0)
    assert np.corrcoef(found, truth[:, 1] - truth[:, 0])[0, 1] > 0.7
    unknown = model.embedded.do(batch=None).expected("rna")
    assert np.isfinite(unknown).all()


def test_an_unknown_batch_leaves_the_model_as_it_is(model, paired):
    other = paired.copy()
    other.obs["batch"] = "new"
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    new = model.project(other, progress=False)
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    assert (new.cells.covariates["batch"] == -1).all()
    assert nearest_agree(new.embedding, paired.obs["component"].to_numpy()) > 0.95


def test_a_mosaic_trains(paired):
    cut = mosaic(paired, fraction=0.6, seed=1)
    cells = ch.read(cut, label="component")
    missing = {m: int((~there).sum()) for m, there in cells.present.items()}
    assert sum(missing.values()) == 300
    fitted = ch.fit(cells, ch.recipes.multidgd(dim=6, components=3), epochs=20, seed=0, progress=False)
    assert fitted.history["loss"].notna().all()
    labels = fitted.embedded.level_names("component")
    assert nearest_agree(fitted.embedded.embedding, labels) > 0.9
    lacks = ~cells.present["rna"].numpy()
    at = [paired.obs_names.get_loc(name) for name in cells.names[lacks]]
    assert gain(fitted.embedded.expected("rna")[lacks], paired["rna"].X.toarray()[at]) > 0.03


def test_codes_of_missing_modalities_start_where_the_others_say(paired):
    cells = ch.read(paired)
    start = JointStart(cells.layout, 4)
    whole = start.learn(cells, seed=0)
    torch.testing.assert_close(start(cells), whole, rtol=1e-4, atol=1e-4)
    rna = start(ch.read(paired["rna"], like=cells))
    assert float(torch.nn.functional.cosine_similarity(rna, whole, dim=1).mean()) > 0.8


def test_it_is_saved_written_and_sampled(model, paired, tmp_path):
    model.save(tmp_path / "m")
    loaded = ch.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.embedded.expected("atac"), model.embedded.expected("atac"))
    copy = paired.copy()
    model.write(copy)
    assert {"X_multidgd", "X_multidgd_batch"} <= set(copy.obsm)
    drawn = model.sample(40, seed=0)
    assert list(drawn.mod) == ["rna", "atac"]
    assert drawn["atac"].X.max() == 1
    assert len(drawn.obs) == 40


def test_recipes_of_one_modality_take_the_first_and_say_so(paired, caplog):
    cells = ch.read(paired)
    with caplog.at_level(logging.WARNING):
        fitted = ch.fit(cells, ch.recipes.scdgd(dim=4, components=3), epochs=2, seed=0, progress=False)
    assert "'atac' left out" in caplog.text
    assert list(fitted.layout.modalities) == ["rna"]


def test_likelihoods_by_modality_are_checked(paired):
    cells = ch.read(paired)
    with pytest.raises(InputError, match=r"modalities 'rna', 'atac'; found one of 'atak'"):
        ch.fit(cells, ch.recipes.multidgd(likelihood={"atak": "nb"}), epochs=1, progress=False)
    build = ch.recipes.multidgd(likelihood={"atac": "poisson"}).build(cells.layout)
    assert type(build.model.decoder.readout.heads["atac"]).__name__ == "Poisson"
    with pytest.raises(InputError, match="Expected a valid 'likelihood'"):
        ch.recipes.multidgd(likelihood={"atac": "gauss"})


@pytest.mark.parametrize("name", ["orig.ident", "type", "training", "keys"])
def test_columns_and_modalities_may_have_any_name(paired, name, tmp_path):
    import mudata

    with mudata.set_options(pull_on_update=False):
        other = mudata.MuData({name: paired["rna"].copy(), "a.b": paired["atac"].copy()})
    other.obs[name] = paired.obs["batch"].to_numpy()
    cells = ch.read(other, batch=name)
    fitted = ch.fit(cells, ch.recipes.multidgd(dim=3, components=2), epochs=1, seed=0, progress=False)
    fitted.save(tmp_path / "m")
    assert ch.load(tmp_path / "m").embedded.embeddings[name].shape == (500, 2)
    assert ch.load(tmp_path / "m").embedded.expected("a.b").shape == (500, 300)


def test_cells_with_peaks_alone_are_trained(paired):
    cut = mosaic(paired, fraction=0.3, modality="rna", seed=0)
    cells = ch.read(cut)
    fitted = ch.fit(
        cells, ch.recipes.multidgd(dim=3, components=2), epochs=1, validation=0, seed=0, progress=False
    )
    assert fitted.embedded.trained.all()


def test_an_encoder_of_several_modalities_is_refused(model):
    with pytest.raises(InputError, match="model of one modality to distil"):
        ch.distil(model, epochs=1)


def test_a_model_without_its_cells_still_decodes(model, tmp_path):
    model.save(tmp_path / "m", cells=False)
    loaded = ch.load(tmp_path / "m")
    np.testing.assert_allclose(loaded.component_means("rna"), model.component_means("rna"), rtol=1e-5)


def test_modalities_may_be_dropped_while_training(paired):
    cells = ch.read(paired)
    build = ch.recipes.multidgd(dim=3, hidden=(8, 8), components=2, drop=1.0).build(cells.layout)
    cells, term = cells.numbered(), build.objective.terms[0]
    with torch.no_grad():
        build.model.eval()
        parts = {m: o.log_prob(cells.measured[m]) for m, o in build.model(cells).observed.items()}
        both = -(parts["rna"] + parts["atac"])
        torch.testing.assert_close(term.of(build.model, build.model(cells)), both)
        build.model.train()
        for latent in build.model.latents:
            build.model.latents[latent].infer.noise = 0.0
        found = term.of(build.model, build.model(cells))
    rna, atac = torch.isclose(found, -parts["rna"]), torch.isclose(found, -parts["atac"])
    assert (rna ^ atac).all()
    assert 0.3 < float(rna.float().mean()) < 0.7
