"""How many components: communities of the neighbour graph of the codes, merged where nothing parts them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chreode.axes import Float, Int, Tensor
from chreode.priors import em
from chreode.priors.em import CovarianceRule

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = ["count_communities", "separation"]

_LARGE = 20_000
_PAIR = 2_000
# Halves of one Gaussian have separations from -0.2 (150 codes) to -0.5 (thousands) nats a code.
_HALVES = -0.2


def count_communities(
    z: Float[Tensor, "n d"],
    *,
    neighbours: int = 15,
    resolution: float = 1.0,
    runs: int = 10,
    least: int = 10,
    seed: int = 0,
) -> tuple[int, Int[Tensor, " n"]]:
    """How many groups the codes form, and the group of each code; the start of a `Mixture`.

    1. Communities of the graph that links each code to its nearest neighbours: the partition of the
       greatest modularity among several runs of Louvain, each in another order.
    2. Communities smaller than ``least`` join those of their neighbours.
    3. While there is a pair of linked communities whose `separation` is below -0.2 nats a code, the pair
       where it is least is merged; that of the halves of one Gaussian is -0.2 to -0.5.
    4. Where all groups together describe the codes no better than one Gaussian does, there is one.

    Modularity splits large round groups, which the third and fourth step undo; density criteria alone split
    groups that are not Gaussian. Among more than 20,000 codes all this is done for 20,000 drawn at random,
    and the others join the group of most of their neighbours there.

    Parameters
    ----------
    z
        Codes.
    neighbours
        Neighbours of a code, itself left out; fewer when there are fewer codes.
    resolution
        Of the modularity; greater finds more communities.
    runs
        Runs of Louvain, at least 1.
    least
        Smallest community, in codes.
    seed
        Of the draw and of the runs: the same seed, the same groups.

    Returns
    -------
    int
        Number of groups, at least 1.
    Tensor
        Groups 0, 1, ..., largest first, int64, ``n``.

    Notes
    -----
    The graph is that of Leiden as run by scanpy, without weights. Louvain with restarts reaches the same
    modularity (to 1e-4 on five data sets), and the Leiden of scikit-network cannot be seeded.

    References
    ----------
    Blondel, Guillaume, Lambiotte and Lefebvre (2008), Fast unfolding of communities in large networks,
    doi:10.1088/1742-5468/2008/10/P10008. Biernacki, Celeux and Govaert (2000), Assessing a mixture model for
    clustering with the integrated completed likelihood, doi:10.1109/34.865189.

    Examples
    --------
    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> z = torch.randn(200, 2, generator=generator) + 20 * torch.arange(200).remainder(2).unsqueeze(1)
    >>> count, groups = count_communities(z)
    >>> count, groups.bincount().tolist()
    (2, [100, 100])
    """
    from sklearn.neighbors import NearestNeighbors

    points = z.detach().cpu().numpy().astype(np.float64)
    if len(points) < 3:
        return 1, torch.zeros(len(points), dtype=torch.int64)
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.permutation(len(points))[:_LARGE])
    near = NearestNeighbors(n_neighbors=min(neighbours, len(drawn) - 1)).fit(points[drawn])
    graph = near.kneighbors_graph()
    graph = (graph + graph.T).sign()
    labels = _louvain(graph, resolution=resolution, seeds=rng.integers(2**31, size=runs))
    labels = _join_small(labels, graph, least=min(least, len(drawn)))
    labels = _by_size(_merge(points[drawn], labels, graph))
    if not _several(torch.from_numpy(points[drawn]), torch.from_numpy(labels)):
        labels = np.zeros_like(labels)
    if len(drawn) < len(points):
        labels = _by_size(_votes(labels, near.kneighbors_graph(points)).argmax(1))
    return int(labels.max()) + 1, torch.from_numpy(labels)


def separation(z: Float[Tensor, "n d"], second: Int[Tensor, " n"]) -> float:
    """How much better two groups of codes are described as two Gaussians than as one, in nats.

    .. math::
        \\mathrm{ICL}_2 - \\mathrm{ICL}_1 = \\log p_2(z) - \\log p_1(z)
        + \\sum_{ik} r_{ik} \\log r_{ik} - \\tfrac{d+1}2 \\log n

    The two Gaussians share one covariance, that of these groups, and are fitted by EM from the groups given;
    the entropy of their responsibilities ``r`` counts against them, so that halves of one group, which
    overlap, score below zero even where it is not quite Gaussian.

    Parameters
    ----------
    z
        Codes of both groups.
    second
        1 for the codes of the second group, else 0.

    Examples
    --------
    >>> import torch
    >>> z = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    >>> half = (z[:, 0] > 0).long()
    >>> separation(z, half) < 0 < separation(z + 6 * half.unsqueeze(1), half)
    True
    """
    return _gain(z.double(), second, groups=2)


def _several(z: Tensor, labels: Tensor) -> bool:
    """Whether all groups together describe the codes better than one Gaussian."""
    groups = int(labels.max()) + 1
    return groups == 1 or _gain(z.double(), labels, groups=groups) > 0


def _gain(z: Tensor, labels: Tensor, *, groups: int) -> float:
    """Gain in integrated completed likelihood of groups with one covariance over one Gaussian, in nats."""
    rule, n, d = CovarianceRule("tied"), len(z), z.shape[1]
    one = em.from_labels(z, torch.zeros_like(labels), components=1, rule=rule)
    many = em.from_labels(z, labels, components=groups, rule=rule)
    many, _ = em.climb(z, many, rule=rule, steps=50)
    entropy = torch.special.entr(many.responsibilities(z)).sum()
    gain = many.log_prob(z).sum() - one.log_prob(z).sum() - entropy
    return float(gain) - 0.5 * (groups - 1) * (d + 1) * math.log(n)


def _louvain(graph: sp.csr_matrix, *, resolution: float, seeds: np.ndarray) -> np.ndarray:
    from sknetwork.clustering import Louvain, get_modularity

    how: dict[str, Any] = {"shuffle_nodes": True, "tol_optimization": 1e-6, "tol_aggregation": 1e-6}
    best, labels = -np.inf, np.zeros(0, dtype=np.int64)
    for seed in seeds:
        found = Louvain(resolution, random_state=int(seed), **how).fit_predict(graph)
        modularity: Any = get_modularity(graph, found, resolution=resolution)
        if modularity > best + 1e-12:
            best, labels = modularity, found
    return labels.astype(np.int64)


def _merge(points: np.ndarray, labels: np.ndarray, graph: sp.csr_matrix) -> np.ndarray:
    """Merge linked groups, the least separate first, until no pair looks like halves of one group."""
    rows = [np.flatnonzero(labels == group) for group in range(labels.max() + 1)]
    linked = _links(labels, graph)
    known: dict[tuple[int, int], float] = {}
    while True:
        for pair in np.argwhere(np.triu(linked, 1)):
            i, j = int(pair[0]), int(pair[1])
            if (i, j) not in known:
                known[i, j] = _pair_separation(points, rows[i], rows[j])
        if not known or min(known.values()) >= 0:
            break
        i, j = min(known, key=lambda pair: known[pair])
        rows[i] = np.sort(np.concatenate([rows[i], rows[j]]))
        rows[j] = rows[j][:0]
        linked[i] |= linked[j]
        linked[:, i] |= linked[:, j]
        linked[j] = linked[:, j] = linked[i, i] = False
        known = {pair: value for pair, value in known.items() if i not in pair and j not in pair}
    merged = np.empty_like(labels)
    for group, members in enumerate(rows):
        merged[members] = group
    return np.unique(merged, return_inverse=True)[1]


def _pair_separation(points: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Separation a code of two groups beyond that of halves of one; negative when they should be merged.

    Each group is thinned evenly to 2,000 codes: far more than the answer needs.
    """
    first, second = (g[np.linspace(0, len(g) - 1, min(len(g), _PAIR)).astype(int)] for g in (first, second))
    z = torch.from_numpy(points[np.concatenate([first, second])])
    second_half = torch.tensor([0] * len(first) + [1] * len(second))
    return separation(z, second_half) / len(z) - _HALVES


def _links(labels: np.ndarray, graph: sp.csr_matrix) -> np.ndarray:
    """Which groups have an edge between them."""
    votes = _votes(labels, graph)
    return np.stack([votes[labels == group].sum(0) > 0 for group in range(labels.max() + 1)])


def _votes(labels: np.ndarray, graph: sp.csr_matrix) -> np.ndarray:
    """How many neighbours of each code each group has."""
    import scipy.sparse as sp

    member = sp.csr_matrix((np.ones(len(labels)), labels, np.arange(len(labels) + 1)))
    return sp.csr_matrix(graph @ member).toarray()


def _join_small(labels: np.ndarray, graph: sp.csr_matrix, *, least: int) -> np.ndarray:
    """Dissolve groups smaller than ``least``, the smallest first, into those of their neighbours."""
    while (size := np.bincount(labels)).min() < least and len(size) > 1:
        small = int(size.argmin())
        members = labels == small
        votes = _votes(labels, graph)[members]
        votes[:, small] = -1
        labels = labels.copy()
        labels[members] = votes.argmax(1)
        labels = np.unique(labels, return_inverse=True)[1]
    return labels


def _by_size(labels: np.ndarray) -> np.ndarray:
    """The same groups numbered from the largest, without gaps."""
    order = np.argsort(-np.bincount(labels), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return np.unique(rank[labels], return_inverse=True)[1].astype(np.int64)
