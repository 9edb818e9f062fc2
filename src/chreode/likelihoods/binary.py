"""Likelihood of binary values: open or closed, detected or not."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from chreode.axes import Bool, Float, Tensor
from chreode.likelihoods.compiled import compiled_for
from chreode.likelihoods.sparse import NonZeros, blocks, log_prob

if TYPE_CHECKING:
    from chreode.cells import Measured

__all__ = ["Bernoulli", "BernoulliValues"]


class Bernoulli(nn.Module):
    r"""Zeros and ones, each feature on its own; the cell's size plays no part.

    .. math:: x_{ij} \sim \mathrm{Bernoulli}(\mathrm{sigmoid}(\mathrm{raw}_{ij}))

    Parameters
    ----------
    n_features
        Features ``g``.

    Examples
    --------
    >>> import torch
    >>> observed = Bernoulli(2)(torch.zeros(1, 2), torch.ones(1), None)
    >>> observed.log_prob(torch.tensor([[0.0, 1.0]]))
    tensor([-1.3863])
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"binary"})
    outputs: ClassVar[int] = 1

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features

    def forward(
        self, raw: Float[Tensor, "n g"], size: Float[Tensor, " n"], mask: Bool[Tensor, "n g"] | None
    ) -> BernoulliValues:
        """The distribution for some decoder outputs."""
        return BernoulliValues(raw, mask, raw.new_zeros(len(raw)))

    def centre(self, bias: Float[Tensor, " g"], total: Float[Tensor, " g"], n_cells: int) -> None:
        """Set output biases, in place, to the frequency of ones among ``n_cells`` cells with these totals."""
        # Half a cell on either side, so that features never or always seen keep a finite logit.
        bias.copy_(torch.logit((total + 0.5) / (n_cells + 1)))

    @torch.no_grad()
    def information(self, mean: Float[Tensor, " g"]) -> Float[Tensor, " g"]:
        """Fisher information of a cell about each output, where the decoder gives this mean."""
        return mean * (1 - mean)


class BernoulliValues:
    """What `Bernoulli` returns: the distribution of zeros and ones in some cells.

    A mask leaves features out of `log_prob`; predictions are given for them too. ``shift`` is added to all
    logits of a cell.
    """

    __slots__ = ("_mask", "_raw", "_shift")

    def __init__(
        self, raw: Float[Tensor, "n g"], mask: Bool[Tensor, "n g"] | None, shift: Float[Tensor, " n"]
    ) -> None:
        self._raw, self._mask, self._shift = raw, mask, shift.to(raw.dtype)

    @property
    def _logits(self) -> Tensor:
        return self._raw + self._shift[:, None]

    def log_prob(self, measured: Measured) -> Float[Tensor, " n"]:
        """Log probability of each cell's values, in nats."""
        entries = NonZeros.of(measured, mask=self._mask, like=self._raw)
        fused = compiled_for(self._raw)
        way = fused.score_bernoulli if fused else _score
        return log_prob(partial(way, entries, self._mask), self._raw, self._shift)

    @property
    def raw(self) -> Float[Tensor, "n g"]:
        """The decoder's outputs."""
        return self._raw

    def slope(self, measured: Measured) -> Float[Tensor, "n g"]:
        """Gradient of `log_prob` to the outputs, as something to differentiate."""
        entries = NonZeros.of(measured, mask=self._mask, like=self._raw)
        mean = self.mean if self._mask is None else self.mean * self._mask
        return entries.added(-mean, entries.value)

    @property
    def mean(self) -> Float[Tensor, "n g"]:
        """Probability of a one."""
        return torch.sigmoid(self._logits)

    @property
    def proportions(self) -> Float[Tensor, "n g"]:
        """Probability of a one: the values share no total."""
        return self.mean

    @property
    def variance(self) -> Float[Tensor, "n g"]:
        """Variance of the values."""
        return self.mean * self.zero_probability

    @property
    def zero_probability(self) -> Float[Tensor, "n g"]:
        """Probability of a zero."""
        return torch.sigmoid(-self._logits)

    def sample(self, generator: torch.Generator) -> Float[Tensor, "n g"]:
        """Draw zeros and ones."""
        return torch.bernoulli(self.mean.detach(), generator=generator)


def _score(
    entries: NonZeros,
    mask: Tensor | None,
    inputs: tuple[Tensor, ...],
    wanted: tuple[bool, ...],
    weight: Tensor | None,
) -> tuple[Tensor, list[Tensor | None]]:
    """Dense part ``-softplus(raw + shift)``; at the non-zeros ``x (raw + shift)``."""
    raw, shift = inputs
    x = entries.value
    value = entries.sum_rows((entries.pick(raw) + entries.of_rows(shift)).mul_(x))
    gradient = torch.empty(raw.shape, dtype=raw.dtype, device=raw.device) if any(wanted) else None
    for rows, _ in blocks(raw):
        logits = raw[rows] + shift[rows, None]
        part = F.softplus(logits)
        value[rows] -= (part if mask is None else part.mul_(mask[rows])).sum(1)
        if gradient is not None:
            torch.sigmoid(logits, out=gradient[rows]).neg_()
            if mask is not None:
                gradient[rows].mul_(mask[rows])
    if gradient is None:
        return value, [None, None]
    entries.add_to(gradient, x)
    return value, [gradient, gradient.sum(1) if wanted[1] else None]
