"""Mixing of batches within a type of cell, and the purity of types.

Batches are compared within each label, so that batches which hold different types are not blamed for it.
Scores of neighbourhoods are measured against the same cells with their batches shuffled within the label: the
expectation under perfect mixing, for these sizes and these neighbourhoods. Above ``limit`` cells (10,000
unless said otherwise) a random subsample, given by ``seed``, is scored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.evaluate.graphs import connected_share
from chreode.evaluate.neighbours import checked, known_levels, nearest, subsample

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["batch_accuracy", "batch_mixing", "graph_connectivity", "label_lisi", "lisi", "silhouette_batch"]

LIMIT = 10_000
LEAST_CELLS = 15
SHUFFLES = 10


def lisi(levels: np.ndarray, near: np.ndarray) -> np.ndarray:
    r"""Effective number of levels among the neighbours of each cell (inverse Simpson index).

    .. math:: 1 \Big/ \sum_c p_c^2

    Parameters
    ----------
    levels
        Level of each cell, non-negative integers, ``n``.
    near
        Positions of the neighbours, ``n x k``.

    Returns
    -------
    ``n`` numbers in ``[1, min(k, c)]``.

    Notes
    -----
    Neighbours weigh the same; the paper weighs them by a Gaussian of given perplexity.

    References
    ----------
    Korsunsky et al., 2019, Harmony. doi:10.1038/s41592-019-0619-0

    Examples
    --------
    >>> lisi(np.array([0, 0, 1]), np.array([[1, 2], [0, 2], [0, 1]])).tolist()
    [2.0, 2.0, 1.0]
    """
    (n, k), c = near.shape, int(levels.max()) + 1
    cell = np.repeat(np.arange(n), k)
    counts = np.bincount(cell * c + levels[near].ravel(), minlength=n * c).reshape(n, c)
    return k**2 / (counts.astype(np.float64) ** 2).sum(axis=1)


def batch_mixing(
    codes: Any,
    batches: Any,
    *,
    labels: Any = None,
    neighbours: int = 30,
    seed: int = 0,
    limit: int = LIMIT,
) -> float:
    r"""Mixing of batches among the nearest cells of the same label.

    .. math:: \frac{\sum_i (\mathrm{LISI}_i - 1)}{\sum_i (\mathrm{E}[\mathrm{LISI}_i] - 1)}

    where the expectation shuffles batches within the label.

    Parameters
    ----------
    codes
        Codes, ``n x d``.
    batches
        Batch of each cell; cells without one are left out.
    labels
        Label of each cell; cells without one are left out. None takes all cells for one type.
    neighbours
        Neighbours looked at, usually 15 to 90; at most a third of a label's cells. Labels with fewer than 15
        cells, or one batch, say nothing and are left out.
    seed
        Seed of shuffles and subsample.
    limit
        Cells scored at most.

    Returns
    -------
    0 when no cell has a neighbour of another batch, 1 (within sampling error, so also slightly above) when
    batches are mixed at random; NaN when no label holds two batches.

    References
    ----------
    Korsunsky et al., 2019, Harmony. doi:10.1038/s41592-019-0619-0
    """
    rng = np.random.default_rng(seed)
    found = expected = 0.0
    for points, batch in _within(codes, batches, labels, limit=limit, seed=seed):
        near = nearest(points, min(neighbours, len(points) // 3))
        found += float((lisi(batch, near) - 1.0).sum())
        shuffled = [(lisi(rng.permutation(batch), near) - 1.0).sum() for _ in range(SHUFFLES)]
        expected += float(np.mean(shuffled))
    return found / expected if expected > 0 else float("nan")


def batch_accuracy(
    codes: Any,
    batches: Any,
    *,
    labels: Any = None,
    neighbours: int = 15,
    seed: int = 0,
    limit: int = LIMIT,
) -> dict[str, float]:
    """How well neighbours of the same label give a cell's batch away, beside chance.

    Parameters
    ----------
    codes, batches, labels, seed, limit
        As in `batch_mixing`.
    neighbours
        Neighbours that vote; at most a third of a label's cells.

    Returns
    -------
    ``accuracy``, the share of cells whose batch is the majority among their neighbours; ``chance``, the same
    with batches shuffled within the label; ``excess``, ``(accuracy - chance) / (1 - chance)``: about 0 when
    mixed, 1 when apart. All NaN when no label holds two batches.
    """
    rng = np.random.default_rng(seed)
    right, by_chance, cells = 0.0, 0.0, 0
    for points, batch in _within(codes, batches, labels, limit=limit, seed=seed):
        near = nearest(points, min(neighbours, len(points) // 3))
        right += float(_majority_right(batch, near))
        by_chance += float(np.mean([_majority_right(rng.permutation(batch), near) for _ in range(SHUFFLES)]))
        cells += len(points)
    if not cells:
        return dict.fromkeys(("accuracy", "chance", "excess"), float("nan"))
    accuracy, chance = right / cells, by_chance / cells
    excess = (accuracy - chance) / (1.0 - chance) if chance < 1 else float("nan")
    return {"accuracy": accuracy, "chance": chance, "excess": excess}


def silhouette_batch(
    codes: Any, batches: Any, *, labels: Any = None, seed: int = 0, limit: int = LIMIT
) -> float:
    """One minus the absolute silhouette width of batches within a label, averaged over labels.

    Parameters
    ----------
    codes, batches, labels, seed, limit
        As in `batch_mixing`.

    Returns
    -------
    1 when batches overlap, towards 0 when they are apart; NaN when no label holds two batches.

    Notes
    -----
    It sees distances between whole batches only: a batch nested in another scores well (Rautenstrauch and
    Ohler, 2025, doi:10.1038/s41587-025-02743-4). Read it beside `batch_mixing`.

    References
    ----------
    Luecken et al., 2022, Benchmarking atlas-level data integration. doi:10.1038/s41592-021-01336-8
    """
    from sklearn.metrics import silhouette_samples

    widths = [
        1.0 - float(np.abs(np.asarray(silhouette_samples(points, batch))).mean())
        for points, batch in _within(codes, batches, labels, limit=limit, seed=seed)
    ]
    return float(np.mean(widths)) if widths else float("nan")


def label_lisi(codes: Any, labels: Any, *, neighbours: int = 30, seed: int = 0, limit: int = LIMIT) -> float:
    r"""Purity of labels among the nearest cells.

    .. math:: 1 - \frac{\sum_i (\mathrm{LISI}_i - 1)}{\sum_i (\mathrm{E}[\mathrm{LISI}_i] - 1)}

    where the expectation shuffles all labels.

    Parameters
    ----------
    codes
        Codes, ``n x d``.
    labels
        Label of each cell; cells without one are left out.
    neighbours, seed, limit
        As in `batch_mixing`.

    Returns
    -------
    1 when neighbours always share the label, 0 (within sampling error) when labels lie at random; NaN with
    fewer than two labels.

    Notes
    -----
    scIB scales by the number of labels, which leaves every embedding near 1 when labels are many; chance does
    not.
    """
    return 1.0 - batch_mixing(codes, labels, neighbours=neighbours, seed=seed, limit=limit)


def graph_connectivity(
    codes: Any, labels: Any, *, neighbours: int = 15, seed: int = 0, limit: int = LIMIT
) -> float:
    r"""Share of a label's cells that hang together in the neighbour graph, averaged over labels.

    .. math:: \frac{1}{|L|} \sum_{l \in L} \frac{|\text{largest connected part of } l|}{|l|}

    Parameters
    ----------
    codes
        Codes, ``n x d``.
    labels
        Label of each cell; cells without one are left out.
    neighbours
        Neighbours of each cell; two cells are linked when either is near the other.
    seed, limit
        As in `batch_mixing`.

    Returns
    -------
    In (0, 1]; 1 when every label is one connected piece. NaN without labels.

    References
    ----------
    Luecken et al., 2022, Benchmarking atlas-level data integration. doi:10.1038/s41592-021-01336-8
    """
    points, level, _ = _known(codes, labels, None, limit=limit, seed=seed)
    if len(points) < 2:
        return float("nan")
    return connected_share(nearest(points, neighbours), level, connection="weak")


def _majority_right(levels: np.ndarray, near: np.ndarray) -> float:
    """Cells whose level is the most frequent near them; a tie counts as its chance."""
    (n, k), c = near.shape, int(levels.max()) + 1
    cell = np.repeat(np.arange(n), k)
    counts = np.bincount(cell * c + levels[near].ravel(), minlength=n * c).reshape(n, c)
    winners = counts == counts.max(axis=1, keepdims=True)
    return float((winners[np.arange(n), levels] / winners.sum(axis=1)).sum())


def _known(
    codes: Any, levels: Any, labels: Any, *, limit: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points = checked(codes)
    level, _ = known_levels(levels, n=len(points))
    label = (
        np.zeros(len(points), dtype=np.int64) if labels is None else known_levels(labels, n=len(points))[0]
    )
    known = np.flatnonzero((level >= 0) & (label >= 0))
    chosen = known[subsample(len(known), limit=limit, seed=seed)]
    return points[chosen], level[chosen], label[chosen]


def _within(
    codes: Any, batches: Any, labels: Any, *, limit: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Codes and batches (0, 1, ...) of each label that holds two batches and enough cells."""
    points, batch, label = _known(codes, batches, labels, limit=limit, seed=seed)
    for number in np.unique(label):
        here = label == number
        names, renumbered = np.unique(batch[here], return_inverse=True)
        if here.sum() >= LEAST_CELLS and 1 < len(names) < here.sum():
            yield points[here], renumbered
