"""How long dynamics train: beside torchcfm to the same distance, and by cells and dimensions.

    python benchmarks/dynamics_speed.py --peers-python peers/bin/python --out dynamics_speed.md

Run alone on the machine. *Beside torchcfm*: ``eb``, five components, standardised on all times, one time left
out at a time; our recipes at their defaults, torchcfm's optimal-transport flow matching at those of its own
single-cell example (10,000 steps; `dynamics_speed_peer.py`), looked at every 500 steps while its clock is
stopped. Seconds of training, one thread on both sides, and the exact Wasserstein-1 distance at the time left
out.

*By cells*: ``eb`` inflated, cells drawn again with a tenth of their spread added; *by dimensions*: 2,750
cells, the first so many components. Milliseconds a step and seconds a whole fit, reckoned from 40 steps.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import results
import torch
from dynamics import forecast, load, wasserstein

import chreode as ch

OURS = ("cell_mnn", "neural_ode", "flow_matching, ot")
RECIPES = {
    "cell_mnn": ch.recipes.cell_mnn(),
    "neural_ode": ch.recipes.neural_ode(),
    "flow_matching": ch.recipes.flow_matching(),
}
CELLS = (1_000, 3_000, 10_000, 30_000, 100_000)
DIMS = (5, 10, 20, 50, 100)


def standardised(dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Components on the scale of all times, and times."""
    x, t = load("eb")
    x = x[:, :dims]
    return (x - x.mean(0)) / x.std(0), t


def beside(python: str, seeds: list[int], folder: Path) -> pd.DataFrame:
    """Ours and torchcfm's in turn, for each seed and time left out."""
    z, t = standardised(5)
    runs: list[dict[str, Any]] = []
    script = str(Path(__file__).with_name("dynamics_speed_peer.py"))
    for seed in seeds:
        for out in np.unique(t)[1:-1]:
            job = folder / f"{seed}_{out:g}.npz"
            np.savez(job, z=z, t=t, out=out, seed=seed)
            subprocess.run([python, script, str(job)], check=True, stderr=subprocess.DEVNULL)
            theirs = np.load(job.with_suffix(".out.npz"))
            last = {"w1": float(theirs["distances"][-1]), "seconds": float(theirs["seconds"][-1])}
            runs.append({"method": "torchcfm, OT-CFM", "seed": seed, **last})
            for method in OURS:
                predicted, seconds = forecast(z, t, out, method=method, seed=seed)
                reached = wasserstein(predicted, z[t == out])
                there = theirs["seconds"][theirs["distances"] <= reached]
                # Not a number where torchcfm never came as near.
                until = float(there[0]) if len(there) else float("nan")
                runs.append(
                    {"method": method, "seed": seed, "w1": reached, "seconds": seconds, "until": until}
                )
            print(pd.DataFrame(runs[-4:]).to_string(), flush=True)
    return pd.DataFrame(runs).groupby(["method", "seed"], sort=False, as_index=False).mean()


def cost(z: np.ndarray, t: np.ndarray, name: str, *, seed: int, steps: int = 40) -> dict[str, float]:
    """Milliseconds a step and seconds of a whole fit, from so many steps of it."""
    adata = ad.AnnData(obs=pd.DataFrame({"time": t}, index=[f"cell {i}" for i in range(len(t))]))
    adata.obsm["X_known"] = z.astype(np.float32)
    cells = ch.read(adata, coordinates="X_known", time="time")
    plan = RECIPES[name].build(cells.layout).plan
    each = -(-len(cells) // plan.minibatch)  # steps of an epoch
    epochs = max(3, -(-steps // each))
    start = time.perf_counter()
    model = ch.fit(cells, RECIPES[name], seed=seed, epochs=epochs, progress=False)
    whole = time.perf_counter() - start
    seconds = model.history["seconds"].to_numpy()
    step = float(seconds[-1] - seconds[0]) / ((len(seconds) - 1) * each)
    return {"ms": 1e3 * step, "fit": whole + step * each * (plan.epochs - epochs)}


def inflated(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """So many cells, drawn again from all with a tenth of the spread added."""
    z, t = standardised(5)
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.integers(len(z), size=n))
    return z[rows] + 0.1 * rng.normal(size=(n, z.shape[1])), t[rows]


def main() -> None:
    """Time, write the tables."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--peers-python", help="with torchcfm; without, nothing is put beside ours")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cells", nargs="+", type=int, default=CELLS)
    parser.add_argument("--dims", nargs="+", type=int, default=DIMS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    parts: dict[str, str] = {}
    if options.peers_python:
        with tempfile.TemporaryDirectory() as folder:
            runs = beside(options.peers_python, options.seeds, Path(folder))
        columns = {"w1": "Wasserstein-1", "seconds": "seconds", "until": "torchcfm's seconds to as near"}
        parts["Beside torchcfm"] = results.table(runs, by=["method"], columns=columns)
    for title, column, sizes, make in (
        ("By cells, five dimensions", "cells", options.cells, inflated),
        ("By dimensions, 2,750 cells", "dimensions", options.dims, lambda d, _: standardised(d)),
    ):
        found = [
            {"recipe": name, column: f"{size:,}", "seed": seed, **cost(*make(size, seed), name, seed=seed)}
            for name in RECIPES
            for size in sizes
            for seed in options.seeds
        ]
        columns = {"ms": "ms a step", "fit": "seconds a fit"}
        parts[title] = results.table(pd.DataFrame(found), by=["recipe", column], columns=columns, decimals=1)
        print(parts[title], flush=True)
    if options.out:
        command = "python benchmarks/dynamics_speed.py --peers-python peers/bin/python"
        command += " --out dynamics_speed.md"
        results.write(options.out, title="How long dynamics train", command=command, parts=parts)


if __name__ == "__main__":
    main()
