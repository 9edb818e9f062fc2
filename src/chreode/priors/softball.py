"""The softball: a ball with a soft edge, with its true normaliser and an exact sampler."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import softplus

from chreode.axes import Float, Tensor

if TYPE_CHECKING:
    from chreode.cells import Cells

__all__ = ["Softball"]

_PANELS = 4096
_TAIL = 60.0


class Softball(nn.Module):
    """A density that is flat in a ball and falls off logistically at its edge.

    .. math::
        \\log p(z) = -\\log\\bigl(1 + e^{s(\\lVert z \\rVert / R - 1)}\\bigr) - \\log Z, \\qquad
        Z = \\frac{2 \\pi^{d/2}}{\\Gamma(d/2)} R^d \\int_0^\\infty \\frac{u^{d-1}}{1 + e^{s(u-1)}} \\, du

    The integral, a complete Fermi-Dirac integral, is computed once by quadrature. In many dimensions the
    volume beats the edge: unless ``sharpness`` is about ``3 * dim`` or more, most of the mass lies outside
    the radius (at d = 20, R = 1, s = 1 around 20 R).

    Parameters
    ----------
    dim
        Dimensions ``d``, at least 1.
    radius
        Radius ``R`` of the ball, in units of the code, positive.
    sharpness
        Steepness ``s`` of its edge, positive.

    Raises
    ------
    ValueError
        For a dimension below 1 or a radius or sharpness that is not positive.

    Notes
    -----
    The published code divides by the volume of the hard ball, which does not normalise the density, takes
    the logarithm of an exponential that overflows, and samples from the hard ball. `sample` draws from the
    density itself; `sample_ball` is the published sampler, which `Mixture` uses for its published start.

    References
    ----------
    Schuster and Krogh (2021), A manifold learning perspective on representation learning,
    doi:10.3390/e23111403.

    Examples
    --------
    >>> import torch
    >>> ball = Softball(1, radius=2.0, sharpness=5.0)
    >>> grid = torch.linspace(-20, 20, 4001).unsqueeze(1)
    >>> round(float(ball.log_prob(grid).exp().sum() * 0.01), 4)
    1.0
    """

    def __init__(self, dim: int, *, radius: float = 2.0, sharpness: float = 5.0) -> None:
        super().__init__()
        if dim < 1 or radius <= 0 or sharpness <= 0:
            msg = (
                f"Expected a dimension of at least 1 and a positive radius and sharpness; found dim={dim}, "
                f"radius={radius}, sharpness={sharpness}. Give positive numbers."
            )
            raise ValueError(msg)
        self.dim, self.radius, self.sharpness = dim, float(radius), float(sharpness)
        self._edge, self._mass = _radial_masses(dim, self.sharpness)
        sphere = math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)
        total = np.logaddexp.reduce(self._mass)
        self.log_normaliser = float(sphere + dim * math.log(self.radius) + total)

    def forward(self, cells: Cells | None = None, given: Any = None) -> Softball:
        """The density of the codes of ``cells``: itself."""
        return self

    def log_hyper(self) -> Float[Tensor, ""]:
        """Zero: there are no parameters."""
        return torch.zeros(())

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log density of each point, in nats."""
        length = torch.linalg.vector_norm(z, dim=1)
        return -softplus(self.sharpness * (length / self.radius - 1)) - self.log_normaliser

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw points: the length by its inverse distribution function, the direction uniformly."""
        uniform = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64)
        mass = np.exp(self._mass - self._mass.max())
        share = np.concatenate([[0.0], np.cumsum(mass) / mass.sum()])
        length = self.radius * np.interp(uniform.cpu().numpy(), share, self._edge)
        return _directions(n, self.dim, generator) * torch.from_numpy(length).float().to(
            generator.device
        ).unsqueeze(1)

    def sample_ball(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw points uniformly from the hard ball, as the published code does; ignores the sharpness."""
        uniform = torch.rand(n, 1, generator=generator, device=generator.device)
        return _directions(n, self.dim, generator) * (self.radius * uniform ** (1 / self.dim))


def _radial_masses(dim: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Edges of narrow panels of ``u = r / R`` and the log integral of the radial density over each.

    The panels are narrow on both sides of the ball's edge, where the density falls within ``1 / sharpness``,
    and end where the tail, ``u^(d-1) exp(-s u)``, holds less than rounding.
    """
    wide = (_TAIL + dim + 10 * math.sqrt(dim)) / sharpness
    inner = max(0.0, 1 - _TAIL / sharpness)
    edge = np.linspace(inner, 1 + wide, _PANELS + 1)
    if inner > 0:
        edge = np.concatenate([np.linspace(0, inner, _PANELS + 1)[:-1], edge])
    node, weight = np.polynomial.legendre.leggauss(6)
    half = np.diff(edge)[:, None] / 2
    u = (edge[:-1, None] + half) + half * node
    log_density = (dim - 1) * np.log(u) - np.logaddexp(0, sharpness * (u - 1))
    return edge, np.logaddexp.reduce(log_density + np.log(weight * half), axis=1)


def _directions(n: int, dim: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
    normal = torch.randn(n, dim, generator=generator, device=generator.device)
    return normal / torch.linalg.vector_norm(normal, dim=1, keepdim=True)
