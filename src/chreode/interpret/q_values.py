"""The rate of false discoveries among tests, some of which there may not be."""

from __future__ import annotations

import numpy as np

__all__ = ["q_values"]


def q_values(p_value: np.ndarray) -> np.ndarray:
    """Adjust p-values over all tests that there are (Benjamini and Hochberg).

    Parameters
    ----------
    p_value
        Of any shape; NaN where there was nothing to test, which stays NaN and counts for nothing.

    References
    ----------
    Benjamini and Hochberg (1995), doi:10.1111/j.2517-6161.1995.tb02031.x

    Examples
    --------
    >>> q_values(np.array([[0.01, np.nan], [0.5, 0.04]])).round(2).tolist()
    [[0.03, nan], [0.5, 0.06]]
    """
    from scipy.stats import false_discovery_control

    found, known = np.full(p_value.shape, np.nan), ~np.isnan(p_value)
    found[known] = false_discovery_control(p_value[known])
    return found
