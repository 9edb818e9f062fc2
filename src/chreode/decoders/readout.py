"""The last layer of every decoder: one likelihood head a modality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.decoders.product import Product
from chreode.decoders.seen import Seen
from chreode.errors import InputError
from chreode.layers import Conditions
from chreode.named import Named

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from chreode.cells import Cells
    from chreode.layout import Layout
    from chreode.parts import Observed

__all__ = ["Readout"]


class Readout(nn.Module):
    """From the last hidden layer to the distribution of each modality.

    Parameters
    ----------
    layout
        Features and their kinds.
    width
        Width of the last hidden layer (or of the code, for a linear decoder); or one by modality.
    heads
        Likelihood head by modality, called with the number of features.
    columns
        Which conditions shift the outputs; None for all.

    Raises
    ------
    InputError
        When a head's support does not hold a modality's values.
    """

    heads: Any  # Named, whose values are called and asked for what a plain Module lacks
    outputs: Any
    offsets: Any
    seen: Any

    def __init__(
        self,
        layout: Layout,
        width: int | Mapping[str, int],
        heads: Mapping[str, Callable[[int], nn.Module]],
        *,
        columns: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        made: dict[str, dict[str, Any]] = {"heads": {}, "outputs": {}, "offsets": {}, "seen": {}}
        for name, make in heads.items():
            described = layout.modalities[name]
            head: Any = make(described.n_features)
            if described.kind not in head.kinds:
                msg = (
                    f"Expected {' or '.join(sorted(head.kinds))} values for the {type(head).__name__} "
                    f"likelihood of {name!r}; found {described.kind} values. Choose a likelihood that holds "
                    "them (normal holds any finite value), or read the data with another values=."
                )
                raise InputError(msg)
            outputs = head.outputs * described.n_features
            made["heads"][name] = head
            made["outputs"][name] = Product(width if isinstance(width, int) else width[name], outputs)
            made["offsets"][name] = Conditions(layout, outputs, columns=columns)
            made["seen"][name] = Seen(layout, name)
        self.heads, self.outputs, self.offsets, self.seen = (Named(made[part]) for part in made)

    def forward(
        self, hidden: Float[Tensor, "n w"] | Mapping[str, Tensor], cells: Cells
    ) -> dict[str, Observed]:
        """The distribution of each modality in each cell."""
        observed = {}
        for name, head in self.heads.items():
            raw = self.outputs[name](hidden if isinstance(hidden, Tensor) else hidden[name])
            offset = self.offsets[name](cells)
            raw = raw if offset is None else raw + offset
            # Mixed precision ends here: a likelihood in half precision would lose the counts.
            raw = raw.float() if raw.dtype in (torch.bfloat16, torch.float16) else raw
            observed[name] = head(raw, cells.size[name], cells.mask(name))
        return observed

    @torch.no_grad()
    def centre(self, cells: Cells) -> None:
        """Set the output biases so that a code of zero decodes to the mean profile of these cells.

        What their levels were measured in is noted too.
        """
        for name, output in self.outputs.items():
            self.seen[name].note(cells)
            total = cells.whole_sums(name)
            self.heads[name].centre(output.bias[: len(total)], total, int(cells.present[name].sum()))

    def shrink(self, precision: float) -> None:
        """Give the weights of every modality a Gaussian prior, of this precision to begin with."""
        for _, output in self.outputs.items():
            output.shrink(precision)
