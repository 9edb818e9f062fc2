"""Where cells are at a time that was left out: fields and baselines, by file, scale and dimensions.

    python benchmarks/dynamics.py --folder kept --out benchmarks/results/dynamics.md

One time at a time is left out, never the first or the last, and every method sees the others. One predicted
cell for each cell of the time before is compared with the cells of the time left out: exact Wasserstein-1
distance, energy distance, MMD, and total variance as a ratio. Recipes are fitted at their defaults for all of
their epochs; nothing is stopped or chosen by the time left out. Coordinates are standardised on all times, as
in published tables (``all``), or on the times that train (``train``), where predictions are compared in the
same units; 50 components as they are (``raw``), as in published tables too. The mean is over times left out,
spread over seeds.

Baselines: the cells of the time before, of the time after (as many as there are, at random, as before), and
transport between both (`chreode.dynamics.interpolate`). The floor is the distance between two halves of the
time left out, at half the number of cells: Wasserstein distances fall with it.

The sets of published tables (``eb-full``, ``cite``, ``multi``) are downloaded, a gigabyte each but the first,
when they are asked for. All of their cells are used, so that distances can be held against those published:

    python benchmarks/dynamics.py --folder kept --sets "eb-full 5 all" "cite 5 all" "multi 5 all"
    python benchmarks/dynamics.py --folder kept --sets "cite 50 raw" "multi 50 raw" "cite 100 raw"
"""

from __future__ import annotations

import time
from itertools import product
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import results
import torch
from data import FOLDER

import chreode as ch
from chreode.dynamics import interpolate, mmd
from chreode.evaluate.transport import energy_distance, variance_ratio, wasserstein

RECIPES = {
    "cell_mnn": ch.recipes.cell_mnn(),
    "cell_mnn, as published": ch.recipes.cell_mnn(affine=False, steps=0),
    "cell_mnn, sinkhorn": ch.recipes.cell_mnn(distance="sinkhorn"),
    "neural_ode": ch.recipes.neural_ode(),
    "flow_matching, ot": ch.recipes.flow_matching(),
    "flow_matching, independent": ch.recipes.flow_matching(coupling="independent"),
    "flow_matching, unbalanced": ch.recipes.flow_matching(coupling="unbalanced"),
    "metric_flow_matching, land": ch.recipes.metric_flow_matching(metric="land"),
    "metric_flow_matching, rbf": ch.recipes.metric_flow_matching(metric="rbf"),
    "metric_flow_matching, penalty=0.3": ch.recipes.metric_flow_matching(penalty=0.3),
    "sf2m": ch.recipes.sf2m(),
}
BASELINES = ("time before", "time after", "transport")
MOST = 3000  # cells of a time, beyond which as many are drawn
TITLES = {
    "eb": "embryoid bodies, 2,750 cells, 5 times",
    "emt": "epithelial to mesenchymal, 3,133 cells, 4 times",
    "haematopoiesis": "mouse haematopoiesis, 10,998 cells, 3 times",
    "circuit": "simulated circuit, 728 cells, 5 times",
    "eb-full": "embryoid bodies as published (EB), 5 times",
    "cite": "Open Problems, CITE-seq (Cite), 4 days",
    "multi": "Open Problems, Multiome (Multi), 4 days",
}
_TABLES = {
    "emt": "deepruot_emt.csv",
    "haematopoiesis": "deepruot_mouse_hematopoiesis.csv",
    "circuit": "vgfm_dyngen5d.csv",
}
_PUBLISHED = {
    "eb-full": ch.datasets.embryoid_bodies,
    "cite": ch.datasets.openproblems_cite,
    "multi": ch.datasets.openproblems_multi,
}


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates, and the time of each cell."""
    if name == "eb":
        adata = ad.read_h5ad(FOLDER / "eb_pcs_subset.h5ad")
        return np.asarray(adata.X, dtype=np.float64), adata.obs["time"].astype(float).to_numpy()
    if name in _PUBLISHED:
        adata = _PUBLISHED[name]()
        return np.asarray(adata.obsm["X_pca"], dtype=np.float64), adata.obs["time"].to_numpy()
    table = pd.read_csv(FOLDER / "dynamics" / _TABLES[name])
    column = next(c for c in table if str(c).lower() in ("samples", "time", "t"))
    numbers = table.drop(columns=column).select_dtypes("number")
    return numbers.to_numpy(dtype=np.float64), table[column].to_numpy(dtype=float)


def scores(predicted: np.ndarray, observed: np.ndarray) -> dict[str, float]:
    """Every distance of predicted cells from those observed."""
    width = [torch.from_numpy(np.asarray(a)) for a in (predicted, observed)]
    return {
        "w1": wasserstein(predicted, observed),
        "energy": energy_distance(predicted, observed),
        "mmd": float(mmd(*width)),
        "variance": variance_ratio(predicted, observed),
    }


def snapshots(x: np.ndarray, t: np.ndarray) -> ad.AnnData:
    """Cells that have coordinates and times alone."""
    adata = ad.AnnData(obs=pd.DataFrame({"time": t}, index=[f"cell {i}" for i in range(len(t))]))
    adata.obsm["X_known"] = x.astype(np.float32)
    return adata


def forecast(x: np.ndarray, t: np.ndarray, out: float, *, method: str, seed: int) -> tuple[np.ndarray, float]:
    """Cells of the time before ``out``, at it, by a recipe that did not see it; seconds of the fit."""
    adata = snapshots(x, t)
    cells = ch.read(adata[t != out].copy(), coordinates="X_known", time="time")
    start = time.perf_counter()
    model = ch.fit(cells, RECIPES[method], seed=seed, progress=False)
    spent = time.perf_counter() - start
    return model.forecast(to=out).astype(np.float64), spent


def trial(x: np.ndarray, t: np.ndarray, *, method: str, seed: int, scale: str) -> dict[str, float]:
    """Mean over the times left out."""
    rng, found = np.random.default_rng([seed, 5]), []
    instants = np.unique(t)
    for at in range(1, len(instants) - 1):
        before, out, after = instants[at - 1 : at + 2]
        fitted = t == t if scale == "all" else t != out
        z = x if scale == "raw" else (x - x[fitted].mean(0)) / x[fitted].std(0)
        seconds = 0.0
        if method == "time before":
            predicted = z[t == before]
        elif method == "time after":
            predicted = z[rng.permutation(np.flatnonzero(t == after))[: (t == before).sum()]]
        elif method == "transport":
            share = (out - before) / (after - before)
            predicted = interpolate(z[t == before], z[t == after], share=share, seed=seed)
        elif method == "floor":
            half = rng.permutation(np.flatnonzero(t == out))
            predicted = z[half[: len(half) // 2]]
        else:
            predicted, seconds = forecast(z, t, out, method=method, seed=seed)
        observed = z[half[len(half) // 2 :]] if method == "floor" else z[t == out]
        found.append({**scores(predicted, observed), "seconds": seconds})
    return {key: float(np.mean([row[key] for row in found])) for key in found[0]}


def thinned(x: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most so many cells of a time, the same for every method."""
    rng = np.random.default_rng(0)
    kept = [rng.permutation(np.flatnonzero(t == u))[:MOST] for u in np.unique(t)]
    rows = np.sort(np.concatenate(kept))
    return x[rows], t[rows]


def main() -> None:
    """Predict, score, write the table."""
    options = results.options(
        __doc__,
        sets=["eb 5 all", "eb 5 train", "eb 50 raw", *_TABLES],
        methods=[*BASELINES, "floor", *RECIPES],
    )
    runs: list[dict[str, Any]] = []
    read = {name: load(name) for name in {chosen.split()[0] for chosen in options.sets}}
    read |= {name: thinned(*found) for name, found in read.items() if name not in _PUBLISHED}
    for chosen, method, seed in product(options.sets, options.methods, options.seeds):
        name, dims, scale = (*chosen.split(), "", "")[:3]
        x, t = read[name]
        x = x[:, : int(dims or x.shape[1])]
        path = options.folder / f"{'-'.join([name, dims, scale])}-{method.replace(' ', '_')}-{seed}.json"
        found = results.kept(
            path,
            lambda x=x, t=t, how={"method": method, "seed": seed, "scale": scale or "all"}: trial(
                x, t, **how
            ),
        )
        how = "as they are" if scale == "raw" else f"standardised on {scale or 'all'} times"
        runs.append(
            {
                "set": f"{TITLES[name]}, {x.shape[1]} coordinates, {how}",
                "method": method,
                "seed": seed,
                **found,
            }
        )
        print(runs[-1], flush=True)
    columns = {
        "w1": "Wasserstein-1",
        "energy": "energy distance",
        "mmd": "MMD",
        "variance": "variance ratio",
    }
    parts = {
        str(title): results.table(group, by=["method"], columns=columns)
        for title, group in pd.DataFrame(runs).groupby("set", sort=False)
    }
    results.show(options.out, title="A time left out", script="dynamics", parts=parts)


if __name__ == "__main__":
    main()
