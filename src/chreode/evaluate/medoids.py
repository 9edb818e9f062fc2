"""A few members of a set that stand for all of it."""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import Any, NamedTuple

import numpy as np

from chreode.axes import Int
from chreode.errors import InputError

__all__ = ["Medoids", "k_medoids"]

_EXACT = 10**7  # entries of the table that all choices need
_STARTS = 10


class Medoids(NamedTuple):
    """Who was chosen, rising, whom each member belongs to (a place among these), and what that costs."""

    chosen: Int[np.ndarray, " k"]
    nearest: Int[np.ndarray, " s"]
    cost: float


def k_medoids(distances: Any, k: int, *, seed: int = 0) -> Medoids:
    r"""The ``k`` members to which all are nearest in sum.

    .. math:: \min_{|M| = k} \sum_i \min_{m \in M} d_{im}

    All choices are tried where they are few. Else members are taken one by one, each time the one that helps
    most (BUILD), and exchanged one for one, each time the pair that helps most, until none helps (SWAP); the
    same exchanges from ten random choices guard against a poor end.

    Parameters
    ----------
    distances
        ``s x s``, symmetric, at least 0, and 0 for a member from itself.
    k
        How many, 1 to ``s``.
    seed
        Of the random choices.

    Raises
    ------
    InputError
        For a table that is not square, finite and at least 0, or ``k`` out of range.

    References
    ----------
    Kaufman and Rousseeuw (1990), *Partitioning around medoids*, doi:10.1002/9780470316801.ch2.

    Examples
    --------
    >>> place = np.array([0.0, 1.0, 2.0, 10.0, 11.0])
    >>> found = k_medoids(np.abs(place[:, None] - place), 2)
    >>> found.chosen.tolist(), found.nearest.tolist(), found.cost
    ([1, 3], [0, 0, 0, 1, 1], 3.0)
    """
    d = np.asarray(distances, dtype=np.float64)
    if d.ndim != 2 or d.shape[0] != d.shape[1] or not (np.isfinite(d) & (d >= 0)).all():
        msg = f"Expected a square table of finite distances of at least 0; found one of shape {d.shape}."
        raise InputError(msg + " Give one row and one column a member.")
    if not 1 <= k <= len(d):
        msg = f"Expected k from 1 to {len(d)}, the number there is to choose from; found {k}. Give another."
        raise InputError(msg)
    if comb(len(d), k) * k * len(d) <= _EXACT:
        choices = np.array(list(combinations(range(len(d)), k)))
        best = choices[d[choices].min(1).sum(1).argmin()]
    else:
        rng = np.random.default_rng(seed)
        starts = [_built(d, k), *(rng.choice(len(d), k, replace=False) for _ in range(_STARTS))]
        best = np.sort(min((_swapped(d, start) for start in starts), key=lambda m: d[m].min(0).sum()))
    return Medoids(best, d[best].argmin(0), float(d[best].min(0).sum()))


def _built(d: np.ndarray, k: int) -> np.ndarray:
    chosen: list[int] = []
    near = np.full(len(d), np.inf)
    for _ in range(k):
        cost = np.minimum(d, near).sum(1)
        cost[chosen] = np.inf
        chosen.append(int(cost.argmin()))
        near = np.minimum(near, d[chosen[-1]])
    return np.array(chosen)


def _swapped(d: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    chosen, cost = chosen.copy(), d[chosen].min(0).sum()
    while True:
        best, exchange = cost, None
        for i in range(len(chosen)):
            near = d[np.delete(chosen, i)].min(0, initial=np.inf)
            costs = np.minimum(d, near).sum(1)
            if costs.min() < best - 1e-12 * cost:
                best, exchange = costs.min(), (i, int(costs.argmin()))
        if exchange is None:
            return chosen
        chosen[exchange[0]], cost = exchange[1], best
