"""Likelihood of protein counts: what an antibody left behind everywhere, or what it found on the cell."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from chreode.axes import Bool, Float, Tensor
from chreode.likelihoods.counts import _draw, _log_theta
from chreode.likelihoods.sparse import NonZeros

if TYPE_CHECKING:
    from chreode.cells import Measured

__all__ = ["ProteinCounts", "ProteinMixture"]

_LOG_THETA = 20.0
_LEAST = 1e-4  # standard deviation of a background
_ROUNDS = 100  # of expectation-maximisation, where the mixture starts


class ProteinMixture(nn.Module):
    r"""Counts of a protein that is either background or foreground, with one inverse dispersion a protein.

    .. math::
        y_{ij} \sim \pi_{ij}\,\mathrm{NB}(\beta_{ij}, \theta_j)
        + (1 - \pi_{ij})\,\mathrm{NB}\big(\beta_{ij} (1 + \alpha_{ij}), \theta_j\big), \qquad
        \log \beta_{ij} \sim N(m_{ij}, v_{ij}^2)

    The raw outputs are four blocks of ``g``: the background's :math:`m`, the logarithm of the rise
    :math:`\alpha`, the logit of :math:`\pi`, and what gives :math:`v = \mathrm{softplus} + 10^{-4}`. In
    training a background is drawn for each cell and protein; otherwise it is at its median :math:`e^m`. The
    cell's size plays no part: how much antibody a cell binds is for the code to say.

    A background is learned as the posterior of a latent variable, whose prior
    :math:`\log \beta_{ij} \sim N(c_j, d_j^2)` it must not leave without need: see
    `ProteinCounts.divergence`, which belongs into the objective.

    Parameters
    ----------
    n_features
        Proteins ``g``.
    init
        Inverse dispersion at the start, positive: one number or ``g``.

    Raises
    ------
    InputError
        When ``init`` is not positive.

    Notes
    -----
    Computed in float64 where the device has it: proteins are few.

    totalVI's rise is a rectified unit, here it is an exponential, so that no protein's foreground is ever
    without gradient.

    References
    ----------
    Gayoso et al. (2021), totalVI. https://doi.org/10.1038/s41592-020-01050-x

    Examples
    --------
    >>> import torch
    >>> head = ProteinMixture(1).eval()
    >>> raw = torch.tensor([[1.0, 2.0, 0.0, 0.0]])
    >>> observed = head(raw, torch.ones(1), None)
    >>> observed.mean, observed.foreground_mean
    (tensor([[12.7611]]), tensor([[11.4019]]))
    >>> observed.log_prob(torch.tensor([[3.0]]))
    tensor([-2.5406], grad_fn=<...>)
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"counts", "binary"})
    outputs: ClassVar[int] = 4
    cite: ClassVar[tuple[str, ...]] = ("totalvi",)

    def __init__(self, n_features: int, *, init: float | Tensor = 2.0) -> None:
        super().__init__()
        self.n_features = n_features
        self.log_theta = nn.Parameter(_log_theta(n_features, init, 0.0))
        self.background_mean = nn.Parameter(torch.zeros(n_features))
        self.background_log_scale = nn.Parameter(torch.zeros(n_features))

    @property
    def theta(self) -> Float[Tensor, " g"]:
        """Inverse dispersion of each protein."""
        return self.log_theta.clamp(-_LOG_THETA, _LOG_THETA).exp()

    def forward(
        self, raw: Float[Tensor, "n gggg"], size: Float[Tensor, " n"], mask: Bool[Tensor, "n g"] | None
    ) -> ProteinCounts:
        """The distribution for some decoder outputs."""
        median, rise, mixing, spread = raw.chunk(4, dim=1)
        scale = F.softplus(spread) + _LEAST
        log_background = median + scale * torch.randn_like(scale) if self.training else median
        background = median, scale, self.background_mean, self.background_log_scale
        how = {"theta": self.theta, "mask": mask, "background": background}
        return ProteinCounts(log_background, rise, mixing, **how)

    def centre(self, bias: Float[Tensor, " g"], total: Float[Tensor, " g"], n_cells: int) -> None:
        """Set the background's output biases, in place, to the means of ``n_cells`` cells with these totals.

        `start` places both parts of the mixture, from the counts themselves.
        """
        bias.copy_(((total + 0.5) / max(n_cells, 1)).log())

    @torch.no_grad()
    def start(self, bias: Float[Tensor, " gggg"], counts: Float[Tensor, "n g"], there: Tensor) -> None:
        """Start from a mixture of two normals on each protein's log counts.

        Parameters
        ----------
        bias
            Output biases of all four blocks, which are set in place.
        counts
            Of some cells.
        there
            Where they were measured, ``n x g`` or ``n x 1``.
        """
        logged = (counts.double() + 0.5).log()
        low, high, spread, share = two_normals(logged, there.expand(logged.shape))
        g = self.n_features
        bias[:g] = low
        bias[g : 2 * g] = torch.expm1((high - low).clamp_min(0.5)).log()
        bias[2 * g : 3 * g] = torch.logit(share.clamp(0.05, 0.95))
        # Half of the width is the background's, the rest that of the counts.
        scale = (0.5 * spread).clamp(0.05, 1.0)
        bias[3 * g :] = torch.expm1(scale).log()
        self.log_theta.copy_(-(spread.square() - scale.square()).clamp(1e-2, 10.0).log())
        self.background_mean.copy_(low)
        self.background_log_scale.copy_(scale.log())


class ProteinCounts:
    """What `ProteinMixture` returns: the distribution of protein counts in some cells.

    A mask leaves proteins out of `log_prob`; predictions are given for them too. ``background`` is median and
    width of the posterior of its logarithm, mean and log width of the prior.
    """

    __slots__ = ("_background", "_log_background", "_mask", "_mixing", "_rise", "_theta")

    def __init__(
        self,
        log_background: Float[Tensor, "n g"],
        rise: Float[Tensor, "n g"],
        mixing: Float[Tensor, "n g"],
        *,
        theta: Float[Tensor, " g"],
        mask: Bool[Tensor, "n g"] | None,
        background: tuple[Tensor, Tensor, Tensor, Tensor],
    ) -> None:
        self._log_background, self._rise, self._mixing = log_background, rise, mixing
        self._theta, self._mask, self._background = theta, mask, background

    def log_prob(self, measured: Measured) -> Float[Tensor, " n"]:
        """Log probability of each cell's counts, in nats."""
        entries = NonZeros.of(measured, mask=self._mask, like=self._mixing)
        wide = torch.float32 if self._mixing.device.type == "mps" else torch.float64
        x = torch.zeros(entries.shape, dtype=wide, device=self._mixing.device)
        entries.add_to(x, entries.value.to(wide))
        theta = self._theta.to(wide)
        low = self._log_background.to(wide)
        mixing = self._mixing.to(wide)
        high = low + F.softplus(self._rise.to(wide))
        parts = F.logsigmoid(mixing) + _part(x, low, theta), F.logsigmoid(-mixing) + _part(x, high, theta)
        value = torch.logaddexp(*parts) + torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
        if self._mask is not None:
            value = torch.where(self._mask, value, 0.0)
        return value.sum(1).to(self._mixing.dtype)

    def thinned(self, share: float) -> ProteinCounts:
        """The distribution of a binomial share of the counts."""
        how = {"theta": self._theta, "mask": self._mask, "background": self._background}
        return ProteinCounts(self._log_background + math.log(share), self._rise, self._mixing, **how)

    def divergence(self, shift: Float[Tensor, "n g"] | None = None) -> Float[Tensor, " n"]:
        r"""How far the backgrounds of each cell's measured proteins are from their prior, in nats.

        .. math:: \sum_j \mathrm{KL}\big(N(m_{ij}, v_{ij}^2)\,\|\,N(c_j + o_{ij}, d_j^2)\big)

        Parameters
        ----------
        shift
            :math:`o`, by which the priors of the cell's batch differ; None for one prior for all.
        """
        median, scale, mean, log_scale = self._background
        away = median - mean if shift is None else median - mean - shift
        ratio = (scale.square() + away.square()) * (-2 * log_scale).exp()
        value = log_scale - scale.log() + 0.5 * (ratio - 1)
        if self._mask is not None:
            value = value * self._mask
        return value.sum(1)

    @property
    def foreground_probability(self) -> Float[Tensor, "n g"]:
        r"""Probability :math:`1 - \pi` that what is counted is foreground."""
        return torch.sigmoid(-self._mixing)

    @property
    def background_mean(self) -> Float[Tensor, "n g"]:
        r"""Expected counts of a background, :math:`\beta`."""
        return self._log_background.exp()

    @property
    def foreground_mean(self) -> Float[Tensor, "n g"]:
        r"""Expected counts without background: :math:`(1 - \pi) \beta (1 + \alpha)`."""
        return self.foreground_probability * self._high

    @property
    def _high(self) -> Float[Tensor, "n g"]:
        return (self._log_background + F.softplus(self._rise)).exp()

    @property
    def mean(self) -> Float[Tensor, "n g"]:
        """Expected counts."""
        return torch.sigmoid(self._mixing) * self.background_mean + self.foreground_mean

    @property
    def proportions(self) -> Float[Tensor, "n g"]:
        """Expected share of the cell's total; nothing for masked proteins."""
        mean = self.mean if self._mask is None else self.mean * self._mask
        return mean / mean.sum(1, keepdim=True).clamp_min(torch.finfo(mean.dtype).tiny)

    @property
    def variance(self) -> Float[Tensor, "n g"]:
        """Variance of the counts."""
        low, high, back = self.background_mean, self._high, torch.sigmoid(self._mixing)
        within = back * (low + low.square() / self._theta) + (1 - back) * (high + high.square() / self._theta)
        return within + back * (1 - back) * (high - low).square()

    @property
    def zero_probability(self) -> Float[Tensor, "n g"]:
        """Probability of no count."""
        low, high = (
            (-self._theta * torch.log1p(mu / self._theta)).exp() for mu in (self.background_mean, self._high)
        )
        return torch.sigmoid(self._mixing) * low + self.foreground_probability * high

    def sample(self, generator: torch.Generator) -> Float[Tensor, "n g"]:
        """Draw counts: of the background or the foreground."""
        back = torch.bernoulli(torch.sigmoid(self._mixing.detach()), generator=generator)
        mean = torch.where(back > 0, self.background_mean, self._high)
        return _draw(mean, self._theta.log(), generator)


def _part(x: Tensor, log_mu: Tensor, theta: Tensor) -> Tensor:
    """What a negative binomial's log probability takes from its mean."""
    mu = log_mu.exp()
    return x * (log_mu - (theta + mu).log()) - theta * torch.log1p(mu / theta)


def two_normals(values: Float[Tensor, "n g"], there: Bool[Tensor, "n g"]) -> tuple[Tensor, ...]:
    """Each column as a mixture of two normals of one width, by expectation-maximisation from its quartiles.

    Returns
    -------
    Lower and upper means, the width, and the share of the lower, ``g`` each.
    """
    known = there.to(values)
    number = known.sum(0).clamp_min(1)
    hidden = values.masked_fill(~there, torch.nan)
    low, high = (torch.nanquantile(hidden, q, dim=0).nan_to_num(0.0) for q in (0.25, 0.9))
    mean = (values * known).sum(0) / number
    variance = ((values - mean).square() * known).sum(0) / number + 1e-2
    share = torch.full_like(mean, 0.5)
    for _ in range(_ROUNDS):
        near = [(values - m).square() / (-2 * variance) for m in (low, high)]
        of_low = torch.sigmoid(near[0] - near[1] + torch.logit(share)) * known
        many = of_low.sum(0)
        low = (of_low * values).sum(0) / many.clamp_min(1)
        high = ((known - of_low) * values).sum(0) / (number - many).clamp_min(1)
        spread = of_low * (values - low).square() + (known - of_low) * (values - high).square()
        variance = spread.sum(0) / number + 1e-2
        share = (many / number).clamp(0.02, 0.98)
    return low, torch.maximum(low, high), variance.sqrt(), share
