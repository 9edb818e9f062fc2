"""Likelihood of counts that vary no more than Poisson's, given the cell's total."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from chreode.axes import Bool, Float, Tensor
from chreode.likelihoods.closed import score_poisson
from chreode.likelihoods.compiled import compiled_for
from chreode.likelihoods.sparse import NonZeros, centre, known, log_prob, masked

if TYPE_CHECKING:
    from chreode.cells import Measured

__all__ = ["Poisson", "PoissonCounts"]


class Poisson(nn.Module):
    r"""Counts without overdispersion, given the cell's total.

    .. math:: x_{ij} \sim \mathrm{Poisson}(s_i \rho_{ij}), \qquad \rho_i = \mathrm{softmax}(\mathrm{raw}_i)

    Parameters
    ----------
    n_features
        Features ``g``.

    Examples
    --------
    >>> import torch
    >>> head = Poisson(2)
    >>> observed = head(torch.zeros(1, 2), torch.tensor([4.0]), None)
    >>> observed.mean
    tensor([[2., 2.]])
    >>> observed.log_prob(torch.tensor([[1.0, 3.0]]))
    tensor([-3.0192])
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"counts", "binary"})
    outputs: ClassVar[int] = 1

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features

    def forward(
        self, raw: Float[Tensor, "n g"], size: Float[Tensor, " n"], mask: Bool[Tensor, "n g"] | None
    ) -> PoissonCounts:
        """The distribution for some decoder outputs."""
        return PoissonCounts(raw, known(size), mask)

    def centre(self, bias: Float[Tensor, " g"], total: Float[Tensor, " g"], n_cells: int) -> None:
        """Set output biases, in place, to the mean profile of ``n_cells`` cells with these totals."""
        centre(bias, total)

    @torch.no_grad()
    def information(self, mean: Float[Tensor, " g"]) -> Float[Tensor, " g"]:
        """Fisher information of a cell about each output, where the decoder gives this mean."""
        return mean


class PoissonCounts:
    """What `Poisson` returns: the distribution of counts in some cells."""

    __slots__ = ("_mask", "_raw", "_size")

    def __init__(self, raw: Tensor, size: Tensor, mask: Tensor | None) -> None:
        self._raw, self._size, self._mask = raw, size.to(raw.dtype), mask

    def log_prob(self, measured: Measured) -> Float[Tensor, " n"]:
        """Log probability of each cell's counts, in nats."""
        entries = NonZeros.of(measured, mask=self._mask, like=self._raw)
        fused = compiled_for(self._raw)
        way = fused.score_poisson if fused else score_poisson
        return log_prob(partial(way, entries, self._mask), self._raw, self._size)

    @property
    def raw(self) -> Float[Tensor, "n g"]:
        """The decoder's outputs."""
        return self._raw

    def slope(self, measured: Measured) -> Float[Tensor, "n g"]:
        r"""Gradient of `log_prob` to the outputs, :math:`x - \rho \sum x`, as something to differentiate."""
        entries = NonZeros.of(measured, mask=self._mask, like=self._raw)
        total = entries.sum_rows(entries.value)[:, None]
        return entries.added(-self.proportions * total, entries.value)

    @property
    def proportions(self) -> Float[Tensor, "n g"]:
        """Expected share of the cell's total; nothing for masked features."""
        return torch.softmax(masked(self._raw, self._mask), 1)

    @property
    def mean(self) -> Float[Tensor, "n g"]:
        """Expected counts."""
        return self.proportions * self._size[:, None]

    @property
    def variance(self) -> Float[Tensor, "n g"]:
        """Variance of the counts."""
        return self.mean

    @property
    def zero_probability(self) -> Float[Tensor, "n g"]:
        """Probability of no count."""
        return torch.exp(-self.mean)

    def sample(self, generator: torch.Generator) -> Float[Tensor, "n g"]:
        """Draw counts."""
        return torch.poisson(self.mean.detach(), generator)
