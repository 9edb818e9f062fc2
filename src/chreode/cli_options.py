"""What the commands share: the app they register on, and the options that several take."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from chreode.errors import InputError

__all__ = [
    "Batch",
    "Coordinates",
    "Counts",
    "Data",
    "Growth",
    "Label",
    "Modality",
    "Once",
    "Out",
    "Overwrite",
    "Run",
    "Seed",
    "Time",
    "Unlabelled",
    "Work",
    "app",
    "by_modality",
]

Work = Callable[[], object]

app = typer.Typer(
    name="chreode",
    help="Latent-variable models of single cells: fit, project, sample, look.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Run = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a finished fit.")]
Out = Annotated[Path, typer.Option(metavar="NEW.h5ad", help="The h5ad (or h5mu) file to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Data = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The cells, if the file that was fitted is gone.")
]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Counts = Annotated[
    str | None,
    typer.Option(
        metavar="LAYER", help="Layer of the values, or raw; X by default. By modality: rna=LAYER,..."
    ),
]
Modality = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Modality to read, or what FILE holds; repeatable; all by default."),
]
Batch = Annotated[str | None, typer.Option(metavar="KEY", help="Column of the experimental batch.")]
Label = Annotated[str | None, typer.Option(metavar="KEY", help="Column of labels, for scores and tables.")]

Unlabelled = Annotated[
    str | None, typer.Option(metavar="LEVEL", help="Level of the label that means that there is none.")
]
Time = Annotated[
    str | None, typer.Option(metavar="KEY", help="Column of the times at which cells were measured.")
]
Growth = Annotated[
    str | None, typer.Option(metavar="KEY", help="Column of growth rates, which dynamics count cells by.")
]
Course = Annotated[str | None, typer.Option(metavar="KEY", help="Column whose levels dynamics follow apart.")]
Perturbation = Annotated[
    str | None, typer.Option(metavar="KEY", help="Column of the feature that is held in a cell.")
]
Coordinates = Annotated[
    str | None, typer.Option(metavar="KEY", help="Entry of obsm, as X_pca, to read in place of the features.")
]


class Once(TyperCommand):
    """A command that refuses an option of one value given twice, where click takes the last."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Parse as click does, unless an option came twice."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for option in given:
            times = given.count(option)
            if times > 1 and not option.multiple and not getattr(option, "is_flag", False):
                name = max(option.opts, key=len)
                msg = f"Expected {name} once; found it {times} times. Give it once, with the value you mean."
                raise InputError(msg)
        return super().parse_args(ctx, args)


def by_modality(text: str | None, *, number: bool = False) -> Any:
    """One value, or one by modality from ``rna=VALUE,atac=VALUE``; digits as a number where one may stand."""
    if text is None:
        return None
    if "=" in text:
        pairs = [part.split("=") for part in text.split(",")]
        names = [pair[0].strip() for pair in pairs]
        if any(len(pair) != 2 or not all(part.strip() for part in pair) for pair in pairs) or len(
            set(names)
        ) < len(names):
            msg = f"Expected one value, or MODALITY=VALUE,MODALITY=VALUE; found {text!r}. Write it like that."
            raise InputError(msg)
        return {pair[0].strip(): by_modality(pair[1].strip(), number=number) for pair in pairs}
    return int(text) if number and re.fullmatch(r"[+-]?\d+", text) else text
