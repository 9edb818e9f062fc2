"""scVI on one split of `unseen.py`: scArches surgery, and an ordinary fit; run by the peers' Python.

    peers/bin/python benchmarks/unseen_peer.py JOB.npz OUT.npz

``JOB`` holds counts of the ``others`` (the batches that are not left out), of the ``seen`` half of the
left-out batches, and of the judged cells: one half of their molecules (``first``) and all (``whole``); and
every cell's batch. ``OUT`` gets, of surgery as ``unseen`` and of the ordinary fit as ``seen``, shares of the
judged cells (``px_scale`` at the posterior mean of ``first``), codes of them (posterior means of ``whole``)
and of the others, and seconds of training.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import scvi
import torch
from scvi_fit import CHUNK, unpack

if TYPE_CHECKING:
    import scipy.sparse as sp

# As recommended for surgery: https://docs.scvi-tools.org, tutorial "Reference mapping with scvi-tools".
OPTIONS = {"use_layer_norm": "both", "use_batch_norm": "none", "encode_covariates": True, "n_layers": 2}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def cells(counts: sp.csr_matrix, batch: np.ndarray) -> ad.AnnData:
    """Counts with their batch."""
    obs = pd.DataFrame({"batch": pd.Categorical(batch)}, index=[f"c{i}" for i in range(len(batch))])
    return ad.AnnData(counts.astype(np.float32), obs=obs)


def fitted(counts: sp.csr_matrix, batch: np.ndarray, *, epochs: int) -> scvi.model.SCVI:
    """SCVI with the options that surgery asks for."""
    adata = cells(counts, batch)
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.model.SCVI(adata, **OPTIONS)
    model.train(max_epochs=epochs or None, **QUIET)
    return model


def operated(
    model: scvi.model.SCVI, counts: sp.csr_matrix, batch: np.ndarray, *, epochs: int
) -> scvi.model.SCVI:
    """Surgery: only the weights of the new batches are trained."""
    other = scvi.model.SCVI.load_query_data(cells(counts, batch), model, accelerator="cpu")
    other.train(max_epochs=epochs, plan_kwargs={"weight_decay": 0.0}, **QUIET)
    return other


@torch.no_grad()
def encode(model: scvi.model.SCVI, counts: sp.csr_matrix, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means, and the shares decoded from them, under the cells' own batch."""
    levels = model.adata_manager.get_state_registry("batch").categorical_mapping
    numbers = pd.Index(levels).get_indexer(batch)
    if (numbers < 0).any():
        msg = f"Expected batches among {list(levels)}; found {sorted(set(batch[numbers < 0]))}."
        raise ValueError(msg)
    module, codes, shares = model.module.eval(), [], []
    for at in range(0, counts.shape[0], CHUNK):
        x = torch.from_numpy(counts[at : at + CHUNK].toarray().astype(np.float32))
        index = torch.from_numpy(numbers[at : at + CHUNK, None])
        mean = module.inference(x, index)["qz"].loc
        size = x.sum(1, keepdim=True).clamp(min=1).log()
        shares.append(module.generative(mean, size, index)["px"].scale.numpy())
        codes.append(mean.numpy())
    return np.concatenate(codes), np.concatenate(shares)


def described(model: scvi.model.SCVI, stored: Any, arm: str) -> dict[str, np.ndarray]:
    """Codes and shares by one model."""
    batch = stored["judged_batch"]
    return {
        f"{arm}_share": encode(model, unpack("first", stored), batch)[1],
        f"{arm}_judged": encode(model, unpack("whole", stored), batch)[0],
        f"{arm}_others": encode(model, unpack("others", stored), stored["others_batch"])[0],
    }


def main(job: str, out: str) -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with np.load(job) as arrays:
        stored = {name: arrays[name] for name in arrays.files}
    epochs, surgery = int(stored["epochs"]), int(stored["surgery"])
    others, seen = unpack("others", stored), unpack("seen", stored)
    batches = stored["others_batch"], stored["seen_batch"]
    scvi.settings.seed = int(stored["seed"])
    start = time.perf_counter()
    reference = fitted(others, batches[0], epochs=epochs)
    found = described(operated(reference, seen, batches[1], epochs=surgery), stored, "unseen")
    found["unseen_seconds"] = np.asarray(time.perf_counter() - start)
    scvi.settings.seed = int(stored["seed"])
    start = time.perf_counter()
    both = ad.concat([cells(others, batches[0]), cells(seen, batches[1])])
    model = fitted(both.X, np.concatenate(batches), epochs=epochs)
    found |= described(model, stored, "seen")
    found["seen_seconds"] = np.asarray(time.perf_counter() - start)
    np.savez(out, **found)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
