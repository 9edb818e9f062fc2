"""What the scores of an embedding share: known labels, a seeded subsample, neighbours found or given."""

from __future__ import annotations

from typing import Any

import numpy as np

from chreode.errors import InputError

__all__ = [
    "checked",
    "every_level",
    "given_neighbours",
    "known_levels",
    "nearest",
    "neighbourhoods",
    "subsample",
]


def known_levels(labels: Any, *, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Number the labels of cells; a missing one gets -1.

    Missing is what pandas calls so (None, NaN), and a negative number among integers, as in
    `chreode.cells.Cells`.

    Parameters
    ----------
    labels
        One label a cell: strings, numbers, a categorical column.
    n
        Number of cells there must be.

    Returns
    -------
    The number of each cell's level, int64 in ``[-1, c)``, and the names of the ``c`` levels, sorted.

    Raises
    ------
    InputError
        When there are not ``n`` labels.

    Examples
    --------
    >>> numbers, names = known_levels(["T", "B", None, "T"])
    >>> numbers.tolist(), names.tolist()
    ([1, 0, -1, 1], ['B', 'T'])
    """
    import pandas as pd

    values = np.asarray(labels)
    if values.ndim != 1 or (n is not None and len(values) != n):
        wanted = "one label a cell" if n is None else f"{n} labels, one a cell"
        msg = (
            f"Expected {wanted}; found an array of shape {values.shape}. Give the labels in the cells' order."
        )
        raise InputError(msg)
    if np.issubdtype(values.dtype, np.signedinteger):
        values = np.where(values < 0, np.nan, values) if (values < 0).any() else values
    numbers, names = pd.factorize(values, sort=True, use_na_sentinel=True)
    return numbers.astype(np.int64), np.asarray(names)


def every_level(labels: Any, *, n: int, what: str) -> tuple[np.ndarray, int]:
    """Number the levels of cells that must all have one.

    Parameters
    ----------
    labels
        One label a cell.
    n
        Number of cells there must be.
    what
        What the levels are, for the message.

    Returns
    -------
    The number of each cell's level, in ``[0, c)``, and ``c``.

    Raises
    ------
    InputError
        When there are not ``n`` labels, or a cell lacks one.
    """
    numbers, names = known_levels(labels, n=n)
    if (numbers < 0).any():
        msg = (
            f"Expected a {what} for every cell; found {int((numbers < 0).sum())} of {n} without one. "
            "Leave these cells out before anything is made of the others."
        )
        raise InputError(msg)
    return numbers, len(names)


def checked(codes: Any) -> np.ndarray:
    """The codes as an array of floats, ``n x d``.

    Raises
    ------
    InputError
        When they are not two-dimensional, empty or not finite.
    """
    array = np.asarray(codes)
    if array.ndim != 2 or 0 in array.shape:
        msg = f"Expected codes as cells x dimensions; found an array of shape {array.shape}."
        raise InputError(msg)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).any(axis=1).sum())
        msg = f"Expected finite codes; found {bad} cells with NaN or infinite ones. Leave these cells out."
        raise InputError(msg)
    return array.astype(np.float64, copy=False)


def subsample(n: int, *, limit: int, seed: int) -> np.ndarray:
    """Positions of at most ``limit`` of ``n`` cells, drawn without replacement, in order.

    Examples
    --------
    >>> subsample(4, limit=10, seed=0).tolist()
    [0, 1, 2, 3]
    >>> len(subsample(1000, limit=10, seed=0))
    10
    """
    if n <= limit:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, limit, replace=False))


def nearest(codes: np.ndarray, k: int) -> np.ndarray:
    """The ``k`` nearest other cells of every cell, exactly, by Euclidean distance.

    Parameters
    ----------
    codes
        Codes, ``n x d``.
    k
        Number of neighbours, at least 1; a cell is not its own neighbour, and there are at most ``n - 1``.

    Returns
    -------
    Positions, ``n x min(k, n - 1)``, nearest first.

    Raises
    ------
    InputError
        When there are fewer than two cells or ``k`` is below 1.
    """
    return _search(codes, k)[0]


def neighbourhoods(codes: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` nearest cells of every cell, itself first, and their distances.

    The layout of scib-metrics: ``k`` counts the cell itself.

    Parameters
    ----------
    codes
        Codes, ``n x d``.
    k
        Neighbours of each cell, at least 2; no more than ``n`` are found.

    Returns
    -------
    Positions and Euclidean distances, each ``n x min(k, n)``; the cell itself, at distance 0, first.

    Raises
    ------
    InputError
        When there are fewer than two cells or ``k`` is below 2.

    Examples
    --------
    >>> near, distances = neighbourhoods([[0.0], [1.0], [3.0]], 2)
    >>> near.tolist(), distances.tolist()
    ([[0, 1], [1, 0], [2, 1]], [[0.0, 1.0], [0.0, 1.0], [0.0, 2.0]])
    """
    points = checked(codes)
    others, distances = _search(points, k - 1)
    return np.c_[np.arange(len(points)), others], np.c_[np.zeros(len(points)), distances]


def given_neighbours(neighbours: Any) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours that a caller gives, checked.

    Parameters
    ----------
    neighbours
        Positions and distances, ``n x k`` each, as `neighbourhoods` returns them.

    Returns
    -------
    Positions, int64, and distances, float64.

    Raises
    ------
    InputError
        When they are not two arrays of one shape, or hold what is no position or no distance.
    """
    if not isinstance(neighbours, tuple | list) or len(neighbours) != 2:
        msg = (
            f"Expected a pair, positions and distances of neighbours; found {type(neighbours).__name__}. "
            "Give what `neighbourhoods` returns."
        )
        raise InputError(msg)
    near, distances = np.asarray(neighbours[0]), np.asarray(neighbours[1], dtype=np.float64)
    if near.ndim != 2 or near.shape != distances.shape or near.shape[1] < 2:
        msg = (
            "Expected positions and distances of one shape, cells x 2 neighbours or more; found "
            f"{near.shape} and {distances.shape}. Give what `neighbourhoods` returns."
        )
        raise InputError(msg)
    if not np.issubdtype(near.dtype, np.integer) or near.min() < 0 or near.max() >= len(near):
        msg = (
            f"Expected positions of neighbours, integers from 0 to {len(near) - 1}; found {near.dtype} from "
            f"{near.min()} to {near.max()}. Search neighbours among the cells that are scored."
        )
        raise InputError(msg)
    if not (near != np.arange(len(near))[:, None]).any(axis=1).all():
        msg = "Expected another cell among each cell's neighbours; found cells alone. Leave these out."
        raise InputError(msg)
    if not np.isfinite(distances).all() or distances.min() < 0:
        msg = (
            "Expected finite distances of 0 or more; found others. Leave out cells that have too few "
            "neighbours."
        )
        raise InputError(msg)
    return near.astype(np.int64, copy=False), distances


def _search(codes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.neighbors import NearestNeighbors

    if len(codes) < 2 or k < 1:
        msg = f"Expected at least 2 cells and 1 neighbour; found {len(codes)} cells and {k} neighbours."
        raise InputError(msg)
    search = NearestNeighbors(n_neighbors=min(k, len(codes) - 1)).fit(codes)
    distances, near = search.kneighbors()
    return near, distances
