"""A negative binomial without a softmax: no feature pays for another's rise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from chreode.axes import Bool, Float, Tensor
from chreode.likelihoods.counts import NegativeBinomial, NegativeBinomialCounts
from chreode.likelihoods.sparse import masked, of_panel

if TYPE_CHECKING:
    from chreode.cells import Measured

__all__ = ["FreeCounts", "FreeNegativeBinomial"]


class FreeNegativeBinomial(NegativeBinomial):
    r"""Counts whose features rise and fall by themselves: no softmax makes others pay for one.

    .. math::
        x_{ij} \sim \mathrm{NB}(\mu_{ij}, \theta_j), \qquad
        \mu_{ij} = s_i\,\frac{\exp(\mathrm{raw}_{ij})}{\sum_{j \in \mathrm{panel}} f_j}

    with :math:`f_j` the share of feature j when training began (until then 1), so that ``raw`` of the mean
    profile is its logarithm. The size :math:`s_i` is still the cell's total; what is expected need not add up
    to it.

    Parameters
    ----------
    n_features
        Features ``g``.
    init, floor
        As of `NegativeBinomial`.

    Examples
    --------
    >>> import torch
    >>> head = FreeNegativeBinomial(2)
    >>> head(torch.tensor([[-1.0, 0.0]]), torch.tensor([4.0]), None).mean
    tensor([[0.7358, 2.0000]])
    """

    frequency: Tensor

    def __init__(self, n_features: int, *, init: float | Tensor = 2.0, floor: float = 0.0) -> None:
        super().__init__(n_features, init=init, floor=floor)
        self.register_buffer("frequency", torch.ones(n_features))

    def forward(
        self, raw: Float[Tensor, "n g"], size: Float[Tensor, " n"], mask: Bool[Tensor, "n g"] | None
    ) -> FreeCounts:
        """The distribution for some decoder outputs."""
        usual = of_panel(self.frequency, mask)
        scale = size.to(raw.dtype).nan_to_num(1.0) / usual.clamp_min(torch.finfo(raw.dtype).tiny)
        return FreeCounts(raw, scale, mask, self.theta.log())

    def centre(self, bias: Float[Tensor, " g"], total: Float[Tensor, " g"], n_cells: int) -> None:
        """Set output biases, in place, to the mean profile of ``n_cells`` cells with these totals."""
        self.frequency.copy_((total + 0.5) / (total + 0.5).sum())
        bias.copy_(self.frequency.log())


class FreeCounts(NegativeBinomialCounts):
    """What `FreeNegativeBinomial` returns: the means are outputs' exponentials, times the size."""

    __slots__ = ()

    def log_prob(self, measured: Measured) -> Float[Tensor, " n"]:
        """Log probability of each cell's counts, in nats."""
        # In the size is what the softmax divides by, as a constant: outputs have gradients of their own.
        total = torch.logsumexp(masked(self._raw.detach(), self._mask), 1).exp()
        return self._scored(measured, self._size * total, free=True)

    def slope(self, measured: Measured) -> Float[Tensor, "n g"]:
        """Gradient of `log_prob` to the outputs, as something to differentiate."""
        return self._by_mean(measured)

    @property
    def mean(self) -> Float[Tensor, "n g"]:
        """Expected counts."""
        return masked(self._raw, self._mask).exp() * self._size[:, None]
