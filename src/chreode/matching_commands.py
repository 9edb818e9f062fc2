"""The command that ranks populations of a run's cells by their distance from a target."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

import chreode.recipes  # noqa: F401  (registers chreode's own)
from chreode.errors import InputError
from chreode.folder import file_name, fresh_table, kept_counts, model_folder
from chreode.interpret.asked import OWN, column_level
from chreode.interpret.match import match
from chreode.interpret.matches import match_figure
from chreode.load import load
from chreode.words import listing, many

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from chreode.fitted import FittedModel

__all__ = ["rank_systems"]

_SHOWN = 15


def rank_systems(
    folder: Path,
    out: Path | None,
    *,
    groups: Mapping[str, Sequence[str]],
    recommend: int | None,
    nearest: int | None,
    data: Path | None,
    overwrite: bool,
    asked: Mapping[str, Any],
) -> None:
    """Write how near each system is to a target as CSV, draw and print them, and a few that cover all.

    Parameters
    ----------
    folder
        Of a finished run.
    out
        The CSV file to write, its figure beside; None is ``matches/TARGET_by_SYSTEMS.csv`` in the folder.
    groups
        ``target`` and ``within``, each as several ``COLUMN=LEVEL``: of one column any of its levels.
    recommend, nearest
        As ``k`` and ``nearest`` of `chreode.interpret.Matches.recommend`; None recommends none, or of all.
    data
        The cells, for columns that were not read; None takes the file that was fitted, or the run's own copy.
    overwrite
        Whether what is there already may be replaced.
    asked
        ``systems``, ``latent``, ``metric``, ``cells``, ``bootstraps``, ``confidence``, ``top`` and ``seed``
        of `chreode.match`.
    """
    levels = {name: _levels(name, typed) for name, typed in groups.items() if typed}
    if nearest is not None and recommend is None:
        msg = f"Expected --recommend with --nearest {nearest}; found none. Say how many systems to propose."
        raise InputError(msg)
    where, facts = model_folder(folder)
    inside = ["in", *groups["within"]] if groups["within"] else []
    told = [asked[key] for key in ("latent", "metric") if asked[key] not in (None, "energy")]
    name = file_name(*groups["target"], "by", asked["systems"], *inside, *told)
    out = out or folder.expanduser() / "matches" / f"{name}.csv"
    with fresh_table(out, overwrite=overwrite) as (beside, picture):
        model, show = load(where), sys.stderr.isatty()
        columns = {asked["systems"], *(column for group in levels.values() for column in group)}
        source = data or (None if _all_read(model, columns) else kept_counts(folder.expanduser(), facts))
        found = match(model, **levels, **asked, source=source, progress=show)
        how = {"nearest": nearest, "seed": asked["seed"], "progress": show}
        chosen = None if recommend is None else found.recommend(recommend, **how)
        found.table.to_csv(beside, lineterminator="\n")
        match_figure(found).savefig(picture, dpi=200)
    _tell(found.table)
    if chosen is not None:
        _tell_chosen(chosen)
    print(f"Written to {out}, with a figure in {out.with_suffix('.png').name}.")


def _levels(name: str, typed: Sequence[str]) -> dict[str, list[str]]:
    """Levels by column, of several COLUMN=LEVEL."""
    found: dict[str, list[str]] = {}
    for one in typed:
        column, level = column_level(one, name=f"--{name}")
        found.setdefault(column, []).append(level)
    return found


def _all_read(model: FittedModel, columns: set[str]) -> bool:
    return all(column == OWN or model.layout.find(column) is not None for column in columns)


def _tell(table: pd.DataFrame) -> None:
    facts = table.attrs
    print(
        f"{many(len(table), 'level')} of {facts['systems']} by {facts['metric']} distance from "
        f"{facts['target']} ({many(facts['target_cells'], 'cell')}) in the code {facts['latent']!r}."
    )
    shown = Table(title=f"The {many(min(_SHOWN, len(table)), 'nearest system')}")
    shown.add_column(facts["systems"], overflow="fold", min_width=9)
    for name in ("distance", "lower", "upper", "in the top", "cells"):
        shown.add_column(name, justify="right", no_wrap=True)
    columns = table.head(_SHOWN)[["distance", "lower", "upper", "share_top", "cells"]]
    for name, values in zip(columns.index, columns.to_numpy(), strict=True):
        *ends, share, cells = values
        numbers = [*(f"{end:.3g}" for end in ends), f"{share:.0%}", f"{cells:,.0f}"]
        shown.add_row(Text(str(name)), *numbers)
    Console().print(shown)
    print(
        f"{facts['confidence']:.0%} of random halves of the target are {facts['floor']:.3g} apart or less. "
        "Intervals treat cells as replicates: they say nothing of other donors or cultures."
    )
    if facts["excluded"]:
        lost = listing([f"{name}: {n:,}" for name, n in facts["excluded"].items()])
        print(f"Cells of the target were left out of systems ({lost}).")
    if facts["left_out"]:
        few = listing(list(facts["left_out"]))
        print(f"Left out, for want of two cells that are not the target's: {few}.")


def _tell_chosen(chosen: pd.DataFrame) -> None:
    print(f"{many(len(chosen), 'system')} to cover the others:")
    for name, distance, others in zip(chosen.index, chosen["distance"], chosen["stands_for"], strict=True):
        print(f"  {name} (distance {distance:.3g}){f', for {listing(others)}' if others else ''}")
