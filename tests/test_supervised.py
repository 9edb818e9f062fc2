"""A supervised fit: its components go by their levels, and it is judged without the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

import chreode as ch
from chreode.commands import export
from chreode.fitting import NOTE, scores_of
from parts import table, tiny

if TYPE_CHECKING:
    from pathlib import Path

    from chreode.fitted import FittedModel

TYPES = ["type 0", "type 1", "type 2"]


@pytest.fixture(scope="module")
def model() -> FittedModel:
    recipe = ch.recipes.scdgd(dim=4, hidden=(8,), supervised=True)
    return ch.fit(tiny(), recipe, epochs=60, progress=False)


def test_the_score_does_not_know_the_label(model: FittedModel) -> None:
    cells = tiny()
    scores = [model.score(some, seed=1) for some in (cells, cells.do(label="type 1"), cells.do(label=None))]
    assert len({s["nats_per_molecule"] for s in scores}) == 1
    assert scores[0]["label_profile"] < scores[1]["label_profile"]


def test_the_label_of_a_supervised_fit_can_be_set(model: FittedModel) -> None:
    told = model.embedded.do(label="type 1")
    assert (told.level_names("type") == "type 1").all()
    assert (model.embedded.do(type=None).cells.covariates["type"] == -1).all()


def test_the_note_says_what_the_label_did(model: FittedModel) -> None:
    assert "supervised" in scores_of(model, seed=0)["note"]
    other = ch.fit(tiny(), ch.recipes.scdgd(dim=4, hidden=(8,), components=3), epochs=2, progress=False)
    assert scores_of(other, seed=0)["note"] == NOTE


def test_components_are_called_by_their_levels(model: FittedModel, tmp_path: Path) -> None:
    adata = table()
    model.write(adata)
    written = adata.obs["scdgd_component"]
    assert list(written.cat.categories) == TYPES
    assert (written.astype(str) == adata.obs["type"]).mean() > 0.9
    drawn = model.sample(20, component=1)
    assert set(drawn.obs["component"]) == {"type 1"}
    model.save(tmp_path / "model")
    export(tmp_path / "model", out=tmp_path / "csv", overwrite=False)
    components = pd.read_csv(tmp_path / "csv" / "components.csv")
    assert components["component"].tolist() == written.tolist()
    probabilities = pd.read_csv(tmp_path / "csv" / "probabilities.csv", index_col="cell")
    assert probabilities.columns.tolist() == [f"component_{name}" for name in TYPES]


def test_new_cells_without_a_label_get_its_levels(model: FittedModel) -> None:
    new = table()[:30].copy()
    new.obs.drop(columns="type", inplace=True)  # pyright: ignore[reportAttributeAccessIssue]
    found = model.project(new)
    assert found.component_names == TYPES
    named = np.asarray(found.component_names)[found.components()]
    assert (named == np.asarray(table().obs["type"])[:30]).mean() > 0.8
