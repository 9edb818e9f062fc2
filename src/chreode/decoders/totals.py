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

# Of expectation-maximisation, at most.
_ROUNDS = 500

Batch = tuple[dict[str, Tensor], Tensor]


class Totals(nn.Module):
    r"""Totals of all modalities, jointly log-normal given a cell's code.

    .. math:: \log s_{im} = a_m + w_m^\top h_{im} + \epsilon_{im}, \qquad \epsilon_i \sim N(0, \Sigma)

    with :math:`h_{im}` the modality's last hidden units. A likelihood is given the total :math:`s_{im}`; this
    says what to expect of it in a cell that was not measured in the modality: the conditional mean of
    :math:`\log s_{im}` given the totals of the cell's other modalities, whichever it has. It is fitted after
    everything else, by ridge regression whose shrinkage minimises generalised cross-validation, and moves
    neither codes nor weights; :math:`\Sigma` by expectation-maximisation over what cells lack.

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
        """The total to expect of a modality (its median), given the code and the totals of the cell's others.

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
        several = range(len(self.modalities))
        sums = [_zeros(len(self._weight(m)) + 2, like=self.intercept) for m in several]
        for units, logs in batches():
            for m, name in enumerate(self.modalities):
                sums[m] += _moments(units[name], logs[:, m])
        for m in several:
            weight, self.intercept[m] = _ridge(total(sums[m]))
            self._weight(m).copy_(weight)
        # One place for each way of lacking modalities.
        products = _zeros(len(several), like=self.intercept).repeat(2 ** len(several), 1, 1)
        number = products[:, 0, 0].clone()
        power = 2 ** torch.arange(len(several), device=number.device)
        for units, logs in batches():
            rest = (logs - self._usual(units)).double()
            pattern = ((~rest.isnan()) * power).sum(1)
            rest = rest.nan_to_num()
            products.index_add_(0, pattern, rest[:, :, None] * rest[:, None])
            number += torch.bincount(pattern, minlength=len(number))
        self.covariance.copy_(_covariance(total(products), total(number)))
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
        # Sizes unknown: of what is expected only ratios are used.
        size = {m: torch.full_like(value, torch.nan) for m, value in cells.size.items()}
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


def _zeros(width: int, *, like: Tensor) -> Float[Tensor, "w w"]:
    return torch.zeros(width, width, dtype=torch.float64, device=like.device)


def _moments(x: Float[Tensor, "n w"], y: Float[Tensor, " n"]) -> Float[Tensor, "w2 w2"]:
    """Sums of products of hidden units, 1 and what is to be told, over the cells that were measured."""
    there = ~y.isnan()
    z = torch.cat([x[there], torch.ones_like(y[there, None]), y[there, None]], 1).double()
    return z.T @ z


def _ridge(sums: Float[Tensor, "w2 w2"]) -> tuple[Float[Tensor, " w"], Float[Tensor, ""]]:
    """Weights and intercept from `_moments`, with the least generalised cross-validation.

    Freedom is charged 1.4 times, so that units as many as cells do not pass for knowledge.
    """
    number = sums[-2, -2].clamp_min(1)
    mean = sums[:, -2] / number
    centred = sums - number * mean[:, None] * mean
    power, axes = torch.linalg.eigh(centred[:-2, :-2])
    power, along = power.clamp_min(0), axes.T @ centred[:-2, -1]
    ridge = _RIDGE.to(sums.device)[:, None] * power.mean().clamp_min(1e-12)
    coordinates = along / (power + ridge)
    left = centred[-1, -1] - (coordinates * (2 * along - coordinates * power)).sum(1)
    spare = number - 1.4 * (1 + (power / (power + ridge)).sum(1))
    score = torch.where(spare > 0, left.clamp_min(0) / spare**2, torch.inf)
    best = score.argmin() if bool((spare > 0).any()) else -1
    weight = axes @ coordinates[best]
    return weight, mean[-1] - weight @ mean[:-2]


def _covariance(products: Float[Tensor, "p m m"], number: Float[Tensor, " p"]) -> Float[Tensor, "m m"]:
    """The most likely covariance of normal residuals, by expectation-maximisation over what cells lack.

    Parameters
    ----------
    products
        For each pattern of what was measured (a bit a modality), the sum of the products of residuals.
    number
        How many cells have it.
    """
    several = products.shape[1]
    bits = torch.arange(len(number), device=number.device)[:, None] >> torch.arange(several).to(number.device)
    known = (bits & 1).bool()
    seen = (number[:, None] * known).sum(0).clamp_min(1)
    least = 1e-6
    found = torch.diag((products.sum(0).diagonal() / seen).clamp_min(least))
    patterns = [p for p in range(1, len(number)) if number[p] > 0]
    for _ in range(_ROUNDS if patterns else 0):
        expected = torch.zeros_like(found)
        for p in patterns:
            o, u = known[p].nonzero().squeeze(1), (~known[p]).nonzero().squeeze(1)
            gain = torch.linalg.solve(found[o][:, o], found[o][:, u]).T
            both = torch.zeros_like(found)
            inside = products[p][o][:, o]
            both[o[:, None], o] = inside
            both[u[:, None], o] = gain @ inside
            both[o[:, None], u] = both[u[:, None], o].T
            both[u[:, None], u] = gain @ inside @ gain.T + number[p] * (
                found[u][:, u] - gain @ found[o][:, u]
            )
            expected += both
        before, found = found, expected / number[1:].sum()
        found = found + least * torch.eye(several).to(found)
        if (found - before).abs().max() < 1e-6 * found.abs().max():
            break
    return found
