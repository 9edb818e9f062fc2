"""Scores of held-out molecules are what their definition says, before and after a round through the disk."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch

import chreode as ch
from chreode.evaluate import label_profile_nats, mean_profile_nats
from chreode.evaluate.held_out import scores
from chreode.held_out import halves
from commandline import small


@pytest.fixture(scope="module")
def fitted():
    cells = ch.read(small(160), label="type")
    recipe = ch.recipes.scdgd(components=3, dim=3, hidden=(16,))
    return ch.fit(cells, recipe, epochs=20, seed=0, progress=False)


@pytest.fixture(scope="module")
def loaded(fitted, tmp_path_factory):
    fitted.save(tmp_path_factory.mktemp("saved") / "model")
    return ch.load(tmp_path_factory.getbasetemp() / "saved0" / "model")


def held_out(model):
    return model.embedded.cells[torch.from_numpy(~model.embedded.trained)]


def test_nats_and_profiles_are_those_of_the_other_half(fitted):
    held, found = held_out(fitted), fitted.score(held_out(fitted), seed=4)
    first, second = halves(held, torch.Generator().manual_seed(4))
    x = second.measured["rna"].dense().numpy()
    rho = fitted.project(first).expected()
    assert found["nats_per_molecule"] == pytest.approx(-(x * np.log(rho)).sum() / x.sum(), rel=1e-4)
    assert found["molecules"] == x.sum()
    assert found["cells"] == len(held)

    trained = fitted.embedded.cells[torch.from_numpy(fitted.embedded.trained)]
    train, test = trained.measured["rna"].scipy(), second.measured["rna"].scipy()
    assert found["mean_profile"] == pytest.approx(mean_profile_nats(train, test))
    by_label = label_profile_nats(train, trained.level_names("type"), test, held.level_names("type"))
    assert found["label_profile"] == pytest.approx(by_label)
    assert found["gain"] == pytest.approx(found["mean_profile"] - found["nats_per_molecule"])
    assert found["label_gain"] == pytest.approx(found["label_profile"] - found["nats_per_molecule"])
    assert found["gain"] > 0


def test_zeros_and_intervals_are_scored(fitted):
    held, found = held_out(fitted), fitted.score(held_out(fitted), seed=4)
    _, second = halves(held, torch.Generator().manual_seed(4))
    assert found["zero_fraction_observed"] == pytest.approx(
        (second.measured["rna"].dense() == 0).double().mean()
    )
    assert found["zero_fraction_expected"] == pytest.approx(found["zero_fraction_observed"], abs=0.1)
    assert 0.8 < found["coverage_90"] < 1


def test_a_loaded_model_says_that_its_profiles_are_decoded(fitted, loaded):
    held = held_out(fitted)
    before, after = fitted.score(held), scores(loaded, held, modalities=["rna"])["rna"]
    assert after["nats_per_molecule"] == before["nats_per_molecule"]
    assert "mean_profile" not in after
    # The decoder has learned the profiles, so they score alike.
    assert after["mean_decoded_profile"] == pytest.approx(before["mean_profile"], abs=0.02)
    assert {"label_decoded_profile", "gain", "label_gain"} <= set(after)


def test_features_that_were_not_measured_are_not_scored(fitted):
    adata = small(40, seed=9)
    found = fitted.score(adata[:, ::2].copy())
    assert found["molecules"] == pytest.approx(adata[:, ::2].X.sum() / 2, rel=0.1)
    # As if the other features did not exist: no worse than to know nothing but their mean profile.
    assert found["nats_per_molecule"] < found["mean_profile"] < np.log(20)


def test_same_seed_same_score(fitted):
    held = held_out(fitted)
    assert fitted.score(held, seed=1) == fitted.score(held, seed=1)
    assert fitted.score(held, seed=1) != fitted.score(held, seed=2)


def test_nothing_to_score_is_refused(fitted):
    empty = small(3)
    empty.X = empty.X * 0
    empty.X.eliminate_zeros()
    with pytest.raises(ch.InputError):
        fitted.score(empty)


def test_values_that_are_not_counts_have_nats_a_value():
    adata = small(80)
    other = ad.AnnData(np.log1p(adata.X.toarray()), obs=adata.obs, var=adata.var)
    cells = ch.read(other, values="continuous")
    model = ch.fit(cells, ch.recipes.dgd(dim=2, hidden=(8,)), epochs=3, progress=False)
    found = model.score(held_out(model))
    assert set(found) == {"nats_per_value", "values", "cells"}
    assert np.isfinite(found["nats_per_value"])
    assert 0 < found["values"] < 8 * 40
