"""The command that asks what a run's cells would be under another level of a condition."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

import chreode.recipes  # noqa: F401  (registers chreode's own)
from chreode.errors import InputError
from chreode.folder import file_name, fresh_table, kept_counts, model_folder
from chreode.interpret.asked import column_level
from chreode.io.opening import open_source
from chreode.load import load
from chreode.perturb.answers import response, response_figure, surest, tested
from chreode.words import listing, many

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from chreode.fitted import FittedModel

__all__ = ["change_level"]

_SHOWN = 10
_FDR = 0.05


def change_level(
    folders: Sequence[Path],
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
    folders
        Of finished runs: fits of the same cells, at least three of which tell how sure a fit is.
    out
        The CSV file to write, its figure beside; None is ``counterfactual/TO.csv`` in the first folder, with
        what else was asked.
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
    column, after = column_level(to, name="--set", such_as="--set condition=stim")
    where, facts = zip(*(model_folder(folder) for folder in folders), strict=True)
    out = out or folders[0].expanduser() / "counterfactual" / f"{_name(to, before, len(folders), asked)}.csv"
    with fresh_table(out, overwrite=overwrite) as (beside, picture):
        models = [load(path) for path in where]
        condition: dict[str, Any] = {column: (before or _other(models[0], column, after), after)}
        source = data or kept_counts(folders[0].expanduser(), facts[0])
        _refuse_others(folders, models, source)
        table = response(models, source=source, progress=sys.stderr.isatty(), **asked, **condition)
        table.to_csv(beside, index=False, lineterminator="\n")
        response_figure(table).savefig(picture, dpi=200)
    _tell(table, grouped=asked["groups"] is not None)
    print(f"Written to {out}, with a figure in {out.with_suffix('.png').name}.")


def _name(to: str, before: str | None, fits: int, asked: Mapping[str, Any]) -> str:
    """What tells this question from others that may be put to the same runs."""
    words = {"from": before, "in": asked["where"], "by": asked["groups"], "of": asked["modality"]}
    words |= {"with": asked["private"] if asked["private"] != "transport" else None}
    told = [part for word, value in words.items() if value for part in (word, value)]
    return file_name(to, *told, *([f"{fits}_fits"] if fits > 1 else []))


def _other(model: FittedModel, column: str, after: str) -> str:
    """The only other level of a column."""
    levels = model.layout.resolve(column).levels
    others = [level for level in levels if level != after]
    if after not in levels or len(others) != 1:
        known = listing(levels) if levels else "none, as it holds numbers"
        msg = f"Expected one of two levels of {column!r} ({known}); found {after!r}. Name a level, and with "
        raise InputError(msg + "--from the one that cells have now.")
    return others[0]


def _refuse_others(folders: Sequence[Path], models: Sequence[FittedModel], source: Path) -> None:
    """Name the folder of a model that was fitted on cells that are not in the source."""
    with open_source(source) as opened:
        there = np.asarray(opened.cells.names).astype(str)
    for folder, model in zip(folders, models, strict=True):
        names = np.asarray(model.embedded.names).astype(str)
        lost = names[~np.isin(names, there)]
        if len(lost):
            msg = (
                f"Expected fits of the cells in {source}; found a fit of others in {folder}: "
                f"{listing(lost, limit=3)}. Leave this folder out, or name its cells with --data FILE."
            )
            raise InputError(msg)


def _tell(table: pd.DataFrame, *, grouped: bool) -> None:
    (column, (before, after)) = next(iter(table.attrs["condition"].items()))
    groups = table.drop_duplicates("group")
    sure = tested(table)
    passed = f"{int((table['q_value'] <= _FDR).sum()):,} of {many(len(table), 'response')} pass a false "
    print(
        f"{column}: {before} to {after}, in {many(len(groups), 'group')} "
        f"({many(int(groups['cells'].sum()), 'cell')})"
        + (f": {passed}discovery rate of {_FDR:g}." if sure else ".")
    )
    Console().print(_strongest(table))
    known = bool(table["lower"].notna().any())
    print(f"Intervals: {table.attrs['source'] if known else 'none, as no codes were drawn'}.")
    if not sure:
        print(
            "Of fewer than three fits they are too narrow, and there are no p-values: name several fits, of "
            "other seeds, or give chreode.response those of cells drawn again."
        )
    unseen = list(groups["group"][groups["seen"] == 0])
    if unseen and not grouped:
        print(f"No cell of the question was seen under {after}: the response is predicted from others.")
    elif unseen:
        print(f"Never seen under {after}, predicted from others: {listing(unseen)}.")


def _strongest(table: pd.DataFrame) -> Table:
    effect = next(name for name in ("log2_fold_change", "change") if name in table)
    top = surest(table).head(_SHOWN)
    which = "surest" if tested(table) else "strongest"
    shown = Table(
        title=f"The {many(len(top), f'{which} response')}: {effect.replace('_', ' ')}, expectations"
    )
    for name in ("group", "feature"):
        shown.add_column(name, overflow="fold", min_width=8)
    known = ["q_value"] if tested(table) else []
    for name in ("change", "lower", "upper", *(["q"] if known else []), "before", "after"):
        shown.add_column(name, justify="right", no_wrap=True)
    values = np.asarray(top[[effect, "lower", "upper", *known, "before", "after"]], dtype=float)
    for group, feature, row in zip(top["group"], top["feature"], values, strict=True):
        ends, means = row[:3], row[3:]
        numbers = [*(f"{end:+.2f}" for end in ends), *(f"{mean:.3g}" for mean in means)]
        shown.add_row(Text(str(group)), Text(str(feature)), *numbers)
    return shown
