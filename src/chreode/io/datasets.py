"""Real data: a small set that comes with our dependencies, and published time courses."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.io.published import embryoid_bodies, openproblems_cite, openproblems_multi

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["embryoid_bodies", "openproblems_cite", "openproblems_multi", "pbmc68k"]


def pbmc68k() -> AnnData:
    """Raw counts of 700 peripheral blood cells and 765 genes, with ten labels.

    scanpy bundles this subset log-normalised. Within a cell the smallest non-zero value stands for one
    molecule, so that the ratios to it are the counts (99.93 % of them are within 0.05 of a whole number).

    Returns
    -------
    AnnData of integer counts (CSR) with ``obs["bulk_labels"]``: types assigned by the authors from bulk
    expression profiles of sorted cells, and not by a clustering of these cells.

    References
    ----------
    Zheng GXY, Terry JM, Belgrader P, et al. (2017). Massively parallel digital transcriptional profiling of
    single cells. Nature Communications. doi:10.1038/ncomms14049

    Examples
    --------
    >>> pbmc68k().shape
    (700, 765)
    """
    import scanpy as sc
    from anndata import AnnData

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bundled: Any = sc.datasets.pbmc68k_reduced()
    raw: Any = bundled.raw.to_adata()
    counts = raw.X.tocsr().astype(np.float64)
    counts.data = np.expm1(counts.data)
    least = np.minimum.reduceat(counts.data, counts.indptr[:-1])
    counts.data = np.rint(counts.data / np.repeat(least, np.diff(counts.indptr)))
    obs = bundled.obs[["bulk_labels", "percent_mito", "S_score", "G2M_score", "phase"]].copy()
    return AnnData(counts.astype(np.float32), obs=obs, var=raw.var[[]].copy())
