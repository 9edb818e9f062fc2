"""The commands that put a question to cells or to a finished run; the others are in `chreode.cli`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from chreode.cli_options import (
    Batch,
    Coordinates,
    Counts,
    Data,
    Label,
    Modality,
    Once,
    Out,
    Overwrite,
    Run,
    Seed,
    Time,
    Unlabelled,
    Work,
    app,
    by_modality,
)

__all__ = ["compare", "counterfactual", "de", "forecast", "link", "match", "pseudobulk"]

QUESTIONS = "Questions"  # the panel of chreode --help


@app.command(cls=Once, rich_help_panel=QUESTIONS)
def link(
    run: Run,
    gene: Annotated[list[str], typer.Argument(metavar="GENE...", help="The gene; several act together.")],
    direction: Annotated[str, typer.Option(help="silence or activate.")] = "silence",
    modality: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose response is asked for; atac, or the only other one."),
    ] = None,
    genes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where genes start, by the peaks' assembly: GTF, BED or CSV."),
    ] = None,
    window: Annotated[
        float | None, typer.Option(metavar="BP", help="Only so far from the start; needs --genes.")
    ] = None,
    cells: Annotated[
        str | None,
        typer.Option(metavar="COLUMN=LEVEL", help="Cells to move, not those that express the gene."),
    ] = None,
    step: Annotated[str, typer.Option(help="gradient, or sign as published.")] = "gradient",
    fraction: Annotated[float, typer.Option(help="Length of the step in spreads of the codes.")] = 0.1,
    null: Annotated[int, typer.Option(metavar="N", help="Random genes to compare with.")] = 100,
    seed: Seed = 0,
    data: Data = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="NEW.csv", help="The table to write, its figure beside; in DIR/links by default."
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> Work:
    """Tell which peaks, or genes, go with a gene: what happens to them when it falls silent."""
    from chreode import linking

    asked = {"direction": direction, "modality": modality, "window": window}
    asked |= {"step": step, "fraction": fraction, "null": null, "seed": seed}
    files = {"genes": genes, "data": data, "overwrite": overwrite}
    return partial(linking.link, run, gene, out, only=cells, asked=asked, **files)


@app.command(cls=Once, rich_help_panel=QUESTIONS)
def compare(
    context: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="An h5ad, h5mu or 10x .h5 file, a 10x folder, zarr.")
    ],
    recipes: Annotated[
        str, typer.Option(metavar="NAME,...", help="With arguments: scdgd,scvi:likelihood=nb,dim=20")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for runs, tables and report.")],
    seeds: Annotated[int, typer.Option(help="Fits of each recipe.")] = 3,
    counts: Counts = None,
    batch: Batch = None,
    label: Label = None,
    unlabelled: Unlabelled = None,
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
    embeddings: Annotated[
        str | None, typer.Option(metavar="KEY,...", help="Embeddings in obsm of FILE, to score beside.")
    ] = None,
    purpose: Annotated[
        str | None,
        typer.Option(help="reconstruction, clustering or integration: what to win; all by default."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the cells at most.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split and the scores; fits have 0, 1, 2, ...")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    validation: Annotated[float, typer.Option(help="Share of cells that decide when to stop.")] = 0.1,
    overwrite: Overwrite = False,
) -> Work:
    """Compare recipes on the same cells; given again after an interruption, go on where it stood."""
    from chreode import comparing

    reading = {
        "counts": by_modality(counts),
        "batch": batch,
        "label": label,
        "unlabelled": unlabelled,
        "covariates": tuple(covariate or ()),
        "features": by_modality(features, number=True),
        "values": by_modality(values),
        "modalities": tuple(modality or ()),
    }
    how = {"seeds": seeds, "purpose": purpose, "epochs": epochs, "seed": seed, "device": device}
    how |= {"validation": validation, "overwrite": overwrite}
    asked = {"embeddings": embeddings, "reading": reading, "how": how, "command": context.obj}
    return partial(comparing.compare, file, recipes, out, **asked)


@app.command(cls=Once, rich_help_panel=QUESTIONS)
def de(
    run: Run,
    group: Annotated[
        str, typer.Option(metavar="COLUMN=LEVEL", help="The cells of interest; component=K is the model's.")
    ],
    against: Annotated[
        str, typer.Option(metavar="LEVEL", help="Of the same column, or rest: all others.")
    ] = "rest",
    within: Annotated[
        str | None, typer.Option(metavar="COLUMN=LEVEL", help="Only these cells, on both sides.")
    ] = None,
    sample: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Of donors, who are then the replicates.")
    ] = None,
    modality: Annotated[str | None, typer.Option(metavar="NAME", help="The first by default.")] = None,
    min_cells: Annotated[int, typer.Option(help="Fewest cells of a group that a donor must have.")] = 10,
    modelled: Annotated[
        bool, typer.Option("--modelled", help="Add the fold change that the model expects.")
    ] = False,
    seed: Seed = 0,
    data: Data = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="NEW.csv", help="The table to write, its figure beside; in DIR/de by default."),
    ] = None,
    overwrite: Overwrite = False,
) -> Work:
    """Test which features differ between two groups of cells."""
    from chreode import testing_commands

    asked = {"group": group, "against": against, "within": within, "sample": sample, "modality": modality}
    asked |= {"min_cells": min_cells, "modelled": modelled, "seed": seed}
    return partial(testing_commands.compare_groups, run, out, data=data, overwrite=overwrite, asked=asked)


@app.command(cls=Once, rich_help_panel=QUESTIONS)
def match(
    run: Run,
    target: Annotated[
        list[str],
        typer.Option(metavar="COLUMN=LEVEL", help="The cells to be like; repeatable: all must hold."),
    ],
    systems: Annotated[str, typer.Option(metavar="COLUMN", help="Whose levels are ranked: cultures, say.")],
    within: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=LEVEL", help="Only these cells of the systems; repeatable."),
    ] = None,
    latent: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another code than the main one.")
    ] = None,
    metric: Annotated[str, typer.Option(help="energy, mmd, sliced or centroid.")] = "energy",
    recommend: Annotated[
        int | None, typer.Option(metavar="K", help="Propose so many systems that cover all.")
    ] = None,
    nearest: Annotated[
        int | None, typer.Option(metavar="N", help="Propose among so many nearest only.")
    ] = None,
    cells: Annotated[int, typer.Option(help="At most so many of a population, at random.")] = 1000,
    bootstraps: Annotated[int, typer.Option(help="Samples of the cells.")] = 500,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    top: Annotated[int, typer.Option(help="How many nearest are the top.")] = 1,
    seed: Seed = 0,
    data: Data = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="NEW.csv", help="The table to write, its figure beside; in DIR/matches by default."
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> Work:
    """Rank populations of cells, such as cultures, by how near they are to a target."""
    from chreode import matching_commands

    asked = {"systems": systems, "latent": latent, "metric": metric, "cells": cells}
    asked |= {"bootstraps": bootstraps, "confidence": confidence, "top": top, "seed": seed}
    how = {"groups": {"target": target, "within": within or ()}, "recommend": recommend, "nearest": nearest}
    how |= {"data": data, "overwrite": overwrite, "asked": asked}
    return partial(matching_commands.rank_systems, run, out, **how)


@app.command(cls=Once, rich_help_panel=QUESTIONS)
def pseudobulk(
    run: Run,
    by: Annotated[list[str], typer.Option(metavar="COLUMN", help="Such as the donor; repeatable.")],
    out: Out,
    modality: Annotated[str | None, typer.Option(metavar="NAME", help="The first by default.")] = None,
    min_cells: Annotated[int, typer.Option(help="Sums of fewer cells are left out.")] = 1,
    data: Data = None,
    overwrite: Overwrite = False,
) -> Work:
    """Sum the counts of the cells that agree in some columns."""
    from chreode import testing_commands

    how = {"by": by, "modality": modality, "min_cells": min_cells, "data": data, "overwrite": overwrite}
    return partial(testing_commands.sum_counts, run, out, **how)


@app.command(cls=Once, rich_help_panel=QUESTIONS)
def forecast(
    run: Run,
    to: Annotated[float, typer.Option(metavar="TIME", help="Between measured times, or beyond the last.")],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FILE", help="Cells that set out; those measured last before TIME by default."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="NEW.h5ad", help="The h5ad file to write; in DIR/forecasts by default."),
    ] = None,
    knock_out: Annotated[
        list[str] | None,
        typer.Option("--knock-out", metavar="GENE", help="Held at 0 on the way; may be given again."),
    ] = None,
    expected: Annotated[
        bool, typer.Option("--expected", help="Write into X what the model expects of the features there.")
    ] = False,
    counts: Counts = None,
    batch: Batch = None,
    time: Time = None,
    coordinates: Coordinates = None,
    overwrite: Overwrite = False,
) -> Work:
    """Tell where cells are at another time."""
    from chreode import commands

    reading = {"counts": by_modality(counts), "batch": batch, "time": time, "coordinates": coordinates}
    how = {"source": source, "expected": expected, "overwrite": overwrite, "reading": reading}
    return partial(commands.forecast, run, out, to=to, knock_out=knock_out or (), **how)


@app.command(cls=Once, rich_help_panel=QUESTIONS)
def counterfactual(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Folders of finished fits: three tell how sure a fit is."),
    ],
    to: Annotated[str, typer.Option("--set", metavar="COLUMN=LEVEL", help="The level to be under.")],
    where: Annotated[
        str | None, typer.Option(metavar="COLUMN=LEVEL", help="Only these cells; all by default.")
    ] = None,
    groups: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Whose levels are told apart: cell types, say.")
    ] = None,
    before: Annotated[
        str | None, typer.Option("--from", metavar="LEVEL", help="That cells have now; the only other one.")
    ] = None,
    private: Annotated[str, typer.Option(help="transport or sample: codes that levels bring.")] = "transport",
    modality: Annotated[str | None, typer.Option(metavar="NAME", help="The first by default.")] = None,
    draws: Annotated[int, typer.Option(help="Of the codes, for intervals.")] = 20,
    seed: Seed = 0,
    data: Data = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="NEW.csv", help="The table to write, its figure beside; in DIR/counterfactual by default."
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> Work:
    """Tell what cells would be under another level of a condition: which features answer."""
    from chreode import counterfactual_commands

    asked = {"where": where, "groups": groups, "private": private, "modality": modality}
    asked |= {"draws": draws, "seed": seed}
    how = {"to": to, "before": before, "data": data, "overwrite": overwrite, "asked": asked}
    return partial(counterfactual_commands.change_level, runs, out, **how)
