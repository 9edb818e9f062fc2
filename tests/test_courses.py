"""Courses that are followed apart, and perturbations that hold a feature: what a field learns from them."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import chreode as ch
from chreode.courses import courses
from chreode.errors import InputError
from chreode.interpret.interactions import jacobians
from chreode.report.flow import arrivals
from commandline import chreode

DAYS = (0.0, 1.0, 2.0)
EACH = 60
GENES = ("GATA1", "PU1", "KLF1")


def shifted(courses_: dict[str, tuple[tuple[float, ...], float]], *, seed: int = 0) -> ad.AnnData:
    """Cells of several courses, each with times of its own, that drift to the right by 3 a day."""
    rng, states, obs = np.random.default_rng(seed), [], []
    for name, (days, height) in courses_.items():
        for day in days:
            states.append(rng.normal([3 * day, height], 0.3, (EACH, 2)))
            obs += [(name, day)] * EACH
    frame = pd.DataFrame(obs, columns=["study", "day"], index=[f"cell {i}" for i in range(len(obs))])
    return ad.AnnData(obs=frame, obsm={"X_known": np.concatenate(states).astype(np.float32)})


def perturbed(seed: int = 0) -> ad.AnnData:
    """Three genes as coordinates: GATA1 makes KLF1; in some cells it is knocked out, and KLF1 decays."""
    rng, states, obs = np.random.default_rng(seed), [], []
    for level in ("control", "GATA1"):
        for day in DAYS:
            x = rng.normal([2.0, 1.0, 1.0], 0.3, (EACH, 3))
            if level == "GATA1":
                x[:, 0] = 0
            x[:, 2] = x[:, 0] + (x[:, 2] - x[:, 0]) * np.exp(-day)  # d KLF1 / dt = GATA1 - KLF1
            states.append(x)
            obs += [(level, day)] * len(x)
    frame = pd.DataFrame(obs, columns=["guide", "day"], index=[f"cell {i}" for i in range(len(obs))])
    var = pd.DataFrame(index=pd.Index(GENES))
    return ad.AnnData(np.concatenate(states).astype(np.float32), obs=frame, var=var)


def read_perturbed(**options) -> ch.Cells:
    return ch.read(perturbed(), values="continuous", time="day", **options)


@pytest.mark.parametrize(
    "recipe", [ch.recipes.cell_mnn(), ch.recipes.flow_matching(), ch.recipes.neural_ode()]
)
def test_courses_of_different_times_teach_one_field(recipe) -> None:
    """The second study was never measured on day 1; cells of one become cells of the same."""
    adata = shifted({"a": ((0.0, 1.0, 2.0), 0.0), "b": ((0.0, 2.0), 8.0)})
    cells = ch.read(adata, coordinates="X_known", time="day", course="study")
    model = ch.fit(cells, recipe, epochs=100, progress=False)
    first = adata[adata.obs["day"] == 0].copy()
    for study, day, height in (("a", 1.0, 0.0), ("a", 2.0, 0.0), ("b", 2.0, 8.0)):
        there = model.forecast(first, to=day)[first.obs["study"] == study].mean(0)
        np.testing.assert_allclose(there, [3 * day, height], atol=0.8)


def test_a_minibatch_is_cut_into_courses_by_what_was_read() -> None:
    adata = shifted({"a": ((0.0, 1.0, 2.0), 0.0), "b": ((0.0, 2.0), 8.0)})
    cells = ch.read(adata, coordinates="X_known", time="day", course="study").numbered()
    build = ch.recipes.cell_mnn().build(cells.layout)
    found = courses(build.model, build.model(cells), "cell")
    assert [course.times for course in found] == [[0, 1, 2], [0, 2]]
    assert [course.n_cells for course in found] == [3 * EACH, 2 * EACH]
    steps = list(found[1].steps())
    assert [(float(s.start), float(s.end)) for s in steps] == [(0.0, 2.0)]
    alone = build.model(cells[cells.snapshot == 0])
    assert not courses(build.model, alone, "cell")
    for term in build.objective.terms:
        assert float(term.of(build.model, alone)) == 0


def test_what_is_held_stands_still_and_teaches_what_it_does() -> None:
    adata = perturbed()
    recipe = ch.recipes.neural_ode(energy=0.01, hidden=(32, 32), steps=2)
    model = ch.fit(read_perturbed(perturbation="guide"), recipe, epochs=200, progress=False)
    first = adata[adata.obs["day"] == 0].copy()
    out = (first.obs["guide"] == "GATA1").to_numpy()
    later = model.forecast(first, to=2.0)
    np.testing.assert_allclose(later[out, 0], 0, atol=1e-5)  # as the cells were, without a knock_out=
    for where, expected in ((out, np.exp(-2.0)), (~out, 2 - np.exp(-2.0))):
        assert later[where, 2].mean() == pytest.approx(expected, abs=0.25)
    assert jacobians(model)[:, 2, 0].mean() == pytest.approx(1, abs=0.5)


def test_without_the_column_the_gene_is_taken_to_move() -> None:
    """Beside `test_what_is_held_stands_still_and_teaches_what_it_does`: the same cells, all in one course."""
    model = ch.fit(read_perturbed(), ch.recipes.flow_matching(), epochs=50, progress=False)
    assert len(model.layout.covariates) == 1
    adata = perturbed()
    start = adata[(adata.obs["day"] == 0) & (adata.obs["guide"] == "GATA1")].copy()
    assert np.abs(model.forecast(start, to=2.0)[:, 0]).mean() > 0.02


def test_a_knock_out_is_held_beside_a_perturbation() -> None:
    model = ch.fit(read_perturbed(perturbation="guide"), ch.recipes.flow_matching(), epochs=2, progress=False)
    found = model.forecast(to=3.0, knock_out={"PU1": 0.5})
    np.testing.assert_allclose(found[:, 1], 0.5, atol=1e-5)
    rows = (model.embedded.cells.snapshot == 2) & (model.embedded.cells.perturbation >= 0)
    before = model.embedded.codes["cell"][rows].numpy()
    held = model.embedded.cells.level_names("guide")[rows.numpy()] == "GATA1"
    np.testing.assert_allclose(found[held, 0], before[held, 0], atol=1e-5)


def test_of_components_the_direction_of_the_gene_is_held() -> None:
    cells = ch.read(perturbed(), values="continuous", time="day", perturbation="guide")
    model = ch.fit(cells, ch.recipes.neural_ode(dim=2), epochs=2, progress=False)
    embedded, which = model.embedded, model.embedded.cells.level_names("guide") == "GATA1"
    row = model.module.latents["cell"].infer.linear("rna").weight[0].numpy()
    moved = model.forecast(perturbed()[which].copy(), to=5.0)
    start = embedded.codes["cell"].numpy()[which]
    np.testing.assert_allclose(moved @ row, start @ row, atol=1e-4)
    assert np.abs(moved - start).max() > 1e-3


def test_the_columns_are_kept_with_the_model(tmp_path) -> None:
    adata = perturbed()
    adata.obs["study"] = np.resize(["a", "b"], len(adata))
    cells = ch.read(adata, values="continuous", time="day", course="study", perturbation="guide")
    assert "course 'study' (2 levels)" in repr(cells)
    assert cells.layout.n_courses == 4
    assert not cells.layout.conditions
    model = ch.fit(cells, ch.recipes.flow_matching(), epochs=2, progress=False)
    model.save(tmp_path / "run")
    loaded = ch.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.forecast(adata, to=3.0), model.forecast(adata, to=3.0))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"course": "study"}, r"Expected times beside course='study'"),
        ({"time": "day", "perturbation": "other"}, r"found 'GATA', 'none'\. Did you mean 'GATA1'\?"),
        ({"time": "day", "perturbation": "study"}, r"at most one more .* found 'a', 'b'"),
        (
            {"time": "day", "course": "late"},
            r"two times or more in every course; found those of 'x' at 2 alone",
        ),
    ],
)
def test_what_teaches_nothing_is_refused(options: dict[str, str], said: str) -> None:
    adata = perturbed()
    adata.obs["study"] = np.resize(["a", "b"], len(adata))
    adata.obs["other"] = np.resize(["GATA", "none"], len(adata))
    adata.obs["late"] = np.where(adata.obs["day"] == 2, "x", "y")
    with pytest.raises(InputError, match=said):
        ch.read(adata, values="continuous", **options)


def test_the_command_line_takes_both_columns(tmp_path) -> None:
    adata = perturbed()
    adata.obs["study"] = np.resize(["a", "b"], len(adata))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    options = ("--time", "day", "--course", "study", "--perturbation", "guide", "--values", "continuous")
    options += ("--recipe", "flow_matching", "--epochs", 1, "--no-report", "--out", tmp_path / "run")
    assert chreode("fit", tmp_path / "cells.h5ad", *options).code == 0
    assert ch.load(tmp_path / "run").layout.n_courses == 4


def test_growth_counts_within_a_course() -> None:
    adata = shifted({"a": ((0.0, 1.0), 0.0), "b": ((0.0, 1.0), 8.0)})
    adata.obs["rate"] = np.linspace(-1, 1, len(adata))
    cells = ch.read(adata, coordinates="X_known", time="day", course="study", growth="rate").numbered()
    build = ch.recipes.flow_matching().build(cells.layout)
    for number, course in enumerate(courses(build.model, build.model(cells), "cell")):
        (step,) = course.steps()
        assert step.grown is not None
        first = (adata.obs["study"] == ("a", "b")[number]) & (adata.obs["day"] == 0)
        np.testing.assert_allclose(step.grown.numpy(), np.exp(adata.obs["rate"][first]), rtol=1e-5)


def test_a_forecast_sets_out_from_the_last_time_of_each_course() -> None:
    adata = shifted({"a": ((0.0, 1.0, 2.0), 0.0), "b": ((0.0, 2.0), 8.0)})
    cells = ch.read(adata, coordinates="X_known", time="day", course="study")
    model = ch.fit(cells, ch.recipes.flow_matching(), epochs=60, progress=False)
    there = model.forecast(to=2.0)
    assert len(there) == 2 * EACH  # of day 1 and, in the other study, of day 0
    assert (there[:, 1] > 4).sum() == EACH
    (_, last) = arrivals(model.embedded)
    assert len(last.measured) == 2 * EACH
    assert last.wasserstein[0] < 0.5 * last.wasserstein[1]


def test_several_sources_are_courses_and_one_may_have_no_perturbation() -> None:
    adata = perturbed()
    wild = adata[adata.obs["guide"] == "control"].copy()
    del wild.obs["guide"]
    sources = {"wild": wild, "screen": adata}
    cells = ch.read(sources, values="continuous", time="day", course="source", perturbation="guide")
    assert cells.layout.in_role("course").levels == ("wild", "screen")  # type: ignore[union-attr]
    assert (cells.perturbation[: len(wild)] == -1).all()
    model = ch.fit(cells, ch.recipes.flow_matching(), epochs=1, progress=False)
    assert len(model.forecast(to=3.0)) == 3 * EACH


def test_no_perturbation_is_the_same_whatever_it_is_called() -> None:
    """Cells of the control on two days and cells without a level on the third are one course."""
    adata = perturbed()
    control = (adata.obs["guide"] == "control").to_numpy()
    adata.obs["guide"] = adata.obs["guide"].where(~control | (adata.obs["day"] < 2), None)
    cells = ch.read(adata, values="continuous", time="day", perturbation="guide").numbered()
    build = ch.recipes.flow_matching().build(cells.layout)
    assert [c.times for c in courses(build.model, build.model(cells), "cell")] == [[0, 1, 2], [0, 1, 2]]


def test_a_gene_that_codes_do_not_have_is_refused_before_training() -> None:
    adata = perturbed()
    adata.X[:, 1] = 0.7
    adata.obs["guide"] = np.where(adata.obs["guide"] == "GATA1", "PU1", "control")
    cells = ch.read(adata, values="continuous", time="day", perturbation="guide")
    with pytest.raises(InputError, match="2 coordinates can hold; found 'PU1'"):
        ch.fit(cells, ch.recipes.neural_ode(dim=2), epochs=1, progress=False)


def test_a_perturbation_that_was_not_trained_is_said_to_be_free(caplog) -> None:
    model = ch.fit(read_perturbed(perturbation="guide"), ch.recipes.flow_matching(), epochs=1, progress=False)
    adata = perturbed()
    adata.obs["guide"] = "KLF1"
    said = " ".join(ch.read(adata, like=model).reading.messages)
    assert "Nothing is held in these cells: name what is with knock_out=" in said
