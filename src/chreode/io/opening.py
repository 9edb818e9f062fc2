"""Opening whatever cells come in."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.cells import CSR, Cells
from chreode.errors import InputError
from chreode.io.files import open_path
from chreode.io.matrix import Matrix
from chreode.io.source import Field, Part, Source, Table, by_type, left_out, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anndata import AnnData

__all__ = ["open_source"]


@contextmanager
def open_source(source: object) -> Iterator[Source]:
    """Open an AnnData, MuData, `Cells`, an h5ad, h5mu or 10x file, a 10x mtx folder or a zarr store.

    It is closed afterwards.

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

    if isinstance(source, anndata.AnnData):
        yield by_type(_anndata_source(source))
        return
    if type(source).__name__ == "MuData" and hasattr(source, "mod"):
        yield _mudata_source(source)
        return
    if isinstance(source, (list, tuple)):
        msg = (
            f"Expected one set of cells, or several by name; found a {type(source).__name__}. Name them: "
            'chreode.read({"a": ..., "b": ...}, batch="source").'
        )
        raise InputError(msg)
    msg = (
        "Expected an AnnData, a MuData or the path of an h5ad or h5mu file, a 10x .h5 file, a 10x mtx folder "
        f"or a zarr store; found {type(source).__module__.partition('.')[0]}.{type(source).__name__}. Wrap a "
        "matrix as anndata.AnnData(matrix, obs=..., var=...)."
    )
    raise InputError(msg)


def _mudata_source(mdata: Any) -> Source:
    name = f"MuData of {mdata.n_obs:,} cells"
    if getattr(mdata, "axis", 0) != 0:
        msg = (
            f"Expected modalities of the same cells; found a MuData of axis {mdata.axis}, whose features are "
            "shared. Read its modalities together: chreode.read(dict(mdata.mod))."
        )
        raise InputError(msg)
    parts = {m: replace(_anndata_source(adata), name=f"{m} of {name}") for m, adata in mdata.mod.items()}
    return together(name, Table.of(mdata.obs), parts)


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
    said = left_out(adata.obsm.keys())
    tables = {key: partial(adata.obsm.__getitem__, key) for key in adata.obsm}
    return Source(name, Table.of(adata.obs), features, fields, messages=said, tables=tables)


def _has_main(adata: AnnData) -> bool:
    """Whether there is an X, without loading that of a file."""
    return adata.isbacked or adata.X is not None


def _cells_source(cells: Cells) -> Source:
    """Cells that were read before, to be matched with another model."""
    if not cells.measured or cells.panels:
        msg = (
            "Expected Cells with their counts that were measured in full; found "
            f"{'panels' if cells.panels else 'none'}. Read from the file instead."
        )
        raise InputError(msg)
    obs = {column: cells.level_names(column) for column in cells.layout.covariates}
    table = Table.of_columns(cells.names, obs)
    parts = {}
    for modality, measured in cells.measured.items():
        known = cells.layout.modalities[modality]
        symbols = {"symbol": np.asarray(known.symbols, dtype=object)} if known.symbols else {}
        features = Table.of_columns(np.asarray(known.names, dtype=object), symbols)
        rows = cells.present[modality].nonzero().squeeze(1).numpy()
        matrix = measured.scipy() if isinstance(measured, CSR) else np.asarray(measured)
        matrix = matrix if len(rows) == len(cells) else matrix[rows]
        field = Field(Matrix.of(matrix, where=f"the values of {modality}"), features)
        source = Source(cells.reading.source, table.only(rows), features, {"X": lambda field=field: field})
        parts[modality] = Part(source, None if len(rows) == len(cells) else rows)
    return Source(cells.reading.source, table, parts=parts)
