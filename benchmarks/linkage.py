"""Which peaks go with a gene: linkage beside correlations, on simulated maps that are known.

    python benchmarks/linkage.py --out benchmarks/results/linkage.md

Twenty worlds of 1,500 cells, 400 genes, 500 peaks and twelve programmes in 20 dimensions; a model is
fitted to each (multiDGD, defaults) and eight genes that have a programme are silenced. Truth: *programme*,
peaks that share a programme with the gene; *direct*, peaks that the gene drives beyond programmes. Beside:
the correlation of gene and peak over single cells (both as shares of the cell's total), and over 75 pools
of 20 neighbouring cells (20 principal components of RNA), as a z-score among 100 peaks of the same
accessibility; their p-values are two-sided.

AUROC ranks all peaks of a gene; *false* is the observed share of false links at a nominal false discovery
rate of 0.1 (by Benjamini and Hochberg within a gene), *power* the share of true ones among those called.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import results
import scipy.sparse as sp
import torch
from scipy.stats import false_discovery_control, norm, t
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

import chreode as ch
from chreode.io.simulate_multiome import Multiome, simulate_multiome, true_links

WORLD = Multiome(
    dim=20,
    programmes=12,
    gene_share=0.06,
    peak_share=0.04,
    strength=1.0,
    separation=3,
    depth=3000,
    atac_depth=150,
)


def shares(matrix: sp.csr_matrix) -> np.ndarray:
    """Proportions of each row's total."""
    dense = np.asarray(matrix.todense(), dtype=np.float64)
    return dense / np.maximum(dense.sum(1, keepdims=True), 1)


def correlation(gene: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Correlation of one column with each of others."""
    g, p = gene - gene.mean(), peaks - peaks.mean(0)
    return (g @ p) / np.sqrt((g @ g) * (p * p).sum(0)).clip(1e-12)


def by_cell(rna: np.ndarray, atac: np.ndarray, gene: int) -> np.ndarray:
    """P-values of correlation over single cells."""
    r = correlation(rna[:, gene], atac)
    return 2 * t.sf(np.abs(r) * np.sqrt((len(rna) - 2) / (1 - r**2)), len(rna) - 2)


def by_pool(rna: np.ndarray, atac: np.ndarray, gene: int, near: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """P-values of correlation over pools, among peaks of the same accessibility."""
    r = correlation(rna[near].mean(1)[:, gene], atac[near].mean(1))
    others = r[alike]
    return 2 * norm.sf(np.abs((r - others.mean(1)) / others.std(1).clip(1e-9)))


def judged(p: np.ndarray, truth: np.ndarray, direct: np.ndarray) -> dict[str, float]:
    """What is made of one gene's p-values."""
    score = -np.log(p.clip(1e-300))
    called = false_discovery_control(p) <= 0.1
    row = {"programme": roc_auc_score(truth, score), "power": (called & truth).sum() / truth.sum()}
    # A direct peak is no false link, whatever programme it has.
    row["false"] = (called & ~truth & ~direct).sum() / max(1, called.sum())
    others = ~truth | direct
    row["direct"] = roc_auc_score(direct[others], score[others]) if direct.any() else float("nan")
    return row


def world(seed: int, *, genes: int) -> list[dict[str, Any]]:
    """Rows of one world: a gene and a method each."""
    paired = simulate_multiome(1500, 400, 500, components=3, world=WORLD, seed=seed)
    model = ch.fit(ch.read(paired), ch.recipes.multidgd(), seed=seed, progress=False)
    truth, direct = (true_links(paired, level=level).toarray() for level in ("programme", "direct"))
    rna, atac = shares(paired["rna"].X), shares(paired["atac"].X)
    expressed = (paired["rna"].X > 0).mean(0).A1 > 0.1
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero((truth.sum(1) > 3) & expressed))[:genes]
    codes = results.principal(sp.csr_matrix(paired["rna"].X))[0]
    pools = np.random.default_rng(seed).permutation(len(codes))[:75]
    near = NearestNeighbors(n_neighbors=20).fit(codes).kneighbors(codes[pools], return_distance=False)
    level = atac.mean(0)[:, None]
    alike = NearestNeighbors(n_neighbors=101).fit(level).kneighbors(level, return_distance=False)[:, 1:]
    rows = []
    for j in chosen:
        links = ch.linkage(model, f"gene{j}").reindex(paired["atac"].var_names)
        found = {
            "linkage": links["p_value"].to_numpy(),
            "correlation, cells": by_cell(rna, atac, j),
            "correlation, pools": by_pool(rna, atac, j, near, alike),
        }
        for method, p in found.items():
            rows.append({"method": method, "seed": seed, "gene": j, **judged(p, truth[j], direct[j])})
    return rows


def main() -> None:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(20)))
    parser.add_argument("--genes", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    mudata.set_options(pull_on_update=False)
    frames = []
    for seed in options.seeds:
        frames.append(pd.DataFrame(world(seed, genes=options.genes)))
        print(frames[-1].groupby("method")[["programme", "false", "power", "direct"]].mean(), flush=True)
    runs = pd.concat(frames).drop(columns="gene").groupby(["method", "seed"], sort=False).mean().reset_index()
    columns = {
        "programme": "AUROC programme",
        "false": "false at 0.1",
        "power": "power",
        "direct": "AUROC direct",
    }
    table = results.table(runs, by=["method"], columns=columns)
    if options.out:
        command = "python benchmarks/linkage.py"
        results.write(options.out, title="Gene to peak", command=command, parts={"Twenty worlds": table})


if __name__ == "__main__":
    main()
