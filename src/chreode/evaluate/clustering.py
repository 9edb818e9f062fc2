"""Agreement of an embedding's clusters and neighbourhoods with labels."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.evaluate.neighbours import checked, known_levels, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

__all__ = ["agreement", "ari", "component_table", "kmeans", "leiden", "neighbour_accuracy", "nmi"]


def ari(a: Any, b: Any) -> float:
    """Adjusted Rand index of two labellings of the same cells.

    Parameters
    ----------
    a, b
        One label a cell each; cells without a label in either are left out (`known_levels`).

    Returns
    -------
    1 for the same partition, 0 in expectation for unrelated ones, at least -0.5.

    References
    ----------
    Hubert and Arabie, 1985, Comparing partitions. doi:10.1007/BF01908075

    Examples
    --------
    >>> ari(["T", "T", "B", "B"], [1, 1, 0, 0])
    1.0
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*_both(a, b)))


def nmi(a: Any, b: Any) -> float:
    """Normalised mutual information of two labellings of the same cells (arithmetic mean of entropies).

    Parameters
    ----------
    a, b
        One label a cell each; cells without a label in either are left out.

    Returns
    -------
    In [0, 1]; 1 for the same partition. Not corrected for chance: many clusters score above 0 on any labels.

    Examples
    --------
    >>> nmi([0, 0, 1, 1], [0, 1, 0, 1])
    0.0
    """
    from sklearn.metrics import normalized_mutual_info_score

    return min(1.0, float(normalized_mutual_info_score(*_both(a, b))))


def kmeans(codes: Any, k: int, *, seed: int = 0, restarts: int = 10) -> np.ndarray:
    """Cluster codes by k-means, the best of several starts.

    Parameters
    ----------
    codes
        Codes, ``n x d``.
    k
        Number of clusters, 1 to ``n``.
    seed
        Seed of the k-means++ starts.
    restarts
        Number of starts; the one with the least within-cluster sum of squares is returned.

    Returns
    -------
    Cluster of each cell, int64 in ``[0, k)``.

    Raises
    ------
    InputError
        When there are fewer cells than clusters.
    """
    from sklearn.cluster import KMeans

    points = checked(codes)
    if not 1 <= k <= len(points):
        msg = f"Expected between 1 and {len(points)} clusters for {len(points)} cells; found k={k}."
        raise InputError(msg)
    means = KMeans(k, random_state=seed).set_params(n_init=restarts)
    return means.fit_predict(points).astype(np.int64)


def leiden(codes: Any, *, resolution: float = 1.0, neighbours: int = 15, seed: int = 0) -> np.ndarray:
    """Cluster codes by the Leiden algorithm on their neighbour graph.

    Two cells are linked, with weight 1, when either is among the nearest of the other; the modularity of the
    graph is maximised (scikit-network).

    Parameters
    ----------
    codes
        Codes, ``n x d``, at least two cells.
    resolution
        Above 0; higher gives more clusters.
    neighbours
        Neighbours of each cell.
    seed
        Seed of the order in which nodes are visited and of the refinement.

    Returns
    -------
    Cluster of each cell, int64, 0 the largest.

    Notes
    -----
    scanpy weights links by UMAP's fuzzy memberships; numbers of clusters are similar, not the same.
    scikit-network's refinement draws from the C library's ``rand``, which no argument of it seeds: we do.

    References
    ----------
    Traag, Waltman and van Eck, 2019, From Louvain to Leiden. doi:10.1038/s41598-019-41695-z
    """
    import scipy.sparse as sp
    from sknetwork.clustering import Leiden

    if not resolution > 0:
        msg = f"Expected a resolution above 0; found {resolution}. The usual value is 1."
        raise InputError(msg)
    near = nearest(checked(codes), neighbours)
    n, k = near.shape
    links = sp.csr_matrix((np.ones(n * k), near.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    _seed_c_library(seed)
    found = Leiden(resolution=resolution, shuffle_nodes=True, random_state=seed)
    return found.fit_predict(sp.csr_matrix(links.maximum(links.T))).astype(np.int64)


def neighbour_accuracy(
    codes: Any, labels: Any, *, neighbours: int = 15, folds: int = 5, seed: int = 0
) -> float:
    """Share of cells whose label is the majority among their nearest cells of other folds.

    Parameters
    ----------
    codes
        Codes, ``n x d``.
    labels
        One label a cell; cells without one neither vote nor are scored.
    neighbours
        Neighbours that vote.
    folds
        Parts of the cells, drawn at random; the cells of a part are judged by those of the others. At least
        2.
    seed
        Seed of the parts.

    Returns
    -------
    Accuracy in [0, 1]; a majority label's share is what knowing nothing scores.

    Raises
    ------
    InputError
        When there are fewer labelled cells than folds, or fewer than two folds.
    """
    from sklearn.model_selection import KFold
    from sklearn.neighbors import KNeighborsClassifier

    points = checked(codes)
    numbers, _ = known_levels(labels, n=len(points))
    points, numbers = points[numbers >= 0], numbers[numbers >= 0]
    if not 2 <= folds <= len(points):
        msg = (
            f"Expected 2 folds or more and as many labelled cells; found {folds} folds, {len(points)} cells."
        )
        raise InputError(msg)
    right = 0
    for train, test in KFold(folds, shuffle=True, random_state=seed).split(points):
        voters = KNeighborsClassifier(min(neighbours, len(train))).fit(points[train], numbers[train])
        right += int((voters.predict(points[test]) == numbers[test]).sum())
    return right / len(points)


def agreement(a: Any, b: Any, *, names: tuple[Sequence[str], Sequence[str]] | None = None) -> float:
    """Agreement of the components of two fits on the cells that both hold, as adjusted Rand index.

    Parameters
    ----------
    a, b
        Component (or any label) of each cell of either fit.
    names
        Cell names of either fit, each unique; without them the cells must be the same, in the same order.

    Returns
    -------
    As `ari`.

    Raises
    ------
    InputError
        When names repeat, or fewer than two cells are shared.

    Examples
    --------
    >>> agreement([0, 0, 1, 1], [5, 7, 7], names=(["a", "b", "c", "d"], ["b", "d", "c"]))
    1.0
    """
    import pandas as pd

    if names is None:
        return ari(a, b)
    left, right = (pd.Index(np.asarray(given)) for given in names)
    if not (left.is_unique and right.is_unique):
        msg = "Expected unique cell names; found repeated ones. Make them unique before comparing fits."
        raise InputError(msg)
    shared = left.intersection(right, sort=False)
    if len(shared) < 2:
        msg = f"Expected fits that share cells; found {len(shared)} shared names. Compare fits of one file."
        raise InputError(msg)
    first, _ = known_levels(a, n=len(left))
    second, _ = known_levels(b, n=len(right))
    return ari(first[left.get_indexer(shared)], second[right.get_indexer(shared)])


def component_table(components: Any, labels: Any) -> pd.DataFrame:
    """Count the cells of each component by label.

    Parameters
    ----------
    components
        Component of each cell.
    labels
        One label a cell; missing ones are counted in the column ``unknown``.

    Returns
    -------
    Numbers of cells, a row a component and a column a label; they sum to the number of cells.

    Examples
    --------
    >>> component_table([0, 0, 1], ["T", "T", "B"]).loc[0, "T"]
    np.int64(2)
    """
    import pandas as pd

    rows = np.asarray(components)
    numbers, names = known_levels(labels, n=len(rows))
    columns = np.append(names.astype(object), "unknown")[numbers]
    return pd.crosstab(pd.Series(rows, name="component"), pd.Series(columns, name="label"))


def _both(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    first, _ = known_levels(a)
    second, _ = known_levels(b, n=len(first))
    known = (first >= 0) & (second >= 0)
    if not known.any():
        msg = f"Expected cells labelled in both; found none among {len(first)}. Give labels that overlap."
        raise InputError(msg)
    return first[known], second[known]


def _seed_c_library(seed: int) -> None:
    library = "ucrtbase" if sys.platform == "win32" else None
    ctypes.CDLL(library).srand(ctypes.c_uint(seed % 2**32))
