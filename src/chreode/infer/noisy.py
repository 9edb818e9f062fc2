"""Codes that an encoder gives, blurred in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.parts import Code

if TYPE_CHECKING:
    from chreode.cells import Cells
    from chreode.parts import Given

__all__ = ["NoisyEncoder"]


class NoisyEncoder(nn.Module):
    r"""An encoder's code with noise of a fixed width, as `Codebook` has it of free codes.

    .. math:: \tilde z_i = e(x_i) + \sigma\,\varepsilon, \qquad \varepsilon \sim N(0, I)

    in training; :math:`e(x_i)` itself otherwise. The prior judges the code without its noise.

    Parameters
    ----------
    encoder
        Gives the code.
    noise
        :math:`\sigma`, in units of the code.
    """

    free = False  # the code is a function of the values

    def __init__(self, encoder: nn.Module, *, noise: float) -> None:
        super().__init__()
        self.encoder, self.noise = encoder, noise

    def forward(self, cells: Cells, given: Given | None = None) -> Code:
        """Encode the cells."""
        z = self.encoder(cells).z
        return Code(z + self.noise * torch.randn_like(z) if self.training else z, centre=z)

    def propose(self, cells: Cells) -> Float[Tensor, "n d"]:
        """The code itself."""
        return self(cells).centre
