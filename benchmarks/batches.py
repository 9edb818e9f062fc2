"""Batches: do they mix within type as well as with scVI, and is the type still told by neighbours?

    python benchmarks/batches.py --peers DIR --out benchmarks/results/batches.md

``DIR`` holds what ``scvi_peer.py --setting best --batch batch`` wrote. Mixing 1 is as by chance.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import data
import numpy as np
import pandas as pd
import protocol
import results
import torch
from peers import against

import chreode as ch
from chreode.storage import versions

SETS = ("sc_mixology", "bmmc")


def ours(name: str, seed: int) -> dict[str, object]:
    """scDGD at its defaults with the batch, on the cells of one split."""
    adata, known = data.load(name), data.KNOWN[name]
    split = protocol.split(adata.X, name=name, seed=seed)
    start = time.perf_counter()
    cells = ch.read(adata[split.fit].copy(), batch=known.batch)
    model = ch.fit(cells, ch.recipes.scdgd(), seed=seed, progress=False)
    seconds = time.perf_counter() - start
    row = {"dataset": name, "method": "scDGD, batch", "seed": seed, "seconds": seconds}
    return row | against(name, model.embedded.embedding, split.fit)


def main() -> None:
    """Run both sets and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in SETS:
        for seed in options.seeds:
            rows.append(ours(name, seed))
            print(rows[-1], flush=True)
            with np.load(options.peers / f"{name}-best-batch-{seed}.npz") as run:
                scores = against(name, run["codes"], run["fit"])
            rows.append({"dataset": name, "method": "scVI, batch", "seed": seed} | scores)
            split = protocol.split(data.load(name).X, name=name, seed=seed)
            pcs = protocol.pcs(data.load(name).X[split.fit])
            rows.append({"dataset": name, "method": "20 PCs", "seed": seed} | against(name, pcs, split.fit))
    used = ", ".join(f"{k} {v}" for k, v in versions().items())
    lines = [
        "# Batches",
        "",
        f"`python benchmarks/batches.py --peers DIR`; {used}; scvi-tools 1.4.2; seeds {options.seeds}.",
        "",
    ]
    lines += ["| data set | method | mixing within type | knn | k-means ARI |", "|---|---|---|---|---|"]
    for (name, method), group in pd.DataFrame(rows).groupby(["dataset", "method"], sort=False):
        cells = [
            f"{group[c].mean():.3f} ± {(group[c].max() - group[c].min()) / 2:.3f}"
            for c in ("mixing", "knn", "kmeans_ari")
        ]
        lines.append(f"| {name} | {method} | " + " | ".join(cells) + " |")
    results.put(lines, options.out)


if __name__ == "__main__":
    main()
