"""A first look at every stored value: whether the values are what they should be, and how many there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chreode.axes import Bool, Float, Int
from chreode.errors import InputError
from chreode.words import listing

if TYPE_CHECKING:
    from chreode.io.matrix import Block
    from chreode.io.schema import Values
    from chreode.io.source import Field, Source

__all__ = ["Survey", "silent", "survey"]

EXACT = 1 << 24
"""Float32 holds every whole number up to here."""
# A batch in which so many cells should have a feature, and none has, was hardly measured in it.
_EXPECTED = 20
# Sexes and species of donors silence some features too: up to this share of all nothing is said.
_SILENT = 0.02


class Survey(NamedTuple):
    """Totals of a matrix.

    Parameters
    ----------
    total
        Sum of each cell, ``n``.
    by_cell, by_feature
        Non-zeros of each cell, ``n``, and of each feature, ``g``.
    largest
        The largest value; NaN where values are missing.
    seen
        Which features are anywhere but zero in each group of cells, ``groups x g``; None without groups.
    """

    total: Float[np.ndarray, " n"]
    by_cell: Int[np.ndarray, " n"]
    by_feature: Int[np.ndarray, " g"]
    largest: float
    seen: Bool[np.ndarray, "b g"] | None = None


def survey(
    field: Field,
    source: Source,
    *,
    key: str,
    values: Values,
    empty: bool = False,
    of: str | None = None,
    group: Int[np.ndarray, " n"] | None = None,
) -> Survey:
    """Read every stored value once and refuse those that are not what they should be.

    Parameters
    ----------
    field
        The matrix, n cells by g features.
    source
        Where it is from: other fields are looked at when this one does not hold counts.
    key
        Its name in the source.
    values
        What the values must be.
    empty
        Whether there may be nothing but zeros.
    of
        The modality, where the source has others: the remedy is then for it alone.
    group
        The group of each cell, for ``seen``.

    Raises
    ------
    InputError
        For infinite, negative or fractional values, for NaN where values are not continuous, and for nothing
        but zeros (unless ``empty``).
    """
    n, g = field.matrix.shape
    total, by_cell, by_feature = np.zeros(n), np.zeros(n, dtype=np.int64), np.zeros(g, dtype=np.int64)
    largest = 0.0
    seen = None if group is None else np.zeros((int(group.max()) + 1, g), dtype=bool)
    for block in field.matrix.blocks():
        fault = _fault(block, values)
        if fault is not None:
            raise InputError(_refusal(fault, block, field, source, key, values, of))
        low, high = int(block.row.min()), int(block.row.max()) + 1
        row = block.row - low
        total[low:high] += np.bincount(row, block.value, minlength=high - low)
        by_cell[low:high] += np.bincount(row, minlength=high - low)
        by_feature += np.bincount(block.col, minlength=g)
        if seen is not None and group is not None:
            seen[group[block.row], block.col] = True
        largest = float(np.maximum(largest, block.value.max()))  # NaN where any is
    if not (empty or by_feature.any()):
        msg = f"Expected values in {key} of {source.name}; found nothing but zeros."
        raise InputError(msg + _elsewhere(source, key, of))
    return Survey(total, by_cell, by_feature, largest, seen)


def silent(found: Survey, group: Int[np.ndarray, " n"]) -> dict[int, Int[np.ndarray, " s"]]:
    """Features that a group of cells should have by what the other groups have, and that none of it has.

    A group whose cells have :math:`N_b` of the others' :math:`N` non-zeros should have :math:`c_g N_b / N` of
    the :math:`c_g` of a feature. Concatenating tables with other features fills in such zeros. Groups in
    which few features are silent are left out.
    """
    if found.seen is None:
        return {}
    inside = np.bincount(group, found.by_cell, minlength=len(found.seen))
    share = inside / np.maximum(inside.sum() - inside, 1)
    least = _SILENT * len(found.by_feature)
    which = {
        int(b): np.flatnonzero(~found.seen[b] & (found.by_feature * share[b] >= _EXPECTED))
        for b in np.flatnonzero(inside)
    }
    return {b: features for b, features in which.items() if len(features) > least}


def _fault(block: Block, values: Values) -> tuple[str, int] | None:
    """What is wrong with a block, and where first."""
    value = block.value
    limit = np.finfo(np.float32).max
    tests = {"infinite values": np.isinf(value)}
    if values != "continuous":  # of which some may be missing
        tests = {"NaN": np.isnan(value), **tests}
    if values == "continuous":
        tests["values beyond 32-bit floats"] = np.abs(value) > limit
    else:
        tests["negative values"] = value < 0
        tests["values that are not whole numbers"] = value != np.rint(value)
    if values == "binary":
        tests["values other than 0 and 1"] = value != 1
    for what, wrong in tests.items():
        if wrong.any():
            return what, int(np.argmax(wrong))
    return None


def _refusal(
    fault: tuple[str, int],
    block: Block,
    field: Field,
    source: Source,
    key: str,
    values: Values,
    of: str | None,
) -> str:
    what, at = fault
    expected = {
        "counts": "counts (0, 1, 2, ...)",
        "binary": "only 0 and 1",
        "continuous": "finite values",
    }[values]
    where = f"{block.value[at]:g} for cell {source.cells.names[block.row[at]]!r}, feature " + (
        f"{field.features.names[block.col[at]]!r}"
    )
    text = f"Expected {expected} in {key} of {source.name}; found {what} ({where})."
    if what in ("NaN", "infinite values", "values beyond 32-bit floats"):
        return f"{text} Find out where they come from, and replace them or leave out these cells or features."
    if values == "binary":
        return f"{text} Binarise first, or read counts as counts."
    return text + _history(block.value) + _elsewhere(source, key, of)


def _history(value: np.ndarray) -> str:
    """What was probably done to these values."""
    if (value < 0).any():
        return " They look scaled or centred."
    if np.abs(value - np.rint(value)).max() < 1e-3:
        return " They are whole numbers but for rounding: adata.X = round(adata.X) mends that."
    return " They look log-normalised." if value.max() < 25 else " They look normalised."


def _elsewhere(source: Source, key: str, of: str | None) -> str:
    """Which other field holds counts, if one does; an argument ``of`` one modality leaves others alone."""

    def given(argument: str, value: str) -> str:
        return f"{argument}={value!r}" if of is None else f"{argument}={{{of!r}: {value!r}}}"

    holding = [name for name in source.fields if name != key and _holds_counts(source, name)]
    if holding:
        choice = " or ".join(given("counts", name) for name in holding)
        return f" Counts are in {listing(holding)}: read with {choice}."
    return (
        " No other layer holds counts: read the file as it was before normalisation, or give "
        f"{given('values', 'continuous')} with a recipe that models such values."
    )


def _holds_counts(source: Source, name: str) -> bool:
    """Whether the first block of a field with values holds counts only."""
    try:
        first = next(source.field(name).matrix.blocks(), None)
    except InputError:
        return False
    return first is not None and _fault(first, "counts") is None
