"""Who is fitted, who is tested, and the scores: the same for chreode and for every peer.

A split is a pure function of (data set, seed): 90 % of the cells are fitted (a tenth of those decide
about stopping), 10 % are only ever tested. Every cell's counts are thinned into two binomial halves:
codes of tested cells are inferred from the first half, the second half is scored. NumPy and
scikit-learn only (and scikit-network for Leiden, where it is installed), so that both environments
share this file.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

__all__ = ["Split", "kmeans", "leiden", "mixing", "nats", "neighbours", "pcs", "profiles", "scores", "split"]


@dataclass(frozen=True)
class Split:
    """Positions of cells, sorted, and the two halves of every cell's molecules.

    Parameters
    ----------
    fit
        Cells that a model may see: ``train`` and ``validation`` together.
    train, validation
        Nine tenths and one tenth of ``fit``.
    test
        Cells that a model never sees.
    first, second
        Binomial halves of all cells' counts (CSR, n x g), ``first + second`` being the counts.
    """

    fit: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    first: sp.csr_matrix
    second: sp.csr_matrix


def split(counts: sp.csr_matrix, *, name: str, seed: int) -> Split:
    """Split one data set; the same name, seed and counts give the same split anywhere."""
    generator = np.random.default_rng([zlib.crc32(name.encode()), seed])
    n = counts.shape[0]
    order = generator.permutation(n)
    n_test = round(0.1 * n)
    n_validation = round(0.1 * (n - n_test))
    test, validation, train = np.split(order, [n_test, n_test + n_validation])
    first = sp.csr_matrix(counts, dtype=np.float32, copy=True)
    second = first.copy()
    first.data = generator.binomial(first.data.astype(np.int64), 0.5).astype(np.float32)
    second.data = second.data - first.data
    first.eliminate_zeros()
    second.eliminate_zeros()
    return Split(
        fit=np.sort(np.r_[train, validation]),
        train=np.sort(train),
        validation=np.sort(validation),
        test=np.sort(test),
        first=first,
        second=second,
    )


def nats(counts: sp.csr_matrix, proportions: np.ndarray) -> float:
    """Nats per held-out molecule, ``-sum(x log rho) / sum(x)``; rho is n x g or g, floored at 1e-10."""
    logs = np.log(np.maximum(np.asarray(proportions, dtype=np.float64), 1e-10))
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    picked = logs[counts.indices] if logs.ndim == 1 else logs[rows, counts.indices]
    return float(-(counts.data * picked).sum() / counts.data.sum())


def profiles(counts: sp.csr_matrix, labels: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean proportions of each label (or of all cells), and the label names; one pseudo-molecule in all."""
    labels = np.zeros(counts.shape[0], dtype=int) if labels is None else np.asarray(labels)
    names = np.unique(labels)
    overall = np.asarray(counts.sum(0), dtype=np.float64).ravel() + 1.0 / counts.shape[1]
    totals = np.stack([np.asarray(counts[labels == name].sum(0)).ravel() for name in names])
    totals = totals + overall / overall.sum()
    return totals / totals.sum(1, keepdims=True), names


def pcs(
    counts: sp.csr_matrix, *, n: int = 20, total: float = 1e4, scaled: bool = False, seed: int = 0
) -> np.ndarray:
    """Principal components of ``log1p`` of counts scaled to one total; ``scaled`` first to unit variance.

    Scaled values are clipped at 10, as is usual.
    """
    from sklearn.decomposition import PCA

    size = np.maximum(np.asarray(counts.sum(1), dtype=np.float64).ravel(), 1.0)
    logged = sp.csr_matrix(sp.diags(total / size) @ counts)
    logged.data = np.log1p(logged.data)
    if scaled:
        logged = logged.toarray()
        logged = np.minimum((logged - logged.mean(0)) / np.maximum(logged.std(0), 1e-6), 10)
    return PCA(n, svd_solver="arpack", random_state=seed).fit_transform(logged)


def kmeans(codes: np.ndarray, *, components: int, seed: int = 0) -> np.ndarray:
    """K-means with ten starts."""
    from sklearn.cluster import KMeans

    return KMeans(components, n_init=10, random_state=seed).fit_predict(codes)


def leiden(codes: np.ndarray, *, neighbours: int = 15, resolution: float = 1.0) -> np.ndarray:
    """Leiden communities of the unweighted graph of nearest neighbours (either way).

    scikit-network refines with the C library's ``rand``, which ``random_state`` does not seed: the most
    modular of ten runs hardly depends on it.
    """
    from sklearn.neighbors import kneighbors_graph
    from sknetwork.clustering import Leiden, get_modularity

    graph = kneighbors_graph(codes, neighbours)
    graph = sp.csr_matrix(graph.maximum(graph.T))
    runs = [Leiden(resolution=resolution, random_state=seed).fit_predict(graph) for seed in range(10)]
    return max(runs, key=lambda run: get_modularity(graph, run, resolution=resolution))


def neighbours(codes: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> float:
    """Accuracy of 15 nearest neighbours' vote in five-fold cross-validation."""
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    folds = KFold(5, shuffle=True, random_state=seed)
    return float(cross_val_score(KNeighborsClassifier(15), codes, labels, cv=folds).mean())


def mixing(codes: np.ndarray, labels: np.ndarray, batches: np.ndarray) -> float:
    """How well batches mix among the cells of one label; 1 is as by chance, 0 is apart.

    Of each cell's 15 nearest neighbours with its own label, the share from another batch, over the share
    of such cells among all others of the label; mean over cells. Labels of one batch or of at most 15
    cells do not count.
    """
    from sklearn.neighbors import NearestNeighbors

    labels, batches = np.asarray(labels).astype(str), np.asarray(batches).astype(str)
    ratios = []
    for label in np.unique(labels):
        mine, level = codes[labels == label], batches[labels == label]
        if len(mine) <= 15 or len(np.unique(level)) == 1:
            continue
        near = NearestNeighbors(n_neighbors=15).fit(mine).kneighbors(return_distance=False)
        found = (level[near] != level[:, None]).mean(1)
        expected = (level[None] != level[:, None]).sum(1) / (len(level) - 1)
        ratios.append(found / expected)
    return float(np.concatenate(ratios).mean())


def scores(
    codes: np.ndarray, labels: np.ndarray, *, batches: np.ndarray | None = None, seed: int = 0
) -> dict[str, float]:
    """Scores of codes (n x d): k-means ARI at the true K, neighbours, Leiden ARI and K, mixing of batches.

    Leiden is left out where scikit-network is absent.
    """
    from sklearn.metrics import adjusted_rand_score

    labels = np.asarray(labels).astype(str)
    clusters = kmeans(codes, components=len(np.unique(labels)), seed=seed)
    found = {"kmeans_ari": float(adjusted_rand_score(labels, clusters))}
    found["knn"] = neighbours(codes, labels, seed=seed)
    if batches is not None:
        found["mixing"] = mixing(codes, labels, batches)
    try:
        communities = leiden(codes)
    except ImportError:
        return found
    found["leiden_ari"] = float(adjusted_rand_score(labels, communities))
    found["leiden_k"] = float(len(np.unique(communities)))
    return found
