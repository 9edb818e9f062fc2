"""What private code to expect of a cell, from its shared one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from chreode.axes import Float, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Companion"]

_LEAST = 1e-9  # variance
_RIDGE = 1e-2  # of shared codes' variance: what few cells do not tell is the mean


class Companion(nn.Module):
    r"""A linear Gaussian law of one code given another, learned in closed form after a fit.

    .. math:: t \mid z \sim N(a + B^\top z,\ S)

    It says which private code a cell would have, had it another level: the ones of cells of that level with
    such shared codes. Until it has learned, everything is zero.

    Parameters
    ----------
    n_shared
        Dimensions of the code that is known.
    dim
        Dimensions of the one that is asked for.

    Examples
    --------
    >>> import torch
    >>> z = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    >>> companion = Companion(2, 1)
    >>> companion.learn(z, 3.0 + z[:, :1], torch.ones(500))
    >>> companion(torch.zeros(1, 2)).round(decimals=2)
    tensor([[3.]])
    """

    level: Tensor
    slope: Tensor
    root: Tensor

    def __init__(self, n_shared: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(dim))
        self.register_buffer("slope", torch.zeros(n_shared, dim))
        self.register_buffer("root", torch.zeros(dim, dim))

    @torch.no_grad()
    def learn(
        self,
        shared: Float[Tensor, "n s"],
        own: Float[Tensor, "n d"],
        weight: Float[Tensor, " n"],
        *,
        total: Callable[[Tensor], Tensor] = lambda value: value,
    ) -> None:
        """Ridge regression of own codes on shared ones; nothing is learned where there are no cells.

        Parameters
        ----------
        shared, own
            Codes of some cells.
        weight
            Of each cell, at least 0.
        total
            Adds up sums over cells with those of other devices.
        """
        n_shared, w = shared.shape[1], weight.double()[:, None]
        both = torch.cat([torch.ones_like(w), shared.double(), own.double()], 1)
        moments = total(both.T @ (w * both))
        number = moments[0, 0]
        if number < 1:
            return
        mean = moments[0, 1:] / number
        covariance = moments[1:, 1:] / number - mean[:, None] * mean
        among, across = covariance[:n_shared, :n_shared], covariance[:n_shared, n_shared:]
        ridge = _RIDGE * among.diagonal().mean() + _LEAST
        slope = torch.linalg.solve(among + ridge * torch.eye(n_shared).to(among), across)
        explained = slope.T @ across
        left = covariance[n_shared:, n_shared:] - explained - explained.T + slope.T @ among @ slope
        values, vectors = torch.linalg.eigh(left)  # which may be singular
        self.slope.copy_(slope)
        self.level.copy_(mean[n_shared:] - mean[:n_shared] @ slope)
        self.root.copy_((vectors * values.clamp(min=0).sqrt()) @ vectors.T)

    def forward(
        self, shared: Float[Tensor, "n s"], draw: torch.Generator | None = None
    ) -> Float[Tensor, "n d"]:
        """The mean for each cell; a draw with a generator."""
        mean = self.level + shared @ self.slope
        if draw is None:
            return mean
        noise = torch.randn(mean.shape, generator=draw, device=draw.device).to(mean)
        return mean + noise @ self.root
