"""Opening whatever cells come in."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chreode.cells import CSR, Cells
from chreode.errors import InputError
from chreode.io.files import open_path
from chreode.io.matrix import Matrix
from chreode.io.schema import listing
from chreode.io.source import Field, Source, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anndata import AnnData

__all__ = ["open_source"]


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
