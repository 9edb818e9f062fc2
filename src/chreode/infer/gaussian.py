"""Codes under a linear Gaussian model: their posterior is known in closed form."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.infer.principal import Line
from chreode.infer.values import Block, prepared
from chreode.named import Named
from chreode.parts import Code, Given

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chreode.cells import Cells
    from chreode.layout import Layout

__all__ = ["FullPosterior", "LinearGaussian", "View"]


class Terms(NamedTuple):
    """Precision of a measured value and of a zero, and their log normalisers; ``g`` each."""

    value: Tensor
    zero: Tensor
    log_value: Tensor
    log_zero: Tensor


class View(nn.Module):
    r"""What a linear Gaussian model knows of one modality.

    .. math:: y_{ij} \sim N(w_j^\top z_i + m_j,\ \psi_j), \qquad \mathrm{var}(w_{jk}) = v_{jk}

    With dropout :math:`x_{ij} = 0` with probability :math:`\exp(-\lambda y_{ij}^2)` is measured, else
    :math:`x_{ij} = y_{ij}`. Over the values that a zero may have been the Gaussian integrates to another
    one in :math:`z_i`: a zero is like a measured 0, of precision :math:`2\lambda / (1 + 2\lambda\psi_j)`
    in place of :math:`1/\psi_j`.

    Parameters
    ----------
    n_features
        Features ``g``.
    dim
        Factors ``d``.
    dropout
        Whether values drop out.
    """

    mean: Tensor
    weight: Tensor
    spread: Tensor
    noise: Tensor
    decay: Tensor

    def __init__(self, n_features: int, dim: int, *, dropout: bool = False) -> None:
        super().__init__()
        self.dropout = dropout
        self.register_buffer("mean", torch.zeros(n_features))
        # A random projection until it has learned: from codes of zero a decoder would learn nothing.
        self.register_buffer("weight", 0.1 * torch.randn(n_features, dim))
        self.register_buffer("spread", torch.zeros(n_features, dim))
        self.register_buffer("noise", torch.ones(n_features))
        self.register_buffer("decay", torch.ones(()))

    def terms(self) -> Terms:
        """How much a value, and a zero, says."""
        noise, twice = self.noise.double(), 2 * self.decay.double()
        log_value = -0.5 * (noise.log() + math.log(2 * math.pi))
        if not self.dropout:
            return Terms(1 / noise, 1 / noise, log_value, log_value)
        return Terms(1 / noise, twice / (1 + twice * noise), log_value, -0.5 * torch.log1p(twice * noise))

    def evidence(
        self, block: Block
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n d"], Float[Tensor, "n d d"]]:
        """What some cells say of their codes: the log density at zero, its slope there and its curvature."""
        terms, mean, weight = self.terms(), self.mean.double(), self.weight.double()
        level = block.by_cell(terms.log_zero - 0.5 * terms.zero * mean.square())
        slope = -block.by_cell((terms.zero * mean)[:, None] * weight)
        curvature = block.products(terms.zero[:, None] * weight, weight)
        curvature = curvature + torch.diag_embed(block.by_cell(terms.zero[:, None] * self.spread.double()))
        if not self.dropout:
            linear = torch.cat([weight, mean[:, None]], 1) * terms.value[:, None]
            linear = block.times(linear)
            square = block.squared().times(terms.value[:, None])[:, 0]
            return level + linear[:, -1] - 0.5 * square, slope + linear[:, :-1], curvature
        x = block.entries
        col, value = x.col.long(), x.value
        more = (terms.value - terms.zero)[col]
        entry = (
            0.5 * (terms.zero * mean.square())[col] - 0.5 * terms.value[col] * (value - mean[col]).square()
        )
        entry = entry + (terms.log_value - terms.log_zero)[col]
        entry = entry + torch.log(-torch.expm1(-self.decay.double() * value.square()))
        level = level + (x.with_value(entry) @ torch.ones_like(mean)[:, None])[:, 0]
        slope = slope + x.with_value(terms.value[col] * value - more * mean[col]) @ weight
        flat = x.with_value(more) @ (weight[:, :, None] * weight[:, None, :]).reshape(len(weight), -1)
        return level, slope, curvature + flat.reshape(curvature.shape)


class Posterior(NamedTuple):
    """Codes of some cells: mean ``n x d``, covariance ``n x d x d``, and the log marginal density ``n``."""

    mean: Tensor
    covariance: Tensor
    log_prob: Tensor


class FullPosterior:
    """A Gaussian with a full covariance over the code of each cell.

    .. math:: q(z_i \\mid x_i) = N(z_i;\\ m_i, S_i)

    Parameters
    ----------
    mean
        ``n x d``.
    covariance
        ``n x d x d``, positive definite.

    Examples
    --------
    >>> import torch
    >>> q = FullPosterior(torch.zeros(1, 2), torch.eye(2)[None])
    >>> round(q.log_prob(torch.zeros(1, 2)).item(), 4)
    -1.8379
    """

    __slots__ = ("covariance", "mean")

    def __init__(self, mean: Float[Tensor, "n d"], covariance: Float[Tensor, "n d d"]) -> None:
        self.mean = mean
        self.covariance = covariance

    @property
    def variance(self) -> Float[Tensor, "n d"]:
        """Variance of each dimension by itself."""
        return self.covariance.diagonal(dim1=1, dim2=2)

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log density of one code for each cell, in nats."""
        return torch.distributions.MultivariateNormal(self.mean, self.covariance).log_prob(z)

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "n d"]:
        """One code for each cell; without a generator it draws from torch's global state."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.mean + (torch.linalg.cholesky(self.covariance) @ noise[:, :, None])[:, :, 0]


class LinearGaussian(nn.Module):
    r"""The exact posterior of codes that decode linearly, with Gaussian noise, to some modalities.

    .. math::
        q(z_i) = N(P_i^{-1} b_i,\ P_i^{-1}), \qquad
        P_i = I + \sum_j \psi_j^{-1} (w_j w_j^\top + \mathrm{diag}\,v_j), \qquad
        b_i = \sum_j \psi_j^{-1} (u_{ij} - m_j)\, w_j

    over the features that were measured in the cell: what is missing, a value or a modality, is left out.
    :math:`u_{ij} = \log(1 + c\,x_{ij}/s_i)` for counts; other values are as they are. `View` says what zeros
    are with dropout. Sums over zeros need no pass over them.

    Parameters
    ----------
    layout
        Features.
    dim
        Factors ``d``.
    rule
        ``rule(views, cells, seed, progress)`` learns the views from prepared cells:
        `chreode.infer.likelihood_factors` or `chreode.infer.sparse_factors`.
    modalities
        Which of them; the first by default.
    per
        The total :math:`c` that the counts of every cell are scaled to.
    dropout
        Whether zeros may be values that dropped out.
    """

    free = False  # the code is a function of the values
    views: Any

    def __init__(
        self,
        layout: Layout,
        dim: int,
        *,
        rule: Callable[..., object],
        modalities: Sequence[str] = (),
        per: float = 1e4,
        dropout: bool = False,
    ) -> None:
        super().__init__()
        self.per, self.rule = per, rule
        self.modalities = tuple(modalities) or (next(iter(layout.modalities)),)
        widths = {m: layout.modalities[m].n_features for m in self.modalities}
        self.views = Named({m: View(g, dim, dropout=dropout) for m, g in widths.items()})

    def learn(self, cells: Cells, *, seed: int, progress: bool = False) -> None:
        """Find the loadings, means and noise of these cells."""
        cells = prepared(cells, self.modalities, per=self.per)
        self.rule(dict(self.views.items()), cells, seed=seed, progress=progress)

    def linear(self, modality: str) -> Line:
        """What codes expect of a modality."""
        view = self.views[modality]
        return Line(view.mean, view.weight, view.noise, view.decay if view.dropout else None)

    def forward(self, cells: Cells, given: Given | None = None) -> Code:
        """The posterior of every cell's code; the code is its mean."""
        found = posterior(dict(self.views.items()), prepared(cells, self.modalities, per=self.per))
        mean, covariance = found.mean.float(), found.covariance.float()
        return Code(mean, FullPosterior(mean, covariance))

    def propose(self, cells: Cells) -> Float[Tensor, "n d"]:
        """The mean."""
        return self(cells).z


@torch.no_grad()
def posterior(views: dict[str, View], cells: Cells) -> Posterior:
    """Codes of some prepared cells, under a standard normal prior."""
    parts = [view.evidence(Block(cells, m, sparse=view.dropout)) for m, view in views.items()]
    level, slope, curvature = (torch.stack(part).sum(0) for part in zip(*parts, strict=True))
    precision = curvature + torch.eye(curvature.shape[1]).to(curvature)
    root = torch.linalg.cholesky(precision)
    covariance = torch.cholesky_inverse(root)
    mean = (covariance @ slope[:, :, None])[:, :, 0]
    spent = 0.5 * (slope * mean).sum(1) - root.diagonal(dim1=1, dim2=2).log().sum(1)
    return Posterior(mean, covariance, level + spent)
