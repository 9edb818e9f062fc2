"""All scores of an embedding that its labels and batches allow, in one dictionary."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from chreode.evaluate.clustering import ari, kmeans, leiden, neighbour_accuracy, nmi
from chreode.evaluate.integration import (
    batch_accuracy,
    batch_mixing,
    graph_connectivity,
    label_lisi,
    silhouette_batch,
)
from chreode.evaluate.neighbours import checked, known_levels, subsample

__all__ = ["score_embedding"]

LIMIT = 20_000


def score_embedding(
    codes: Any, *, labels: Any = None, batches: Any = None, components: Any = None, seed: int = 0
) -> dict[str, float]:
    """Score an embedding by whatever is known of its cells.

    Above 20,000 cells a random subsample (``seed``) is scored; mixing of batches looks at 10,000 at most.

    Parameters
    ----------
    codes
        Codes, ``n x d``.
    labels, batches, components
        Label, batch and component of each cell; what is None, or has fewer than two levels, is left out with
        the scores that need it.
    seed
        Seed of subsample, starts, folds and shuffles.

    Returns
    -------
    JSON numbers, never NaN, in this order where they apply:
    ``leiden_clusters`` (at resolution 1) and ``components`` (with a cell at least);
    with labels ``component_ari``, ``component_nmi``; ``kmeans_ari``, ``kmeans_nmi`` (k = number of labels);
    ``leiden_ari``, ``leiden_nmi``; ``neighbour_accuracy``, ``label_lisi``, ``graph_connectivity``;
    with batches, within label where there are labels, ``batch_mixing``, ``batch_silhouette``,
    ``batch_accuracy``, ``batch_accuracy_chance``.

    Examples
    --------
    >>> import numpy as np
    >>> codes = np.random.default_rng(0).normal(size=(60, 2)) + np.repeat([[0.0], [9.0]], 30, axis=0)
    >>> scores = score_embedding(codes, labels=["T"] * 30 + ["B"] * 30)
    >>> scores["kmeans_ari"], scores["neighbour_accuracy"]
    (1.0, 1.0)
    """
    points = checked(codes)
    chosen = subsample(len(points), limit=LIMIT, seed=seed)
    points = points[chosen]
    label, batch, component = (_levels(given, len(codes), chosen) for given in (labels, batches, components))
    scores: dict[str, float] = {}
    clusters = leiden(points, seed=seed) if len(points) > 1 else np.zeros(len(points), dtype=np.int64)
    scores["leiden_clusters"] = int(clusters.max()) + 1
    if components is not None:
        known = known_levels(components, n=len(codes))[0]
        scores["components"] = len(np.unique(known[known >= 0]))
    if label is not None:
        scores |= _label_scores(points, label, component, clusters, seed)
    if batch is not None:
        accuracy = batch_accuracy(points, batch, labels=label, seed=seed)
        scores |= {
            "batch_mixing": batch_mixing(points, batch, labels=label, seed=seed),
            "batch_silhouette": silhouette_batch(points, batch, labels=label, seed=seed),
            "batch_accuracy": accuracy["accuracy"],
            "batch_accuracy_chance": accuracy["chance"],
        }
    return {name: value for name, value in scores.items() if math.isfinite(value)}


def _label_scores(
    points: np.ndarray, label: np.ndarray, component: np.ndarray | None, clusters: np.ndarray, seed: int
) -> dict[str, float]:
    scores: dict[str, float] = {}
    if component is not None:
        scores |= {"component_ari": ari(component, label), "component_nmi": nmi(component, label)}
    by_means = kmeans(points, len(np.unique(label[label >= 0])), seed=seed)
    scores |= {
        "kmeans_ari": ari(by_means, label),
        "kmeans_nmi": nmi(by_means, label),
        "leiden_ari": ari(clusters, label),
        "leiden_nmi": nmi(clusters, label),
    }
    if (label >= 0).sum() >= 5:
        scores["neighbour_accuracy"] = neighbour_accuracy(points, label, seed=seed)
    scores["label_lisi"] = label_lisi(points, label, seed=seed)
    scores["graph_connectivity"] = graph_connectivity(points, label, seed=seed)
    return scores


def _levels(values: Any, n: int, chosen: np.ndarray) -> np.ndarray | None:
    """Numbers of the levels of the chosen cells; None when fewer than two are known."""
    if values is None:
        return None
    numbers = known_levels(values, n=n)[0][chosen]
    return numbers if len(np.unique(numbers[numbers >= 0])) > 1 else None
