"""Labels of cells that have none, with calibrated probabilities."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chreode import posthoc
from chreode.axes import Float, Int, Tensor
from chreode.embedded import Embedded
from chreode.errors import InputError
from chreode.evaluate.outliers import Reference, hidden_codes, outliers, reference_of
from chreode.io.read import read
from chreode.settle import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata as ad
    import pandas as pd

    from chreode.cells import Cells
    from chreode.layout import Covariate

__all__ = ["calibration_error", "predict_labels", "write_labels"]

_FIXED = ("label", "probability", "outlier")  # columns beside the levels
_A_LEVEL = 1000  # cells of a level that the regression sees, at most
_FOLDS = 5
_FEW = 20  # held-out labelled cells, below which a classifier of the recipe's own goes uncalibrated
_ENOUGH = 50  # held-out labelled cells that calibrate alone
_STRENGTHS = 10.0 ** np.arange(-3, 3)
_FIRM = 4.0  # precision of the log temperature about 0
_NEVER = -30.0  # log probability of a level that no labelled cell has


def predict_labels(model: Any, source: Any = None, *, seed: int = 0, progress: bool = False) -> pd.DataFrame:
    r"""The label of each cell with calibrated probabilities, and how unusual the cell is.

    .. math:: p(y \mid z_i) = \mathrm{softmax}\big(l(z_i) / T\big)_y

    with :math:`l` the log probabilities of the recipe's own classifier where its prior has one (``scanvi``;
    the components of a supervised mixture), else of a multinomial logistic regression on the codes of the
    cells that have labels, its strength by cross-validation in five folds. The temperature :math:`T` makes
    the labels of cells that did not teach the classifier most probable: those that were held out of the
    fit, or by cross-validation all that have a label where fewer than 50 of these do. A priori
    :math:`\log T \sim N(0, 0.5^2)`, so that few cells change little.

    Calibration holds for cells that come in the proportions of the labelled ones: five of each label, say,
    tell nothing of how frequent each is.

    Parameters
    ----------
    model
        A `chreode.FittedModel` of cells that were read with ``label=``; some may lack it.
    source
        Anything `chreode.read` takes, or what ``model.project`` returned. Labels in it are not looked at.
        None for the fitted cells themselves: those that have a label are predicted without it, by a
        regression that they did not teach; a recipe's own classifier was taught by them, and is more right
        than it would be of others.
    seed
        Of folds and draws.
    progress
        Whether to show bars.

    Returns
    -------
    One row a cell, by name: ``label``, the most probable level; ``probability``, its own; ``outlier``, the
    share of held-out cells that are less unusual (`chreode.evaluate.outliers.outliers`); and the
    probability of each level under its name. ``attrs``: ``classifier`` (``prior``, or
    ``logistic regression``), ``temperature``, and of the cells that calibrated it, their number
    ``calibrated_on``, ``accuracy`` and ``calibration_error``.

    Raises
    ------
    InputError
        When the model was told fewer than two levels or saved without its cells, or when counts are needed
        and a loaded model has none.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural networks,
    doi:10.48550/arXiv.1706.04599.

    Examples
    --------
    >>> import chreode as ch
    >>> adata = ch.simulate(200, 50, components=2, seed=0)
    >>> cells = ch.read(adata, label="component")
    >>> model = ch.fit(cells, ch.recipes.scdgd(dim=2, components=2), epochs=5, progress=False)
    >>> list(predict_labels(model).columns)
    ['label', 'probability', 'outlier', '0', '1']
    """
    import pandas as pd

    label, reference = _label_of(model), reference_of(model)
    cells, codes = _seen(model, source, progress=progress)
    found = _of_prior(model, label, codes, reference) or _of_regression(model, label, codes, seed=seed)
    logits, rows = found.logits, torch.arange(len(cells)) if source is None else None
    if source is None and found.taught is not None:
        # A cell that taught the classifier is predicted by one that it did not teach.
        logits[found.taught] = found.without
    probabilities = _softmax(logits / found.temperature)
    best = probabilities.argmax(1)
    show = "surprise" if progress else None
    table = pd.DataFrame(
        {
            "label": pd.Categorical.from_codes(best, categories=list(label.levels)),
            "probability": probabilities.max(1),
            "outlier": outliers(model, cells, codes, reference, rows=rows, seed=seed, show=show),
        },
        index=pd.Index(cells.names, name="cell"),
    )
    levels = pd.DataFrame(probabilities, index=table.index, columns=pd.Index(label.levels))
    table = pd.concat([table, levels], axis=1)
    table.attrs.update(found.report())
    return table


def write_labels(table: pd.DataFrame, adata: ad.AnnData, *, recipe: str) -> None:
    """Write what was predicted into ``obs``, as ``<recipe>_label``, ``_label_probability`` and ``_outlier``.

    Parameters
    ----------
    table
        From `predict_labels`.
    adata
        Of the same cells, in any order.
    recipe
        What the columns' names begin with.
    """
    some = table.loc[adata.obs_names.astype(str)]
    adata.obs[f"{recipe}_label"] = some["label"].array
    adata.obs[f"{recipe}_label_probability"] = some["probability"].array
    adata.obs[f"{recipe}_outlier"] = some["outlier"].array


def calibration_error(
    probabilities: Float[np.ndarray, "n k"], truth: Int[np.ndarray, " n"], *, bins: int = 15
) -> float:
    r"""Expected calibration error: how far confidence is from accuracy.

    .. math:: \sum_b \frac{n_b}{n} \left| \mathrm{acc}_b - \mathrm{conf}_b \right|

    over bins of equal width of the largest probability, with the share that is right and the mean of the
    largest probability in each.

    Parameters
    ----------
    probabilities
        Of each level; rows sum to 1.
    truth
        Number of the true level.
    bins
        How many.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural networks,
    doi:10.48550/arXiv.1706.04599.

    Examples
    --------
    >>> import numpy as np
    >>> calibration_error(np.array([[0.75, 0.25]] * 4), np.array([0, 0, 0, 1]))
    0.0
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(which, right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(truth))


@dataclass
class _Found:
    """Logits of the cells asked for, and of those that calibrated them.

    Parameters
    ----------
    logits
        Of the cells asked for, ``n x k``.
    judged, truth
        Logits and levels of cells that did not teach the classifier.
    classifier
        What gave them.
    weight
        Of the judged cells; None for equal ones.
    taught, without
        Fitted cells that taught the classifier, and their logits by one that they did not teach.
    """

    logits: np.ndarray
    judged: np.ndarray
    truth: np.ndarray
    classifier: str
    weight: np.ndarray | None = None
    taught: np.ndarray | None = None
    without: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.temperature = _temperature(self.judged, self.truth, self.weight)

    def report(self) -> dict[str, Any]:
        """How well the calibrating cells are predicted."""
        probabilities = _softmax(self.judged / self.temperature)
        n = len(self.truth)
        right = float((probabilities.argmax(1) == self.truth).mean()) if n else float("nan")
        error = calibration_error(probabilities, self.truth) if n else float("nan")
        return {
            "classifier": self.classifier,
            "temperature": self.temperature,
            "calibrated_on": n,
            "accuracy": right,
            "calibration_error": error,
        }


def _label_of(model: Any) -> Covariate:
    label = model.layout.in_role("label")
    if label is None or len(label.levels) < 2:
        found = "none" if label is None else f"{len(label.levels)} in {label.column!r}"
        msg = (
            f"Expected a label of at least two levels to predict; found {found}. Fit on cells read with "
            "label=COLUMN."
        )
        raise InputError(msg)
    if clash := [level for level in label.levels if level in _FIXED]:
        msg = (
            f"Expected levels of {label.column!r} called otherwise than the columns {', '.join(_FIXED)}; "
            f"found {clash[0]!r}. Rename it, and fit again."
        )
        raise InputError(msg)
    return label


def _seen(model: Any, source: Any, *, progress: bool) -> tuple[Cells, dict[str, Tensor]]:
    """The cells asked for and their codes, inferred without looking at labels."""
    show = "project" if progress else None
    if source is None:
        source = model.embedded
    if isinstance(source, Embedded):
        return source.cells, hidden_codes(model, source.cells, source.codes, show=show)
    cells = read(source, like=model)
    return cells, posthoc.project(model.module, cells, encoders=model.encoders, show=show)


def _of_prior(
    model: Any, label: Covariate, codes: Mapping[str, Tensor], reference: Reference
) -> _Found | None:
    """The recipe's own classifier, calibrated on held-out cells; None where its prior knows no label."""
    names = [
        name
        for name, latent in model.module.latents.items()
        if latent.column in (label.column, "label") and hasattr(latent.prior, "label_probabilities")
    ]
    if not names:
        return None
    name, prior = names[0], model.module.latents[names[0]].prior

    def logits(z: Tensor) -> np.ndarray:
        with frozen(model.module), torch.no_grad():
            found = prior.label_probabilities(z)[:, : len(label.levels)]
        return found.double().log().clamp(min=_NEVER).numpy()

    levels = model.embedded.cells.covariates[label.column][reference.rows]
    # Where no cell was held out, the reference taught the classifier and cannot judge it.
    known = (levels >= 0) & ~torch.from_numpy(model.embedded.trained)[reference.rows]
    if known.sum() < _FEW:
        logging.getLogger(__name__).warning(
            "Probabilities of %s are hardly calibrated: of the cells held out of the fit, %d have a label. "
            "With few labels, a recipe without a classifier of its own (scdgd, scvi) is calibrated on all.",
            model.recipe.name,
            int(known.sum()),
        )
    judged = logits(reference.codes[name][known])
    return _Found(logits(codes[name]), judged, levels[known].numpy(), classifier="prior")


def _of_regression(model: Any, label: Covariate, codes: Mapping[str, Tensor], *, seed: int) -> _Found:
    """Logistic regression on the codes of the labelled cells, its strength by cross-validation."""
    levels = model.embedded.cells.covariates[label.column].numpy()
    if len(np.unique(levels[levels >= 0])) < 2:
        msg = (
            f"Expected fitted cells of at least two levels of {label.column!r}; found fewer. Fit on cells "
            "some of which have labels."
        )
        raise InputError(msg)
    generator = np.random.default_rng(seed)
    rows, folds, weight = _draw(levels, generator)
    fitted = model.embedded.codes[model.code].double()
    centre = fitted.mean(0)
    scale = (fitted - centre).square().mean().sqrt().clamp(min=1e-12)
    z, y = ((fitted[torch.from_numpy(rows)] - centre) / scale).numpy(), levels[rows]
    new = ((codes[model.code].double() - centre) / scale).numpy()
    judging = (folds >= 0) & ~model.embedded.trained[rows]
    if judging.sum() < _ENOUGH:
        judging = folds >= 0
    k, best, chosen, without = len(label.levels), np.inf, 1.0, np.zeros((0, 0))
    for strength in _STRENGTHS:
        tried = np.full((len(rows), k), _NEVER)
        for fold in range(_FOLDS):
            out = folds == fold
            if out.any():
                tried[out] = _regression(z[~out], y[~out], weight[~out], strength, z[out], k)
        part = tried[judging], y[judging], weight[judging]
        loss = _loss(part[0] / _temperature(*part), *part[1:])
        if loss < best:
            best, chosen, without = loss, strength, tried
    logits = _regression(z, y, weight, chosen, new, k)
    crossed = folds >= 0
    return _Found(
        logits,
        without[judging],
        y[judging],
        classifier="logistic regression",
        weight=weight[judging],
        taught=rows[crossed],
        without=without[crossed],
    )


def _draw(levels: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labelled cells, at most 1,000 a level, a fold for each, and the weight that makes up for the others.

    The only cell of a level is in no fold (-1): it always teaches and never judges.
    """
    rows, folds, weights = [], [], []
    for level in range(levels.max() + 1):
        mine = generator.permutation(np.flatnonzero(levels == level))
        some = mine[:_A_LEVEL]
        rows.append(some)
        fold = (np.arange(len(some)) + generator.integers(_FOLDS)) % _FOLDS
        folds.append(fold if len(some) > 1 else np.full(len(some), -1))
        weights.append(np.full(len(some), len(mine) / max(1, len(some))))
    return np.concatenate(rows), np.concatenate(folds), np.concatenate(weights)


def _regression(
    z: np.ndarray, y: np.ndarray, weight: np.ndarray, strength: float, new: np.ndarray, k: int
) -> np.ndarray:
    """Log probabilities of ``new`` cells under a multinomial logistic regression."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=strength, max_iter=500).fit(z, y, sample_weight=weight)
    found = np.full((len(new), k), _NEVER)
    if len(new):
        found[:, fitted.classes_] = np.maximum(fitted.predict_log_proba(new), _NEVER)
    return found


def _softmax(logits: np.ndarray) -> np.ndarray:
    from scipy.special import softmax

    return softmax(logits, axis=1)


def _loss(logits: np.ndarray, truth: np.ndarray, weight: np.ndarray | None) -> float:
    """Negative log probability of the true levels."""
    from scipy.special import log_softmax

    spent = -log_softmax(logits, axis=1)[np.arange(len(truth)), truth]
    return float(spent.sum() if weight is None else spent @ weight)


def _temperature(logits: np.ndarray, truth: np.ndarray, weight: np.ndarray | None) -> float:
    r"""The temperature that makes the true levels most probable, :math:`\log T \sim N(0, 0.5^2)` a priori.

    Few cells say little of it, and may not make probabilities of 0 or 1.
    """
    from scipy.optimize import minimize_scalar

    def energy(log_temperature: float) -> float:
        return _loss(logits / np.exp(log_temperature), truth, weight) + 0.5 * _FIRM * log_temperature**2

    found: Any = minimize_scalar(energy, bounds=(-4.0, 4.0), method="bounded")
    return float(np.exp(found.x))
