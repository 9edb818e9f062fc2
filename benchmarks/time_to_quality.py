"""How long until cells are explained as well as scVI ever explains them?

    python benchmarks/time_to_quality.py --peers-python peers/bin/python

Both fit the same 81 % of ``pbmc3k``, one after the other, with the same number of threads, and stop by the
same validation cells; the curve is that of the tested cells (see `protocol.py`): nats per molecule of their
second half, codes inferred from the first, after every epoch. SCVI: its best setting (NB, 20 dimensions;
`scvi_peer.py --every 1`). scDGD: its defaults; each point infers codes from scratch under the model as it
then is. The clock stands still during the evaluations. Ours starts with the call of `chreode.fit` (the
principal components are on it), theirs with the first training step. *Their best* is the least of all
points of scVI's own curve, and *reached* the first time each is at or below it.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import anndata as ad
import data
import lightning_fabric  # noqa: F401  loaded before the clock starts, as the peer's libraries are
import numpy as np
import pandas as pd
import protocol
import results
import sklearn.decomposition  # noqa: F401
import torch

import chreode as ch
from chreode.plan import Event, Moment
from chreode.settle import infer_codes


def ours(name: str, seed: int) -> np.ndarray:
    """Seconds and nats of the tested cells after every epoch."""
    adata = data.load(name)
    split = protocol.split(adata.X, name=name, seed=seed)
    first = ch.read(ad.AnnData(split.first[split.test], obs=adata.obs.iloc[split.test], var=adata.var))
    curve: list[tuple[float, float]] = []
    spent = 0.0

    def judge(moment: Moment) -> None:
        nonlocal spent
        start = time.perf_counter()
        z = infer_codes(moment.model, first, steps=100)
        with torch.no_grad():
            proportions = moment.model.trace(z, first).observed["rna"].proportions.numpy()
        curve.append((start - began - spent, protocol.nats(split.second[split.test], proportions)))
        moment.model.train()
        spent += time.perf_counter() - start

    @ch.recipe(code="cell")
    def watched(layout: object) -> object:
        build = ch.recipes.scdgd().build(layout)
        events = (*build.plan.events, Event("judge", judge, every=1))
        return replace(build, plan=replace(build.plan, events=events))

    cells = ch.read(adata[split.fit].copy())
    began = time.perf_counter()
    ch.fit(cells, watched(), seed=seed, progress=False)
    return np.array(curve)


def theirs(name: str, seed: int, *, python: str, threads: int, folder: Path) -> np.ndarray:
    """The same of scVI."""
    script = Path(__file__).with_name("scvi_peer.py")
    command = [python, str(script), "--setting", "best", "--dataset", name, "--seed", str(seed)]
    command += ["--every", "1", "--threads", str(threads), "--again", "--out", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    with np.load(folder / f"{name}-best-{seed}.npz") as run:
        return run["curve"][:, [0, 3]]


def reached(curve: np.ndarray, nats: float) -> float:
    """When a curve is first at or below a value; not a number if it never is."""
    there = np.flatnonzero(curve[:, 1] <= nats)
    return float(curve[there[0], 0]) if len(there) else float("nan")


def draw(curves: dict[tuple[str, int], np.ndarray], name: str) -> None:
    """Nats against seconds, every seed a line."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.2, 3.8))
    colours = {"chreode scDGD": "#1f5a99", "scVI": "#c8641e"}
    for (method, seed), curve in curves.items():
        label = method if seed == min(s for _, s in curves) else None
        axis.plot(curve[:, 0], curve[:, 1], color=colours[method], lw=1.2, alpha=0.8, label=label)
    low = min(curve[:, 1].min() for curve in curves.values())
    axis.set(xscale="log", xlabel="seconds of training", ylabel="nats per held-out molecule", title=name)
    axis.set_ylim(low - 0.02, low + 0.35)
    axis.legend(frameon=False)
    figure.tight_layout()
    results.save(figure, results.FOLDER / "time_to_quality.png")


def main() -> None:
    """Run both in turn and write the table and the figure."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--peers-python", required=True)
    parser.add_argument("--dataset", default="pbmc3k", choices=list(data.KNOWN))
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows, curves = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seed:
            mine = curves["chreode scDGD", seed] = ours(options.dataset, seed)
            peer = curves["scVI", seed] = theirs(
                options.dataset,
                seed,
                python=options.peers_python,
                threads=options.threads,
                folder=Path(folder),
            )
            best = float(peer[:, 1].min())
            times = reached(mine, best), reached(peer, best)
            row = {
                "data set": options.dataset,
                "seed": seed,
                "best": best,
                "ours": times[0],
                "theirs": times[1],
                "ratio": times[1] / times[0],
                "our_best": float(mine[:, 1].min()),
                "our_end": float(mine[-1, 0]),
            }
            rows.append(row)
            print(row, flush=True)
    columns = {
        "best": "their best nats",
        "theirs": "scVI reaches them, s",
        "ours": "scDGD reaches them, s",
        "ratio": "ratio",
        "our_best": "scDGD's least nats",
        "our_end": "scDGD ends, s",
    }
    draw(curves, options.dataset)
    results.write(
        results.FOLDER / "time_to_quality.md",
        title="Time to quality",
        command="python benchmarks/time_to_quality.py --peers-python peers/bin/python",
        parts={
            "Seconds until scVI's best": f"{options.threads} threads each, one after the other.\n\n"
            + results.table(pd.DataFrame(rows), by=["data set"], columns=columns)
            + "\n\n"
            + results.table(pd.DataFrame(rows), by=["data set", "seed"], columns=columns)
            + "\n\n![Nats against seconds](time_to_quality.png)",
        },
        python=options.peers_python,
    )


if __name__ == "__main__":
    main()
