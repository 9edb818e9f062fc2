"""Codes that start where their prior is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from chreode.axes import Float, Tensor

if TYPE_CHECKING:
    from chreode.cells import Cells

__all__ = ["PriorStart"]


class PriorStart(nn.Module):
    """Each code at the mean of its prior, which depends on the cell's levels.

    Parameters
    ----------
    prior
        Whose densities have a ``mean`` for each cell.
    """

    cite = ()

    def __init__(self, prior: nn.Module) -> None:
        super().__init__()
        self._prior: Any = (prior,)  # the latent's, whose state is not saved twice

    def learn(self, cells: Cells, *, seed: int = 0) -> Float[Tensor, "n d"]:
        """The codes of the training cells: there is nothing to learn."""
        return self(cells)

    def forward(self, cells: Cells) -> Float[Tensor, "n d"]:
        """The mean for each cell."""
        return self._prior[0](cells).mean.detach()
