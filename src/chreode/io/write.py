"""Writing files that are whole or not there."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chreode.errors import InputError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    import pandas as pd
    from anndata import AnnData

__all__ = ["atomic_path", "write_csv", "write_h5ad"]


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path beside ``path`` to write at; what is there takes the place of ``path`` when all went well.

    On any failure nothing is left, and what stood at ``path`` stays. A folder is replaced as a whole, by
    two renames: whoever is killed between them finds the old one beside, under its name with ``.old``.

    Parameters
    ----------
    path
        Where the result shall be. Its parent is made when absent.

    Raises
    ------
    InputError
        When the parent is a file or may not be written to, or a file would replace a folder or the reverse.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_path(f"{folder}/a.txt") as beside:
    ...         _ = beside.write_text("whole")
    ...     Path(f"{folder}/a.txt").read_text()
    'whole'
    """
    final = Path(path).expanduser().absolute()
    try:
        made = _make(final.parent)
        folder = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    except OSError as error:
        msg = (
            f"Expected a folder to write {final.name} in; found that {final.parent} is not one "
            f"({error.strerror})."
        )
        raise InputError(msg + " Give another path.") from error
    done = False
    try:
        beside = folder / final.name
        yield beside
        _replace(beside, final)
        done = True
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not done:
            with suppress(OSError):
                for parent in made:
                    parent.rmdir()


def _make(folder: Path) -> list[Path]:
    """Make a folder and its parents; return those that were not there, deepest first."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _replace(beside: Path, final: Path) -> None:
    if final.exists() and final.is_dir() != beside.is_dir():
        kind = {True: "a folder", False: "a file"}
        msg = (
            f"Expected to replace {kind[beside.is_dir()]} at {final}; found {kind[final.is_dir()]}. "
            "Give another path, or move it away."
        )
        raise InputError(msg)
    if not (final.is_dir() and beside.is_dir()):
        beside.replace(final)
        return
    old = final.with_name(f"{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    final.replace(old)
    beside.replace(final)
    shutil.rmtree(old)


def write_h5ad(adata: AnnData, path: str | os.PathLike[str]) -> None:
    """Write an AnnData as h5ad, whole or not at all.

    Parameters
    ----------
    adata
        What to write; it is not changed.
    path
        Where.
    """
    with atomic_path(path) as beside:
        _shallow(adata).write_h5ad(beside, compression="gzip")


def _shallow(adata: AnnData) -> AnnData:
    """The same arrays in another AnnData: writing makes categories of the text columns it is given."""
    import anndata

    if adata.isbacked:
        return adata.to_memory()
    source: Any = adata
    raw = source.raw
    return anndata.AnnData(
        source.X,
        obs=source.obs.copy(),
        var=source.var.copy(),
        uns=dict(source.uns),
        obsm=dict(source.obsm),
        varm=dict(source.varm),
        layers=dict(source.layers),
        obsp=dict(source.obsp),
        varp=dict(source.varp),
        raw=None if raw is None else {"X": raw.X, "var": raw.var.copy(), "varm": dict(raw.varm)},
    )


def write_csv(frame: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a table as CSV with its index, whole or not at all.

    Parameters
    ----------
    frame
        The table; its index is the first column.
    path
        Where.
    """
    with atomic_path(path) as beside:
        frame.to_csv(beside, lineterminator="\n")
