"""A decoder of codes that are added up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from chreode.axes import Float, Tensor
    from chreode.cells import Cells
    from chreode.parts import Observed

__all__ = ["Summed"]


class Summed(nn.Module):
    r"""Latents of as many dimensions, of which another decoder sees the sum.

    .. math:: x_i \sim p\Big(x \;\Big|\; f\big(\textstyle\sum_l z_{il}\big)\Big)

    Parameters
    ----------
    inputs
        Names of the latents, in the order in which they are added.
    dim
        Dimensions of each.
    make
        ``make({"sum": dim})`` makes the decoder of the sum.

    References
    ----------
    Lotfollahi et al. (2023), CPA, doi:10.15252/msb.202211517.
    """

    of_sum: Any

    def __init__(
        self, inputs: Sequence[str], dim: int, *, make: Callable[[Mapping[str, int]], nn.Module]
    ) -> None:
        super().__init__()
        self.inputs = list(inputs)
        self.of_sum = make({"sum": dim})

    @property
    def readout(self) -> Any:
        """The other decoder's last layer."""
        return self.of_sum.readout

    def forward(self, z: Mapping[str, Float[Tensor, "n d"]], cells: Cells) -> dict[str, Observed]:
        """Decode codes under the cells' conditions and sizes; their counts are never looked at."""
        return self.of_sum({"sum": torch.stack([z[name] for name in self.inputs]).sum(0)}, cells)
