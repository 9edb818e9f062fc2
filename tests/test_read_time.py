"""Times at which cells were measured: read as numbers, kept beside the cells, and never seen by a decoder."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import chreode as ch
from chreode.errors import InputError
from commandline import chreode

N = 60


def course(times: object = None, **columns: object) -> ad.AnnData:
    counts = np.random.default_rng(0).poisson(3.0, (N, 8)).astype(np.float32)
    days = np.repeat([0.0, 1.5, 4.0], N // 3) if times is None else times
    return ad.AnnData(counts, obs=pd.DataFrame({"day": days, **columns}, index=[f"c{i}" for i in range(N)]))


def test_times_are_kept_as_they_are():
    cells = ch.read(course(), time="day")
    covariate = cells.layout.in_role("time")
    assert covariate is not None
    assert covariate.times == (0.0, 1.5, 4.0)
    assert cells.time.tolist() == [0.0] * 20 + [1.5] * 20 + [4.0] * 20
    assert cells.snapshot.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert "time 'day'" in repr(cells)


@pytest.mark.parametrize(
    "times",
    [
        np.repeat([0, 2, 10], 20),
        pd.Categorical(np.repeat(["0", "2", "10"], 20)),
        np.repeat(["0", "2", "10"], 20).astype(object),
    ],
    ids=["integers", "categories", "text"],
)
def test_numbers_of_whatever_type_are_times_in_numeric_order(times):
    cells = ch.read(course(times), time="day")
    assert cells.layout.covariates["day"].times == (0.0, 2.0, 10.0)


def test_a_decoder_does_not_see_the_time():
    cells = ch.read(course(), time="day")
    assert not cells.layout.conditions
    plain = ch.fit(ch.read(course()), ch.recipes.scdgd(dim=2), epochs=2, validation=0, progress=False)
    timed = ch.fit(cells, ch.recipes.scdgd(dim=2), epochs=2, validation=0, progress=False)
    np.testing.assert_array_equal(plain.embedded.embedding, timed.embedded.embedding)
    with pytest.raises(InputError, match="'day'"):
        timed.embedded.do(time=2.0)


def test_a_model_keeps_the_times_and_new_cells_may_have_any_or_none(tmp_path):
    model = ch.fit(ch.read(course(), time="day"), ch.recipes.scdgd(dim=2), epochs=2, progress=False)
    model.save(tmp_path / "model")
    loaded = ch.load(tmp_path / "model")
    assert loaded.layout.covariates["day"].times == (0.0, 1.5, 4.0)
    later = course(np.full(N, 2.0))
    new = loaded.project(later, progress=False).cells
    assert new.time.tolist() == [2.0] * N
    assert (new.snapshot == -1).all()
    none = course()
    del none.obs["day"]
    assert torch.isnan(loaded.project(none, progress=False).cells.time).all()


def test_files_of_one_time_each_are_read_together():
    early, late = course()[:20].copy(), course()[40:].copy()
    cells = ch.read({"early": early, "late": late}, time="day")
    assert cells.layout.covariates["day"].times == (0.0, 4.0)
    assert cells.snapshot.tolist() == [0] * 20 + [1] * 20


WRONG = {
    "one time": (lambda: course(np.ones(N)), "at least two times in column 'day'; found one, 1"),
    "text": (lambda: course(["early", "late"] * (N // 2)), "numbers in column 'day', which is a time"),
    "a single cell": (lambda: course([9.0, *[1.0, 2.0] * (N // 2)][:N]), "found a single one at '?9'?"),
    "far from 0": (lambda: course(20231105.0 + np.arange(N) % 3), "found 20231105 to 20231107, too far"),
    "missing": (
        lambda: course([np.nan, *np.ones(N - 1)]),
        "a time for every cell in column 'day'",
    ),
    "infinite": (lambda: course([np.inf, *np.ones(N - 1)]), "finite numbers in column 'day'"),
    "no column": (lambda: course().copy(), "a column 'hour'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_times_are_refused_with_what_was_found(what):
    make, said = WRONG[what]
    with pytest.raises(InputError, match=said):
        ch.read(make(), time="hour" if what == "no column" else "day")


@pytest.mark.parametrize("asked", ["time", "snapshot"])
def test_cells_without_times_say_how_to_read_them(asked):
    with pytest.raises(InputError, match="Read them with time=COLUMN"):
        getattr(ch.read(course()), asked)


def test_a_column_has_one_role():
    with pytest.raises(InputError, match="more than once among batch, label, covariates, time"):
        ch.read(course(), time="day", covariates="day")


def test_the_command_line_takes_the_column(tmp_path):
    course().write_h5ad(tmp_path / "course.h5ad")
    options = ("--time", "day", "--epochs", 1, "--set", "dim=2", "--no-report", "--out", tmp_path / "run")
    assert chreode("fit", tmp_path / "course.h5ad", *options).code == 0
    assert ch.load(tmp_path / "run").layout.covariates["day"].times == (0.0, 1.5, 4.0)
