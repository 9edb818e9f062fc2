"""What the scores of an embedding share: known labels, a seeded subsample, nearest neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from chreode.errors import InputError

__all__ = ["checked", "known_levels", "nearest", "subsample"]


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
    from sklearn.neighbors import NearestNeighbors

    if len(codes) < 2 or k < 1:
        msg = f"Expected at least 2 cells and 1 neighbour; found {len(codes)} cells and {k} neighbours."
        raise InputError(msg)
    search = NearestNeighbors(n_neighbors=min(k, len(codes) - 1)).fit(codes)
    return search.kneighbors(return_distance=False)
