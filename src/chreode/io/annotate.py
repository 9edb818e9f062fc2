"""A copy of what was read with more written into it, without loading its matrices."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.io.opening import open_source

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

    from chreode.io.source import Table

__all__ = ["annotated_copy", "annotated_suffix"]


def annotated_suffix(source: str | os.PathLike[str] | AnnData | MuData) -> str:
    """``.h5mu`` for a MuData or the file of one, else ``.h5ad``."""
    if not isinstance(source, str) and not hasattr(source, "__fspath__"):
        return ".h5mu" if hasattr(source, "mod") else ".h5ad"
    place = Path(source).expanduser()  # pyright: ignore[reportArgumentType]
    if place.is_dir():
        return ".h5mu" if (place / "mod").is_dir() else ".h5ad"
    import h5py

    if not h5py.is_hdf5(place):
        return ".h5ad"
    with h5py.File(place, "r") as file:
        return ".h5mu" if "mod" in file else ".h5ad"


def annotated_copy(
    source: str | os.PathLike[str] | AnnData | MuData,
    path: str | os.PathLike[str],
    *,
    write: Callable[[AnnData], None],
) -> None:
    """Write a source as h5ad (h5mu where it is a MuData) with what ``write`` adds to its cell table.

    An h5ad or h5mu file is copied byte by byte and amended, so that its matrices are never loaded and
    whatever else it holds stays as it is. Sources of other kinds are loaded and written.

    Parameters
    ----------
    source
        An AnnData, which is not changed, or anything else that `chreode.read` takes.
    path
        Of the new file; pass a path of `chreode.io.write.atomic_path`.
    write
        ``write(adata)`` adds columns to ``obs`` and entries to ``obsm`` and ``uns``. What it is given may
        have cells and nothing else.
    """
    if isinstance(source, str) or hasattr(source, "__fspath__"):
        place = Path(source).expanduser()  # pyright: ignore[reportArgumentType]
        if _amendable(place):
            shutil.copyfile(place, path)
            _amend(path, write)
            return
        adata: Any = _load(place)
    else:
        adata = source.copy()  # pyright: ignore[reportAttributeAccessIssue]
    write(adata)
    if hasattr(adata, "mod"):
        adata.write(path, compression="gzip")
    else:
        adata.write_h5ad(path, compression="gzip")


def _tables(path: Path) -> dict[str, Any] | None:
    """What an h5ad or h5mu file says of its cell table; None for other files."""
    import h5py

    if not path.is_file() or not h5py.is_hdf5(path):
        return None
    with h5py.File(path, "r") as file:
        return dict(file["obs"].attrs) if {"obs", "var"} <= set(file) else None


def _amendable(path: Path) -> bool:
    """Whether a path is an h5ad or h5mu file of the present format."""
    said = _tables(path) or {}
    return said.get("encoding-version") == "0.2.0" and "_index" in said


def _amend(path: str | os.PathLike[str], write: Callable[[AnnData], None]) -> None:
    import anndata as ad
    import h5py
    import pandas as pd
    from anndata.io import write_elem

    path = Path(path)
    path.chmod(0o644)  # the copy of a file that may not be written to
    with open_source(path) as opened:
        cells = ad.AnnData(obs=pd.DataFrame(index=pd.Index(opened.cells.names.astype(str))))
    write(cells)
    options = {"compression": "gzip"}
    with h5py.File(path, "r+") as file:
        table: Any = file["obs"]
        order = [name for name in table.attrs["column-order"] if name not in cells.obs.columns]
        for name, column in cells.obs.items():
            values = column.to_numpy() if isinstance(column.dtype, np.dtype) else column.array
            write_elem(table, str(name), values, dataset_kwargs=options)
        added = np.asarray([*order, *cells.obs.columns], dtype=object)
        table.attrs.create("column-order", added, dtype=h5py.string_dtype())
        for field in ("obsm", "uns"):
            if field not in file:
                write_elem(file, field, {})
            for name, value in getattr(cells, field).items():
                write_elem(file, f"{field}/{name}", value, dataset_kwargs=options if field == "obsm" else {})


def _load(path: Path) -> Any:
    """A source of another kind: zarr, an h5ad file of an old format, or a 10x matrix."""
    import anndata as ad
    import pandas as pd
    import scipy.sparse as sp

    if annotated_suffix(path) == ".h5mu":
        import mudata

        return mudata.read_zarr(path) if path.is_dir() else mudata.read_h5mu(path)
    if path.is_dir() and any((path / name).exists() for name in (".zgroup", "zarr.json", ".zattrs")):
        return ad.io.read_zarr(path)
    if _tables(path) is not None:
        return ad.io.read_h5ad(path)
    with open_source(path) as opened:
        sources = [part.source for part in opened.parts.values()] or [opened]
        fields = [source.field(None) for source in sources]
        matrices = []
        for field in fields:
            blocks = list(field.matrix.blocks())
            row, col, value = (np.concatenate([block[i] for block in blocks]) for i in range(3))
            matrices.append(sp.csr_matrix((value.astype(np.float32), (row, col)), shape=field.matrix.shape))
        features = pd.concat([_frame(field.features) for field in fields])
        return ad.AnnData(sp.hstack(matrices, format="csr"), obs=_frame(opened.cells), var=features)


def _frame(table: Table) -> pd.DataFrame:
    import pandas as pd

    columns = {name: table.column(name).to_numpy() for name in table.columns}
    return pd.DataFrame(columns, index=pd.Index(table.names.astype(str)))
