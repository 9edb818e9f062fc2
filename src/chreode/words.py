"""How numbers and nouns go together in what is told."""

from __future__ import annotations

import ast
import re
import shlex

import numpy as np

__all__ = ["level_name", "many", "typed"]

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
