"""Codes that may be anywhere in a ball, as of generative latent optimisation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from chreode.axes import Float, Tensor

if TYPE_CHECKING:
    from chreode.cells import Cells

__all__ = ["Ball", "BallDensity"]


class BallDensity:
    """Every code in the ball is as good as any other; those outside are impossible.

    .. math:: \\log p(z) = -\\log \\mathrm{vol}\\{\\lVert z \\rVert \\le R\\}

    Parameters
    ----------
    radius
        :math:`R`, positive.
    mean, root
        Of the Gaussian that codes are drawn from, ``d`` and ``d x d``: its mean and a square root of its
        covariance. What falls outside of the ball is put onto its surface.

    Examples
    --------
    >>> import torch
    >>> round(BallDensity(1.0, torch.zeros(2), torch.eye(2)).log_prob(torch.zeros(1, 2)).item(), 4)
    -1.1447
    """

    __slots__ = ("mean", "radius", "root")

    def __init__(self, radius: float, mean: Float[Tensor, " d"], root: Float[Tensor, "d d"]) -> None:
        self.radius, self.mean, self.root = radius, mean, root

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log density of each code, in nats; rounding does not put a code of the surface outside."""
        d = z.shape[1]
        log_volume = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1) + d * math.log(self.radius)
        inside = z.norm(dim=1) <= self.radius * (1 + 1e-5)
        return torch.where(inside, -log_volume, -math.inf)

    def kl(self, posterior: Any, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """As of a mixture: estimated by one code drawn from the posterior."""
        return posterior.log_prob(z) - self.log_prob(z)

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw codes from the Gaussian, on the device of the generator."""
        noise = torch.randn(n, len(self.mean), generator=generator, device=generator.device)
        z = self.mean.to(noise) + noise @ self.root.to(noise).T
        return z / (z.norm(dim=1, keepdim=True) / self.radius).clamp(min=1)


class Ball(nn.Module):
    """A prior without parameters to learn: codes lie in a ball.

    Parameters
    ----------
    dim
        Dimensions of a code ``d``.
    radius
        Of the ball, positive.

    Notes
    -----
    Codes are drawn from a full-covariance Gaussian fitted to the learned ones (`describe`), as published;
    before that, from a Gaussian that fills the ball.

    References
    ----------
    Bojanowski, Joulin, Lopez-Paz and Szlam (2018), Optimizing the latent space of generative networks,
    doi:10.48550/arXiv.1707.05776.
    """

    cite: ClassVar[tuple[str, ...]] = ("glo",)
    count = 0  # it has no components
    mean: Tensor
    root: Tensor

    def __init__(self, dim: int, *, radius: float = 1.0) -> None:
        super().__init__()
        self.dim, self.radius = dim, radius
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("root", torch.eye(dim) * radius / math.sqrt(dim))

    def forward(self, cells: Cells | None = None, given: Any = None) -> BallDensity:
        """The density of the codes of ``cells``, the same for all of them."""
        return BallDensity(self.radius, self.mean, self.root)

    def mixture(self) -> BallDensity:
        """The density of the codes of any cell."""
        return self()

    @torch.no_grad()
    def describe(self, codes: Float[Tensor, "n d"]) -> None:
        """Fit the Gaussian that codes are drawn from."""
        self.mean.copy_(codes.mean(0))
        centred = (codes - codes.mean(0)).double()
        # A direction without spread has none in what is drawn either: the root need not be triangular.
        _, scale, directions = torch.linalg.svd(centred, full_matrices=False)
        root = torch.zeros(self.dim, self.dim, dtype=torch.float64, device=codes.device)
        root[:, : len(scale)] = directions.T * (scale / max(len(codes) - 1, 1) ** 0.5)
        self.root.copy_(root)

    def log_hyper(self) -> Float[Tensor, ""]:
        """Zero: there are no parameters."""
        return torch.zeros(())

    def modes(self) -> Float[Tensor, "1 d"]:
        """The centre."""
        return torch.zeros(1, self.dim)
