"""Columns that describe cells, brought to level numbers or standardised values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from chreode.axes import Tensor
from chreode.errors import InputError
from chreode.layout import Covariate, Role
from chreode.words import level_name, listing, many, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from chreode.io.source import Source

__all__ = ["Column", "labelled", "learn", "not_trained_with", "reuse"]

_NO_LABEL = {"unknown", "unlabeled", "unlabelled", "unassigned", "undefined", "nan", "na", "none", ""}
_BATCHES = 50  # so many are never refused, however few cells each of them has


class Column(NamedTuple):
    """A covariate, the value of each cell, and what there was to say."""

    covariate: Covariate
    values: Tensor
    messages: tuple[str, ...] = ()


def learn(source: Source, name: str, *, role: Role, unlabelled: str | None = None) -> Column:
    """Read a column for training: its levels, or its location and scale, are taken from these cells.

    A batch or label is categorical whatever its type. A covariate is continuous when its column is
    numeric and categorical otherwise (make a number that is a code a category first).

    Parameters
    ----------
    source
        Where the column is.
    name
        Its name.
    role
        What it is for.
    unlabelled
        Level of a label that means that there is none.

    Raises
    ------
    InputError
        When the column is absent, a batch is missing in some cells, nothing is known in any cell, there are
        more than 50 batches of fewer than five cells on average, or values are of a type that can be neither
        levels nor numbers.
    """
    column = _find(source, name)
    if role == "label":
        column = labelled(column, unlabelled)
    missing = column.isna().to_numpy()
    if role == "batch" and missing.any():
        first = source.cells.names[missing][:3]
        msg = (
            f"Expected a batch for every cell in column {name!r}; found {int(missing.sum()):,} of "
            f"{len(column):,} cells without one (first: {listing(first)}). Fill them in, or leave these "
            "cells out."
        )
        raise InputError(msg)
    if missing.all():
        msg = f"Expected values in column {name!r} ({role}); found none in any cell. Leave the column out."
        raise InputError(msg)
    if role == "time":
        return _times(column, name)
    if role == "growth":
        return _rates(column, name)
    said = _missing(name, missing)
    if role == "covariate" and _numeric(column):
        numbers = _numbers(column, name)
        location, scale = float(np.nanmean(numbers)), float(np.nanstd(numbers))
        covariate = Covariate(name, role, location=location, scale=scale if scale > 0 else 1.0)
        return Column(covariate, _standardised(numbers, covariate), said)
    levels = _levels(column, name, role)
    if role == "batch":
        _refuse_single(name, len(levels), cells=len(column))
    if role == "label":
        said += _unsaid(name, levels, unlabelled)
    covariate = Covariate(name, role, levels=levels)
    return Column(covariate, _numbered(_level_text(column), missing, levels), said)


def _times(column: pd.Series, name: str) -> Column:
    """When every cell was measured, in numbers."""
    numbers = _numbers(column, name, what="a time")
    if missing := int(np.isnan(numbers).sum()):
        msg = (
            f"Expected a time for every cell in column {name!r}; found {many(missing, 'cell')} without one. "
            "Fill them in, or leave these cells out."
        )
        raise InputError(msg)
    covariate = Covariate(name, "time", times=tuple(np.unique(numbers).tolist()))
    return Column(covariate, _standardised(numbers, covariate), ())


def _rates(column: pd.Series, name: str) -> Column:
    """How fast every cell's kind multiplies, in numbers."""
    numbers = _numbers(column, name, what="a growth rate")
    if missing := int(np.isnan(numbers).sum()):
        msg = (
            f"Expected a growth rate for every cell in column {name!r}; found {many(missing, 'cell')} "
            "without one. Fill them in (0 for cells that keep their number), or leave these cells out."
        )
        raise InputError(msg)
    covariate = Covariate(name, "growth")
    return Column(covariate, _standardised(numbers, covariate), ())


def labelled(column: pd.Series, unlabelled: str | None) -> pd.Series:
    """The same column, where a level means that there is no label missing in its cells."""
    return column if unlabelled is None else column.where(_level_text(column) != unlabelled)


def reuse(
    source: Source,
    covariate: Covariate,
    *,
    column: str | None = None,
    add_levels: bool = False,
    unlabelled: str | None = None,
) -> Column:
    """Read a column under the levels, or the location and scale, of the training cells.

    A column that is absent, a missing value and a level that training did not know are all unknown.

    Parameters
    ----------
    source
        Where the column is.
    covariate
        What training knows.
    column
        Its name in this source, when it has another one here.
    add_levels
        Whether levels that training did not know come after those it knew; those of a label never do.
    unlabelled
        As of `learn`.

    Raises
    ------
    InputError
        When a column that is named here is absent, or holds text where training saw numbers.
    """
    name = column or covariate.column
    if column is None and name not in source.cells.columns:
        fill = torch.full((len(source.cells),), -1 if covariate.categorical else float("nan"))
        values = fill.long() if covariate.categorical else fill.float()
        said = f"There is no column {name!r} ({covariate.role}): it is unknown for every cell."
        return Column(covariate, values, (said,))
    found = _find(source, name)
    if covariate.role == "label":
        found, add_levels = labelled(found, unlabelled), False
    missing = found.isna().to_numpy()
    if not covariate.categorical:
        return Column(covariate, _standardised(_numbers(found, name), covariate), _missing(name, missing))
    levels = _level_text(found)
    new = sorted(set(levels[~missing].tolist()) - set(covariate.levels))
    if add_levels:
        covariate = replace(covariate, levels=(*covariate.levels, *new))
    values = _numbered(levels, missing, covariate.levels)
    said = _missing(name, missing)
    if new and not add_levels:
        said += (not_trained_with(new, covariate, int(((values < 0).numpy() & ~missing).sum()), name=name),)
        if covariate.role == "perturbation":
            said += ("Nothing is held in these cells: name what is with knock_out= (--knock-out).",)
    return Column(covariate, values, said)


def not_trained_with(new: Sequence[str], covariate: Covariate, cells: int, *, name: str) -> str:
    """What is said of levels that a model does not know, in a column of this name."""
    be = "is a level" if len(new) == 1 else "are levels"
    return (
        f"{listing(new)} in column {name!r} ({covariate.role}) {be} the model was not trained with: unknown "
        f"for {many(cells, 'cell')}."
    )


def _find(source: Source, name: str) -> pd.Series:
    columns = source.cells.columns
    if name not in columns:
        msg = (
            f"Expected a column {name!r} in the cell table of {source.name}; found "
            f"{'columns ' if columns else ''}{listing(columns, limit=30)}.{nearest(name, columns)}"
        )
        raise InputError(msg if columns else f"{msg} Give data whose obs has it.")
    return source.cells.column(name)


def _refuse_single(name: str, levels: int, *, cells: int) -> None:
    """Refuse batches that are hardly more than a cell each: a cell's name or a number, by mistake."""
    if levels <= max(_BATCHES, cells / 5):
        return
    msg = (
        f"Expected batches of several cells each in column {name!r}; found {levels:,} levels in {cells:,} "
        "cells. Name the column of the batches, or read a number as a covariate (covariates=, --covariate)."
    )
    raise InputError(msg)


def _unsaid(name: str, levels: tuple[str, ...], unlabelled: str | None) -> tuple[str, ...]:
    """What is said of a level that sounds as if it meant that there is no label."""
    named = [level for level in levels if level.casefold() in _NO_LABEL]
    return tuple(
        f"{level!r} in column {name!r} (label) is a label like any other; unlabelled={level!r} leaves its "
        "cells without one."
        for level in named
        if unlabelled is None
    )


def _missing(name: str, missing: np.ndarray) -> tuple[str, ...]:
    if not missing.any():
        return ()
    return (f"Column {name!r} is missing in {many(int(missing.sum()), 'cell')}, where it is unknown.",)


def _numeric(column: pd.Series) -> bool:
    from pandas.api import types

    if types.is_bool_dtype(column.dtype) or isinstance(column.dtype, _categorical()):
        return False
    if types.is_numeric_dtype(column.dtype):
        return True
    return types.infer_dtype(column, skipna=True) in ("floating", "mixed-integer-float", "decimal")


def _categorical() -> type:
    import pandas as pd

    return pd.CategoricalDtype


def _numbers(column: pd.Series, name: str, *, what: str = "continuous") -> np.ndarray:
    import pandas as pd

    plain = column.astype(object).where(column.notna(), np.nan)
    try:
        numbers = np.asarray(pd.to_numeric(plain), dtype=np.float64)
    except (ValueError, TypeError) as error:
        msg = f"Expected numbers in column {name!r}, which is {what}; found other values ({error}). Write "
        msg += "numbers there, all in one unit."
        raise InputError(msg) from error
    if np.isinf(numbers).any():
        count = int(np.isinf(numbers).sum())
        msg = (
            f"Expected finite numbers in column {name!r}; found {count:,} infinite. Replace them or set "
            "them to NaN."
        )
        raise InputError(msg)
    return numbers


def _standardised(numbers: np.ndarray, covariate: Covariate) -> Tensor:
    return torch.from_numpy(((numbers - covariate.location) / covariate.scale).astype(np.float32))


def _level_text(column: pd.Series) -> np.ndarray:
    """Level names: 1, 1.0 and True read as text, the same from whatever type they come."""
    codes, uniques = _factorised(column)
    names = np.asarray([*(level_name(level) for level in uniques), ""], dtype=object)
    return np.asarray(names[codes], dtype=object)


def _factorised(column: pd.Series) -> tuple[np.ndarray, list[object]]:
    import pandas as pd

    codes, uniques = pd.factorize(column.astype(object))
    return codes, list(uniques)


def _levels(column: pd.Series, name: str, role: Role) -> tuple[str, ...]:
    """Level names in order: that of the categories, of numbers, or of the alphabet."""
    from pandas.api import types

    if types.is_datetime64_any_dtype(column.dtype):
        msg = f"Expected categories in column {name!r} ({role}); found dates. Turn them into text or numbers."
        raise InputError(msg)
    _, used = _factorised(column)
    broken = [v for v in used if isinstance(v, (float, np.floating)) and not float(v).is_integer()]
    if broken and not isinstance(column.dtype, _categorical()):
        msg = (
            f"Expected categories in column {name!r} ({role}); found numbers such as {broken[0]!r}. Make "
            "them "
            "categories (obs[name].astype('category')), or give the column as a covariate."
        )
        raise InputError(msg)
    if isinstance(column.dtype, _categorical()):
        position = {category: at for at, category in enumerate(column.cat.categories)}
        ordered = sorted(used, key=lambda level: position[level])
    elif all(isinstance(v, (int, float, np.integer, np.floating, bool, np.bool_)) for v in used):
        ordered = sorted(used, key=lambda level: float(level))  # pyright: ignore[reportArgumentType]
    else:
        ordered = sorted(used, key=level_name)
    return tuple(dict.fromkeys(level_name(level) for level in ordered))


def _numbered(names: np.ndarray, missing: np.ndarray, levels: tuple[str, ...]) -> Tensor:
    position = {level: at for at, level in enumerate(levels)}
    numbers = np.fromiter((position.get(name, -1) for name in names), dtype=np.int64, count=len(names))
    return torch.from_numpy(np.where(missing, -1, numbers))
