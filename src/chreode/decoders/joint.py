"""Several modalities from one code: a shared trunk, and a branch for each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn

from chreode.axes import Float, Tensor
from chreode.decoders.hidden import Hidden
from chreode.decoders.readout import Readout
from chreode.decoders.totals import Totals
from chreode.named import Named

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from chreode.cells import Cells
    from chreode.layout import Layout
    from chreode.parts import Observed

__all__ = ["Joint"]


class Joint(nn.Module):
    """A shared trunk of rectified units, one hidden layer a modality, and its likelihood head.

    .. math:: h = \\mathrm{trunk}(z, c_i), \\qquad h_m = \\mathrm{norm}(\\mathrm{relu}(V_m h + a_m)), \\qquad
              x_{im} \\sim p_m(x \\mid W_m h_m + b_m + o_{im})

    with :math:`h_m` as wide as the square root of the modality's number of features, and at least ``least``.
    Its units are brought to mean 0 and variance 1 in each cell, so that the prior of :math:`W_m` means the
    same however the layers before it grow.

    Parameters
    ----------
    layout
        Features, kinds and conditions.
    inputs
        Dimensions of each latent, by name.
    heads
        Likelihood head by modality.
    hidden
        Widths of the trunk, at least one.
    least
        Least width of a modality's hidden layer.
    columns
        Which conditions shift the trunk and the outputs; None for all.

    References
    ----------
    Schuster et al. (2024), multiDGD. https://doi.org/10.1038/s41467-024-53340-z
    """

    def __init__(
        self,
        layout: Layout,
        inputs: Mapping[str, int],
        *,
        heads: Mapping[str, Callable[[int], nn.Module]],
        hidden: Sequence[int] = (100, 100),
        least: int = 100,
        columns: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        self.hidden = Hidden(layout, inputs, hidden, columns=columns)
        widths = {m: max(least, math.isqrt(layout.modalities[m].n_features)) for m in heads}
        self.branches = Named({m: _branch(hidden[-1], width) for m, width in widths.items()})
        self.readout = Readout(layout, widths, heads, columns=columns)
        self.totals = Totals(widths)

    def forward(self, z: Mapping[str, Float[Tensor, "n d"]], cells: Cells) -> dict[str, Observed]:
        """Decode codes under the cells' conditions and sizes, every modality; counts are never looked at."""
        return self.readout(self.units(z, cells), cells)

    def units(self, z: Mapping[str, Float[Tensor, "n d"]], cells: Cells) -> dict[str, Tensor]:
        """The last hidden layer of each modality, ``n x w``."""
        shared = self.hidden(z, cells)
        return {m: branch(shared) for m, branch in self.branches.items()}


def _branch(inputs: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.LayerNorm(width, elementwise_affine=False))
