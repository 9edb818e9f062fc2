"""Published time courses that benchmarks of dynamics use: downloaded once, checked whenever they are read."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = ["embryoid_bodies", "openproblems_cite", "openproblems_multi"]

_MENDELEY = "https://data.mendeley.com/public-files/datasets/hhny5ff7yj/files"


@dataclass(frozen=True)
class Remote:
    """A file that others publish.

    Parameters
    ----------
    name
        What it is called, there and here.
    address
        Where it is downloaded from.
    sha256
        Its checksum, 64 hexadecimal digits.
    """

    name: str
    address: str
    sha256: str


EMBRYOID_BODIES = Remote(
    "eb_velocity_v5.npz",
    "https://github.com/KrishnaswamyLab/TrajectoryNet/raw/master/data/eb_velocity_v5.npz",
    "17623d16dd4fe7b679aad80916d130cb2863a4cd4ee742f139a3c2eed91ba230",
)
CITE = Remote(
    "op_cite_inputs_0.h5ad",
    f"{_MENDELEY}/1862acf5-6294-4eb1-8644-d1c6d25e4126/file_downloaded",
    "fa1d117df3d6c23e0b80a997a259bcac3a79ad27d581e1a6654e107c39885e4c",
)
MULTI = Remote(
    "op_train_multi_targets_0.h5ad",
    f"{_MENDELEY}/5f4b6e5b-f122-4f5a-8ede-0d188c5cf00c/file_downloaded",
    "a16c28ef861503111bb2f4c6ab6b1d5ed3df07d49eb0baa7378515fc098af4d2",
)


def embryoid_bodies(
    path: str | os.PathLike[str] | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> AnnData:
    """Principal components of 16,819 cells of embryoid bodies, measured in five intervals of 27 days.

    The set "EB" of published tables, as TrajectoryNet distributes it (``eb_velocity_v5.npz``).

    Parameters
    ----------
    path
        The file, where you have it: it is checked and read, and nothing is downloaded.
    folder
        Where downloads are kept; by default ``chreode`` in the user's cache, ``$XDG_CACHE_HOME`` or
        ``~/.cache``.
    progress
        Show how far the download is.

    Returns
    -------
    AnnData without counts: 100 components in ``obsm["X_pca"]``, and in ``obs["time"]`` the interval, 0 to 4
    (days 0 to 3, 6 to 9, 12 to 15, 18 to 21 and 24 to 27), as published methods count them. The components
    were computed with the cells of all times.

    Raises
    ------
    InputError
        When the file cannot be downloaded or read, or its checksum is another.

    References
    ----------
    Moon KR, van Dijk D, Wang Z, et al. (2019). Visualizing structure and transitions in high-dimensional
    biological data. Nature Biotechnology. doi:10.1038/s41587-019-0336-3

    Tong A, Huang J, Wolf G, van Dijk D, Krishnaswamy S (2020). TrajectoryNet: a dynamic optimal transport
    network for modeling cellular dynamics. ICML. doi:10.48550/arXiv.2002.04461
    """
    import pandas as pd

    file = _fetched(EMBRYOID_BODIES, path, folder=folder, progress=progress)
    with np.load(file, allow_pickle=False) as stored:
        coordinates, labels = stored["pcs"], stored["sample_labels"]
    names = pd.Index([f"cell {i}" for i in range(len(labels))])
    return _course(coordinates, labels, pd.DataFrame(index=names))


def openproblems_cite(
    path: str | os.PathLike[str] | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> AnnData:
    """Principal components of 31,240 differentiating blood stem cells, measured by CITE-seq on four days.

    The set "Cite" of published tables: RNA of one donor of the Open Problems competition of 2022
    (``op_cite_inputs_0.h5ad``, 1.2 GB). Its counts are left where they are.

    Parameters
    ----------
    path, folder, progress
        As of `embryoid_bodies`.

    Returns
    -------
    AnnData without counts: components in ``obsm["X_pca"]``, the day (2, 3, 4, 7) in ``obs["time"]``, and what
    else the file knows of its cells in ``obs``. The components were computed with the cells of all days and
    donors.

    Raises
    ------
    InputError
        As `embryoid_bodies`.

    References
    ----------
    Tong A (2023). Processed single-cell RNA time series data. Mendeley Data. doi:10.17632/hhny5ff7yj.1

    Tong A, Malkin N, Fatras K, et al. (2024). Simulation-free Schroedinger bridges via score and flow
    matching. AISTATS. doi:10.48550/arXiv.2307.03672
    """
    return _openproblems(_fetched(CITE, path, folder=folder, progress=progress))


def openproblems_multi(
    path: str | os.PathLike[str] | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> AnnData:
    """Principal components of differentiating blood stem cells, measured by Multiome on four days.

    The set "Multi" of published tables: RNA of one donor of the Open Problems competition of 2022
    (``op_train_multi_targets_0.h5ad``, 1.1 GB). All else is as in `openproblems_cite`.

    Parameters
    ----------
    path, folder, progress
        As of `embryoid_bodies`.

    Returns
    -------
    AnnData without counts, as `openproblems_cite`.

    Raises
    ------
    InputError
        As `embryoid_bodies`.

    References
    ----------
    Those of `openproblems_cite`.
    """
    return _openproblems(_fetched(MULTI, path, folder=folder, progress=progress))


def _openproblems(file: Path) -> AnnData:
    import pandas as pd

    from chreode.io.opening import open_source

    with open_source(file) as source:
        columns = {name: source.cells.column(name).array for name in source.cells.columns}
        coordinates = np.asarray(source.tables["X_pca"]())
        obs = pd.DataFrame(columns, index=source.cells.names)
    return _course(coordinates, obs["day"], obs)


def _course(coordinates: np.ndarray, times: Any, obs: pd.DataFrame) -> AnnData:
    from anndata import AnnData

    obsm: Any = {"X_pca": coordinates}
    return AnnData(obs=obs.assign(time=np.asarray(times).astype(np.float64)), obsm=obsm)


def _fetched(
    file: Remote,
    path: str | os.PathLike[str] | None,
    *,
    folder: str | os.PathLike[str] | None,
    progress: bool,
) -> Path:
    """Where the file lies, with the checksum it must have; downloaded, unless it was before."""
    if path is not None:
        given = Path(path).expanduser()
        _check(given, file, f"{given}. Download {file.address}, or leave path= out")
        return given
    folder = _cache() if folder is None else Path(folder).expanduser()
    kept = folder / file.name
    if kept.exists():
        _check(kept, file, f"{kept}. Delete it, and it is downloaded again")
    else:
        _download(file, kept, progress=progress)
    return kept


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "chreode"


def _check(path: Path, file: Remote, where: str) -> None:
    try:
        with path.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        msg = f"Expected {file.name}; found {error.strerror} at {where}."
        raise InputError(msg) from error
    if found != file.sha256:
        msg = f"Expected {file.name} with sha256 {file.sha256}; found {found} at {where}."
        raise InputError(msg)


def _download(file: Remote, to: Path, *, progress: bool) -> None:
    """Beside its place first, so that what lies there is whole and has the right checksum."""
    from http.client import HTTPException
    from tempfile import TemporaryDirectory

    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f"{file.name}.", dir=to.parent) as beside:
            part = Path(beside) / file.name
            _receive(file, part, progress=progress)
            _check(
                part, file, f"{file.address}. Nothing was kept; try again, or give a file of yours as path="
            )
            part.replace(to)
    except (OSError, HTTPException) as error:
        msg = (
            f"Expected to download {file.name} from {file.address} into {to.parent}; found: {error}. Try "
            "again, or download it elsewhere and give the file as path=."
        )
        raise InputError(msg) from error


def _receive(file: Remote, part: Path, *, progress: bool) -> None:
    from shutil import copyfileobj
    from urllib.request import Request, urlopen

    from tqdm.auto import tqdm

    # Mendeley Data refuses what urllib calls itself.
    request = Request(file.address, headers={"User-Agent": "Mozilla/5.0 (compatible; chreode)"})
    with urlopen(request, timeout=60) as response, part.open("wb") as opened:
        total = int(response.headers.get("Content-Length") or 0)
        writing: Any = tqdm.wrapattr(
            opened, "write", total=total or None, desc=file.name, disable=not progress
        )
        with writing as shown:
            copyfileobj(response, shown)
    if (size := part.stat().st_size) < total:
        msg = f"the connection ended after {size:,} of {total:,} bytes"
        raise ConnectionError(msg)
