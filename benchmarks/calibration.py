"""Do intervals of responses hold what is true as often as they say?

    python benchmarks/calibration.py --folder kept --out benchmarks/results/calibration.md

Simulated counts (negative binomial, 300 genes, 2,100 cells) of four kinds of cells under two conditions,
whose cells also vary along three programmes; cells of kind ``d`` were never seen under the second. Either
all kinds answer alike (*same*: 60 genes), or each has 15 more genes of its own (*own*). What is true of a
kind is the log2 ratio of mean shares over 4,000 more of its cells, under both conditions. Fits are of
`patches` as it comes, and with a linear decoder, on cells drawn again.

Coverage of 90 % intervals over genes and kinds, of ``chreode.response`` and of three calculations from the
changes of the same fits: Student's t by each gene's own variance over fits; by a variance shrunken to that
of all genes, as of limma (Smyth, 2004); by one variance of all genes of a kind. *Counts alone*: ratios of
mean shares of the measured cells under both, drawn again as often, without a model; for ``d`` the mean of
the other kinds' log ratios. *error*: root mean square of estimate less truth; *spread*: that of the
standard deviations of fits; *slope*: of estimates on the truth.
"""

from __future__ import annotations

import functools
from itertools import product
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import results
import scipy.sparse as sp
from scipy import optimize, special, stats

import chreode as ch

if TYPE_CHECKING:
    from pathlib import Path

KINDS, UNSEEN = ("a", "b", "c", "d"), "d"
GENES, CELLS, TRUE_CELLS = 300, 300, 4000  # cells of a kind and condition
COMMON, OWN = 60, 15  # genes that answer
SETTINGS = ("same", "own")
RECIPES = {"patches": lambda: ch.recipes.patches(), "patches, linear": lambda: ch.recipes.patches(hidden=())}
HOW = ("response", "own variance", "moderated variance", "one variance", "counts alone")
GROUPS = ("seen", "never seen")
LEVEL = 0.9


class World:
    """What is true: profiles, programmes and effects."""

    def __init__(self, setting: str, seed: int) -> None:
        rng = np.random.default_rng([seed, 40])
        self.base = rng.normal(0, 1.2, GENES) + rng.normal(0, 0.7, (len(KINDS), GENES))
        self.loadings = rng.normal(0, 0.3, (3, GENES)) * (rng.random((3, GENES)) < 0.3)
        self.effect = np.zeros((len(KINDS), GENES))
        order = rng.permutation(GENES)
        self.effect[:, order[:COMMON]] = signed(rng, COMMON)
        own = order[COMMON : COMMON + OWN * len(KINDS)].reshape(len(KINDS), OWN)
        for kind, genes in enumerate(own):
            if setting == "own":
                self.effect[kind, genes] = signed(rng, OWN)
        self.theta = rng.gamma(4.0, 1.0, GENES) + 1.0

    def share(self, kind: int, programmes: np.ndarray, *, stimulated: bool) -> np.ndarray:
        """Expected shares of cells of a kind."""
        logits = self.base[kind] + programmes @ self.loadings + stimulated * self.effect[kind]
        return special.softmax(logits, axis=1)

    def truth(self, seed: int) -> np.ndarray:
        """Log2 fold change of each kind and gene."""
        rng, ratios = np.random.default_rng([seed, 41]), []
        for kind in range(len(KINDS)):
            programmes = rng.normal(size=(TRUE_CELLS, 3))
            ends = [self.share(kind, programmes, stimulated=on).mean(0) for on in (False, True)]
            ratios.append(np.log2(ends[1] / ends[0]))
        return np.stack(ratios)


def signed(rng: np.random.Generator, n: int) -> np.ndarray:
    """Effects up and down."""
    return rng.choice([-1.0, 1.0], n) * rng.uniform(0.3, 1.2, n)


def simulate(setting: str, seed: int) -> tuple[ad.AnnData, np.ndarray]:
    """Counts, and the true log2 fold changes, kinds by genes."""
    world, rng = World(setting, seed), np.random.default_rng([seed, 42])
    parts, kinds, conditions = [], [], []
    for (number, kind), on in product(enumerate(KINDS), (False, True)):
        if on and kind == UNSEEN:
            continue
        share = world.share(number, rng.normal(size=(CELLS, 3)), stimulated=on)
        mean = share * rng.lognormal(np.log(1500), 0.3, (CELLS, 1))
        parts.append(rng.poisson(rng.gamma(world.theta, mean / world.theta)))
        kinds += [kind] * CELLS
        conditions += ["stim" if on else "ctrl"] * CELLS
    adata = ad.AnnData(sp.csr_matrix(np.concatenate(parts).astype(np.float32)))
    adata.obs_names = [f"cell {i}" for i in range(adata.n_obs)]
    adata.var_names = [f"gene {j}" for j in range(GENES)]
    adata.obs["kind"], adata.obs["condition"] = kinds, conditions
    return adata, world.truth(seed)


@functools.lru_cache(maxsize=1)
def fits_of(setting: str, recipe: str, seed: int, number: int, folder: Path) -> list[ch.FittedModel]:
    """Fits of cells drawn again; finished ones are kept."""
    adata, _ = simulate(setting, seed)
    cells = ch.read(adata, covariates=["condition"], label="kind")
    return [
        ch.fit(
            cells.resampled(seed=k),
            RECIPES[recipe](),
            seed=k,
            checkpoint=folder / f"fit-{setting}-{recipe.replace(', ', '_')}-{seed}-{k}",
            progress=False,
        )
        for k in range(number)
    ]


def asked(fits: Any, *, draws: int) -> pd.DataFrame:
    """Responses of every kind."""
    return ch.response(fits, condition=("ctrl", "stim"), groups="kind", draws=draws, level=LEVEL)


def wide(table: pd.DataFrame, column: str) -> np.ndarray:
    """Kinds by genes."""
    turned = table.pivot(index="group", columns="feature", values=column)
    return turned.loc[list(KINDS), [f"gene {j}" for j in range(GENES)]].to_numpy()


def measured(setting: str, seed: int, number: int) -> np.ndarray:
    """Log2 ratios of mean shares of measured cells, drawn again: draws by kinds by genes."""
    adata, _ = simulate(setting, seed)
    counts, found = adata.X.toarray(), []
    share, kind, condition = counts / counts.sum(1, keepdims=True), adata.obs["kind"], adata.obs["condition"]
    for draw in range(number):
        rng = np.random.default_rng([seed, 43, draw])
        ratios = np.full((len(KINDS), GENES), np.nan)
        for k, name in enumerate(KINDS):
            sides = [np.flatnonzero((kind == name) & (condition == one)) for one in ("ctrl", "stim")]
            if all(len(rows) for rows in sides):
                # A molecule in all of the cells keeps the logarithm finite.
                ends = [share[rng.choice(rows, len(rows))].mean(0) + 1 / counts[rows].sum() for rows in sides]
                ratios[k] = np.log2(ends[1] / ends[0])
        ratios[KINDS.index(UNSEEN)] = np.nanmean(ratios, axis=0)
        found.append(ratios)
    return np.stack(found)


def shrunken(variance: np.ndarray, freedom: float) -> tuple[np.ndarray, float]:
    """Variances drawn to what is usual, and the degrees of freedom of all: moments of their logarithms."""
    logs = np.log(np.maximum(variance, 1e-12))
    centred = logs - special.digamma(freedom / 2) + np.log(freedom / 2)
    beyond = centred.var(ddof=1) - special.polygamma(1, freedom / 2)
    if beyond <= 0:
        return np.full_like(variance, np.exp(centred.mean())), np.inf
    prior = 2 * optimize.brentq(lambda half: special.polygamma(1, half) - beyond, 1e-3, 1e6)
    usual = np.exp(centred.mean() + special.digamma(prior / 2) - np.log(prior / 2))
    return (prior * usual + freedom * variance) / (prior + freedom), prior + freedom


def interval(changes: np.ndarray, how: str) -> tuple[np.ndarray, np.ndarray]:
    """Estimate and half width from the changes of several fits, fits by kinds by genes."""
    variance, freedom = changes.var(0, ddof=1), len(changes) - 1.0
    if how == "one variance":
        pooled, known = np.broadcast_to(variance.mean(1, keepdims=True), variance.shape), np.inf
        return changes.mean(0), stats.norm.ppf(0.5 + LEVEL / 2) * np.sqrt(pooled)
    if how == "moderated variance":
        rows = [shrunken(row, freedom) if np.isfinite(row).all() else (row, freedom) for row in variance]
        variance, known = np.stack([row for row, _ in rows]), np.array([[n] for _, n in rows])
        return changes.mean(0), stats.t.ppf(0.5 + LEVEL / 2, known) * np.sqrt(variance)
    return changes.mean(0), stats.t.ppf(0.5 + LEVEL / 2, freedom) * np.sqrt(variance)


def trial(
    setting: str, *, recipe: str, seed: int, number: int, how: str, folder: Path, most: int
) -> dict[str, float]:
    """Coverage and errors, of kinds seen and never seen."""
    _, truth = simulate(setting, seed)
    if how == "counts alone":
        changes = measured(setting, seed, number)
    else:
        fits = fits_of(setting, recipe, seed, most, folder)[:number]
        changes = np.stack([wide(asked(one, draws=0), "log2_fold_change") for one in fits])
    estimate, half = interval(changes, how)
    if how == "response":
        table = asked(fits, draws=5)
        estimate, half = wide(table, "log2_fold_change"), (wide(table, "upper") - wide(table, "lower")) / 2
    found = {}
    for group in GROUPS:
        rows = [(name == UNSEEN) == (group == "never seen") for name in KINDS]
        true, guess, width = truth[rows], estimate[rows], half[rows]
        changed = np.abs(World(setting, seed).effect[rows]) > 0
        held = np.abs(guess - true) <= width
        if not np.isfinite(guess).all():
            continue
        found |= {
            f"{group} coverage": held.mean(),
            f"{group} changed": held[changed].mean(),
            f"{group} width": np.median(width),
            f"{group} error": np.sqrt(((guess - true) ** 2).mean()),
            f"{group} spread": np.sqrt(changes.var(0, ddof=1)[rows].mean()),
            f"{group} slope": np.polyfit(true.ravel(), guess.ravel(), 1)[0],
        }
    return {name: float(value) for name, value in found.items()}


def main() -> None:
    """Fit, ask, hold against the truth, write the tables."""
    options = results.options(__doc__, settings=SETTINGS, recipes=list(RECIPES), fits=[3, 5], how=HOW)
    runs: list[dict[str, Any]] = []
    most = max(options.fits)
    asked_for = (options.settings, options.recipes, options.seeds, options.fits, options.how)
    for setting, recipe, seed, number, how in product(*asked_for):
        alone = how == "counts alone"
        name = f"{setting}-{'' if alone else recipe.replace(', ', '_') + '-'}{number}-{how.replace(' ', '_')}"
        what = {"recipe": recipe, "seed": seed, "number": number, "how": how}
        what |= {"folder": options.folder, "most": most}
        found = results.kept(options.folder / f"{name}-{seed}.json", lambda s=setting, w=what: trial(s, **w))
        if not alone or recipe == options.recipes[0]:
            runs.append(
                {"setting": setting, "recipe": "" if alone else recipe, "fits": number, "interval": how}
                | {"seed": seed, **found}
            )
    frame = pd.DataFrame(runs).sort_values(["recipe", "fits"], kind="stable", ascending=[False, True])
    names = {"coverage": "coverage", "changed": "of genes that change", "width": "median half width"}
    names |= {"error": "error", "spread": "spread", "slope": "slope"}
    parts = {}
    for setting, group in product(options.settings, GROUPS):
        rows = frame[(frame["setting"] == setting) & frame[f"{group} coverage"].notna()]
        columns = {f"{group} {name}": shown for name, shown in names.items()}
        title = (
            f"{'All kinds answer alike' if setting == 'same' else 'Each kind has genes of its own'}: {group}"
        )
        parts[title] = results.table(rows, by=["recipe", "fits", "interval"], columns=columns)
    results.show(
        options.out, title="Do intervals of responses hold the truth?", script="calibration", parts=parts
    )


if __name__ == "__main__":
    main()
