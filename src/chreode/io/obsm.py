"""Embeddings that lie beside the cells in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from chreode.errors import InputError
from chreode.words import listing, nearest

if TYPE_CHECKING:
    import os

    import numpy as np

__all__ = ["read_embedding"]


def read_embedding(source: str | os.PathLike[str], key: str) -> np.ndarray:
    """Read one entry of ``obsm`` of an h5ad, h5mu or zarr file.

    Parameters
    ----------
    source
        Its path.
    key
        Name of the entry.

    Returns
    -------
    Cells x dimensions, in the order of the file.

    Raises
    ------
    InputError
        When the source is no such file, or has no entry of this name.
    """
    import h5py

    path = Path(source).expanduser()
    zarr = path.is_dir() and any((path / name).exists() for name in (".zgroup", "zarr.json", ".zattrs"))
    if not zarr and not (path.is_file() and h5py.is_hdf5(path)):
        msg = (
            f"Expected a file to find obsm[{key!r}] in; found {source}. Give the array itself: "
            f"embeddings={{{key!r}: adata.obsm[{key!r}]}}."
        )
        raise InputError(msg)
    if zarr:
        import zarr as library

        return _entry(library.open_group(str(path), mode="r"), key, path)
    with h5py.File(path, "r") as file:
        return _entry(file, key, path)


def _entry(root: Any, key: str, path: Path) -> np.ndarray:
    import numpy as np
    from anndata.io import read_elem

    known = sorted(root["obsm"].keys()) if "obsm" in root else []
    if key not in known:
        msg = f"Expected an entry of obsm in {path} ({listing(known)}); found {key!r}.{nearest(key, known)}"
        raise InputError(msg + " Name one of these.")
    entry: Any = read_elem(root["obsm"][key])
    return np.asarray(entry.toarray() if hasattr(entry, "toarray") else entry, dtype=np.float32)
