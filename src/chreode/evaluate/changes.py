"""How right a predicted change of genes is: in sign, order, magnitude, and where it matters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.words import many

if TYPE_CHECKING:
    from chreode.axes import Float

__all__ = ["change_scores", "correlation", "effect_weights", "finite", "same_genes"]


def change_scores(
    predicted: Any, true: Any, *, weights: Any = None, reference: Any = None, changed: Any = 100
) -> dict[str, float]:
    r"""Scores of one predicted change :math:`\hat\delta` of genes, the true one being :math:`\delta`.

    .. math::

        \mathrm{slope} = \frac{\hat\delta^T \delta}{\delta^T \delta}, \quad
        \mathrm{wmse} = \sum_g w_g (\hat\delta_g - \delta_g)^2, \quad
        R^2_w = 1 - \frac{\mathrm{wmse}}{\sum_g w_g (\delta_g - m_g)^2}, \quad \sum_g w_g = 1

    Parameters
    ----------
    predicted, true
        Change of each gene, ``g``.
    weights
        Weight of each gene, 0 or more, ``g``, as `effect_weights` makes them of t statistics. None makes them
        of ``|true - reference|``.
    reference
        The change :math:`m` that any perturbation makes, ``g``: the mean of the others. None for no change.
    changed
        Genes whose signs count: so many of the largest true change, or those of a mask, ``g`` (of an FDR,
        say). Genes of no true change never count.

    Returns
    -------
    ``sign``
        Share of the ``changed`` genes that go the true way; a predicted zero counts half. Chance is 0.5.
    ``rank``, ``pearson``
        Spearman's and Pearson's correlation over all genes; 0 for a prediction that does not vary.
    ``slope``, ``norm_ratio``
        Magnitude: the slope above, which noise in the prediction leaves alone, and
        :math:`\lVert\hat\delta\rVert / \lVert\delta\rVert`. 1 is right; noise in the *true* change lowers
        both, for a perfect prediction to the square of the ceiling and the ceiling
        (`split_half_ceiling`).
    ``weighted_mse``, ``weighted_r2``
        As above. :math:`R^2_w` is 1 for a perfect prediction, and 0 for the reference.

    Raises
    ------
    InputError
        When numbers of genes differ, a value is not finite, weights are negative or all 0, or no gene truly
        changes.

    Notes
    -----
    The paper's weights compare a perturbation with the rest by t statistics; those made here of absolute
    changes know nothing of noise, so give t statistics where few cells were measured. Both look where the
    mean of the others is wrong, so that no change can score above it; ``effect_weights(true)`` looks where
    the condition changes anything. The paper's code measures
    :math:`R^2_w` from the weighted mean of :math:`\delta - m` over genes, for which the reference scores
    below 0; here it scores 0.

    References
    ----------
    Mejia et al., 2025, Diversity by Design. doi:10.48550/arXiv.2506.22641

    Examples
    --------
    >>> scores = change_scores([1.0, 0.5, 0.0, -0.5], [2.0, 1.0, 0.0, -1.0])
    >>> {name: round(score, 2) for name, score in scores.items() if name != "weighted_mse"}
    {'sign': 1.0, 'rank': 1.0, 'pearson': 1.0, 'slope': 0.5, 'norm_ratio': 0.5, 'weighted_r2': 0.75}
    """
    from scipy.stats import rankdata

    truth = finite(true, what="true change")
    g = len(truth)
    guess = finite(predicted, what="predicted change", g=g)
    base = np.zeros(g) if reference is None else finite(reference, what="reference", g=g)
    weight = effect_weights(truth - base) if weights is None else _weights(weights, g)
    here = _changed(truth, changed)
    error, spread = (float(weight @ (part - truth) ** 2) for part in (guess, base))
    length = np.linalg.norm(truth)
    return {
        "sign": float(np.where(guess[here] == 0, 0.5, np.sign(guess[here]) == np.sign(truth[here])).mean()),
        "rank": correlation(rankdata(guess), rankdata(truth)),
        "pearson": correlation(guess, truth),
        "slope": float(guess @ truth / length**2),
        "norm_ratio": float(np.linalg.norm(guess) / length),
        "weighted_mse": error,
        "weighted_r2": 1.0 - error / spread if spread > 0 else float("nan"),
    }


def effect_weights(statistics: Any) -> Float[np.ndarray, " g"]:
    r"""Weights of genes by how much they respond, which sum to one.

    .. math:: w_g \propto \left(\frac{|s_g| - \min |s|}{\max |s| - \min |s|}\right)^2

    Parameters
    ----------
    statistics
        Statistic :math:`s` of each gene, ``g``: t of the perturbation's cells against those of the others (as
        in the paper), or the true change.

    Raises
    ------
    InputError
        When a statistic is not finite or all are 0.

    Notes
    -----
    Where all genes respond alike, they weigh the same.

    References
    ----------
    Mejia et al., 2025, Diversity by Design. doi:10.48550/arXiv.2506.22641

    Examples
    --------
    >>> effect_weights([0.0, -1.0, 2.0]).tolist()
    [0.0, 0.2, 0.8]
    """
    size = np.abs(finite(statistics, what="statistic"))
    if not size.any():
        msg = (
            f"Expected an effect on some gene; found 0 for all {len(size)}. Weights are made of the true "
            "effect, beyond the mean of the others where these are given: give weights=."
        )
        raise InputError(msg)
    width = float(np.ptp(size))
    scaled = (size - size.min()) / width if width > 0 else np.ones_like(size)
    return scaled**2 / (scaled**2).sum()


def finite(values: Any, *, what: str, g: int | None = None) -> np.ndarray:
    """One finite number a gene, as float64.

    Raises
    ------
    InputError
        When they are no vector, not of ``g`` genes, or not finite.
    """
    if not (hasattr(values, "__array__") or isinstance(values, (list, tuple))):
        msg = (
            f"Expected one {what} a gene; found {type(values).__name__}. Give a vector: mean_change(before, "
        )
        raise InputError(msg + "after) makes one of cells.")
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        msg = f"Expected one {what} a gene; found an array of shape {array.shape}. Give a vector."
        raise InputError(msg)
    same_genes(len(array), len(array) if g is None else g)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        msg = f"Expected a finite {what} of each gene; found {bad} that are not. Leave these genes out."
        raise InputError(msg)
    return array


def same_genes(found: int, wanted: int) -> None:
    """Refuse two numbers of genes that differ."""
    if found != wanted:
        msg = (
            f"Expected the same genes everywhere; found {found} and {wanted}. Select and order the genes of "
            "the model in all of them."
        )
        raise InputError(msg)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; what does not vary goes along with nothing."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _changed(truth: np.ndarray, changed: Any) -> np.ndarray:
    """Positions of the genes whose signs count."""
    if np.ndim(changed) == 0:
        largest = np.argsort(-np.abs(truth), kind="stable")[: max(int(changed), 0)]
        here = largest[truth[largest] != 0]
    else:
        mask = np.asarray(changed)
        same_genes(len(mask), len(truth))
        here = np.flatnonzero(mask.astype(bool) & (truth != 0))
    if not len(here):
        asked = f"changed={changed}" if np.ndim(changed) == 0 else "a mask"
        msg = (
            f"Expected genes that truly change; found none of {many(len(truth), 'gene')} with {asked}. A "
            "response that does not exist cannot be scored."
        )
        raise InputError(msg)
    return here


def _weights(weights: Any, g: int) -> np.ndarray:
    values = finite(weights, what="weight", g=g)
    if (values < 0).any() or not values.any():
        msg = (
            f"Expected weights of 0 or more, not all 0; found {values.min():g} to {values.max():g}. Make "
            "them with `effect_weights`."
        )
        raise InputError(msg)
    return values / values.sum()
