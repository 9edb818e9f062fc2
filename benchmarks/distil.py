"""An encoder after the fit: how much of the optimised codes' gain it keeps, and how fast it is.

    python benchmarks/distil.py --out benchmarks/results/distil.md

scDGD is fitted at its defaults to so many cells, and an encoder is trained on its codes (`chreode.distil`).
A tenth of all cells is tested: codes are inferred from a binomial half of their molecules and the other
half is scored, as the gain over the mean profile of the fitted cells in nats per held-out molecule. Codes are
optimised until they gain no more, or are the encoder's answer after 0, 1, 2 or 5 steps. A variational
autoencoder with the same decoder (`vae`) is fitted beside it, to the same cells. Seconds are of 1,000
cells, the best of five turns, which follow each other so that all share the machine's hours; quick ways are
timed on the tested cells five times over, so that what is done once a call does not count.
"""

from __future__ import annotations

import argparse
import time
import warnings
from itertools import product
from pathlib import Path

import pandas as pd
import results
import torch
from encoder_or_not import DECODER, TITLES, gain_of, halved, parts

import chreode as ch
from chreode import posthoc

SIZES = (300, 1000, 3000, None)
STEPS = (0, 1, 2, 5)
TURNS = 5


def ways(model: ch.FittedModel, quick: ch.FittedModel, own: ch.FittedModel) -> dict[str, tuple]:
    """How codes are found: the model, its encoders, and the most steps."""
    found = {"scDGD, optimised": (model, None, None)}
    found |= {f"distilled, {steps} steps": (model, quick.encoders, steps) for steps in STEPS}
    return found | {
        "VAE, its answer": (own, None, None),
        "VAE, 5 steps": (own, None, 5),
        "VAE, optimised": (own, None, 300),
    }


def rows(name: str, size: int | None, seed: int) -> list[dict[str, object]]:
    """One draw of cells: a row for each way."""
    fit, test, label, batch = parts(name, seed, size)
    cells = ch.read(fit, batch=batch, label=label)
    recipes = {"scdgd": ch.recipes.scdgd(), "vae": ch.recipes.vae(**DECODER)}
    made = {key: ch.fit(cells, recipe, seed=seed, progress=False) for key, recipe in recipes.items()}
    start = time.perf_counter()
    quick = ch.distil(made["scdgd"], seed=seed, progress=False)
    spent = time.perf_counter() - start
    found = []
    for way, (model, encoders, steps) in ways(made["scdgd"], quick, made["vae"]).items():
        first, second = halved(model, test, seed=seed)
        codes = posthoc.project(model.module, first, encoders=encoders, refine=steps)
        again = 1 if "optimised" in way else TURNS
        timed, seconds = first[torch.arange(len(first)).repeat(again)], []
        for _ in range(TURNS):
            start = time.perf_counter()
            posthoc.project(model.module, timed, encoders=encoders, refine=steps)
            seconds.append(1e3 * (time.perf_counter() - start) / len(timed))
        row = {"data": TITLES[name], "cells": size or "all", "seed": seed, "way": way}
        row |= {"gain": gain_of(model, codes, second), "seconds": min(seconds)}
        found.append(row | {"training": spent if way == "distilled, 0 steps" else None})
    for row in found:
        row["kept"] = row["gain"] / found[0]["gain"]
        row["faster"] = found[0]["seconds"] / row["seconds"]
        print(row, flush=True)
    return found


def main() -> None:
    """Fit, distil, write the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--datasets", nargs="+", default=["bmmc", "cbmc"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--sizes", nargs="+", type=int, default=[size or 0 for size in SIZES])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    found = []
    for name, size, seed in product(options.datasets, options.sizes, options.seeds):
        found += rows(name, size or None, seed)
    columns = {
        "gain": "gain, nats",
        "kept": "of the optimised gain",
        "seconds": "seconds, 1,000 cells",
        "faster": "times as fast",
        "training": "seconds to distil",
    }
    runs = pd.DataFrame(found)
    parts_ = {
        str(name): results.table(group, by=["cells", "way"], columns=columns)
        for name, group in runs.groupby("data", sort=False)
    }
    print("\n\n".join(parts_.values()))
    if options.out:
        given = f"--datasets {' '.join(options.datasets)} --seeds {' '.join(map(str, options.seeds))}"
        command = f"python benchmarks/distil.py {given} --out benchmarks/results/distil.md"
        results.write(options.out, title="An encoder after the fit", command=command, parts=parts_)


if __name__ == "__main__":
    main()
