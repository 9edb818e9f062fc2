"""Likelihood of open and closed peaks, given how many were found open in the cell."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from chreode.axes import Bool, Float, Tensor
from chreode.likelihoods.binary import BernoulliValues
from chreode.likelihoods.sparse import of_panel

__all__ = ["Accessibility"]

# Far below one molecule: the logarithm stays finite where a cell has no ones at all.
_LEAST = 1e-20


class Accessibility(nn.Module):
    r"""Zeros and ones whose odds grow with the number of ones that were found in the cell.

    .. math:: x_{ij} \sim \mathrm{Bernoulli}(p_{ij}), \qquad
              \mathrm{logit}\,p_{ij} = \mathrm{raw}_{ij} + \log \frac{s_i}{\sum_{j \in \mathrm{panel}} f_j}

    with :math:`s_i` the ones of the cell and :math:`f_j` how frequent ones of feature j were when training
    began. A cell of average depth has the logits ``raw``. Unlike a softmax the logits are free: more peaks
    may be open without others closing. A size that is not known (nan) counts as the average.

    Parameters
    ----------
    n_features
        Features ``g``.

    Notes
    -----
    Depth is observed here as for counts. PeakVI and MultiVI learn a factor for each cell instead
    (doi:10.1016/j.crmeth.2022.100182).

    Examples
    --------
    >>> import torch
    >>> head = Accessibility(2)
    >>> head(torch.zeros(1, 2), torch.tensor([3.0]), None).mean
    tensor([[0.7500, 0.7500]])
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"binary"})
    outputs: ClassVar[int] = 1
    frequency: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.register_buffer("frequency", torch.full((n_features,), 0.5))

    def forward(
        self, raw: Float[Tensor, "n g"], size: Float[Tensor, " n"], mask: Bool[Tensor, "n g"] | None
    ) -> BernoulliValues:
        """The distribution for some decoder outputs."""
        usual = of_panel(self.frequency, mask)
        depth = torch.where(size.isnan(), 1.0, size / usual.clamp_min(_LEAST))
        return BernoulliValues(raw, mask, depth.clamp_min(_LEAST).log())

    def centre(self, bias: Float[Tensor, " g"], total: Float[Tensor, " g"], n_cells: int) -> None:
        """Set output biases, in place, to the frequency of ones among ``n_cells`` cells with these totals."""
        # Half a cell on either side, so that features never or always seen keep a finite logit.
        self.frequency.copy_((total + 0.5) / (n_cells + 1))
        bias.copy_(torch.logit(self.frequency))

    @torch.no_grad()
    def information(self, mean: Float[Tensor, " g"]) -> Float[Tensor, " g"]:
        """Fisher information of a cell about each output, where the decoder gives this mean."""
        return mean * (1 - mean)
