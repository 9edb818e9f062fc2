"""Normal codes whose mean and width depend on a cell's levels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.layers import Conditions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chreode.cells import Cells
    from chreode.layout import Layout

__all__ = ["ConditionalDensity", "ConditionalNormal"]


class ConditionalDensity:
    r"""A normal density of each cell's own.

    .. math:: \log p(z_i) = \log N(z_i;\ m_i, \mathrm{diag}\,v_i)

    Parameters
    ----------
    mean
        ``n x d``.
    log_variance
        ``n x d``.
    """

    __slots__ = ("log_variance", "mean")

    def __init__(self, mean: Float[Tensor, "n d"], log_variance: Float[Tensor, "n d"]) -> None:
        self.mean, self.log_variance = mean, log_variance

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log density of each code, in nats."""
        square = (z - self.mean).square() * (-self.log_variance).exp()
        return -0.5 * (square + self.log_variance + math.log(2 * math.pi)).sum(1)

    def kl(self, posterior: Any, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Divergence of a Gaussian posterior, in closed form; the codes ``z`` do not matter."""
        apart = (posterior.variance + (posterior.mean - self.mean).square()) * (-self.log_variance).exp()
        return 0.5 * (apart - posterior.variance.log() + self.log_variance - 1).sum(1)

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw codes of cells like these, one after the other."""
        row = torch.arange(n, device=generator.device) % len(self.mean)
        noise = torch.randn(n, self.mean.shape[1], generator=generator, device=generator.device)
        mean, log_variance = self.mean.detach()[row], self.log_variance.detach()[row]
        return mean + (0.5 * log_variance).exp() * noise.to(mean)


class ConditionalNormal(nn.Module):
    r"""A prior whose mean and variance are sums over a cell's levels, learned.

    .. math::
        z_i \mid y_i \sim N\Big(\sum_c a_{c, y_{ic}},\ \mathrm{diag} \exp \sum_c b_{c, y_{ic}}\Big)

    with :math:`a` and :math:`b` centred over the levels of a column, so that an unknown level, which adds
    nothing, is the average one; of a continuous column both are lines.

    Parameters
    ----------
    layout
        Covariates.
    columns
        Which of them, by name or role.
    dim
        Dimensions of a code.
    mean
        Whether means differ; else all are zero.

    Notes
    -----
    Log variances are kept within 6 of that of a standard normal.

    References
    ----------
    Khemakhem, Kingma, Monti and Hyvarinen (2020), Variational autoencoders and nonlinear ICA,
    doi:10.48550/arXiv.1907.04809. Aliee et al. (2023), doi:10.48550/arXiv.2307.00558.
    """

    cite: ClassVar[tuple[str, ...]] = ("ivae",)
    count = 0  # it has no components

    def __init__(self, layout: Layout, columns: Sequence[str], dim: int, *, mean: bool = True) -> None:
        super().__init__()
        names = [layout.resolve(column).column for column in columns]
        self.dim, self.means = dim, mean
        width = 2 * dim if mean else dim
        self.sums = Conditions(layout.conditioned_by(*names), width, columns=names)
        for vectors in self.sums.vectors:
            nn.init.normal_(vectors, std=0.01)

    @property
    def columns(self) -> list[str]:
        """Whose levels say where codes are."""
        return self.sums.columns

    def forward(self, cells: Cells, given: Any = None) -> ConditionalDensity:
        """The density of the codes of ``cells``: each has its own."""
        total: Any = self.sums(cells)
        log_variance = 6 * torch.tanh(total[:, : self.dim] / 6)
        mean = total[:, self.dim :] if self.means else torch.zeros_like(log_variance)
        return ConditionalDensity(mean, log_variance)

    def mixture(self) -> ConditionalDensity:
        """The density of the codes of a cell of no known level."""
        nothing = self.sums.vectors[0].new_zeros(1, self.dim)
        return ConditionalDensity(nothing, nothing)

    @torch.no_grad()
    def transport(
        self,
        shared: Float[Tensor, "n s"],
        own: Float[Tensor, "n d"],
        *,
        before: Cells,
        after: Cells,
        draw: torch.Generator | None = None,
    ) -> Float[Tensor, "n d"]:
        r"""Codes of cells that were given other levels: as far from the new mean as they were from the old.

        .. math:: z' = m' + \sqrt{v' / v}\,(z - m)

        the optimal transport from one normal to the other; with a generator, a draw from the new one.
        """
        old, new = self(before), self(after)
        if draw is None:
            moved = new.mean + (0.5 * (new.log_variance - old.log_variance)).exp() * (own - old.mean)
        else:
            moved = new.sample(len(own), draw).to(own)
        same = (old.mean == new.mean) & (old.log_variance == new.log_variance)
        return torch.where(same.all(1, keepdim=True), own, moved)

    def log_hyper(self) -> Float[Tensor, ""]:
        """Zero: nothing is said of the parameters beforehand."""
        return torch.zeros(())

    def modes(self) -> Float[Tensor, "1 d"]:
        """That of a cell of no known level."""
        return torch.zeros(1, self.dim)
