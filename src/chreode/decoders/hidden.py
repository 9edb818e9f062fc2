"""The hidden layers of a decoder."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.decoders.readout import Conditions

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from chreode.cells import Cells
    from chreode.layout import Layout

__all__ = ["Hidden"]


class Hidden(nn.Module):
    """Layers of rectified units over the codes of all latents, the first shifted by the cell's conditions.

    .. math:: h_0 = \\mathrm{relu}(W_0 z + b_0 + c_i), \\qquad h_l = \\mathrm{relu}(W_l h_{l-1} + b_l)

    Parameters
    ----------
    layout
        Its ``conditions`` are used.
    inputs
        Dimensions of each latent, by name.
    hidden
        Widths, at least one.
    columns
        Which conditions shift the first layer; None for all.
    """

    def __init__(
        self,
        layout: Layout,
        inputs: Mapping[str, int],
        hidden: Sequence[int],
        *,
        columns: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        self.inputs = list(inputs)
        widths = [sum(inputs.values()), *hidden]
        self.first = nn.Linear(widths[0], widths[1])
        self.conditions = Conditions(layout, widths[1], columns=columns)
        layers: list[nn.Module] = [nn.ReLU()]
        for before, after in itertools.pairwise(widths[1:]):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.rest = nn.Sequential(*layers)

    def forward(self, z: Mapping[str, Float[Tensor, "n d"]], cells: Cells) -> Float[Tensor, "n w"]:
        """The last layer's units."""
        hidden = self.first(torch.cat([z[name] for name in self.inputs], 1))
        shift = self.conditions(cells)
        return self.rest(hidden if shift is None else hidden + shift)
