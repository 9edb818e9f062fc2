"""Where cells come from: an AnnData, a file or a folder, opened and looked at but not yet read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.io.schema import listing, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

    from chreode.io.matrix import Matrix

__all__ = ["Field", "Source", "Table", "text"]

IDS = ("gene_ids", "gene_id", "ensembl_id", "feature_id", "id")
SYMBOLS = (
    "gene_symbols",
    "gene_symbol",
    "feature_name",
    "gene_name",
    "gene_names",
    "symbol",
    "gene_short_name",
)


@dataclass(frozen=True)
class Table:
    """Names and columns of cells or features; a column is read when it is asked for.

    Parameters
    ----------
    names
        One name a row.
    columns
        Names of the columns.
    column
        ``column(name)`` reads one.
    """

    names: np.ndarray
    columns: tuple[str, ...] = ()
    column: Callable[[str], pd.Series] = field(default=lambda name: _no_column(name))

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, frame: Any) -> Table:
        """From a data frame."""

        def column(name: str) -> pd.Series:
            found = frame[name]
            if found.ndim == 2:
                msg = (
                    f"Expected one column called {name!r}; found {found.shape[1]}. Rename or drop all but "
                    "one."
                )
                raise InputError(msg)
            return found

        return cls(text(frame.index), tuple(str(name) for name in frame.columns), column)

    @classmethod
    def of_columns(cls, names: np.ndarray, columns: Mapping[str, np.ndarray]) -> Table:
        """From arrays."""
        import pandas as pd

        return cls(names, tuple(columns), lambda name: pd.Series(columns[name]))

    def aliases(self, known: Sequence[str]) -> dict[str, np.ndarray]:
        """The columns among ``known`` that hold text, missing values replaced by the row's name."""
        found = {}
        for name in self.columns:
            if name.lower() in known:
                values = self.column(name)
                missing = values.isna().to_numpy()
                found[name] = np.where(missing, self.names, text(values.astype(object).where(~missing, "")))
        return found


@dataclass(frozen=True)
class Field:
    """One matrix of a source and the table of its features."""

    matrix: Matrix
    features: Table

    @property
    def symbols(self) -> np.ndarray | None:
        """Readable names beside the feature names, when the table has them and they differ."""
        for values in self.features.aliases(SYMBOLS).values():
            if not np.array_equal(values, self.features.names):
                return values
        return None

    @property
    def ids(self) -> list[np.ndarray]:
        """Identifiers kept beside feature names that are symbols."""
        return list(self.features.aliases(IDS).values())


@dataclass(frozen=True)
class Source:
    """A source opened for reading.

    Parameters
    ----------
    name
        What it is called in messages.
    cells
        Table of the cells.
    features
        Table of the features (of ``X`` and the layers).
    fields
        What can be read as counts, by name: ``X``, layers, ``raw``; each opened when it is asked for.
    messages
        What there was to say on opening.
    """

    name: str
    cells: Table
    features: Table
    fields: Mapping[str, Callable[[], Field]]
    messages: tuple[str, ...] = ()

    def field(self, counts: str | None) -> Field:
        """The matrix called ``counts``, ``X`` when None.

        Raises
        ------
        InputError
            When there is none of this name, or its shape is not that of the tables.
        """
        key = counts or "X"
        if key not in self.fields:
            where = f"a layer {key!r}" if key != "X" else "a matrix X"
            msg = f"Expected {where} in {self.name}; found {listing(self.fields)}.{nearest(key, self.fields)}"
            raise InputError(msg + " Name the one that holds counts with counts=...")
        found = self.fields[key]()
        expected = (len(self.cells), len(found.features))
        if found.matrix.shape != expected:
            msg = (
                f"Expected {key} of {self.name} to be {expected[0]:,} cells x {expected[1]:,} features, as "
                "its "
                f"tables say; found {found.matrix.shape[0]:,} x {found.matrix.shape[1]:,}. The file is "
                "damaged."
            )
            raise InputError(msg)
        return found


def text(values: Any) -> np.ndarray:
    """An object array of text; bytes are decoded.

    Examples
    --------
    >>> text([b"a", 1]).tolist()
    ['a', '1']
    """
    plain = [v.decode() if isinstance(v, bytes) else str(v) for v in values]
    out = np.empty(len(plain), dtype=object)
    out[:] = plain
    return out


def _no_column(name: str) -> pd.Series:
    msg = f"Expected a table with a column {name!r}; found one without columns."
    raise InputError(msg)
