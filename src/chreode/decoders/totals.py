"""How many molecules, or ones, a cell has in a modality: from its code and from what its others have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from chreode.axes import Float, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from chreode.cells import Cells

__all__ = ["Totals", "log_totals"]

# Shrinkages that are tried, in units of the mean variance of the hidden units.
_RIDGE = torch.logspace(-5, 1, 25, dtype=torch.float64)

Batch = tuple[dict[str, Tensor], Tensor]


class Totals(nn.Module):
    r"""Totals of all modalities, jointly log-normal given a cell's code.

    .. math:: \log s_{im} = a_m + w_m^\top h_{im} + \epsilon_{im}, \qquad \epsilon_i \sim N(0, \Sigma)

    with :math:`h_{im}` the modality's last hidden units. A likelihood is given the total :math:`s_{im}`; this
    says what to expect of it in a cell that was not measured in the modality: the conditional mean of
    :math:`\log s_{im}` given the totals of the cell's other modalities, whichever it has. It is fitted after
    everything else, by ridge regression whose shrinkage minimises generalised cross-validation, and moves
    neither codes nor weights.

    Parameters
    ----------
    widths
        Number of hidden units by modality.

    Examples
    --------
    >>> import torch
    >>> units = torch.linspace(-1, 1, 50)[:, None]
    >>> totals = Totals({"rna": 1, "prot": 1})
    >>> batch = {"rna": units, "prot": units}, torch.cat([5 - units, 3 + 2 * units], 1)
    >>> totals.learn(lambda: [batch])
    >>> units = {"rna": units[-1:], "prot": units[-1:]}
    >>> round(float(totals(units, torch.tensor([[4.0, torch.nan]]), "prot").log()))
    5
    """

    intercept: Tensor
    covariance: Tensor
    learned: Tensor

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.modalities = list(widths)
        for i, width in enumerate(widths.values()):
            self.register_buffer(f"weight_{i}", torch.zeros(width))
        self.register_buffer("intercept", torch.zeros(len(widths)))
        self.register_buffer("covariance", torch.zeros(len(widths), len(widths)))
        self.register_buffer("learned", torch.tensor(False))

    def forward(
        self, units: Mapping[str, Float[Tensor, "n w"]], logs: Float[Tensor, "n m"], modality: str
    ) -> Float[Tensor, " n"]:
        """The total to expect of a modality, given the code and the totals of the cell's others.

        Parameters
        ----------
        units
            Last hidden units of each modality.
        logs
            Logarithms of the cells' totals; nan where a cell was not measured.
        modality
            Its own total is not looked at.
        """
        at = self.modalities.index(modality)
        usual = self._usual(units)
        rest, expected = logs - usual, usual[:, at].clone()
        known = ~rest.isnan()
        known[:, at] = False
        for others in known.unique(dim=0):
            if others.any():
                rows = (known == others).all(1)
                gain = torch.linalg.solve(self.covariance[others][:, others], self.covariance[others, at])
                expected[rows] += rest[rows][:, others] @ gain
        return expected.exp()

    @torch.no_grad()
    def learn(
        self, batches: Callable[[], Iterable[Batch]], *, total: Callable[[Tensor], Tensor] = lambda v: v
    ) -> None:
        """Fit weights and covariance.

        Parameters
        ----------
        batches
            Called twice: pairs of hidden units and log totals, as of a call, of all cells in parts.
        total
            The sum of what every rank found with its own cells.
        """
        for m, name in enumerate(self.modalities):
            pairs = ((units[name], logs[:, m]) for units, logs in batches())
            weight, intercept = _ridge(total(_moments(pairs, self._weight(m))))
            self._weight(m).copy_(weight)
            self.intercept[m] = intercept
        products, number = torch.zeros(2, *self.covariance.shape).to(self.covariance).double()
        for units, logs in batches():
            rest = (logs - self._usual(units)).double()
            there = (~rest.isnan()).double()
            products += rest.nan_to_num().T @ rest.nan_to_num()
            number += there.T @ there
        self.covariance.copy_(_positive(total(products) / total(number).clamp_min(1)))
        self.learned.fill_(True)

    def _weight(self, m: int) -> Float[Tensor, " w"]:
        return self.get_buffer(f"weight_{m}")

    def _usual(self, units: Mapping[str, Tensor]) -> Float[Tensor, "n m"]:
        each = [units[name] @ self._weight(m) for m, name in enumerate(self.modalities)]
        return torch.stack(each, 1) + self.intercept


@torch.no_grad()
def log_totals(decoder: Any, codes: Mapping[str, Tensor], cells: Cells) -> Float[Tensor, "n m"]:
    """Logarithm of what each cell has in each modality; nan where it has nothing or was not measured.

    What a panel leaves out is added: in the share that the decoder expects of it.
    """
    kinds = {m: described.kind for m, described in cells.layout.modalities.items()}
    masks = {m: cells.mask(m) for m in kinds}
    expected = {}
    if any(mask is not None for mask in masks.values()):
        # The average depth, of which only ratios are used.
        size = {
            m: torch.full_like(s, torch.nan if kinds[m] == "binary" else 1) for m, s in cells.size.items()
        }
        expected = decoder(codes, cells.replace(size=size, panels={}, panel={}))
    logs: list[Tensor] = []
    for m, mask in masks.items():
        there = cells.present[m] & (cells.size[m] > 0) & (kinds[m] != "continuous")
        log = torch.where(there, cells.size[m], torch.nan).log()
        if mask is not None:
            mean = expected[m].mean
            log = log - ((mean * mask).sum(1) / mean.sum(1)).log()
        logs.append(log)
    return torch.stack(logs, 1)


def _moments(pairs: Iterable[tuple[Tensor, Tensor]], like: Tensor) -> Float[Tensor, "w2 w2"]:
    """Sums of products of hidden units, 1 and what is to be told, over the cells that were measured."""
    width = len(like)
    sums = torch.zeros(width + 2, width + 2, dtype=torch.float64, device=like.device)
    for x, y in pairs:
        there = ~y.isnan()
        z = torch.cat([x[there], torch.ones_like(y[there, None]), y[there, None]], 1).double()
        sums += z.T @ z
    return sums


def _ridge(sums: Float[Tensor, "w2 w2"]) -> tuple[Float[Tensor, " w"], Float[Tensor, ""]]:
    """Weights and intercept from `_moments`, with the least generalised cross-validation."""
    number = sums[-2, -2].clamp_min(1)
    mean = sums[:, -2] / number
    centred = sums - number * mean[:, None] * mean
    power, axes = torch.linalg.eigh(centred[:-2, :-2])
    power, along = power.clamp_min(0), axes.T @ centred[:-2, -1]
    ridge = _RIDGE.to(sums.device)[:, None] * power.mean().clamp_min(1e-12)
    coordinates = along / (power + ridge)
    left = centred[-1, -1] - (coordinates * (2 * along - coordinates * power)).sum(1)
    freedom = 1 + (power / (power + ridge)).sum(1)
    best = (left.clamp_min(0) / (number - freedom).clamp_min(1e-3) ** 2).argmin()
    weight = axes @ coordinates[best]
    return weight, mean[-1] - weight @ mean[:-2]


def _positive(covariance: Float[Tensor, "m m"]) -> Float[Tensor, "m m"]:
    """The same without directions of no variance, which pairs of modalities that never met can leave."""
    value, axes = torch.linalg.eigh((covariance + covariance.T) / 2)
    return (axes * value.clamp_min(1e-6 * value.max().clamp_min(1e-12))) @ axes.T
