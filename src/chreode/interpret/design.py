"""Donors as replicates: which sums of cells are compared, and by which design."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chreode.errors import InputError
from chreode.words import many

__all__ = ["Design", "replicates_of"]


@dataclass(frozen=True)
class Design:
    """Sums of cells and how they are compared.

    Parameters
    ----------
    unit
        Of each cell, -1 for those left out, ``n``.
    matrix
        ``u x p``; the second column tells the first group from the second.
    paired
        Whether each donor has a level of its own.
    units
        Donor and group of each, and how many cells.
    words
        What the replicates are.
    """

    unit: np.ndarray
    matrix: np.ndarray
    paired: bool
    units: list[tuple[str, str, int]]
    words: str


def replicates_of(
    samples: np.ndarray, first: np.ndarray, second: np.ndarray, column: str, min_cells: int
) -> Design:
    """Sums by sample and group, paired where at least half of the samples (and two) have both.

    Parameters
    ----------
    samples
        Of each cell, None where unknown, ``n``.
    first, second
        Masks of the groups, ``n``.
    column
        What the samples are called.
    min_cells
        Fewest cells of a sum.

    Raises
    ------
    InputError
        When there are fewer than two samples to compare on either side.

    Examples
    --------
    >>> donors = np.array(list("aabbcc"), dtype=object)
    >>> group = np.array([1, 0, 1, 0, 1, 0], bool)
    >>> design = replicates_of(donors, group, ~group, "donor", 1)
    >>> design.words, design.matrix.astype(int).tolist()[:2]
    ('donor (3 pairs)', [[1, 1, 0, 0], [1, 1, 1, 0]])
    """
    known = sorted({str(s) for s in samples[samples != None]})  # noqa: E711  (by element)
    number = {name: i for i, name in enumerate(known)}
    of = np.array([-1 if s is None else number[str(s)] for s in samples])
    groups = (first & (of >= 0), second & (of >= 0))
    there = [np.bincount(of[mask], minlength=len(known)) for mask in groups]
    has = [np.flatnonzero(count >= min_cells) for count in there]
    both = np.intersect1d(has[0], has[1])
    paired = len(both) >= 2 and 2 * len(both) >= len(np.union1d(has[0], has[1]))
    if paired:
        has = [both, both]
    elif min(map(len, has)) < 2:
        msg = (
            f"Expected at least two levels of {column!r} with {many(min_cells, 'cell')} in each group; found "
            f"{len(has[0])} and {len(has[1])}. Name another column, lower min_cells, or leave sample out: "
            "cells are then the replicates."
        )
        raise InputError(msg)
    unit, units, rows = np.full(len(of), -1), [], []
    for side, (kept, mask) in enumerate(zip(has, groups, strict=True)):
        for one in kept:
            unit[mask & (of == one)] = len(units)
            units.append((known[one], ("group", "against")[side], int(there[side][one])))
            blocks = (both[1:] == one).astype(float) if paired else np.zeros(0)
            rows.append([1.0, 1.0 - side, *blocks])
    words = f"{len(both)} pairs" if paired else f"{len(has[0])} against {len(has[1])}"
    return Design(unit, np.array(rows), paired, units, f"{column} ({words})")
