"""The commands that put a question to cells or to a finished run; the others are in `chreode.cli`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from chreode.cli_options import Data, Once, Overwrite, Run, Seed, Work, app

__all__ = ["link"]

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
