"""The commands that test differences between groups of a run's cells, and sum their counts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

import chreode.recipes  # noqa: F401  (registers chreode's own)
from chreode.folder import file_name, fresh_file, fresh_table, kept_counts, model_folder
from chreode.interpret.differential import de, volcano_figure
from chreode.interpret.pseudobulk import pseudobulk
from chreode.load import load
from chreode.words import many

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd

__all__ = ["compare_groups", "sum_counts"]

_FDR = 0.05
_SHOWN = 10


def compare_groups(
    folder: Path, out: Path | None, *, data: Path | None, overwrite: bool, asked: Mapping[str, Any]
) -> None:
    """Write which features differ between two groups of cells as CSV, draw them, print the strongest.

    Parameters
    ----------
    folder
        Of a finished run.
    out
        The CSV file to write, its figure beside; None is ``de/GROUP_vs_AGAINST.csv`` in the folder.
    data
        The cells with their counts; None takes the file that was fitted, or the run's own copy.
    overwrite
        Whether what is there already may be replaced.
    asked
        ``group``, ``against``, ``within``, ``sample``, ``modality``, ``min_cells``, ``modelled`` and ``seed``
        of `chreode.de`.
    """
    where, facts = model_folder(folder)
    name = file_name(asked["group"], "vs", asked["against"], *_inside(asked))
    out = out or folder.expanduser() / "de" / f"{name}.csv"
    with fresh_table(out, overwrite=overwrite) as (beside, picture):
        source = data or kept_counts(folder.expanduser(), facts)
        table = de(load(where), source=source, progress=sys.stderr.isatty(), **asked)
        table.to_csv(beside, lineterminator="\n")
        volcano_figure(table, fdr=_FDR).savefig(picture, dpi=200)
    _tell(table)
    print(f"Written to {out}, with a figure in {out.with_suffix('.png').name}.")


def sum_counts(
    folder: Path,
    out: Path,
    *,
    by: Sequence[str],
    modality: str | None,
    min_cells: int,
    data: Path | None,
    overwrite: bool,
) -> None:
    """Write counts summed over the cells that agree in some columns.

    Parameters
    ----------
    folder
        Of a finished run.
    out
        The h5ad file to write.
    by, modality, min_cells
        As `chreode.pseudobulk` takes them.
    data
        The cells with their counts; None takes the file that was fitted, or the run's own copy.
    overwrite
        Whether ``out`` may be there already.
    """
    where, facts = model_folder(folder)
    with fresh_file(out, suffix=".h5ad", overwrite=overwrite) as beside:
        source = data or kept_counts(folder.expanduser(), facts)
        bulk = pseudobulk(load(where), by=by, modality=modality, min_cells=min_cells, source=source)
        bulk.write_h5ad(beside, compression="gzip")
    print(f"Wrote {many(bulk.n_obs, 'sum')} of {many(int(bulk.obs['n_cells'].sum()), 'cell')} to {out}.")


def _inside(asked: Mapping[str, Any]) -> list[str]:
    """What else tells this question from others of the same groups."""
    names = {"within": "in", "sample": "by", "modality": "of"}
    return [word for name, before in names.items() if asked[name] for word in (before, asked[name])]


def _tell(table: pd.DataFrame) -> None:
    """How many features differ, the strongest, and what the p-values count."""
    facts = table.attrs
    tested = many(int(table["p_value"].notna().sum()), "tested feature")
    passed = int((table["q_value"] <= _FDR).sum())
    inside = f" within {facts['within']}" if facts["within"] else ""
    print(
        f"{facts['group']} ({many(facts['cells'], 'cell')}) against {facts['against']} "
        f"({many(facts['cells_against'], 'cell')}){inside}: {passed:,} of {tested} of {facts['modality']} "
        f"differ at a false discovery rate of {_FDR:g}."
    )
    Console().print(_strongest(table))
    if facts["halved"]:
        print("Components were found with one half of the molecules and tested on the other.")
    if facts["replicates"] == "cells":
        print(
            "These p-values treat cells as replicates: they tell how these cells differ, not whether those "
            "of other donors would. Name a column of donors with --sample."
        )
    else:
        print(f"Replicates: {facts['replicates']}.")


def _strongest(table: pd.DataFrame) -> Table:
    top = table.head(_SHOWN).reset_index()
    title = f"The {many(len(top), 'smallest p-value')}: log2 fold change, means per ten thousand"
    shown = Table(title=title)
    shown.add_column(table.attrs["modality"], overflow="fold", min_width=9)
    for name in ("change", "lower", "upper", "p", "q", "mean", "against"):
        shown.add_column(name, justify="right", no_wrap=True)
    names = top["symbol" if "symbol" in top else "feature"]
    columns = ["log2_fold_change", "lower", "upper", "p_value", "q_value", "mean", "mean_against"]
    for name, values in zip(names, top[columns].to_numpy(), strict=True):
        effect, lower, upper, p, q, mean, against = values
        numbers = [f"{effect:+.2f}", f"{lower:+.2f}", f"{upper:+.2f}", f"{p:.2g}", f"{q:.2g}"]
        shown.add_row(Text(str(name)), *numbers, f"{mean:.3g}", f"{against:.3g}")
    return shown
