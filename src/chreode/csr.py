"""Sparse rows of counts as three tensors, with a row gather that touches only what it takes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chreode.axes import Float, Int, Tensor

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = ["CSR", "repeat"]


class CSR:
    """A matrix of cells by features that stores its non-zeros, row after row.

    Parameters
    ----------
    crow
        Where each row starts in ``col`` and ``value``; ``n + 1`` of them, int64.
    col
        Column of each non-zero, int32 or int64.
    value
        The non-zeros, float32.
    width
        Number of columns ``g``.
    """

    __slots__ = ("_row", "_view", "col", "crow", "value", "width")

    def __init__(self, crow: Tensor, col: Tensor, value: Tensor, width: int) -> None:
        self.crow, self.col, self.value, self.width = crow, col, value, width
        self._row: Tensor | None = None
        self._view: sp.csr_matrix | None = None

    def __len__(self) -> int:
        return len(self.crow) - 1

    def __reduce__(self) -> tuple[Any, ...]:
        # Sending tensors to another process moves their memory: no view of it may stay behind.
        self._view = None
        return CSR, (self.crow, self.col, self.value, self.width)

    def __repr__(self) -> str:
        return f"CSR({len(self)} x {self.width}, {len(self.value)} non-zeros)"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self), self.width

    @property
    def row(self) -> Int[Tensor, " nnz"]:
        """Row of each non-zero, computed once."""
        if self._row is None:
            numbers = torch.arange(len(self), device=self.crow.device)
            self._row = repeat(numbers, self.crow.diff(), len(self.value))
        return self._row

    def take(self, rows: Int[Tensor, " r"]) -> CSR:
        """The given rows, in the given order; touches only their non-zeros."""
        rows = rows.to(self.crow.device)
        if self._small():
            # SciPy copies whole rows, an order of magnitude faster than a gather entry by entry.
            if self._view is None or self._view.data.ctypes.data != self.value.data_ptr():
                self._view = self.scipy()
            parts = self._view[rows.numpy()]
            crow, col, value = (torch.from_numpy(x) for x in (parts.indptr, parts.indices, parts.data))
            return CSR(crow.long(), col, value, self.width)
        start = self.crow[rows]
        counts = self.crow[rows + 1] - start
        crow = torch.zeros(len(rows) + 1, dtype=torch.int64, device=self.crow.device)
        torch.cumsum(counts, 0, out=crow[1:])
        total = int(crow[-1])
        where = torch.arange(total, device=crow.device) + repeat(start - crow[:-1], counts, total)
        return CSR(crow, self.col[where], self.value[where], self.width)

    def _small(self) -> bool:
        """Whether SciPy can share this memory: on the CPU, with positions that 32 bits hold."""
        narrow = self.col.dtype == torch.int32 and len(self.value) < 2**31
        return self.crow.device.type == "cpu" and narrow and self.value.dtype == torch.float32

    def spread(self, rows: Int[Tensor, " r"], n: int) -> CSR:
        """A matrix of ``n`` rows of which the given ones are these, and the others empty."""
        order = rows.argsort()
        here = self if torch.equal(order, torch.arange(len(rows))) else self.take(order)
        counts = torch.zeros(n + 1, dtype=torch.int64)
        counts[rows[order] + 1] = here.crow.diff()
        return CSR(counts.cumsum(0), here.col, here.value, self.width)

    def to(self, device: torch.device | str) -> CSR:
        """The same matrix on another device."""
        return CSR(self.crow.to(device), self.col.to(device), self.value.to(device), self.width)

    def with_value(self, value: Float[Tensor, " nnz"]) -> CSR:
        """The same pattern with other values."""
        other = CSR(self.crow, self.col, value, self.width)
        other._row = self._row
        return other

    def sum_rows(self) -> Float[Tensor, " n"]:
        """Total of every row."""
        zeros = torch.zeros(len(self), dtype=torch.float64, device=self.value.device)
        return zeros.index_add_(0, self.row, self.value.double()).float()

    def sum_columns(self) -> Float[Tensor, " g"]:
        """Total of every column."""
        zeros = torch.zeros(self.width, dtype=torch.float64, device=self.value.device)
        return zeros.index_add_(0, self.col.long(), self.value.double()).float()

    def __matmul__(self, dense: Float[Tensor, "g d"]) -> Float[Tensor, "n d"]:
        """Product with a dense matrix, at the cost of the non-zeros."""
        return self.torch() @ dense

    def transposed_product(self, dense: Float[Tensor, "n d"]) -> Float[Tensor, "g d"]:
        """``X^T`` times a dense matrix, at the cost of the non-zeros."""
        turned = self.transposed().torch()
        if not self._small():
            return turned @ dense
        # Into a place of its own: half the time of `@`, which fills and copies.
        out = dense.new_empty(self.width, dense.shape[1])
        return torch.addmm(out, turned, dense.contiguous(), beta=0, out=out)

    def transposed(self) -> CSR:
        """The same matrix with rows for columns."""
        if self._small():
            # SciPy sorts by column several times faster than PyTorch.
            turned = self.scipy().tocsc()
            crow, col, value = (torch.from_numpy(x) for x in (turned.indptr, turned.indices, turned.data))
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sparse CS")
                turned = self.torch().to_sparse_csc()
            crow, col, value = turned.ccol_indices(), turned.row_indices(), turned.values()
        return CSR(crow.long(), col, value, len(self))

    def torch(self) -> Tensor:
        """The same memory as a PyTorch sparse matrix."""
        # MKL multiplies by 32-bit positions, and would copy longer ones.
        crow, col = (self.crow.int(), self.col) if self._small() else (self.crow, self.col.long())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
            return torch.sparse_csr_tensor(crow, col, self.value, self.shape, check_invariants=False)

    def dense(self) -> Float[Tensor, "n g"]:
        """A dense copy; for minibatches and tests, never for a data set."""
        if self._small():
            return torch.from_numpy(self.scipy().toarray())
        out = torch.zeros(self.shape, dtype=self.value.dtype, device=self.value.device)
        out.view(-1).index_add_(0, self.row * self.width + self.col.long(), self.value)
        return out

    def scipy(self) -> sp.csr_matrix:
        """The same memory as a SciPy matrix (on the CPU)."""
        import scipy.sparse as sp

        # SciPy wants both indices of one type, and would copy the longer one to make it so.
        crow = self.crow.cpu().to(self.col.dtype if len(self.value) < 2**31 else torch.int64)
        return sp.csr_matrix((self.value.cpu().numpy(), self.col.cpu().numpy(), crow.numpy()), self.shape)

    @classmethod
    def empty(cls, n: int, width: int) -> CSR:
        """Rows without a single non-zero."""
        nothing = torch.zeros(0)
        return cls(torch.zeros(n + 1, dtype=torch.int64), nothing.int(), nothing, width)

    @classmethod
    def of(cls, matrix: Any) -> CSR:
        """From a SciPy sparse matrix or a dense array (rows are cells)."""
        import scipy.sparse as sp

        csr: Any = sp.csr_matrix(matrix)
        csr.sum_duplicates()
        return cls(
            torch.from_numpy(csr.indptr.astype(np.int64)),
            torch.from_numpy(csr.indices.astype(np.int32)),
            torch.from_numpy(csr.data.astype(np.float32)),
            csr.shape[1],
        )


def repeat(values: Tensor, counts: Int[Tensor, " n"], total: int) -> Tensor:
    """Each value as often as its count says; ``total`` is the sum of the counts."""
    if values.device.type == "cpu":
        # NumPy is ten times faster at this than torch.
        return torch.from_numpy(np.repeat(values.detach().numpy(), counts.numpy()))
    return torch.repeat_interleave(values, counts, output_size=total)
