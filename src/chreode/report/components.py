"""What components are: who is in them, which lie beside which, and what marks them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

__all__ = ["component_by_level", "components_graph", "markers_of"]


def component_by_level(
    components: np.ndarray, codes: np.ndarray, *, n_components: int, levels: Sequence[str]
) -> pd.DataFrame:
    """Count cells by component and level; cells of unknown level make a last column when there are any.

    Parameters
    ----------
    components
        Component of each cell, 0 to ``n_components - 1``.
    codes
        Level of each cell, -1 for unknown.
    n_components
        ``k``.
    levels
        Level names, ``c`` of them.

    Returns
    -------
    pandas.DataFrame
        ``k x c`` counts (``c + 1`` with unknown ones).

    Examples
    --------
    >>> table = component_by_level(np.array([0, 1, 1]), np.array([0, 0, -1]), n_components=2, levels=["B"])
    >>> table.to_numpy().tolist()
    [[1, 0], [1, 1]]
    """
    import pandas as pd

    c = len(levels)
    where = np.where(codes < 0, c, codes)
    counts = np.bincount(components * (c + 1) + where, minlength=n_components * (c + 1)).reshape(
        n_components, c + 1
    )
    table = pd.DataFrame(counts[:, :c], columns=pd.Index([str(level) for level in levels]))
    if counts[:, c].any():
        table["unknown"] = counts[:, c]
    table.index.name = "component"
    return table


def components_graph(
    codes: np.ndarray,
    components: np.ndarray,
    *,
    n_components: int,
    neighbours: int = 15,
    queries: int = 5000,
    seed: int = 0,
) -> np.ndarray:
    """Share of each component's nearest-neighbour edges that end in each component.

    .. math:: S_{ab} = \\frac{\\#\\{(i, j): i \\in a,\\ j \\in b,\\ j \\text{ among the neighbours of } i\\}}
                             {\\#\\{(i, j): i \\in a,\\ j \\text{ among the neighbours of } i\\}}

    Parameters
    ----------
    codes
        ``n x d``.
    components
        Component of each cell, ``n``.
    n_components
        ``k``.
    neighbours
        Neighbours of a cell, by Euclidean distance between codes; fewer when there are fewer cells.
    queries
        Cells whose neighbours are looked up among all cells, drawn at random beyond this number.
    seed
        Of that draw.

    Returns
    -------
    numpy.ndarray
        ``k x k``; rows sum to one (rows of components without cells are zero).

    Examples
    --------
    >>> z = np.array([[0.0], [0.1], [9.0], [9.1]])
    >>> components_graph(z, np.array([0, 0, 1, 1]), n_components=2, neighbours=1).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    from sklearn.neighbors import NearestNeighbors

    n = len(codes)
    share = np.zeros((n_components, n_components))
    if n < 2:
        return share
    asked = np.arange(n)
    if n > queries:
        asked = np.sort(np.random.default_rng(seed).choice(n, queries, replace=False))
    found = NearestNeighbors(n_neighbors=min(neighbours, n - 1) + 1).fit(codes)
    near = found.kneighbors(codes[asked], return_distance=False)
    # Duplicates of a cell may come before it, so that it is not always its own first neighbour.
    itself = near == asked[:, None]
    itself[~itself.any(1), -1] = True
    ends = near[~itself].reshape(len(asked), -1)
    start = np.repeat(components[asked], ends.shape[1])
    np.add.at(share, (start, components[ends.ravel()]), 1.0)
    total = share.sum(1, keepdims=True)
    return np.divide(share, total, out=share, where=total > 0)


def markers_of(
    means: np.ndarray, sizes: np.ndarray, *, names: Sequence[str], kind: str = "counts", top: int = 10
) -> pd.DataFrame:
    """Features that mark each component, from what the decoder expects at its mean.

    .. math:: \\ell_{kg} = \\log_2 \\frac{\\rho_{kg} + \\epsilon}{\\bar\\rho_{-k,g} + \\epsilon}, \\qquad
              \\bar\\rho_{-k} = \\frac{\\sum_{j \\ne k} n_j \\rho_j}{\\sum_{j \\ne k} n_j}

    where the pseudo-share epsilon, the median feature's overall share (at most one in ten thousand),
    keeps features that are nearly absent everywhere from the top. Of continuous features the difference
    is taken instead.

    Parameters
    ----------
    means
        Expected proportions (values, when continuous) at each component's mean, ``k x g``.
    sizes
        Cells of each component, ``k``; those of none are left out.
    names
        Feature names, ``g``.
    kind
        ``counts``, ``binary`` or ``continuous``.
    top
        Features a component.

    Returns
    -------
    pandas.DataFrame
        Columns ``component``, ``rank`` (from 1), ``name``, ``log2_fold_change`` (the difference, when
        continuous), ``share``, ``share_rest``, ``feature`` (its place in ``names``); only
        features that are higher than in the rest.

    Examples
    --------
    >>> rho = np.array([[0.9, 0.1], [0.1, 0.9]])
    >>> markers_of(rho, np.array([5, 5]), names=["A", "B"], top=1)[["component", "name"]].values.tolist()
    [[0, 'A'], [1, 'B']]
    """
    import pandas as pd

    means = np.asarray(means, dtype=np.float64)
    weight = np.asarray(sizes, dtype=np.float64)
    total = weight @ means
    overall = total / max(weight.sum(), 1.0)
    epsilon = min(float(np.median(overall)) if overall.size else 0.0, 1e-4) + 1e-12
    parts = []
    for k in np.flatnonzero(weight > 0):
        others = weight.sum() - weight[k]
        if others <= 0:
            break
        rest = (total - weight[k] * means[k]) / others
        if kind == "continuous":
            effect = means[k] - rest
        else:
            effect = np.log2((means[k] + epsilon) / (np.maximum(rest, 0.0) + epsilon))
        best = np.argsort(-effect, kind="stable")[:top]
        best = best[effect[best] > 0]
        parts.append(
            pd.DataFrame(
                {
                    "component": k,
                    "rank": np.arange(1, len(best) + 1),
                    "name": [str(names[i]) for i in best],
                    "log2_fold_change": effect[best],
                    "share": means[k, best],
                    "share_rest": rest[best],
                    "feature": best,
                }
            )
        )
    columns = ["component", "rank", "name", "log2_fold_change", "share", "share_rest", "feature"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({c: [] for c in columns})
