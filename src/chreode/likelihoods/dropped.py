"""Likelihood of continuous values some of which dropped out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from chreode.axes import Bool, Float, Tensor
from chreode.cells import CSR

if TYPE_CHECKING:
    from chreode.cells import Measured

__all__ = ["DroppedNormal", "DroppedValues"]


class DroppedNormal(nn.Module):
    r"""Normal values that are measured as zero the more often the nearer they are to it.

    .. math:: y_{ij} \sim N(\mathrm{raw}_{ij}, \sigma_j^2), \qquad
              x_{ij} = 0 \text{ with probability } \exp(-\lambda y_{ij}^2), \text{ else } y_{ij}

    so that a zero has the probability :math:`(1 + 2\lambda\sigma_j^2)^{-1/2}
    \exp(-\lambda\,\mathrm{raw}_{ij}^2 / (1 + 2\lambda\sigma_j^2))`, and another value the density
    :math:`N(x_{ij}; \mathrm{raw}_{ij}, \sigma_j^2)\,(1 - \exp(-\lambda x_{ij}^2))`.

    Parameters
    ----------
    n_features
        Features ``g``.

    References
    ----------
    Pierson and Yau (2015), ZIFA. https://doi.org/10.1186/s13059-015-0805-z

    Examples
    --------
    >>> import torch
    >>> observed = DroppedNormal(1)(torch.zeros(1, 1), torch.ones(1), None)
    >>> observed.zero_probability
    tensor([[0.5774]], grad_fn=<...>)
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"continuous"})
    outputs: ClassVar[int] = 1
    cite: ClassVar[tuple[str, ...]] = ("zifa",)

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.log_scale = nn.Parameter(torch.zeros(n_features))
        self.log_decay = nn.Parameter(torch.zeros(()))

    def forward(
        self, raw: Float[Tensor, "n g"], size: Float[Tensor, " n"], mask: Bool[Tensor, "n g"] | None
    ) -> DroppedValues:
        """The distribution for some decoder outputs."""
        return DroppedValues(raw, mask, self.log_scale, self.log_decay)

    def centre(self, bias: Float[Tensor, " g"], total: Float[Tensor, " g"], n_cells: int) -> None:
        """Set output biases, in place, to the mean of ``n_cells`` cells with these totals."""
        bias.copy_(total / max(n_cells, 1))


class DroppedValues:
    """What `DroppedNormal` returns: the distribution of values in some cells."""

    __slots__ = ("_decay", "_mask", "_raw", "_variance")

    def __init__(self, raw: Tensor, mask: Tensor | None, log_scale: Tensor, log_decay: Tensor) -> None:
        self._raw, self._mask = raw, mask
        self._variance = (2 * log_scale).exp().to(raw.dtype)
        self._decay = log_decay.exp().to(raw.dtype)

    @property
    def _wide(self) -> Float[Tensor, " g"]:
        return 1 + 2 * self._decay * self._variance

    def log_prob(self, measured: Measured) -> Float[Tensor, " n"]:
        """Log density of each cell's values (of zeros, log probability), in nats."""
        x = (measured.dense() if isinstance(measured, CSR) else measured).to(self._raw.dtype)
        lost = -0.5 * self._wide.log() - self._decay * self._raw.square() / self._wide
        value = -0.5 * ((x - self._raw).square() / self._variance + (2 * math.pi * self._variance).log())
        # Where it dropped out the second is not looked at; its logarithm must not be infinite even there.
        seen = torch.where(x == 0, 1.0, x)
        value = value + torch.log(-torch.expm1(-self._decay * seen.square()))
        each = torch.where(x == 0, lost, value)
        return (each if self._mask is None else each * self._mask).sum(1)

    @property
    def zero_probability(self) -> Float[Tensor, "n g"]:
        """Probability that a value dropped out."""
        return self._wide.rsqrt() * torch.exp(-self._decay * self._raw.square() / self._wide)

    @property
    def mean(self) -> Float[Tensor, "n g"]:
        """Expected values, after dropout."""
        return self._raw * (1 - self.zero_probability / self._wide)

    @property
    def proportions(self) -> Float[Tensor, "n g"]:
        """Expected values: they share no total."""
        return self.mean

    @property
    def variance(self) -> Float[Tensor, "n g"]:
        """Variance of the values, after dropout."""
        lost = self._variance / self._wide + (self._raw / self._wide).square()
        return self._variance + self._raw.square() - self.zero_probability * lost - self.mean.square()

    def sample(self, generator: torch.Generator) -> Float[Tensor, "n g"]:
        """Draw values, then lose some."""
        raw = self._raw.detach()
        y = raw + self._variance.detach().sqrt() * torch.randn(
            raw.shape, generator=generator, dtype=raw.dtype, device=raw.device
        )
        luck = torch.rand(raw.shape, generator=generator, dtype=raw.dtype, device=raw.device)
        return y.masked_fill(luck < torch.exp(-self._decay.detach() * y.square()), 0)
