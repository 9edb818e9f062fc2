"""Silhouettes: how apart labels lie, and how little batches within a label do."""

from __future__ import annotations

from typing import Any

import numpy as np

from chreode.evaluate.neighbours import checked, every_level

__all__ = ["bras", "isolated_labels", "silhouette_label", "silhouette_widths"]


def silhouette_widths(codes: Any, labels: Any) -> np.ndarray:
    r"""Silhouette width of each cell among labels, by Euclidean distance.

    .. math:: s_i = \frac{b_i - a_i}{\max(a_i, b_i)}

    where :math:`a_i` is the mean distance to the other cells of its label, :math:`b_i` the least mean
    distance to those of another.

    Parameters
    ----------
    codes
        Codes, ``n x d``.
    labels
        Label of each cell, ``n``, none missing.

    Returns
    -------
    ``n`` numbers in [-1, 1], 0 for a label's only cell; NaN with one label, or as many as cells.

    References
    ----------
    Rousseeuw, 1987, Silhouettes. doi:10.1016/0377-0427(87)90125-7
    """
    from sklearn.metrics import silhouette_samples

    points = checked(codes)
    label, c = every_level(labels, n=len(points), what="label")
    if not 1 < c < len(points):
        return np.full(len(points), np.nan)
    return np.asarray(silhouette_samples(points, label), dtype=np.float64)


def silhouette_label(codes: Any, labels: Any) -> float:
    r"""Mean silhouette width of labels, as :math:`(\bar s + 1) / 2`.

    Parameters
    ----------
    codes, labels
        As in `silhouette_widths`.

    Returns
    -------
    In [0, 1]: 1 for labels far apart, 0.5 for labels that overlap.

    References
    ----------
    Luecken et al., 2022, Benchmarking atlas-level data integration. doi:10.1038/s41592-021-01336-8

    Examples
    --------
    >>> round(silhouette_label([[0.0], [0.1], [9.0], [9.1]], ["T", "T", "B", "B"]), 3)
    0.994
    """
    return mean_width(silhouette_widths(codes, labels))


def isolated_labels(codes: Any, *, labels: Any, batches: Any, most_batches: int | None = None) -> float:
    """Silhouette of the labels that fewest batches hold.

    Parameters
    ----------
    codes, labels
        As in `silhouette_widths`.
    batches
        Batch of each cell, ``n``, none missing.
    most_batches
        A label in so many batches or fewer is isolated; the fewest that hold any label unless given.

    Returns
    -------
    In [0, 1], the mean over isolated labels of their cells' mean ``(s + 1) / 2``; NaN when none is isolated.

    Notes
    -----
    Where all labels are in all batches, all are isolated and the score is that of all labels. scib-metrics
    means the same; the first scIB also offered a score by clusters.

    References
    ----------
    Luecken et al., 2022, Benchmarking atlas-level data integration. doi:10.1038/s41592-021-01336-8
    """
    widths = silhouette_widths(codes, labels)
    return isolated_width(widths, labels=labels, batches=batches, most_batches=most_batches)


def mean_width(widths: np.ndarray) -> float:
    """Mean of silhouette widths, from 0 to 1."""
    return float((widths.mean() + 1.0) / 2.0)


def isolated_width(
    widths: np.ndarray, *, labels: Any, batches: Any, most_batches: int | None = None
) -> float:
    """The score of `isolated_labels`, from the widths of cells."""
    label, c = every_level(labels, n=len(widths), what="label")
    batch, b = every_level(batches, n=len(widths), what="batch")
    held = np.bincount(np.unique(label * b + batch) // b, minlength=c)
    most = held.min() if most_batches is None else most_batches
    isolated = np.flatnonzero(held <= most)
    if not len(isolated):
        return float("nan")
    return float(np.mean([mean_width(widths[label == number]) for number in isolated]))


def bras(codes: Any, *, labels: Any, batches: Any) -> float:
    r"""One minus the absolute silhouette of batches within a label, against all other batches at once.

    .. math:: \frac{1}{|L|} \sum_{l \in L} \frac{1}{|l|} \sum_{i \in l} 1 - |s_i|

    where :math:`s_i` is the silhouette of cell :math:`i` by cosine distance, its :math:`b_i` being the mean
    distance to all cells of the label in other batches.

    Parameters
    ----------
    codes
        Codes, ``n x d``.
    labels, batches
        Label and batch of each cell, ``n``, none missing. A label with one batch, or a batch for every cell,
        is left out.

    Returns
    -------
    In [0, 1], 1 when batches overlap; NaN when no label holds two batches.

    Notes
    -----
    The mean over all other batches, in place of the nearest one, notices batches that overlap in pairs.
    A code of length 0 has no direction: it counts as at distance 1 of all.

    References
    ----------
    Rautenstrauch and Ohler, 2025, Shortcomings of silhouette in single-cell integration benchmarking.
    doi:10.1038/s41587-025-02743-4

    Examples
    --------
    >>> codes = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> round(bras(codes, labels=["T"] * 4, batches=["a", "a", "b", "b"]), 3)
    0.006
    """
    points = checked(codes)
    label, c = every_level(labels, n=len(points), what="label")
    batch, _ = every_level(batches, n=len(points), what="batch")
    length = np.linalg.norm(points, axis=1, keepdims=True)
    directions = points / np.where(length > 0, length, 1.0)
    kept = []
    for number in range(c):
        here = label == number
        names, within = np.unique(batch[here], return_inverse=True)
        if 1 < len(names) < here.sum():
            kept.append(float((1.0 - np.abs(_cosine_widths(directions[here], within))).mean()))
    return float(np.mean(kept)) if kept else float("nan")


def _cosine_widths(directions: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Silhouette widths by cosine distance; sums of distances need only the sums of directions."""
    n, sizes = len(directions), np.bincount(level)
    onto = np.eye(len(sizes))[level].T @ directions
    own, whole = (directions * onto[level]).sum(axis=1), directions @ onto.sum(axis=0)
    itself = (directions**2).sum(axis=1)  # 1, or 0 for a code without direction
    alone = sizes[level] < 2
    mates = np.where(alone, 1, sizes[level] - 1)
    a = 1.0 - (own - itself) / mates
    b = 1.0 - (whole - own) / (n - sizes[level])
    widest = np.maximum(a, b)
    return np.where(alone | (widest <= 0), 0.0, (b - a) / np.where(widest > 0, widest, 1.0))
