"""Forecasts decoded to counts: the genes of a time that was left out, by codes of scDGD and by components.

    python benchmarks/decoded.py --folder kept --out benchmarks/results/decoded.md

The middle time is left out of everything that is fitted. Cells of the time before are moved to it in the
codes of an scDGD that saw the other times' counts, whose decoder leads back, or in principal components of
log-normalised counts, whose readout does. Counts are drawn at the totals of the cells that set out. Each
gene's mean and variance over cells, log-normalised, are compared with those of the cells left out: squared
errors relative to those of copying the time before (1), and the correlation of the change of the mean.
``floor``: one half of the time left out, as a prediction of the other.

``a549``: sci-CAR, 0, 1 and 3 hours of dexamethasone, 1 hour left out. ``simulated``: 2,400 cells at five
times on a bent path of three dimensions, 300 genes, negative binomial (inverse dispersion 3) at 1,500
molecules a cell; the third time is left out.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import results
import scipy.sparse as sp
import torch
from data import FOLDER

import chreode as ch
from chreode.expected import blank

FIELDS = {"flow_matching": ch.recipes.flow_matching, "cell_mnn": ch.recipes.cell_mnn}
DIM = 10
METHODS = (
    "time before",
    "time after",
    "floor",
    *(f"{codes}, {field}" for codes, field in product(("scDGD's codes", "components"), FIELDS)),
)


def load(name: str, seed: int) -> tuple[ad.AnnData, float]:
    """Counts with a column ``time``, and the time to leave out."""
    if name == "simulated":
        return simulate(seed), 2.0
    with md.set_options(pull_on_update=False):
        both = md.read_h5mu(FOLDER / "a549_scicar_dex.h5mu")
    adata = both["rna"].copy()
    hours = both.obs["time"].astype(str).str.extract(r"([\d.]+)")[0].astype(float)
    adata.obs["time"] = hours.loc[adata.obs_names].to_numpy()
    return adata, 1.0


def simulate(seed: int, *, n_cells: int = 2400, n_genes: int = 300, n_times: int = 5) -> ad.AnnData:
    """Counts of cells on a bent path."""
    rng = np.random.default_rng([seed, 7])
    times = np.repeat(np.arange(n_times, dtype=float), n_cells // n_times)
    angle = times / (n_times - 1) * np.pi + rng.normal(0, 0.2, len(times))
    states = np.stack([np.cos(angle), np.sin(angle), rng.normal(0, 0.5, len(times))], 1)
    loadings, base = rng.normal(0, 0.7, (n_genes, 3)), rng.normal(0, 1, n_genes)
    odds = np.exp(states @ loadings.T + base)
    mean = 1500 * rng.lognormal(0, 0.3, len(times))[:, None] * odds / odds.sum(1, keepdims=True)
    counts = rng.poisson(mean * rng.gamma(3, 1 / 3, mean.shape))
    obs = pd.DataFrame({"time": times}, index=[f"cell {i}" for i in range(len(times))])
    return ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs)


def forecast(train: ad.AnnData, out: float, *, method: str, seed: int) -> sp.csr_matrix:
    """Counts that cells of the time before are predicted to have."""
    codes, field = method.split(", ")
    made: Any = FIELDS[field]
    if codes == "components":
        model = ch.fit(ch.read(train, time="time"), made(dim=DIM), seed=seed, progress=False)
        decoder, z = model, model.forecast(to=out)
        sizes = model.embedded.cells.size
    else:
        decoder = ch.fit(ch.read(train), ch.recipes.scdgd(), seed=seed, progress=False)
        codes_of = ad.AnnData(obs=train.obs, obsm={"X_codes": decoder.embedded.embedding})
        placed = ch.read(codes_of, coordinates="X_codes", time="time")
        moving = ch.fit(placed, made(), seed=seed, progress=False)
        z, sizes = moving.forecast(to=out), decoder.embedded.cells.size
    times = train.obs["time"].to_numpy()
    before = torch.from_numpy(np.flatnonzero(times == times[times < out].max()))
    embedded = decoder.embedded
    cells = blank(embedded.cells.layout, len(before))
    cells = cells.replace(size={name: size[before] for name, size in sizes.items()})
    with torch.no_grad():
        observed = embedded.module.decoder({embedded.code: torch.from_numpy(z)}, cells)
        drawn = observed[embedded.modality(None)].sample(torch.Generator().manual_seed(seed))
    return sp.csr_matrix(drawn.numpy())


def moments(counts: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each gene's log-normalised counts."""
    logged = results.log_normalise(sp.csr_matrix(counts))
    mean = np.asarray(logged.mean(0)).ravel()
    return mean, np.asarray(logged.multiply(logged).mean(0)).ravel() - mean**2


def trial(name: str, *, method: str, seed: int) -> dict[str, float]:
    """How near the predicted genes are."""
    adata, out = load(name, seed)
    times = adata.obs["time"].to_numpy()
    before, after = times[times < out].max(), times[times > out].min()
    observed, earlier = adata.X[times == out], adata.X[times == before]
    if method == "floor":
        order = np.random.default_rng(seed).permutation(observed.shape[0])
        half = len(order) // 2
        predicted, observed = observed[order[:half]], observed[order[half:]]
    elif method in ("time before", "time after"):
        predicted = adata.X[times == (before if method == "time before" else after)]
    else:
        predicted = forecast(adata[times != out].copy(), out, method=method, seed=seed)
    found, true, start = (moments(counts) for counts in (predicted, observed, earlier))
    errors = [((f - t) ** 2).sum() / ((s - t) ** 2).sum() for f, t, s in zip(found, true, start, strict=True)]
    moved = method != "time before"
    change = np.corrcoef(found[0] - start[0], true[0] - start[0])[0, 1] if moved else float("nan")
    return {"mean": float(errors[0]), "change": float(change), "variance": float(errors[1])}


def main() -> None:
    """Predict, decode, compare, write the table."""
    options = results.options(__doc__, sets=["a549", "simulated"], methods=METHODS)
    runs: list[dict[str, Any]] = []
    for name, method, seed in product(options.sets, options.methods, options.seeds):
        path = options.folder / f"{name}-{method.replace(' ', '_')}-{seed}.json"
        found = results.kept(path, lambda n=name, m=method, s=seed: trial(n, method=m, seed=s))
        runs.append({"set": name, "method": method, "seed": seed, **found})
    columns = {
        "mean": "error of means",
        "change": "correlation of the change",
        "variance": "error of variances",
    }
    parts = {
        str(name): results.table(group, by=["method"], columns=columns)
        for name, group in pd.DataFrame(runs).groupby("set", sort=False)
    }
    results.show(options.out, title="Forecasts decoded to counts", script="decoded", parts=parts)


if __name__ == "__main__":
    main()
