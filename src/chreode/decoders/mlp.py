"""A multilayer perceptron from codes to distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from chreode.axes import Float, Tensor
from chreode.decoders.hidden import Hidden
from chreode.decoders.readout import Readout

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from chreode.cells import Cells
    from chreode.layers import Norm
    from chreode.layout import Layout
    from chreode.parts import Observed

__all__ = ["MLP"]


class MLP(nn.Module):
    """Hidden layers of rectified units, then one linear layer and one likelihood head a modality.

    .. math:: h_0 = \\mathrm{act}(W_0 z + b_0 + c_i), \\quad h_l = \\mathrm{act}(W_l h_{l-1} + b_l), \\quad
              x_i \\sim p(x \\mid W h_L + b + o_i)

    where :math:`c_i` and :math:`o_i` are the sums of the vectors of the cell's batch and covariates
    (`chreode.layers.Conditions`): at the first layer they equal one-hot columns beside the code, at the
    output they are a log fold change a gene.

    Parameters
    ----------
    layout
        Features, kinds and conditions.
    inputs
        Dimensions of each latent, by name.
    heads
        Likelihood head by modality.
    hidden
        Widths of the hidden layers, at least one.
    norm
        Of the hidden units, as in `chreode.layers.Layers`.
    columns
        Which conditions shift the outputs; None for all of them, which shift the first layer in any case.
    deep
        Whether they shift every hidden layer.
    """

    def __init__(
        self,
        layout: Layout,
        inputs: Mapping[str, int],
        *,
        heads: Mapping[str, Callable[[int], nn.Module]],
        hidden: Sequence[int] = (100,),
        norm: Norm = "none",
        columns: Collection[str] | None = None,
        deep: bool = False,
    ) -> None:
        super().__init__()
        self.hidden = Hidden(layout, inputs, hidden, norm=norm, deep=deep)
        self.readout = Readout(layout, hidden[-1], heads, columns=columns)

    def forward(self, z: Mapping[str, Float[Tensor, "n d"]], cells: Cells) -> dict[str, Observed]:
        """Decode codes under the cells' conditions and sizes; their counts are never looked at."""
        return self.readout(self.hidden(z, cells), cells)
