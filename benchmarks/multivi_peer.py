"""scvi-tools' MultiVI at its defaults on the cells of one split; run by the peers' Python (see `paired.py`).

    peers/bin/python benchmarks/multivi_peer.py JOB.npz OUT.npz

``JOB`` holds RNA and peaks of the cells that are fitted and, in several versions, of those that are tested:
what a version leaves out is zero, which is how MultiVI is told that it is missing. ``OUT`` gets codes of the
fitted cells, and for each version proportions and accessibilities of the tested ones; ``_rna_shown`` are
proportions once zeros were inflated, those of the counts that MultiVI expects.
"""

from __future__ import annotations

import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import scvi
import torch
from lightning.pytorch.callbacks import Callback
from scvi_fit import unpack
from step_time import resident

if TYPE_CHECKING:
    import scipy.sparse as sp


class Clock(Callback):
    """Seconds at the end of every epoch."""

    def __init__(self) -> None:
        self.ticks: list[float] = []

    def on_train_epoch_end(self, *_: object) -> None:
        self.ticks.append(time.perf_counter())


def table(rna: sp.csr_matrix, atac: sp.csr_matrix) -> mudata.MuData:
    """The two modalities of some cells."""
    obs = pd.DataFrame(index=[f"c{i}" for i in range(rna.shape[0])])
    both = {}
    for name, x in (("rna", rna), ("atac", atac)):
        var = pd.DataFrame(index=[f"{name}{j}" for j in range(x.shape[1])])
        both[name] = ad.AnnData(x.astype(np.float32), obs=obs.copy(), var=var)
    mdata = mudata.MuData(both)
    layers = {"rna_layer": "rna", "atac_layer": "atac"}
    scvi.model.MULTIVI.setup_mudata(mdata, modalities=layers, rna_layer=None, atac_layer=None)
    return mdata


@torch.no_grad()
def shown(model: scvi.model.MULTIVI, mdata: mudata.MuData) -> np.ndarray:
    """Proportions of the expected counts of some cells, zero inflation included."""
    kept = []
    for tensors in model._make_data_loader(adata=mdata, batch_size=128):
        how = {"inference_kwargs": {"n_samples": 1}, "generative_kwargs": {"use_z_mean": True}}
        _, found = model.module.forward(tensors=tensors, compute_loss=False, **how)
        kept.append((found["px_scale"] * torch.sigmoid(-found["px_dropout"])).numpy())
    expected = np.concatenate(kept)
    return expected / expected.sum(1, keepdims=True)


def main(job: str, out: str) -> None:
    warnings.simplefilter("ignore")
    stored = np.load(job)
    scvi.settings.seed = int(stored["seed"])
    rna, atac = unpack("fit_rna", stored), unpack("fit_atac", stored)
    model = scvi.model.MULTIVI(table(rna, atac), n_genes=rna.shape[1], n_regions=atac.shape[1])
    clock = Clock()
    before, start = resident("VmRSS"), time.perf_counter()
    epochs = int(stored["epochs"])
    model.train(callbacks=[clock], accelerator="cpu", **({"max_epochs": epochs} if epochs else {}))
    found: dict[str, Any] = {
        "seconds": np.asarray(clock.ticks) - start,
        "memory": resident("VmHWM") - before,
        "codes": model.get_latent_representation(),
    }
    for version in stored["versions"].tolist():
        some = table(unpack(f"{version}_rna", stored), unpack(f"{version}_atac", stored))
        found[f"{version}_rna"] = np.asarray(model.get_normalized_expression(some), dtype=np.float32)
        found[f"{version}_rna_shown"] = shown(model, some)
        for name, cells in (("atac", False), ("atac_depth", True)):
            estimate = model.get_normalized_accessibility(some, normalize_cells=cells)
            found[f"{version}_{name}"] = np.asarray(estimate, dtype=np.float16)
    np.savez(out, **found)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
