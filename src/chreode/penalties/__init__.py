"""What objectives may punish besides: pure functions of tensors."""

from chreode.penalties.adversary import Critic, adversarial
from chreode.penalties.correlation import total_correlation
from chreode.penalties.discrepancy import (
    TRVAE_WIDTHS,
    WIDTHS,
    mmd,
    mmd_by_level,
    sliced_wasserstein,
    wasserstein_by_level,
    wasserstein_to_zero,
)
from chreode.penalties.geometry import flatness, geodesic_speed, pullback
from chreode.penalties.kernels import dhsic, gaussian_kernel, hsic, median_width, squared_distances

__all__ = [
    "TRVAE_WIDTHS",
    "WIDTHS",
    "Critic",
    "adversarial",
    "dhsic",
    "flatness",
    "gaussian_kernel",
    "geodesic_speed",
    "hsic",
    "median_width",
    "mmd",
    "mmd_by_level",
    "pullback",
    "sliced_wasserstein",
    "squared_distances",
    "total_correlation",
    "wasserstein_by_level",
    "wasserstein_to_zero",
]
