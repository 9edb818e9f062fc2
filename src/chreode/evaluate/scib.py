"""The scIB scores of an embedding, together, and their usual means."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from chreode.errors import InputError
from chreode.evaluate.clustering import ari, kmeans, nmi
from chreode.evaluate.graphs import connected_share, fuzzy_graph
from chreode.evaluate.local import clisi, ilisi, kbet_per_label
from chreode.evaluate.neighbours import (
    checked,
    every_level,
    given_neighbours,
    known_levels,
    neighbourhoods,
    subsample,
)
from chreode.evaluate.silhouettes import bras, isolated_width, mean_width, silhouette_widths

__all__ = ["BATCH", "BIO", "integration_scores", "pcr_comparison"]

BIO = ("isolated_labels", "kmeans_nmi", "kmeans_ari", "silhouette_label", "clisi")
BATCH = ("bras", "ilisi", "kbet", "graph_connectivity", "pcr_comparison")
LIMIT = 20_000
LISI, KBET, CONNECTED = 90, 50, 15  # neighbours, the cell itself counted


def pcr_comparison(codes: Any, *, before: Any, batches: Any) -> float:
    r"""How much less of the variance batches explain after integration than before.

    .. math:: \max\Big(0, \frac{R^2_\text{before} - R^2_\text{after}}{R^2_\text{before}}\Big)

    where :math:`R^2` is the share of the variance explained by batch, summed over principal components.

    Parameters
    ----------
    codes
        Codes of integrated cells, ``n x d``.
    before
        Codes of the same cells without integration, such as their principal components, ``n x e``.
    batches
        Batch of each cell, ``n``, none missing.

    Returns
    -------
    In [0, 1]; 0 also when batches explain more than before; NaN with one batch, or when batches explained
    nothing before.

    Raises
    ------
    InputError
        When the arrays do not hold the same number of cells, or a batch is missing.

    Notes
    -----
    With all components kept, as here and in scib-metrics, the sum does not depend on how the space is turned:
    it is the sum of squares between batches over the total one, and no components are computed.

    References
    ----------
    Büttner et al., 2019, A test metric for batch correction. doi:10.1038/s41592-018-0254-1

    Examples
    --------
    >>> before = np.array([[0.0], [1.0], [10.0], [11.0]])
    >>> codes = np.array([[0.0], [1.0], [0.0], [1.0]])
    >>> pcr_comparison(codes, before=before, batches=["a", "a", "b", "b"])
    1.0
    """
    second = checked(codes)
    first = _same_cells(before, len(second))
    batch, b = every_level(batches, n=len(first), what="batch")
    if b < 2:
        return float("nan")
    explained, left = _explained(first, batch), _explained(second, batch)
    return max(0.0, (explained - left) / explained) if explained > 0 else float("nan")


def integration_scores(
    codes: Any,
    *,
    labels: Any = None,
    batches: Any = None,
    before: Any = None,
    neighbours: Any = None,
    clusters: Any = None,
    seed: int = 0,
) -> dict[str, float]:
    """The scIB scores of an embedding, as scib-metrics defines them, and their means.

    Cells without a label or a batch are left out; above 20,000 cells a random subsample (``seed``) is scored.
    Neither is done when neighbours are given.

    Parameters
    ----------
    codes
        Codes, ``n x d``.
    labels, batches
        Label and batch of each cell; what is None, or has fewer than two levels, is left out with the scores
        that need it.
    before
        Codes of the same cells before integration, such as their principal components; None leaves
        ``pcr_comparison`` out.
    neighbours
        Positions and distances of each cell's neighbours, itself first, as `neighbourhoods` makes them; the
        first 90 are used. None searches 90, exactly.
    clusters
        Cluster of each cell; None clusters by k-means, k being the number of labels.
    seed
        Seed of subsample, k-means and eigensolver.

    Returns
    -------
    JSON numbers, never NaN, in this order where they apply: ``isolated_labels``, ``kmeans_nmi``,
    ``kmeans_ari``, ``silhouette_label``, ``clisi``; ``bras``, ``ilisi``, ``kbet``, ``graph_connectivity``,
    ``pcr_comparison``; ``bio``, the mean of the first five, ``batch``, the mean of the others, each of those
    that apply, and ``total = 0.6 bio + 0.4 batch``.

    Raises
    ------
    InputError
        When arrays do not fit together, or neighbours are given and a cell lacks a label or a batch.

    References
    ----------
    Luecken et al., 2022, Benchmarking atlas-level data integration. doi:10.1038/s41592-021-01336-8

    Examples
    --------
    >>> draw = np.random.default_rng(0)
    >>> labels, batches = np.repeat(["T", "B"], 60), draw.choice(["a", "b"], 120)
    >>> codes = draw.normal(size=(120, 2)) + 20.0 * (labels == "T")[:, None]
    >>> scores = integration_scores(codes, labels=labels, batches=batches)
    >>> scores["kmeans_ari"], scores["clisi"] > 0.99, scores["ilisi"] > 0.7
    (1.0, True, True)
    """
    points = checked(codes)
    n = len(points)
    label, batch = (_levels(given, n) for given in (labels, batches))
    if label is None and batch is None:
        return {}
    chosen = _chosen(n, (label, batch), given=neighbours is not None, seed=seed)
    earlier = None if before is None else _same_cells(before, n)[chosen]
    label, batch = (None if level is None else level[chosen] for level in (label, batch))
    cluster = None if clusters is None else every_level(clusters, n=n, what="cluster")[0][chosen]
    points = points[chosen]
    near, distances = neighbourhoods(points, LISI) if neighbours is None else given_neighbours(neighbours)
    if len(near) != len(points):
        msg = f"Expected neighbours of {len(points)} cells; found {len(near)}. Search them among these cells."
        raise InputError(msg)
    near, distances = near[:, :LISI], distances[:, :LISI]
    scores: dict[str, float] = {}
    if label is not None:
        scores |= _bio(points, label, batch, (near, distances), cluster, seed=seed)
    if batch is not None:
        scores |= _batch(points, label, batch, (near, distances), earlier, seed=seed)
    return _with_means({name: scores[name] for name in (*BIO, *BATCH) if name in scores})


def _bio(
    points: np.ndarray,
    label: np.ndarray,
    batch: np.ndarray | None,
    neighbours: tuple[np.ndarray, np.ndarray],
    cluster: np.ndarray | None,
    *,
    seed: int,
) -> dict[str, float]:
    widths = silhouette_widths(points, label)
    if cluster is None:
        cluster = kmeans(points, len(np.unique(label)), seed=seed)
    scores = {
        "kmeans_nmi": nmi(cluster, label),
        "kmeans_ari": ari(cluster, label),
        "silhouette_label": mean_width(widths),
        "clisi": clisi(neighbours, label),
    }
    if batch is not None:
        scores["isolated_labels"] = isolated_width(widths, labels=label, batches=batch)
    return scores


def _batch(
    points: np.ndarray,
    label: np.ndarray | None,
    batch: np.ndarray,
    neighbours: tuple[np.ndarray, np.ndarray],
    before: np.ndarray | None,
    *,
    seed: int,
) -> dict[str, float]:
    near, distances = neighbours
    scores = {"ilisi": ilisi(neighbours, batch)}
    if label is not None:
        graph = fuzzy_graph((near[:, :KBET], distances[:, :KBET]))
        rates = kbet_per_label(graph, labels=label, batches=batch, seed=seed)
        scores["bras"] = bras(points, labels=label, batches=batch)
        scores["kbet"] = float(np.mean(list(rates.values()))) if rates else float("nan")
        scores["graph_connectivity"] = connected_share(near[:, :CONNECTED], label)
    if before is not None:
        scores["pcr_comparison"] = pcr_comparison(points, before=before, batches=batch)
    return scores


def _with_means(scores: dict[str, float]) -> dict[str, float]:
    finite = {name: value for name, value in scores.items() if math.isfinite(value)}
    for name, parts in (("bio", BIO), ("batch", BATCH)):
        values = [finite[part] for part in parts if part in finite]
        if values:
            finite[name] = float(np.mean(values))
    if "bio" in finite and "batch" in finite:
        finite["total"] = 0.6 * finite["bio"] + 0.4 * finite["batch"]
    return finite


def _levels(values: Any, n: int) -> np.ndarray | None:
    """Numbers of the levels, -1 for a missing one; None when fewer than two are known."""
    if values is None:
        return None
    numbers, names = known_levels(values, n=n)
    return numbers if len(names) > 1 else None


def _same_cells(before: Any, n: int) -> np.ndarray:
    points = checked(before)
    if len(points) != n:
        msg = (
            f"Expected the same {n} cells before and after; found {len(points)} before. Give codes of the "
            "same cells, in the same order."
        )
        raise InputError(msg)
    return points


def _chosen(n: int, levels: tuple[np.ndarray | None, ...], *, given: bool, seed: int) -> np.ndarray:
    """Positions of the cells that are scored."""
    known = np.ones(n, dtype=bool)
    for level in levels:
        if level is not None:
            known &= level >= 0
    if given and not known.all():
        msg = (
            "Expected a label and a batch for every cell whose neighbours are given; found "
            f"{n - known.sum()} of {n} without. Leave these cells out before neighbours are searched."
        )
        raise InputError(msg)
    cells = np.flatnonzero(known)
    return cells if given else cells[subsample(len(cells), limit=LIMIT, seed=seed)]


def _explained(points: np.ndarray, level: np.ndarray) -> float:
    """Share of the variance between levels."""
    centred = points - points.mean(axis=0)
    sums = np.eye(level.max() + 1)[level].T @ centred
    between = ((sums**2).sum(axis=1) / np.bincount(level)).sum()
    total = (centred**2).sum()
    return float(between / total) if total > 0 else 0.0
