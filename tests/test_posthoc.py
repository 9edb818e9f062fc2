"""After the fit: distilled encoders, mapping, writing, conditions that mix batches."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import cross_val_score

import chreode as ch
from chreode.errors import InputError
from chreode.evaluate.fidelity import mean_profile_nats
from chreode.held_out import halves, nats
from chreode.io.read import read
from chreode.posthoc import project
from parts import table, tiny

if TYPE_CHECKING:
    from pathlib import Path

    from chreode.fitted import FittedModel


@pytest.fixture(scope="module")
def model() -> FittedModel:
    cells = ch.read(table(400), batch="plate", label="type")
    return ch.fit(cells, ch.recipes.scdgd(dim=4, hidden=(16,)), epochs=60, progress=False)


def test_components_are_the_groups(model: FittedModel) -> None:
    truth = model.embedded.level_names("label").astype(str)
    assert adjusted_rand_score(truth, model.embedded.components()) > 0.95


def test_projected_cells_land_among_their_kind(model: FittedModel) -> None:
    new = table(400)[:100].copy()
    new.obs_names = [f"new {i}" for i in range(100)]
    found = model.project(new).components()
    np.testing.assert_array_equal(found, model.embedded.components()[:100])


def test_a_distilled_encoder_answers_at_once_and_leaves_the_model(model: FittedModel, tmp_path: Path) -> None:
    distilled = ch.distil(model, epochs=60, progress=False)
    assert not model.encoders
    new = table(400)[:100].copy()
    encoded = distilled.project(new)
    agreed = (encoded.components() == model.project(new).components()).mean()
    assert agreed > 0.9
    refined = distilled.project(new, refine=20)
    assert not np.array_equal(refined.embedding, encoded.embedding)
    distilled.save(tmp_path / "distilled")
    again = ch.load(tmp_path / "distilled")
    np.testing.assert_array_equal(again.project(new).embedding, encoded.embedding)


def test_a_distilled_encoder_keeps_the_gain_on_half_of_the_molecules(model: FittedModel) -> None:
    cells = read(table(400)[:200].copy(), like=model)
    first, second = halves(cells, torch.Generator().manual_seed(0))
    sums = model.embedded.cells.measured["rna"].scipy()
    profile = mean_profile_nats(sums, second.measured["rna"].scipy())
    encoders = ch.distil(model, epochs=60, progress=False).encoders
    before = torch.get_rng_state()
    gains = {}
    for way, (found, refine) in {"all": (None, None), "0": (encoders, None), "5": (encoders, 5)}.items():
        codes = project(model.module, first, encoders=found, refine=refine)
        spent, on = nats(model.module.trace(codes, second).observed["rna"], second, "rna")
        gains[way] = float(profile - spent / on)
    assert torch.equal(before, torch.get_rng_state())  # thinned in training alone
    assert gains["all"] > 0.05
    assert gains["0"] > 0.7 * gains["all"]
    assert gains["5"] > max(gains["0"], 0.9 * gains["all"])


def test_batches_do_not_shape_the_codes(model: FittedModel) -> None:
    plates = model.embedded.level_names("batch").astype(str)
    share = np.unique(plates, return_counts=True)[1].max() / len(plates)
    told = cross_val_score(LogisticRegression(max_iter=500), model.embedded.embedding, plates, cv=5).mean()
    assert told < share + 0.1
    # The decoder holds what the codes do not.
    first = model.embedded.do(batch="plate 0").expected()
    assert np.abs(np.log(first / model.embedded.do(batch="plate 1").expected())).mean() > 0.05


def test_written_tables_hold_plain_values(model: FittedModel, tmp_path: Path) -> None:
    adata = table(400)[::-1].copy()
    model.write(adata)
    np.testing.assert_array_equal(adata.obsm["X_scdgd"][::-1], model.embedded.embedding)
    assert list(adata.obs["scdgd_component"].cat.categories) == [str(k) for k in range(model.components)]
    adata.write_h5ad(tmp_path / "written.h5ad")
    again = ad.read_h5ad(tmp_path / "written.h5ad")
    assert json.loads(again.uns["chreode"])["recipe"] == "scdgd"
    tabled = table(5)
    tabled.obs_names = [f"other {i}" for i in range(5)]
    with pytest.raises(InputError, match="others"):
        model.write(tabled)


def test_expected_is_refused_beyond_two_gigabytes(
    model: FittedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chreode.embedded._LIMIT", 1000)
    with pytest.raises(InputError, match="expected_chunks"):
        model.embedded.expected()
    parts = [part for _, part in model.embedded.expected_chunks(size=10_000)]
    np.testing.assert_allclose(np.concatenate(parts).sum(1), 10_000, rtol=1e-4)


def test_held_out_molecules_gain_over_the_mean_profile(model: FittedModel) -> None:
    scores = model.score(table(400)[:200].copy())
    assert scores["gain"] > 0
    assert scores["nats_per_molecule"] < scores["mean_profile"]


def test_unknown_levels_and_columns_are_refused(model: FittedModel) -> None:
    cells = tiny()
    with pytest.raises(InputError, match=r"level of 'plate' \(plate 0, plate 1\); found 'typo'. Name one"):
        cells.do(batch="typo")
    with pytest.raises(InputError, match=r"read \(plate, type, age, day\); found 'nothing'. Name one"):
        cells.do(nothing="typo")
    with pytest.raises(InputError, match="number for 'age'; found 'old'"):
        cells.do(age="old")
    with pytest.raises(InputError, match="n of at least 1; found 0"):
        model.sample(0)


def test_what_changes_nothing_is_not_done(model: FittedModel) -> None:
    reason = r"decoder \('plate'\); found '{}', which was read as the label: it conditions nothing"
    for name in ("type", "label"):
        with pytest.raises(InputError, match=reason.format(name)):
            model.embedded.do(**{name: "type 1"})
    assert (model.embedded.do(label=None).cells.covariates["type"] == -1).all()
    with pytest.raises(InputError, match=r"decoder \('plate'\); found 'plat'. Did you mean 'plate'"):
        model.embedded.do(plat="plate 1")
    bare = ch.read(table(60), label="type")
    fitted = ch.fit(bare, ch.recipes.scdgd(dim=2, hidden=(4,), components=2), epochs=1, progress=False)
    with pytest.raises(InputError, match=r"decoder \(none\); found 'batch'. Fit on cells"):
        fitted.embedded.do(batch="plate 1")


def test_features_in_other_case_are_offered(model: FittedModel) -> None:
    name = model.layout.modalities["rna"].names[0]
    with pytest.raises(InputError, match=rf"Did you mean '{name}'\?"):
        model.embedded.expected(features=[name.swapcase()])


def test_supervised_components_are_the_levels() -> None:
    cells = tiny()
    fitted = ch.fit(cells, ch.recipes.scdgd(dim=4, hidden=(8,), supervised=True), epochs=30, progress=False)
    truth = fitted.embedded.level_names("label").astype(str)
    found = np.asarray(fitted.layout.resolve("label").levels)[fitted.embedded.components()]
    assert (truth == found).mean() > 0.9


def test_a_loaded_model_without_cells_still_projects(model: FittedModel, tmp_path: Path) -> None:
    model.save(tmp_path / "bare", cells=False)
    bare = ch.load(tmp_path / "bare")
    new = table(400)[:20].copy()
    np.testing.assert_array_equal(bare.project(new).embedding, model.project(new).embedding)
    with pytest.raises(InputError, match="saved with its cells"):
        bare.sample(3)
