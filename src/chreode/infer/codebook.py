"""Codes, or Gaussians over codes, as parameters: one row a cell, learned directly."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from chreode.axes import Float, Int, Tensor
from chreode.infer.posterior import GaussianPosterior
from chreode.parts import Code, Given

if TYPE_CHECKING:
    from chreode.cells import Cells
    from chreode.infer.joint_start import JointStart
    from chreode.infer.start import PrincipalStart

__all__ = ["Codebook", "VariationalCodebook"]


_RATE = 10.0  # of log variances, beside means
_VARIANCE = 0.1  # at the start


class Codebook(nn.Module):
    """A table of codes, one row for each cell that trains; inference is a look-up.

    .. math:: \\tilde z_i = z_i + \\sigma\\,\\varepsilon, \\qquad \\varepsilon \\sim N(0, I)

    in training; :math:`z_i` itself otherwise. The rows are a buffer, not a parameter: a step touches only
    the rows it visited (`chreode.optim.CodeAdam`), and under several devices each rank owns its own.

    Parameters
    ----------
    n_cells
        Number of rows.
    dim
        Dimensions ``d`` of a code.
    noise
        Standard deviation :math:`\\sigma` of the noise the decoder sees while training, in units of
        the code; 0 for the published point codes.
    start
        Where codes start; None starts all at zero, as published.
    radius
        Codes that a step takes further from zero are put back to this distance; None lets them go.
    """

    weight: Tensor
    free = True  # codes of new cells are found by descent
    posterior = None  # codes are points

    def __init__(
        self,
        n_cells: int,
        dim: int,
        *,
        noise: float = 0.0,
        start: PrincipalStart | JointStart | None = None,
        radius: float | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(n_cells, dim))
        self.noise, self.radius = noise, radius
        self.start = start
        self.visited: tuple[Int[Tensor, " n"], Float[Tensor, "n d"]] | None = None

    @property
    def codes(self) -> Float[Tensor, "n d"]:
        """The code of each cell."""
        return self.weight

    def forward(self, cells: Cells, given: Given) -> Code:
        """Look the rows up; while training, remember them so that the optimiser can step them."""
        rows = self.weight[cells.index]
        if not self.training:
            return Code(rows)
        self.visited = (cells.index, rows.requires_grad_())
        # fit seeds the global state for every epoch, so the noise is a function of (seed, epoch).
        return Code(rows + self.noise * torch.randn_like(rows), centre=rows)

    def propose(self, cells: Cells) -> Float[Tensor, "n d"]:
        """Where the codes of cells without a row begin."""
        if self.start is None:
            return self.weight.new_zeros(len(cells), self.weight.shape[1])
        return self.allowed(self.start(cells))

    def allowed(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The nearest codes that are allowed."""
        if self.radius is None:
            return z
        return z / (z.norm(dim=1, keepdim=True) / self.radius).clamp(min=1)


class VariationalCodebook(nn.Module):
    """A table of Gaussians over codes, one row for each cell that trains.

    .. math:: q_i(z) = N\\big(z;\\ m_i, \\operatorname{diag}(e^{c u_i})\\big)

    A row holds :math:`m_i` and :math:`u_i`, which are stepped as `Codebook` is; :math:`c = 10` lets one step
    length fit both, as variances go over orders of magnitude. In training a code is drawn from :math:`q_i`,
    else it is :math:`m_i`.

    Parameters
    ----------
    n_cells
        Number of rows.
    dim
        Dimensions ``d`` of a code.
    start
        Where means start; None starts all at zero. Variances start at 0.1.
    """

    weight: Tensor
    free = True  # codes of new cells are found by descent

    def __init__(self, n_cells: int, dim: int, *, start: PrincipalStart | None = None) -> None:
        super().__init__()
        self.dim, self.start = dim, start
        rows = torch.zeros(n_cells, 2 * dim)
        rows[:, dim:] = math.log(_VARIANCE) / _RATE
        self.register_buffer("weight", rows)
        self.visited: tuple[Int[Tensor, " n"], Float[Tensor, "n w"]] | None = None

    @property
    def codes(self) -> Float[Tensor, "n d"]:
        """The mean of each cell's Gaussian."""
        return self.weight[:, : self.dim]

    @property
    def posterior(self) -> GaussianPosterior:
        """The Gaussian of each cell."""
        return self._gaussian(self.weight)

    def forward(self, cells: Cells, given: Given) -> Code:
        """Look the rows up; while training, remember them so that the optimiser can step them."""
        rows = self.weight[cells.index]
        if self.training:
            self.visited = (cells.index, rows.requires_grad_())
        posterior = self._gaussian(rows)
        return Code(posterior.sample() if self.training else posterior.mean, posterior, centre=posterior.mean)

    def _gaussian(self, rows: Float[Tensor, "n w"]) -> GaussianPosterior:
        return GaussianPosterior(rows[:, : self.dim], (_RATE * rows[:, self.dim :]).exp())

    def propose(self, cells: Cells) -> Float[Tensor, "n d"]:
        """Where the codes of cells without a row begin."""
        return self.weight.new_zeros(len(cells), self.dim) if self.start is None else self.start(cells)

    def allowed(self, z: Float[Tensor, "n w"]) -> Float[Tensor, "n w"]:
        """All are."""
        return z
