"""Effects on counts between replicates, whose variation rows of a table share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.interpret.glm import moderate

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Effects", "effects"]

_PRIOR = 0.5  # cells added to the average replicate: a row without a count in a condition stays finite


@dataclass(frozen=True)
class Effects:
    """One effect a row.

    Parameters
    ----------
    estimate, standard_error
        Of the coefficient, natural logarithm, ``r``.
    freedom
        Degrees of freedom of t.
    p_value
        Two-sided, ``r``.
    dispersion
        Variance of the logarithm between replicates, beyond counting, that rows share.
    """

    estimate: np.ndarray
    standard_error: np.ndarray
    freedom: float
    p_value: np.ndarray
    dispersion: float

    def interval(self, confidence: float) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end, natural logarithm."""
        from scipy.stats import t

        half = t.ppf(0.5 + confidence / 2, self.freedom) * self.standard_error
        return self.estimate - half, self.estimate + half


def effects(counts: np.ndarray, exposure: np.ndarray, design: np.ndarray, *, coefficient: int) -> Effects:
    r"""Fit the logarithm of every row's share over replicates, and test one coefficient.

    .. math::

        \log \frac{y_{ru} + \tfrac12 N_u / \bar N}{N_u} = x_u^\top \beta_r + \varepsilon_{ru}, \qquad
        \operatorname{Var} \varepsilon_{ru} = \varphi_r \Big( \alpha + \frac{1}{\mu_{ru}} \Big)

    :math:`1/\mu` is what counting adds to the variance of a logarithm, :math:`\alpha` what replicates add:
    one number for all rows, that at which their weighted squares sum to their degrees of freedom.
    :math:`\varphi_r` is each row's own, drawn towards what rows have in common
    (`chreode.interpret.glm.moderate`). The coefficient over its standard error is referred to t. A standard
    error is never below that of counting alone.

    Parameters
    ----------
    counts
        ``r x u``.
    exposure
        What counts are a share of, ``u``, > 0.
    design
        ``u x p``, of full rank, ``p < u``.
    coefficient
        Which column is tested.

    References
    ----------
    Law et al. (2014), voom. doi:10.1186/gb-2014-15-2-r29

    Examples
    --------
    >>> counts = np.array([[10, 12, 40, 44], [50, 55, 52, 49], [40, 33, 8, 7]])
    >>> design = np.array([[1, 0], [1, 0], [1, 1], [1, 1]])
    >>> found = effects(counts, np.full(4, 100), design, coefficient=1)
    >>> np.exp(found.estimate).round(1).tolist()
    [3.7, 1.0, 0.2]
    """
    from scipy.stats import t

    exposure = np.asarray(exposure, dtype=np.float64)
    padded = counts + _PRIOR * exposure / exposure.mean()
    log = np.log(padded / exposure)
    mean = exposure * np.exp(log @ np.linalg.pinv(design).T @ design.T)
    freedom = design.shape[0] - design.shape[1]

    def at(alpha: float) -> tuple[np.ndarray, ...]:
        return _fit(log, design, 1 / (alpha + 1 / mean))

    alpha = _dispersion(lambda alpha: float(at(alpha)[2].mean()) / freedom)
    beta, variance, squares = at(alpha)
    each = np.full(len(log), float(freedom))
    phi, prior = moderate(squares / freedom, each, level=np.log(mean.mean(1)))
    counting = at(0.0)[1]
    error = np.sqrt(np.maximum(phi[:, None] * variance, counting)[:, coefficient])
    # All rows together know no more of their variation than the replicates they were counted in.
    total = min(freedom + prior, freedom * len(counts))
    estimate = beta[:, coefficient]
    return Effects(estimate, error, total, 2 * t.sf(np.abs(estimate) / error, total), alpha)


def _dispersion(ratio: Callable[[float], float]) -> float:
    """Where weighted squares are as large as expected; 0 where they never are larger."""
    from scipy.optimize import brentq

    low, high = -18.0, 7.0  # logarithms
    if ratio(np.exp(low)) <= 1:
        return 0.0
    if ratio(np.exp(high)) >= 1:
        return float(np.exp(high))
    root: Any = brentq(lambda log: ratio(np.exp(log)) - 1, low, high, xtol=1e-3)
    return float(np.exp(root))


def _fit(values: np.ndarray, design: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weighted least squares: coefficients and their variances (``r x p``), and the squares that remain."""
    inverse = np.linalg.inv(np.einsum("up,ru,uq->rpq", design, weight, design))
    beta = np.einsum("rpq,rq->rp", inverse, (weight * values) @ design)
    squares = (weight * (values - beta @ design.T) ** 2).sum(1)
    return beta, np.diagonal(inverse, axis1=1, axis2=2), squares
