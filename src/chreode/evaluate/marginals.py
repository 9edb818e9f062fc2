"""Whether a model's samples are cells one could have measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.evaluate.matrices import (
    Counts,
    Rows,
    canonical,
    column_moments,
    log_normalise,
    row_blocks,
    sum_columns,
)
from chreode.evaluate.neighbours import known_levels, subsample

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compare_components", "compare_samples", "dispersion_bias", "two_sample_auc"]


def compare_samples(
    observed: Counts,
    sampled: Counts,
    *,
    seed: int = 0,
    top: int = 100,
    cells: int = 2_000,
) -> dict[str, float]:
    r"""Compare the genes of sampled cells with those of measured ones.

    Parameters
    ----------
    observed
        Counts of measured cells, best held out from training, ``n x g``.
    sampled
        Counts a model drew, any number of cells, the same genes in the same order.
    seed
        Seed of the subsamples, the components and the classifier.
    top
        Genes, the most variable in the measured cells after log-normalisation, whose correlations are
        compared.
    cells
        Cells of either kind at most for the classifier.

    Returns
    -------
    ``mean_correlation``, ``variance_correlation``
        Pearson correlation over genes of logarithms; half a molecule over all cells is added, so that an
        absent gene has one.
    ``mean_error``, ``variance_error``
        Median over genes seen in the measured cells of ``|sampled / observed - 1|``.
    ``zero_correlation``, ``zero_error``
        Pearson correlation, and mean absolute difference, of the fractions of zeros.
    ``gene_correlation``, ``gene_correlation_error``
        The same two for the correlations of pairs of the ``top`` genes, log-normalised.
    ``auc``
        `two_sample_auc`: 0.5 when nothing tells the samples apart, 1 when everything does.

    Raises
    ------
    InputError
        When genes differ in number, or either side has fewer than two cells or no molecule.

    Notes
    -----
    A correlation over genes that all have one value is NaN.
    """
    observed, sampled = _pair(observed, sampled)
    (mean, variance, zero), (mean_, variance_, zero_) = column_moments(observed), column_moments(sampled)
    seen = mean > 0
    floor = 0.5 / observed.shape[0]
    a, b = log_normalise(observed), log_normalise(sampled)
    chosen = np.argsort(-column_moments(a)[1], kind="stable")[:top]
    pairs, pairs_ = _correlations(a[:, chosen]), _correlations(b[:, chosen])
    # A gene that does not vary among the samples is correlated with nothing; one that does not vary in the
    # measured cells asks nothing.
    pairs_ = np.where(np.isnan(pairs_), 0.0, pairs_)[~np.isnan(pairs)]
    pairs = pairs[~np.isnan(pairs)]
    return {
        "mean_correlation": _pearson(np.log(mean + floor), np.log(mean_ + floor)),
        "mean_error": float(np.median(np.abs(mean_[seen] / mean[seen] - 1.0))),
        "variance_correlation": _pearson(np.log(variance + floor), np.log(variance_ + floor)),
        "variance_error": float(np.median(np.abs(variance_[seen] / variance[seen] - 1.0))),
        "zero_correlation": _pearson(zero, zero_),
        "zero_error": float(np.abs(zero - zero_).mean()),
        "gene_correlation": _pearson(pairs, pairs_),
        "gene_correlation_error": float(np.abs(pairs - pairs_).mean()) if len(pairs) else float("nan"),
        "auc": two_sample_auc(observed, sampled, seed=seed, cells=cells),
    }


def compare_components(
    observed: Counts,
    sampled: Counts,
    *,
    observed_components: Any,
    sampled_components: Any,
    seed: int = 0,
    least: int = 50,
) -> pd.DataFrame:
    """Compare samples with measured cells, component by component.

    Parameters
    ----------
    observed, sampled
        As in `compare_samples`.
    observed_components, sampled_components
        Component of each cell of either, the same numbering.
    seed
        As in `compare_samples`.
    least
        Cells a component needs on both sides to be compared; the others' rows hold NaN.

    Returns
    -------
    A row a component found on either side: ``observed_cells``, ``sampled_cells`` and what `compare_samples`
    returns.
    """
    import pandas as pd

    observed, sampled = _pair(observed, sampled)
    left, right = np.asarray(observed_components), np.asarray(sampled_components)
    known_levels(left, n=observed.shape[0])
    known_levels(right, n=sampled.shape[0])
    table = {}
    for component in np.union1d(left, right):
        here, there = observed[left == component], sampled[right == component]
        row: dict[str, float] = {"observed_cells": here.shape[0], "sampled_cells": there.shape[0]}
        if min(here.shape[0], there.shape[0]) >= least and here.nnz and there.nnz:
            row |= compare_samples(here, there, seed=seed)
        table[component] = row
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("component")


def two_sample_auc(
    observed: Counts,
    sampled: Counts,
    *,
    seed: int = 0,
    components: int = 20,
    folds: int = 5,
    cells: int = 2_000,
) -> float:
    """How well a classifier tells samples from measured cells it was not trained on.

    Gradient-boosted trees on principal components of the log-normalised counts of both, out of fold. Trees
    see differences of spread and shape, which a linear classifier does not;
    components see programmes of genes, and little of the noise of single genes, for which there are the
    variances and zeros of `compare_samples`.

    Parameters
    ----------
    observed, sampled
        Counts, the same genes.
    seed
        Seed of subsample, components, folds and trees.
    components
        Principal components, at most one less than cells and genes.
    folds
        Parts of the cells, at least 2.
    cells
        Cells taken of either kind at most, the same number of both.

    Returns
    -------
    Area under the receiver operating characteristic: about 0.5 when nothing tells them apart, 1 when they can
    be told without error.

    Raises
    ------
    InputError
        When either side has fewer cells than folds.

    References
    ----------
    Lopez-Paz and Oquab, 2017, Revisiting classifier two-sample tests. arXiv:1610.06545
    """
    import scipy.sparse as sp
    from sklearn.decomposition import PCA
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    observed, sampled = _pair(observed, sampled)
    n = min(observed.shape[0], sampled.shape[0], cells)
    if n < folds:
        msg = (
            f"Expected at least {folds} cells of either kind; found {n}. Sample more, or ask for fewer folds."
        )
        raise InputError(msg)
    both = sp.vstack(
        [x[subsample(x.shape[0], limit=n, seed=seed + side)] for side, x in enumerate((observed, sampled))]
    )
    values = log_normalise(sp.csr_matrix(both))
    d = min(components, min(values.shape) - 1)
    points = PCA(d, svd_solver="arpack", random_state=seed).fit_transform(values)
    truth = np.repeat([0, 1], n)
    trees = HistGradientBoostingClassifier(max_iter=50, min_samples_leaf=10, random_state=seed)
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    chances = np.asarray(cross_val_predict(trees, points, truth, cv=parts, method="predict_proba"))
    return float(roc_auc_score(truth, chances[:, 1]))


def dispersion_bias(
    observed: Counts, predicted: Rows, theta: np.ndarray, *, block: int = 512
) -> pd.DataFrame:
    """Bias of predicted means, by how dispersed a gene is.

    Parameters
    ----------
    observed
        Counts, ``n x g``.
    predicted
        Expected counts of the same cells (see `chreode.evaluate.Rows`), or the mean of each gene, ``g``.
    theta
        Inverse dispersion of each gene, ``g``, above 0 (variance = mean + mean²/theta).
    block
        Rows a block.

    Returns
    -------
    pandas.DataFrame
        Three rows, ``low``, ``middle`` and ``high`` dispersion (thirds of the genes seen at all, by
        ``1/theta``), and the columns ``genes``; ``least_theta`` and ``most_theta``; ``bias``, the median over
        genes of ``predicted / observed - 1`` (-0.1: ten per cent too low); ``total_bias``, the same of the
        summed means.

    Raises
    ------
    InputError
        When ``theta`` is not ``g`` positive numbers, or fewer than three genes are seen.
    """
    import pandas as pd

    counts = canonical(observed)
    n, g = counts.shape
    inverse = np.asarray(theta, dtype=np.float64)
    if inverse.shape != (g,) or not (inverse > 0).all():
        msg = f"Expected {g} values of theta above 0, one a gene; found shape {inverse.shape}: {inverse}."
        raise InputError(msg)
    mean = sum_columns(counts) / n
    sums = np.zeros(g)
    for _, means in row_blocks(predicted, shape=(n, g), block=block):
        sums += means.sum(axis=0, dtype=np.float64)
    seen = np.flatnonzero(mean > 0)
    if len(seen) < 3:
        msg = f"Expected at least three genes with molecules; found {len(seen)}."
        raise InputError(msg)
    order = seen[np.argsort(-inverse[seen], kind="stable")]
    rows = {}
    for name, genes in zip(("low", "middle", "high"), np.array_split(order, 3), strict=True):
        rows[name] = {
            "genes": len(genes),
            "least_theta": inverse[genes].min(),
            "most_theta": inverse[genes].max(),
            "bias": np.median(sums[genes] / n / mean[genes]) - 1.0,
            "total_bias": sums[genes].sum() / n / mean[genes].sum() - 1.0,
        }
    return pd.DataFrame.from_dict(rows, orient="index").astype({"genes": int}).rename_axis("dispersion")


def _correlations(columns: Counts) -> np.ndarray:
    """Correlations of all pairs of a few columns (upper triangle), NaN where one does not vary."""
    n = columns.shape[0]
    mean, variance, _ = column_moments(columns)
    products = (columns.T @ columns) @ np.eye(columns.shape[1])
    covariance = (products - n * np.outer(mean, mean)) / (n - 1)
    # Rounding leaves a column of one value with a variance of about 1e-32 of its square.
    spread = np.sqrt(np.where(variance > 1e-20 * mean**2, variance, np.nan))
    matrix = covariance / np.outer(spread, spread)
    return np.clip(matrix[np.triu_indices(len(mean), 1)], -1.0, 1.0)


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    if not len(a):
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


def _pair(observed: Any, sampled: Any) -> tuple[Counts, Counts]:
    observed, sampled = canonical(observed), canonical(sampled)
    if observed.shape[1] != sampled.shape[1]:
        msg = (
            f"Expected the same genes in measured and sampled cells; found {observed.shape[1]} and "
            f"{sampled.shape[1]}. Select and order the genes of the model in both."
        )
        raise InputError(msg)
    for name, counts in (("measured", observed), ("sampled", sampled)):
        if counts.shape[0] < 2 or not counts.data.any():
            msg = f"Expected at least two {name} cells with molecules; found {counts.shape[0]} cells."
            raise InputError(msg)
    return observed, sampled
