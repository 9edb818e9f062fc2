"""The commands that fit: a run from what was asked to a folder of results."""

from __future__ import annotations

import json
import math
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import chreode.recipes  # noqa: F401  (registers chreode's own)
from chreode.errors import InputError
from chreode.evaluate import component_table, score_embedding
from chreode.evaluate.held_out import scores as held_out_scores
from chreode.fit import fit as fit_cells
from chreode.folder import Run, new_folder, write_json
from chreode.io.annotate import annotated_copy, annotated_suffix
from chreode.io.read import read
from chreode.io.write import atomic_path
from chreode.recipe import Recipe, named, parse
from chreode.words import many, typed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

    from chreode.cells import Cells
    from chreode.fitted import FittedModel

__all__ = ["Asked", "Stopped", "demo", "fit", "scores_of"]

DEMO = "the PBMC 68k subset bundled with scanpy"
ON_ALL = "embedding: on all cells"
NOTE = (
    "held_out: molecules of validation cells, which also decided when to stop training; for an untouched "
    f"judge, score cells that the fit never saw. {ON_ALL}"
)
SUPERVISED = (
    ". The fit is supervised: held_out hides the label while codes are inferred (stopping knew it), but the "
    "embedding was given it: its scores against the label show what was put in, not what was found"
)


class Stopped(Exception):
    """The user interrupted; the message says what is kept."""


@dataclass(frozen=True)
class Asked:
    """What ``chreode fit`` was asked for.

    Parameters
    ----------
    source
        A path; None for the demo's cells.
    recipe
        Its name.
    settings
        ``key=value`` for its arguments.
    reading
        Arguments of `chreode.read`.
    fitting
        Arguments of `chreode.fit`.
    """

    source: str | None
    recipe: str
    settings: tuple[str, ...] = ()
    reading: Mapping[str, Any] = field(default_factory=dict)
    fitting: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> Recipe:
        """The recipe with its arguments; refuses what can be refused without the data."""
        epochs, seed, device, validation = (
            self.fitting[name] for name in ("epochs", "seed", "device", "validation")
        )
        devices = ("auto", "cpu", "cuda", "mps")
        rules = {
            "--epochs": (epochs is None or epochs >= 1, "of at least 1", epochs),
            "--seed": (0 <= seed < 2**32, "from 0 to 4,294,967,295", seed),
            "--validation": (0 <= validation < 1, "from 0 to below 1", validation),
            "--device": (device in devices, f"among {', '.join(devices)}", device),
        }
        for name, (holds, expected, found) in rules.items():
            if not holds:
                msg = f"Expected {name} {expected}; found {found}. Leave it out to take the default."
                raise InputError(msg)
        there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
        if device in there and not there[device]():
            msg = f"Expected a {device} device; found none on this machine. Use --device auto, or cpu."
            raise InputError(msg)
        return named(self.recipe, parse(list(self.settings)))

    def call(self, recipe: Recipe) -> dict[str, Any]:
        """What must be the same for an unfinished run to be resumed."""
        call = {"file": self.path, "recipe": recipe.to_json(), **self.reading, **self.fitting}
        return json.loads(json.dumps(call))

    @property
    def path(self) -> str:
        """The source as an absolute path, or in words."""
        return DEMO if self.source is None else str(Path(self.source).expanduser().absolute())

    def open(self) -> Path | AnnData:
        """What `chreode.read` takes."""
        if self.source is not None:
            return Path(self.source).expanduser()
        from chreode.io.datasets import pbmc68k

        return pbmc68k()


def fit(
    asked: Asked, out: Path, *, overwrite: bool, page: bool, command: list[str]
) -> tuple[FittedModel, dict[str, Any]]:
    """Fit a recipe to a file, or go on with an interrupted fit; write everything into a folder.

    Parameters
    ----------
    asked
        File, recipe and arguments.
    out
        The run's folder.
    overwrite
        Whether a run in it may be replaced.
    page
        Whether to write ``report.html``.
    command
        What was typed.

    Returns
    -------
    The model and its scores.
    """
    recipe = asked.check()
    run = Run(out)
    call = asked.call(recipe)
    run.check(call, overwrite=overwrite)
    if run.facts and not run.finished and not overwrite:
        print(f"Resuming the run in {out}.")
    facts = {"command": shlex.join(command), "call": call}
    try:
        with new_folder(run.path, keep=lambda: run.resumable):
            source = asked.open()
            cells = read(source, **asked.reading)
            print(
                f"Read {many(len(cells), 'cell')} from {asked.source or DEMO}.",
                *map(typed, cells.reading.messages),
                sep="\n",
            )
            with run.training(facts, overwrite=overwrite) as checkpoint:
                model = fit_cells(
                    cells, recipe, **asked.fitting, checkpoint=checkpoint, progress=sys.stderr.isatty()
                )
        scores = _write(
            run, model, cells, source, page=page, title=Path(asked.path).name if asked.source else DEMO
        )
    except KeyboardInterrupt:
        kept = "the same command goes on from there" if run.resumable else "nothing had been trained yet"
        msg = f"Interrupted; {kept}."
        raise Stopped(msg) from None
    run.finish()
    what = "report.html" if page else f"cells{annotated_suffix(source)}"
    components = many(model.components, "component") if model.components else "no components"
    print(f"Fitted {recipe.name}: {components}, {many(len(model.history), 'epoch')}.")
    print(f"Written to {out}; look at {out / what}")
    return model, scores


def _write(
    run: Run, model: FittedModel, cells: Cells, source: Path | AnnData, *, page: bool, title: str
) -> dict[str, Any]:
    """Model, history, scores, annotated cells and report; each whole or not there."""
    model.save(run.path / "model")
    with atomic_path(run.path / "history.csv") as beside:
        model.history.to_csv(beside, index=False, lineterminator="\n")
    scores = scores_of(model, seed=run.facts["call"]["seed"])
    write_json(run.path / "scores.json", scores)
    with atomic_path(run.path / f"cells{annotated_suffix(source)}") as beside:
        annotated_copy(source, beside, write=model.write)
    where = run.path / "report.html"
    if not page:
        where.unlink(missing_ok=True)
        return scores
    from chreode.report import write_report

    about = {"scores": scores, "command": run.facts["command"], "title": title}
    write_report(where, model=model, cells=cells, **about, progress=sys.stderr.isatty())
    return scores


def _held_out(model: FittedModel, *, seed: int) -> dict[str, dict[str, float]]:
    """Scores of the cells that did not train, by modality."""
    cells = model.embedded.cells
    held = cells[np.flatnonzero(~model.embedded.trained & cells.counted.numpy())]
    modalities = [m for m in cells.layout.modalities if (held.size[m] * held.present[m] > 0).any()]
    try:
        return held_out_scores(model, held, modalities=modalities, seed=seed) if modalities else {}
    except InputError:
        return {}  # so few molecules that none fell into the scored half


def scores_of(model: FittedModel, *, seed: int) -> dict[str, Any]:
    """Honest scores of a fit whose cells have their counts, as JSON values.

    Parameters
    ----------
    model
        From `chreode.fit`.
    seed
        Of thinning, subsamples and starts.
    """
    embedded = model.embedded
    layout = embedded.cells.layout
    several = len(layout.modalities) > 1
    scores: dict[str, Any] = {}
    for name, found in _held_out(model, seed=seed).items():
        scores[f"held_out {name}" if several else "held_out"] = found
    known = {role: layout.in_role(role) for role in ("label", "batch")}
    levels = {
        role: embedded.level_names(c.column) if c is not None and c.categorical else None
        for role, c in known.items()
    }
    components = embedded.components() if model.components else None
    scores["embedding"] = score_embedding(
        embedded.embedding, labels=levels["label"], batches=levels["batch"], components=components, seed=seed
    )
    note = NOTE + SUPERVISED if model.module.latents[model.code].column else NOTE
    if not any(name.startswith("held_out") for name in scores):
        note = ON_ALL
    summary = model.summary
    scores["fit"] = {
        "recipe": model.recipe.name,
        "seed": seed,
        "components placed": model.components,
        "epochs": summary["epochs"],
        "seconds": summary["seconds"],
        "cells": summary["cells"],
        "cells trained": summary["trained"],
    }
    for name, described in layout.modalities.items():
        scores["fit"][f"features {name}" if several else "features"] = described.n_features
    return {**{name: _finite(group) for name, group in scores.items()}, "note": note}


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if not (isinstance(v, float) and not math.isfinite(v))}


def demo(out: Path, *, command: list[str]) -> None:
    """Fit scDGD to 700 blood cells, and print scores against their labels.

    Parameters
    ----------
    out
        The run's folder; an earlier demo in it is replaced.
    command
        What was typed.
    """
    fitting = {"epochs": None, "seed": 0, "device": "auto", "validation": 0.1}
    asked = Asked(None, "scdgd", reading={"label": "bulk_labels"}, fitting=fitting)
    earlier = Run(out)
    again = earlier.finished and earlier.facts["call"].get("file") == DEMO
    model, scores = fit(asked, out, overwrite=again, page=True, command=command)
    Console().print(_scores_table(scores))
    labels = model.embedded.level_names("bulk_labels")
    counted = component_table(model.embedded.components(), labels).T
    table = Table("label", *map(str, counted.columns), title="Cells of each label in each component")
    for label, row in counted.iterrows():
        table.add_row(str(label), *(str(v) if v else "·" for v in row))
    Console().print(table)
    print(f"Open the report in a browser: {(out / 'report.html').absolute()}")


def _scores_table(scores: Mapping[str, Any]) -> Table:
    """Scores against the labels, in words."""
    rows = {
        "components against labels (ARI)": ("embedding", "component_ari"),
        "components against labels (NMI)": ("embedding", "component_nmi"),
        "k-means of the codes against labels (ARI)": ("embedding", "kmeans_ari"),
        "Leiden clusters of the codes against labels (ARI)": ("embedding", "leiden_ari"),
        "label told by neighbours in the embedding (accuracy)": ("embedding", "neighbour_accuracy"),
        "nats per held-out molecule": ("held_out", "nats_per_molecule"),
        "the same, of the mean profile": ("held_out", "mean_profile"),
        "the same, of the profile of the cell's label": ("held_out", "label_profile"),
        "coverage of 90 % predictive intervals": ("held_out", "coverage_90"),
    }
    table = Table("score", "value", title="Scores against bulk_labels, which the fit did not see")
    for words, (group, name) in rows.items():
        if name in scores.get(group, {}):
            table.add_row(words, f"{scores[group][name]:.3f}")
    return table
