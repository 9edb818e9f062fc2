"""Gathering the chosen features of all cells, in memory or, beyond a limit, in a file mapped to memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from chreode.axes import Float, Int, Tensor
from chreode.cells import CSR
from chreode.errors import InputError
from chreode.io.matrix import cuts

if TYPE_CHECKING:
    from chreode.io.matrix import Block, Matrix

__all__ = ["Room", "available_memory", "gather", "gather_dense"]


class Room:
    """Where arrays are put: in memory as long as they fit, then in temporary files.

    A file has no name once it is open where the system allows it, so it goes when the last tensor over it
    does, and also when the process is killed.

    Parameters
    ----------
    limit
        Bytes that all arrays together may take in memory; half of what is available by default.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = available_memory() // 2 if limit is None else limit
        self.spilled = 0

    def reserve(self, n_bytes: int) -> bool:
        """Whether so many bytes must go to disk.

        Raises
        ------
        InputError
            When neither the memory nor the disk has room.
        """
        if n_bytes <= self.limit:
            self.limit -= n_bytes
            return False
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if n_bytes > free:
            msg = (
                f"Expected room for {n_bytes / 1e9:.1f} GB of non-zeros; found "
                f"{max(self.limit, 0) / 1e9:.1f} GB of "
                f"memory and {free / 1e9:.1f} GB in {folder}. Set TMPDIR to a larger disk, or read fewer "
                "features."
            )
            raise InputError(msg)
        self.spilled += n_bytes
        return True

    def empty(self, shape: tuple[int, ...], dtype: type[np.generic], *, on_disk: bool) -> np.ndarray:
        """An array to be filled."""
        if not on_disk or 0 in shape:
            return np.empty(shape, dtype=dtype)
        with tempfile.TemporaryFile(prefix="chreode-") as file:
            return np.memmap(file, dtype=dtype, mode="w+", shape=shape)  # pyright: ignore[reportArgumentType, reportCallIssue]


def available_memory() -> int:
    """Bytes of memory that this process may still take; 8 GB where the system does not say."""
    candidates = []
    meminfo, cgroup = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if meminfo.is_file():
        sizes = dict(line.split(":") for line in meminfo.read_text().splitlines() if ":" in line)
        candidates.append(int(sizes.get("MemAvailable", "0 kB").split()[0]) * 1024)
    elif "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        candidates.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    if (cgroup / "memory.max").is_file() and (cgroup / "memory.stat").is_file():
        limit = (cgroup / "memory.max").read_text().strip()
        used = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        if limit.isdecimal():
            candidates.append(max(int(limit) - int(used.get("anon", 0)), 0))
    return min((c for c in candidates if c > 0), default=8 << 30)


def gather(
    matrix: Matrix,
    *,
    target: Int[np.ndarray, " f"],
    width: int,
    nnz: int,
    room: Room,
) -> tuple[CSR, Float[Tensor, " n"]]:
    """The chosen features as `CSR`, and the total of each cell over them.

    Parameters
    ----------
    matrix
        n cells by f features, read once (twice where columns lie together).
    target
        New position of each feature, -1 for one that is left out.
    width
        Number of new features ``g``.
    nnz
        Non-zeros of the chosen features.
    room
        Where the arrays are put.
    """
    n = matrix.shape[0]
    on_disk = room.reserve(nnz * 8)
    parts = Parts(
        np.zeros(n + 1, dtype=np.int64),
        room.empty((nnz,), np.int32, on_disk=on_disk),
        room.empty((nnz,), np.float32, on_disk=on_disk),
        np.zeros(n),
    )
    sort = not bool((np.diff(target[target >= 0]) > 0).all())
    fill = _by_rows if matrix.order == "rows" else _by_columns
    fill(matrix, target, parts, width if sort else None)
    csr = CSR(torch.from_numpy(parts.crow), torch.from_numpy(parts.col), torch.from_numpy(parts.value), width)
    return csr, torch.from_numpy(parts.total.astype(np.float32))


class Parts(NamedTuple):
    """The arrays of a CSR matrix, and the totals of its rows, to be filled in place."""

    crow: np.ndarray
    col: np.ndarray
    value: np.ndarray
    total: np.ndarray


def _by_rows(matrix: Matrix, target: np.ndarray, parts: Parts, width: int | None) -> None:
    cursor = 0
    for block in matrix.blocks():
        row, col, value = _chosen(block, target)
        if width is not None:
            order = np.argsort(row * width + col, kind="stable")
            row, col, value = row[order], col[order], value[order]
        parts.col[cursor : cursor + len(row)] = col
        parts.value[cursor : cursor + len(row)] = value
        cursor += len(row)
        _tally(row, value, parts)
    np.cumsum(parts.crow, out=parts.crow)


def _by_columns(matrix: Matrix, target: np.ndarray, parts: Parts, width: int | None) -> None:
    for block in matrix.blocks():
        row, _, value = _chosen(block, target)
        _tally(row, value, parts)
    np.cumsum(parts.crow, out=parts.crow)
    cursor = parts.crow[:-1].copy()
    for block in matrix.blocks():
        row, col, value = _chosen(block, target)
        order = np.argsort(row, kind="stable")
        row = row[order]
        each = np.bincount(row, minlength=len(cursor))
        place = (cursor - np.cumsum(each) + each)[row] + np.arange(len(row))
        parts.col[place], parts.value[place] = col[order], value[order]
        cursor += each
    if width is not None:
        _sort_rows(parts, width)


def _chosen(block: Block, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    col = target[block.col]
    here = col >= 0
    return block.row[here], col[here], block.value[here]


def _tally(row: np.ndarray, value: np.ndarray, parts: Parts) -> None:
    """Count the non-zeros of each row (not yet summed up) and add to its total."""
    if not len(row):
        return
    low, high = int(row.min()), int(row.max()) + 1
    parts.crow[low + 1 : high + 1] += np.bincount(row - low, minlength=high - low)
    parts.total[low:high] += np.bincount(row - low, value, minlength=high - low)


def _sort_rows(parts: Parts, width: int) -> None:
    """Sort the columns within every row, some rows at a time."""
    for start, stop in pairwise(cuts(parts.crow).tolist()):
        low, high = parts.crow[start], parts.crow[stop]
        row = np.repeat(np.arange(stop - start), np.diff(parts.crow[start : stop + 1]))
        order = np.argsort(row * width + parts.col[low:high], kind="stable")
        parts.col[low:high] = parts.col[low:high][order]
        parts.value[low:high] = parts.value[low:high][order]


def gather_dense(matrix: Matrix, *, target: np.ndarray, width: int, room: Room) -> Float[Tensor, "n g"]:
    """The chosen features as a dense array, for continuous values most of which are not zero."""
    shape = (matrix.shape[0], width)
    on_disk = room.reserve(shape[0] * shape[1] * 4)
    out = room.empty(shape, np.float32, on_disk=on_disk)
    if not on_disk:
        out[:] = 0
    for block in matrix.blocks():
        row, col, value = _chosen(block, target)
        out[row, col] = value
    return torch.from_numpy(out)
