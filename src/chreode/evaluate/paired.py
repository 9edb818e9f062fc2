"""Whether a difference is more than noise."""

from __future__ import annotations

import numpy as np

__all__ = ["interval"]


def interval(
    by_seed: np.ndarray, by_part: np.ndarray, *, repeatable: bool = False, level: float = 0.95
) -> tuple[float, float, float]:
    r"""A mean paired difference with its interval over seeds and cells.

    With :math:`D_s` the difference for seed :math:`s` of :math:`S`, and :math:`P_p` the difference on part
    :math:`p` of :math:`K` disjoint random parts of the cells, averaged over the seeds,

    .. math::

        \bar D \pm t_{\nu} \sqrt{v_s + v_c}, \quad v_s = \frac{\mathrm{var}(D_s)}{S}, \quad
        v_c = \frac{\sum_p (P_p - \bar D)^2}{K (K - 1)}, \quad
        \nu = \frac{(v_s + v_c)^2}{v_s^2 / (S - 1) + v_c^2 / (K - 1)}

    Seeds and cells vary the difference independently of each other, so that their variances add up (what they
    do together is in both, which widens the interval a little). Parts are measured from the difference of the
    whole: where they do not show it, it hangs on how many cells there are, and is not trusted. A bootstrap of
    three seeds would be less than half as wide as it should; the t quantile at Satterthwaite's degrees of
    freedom is honest about so few.

    Parameters
    ----------
    by_seed
        ``S`` differences.
    by_part
        ``S x K`` differences; a part where a score says nothing is missing (NaN) and left out.
    repeatable
        Whether another seed would change nothing, as for embeddings that were made before.
    level
        Of the interval.

    Returns
    -------
    The difference, and its lower and upper end, which are NaN when a single seed says nothing of noise.

    References
    ----------
    Satterthwaite, 1946, An approximate distribution of estimates of variance components. doi:10.2307/3002019
    Politis and Romano, 1994, Large sample confidence regions based on subsamples. doi:10.1214/aos/1176325770

    Examples
    --------
    >>> difference, low, high = interval(np.array([1.0, 1.1, 0.9]), np.ones((3, 5)))
    >>> round(difference, 2), round(low, 2), round(high, 2)
    (1.0, 0.75, 1.25)
    """
    from scipy.stats import t

    difference, seeds = float(np.mean(by_seed)), len(by_seed)
    of_cells = np.mean(by_part, axis=0)
    of_cells = of_cells[np.isfinite(of_cells)]
    if len(of_cells) < 2 or (seeds < 2 and not repeatable):
        return difference, float("nan"), float("nan")
    cells = float(((of_cells - difference) ** 2).sum()) / (len(of_cells) * (len(of_cells) - 1))
    fits = float(np.var(by_seed, ddof=1)) / seeds if seeds > 1 else 0.0
    if cells + fits == 0:
        return difference, difference, difference
    freedom = (cells + fits) ** 2 / (fits**2 / max(seeds - 1, 1) + cells**2 / (len(of_cells) - 1))
    half = float(t.ppf(0.5 + level / 2, freedom)) * (cells + fits) ** 0.5
    return difference, difference - half, difference + half
