"""What scib-metrics says of embeddings whose neighbours are given; run by its own Python.

    scib/bin/python benchmarks/scib_peer.py JOB.npz ...

Each job holds ``codes``, ``before``, ``labels``, ``batches`` and 90 neighbours (``near``, ``distances``, each
cell first). Beside it, ``JOB.out.npz``: every score of `Benchmarker` as it comes and, as ``exact``, with its
search among diffusion components made exact and the labels called so that the largest comes first (0.5.10
uses no more components for a label than for the smallest before it); kBET on all cells; clusters, graph,
seconds of processor time.
"""

from __future__ import annotations

import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import scib_metrics
from scib_metrics.benchmark import Benchmarker
from scib_metrics.nearest_neighbors import NeighborsResults
from scib_metrics.utils import KMeans
from sklearn.neighbors import NearestNeighbors


def exactly(codes: np.ndarray, n_neighbors: int, **_: Any) -> NeighborsResults:
    """In the place of an approximate search."""
    found = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(codes)
    distances, near = found.kneighbors(codes)
    return NeighborsResults(indices=near, distances=distances)


def largest_first(labels: np.ndarray) -> np.ndarray:
    """Other names for labels, whose order is that of their sizes."""
    _, number, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    place = np.argsort(np.argsort(-sizes, kind="stable"))
    return np.char.mod("%04d", place[number])


def scored(job: Any, labels: np.ndarray) -> tuple[dict[str, float], float]:
    """Every score of one job, and what it took."""
    neighbours = NeighborsResults(indices=job["near"], distances=job["distances"].astype(np.float32))
    cells = ad.AnnData(np.zeros((len(job["codes"]), 1), dtype=np.float32))
    cells.obs["label"], cells.obs["batch"] = labels, job["batches"]
    cells.obsm["codes"], cells.obsm["before"] = job["codes"], job["before"]
    run = Benchmarker(
        cells, "batch", "label", ["codes"], pre_integrated_embedding_obsm_key="before", progress_bar=False
    )
    run.prepare(lambda codes, k: neighbours)
    start = time.process_time()
    run.benchmark()
    seconds = time.process_time() - start
    found = run.get_results(min_max_scale=False, clean_names=False).loc["codes"]
    return {name: float(value) for name, value in found.items()}, seconds


def main() -> None:
    warnings.simplefilter("ignore")
    search = scib_metrics.nearest_neighbors.pynndescent
    for path in map(Path, sys.argv[1:]):
        with np.load(path) as stored:
            job = {name: stored[name] for name in stored.files}
        scib_metrics.nearest_neighbors.pynndescent = exactly
        exact, _ = scored(job, largest_first(job["labels"]))  # which also compiles for these shapes
        scib_metrics.nearest_neighbors.pynndescent = search
        own, seconds = scored(job, job["labels"])
        fifty = NeighborsResults(indices=job["near"], distances=job["distances"].astype(np.float32))
        fifty = fifty.subset_neighbors(50)
        clusters = KMeans(len(np.unique(job["labels"])))
        clusters.fit(job["codes"])
        graph = fifty.knn_graph_connectivities.tocsr()
        np.savez(
            path.with_suffix(".out.npz"),
            names=np.array(list(own)),
            own=np.array(list(own.values())),
            exact=np.array([exact[name] for name in own]),
            kbet_all=float(scib_metrics.kbet(fifty, job["batches"])[0]),
            clusters=np.asarray(clusters.labels_),
            data=graph.data,
            indices=graph.indices,
            indptr=graph.indptr,
            seconds=seconds,
            versions=f"scib-metrics {version('scib-metrics')}, jax {version('jax')}",
        )
        print(path.stem, f"{seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
