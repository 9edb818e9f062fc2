"""The command that asks what a run's cells would be under another level of a condition."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

import chreode.recipes  # noqa: F401  (registers chreode's own)
from chreode.errors import InputError
from chreode.folder import check_fresh, fresh_file, kept_counts, model_folder
from chreode.io.schema import listing
from chreode.io.write import atomic_path
from chreode.load import load
from chreode.perturb.counterfactual import response, response_figure
from chreode.words import many

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd

    from chreode.fitted import FittedModel

__all__ = ["change_level"]

_SHOWN = 10
_FDR = 0.05


def change_level(
    folder: Path,
    out: Path | None,
    *,
    to: str,
    before: str | None,
    data: Path | None,
    overwrite: bool,
    asked: Mapping[str, Any],
) -> None:
    """Write which features a change of level would raise or lower as CSV, draw them, print the surest.

    Parameters
    ----------
    folder
        Of a finished run.
    out
        The CSV file to write, its figure beside; None is ``counterfactual/TO_WHERE.csv`` in the folder.
    to
        ``COLUMN=LEVEL``.
    before
        The level that cells have now; None takes the only other one.
    data
        The cells with their counts; None takes the file that was fitted, or the run's own copy.
    overwrite
        Whether what is there already may be replaced.
    asked
        ``where``, ``groups``, ``modality``, ``private``, ``draws`` and ``seed`` of `chreode.response`.
    """
    column, _, after = to.partition("=")
    if not column or not after:
        msg = f"Expected --set as COLUMN=LEVEL; found {to!r}. Write --set condition=stim, say."
        raise InputError(msg)
    where, facts = model_folder(folder)
    out = out or folder.expanduser() / "counterfactual" / f"{_file_name(to, asked['where'])}.csv"
    picture = out.with_suffix(".png")
    check_fresh(picture, suffix=".png", overwrite=overwrite)
    with fresh_file(out, suffix=".csv", overwrite=overwrite) as beside:
        model = load(where)
        condition: dict[str, Any] = {column: (before or _other(model, column, after), after)}
        source = data or kept_counts(folder.expanduser(), facts)
        show = sys.stderr.isatty()
        table = response(model, source=source, progress=show, **asked, **condition)
        table.to_csv(beside, index=False, lineterminator="\n")
        with atomic_path(picture) as drawn:
            response_figure(table).savefig(drawn, dpi=200)
    _tell(table)
    print(f"Written to {out}, with a figure in {picture.name}.")


def _file_name(to: str, where: str | None) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^\w.+=-]", "_", "_".join([to, *(["in", where] if where else [])]))[:150]


def _other(model: FittedModel, column: str, after: str) -> str:
    """The only other level of a column."""
    levels = model.layout.resolve(column).levels
    others = [level for level in levels if level != after]
    if after not in levels or len(others) != 1:
        known = listing(levels) if levels else "none, as it holds numbers"
        msg = f"Expected one of two levels of {column!r} ({known}); found {after!r}. Name a level, and with "
        raise InputError(msg + "--from the one that cells have now.")
    return others[0]


def _tell(table: pd.DataFrame) -> None:
    (column, (before, after)) = next(iter(table.attrs["condition"].items()))
    passed = int((table["q_value"] <= _FDR).sum())
    print(
        f"{column}: {before} to {after}, in {many(len(set(table['group'])), 'group')} "
        f"({many(int(table.drop_duplicates('group')['cells'].sum()), 'cell')}): {passed:,} of "
        f"{many(len(table), 'response')} pass a false discovery rate of {_FDR:g}."
    )
    effect = next(name for name in ("log2_fold_change", "change") if name in table)
    top = table.sort_values("p_value", kind="stable").head(_SHOWN)
    shown = Table(title=f"The {many(len(top), 'surest response')}: {effect.replace('_', ' ')}, expectations")
    for name in ("group", "feature"):
        shown.add_column(name, overflow="fold", min_width=8)
    for name in ("change", "from", "to", "q", "before", "after"):
        shown.add_column(name, justify="right", no_wrap=True)
    columns = [effect, "lower", "upper", "q_value", "before", "after"]
    values = np.asarray(top[columns], dtype=float)
    for group, feature, (change, lower, upper, q, *means) in zip(
        top["group"], top["feature"], values, strict=True
    ):
        numbers = [
            f"{change:+.2f}",
            f"{lower:+.2f}",
            f"{upper:+.2f}",
            f"{q:.2g}",
            *(f"{m:.3g}" for m in means),
        ]
        shown.add_row(Text(str(group)), Text(str(feature)), *numbers)
    Console().print(shown)
    print(
        f"Intervals: {table.attrs['source']}. Of one fit they are too narrow: chreode.response takes several."
    )
