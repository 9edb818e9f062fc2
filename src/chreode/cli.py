"""The command line: what was typed, and how errors are told. The work is done in `chreode.commands`."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

import chreode.cli_analysis  # noqa: F401  (registers its commands)
from chreode.cli_options import (
    Batch,
    Coordinates,
    Counts,
    Course,
    Data,
    Growth,
    Label,
    Modality,
    Once,
    Out,
    Overwrite,
    Perturbation,
    Run,
    Seed,
    Time,
    Unlabelled,
    Work,
    app,
    by_modality,
)
from chreode.errors import InputError, InputWarning

__all__ = ["main"]

# The usage errors' base class; typer brings its own copy of click or needs the package, by version.
UsageError = typer.BadParameter.__mro__[1]  # of UsageError


def _version(asked: bool) -> None:
    if asked:
        from chreode import __version__

        typer.echo(f"chreode {__version__}")
        raise typer.Exit


@app.callback()
def _front(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Latent-variable models of single cells: fit, project, sample, look."""


@app.command(cls=Once)
def fit(
    context: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="An h5ad, h5mu or 10x .h5 file, a 10x folder, zarr.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for model, cells, report and scores.")],
    recipe: Annotated[str, typer.Option(help="What to fit; see chreode recipes.")] = "scdgd",
    counts: Counts = None,
    batch: Batch = None,
    label: Label = None,
    unlabelled: Unlabelled = None,
    time: Time = None,
    growth: Growth = None,
    course: Course = None,
    perturbation: Perturbation = None,
    coordinates: Coordinates = None,
    dims: Annotated[int | None, typer.Option(metavar="N", help="Its first so many dimensions.")] = None,
    covariate: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Column that conditions the decoder; repeatable.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="N|COLUMN", help="So many most variable ones, or a boolean column; or by modality."
        ),
    ] = None,
    values: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="What they are: counts, binary or continuous; or by modality."),
    ] = None,
    modality: Modality = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Argument of the recipe; repeatable."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the cells at most.")] = None,
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    validation: Annotated[float, typer.Option(help="Share of cells that decide when to stop.")] = 0.1,
    overwrite: Overwrite = False,
    page: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html.")] = True,
) -> Work:
    """Fit a recipe to cells; given again after an interruption, go on where it stood."""
    from chreode import fitting

    reading = {
        "counts": by_modality(counts),
        "batch": batch,
        "label": label,
        "unlabelled": unlabelled,
        "time": time,
        "growth": growth,
        "course": course,
        "perturbation": perturbation,
        "coordinates": coordinates,
        "dims": dims,
        "covariates": tuple(covariate or ()),
        "features": by_modality(features, number=True),
        "values": by_modality(values),
        "modalities": tuple(modality or ()),
    }
    training = {"epochs": epochs, "seed": seed, "device": device, "validation": validation}
    asked = fitting.Asked(file, recipe, tuple(settings or ()), reading, training)
    return partial(fitting.fit, asked, out, overwrite=overwrite, page=page, command=context.obj)


@app.command(cls=Once)
def project(
    run: Run,
    new: Annotated[Path, typer.Argument(metavar="NEW", help="New cells; features are matched by name.")],
    out: Out,
    refine: Annotated[
        int | None, typer.Option(metavar="N", help="Steps at most; until converged by default.")
    ] = None,
    add_levels: Annotated[
        bool,
        typer.Option("--add-levels", help="Give batches that were not trained with their own component."),
    ] = False,
    expected: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Modality to complete: write what is expected; repeatable."),
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels/--no-labels", help="Predict labels, if the model knows some.")
    ] = True,
    counts: Counts = None,
    batch: Batch = None,
    label: Label = None,
    coordinates: Coordinates = None,
    modality: Modality = None,
    overwrite: Overwrite = False,
) -> Work:
    """Embed new cells; write a copy of their file with codes, components and labels."""
    from chreode import commands

    reading = {"counts": by_modality(counts), "batch": batch, "label": label}
    reading |= {"coordinates": coordinates, "modalities": tuple(modality or ())}
    how = {"refine": refine, "add_levels": add_levels, "overwrite": overwrite, "labels": labels}
    how["expected"] = expected or ()
    return partial(commands.project, run, new, out, **how, reading=reading)


@app.command(cls=Once)
def sample(
    run: Run,
    out: Out,
    n: Annotated[int, typer.Option("-n", "--cells", help="How many cells.")] = 1000,
    component: Annotated[int | None, typer.Option(metavar="K", help="From this one only, from 0.")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> Work:
    """Draw cells from the model."""
    from chreode import commands

    return partial(commands.sample, run, out, n=n, component=component, seed=seed, overwrite=overwrite)


@app.command(cls=Once)
def report(
    run: Run,
    data: Data = None,
    gene_sets: Annotated[
        Path | None, typer.Option(metavar="FILE.gmt", help="Gene sets to hold the model against.")
    ] = None,
) -> Work:
    """Write the report again, with gene sets if they are given."""
    from chreode import commands

    return partial(commands.report, run, data=data, gene_sets=gene_sets)


@app.command(cls=Once)
def export(
    run: Run,
    csv: Annotated[bool, typer.Option("--csv", help="As CSV: codes, components, probabilities.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where; DIR/csv by default.")] = None,
    overwrite: Overwrite = False,
) -> Work:
    """Write codes, components and probabilities for other languages."""
    if not csv:
        msg = "Expected a format to export to; found none. Add --csv."
        raise InputError(msg)
    from chreode import commands

    return partial(commands.export, run, out=out, overwrite=overwrite)


@app.command(cls=Once)
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show this one's arguments.")] = None,
) -> Work:
    """List the recipes with their citations, or the arguments of one."""
    from chreode import commands

    return partial(commands.recipes, name)


@app.command(cls=Once)
def demo(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for model, cells, report and scores.")
    ] = Path("chreode-demo"),
) -> Work:
    """Fit 700 blood cells and print scores against their labels; works offline."""
    from chreode import fitting

    return partial(fitting.demo, out, command=context.obj)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        What was typed after ``chreode``; of this process by default.

    Returns
    -------
    The exit code: 0, 2 after an error that is told in a paragraph on standard error, 130 when interrupted.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        with _quiet():
            command = typer.main.get_command(app)
            work = command.main(typed, prog_name="chreode", standalone_mode=False, obj=["chreode", *typed])
            if not callable(work):
                return int(work or 0)
            work()
        return 0
    except BrokenPipeError:
        # Whoever reads our output has had enough; Python must not complain about that at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        code, told = _tell(error, typed)
        if not told:
            raise
        sys.stderr.write(f"{' '.join(told.split())}\n")
        return code


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither libraries' warnings, which are for developers, nor what we log: commands print that.

    Warnings of chreode's own are for users, and are told as errors are: in a paragraph, each once.
    """
    ours = [logging.getLogger(name) for name in ("chreode.io", "chreode.interpret.differential")]
    before = [logger.level for logger in ours]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", InputWarning)
        warnings.showwarning = _told_once()
        for logger in ours:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(ours, before, strict=True):
                logger.setLevel(level)


def _told_once() -> Callable[..., None]:
    """In place of `warnings.showwarning`: chreode's own words on standard error, nothing of others."""
    told: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: Any) -> None:
        said = str(message)
        if not issubclass(category, InputWarning) or said in told:
            return
        told.add(said)
        from tqdm import tqdm

        from chreode.words import typed

        # A bar that is open leaves its line first.
        tqdm.write(f"Warning: {' '.join(typed(said).split())}", file=sys.stderr)

    return show


def _tell(error: BaseException, typed: Sequence[str]) -> tuple[int, str]:
    """The exit code and a paragraph for an error that is the user's to mend; no words for a bug."""
    if isinstance(error, InputError):
        from chreode.words import typed as as_typed

        return 2, f"Error: {as_typed(str(error))}"
    if isinstance(error, UsageError):
        known = {command.name or "" for command in app.registered_commands}
        known |= {command.callback.__name__ for command in app.registered_commands if command.callback}
        of = f"chreode {typed[0]}" if typed[0] in known else "chreode"
        said = error.format_message().rstrip()  # type: ignore[attr-defined]
        return 2, f"Error: {said}{'' if said.endswith(('.', '?')) else '.'} See {of} --help."
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return 130, "Interrupted."
    from chreode.fitting import Stopped
    from chreode.nonfinite import NonFinite

    if isinstance(error, Stopped):
        return 130, str(error)
    if isinstance(error, NonFinite):
        return 2, f"Error: {error}"
    return 2, _of_machine(error)


def _of_machine(error: BaseException) -> str:
    """A paragraph for an error of the machine: memory, disk, permissions."""
    said = str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _MEMORY.search(said)):
        return (
            f"Error: Expected enough memory; found too little ({said or 'no details'}). Read fewer features "
            "(--features 2000), or use a machine with more memory. The same command goes on where it stood."
        )
    # safetensors and HDF5 keep the system's number in their words.
    found = re.search(r"(?:os error|errno =) (\d+)", said)
    number = getattr(error, "errno", None) or (int(found.group(1)) if found else None)
    if number in _FULL:
        return (
            f"Error: Expected room on the disk; found none left ({said}). Free some and give the same "
            "command again: it goes on where it stood."
        )
    if number in _FORBIDDEN:
        return (
            f"Error: Expected to be allowed to read and write; found otherwise ({said}). Change permissions."
        )
    return ""


_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
