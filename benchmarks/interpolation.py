"""Are cells between two times found half way between their codes, more so in flat ones?

    python benchmarks/interpolation.py --folder kept --out benchmarks/results/interpolation.md

Simulated courses like that of embryoid bodies: 2,750 cells at five times, which overlap, on a tree of four
lineages (a stem, two limbs, two ends each) along which genes are switched on and off; 300 genes, negative
binomial (inverse dispersion 3), 1,500 molecules a cell. One of the three inner times is left out of all that
is fitted: a `flatvi`, or the same without its penalty (``vae``), and optimal-transport flow matching of its
codes, standardised, from time to time (`flow_matching`). Cells of the time before are moved to the time left
out (*moved*), or put half way to the cells of the time after that they are paired with by optimal transport
(*half way*). All columns are distances divided by those of the time before as it is, so that less than 1 is
gained, the mean over the three times:

- *in codes*: 1-Wasserstein distance to the codes of the cells left out, standardised, as published;
- *in counts*: the same in ten components of log-normalised counts, where counts are drawn from what codes
  decode to;
- *means*: squared error of the genes' means.

The weight of the penalty is the default, which was chosen elsewhere.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import anndata as ad
import numpy as np
import ot
import pandas as pd
import results
import scipy.sparse as sp
import torch
from scipy.special import expit
from sklearn.decomposition import TruncatedSVD

import chreode as ch
from chreode.expected import blank

METHODS: dict[str, dict[str, float]] = {"vae": {"flatness": 0.0}, "flatvi": {}}
INNER = (1.0, 2.0, 3.0)
STARTS = (-0.2, 0.25, 0.25, 0.55, 0.55, 0.55, 0.55)  # of the stem, two limbs and four ends


def tree(seed: int, *, cells: int = 550, genes: int = 300, times: int = 5) -> ad.AnnData:
    """Counts of so many cells at each time, with columns ``time`` and ``lineage``."""
    rng = np.random.default_rng([seed, 8])
    time = np.repeat(np.arange(times, dtype=float), cells)
    progress = np.clip(time / (times - 1) + rng.normal(0, 0.12, len(time)), -0.2, 1.2)[:, None]
    limb, end = rng.integers(2, size=(2, len(time)))
    lineage = 2 * limb + end
    on = [np.ones(len(time), dtype=bool), *(limb == k for k in range(2)), *(lineage == k for k in range(4))]
    logits = rng.normal(0, 1, genes) + np.zeros((len(time), 1))
    for mine, start in zip(on, STARTS, strict=True):
        size = rng.normal(0, 1.5, genes) * (rng.random(genes) < 0.25)
        switch = rng.uniform(start + 0.05, 1.1, genes)
        switched = expit((progress - switch) / 0.06) - expit((start - switch) / 0.06)
        logits += size * np.where(mine[:, None] & (progress > start), switched, 0)
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    mean = rng.lognormal(np.log(1500), 0.3, (len(time), 1)) * share
    counts = rng.poisson(mean * rng.gamma(3, 1 / 3, mean.shape))
    obs = pd.DataFrame({"time": time, "lineage": lineage.astype(str)})
    obs.index = [f"cell {i}" for i in range(len(time))]
    return ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """1-Wasserstein distance of two sets of cells."""
    return float(ot.emd2([], [], ot.dist(one, other, metric="euclidean"), numItermax=10**6))


def half_way(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Codes of the first half way to those they are paired with."""
    plan: Any = ot.emd([], [], ot.dist(before, after), numItermax=10**6)
    return (before + after[plan.argmax(1)]) / 2


def drawn(embedded: ch.Embedded, codes: np.ndarray, like: np.ndarray, *, seed: int) -> sp.csr_matrix:
    """Counts of codes, at the totals of other cells."""
    cells = blank(embedded.cells.layout, len(codes))
    rows = torch.from_numpy(like)
    cells = cells.replace(size={name: size[rows] for name, size in embedded.cells.size.items()})
    with torch.no_grad():
        decoded = embedded.module.decoder({embedded.code: torch.from_numpy(codes).float()}, cells)
    counts = decoded[embedded.modality(None)].sample(torch.Generator().manual_seed(seed))
    return sp.csr_matrix(counts.numpy())


def trial(out: float, *, method: str, seed: int) -> dict[str, float]:
    """Leave one time out, and find it between its neighbours."""
    adata = tree(seed)
    time = adata.obs["time"].to_numpy()
    left = time == out
    train = adata[~left].copy()
    model = ch.fit(ch.read(train), ch.recipes.flatvi(**METHODS[method]), seed=seed, progress=False)
    known = model.embedded.embedding
    centre, spread = known.mean(0), known.std(0)
    z, truth = (
        (codes - centre) / spread
        for codes in (known, model.project(adata[left].copy(), progress=False).embedding)
    )
    before, after = (np.flatnonzero(time[~left] == out + step) for step in (-1, 1))
    placed = ch.read(ad.AnnData(obs=train.obs, obsm={"X_codes": z}), coordinates="X_codes", time="time")
    field = ch.fit(placed, ch.recipes.flow_matching(), seed=seed, progress=False)
    found = {"moved": field.forecast(to=out), "half way": half_way(z[before], z[after])}
    logged = results.log_normalise(sp.csr_matrix(adata.X))
    components = TruncatedSVD(10, random_state=0).fit(logged)
    seen, start = logged[left], logged[~left][before]
    scores: dict[str, float] = {}
    for name, codes in found.items():
        there = results.log_normalise(drawn(model.embedded, codes * spread + centre, before, seed=seed))
        scores[f"{name} codes"] = apart(codes, truth) / apart(z[before], truth)
        places = [components.transform(values) for values in (there, start, seen)]
        scores[f"{name} counts"] = apart(places[0], places[2]) / apart(places[1], places[2])
        means = [np.asarray(values.mean(0)).ravel() for values in (there, start, seen)]
        scores[f"{name} means"] = float(
            ((means[0] - means[2]) ** 2).sum() / ((means[1] - means[2]) ** 2).sum()
        )
    return scores


def main() -> None:
    """Fit each, interpolate, write the table."""
    options = results.options(__doc__, methods=list(METHODS))
    runs: list[dict[str, Any]] = []
    for seed, out, method in product(options.seeds, INNER, options.methods):
        path = options.folder / f"{method}-{out:.0f}-{seed}.json"
        found = results.kept(path, lambda m=method, o=out, s=seed: trial(o, method=m, seed=s))
        runs.append({"method": method, "time": int(out), "seed": seed, **found})
    frame = pd.DataFrame(runs)
    columns = {
        f"{how} {what}": f"{how}, {said}" for what, said in SAID.items() for how in ("moved", "half way")
    }
    over = frame.groupby(["method", "seed"], sort=False, as_index=False)[list(columns)].mean()
    parts = {
        "Mean over the times left out": results.table(over, by=["method"], columns=columns),
        "Each time": results.table(frame, by=["time", "method"], columns=columns),
    }
    results.show(options.out, title="Between two times", script="interpolation", parts=parts)


SAID = {"codes": "in codes", "counts": "in counts", "means": "means"}

if __name__ == "__main__":
    main()
