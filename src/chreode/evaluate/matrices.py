"""Matrices of cells x genes, without ever making one dense."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np

from chreode.errors import InputError

__all__ = [
    "Counts",
    "Rows",
    "canonical",
    "column_moments",
    "entries",
    "log_normalise",
    "row_blocks",
    "sum_columns",
]

Counts: TypeAlias = Any
"""A SciPy sparse matrix of cells x genes; SciPy tells a type checker little about it."""

Rows: TypeAlias = np.ndarray | Callable[[slice], np.ndarray] | Iterable[tuple[slice, np.ndarray]]
"""Values for cells x genes: an array ``n x g``, one row ``g`` that holds for every cell, a function from a
slice of rows to its block, or an iterator of (slice, block) in order (``Embedded.expected_chunks``)."""


def canonical(matrix: Counts) -> Counts:
    """A SciPy CSR matrix with each entry stored once; the given one where it is so already."""
    import scipy.sparse as sp

    csr = sp.csr_matrix(matrix)
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    return csr


def row_blocks(
    values: Rows, *, shape: tuple[int, int], block: int = 512
) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of consecutive rows, whatever way the values are given.

    Parameters
    ----------
    values
        An array ``n x g`` or ``g``, a function of a slice, or an iterator of (slice, block).
    shape
        Cells and genes ``(n, g)`` that the blocks must cover, in order.
    block
        Rows a block, where we choose.

    Raises
    ------
    InputError
        When a block has another shape than its rows ask for, or rows are left out.
    """
    n, g = shape
    end = 0
    for rows, found in _pieces(values, n, block):
        array = np.asarray(found)
        if rows.start != end or rows.stop > n or array.shape != (rows.stop - rows.start, g):
            msg = (
                f"Expected {g} values for each cell from {end} on; found shape {array.shape} for cells "
                f"{rows.start} to {rows.stop}. Give the cells and genes of the counts, in order."
            )
            raise InputError(msg)
        end = rows.stop
        yield rows, array
    if end != n:
        msg = f"Expected values for {n} cells; found {end}. Give the same cells as the counts."
        raise InputError(msg)


def entries(counts: Counts, rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value, row within the block and column of what is stored in a block of rows of a CSR matrix."""
    start, stop = counts.indptr[rows.start], counts.indptr[rows.stop]
    row = np.repeat(np.arange(rows.stop - rows.start), np.diff(counts.indptr[rows.start : rows.stop + 1]))
    return counts.data[start:stop].astype(np.float64), row, counts.indices[start:stop]


def sum_columns(counts: Counts) -> np.ndarray:
    """Total of every column of a CSR matrix, in float64."""
    return np.bincount(counts.indices, weights=counts.data, minlength=counts.shape[1])


def column_moments(matrix: Counts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, variance (of ``n - 1``) and fraction of zeros of each column of a CSR matrix."""
    n, g = matrix.shape
    values = matrix.data.astype(np.float64)
    mean = np.bincount(matrix.indices, weights=values, minlength=g) / n
    filled = np.bincount(matrix.indices, minlength=g)
    # Around the mean, not from raw moments, which cancel for a gene that is high and even.
    squares = np.bincount(matrix.indices, weights=(values - mean[matrix.indices]) ** 2, minlength=g)
    variance = (squares + (n - filled) * mean**2) / (n - 1)
    zero = 1.0 - np.bincount(matrix.indices[values != 0], minlength=g) / n
    return mean, variance, zero


def log_normalise(counts: Counts, *, per: float = 10_000.0) -> Counts:
    """``log(1 + per * x / total)``, with the zeros left alone; a cell without molecules stays zero."""
    size = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    scale = np.divide(per, size, out=np.zeros_like(size), where=size > 0)
    values = counts.astype(np.float64)
    values.data = np.log1p(values.data * np.repeat(scale, np.diff(values.indptr)))
    return values


def _pieces(values: Rows, n: int, block: int) -> Iterator[tuple[slice, np.ndarray]]:
    if isinstance(values, np.ndarray):
        whole = np.broadcast_to(values, (n, len(values))) if values.ndim == 1 else values
        for start in range(0, len(whole), block):
            rows = slice(start, min(start + block, len(whole)))
            yield rows, whole[rows]
    elif callable(values):
        for start in range(0, n, block):
            rows = slice(start, min(start + block, n))
            yield rows, values(rows)
    else:
        yield from values
