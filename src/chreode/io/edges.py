"""A network of regulators and targets, as a user may have it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chreode.errors import InputError
from chreode.words import listing, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["edges", "positions"]


def edges(network: Any) -> dict[str, tuple[str, ...]]:
    """The targets of each regulator.

    Parameters
    ----------
    network
        A mapping from a regulator to its targets; a table with columns ``regulator`` and ``target``, such as
        `chreode.interactions` gives; or the path of one (``.csv``, else separated by tabs).

    Raises
    ------
    InputError
        When it is none of these, has other columns, or no edge.

    Examples
    --------
    >>> edges({"GATA1": ["KLF1", "GATA1"]})
    {'GATA1': ('KLF1', 'GATA1')}
    """
    if isinstance(network, (str, Path)):
        network = _table(Path(network))
    if isinstance(network, Mapping):
        listed = {str(k): (v,) if isinstance(v, str) else v for k, v in network.items()}
    elif hasattr(network, "columns"):
        listed = _grouped(network)
    else:
        msg = f"Expected a network, the targets of each regulator; found {type(network).__name__}."
        raise InputError(msg + ' Give {"GATA1": ["KLF1"]}, a table of regulators and targets, or its path.')
    try:
        found = {k: tuple(dict.fromkeys(str(target) for target in v)) for k, v in listed.items()}
    except TypeError:
        found = {}
    found = {regulator: targets for regulator, targets in found.items() if targets}
    if not found:
        msg = "Expected a network with edges; found none. Give the targets of each regulator."
        raise InputError(msg)
    return found


def positions(network: Mapping[str, Sequence[str]], *names: Sequence[str]) -> list[list[int]]:
    """Regulators and targets of the edges between known genes, as positions; other edges are left out.

    Parameters
    ----------
    network
        Of `edges`.
    names
        Of the known genes, in order; of several kinds of names the first that has one is used.

    Raises
    ------
    InputError
        When no edge is left.
    """
    place: dict[str, int] = {}
    for known in reversed(names):
        place |= {gene: at for at, gene in enumerate(known)}
    found = {
        (place[regulator], place[target])
        for regulator, targets in network.items()
        for target in targets
        if regulator in place and target in place
    }
    if not found:
        named = list(dict.fromkeys(gene for pair in network.items() for gene in (pair[0], *pair[1])))
        lost = [gene for gene in named if gene not in place]
        msg = (
            "Expected a network with edges between genes that were read; found none, but "
            f"{listing(lost, limit=5)}."
            f"{nearest(lost[0], place)} Name its genes as the cells do."
        )
        raise InputError(msg)
    return [list(ends) for ends in zip(*sorted(found), strict=True)]


def _table(path: Path) -> Any:
    import pandas as pd

    path = path.expanduser()
    if not path.is_file():
        msg = f"Expected a network in a file; found no file {str(path)!r}. Give the path of a table."
        raise InputError(msg)
    try:
        return pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t", dtype=str, keep_default_na=False)
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError):
        msg = f"Expected a table of text in {path.name}; found something else. Give a .csv or .tsv file."
        raise InputError(msg) from None


def _grouped(table: Any) -> dict[str, list[str]]:
    missing = [column for column in ("regulator", "target") if column not in table.columns]
    if missing:
        msg = (
            "Expected a network with columns 'regulator' and 'target'; found "
            f"{listing(list(table.columns))}. Name them so, in the first line of a file."
        )
        raise InputError(msg)
    found: dict[str, list[str]] = {}
    for regulator, target in zip(table["regulator"].astype(str), table["target"].astype(str), strict=True):
        found.setdefault(regulator, []).append(target)
    return found
