"""How numbers and nouns go together in what is told."""

from __future__ import annotations

import ast
import difflib
import re
import shlex
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["level_name", "listing", "many", "nearest", "typed"]

# Arguments of reading by the options that stand for them.
OPTIONS = {
    "batch": "--batch",
    "coordinates": "--coordinates",
    "course": "--course",
    "counts": "--counts",
    "covariates": "--covariate",
    "dims": "--dims",
    "features": "--features",
    "growth": "--growth",
    "label": "--label",
    "modalities": "--modality",
    "perturbation": "--perturbation",
    "time": "--time",
    "unlabelled": "--unlabelled",
    "values": "--values",
}
_VALUE = r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\{[^}]*\}|\[[^]]*\]|\.\.\.|\w*"""
_ARGUMENT = re.compile(rf"\bread\([^)]*\)|(?<!--cells )(?<![\w.-])({'|'.join(OPTIONS)})=({_VALUE})")


def many(number: int, one: str, several: str | None = None) -> str:
    """A number with its noun.

    Parameters
    ----------
    number
        How many.
    one, several
        What follows 1, and what follows any other number; by default the same with an s.

    Examples
    --------
    >>> many(1, "epoch"), many(2638, "cell"), many(0, "feature was", "features were")
    ('1 epoch', '2,638 cells', '0 features were')
    """
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def level_name(level: object) -> str:
    """What a level is called: a whole number that became a float is still whole.

    Examples
    --------
    >>> level_name(2.0), level_name(b"a"), level_name(0.5)
    ('2', 'a', '0.5')
    """
    if isinstance(level, (float, np.floating)) and float(level).is_integer():
        return str(int(level))
    return level.decode() if isinstance(level, bytes) else str(level)


def listing(names: Iterable[object], *, limit: int = 8) -> str:
    """Names in quotes, the first few of them.

    Examples
    --------
    >>> listing(["a", "b", "c"], limit=2)
    "'a', 'b' and 1 more"
    """
    every = [str(name) for name in names]
    if not every:
        return "none"
    shown = ", ".join(repr(name) for name in every[:limit])
    return shown if len(every) <= limit else f"{shown} and {len(every) - limit:,} more"


def nearest(name: str, names: Iterable[object]) -> str:
    """A sentence that offers the name that differs in case alone, the names most like it, or nothing.

    Examples
    --------
    >>> nearest("celltype", ["cell_type", "donor"])
    " Did you mean 'cell_type'?"
    """
    folded = {str(known).casefold(): str(known) for known in names}
    if name.casefold() in folded:
        return f" Did you mean {folded[name.casefold()]!r}?"
    close = difflib.get_close_matches(name.casefold(), list(folded), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(folded[match]) for match in close)}?" if close else ""


def typed(text: str) -> str:
    """What is told of arguments of `chreode.read`, as options of the command line.

    An argument whose option is named in the text already stays as it is.

    Examples
    --------
    >>> typed("Read with counts='raw' or values={'rna': 'counts'}, or leave batch= out.")
    'Read with --counts raw or --values rna=counts, or leave --batch out.'
    >>> typed("Read the cells with label=COLUMN; unlabelled='not known' leaves some out.")
    "Read the cells with --label COLUMN; --unlabelled 'not known' leaves some out."
    >>> typed("Read them with time=COLUMN (--time).")
    'Read them with time=COLUMN (--time).'
    >>> typed("Leave values={modality: kind} out.")
    'Leave --values {modality: kind} out.'
    """

    def option(found: re.Match[str]) -> str:
        name = found[1]
        if name is None or re.search(rf"{OPTIONS[name]}\b", text):
            return found[0]
        return f"{OPTIONS[name]} {_typed_value(found[2])}".rstrip()

    return _ARGUMENT.sub(option, text)


def _typed_value(value: str) -> str:
    if not value or value[0] not in "'\"{[":
        return value
    try:
        meant = ast.literal_eval(value)
    except (SyntaxError, ValueError):  # no literal, or one that holds a closing bracket
        return value
    if isinstance(meant, dict):
        meant = ",".join(f"{key}={'...' if one is ... else one}" for key, one in meant.items())
    return shlex.quote(meant) if isinstance(meant, str) else "..."
