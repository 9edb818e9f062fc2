"""What objectives may punish besides: pure functions of tensors."""

from chreode.penalties.kernels import dhsic, gaussian_kernel, hsic, median_width

__all__ = ["dhsic", "gaussian_kernel", "hsic", "median_width"]
