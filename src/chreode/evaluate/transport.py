"""How far one sample of cells is from another, in coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np

from chreode.axes import Float

__all__ = ["energy_distance", "moved_energy_distances", "variance_ratio", "wasserstein"]


def wasserstein(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """Exact Wasserstein-1 distance between two samples, with Euclidean ground cost.

    It falls with the number of cells even between samples of one law: compare only at equal numbers.

    Parameters
    ----------
    x, y
        Cells by dimensions.
    """
    import ot

    x, y = (np.asarray(part, dtype=np.float64) for part in (x, y))
    cost = ot.dist(x, y, metric="euclidean")
    a, b = (np.full(len(part), 1 / len(part)) for part in (x, y))
    least: Any = ot.emd2(a, b, cost, numItermax=10**7)
    return float(least)


def energy_distance(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    r"""Energy distance between two samples, from their pairwise Euclidean distances.

    .. math:: 2\,\overline{\lVert x - y \rVert} - \overline{\lVert x - x' \rVert}
              - \overline{\lVert y - y' \rVert}

    References
    ----------
    Szekely and Rizzo (2013), doi:10.1016/j.jspi.2013.03.018.
    """
    from scipy.spatial.distance import cdist

    return float(2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean())


def moved_energy_distances(
    x: Any, y: Any, moves: Float[np.ndarray, "k d"], *, block: int = 512
) -> Float[np.ndarray, " k"]:
    r"""Energy distance between two samples, the first moved by each of several vectors.

    Sparse cells stay sparse: distances come from products of rows,
    :math:`\lVert x + m - y \rVert^2 = \lVert x \rVert^2 + \lVert y \rVert^2 - 2 x^T y + 2 m^T (x - y)
    + \lVert m \rVert^2`, and the products are made once for all moves.

    Parameters
    ----------
    x, y
        Cells by dimensions, arrays or SciPy CSR matrices, which may differ in kind.
    moves
        What is added to every cell of ``x``.
    block
        Cells of ``x`` whose distances are held at a time.

    Returns
    -------
    ``k`` distances; with a move of zero, what `energy_distance` returns.
    """
    no_move = np.zeros((1, x.shape[1]))
    within = float(_mean_distances(x, x, no_move, block)[0] + _mean_distances(y, y, no_move, block)[0])
    return 2 * _mean_distances(x, y, np.asarray(moves, dtype=np.float64), block) - within


def variance_ratio(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """Total variance of the first sample in units of the second's; below 1 where it is too narrow."""
    return float(np.var(x, axis=0).sum() / np.var(y, axis=0).sum())


def _mean_distances(x: Any, y: Any, moves: np.ndarray, block: int) -> np.ndarray:
    """Mean distance of the cells of ``y`` from those of ``x``, after each move of these."""
    from sklearn.utils.extmath import row_norms, safe_sparse_dot

    squares_x, squares_y = (row_norms(part, squared=True) for part in (x, y))
    along_x, along_y = (np.asarray(part @ moves.T) for part in (x, y))
    lengths = (moves**2).sum(axis=1)
    total = np.zeros(len(moves))
    for start in range(0, x.shape[0], block):
        rows = slice(start, start + block)
        products = safe_sparse_dot(x[rows], y.T, dense_output=True)
        squares = squares_x[rows, None] + squares_y - 2 * np.asarray(products)
        for k, length in enumerate(lengths):
            moved = squares + 2 * (along_x[rows, k, None] - along_y[:, k]) + length
            # Rounding leaves a cell a little off itself, on either side of zero.
            total[k] += np.sqrt(np.maximum(moved, 0.0)).sum()
    return total / (x.shape[0] * y.shape[0])
