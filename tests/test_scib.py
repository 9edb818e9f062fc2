"""The scores of scIB: by brute force, at their extremes, by chance, and what they refuse."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import brentq
from scipy.stats import chisquare
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.metrics import silhouette_samples
from sklearn.metrics.pairwise import cosine_distances

from chreode import evaluate
from chreode.errors import InputError
from chreode.evaluate import graphs, scib

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def cells(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Three types of 60, 80 and 100 cells; three batches, mixed, of 1/2, 1/4, 1/4 of them."""
    labels = np.repeat(["B", "NK", "T"], [60, 80, 100])
    codes = rng.normal(size=(240, 4)) + 12 * np.eye(4)[np.unique(labels, return_inverse=True)[1]]
    batches = rng.choice(["p", "q", "r"], 240, p=[0.5, 0.25, 0.25])
    return {"codes": codes, "labels": labels, "batches": batches}


def apart(cells: dict[str, np.ndarray]) -> np.ndarray:
    """The same cells with batch p and r moved away, in directions of their own."""
    batches = cells["batches"]
    return np.c_[cells["codes"], 40.0 * (batches == "p"), 40.0 * (batches == "r")]


# neighbours


def test_neighbourhoods_hold_the_cell_itself_first(rng: np.random.Generator) -> None:
    codes = rng.integers(0, 3, (50, 2)).astype(float)  # many at the same place
    near, distances = evaluate.neighbourhoods(codes, 8)
    assert (near[:, 0] == np.arange(50)).all()
    assert all(len(set(row)) == 8 for row in near)
    np.testing.assert_allclose(distances, np.linalg.norm(codes[near] - codes[:, None], axis=2))
    every = np.sort(np.linalg.norm(codes[:, None] - codes[None], axis=2), axis=1)
    np.testing.assert_allclose(distances, every[:, :8])


# LISI


def lisi_of(distances: np.ndarray, levels: np.ndarray, perplexity: float) -> float:
    """LISI of one cell: the bandwidth by a root finder, the shares one by one."""

    def weights(log_beta: float) -> np.ndarray:
        raw = np.exp(-np.exp(log_beta) * (distances - distances.min()))
        return raw / raw.sum()

    def surplus(log_beta: float) -> float:
        p = weights(log_beta)
        return float(-(p * np.log(np.maximum(p, 1e-300))).sum() - np.log(perplexity))

    p = weights(brentq(surplus, -10, 6))
    return 1 / sum(p[levels == level].sum() ** 2 for level in np.unique(levels))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_lisi_is_the_direct_sum(cells: dict, scale: float) -> None:
    near, distances = evaluate.neighbourhoods(scale * cells["codes"], 30)
    found = evaluate.weighted_lisi((near, distances), cells["batches"])
    for cell in (0, 77, 239):
        others = near[cell, 1:]
        there = distances[cell, 1:] / scale
        assert found[cell] == pytest.approx(lisi_of(there, cells["batches"][others], 10), rel=1e-6)


def test_lisi_does_not_count_the_cell_itself_wherever_it_stands(cells: dict) -> None:
    near, distances = evaluate.neighbourhoods(cells["codes"], 31)
    whole = evaluate.weighted_lisi((near, distances), cells["batches"], perplexity=9)
    without = evaluate.weighted_lisi((near[:, 1:], distances[:, 1:]), cells["batches"], perplexity=9)
    last = evaluate.weighted_lisi((near[:, ::-1], distances[:, ::-1]), cells["batches"], perplexity=9)
    np.testing.assert_allclose(whole, without, rtol=1e-9)
    np.testing.assert_allclose(whole, last, rtol=1e-9)


def test_lisi_of_neighbours_equally_far_counts_them_equally() -> None:
    near = np.array([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [2, 0, 1, 3, 4], [3, 0, 1, 2, 4], [4, 0, 1, 2, 3]])
    for far in (0.0, 1.0):
        distances = np.where(near == np.arange(5)[:, None], 0.0, far)
        found = evaluate.weighted_lisi((near, distances), np.array([0, 0, 0, 1, 1]), perplexity=2)
        np.testing.assert_allclose(found[[0, 4]], [2.0, 1 / (0.75**2 + 0.25**2)])


def test_lisi_at_its_extremes(cells: dict, rng: np.random.Generator) -> None:
    mixed = evaluate.neighbourhoods(cells["codes"], 50)
    assert evaluate.clisi(mixed, cells["labels"]) == 1.0
    assert evaluate.ilisi(evaluate.neighbourhoods(apart(cells), 30), cells["batches"]) == pytest.approx(0.0)
    two = np.tile(["a", "b"], 120)
    assert evaluate.ilisi(mixed, two) > 0.85
    assert evaluate.clisi(mixed, rng.permutation(two)) < 0.15
    assert np.isnan(evaluate.ilisi(mixed, ["a"] * 240))
    assert np.isnan(evaluate.clisi(mixed, ["a"] * 240))


# kBET


def test_kbet_is_a_chi_squared_test_a_cell(cells: dict, rng: np.random.Generator) -> None:
    codes = cells["codes"] + 0.8 * (cells["batches"] == "p")[:, None]
    near = evaluate.neighbourhoods(codes, 25)[0]
    levels, share = np.unique(cells["batches"], return_counts=True)
    counts = np.array([[(cells["batches"][row] == level).sum() for level in levels] for row in near])
    for alpha in (0.05, 0.3):
        p = chisquare(counts, f_exp=np.tile(25 * share / 240, (240, 1)), axis=1).pvalue
        assert 0 < (p >= alpha).mean() < 1
        assert evaluate.kbet(near, cells["batches"], alpha=alpha) == (p >= alpha).mean()


def test_kbet_accepts_batches_by_chance_as_often_as_it_says(rng: np.random.Generator) -> None:
    near = rng.integers(0, 4000, (4000, 60))
    batches = rng.integers(0, 3, 4000)
    for alpha in (0.05, 0.2):
        error = np.sqrt(alpha * (1 - alpha) / 4000)
        assert evaluate.kbet(near, batches, alpha=alpha) == pytest.approx(1 - alpha, abs=4 * error + 0.005)


def test_kbet_per_label_sees_batches_apart_within_a_label(cells: dict) -> None:
    def rates(codes: np.ndarray) -> dict:
        return evaluate.kbet_per_label(graph_of(codes), labels=cells["labels"], batches=cells["batches"])

    mixed = rates(cells["codes"])
    assert list(mixed) == ["B", "NK", "T"]
    assert min(mixed.values()) > 0.8
    assert set(rates(apart(cells)).values()) == {0.0}
    near_p = cells["codes"] + np.outer((cells["batches"] == "p") & (cells["labels"] == "T"), [0, 0, 0, 4.0])
    one = rates(near_p)
    assert one["T"] < 0.5
    assert {one[name] == mixed[name] for name in ("B", "NK")} == {True}


def test_kbet_per_label_leaves_out_what_says_nothing(cells: dict) -> None:
    graph, batches = graph_of(cells["codes"]), cells["batches"].copy()
    batches[cells["labels"] == "NK"] = "q"
    labels = cells["labels"].astype(object)
    labels[:9] = "few"
    assert list(evaluate.kbet_per_label(graph, labels=labels, batches=batches)) == ["B", "T"]


def test_a_label_in_crumbs_scores_nought(rng: np.random.Generator) -> None:
    """Each of eight islands holds fewer cells than three times the neighbours of the test."""
    codes = rng.normal(size=(160, 2)) + 1000.0 * np.arange(8).repeat(20)[:, None]
    batches = rng.choice(["a", "b"], 160)
    graph = graph_of(codes, k=10)
    assert evaluate.kbet_per_label(graph, labels=["T"] * 160, batches=batches) == {"T": 0.0}


def test_a_small_island_is_left_out_of_a_label(rng: np.random.Generator) -> None:
    """Were it not, its 8 cells, all of one batch, would be refused."""
    codes = np.r_[rng.normal(size=(60, 2)), rng.normal(size=(8, 2)) + 1000]
    batches = np.r_[np.tile(["a", "b"], 30), ["a"] * 8]
    whole = evaluate.kbet_per_label(graph_of(codes, k=7), labels=["T"] * 68, batches=batches)
    main = evaluate.kbet_per_label(graph_of(codes[:60], k=7), labels=["T"] * 60, batches=batches[:60])
    assert whole == main
    assert whole["T"] > 0.8


def graph_of(codes: np.ndarray, *, k: int = 50) -> sp.csr_matrix:
    return evaluate.fuzzy_graph(evaluate.neighbourhoods(codes, k))


# graphs


def test_weights_of_a_graph_are_those_of_umap(rng: np.random.Generator) -> None:
    """The equations, cell by cell: the width by a root finder, the union by hand."""
    codes = np.r_[rng.normal(size=(40, 3)), np.zeros((3, 3))]  # three at one place
    near, distances = evaluate.neighbourhoods(codes, 9)
    by_hand = np.zeros((43, 43))
    for i in range(43):
        d = distances[i, 1:]
        beyond = np.maximum(d - d[d > 0].min(), 0)
        width = np.exp(brentq(lambda s, x=beyond: np.exp(-x / np.exp(s)).sum() - np.log2(9), -12, 6))
        by_hand[i, near[i, 1:]] = np.exp(-beyond / width)
    by_hand = by_hand + by_hand.T - by_hand * by_hand.T
    np.testing.assert_allclose(evaluate.fuzzy_graph((near, distances)).toarray(), by_hand, atol=1e-6)


def test_diffusion_is_the_sum_over_all_walks(rng: np.random.Generator) -> None:
    """With every eigenvector, distances between the rows of the summed powers of the step matrix."""
    graph = graph_of(rng.normal(size=(40, 2)), k=8)
    degree = graph.toarray() / np.outer(*[np.asarray(graph.sum(0)).ravel()] * 2)
    steps = degree / np.sqrt(np.outer(degree.sum(0), degree.sum(0)))
    first = np.sqrt(degree.sum(0) / degree.sum())
    rest = steps - np.outer(first, first)
    walks = rest @ np.linalg.inv(np.eye(40) - rest) + np.outer(first, first)
    far = np.linalg.norm(walks[:, None] - walks[None], axis=2)
    found = graphs.diffused(graph, 6, dims=40)
    np.testing.assert_allclose(np.take_along_axis(far, found, 1), np.sort(far, 1)[:, :6], rtol=1e-3)


def test_the_eigensolver_for_many_cells_finds_the_same(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_of(rng.normal(size=(300, 3)), k=20)
    dense = graphs.diffused(graph, 12, dims=30)
    monkeypatch.setattr(graphs, "DENSE", 10)
    many = graphs.diffused(graph, 12, dims=30, seed=3)
    assert (np.sort(many, 1) == np.sort(dense, 1)).mean() > 0.999


def test_parts_that_hardly_hang_together_are_far_by_diffusion(rng: np.random.Generator) -> None:
    graph = sp.block_diag([rng.uniform(0.5, 1, (12, 12))] * 2).tolil()
    graph[0, 12] = graph[12, 0] = 1e-18
    near = graphs.diffused(sp.csr_matrix(graph + graph.T), 12)
    assert (np.sort(near, 1) == np.repeat([np.arange(12), np.arange(12, 24)], 12, axis=0)).all()


def test_pieces_follow_the_direction_of_links() -> None:
    """0 -> 1 -> 2 -> 1: without direction one piece, with it {0} and {1, 2}."""
    near, levels = np.array([[1], [2], [1]]), np.zeros(3, dtype=int)
    assert evaluate.connected_share(near, levels, connection="weak") == 1.0
    assert evaluate.connected_share(near, levels) == pytest.approx(2 / 3)


# silhouettes


def bras_by_hand(codes: np.ndarray, batches: np.ndarray) -> float:
    far, score = cosine_distances(codes), []
    for i, batch in enumerate(batches):
        mates = (batches == batch) & (np.arange(len(codes)) != i)
        if mates.any():
            a, b = far[i, mates].mean(), far[i, batches != batch].mean()
            score.append(1 - abs(b - a) / max(a, b))
        else:
            score.append(1.0)
    return float(np.mean(score))


def test_bras_by_hand_a_label(cells: dict) -> None:
    codes, labels, batches = cells["codes"], cells["labels"], cells["batches"].astype(object)
    batches[0] = "alone"
    by_hand = [bras_by_hand(codes[labels == name], batches[labels == name]) for name in ("B", "NK", "T")]
    assert evaluate.bras(codes, labels=labels, batches=batches) == pytest.approx(np.mean(by_hand), rel=1e-12)


def test_bras_of_two_batches_is_the_silhouette(cells: dict, rng: np.random.Generator) -> None:
    batches = rng.integers(0, 2, 240)
    widths = silhouette_samples(cells["codes"], batches, metric="cosine")
    assert evaluate.bras(cells["codes"], labels=["T"] * 240, batches=batches) == pytest.approx(
        1 - np.abs(widths).mean()
    )


def test_bras_notices_batches_that_overlap_in_pairs(rng: np.random.Generator) -> None:
    """Four batches, two and two together: each has a mixed neighbour, and the nearest hides the rest."""
    batches = np.repeat(np.arange(4), 60)
    codes = rng.normal(size=(240, 3)) * 0.1 + np.array([[1.0, 0, 0], [0, 1.0, 0]])[batches // 2]
    assert evaluate.silhouette_batch(codes, batches) > 0.9
    assert evaluate.bras(codes, labels=["T"] * 240, batches=batches) < 0.1
    assert evaluate.bras(rng.normal(size=(240, 3)), labels=["T"] * 240, batches=batches) > 0.9


def test_bras_takes_a_code_without_direction() -> None:
    codes = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    batches = np.array([0, 0, 1, 1])
    assert evaluate.bras(codes, labels=["T"] * 4, batches=batches) == pytest.approx(
        bras_by_hand(codes, batches)
    )


def test_silhouettes_of_labels(cells: dict) -> None:
    codes, labels, batches = cells["codes"], cells["labels"], cells["batches"].copy()
    widths = silhouette_samples(codes, labels)
    assert evaluate.silhouette_label(codes, labels) == pytest.approx((widths.mean() + 1) / 2)
    each = {name: (widths[labels == name].mean() + 1) / 2 for name in np.unique(labels)}
    # All types are in all batches, so all are isolated.
    assert evaluate.isolated_labels(codes, labels=labels, batches=batches) == pytest.approx(
        np.mean(list(each.values()))
    )
    batches[labels == "NK"] = "p"
    assert evaluate.isolated_labels(codes, labels=labels, batches=batches) == pytest.approx(each["NK"])
    batches[(labels == "T") & (batches == "r")] = "q"
    two = evaluate.isolated_labels(codes, labels=labels, batches=batches, most_batches=2)
    assert two == pytest.approx((each["NK"] + each["T"]) / 2)
    assert np.isnan(evaluate.isolated_labels(codes, labels=labels, batches=batches, most_batches=0))
    assert np.isnan(evaluate.silhouette_label(codes, ["T"] * 240))


# principal component regression


def regressed(codes: np.ndarray, batches: np.ndarray) -> float:
    """Each principal component regressed on the batches, by least squares."""
    pca = PCA().fit(codes)
    design = (batches[:, None] == np.unique(batches)).astype(float)
    places = pca.transform(codes)
    r2 = [LinearRegression().fit(design, y).score(design, y) for y in places.T]
    return float(np.average(r2, weights=pca.explained_variance_))


def test_pcr_is_a_regression_of_each_component(cells: dict, rng: np.random.Generator) -> None:
    before, batches = apart(cells), cells["batches"]
    after = 0.05 * before + rng.normal(size=before.shape)
    by_hand = 1 - regressed(after, batches) / regressed(before, batches)
    assert 0.1 < by_hand < 0.99
    assert evaluate.pcr_comparison(after, before=before, batches=batches) == pytest.approx(by_hand, rel=1e-9)
    turned = after @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert evaluate.pcr_comparison(turned, before=before, batches=batches) == pytest.approx(by_hand, rel=1e-9)


def test_pcr_at_its_extremes(cells: dict) -> None:
    before, batches = apart(cells), cells["batches"]
    removed = before.copy()
    for batch in "pqr":
        removed[batches == batch] -= removed[batches == batch].mean(axis=0)
    assert evaluate.pcr_comparison(removed, before=before, batches=batches) == pytest.approx(1.0)
    assert evaluate.pcr_comparison(before, before=before, batches=batches) == 0.0
    assert evaluate.pcr_comparison(before, before=cells["codes"], batches=batches) == 0.0
    assert np.isnan(evaluate.pcr_comparison(before, before=before, batches=["a"] * 240))


# all together


def test_scores_and_their_means(cells: dict) -> None:
    before = apart(cells)
    given = {"labels": cells["labels"], "batches": cells["batches"], "before": before}
    scores = evaluate.integration_scores(cells["codes"], **given)
    assert list(scores) == [*scib.BIO, *scib.BATCH, "bio", "batch", "total"]
    assert json.loads(json.dumps(scores)) == scores
    assert all(0 <= value <= 1 for value in scores.values())
    assert scores["bio"] == pytest.approx(np.mean([scores[name] for name in scib.BIO]))
    assert scores["batch"] == pytest.approx(np.mean([scores[name] for name in scib.BATCH]))
    assert scores["total"] == pytest.approx(0.6 * scores["bio"] + 0.4 * scores["batch"])
    assert scores["kmeans_ari"] == scores["kmeans_nmi"] == 1.0
    uncorrected = evaluate.integration_scores(before, **given)
    assert uncorrected["pcr_comparison"] == uncorrected["kbet"] == 0.0
    assert all(scores[name] > uncorrected[name] for name in ("bras", "ilisi", "kbet", "batch", "total"))
    assert evaluate.integration_scores(cells["codes"], **given) == scores


def test_neighbours_and_clusters_may_be_given(cells: dict) -> None:
    codes, labels, batches = cells["codes"], cells["labels"], cells["batches"]
    found = evaluate.integration_scores(codes, labels=labels, batches=batches)
    near = evaluate.neighbourhoods(codes, 120)  # of which the first 90 are used
    again = evaluate.integration_scores(codes, labels=labels, batches=batches, neighbours=near)
    assert again == found
    other = evaluate.neighbourhoods(codes[:, :1], 90)
    seen = evaluate.integration_scores(
        codes, labels=labels, batches=batches, neighbours=other, clusters=batches
    )
    assert seen["clisi"] == evaluate.clisi(other, labels) < 0.9
    assert seen["kmeans_nmi"] == evaluate.nmi(batches, labels)
    assert seen["bras"] == found["bras"]


def test_only_what_is_known_is_scored(cells: dict) -> None:
    codes, labels, batches = cells["codes"], cells["labels"], cells["batches"]
    bio = ["kmeans_nmi", "kmeans_ari", "silhouette_label", "clisi", "bio"]
    assert list(evaluate.integration_scores(codes, labels=labels)) == bio
    assert list(evaluate.integration_scores(codes, labels=labels, batches=["one"] * 240)) == bio
    assert list(evaluate.integration_scores(codes, batches=batches)) == ["ilisi", "batch"]
    assert evaluate.integration_scores(codes) == {}


def test_cells_without_label_or_batch_are_left_out(cells: dict) -> None:
    codes, before = cells["codes"], apart(cells)
    labels, batches = cells["labels"].astype(object), cells["batches"].astype(object)
    labels[:5], batches[5:9], known = None, None, slice(9, None)
    clusters = cells["labels"]
    part = evaluate.integration_scores(
        codes, labels=labels, batches=batches, before=before, clusters=clusters
    )
    whole = evaluate.integration_scores(
        codes[known],
        labels=labels[known],
        batches=batches[known],
        before=before[known],
        clusters=clusters[known],
    )
    assert part == whole


def test_many_cells_are_subsampled(cells: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scib, "LIMIT", 150)
    seen = []
    monkeypatch.setattr(scib, "bras", lambda x, **of: seen.append(len(x)) or evaluate.bras(x, **of))
    given = {"labels": cells["labels"], "batches": cells["batches"]}
    scores = evaluate.integration_scores(cells["codes"], **given, seed=1)
    assert scores == evaluate.integration_scores(cells["codes"], **given, seed=1)
    assert seen == [150, 150]


def test_the_order_of_cells_does_not_matter(cells: dict, rng: np.random.Generator) -> None:
    order = rng.permutation(240)
    given = {**cells, "before": apart(cells), "clusters": cells["labels"]}
    one = evaluate.integration_scores(given.pop("codes"), **given)
    moved = {name: value[order] for name, value in given.items()}
    other = evaluate.integration_scores(cells["codes"][order], **moved)
    assert one == pytest.approx(other, abs=1e-9)


CODES = np.arange(20.0)[:, None]
PAIR = evaluate.neighbourhoods(CODES, 4)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: evaluate.ilisi(PAIR, ["a", None] * 10), "level for every cell; found 10 of 20"),
        (lambda: evaluate.clisi(PAIR, ["a", "b"]), "20 labels"),
        (lambda: evaluate.clisi(PAIR, ["a", "b"] * 10, perplexity=4), "below 4; found 4"),
        (lambda: evaluate.clisi(PAIR, ["a", "b"] * 10, perplexity=0.5), "at least 1"),
        (lambda: evaluate.clisi(PAIR[0], ["a", "b"] * 10), "pair"),
        (lambda: evaluate.clisi((PAIR[0], PAIR[1][:, :2]), ["a", "b"] * 10), "one shape"),
        (lambda: evaluate.clisi((PAIR[0] + 1, PAIR[1]), ["a", "b"] * 10), "from 0 to 19; found int64 from 1"),
        (lambda: evaluate.clisi((PAIR[0] * 1.0, PAIR[1]), ["a", "b"] * 10), "integers"),
        (lambda: evaluate.clisi((PAIR[0][:, :1].repeat(4, 1), PAIR[1]), ["a", "b"] * 10), "cells alone"),
        (lambda: evaluate.clisi((PAIR[0], -PAIR[1]), ["a", "b"] * 10), "finite distances"),
        (lambda: evaluate.kbet(PAIR[0], ["a", "b"] * 10, alpha=1.0), "alpha=1.0"),
        (lambda: evaluate.kbet(PAIR[0], ["a", None] * 10), "a batch for every cell"),
        (lambda: evaluate.kbet_per_label(sp.eye(3, 4), labels=[0] * 3, batches=[0] * 3), r"3 x 3.*\(3, 4\)"),
        (lambda: evaluate.neighbourhoods(CODES, 1), "1 neighbour"),
        (lambda: evaluate.pcr_comparison(CODES, before=CODES[1:], batches=["a", "b"] * 10), "same 20 cells"),
        (
            lambda: evaluate.bras(CODES, labels=["a", None] * 10, batches=["a", "b"] * 10),
            "a label for every cell",
        ),
        (lambda: scores(before=CODES[1:]), "found 19 before"),
        (lambda: scores(neighbours=(PAIR[0][:9], PAIR[1][:9])), "from 0 to 8"),
        (lambda: scores(neighbours=evaluate.neighbourhoods(CODES[:9], 4)), "neighbours of 20 cells; found 9"),
        (lambda: scores(neighbours=PAIR, labels=["a", "b"] * 9 + [None] * 2), "found 2 of 20 without"),
        (lambda: scores(clusters=[0] * 19 + [-1]), "cluster for every cell"),
    ],
)
def test_what_cannot_be_scored_is_refused(act: Callable, says: str) -> None:
    with pytest.raises(InputError, match=says):
        act()


def scores(**given: Any) -> dict[str, float]:
    return evaluate.integration_scores(
        CODES, **{"labels": ["a", "b"] * 10, "batches": ["p"] * 5 + ["q"] * 15, **given}
    )
