"""Likelihood of continuous values."""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar

import torch
from torch import nn

from chreode.axes import Bool, Float, Tensor
from chreode.cells import CSR, Measured
from chreode.errors import InputError
from chreode.likelihoods.sparse import NonZeros, blocks, log_prob

__all__ = ["Normal", "NormalValues"]

_LOG_SCALE = 10.0


class Normal(nn.Module):
    r"""Values about the decoder's output, with one standard deviation a feature.

    .. math:: x_{ij} \sim \mathcal{N}(\mathrm{raw}_{ij}, \sigma_j^2)

    Parameters
    ----------
    n_features
        Features ``g``.
    scale
        Standard deviation (at the start, when it is learned), positive: one number or ``g``.
    learned
        Whether it is learned. Its logarithm is clamped to [-10, 10].

    Raises
    ------
    InputError
        When a standard deviation is not positive.

    Examples
    --------
    >>> import torch
    >>> observed = Normal(2)(torch.zeros(1, 2), torch.ones(1), None)
    >>> observed.log_prob(torch.tensor([[0.0, 1.0]]))
    tensor([-2.3379])
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"continuous", "counts", "binary"})
    outputs: ClassVar[int] = 1

    log_scale: Tensor

    def __init__(self, n_features: int, *, scale: float | Tensor = 1.0, learned: bool = False) -> None:
        super().__init__()
        self.n_features = n_features
        start = torch.as_tensor(scale, dtype=torch.get_default_dtype()).expand(n_features)
        if not bool((start > 0).all()):
            msg = (
                f"Expected positive standard deviations; found a smallest scale of {float(start.min()):g}. "
                "Give scale in the units of the data, above zero."
            )
            raise InputError(msg)
        if learned:
            self.log_scale = nn.Parameter(start.log())
        else:
            self.register_buffer("log_scale", start.log())

    @property
    def scale(self) -> Float[Tensor, " g"]:
        """Standard deviation of each feature."""
        return self.log_scale.clamp(-_LOG_SCALE, _LOG_SCALE).exp()

    def forward(
        self, raw: Float[Tensor, "n g"], size: Float[Tensor, " n"], mask: Bool[Tensor, "n g"] | None
    ) -> NormalValues:
        """The distribution for some decoder outputs."""
        return NormalValues(raw, mask, self.log_scale.clamp(-_LOG_SCALE, _LOG_SCALE))

    def centre(self, bias: Float[Tensor, " g"], total: Float[Tensor, " g"], n_cells: int) -> None:
        """Set output biases, in place, to the mean of ``n_cells`` cells with these totals."""
        bias.copy_(total / max(n_cells, 1))

    @torch.no_grad()
    def information(self, mean: Float[Tensor, " g"]) -> Float[Tensor, " g"]:
        """Fisher information of a cell about each output, where the decoder gives this mean."""
        return self.scale.to(mean) ** -2


class NormalValues:
    """What `Normal` returns: the distribution of values in some cells.

    A mask leaves features out of `log_prob`, whatever is stored for them; predictions are given for them
    too.
    """

    __slots__ = ("_log_scale", "_mask", "_ones", "_raw")

    def __init__(self, raw: Tensor, mask: Tensor | None, log_scale: Tensor) -> None:
        self._raw, self._ones, self._mask = raw, raw.new_ones(len(raw)), mask
        self._log_scale = log_scale.to(raw.dtype)

    def log_prob(self, measured: Measured) -> Float[Tensor, " n"]:
        """Log density of each cell's values, in nats."""
        if isinstance(measured, CSR):
            values = NonZeros.of(measured, mask=self._mask, like=self._raw)
        elif measured.shape == self._raw.shape:
            values = measured.to(self._raw.dtype)
        else:
            msg = (
                f"Expected values of {len(self._raw)} cells by {self._raw.shape[1]} features; found "
                f"{tuple(measured.shape)}. Score the cells this distribution was decoded for."
            )
            raise InputError(msg)
        return log_prob(partial(_score, values, self._mask), self._raw, self._ones, self._log_scale)

    @property
    def raw(self) -> Float[Tensor, "n g"]:
        """The decoder's outputs."""
        return self._raw

    def slope(self, measured: Measured) -> Float[Tensor, "n g"]:
        """Gradient of `log_prob` to the outputs, as something to differentiate."""
        if isinstance(measured, CSR):
            entries = NonZeros.of(measured, mask=self._mask, like=self._raw)
            residual = entries.added(-self._raw, entries.value)
        else:
            residual = measured.to(self._raw.dtype) - self._raw
        residual = residual if self._mask is None else residual.masked_fill(~self._mask, 0)
        return residual * (-2 * self._log_scale).exp()

    @property
    def mean(self) -> Float[Tensor, "n g"]:
        """Expected values."""
        return self._raw

    @property
    def proportions(self) -> Float[Tensor, "n g"]:
        """Expected values: they share no total."""
        return self._raw

    @property
    def variance(self) -> Float[Tensor, "n g"]:
        """Variance of the values."""
        return (2 * self._log_scale).exp().expand_as(self._raw)

    @property
    def zero_probability(self) -> Float[Tensor, "n g"]:
        """Zero: a single value of a continuous distribution has no probability."""
        return torch.zeros_like(self._raw)

    def sample(self, generator: torch.Generator) -> Float[Tensor, "n g"]:
        """Draw values."""
        raw = self._raw.detach()
        noise = torch.randn(raw.shape, generator=generator, dtype=raw.dtype, device=raw.device)
        return noise.mul_(self._log_scale.detach().exp()).add_(raw)


def _score(
    values: NonZeros | Tensor,
    mask: Tensor | None,
    inputs: tuple[Tensor, ...],
    wanted: tuple[bool, ...],
    weight: Tensor | None,
) -> tuple[Tensor, list[Tensor | None]]:
    """Score of `Normal`: with residuals ``e = x - raw``, ``-e^2/2s^2 - log s - log(2 pi)/2``.

    To the outputs ``e/s^2``, to log s ``e^2/s^2 - 1``. Residuals rather than ``x raw - raw^2/2``, which
    cancels where the fit is good.
    """
    raw, ones, log_scale = inputs
    if isinstance(values, NonZeros):
        residual = raw.contiguous().neg()
        values.add_to(residual, values.value)
    else:
        residual = (values - raw).contiguous()
    if mask is not None:
        residual.masked_fill_(~mask, 0)
    precision = (-2 * log_scale).exp()
    weight = ones if weight is None else weight
    constant = log_scale + 0.5 * math.log(2 * math.pi)
    value = -(constant.sum() if mask is None else mask.to(raw.dtype) @ constant).expand(len(raw)).clone()
    by_scale = torch.zeros_like(log_scale) if wanted[2] else None
    for rows, (square,) in blocks(raw, scratch=1):
        torch.square(residual[rows], out=square)
        value[rows] -= torch.mv(square, precision).mul_(0.5)
        if by_scale is not None:
            by_scale.add_(torch.mv(square.t(), weight[rows]))
        if wanted[0]:
            residual[rows].mul_(precision)
    if by_scale is not None:
        measured = weight.sum() if mask is None else weight @ mask.to(raw.dtype)
        by_scale.mul_(precision).sub_(measured)
    return value, [residual if wanted[0] else None, None, by_scale]
