"""What an encoder knows of a code: a Gaussian for each cell."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from chreode.axes import Float, Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["GaussianPosterior"]


class GaussianPosterior:
    """A Gaussian with a diagonal covariance over the code of each cell.

    .. math:: q(z_i \\mid x_i) = N\\big(z_i;\\ m_i, \\operatorname{diag}(v_i)\\big)

    Parameters
    ----------
    mean
        ``n x d``.
    variance
        ``n x d``, above 0.
    experts
        The posteriors that it was put together from, by modality, where there are several.

    Examples
    --------
    >>> import torch
    >>> q = GaussianPosterior(torch.zeros(1, 2), torch.ones(1, 2))
    >>> round(q.log_prob(torch.zeros(1, 2)).item(), 4)
    -1.8379
    """

    __slots__ = ("experts", "mean", "variance")

    def __init__(
        self,
        mean: Float[Tensor, "n d"],
        variance: Float[Tensor, "n d"],
        *,
        experts: Mapping[str, GaussianPosterior] | None = None,
    ) -> None:
        self.mean = mean
        self.variance = variance
        self.experts = dict(experts or {})

    def kl(self, other: GaussianPosterior) -> Float[Tensor, " n"]:
        """Kullback-Leibler divergence from another Gaussian of each cell, in nats."""
        ratio = self.variance / other.variance
        distance = (self.mean - other.mean).square() / other.variance
        return 0.5 * (ratio + distance - ratio.log() - 1).sum(1)

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log density of one code for each cell, in nats."""
        distance = (z - self.mean).square() / self.variance
        return -0.5 * (distance + self.variance.log() + math.log(2 * math.pi)).sum(1)

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "n d"]:
        """One code for each cell, through which gradients reach mean and variance.

        Without a generator it draws from torch's global state, which `fit` seeds for every epoch.
        """
        if generator is None:
            noise = torch.randn_like(self.mean)
        else:
            noise = torch.randn(self.mean.shape, generator=generator, device=generator.device).to(self.mean)
        return self.mean + self.variance.sqrt() * noise
