"""Half of the cells lose one modality: do they stay among the others, and is what they lost completed?

    python benchmarks/mosaic.py --out benchmarks/results/mosaic.md

Data: 1,500 simulated cells (300 genes, 600 peaks, five programmes) and ``cbmc_citeseq`` (every second cell;
2,463 genes, 10 proteins; mouse and unknown cells left out). Half of the cells, at random, lose one of two
modalities, at random. multiDGD (defaults) is fitted without validation cells to the mosaic, with and without
dropping modalities while it trains (``drop``), and to the cells before they lost anything.

- *mixing* of codes within cell types or programmes, between cells with one, the other and both modalities,
  and between each two of these kinds (1 is as by chance, 0 apart);
- *type told* by 15 neighbours;
- *completed*: what was lost, as the gain over the mean profile in nats a molecule (counts), and the area
  under the precision-recall curve in each cell (zeros and ones) less that of the mean accessibility.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import results
import torch
from sklearn.metrics import average_precision_score

import chreode as ch
from chreode.evaluate.clustering import neighbour_accuracy
from chreode.evaluate.integration import batch_mixing
from chreode.io.mosaic import mosaic
from chreode.io.simulate_multiome import Multiome, simulate_multiome

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "cbmc_citeseq.h5mu"
WORLD = Multiome(dim=6, depth=800, atac_depth=80, gene_share=0.1, peak_share=0.1)


def load(name: str, seed: int) -> tuple[Any, str]:
    """Cells with both modalities, and the column of their types."""
    if name == "simulated":
        return simulate_multiome(1500, 300, 600, components=5, world=WORLD, seed=seed), "component"
    whole = mudata.read_h5mu(DATA)
    human = ~whole.obs["cell_type"].isin(["Mouse", "unknown", "Unknown"])
    return whole[human][seed % 2 :: 2].copy(), "cell_type"


def kinds(cells: Any) -> np.ndarray:
    """What each cell has."""
    there = np.stack([cells.present[m].numpy() for m in cells.layout.modalities], 1)
    names = np.asarray(list(cells.layout.modalities))
    return np.asarray([" + ".join(names[row]) for row in there])


def completed(model: Any, whole: Any, modality: str) -> float:
    """How well a modality is known in cells that lost it."""
    embedded = model.embedded
    lost = ~embedded.cells.present[modality].numpy()
    at = whole.obs_names.get_indexer(embedded.names[lost])
    truth = np.asarray(whole[modality].X[at].todense())
    expected = embedded.expected(modality)[lost]
    seen = embedded.names[~lost]
    mean = np.asarray(whole[modality][seen].X.mean(0)).ravel()
    if model.layout.modalities[modality].kind == "binary":
        some = truth.any(1)
        pairs = zip(truth[some] > 0, expected[some], strict=True)
        gains = [average_precision_score(t, e) - average_precision_score(t, mean) for t, e in pairs]
        return float(np.mean(gains))
    share = expected / expected.sum(1, keepdims=True)
    mean = (mean + 1e-8) / (mean + 1e-8).sum()
    return float((truth * (np.log(share.clip(1e-10)) - np.log(mean))).sum() / truth.sum())


def judged(name: str, seed: int) -> list[dict[str, Any]]:
    """One row a way of fitting."""
    whole, column = load(name, seed)
    cut = ch.read(mosaic(whole, fraction=0.5, seed=seed), label=column)
    rows = []
    for method, cells, drop in (
        ("mosaic", cut, 0.0),
        ("mosaic, modalities dropped", cut, 0.5),
        ("nothing lost", ch.read(whole, label=column), 0.0),
    ):
        start = time.perf_counter()
        recipe = ch.recipes.multidgd(drop=drop)
        model = ch.fit(cells, recipe, seed=seed, validation=0, progress=False)
        row = {"data": name, "method": method, "seed": seed, "seconds": time.perf_counter() - start}
        codes, label = model.embedded.embedding, cells.level_names(column).astype(str)
        # The kinds of the mosaic, also where nothing was lost: what chance looks like.
        kind = kinds(cut)
        row["mixing"] = batch_mixing(codes, kind, labels=label)
        for one, other in itertools.combinations(np.unique(kind), 2):
            some = np.isin(kind, [one, other])
            row[f"{one} with {other}"] = batch_mixing(codes[some], kind[some], labels=label[some])
        row["told"] = neighbour_accuracy(codes, label)
        if cells is cut:
            row |= {f"completed {m}": completed(model, whole, m) for m in cut.layout.modalities}
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    """Run and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    mudata.set_options(pull_on_update=False)
    parts = {}
    for name in ("simulated", "cbmc"):
        runs = pd.DataFrame([row for seed in options.seeds for row in judged(name, seed)])
        columns = {c: c for c in runs.columns if c not in ("data", "method", "seed", "seconds")}
        columns["told"] = "type told"
        parts[name] = results.table(runs, by=["method"], columns=columns, decimals=3)
    if options.out:
        command = "python benchmarks/mosaic.py"
        results.write(options.out, title="Mosaics", command=command, parts=parts)


if __name__ == "__main__":
    main()
