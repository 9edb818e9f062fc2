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

    mask: Float[Tensor, "p g"] | None  # of the panels of these cells; None where all features were measured
    panel: Int[Tensor, " n"]
    present: Float[Tensor, " n"]
    values: CSR | Tensor

    def __init__(self, cells: Cells, modality: str, *, sparse: bool = False) -> None:
        values = cells.measured[modality]
        if sparse:
            import scipy.sparse as sp

            stored = values.scipy().copy() if isinstance(values, CSR) else sp.csr_matrix(values.cpu().numpy())
            stored.eliminate_zeros()  # what a mask made zero is not a value
            values = CSR.of(stored).to(cells.device)
        self.values = values.with_value(values.value.double()) if isinstance(values, CSR) else values.double()
        self.present = cells.present[modality].double()
        self.mask, self.panel = None, cells.index
        if modality in cells.panels:
            which, self.panel = cells.panel[modality].unique(return_inverse=True)
            self.mask = cells.panels[modality][which].double()

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
        """The values that are not zero, of a block made sparse."""
        if not isinstance(self.values, CSR):
            msg = "a block that was not made sparse has no entries"
            raise TypeError(msg)
        return self.values

    def squared(self) -> Block:
        """The same with every value squared."""
        other = object.__new__(Block)
        other.mask, other.panel, other.present = self.mask, self.panel, self.present
        old = self.values
        other.values = old.with_value(old.value.square()) if isinstance(old, CSR) else old.square()
        return other

    def by_cell(self, values: Float[Tensor, "g ..."]) -> Float[Tensor, "n ..."]:
        """Sums over the features that each cell's panel measured; zero where it lacks the modality."""
        if self.mask is None:
            sums = values.sum(0).reshape(1, -1)
        else:
            sums = (self.mask @ values.reshape(len(values), -1))[self.panel]
        return (sums * self.present[:, None]).reshape(len(self.present), *values.shape[1:])

    def products(self, one: Float[Tensor, "g d"], other: Float[Tensor, "g d"]) -> Float[Tensor, "n d d"]:
        """Sums of outer products over the features that each cell's panel measured, as `by_cell`."""
        if self.mask is None:
            return self.present[:, None, None] * (one.T @ other)
        return self.by_cell(one[:, :, None] * other[:, None, :])

    def by_feature(self, values: Float[Tensor, "n ..."]) -> Float[Tensor, "f ..."]:
        """Sums over the cells that each feature was measured in; one for all where every feature was."""
        flat = values.reshape(len(values), -1) * self.present[:, None]
        if self.mask is None:
            return flat.sum(0).reshape(1, *values.shape[1:])
        sums = self.mask.T @ flat.new_zeros(len(self.mask), flat.shape[1]).index_add_(0, self.panel, flat)
        return sums.reshape(len(sums), *values.shape[1:])
