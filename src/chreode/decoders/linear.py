"""A linear decoder: its weights are loadings that can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.decoders.readout import Readout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from chreode.cells import Cells
    from chreode.layout import Layout
    from chreode.parts import Observed

__all__ = ["Linear"]


class Linear(nn.Module):
    """One linear layer from codes to the likelihood heads.

    .. math:: x_i \\sim p(x \\mid W z + b + o_i)

    with :math:`o_i` the offsets of the cell's batch and covariates.

    Parameters
    ----------
    layout
        Features, kinds and conditions.
    inputs
        Dimensions of each latent, by name.
    heads
        Likelihood head by modality.
    """

    def __init__(
        self, layout: Layout, inputs: Mapping[str, int], *, heads: Mapping[str, Callable[[int], nn.Module]]
    ) -> None:
        super().__init__()
        self.inputs = dict(inputs)
        self.readout = Readout(layout, sum(inputs.values()), heads)

    def forward(self, z: Mapping[str, Float[Tensor, "n d"]], cells: Cells) -> dict[str, Observed]:
        """Decode codes under the cells' conditions and sizes."""
        return self.readout(torch.cat([z[name] for name in self.inputs], 1), cells)

    def loadings(self, modality: str, latent: str) -> Float[Tensor, "g d"]:
        """Change of each feature's log proportion (or natural parameter) along the dimensions of a latent."""
        n_features = self.readout.outputs[modality].out_features // self.readout.heads[modality].outputs
        weight = self.readout.outputs[modality].weight[:n_features].detach()
        return dict(zip(self.inputs, weight.split([*self.inputs.values()], 1), strict=True))[latent]
