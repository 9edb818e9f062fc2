"""scvi-tools' SCANVI on cells some of which have labels: the peer's side of `labels.py`.

Runs in the peers' environment (``peers.txt``), called by `labels.py`; one thread:

    python benchmarks/labels_peer.py JOB.npz ...

A job holds ``train`` and ``other`` (CSR parts, see `scvi_fit.pack`), ``labels`` of the training cells (-1
where it has none), ``k`` and ``seed``. SCVI is trained at its defaults, then SCANVI from it at its own. What
it finds stands beside the job in ``JOB.out.npz``: ``train`` and ``other``, probabilities of the levels, and
``seconds``.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scvi_fit import unpack

UNKNOWN = "none"


def run(path: Path) -> None:
    """One job."""
    import scvi

    job = np.load(path)
    scvi.settings.seed = int(job["seed"])
    levels = [str(k) for k in range(int(job["k"]))]
    names = np.asarray([*levels, UNKNOWN])
    cells = ad.AnnData(unpack("train", job), obs=pd.DataFrame({"label": names[job["labels"]]}))
    other = ad.AnnData(unpack("other", job))
    other.obs["label"] = UNKNOWN
    how = {"accelerator": "cpu", "enable_progress_bar": False}
    begun = time.perf_counter()
    scvi.model.SCVI.setup_anndata(cells)
    first = scvi.model.SCVI(cells)
    first.train(**how)
    model = scvi.model.SCANVI.from_scvi_model(first, unlabeled_category=UNKNOWN, labels_key="label")
    model.train(**how)
    seconds = time.perf_counter() - begun
    found = {
        name: model.predict(some, soft=True)[levels].to_numpy()
        for name, some in (("train", cells), ("other", other))
    }
    np.savez(path.with_suffix(".out.npz"), seconds=seconds, **found)
    print(f"{path.stem}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        run(Path(name))
