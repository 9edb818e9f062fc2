"""Does a fit over 200,000 peaks stay in memory? 20,000 simulated cells, a few epochs.

    python benchmarks/wide.py --epochs 3 --out benchmarks/results/wide.md

Cells of ten kinds; each kind opens a tenth of the peaks four times as often. A cell has about 2,000 open
peaks and 1,000 molecules of 2,000 genes. multiDGD at its defaults, but for the number of epochs and of cells
held out where these are given. Memory is that of the process: what reading left, and the peak of the fit
(Linux). Kinds are told by 15 neighbours of the codes in five folds, beside chance.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import results
import scipy.sparse as sp
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from step_time import reset_peak, resident

KINDS = 10


def draw(kinds: np.ndarray, *, features: int, total: int, rng: np.random.Generator) -> sp.csr_matrix:
    """Counts of about so many molecules a cell; a kind at a time, never dense."""
    base = rng.lognormal(0, 1, features)
    indices, order = [], []
    for kind in range(KINDS):
        rows = np.flatnonzero(kinds == kind)
        odds = base * np.where(rng.random(features) < 1 / KINDS, 4.0, 1.0)
        edges = np.cumsum(odds / odds.sum())
        drawn = np.searchsorted(edges, rng.random((len(rows), total)) * edges[-1])
        indices.append(drawn.ravel().astype(np.int32))
        order.append(np.repeat(rows, total).astype(np.int32))
    where = np.concatenate(order), np.concatenate(indices)
    shape = len(kinds), features
    return sp.coo_matrix((np.ones(len(where[0]), np.float32), where), shape=shape).tocsr()


def simulate(*, cells: int, peaks: int, seed: int = 0) -> mudata.MuData:
    """RNA as counts, peaks as zeros and ones."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(KINDS, size=cells)
    obs = pd.DataFrame({"kind": [f"kind {k}" for k in kinds]}, index=[f"c{i}" for i in range(cells)])
    atac = draw(kinds, features=peaks, total=peaks // 100, rng=rng)
    atac.data[:] = 1
    rna = draw(kinds, features=2_000, total=1_000, rng=rng)
    regions = [f"chr1:{1000 * j}-{1000 * j + 500}" for j in range(peaks)]
    parts = {
        "rna": ad.AnnData(rna, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(2_000)])),
        "atac": ad.AnnData(atac, obs=obs[[]], var=pd.DataFrame(index=regions)),
    }
    with mudata.set_options(pull_on_update=False):
        return mudata.MuData(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--peaks", type=int, default=200_000)
    parser.add_argument("--epochs", type=int, help="multiDGD's own rule by default")
    parser.add_argument("--validation", type=float, default=0.1, help="share of cells held out")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    import chreode as ch

    cells = ch.read(simulate(cells=options.cells, peaks=options.peaks), label="kind")
    before, start = reset_peak(), time.perf_counter()
    model = ch.fit(cells, ch.recipes.multidgd(), epochs=options.epochs, validation=options.validation)
    seconds, peak = time.perf_counter() - start, resident("VmHWM")
    kinds = cells.level_names("kind")
    told = cross_val_score(KNeighborsClassifier(15), model.embedded.embedding, kinds, cv=5).mean()
    clock, looked = model.history["seconds"].diff(), model.history["validation"].notna()
    clock.iloc[0] = model.history["seconds"].iloc[0]
    rows = {
        "cells": f"{options.cells:,}",
        "peaks": f"{options.peaks:,}",
        "ones": f"{len(cells.measured['atac'].value):,}",
        "held out": f"{options.validation:.0%}",
        "epochs": f"{len(model.history)}",
        "memory before the fit, MB": f"{before:,.0f}",
        "peak memory, MB": f"{peak:,.0f}",
        "rise, MB": f"{peak - before:,.0f}",
        "seconds an epoch": f"{clock[~looked].median():.0f}",
        "seconds in all": f"{seconds:.0f}",
        "kind told": f"{told:.3f} (chance {1 / KINDS:.1f})",
    }
    parts = {"One fit": "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())])}
    print(parts["One fit"])
    if options.out:
        flags = f" --epochs {options.epochs}" if options.epochs else ""
        command = f"python benchmarks/wide.py{flags} --validation {options.validation}"
        results.write(options.out, title="200,000 peaks", command=command, parts=parts)


if __name__ == "__main__":
    main()
