"""Where cells come from: an AnnData, a file or a folder, opened and looked at but not yet read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.words import level_name, listing, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pandas as pd

    from chreode.io.matrix import Matrix
    from chreode.io.regression import Regression

__all__ = ["MODALITY", "Field", "Part", "Source", "Table", "by_type", "left_out", "text", "together"]

MODALITY = "rna"
"""What values are taken for where a source does not say."""

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

    def only(self, rows: np.ndarray) -> Table:
        """Some of its rows (a mask or positions)."""
        return Table(self.names[rows], self.columns, lambda name: self.column(name).iloc[_positions(rows)])

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
class Part:
    """One modality of a source.

    Parameters
    ----------
    source
        Its own cells, features and fields.
    rows
        Where its cells are among all cells of the source; None when they are all, in order.
    """

    source: Source
    rows: np.ndarray | None = None


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
    parts
        Its modalities by name, where it says that it has several; then ``features`` and ``fields`` are empty.
    tables
        Numbers beside the features (``obsm``), by name; each read when it is asked for.
    readout
        How its features go with coordinates that stand in their place.
    """

    name: str
    cells: Table
    features: Table = field(default_factory=lambda: Table(np.zeros(0, dtype=object)))
    fields: Mapping[str, Callable[[], Field]] = field(default_factory=dict)
    messages: tuple[str, ...] = ()
    parts: Mapping[str, Part] = field(default_factory=dict)
    tables: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    readout: Regression | None = None

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
            other = ", or leave counts= out to read X." if "X" in self.fields else ""
            raise InputError(msg + " Name the one that holds counts with counts=..." + other)
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


# What Cell Ranger calls them, and everybody else.
_TYPES = {
    "Gene Expression": "rna",
    "Peaks": "atac",
    "Antibody Capture": "prot",
    "CRISPR Guide Capture": "crispr",
    "Multiplexing Capture": "multiplexing",
    "Custom": "custom",
}
# Other names that mean a modality wherever they stand; "protein_coding" does not.
_NAMES = {"rna", "gex", "atac", "peaks", "prot", "protein", "adt", "hto", "cite", "crispr", "custom"}
# What other libraries keep proteins under, beside the features; not embeddings of them, or what we wrote.
_OTHER_MODALITY = re.compile(
    r"(?!X_)(?!.*(?:_expected_|umap|tsne|pca)).*(?:protein|adt|hto|antibod)", re.IGNORECASE
)
_TYPE_COLUMNS = ("feature_types", "feature_type", "modality")


def by_type(source: Source) -> Source:
    """The same source in parts, where a column of its features says of which modality each is.

    Cell Ranger's types are called ``rna``, ``atac``, ``prot``, ...; others keep their name. A column that
    says something else, such as the biotype of genes, or does not say it of all features, is left alone.
    """
    for column in _TYPE_COLUMNS:
        if column not in source.features.columns:
            continue
        kinds = _modality_of(source.features, column)
        if kinds is None:
            continue
        found: list[str] = list(dict.fromkeys(kinds))
        if found == [MODALITY]:
            return source
        parts = {kind: Part(_of_type(source, column, kind, kinds == kind)) for kind in found}
        return replace(source, features=Table(np.zeros(0, dtype=object)), fields={}, parts=parts)
    return source


def _modality_of(features: Table, column: str) -> np.ndarray | None:
    """The modality of each feature; None where the column says something else."""
    values = features.column(column)
    if values.isna().any() or values.dtype == bool:
        return None
    named = [_TYPES.get(str(value), str(value)) for value in values]
    ours = set(_TYPES.values())
    if column != "modality" and any(n not in ours and n.casefold() not in _NAMES for n in set(named)):
        return None
    return np.asarray(named, dtype=object)


def _of_type(source: Source, column: str, kind: str, here: np.ndarray) -> Source:
    def restricted(found: Field) -> Field:
        if len(found.features) == len(here) and found.features is source.features:
            return Field(found.matrix.only(here), found.features.only(here))
        kinds = _modality_of(found.features, column) if column in found.features.columns else None
        if kinds is None:
            msg = (
                f"Expected a column {column!r} in the feature table of {source.name} that says the modality "
                "of each; found none beside this matrix. Read X, or a layer."
            )
            raise InputError(msg)
        return Field(found.matrix.only(kinds == kind), found.features.only(kinds == kind))

    fields = {name: lambda make=make: restricted(make()) for name, make in source.fields.items()}
    return Source(f"{kind} of {source.name}", source.cells, source.features.only(here), fields)


def left_out(tables: Iterable[str]) -> tuple[str, ...]:
    """What to say of tables beside the features (``obsm``) that seem to hold another modality.

    Examples
    --------
    >>> left_out(["X_umap_protein", "protein_expression"])[0].partition(" was ")[0]
    "obsm['protein_expression']"
    """
    return tuple(
        f"obsm[{table!r}] was not read. To model these features too, give them as a modality: "
        f"mudata.MuData({{'rna': adata, 'prot': anndata.AnnData(adata.obsm[{table!r}], obs=adata.obs[[]])}})."
        for table in tables
        if _OTHER_MODALITY.match(table)
    )


def together(name: str, cells: Table, parts: Mapping[str, Source]) -> Source:
    """A source of several modalities, each with a cell table of its own; a cell may miss some.

    A column that the common table lacks is looked for in those of the modalities.

    Raises
    ------
    InputError
        When a modality has cells that the common table does not name.
    """
    position = {cell: at for at, cell in enumerate(cells.names)}
    placed: dict[str, Part] = {}
    for modality, part in parts.items():
        rows = np.fromiter((position.get(cell, -1) for cell in part.cells.names), np.int64, len(part.cells))
        if (rows < 0).any():
            lost = part.cells.names[rows < 0]
            msg = (
                f"Expected the cells of {modality!r} among the {len(cells):,} that {name} names; found "
                f"{len(lost):,} others (first: {listing(lost[:3])}). Call mdata.update() and write it again."
            )
            raise InputError(msg)
        alike = len(rows) == len(cells) and bool((rows == np.arange(len(rows))).all())
        placed[modality] = Part(part, None if alike else rows)
    said = tuple(message for part in parts.values() for message in part.messages)
    return Source(name, _with_columns(cells, placed), messages=said, parts=placed)


def _with_columns(cells: Table, parts: Mapping[str, Part]) -> Table:
    """The common table, with the columns that only those of modalities have."""
    owners: dict[str, list[str]] = {}
    for modality, part in parts.items():
        for name in part.source.cells.columns:
            if name not in cells.columns:
                owners.setdefault(name, []).append(modality)

    def column(name: str) -> pd.Series:
        if name not in owners:
            return cells.column(name)
        found = {m: _placed(parts[m], name, len(cells)) for m in owners[name]}
        return _agreed(name, found, cells.names)

    return Table(cells.names, (*cells.columns, *owners), column)


def _agreed(name: str, found: Mapping[str, pd.Series], cells: np.ndarray) -> pd.Series:
    """The one column that several modalities' tables have, each for its own cells."""
    import pandas as pd

    first, *others = found
    if not others:
        return found[first]
    whole = found[first].astype(object)
    for other in others:
        here = found[other].astype(object)
        both = whole.notna() & here.notna()
        if (both & (whole != here)).any():
            # One file may hold as text what another holds as numbers.
            whole, here = (values.map(level_name, na_action="ignore") for values in (whole, here))
        differ = (both & (whole != here)).to_numpy(dtype=bool)
        if differ.any():
            at = int(differ.argmax())
            msg = (
                f"Expected one value of {name!r} for each cell; found others in {other!r} than in {first!r} "
                f"for {int(differ.sum()):,} (first: {cells[at]!r}, {here.iloc[at]!r}, {whole.iloc[at]!r}). "
                f"Say which is meant: mdata.obs[{name!r}] = mdata[{first!r}].obs[{name!r}]."
            )
            raise InputError(msg)
        whole = whole.where(whole.notna(), here)
    if all(each.dtype == "category" for each in found.values()):
        levels = dict.fromkeys(level for each in found.values() for level in each.cat.categories)
        return pd.Series(pd.Categorical(whole, categories=list(levels)))
    return whole.infer_objects()


def _placed(part: Part, name: str, n: int) -> pd.Series:
    """A column of a modality's table for all cells; missing in those that the modality lacks."""
    import pandas as pd

    found, rows = part.source.cells.column(name), part.rows
    if rows is None:
        return pd.Series(found.array)
    return pd.Series(found.array, index=rows).reindex(np.arange(n))


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


def _positions(rows: np.ndarray) -> np.ndarray:
    return np.flatnonzero(rows) if rows.dtype == bool else rows


def _no_column(name: str) -> pd.Series:
    msg = f"Expected a table with a column {name!r}; found one without columns."
    raise InputError(msg)
