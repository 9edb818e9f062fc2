"""Comparisons: honest spread, ties called ties, differences found, and nothing lost on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape
from scipy.stats import t

import chreode as ch
from chreode.comparing import listed_recipes
from chreode.comparison import NOISE, Comparison
from chreode.errors import InputError
from chreode.evaluate.paired import interval
from chreode.parcel import read_cells, write_cells
from chreode.recipe import registry
from chreode.report.comparing import _group, dots
from chreode.split import Split
from commandline import chreode, small

HOW = {"epochs": 3, "isolate": False, "progress": False}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """240 cells of three types in two batches, with an embedding of their types and one of nothing."""
    path = tmp_path_factory.mktemp("compare") / "cells.h5ad"
    adata = small(240)
    rng = np.random.default_rng(0)
    kinds = np.array([[0, 0], [5, 0], [0, 5]])[adata.obs["type"].cat.codes]
    adata.obsm["X_known"] = kinds + rng.normal(scale=0.6, size=(240, 2))
    adata.obsm["X_alike"] = kinds + rng.normal(scale=0.6, size=(240, 2))
    adata.obsm["X_noise"] = rng.normal(size=(240, 2))
    adata.obs["part"] = adata.obs["type"].where(np.arange(240) > 0)
    adata.obs["site"] = pd.Categorical(["here"] * 240)
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def cells(file):
    return ch.read(file, label="type", batch="donor")


@pytest.fixture(scope="module")
def plain(file):
    """The same without label and batch, which spares most scores where none is asked for."""
    return ch.read(file)


def quick(**arguments):
    return ch.recipes.autodecoder(dim=2, hidden=(8,), **arguments)


@pytest.fixture(scope="module")
def found(cells):
    """Two recipes that are nearly the same, and three embeddings that are not."""
    recipes = [quick(), quick(code_lr=0.011)]
    embeddings = ["X_known", "X_alike", "X_noise"]
    return ch.compare(cells, recipes, seeds=2, embeddings=embeddings, **HOW)


@pytest.fixture
def failing():
    """Recipes that fail, registered for one test only."""
    sys.modules.pop("failing_recipes", None)
    import failing_recipes

    yield failing_recipes
    for name in ("refusing", "dying"):
        registry.pop(name)


# ---- the interval


def test_interval_is_the_closed_form():
    by_seed, by_part = np.array([0.2, 0.5, 0.35]), np.array([[0.1, 0.3], [0.4, 0.7], [0.3, 0.5]])
    fits, of_cells = by_seed.var(ddof=1) / 3, ((by_part.mean(0) - 0.35) ** 2).sum() / 2
    freedom = (fits + of_cells) ** 2 / (fits**2 / 2 + of_cells**2)
    half = t.ppf(0.975, freedom) * np.sqrt(fits + of_cells)
    np.testing.assert_allclose(interval(by_seed, by_part), [0.35, 0.35 - half, 0.35 + half])


@pytest.mark.parametrize(("of_seeds", "of_cells"), [(1.0, 0.1), (0.1, 1.0), (0.5, 0.5)])
def test_a_difference_of_nothing_is_within_the_interval_as_often_as_it_says(of_seeds, of_cells):
    rng, inside = np.random.default_rng(1), 0
    for _ in range(1000):
        seeds = rng.normal(scale=of_seeds * 3**0.5, size=(3, 1))
        parts = seeds + rng.normal(scale=of_cells * 5**0.5, size=5) + 0.02 * rng.normal(size=(3, 5))
        _, low, high = interval(parts.mean(1), parts)
        inside += low <= 0 <= high
    assert 920 <= inside <= 990


def test_one_seed_says_nothing_of_noise():
    assert np.isnan(interval(np.ones(1), np.ones((1, 5)))[1])
    assert interval(np.ones(1), np.ones((1, 5)), repeatable=True) == (1.0, 1.0, 1.0)


# ---- verdicts from planted results


def planted(means, *, seeds=3, spread=0.01, score="gain", taught=()):
    rng, results = np.random.default_rng(3), []
    for name, mean in means.items():
        for seed in range(seeds):
            value = mean + rng.normal(scale=spread)
            facts = {
                "trial": {"name": name, "recipe": {"name": name}, "seed": seed, "subset": False},
                "scores": {score: value},
                "parts": {score: (value + rng.normal(scale=spread, size=5)).tolist()},
                "seconds": 1.0,
                "taught": name in taught,
            }
            results.append((facts, {}))
    return Comparison(results, purposes=["reconstruction", "clustering"], data={})


def test_a_planted_difference_is_found():
    verdict = planted({"a": 0.5, "b": 0.8, "c": 0.6}).winner("reconstruction")
    assert (verdict.winner, verdict.tied) == ("b", ())
    assert "b wins" in verdict.sentence
    assert "ahead of c" in verdict.sentence


def test_a_planted_tie_is_within_noise():
    verdict = planted({"a": 0.5, "b": 0.8, "c": 0.8}).winner("reconstruction")
    assert verdict.winner is None
    assert {verdict.leader, *verdict.tied} == {"b", "c"}
    assert "no winner" in verdict.sentence
    assert "behind by more than noise: a" in verdict.sentence


def test_of_lower_scores_the_lowest_leads():
    found = planted({"a": 0.5, "b": 0.8}, score="nats_per_value")
    assert found.winner("reconstruction").winner == "a"
    assert (found.differences("reconstruction")["difference"] > 0).all()


def test_who_was_taught_the_label_cannot_win_by_it():
    verdict = planted({"a": 0.9, "b": 0.5}, score="clustering", taught=("a",)).winner("clustering")
    assert (verdict.leader, verdict.excluded) == ("b", ("a",))
    assert "a saw the label" in verdict.sentence


def test_parts_that_say_nothing_are_not_taken_for_a_single_seed():
    found = planted({"a": 0.9, "b": 0.5})
    for facts, _ in found.results:
        facts["parts"] = {"gain": [float("nan")] * 5}
    assert "so few cells" in found.winner("reconstruction").sentence


def test_what_could_not_be_scored_says_what_it_needs():
    assert "each of two levels or more" in planted({"a": 0.5}).winner("integration").sentence


def test_a_single_seed_makes_no_winner():
    verdict = planted({"a": 0.9, "b": 0.5}, seeds=1).winner("reconstruction")
    assert verdict.winner is None
    assert "single seed" in verdict.sentence


# ---- what is drawn and printed


@pytest.mark.parametrize("ends", [(0.075, 0.82), (0.289, 0.322), (17.0, 28.5), (5.0, 5.0), (-0.013, 0.067)])
def test_an_axis_has_two_marks_or_more(ends):
    chart = dots({"a": ends}, colours={"a": "#000000"})
    assert 2 <= len(chart["ticks"]) <= 6


def test_recipes_of_long_names_are_told_apart_in_charts():
    names = [
        "scdgd",
        "scdgd:dim=5:hidden=[50,50]",
        "scdgd:dim=50:hidden=[50,50]",
        "scvi:dim=5:hidden=[50,50]",
    ]
    chart = dots({name: [1.0] for name in names}, colours=dict.fromkeys(names, "#000000"))
    short = [row["short"] for row in chart["rows"]]
    assert len(set(short)) == 4
    assert max(map(len, short)) <= 15


@pytest.mark.parametrize("label", ["", "type"])
def test_batches_are_said_to_mix_within_labels_only_where_there_are_some(label):
    found = planted({"a": 0.5}, score="batch_mixing")
    found.data["label"] = label
    group = _group(found, "Batch", {"a": "#000000"})
    assert group["charts"][0]["meaning"].startswith("within label") == bool(label)


def test_rows_of_many_recipes_are_not_broken_in_a_file(file, tmp_path, monkeypatch):
    found = planted({f"recipe{i}": i / 10 for i in range(6)})
    monkeypatch.setattr("chreode.comparing.compare_cells", lambda *_, **__: found)
    out = chreode("compare", file, "--recipes", "pca", "--out", tmp_path / "out").out
    row = next(line for line in out.splitlines() if "gain, nats a held-out molecule" in line)
    assert row.count("±") == 6


def test_the_command_says_that_nothing_could_be_fitted(file, tmp_path, monkeypatch):
    trial = {"name": "pca", "recipe": {"name": "pca"}, "seed": 0, "subset": False}
    found = Comparison([({"trial": trial, "error": "no room"}, {})], purposes=["clustering"], data={})
    monkeypatch.setattr("chreode.comparing.compare_cells", lambda *_, **__: found)
    typed = chreode("compare", file, "--recipes", "pca", "--out", tmp_path / "out")
    assert typed.code == 2
    assert "every run failed (pca: no room)" in typed.err


# ---- whole comparisons


def test_spread_is_that_of_the_runs(found):
    row = found.table.loc["autodecoder:dim=2:hidden=[8]"]
    runs = [f for f, _ in found.results if f["trial"]["name"] == row.name and not f["trial"]["subset"]]
    first, second = (f["scores"]["gain"] for f in runs)
    assert row["gain"] == pytest.approx((first + second) / 2)
    assert row["gain_sd"] == pytest.approx(abs(first - second) / 2**0.5)
    assert row["runs"] == 2


def test_recipes_that_are_nearly_the_same_are_tied(found):
    verdict = found.winner("reconstruction")
    assert verdict.winner is None
    assert len(verdict.tied) == 1


@pytest.mark.parametrize("purpose", ["clustering", "integration"])
def test_embeddings_are_scored_beside(found, purpose):
    rows = found.differences(purpose).set_index(["recipe", "against"])
    alike = rows.index[[set(pair) == {"X_known", "X_alike"} for pair in rows.index]]
    assert rows.loc[alike, "within_noise"].all()
    assert not rows.loc[("X_known", "X_noise"), "within_noise"]
    assert found.table.loc["X_known", "clustering"] > 0.8
    assert np.isnan(found.table.loc["X_known", "gain"])


def test_embeddings_are_those_of_the_file(cells, found):
    import anndata

    codes = anndata.read_h5ad(cells.reading.source).obsm["X_known"]
    split = Split.draw(cells, seed=0)
    kept = {f["trial"]["name"]: arrays["codes"] for f, arrays in found.results}
    np.testing.assert_array_equal(kept["X_known"], codes[split.fitted.numpy()].astype(np.float32))


def test_held_out_molecules_are_scored_as_a_fitted_model_does(cells, found):
    from chreode.loop import mix

    split = Split.draw(cells, seed=0)
    model = ch.fit(cells[split.fitted], quick(), epochs=3, progress=False)
    expected = model.score(cells[split.test], seed=mix(0, 227))
    scores = found.results[0][0]["scores"]
    assert scores["nats_per_molecule"] == pytest.approx(expected["nats_per_molecule"], rel=1e-5)
    # Its profile is of the cells that trained, ours of all that were given.
    assert scores["gain"] == pytest.approx(expected["gain"], abs=0.01)


def test_no_cell_is_both_fitted_and_tested(cells):
    split = Split.draw(cells, seed=0)
    fitted, test, subset = (set(getattr(split, name).tolist()) for name in ("fitted", "test", "subset"))
    assert not fitted & test
    assert len(fitted | test) == len(cells)
    assert subset < fitted
    assert len(subset) == round(0.8 * len(fitted))
    assert set(split.sample.tolist()) <= subset
    again, other = Split.draw(cells, seed=0), Split.draw(cells, seed=1)
    assert again.test.equal(split.test)
    assert not other.test.equal(split.test)


def test_stability_is_told_between_seeds_and_subsets(found):
    stability = found.stability("autodecoder:dim=2:hidden=[8]")
    assert {"seeds_clusters", "subset_clusters", "seeds_neighbours", "subset_neighbours"} <= stability.keys()
    assert 0 <= stability["seeds_neighbours"] <= 1
    assert found.stability("X_known") == {}


def test_the_same_fit_twice_is_perfectly_stable():
    arrays = {"clusters": np.array([0, 0, 1, 1]), "neighbours": np.array([[1], [0], [3], [2]])}
    facts = [{"trial": {"name": "a", "recipe": {}, "seed": s, "subset": False}} for s in (0, 1)]
    other = {**arrays, "neighbours": np.array([[1], [2], [3], [0]])}
    same = Comparison([(f, arrays) for f in facts], purposes=[], data={})
    half = Comparison([(facts[0], arrays), (facts[1], other)], purposes=[], data={})
    assert same.stability("a") == {"seeds_clusters": 1.0, "seeds_neighbours": 1.0}
    assert half.stability("a")["seeds_neighbours"] == 0.5


# ---- what fails, and what is interrupted


def test_one_that_fails_spoils_no_other(plain, failing, caplog):
    found = ch.compare(plain, [failing.refusing(), quick()], seeds=1, purpose="reconstruction", **HOW)
    assert found.table.loc["refusing", "failed"].startswith("Expected other cells; found 194")
    assert found.table.loc["refusing", "runs"] == 0
    assert "refusing, seed 0 failed: Expected other cells" in caplog.text
    assert found.table["failed"].iloc[1] == ""
    assert found.table["gain"].notna().tolist() == [False, True]
    assert "only autodecoder" in found.winner("reconstruction").sentence


def test_a_killed_process_spoils_no_other(plain, failing, tmp_path):
    how = {**HOW, "isolate": True}
    found = ch.compare(plain, [failing.dying(), quick()], seeds=1, out=tmp_path / "out", **how)
    table = found.table
    assert "ended from outside (signal 9)" in table.loc["dying", "failed"] or sys.platform == "win32"
    assert table.loc["dying", "failed"]
    assert table["gain"].notna().tolist() == [False, True]
    assert table["memory"].iloc[1] >= 0
    assert table["seconds"].iloc[1] > 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "its process" in page
    assert "://" not in page


def test_a_killed_comparison_goes_on(file, plain, tmp_path):
    out = tmp_path / "out"
    code = (
        "import sys, chreode as ch; cells = ch.read(sys.argv[1]); "
        "ch.compare(cells, [ch.recipes.autodecoder(dim=2, hidden=(8,))], seeds=500, epochs=3, "
        "out=sys.argv[2], progress=False)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(file), str(out)]) as process:
        until = time.monotonic() + 300
        while not list(out.glob("runs/*/run.json")) and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("runs/*seed-0*/run.json")}
    assert kept
    assert not (out / "report.html").exists()
    done = len(list(out.glob("runs/*/run.json")))
    found = ch.compare(plain, [quick()], seeds=2, out=out, **HOW)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert done <= 3, "the worker went on without the comparison"
    assert found.table["runs"].tolist() == [2]
    assert (out / "report.html").is_file()


def test_a_changed_call_is_refused_and_a_longer_one_goes_on(file, plain, tmp_path):
    out, cells = tmp_path / "out", ch.read(file, label="type")
    first = ch.compare(plain, [quick()], seeds=1, out=out, purpose="reconstruction", **HOW)
    with pytest.raises(InputError, match="epochs was 3 and is 4"):
        ch.compare(plain, [quick()], seeds=1, out=out, **{**HOW, "epochs": 4})
    with pytest.raises(InputError, match="a changed one: other names of cells; other values"):
        ch.compare(plain[np.arange(200)], [quick()], seeds=1, out=out, **HOW)
    with pytest.raises(InputError, match=r"a changed one: label was None and is 'type'\."):
        ch.compare(cells, [quick()], seeds=1, out=out, **HOW)
    longer = ch.compare(plain, [quick()], seeds=2, out=out, purpose="reconstruction", **HOW)
    assert longer.runs["gain"][0] == first.runs["gain"][0]
    assert longer.table["runs"].tolist() == [2]
    other = ch.compare(plain, [quick()], seeds=1, out=out, overwrite=True, **{**HOW, "epochs": 4})
    assert other.runs["gain"][0] != first.runs["gain"][0]


def test_what_failed_is_tried_again(plain, failing, tmp_path):
    recipes, how = [failing.refusing()], {"seeds": 1, "out": tmp_path / "out", **HOW}
    ch.compare(plain, recipes, **how)
    broken = tmp_path / "out" / "runs"
    reasons = [json.loads(p.read_text())["error"] for p in broken.glob("*/run.json")]
    assert reasons
    assert all("Expected other cells" in reason for reason in reasons)
    marks = {p: p.stat().st_mtime_ns for p in broken.glob("*/run.json")}
    ch.compare(plain, recipes, **how)
    assert all(p.stat().st_mtime_ns > mark for p, mark in marks.items())


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"recipes": ["scdgx"]}, "found 'scdgx'"),
        ({"recipes": []}, "at least one recipe"),
        ({"recipes": [quick(), quick()]}, "each recipe once"),
        ({"recipes": [quick(), ch.recipes.scanvi()]}, "Expected a label.* Or leave scanvi out"),
        ({"seeds": 0}, "seeds of at least 1"),
        ({"purpose": "speed"}, "found 'speed'"),
        ({"embeddings": ["X_knwon"]}, "Did you mean 'X_known'"),
        ({"embeddings": {"X": np.zeros((3, 2))}}, "240 cells x dimensions"),
        ({"embeddings": {"X": np.full((240, 2), np.nan)}}, "not finite"),
        ({"epochs": 0}, "epochs"),
        ({"seed": -1}, "seed from 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_fitted(plain, change, found, monkeypatch):
    monkeypatch.setattr("chreode.trials.carry_out", lambda *_, **__: pytest.fail("something was fitted"))
    arguments = {"recipes": [quick()], **HOW, **change}
    with pytest.raises(InputError, match=found):
        ch.compare(plain, arguments.pop("recipes"), **arguments)


def test_integration_needs_a_batch(file):
    with pytest.raises(InputError, match=r"a batch of two levels or more .* found one level in 'site'"):
        ch.compare(ch.read(file, label="type", batch="site"), [quick()], purpose="integration", **HOW)
    with pytest.raises(InputError, match="a batch of two levels"):
        ch.compare(ch.read(file, label="type"), [quick()], purpose="integration", **HOW)


def test_too_few_cells_are_refused(plain):
    with pytest.raises(InputError, match="at least 100 cells"):
        ch.compare(plain[np.arange(60)], [quick()], **HOW)


def test_cells_survive_the_way_to_another_process(cells, tmp_path):
    write_cells(tmp_path, cells[np.arange(5, 50)])
    again = read_cells(tmp_path)
    some = cells[np.arange(5, 50)]
    assert again.names.tolist() == some.names.tolist()
    assert (again.measured["rna"].scipy() != some.measured["rna"].scipy()).nnz == 0
    assert again.layout == some.layout
    assert again.level_names("type").tolist() == some.level_names("type").tolist()
    assert again.size["rna"].equal(some.size["rna"])


# ---- the command


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("scdgd", [("scdgd", {})]),
        ("scdgd, scvi:likelihood=nb,dim=5 ,ldvae", [("scdgd", {}), ("scvi", {"dim": 5}), ("ldvae", {})]),
        ("scdgd:hidden=[5,6],dim=3", [("scdgd", {"hidden": (5, 6), "dim": 3})]),
        ("scvi:likelihood=nb:dim=5", [("scvi", {"likelihood": "nb", "dim": 5})]),
    ],
)
def test_recipes_are_read_as_typed(text, expected):
    recipes = listed_recipes(text)
    assert [recipe.name for recipe in recipes] == [name for name, _ in expected]
    for recipe, (_, arguments) in zip(recipes, expected, strict=True):
        assert arguments.items() <= dict(recipe.arguments).items()


def test_the_command_writes_tables_and_a_page(file, tmp_path, monkeypatch):
    # In this process, which spares the start of another.
    monkeypatch.setattr("chreode.trials._Worker.do", _here)
    out = tmp_path / "out"
    typed = ["compare", file, "--recipes", "autodecoder:dim=2,hidden=[8]", "--seeds", "2", "--epochs", "3"]
    typed += ["--label", "part", "--batch", "donor", "--embeddings", "X_known", "--out", out]
    first = chreode(*typed)
    assert first.code == 0, first.err
    assert "X_known" in first.out
    assert "For clustering X_known wins" in first.out
    assert {"table.csv", "runs.csv", "verdicts.json", "report.html"} <= {p.name for p in out.iterdir()}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert registry["autodecoder"].summary in page
    assert "Embedding that was given" in page
    assert "Column &#39;part&#39; is missing in 1 cell" in page
    assert NOISE in first.out
    assert str(escape(NOISE)) in page
    name = "autodecoder:dim=2:hidden=[8]"
    lines = [re.sub(r" \d\.\d{3}\b", " #", re.sub(r"\d+ s$", "# s", line)) for line in first.err.splitlines()]
    assert lines == [
        f"{name}, seed 0 (1 of 4): gain #, # s",
        f"{name}, seed 1 (2 of 4): gain #, # s",
        f"{name}, subset (3 of 4): # s",
        "X_known (4 of 4): clustering #",
    ]
    again = chreode(*typed)
    assert again.out == first.out
    assert again.err.splitlines() == [f"{line}, kept from before" for line in first.err.splitlines()]
    changed = chreode(*typed, "--seed", "1")
    assert changed.code == 2
    assert "seed was 0 and is 1" in changed.err
    assert chreode("compare", file, "--recipes", "dim=3", "--out", out).code == 2


def test_a_folder_with_other_things_is_refused_by_name(file, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    typed = chreode("compare", file, "--recipes", "pca", "--out", tmp_path)
    assert typed.code == 2
    assert "one of an earlier chreode compare" in typed.err


def _here(worker, asked, place, *, meanwhile):
    from chreode.trial import Trial, carry_out, write_result

    how = {"training": asked["training"], "seed": asked["seed"], "measure": False}
    result = carry_out(Trial.from_json(asked["trial"]), worker.cells, worker.split, **how)
    write_result(place, result)
    return result
