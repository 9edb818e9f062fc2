"""Counts of replicates, a row a feature: negative binomial regression with moderated quasi-likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Fit", "Tested", "deviances", "fit", "moderate", "quasi_test", "size_factors"]

_RIDGE = 1e-6  # where a group has no count its coefficient runs away, and stops once this outweighs it
_TOP = 400  # features of most counts, which tell the dispersion
_PRIOR = 0.5  # counts added to an average replicate, so that fold changes stay finite


@dataclass(frozen=True)
class Fit:
    """Coefficients ``r x p``, means ``r x u``, and the weights of iteratively reweighted least squares."""

    beta: np.ndarray
    mean: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Tested:
    """What is known of one coefficient of every row, in natural logarithms.

    Parameters
    ----------
    estimate, standard_error
        ``r``, of Wald; both with half a count added to an average replicate.
    statistic
        The signed root of F, ``r``.
    freedom
        Of t (F has 1 and these), ``r``.
    p_value
        Two-sided, ``r``.
    dispersion
        :math:`\\alpha`, of all rows.
    prior
        Degrees of freedom that rows lend each other, ``d_0``.
    """

    estimate: np.ndarray
    standard_error: np.ndarray
    statistic: np.ndarray
    freedom: np.ndarray
    p_value: np.ndarray
    dispersion: float
    prior: float

    def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Wald's interval; where it contradicts the test about zero, the end near zero is moved.

        There it is the end of the interval whose half is to the estimate as the quantile is to the statistic.
        """
        from scipy.stats import t

        quantile = t.ppf(0.5 + level / 2, self.freedom)
        half = quantile * self.standard_error
        rejected = np.abs(self.statistic) > quantile
        moved = (np.abs(self.estimate) > half) != rejected
        ratio = quantile / np.maximum(np.abs(self.statistic), 1e-12)
        near = np.where(moved, np.abs(self.estimate) * np.clip(ratio, 0, 1e6), half)
        lower, upper = (np.where(self.estimate * way > 0, near, half) for way in (1, -1))
        return self.estimate - lower, self.estimate + upper


def quasi_test(counts: np.ndarray, exposure: np.ndarray, design: np.ndarray, *, coefficient: int) -> Tested:
    r"""Test one coefficient of every row of counts over replicates.

    .. math::

        \log \mu_{gu} = \log N_u + x_u^\top \beta_g, \qquad
        \operatorname{Var} y_{gu} = \varphi_g (\mu_{gu} + \alpha \mu_{gu}^2), \qquad
        F_g = \frac{D_g(\beta_j = 0) - D_g}{\tilde\varphi_g} \sim F(1,\ d_g + d_0)

    The dispersion :math:`\alpha` is common, that at which the deviances of the rows of most counts have the
    median of chi-squared. What a row varies beyond, :math:`\varphi_g`, comes from its deviance, each unit of
    which is scaled to the mean and variance that it has at small counts; it is then drawn towards the trend
    over mean counts (`moderate`).

    Parameters
    ----------
    counts
        ``r x u``, not all zero in a row.
    exposure
        What counts are a share of, ``u``, > 0.
    design
        ``u x p``, of full rank, ``p < u``.
    coefficient
        Which column is tested.

    References
    ----------
    Lund et al. (2012), quasi-likelihood with shrunken dispersions, doi:10.1515/1544-6115.1826; Chen et al.
    (2025), edgeR v4, doi:10.1093/nar/gkaf018. Deviations: moments of the deviance are summed, not
    approximated; one dispersion for all rows by the median; the trend is fitted by maximum likelihood.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.poisson(30, (200, 8))
    >>> counts[0, 4:] *= 3
    >>> design = np.stack([np.ones(8), np.arange(8) >= 4], 1).astype(float)
    >>> found = quasi_test(counts, np.ones(8), design, coefficient=1)
    >>> int(found.p_value.argmin()), round(float(np.exp(found.estimate[0])), 1)
    (0, 3.4)
    """
    from scipy.stats import f as f_distribution

    counts, exposure = np.asarray(counts, dtype=np.float64), np.asarray(exposure, dtype=np.float64)
    alpha = _dispersion(counts, exposure, design)
    full = fit(counts, exposure, design, alpha=alpha)
    own, freedom = _quasi_dispersion(counts, full, design, alpha)
    phi, prior = moderate(own, freedom, level=np.log(counts.mean(1)))
    null = fit(counts, exposure, np.delete(design, coefficient, axis=1), alpha=alpha)
    lost = (deviances(counts, null.mean, alpha) - deviances(counts, full.mean, alpha)).sum(1)
    ratio = np.maximum(lost, 0.0) / phi
    # All rows together know no more of their variation than the replicates they were counted in.
    total = np.minimum(freedom + prior, freedom.sum())
    padded = fit(counts + _PRIOR * exposure / exposure.mean(), exposure, design, alpha=alpha)
    estimate = padded.beta[:, coefficient]
    wald = np.sqrt(phi * np.diagonal(_inverse(padded.weight, design), axis1=1, axis2=2)[:, coefficient])
    statistic = np.sign(estimate) * np.sqrt(ratio)
    p_value = f_distribution.sf(ratio, 1, total)
    return Tested(estimate, wald, statistic, total, p_value, alpha, prior)


def fit(counts: np.ndarray, exposure: np.ndarray, design: np.ndarray, *, alpha: float) -> Fit:
    """Negative binomial regression of every row at a given dispersion, by Fisher scoring.

    Parameters
    ----------
    counts, exposure, design
        As in `quasi_test`.
    alpha
        Dispersion, >= 0.
    """
    p = design.shape[1]
    start = np.log((counts + _PRIOR) / exposure)
    beta = start @ np.linalg.pinv(design).T
    outer = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    for _ in range(60):
        mean = exposure * np.exp(np.clip(beta @ design.T, -60, 60))
        weight = mean / (1 + alpha * mean)
        information = (weight @ outer).reshape(-1, p, p) + _RIDGE * np.eye(p)
        score = ((counts - mean) / (1 + alpha * mean)) @ design
        step = np.linalg.solve(information, score[..., None])[..., 0]
        step *= np.minimum(1, 2 / np.maximum(np.abs(step).max(1, keepdims=True), 1e-300))
        beta = beta + step
        if np.abs(step).max(initial=0) < 1e-7:
            break
    mean = exposure * np.exp(np.clip(beta @ design.T, -60, 60))
    return Fit(beta, mean, mean / (1 + alpha * mean))


def deviances(counts: np.ndarray, mean: np.ndarray, alpha: float) -> np.ndarray:
    r"""Unit deviances of the negative binomial; of the Poisson at :math:`\alpha = 0`.

    .. math:: d = 2 \left[ y \log \frac y\mu - \left(y + \frac1\alpha\right)
              \log \frac{1 + \alpha y}{1 + \alpha \mu} \right]

    Examples
    --------
    >>> deviances(np.array([0.0, 3.0]), np.array([2.0, 3.0]), 0.0).tolist()
    [4.0, 0.0]
    """
    from scipy.special import xlogy

    mean = np.maximum(mean, 1e-300)
    first = xlogy(counts, counts / mean)
    if alpha < 1e-6:
        return np.maximum(2 * (first - (counts - mean)), 0.0)
    rest = (counts + 1 / alpha) * (np.log1p(alpha * counts) - np.log1p(alpha * mean))
    return np.maximum(2 * (first - rest), 0.0)


def moderate(variance: np.ndarray, freedom: np.ndarray, *, level: np.ndarray) -> tuple[np.ndarray, float]:
    r"""Draw the variances of rows towards their trend, as far as rows are alike.

    .. math::

        s_g^2 \sim s_0^2(\ell_g)\, F(d_g, d_0), \qquad
        \tilde s_g^2 = \frac{d_0 s_0^2(\ell_g) + d_g s_g^2}{d_0 + d_g}

    with :math:`\log s_0^2` piecewise linear in the level, and :math:`d_0`, by maximum likelihood.

    Parameters
    ----------
    variance
        Of each row, ``r``; fewer than three stay as they are.
    freedom
        Of each row, ``r``, > 0.
    level
        What the trend is over, ``r``.

    Returns
    -------
    The moderated variances, and :math:`d_0` (at most a million).

    References
    ----------
    Smyth (2004), doi:10.2202/1544-6115.1027. Deviation: maximum likelihood in place of moments of log
    variances, which no variance of zero and no fraction of a degree of freedom disturbs.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> variance = rng.f(3, 8, 4000)
    >>> _, prior = moderate(variance, np.full(4000, 3.0), level=np.zeros(4000))
    >>> 7 < prior < 9.5
    True
    """
    from scipy.optimize import minimize
    from scipy.special import digamma, gammaln

    if len(variance) < 3:
        return variance, 0.0
    knots = np.unique(np.quantile(level, [0.1, 0.3, 0.5, 0.7, 0.9])) if len(level) >= 50 else []
    columns = [np.ones_like(level), *(np.maximum(level - knot, 0.0) for knot in knots)]
    # A piece that no row lies on says nothing.
    basis = np.stack([columns[0], *(c / c.max() for c in columns[1:] if c.max() > 1e-6)], 1)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        prior, trend = np.exp(parameters[0]), basis @ parameters[1:]
        both = (freedom + prior) / 2
        ratio = freedom * variance / prior * np.exp(-trend)
        own = gammaln(both) - gammaln(prior / 2) - freedom / 2 * (np.log(prior) + trend)
        by_trend = both * ratio / (1 + ratio) - freedom / 2
        by_prior = prior / 2 * (digamma(both) - digamma(prior / 2) - np.log1p(ratio)) + by_trend
        slope = np.concatenate([[by_prior.mean()], by_trend @ basis / len(basis)])
        return -float((own - both * np.log1p(ratio)).mean()), -slope

    pooled = float((freedom * variance).sum() / freedom.sum())
    exact = {"ftol": 1e-13, "gtol": 1e-8, "maxiter": 1000}
    start = np.array([np.log(10.0), np.log(max(pooled, 1e-8)), *np.zeros(basis.shape[1] - 1)])
    bounds = [(np.log(0.1), np.log(1e6)), *[(-20.0, 20.0)] * basis.shape[1]]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=exact).x
    prior = float(np.exp(found[0]))
    centre = np.exp(basis @ found[1:])
    return (prior * centre + freedom * variance) / (prior + freedom), prior


def size_factors(counts: np.ndarray) -> np.ndarray:
    r"""Totals, corrected for features that take more or less of them: trimmed means of log ratios.

    Each replicate is compared with all of them together; the 30 % of the features whose ratios are most
    extreme on either side, and the 5 % of least and most counts, are left out, and the others weighted by
    the inverse of their variance.

    Parameters
    ----------
    counts
        ``r x u``, a column a replicate, none without counts.

    Returns
    -------
    numpy.ndarray
        ``u``; corrections have a geometric mean of 1.

    References
    ----------
    Robinson and Oshlack (2010), doi:10.1186/gb-2010-11-3-r25. Deviation: the reference is the mean.

    Examples
    --------
    >>> counts = np.full((100, 2), 50.0)
    >>> counts[:3, 1] = 2000.0
    >>> (size_factors(counts) / size_factors(counts)[0]).round(2).tolist()
    [1.0, 1.0]
    """
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum(0)
    share = counts / total
    reference = share.mean(1)
    factor = np.zeros(counts.shape[1])
    for u in range(counts.shape[1]):  # a column a replicate
        here = np.flatnonzero((counts[:, u] > 0) & (reference > 0))
        ratio = np.log(share[here, u] / reference[here])
        height = np.log(share[here, u] * reference[here])
        kept = _middle(ratio, 0.3) & _middle(height, 0.05)
        if kept.any():
            weight = 1 / (1 / counts[here[kept], u] - 1 / total[u] + 1e-12)
            factor[u] = (weight @ ratio[kept]) / weight.sum()
    return total * np.exp(factor - factor.mean())


def _middle(values: np.ndarray, cut: float) -> np.ndarray:
    """Which values are left when a share is cut off at either end."""
    rank = values.argsort(kind="stable").argsort(kind="stable")
    return (rank >= np.floor(cut * len(values))) & (rank < np.ceil((1 - cut) * len(values)))


def _inverse(weight: np.ndarray, design: np.ndarray) -> np.ndarray:
    p = design.shape[1]
    outer = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    return np.linalg.inv((weight @ outer).reshape(-1, p, p) + _RIDGE * np.eye(p))


def _dispersion(counts: np.ndarray, exposure: np.ndarray, design: np.ndarray) -> float:
    """The dispersion at which the rows of most counts deviate as chi-squared does, in the median."""
    from scipy.optimize import brentq
    from scipy.stats import chi2

    top = counts[np.argsort(-counts.sum(1), kind="stable")[:_TOP]]

    def excess(log: float) -> float:
        alpha = float(np.exp(log))
        own, freedom = _quasi_dispersion(top, fit(top, exposure, design, alpha=alpha), design, alpha)
        return float(np.median(chi2.cdf(own * freedom, freedom))) - 0.5

    low, high = np.log(1e-6), np.log(20.0)
    if excess(low) <= 0:
        return 0.0
    root: Any = high if excess(high) >= 0 else brentq(excess, low, high, xtol=0.03)
    return float(np.exp(root))


def _quasi_dispersion(
    counts: np.ndarray, found: Fit, design: np.ndarray, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Each row's deviance over its degrees of freedom, and these, both as small counts have them."""
    inverse = _inverse(found.weight, design)
    leverage = found.weight * np.einsum("up,rpq,uq->ru", design, inverse, design, optimize=True)
    mean, variance = _moments(found.mean, alpha)
    scaled = (deviances(counts, found.mean, alpha) * 2 * mean / variance).sum(1)
    freedom = (np.clip(1 - leverage, 0, 1) * 2 * mean**2 / variance).sum(1)
    freedom = np.maximum(freedom, 1e-3)
    return scaled / freedom, freedom


def _moments(mean: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the unit deviance at each mean, interpolated between tabulated ones."""
    grid = np.logspace(-4, 3, 29)  # beyond, shapes no longer change
    table = np.array([_moments_at(m, alpha) for m in grid])
    where = np.log(np.clip(mean, grid[0], grid[-1]))
    first, second = (np.exp(np.interp(where, np.log(grid), np.log(column))) for column in table.T)
    return first, second


def _moments_at(mean: float, alpha: float) -> tuple[float, float]:
    """Mean and variance of the unit deviance at one mean: a sum, or over quantiles where it would be long."""
    from scipy.stats import nbinom, poisson

    law: Any = poisson(mean) if alpha < 1e-6 else nbinom(1 / alpha, 1 / (1 + alpha * mean))
    last = int(law.ppf(1 - 1e-9)) + 2
    y = np.arange(last) if last < 20_000 else law.ppf((np.arange(1000) + 0.5) / 1000)
    chance = law.pmf(y) if last < 20_000 else np.full(len(y), 1e-3)
    unit = deviances(y, np.full(len(y), mean), alpha)
    first = chance @ unit
    return float(first), float(chance @ (unit - first) ** 2)
