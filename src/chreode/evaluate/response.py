r"""Scores of a predicted response to a condition, beside what asks for no model.

A response is the change of each gene between two conditions: the log change of its mean, or the difference of
its mean log-normalised expression. Most scores are high for whoever predicts what every perturbation does,
and some for whoever predicts nothing; so each stands beside baselines that are made of the measured responses
to other perturbations and of other contexts, and below the ceiling that halves of the measured cells set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.evaluate.changes import change_scores, correlation, finite, same_genes
from chreode.evaluate.matrices import canonical, column_moments, row_blocks
from chreode.evaluate.neighbours import subsample
from chreode.evaluate.transport import moved_energy_distances

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    import pandas as pd

    from chreode.axes import Float

    Changes = Mapping[Any, Any]  # of (context, perturbation); a type checker takes keys as they are

__all__ = ["cell_scores", "mean_change", "response_scores", "split_half_ceiling"]

LIMIT = 2_000
KINDS = ("observed", "predicted", "control")
OTHERS = "mean of others"


def response_scores(
    predicted: Any,
    true: Any,
    *,
    target: tuple[Hashable, Hashable] | None = None,
    changes: Changes | None = None,
    weights: Any = None,
    changed: Any = 100,
    cells: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    r"""A predicted response beside the baselines that can be formed.

    The baselines are made of the measured ``changes``, the target's own left out:

    ``no change``
        Zero for every gene.
    ``mean of others``
        The mean of all changes, of whatever context and perturbation.
    ``other contexts``
        The mean of the changes by the same perturbation in other contexts.
    ``other perturbations``
        The changes by other perturbations in the same context, each scored; the mean of their scores.

    Parameters
    ----------
    predicted, true
        Change of each gene, ``g``.
    target
        Context and perturbation that are predicted, such as ``("B", "stim")``.
    changes
        Measured change ``g`` of each (context, perturbation), in the units of ``true``; the target may be
        among them. None leaves ``no change`` for the only baseline.
    weights, changed
        As in `change_scores`, whose ``reference`` is the mean of the others, or no change without it.
    cells
        Log-normalised cells ``n x g``, arrays or CSR: ``observed`` of the target, ``predicted`` for it, and
        ``control``, the cells of its context before. With them, `cell_scores` are added; those of the
        baselines are scores of the control cells moved by the baseline's change, for which changes must be
        differences of mean log-normalised expression (`mean_change`).
    seed
        Of the cells drawn for the energy distance.

    Returns
    -------
    A row for ``prediction`` and each baseline, with the scores of `change_scores`, and of `cell_scores` where
    cells are given. ``attrs["left_out"]`` tells why a row, or scores of cells in it, are missing;
    ``attrs["reference"]`` which row ``weighted_r2`` is 0 for.

    Raises
    ------
    InputError
        When numbers of genes differ, a value is not finite, no gene truly changes, or a target is not a pair.

    References
    ----------
    Mejia et al., 2025, Diversity by Design. doi:10.48550/arXiv.2506.22641

    Examples
    --------
    >>> changes = {("B", "stim"): [2.0, 1.0, 0.0, -1.0], ("NK", "stim"): [1.0, 1.0, 1.0, -1.0]}
    >>> table = response_scores(
    ...     [2.0, 1.0, 0.2, -1.0], changes["B", "stim"], target=("B", "stim"), changes=changes
    ... )
    >>> table[["sign", "slope", "weighted_r2"]].round(2)
                    sign  slope  weighted_r2
    prediction       1.0   1.00         0.98
    no change        0.5   0.00        -1.00
    mean of others   1.0   0.67         0.00
    other contexts   1.0   0.67         0.00
    >>> table.attrs["left_out"]
    {'other perturbations': 'No other perturbation was measured in B.'}
    """
    import pandas as pd

    truth = finite(true, what="true change")
    baselines, left_out = _baselines(len(truth), target=target, changes=changes)
    rows = {"prediction": [finite(predicted, what="predicted change", g=len(truth))], **baselines}
    reference = OTHERS if OTHERS in baselines else "no change"

    def of_change(change: np.ndarray) -> dict[str, float]:
        return change_scores(change, truth, weights=weights, reference=rows[reference][0], changed=changed)

    scores = {name: _mean([of_change(change) for change in several]) for name, several in rows.items()}
    if cells is not None:
        found, missing = _of_cells(cells, rows, g=len(truth), seed=seed)
        scores = {name: row | found.get(name, {}) for name, row in scores.items()}
        left_out |= missing
    table = pd.DataFrame.from_dict(scores, orient="index")
    table.attrs.update(left_out=left_out, reference=reference)
    return table


def mean_change(before: Any, after: Any) -> Float[np.ndarray, " g"]:
    """Difference of the mean of each gene between two sets of cells.

    Parameters
    ----------
    before, after
        Log-normalised cells ``n x g``, arrays or SciPy sparse matrices.
    """
    (first, _), (second, _) = (_moments(_matrix(part, what="cells")) for part in (before, after))
    return second - first


def split_half_ceiling(
    before: Any,
    after: Any,
    *,
    change: Callable[[Any, Any], Any] = mean_change,
    repeats: int = 10,
    seed: int = 0,
) -> dict[str, float]:
    r"""The best that a perfect prediction could correlate with a change measured in so many cells.

    Both sets of cells are cut in random halves; with :math:`r` the correlation of the changes that halves
    show, that of the change of all cells with the truth is

    .. math:: \sqrt{\frac{2 r}{1 + r}}

    Parameters
    ----------
    before, after
        Cells ``n x g`` of the two conditions, at least 2 each, arrays or CSR; whatever ``change`` takes.
    change
        From cells before and after to the change of each gene, ``g``.
    repeats
        Times that cells are cut; :math:`r` is the mean.
    seed
        Of the halves.

    Returns
    -------
    ``r``, and ``ceiling``, which is 0 when halves do not agree (:math:`r \le 0`).

    Raises
    ------
    InputError
        When there are fewer than two cells, or genes differ in number.

    Notes
    -----
    A prediction that starts from the same control cells as the true change shares their noise, and may exceed
    it.

    References
    ----------
    Spearman, 1910, Correlation calculated from faulty data. doi:10.1111/j.2044-8295.1910.tb00206.x

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> before, after = rng.normal(size=(100, 50)), rng.normal(size=(100, 50)) + rng.normal(size=50)
    >>> {name: round(value, 2) for name, value in split_half_ceiling(before, after).items()}
    {'r': 0.96, 'ceiling': 0.99}
    """
    before, after = _matrix(before, what="cells before"), _matrix(after, what="cells after")
    same_genes(before.shape[1], after.shape[1])
    if repeats < 1:
        msg = f"Expected at least one cut in halves; found repeats={repeats}. The usual number is 10."
        raise InputError(msg)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(repeats):
        halves = [np.array_split(rng.permutation(part.shape[0]), 2) for part in (before, after)]
        shown = [np.asarray(change(before[a], after[b])) for a, b in zip(*halves, strict=True)]
        found.append(correlation(*shown))
    r = float(np.mean(found))
    return {"r": r, "ceiling": float(np.sqrt(2 * r / (1 + r))) if r > 0 else 0.0}


def cell_scores(predicted: Any, observed: Any, *, seed: int = 0) -> dict[str, float]:
    r"""Scores of predicted cells of a condition against measured ones.

    .. math:: R^2 = 1 - \sum_g (\hat v_g - v_g)^2 \Big/ \sum_g (v_g - \bar v)^2

    Parameters
    ----------
    predicted, observed
        Log-normalised cells ``n x g``, at least 2 each, arrays or SciPy sparse matrices. Predicted cells
        should be drawn with the noise of counting, which expected values lack.
    seed
        Of the cells drawn for the energy distance: as many of either, at most 2,000.

    Returns
    -------
    ``r2_mean``, ``r2_variance``
        :math:`R^2` over genes of their means and variances, of the identity, not of the best line.
    ``energy``
        Energy distance in the space of all genes (`chreode.evaluate.transport`).

    Raises
    ------
    InputError
        When there are fewer than two cells, genes differ in number, or a value is not finite.

    Notes
    -----
    Genes differ so much in mean and variance that both are near 1 for cells of the control as well:
    `response_scores` puts these beside.
    """
    observed = _matrix(observed, what="observed cells")
    guess = _matrix(predicted, what="predicted cells", g=observed.shape[1])
    n = min(guess.shape[0], observed.shape[0])
    return _moved_scores(guess, observed, [np.zeros(observed.shape[1])], n=n, seed=seed)[0]


def _baselines(
    g: int, *, target: tuple[Hashable, Hashable] | None, changes: Changes | None
) -> tuple[dict[str, list[np.ndarray]], dict[str, str]]:
    """The changes that each baseline predicts, and why others could not be formed."""
    names = (OTHERS, "other contexts", "other perturbations")
    nothing = {"no change": [np.zeros(g)]}
    if changes is None:
        return nothing, dict.fromkeys(names, "No other changes were given.")
    if any(not isinstance(key, tuple) or len(key) != 2 for key in (target, *changes)):
        msg = (
            "Expected a pair (context, perturbation) for the target and each of the changes; found "
            f"target={target!r} and changes of {list(changes)[:5]}. Name all of them, such as ('B', 'stim')."
        )
        raise InputError(msg)
    context, perturbation = target or (None, None)
    others = {
        key: finite(change, what=f"change of {key}", g=g) for key, change in changes.items() if key != target
    }
    elsewhere = [change for (c, p), change in others.items() if p == perturbation and c != context]
    otherwise = [change for (c, p), change in others.items() if p != perturbation and c == context]
    found = {
        OTHERS: [np.mean(list(others.values()), axis=0)] if others else [],
        "other contexts": [np.mean(elsewhere, axis=0)] if elsewhere else [],
        "other perturbations": otherwise,
    }
    why = {
        OTHERS: "No other change was given.",
        "other contexts": f"{perturbation} was measured in no other context.",
        "other perturbations": f"No other perturbation was measured in {context}.",
    }
    return (
        nothing | {name: several for name, several in found.items() if several},
        {name: why[name] for name, several in found.items() if not several},
    )


def _of_cells(
    cells: Mapping[str, Any], rows: Mapping[str, list[np.ndarray]], *, g: int, seed: int
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Scores of cells for each row, and why they are missing in others."""
    if "observed" not in cells or len(cells) < 2 or any(kind not in KINDS for kind in cells):
        msg = (
            f"Expected cells of 'observed', and 'predicted' or 'control' or both; found {sorted(cells)}. "
            "Name them so."
        )
        raise InputError(msg)
    given = {kind: _matrix(part, what=f"{kind} cells", g=g) for kind, part in cells.items()}
    n = min(part.shape[0] for part in given.values())
    scores: dict[str, dict[str, float]] = {}
    missing = {}
    if "predicted" in given:
        still = [np.zeros(g)]
        scores["prediction"] = _moved_scores(given["predicted"], given["observed"], still, n=n, seed=seed)[0]
    else:
        missing["cells of prediction"] = "No predicted cells were given."
    if "control" not in given:
        return scores, missing | {"cells of baselines": "No control cells were given."}
    names = [(name, move) for name, several in rows.items() if name != "prediction" for move in several]
    moves = [move for _, move in names]
    found = _moved_scores(given["control"], given["observed"], moves, n=n, seed=seed)
    for name in dict(names):
        scores[name] = _mean([score for score, (row, _) in zip(found, names, strict=True) if row == name])
    return scores, missing


def _moved_scores(
    guess: Any, observed: Any, moves: Sequence[np.ndarray], *, n: int, seed: int
) -> list[dict[str, float]]:
    """`cell_scores` of cells to each of which a change is added, on ``n`` of either for the distance."""
    (mean, variance), (mean_, variance_) = _moments(guess), _moments(observed)
    drawn = [part[subsample(part.shape[0], limit=min(n, LIMIT), seed=seed)] for part in (guess, observed)]
    energies = moved_energy_distances(drawn[0], drawn[1], np.stack(moves))
    return [
        {
            "r2_mean": _r2(mean + move, mean_),
            "r2_variance": _r2(variance, variance_),
            "energy": float(energy),
        }
        for move, energy in zip(moves, energies, strict=True)
    ]


def _r2(guess: np.ndarray, truth: np.ndarray) -> float:
    spread = float(((truth - truth.mean()) ** 2).sum())
    return 1.0 - float(((guess - truth) ** 2).sum()) / spread if spread > 0 else float("nan")


def _mean(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}


def _moments(cells: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (of ``n - 1``) of each gene."""
    if not isinstance(cells, np.ndarray):
        return column_moments(cells)[:2]
    mean = cells.mean(axis=0, dtype=np.float64)
    blocks = row_blocks(cells, shape=(cells.shape[0], cells.shape[1]))
    squares = sum(((block - mean) ** 2).sum(axis=0) for _, block in blocks)
    return mean, np.asarray(squares) / (len(cells) - 1)


def _matrix(cells: Any, *, what: str, g: int | None = None) -> Any:
    """Cells as a canonical CSR matrix or an array, checked."""
    import scipy.sparse as sp

    matrix = canonical(cells) if sp.issparse(cells) else np.asarray(cells)
    if matrix.ndim != 2 or matrix.shape[0] < 2 or not matrix.shape[1]:
        msg = f"Expected at least two {what}, n x g; found shape {matrix.shape}. More cells are needed."
        raise InputError(msg)
    same_genes(matrix.shape[1], matrix.shape[1] if g is None else g)
    if not np.issubdtype(matrix.dtype, np.floating):
        matrix = matrix.astype(np.float64)
    if not np.isfinite(matrix.data if sp.issparse(matrix) else matrix).all():
        msg = f"Expected finite {what}; found NaN or infinite values. Leave these cells out."
        raise InputError(msg)
    return matrix
