"""What blocks tell: noise nothing, within its standard error; what is there, whichever probe it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.feature_selection import mutual_info_classif
from sklearn.metrics import balanced_accuracy_score, r2_score

from chreode import evaluate
from chreode.errors import InputError
from chreode.evaluate import disentangled

QUICK = ("linear", "neighbours")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_noise_is_chance_and_the_attribute_is_found(rng: np.random.Generator) -> None:
    level = rng.choice(["a", "b", "c"], 1500, p=[0.7, 0.2, 0.1])
    blocks = {
        "noise": rng.normal(size=(1500, 4)),
        "told": rng.normal(size=(1500, 2)) + 8 * np.array([level == "b", level == "c"]).T,
    }
    table = evaluate.probe_blocks(blocks, level)
    assert (table["chance"] == 1 / 3).all()
    assert (table["cells"] == 451).all()  # 30 % of each level, rounded
    for probe in disentangled.PROBES:
        assert abs(table.loc["noise", probe] - 1 / 3) < 3 * table.loc["noise", "se"]
    assert table.loc["told", list(disentangled.PROBES)].min() > 0.97
    assert table.loc["told", "best"] == table.loc["told", table.loc["told", "probe"]]


def test_noise_is_chance_on_average_and_its_error_is_the_spread() -> None:
    """Over many draws the mean score is chance, and its spread what `se` says."""
    scores, errors = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        level = rng.choice(["a", "b"], 200, p=[0.8, 0.2])
        table = evaluate.probe_blocks({"x": rng.normal(size=(200, 2))}, level, probes=["linear"], seed=seed)
        scores.append(table.loc["x", "best"])
        errors.append(table.loc["x", "se"])
    assert np.mean(scores) == pytest.approx(0.5, abs=3 * np.std(scores) / 60**0.5)
    assert np.mean(errors) == pytest.approx(np.std(scores), rel=0.3)


def test_exclusive_or_takes_more_than_a_line(rng: np.random.Generator) -> None:
    signs = rng.choice([-1.0, 1.0], (800, 2))
    code = signs + 0.2 * rng.normal(size=(800, 2))
    row = evaluate.probe_blocks({"x": code}, signs[:, 0] * signs[:, 1] > 0).loc["x"]
    assert abs(row["linear"] - 0.5) < 0.15
    assert row["neighbours"] > 0.98
    assert row["trees"] > 0.98
    assert row["probe"] != "linear"


def test_numbers_are_scored_by_r2(rng: np.random.Generator) -> None:
    code = rng.normal(size=(600, 3))
    line = code @ [1.0, -2.0, 0.5] + 0.1 * rng.normal(size=600)
    row = evaluate.probe_blocks({"x": code}, line).loc["x"]
    assert row["linear"] > 0.99
    assert row["probe"] == "linear"
    assert row["chance"] == 0
    bent = evaluate.probe_blocks({"x": code}, code[:, 0] ** 2).loc["x"]
    assert bent["linear"] < 0.1
    assert bent["trees"] > 0.7
    noise = evaluate.probe_blocks({"x": code}, rng.normal(size=600), probes=["linear"]).loc["x"]
    assert abs(noise["best"]) < 3 * noise["se"]


def test_scores_equal_sklearn(rng: np.random.Generator) -> None:
    level, truth = rng.integers(3, size=90), rng.normal(size=90)
    guess = np.where(rng.random(90) < 0.5, level, 0)
    part = np.arange(45), np.arange(45, 90)
    code = np.c_[rng.normal(size=(90, 2)), guess]
    found = disentangled._probed("linear", code, level, part, 3, 0)
    scaled = (code - code[:45].mean(0)) / code[:45].std(0)
    predicted = disentangled._predicted("linear", scaled[:45], level[:45], scaled[45:], 3, 0)
    assert found[0] == pytest.approx(balanced_accuracy_score(level[45:], predicted))
    found = disentangled._probed("linear", code, truth, part, None, 0)
    predicted = disentangled._predicted("linear", scaled[:45], truth[:45], scaled[45:], None, 0)
    assert found[0] == pytest.approx(r2_score(truth[45:], predicted))


@pytest.mark.parametrize("numeric", [False, True])
def test_labels_of_held_out_cells_are_never_seen(rng: np.random.Generator, numeric: bool) -> None:
    """Labels of held-out cells may be anything: what is predicted for them stays."""
    code = rng.normal(size=(300, 2))
    truth = code[:, 0] if numeric else (code[:, 0] > 0).astype(int)
    held_out = np.arange(300) >= 200
    wrong = np.where(held_out, -truth if numeric else 1 - truth, truth)
    right, reverse = (
        evaluate.probe_blocks({"x": code}, values, held_out=held_out).loc["x", list(disentangled.PROBES)]
        for values in (truth, wrong)
    )
    if numeric:
        assert right.min() > 0.8
        assert reverse.max() < -1
    else:
        assert reverse.to_list() == pytest.approx([1 - score for score in right], abs=0.02)


def test_held_out_cells_are_those_scored(rng: np.random.Generator) -> None:
    """The rule holds in the cells that teach and is turned in those scored: below chance."""
    level, held_out = rng.integers(2, size=400), np.arange(400) < 150
    code = np.where(held_out, -1.0, 1.0) * (2 * level - 1) + 0.1 * rng.normal(size=400)
    row = evaluate.probe_blocks({"x": code[:, None]}, level, held_out=held_out, probes=QUICK).loc["x"]
    assert row["best"] == 0
    assert row["cells"] == 150


def test_within_groups_the_group_tells_nothing(rng: np.random.Generator) -> None:
    """A code of the type predicts a condition that comes with the type; not within one."""
    group = rng.choice(["B", "NK", "T"], 900)
    condition = rng.random(900) < np.select([group == "B", group == "NK"], [0.9, 0.5], 0.1)
    code = {"x": 5.0 * np.eye(3)[np.unique(group, return_inverse=True)[1]] + rng.normal(size=(900, 3))}
    overall = evaluate.probe_blocks(code, condition, probes=QUICK).loc["x"]
    inside = evaluate.probe_blocks(code, condition, within=group, probes=QUICK).loc["x"]
    assert overall["best"] > 0.7
    assert abs(inside["best"] - 0.5) < 4 * inside["se"]


def test_groups_that_lack_a_level_are_named(rng: np.random.Generator) -> None:
    group = np.repeat(["B", "NK", "T"], [200, 200, 100])
    condition = rng.choice(["ctrl", "stim"], 500)
    condition[group == "NK"] = "ctrl"
    code = {"x": rng.normal(size=(500, 2))}
    held_out, kept = rng.random(500) < 0.3, group != "NK"
    table = evaluate.probe_blocks(code, condition, within=group, held_out=held_out, probes=["linear"])
    assert list(table.attrs["skipped"]) == ["NK"]
    assert table.equals(
        evaluate.probe_blocks(
            {"x": code["x"][kept]},
            condition[kept],
            within=group[kept],
            held_out=held_out[kept],
            probes=["linear"],
        )
    )


def test_the_mean_over_groups_is_weighted_by_cells(rng: np.random.Generator) -> None:
    group, condition = np.repeat(["big", "small"], [600, 100]), rng.integers(2, size=700)
    code = np.where(group == "small", 9.0 * condition, 0.0)[:, None] + rng.normal(size=(700, 1))
    held_out = rng.random(700) < 0.3
    rows = {
        name: evaluate.probe_blocks(
            {"x": code[group == name]},
            condition[group == name],
            held_out=held_out[group == name],
            probes=QUICK,
        ).loc["x"]
        for name in ("big", "small")
    }
    both = evaluate.probe_blocks({"x": code}, condition, within=group, held_out=held_out, probes=QUICK).loc[
        "x"
    ]
    cells = [rows[name]["cells"] for name in rows]
    for probe in QUICK:
        assert both[probe] == pytest.approx(np.average([row[probe] for row in rows.values()], weights=cells))


def test_the_same_seed_splits_alike(rng: np.random.Generator) -> None:
    code, level = {"x": rng.normal(size=(200, 2))}, rng.integers(2, size=200)
    first, again, other = (evaluate.probe_blocks(code, level, probes=QUICK, seed=s) for s in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


def test_every_level_is_held_out_in_its_share(rng: np.random.Generator) -> None:
    stratum = rng.permutation(np.repeat([0, 1, 3], [100, 10, 50]))
    mask = disentangled._drawn(stratum, 0)
    assert [int(mask[stratum == s].sum()) for s in (0, 1, 3)] == [30, 3, 15]


# mutual information gap


def test_axes_have_a_gap_and_turned_axes_have_none(rng: np.random.Generator) -> None:
    signs = rng.choice([-1.0, 1.0], (2000, 2))
    noise = 0.05 * rng.normal(size=(2000, 2))
    attributes = {"condition": signs[:, 0] > 0, "sex": np.where(signs[:, 1] > 0, "f", "m")}
    along = evaluate.information_gap(signs + noise, attributes)
    assert along.attrs["mig"] == pytest.approx(1, abs=0.03)
    assert along["dimension"].tolist() == [0, 1]
    assert along["entropy"].to_numpy() == pytest.approx(np.log(2), abs=0.01)
    turn = np.array([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
    turned = evaluate.information_gap(signs @ turn + noise, attributes)
    assert turned.attrs["mig"] == pytest.approx(0, abs=0.05)
    assert (turned["information"] > 0.4).all()


def test_noise_has_no_information(rng: np.random.Generator) -> None:
    found = evaluate.information_gap(rng.normal(size=(2000, 5)), {"x": rng.integers(4, size=2000)})
    assert found.loc["x", "information"] < 0.03


def test_numbers_have_a_gap(rng: np.random.Generator) -> None:
    age = rng.uniform(20, 80, 1000)
    code = np.c_[rng.normal(size=1000), age, rng.normal(size=1000)]
    found = evaluate.information_gap(code, {"age": age}).loc["age"]
    assert found["dimension"] == 1
    assert found["gap"] > 0.9
    assert found["entropy"] == pytest.approx(np.log(10), abs=0.01)


def test_the_gap_by_hand(rng: np.random.Generator) -> None:
    level = rng.choice([0, 1, 2], 300, p=[0.5, 0.25, 0.25])
    code = rng.normal(size=(300, 3)) + np.outer(level, [0.0, 1.0, 2.0])
    told = np.sort(mutual_info_classif(code, level, random_state=4))
    share = np.bincount(level) / 300
    entropy = -(share * np.log(share)).sum()
    found = evaluate.information_gap(code, {"x": level}, seed=4).loc["x"]
    assert found["gap"] == pytest.approx((told[2] - told[1]) / entropy)


# bad input

CODE = np.random.default_rng(0).normal(size=(20, 2))
HALF = np.arange(20) % 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluate.probe_blocks({"x": CODE}, np.zeros(20, int)), "at least two levels; found 1"),
        (lambda: evaluate.probe_blocks({"x": CODE}, np.zeros(20)), "found 0 in all cells"),
        (lambda: evaluate.probe_blocks({"x": CODE}, HALF[:9]), "Expected 20 labels"),
        (lambda: evaluate.probe_blocks({"x": CODE}, np.ones(9)), r"shape \(9,\)"),
        (lambda: evaluate.probe_blocks({"x": CODE}, np.r_[np.nan, np.arange(19.0)]), "with 1 missing"),
        (lambda: evaluate.probe_blocks({"x": CODE}, ["a", None] * 10), "found 10 of 20 without"),
        (lambda: evaluate.probe_blocks({"x": CODE, "y": CODE[:5]}, HALF), "'y': 5"),
        (lambda: evaluate.probe_blocks({"x": CODE * np.nan}, HALF), "20 cells with NaN"),
        (lambda: evaluate.probe_blocks({}, HALF), "found {}"),
        (lambda: evaluate.probe_blocks(object(), HALF), r"codes by name; found object.*embeddings"),
        (lambda: evaluate.probe_blocks({"x": CODE}, HALF, probes=["svm"]), r"found \['svm'\]"),
        (lambda: evaluate.probe_blocks({"x": CODE}, HALF, probes=[]), r"found \[\]"),
        (lambda: evaluate.probe_blocks({"x": CODE}, HALF, within=["a"] * 3), "Expected 20 labels"),
        (lambda: evaluate.probe_blocks({"x": CODE}, HALF, within=HALF), "none in 2 groups"),
        (lambda: evaluate.probe_blocks({"x": CODE}, HALF, held_out=np.zeros(20, bool)), "has 0"),
        (lambda: evaluate.probe_blocks({"x": CODE}, HALF, held_out=HALF), "booleans; found int64"),
        (lambda: evaluate.information_gap(CODE[:, :1], {"x": HALF}), "found 1 and 1"),
        (lambda: evaluate.information_gap(CODE, {}), "found 2 and 0"),
        (lambda: evaluate.information_gap(CODE, {"x": np.zeros(20, int)}), "at least two levels"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
