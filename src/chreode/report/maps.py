"""Codes of many dimensions in the plane."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

import numpy as np

__all__ = ["package_version", "plane_of", "project_2d"]


def project_2d(
    codes: np.ndarray, seed: int, *, limit: int = 60_000, progress: bool = False
) -> tuple[np.ndarray, str]:
    """Give every code two coordinates, and say in words how they were made.

    Codes of two dimensions stay as they are. Otherwise UMAP (15 neighbours, least distance 0.3, started
    from principal components, one thread, so that the seed decides) or, for fewer than 30 or more than
    ``limit`` cells, the first two principal components.

    Parameters
    ----------
    codes
        ``n x d``.
    seed
        Of UMAP.
    limit
        Cells up to which UMAP is used.
    progress
        Whether to show a bar while UMAP is at work.

    Returns
    -------
    tuple
        ``n x 2`` float32 and the words.

    References
    ----------
    McInnes, Healy, Melville (2018), *UMAP*, arXiv:1802.03426. Start from principal components: Kobak and
    Linderman (2021), doi:10.1038/s41587-020-00809-z.

    Examples
    --------
    >>> xy, how = project_2d(np.eye(4), seed=0)
    >>> xy.shape, how
    ((4, 2), 'the first two principal components of the 4-dimensional codes')
    """
    codes = np.asarray(codes, dtype=np.float32)
    n, d = codes.shape
    if d == 2:
        return codes.copy(), "the two dimensions of the code itself"
    if 30 <= n <= limit and d > 2:
        with_what = f"umap-learn {package_version('umap-learn')}, 15 neighbours, seed {seed}"
        return _umap(codes, seed, progress=progress), f"UMAP of the {d}-dimensional codes ({with_what})"
    return _principal(codes), f"the first two principal components of the {d}-dimensional codes"


def _umap(codes: np.ndarray, seed: int, *, progress: bool) -> np.ndarray:
    from tqdm.auto import tqdm

    if progress:
        tqdm.write("The map is drawn by UMAP, which compiles for some seconds first.", file=sys.stderr)
    from umap import UMAP

    bar = {"disable": not progress, "desc": "draw the map", "unit": "epoch"}
    reducer = UMAP(n_neighbors=15, min_dist=0.3, init="pca", random_state=seed, n_jobs=1, tqdm_kwds=bar)
    return np.asarray(reducer.fit_transform(codes), dtype=np.float32)


def _principal(codes: np.ndarray) -> np.ndarray:
    """The first two principal components; what there is not of them is 0."""
    centred = codes - codes.mean(0, keepdims=True) if len(codes) else codes
    axes = np.linalg.eigh(centred.T.astype(np.float64) @ centred)[1][:, ::-1][:, :2]
    # The sign of an eigenvector is arbitrary: the largest loading is made positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    flat = np.zeros((len(codes), 2), dtype=np.float32)
    flat[:, : axes.shape[1]] = centred @ axes
    return flat


def plane_of(codes: np.ndarray) -> np.ndarray:
    """Codes of two dimensions as they are, others by their first two principal components."""
    return codes if codes.shape[1] == 2 else _principal(codes)


def package_version(package: str) -> str:
    """The version of an installed package, in words."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
