"""scvi-tools' SCVI and SCANVI, and Harmony, on cells of two conditions: the peers' side of `conditions.py`.

Runs in the peers' environment (``peers.txt``, and harmonypy), called by `conditions.py`; one thread:

    python benchmarks/conditions_peer.py JOB.npz ...

A job holds ``train``, ``other`` and ``half`` (CSR parts, see `scvi_fit.pack`: cells that are fitted, cells
that are held out, and half of the molecules of these), ``condition`` and ``cell_type`` of all cells, ``out``,
a mask of those held out, ``components`` of all cells, and ``seed``. SCVI is trained at its defaults with the
condition for batch, then SCANVI from it at its own with the types of training cells for labels. Harmony,
which has no way to place new cells, moves the components of all cells together. Beside the job
``JOB.out.npz`` is written: of each of the three ``shared``, codes of all cells, and of the two models
``expected``, proportions of held-out cells.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scvi_fit import unpack

UNKNOWN = "none"


@torch.no_grad()
def inferred(model: Any, counts: Any, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means of cells, and the proportions that are expected there."""
    x, module = torch.from_numpy(counts.toarray()), model.module.eval()
    level = torch.from_numpy(batch)[:, None]
    mean = module.inference(x, level)["qz"].loc
    size = x.sum(1, keepdim=True).clamp(min=1).log()
    return mean.numpy(), module.generative(mean, size, level)["px"].scale.numpy()


def models(job: Any) -> dict[str, np.ndarray]:
    """Codes and proportions of both models."""
    import scvi

    scvi.settings.seed = int(job["seed"])
    out, condition = job["out"], job["condition"]
    names, batch = np.unique(condition, return_inverse=True)
    train = ad.AnnData(
        unpack("train", job),
        obs=pd.DataFrame({"condition": condition[~out], "label": job["cell_type"][~out]}),
    )
    train.obs["condition"] = pd.Categorical(train.obs["condition"], categories=names)
    how = {"accelerator": "cpu", "enable_progress_bar": False}
    scvi.model.SCVI.setup_anndata(train, batch_key="condition")
    first = scvi.model.SCVI(train)
    first.train(**how)
    second = scvi.model.SCANVI.from_scvi_model(first, unlabeled_category=UNKNOWN, labels_key="label")
    second.train(**how)
    found = {}
    for name, model in {"scVI": first, "scANVI": second}.items():
        codes = np.zeros((len(out), model.module.n_latent), dtype=np.float32)
        codes[~out] = inferred(model, unpack("train", job), batch[~out])[0]
        codes[out] = inferred(model, unpack("other", job), batch[out])[0]
        found[f"{name}.shared"] = codes
        found[f"{name}.expected"] = inferred(model, unpack("half", job), batch[out])[1]
    return found


def harmony(job: Any) -> np.ndarray:
    """Components that Harmony moved."""
    import harmonypy

    about = pd.DataFrame({"condition": job["condition"]})
    moved = harmonypy.run_harmony(job["components"], about, ["condition"], random_state=int(job["seed"]))
    codes = np.asarray(moved.Z_corr)
    return codes if len(codes) == len(about) else codes.T


def run(path: Path) -> None:
    """One job."""
    begun = time.perf_counter()
    with np.load(path) as job:
        found: dict[str, Any] = {"Harmony.shared": harmony(job), **models(job)}
    np.savez_compressed(path.with_suffix(".out.npz"), **found)
    print(f"{path.stem}: {time.perf_counter() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        run(Path(name))
