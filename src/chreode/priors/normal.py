"""Normal priors without parameters, and the flat one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.errors import InputError

if TYPE_CHECKING:
    from chreode.cells import Cells

__all__ = ["Flat", "FlatDensity", "NormalDensity", "ShiftedNormal", "StandardNormal"]


class NormalDensity:
    r"""A normal density of codes, of unit variance, about a mean that all dimensions and cells have.

    .. math:: \log p(z) = -\tfrac12 \lVert z - m 1 \rVert^2 - \tfrac d2 \log 2\pi

    Parameters
    ----------
    dim
        Dimensions of a code ``d``.
    location
        The mean :math:`m`; 0 is the standard normal.
    n
        Of how many cells, for `mean`.

    Examples
    --------
    >>> import torch
    >>> round(NormalDensity(2).log_prob(torch.zeros(1, 2)).item(), 4)
    -1.8379
    """

    __slots__ = ("dim", "location", "n")

    def __init__(self, dim: int, location: float = 0.0, n: int = 1) -> None:
        self.dim, self.location, self.n = dim, location, n

    @property
    def mean(self) -> Float[Tensor, "n d"]:
        """Where each cell's code is to be expected."""
        return torch.full((self.n, self.dim), self.location)

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log density of each code, in nats."""
        return -0.5 * (z - self.location).square().sum(1) - 0.5 * self.dim * math.log(2 * math.pi)

    def kl(self, posterior: Any, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        r"""Kullback-Leibler divergence of a Gaussian posterior, in closed form; codes ``z`` do not matter.

        .. math:: \mathrm{KL} = \tfrac12 \sum_d (m_d - m)^2 + v_d - \log v_d - 1
        """
        apart, variance = posterior.mean - self.location, posterior.variance
        return 0.5 * (apart.square() + variance - variance.log() - 1).sum(1)

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw codes, on the device of the generator."""
        return torch.randn(n, self.dim, generator=generator, device=generator.device) + self.location


class StandardNormal(nn.Module):
    """A prior without parameters: every code is standard normal.

    Parameters
    ----------
    dim
        Dimensions of a code ``d``.

    Examples
    --------
    >>> prior = StandardNormal(20)
    >>> prior.log_hyper().item()
    0.0
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, cells: Cells | None = None, given: Any = None) -> NormalDensity:
        """The density of the codes of ``cells``, the same for all of them."""
        return NormalDensity(self.dim)

    def log_hyper(self) -> Float[Tensor, ""]:
        """Zero: there are no parameters."""
        return torch.zeros(())

    count = 0  # it has no components

    def mixture(self) -> NormalDensity:
        """The density of the codes of any cell."""
        return NormalDensity(self.dim)

    def modes(self) -> Float[Tensor, "1 d"]:
        """Where the density is greatest."""
        return torch.zeros(1, self.dim)


class ShiftedNormal(StandardNormal):
    r"""A prior of unit variance about another mean than zero, which is where a code is that is not there.

    .. math:: z \sim N(m 1, I)

    A decoder that sees zero where a code is absent learns from the mean, at no divergence, what its presence
    does to all cells. About zero a shift that all cells share would cost half the square of its length.

    Parameters
    ----------
    dim
        Dimensions of a code ``d``.
    location
        The mean of every dimension.

    Examples
    --------
    >>> ShiftedNormal(2, 1.0).modes()
    tensor([[1., 1.]])
    """

    def __init__(self, dim: int, location: float) -> None:
        super().__init__(dim)
        self.location = float(location)

    def forward(self, cells: Cells | None = None, given: Any = None) -> NormalDensity:
        """The density of the codes of ``cells``, the same for all of them."""
        return NormalDensity(self.dim, self.location, 1 if cells is None else len(cells))

    def mixture(self) -> NormalDensity:
        """The density of the codes of any cell."""
        return self()

    def modes(self) -> Float[Tensor, "1 d"]:
        """Where the density is greatest."""
        return self().mean


class FlatDensity:
    """No prior: every code is as good as any other (improper; its log density is zero everywhere)."""

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Zero for each code."""
        return z.new_zeros(len(z))

    def kl(self, posterior: Any, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """The posterior's own log density at the codes drawn, since its entropy is all that counts."""
        return posterior.log_prob(z)

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Refuse: there is nothing to draw from.

        Raises
        ------
        InputError
            Always.
        """
        msg = "Expected a prior to draw codes from; found none. Use a recipe with a prior, such as dgd."
        raise InputError(msg)


class Flat(nn.Module):
    """The absence of a prior, for deterministic decoders.

    Parameters
    ----------
    dim
        Dimensions of a code ``d``.
    """

    count = 0  # it has no components

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, cells: Cells | None = None, given: Any = None) -> FlatDensity:
        """The same for all cells."""
        return FlatDensity()

    def mixture(self) -> FlatDensity:
        """The density of the codes of any cell."""
        return FlatDensity()

    def log_hyper(self) -> Float[Tensor, ""]:
        """Zero: there are no parameters."""
        return torch.zeros(())

    def modes(self) -> Float[Tensor, "1 d"]:
        """Zero, the code of the mean profile."""
        return torch.zeros(1, self.dim)
