"""Graphs of neighbours: their pieces, their weights, and what is near when one diffuses over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.evaluate.neighbours import given_neighbours, neighbourhoods

if TYPE_CHECKING:
    from collections.abc import Callable

    import scipy.sparse as sp

__all__ = ["connected_share", "diffused", "fuzzy_graph", "root"]

DENSE = 400  # cells up to which all eigenvectors are found at once
LEAST_WIDTH = 1e-3  # of the mean distance, as UMAP
ROUNDING = 1e-12  # of eigenvalues: parts that hardly hang together have one that rounds to 1


def root(falling: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Where functions that fall with a positive argument cross 0, by halving its logarithm.

    Parameters
    ----------
    falling
        Values of ``n`` functions at ``n`` arguments.
    low, high
        Bounds above 0, ``n``; a function that does not cross 0 between them ends at one of them.

    Examples
    --------
    >>> root(lambda x: np.array([9.0, 2.0]) - x**2, np.full(2, 1e-3), np.full(2, 1e3)).round(9)
    array([3.        , 1.41421356])
    """
    low, high = np.log(low), np.log(high)
    for _ in range(60):
        middle = (low + high) / 2
        above = falling(np.exp(middle)) > 0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.exp((low + high) / 2)


def connected_share(near: np.ndarray, levels: np.ndarray, *, connection: str = "strong") -> float:
    r"""Share of a level's cells in its largest connected piece, averaged over levels.

    .. math:: \frac{1}{|L|} \sum_{l \in L} \frac{|\text{largest connected piece of } l|}{|l|}

    Parameters
    ----------
    near
        Positions of the neighbours, ``n x k``; the graph has a link from each cell to each of them.
    levels
        Level of each cell, integers from 0, ``n``.
    connection
        "strong" when cells of a piece must reach each other along the links' directions, "weak" without.

    Returns
    -------
    In (0, 1]; 1 when every level is one piece.

    Examples
    --------
    >>> near = np.array([[1], [0], [3], [2], [5], [4]])
    >>> connected_share(near, np.array([0, 0, 0, 0, 1, 1]))
    0.75
    """
    import scipy.sparse as sp
    from scipy.sparse.csgraph import connected_components

    n, k = near.shape
    source = np.repeat(np.arange(n), k)
    same = levels[source] == levels[near.ravel()]
    links = sp.csr_matrix((np.ones(int(same.sum())), (source[same], near.ravel()[same])), shape=(n, n))
    _, piece = connected_components(links, connection=connection)
    sizes = [np.bincount(piece[levels == number]) for number in np.unique(levels)]
    return float(np.mean([size.max() / size.sum() for size in sizes]))


def fuzzy_graph(neighbours: Any) -> sp.csr_matrix:
    r"""UMAP's weights of links between neighbours.

    .. math:: w_{ij} = \exp(-\max(0, d_{ij} - \rho_i) / \sigma_i), \qquad W = w + w^T - w \circ w^T

    where :math:`\rho_i` is the least distance above 0 and :math:`\sigma_i` lets the weights of a row's other
    cells sum to :math:`\log_2 k`.

    Parameters
    ----------
    neighbours
        Positions and distances, ``n x k``, each cell itself among its ``k``.

    Returns
    -------
    Symmetric weights in [0, 1], ``n x n``.

    References
    ----------
    McInnes, Healy and Melville, 2018, UMAP. doi:10.48550/arXiv.1802.03426
    """
    import scipy.sparse as sp

    near, distances = given_neighbours(neighbours)
    n, k = near.shape
    other = near != np.arange(n)[:, None]
    rho = np.where(distances > 0, distances, np.inf).min(axis=1, keepdims=True)
    beyond = np.maximum(distances - np.where(np.isfinite(rho), rho, 0.0), 0.0)
    target = np.log2(k)

    def missing(width: np.ndarray) -> np.ndarray:
        return target - np.where(other, np.exp(-beyond / width[:, None]), 0.0).sum(axis=1)

    mean = np.where(np.isfinite(rho[:, 0]), distances.mean(axis=1), distances.mean())
    low = np.maximum(LEAST_WIDTH * mean, np.finfo(np.float64).tiny)
    width = root(missing, low, np.maximum(1e6 * low, low))
    weights = np.where(other, np.exp(-beyond / width[:, None]), 0.0)
    rows = np.repeat(np.arange(n), k)
    graph = sp.csr_matrix((weights.ravel(), (rows, near.ravel())), shape=(n, n))
    graph.eliminate_zeros()
    return sp.csr_matrix(graph + graph.T - graph.multiply(graph.T))


def diffused(graph: sp.csr_matrix, k: int, *, dims: int = 100, seed: int = 0) -> np.ndarray:
    r"""The nearest cells by diffusion over a connected graph.

    Weights are divided by both cells' degrees (so that density does not matter), then by the square roots of
    the new degrees; of that matrix's eigenvectors, cells are compared by

    .. math:: \Big(\frac{\lambda_l}{1 - \lambda_l} \psi_{il}\Big)_l,

    the sum over all numbers of steps; the first, whose eigenvalue is 1, keeps the weight 1.

    Parameters
    ----------
    graph
        Symmetric weights, ``n x n``, connected.
    k
        Cells looked for, itself included; at most ``n``.
    dims
        Eigenvectors used, those of the largest absolute eigenvalues.
    seed
        Seed of the start of the eigensolver.

    Returns
    -------
    Positions, ``n x min(k, n)``, the cell itself first.

    References
    ----------
    Coifman et al., 2005, Geometric diffusions. doi:10.1073/pnas.0500334102
    Haghverdi et al., 2016, Diffusion pseudotime. doi:10.1038/nmeth.3971
    """
    import scipy.sparse as sp
    from scipy.sparse.linalg import eigsh

    degree = np.asarray(graph.sum(axis=0), dtype=np.float64).ravel()
    n, whiten = len(degree), sp.diags(1.0 / degree)
    kernel = whiten @ graph @ whiten
    root_degree = sp.diags(1.0 / np.sqrt(np.asarray(kernel.sum(axis=0)).ravel()))
    steps = sp.csr_matrix(root_degree @ kernel @ root_degree)
    if n <= DENSE:
        values, vectors = np.linalg.eigh(steps.toarray())
    else:
        start = np.random.default_rng(seed).random(n)
        values, vectors = eigsh(steps, k=min(dims, n - 1), which="LM", v0=start)
    order = np.argsort(-np.abs(values))[: min(dims, n - 1)]
    values, vectors = values[order], vectors[:, order]
    values[np.argmax(values)] = 0.5  # the trivial one, whose weight is to be 1
    scale = values / np.maximum(1.0 - values, ROUNDING)
    return neighbourhoods(vectors * scale, k)[0]
