"""The hidden layers of a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.layers import Layers, has_bias

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from chreode.cells import Cells
    from chreode.layers import Norm
    from chreode.layout import Layout

__all__ = ["Hidden"]


class Hidden(nn.Module):
    """Hidden layers (`chreode.layers.Layers`) over the codes of all latents.

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
    deep
        Whether they shift every layer.
    norm
        How units are normalised; not at all by default.
    """

    def __init__(
        self,
        layout: Layout,
        inputs: Mapping[str, int],
        hidden: Sequence[int],
        *,
        columns: Collection[str] | None = None,
        deep: bool = False,
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        self.inputs = list(inputs)
        first = nn.Linear(sum(inputs.values()), hidden[0], bias=has_bias(norm))
        self.layers = Layers(first, layout, hidden, columns=columns, deep=deep, norm=norm)

    def forward(self, z: Mapping[str, Float[Tensor, "n d"]], cells: Cells) -> Float[Tensor, "n w"]:
        """The last layer's units."""
        return self.layers(torch.cat([z[name] for name in self.inputs], 1), cells)

    def first(self, z: Mapping[str, Float[Tensor, "n d"]], cells: Cells) -> Float[Tensor, "n w"]:
        """The first layer's units."""
        return self.layers(torch.cat([z[name] for name in self.inputs], 1), cells, upto=1)
