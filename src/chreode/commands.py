"""The commands that use a finished run; `chreode.cli` reads what was typed, and prints errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

import chreode.recipes  # noqa: F401  (registers chreode's own)
from chreode.errors import InputError
from chreode.evaluate.labels import write_labels
from chreode.folder import file_name, fitted_cells, fresh_file, model_folder, new_folder
from chreode.forecast import asked, before, clamped, decoded, expected_features, trajectories
from chreode.interpret.markers import markers
from chreode.io.annotate import annotated_copy, annotated_suffix
from chreode.io.read import read
from chreode.io.write import write_csv
from chreode.levels import add_levels as with_levels
from chreode.load import load
from chreode.recipe import BY_DATA, REQUIRED, defined, registry
from chreode.references import references
from chreode.words import listing, many, typed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import pandas as pd
    from anndata import AnnData

    from chreode.cells import Cells
    from chreode.embedded import Embedded
    from chreode.fitted import FittedModel

__all__ = ["export", "forecast", "project", "recipes", "report", "sample"]


def project(
    folder: Path,
    new: Path,
    out: Path,
    *,
    refine: int | None,
    add_levels: bool,
    expected: Sequence[str],
    labels: bool,
    overwrite: bool,
    reading: Mapping[str, Any],
) -> None:
    """Embed new cells with a run's model; write a copy of their file with codes, components and labels.

    Parameters
    ----------
    folder
        Of a finished run.
    new, out
        The new cells, and the h5ad file to write (h5mu where they are a MuData).
    refine
        Steps at most; None until converged.
    add_levels
        Whether levels that were not trained with get a component of their own.
    expected
        Modalities of which what is expected is written too.
    labels
        Whether labels are predicted, by a model that knows some.
    overwrite
        Whether ``out`` may be there already.
    reading
        ``counts``, ``batch``, ``label``, ``coordinates`` and ``modalities`` where they are called otherwise
        in ``new``.
    """
    if refine is not None and refine < 0:
        msg = f"Expected --refine of at least 0; found {refine}. Leave it out to go on until codes converge."
        raise InputError(msg)
    model = load(model_folder(folder)[0])
    for name in expected:
        model.embedded.modality(name)
    with fresh_file(out, suffix=annotated_suffix(new), overwrite=overwrite) as beside:
        cells = _read_like(model, new, add_levels=add_levels, **reading)
        if add_levels:
            before = model.layout.covariates
            model = with_levels(model, cells, progress=sys.stderr.isatty())
            for column, covariate in model.layout.covariates.items():
                if new_ones := covariate.levels[len(before[column].levels) :]:
                    print(f"A component was added for {listing(new_ones)} of {column!r}.")
        embedded = model.project(cells, refine=refine, progress=sys.stderr.isatty())
        table = _predicted(model, embedded) if labels else None

        def write(adata: AnnData) -> None:
            embedded.write(adata, expected=expected)
            if table is not None:
                write_labels(table, adata, recipe=embedded.recipe)

        annotated_copy(new, beside, write=write)
    print(f"Written to {out}.")


def _predicted(model: FittedModel, embedded: Embedded) -> pd.DataFrame | None:
    """Labels of new cells, where the model was told any."""
    if model.layout.in_role("label") is None:
        return None
    try:
        table = model.predict_labels(embedded, progress=sys.stderr.isatty())
    except InputError as error:
        print(f"Labels were not predicted. {error}")
        return None
    strange = many(int((table["outlier"] > 0.95).sum()), "cell")
    print(
        f"Labels were predicted; {strange} of {len(table)} lie further out than 95 % of the cells that were "
        "held out of the fit."
    )
    return table


def sample(folder: Path, out: Path, *, n: int, component: int | None, seed: int, overwrite: bool) -> None:
    """Draw cells from a run's model.

    Parameters
    ----------
    folder
        Of a finished run.
    out
        The h5ad file to write.
    n
        How many cells.
    component
        Draw from this one only.
    seed
        Of the draws.
    overwrite
        Whether ``out`` may be there already.
    """
    for name, least, found in (("-n", 1, n), ("--seed", 0, seed)):
        if not least <= found < 2**32:
            msg = f"Expected {name} from {least} to 4,294,967,295; found {found}. Give another number."
            raise InputError(msg)
    model = load(model_folder(folder)[0])
    if component is not None and not model.components:
        msg = f"Expected a model with components; found {model.recipe.name} without. Leave --component out."
        raise InputError(msg)
    several = len(model.layout.modalities) > 1
    with fresh_file(out, suffix=".h5mu" if several else ".h5ad", overwrite=overwrite) as beside:
        drawn: Any = model.sample(n, component=component, seed=seed)
        (drawn.write if several else drawn.write_h5ad)(beside, compression="gzip")
    print(f"Wrote {many(n, 'cell')} drawn from {model.recipe.name} to {out}.")


def forecast(
    folder: Path,
    out: Path | None,
    *,
    to: float,
    source: Path | None,
    knock_out: Sequence[str],
    expected: bool,
    overwrite: bool,
    reading: Mapping[str, Any],
) -> None:
    """Write where cells are at another time, by a run's model.

    Parameters
    ----------
    folder
        Of a finished run.
    out
        The h5ad file to write; None is ``forecasts/TIME.h5ad`` in the folder, with what is knocked out.
    to
        The time.
    source
        The cells that set out; None takes the fitted ones of the last measured time before.
    knock_out
        Features that are held at 0.
    expected
        Whether what the model expects of the features goes into ``X``.
    overwrite
        Whether ``out`` may be there already.
    reading
        ``counts``, ``batch``, ``time`` and ``coordinates`` where they are called otherwise in ``source``.
    """
    model = load(model_folder(folder)[0])
    progress = sys.stderr.isatty()
    name = file_name("_without_".join([f"{to:g}", *knock_out]), *(["from", source.stem] if source else []))
    out = out or folder.expanduser() / "forecasts" / f"{name}.h5ad"
    clamp = clamped(model.embedded, knock_out)
    with fresh_file(out, suffix=".h5ad", overwrite=overwrite) as beside:
        if source is None:
            start, which = model.embedded, before(model.embedded, to)
        else:
            asked(model.embedded, [to])  # refuses a time, or a model without dynamics, before cells are read
            cells = _read_like(model, source, **reading)
            start, which = model.project(cells, progress=progress), None
        codes = trajectories(start, [to], which=which, clamp=clamp, progress=progress)
        values = decoded(model.embedded, codes)[0] if expected else None
        there = _at_time(start, slice(None) if which is None else which, codes[0], values, to=to)
        there.write_h5ad(beside, compression="gzip")
    print(f"Wrote {many(len(there), 'cell')}, moved to {to:g} by {model.recipe.name}, to {out}.")


def _read_like(model: FittedModel, source: Path, **reading: Any) -> Cells:
    """New cells, and a word on what was found in them."""
    cells = read(source, like=model, **reading)
    print(f"Read {many(len(cells), 'cell')} from {source}.", *map(typed, cells.reading.messages), sep="\n")
    return cells


def _at_time(
    start: Embedded, which: Any, codes: np.ndarray, values: np.ndarray | None, *, to: float
) -> AnnData:
    """Cells under their names with their codes at another time, and what is expected of them there."""
    import anndata as ad
    import pandas as pd

    time: Any = start.cells.layout.in_role("time")
    obs = pd.DataFrame(
        {time.column: start.cells.time[which].cpu().numpy(), "to": to},
        index=pd.Index(start.names[which].astype(str)),
    )
    var = None if values is None else pd.DataFrame(index=pd.Index(expected_features(start)))
    there = ad.AnnData(values, obs=obs, var=var)
    there.obsm[f"X_{start.recipe}"] = codes
    return there


def report(folder: Path, *, data: Path | None, gene_sets: Path | None = None) -> None:
    """Write a run's page again.

    Parameters
    ----------
    folder
        Of a finished run.
    data
        The cells with their counts; None takes the file that was fitted, or the run's own copy.
    gene_sets
        A GMT file, for a section on gene sets.
    """
    from chreode.report import write_report

    where, facts = model_folder(folder)
    if not facts:
        msg = (
            f"Expected the folder of a chreode fit at {folder}; found a model alone. Use report.write_report."
        )
        raise InputError(msg)
    model = load(where)
    cells = fitted_cells(folder, facts, model=model, data=data)
    try:
        scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = (
            f"Expected scores in {folder / 'scores.json'}; found that they cannot be read ({error}). "
            "Fit again with --overwrite."
        )
        raise InputError(msg) from None
    title = Path(facts["call"]["file"]).name
    about = {"scores": scores, "command": facts["command"], "title": title, "gene_sets": gene_sets}
    out = write_report(
        folder / "report.html", model=model, cells=cells, **about, progress=sys.stderr.isatty()
    )
    print(f"Written to {out}.")


def export(folder: Path, *, out: Path | None, overwrite: bool) -> None:
    """Write codes, components and probabilities of the fitted cells, and markers of the components, as CSV.

    Components of a supervised fit go by the names of their levels.

    Parameters
    ----------
    folder
        Of a finished run.
    out
        Where; None is ``csv`` in the folder.
    overwrite
        Whether tables that are there may be replaced.
    """
    import pandas as pd

    where, _ = model_folder(folder)
    model = load(where)
    embedded, out = model.embedded, out or folder / "csv"
    index = pd.Index(embedded.names, name="cell")

    def wide(values: np.ndarray, prefix: str, names: Sequence[str]) -> pd.DataFrame:
        columns = pd.Index([f"{prefix}_{name}" for name in names])
        return pd.DataFrame(values, index=index, columns=columns)

    tables = {
        "codes" if name == model.code else file_name(f"codes_{name}"): wide(
            values, "code", [str(i) for i in range(values.shape[1])]
        )
        for name, values in embedded.embeddings.items()
    }
    if model.components:
        called = embedded.component_names
        chosen = pd.Categorical.from_codes(embedded.components(), categories=called)
        both = {"component": chosen, "trained": embedded.trained}
        tables["components"] = pd.DataFrame(both, index=index)
        tables["probabilities"] = wide(embedded.probabilities(), "component", called)
        marked = {name: markers(embedded, modality=name) for name in model.layout.modalities}
        tables["markers"] = pd.concat(marked, names=["modality"]).droplevel(1)
    there = [name for name in tables if (out / f"{name}.csv").exists()]
    if there and not overwrite:
        msg = f"Expected a new folder; found {there[0]}.csv in {out}. Add --overwrite to replace the tables."
        raise InputError(msg)
    with new_folder(out):
        for name, table in tables.items():
            write_csv(table, out / f"{name}.csv")
    print(f"Wrote {', '.join(f'{name}.csv' for name in tables)} to {out}.")
    if not model.components:
        print(f"{model.recipe.name} has no components: there is nothing of them to write.")


def recipes(name: str | None) -> None:
    """Print the recipes, or the arguments of one with their defaults and meanings."""
    if name is not None:
        definition = defined(name)
        table = Table("argument", "default", title=f"chreode fit FILE --recipe {name} --set argument=value")
        table.add_column("what it is", overflow="fold")
        meanings = definition.meanings
        for argument, value in definition.defaults.items():
            table.add_row(argument, Text(_as_default(value)), Text(meanings.get(argument, "")))
        Console().print(table)
        return
    table = Table("recipe", title="Recipes")
    table.add_column("what it is, and whom to cite", overflow="fold")
    for known in sorted(registry):
        definition = registry[known]
        # A line each: in a column of their own DOIs break, and cannot be copied.
        cited = "\n".join(_citation(key) for key in definition.cite)
        table.add_row(known, Text(definition.summary).append(f"\n{cited}", style="dim"))
    Console().print(table)


def _as_default(value: Any) -> str:
    if value is REQUIRED:
        return "none: required"
    return BY_DATA if value is None else json.dumps(value)


def _citation(key: str) -> str:
    """Author, year, journal and DOI of a reference, from its BibTeX."""
    found = {}
    for line in references[key].splitlines():
        name, equals, value = line.partition(" = ")
        if equals:
            found[name.strip()] = value.strip().rstrip(",").strip("{}")
    authors = [author.split(",")[0] for author in found.get("author", "").split(" and ") if author]
    many = " et al." if len(authors) > 2 else ""
    who = " and ".join(authors[:2]) if not many else authors[0]
    parts = [f"{who}{many} {found.get('year', '')}".strip(), found.get("journal", "")]
    if "doi" in found:
        parts.append(f"doi:{found['doi']}")
    return ", ".join(part for part in parts if part)
