"""Where cells come from: an AnnData, a file or a folder, opened and looked at but not yet read."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.cells import CSR, Cells
from chreode.errors import InputError
from chreode.io.matrix import Matrix
from chreode.io.schema import listing, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pandas as pd
    from anndata import AnnData

__all__ = ["Field", "Source", "Table", "open_source", "text"]

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


@contextmanager
def open_source(source: object) -> Iterator[Source]:
    """Open an AnnData, `Cells`, an h5ad or 10x file, a 10x mtx folder or a zarr store; close it afterwards.

    Raises
    ------
    InputError
        When it does not exist, is damaged or is something else.
    """
    if isinstance(source, Cells):
        yield _cells_source(source)
        return
    if isinstance(source, (str, os.PathLike)):
        from chreode.io.files import open_path

        with ExitStack() as stack:
            yield open_path(Path(source).expanduser(), stack)
        return
    import anndata

    if not isinstance(source, anndata.AnnData):
        remedy = "Give mdata['rna'], one modality of it." if type(source).__name__ == "MuData" else (
            "Wrap a matrix as anndata.AnnData(matrix, obs=..., var=...)."
        )  # fmt: skip
        msg = (
            "Expected an AnnData or the path of an h5ad file, a 10x .h5 file, a 10x mtx folder or a zarr "
            "store; "
            f"found {type(source).__module__.partition('.')[0]}.{type(source).__name__}. {remedy}"
        )
        raise InputError(msg)
    yield _anndata_source(source)


def _anndata_source(adata: AnnData) -> Source:
    features = Table.of(adata.var)

    def layer(name: str) -> Callable[[], Field]:
        return lambda: Field(Matrix.of(adata.layers[name], where=f"layer {name!r}"), features)

    def main() -> Field:
        return Field(Matrix.of(adata.X, where="X"), features)

    def raw() -> Field:
        return Field(Matrix.of(adata.raw.X, where="raw"), Table.of(adata.raw.var))

    fields: dict[str, Callable[[], Field]] = {} if not _has_main(adata) else {"X": main}
    fields |= {name: layer(name) for name in adata.layers if name != "X" or "X" not in fields}
    if adata.raw is not None:
        fields.setdefault("raw", raw)
    name = f"AnnData of {adata.n_obs:,} cells x {adata.n_vars:,} features"
    return Source(name, Table.of(adata.obs), features, fields)


def _has_main(adata: AnnData) -> bool:
    """Whether there is an X, without loading that of a file."""
    return adata.isbacked or adata.X is not None


def _cells_source(cells: Cells) -> Source:
    """Cells that were read before, to be matched with another model."""
    modality, measured = next(iter(cells.measured.items()), (None, None))
    if modality is None or len(cells.measured) > 1 or cells.panels:
        msg = (
            "Expected Cells of one modality that was measured in full; found "
            f"{listing(cells.measured)}{' in panels' if cells.panels else ''}. Read from the file instead."
        )
        raise InputError(msg)
    known = cells.layout.modalities[modality]
    symbols = {"symbol": np.asarray(known.symbols, dtype=object)} if known.symbols else {}
    features = Table.of_columns(np.asarray(known.names, dtype=object), symbols)
    matrix = measured.scipy() if isinstance(measured, CSR) else np.asarray(measured)
    obs = {column: cells.level_names(column) for column in cells.layout.covariates}
    fields = {"X": lambda: Field(Matrix.of(matrix, where="the counts"), features)}
    return Source(cells.reading.source, Table.of_columns(cells.names, obs), features, fields)


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
