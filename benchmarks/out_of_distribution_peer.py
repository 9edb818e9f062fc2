"""scvi-tools on a type never seen stimulated: the peers' side of `out_of_distribution.py`.

Runs in the peers' environment (``peers.txt``), called by `out_of_distribution.py`; one thread:

    python benchmarks/out_of_distribution_peer.py JOB.npz ...

A job holds ``train`` (CSR parts, see `scvi_fit.pack`), ``after`` (1 for stimulated cells), ``types`` and
``kind`` (numbers), ``model`` and ``seed``. Models are trained at their defaults, with a negative binomial
where they ask. ``ends`` of ``JOB.out.npz`` are means per ten thousand of the kind's control cells, decoded
under both conditions:

- ``SCVI`` and ``SCANVI`` have the condition for batch (`transform_batch`), the latter the types for labels;
- ``ContrastiveVI`` has controls for background; the salient code is the mean of those of stimulated cells.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scvi_fit import unpack

LEVELS = ("before", "after")


def of_batches(model: Any, controls: np.ndarray) -> np.ndarray:
    """Under either batch, everything else as it is."""
    how = {"indices": controls, "library_size": 1e4, "return_numpy": True}
    return np.stack([model.get_normalized_expression(transform_batch=b, **how).mean(0) for b in LEVELS])


def contrastive(cells: ad.AnnData, controls: np.ndarray) -> np.ndarray:
    """Without a salient code, and with the mean one of stimulated cells."""
    import scvi

    scvi.external.ContrastiveVI.setup_anndata(cells)
    model = scvi.external.ContrastiveVI(cells)
    after = (cells.obs["condition"] == "after").to_numpy()
    model.train(
        background_indices=np.flatnonzero(~after),
        target_indices=np.flatnonzero(after),
        accelerator="cpu",
        enable_progress_bar=False,
    )
    z = model.get_latent_representation(representation_kind="background", indices=controls)
    stimulated = np.flatnonzero(after)
    s = model.get_latent_representation(representation_kind="salient", indices=stimulated).mean(0)
    ends = []
    for own in (np.zeros_like(s), s):
        with torch.no_grad():
            codes = torch.from_numpy(np.broadcast_to(own, (len(z), len(own))).copy())
            log_total, batch = torch.zeros(len(z), 1), torch.zeros(len(z), 1)
            found = model.module._generic_generative(torch.from_numpy(z), codes, log_total, batch)
        ends.append(1e4 * found["px_scale"].mean(0).numpy())
    return np.stack(ends)


def run(path: Path) -> None:
    """One job."""
    import scvi

    job = np.load(path)
    scvi.settings.seed = int(job["seed"])
    named = {"condition": np.asarray(LEVELS)[job["after"]], "type": job["types"].astype(str)}
    cells = ad.AnnData(unpack("train", job), obs=pd.DataFrame(named))
    controls = np.flatnonzero((job["types"] == int(job["kind"])) & (job["after"] == 0))
    how = {"accelerator": "cpu", "enable_progress_bar": False}
    if str(job["model"]) == "ContrastiveVI":
        ends = contrastive(cells, controls)
    else:
        scvi.model.SCVI.setup_anndata(cells, batch_key="condition")
        model: Any = scvi.model.SCVI(cells, gene_likelihood="nb")
        model.train(**how)
        if str(job["model"]) == "SCANVI":
            labels: dict[str, Any] = {"unlabeled_category": "none", "labels_key": "type"}
            model = scvi.model.SCANVI.from_scvi_model(model, **labels)
            model.train(**how)
        ends = of_batches(model, controls)
    np.savez(path.with_suffix(".out.npz"), ends=ends)
    print(path.stem, flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        run(Path(name))
