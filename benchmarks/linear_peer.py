"""Fits of mofapy2, in the peers' environment: views with NaN in; factors, weights and filled values out.

    peers/bin/python benchmarks/linear_peer.py JOB.npz ...

Defaults of mofapy2 but for ``convergence_mode="medium"``: Gaussian views, spike-and-slab weights, relevance
by view. A job's result lies beside it, as ``JOB.out.npz``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from mofapy2.run.entry_point import entry_point


def main(path: Path) -> None:
    """Fit one job."""
    job = np.load(path)
    views = [job[name] for name in sorted(job.files) if name.startswith("view")]
    entry = entry_point()
    entry.set_data_options(scale_views=False)
    entry.set_data_matrix([[view] for view in views], likelihoods=["gaussian"] * len(views))
    entry.set_model_options(factors=int(job["dim"]))
    entry.set_train_options(seed=int(job["seed"]), convergence_mode="medium", quiet=True, verbose=False)
    begin = time.process_time()
    entry.build()
    entry.run()
    seconds = time.process_time() - begin
    nodes = entry.model.nodes
    z, weights = nodes["Z"].getExpectation(), nodes["W"].getExpectation()
    explained = np.asarray(entry.model.calculate_variance_explained()).squeeze()
    filled = {
        f"filled{m}": z @ w.T + np.nanmean(view, 0)
        for m, (w, view) in enumerate(zip(weights, views, strict=True))
    }
    kept = {f"weight{m}": w for m, w in enumerate(weights)}
    np.savez(path.with_suffix(".out.npz"), z=z, explained=explained, seconds=seconds, **filled, **kept)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        main(Path(name))
