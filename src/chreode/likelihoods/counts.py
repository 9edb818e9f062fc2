"""Likelihoods of counts: negative binomial, and its zero-inflated form."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from chreode.axes import Bool, Float, Tensor
from chreode.errors import InputError
from chreode.likelihoods.closed import score_negative_binomial, score_zero_inflated
from chreode.likelihoods.compiled import compiled_for
from chreode.likelihoods.sparse import NonZeros, centre, known, log_prob, masked

if TYPE_CHECKING:
    from chreode.cells import Measured

__all__ = [
    "NegativeBinomial",
    "NegativeBinomialCounts",
    "ZeroInflatedCounts",
    "ZeroInflatedNegativeBinomial",
]

_LOG_THETA = 20.0


class NegativeBinomial(nn.Module):
    r"""Counts that vary more than Poisson's, with one inverse dispersion a feature.

    .. math::
        x_{ij} \sim \mathrm{NB}(\mu_{ij}, \theta_j), \qquad
        \mu_{ij} = s_i\,\mathrm{softmax}(\mathrm{raw}_i)_j, \qquad
        \mathrm{Var}\,x_{ij} = \mu_{ij} + \mu_{ij}^2/\theta_j

    Parameters
    ----------
    n_features
        Features ``g``.
    init
        Inverse dispersion at the start, positive: one number or ``g``.
    floor
        Smallest inverse dispersion, below ``init``: ``theta = floor + exp(log_theta)``.

    Raises
    ------
    InputError
        When ``floor`` is negative or not below ``init``.

    Notes
    -----
    ``log_theta`` is clamped to [-20, 20]. The published DGD uses ``floor=1``, which allows no variance
    above :math:`\mu + \mu^2`; its samplers draw from another distribution, this one does not.

    References
    ----------
    Schuster and Krogh, scDGD. https://doi.org/10.1093/bioinformatics/btad497

    Examples
    --------
    >>> import torch
    >>> head = NegativeBinomial(2, init=2.0)
    >>> observed = head(torch.zeros(1, 2), torch.tensor([4.0]), None)
    >>> observed.variance
    tensor([[4., 4.]], grad_fn=<...>)
    >>> observed.log_prob(torch.tensor([[1.0, 3.0]]))
    tensor([-3.4657], grad_fn=<...>)
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"counts", "binary"})
    outputs: ClassVar[int] = 1

    def __init__(self, n_features: int, *, init: float | Tensor = 2.0, floor: float = 0.0) -> None:
        super().__init__()
        self.n_features = n_features
        self.floor = floor
        self.log_theta = nn.Parameter(_log_theta(n_features, init, floor))

    @property
    def theta(self) -> Float[Tensor, " g"]:
        """Inverse dispersion of each feature."""
        return _dispersion(self.log_theta, self.floor).exp()

    def forward(
        self, raw: Float[Tensor, "n g"], size: Float[Tensor, " n"], mask: Bool[Tensor, "n g"] | None
    ) -> NegativeBinomialCounts:
        """The distribution for some decoder outputs."""
        return NegativeBinomialCounts(raw, known(size), mask, _dispersion(self.log_theta, self.floor))

    def centre(self, bias: Float[Tensor, " g"], total: Float[Tensor, " g"], n_cells: int) -> None:
        """Set output biases, in place, to the mean profile of ``n_cells`` cells with these totals."""
        centre(bias, total)

    @torch.no_grad()
    def information(self, mean: Float[Tensor, " g"]) -> Float[Tensor, " g"]:
        """Fisher information of a cell about each output, where the decoder gives this mean."""
        return mean / (1 + mean / self.theta.to(mean))


class ZeroInflatedNegativeBinomial(nn.Module):
    r"""A negative binomial some of whose counts were lost.

    .. math::
        P(x_{ij}) = \pi_{ij}\,[x_{ij}=0] + (1-\pi_{ij})\,\mathrm{NB}(x_{ij};\, \mu_{ij}, \theta_j), \qquad
        \pi_{ij} = \mathrm{sigmoid}(d_{ij})

    The raw outputs are two blocks of ``g``: logits of the proportions, then dropout logits :math:`d`.

    Parameters
    ----------
    n_features
        Features ``g``.
    init
        Inverse dispersion at the start, positive: one number or ``g``.
    floor
        Smallest inverse dispersion, below ``init``.

    Raises
    ------
    InputError
        When ``floor`` is negative or not below ``init``.

    References
    ----------
    Lopez et al., scVI. https://doi.org/10.1038/s41592-018-0229-2

    Examples
    --------
    >>> import torch
    >>> head = ZeroInflatedNegativeBinomial(2)
    >>> observed = head(torch.zeros(1, 4), torch.tensor([4.0]), None)
    >>> observed.mean, observed.zero_probability
    (tensor([[1., 1.]]), tensor([[0.6250, 0.6250]], grad_fn=<...>))
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"counts", "binary"})
    outputs: ClassVar[int] = 2
    cite: ClassVar[tuple[str, ...]] = ("scvi",)

    def __init__(self, n_features: int, *, init: float | Tensor = 2.0, floor: float = 0.0) -> None:
        super().__init__()
        self.n_features = n_features
        self.floor = floor
        self.log_theta = nn.Parameter(_log_theta(n_features, init, floor))

    @property
    def theta(self) -> Float[Tensor, " g"]:
        """Inverse dispersion of each feature."""
        return _dispersion(self.log_theta, self.floor).exp()

    def forward(
        self, raw: Float[Tensor, "n gg"], size: Float[Tensor, " n"], mask: Bool[Tensor, "n g"] | None
    ) -> ZeroInflatedCounts:
        """The distribution for some decoder outputs."""
        return ZeroInflatedCounts(raw, known(size), mask, _dispersion(self.log_theta, self.floor))

    def centre(self, bias: Float[Tensor, " g"], total: Float[Tensor, " g"], n_cells: int) -> None:
        """Set output biases, in place, to the mean profile of ``n_cells`` cells with these totals."""
        centre(bias, total)

    @torch.no_grad()
    def information(self, mean: Float[Tensor, " g"]) -> Float[Tensor, " 2*g"]:
        """Fisher information of a cell about each output, at this mean and when half is dropped."""
        return torch.cat([mean / (1 + mean / self.theta.to(mean)), torch.full_like(mean, 0.25)])


class NegativeBinomialCounts:
    """What `NegativeBinomial` returns: the distribution of counts in some cells."""

    __slots__ = ("_log_theta", "_mask", "_raw", "_size")

    def __init__(self, raw: Tensor, size: Tensor, mask: Tensor | None, log_theta: Tensor) -> None:
        self._raw, self._size, self._mask = raw, size.to(raw.dtype), mask
        self._log_theta = log_theta.to(raw.dtype)

    def log_prob(self, measured: Measured) -> Float[Tensor, " n"]:
        """Log probability of each cell's counts, in nats."""
        return self._scored(measured, self._size, free=False)

    @property
    def raw(self) -> Float[Tensor, "n g"]:
        """The decoder's outputs."""
        return self._raw

    def slope(self, measured: Measured) -> Float[Tensor, "n g"]:
        r"""Gradient of `log_prob` to the outputs, as something to differentiate.

        With :math:`e = (x - \mu) / (1 + \mu/\theta)`, that to :math:`\log\mu`, it is
        :math:`e - \rho \sum e`.
        """
        by_mean = self._by_mean(measured)
        return by_mean - self.proportions * by_mean.sum(1, keepdim=True)

    def _by_mean(self, measured: Measured) -> Float[Tensor, "n g"]:
        entries = NonZeros.of(measured, mask=self._mask, like=self._raw)
        mean = self.mean
        less = 1 / (1 + mean / self._log_theta.exp())
        return entries.added(-mean * less, entries.value * less.reshape(-1)[entries.flat])

    def _scored(self, measured: Measured, size: Tensor, *, free: bool) -> Float[Tensor, " n"]:
        entries = NonZeros.of(measured, mask=self._mask, like=self._raw)
        fused = compiled_for(self._raw)
        way = fused.score_negative_binomial if fused else score_negative_binomial
        return log_prob(partial(way, entries, self._mask, free=free), self._raw, size, self._log_theta)

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
        mean = self.mean
        return mean + mean * (mean / self._log_theta.exp())

    @property
    def zero_probability(self) -> Float[Tensor, "n g"]:
        """Probability of no count."""
        return _log_zero(self.mean, self._log_theta).exp()

    def sample(self, generator: torch.Generator) -> Float[Tensor, "n g"]:
        """Draw counts: Poisson about a gamma rate."""
        return _draw(self.mean, self._log_theta, generator)


class ZeroInflatedCounts:
    """What `ZeroInflatedNegativeBinomial` returns: the distribution of counts in some cells."""

    __slots__ = ("_dropout", "_log_theta", "_mask", "_raw", "_size")

    def __init__(self, raw: Tensor, size: Tensor, mask: Tensor | None, log_theta: Tensor) -> None:
        self._raw, self._size, self._mask = raw, size.to(raw.dtype), mask
        self._log_theta = log_theta.to(raw.dtype)
        self._dropout = raw[:, len(log_theta) :]

    def log_prob(self, measured: Measured) -> Float[Tensor, " n"]:
        """Log probability of each cell's counts, in nats."""
        entries = NonZeros.of(measured, mask=self._mask, like=self._dropout)
        fused = compiled_for(self._raw, "fused_inflated")
        way = fused.score_zero_inflated if fused else score_zero_inflated
        return log_prob(partial(way, entries, self._mask), self._raw, self._size, self._log_theta)

    @property
    def _kept(self) -> Float[Tensor, "n g"]:
        logits = self._raw[:, : len(self._log_theta)]
        return torch.softmax(masked(logits, self._mask), 1) * self._size[:, None]

    @property
    def proportions(self) -> Float[Tensor, "n g"]:
        """Expected share of the cell's total, after dropout; nothing for masked features."""
        kept = torch.softmax(masked(self._raw[:, : len(self._log_theta)], self._mask), 1)
        kept = kept * torch.sigmoid(-self._dropout)
        return kept / kept.sum(1, keepdim=True).clamp_min(torch.finfo(kept.dtype).tiny)

    @property
    def mean(self) -> Float[Tensor, "n g"]:
        """Expected counts, after dropout."""
        return self._kept * torch.sigmoid(-self._dropout)

    @property
    def variance(self) -> Float[Tensor, "n g"]:
        """Variance of the counts."""
        kept = self._kept
        inner = 1 + kept / self._log_theta.exp() + kept * torch.sigmoid(self._dropout)
        return torch.sigmoid(-self._dropout) * kept * inner

    @property
    def zero_probability(self) -> Float[Tensor, "n g"]:
        """Probability of no count, lost or never there."""
        lost = torch.sigmoid(self._dropout)
        return lost + torch.sigmoid(-self._dropout) * _log_zero(self._kept, self._log_theta).exp()

    def sample(self, generator: torch.Generator) -> Float[Tensor, "n g"]:
        """Draw counts, then lose some."""
        counts = _draw(self._kept, self._log_theta, generator)
        lost = torch.rand(counts.shape, generator=generator, dtype=counts.dtype, device=counts.device)
        return counts.masked_fill_(lost < torch.sigmoid(self._dropout.detach()), 0)


def _log_theta(n_features: int, init: float | Tensor, floor: float) -> Tensor:
    start = torch.as_tensor(init, dtype=torch.get_default_dtype()).expand(n_features)
    if floor < 0 or not bool((start > floor).all()):
        msg = (
            f"Expected an inverse dispersion init > floor >= 0; found init={float(start.min()):g} and "
            f"floor={floor:g}. Raise init or lower floor."
        )
        raise InputError(msg)
    return (start - floor).log()


def _dispersion(log_theta: Tensor, floor: float) -> Tensor:
    log_theta = log_theta.clamp(-_LOG_THETA, _LOG_THETA)
    return (floor + log_theta.exp()).log() if floor else log_theta


def _log_zero(mean: Tensor, log_theta: Tensor) -> Tensor:
    theta = log_theta.exp()
    return -theta * torch.log1p(mean / theta)


def _draw(mean: Tensor, log_theta: Tensor, generator: torch.Generator) -> Tensor:
    theta = log_theta.detach().exp()
    rate = torch._standard_gamma(  # pyright: ignore[reportPrivateImportUsage]
        theta.expand_as(mean).contiguous(), generator
    )
    return torch.poisson(rate.mul_(mean.detach() / theta), generator)
