"""Differential expression by scvi-tools: the peer's side of `de.py`, in the peers' environment, one thread.

    python benchmarks/de_peer.py JOB.npz ...

A job holds ``counts`` (CSR parts, see `scvi_fit.pack`), ``first`` (a mask) and ``seed``. SCVI is trained at
its defaults; beside the job ``JOB.out.npz`` is written with, for each gene in change mode at its defaults,
``probability`` of a change beyond 0.25, ``median`` log2 fold change, ``called`` (at a false discovery rate of
0.05 by its own account) and ``seconds``.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from scvi_fit import unpack

__all__: list[str] = []


def main() -> None:
    import anndata as ad
    import pandas as pd
    import scvi

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for path in map(Path, sys.argv[1:]):
        job = np.load(path)
        counts = unpack("counts", job)
        names = [f"gene{j}" for j in range(counts.shape[1])]
        group = np.where(job["first"], "first", "second")
        adata = ad.AnnData(counts, obs=pd.DataFrame({"group": group}), var=pd.DataFrame(index=names))
        scvi.settings.seed = int(job["seed"])
        scvi.model.SCVI.setup_anndata(adata)
        start = time.perf_counter()
        model = scvi.model.SCVI(adata)
        model.train(accelerator="cpu", enable_progress_bar=False)
        table = model.differential_expression(
            groupby="group", group1="first", group2="second", mode="change", fdr_target=0.05, silent=True
        ).loc[names]
        np.savez(
            path.with_suffix(".out.npz"),
            probability=table["proba_de"].to_numpy(),
            median=table["lfc_median"].to_numpy(),
            called=table["is_de_fdr_0.05"].to_numpy(),
            seconds=time.perf_counter() - start,
        )
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
