"""A map of codes in two dimensions, as UMAP makes it.

Written here because umap-learn spends twenty seconds of each process on compiling; this is compiled once on a
machine, and kept.
"""

from __future__ import annotations

from inspect import unwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from tqdm.auto import tqdm

from chreode.evaluate.graphs import fuzzy_graph
from chreode.evaluate.neighbours import neighbourhoods

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["umap"]

# The curve 1 / (1 + a d^2b) nearest to 1 up to a distance of 0.3, and to exp(0.3 - d) beyond.
A, B = 0.9921756, 1.1122533
NEGATIVE = 5  # cells drawn at random that push, for each neighbour that pulls
LONGEST = 4.0  # step along an axis, before the rate
EPOCHS = (500, 200)  # up to 10,000 cells, and beyond


def umap(
    codes: np.ndarray, start: np.ndarray, *, neighbours: int = 15, seed: int = 0, progress: bool = False
) -> np.ndarray:
    r"""Place cells in the plane so that neighbours stay neighbours.

    Links are those of `chreode.evaluate.graphs.fuzzy_graph`, with weights :math:`w_{ij}`; the places
    :math:`y` descend

    .. math:: -\sum_{ij} w_{ij} \log q_{ij} + (1 - w_{ij}) \log(1 - q_{ij}),
              \qquad q_{ij} = \frac{1}{1 + a \lVert y_i - y_j \rVert^{2b}}

    one link after another, each as often as its weight says, against five cells drawn at random.

    Parameters
    ----------
    codes
        ``n x d``, of 3 cells or more.
    start
        Where cells begin, ``n x 2``; each axis is stretched to between 0 and 10.
    neighbours
        Of a cell, itself among them; found exactly.
    seed
        Of the cells that push.
    progress
        Whether to show a bar.

    Returns
    -------
    Places, ``n x 2`` float32. They depend on the arguments alone: one thread does it.

    Notes
    -----
    umap-learn searches neighbours approximately beyond 4,096 cells, and adds noise to the start.

    References
    ----------
    McInnes, Healy and Melville, 2018, UMAP. doi:10.48550/arXiv.1802.03426

    Examples
    --------
    >>> codes = np.r_[np.zeros((20, 3)), np.full((20, 3), 9.0)] + np.random.default_rng(0).random((40, 3))
    >>> places = umap(codes, codes[:, :2])
    >>> gap = np.linalg.norm(places[:20].mean(0) - places[20:].mean(0))
    >>> bool(gap > 2 * np.linalg.norm(places[:20] - places[:20].mean(0), axis=1).max())
    True
    """
    epochs = EPOCHS[len(codes) > 10_000]
    with tqdm(total=epochs, desc="neighbours of the cells", disable=not progress) as bar:
        graph: Any = fuzzy_graph(neighbourhoods(codes, min(neighbours, len(codes)))).tocoo()
        share = graph.data / graph.data.max()
        low, high = start.min(0), start.max(0)
        places = 10.0 * (start - low) / np.where(high > low, high - low, 1.0)
        places = np.ascontiguousarray(places, dtype=np.float64)
        ends = graph.row.astype(np.int64), graph.col.astype(np.int64)
        state = np.random.default_rng(seed).integers(1, 2**63, size=1, dtype=np.uint64)
        bar.set_description("map of the cells")
        for epoch in range(epochs):
            _epoch(places, *ends, share, epoch, 1.0 - epoch / epochs, state)
            bar.update()
    return places.astype(np.float32)


def _kept(function: Callable) -> Any:
    """Compiled, and kept on this machine where there is a folder for it."""
    function = unwrap(function)  # tests wrap functions to check their types
    try:
        return njit(cache=True, error_model="numpy")(function)
    except RuntimeError:
        return njit(error_model="numpy")(function)


@_kept
def _epoch(places, first, second, share, epoch, rate, state):
    """Move the ends of every link whose turn it is: its share of all epochs, evenly spread."""
    n, drawn = len(places), state[0]
    for link in range(len(share)):
        if np.floor((epoch + 1) * share[link]) == np.floor(epoch * share[link]):
            continue
        i, j = first[link], second[link]
        x, y = places[i, 0] - places[j, 0], places[i, 1] - places[j, 1]
        square = x * x + y * y
        if square > 0.0:
            power = square**B
            pull = -2.0 * A * B * power / (square * (A * power + 1.0))
            x = rate * min(max(pull * x, -LONGEST), LONGEST)
            y = rate * min(max(pull * y, -LONGEST), LONGEST)
            places[i, 0] += x
            places[i, 1] += y
            places[j, 0] -= x
            places[j, 1] -= y
        for _ in range(NEGATIVE):
            # Marsaglia's xorshift.
            drawn ^= drawn << np.uint64(13)
            drawn ^= drawn >> np.uint64(7)
            drawn ^= drawn << np.uint64(17)
            other = drawn % np.uint64(n)
            x, y = places[i, 0] - places[other, 0], places[i, 1] - places[other, 1]
            square = x * x + y * y
            if square > 0.0:
                push = 2.0 * B / ((0.001 + square) * (A * square**B + 1.0))
                places[i, 0] += rate * min(max(push * x, -LONGEST), LONGEST)
                places[i, 1] += rate * min(max(push * y, -LONGEST), LONGEST)
    state[0] = drawn
