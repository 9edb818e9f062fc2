"""Abundance between conditions: false calls without an effect, and power, on simulated donors.

    python benchmarks/abundance.py

Cells of eight components in ten dimensions, with their true codes. A donor has 200 to 1,200 of them, in
proportions that vary between donors by a log-normal factor (standard deviation 0.3 or 0.7, which itself
varies between components by 0.3). *Null*: conditions are names only. *Effect*: the odds of one component
double under one. Beside: Student's test and Wilcoxon's on the donors' proportions, and a chi-squared test
of cells, which takes cells for replicates.

*Called* is the share of p-values at or below 0.05 among all groups of null worlds, with the 95 % interval
over worlds (groups of one world depend on each other); *covers*, how often the 95 % intervals hold the true
change relative to a group that stays. *Power* is that for the component that doubles.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import results
import torch
from scipy.stats import chi2_contingency, mannwhitneyu, ttest_ind

import chreode as ch

if TYPE_CHECKING:
    from chreode.embedded import Embedded

DONORS, SPREADS = (2, 4, 8), (0.3, 0.7)
COMPONENTS = 8
CHANGE = np.log(2)


def worlds(seed: int) -> tuple[ad.AnnData, list[np.ndarray]]:
    """A pool of cells with known codes, and the rows of each component."""
    pool = ch.simulate(20_000, 5, components=COMPONENTS, separation=5, seed=seed)
    component = pool.obs["component"].cat.codes.to_numpy()
    return pool, [np.flatnonzero(component == k) for k in range(COMPONENTS)]


def donors(rows: list[np.ndarray], *, per: int, spread: float, change: float, rng: np.random.Generator):
    """Rows of the pool, donor and condition of each cell, where component 0 changes its odds."""
    base = np.log(np.maximum(rng.dirichlet(np.full(COMPONENTS, 3.0)), 0.02))
    varies = spread * np.exp(0.3 * rng.standard_normal(COMPONENTS))
    cells, donor, treated = [], [], []
    for u in range(2 * per):
        odds = base + varies * rng.standard_normal(COMPONENTS)
        odds[0] += change * (u >= per)
        share = np.exp(odds) / np.exp(odds).sum()
        counts = rng.multinomial(rng.integers(200, 1200), share)
        cells += [rng.choice(rows[k], n) for k, n in enumerate(counts)]
        donor += [f"d{u}"] * counts.sum()
        treated += [("no", "yes")[u >= per]] * counts.sum()
    return np.concatenate(cells), np.array(donor), np.array(treated)


def embedded_of(pool: ad.AnnData, drawn: tuple[np.ndarray, ...], model: ch.FittedModel) -> Embedded:
    """The drawn cells with their true codes."""
    rows, donor, treated = drawn
    cells = ad.AnnData(pool.X[rows])
    cells.obs["component"] = pool.obs["component"].astype(str).to_numpy()[rows]
    cells.obs["donor"], cells.obs["treated"] = donor, treated
    cells.obs_names_make_unique()
    read = ch.read(cells, label="component", covariates=["donor", "treated"])
    code = torch.from_numpy(pool.obsm["code"][rows].astype(np.float32))
    return model.embedded.replace(cells=read, codes={"cell": code})


def beside(drawn: tuple[np.ndarray, ...], component: np.ndarray) -> dict[str, np.ndarray]:
    """P-values of each component by simpler tests."""
    rows, donor, treated = drawn
    counts = pd.crosstab(donor, component[rows]).reindex(columns=range(COMPONENTS), fill_value=0)
    side = pd.Series(treated, index=donor).groupby(level=0).first()[counts.index].to_numpy() == "yes"
    share = counts.to_numpy() / counts.to_numpy().sum(1, keepdims=True)
    sums = np.stack([counts.to_numpy()[side].sum(0), counts.to_numpy()[~side].sum(0)])
    rest = sums.sum(1, keepdims=True) - sums
    tables = [[sums[:, k], rest[:, k]] for k in range(COMPONENTS)]
    return {
        "Student, proportions of donors": ttest_ind(share[side], share[~side]).pvalue,
        "Wilcoxon, proportions of donors": mannwhitneyu(share[side], share[~side]).pvalue,
        "chi-squared, cells": np.array([chi2_contingency(np.array(one) + 0.5)[1] for one in tables]),
    }


def compared(number: int, seed: int) -> list[dict]:
    """Every world of a seed: what each method calls."""
    pool, rows = worlds(seed)
    component = pool.obs["component"].cat.codes.to_numpy()
    rng = np.random.default_rng([seed, 5])
    few = ch.read(pool[:200].copy(), label="component")
    model = ch.fit(few, ch.recipes.scdgd(dim=10), epochs=1, progress=False)
    found = []
    for per in DONORS:
        for spread in SPREADS:
            for world in range(number):
                for change in (0.0, CHANGE):
                    drawn = donors(rows, per=per, spread=spread, change=change, rng=rng)
                    embedded = embedded_of(pool, drawn, model)
                    asked = {"condition": "treated=yes", "sample": "donor"}
                    table = ch.abundance(embedded, **asked, groups="component")
                    p = table["p_value"].reindex([str(k) for k in range(COMPONENTS)]).to_numpy()
                    tests = {"chreode": p, **beside(drawn, component)}
                    shared = {"seed": seed, "donors": per, "spread": spread, "effect": change > 0}
                    for name, values in tests.items():
                        called = (values <= 0.05)[:1] if change else values <= 0.05
                        found.append({**shared, "method": name, "called": np.nanmean(called)})
                    found[-len(tests)]["covers"] = covers(embedded, asked, change)
                    if world < max(1, number // 6):
                        near = ch.abundance(embedded, **asked, groups="neighbourhoods")
                        found.append({**shared, "method": "chreode, neighbourhoods", **told(near, change)})
    return found


def covers(embedded: Embedded, asked: dict[str, str], change: float) -> float:
    """Share of intervals, relative to a component that stays and no donor lacks, that hold the truth."""
    least = pd.crosstab(embedded.level_names("donor"), embedded.level_names("label")).min()
    whole = least.index[(least > 0) & (least.index != "0")]
    if not len(whole):
        return np.nan
    table = ch.abundance(embedded, **asked, groups="component", reference=whole[0])
    truth = np.where(table.index == "0", change, 0.0) / np.log(2)
    return float(((table["lower"] <= truth) & (truth <= table["upper"])).mean())


def told(near: pd.DataFrame, change: float) -> dict[str, float]:
    """Of neighbourhoods: calls by p without an effect; with one, what is found, and what is false."""
    if not change:
        return {"called": (near["p_value"] <= 0.05).mean(), "any": float((near["q_value"] <= 0.1).any())}
    mine, hit = near["group"] == "0", near["q_value"] <= 0.1
    return {
        "called": hit[mine].mean() if mine.any() else np.nan,
        "false": (hit & ~mine).sum() / max(1, hit.sum()),
    }


def interval(values: pd.Series) -> str:
    """Mean and 95 % interval over worlds."""
    values = values.dropna()
    half = 1.96 * values.std() / np.sqrt(len(values))
    return f"{values.mean():.3f} ({max(0, values.mean() - half):.3f} to {min(1, values.mean() + half):.3f})"


def tables(runs: pd.DataFrame) -> dict[str, str]:
    """Groups, and neighbourhoods."""
    groups = [
        "| donors a side | spread | method | null: called | power | covers |",
        "|---|---|---|---|---|---|",
    ]
    places = [
        "| donors a side | spread | null: called | worlds with a call at q 0.1 | effect: found | false |",
        "|---|---|---|---|---|---|",
    ]
    for (per, spread, method), some in runs.groupby(["donors", "spread", "method"], sort=False):
        null, effect = some[~some["effect"]], some[some["effect"]]
        if method == "chreode, neighbourhoods":
            cells = [interval(null["called"]), f"{null['any'].mean():.2f}"]
            cells += [f"{effect['called'].mean():.2f}", f"{effect['false'].mean():.2f}"]
            places.append(f"| {per} | {spread} | " + " | ".join(cells) + " |")
            continue
        cells = [interval(null["called"]), f"{effect['called'].mean():.2f}"]
        cells.append(interval(some["covers"]) if method == "chreode" else "")
        groups.append(f"| {per} | {spread} | {method} | " + " | ".join(cells) + " |")
    return {"Groups": "\n".join(groups), "Neighbourhoods": "\n".join(places)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--worlds", type=int, default=60)
    parser.add_argument("--out", type=Path, default=results.FOLDER / "abundance.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    runs = pd.DataFrame([row for seed in range(options.seeds) for row in compared(options.worlds, seed)])
    command = f"python benchmarks/abundance.py --seeds {options.seeds} --worlds {options.worlds}"
    parts = tables(runs)
    spread = runs[(runs["method"] == "chreode") & ~runs["effect"]].groupby("seed")["called"].mean()
    parts["Seeds"] = f"Null, chreode, all settings, by seed: {', '.join(f'{x:.3f}' for x in spread)}."
    results.write(options.out, title="Abundance between conditions", command=command, parts=parts)
    print("\n\n".join(parts.values()))


if __name__ == "__main__":
    main()
