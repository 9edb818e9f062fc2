"""How well predicted distributions hold what was measured.

Every function walks over blocks of rows, so that nothing of the size cells x genes is ever dense.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.evaluate.matrices import Counts, Rows, canonical, entries, row_blocks, sum_columns
from chreode.evaluate.neighbours import known_levels

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "coverage",
    "label_profile_nats",
    "mean_profile_nats",
    "nats_per_molecule",
    "pit_coverage",
    "rmse",
    "zero_fraction",
]


def nats_per_molecule(counts: Counts, proportions: Rows, *, block: int = 512) -> float:
    r"""Score expected proportions by the molecules they were not fitted to.

    .. math:: -\frac{\sum_{ig} x_{ig} \log \rho_{ig}}{\sum_{ig} x_{ig}}

    The multinomial score: it ignores how dispersed counts are, so look at `zero_fraction` and `coverage` too.

    Parameters
    ----------
    counts
        Molecules, ``n x g``, best those that binomial thinning held out.
    proportions
        Expected share of each gene in its cell's total, rows that sum to 1 (see `Rows`).
    block
        Rows a block.

    Returns
    -------
    Nats a molecule, lower is better; ``log g`` for uniform proportions, infinite where a gene with molecules
    has proportion 0.

    Raises
    ------
    InputError
        When there is no molecule, or rows do not sum to 1 within 0.001.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> counts = sp.csr_matrix([[3, 1], [0, 4]])
    >>> round(nats_per_molecule(counts, np.array([0.5, 0.5])), 4)
    0.6931
    """
    counts = canonical(counts)
    total = _total(counts)
    nats = 0.0
    for rows, block_of in row_blocks(proportions, shape=counts.shape, block=block):
        sums = block_of.sum(axis=1, dtype=np.float64)
        if not np.allclose(sums, 1.0, atol=1e-3):
            worst = sums[np.nanargmax(np.abs(sums - 1.0))] if not np.isnan(sums).all() else float("nan")
            msg = (
                f"Expected proportions whose rows sum to 1; found a row that sums to "
                f"{worst:.4g} in cells {rows.start} to {rows.stop}. Divide each row by its sum."
            )
            raise InputError(msg)
        x, row, col = entries(counts, rows)
        with np.errstate(divide="ignore"):
            nats -= float(x @ np.log(block_of[row, col].astype(np.float64)))
    return nats / total


def mean_profile_nats(train: Counts, test: Counts, *, pseudocount: float = 1.0) -> float:
    r"""Score one profile for all cells: what a model must beat.

    .. math:: \rho_g = \frac{a + \sum_i x_{ig}}{g a + \sum_{ig} x_{ig}}

    Parameters
    ----------
    train, test
        Molecules that make the profile and molecules it is scored on, any cells, the same ``g`` genes.
    pseudocount
        ``a``, molecules added to each gene, above 0: keeps a gene unseen in training from scoring infinity. 1
        serves these profiles well on the data we tried; a baseline should be given its best.

    Returns
    -------
    Nats a molecule, as `nats_per_molecule`.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> counts = sp.csr_matrix([[1, 0], [0, 1]])
    >>> round(mean_profile_nats(counts, counts), 4)
    0.6931
    """
    return nats_per_molecule(test, _profile(canonical(train), pseudocount))


def label_profile_nats(
    train: Counts,
    train_labels: Any,
    test: Counts,
    test_labels: Any,
    *,
    pseudocount: float = 1.0,
) -> float:
    r"""Score the mean profile of each cell's label: hard to beat, and it looks at labels.

    .. math:: \rho_{lg} = \frac{g a \rho_g + \sum_{i \in l} x_{ig}}{g a + \sum_{i \in l} \sum_g x_{ig}}

    with ``rho_g`` the profile of all cells (`mean_profile_nats`): the pseudocounts of a label are spread as
    all molecules are. Cells whose label is missing, or absent in training, are scored on that profile.

    Parameters
    ----------
    train, test
        Molecules that make the profiles and molecules they are scored on, the same ``g`` genes.
    train_labels, test_labels
        One label a cell of each.
    pseudocount
        ``a``, molecules a gene; above 0.

    Returns
    -------
    Nats a molecule, as `nats_per_molecule`.
    """
    train, test = canonical(train), canonical(test)
    old, names = known_levels(train_labels, n=train.shape[0])
    seen, test_names = known_levels(test_labels, n=test.shape[0])
    place = {name: number for number, name in enumerate(names.tolist())}
    translate = np.array([place.get(name, -1) for name in test_names.tolist()] + [-1])
    overall = _profile(train, pseudocount)
    weight = pseudocount * train.shape[1]
    profiles = np.tile(overall, (len(names) + 1, 1))
    for level in range(len(names)):
        sums = sum_columns(train[old == level])
        profiles[level] = (weight * overall + sums) / (weight + sums.sum())
    chosen = translate[seen]
    return nats_per_molecule(test, lambda rows: profiles[chosen[rows]])


def rmse(counts: Counts, proportions: Rows, *, per: float = 10_000.0, block: int = 512) -> float:
    r"""Root mean squared error of size-normalised counts, over all entries, zeros included.

    .. math:: \sqrt{\frac{1}{n g} \sum_{ig} \Big(c\,\frac{x_{ig}}{s_i} - c\,\rho_{ig}\Big)^2},
        \qquad s_i = \sum_g x_{ig}

    Cells without a molecule are left out.

    Parameters
    ----------
    counts
        Molecules, ``n x g``.
    proportions
        Expected share of each gene in its cell's total (see `Rows`).
    per
        ``c``, molecules a cell is scaled to; the unit of the result.
    block
        Rows a block.
    """
    counts = canonical(counts)
    _total(counts)
    size = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    squares = 0.0
    for rows, block_of in row_blocks(proportions, shape=counts.shape, block=block):
        x, row, col = entries(counts, rows)
        gap = -block_of.astype(np.float64)
        gap[row, col] += x / np.where(size > 0, size, 1.0)[rows][row]
        gap *= (size[rows] > 0)[:, None]
        squares += float(np.einsum("ng,ng->", gap, gap))
    return float(per * np.sqrt(squares / ((size > 0).sum() * counts.shape[1])))


def zero_fraction(observed: Counts, expected: Rows, *, block: int = 512) -> dict[str, float]:
    """Compare how often a gene is not seen with how often the model expects so.

    Parameters
    ----------
    observed
        Molecules, ``n x g``.
    expected
        Probability of a zero of each entry (see `Rows`), in [0, 1].
    block
        Rows a block.

    Returns
    -------
    ``observed`` and ``expected``, fractions of all entries; ``bias``, expected minus observed;
    ``gene_error``, the mean over genes of the absolute difference of their fractions (errors of two genes do
    not cancel).

    Raises
    ------
    InputError
        When a probability lies outside [0, 1].
    """
    observed = canonical(observed)
    n, g = observed.shape
    seen = 1.0 - np.bincount(observed.indices[observed.data != 0], minlength=g) / n
    sums = np.zeros(g)
    for rows, block_of in row_blocks(expected, shape=(n, g), block=block):
        low, high = float(block_of.min()), float(block_of.max())
        if not (low >= -1e-6 and high <= 1 + 1e-6):
            msg = (
                f"Expected probabilities of a zero between 0 and 1; found {low:.4g} to {high:.4g} in cells "
                f"{rows.start} to {rows.stop}. Give zero_probability, not the mean."
            )
            raise InputError(msg)
        sums += block_of.sum(axis=0, dtype=np.float64)
    predicted = sums / n
    return {
        "observed": float(seen.mean()),
        "expected": float(predicted.mean()),
        "bias": float(predicted.mean() - seen.mean()),
        "gene_error": float(np.abs(predicted - seen).mean()),
    }


def pit_coverage(below: np.ndarray, upto: np.ndarray, *, level: float = 0.9) -> np.ndarray:
    r"""How much of each observation lies in its central predictive interval.

    A count has a probability, so no interval of counts holds exactly 90 %. We ask about the probability
    integral transform instead: ``u`` uniform between ``F(x - 1)`` and ``F(x)`` is uniform on [0, 1] if the
    model is right, whatever the counts. Rather than drawing ``u`` we return its chance of lying in the
    central ``level``:

    .. math:: \frac{\big|[F(x-1), F(x)] \cap [\tfrac{1-l}{2}, \tfrac{1+l}{2}]\big|}{F(x) - F(x-1)}

    Its expectation under the right model is exactly ``level``.

    Parameters
    ----------
    below, upto
        Predictive probability of less than what was observed, and of at most that; any one shape.
    level
        Probability of the interval, in (0, 1).

    Returns
    -------
    Coverage of each observation, in [0, 1], in the shape of ``below``.

    References
    ----------
    Czado, Gneiting and Held, 2009, Predictive model assessment for count data, Biometrics.
    doi:10.1111/j.1541-0420.2009.01191.x

    Examples
    --------
    >>> import numpy as np
    >>> pit_coverage(np.array([0.0, 0.5, 0.98]), np.array([0.1, 0.6, 1.0])).round(4).tolist()
    [0.5, 1.0, 0.0]
    """
    if not 0.0 < level < 1.0:
        msg = f"Expected a level between 0 and 1; found {level}. Use 0.9 for intervals of 90 %."
        raise InputError(msg)
    low, high = (1.0 - level) / 2.0, (1.0 + level) / 2.0
    below, upto = np.asarray(below, dtype=np.float64), np.asarray(upto, dtype=np.float64)
    width = upto - below
    shared = np.clip(np.minimum(upto, high) - np.maximum(below, low), 0.0, None)
    # An observation so improbable that F does not change in floating point is in or out as a point is.
    point = ((below >= low) & (below <= high)).astype(np.float64)
    return np.where(width > 0, shared / np.where(width > 0, width, 1.0), point)


def coverage(
    counts: Counts,
    draw: Callable[[slice], np.ndarray],
    *,
    level: float = 0.9,
    draws: int = 39,
    least_mean: float = 0.1,
    block: int = 256,
) -> float:
    """Share of counts inside their central predictive intervals, by draws from the prediction.

    With ``s`` draws the rank of the observation among them, ties broken at random, is uniform if the model is
    right; so the observation stands for the interval ``[less, less + equal + 1] / (s + 1)`` and is scored by
    `pit_coverage`. This is exact for discrete counts and for any number of draws: the right model covers
    ``level`` in expectation, too narrow predictions cover less, too wide ones more.

    Nearly all entries of a sparse matrix are genes that nobody expected in that cell, which are covered to
    ``level`` by construction. Entries count when the mean of draws and observation together is at least
    ``least_mean``; including the observation keeps draws and observation exchangeable, so the choice does not
    move the coverage of the right model.

    Parameters
    ----------
    counts
        Molecules, ``n x g``, not used to fit the prediction.
    draw
        From a slice of rows to one draw of their counts, ``rows x g``; called ``draws`` times a block.
    level
        Probability of the interval, in (0, 1).
    draws
        Number of draws ``s``, at least 1.
    least_mean
        Molecules; 0 scores every entry.
    block
        Rows a block.

    Returns
    -------
    Mean coverage, in [0, 1]; NaN when no entry counts.

    Raises
    ------
    InputError
        When a draw has another shape than the rows asked for, or ``level`` or ``draws`` is out of range.
    """
    counts = canonical(counts)
    if draws < 1:
        msg = f"Expected at least one draw; found draws={draws}. Use 39 or more."
        raise InputError(msg)
    n, g = counts.shape
    covered, scored = 0.0, 0
    for start in range(0, n, block):
        rows = slice(start, min(start + block, n))
        observed = np.zeros((rows.stop - rows.start, g))
        x, row, col = entries(counts, rows)
        observed[row, col] = x
        less, equal, total = np.zeros(observed.shape), np.zeros(observed.shape), observed.copy()
        for _ in range(draws):
            drawn = _drawn(draw, rows, g)
            less += drawn < observed
            equal += drawn == observed
            total += drawn
        chosen = total >= least_mean * (draws + 1)
        below = less[chosen] / (draws + 1)
        upto = (less[chosen] + equal[chosen] + 1) / (draws + 1)
        covered += float(pit_coverage(below, upto, level=level).sum())
        scored += int(chosen.sum())
    return covered / scored if scored else float("nan")


def _drawn(draw: Callable[[slice], np.ndarray], rows: slice, g: int) -> np.ndarray:
    drawn = np.asarray(draw(rows))
    if drawn.shape != (rows.stop - rows.start, g):
        msg = (
            f"Expected a draw of {rows.stop - rows.start} x {g} counts; found shape {drawn.shape} for cells "
            f"{rows.start} to {rows.stop}. Draw the rows asked for, with the genes of the counts."
        )
        raise InputError(msg)
    return drawn


def _total(counts: Counts) -> float:
    total = float(counts.data.sum(dtype=np.float64))
    if not total > 0:
        msg = f"Expected at least one molecule; found a total of {total:g} in {counts.shape[0]} cells."
        raise InputError(msg)
    return total


def _profile(train: Counts, pseudocount: float) -> np.ndarray:
    if not pseudocount > 0:
        msg = f"Expected a pseudocount above 0; found {pseudocount}. The default is 1 molecule a gene."
        raise InputError(msg)
    sums = sum_columns(train) + pseudocount
    return sums / sums.sum()
