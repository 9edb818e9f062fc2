"""Codes that are gradients of the decoder's own likelihood, at the origin."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.parts import Code, Given

if TYPE_CHECKING:
    from chreode.cells import Cells
    from chreode.layout import Layout

__all__ = ["GradientOrigin"]


class GradientOrigin(nn.Module):
    """One step from the origin up the likelihood: the decoder is its own encoder.

    .. math:: z_i = a \\circ \\frac{1}{s_i} \\nabla_{z}\\, \\log p(x_i \\mid f(z)) \\Big|_{z = 0}

    with a scale :math:`a` a dimension, which is learned; `spread` lets codes begin at a standard deviation of
    1. Gradients of the objective go through this gradient, to second order.

    Parameters
    ----------
    layout
        Its first modality is read.
    dim
        Dimensions ``d`` of a code.

    Notes
    -----
    Deviations from the paper: the gradient is of nats per molecule (per value, where values are no counts) so
    that depth is no scale of the code, and it has a scale of its own in each dimension.

    References
    ----------
    Bond-Taylor and Willcocks (2021), Gradient origin networks, doi:10.48550/arXiv.2007.02798.
    """

    cite: ClassVar[tuple[str, ...]] = ("gon",)
    free = False  # the code is a function of the values

    def __init__(self, layout: Layout, dim: int) -> None:
        super().__init__()
        self.modality, described = next(iter(layout.modalities.items()))
        self.values = None if described.kind == "counts" else described.n_features
        self.log_scale = nn.Parameter(torch.zeros(dim))

    def forward(self, cells: Cells, given: Given) -> Code:
        """The code of each cell."""
        origin = self.log_scale.new_zeros(len(cells), len(self.log_scale), requires_grad=True)
        number = cells.size[self.modality].clamp(min=1) if self.values is None else self.values
        with torch.enable_grad():
            observed = given.decode(origin)[self.modality]
            climb = observed.slope(cells.measured[self.modality]) * cells.present[self.modality][:, None]
            (gradient,) = torch.autograd.grad(observed.raw, origin, climb, create_graph=self.training)
            rate = self.log_scale.exp() / (number[:, None] if isinstance(number, Tensor) else number)
            z = gradient * rate
        return Code(z if self.training else z.detach())

    @torch.no_grad()
    def spread(self, codes: Float[Tensor, "n d"]) -> None:
        """Change the scale so that these codes would have a standard deviation of 1."""
        self.log_scale -= codes.std(0).clamp(min=1e-6).log()
