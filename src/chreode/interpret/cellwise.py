"""Two groups of cells compared cell by cell, in closed form from sums over their counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = ["Compared", "compare_cells"]


class Compared(NamedTuple):
    """Of each feature, in natural logarithms; ``g``."""

    estimate: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    statistic: np.ndarray
    p_value: np.ndarray


def compare_cells(
    first: sp.csr_matrix, second: sp.csr_matrix, *, exposures: tuple[np.ndarray, np.ndarray], level: float
) -> Compared:
    r"""Test whether features have another share of the molecules in one group of cells than in the other.

    Given the molecules :math:`T_g` of a feature in both groups together, those in the first are, under the
    null, a share :math:`\pi = S_1 / (S_1 + S_2)` of the exposure, with variance

    .. math::

        v_g = (1-\pi)^2 v_{g1} + \pi^2 v_{g2}, \qquad
        v_{gk} = \lambda_g S_k + \alpha_g \lambda_g^2 \textstyle\sum_{i \in k} s_i^2

    :math:`\lambda_g` the common rate and :math:`\alpha_g` the negative binomial's dispersion by moments
    within the groups. Counts are divided by how much that exceeds the binomial's,
    :math:`\varphi_g = v_g / (T_g \pi (1-\pi))`, at least 1, and given to the exact test of a binomial share
    (mid-p), whose tails are incomplete beta functions and so need no whole numbers. The interval holds the
    shares that the test does not reject.

    Parameters
    ----------
    first, second
        Counts, ``n x g`` and ``m x g``.
    exposures
        Size factors of the cells, ``n`` and ``m``, > 0.
    level
        Of the intervals, in (0, 1).

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> counts = np.random.default_rng(0).poisson([1.0, 3.0], (50, 2))
    >>> first, second = sp.csr_matrix(counts[:25]), sp.csr_matrix(counts[25:] * [1, 2])
    >>> found = compare_cells(first, second, exposures=(np.ones(25), np.ones(25)), level=0.95)
    >>> (found.p_value < 0.01).tolist(), np.exp(found.estimate).round(1).tolist()
    ([False, True], [0.9, 0.5])
    """
    groups = [_sums(counts, size) for counts, size in zip((first, second), exposures, strict=True)]
    one, two = (group["total"] for group in groups)
    total, exposure = one + two, sum(group["exposure"] for group in groups)
    share = groups[0]["exposure"] / exposure
    excess = sum(group["excess"] for group in groups)
    squared = sum((group["rate"] ** 2 * group["squares"] for group in groups), np.zeros_like(total))
    alpha = np.maximum(np.divide(excess, squared, out=np.zeros_like(total), where=squared > 0), 0.0)
    rate = total / exposure
    own, other = (rate * group["exposure"] + alpha * rate**2 * group["squares"] for group in groups)
    variance = (1 - share) ** 2 * own + share**2 * other
    binomial = total * share * (1 - share)
    phi = np.maximum(np.divide(variance, binomial, out=np.ones_like(total), where=binomial > 0), 1.0)
    a, b = one / phi, two / phi
    offset = np.log(share) - np.log1p(-share)
    p_value = np.minimum(2 * np.minimum(*_tails(a, b, offset)), 1.0)
    lower, upper = (_end(a, b, chance) - offset for chance in ((1 + level) / 2, (1 - level) / 2))
    # One count, shared as the null has it, keeps fold changes finite.
    estimate = np.log(one / phi + share) - np.log(two / phi + 1 - share) - offset
    spread = np.sqrt(np.maximum(phi * binomial, 1e-300))
    return Compared(estimate, lower, upper, ((1 - share) * one - share * two) / spread, p_value)


def _tails(a: np.ndarray, b: np.ndarray, logit: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chance of fewer and of more than ``a`` of ``a + b`` counts, half of the chance of as many in each."""
    from scipy.special import betainc, betaincc, expit

    share = expit(logit)
    few, none = a > 0, b > 0
    below = np.where(few, betaincc(np.where(few, a, 1), b + 1, share), 0.0)
    above = np.where(none, betainc(a + 1, np.where(none, b, 1), share), 0.0)
    equal = np.maximum(1 - below - above, 0.0) / 2
    return below + equal, above + equal


def _end(a: np.ndarray, b: np.ndarray, chance: float) -> np.ndarray:
    """The logit of the share under which fewer counts have that chance, by bisection; may be infinite."""
    low, high = np.full(len(a), -40.0), np.full(len(a), 40.0)
    for _ in range(50):
        middle = (low + high) / 2
        # The more of the share, the less likely are fewer counts.
        less = _tails(a, b, middle)[0] > chance
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    found = (low + high) / 2
    return np.where(np.abs(found) > 39, np.sign(found) * np.inf, found)


def _sums(counts: sp.csr_matrix, size: np.ndarray) -> dict[str, np.ndarray]:
    """Sums over the cells of a group; what its counts vary beyond Poisson's."""
    size = np.asarray(size, dtype=np.float64)
    n = len(size)
    squared = counts.copy()
    squared.data = squared.data.astype(np.float64) ** 2
    total = np.asarray(counts.sum(0, dtype=np.float64)).ravel()
    exposure, squares = size.sum(), (size**2).sum()
    rate = total / exposure
    around = np.asarray(squared.sum(0)).ravel() - 2 * rate * (counts.T @ size) + rate**2 * squares
    excess = around * n / max(n - 1, 1) - total
    return {
        "total": total,
        "exposure": np.asarray(exposure),
        "squares": np.asarray(squares),
        "rate": rate,
        "excess": excess,
    }
