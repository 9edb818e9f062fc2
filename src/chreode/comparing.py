"""The command that compares recipes on one file."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

import chreode.recipes  # noqa: F401  (registers chreode's own)
from chreode.compare import compare as compare_cells
from chreode.comparison import NOISE
from chreode.errors import InputError
from chreode.fitting import Stopped
from chreode.io.read import read
from chreode.recipe import named, parse
from chreode.words import many, typed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from chreode.comparison import Comparison
    from chreode.recipe import Recipe

__all__ = ["compare", "listed_recipes"]

SHOWN = {
    "gain": "gain, nats a held-out molecule",
    "nats_per_value": "nats a held-out value",
    "clustering": "clustering",
    "neighbour_accuracy": "label told by neighbours",
    "batch_mixing": "batch mixing",
    "integration": "integration",
    "seeds_clusters": "clusters alike between seeds",
    "seconds": "seconds",
    "memory": "memory, MB",
}


def compare(
    file: str,
    recipes: str,
    out: Path,
    *,
    embeddings: str | None,
    reading: Mapping[str, Any],
    how: Mapping[str, Any],
    command: Sequence[str],
) -> Comparison:
    """Compare recipes on a file, write tables and a page, print what is found.

    Parameters
    ----------
    file
        The cells.
    recipes
        As `listed_recipes` takes them.
    out
        The folder.
    embeddings
        Keys of ``obsm``, with commas between them.
    reading
        Arguments of `chreode.read`.
    how
        Further arguments of `chreode.compare`.
    command
        What was typed.

    Raises
    ------
    InputError
        As `chreode.compare` does, and when every run failed.
    """
    chosen = listed_recipes(recipes)
    keys = [key.strip() for key in (embeddings or "").split(",") if key.strip()]
    cells = read(file, **reading)
    print(f"Read {many(len(cells), 'cell')} from {file}.", *map(typed, cells.reading.messages), sep="\n")
    shown = sys.stderr.isatty()
    try:
        with nullcontext() if shown else _lines():
            found = compare_cells(
                cells,
                chosen,
                embeddings=keys,
                out=out,
                command=shlex.join(command),
                progress=shown,
                **how,
            )
    except KeyboardInterrupt:
        msg = "Interrupted; finished runs are kept, and the same command goes on from there."
        raise Stopped(msg) from None
    failed: Any = found.table["failed"]
    reasons = [f"{name}: {reason}" for name, reason in failed.items() if reason]
    if (found.runs["failed"] != "").all():
        msg = f"Expected a recipe that can be fitted; found that every run failed ({'; '.join(reasons)}). "
        raise InputError(msg + "Mend what is said, and give the same command again.")
    # A file has no width; the usual 80 columns would break the numbers of four recipes.
    Console(width=None if sys.stdout.isatty() else 200).print(_table(found))
    print(NOISE, *(verdict.sentence for verdict in found.verdicts), sep="\n")
    for reason in reasons:
        print(f"Failed: {reason}")
    print(f"Written to {out}; look at {out / 'report.html'}")
    return found


@contextmanager
def _lines() -> Iterator[None]:
    """A line on standard error for each run that ends, where there is no terminal to show a bar."""
    logger, handler = logging.getLogger("chreode.trials"), logging.StreamHandler()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def listed_recipes(text: str) -> list[Recipe]:
    """Recipes from ``scdgd,scvi:likelihood=nb,dim=20``: names, arguments after a colon.

    Parameters
    ----------
    text
        Between commas or colons; ``name=value`` is an argument of the recipe before it. Values are JSON where
        they parse as JSON.

    Raises
    ------
    InputError
        For an unknown recipe or argument.

    Examples
    --------
    >>> [recipe.name for recipe in listed_recipes("scdgd,scvi:likelihood=nb,dim=5")]
    ['scdgd', 'scvi']
    >>> listed_recipes("scdgd:hidden=[50,50],dim=5")[0].arguments["hidden"]
    (50, 50)
    """
    asked: list[tuple[str, list[str]]] = []
    # What stands in brackets or braces is one value, whatever is in it.
    for piece in re.findall(r"(?:[^,:\[{]|\[[^\]]*\]|\{[^}]*\})+", text):
        if "=" not in piece:
            asked.append((piece.strip(), []))
        elif asked:
            asked[-1][1].append(piece.strip())
        else:
            msg = f"Expected recipes, such as scdgd,scvi:dim=20; found {text!r}. Begin with a name."
            raise InputError(msg)
    return [named(name, parse(settings)) for name, settings in asked if name]


def _table(found: Comparison) -> Table:
    """Mean and standard deviation over the seeds, of the scores that matter most: a row for each."""
    table = Table(title="Mean ± standard deviation over the seeds")
    table.add_column("score")
    for name in found.names:
        table.add_column(Text(name), justify="right", overflow="fold")
    for score, words in SHOWN.items():
        if score in found.table.columns:
            rows: Any = (found.table.loc[name] for name in found.names)
            table.add_row(words, *(_written(row[score], row.get(f"{score}_sd"), score) for row in rows))
    return table


def _written(value: float, spread: float | None, score: str) -> str:
    if value != value:
        return "·"
    decimals = 0 if score == "memory" else 1 if score == "seconds" else 3
    around = "" if spread is None or spread != spread else f" ± {spread:.{decimals}f}"
    return f"{value:.{decimals}f}{around}"
