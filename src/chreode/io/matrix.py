"""A matrix of cells by features, wherever it lies, read block by block and never made dense."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from chreode.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Block", "Compressed", "Matrix", "cuts", "from_parts"]

Order = Literal["rows", "columns"]

NONZEROS = 1 << 20
"""Non-zeros in a block of a sparse matrix: some 30 MB of working memory."""

ELEMENTS = 1 << 22
"""Elements in a block of a dense matrix."""


class Block(NamedTuple):
    """Some non-zeros: row, column and value of each, sorted by the matrix's order, no pair twice."""

    row: np.ndarray
    col: np.ndarray
    value: np.ndarray


class Compressed(NamedTuple):
    """Consecutive rows (or columns) of a sparse matrix, as stored."""

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray


class Matrix:
    """A matrix that is read in blocks of non-zeros.

    Explicit zeros are dropped, duplicate entries summed and indices sorted within each block; blocks
    are copies, so the source is never changed.

    Parameters
    ----------
    shape
        Cells and features.
    order
        Along what blocks are cut: ``rows`` where rows lie together, ``columns`` where columns do.
    cuts
        Where blocks start and end along that axis.
    part
        ``part(start, stop)`` reads one block.
    kept
        Which features are in the matrix; the others are as if they were not there.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        order: Order,
        cuts: np.ndarray,
        part: Callable[[int, int], Compressed],
        kept: np.ndarray | None = None,
    ) -> None:
        self._stored = (int(shape[0]), int(shape[1]))
        self._cuts, self._part, self._kept = cuts, part, kept
        self.order: Order = order
        self.shape = self._stored if kept is None else (self._stored[0], int(kept.sum()))

    def only(self, kept: np.ndarray) -> Matrix:
        """The same matrix with some of its features (a mask)."""
        if self._kept is not None:
            every = self._kept.copy()
            every[self._kept] = kept
            kept = every
        return Matrix(self._stored, order=self.order, cuts=self._cuts, part=self._part, kept=kept)

    def blocks(self) -> Iterator[Block]:
        """All non-zeros, block after block.

        Raises
        ------
        InputError
            When the source cannot be read or contradicts itself.
        """
        place = None if self._kept is None else np.where(self._kept, np.cumsum(self._kept) - 1, -1)
        for start, stop in pairwise(self._cuts.tolist()):
            major, minor, value = self._canonical(self._part(start, stop), start, stop)
            row, col = (major, minor) if self.order == "rows" else (minor, major)
            if place is not None:
                col = place[col]
                here = col >= 0
                row, col, value = row[here], col[here], value[here]
            if len(value):
                yield Block(row, col, value)

    def _canonical(
        self, part: Compressed, start: int, stop: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        import scipy.sparse as sp

        width = self._stored[1 if self.order == "rows" else 0]
        if len(part.indices) and not 0 <= int(part.indices.min()) <= int(part.indices.max()) < width:
            msg = (
                f"Expected indices from 0 to {width - 1}; found {int(part.indices.min())} to "
                f"{int(part.indices.max())}. The matrix is damaged: write or download the file again."
            )
            raise InputError(msg)
        data = part.data.astype(np.float64)
        block = sp.csr_matrix((data, part.indices.copy(), part.indptr), shape=(stop - start, width))
        block.sum_duplicates()
        block.eliminate_zeros()
        major = np.repeat(np.arange(start, stop, dtype=np.int64), np.diff(block.indptr))
        return major, block.indices.astype(np.int64), block.data

    @classmethod
    def of(cls, matrix: Any, *, where: str) -> Matrix:
        """From what an AnnData holds: an array, a SciPy matrix, or either of them on disk.

        Raises
        ------
        InputError
            For any other type, or values that are not numbers.
        """
        import h5py
        import scipy.sparse as sp
        import zarr
        from anndata import abc

        if sp.issparse(matrix):
            stored = matrix if matrix.format in ("csr", "csc") else matrix.tocsr()
            return from_parts(
                stored.shape, stored.format, (stored.data, stored.indices, stored.indptr), where
            )
        if isinstance(matrix, (abc.CSRDataset, abc.CSCDataset)):
            return cls.of_group(matrix.group, where=where)  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(matrix, (np.ndarray, h5py.Dataset, zarr.Array)):
            return _dense(matrix, where)
        msg = (
            f"Expected {where} to be an array or a SciPy CSR or CSC matrix; found {type(matrix).__name__}. "
            "For a lazy AnnData call adata.to_memory() first."
        )
        raise InputError(msg)

    @classmethod
    def of_group(cls, group: Any, *, where: str) -> Matrix:
        """From an HDF5 or zarr group that anndata wrote (or a plain two-dimensional data set).

        Raises
        ------
        InputError
            When it is neither.
        """
        import h5py
        import zarr

        if isinstance(group, (h5py.Dataset, zarr.Array)):
            return _dense(group, where)
        attributes = dict(group.attrs)
        kind = str(attributes.get("encoding-type", attributes.get("h5sparse_format", "nothing known")))
        shape = attributes.get("shape", attributes.get("h5sparse_shape"))
        kind = kind.removesuffix("_matrix")
        if (
            kind not in ("csr", "csc")
            or shape is None
            or not {"data", "indices", "indptr"} <= set(group.keys())
        ):
            msg = (
                f"Expected {where} to be a dense array or a CSR or CSC matrix; found {kind}. Write it with "
                "anndata."
            )
            raise InputError(msg)
        return from_parts(tuple(shape), kind, (group["data"], group["indices"], group["indptr"]), where)


def from_parts(shape: tuple[int, ...], kind: str, parts: tuple[Any, Any, Any], where: str) -> Matrix:
    """From the three arrays of a CSR (cells lie together) or CSC matrix, in memory or on disk."""
    data, indices, indptr = parts[0], parts[1], np.asarray(parts[2][:], dtype=np.int64)
    stored = min(int(data.shape[0]), int(indices.shape[0]))
    _refuse_no_numbers(data.dtype, where)
    length = shape[0] if kind == "csr" else shape[1]
    whole = len(indptr) == length + 1 and indptr[0] == 0 and bool((np.diff(indptr) >= 0).all())
    if not whole or indptr[-1] > stored:
        msg = (
            f"Expected {where} to have {length:,} rows of stored values one after the other; found index "
            "pointers "
            f"that contradict this ({len(indptr):,} of them, {stored:,} values). The matrix is damaged: "
            "write "
            "or download the file again."
        )
        raise InputError(msg)

    def part(start: int, stop: int) -> Compressed:
        low, high = int(indptr[start]), int(indptr[stop])
        with _readable(where):
            return Compressed(
                np.asarray(data[low:high]), np.asarray(indices[low:high]), indptr[start : stop + 1] - low
            )

    order: Order = "rows" if kind == "csr" else "columns"
    return Matrix((shape[0], shape[1]), order=order, cuts=cuts(indptr), part=part)


def _dense(array: Any, where: str) -> Matrix:
    """From a two-dimensional array, in memory or on disk, in blocks that hold whole chunks."""
    if len(array.shape) != 2:
        msg = (
            f"Expected {where} to be cells x features; found {len(array.shape)} dimensions "
            f"{tuple(array.shape)}."
        )
        raise InputError(msg)
    _refuse_no_numbers(array.dtype, where)
    n, g = array.shape
    step = max(1, ELEMENTS // max(g, 1))
    if not isinstance(array, np.ndarray) and array.chunks:
        chunk = int(array.chunks[0])
        step = max(step // chunk, 1) * chunk if chunk * g <= 4 * ELEMENTS else step
    ends = np.append(np.arange(0, n, step), n)

    def part(start: int, stop: int) -> Compressed:
        with _readable(where):
            block = np.asarray(array[start:stop])
        row, col = np.nonzero(block)
        indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=stop - start))])
        return Compressed(block[row, col], col, indptr)

    return Matrix((n, g), order="rows", cuts=ends, part=part)


def cuts(indptr: np.ndarray) -> np.ndarray:
    """Cut so that a block holds about `NONZEROS` stored values, and at least one row."""
    ends = [0]
    while ends[-1] < len(indptr) - 1:
        reach = int(np.searchsorted(indptr, indptr[ends[-1]] + NONZEROS, side="right")) - 1
        ends.append(max(ends[-1] + 1, reach))
    return np.asarray(ends)


def _refuse_no_numbers(dtype: np.dtype, where: str) -> None:
    if dtype.kind not in "biuf":
        msg = f"Expected numbers in {where}; found values of type {dtype}."
        raise InputError(msg)


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """Turn a failure to read from disk into a sentence."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        msg = (
            f"Expected to read {where}; found a damaged or incomplete file ({error}). Copy or download it "
            "again."
        )
        raise InputError(msg) from error
