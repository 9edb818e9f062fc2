"""How long dynamics train: beside torchcfm to the same distance, and by cells and dimensions.

    python benchmarks/dynamics_speed.py --peers-python peers/bin/python --folder kept \\
        --out benchmarks/results/dynamics_speed.md

Run alone on the machine. *Beside torchcfm*: ``eb``, five components, standardised on all times, one time left
out at a time; our recipes at their defaults, torchcfm's optimal-transport flow matching at those of its own
single-cell example (10,000 steps; `dynamics_speed_peer.py`), looked at every 500 steps while its clock is
stopped. Seconds of training, one thread on both sides, and the exact Wasserstein-1 distance at the time left
out.

*By cells*: ``eb`` inflated, cells drawn again with a tenth of their spread added; *by dimensions*: 2,750
cells, the first so many components. Milliseconds a step and seconds a whole fit, reckoned from 40 steps.
"""

from __future__ import annotations

import subprocess
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import results
from dynamics import forecast, load, snapshots, wasserstein

import chreode as ch

PEER = "torchcfm, OT-CFM"
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


def beside(python: str, job: Path, *, seed: int, out: float) -> dict[str, float]:
    """Seconds and distances of torchcfm and of ours, one time left out."""
    z, t = standardised(5)
    np.savez(job, z=z, t=t, out=out, seed=seed)
    script = str(Path(__file__).with_name("dynamics_speed_peer.py"))
    subprocess.run([python, script, str(job)], check=True, stderr=subprocess.DEVNULL)
    theirs = np.load(job.with_suffix(".out.npz"))
    distances, seconds = theirs["distances"], theirs["seconds"]
    found = {f"{PEER} w1": float(distances[-1]), f"{PEER} seconds": float(seconds[-1])}
    for method in OURS:
        predicted, spent = forecast(z, t, out, method=method, seed=seed)
        reached = wasserstein(predicted, z[t == out])
        there = seconds[distances <= reached]
        found |= {f"{method} w1": reached, f"{method} seconds": spent}
        # Not a number where torchcfm never came as near.
        found[f"{method} until"] = float(there[0]) if len(there) else float("nan")
    return found


def by_method(found: list[dict[str, float]], seeds: list[int]) -> pd.DataFrame:
    """A row for each method and seed: means over the times left out."""
    frame = pd.DataFrame(found).groupby(np.asarray(seeds)).mean()
    rows = []
    for method in (PEER, *OURS):
        mine = {c.removeprefix(f"{method} "): frame[c] for c in frame if c.startswith(f"{method} ")}
        rows.append(pd.DataFrame(mine).assign(method=method).rename_axis("seed").reset_index())
    return pd.concat(rows)


def cost(z: np.ndarray, t: np.ndarray, name: str, *, seed: int, steps: int = 40) -> dict[str, float]:
    """Milliseconds a step and seconds of a whole fit, from so many steps of it."""
    cells = ch.read(snapshots(z, t), coordinates="X_known", time="time")
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


def figure(path: Path, costs: dict[str, pd.DataFrame]) -> None:
    """Milliseconds a step, by cells and by dimensions, on scales of powers."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7.2, 3.2), layout="constrained")
    for axis, (column, frame) in zip(drawing.subplots(1, 2), costs.items(), strict=True):
        for recipe, group in frame.groupby("recipe", sort=False):
            by = group.groupby("size")["ms"]
            axis.plot(by.mean().index, by.mean(), marker="o", ms=3, label=recipe)
            axis.fill_between(by.min().index, by.min(), by.max(), alpha=0.2)
        axis.set(xscale="log", yscale="log", xlabel=column, ylabel="ms a step")
        axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    results.save(drawing, path)


def main() -> None:
    """Time, write the tables and the figure."""
    options = results.options(__doc__, peers="torchcfm", cells=CELLS, dims=DIMS)
    parts: dict[str, str] = {}
    if options.peers_python:
        asked = list(product(options.seeds, np.unique(load("eb")[1])[1:-1]))
        found = [
            results.kept(
                options.folder / f"beside-{seed}-{out:g}.json",
                lambda seed=seed, out=out: beside(
                    options.peers_python, options.folder / f"{seed}_{out:g}.npz", seed=seed, out=out
                ),
            )
            for seed, out in asked
        ]
        columns = {"w1": "Wasserstein-1", "seconds": "seconds", "until": "torchcfm's seconds to as near"}
        runs = by_method(found, [seed for seed, _ in asked])
        parts["Beside torchcfm"] = results.table(runs, by=["method"], columns=columns)
    costs: dict[str, pd.DataFrame] = {}
    for column, sizes, make in (
        ("cells", options.cells, inflated),
        ("dimensions", options.dims, lambda d, _: standardised(d)),
    ):
        rows: list[dict[str, Any]] = []
        for name, size, seed in product(RECIPES, sizes, options.seeds):
            one = results.kept(
                options.folder / f"{column}-{name}-{size}-{seed}.json",
                lambda name=name, size=size, seed=seed, make=make: cost(*make(size, seed), name, seed=seed),
            )
            rows.append({"recipe": name, "size": size, column: f"{size:,}", "seed": seed, **one})
        costs[column] = pd.DataFrame(rows)
        columns = {"ms": "ms a step", "fit": "seconds a fit"}
        parts[f"By {column}"] = results.table(
            costs[column], by=["recipe", column], columns=columns, decimals=1
        )
    results.show(
        options.out, title="How long dynamics train", script="dynamics_speed", parts=parts, peers=True
    )
    if options.out:
        figure(options.out.with_suffix(".png"), costs)


if __name__ == "__main__":
    main()
