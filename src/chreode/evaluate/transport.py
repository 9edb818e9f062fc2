"""How far one sample of cells is from another, in coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np

from chreode.axes import Float

__all__ = ["energy_distance", "variance_ratio", "wasserstein"]


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


def variance_ratio(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """Total variance of the first sample in units of the second's; below 1 where it is too narrow."""
    return float(np.var(x, axis=0).sum() / np.var(y, axis=0).sum())
