"""The real data sets of the benchmarks: counts, labels and batches, by name.

Independent of chreode, so that a peer in its own environment reads exactly the same cells and features.
The files lie in ``../shared/data`` beside the checkout (``--data`` elsewhere).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["ASIDE", "FIVE", "KNOWN", "TYPES", "Known", "load"]

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"
FIVE = ("pbmc68k", "pbmc3k", "kang", "haber", "sc_mixology")
# No setting was ever chosen while looking at these.
ASIDE = ("cbmc", "starmap", "paul15")


@dataclass(frozen=True)
class Known:
    """What is known of a data set.

    Parameters
    ----------
    file
        Name of the h5ad file without its suffix; None for the one bundled with scanpy.
    label
        Column of the labels.
    batch
        Column of the experimental batches; None where there is one batch, or none is meant by default.
    labelled_by
        How the labels were made, which says how far to trust a score against them.
    n_features
        Keep so many features, the most variable by binomial deviance; None keeps all.
    """

    file: str | None
    label: str
    batch: str | None
    labelled_by: str
    n_features: int | None = None


# One name for the types that two studies of blood share.
TYPES = {
    "Naive CD4 T": "CD4 T",
    "Memory CD4 T": "CD4 T",
    "CD4 T cells": "CD4 T",
    "CD8 T cells": "CD8 T",
    "CD14+ Mono": "CD14+ monocytes",
    "CD14+ Monocytes": "CD14+ monocytes",
    "FCGR3A+ Mono": "FCGR3A+ monocytes",
    "FCGR3A+ Monocytes": "FCGR3A+ monocytes",
    "B cells": "B",
}
_GENOTYPE = "genotype (demuxlet), doublets dropped: independent of the expression"
KNOWN: dict[str, Known] = {
    "pbmc68k": Known(None, "bulk_labels", None, "correlation with sorted bulk populations"),
    "pbmc3k": Known("pbmc3k_2000hvg", "cell_type", None, "graph clustering of PCs, named by markers"),
    "kang": Known("kang_ifnb_muscat", "cell_type", None, "clustering, named by the authors; two conditions"),
    "haber": Known("haber_sie_demo", "cell_type", None, "clustering, named by the authors; a continuum"),
    "sc_mixology": Known("sc_mixology_5cl_celseq2", "cell_line_demuxlet", "batch", _GENOTYPE, 2000),
    "sc_mixology_16k": Known("sc_mixology_5cl_celseq2", "cell_line_demuxlet", "batch", _GENOTYPE),
    "bmmc": Known("bmmc_pathreg_lineages", "cell_type", "batch", "lineage by the authors of PathReg"),
    "paul15": Known("paul15_tradeseq", "cell_type", None, "clustering, named by the authors; a continuum"),
    "paul15_300": Known(
        "paul15_tradeseq", "cell_type", None, "clustering, named by the authors; a continuum", 300
    ),
    "cbmc": Known("cbmc_citeseq", "cell_type", None, "clustering, named by the authors; proteins seen"),
    "two_studies": Known(
        None,
        "type",
        "study",
        "clustering of each study; pbmc3k and control cells of kang, the types of both",
    ),
    "starmap": Known(
        "starmap_mpfc", "cell_type", None, "clustering, named by the authors; cells without name dropped"
    ),
}


def load(name: str, *, folder: Path | None = None) -> AnnData:
    """Read one data set: raw counts (CSR, float32) in ``X``, its columns in ``obs``.

    Parameters
    ----------
    name
        A key of `KNOWN`.
    folder
        Where the files are.

    Raises
    ------
    KeyError
        When the name is unknown.
    """
    if name not in KNOWN:
        msg = f"Expected one of {', '.join(KNOWN)}; found {name!r}."
        raise KeyError(msg)
    known = KNOWN[name]
    if name == "two_studies":
        return _two_studies(folder)
    if known.file is None:
        return _pbmc68k()
    import anndata

    path = (folder or FOLDER) / f"{known.file}.h5ad"
    adata = anndata.read_h5ad(path) if path.exists() else _rna(path.with_suffix(".h5mu"))
    if "demuxlet_cls" in adata.obs:
        adata = adata[adata.obs["demuxlet_cls"] == "SNG"].copy()
    if (adata.obs[known.label] == "NA").any():
        adata = adata[adata.obs[known.label] != "NA"].copy()
    adata.X = sp.csr_matrix(adata.X, dtype=np.float32)
    if known.n_features is not None:
        keep = np.sort(np.argsort(-_deviance(adata.X), kind="stable")[: known.n_features])
        adata = adata[:, keep].copy()
    adata.obs[known.label] = adata.obs[known.label].astype(str).astype("category")
    return adata


def _rna(path: Path) -> AnnData:
    """The RNA of a file of several modalities, with the columns all modalities share."""
    import h5py
    from anndata.io import read_elem

    with h5py.File(path) as file:
        adata, shared = read_elem(file["mod/rna"]), read_elem(file["obs"])
    adata.obs = shared.loc[adata.obs_names]
    return adata


def _two_studies(folder: Path | None) -> AnnData:
    """Healthy blood of two studies and technologies: shared genes, and cells of the types both have."""
    import anndata

    parts = {name: load(name, folder=folder) for name in ("pbmc3k", "kang")}
    parts["kang"] = parts["kang"][parts["kang"].obs["condition"].astype(str) == "ctrl"]
    for name, cells in parts.items():
        kind = cells.obs["cell_type"].astype(str)
        parts[name] = cells = cells[kind.isin([*TYPES, *TYPES.values()])].copy()
        kind = cells.obs["cell_type"].astype(str)
        cells.obs = cells.obs[[]].assign(type=kind.map(TYPES).fillna(kind), study=name)
    return anndata.concat(parts, join="inner", index_unique="-")


def _pbmc68k() -> AnnData:
    """The PBMC 68k subset that scanpy bundles, its counts recovered from the normalised values."""
    import anndata
    import scanpy as sc

    bundled = sc.datasets.pbmc68k_reduced()
    values = sp.csr_matrix(bundled.raw.X, dtype=np.float64).copy()
    values.data = np.expm1(values.data)
    rows = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
    least = np.full(values.shape[0], np.inf)
    np.minimum.at(least, rows, values.data)
    values.data = np.round(values.data / least[rows])
    return anndata.AnnData(values.astype(np.float32), obs=bundled.obs.copy(), var=bundled.raw.var.copy())


def _deviance(counts: sp.csr_matrix) -> np.ndarray:
    """Binomial deviance of every feature from a constant proportion (Townes et al. 2019)."""
    size = np.asarray(counts.sum(1), dtype=np.float64).ravel()
    total = np.asarray(counts.sum(0), dtype=np.float64).ravel()
    share = np.clip(total / size.sum(), 1e-12, 1 - 1e-12)
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    x, n, p = counts.data.astype(np.float64), size[rows], share[counts.indices]
    rest = np.maximum(n - x, 1e-12)
    # A zero contributes -n log(1 - p): summed over all cells, then replaced at the non-zeros.
    seen = x * np.log(x / (n * p)) + rest * np.log(rest / (n * (1 - p))) + n * np.log1p(-p)
    deviance = -size.sum() * np.log1p(-share)
    np.add.at(deviance, counts.indices, seen)
    return 2 * deviance
