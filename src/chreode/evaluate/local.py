"""Which levels lie near a cell: LISI and kBET, on neighbours that are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.evaluate.graphs import diffused, root
from chreode.evaluate.neighbours import every_level, given_neighbours, known_levels

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = ["clisi", "ilisi", "kbet", "kbet_per_label", "weighted_lisi"]

BLOCK = 4096
LEAST_CELLS = 10
FEWEST, MOST = 10, 70  # neighbours of kBET


def weighted_lisi(neighbours: Any, levels: Any, *, perplexity: float | None = None) -> np.ndarray:
    r"""Effective number of levels near each cell, near cells counting more.

    .. math:: \Big(\sum_c \big(\sum_{j \in c} p_{ij}\big)^2\Big)^{-1}, \qquad
        p_{ij} \propto e^{-\beta_i d_{ij}}, \quad -\sum_j p_{ij} \log p_{ij} = \log(\text{perplexity})

    Parameters
    ----------
    neighbours
        Positions and distances, ``n x k`` each; the cell itself, where it is among them, has no weight.
    levels
        Level of each cell, ``n``, none missing.
    perplexity
        Effective number of neighbours, above 1 and below ``k``; a third of ``k``, rounded down, unless given.

    Returns
    -------
    ``n`` numbers in ``[1, c]``.

    Raises
    ------
    InputError
        When a level is missing, or the perplexity is out of range.

    Notes
    -----
    Distances are not squared, as in the authors' code. Where neighbours are equally far no bandwidth reaches
    the perplexity: they then weigh the same (scib-metrics leaves such cells out).

    References
    ----------
    Korsunsky et al., 2019, Harmony. doi:10.1038/s41592-019-0619-0
    """
    near, distances = given_neighbours(neighbours)
    n, k = near.shape
    level, c = every_level(levels, n=n, what="level")
    wanted = float(max(k // 3, 1)) if perplexity is None else float(perplexity)
    if not 1 <= wanted < k:
        msg = f"Expected a perplexity of at least 1 and below {k}; found {wanted}. A third of it is usual."
        raise InputError(msg)
    found = np.empty(n)
    for start in range(0, n, BLOCK):
        rows = np.arange(start, min(start + BLOCK, n))
        other = near[rows] != rows[:, None]
        weights = _perplexed(distances[rows], other, wanted)
        cell = (rows - start)[:, None] * c
        share = np.bincount(
            (cell + level[near[rows]]).ravel(), weights=weights.ravel(), minlength=len(rows) * c
        ).reshape(len(rows), c)
        found[rows] = 1.0 / (share**2).sum(axis=1)
    return found


def ilisi(neighbours: Any, batches: Any, *, perplexity: float | None = None) -> float:
    r"""Batches near a cell: the median LISI, from 0 (one batch) to 1 (all batches, equally).

    .. math:: (\operatorname{median}_i \mathrm{LISI}_i - 1) / (b - 1)

    Parameters
    ----------
    neighbours, perplexity
        As in `weighted_lisi`; scIB takes 90 neighbours, the cell itself counted.
    batches
        Batch of each cell, ``n``, none missing.

    Returns
    -------
    In [0, 1]; NaN with one batch.

    Notes
    -----
    Only batches of equal size can reach 1, and types that one batch holds alone lower it:
    `chreode.evaluate.batch_mixing` is measured against chance instead.

    References
    ----------
    Luecken et al., 2022, Benchmarking atlas-level data integration. doi:10.1038/s41592-021-01336-8

    Examples
    --------
    >>> near, distances = np.array([[0, 1, 2], [1, 0, 2], [2, 0, 1]]), np.array([[0.0, 1.0, 1.0]] * 3)
    >>> round(ilisi((near, distances), ["a", "b", "b"], perplexity=2), 3)
    1.0
    """
    middle, c = _median(neighbours, batches, perplexity)
    return (middle - 1.0) / (c - 1.0) if c > 1 else float("nan")


def clisi(neighbours: Any, labels: Any, *, perplexity: float | None = None) -> float:
    r"""Labels near a cell: the median LISI, from 0 (all labels, equally) to 1 (one label).

    .. math:: (c - \operatorname{median}_i \mathrm{LISI}_i) / (c - 1)

    Parameters
    ----------
    neighbours, perplexity
        As in `weighted_lisi`; scIB takes 90 neighbours, the cell itself counted.
    labels
        Label of each cell, ``n``, none missing.

    Returns
    -------
    In [0, 1]; NaN with one label.

    Notes
    -----
    With many labels every embedding is near 1: `chreode.evaluate.label_lisi` is measured against chance.

    References
    ----------
    Luecken et al., 2022, Benchmarking atlas-level data integration. doi:10.1038/s41592-021-01336-8
    """
    middle, c = _median(neighbours, labels, perplexity)
    return (c - middle) / (c - 1.0) if c > 1 else float("nan")


def kbet(near: Any, batches: Any, *, alpha: float = 0.05) -> float:
    r"""Share of cells whose neighbours' batches agree with the batches of all (chi-squared test).

    .. math:: \sum_b \frac{(n_{ib} - k f_b)^2}{k f_b} \le \chi^2_{b-1}(1 - \alpha)

    Parameters
    ----------
    near
        Positions of the neighbours, ``n x k``.
    batches
        Batch of each cell, ``n``, none missing.
    alpha
        Level of the test, in (0, 1).

    Returns
    -------
    Rate of acceptance in [0, 1], about ``1 - alpha`` when batches are mixed; NaN with one batch.

    Raises
    ------
    InputError
        When a batch is missing or ``alpha`` is out of range.

    References
    ----------
    Büttner et al., 2019, A test metric for batch correction. doi:10.1038/s41592-018-0254-1

    Examples
    --------
    >>> apart = np.repeat([np.arange(10), np.arange(10, 20)], 10, axis=0)
    >>> kbet(apart, np.repeat(["a", "b"], 10)), kbet(apart, np.tile(["a", "b"], 10))
    (0.0, 1.0)
    """
    from scipy.stats import chi2

    if not 0 < alpha < 1:
        msg = f"Expected a level of the test between 0 and 1; found alpha={alpha}. The usual one is 0.05."
        raise InputError(msg)
    near, _ = given_neighbours((near, np.zeros(np.shape(near))))
    n, k = near.shape
    batch, c = every_level(batches, n=n, what="batch")
    if c < 2:
        return float("nan")
    expected = k * np.bincount(batch, minlength=c) / n
    cell = np.repeat(np.arange(n), k) * c
    found = np.bincount(cell + batch[near].ravel(), minlength=n * c).reshape(n, c)
    statistic = ((found - expected) ** 2 / expected).sum(axis=1)
    return float((chi2.sf(statistic, c - 1) >= alpha).mean())


def kbet_per_label(
    graph: sp.csr_matrix, *, labels: Any, batches: Any, alpha: float = 0.05, dims: int = 100, seed: int = 0
) -> dict[Any, float]:
    """Acceptance of kBET within each label, whose cells are near by diffusion over their own graph.

    A label's neighbours are as many as a quarter of its mean batch, 10 to 70. Pieces of its graph that hold
    fewer than three times as many cells are left out; when they hold more than a quarter of its cells, the
    label scores 0.

    Parameters
    ----------
    graph
        Symmetric weights of links between cells, ``n x n``, as `fuzzy_graph` makes them of 50 neighbours.
    labels, batches
        Label and batch of each cell, ``n``, none missing.
    alpha
        Level of the test, in (0, 1).
    dims
        Eigenvectors of diffusion.
    seed
        Seed of the start of the eigensolver.

    Returns
    -------
    The rate of acceptance of each label that has two batches and ten cells; the score is their mean.

    Raises
    ------
    InputError
        When a label or batch is missing, or the graph is not square.

    Notes
    -----
    Pieces that stay are diffused over one by one; neighbours are searched exactly.

    References
    ----------
    Luecken et al., 2022, Benchmarking atlas-level data integration. doi:10.1038/s41592-021-01336-8
    """
    import scipy.sparse as sp

    links = sp.csr_matrix(graph)
    batch, _ = every_level(batches, n=len(batches), what="batch")
    n = len(batch)
    if links.shape != (n, n):
        msg = (
            f"Expected a graph of {n} x {n} cells; found {links.shape}. Give what `fuzzy_graph` returns, and "
            "the batch of each of its cells."
        )
        raise InputError(msg)
    label, _ = every_level(labels, n=n, what="label")
    rates = {}
    for number, name in enumerate(known_levels(labels)[1].tolist()):
        here = np.flatnonzero(label == number)
        held = len(np.unique(batch[here]))
        if len(here) < LEAST_CELLS or held < 2:
            continue
        k = int(np.clip(len(here) / held // 4, FEWEST, MOST))
        part = links[here][:, here]
        rates[name] = _accepted(part, batch[here], k, alpha=alpha, dims=dims, seed=seed)
    return rates


def _accepted(
    graph: sp.csr_matrix, batch: np.ndarray, k: int, *, alpha: float, dims: int, seed: int
) -> float:
    """Acceptance over the pieces of one label's graph that are large enough."""
    from scipy.sparse.csgraph import connected_components

    pieces, piece = connected_components(graph, directed=False)
    sizes = np.bincount(piece)
    large = np.arange(pieces) if pieces == 1 else np.flatnonzero(sizes >= 3 * k)
    kept = np.flatnonzero(np.isin(piece, large))
    if len(kept) < 0.75 * len(batch):
        return 0.0
    near = np.empty((len(kept), min(k + 1, len(kept))), dtype=np.int64)
    for number in large:
        here = np.flatnonzero(piece[kept] == number)
        rows = kept[here]
        near[here] = here[diffused(graph[rows][:, rows], k + 1, dims=dims, seed=seed)]
    return kbet(near, batch[kept], alpha=alpha)


def _median(neighbours: Any, levels: Any, perplexity: float | None) -> tuple[float, int]:
    found = weighted_lisi(neighbours, levels, perplexity=perplexity)
    return float(np.median(found)), every_level(levels, n=len(found), what="level")[1]


def _perplexed(distances: np.ndarray, other: np.ndarray, perplexity: float) -> np.ndarray:
    """Weights of the others that sum to one a row and have the given perplexity."""
    beyond = np.where(other, distances, np.inf)
    beyond -= beyond.min(axis=1, keepdims=True)

    def raw(beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weights = np.exp(-beta[:, None] * beyond)
        return weights, weights.sum(axis=1)

    def surplus(beta: np.ndarray) -> np.ndarray:
        weights, total = raw(beta)
        mean = (weights * np.where(other, beyond, 0.0)).sum(axis=1) / total
        return np.log(total) + beta * mean - np.log(perplexity)

    scale = np.maximum(np.where(other, beyond, 0.0).mean(axis=1), np.finfo(np.float64).tiny ** 0.5)
    weights, total = raw(root(surplus, 1e-6 / scale, 1e6 / scale))
    return weights / total[:, None]
