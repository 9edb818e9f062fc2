"""Small, exact ways to put arrays of many cells into one page."""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["axis", "fold", "pack", "pack_text", "plain", "quantise", "unpack"]


def pack(array: np.ndarray) -> dict[str, Any]:
    """Compress an array of uint8, uint16 or float32 to text that the page's script reads.

    Little-endian bytes, gzip (without a time stamp: the same array gives the same text), base64.

    Parameters
    ----------
    array
        One-dimensional, uint8, uint16 or float32.

    Examples
    --------
    >>> unpack(pack(np.array([1, 2, 300], dtype=np.uint16))).tolist()
    [1, 2, 300]
    """
    kinds = {"uint8": "|u1", "uint16": "<u2", "float32": "<f4"}
    raw = np.ascontiguousarray(array, dtype=kinds[array.dtype.name]).tobytes()
    text = base64.b64encode(gzip.compress(raw, compresslevel=6, mtime=0)).decode("ascii")
    return {"type": array.dtype.name, "gzip": text}


def pack_text(lines: Sequence[str]) -> dict[str, Any]:
    """Compress many short strings, none of which can then hold a line break."""
    text = "\n".join(str(line).replace("\n", " ") for line in lines)
    squeezed = gzip.compress(text.encode(), compresslevel=6, mtime=0)
    return {"type": "text", "gzip": base64.b64encode(squeezed).decode("ascii")}


def unpack(packed: Mapping[str, Any]) -> np.ndarray:
    """Read what `pack` made, as the page's script does."""
    raw = gzip.decompress(base64.b64decode(packed["gzip"]))
    return np.frombuffer(raw, dtype=packed["type"])


def quantise(values: np.ndarray, *, levels: int) -> tuple[np.ndarray, float, float]:
    """Round values to evenly spaced levels between their least and greatest finite value.

    .. math:: q = \\mathrm{round}((v - v_{min}) / (v_{max} - v_{min}) \\cdot (L - 1))

    Parameters
    ----------
    values
        Any finite values; others become level 0.
    levels
        ``L``: at most 256 gives uint8, at most 65,536 uint16.

    Returns
    -------
    tuple
        The levels, the least value, and the step between two levels.

    Examples
    --------
    >>> q, low, step = quantise(np.array([0.0, 0.5, 1.0]), levels=3)
    >>> (low + step * q).tolist()
    [0.0, 0.5, 1.0]
    """
    values = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(values)
    low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
    step = (high - low) / (levels - 1) if high > low else 1.0
    q = np.where(finite, np.round((np.where(finite, values, low) - low) / step), 0)
    return q.astype(np.uint8 if levels <= 256 else np.uint16), low, step


def axis(values: np.ndarray) -> dict[str, Any]:
    """One coordinate of many points, in 65,536 steps."""
    q, low, step = quantise(values, levels=65536)
    return {"values": pack(q), "low": low, "step": step}


def fold(codes: np.ndarray, levels: Sequence[str], *, limit: int) -> tuple[np.ndarray, list[str]]:
    """Keep the most frequent levels, in their order, and fold the others into one.

    Parameters
    ----------
    codes
        Level of each cell, -1 for unknown.
    levels
        Names, by code.
    limit
        Levels to keep, below 254.

    Returns
    -------
    tuple
        uint8 codes (255 for unknown) and the names that remain.

    Examples
    --------
    >>> codes, names = fold(np.array([0, 1, 1, 2, -1]), ["a", "b", "c"], limit=1)
    >>> codes.tolist(), names
    ([1, 0, 0, 1, 255], ['b', 'other (2 levels)'])
    """
    codes = np.asarray(codes, dtype=np.int64)
    names = [str(level) for level in levels]
    keep = np.arange(len(names))
    if len(names) > limit:
        count = np.bincount(codes[codes >= 0], minlength=len(names))
        keep = np.sort(np.argsort(-count, kind="stable")[:limit])
    place = np.full(len(names) + 1, len(keep), dtype=np.int64)
    place[keep] = np.arange(len(keep))
    place[-1] = 255
    kept = [names[i] for i in keep]
    if len(names) > len(keep):
        kept.append(f"other ({len(names) - len(keep)} levels)")
    return place[codes].astype(np.uint8), kept


def plain(value: Any) -> Any:
    """JSON values of nested mappings, sequences and NumPy numbers; what is not finite becomes None.

    Examples
    --------
    >>> plain({"a": np.float32(0.5), "b": [float("nan"), True]})
    {'a': 0.5, 'b': [None, True]}
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return None if value is None else str(value)
