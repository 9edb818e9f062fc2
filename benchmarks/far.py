"""Whether forecasts stay finite far beyond the last time, and where they end.

    python benchmarks/far.py --folder kept --out benchmarks/results/far.md

Every recipe is fitted at its defaults to all times of each file of `dynamics.py` (coordinates as published
tables have them), and the cells of the last time are moved on by ten times the whole trained interval, in one
go. How far out the furthest of them is then, from the mean of all measured cells, is told in units of how far
the furthest measured cell is: 1 is the edge of the data, 2 the most that perceptrons allow.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import results
from dynamics import RECIPES, TITLES, load, snapshots, thinned

import chreode as ch

SETS = {"eb 5": ("eb", 5, True), "eb 50": ("eb", 50, False)} | {
    name: (name, None, True) for name in ("emt", "haematopoiesis", "circuit")
}
FURTHER = 10  # times the trained interval


def trial(name: str, dims: int | None, *, standardise: bool, method: str, seed: int) -> dict[str, float]:
    """Fit, forecast far beyond, look how far out."""
    x, t = thinned(*load(name))
    x = x[:, :dims]
    z = (x - x.mean(0)) / x.std(0) if standardise else x
    adata = snapshots(z, t)
    cells = ch.read(adata, coordinates="X_known", time="time")
    model = ch.fit(cells, RECIPES[method], seed=seed, progress=False)
    last = adata[adata.obs["time"] == t.max()].copy()
    there = model.forecast(last, to=t.max() + FURTHER * (t.max() - t.min()))
    edge = np.linalg.norm(z - z.mean(0), axis=1).max()
    out = np.linalg.norm(there - z.mean(0), axis=1)
    finite = np.isfinite(there).all(1)
    return {
        "finite": float(finite.mean()),
        "furthest": float(out[finite].max(initial=0) / edge),
        "median": float(np.median(out[finite]) / edge) if finite.any() else float("nan"),
    }


def main() -> None:
    """Fit, forecast, write the table."""
    options = results.options(__doc__, sets=list(SETS), methods=list(RECIPES))
    runs: list[dict[str, Any]] = []
    for chosen, method, seed in product(options.sets, options.methods, options.seeds):
        name, dims, standardise = SETS[chosen]
        how = {"standardise": standardise, "method": method, "seed": seed}
        path = options.folder / f"{chosen}-{method}-{seed}.json".replace(" ", "_")
        found = results.kept(path, lambda name=name, dims=dims, how=how: trial(name, dims, **how))
        title = TITLES[name] + (f", {dims} coordinates" if dims else "")
        runs.append({"set": title, "method": method, "seed": seed, **found})
        print(runs[-1], flush=True)
    columns = {"finite": "finite", "furthest": "furthest cell", "median": "median cell"}
    parts = {
        str(title): results.table(group, by=["method"], columns=columns)
        for title, group in pd.DataFrame(runs).groupby("set", sort=False)
    }
    results.show(options.out, title="Ten intervals beyond the last time", script="far", parts=parts)


if __name__ == "__main__":
    main()
