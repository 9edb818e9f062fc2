"""A multilayer perceptron that some codes mostly pass by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.decoders.hidden import Hidden
from chreode.decoders.readout import Readout

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from chreode.cells import Cells
    from chreode.layout import Layout
    from chreode.parts import Observed

__all__ = ["Bypass"]


class Bypass(nn.Module):
    r"""Hidden layers that see little of some latents, which go straight to the outputs instead.

    .. math:: x_i \sim p\big(x \mid W h(z_i, \epsilon w_i) + V w_i + b + o_i\big)

    With :math:`\epsilon = 0` what :math:`w` does to the log proportions is the same whatever :math:`z` is, so
    that it holds for kinds of cells that were never seen with such a :math:`w`. Hidden layers that mix both
    (:math:`\epsilon = 1`) say anything there. A small one can learn that kinds answer differently, and learns
    first what they have in common.

    Parameters
    ----------
    layout
        Features, kinds and conditions.
    inputs
        Dimensions of each latent, by name.
    straight
        Those that pass by.
    mixing
        :math:`\epsilon`, at least 0.
    heads
        Likelihood head by modality.
    hidden
        Widths of the hidden layers, at least one.
    """

    def __init__(
        self,
        layout: Layout,
        inputs: Mapping[str, int],
        *,
        straight: Collection[str],
        mixing: float,
        heads: Mapping[str, Callable[[int], nn.Module]],
        hidden: Sequence[int],
    ) -> None:
        super().__init__()
        self.straight, self.mixing = [name for name in inputs if name in straight], mixing
        seen = {name: dim for name, dim in inputs.items() if mixing or name not in straight}
        self.hidden = Hidden(layout, seen, hidden)
        self.readout = Readout(layout, hidden[-1] + sum(inputs[name] for name in self.straight), heads)

    def forward(self, z: Mapping[str, Float[Tensor, "n d"]], cells: Cells) -> dict[str, Observed]:
        """Decode codes under the cells' conditions and sizes; their counts are never looked at."""
        seen = {name: self.mixing * code if name in self.straight else code for name, code in z.items()}
        straight = [z[name] for name in self.straight]
        return self.readout(torch.cat([self.hidden(seen, cells), *straight], 1), cells)
