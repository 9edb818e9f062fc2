"""The files a source can be: h5ad, zarr, 10x .h5 and 10x mtx folders."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from chreode.errors import InputError
from chreode.io.matrix import Matrix, from_parts
from chreode.io.source import Field, Source, Table, by_type, left_out, text, together
from chreode.words import listing, nearest

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    import numpy as np
    import pandas as pd

__all__ = ["open_path"]

_HDF5 = (".h5ad", ".h5mu", ".h5")
_ZARR = {".zgroup", "zarr.json", ".zattrs"}
READABLE = "an h5ad or h5mu file, a 10x .h5 file, a 10x mtx folder or a zarr store"


def open_path(path: Path, stack: ExitStack) -> Source:
    """Open what lies at a path, by its content.

    Raises
    ------
    InputError
        When there is nothing, it is damaged, or it is none of the files we read.
    """
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir() if _readable(p)] if path.parent.is_dir() else []
        found = "no file of this name" if path.parent.is_dir() else f"no folder {path.parent}"
        msg = f"Expected {READABLE} at {path}; found {found}. Check the path.{nearest(path.name, beside)}"
        raise InputError(msg)
    if path.name.endswith((".mtx", ".mtx.gz")):
        path = path.parent
    try:
        return _open_folder(path) if path.is_dir() else _open_file(path, stack)
    except PermissionError as error:
        msg = (
            f"Expected to be allowed to read {path}; found {error.strerror}. Change its permissions or "
            "copy it."
        )
        raise InputError(msg) from error


def _readable(path: Path) -> bool:
    """Whether something is called as what can be opened, or is a folder that holds it."""
    if path.is_dir():
        return any(True for kind in ("*.mtx", "*.mtx.gz", *_ZARR) for _ in path.glob(kind))
    return path.name.endswith((*_HDF5, ".mtx", ".mtx.gz"))


def _open_file(path: Path, stack: ExitStack) -> Source:
    import h5py

    with path.open("rb") as file:
        start = file.read(520)
    # mudata writes a line of text before the HDF5 file proper.
    if b"\x89HDF\r\n\x1a\n" not in (start[:8], start[512:]):
        what = "an empty file" if not start else f"a file of another kind ({path.suffix or 'no suffix'})"
        remedy = "Convert it, or read it into an AnnData yourself."
        if start and path.suffix in _HDF5:
            what = "one that cannot be opened as HDF5 (damaged, cut off, or of another kind)"
            remedy = "Copy or download it again."
        msg = f"Expected {READABLE}; found {what} at {path}. {remedy}"
        raise InputError(msg)
    try:
        file = stack.enter_context(h5py.File(path, "r"))
    except OSError as error:
        msg = (
            f"Expected a whole HDF5 file at {path}; found a damaged or incomplete one ({error}). Copy it "
            "again."
        )
        raise InputError(msg) from error
    keys = set(file.keys())
    if "mod" in keys:
        return _open_multi(file, str(path))
    if {"obs", "var"} <= keys:
        return by_type(_open_group(file, str(path)))
    if "matrix" in keys:
        return _open_10x(file["matrix"], str(path))
    genomes = [key for key in keys if "barcodes" in _inside(file[key])]
    if len(genomes) == 1:
        return _open_10x(file[genomes[0]], str(path))
    if genomes:
        found = f"several genomes ({listing(sorted(genomes))}). Write one of them as h5ad"
    else:
        found = f"an HDF5 file with {listing(sorted(keys))}. Write it with anndata: adata.write_h5ad(...)"
    msg = f"Expected {READABLE}; found at {path} {found}."
    raise InputError(msg)


def _inside(element: Any) -> set[str]:
    import h5py

    return set(element.keys()) if isinstance(element, h5py.Group) else set()


def _open_folder(path: Path) -> Source:
    inside = sorted(p.name for p in path.iterdir())
    if _ZARR & set(inside):
        import zarr

        try:
            group = zarr.open_group(path, mode="r")
            keys = set(group.keys())
        except Exception as error:
            # each zarr version has errors of its own for this
            msg = f"Expected a zarr store at {path}; found a damaged one ({error}). Copy it again."
            raise InputError(msg) from error
        if "mod" in keys:
            return _open_multi(group, str(path))
        if not {"obs", "var"} <= keys:
            msg = (
                f"Expected a zarr store written by anndata at {path}; found one with {listing(sorted(keys))}."
            )
            raise InputError(msg + " Write it with adata.write_zarr(...).")
        return by_type(_open_group(group, str(path)))
    if any(name.endswith((".mtx", ".mtx.gz")) for name in inside):
        return _open_mtx(path, inside)
    msg = f"Expected {READABLE}; found a folder with {listing(inside)} at {path}. Name the file in it."
    raise InputError(msg)


def _open_multi(root: Any, name: str) -> Source:
    """What mudata wrote: modalities under ``mod``, each as anndata writes one."""
    axis = int(dict(root.attrs).get("axis", 0))
    if axis != 0:
        msg = (
            f"Expected modalities of the same cells in {name}; found a MuData of axis {axis}, whose features "
            "are shared. Write each modality as h5ad, and read them together: chreode.read({'a': ..., ...})."
        )
        raise InputError(msg)
    group = root["mod"]
    order = [str(m) for m in dict(group.attrs).get("mod-order", ())]
    names = [*(m for m in order if m in group), *(m for m in group if m not in order)]
    bare = [m for m in names if not {"obs", "var"} <= set(group[m].keys())]
    if "obs" not in root or bare or not names:
        msg = (
            f"Expected a MuData file with a cell table and modalities at {name}; found "
            f"{f'no tables in {listing(bare)}' if bare else 'some of it missing'}. Write it again with "
            "mdata.write(...)."
        )
        raise InputError(msg)
    cells = _table(root["obs"], f"the cell table of {name}")
    return together(name, cells, {m: _open_group(group[m], f"{m} of {name}") for m in names})


def _open_group(root: Any, name: str) -> Source:
    """What anndata wrote, in HDF5 or zarr."""
    cells = _table(root["obs"], f"the cell table of {name}")
    features = _table(root["var"], f"the features of {name}")

    def one(group: Any, where: str, table: Table) -> Field:
        return Field(Matrix.of_group(group, where=f"{where} of {name}"), table)

    fields: dict[str, Callable[[], Field]] = {}
    if "X" in root and not _is_null(root["X"]):
        fields["X"] = partial(one, root["X"], "X", features)
    layers = root["layers"] if "layers" in root else ()  # noqa: SIM401 (zarr groups have no such get)
    for layer in layers:
        fields.setdefault(layer, partial(one, root["layers"][layer], f"layer {layer!r}", features))
    if "raw" in root and "X" in root["raw"]:
        raw = root["raw"]
        fields.setdefault(
            "raw", lambda: one(raw["X"], "raw", _table(raw["var"], f"the raw features of {name}"))
        )
    beside = root["obsm"] if "obsm" in root else {}  # noqa: SIM401 (zarr groups have no such get)
    tables = {str(key): partial(_read, beside[key], f"obsm[{key!r}]", name) for key in beside}
    return Source(name, cells, features, fields, messages=left_out(tables), tables=tables)


def _is_null(element: Any) -> bool:
    return element.attrs.get("encoding-type") == "null"


def _table(group: Any, where: str) -> Table:
    """A data frame on disk, whose columns are read one at a time."""
    import pandas as pd

    attributes = dict(group.attrs)
    if attributes.get("encoding-version") != "0.2.0" or "_index" not in attributes:
        frame = _read(group, "all", where)
        if isinstance(frame, pd.DataFrame):
            return Table.of(frame)
        msg = (
            f"Expected a data frame as {where}; found {type(frame).__name__}. Write the file with a newer "
            "anndata."
        )
        raise InputError(msg)

    def column(name: str) -> pd.Series:
        return pd.Series(_read(group[name], f"column {name!r}", where))

    names = text(_read(group[attributes["_index"]], "the names", where))
    order = attributes.get("column-order", ())
    return Table(names, tuple(text(order)), column)


def _read(element: Any, what: str, where: str) -> Any:
    from anndata.io import read_elem

    try:
        return read_elem(element)
    except Exception as error:
        # anndata wraps failures of any kind; whichever it is, this part of the file cannot be read
        msg = (
            f"Expected to read {what} of {where}; found a damaged one or a format anndata does not know: "
            f"{error}"
        )
        raise InputError(msg) from error


def _open_10x(group: Any, name: str) -> Source:
    """Cell Ranger's HDF5: cells are the columns of a compressed-column matrix, so they lie together."""
    new = "features" in group
    needed = {"barcodes", "data", "indices", "indptr", "shape"} | (set() if new else {"genes"})
    if missing := sorted(needed - set(group.keys())):
        msg = (
            f"Expected a 10x matrix in {name}; found one without {listing(missing)}. Download the file again."
        )
        raise InputError(msg)
    barcodes = text(group["barcodes"][:])
    if new:
        stored = {"symbol": "name", "feature_type": "feature_type"}
        columns = {
            ours: text(group["features"][key][:]) for ours, key in stored.items() if key in group["features"]
        }
        features = Table.of_columns(text(group["features"]["id"][:]), columns)
    else:
        symbols = {"symbol": text(group["gene_names"][:])} if "gene_names" in group else {}
        features = Table.of_columns(text(group["genes"][:]), symbols)
    n_features, n_cells = (int(v) for v in group["shape"][:])
    matrix = from_parts(
        (n_cells, n_features),
        "csr",
        (group["data"], group["indices"], group["indptr"]),
        f"the matrix of {name}",
    )
    return _of_10x(name, barcodes, features, matrix)


def _of_10x(name: str, barcodes: np.ndarray, features: Table, matrix: Matrix) -> Source:
    """One modality for each type of features."""
    if len(barcodes) != matrix.shape[0] or len(features) != matrix.shape[1]:
        msg = (
            f"Expected {name} to name all of its {matrix.shape[0]:,} cells and {matrix.shape[1]:,} "
            "features; found "
            f"{len(barcodes):,} barcodes and {len(features):,} features. Files of different runs may be "
            "mixed."
        )
        raise InputError(msg)
    return by_type(Source(name, Table(barcodes), features, {"X": lambda: Field(matrix, features)}))


def _open_mtx(path: Path, inside: list[str]) -> Source:
    """A 10x folder: matrix.mtx, features.tsv or genes.tsv, barcodes.tsv; gzipped or not, with any prefix."""
    import scipy.io

    matrix_path = _one(path, inside, "matrix.mtx")
    features_path = _one(path, inside, "features.tsv", "genes.tsv")
    barcodes = _lines(_one(path, inside, "barcodes.tsv"))
    rows = _lines(features_path)
    try:
        stored: Any = scipy.io.mmread(matrix_path)
    except (ValueError, OSError, EOFError) as error:
        msg = (
            f"Expected a whole MatrixMarket file at {matrix_path}; found a damaged one ({error}). Copy it "
            "again."
        )
        raise InputError(msg) from error
    fields = [row.split("\t") for row in rows]
    features = Table.of_columns(text(f[0] for f in fields), _feature_columns(fields))
    barcodes = text(row.split("\t")[0] for row in barcodes)
    return _of_10x(str(path), barcodes, features, Matrix.of(stored.T.tocsr(), where=str(matrix_path)))


def _feature_columns(fields: list[list[str]]) -> dict[str, np.ndarray]:
    depth = min((len(f) for f in fields), default=0)
    names = {"symbol": 1, "feature_type": 2}
    return {name: text(f[at] for f in fields) for name, at in names.items() if at < depth}


def _one(path: Path, inside: list[str], *wanted: str) -> Path:
    found = [name for name in inside for end in wanted if name.endswith((end, f"{end}.gz"))]
    if len(found) == 1:
        return path / found[0]
    what = f"{listing(found)}. Keep one" if found else f"none among {listing(inside)}. Copy it there"
    msg = f"Expected one {' or '.join(wanted)} (or .gz) in {path}; found {what}."
    raise InputError(msg)


def _lines(path: Path) -> list[str]:
    import gzip

    read = gzip.open if path.suffix == ".gz" else open
    try:
        with read(path, "rt", encoding="utf-8") as file:
            return [line.rstrip("\r\n") for line in file if line.strip()]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        msg = f"Expected a whole text file at {path}; found a damaged one ({error}). Copy it again."
        raise InputError(msg) from error
