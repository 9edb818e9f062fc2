"""Matching the features of a source with those a model was trained on."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chreode.errors import InputError
from chreode.words import listing, many

if TYPE_CHECKING:
    from chreode.io.source import Field
    from chreode.layout import Modality

__all__ = ["Match", "match", "without_version"]

VERSIONED = re.compile(r"^(ENS[A-Z]{0,6}[EGTPR]\d{11})\.\d+$")


class Match(NamedTuple):
    """Where the features of a source go.

    Parameters
    ----------
    target
        Position in the model of each feature of the source, -1 for one it does not know.
    found
        Which features of the model the source has.
    messages
        What there was to say.
    """

    target: np.ndarray
    found: np.ndarray
    messages: tuple[str, ...]


def match(field: Field, modality: Modality) -> Match:
    """Match by name; what is left by symbol or id; what is left with Ensembl versions left out.

    A name that stands for several features on either side matches nothing.

    Parameters
    ----------
    field
        The source's features.
    modality
        The model's.

    Raises
    ------
    InputError
        When no feature is shared.
    """
    names, known = field.features.names, np.asarray(modality.names, dtype=object)
    here = [names, *([] if field.symbols is None else [field.symbols]), *field.ids]
    there = [known, *([np.asarray(modality.symbols, dtype=object)] if modality.symbols else [])]
    target = np.full(len(names), -1, dtype=np.int64)
    found = np.zeros(len(known), dtype=bool)
    ways: Counter[str] = Counter()
    attempts = [("name", names, known)]
    attempts += [("symbol or id", a, b) for a in here for b in there if (a is not names or b is not known)]
    attempts += [("version", without_version(a), without_version(b)) for a in here for b in there]
    for way, ours, theirs in attempts:
        rows, places = _pairs(ours, theirs, free=target < 0, wanted=~found)
        target[rows] = places
        found[places] = True
        ways[way] += len(rows)
    if not found.any():
        raise InputError(_nothing_shared(names, known))
    return Match(target, found, _sentences(ways, found, int((target < 0).sum())))


def without_version(names: np.ndarray) -> np.ndarray:
    """Names with the version left out of Ensembl identifiers.

    Examples
    --------
    >>> without_version(np.asarray(["ENSG00000210082.2", "HLA.A", "ENSG00000182378.14_PAR_Y"])).tolist()
    ['ENSG00000210082', 'HLA.A', 'ENSG00000182378.14_PAR_Y']
    """
    return np.asarray([VERSIONED.sub(r"\1", str(name)) for name in names], dtype=object)


def _pairs(
    ours: np.ndarray, theirs: np.ndarray, *, free: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the source and places in the model that share a name nobody else bears."""
    one_here = _alone(ours, free)
    one_there = _alone(theirs, wanted)
    rows = [row for name, row in one_here.items() if name in one_there]
    return np.asarray(rows, dtype=np.int64), np.asarray(
        [one_there[ours[row]] for row in rows], dtype=np.int64
    )


def _alone(names: np.ndarray, among: np.ndarray) -> dict[str, int]:
    """Where each name stands, for those that occur once and are still to be matched."""
    times = Counter(names.tolist())
    return {names[at]: int(at) for at in np.flatnonzero(among) if times[names[at]] == 1}


def _sentences(ways: Counter[str], found: np.ndarray, unknown: int) -> tuple[str, ...]:
    said = []
    if ways["symbol or id"]:
        said.append(
            f"{many(ways['symbol or id'], 'feature was', 'features were')} matched by symbol or identifier "
            "instead of by name."
        )
    if ways["version"]:
        said.append(
            f"{many(ways['version'], 'feature was', 'features were')} matched once the Ensembl version "
            "suffix was left out."
        )
    missing = int((~found).sum())
    if missing:
        masked = "is missing here: it is masked" if missing == 1 else "are missing here: they are masked"
        said.append(
            f"{missing:,} of the model's {len(found):,} features {masked}, not filled with zeros, and "
            f"proportions run over the {int(found.sum()):,} found."
        )
    if 3 * int(found.sum()) < len(found):
        said.append(
            f"Only {int(found.sum()):,} of the model's {len(found):,} features are here, fewer than a third: "
            "codes will be rough. Give cells with more of them, or fit on the features shared."
        )
    if unknown:
        those = many(
            unknown, "feature that the model does not know was", "features that the model does not know were"
        )
        said.append(f"{those} left out.")
    return tuple(said)


def _nothing_shared(names: np.ndarray, known: np.ndarray) -> str:
    folded = {str(name).casefold() for name in known}
    alike = sum(str(name).casefold() in folded for name in names)
    remedy = (
        f"{alike:,} names agree when upper and lower case are ignored: is this another species?"
        if alike
        else "Rename adata.var_names to the identifiers the model was trained with."
    )
    return (
        f"Expected features the model knows (such as {listing(known[:3])}); found none of them "
        f"(the source has {listing(names[:3])}). {remedy}"
    )
