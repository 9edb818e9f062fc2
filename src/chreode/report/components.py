"""What components are: who is in them, and which lie beside which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

__all__ = ["component_by_level", "components_graph"]


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
