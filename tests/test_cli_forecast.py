"""The command line fits dynamics to coordinates of snapshots, and tells where cells are at another time."""

from __future__ import annotations

import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import chreode as ch
from commandline import chreode

N = 90
COURSE = ("--time", "day", "--coordinates", "X_pca")
QUICK = ("--set", "hidden=[8]", "--epochs", "5", "--no-report")


def course(days: object = None, key: str = "X_pca") -> ad.AnnData:
    """Cells without features that drift along the first of six coordinates, at three times."""
    days = np.repeat([0.0, 1.0, 3.0], N // 3) if days is None else days
    x = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
    x[:, 0] += np.repeat([0.0, 1.0, 3.0], N // 3)
    return ad.AnnData(obs=pd.DataFrame({"day": days}, index=[f"cell{i}" for i in range(N)]), obsm={key: x})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a course and a finished run on its first five coordinates."""
    folder = tmp_path_factory.mktemp("course")
    course().write_h5ad(folder / "course.h5ad")
    done = chreode(
        "fit",
        folder / "course.h5ad",
        *("--recipe", "cell_mnn", *COURSE, "--dims", 5, *QUICK, "--out", folder / "run"),
    )
    assert (done.code, done.err) == (0, "")
    return folder


@pytest.fixture
def run(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder / "run", tmp_path / "run"))


def written(*arguments: object) -> ad.AnnData:
    """Forecast by a command that works; returns what it wrote."""
    done = chreode("forecast", *arguments)
    assert (done.code, done.err) == (0, "")
    return ad.read_h5ad(done.out.rstrip("\n").rsplit(" to ", 1)[1].rstrip("."))


def refused(*arguments: object) -> str:
    """What is said of a command that is refused."""
    done = chreode(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    return done.err


# ---- fit


def test_coordinates_are_what_is_fitted(folder):
    model = ch.load(folder / "run")
    assert model.layout.in_role("time").times == (0.0, 1.0, 3.0)
    np.testing.assert_array_equal(model.embedded.embedding, course().obsm["X_pca"][:, :5])
    copy = ad.read_h5ad(folder / "run/cells.h5ad")
    np.testing.assert_array_equal(copy.obsm["X_pca"], course().obsm["X_pca"])
    np.testing.assert_array_equal(copy.obsm["X_cell_mnn"], course().obsm["X_pca"][:, :5])


def test_new_cells_may_call_their_coordinates_otherwise(run):
    course(key="X_other").write_h5ad("new.h5ad")
    assert "Expected obsm['X_pca']" in refused("project", run, "new.h5ad", "--out", "codes.h5ad")
    done = chreode("project", run, "new.h5ad", "--coordinates", "X_other", "--out", "codes.h5ad")
    assert done.code == 0, done.err
    codes = ad.read_h5ad("codes.h5ad").obsm["X_cell_mnn"]
    np.testing.assert_array_equal(codes, course().obsm["X_pca"][:, :5])


def _with_nan() -> ad.AnnData:
    adata = course()
    adata.obsm["X_pca"][7, 1] = np.nan
    return adata


def _alone() -> ad.AnnData:
    return course(np.where(np.arange(N) == 0, 9.0, np.repeat([0.0, 1.0, 3.0], N // 3)))


def _in_x() -> ad.AnnData:
    there = course()
    return ad.AnnData(there.obsm["X_pca"], obs=there.obs)


WRONG = {
    "no such key": (
        course,
        ("--coordinates", "X_umap"),
        r"Expected obsm['X_umap'] in course.h5ad; found 'X_pca'",
    ),
    "no coordinates at all": (_in_x, (), "it has no obsm. Where X itself holds them"),
    "too many dimensions": (course, ("--dims", 7), "Expected 7 dimensions in obsm['X_pca']"),
    "no dimension": (course, ("--dims", 0), "Expected dims to be a whole number of at least 1; found 0"),
    "missing coordinates": (_with_nan, (), "1 of 90 cells with missing or infinite ones (first: 'cell7')"),
    "counts beside": (course, ("--counts", "raw"), "alone; found 'counts' beside it"),
    "one time": (lambda: course(np.ones(N)), (), "at least two times in column 'day'; found one, 1"),
    "text": (lambda: course(["early", "late"] * (N // 2)), (), "Expected numbers in column 'day'"),
    "a single cell": (_alone, (), "found a single one at '9'"),
    "no column": (course, ("--time", "hour"), "a column 'hour'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_fitted_is_refused(what):
    make, options, said = WRONG[what]
    make().write_h5ad("course.h5ad")
    typed = dict(zip(COURSE[::2], COURSE[1::2], strict=True)) | dict(
        zip(options[::2], options[1::2], strict=True)
    )
    reading = [part for pair in typed.items() for part in pair]
    assert said in refused("fit", "course.h5ad", "--recipe", "cell_mnn", *reading, *QUICK, "--out", "run")
    assert not Path("run").exists()


def test_coordinates_in_x_are_read_as_continuous_values():
    _in_x().write_h5ad("course.h5ad")
    fit = ("fit", "course.h5ad", "--recipe", "flow_matching", "--time", "day", "--values", "continuous")
    assert chreode(*fit, *QUICK, "--out", "run").code == 0
    np.testing.assert_array_equal(ch.load("run").embedded.embedding, course().obsm["X_pca"])
    assert "held_out" not in Path("run/scores.json").read_text()


def test_dynamics_need_times_and_dims_need_coordinates():
    course().write_h5ad("course.h5ad")
    fit = ("fit", "course.h5ad", "--recipe", "cell_mnn", *QUICK, "--out", "run")
    done = chreode(*fit, "--coordinates", "X_pca")
    assert (done.code, "Expected cells with times; found none" in done.err) == (2, True)
    assert "Expected --coordinates beside --dims 5" in refused(*fit, "--dims", 5)


# ---- forecast


def test_cells_of_the_last_time_before_set_out(run):
    there = written(run, "--to", 1.5, "--out", "there.h5ad")
    assert there.X is None
    assert there.obs_names.tolist() == [f"cell{i}" for i in range(30, 60)]
    assert set(there.obs["day"]) == {1.0}
    assert set(there.obs["to"]) == {1.5}
    np.testing.assert_array_equal(there.obsm["X_cell_mnn"], ch.load(run).forecast(to=1.5))


def test_beyond_the_last_time_and_into_the_folder_of_the_run(run):
    there = written(run, "--to", 30)
    assert (run / "forecasts/30.h5ad").is_file()
    assert set(there.obs["day"]) == {3.0}
    assert np.isfinite(there.obsm["X_cell_mnn"]).all()


def test_cells_of_a_file_set_out_at_their_own_times(run):
    new = course(np.repeat([0.5, 2.0, 5.0], N // 3), key="X_other")
    new.obs = new.obs.rename(columns={"day": "hour"})
    new.write_h5ad("new.h5ad")
    other = ("--from", "new.h5ad", "--time", "hour", "--coordinates", "X_other")
    there = written(run, "--to", 2, *other, "--out", "there.h5ad")
    before = new.obsm["X_other"][:, :5]
    np.testing.assert_array_equal(there.obs["day"], new.obs["hour"])
    moved = np.abs(there.obsm["X_cell_mnn"] - before).max(1) > 1e-5
    assert moved.tolist() == [True] * 30 + [False] * 30 + [True] * 30  # those of time 2 are there


def test_expected_values_go_into_x(run):
    there = written(run, "--to", 2, "--expected", "--out", "there.h5ad")
    assert there.var_names.tolist() == [f"X_pca {i}" for i in range(1, 6)]
    np.testing.assert_allclose(there.X, there.obsm["X_cell_mnn"], atol=1e-5)
    np.testing.assert_array_equal(there.X, ch.load(run).forecast(to=2, expected=True))


def test_what_is_knocked_out_stays_at_zero(run):
    there = written(run, "--to", 2, "--knock-out", "X_pca 1", "--knock-out", "X_pca 3")
    assert (run / "forecasts/2_without_X_pca_1_without_X_pca_3.h5ad").is_file()
    held = ch.load(run).forecast(to=2, knock_out=["X_pca 1", "X_pca 3"])
    np.testing.assert_array_equal(there.obsm["X_cell_mnn"], held)
    np.testing.assert_allclose(held[:, [0, 2]], 0, atol=1e-5)
    said = refused("forecast", run, "--to", 2, "--knock-out", "X_pca_1")
    assert "found 'X_pca_1'. Did you mean 'X_pca 1'" in said


def test_a_file_that_is_there_is_replaced_only_when_told(run):
    first = written(run, "--to", 1.5, "--out", "there.h5ad")
    assert "add --overwrite" in refused("forecast", run, "--to", 2, "--out", "there.h5ad")
    np.testing.assert_array_equal(ad.read_h5ad("there.h5ad").obsm["X_cell_mnn"], first.obsm["X_cell_mnn"])
    assert set(written(run, "--to", 2, "--out", "there.h5ad", "--overwrite").obs["to"]) == {2.0}
    assert "Expected --out to name a .h5ad file" in refused("forecast", run, "--to", 2, "--out", "there.csv")


TIMES = {
    "before the first": (-1, (), "Expected a time after the first measured one, 0; found -1"),
    "the first": (0, (), "Expected a time after the first measured one, 0; found 0"),
    "not a number": ("nan", (), "Expected times as finite numbers"),
}


@pytest.mark.parametrize("what", TIMES)
def test_times_that_cannot_be_forecast_are_refused(what, run):
    to, options, said = TIMES[what]
    assert said in refused("forecast", run, "--to", to, *options, "--out", "there.h5ad")
    assert not Path("there.h5ad").exists()


def test_a_file_before_the_first_time_or_without_times_is_refused(run):
    course().write_h5ad("new.h5ad")
    done = chreode("forecast", run, "--from", "new.h5ad", "--to", -1, "--out", "there.h5ad")
    assert (done.code, "Expected times from the first measured one on, 0; found -1" in done.err) == (2, True)
    without = course()
    del without.obs["day"]
    without.write_h5ad("new.h5ad")
    done = chreode("forecast", run, "--from", "new.h5ad", "--to", 2, "--out", "there.h5ad")
    assert done.code == 2
    assert "in column 'day'; found 90 cells without one" in done.err
    _with_nan().write_h5ad("new.h5ad")
    assert "'cell7'" in refused("forecast", run, "--from", "new.h5ad", "--to", 2, "--out", "there.h5ad")
    assert not Path("there.h5ad").exists()


def test_a_model_saved_without_its_cells_moves_those_it_is_given(run):
    course().write_h5ad("new.h5ad")
    ch.load(run).save("bare", cells=False)
    assert "Expected a model that was saved with its cells" in refused("forecast", "bare", "--to", 2)
    there = written("bare", "--to", 2, "--from", "new.h5ad", "--out", "there.h5ad")
    np.testing.assert_array_equal(there.obsm["X_cell_mnn"], ch.load(run).forecast(course(), to=2))


def test_a_model_without_dynamics_says_which_have_some():
    course().write_h5ad("course.h5ad")
    options = ("--recipe", "pca", "--set", "dim=2", *COURSE, "--epochs", "2", "--no-report", "--out", "run")
    assert chreode("fit", "course.h5ad", *options).code == 0
    said = refused("forecast", "run", "--to", 2)
    assert "Expected a model of how cells move in time, such as cell_mnn; found pca" in said
    assert not Path("run/forecasts").exists()
