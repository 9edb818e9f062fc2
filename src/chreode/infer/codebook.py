"""Codes as parameters: one row a cell, learned directly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from chreode.axes import Float, Int, Tensor
from chreode.parts import Code, Given

if TYPE_CHECKING:
    from chreode.cells import Cells
    from chreode.infer.joint_start import JointStart
    from chreode.infer.start import PrincipalStart

__all__ = ["Codebook"]


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
    """

    weight: Tensor
    free = True  # codes of new cells are found by descent

    def __init__(
        self, n_cells: int, dim: int, *, noise: float = 0.0, start: PrincipalStart | JointStart | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(n_cells, dim))
        self.noise = noise
        self.start = start
        self.visited: tuple[Int[Tensor, " n"], Float[Tensor, "n d"]] | None = None

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
        return self.start(cells)
