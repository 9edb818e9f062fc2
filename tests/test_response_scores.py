"""Scores of responses: perfect is 1, the reference is 0, and what cannot be gamed is not."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import r2_score

from chreode import evaluate
from chreode.errors import InputError
from chreode.evaluate import transport

GENES = 300
TARGET = ("B", "stim")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.fixture
def changes(rng: np.random.Generator) -> dict[tuple[str, str], np.ndarray]:
    """Three contexts, three perturbations: what all share, and what each has for itself."""
    shared = rng.normal(size=GENES)
    return {
        (context, perturbation): shared + 0.5 * rng.normal(size=GENES)
        for context in ("B", "NK", "T")
        for perturbation in ("stim", "heat", "drug")
    }


def log_cells(rng: np.random.Generator, n: int, mean: np.ndarray) -> np.ndarray:
    return np.log1p(rng.poisson(np.exp(mean), size=(n, len(mean))).astype(np.float64))


# changes


def test_a_perfect_change_scores_one(changes: dict) -> None:
    scores = evaluate.change_scores(changes[TARGET], changes[TARGET])
    error = scores.pop("weighted_mse")
    assert error == 0
    assert all(value == pytest.approx(1.0, abs=1e-12) for value in scores.values())


def test_no_change_is_the_reference(changes: dict) -> None:
    scores = evaluate.change_scores(np.zeros(GENES), changes[TARGET])
    assert scores.pop("sign") == 0.5
    weights = evaluate.effect_weights(changes[TARGET])
    assert scores.pop("weighted_mse") == pytest.approx(weights @ changes[TARGET] ** 2)
    assert all(value == 0 for value in scores.values())


def test_half_the_change_keeps_sign_and_rank_and_loses_magnitude(changes: dict) -> None:
    scores = evaluate.change_scores(0.5 * changes[TARGET], changes[TARGET])
    assert scores["sign"] == 1
    assert scores["rank"] == pytest.approx(1)
    assert scores["pearson"] == pytest.approx(1)
    assert scores["slope"] == pytest.approx(0.5)
    assert scores["norm_ratio"] == pytest.approx(0.5)
    assert scores["weighted_r2"] == pytest.approx(0.75)


def test_changes_equal_scipy_and_sklearn(changes: dict, rng: np.random.Generator) -> None:
    truth, guess, weights = changes[TARGET], changes["NK", "heat"], rng.random(GENES)
    mean = np.full(GENES, np.average(truth, weights=weights))  # for which scikit-learn's R2 is 0
    scores = evaluate.change_scores(guess, truth, weights=weights, reference=mean)
    assert scores["rank"] == pytest.approx(spearmanr(guess, truth)[0])
    assert scores["pearson"] == pytest.approx(pearsonr(guess, truth)[0])
    assert scores["weighted_mse"] == pytest.approx(np.average((guess - truth) ** 2, weights=weights))
    assert scores["weighted_r2"] == pytest.approx(r2_score(truth, guess, sample_weight=weights))


def test_signs_count_over_the_genes_that_change() -> None:
    truth = np.array([3.0, -2.0, 1.0, 0.0])
    guess = np.array([1.0, 1.0, 0.0, 5.0])
    assert evaluate.change_scores(guess, truth, changed=1)["sign"] == 1
    assert evaluate.change_scores(guess, truth, changed=2)["sign"] == 0.5
    assert evaluate.change_scores(guess, truth)["sign"] == 0.5  # right, wrong, none; the last does not change
    mask = np.array([False, True, True, True])
    assert evaluate.change_scores(guess, truth, changed=mask)["sign"] == 0.25


def test_weights_follow_the_effect() -> None:
    assert evaluate.effect_weights([1.0, -2.0, 3.0]) == pytest.approx([0.0, 0.2, 0.8])
    assert evaluate.effect_weights([-2.0, 2.0]).tolist() == [0.5, 0.5]


# baselines


def test_mode_collapse_does_not_beat_the_mean(changes: dict) -> None:
    """Whoever predicts the mean has what others share right, and is told so: R2 is 0, not 0.8."""
    truth = changes[TARGET]
    collapsed = np.mean([change for key, change in changes.items() if key != TARGET], axis=0)
    table = evaluate.response_scores(collapsed, truth, target=TARGET, changes=changes)
    assert table.attrs["reference"] == "mean of others"
    assert table.loc["prediction", "weighted_r2"] == pytest.approx(0, abs=1e-12)
    assert table.loc["prediction", "pearson"] > 0.8
    best = evaluate.response_scores(truth, truth, target=TARGET, changes=changes)
    assert best.loc["prediction", "weighted_r2"] == 1
    assert best.loc["no change", "weighted_r2"] < 0


def test_baselines_are_made_of_the_others(changes: dict) -> None:
    truth = changes[TARGET]
    table = evaluate.response_scores(truth, truth, target=TARGET, changes=changes)
    assert not table.attrs["left_out"]
    others = np.mean([change for key, change in changes.items() if key != TARGET], axis=0)
    elsewhere = (changes["NK", "stim"] + changes["T", "stim"]) / 2
    by_hand = {
        "mean of others": [others],
        "other contexts": [elsewhere],
        "other perturbations": [changes["B", "heat"], changes["B", "drug"]],
    }
    for name, several in by_hand.items():
        found = [evaluate.change_scores(change, truth, reference=others) for change in several]
        for score in found[0]:
            assert table.loc[name, score] == pytest.approx(np.mean([one[score] for one in found]))


def test_the_target_is_not_among_its_baselines(changes: dict) -> None:
    truth = changes[TARGET]
    without = {key: change for key, change in changes.items() if key != TARGET}
    given = evaluate.response_scores(0.3 * truth, truth, target=TARGET, changes=changes)
    assert given.equals(evaluate.response_scores(0.3 * truth, truth, target=TARGET, changes=without))


def test_what_cannot_be_formed_is_left_out(changes: dict) -> None:
    truth = changes[TARGET]
    alone = evaluate.response_scores(truth, truth)
    assert list(alone.index) == ["prediction", "no change"]
    assert alone.attrs["reference"] == "no change"
    assert set(alone.attrs["left_out"]) == {"mean of others", "other contexts", "other perturbations"}
    one = evaluate.response_scores(
        truth, truth, target=TARGET, changes={("NK", "stim"): changes["NK", "stim"]}
    )
    assert one.attrs["left_out"] == {"other perturbations": "No other perturbation was measured in B."}
    assert one.loc["mean of others"].equals(one.loc["other contexts"])


# cells


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix], ids=["dense", "sparse"])
def test_cells_equal_numpy(rng: np.random.Generator, kind: Any) -> None:
    guess, observed = log_cells(rng, 60, np.zeros(40)), log_cells(rng, 60, np.linspace(-2, 2, 40))
    scores = evaluate.cell_scores(kind(guess), sp.csr_matrix(observed))
    assert scores["r2_mean"] == pytest.approx(r2_score(observed.mean(0), guess.mean(0)))
    assert scores["r2_variance"] == pytest.approx(r2_score(observed.var(0, ddof=1), guess.var(0, ddof=1)))
    assert scores["energy"] == pytest.approx(transport.energy_distance(guess, observed), rel=1e-6)


def test_the_same_cells_are_perfect(rng: np.random.Generator) -> None:
    cells = sp.csr_matrix(log_cells(rng, 50, np.linspace(-2, 2, 40)))
    assert evaluate.cell_scores(cells, cells) == pytest.approx({"r2_mean": 1, "r2_variance": 1, "energy": 0})


def test_moved_distances_equal_moved_cells(rng: np.random.Generator) -> None:
    x, y, moves = (rng.normal(size=shape) for shape in ((700, 6), (30, 6), (3, 6)))
    found = transport.moved_energy_distances(sp.csr_matrix(x), y, moves)
    assert found == pytest.approx([transport.energy_distance(x + move, y) for move in moves], rel=1e-7)


def test_baselines_of_cells_move_the_control(changes: dict, rng: np.random.Generator) -> None:
    rest = np.linspace(-2, 2, 40)
    control, observed, predicted = (log_cells(rng, 80, rest + shift) for shift in (0.0, 0.7, 0.7))
    known = {key: 0.2 * change[:40] for key, change in changes.items()}
    truth = evaluate.mean_change(control, observed)
    table = evaluate.response_scores(
        evaluate.mean_change(control, predicted),
        truth,
        target=TARGET,
        changes=known,
        cells={"control": sp.csr_matrix(control), "observed": observed, "predicted": predicted},
    )
    assert table.loc["no change", "energy"] == pytest.approx(transport.energy_distance(control, observed))
    moved = evaluate.cell_scores(control + (known["NK", "stim"] + known["T", "stim"]) / 2, observed)
    assert table.loc["other contexts", list(moved)].to_dict() == pytest.approx(moved)
    ideal = table.loc["prediction"]
    assert ideal["energy"] < 0.2 * table["energy"].drop("prediction").min()
    assert ideal["r2_variance"] > table.loc["no change", "r2_variance"]
    assert table.isna().sum().sum() == 0


def test_cells_that_are_not_given_are_told(rng: np.random.Generator) -> None:
    control, observed = (log_cells(rng, 30, np.full(20, shift)) for shift in (0.0, 1.0))
    truth = evaluate.mean_change(control, observed)
    without = evaluate.response_scores(truth, truth, cells={"observed": observed, "control": control})
    assert "cells of prediction" in without.attrs["left_out"]
    assert np.isnan(without.loc["prediction", "energy"])
    assert without.loc["no change", "energy"] > 0
    alone = evaluate.response_scores(truth, truth, cells={"observed": observed, "predicted": observed})
    assert "cells of baselines" in alone.attrs["left_out"]
    assert alone.loc["prediction", "energy"] == pytest.approx(0, abs=1e-6)


# ceiling


def test_the_ceiling_is_what_a_perfect_prediction_reaches(rng: np.random.Generator) -> None:
    """Cells of known change: its correlation with the measured change is the ceiling, within noise."""
    reached, ceilings = [], []
    for seed in range(20):
        truth = 0.15 * rng.normal(size=GENES)
        before, after = rng.normal(size=(200, GENES)), rng.normal(size=(200, GENES)) + truth
        found = evaluate.split_half_ceiling(before, after, seed=seed)
        assert found["ceiling"] == pytest.approx(np.sqrt(2 * found["r"] / (1 + found["r"])))
        reached.append(pearsonr(truth, evaluate.mean_change(before, after))[0])
        ceilings.append(found["ceiling"])
    # Variance of the change 0.15^2, of its noise 2/200: what theory gives.
    assert np.mean(ceilings) == pytest.approx(np.sqrt(0.0225 / (0.0225 + 0.01)), abs=0.01)
    assert np.mean(reached) == pytest.approx(np.mean(ceilings), abs=0.01)


def test_halves_that_disagree_have_no_ceiling(rng: np.random.Generator) -> None:
    shown = rng.normal(size=30)
    turns = iter([shown, -shown])
    found = evaluate.split_half_ceiling(
        np.ones((4, 30)), np.ones((4, 30)), change=lambda before, after: next(turns), repeats=1
    )
    assert found == {"r": pytest.approx(-1), "ceiling": 0}


def test_halves_share_no_cell() -> None:
    """Cells are their own numbers: each is in one half, and both conditions are cut."""
    seen = []

    def change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        seen.append((before[:, 0].tolist(), after[:, 0].tolist()))
        return np.arange(2.0)

    evaluate.split_half_ceiling(np.arange(14.0).reshape(7, 2), np.arange(8.0).reshape(4, 2), change=change)
    assert len(seen) == 20
    for first, second in zip(seen[::2], seen[1::2], strict=True):
        assert sorted(first[0] + second[0]) == list(range(0, 14, 2))
        assert sorted(first[1] + second[1]) == list(range(0, 8, 2))


def test_the_ceiling_takes_another_change(rng: np.random.Generator) -> None:
    cells = [log_cells(rng, 40, mean) for mean in (np.zeros(30), rng.normal(size=30))]
    other = evaluate.split_half_ceiling(*cells, change=lambda a, b: -evaluate.mean_change(a, b))
    assert other == pytest.approx(evaluate.split_half_ceiling(*cells))


# bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluate.change_scores([1.0, 2.0], [1.0, 2.0, 3.0]), "found 2 and 3"),
        (lambda: evaluate.change_scores([1.0, np.nan], [1.0, 2.0]), "found 1 that are not"),
        (lambda: evaluate.change_scores([[1.0]], [1.0]), r"shape \(1, 1\)"),
        (lambda: evaluate.change_scores(ad.AnnData(np.ones((2, 2))), [1.0]), "found AnnData. Give a vector"),
        (lambda: evaluate.change_scores([1.0, 2.0], [0.0, 0.0]), "0 for all 2"),
        (lambda: evaluate.change_scores([1.0, 2.0], [0.0, 0.0], weights=[1, 1]), "found none of 2 genes"),
        (lambda: evaluate.change_scores([1.0, 2.0], [1.0, 2.0], changed=0), "changed=0"),
        (lambda: evaluate.change_scores([1.0, 2.0], [1.0, 2.0], changed=[True]), "found 1 and 2"),
        (lambda: evaluate.change_scores([1.0, 2.0], [1.0, 2.0], weights=[-1, 1]), "found -1 to 1"),
        (lambda: evaluate.change_scores([1.0, 2.0], [1.0, 2.0], reference=[1.0]), "found 1 and 2"),
        (lambda: evaluate.response_scores([1.0], [1.0], changes={("B", "x"): [1.0]}), "target=None"),
        (lambda: evaluate.response_scores([1.0], [1.0], target=("B", "x"), changes={"B": [1.0]}), "'B'"),
        (lambda: evaluate.response_scores([1.0], [1.0], cells={"seen": [[1.0]]}), r"found \['seen'\]"),
        (lambda: evaluate.cell_scores(np.ones((3, 2)), np.ones((3, 4))), "found 2 and 4"),
        (lambda: evaluate.cell_scores(np.ones((1, 2)), np.ones((3, 2))), "at least two predicted"),
        (lambda: evaluate.cell_scores(np.full((3, 2), np.nan), np.ones((3, 2))), "NaN"),
        (lambda: evaluate.split_half_ceiling(np.ones((1, 2)), np.ones((3, 2))), "cells before"),
        (lambda: evaluate.split_half_ceiling(np.ones((3, 2)), np.ones((3, 2)), repeats=0), "repeats=0"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
