"""Values as linear models see them: log-normalised counts, anything else as it is; in blocks of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from chreode.axes import Float, Int, Tensor
from chreode.cells import CSR, Cells

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Block", "blocks", "prepared"]

_ROWS = 1024  # cells worked on at a time


def prepared(cells: Cells, modalities: Sequence[str], *, per: float) -> Cells:
    """The same cells with counts as :math:`u_{ij} = \\log(1 + c\\,x_{ij}/s_i)`; other values as they are.

    What is stored for features that a cell's panel did not measure becomes zero.

    Parameters
    ----------
    cells
        With their values.
    modalities
        Which of them to prepare.
    per
        The total :math:`c` that the counts of every cell are scaled to.
    """
    measured = {}
    for m in modalities:
        values, mask = cells.measured[m], cells.mask(m)
        if not isinstance(values, CSR):
            measured[m] = values if mask is None else values * mask
            continue
        value = values.value
        if cells.layout.modalities[m].kind == "counts":
            value = torch.log1p(value * (per / cells.size[m].clamp(min=1))[values.row])
        if mask is not None:
            value = value * mask[values.row, values.col.long()]
        measured[m] = values.with_value(value)
    return cells.replace(measured={**cells.measured, **measured})


def blocks(cells: Cells) -> Iterator[tuple[slice, Cells]]:
    """All cells, some at a time."""
    for at in range(0, len(cells), _ROWS):
        rows = slice(at, min(at + _ROWS, len(cells)))
        yield rows, cells[rows]


class Block:
    """One modality of some `prepared` cells, in double precision.

    Parameters
    ----------
    cells
        Few of them.
    modality
        Which.
    sparse
        Whether dense values are made sparse, for those who ask which of them are zero.
    """

    __slots__ = ("mask", "panel", "present", "values")

    mask: Float[Tensor, "p g"]
    panel: Int[Tensor, " n"]
    present: Float[Tensor, " n"]
    values: CSR | Tensor

    def __init__(self, cells: Cells, modality: str, *, sparse: bool = False) -> None:
        values = cells.measured[modality]
        if sparse and not isinstance(values, CSR):
            values = CSR.of(values.cpu().numpy()).to(cells.device)
        self.values = values.with_value(values.value.double()) if isinstance(values, CSR) else values.double()
        self.present = cells.present[modality].double()
        if modality in cells.panels:
            which, self.panel = cells.panel[modality].unique(return_inverse=True)
            self.mask = cells.panels[modality][which].double()
        else:
            self.panel = torch.zeros_like(cells.index)
            self.mask = self.present.new_ones(1, values.shape[1])

    def times(self, weight: Float[Tensor, "g d"]) -> Float[Tensor, "n d"]:
        """The values times a matrix."""
        return self.values @ weight

    def turned_times(self, other: Float[Tensor, "n d"]) -> Float[Tensor, "g d"]:
        """The transposed values times a matrix (on the CPU, as is all that calls it)."""
        if isinstance(self.values, CSR):
            return torch.from_numpy(self.values.scipy().T @ other.numpy())
        return self.values.T @ other

    @property
    def entries(self) -> CSR:
        """The values that are not zero; of a block made sparse."""
        return self.values if isinstance(self.values, CSR) else CSR.of(self.values.cpu().numpy())

    def squared(self) -> Block:
        """The same with every value squared."""
        other = object.__new__(Block)
        other.mask, other.panel, other.present = self.mask, self.panel, self.present
        old = self.values
        other.values = old.with_value(old.value.square()) if isinstance(old, CSR) else old.square()
        return other

    def by_cell(self, values: Float[Tensor, "g ..."]) -> Float[Tensor, "n ..."]:
        """Sums over the features that each cell's panel measured; zero where it lacks the modality."""
        sums = (self.mask @ values.reshape(len(values), -1))[self.panel] * self.present[:, None]
        return sums.reshape(len(sums), *values.shape[1:])

    def by_feature(self, values: Float[Tensor, "n ..."]) -> Float[Tensor, "g ..."]:
        """Sums over the cells that each feature was measured in."""
        flat = values.reshape(len(values), -1) * self.present[:, None]
        sums = self.mask.T @ flat.new_zeros(len(self.mask), flat.shape[1]).index_add_(0, self.panel, flat)
        return sums.reshape(len(sums), *values.shape[1:])
