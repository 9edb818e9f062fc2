"""Which differences are real: `chreode.de` beside Wilcoxon on cells, scvi-tools and other tests of sums.

    python benchmarks/de.py --peers-python peers/bin/python --folder kept --out benchmarks/results/de.md

*Donors*: 1,000 genes in eight donors, about 100 cells each (log-normal, spread 0.4), 2,000 molecules a cell
(spread 0.4), negative binomial within a donor (inverse dispersion 2). A donor multiplies each gene by a
log-normal factor, whose spread is 0.3 in the median gene and differs between genes (spread 0.5 of its
logarithm). Four donors against four (or every donor in both conditions, with a factor of its own in each);
either nothing differs, or a tenth of the genes by a factor of three, up or down.

*Groups*: one homogeneous population of 1,000 cells and 800 genes, of which scDGD's codes are cut into four by
k-means; each part of 50 cells or more is tested against the rest, cells as replicates. (scDGD itself mostly
leaves such a population in one component.)

*Kang*: stimulated against control cells of two donors, in pairs, in all cells and by type.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import data
import numpy as np
import pandas as pd
import results
import scipy.sparse as sp
import torch
from scipy import stats
from scvi_fit import pack
from sklearn.cluster import KMeans

import chreode as ch
from chreode.held_out import halves
from chreode.interpret.glm import deviances, fit, moderate, size_factors
from chreode.io.simulate import World
from chreode.posthoc import project

GENES, DONORS, CELLS, CHANGED, FOLD = 1000, 8, 100, 0.1, 3
INTERFERON = ("ISG15", "IFI6", "IFIT1", "IFIT3", "MX1")
Q = 0.05


def donors(seed: int, *, changed: float, paired: bool) -> tuple[Any, np.ndarray]:
    """Cells of eight donors, and which genes differ."""
    import anndata as ad

    rng = np.random.default_rng([seed, int(1e3 * changed), paired])
    n = np.maximum(rng.lognormal(np.log(CELLS), 0.4, DONORS), 20).astype(int)
    donor = np.repeat(np.arange(DONORS), n)
    condition = rng.random(len(donor)) < 0.5 if paired else donor % 2 == 0
    base = rng.lognormal(0, 1.5, GENES)
    spread = 0.3 * rng.lognormal(0, 0.5, GENES)
    # In pairs a donor's own level is shared, and each of its halves has a factor too.
    unit = 2 * donor + condition if paired else donor
    factor = np.exp(spread * rng.standard_normal((unit.max() + 1, GENES)))[unit]
    if paired:
        factor *= np.exp(0.5 * rng.standard_normal((DONORS, GENES)))[donor]
    true = np.zeros(GENES, bool)
    true[rng.permutation(GENES)[: int(changed * GENES)]] = True
    effect = np.where(true, rng.choice([-1, 1], GENES) * np.log(FOLD), 0.0)
    rate = base * factor * np.exp(np.outer(condition, effect))
    size = rng.lognormal(np.log(2000), 0.4, len(donor))
    mean = rate / rate.sum(1, keepdims=True) * size[:, None]
    counts = rng.poisson(mean * rng.gamma(2.0, 0.5, mean.shape))
    obs = pd.DataFrame(
        {"donor": donor.astype(str), "condition": np.where(condition, "A", "B")},
        index=[f"cell{i}" for i in range(len(donor))],
    )
    var = pd.DataFrame(index=[f"gene{j}" for j in range(GENES)])
    return ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=var), true


def wilcoxon(adata: Any) -> np.ndarray:
    """Two-sided rank-sum test of log-normalised cells."""
    values = results.log_normalise(adata.X).toarray()
    first = (adata.obs["condition"] == "A").to_numpy()
    return stats.mannwhitneyu(values[first], values[~first], method="asymptotic").pvalue


def sums(adata: Any, *, paired: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums by donor and condition, sizes, design."""
    bulk = ch.pseudobulk(ch.read(adata), by=["donor", "condition"], source=adata)
    counts = bulk.X.toarray().T
    group = (bulk.obs["condition"] == "A").to_numpy(float)
    blocks = pd.get_dummies(bulk.obs["donor"]).to_numpy(float)[:, 1:] if paired else np.zeros((len(bulk), 0))
    return counts, size_factors(counts), np.column_stack([np.ones(len(bulk)), group, blocks])


def linear(adata: Any, *, paired: bool, lend: bool) -> np.ndarray:
    """t-test of log counts per million of sums; with variances drawn to their trend, as limma-trend."""
    counts, size, design = sums(adata, paired=paired)
    values = np.log2((counts + 0.5) / (size + 1) * 1e6)
    inverse = np.linalg.inv(design.T @ design)
    beta = values @ design @ inverse
    freedom = len(design) - design.shape[1]
    variance = ((values - beta @ design.T) ** 2).sum(1) / freedom
    prior = 0.0
    if lend:
        variance, prior = moderate(variance, np.full(GENES, float(freedom)), level=values.mean(1))
    statistic = np.abs(beta[:, 1]) / np.sqrt(variance * inverse[1, 1])
    return 2 * stats.t.sf(statistic, freedom + prior)


def likelihood_ratio(adata: Any, *, paired: bool) -> np.ndarray:
    """Negative binomial with each gene's own dispersion by maximum profile likelihood, to chi-squared."""
    counts, size, design = sums(adata, paired=paired)
    grid = np.exp(np.linspace(np.log(1e-3), np.log(5), 25))
    best, lost = np.full(GENES, np.inf), np.zeros(GENES)
    for alpha in grid:
        full, null = (fit(counts, size, d, alpha=alpha) for d in (design, np.delete(design, 1, axis=1)))
        own = deviances(counts, full.mean, alpha).sum(1)
        # What the deviance leaves out of the likelihood: its value where means equal counts.
        saturated = stats.nbinom.logpmf(counts, 1 / alpha, 1 / (1 + alpha * np.maximum(counts, 1e-9))).sum(1)
        outer = (design[:, :, None] * design[:, None]).reshape(len(design), -1)
        information = (full.weight @ outer).reshape(GENES, design.shape[1], -1)
        adjust = 0.5 * np.linalg.slogdet(information + 1e-9 * np.eye(design.shape[1]))[1]  # Cox and Reid
        value = own / 2 - saturated + adjust
        better = value < best
        best[better] = value[better]
        lost[better] = (deviances(counts, null.mean, alpha).sum(1) - own)[better]
    return stats.chi2.sf(np.maximum(lost, 0), 1)


def tests(adata: Any, *, paired: bool) -> dict[str, np.ndarray]:
    """p-values of every method."""
    cells = ch.read(adata)
    order = adata.var_names
    sampled = ch.de(cells, group="condition=A", sample="donor", source=adata, min_counts=1).loc[order]
    alone = ch.de(cells, group="condition=A", source=adata, min_counts=1).loc[order]
    return {
        "chreode, sample=donor": sampled["p_value"].fillna(1).to_numpy(),
        "t-test on sums": linear(adata, paired=paired, lend=False),
        "moderated t-test on sums": linear(adata, paired=paired, lend=True),
        "NB likelihood ratio on sums": likelihood_ratio(adata, paired=paired),
        "chreode, cells": alone["p_value"].fillna(1).to_numpy(),
        "Wilcoxon on cells": wilcoxon(adata),
    }


def row(name: str, seed: int, design: str, called: np.ndarray, low: np.ndarray | None, true: np.ndarray):
    """One method in one data set."""
    out = {"design": design, "method": name, "seed": seed}
    out["type I"] = np.nan if low is None else low[~true].mean()
    if true.any():
        out["false"] = called[~true].sum() / max(called.sum(), 1)
        out["power"] = called[true].mean()
    else:
        out["null called"] = called.mean()
    return out


def compare(seeds: int, folder: Path, python: str | None) -> pd.DataFrame:
    """Every design, method and seed."""
    rows, jobs = [], {}
    for seed in range(seeds):
        for paired in (False, True):
            for changed in (0.0, CHANGED):
                design = "paired" if paired else "4 against 4"
                adata, true = donors(seed, changed=changed, paired=paired)
                name = f"{seed}_{changed}{'_paired' if paired else ''}"
                values = kept(folder / f"{name}.p.npz", lambda a=adata, p=paired: tests(a, paired=p))
                for method, p in values.items():
                    called = stats.false_discovery_control(p) <= Q
                    rows.append(row(method, seed, design, called, p < 0.05, true))
                if not paired:
                    first = (adata.obs["condition"] == "A").to_numpy()
                    arrays = {**pack("counts", sp.csr_matrix(adata.X)), "first": first, "seed": seed}
                    jobs[folder / f"{name}.npz"] = (seed, design, true, arrays)
    for path, (seed, design, true, arrays) in jobs.items() if python else ():
        if not path.with_suffix(".out.npz").exists():
            np.savez(path, **arrays)
            script = str(Path(__file__).resolve().parent / "de_peer.py")
            subprocess.run([python, script, str(path)], check=True, stderr=subprocess.DEVNULL)
        out = np.load(path.with_suffix(".out.npz"))
        rows.append(row("scVI change, its FDR 0.05", seed, design, out["called"], None, true))
        high = out["probability"] >= 0.95
        rows.append(row("scVI change, probability 0.95", seed, design, high, None, true))
    return pd.DataFrame(rows)


def kept(path: Path, make: Any) -> dict[str, np.ndarray]:
    """What was computed before, or is now, and kept."""
    if not path.exists():
        np.savez(path, **make())
        print(path.name, flush=True)
    with np.load(path) as found:
        return dict(found)


def components(seeds: int, folder: Path) -> pd.DataFrame:
    """Share of genes below 0.05 when a homogeneous population is cut into components."""
    rows = []
    for theta in (1e4, 2.0):
        for seed in range(seeds):
            found = kept(folder / f"groups_{theta:g}_{seed}.npz", lambda t=theta, s=seed: cut(t, s))
            for name, values in found.items():
                groups, below, called = values
                counts = "Poisson" if theta > 100 else f"negative binomial, {theta:g}"
                one = {"counts": counts, "tested on": name, "seed": seed, "groups": groups}
                rows.append(one | {"below": below, "called": called})
    return pd.DataFrame(rows)


def cut(theta: float, seed: int) -> dict[str, np.ndarray]:
    """Groups of a homogeneous population: how many, genes below 0.05, genes called in each."""
    world = World(strength=0.0, theta=theta, theta_spread=0.0)
    cells = ch.read(ch.simulate(1000, 800, components=1, world=world, seed=seed))
    recipe = ch.recipes.scdgd(dim=10)
    model = ch.fit(cells, recipe, seed=seed, progress=False)
    seen, other = halves(cells, torch.Generator().manual_seed(seed))
    refit = ch.fit(seen, recipe, seed=seed, progress=False)
    groups = KMeans(4, n_init=10, random_state=seed).fit(model.embedded.embedding)
    projected = project(model.module, seen)[model.code].numpy()
    anew = KMeans(4, n_init=10, random_state=seed).fit(refit.embedded.embedding)
    found = {
        "the same molecules": (cells, groups.labels_),
        "the other half, projected with the model": (other, groups.predict(projected)),
        "the other half, a model fitted to the first": (other, anew.labels_),
    }
    out = {}
    for name, (counted, group) in found.items():
        size = np.bincount(group, minlength=4)
        tables = [ch.de(counted, group=group == k) for k in np.flatnonzero(size >= 50)]
        below = np.mean([(table["p_value"].dropna() < 0.05).mean() for table in tables])
        called = np.mean([(table["q_value"] <= Q).sum() for table in tables])
        out[name] = np.array([len(tables), below, called])
    return out


def kang() -> list[str]:
    """Ranks of the interferon genes, in all cells and by type."""
    import anndata as ad

    adata = ad.read_h5ad(data.FOLDER / "kang_ifnb_muscat.h5ad")
    cells = ch.read(adata, label="cell_type")
    lines = [f"| cells | pairs | tested | q ≤ 0.05 | {' | '.join(INTERFERON)} | first ten |"]
    lines.append("|" + "---|" * (5 + len(INTERFERON)))
    for level in [None, *adata.obs["cell_type"].astype(str).value_counts().index]:
        within = level and f"cell_type={level}"
        try:
            table = ch.de(cells, group="condition=stim", within=within, sample="batch", source=adata)
        except ch.InputError as error:
            lines.append(f"| {level} | {error} |" + " |" * (3 + len(INTERFERON)))
            continue
        shown = [str(table.index.get_loc(name) + 1) for name in INTERFERON]
        tested = int(table["p_value"].notna().sum())
        lines.append(
            f"| {level or 'all'} | {table.attrs['replicates']} | {tested} | {(table['q_value'] <= Q).sum()} "
            f"| {' | '.join(shown)} | {', '.join(name.split('_')[0] for name in table.index[:10])} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peers-python")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    asked.folder.mkdir(parents=True, exist_ok=True)
    by_kang = kang()
    print("\n".join(by_kang))
    runs = compare(asked.seeds, asked.folder, asked.peers_python)
    columns = {
        "type I": "null genes with p < 0.05",
        "null called": "called where nothing differs",
        "false": "false among the called",
        "power": "power",
    }
    donors_table = results.table(runs, by=["design", "method"], columns=columns)
    print(donors_table)
    by_component = components(asked.seeds, asked.folder)
    names = {"groups": "groups", "below": "genes with p < 0.05", "called": "genes called in a group"}
    cut_table = results.table(by_component, by=["counts", "tested on"], columns=names)
    print(cut_table)
    if asked.out:
        results.write(
            asked.out,
            title="Differential expression",
            command=__doc__.splitlines()[2].strip(),
            parts={
                "Donors": donors_table,
                "Groups of a homogeneous population": cut_table,
                "Kang: stimulated against control": "\n".join(by_kang),
            },
            python=asked.peers_python,
        )


if __name__ == "__main__":
    main()
