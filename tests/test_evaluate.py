"""Scores: perfect is 1, random is chance, small examples by hand, and the right model is covered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import nbinom

from chreode import evaluate
from chreode.errors import InputError
from chreode.evaluate import clustering, integration, marginals
from chreode.evaluate.matrices import column_moments
from chreode.evaluate.neighbours import known_levels, nearest, subsample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def draw_nb(rng: np.random.Generator, mean: np.ndarray, theta: np.ndarray | float) -> np.ndarray:
    theta = np.broadcast_to(theta, mean.shape)
    return rng.negative_binomial(theta, theta / (theta + mean)).astype(np.float64)


def three_ways(values: np.ndarray, block: int) -> list:
    cuts = [slice(i, min(i + block, len(values))) for i in range(0, len(values), block)]
    return [values, lambda rows: values[rows], ((rows, values[rows]) for rows in cuts)]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def counted(rng: np.random.Generator) -> tuple[sp.csr_matrix, np.ndarray]:
    """Counts and the proportions they came from."""
    rho = rng.dirichlet(np.full(40, 0.5), 300)
    return sp.csr_matrix(rng.poisson(200 * rho).astype(np.float32)), rho


@pytest.fixture
def blobs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Four types, far apart; 100 cells each."""
    labels = np.repeat(np.arange(4), 100)
    return rng.normal(size=(400, 5)) + 30 * np.eye(5)[labels], labels


# fidelity


def test_nats_by_hand() -> None:
    counts = sp.csr_matrix([[3, 1], [0, 4]])
    rho = np.array([[0.75, 0.25], [0.5, 0.5]])
    by_hand = -(3 * np.log(0.75) + np.log(0.25) + 4 * np.log(0.5)) / 8
    assert evaluate.nats_per_molecule(counts, rho) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("block", [1, 7, 300, 1000])
def test_every_way_to_give_rows_scores_the_same(counted: tuple, block: int) -> None:
    counts, rho = counted
    dense = counts.toarray().astype(np.float64)
    nats = -(dense * np.log(rho)).sum() / dense.sum()
    gap = 1e4 * (dense / dense.sum(1, keepdims=True) - rho)
    zero = np.exp(-200 * rho)
    for way in three_ways(rho, block):
        assert evaluate.nats_per_molecule(counts, way, block=block) == pytest.approx(nats, rel=1e-12)
    for way in three_ways(rho, block):
        assert evaluate.rmse(counts, way, block=block) == pytest.approx(np.sqrt((gap**2).mean()), rel=1e-12)
    for way in three_ways(zero, block):
        found = evaluate.zero_fraction(counts, way, block=block)
        assert found["observed"] == pytest.approx((dense == 0).mean())
        assert found["expected"] == pytest.approx(zero.mean())
        assert found["gene_error"] == pytest.approx(np.abs(zero.mean(0) - (dense == 0).mean(0)).mean())


def test_the_truth_scores_best_and_uniform_scores_log_genes(counted: tuple, rng: np.random.Generator) -> None:
    counts, rho = counted
    truth = evaluate.nats_per_molecule(counts, rho)
    assert truth < evaluate.nats_per_molecule(counts, rho[rng.permutation(300)])
    assert evaluate.nats_per_molecule(counts, np.full(40, 1 / 40)) == pytest.approx(np.log(40))
    assert evaluate.rmse(counts, rho) < evaluate.rmse(counts, rho.mean(0))


def test_order_of_cells_and_genes_does_not_matter(counted: tuple, rng: np.random.Generator) -> None:
    counts, rho = counted
    cells, genes = rng.permutation(300), rng.permutation(40)
    moved, moved_rho = counts[cells][:, genes], rho[cells][:, genes]
    assert evaluate.nats_per_molecule(moved, moved_rho) == pytest.approx(
        evaluate.nats_per_molecule(counts, rho)
    )
    assert evaluate.rmse(moved, moved_rho) == pytest.approx(evaluate.rmse(counts, rho))
    assert evaluate.mean_profile_nats(moved, moved) == pytest.approx(
        evaluate.mean_profile_nats(counts, counts)
    )


def test_a_perfect_profile_has_no_error_and_entries_stored_as_zero_are_zeros() -> None:
    counts = sp.csr_matrix((np.array([1.0, 3.0, 0.0]), ([0, 0, 1], [0, 1, 2])), shape=(2, 3))
    rho = np.array([[0.25, 0.75, 0.0], [0.2, 0.3, 0.5]])
    assert counts.nnz == 3
    assert evaluate.rmse(counts, rho) == 0.0  # the empty cell is left out
    assert evaluate.zero_fraction(counts, np.full(3, 0.5))["observed"] == pytest.approx(4 / 6)


def test_molecules_of_a_gene_held_impossible_score_infinity() -> None:
    assert evaluate.nats_per_molecule(sp.csr_matrix([[1, 1]]), np.array([1.0, 0.0])) == np.inf


def test_profiles_by_hand() -> None:
    train = sp.csr_matrix([[3, 1], [0, 4], [2, 0]])
    test = sp.csr_matrix([[1, 0], [0, 1], [1, 0], [0, 1]])
    rho = (np.array([5, 5]) + 0.5) / 11
    assert evaluate.mean_profile_nats(train, test, pseudocount=0.5) == pytest.approx(-np.log(rho).sum() / 2)
    profile = {"a": (np.array([5, 1]) + rho) / 7, "b": (np.array([0, 4]) + rho) / 5}
    by_hand = -(np.log(profile["a"][0]) + np.log(profile["b"][1]) + np.log(rho[0]) + np.log(rho[1])) / 4
    found = evaluate.label_profile_nats(train, ["a", "b", "a"], test, ["a", "b", None, "c"], pseudocount=0.5)
    assert found == pytest.approx(by_hand, rel=1e-12)


def test_labels_that_say_nothing_score_as_the_mean_profile(counted: tuple) -> None:
    counts, _ = counted
    one, none = ["x"] * 300, np.full(300, -1)
    mean = evaluate.mean_profile_nats(counts, counts)
    assert evaluate.label_profile_nats(counts, none, counts, none) == pytest.approx(mean, rel=1e-12)
    assert evaluate.label_profile_nats(counts, one, counts, one) == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda x: evaluate.nats_per_molecule(x, np.array([2.0, 2.0])), "sums to 4"),
        (lambda x: evaluate.nats_per_molecule(x, np.array([np.nan, 1.0])), "sums to nan"),
        (lambda x: evaluate.nats_per_molecule(x * 0, np.array([0.5, 0.5])), "at least one molecule"),
        (lambda x: evaluate.nats_per_molecule(x, np.full((3, 2), 0.5)), "cells and genes of the counts"),
        (lambda x: evaluate.nats_per_molecule(x, np.full((1, 2), 0.5)), "found 1"),
        (lambda x: evaluate.nats_per_molecule(x, np.full(3, 1 / 3)), "Expected 2 values"),
        (lambda x: evaluate.nats_per_molecule(x, iter([(slice(1, 2), np.full((1, 2), 0.5))])), "from 0 on"),
        (lambda x: evaluate.zero_fraction(x, np.array([1.0, 3.0])), "zero_probability"),
        (lambda x: evaluate.mean_profile_nats(x, x, pseudocount=0.0), "pseudocount above 0"),
        (lambda x: evaluate.label_profile_nats(x, ["a"], x, ["a", "b"]), "Expected 2 labels"),
        (lambda x: evaluate.coverage(x, lambda rows: np.zeros((1, 2))), "Draw the rows asked for"),
        (lambda x: evaluate.coverage(x, lambda rows: np.zeros((2, 2)), draws=0), "at least one draw"),
        (lambda x: evaluate.pit_coverage(np.zeros(1), np.ones(1), level=90), "between 0 and 1"),
    ],
)
def test_wrong_input_is_refused_with_the_remedy(act: Callable, says: str) -> None:
    with pytest.raises(InputError, match=says):
        act(sp.csr_matrix([[3.0, 1.0], [0.0, 4.0]]))


# coverage


@pytest.mark.parametrize("theta", [0.3, 5.0, 1e6])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_exact_intervals_of_the_true_model_cover_their_level(theta: float, level: float) -> None:
    """No sampling: the expectation over every count, weighted by its probability."""
    for mean in (0.01, 0.7, 30.0):
        x = np.arange(0, 2000)
        law = nbinom(theta, theta / (theta + mean))
        covered = evaluate.pit_coverage(law.cdf(x - 1), law.cdf(x), level=level)
        assert float(law.pmf(x) @ covered) == pytest.approx(level, abs=1e-6)


@pytest.mark.parametrize("draws", [1, 19, 40])
@pytest.mark.parametrize("least_mean", [0.0, 0.5])
def test_a_true_negative_binomial_is_covered(rng: np.random.Generator, draws: int, least_mean: float) -> None:
    mean = rng.gamma(0.5, 2.0, (400, 100))
    theta = rng.gamma(2.0, 1.0, 100) + 0.1
    observed = sp.csr_matrix(draw_nb(rng, mean, theta))
    found = evaluate.coverage(
        observed, lambda rows: draw_nb(rng, mean[rows], theta), draws=draws, least_mean=least_mean, block=150
    )
    chosen = 40_000 if least_mean == 0 else 10_000
    # One entry's coverage varies by at most sqrt(0.9 * 0.1); four of its standard errors.
    assert found == pytest.approx(0.9, abs=4 * 0.3 / np.sqrt(chosen))


def test_too_narrow_covers_less_and_too_wide_more(rng: np.random.Generator) -> None:
    mean = np.full((200, 50), 5.0)
    observed = sp.csr_matrix(draw_nb(rng, mean, 2.0))
    narrow = evaluate.coverage(observed, lambda rows: rng.poisson(mean[rows]))
    wide = evaluate.coverage(observed, lambda rows: draw_nb(rng, mean[rows], 0.3))
    biased = evaluate.coverage(observed, lambda rows: draw_nb(rng, 3 * mean[rows], 2.0))
    assert narrow < 0.75
    assert wide > 0.94
    assert biased < 0.85


def test_entries_nobody_expects_are_not_counted() -> None:
    observed = sp.csr_matrix((30, 20))
    assert np.isnan(evaluate.coverage(observed, lambda rows: np.zeros((30, 20))))
    everywhere = evaluate.coverage(observed, lambda rows: np.zeros((30, 20)), least_mean=0.0)
    assert everywhere == pytest.approx(0.9)


def test_a_surprise_counts_however_little_was_expected() -> None:
    observed = sp.csr_matrix(np.full((5, 5), 50.0))
    assert evaluate.coverage(observed, lambda rows: np.zeros((5, 5))) == 0.0


# labels, neighbours


def test_missing_labels_are_missing_in_every_form() -> None:
    forms = [
        ["b", None, "a", "b"],
        np.array(["b", np.nan, "a", "b"], dtype=object),
        pd.Series(["b", None, "a", "b"], dtype="category"),
        np.array([1, -1, 0, 1]),
        np.array([1.0, np.nan, 0.0, 1.0]),
    ]
    for form in forms:
        assert known_levels(form, n=4)[0].tolist() == [1, -1, 0, 1]
    assert known_levels(np.array([3, -1, 8]))[1].tolist() == [3, 8]


def test_nearest_leaves_the_cell_itself_out_even_among_twins() -> None:
    near = nearest(np.zeros((6, 2)), 3)
    assert near.shape == (6, 3)
    assert not (near == np.arange(6)[:, None]).any()
    assert nearest(np.arange(3.0)[:, None], 10).shape == (3, 2)
    assert nearest(np.array([[0.0], [1.0], [5.0]]), 1).ravel().tolist() == [1, 0, 1]


def test_subsamples_are_seeded_and_do_not_repeat() -> None:
    a, b, c = (subsample(1000, limit=100, seed=s) for s in (0, 0, 1))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert len(np.unique(a)) == 100


# clustering


def test_ari_and_nmi_known_values(rng: np.random.Generator) -> None:
    a = np.repeat([0, 1, 2], 50)
    assert evaluate.ari(a, np.array(["z", "x", "y"])[a]) == 1.0
    assert evaluate.nmi(a, (a + 1) % 3) == pytest.approx(1.0)
    assert np.mean([evaluate.ari(a, rng.permutation(a)) for _ in range(100)]) == pytest.approx(0, abs=0.01)
    assert evaluate.ari([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(-0.5)
    # Pairs together in both 2, in either 4 and 4 of 15, so 16 / 15 by chance.
    a, b = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 2]
    assert evaluate.ari(a, b) == pytest.approx((2 - 16 / 15) / (4 - 16 / 15))
    assert evaluate.ari([0, 0, 1, 1, -1], [5, 5, 7, 7, 7]) == 1.0


def test_clusters_of_separate_types_are_the_types(blobs: tuple) -> None:
    codes, labels = blobs
    for found in (evaluate.kmeans(codes, 4, seed=0), evaluate.leiden(codes, resolution=0.05, seed=0)):
        assert evaluate.ari(found, labels) == 1.0
        assert sorted(np.unique(found)) == [0, 1, 2, 3]


def test_leiden_repeats_bit_for_bit_and_finer_resolution_gives_more(rng: np.random.Generator) -> None:
    codes = rng.normal(size=(500, 4))
    first = evaluate.leiden(codes, seed=3)
    for _ in range(3):
        evaluate.leiden(codes, seed=4)
        assert np.array_equal(first, evaluate.leiden(codes, seed=3))
    assert (
        evaluate.leiden(codes, resolution=3.0).max()
        > first.max()
        > evaluate.leiden(codes, resolution=0.2).max()
    )


def test_leiden_never_joins_what_no_edge_joins(blobs: tuple) -> None:
    codes, labels = blobs
    table = evaluate.component_table(evaluate.leiden(codes), labels)
    assert ((table > 0).sum(axis=1) == 1).all()


def test_neighbour_accuracy_is_one_apart_and_chance_at_random(blobs: tuple, rng: np.random.Generator) -> None:
    codes, labels = blobs
    assert evaluate.neighbour_accuracy(codes, labels) == 1.0
    assert evaluate.neighbour_accuracy(codes, rng.permutation(labels)) == pytest.approx(0.25, abs=0.09)
    half = np.where(np.arange(400) % 2, labels, -1)
    assert evaluate.neighbour_accuracy(codes, half) == 1.0
    assert evaluate.neighbour_accuracy(codes, labels, seed=1) == evaluate.neighbour_accuracy(
        codes, labels, seed=1
    )


def test_neighbour_accuracy_by_hand() -> None:
    """Two points on each of two sites; each judged by the three others, one neighbour."""
    codes = np.array([[0.0], [0.1], [9.0], [9.1]])
    assert evaluate.neighbour_accuracy(codes, ["a", "a", "b", "a"], neighbours=1, folds=4) == 0.5


def test_agreement_is_on_shared_cells_whatever_their_order() -> None:
    a, b = np.array([2, 0, 0, 1, 1]), np.array([9, 4, 4, 8, 8])
    names = (list("eabcd"), list("xdcba"))
    assert evaluate.agreement(a, b, names=names) == 1.0
    assert evaluate.agreement(a, a) == 1.0
    with pytest.raises(InputError, match="found 0 shared"):
        evaluate.agreement(a, b, names=(list("abcde"), list("fghij")))
    with pytest.raises(InputError, match="repeated"):
        evaluate.agreement(a, b, names=(list("aacde"), list("abcde")))


def test_component_table_counts_every_cell() -> None:
    table = evaluate.component_table([2, 0, 0, 0], ["T", "B", "T", None])
    assert table.loc[0].to_dict() == {"B": 1, "T": 1, "unknown": 1}
    assert table.loc[2].to_dict() == {"B": 0, "T": 1, "unknown": 0}
    assert table.to_numpy().sum() == 4
    assert "unknown" not in evaluate.component_table([0, 1], ["a", "b"])


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda x: evaluate.kmeans(x, 11), "between 1 and 10"),
        (lambda x: evaluate.leiden(x[:1]), "at least 2 cells"),
        (lambda x: evaluate.leiden(x, resolution=0.0), "above 0"),
        (lambda x: evaluate.leiden(x.ravel()), "cells x dimensions"),
        (lambda x: evaluate.leiden(np.where(x > 8, np.nan, x)), "1 cells with NaN"),
        (lambda x: evaluate.neighbour_accuracy(x, [0] * 9), "10 labels"),
        (lambda x: evaluate.neighbour_accuracy(x, [0, 1] + [-1] * 8), "2 cells"),
        (lambda x: evaluate.ari([0, -1], [-1, 0]), "none among 2"),
    ],
)
def test_wrong_codes_and_labels_are_refused(act: Callable, says: str) -> None:
    with pytest.raises(InputError, match=says):
        act(np.arange(10.0)[:, None])


# integration


def test_lisi_by_hand() -> None:
    levels = np.array([0, 0, 1, 2])
    near = np.array([[1, 2], [0, 1], [0, 3], [0, 1]])
    assert integration.lisi(levels, near).tolist() == [2.0, 1.0, 2.0, 1.0]


def test_mixing_is_one_when_random_and_nought_when_apart(blobs: tuple, rng: np.random.Generator) -> None:
    codes, labels = blobs
    random = np.where(rng.random(400) < 0.3, "p", "q")
    apart = codes + 30 * np.eye(5)[4] * (random == "p")[:, None]
    mixed = evaluate.batch_mixing(codes, random, labels=labels, neighbours=15)
    assert mixed == pytest.approx(1.0, abs=0.1)
    assert evaluate.batch_mixing(apart, random, labels=labels, neighbours=15) == pytest.approx(0.0, abs=0.02)
    half = codes + 1.5 * np.eye(5)[4] * (random == "p")[:, None]
    assert 0.2 < evaluate.batch_mixing(half, random, labels=labels, neighbours=15) < 0.9
    accuracy = evaluate.batch_accuracy(apart, random, labels=labels)
    assert accuracy["accuracy"] == accuracy["excess"] == 1.0
    accuracy = evaluate.batch_accuracy(codes, random, labels=labels)
    assert accuracy["excess"] == pytest.approx(0.0, abs=0.15)
    assert accuracy["chance"] == pytest.approx(0.66, abs=0.06)
    assert evaluate.silhouette_batch(codes, random, labels=labels) > 0.9
    assert evaluate.silhouette_batch(apart, random, labels=labels) < 0.2


def test_batches_that_hold_different_types_are_not_blamed(blobs: tuple, rng: np.random.Generator) -> None:
    """Types 0, 1 lie mostly in batch p, 2, 3 mostly in q; within a type they are mixed."""
    codes, labels = blobs
    batches = (rng.random(400) < np.where(labels < 2, 0.85, 0.15)).astype(int)
    assert evaluate.batch_mixing(codes, batches, labels=labels) == pytest.approx(1.0, abs=0.25)
    assert evaluate.batch_mixing(codes, batches) < 0.6


def test_mixing_says_nothing_where_no_type_holds_two_batches(blobs: tuple) -> None:
    codes, labels = blobs
    assert np.isnan(evaluate.batch_mixing(codes, labels, labels=labels))
    assert np.isnan(evaluate.silhouette_batch(codes, labels, labels=labels))
    assert np.isnan(evaluate.batch_accuracy(codes, labels, labels=labels)["excess"])
    assert np.isnan(evaluate.batch_mixing(codes, labels, labels=np.arange(400)))


def test_label_lisi_is_one_apart_and_nought_at_random(blobs: tuple, rng: np.random.Generator) -> None:
    codes, labels = blobs
    assert evaluate.label_lisi(codes, labels) == 1.0
    assert evaluate.label_lisi(codes, rng.permutation(labels)) == pytest.approx(0.0, abs=0.08)


def test_graph_connectivity_by_hand(blobs: tuple) -> None:
    codes, labels = blobs
    assert evaluate.graph_connectivity(codes, labels) == 1.0
    # A label that lies on two islands of 100 cells is half connected, one island's label wholly.
    assert evaluate.graph_connectivity(codes, np.array([0, 0, 1, 1])[labels]) == pytest.approx(0.5)
    assert evaluate.graph_connectivity(codes, np.array([0, 0, 0, 1])[labels]) == pytest.approx(
        (1 / 3 + 1) / 2
    )


def test_a_label_cut_in_two_by_another_is_not_connected() -> None:
    """On a line, each linked to the two beside it: a a a b b b a a a."""
    line = np.arange(9.0)[:, None]
    assert evaluate.graph_connectivity(line, list("aaabbbaaa"), neighbours=2) == pytest.approx((0.5 + 1) / 2)


def test_a_small_type_is_not_its_own_neighbourhood(rng: np.random.Generator) -> None:
    """Were all cells of the type neighbours, batches apart would look mixed."""
    batches = np.repeat([0, 1], 12)
    codes = rng.normal(size=(24, 2)) + 50.0 * batches[:, None]
    assert evaluate.batch_mixing(codes, batches, neighbours=90) == pytest.approx(0.0, abs=1e-12)


def test_order_of_cells_does_not_move_scores(blobs: tuple, rng: np.random.Generator) -> None:
    codes, labels = blobs
    codes = codes / 10
    batches = rng.integers(0, 3, 400)
    order = rng.permutation(400)
    moved, moved_labels, moved_batches = codes[order], labels[order], batches[order]
    assert evaluate.graph_connectivity(moved, moved_labels) == evaluate.graph_connectivity(codes, labels)
    assert evaluate.silhouette_batch(moved, moved_batches, labels=moved_labels) == pytest.approx(
        evaluate.silhouette_batch(codes, batches, labels=labels)
    )
    accuracy = evaluate.batch_accuracy(moved, moved_batches, labels=moved_labels)["accuracy"]
    assert accuracy == pytest.approx(evaluate.batch_accuracy(codes, batches, labels=labels)["accuracy"])
    # The expectation is drawn, so within its sampling error.
    assert evaluate.batch_mixing(moved, moved_batches, labels=moved_labels) == pytest.approx(
        evaluate.batch_mixing(codes, batches, labels=labels), abs=0.02
    )
    assert evaluate.label_lisi(moved, moved_labels) == pytest.approx(
        evaluate.label_lisi(codes, labels), abs=0.01
    )


def test_subsampling_estimates_the_same(blobs: tuple, rng: np.random.Generator) -> None:
    codes, labels = blobs
    batches = rng.integers(0, 2, 400)
    whole = evaluate.batch_mixing(codes, batches, labels=labels)
    part = evaluate.batch_mixing(codes, batches, labels=labels, limit=300, seed=1)
    assert part == pytest.approx(whole, abs=0.1)
    assert part == evaluate.batch_mixing(codes, batches, labels=labels, limit=300, seed=1)


# marginals


@pytest.fixture
def model(rng: np.random.Generator) -> Callable[..., sp.csr_matrix]:
    """Cells of a two-component negative binomial; ``theta`` and ``mix`` may be got wrong."""
    profiles = rng.gamma(0.7, 1.5, (2, 60)) + 0.02

    def draw(
        n: int, *, theta: float = 1.0, mix: bool = True, part: np.ndarray | None = None
    ) -> sp.csr_matrix:
        part = rng.integers(0, 2, n) if part is None else part
        mean = profiles[part] if mix else np.broadcast_to(profiles.mean(0), (n, 60))
        depth = rng.lognormal(0, 0.3, (n, 1))
        return sp.csr_matrix(draw_nb(rng, depth * mean, theta))

    return draw


def test_the_same_cells_compare_perfectly(model: Callable) -> None:
    x = model(300)
    found = evaluate.compare_samples(x, x)
    for name in ("mean", "variance", "zero", "gene"):
        assert found[f"{name}_correlation"] == pytest.approx(1.0)
    for name in ("mean_error", "variance_error", "zero_error", "gene_correlation_error"):
        assert found[name] == pytest.approx(0.0, abs=1e-12)


def test_samples_of_the_truth_cannot_be_told_and_others_can(model: Callable) -> None:
    held = model(600)
    true = evaluate.compare_samples(held, model(600))
    poisson = evaluate.compare_samples(held, model(600, theta=1e6))
    single = evaluate.compare_samples(held, model(600, mix=False))
    assert true["auc"] == pytest.approx(0.5, abs=0.07)
    assert true["mean_correlation"] > 0.98
    assert true["gene_correlation"] > 0.8
    assert poisson["variance_error"] > 2 * true["variance_error"]
    assert single["auc"] > 0.8
    assert single["gene_correlation"] < 0.5
    assert single["mean_error"] < 0.15  # the means alone do not show it


def test_two_sample_auc_is_one_apart_and_repeats(model: Callable) -> None:
    x = model(100)
    y = sp.csr_matrix(x[:, ::-1])
    assert evaluate.two_sample_auc(x, y) > 0.97
    assert evaluate.two_sample_auc(x, model(50), seed=2) == pytest.approx(0.5, abs=0.2)
    assert evaluate.two_sample_auc(x, y, seed=5) == evaluate.two_sample_auc(x, y, seed=5)


def test_moments_and_correlations_equal_numpy(model: Callable) -> None:
    x = model(200)
    dense = x.toarray()
    mean, variance, zero = column_moments(x)
    np.testing.assert_allclose(mean, dense.mean(0))
    np.testing.assert_allclose(variance, dense.var(0, ddof=1))
    np.testing.assert_allclose(zero, (dense == 0).mean(0))
    upper = np.corrcoef(dense[:, :10].T)[np.triu_indices(10, 1)]
    np.testing.assert_allclose(marginals._correlations(x[:, :10]), upper, atol=1e-12)


def test_a_gene_that_never_varies_in_samples_correlates_with_nothing(rng: np.random.Generator) -> None:
    observed = sp.csr_matrix(rng.poisson(5.0, (200, 2)).astype(float))
    found = evaluate.compare_samples(observed, sp.csr_matrix(np.full((200, 2), 5.0)))
    scaled = observed.toarray() / observed.sum(axis=1).A1[:, None] * 1e4
    by_hand = abs(np.corrcoef(np.log1p(scaled).T)[0, 1])
    assert found["gene_correlation_error"] == pytest.approx(by_hand)


def test_order_of_cells_does_not_move_the_comparison(model: Callable, rng: np.random.Generator) -> None:
    x, y = model(150), model(150)
    a, b = evaluate.compare_samples(x, y), evaluate.compare_samples(x[rng.permutation(150)], y)
    for name in a.keys() - {"auc"}:
        assert a[name] == pytest.approx(b[name])


def test_components_are_compared_each_with_its_own(model: Callable, rng: np.random.Generator) -> None:
    parts, others = np.repeat([0, 1, 2], [150, 150, 5]), np.repeat([0, 1], [150, 150])
    observed = model(305, part=np.minimum(parts, 1))
    swapped = model(300, part=1 - others)
    right = model(300, part=others)
    kept = {"observed_components": parts, "sampled_components": others}
    good = evaluate.compare_components(observed, right, **kept)
    bad = evaluate.compare_components(observed, swapped, **kept)
    assert good.index.tolist() == [0, 1, 2]
    assert good.loc[2, "observed_cells"] == 5
    assert np.isnan(good.loc[2, "auc"])
    assert (good.loc[[0, 1], "auc"] < 0.65).all()
    assert (bad.loc[[0, 1], "auc"] > 0.9).all()


def test_genes_that_differ_in_number_are_refused(model: Callable) -> None:
    with pytest.raises(InputError, match="60 and 59"):
        evaluate.compare_samples(model(10), model(10)[:, :59])
    with pytest.raises(InputError, match="two sampled cells"):
        evaluate.compare_samples(model(10), model(1))


def test_dispersion_bias_by_hand() -> None:
    observed = sp.csr_matrix(np.tile([2.0, 2.0, 4.0, 4.0, 1.0, 1.0, 0.0], (5, 1)))
    theta = np.array([100.0, 50.0, 5.0, 4.0, 0.2, 0.1, 1.0])
    predicted = np.array([2.0, 2.0, 4.0, 3.0, 0.5, 0.25, 9.0])
    for way in (
        predicted,
        np.tile(predicted, (5, 1)),
        lambda rows: np.tile(predicted, (rows.stop - rows.start, 1)),
    ):
        table = evaluate.dispersion_bias(observed, way, theta)
        assert table.index.tolist() == ["low", "middle", "high"]
        assert table["genes"].tolist() == [2, 2, 2]
        np.testing.assert_allclose(table["bias"], [0.0, -0.125, -0.625])
        np.testing.assert_allclose(table["total_bias"], [0.0, -0.125, -0.625])
        assert table.loc["high", "most_theta"] == 0.2
    with pytest.raises(InputError, match="theta"):
        evaluate.dispersion_bias(observed, predicted, -theta)


# all together


def test_scores_of_an_embedding_are_json_and_complete(blobs: tuple, rng: np.random.Generator) -> None:
    codes, labels = blobs
    names = np.array(["B", "T", "NK", "mono"])[labels]
    scores = evaluate.score_embedding(codes, labels=names, batches=rng.integers(0, 2, 400), components=labels)
    assert json.loads(json.dumps(scores)) == scores
    ones = ("component_ari", "kmeans_ari", "neighbour_accuracy", "label_lisi", "graph_connectivity")
    assert all(scores[name] == 1.0 for name in ones)
    assert scores["components"] == 4
    assert scores["batch_mixing"] == pytest.approx(1.0, abs=0.1)
    assert scores["batch_accuracy_chance"] == pytest.approx(0.5, abs=0.1)
    again = evaluate.score_embedding(codes, labels=names, batches=rng.integers(0, 2, 400), components=labels)
    assert again["leiden_ari"] == scores["leiden_ari"]


def test_what_is_not_known_is_left_out(blobs: tuple) -> None:
    codes, labels = blobs
    assert evaluate.score_embedding(codes).keys() == {"leiden_clusters"}
    assert evaluate.score_embedding(codes, labels=["one"] * 400).keys() == {"leiden_clusters"}
    assert evaluate.score_embedding(codes, labels=np.full(400, -1), components=labels).keys() == {
        "leiden_clusters",
        "components",
    }
    # Batches that are the labels: nothing can be said of mixing, and nothing is.
    assert "batch_mixing" not in evaluate.score_embedding(codes, labels=labels, batches=labels)
    with pytest.raises(InputError, match="400 labels"):
        evaluate.score_embedding(codes, labels=labels[:10])


def test_many_cells_are_subsampled(monkeypatch: pytest.MonkeyPatch, blobs: tuple) -> None:
    codes, labels = blobs
    monkeypatch.setattr("chreode.evaluate.scores.LIMIT", 120)
    seen = []
    monkeypatch.setattr(
        "chreode.evaluate.scores.leiden",
        lambda x, seed: seen.append(len(x)) or clustering.leiden(x, seed=seed),
    )
    assert evaluate.score_embedding(codes, labels=labels)["kmeans_ari"] == 1.0
    assert seen == [120]


def test_profiles_of_real_cells_score_as_measured_before(shared: Path) -> None:
    """Measured before, another split of `pbmc3k_2000hvg`: 5.371 (mean) and 5.111 (label)."""
    import anndata as ad

    cells = ad.read_h5ad(shared / "pbmc3k_2000hvg.h5ad")
    counts = sp.csr_matrix(cells.X)
    rng = np.random.default_rng(0)
    test = rng.random(len(cells.obs)) < 0.1
    labels = cells.obs["cell_type"].to_numpy()
    held = counts[test].copy()
    held.data = rng.binomial(held.data.astype(int), 0.5).astype(float)
    mean = evaluate.mean_profile_nats(counts[~test], held)
    label = evaluate.label_profile_nats(counts[~test], labels[~test], held, labels[test])
    assert mean == pytest.approx(5.371, abs=0.06)
    assert label == pytest.approx(5.111, abs=0.06)
    assert label < mean - 0.2
