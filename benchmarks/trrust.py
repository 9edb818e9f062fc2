"""Signs of regulators' effects read off learned fields, beside the signs that TRRUST knows.

    python benchmarks/trrust.py --folder kept --out benchmarks/results/trrust.md

Bone marrow along three lineages (``bmmc``), where pseudotime is comparable only within a lineage and batch:
each of those with 250 cells or more is cut into five bins of as many cells, which serve as times, and each
recipe is fitted to it at its defaults. A pair's effect (`chreode.interactions`: ten principal components,
mapped to genes) is divided by the root mean square of that fit's effects on the pairs, and averaged over the
fits. Pairs are those of TRRUST among the measured genes, of one known sign, not of a gene on itself. Beside
stand correlations of log-normalised expression, averaged over the same sets of cells.

The interval is of a bootstrap over pairs; p is the share of permutations of the signs over the pairs with an
area at least as large. Pseudotime is made from expression and snapshots do not tell one field from another:
this is a check of consistency, no evidence of time.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import results
from data import FOLDER
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

import chreode as ch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RECIPES = {
    "cell_mnn": ch.recipes.cell_mnn(),
    "neural_ode": ch.recipes.neural_ode(),
    "flow_matching": ch.recipes.flow_matching(),
}
BINS = 5
FEWEST = 250  # cells of a lineage in a batch
DRAWS = 2000


def known_signs(genes: list[str]) -> pd.DataFrame:
    """Pairs of regulator and target among the genes whose sign TRRUST knows, 1 or -1."""
    names = ["regulator", "target", "type", "papers"]
    table = pd.read_csv(FOLDER / "resources" / "trrust_rawdata.human.tsv", sep="\t", names=names)
    table = table[table["regulator"].isin(genes) & table["target"].isin(genes)]
    table = table[(table["regulator"] != table["target"]) & (table["type"] != "Unknown")]
    sign = table["type"].map({"Activation": 1, "Repression": -1})
    both = sign.groupby([table["regulator"], table["target"]]).agg(["min", "max"])
    return both[both["min"] == both["max"]]["min"].rename("sign").reset_index()


def courses(adata: ad.AnnData) -> Iterator[ad.AnnData]:
    """The cells of each lineage and batch, with a time of equally large bins of pseudotime."""
    for _, obs in adata.obs.groupby(["lineage", "batch"], observed=True):
        if len(obs) >= FEWEST:
            some = adata[obs.index].copy()
            some.obs["bin"] = pd.qcut(obs["pseudotime"].rank(method="first"), BINS, labels=False)
            yield some


def by_field(some: ad.AnnData, pairs: pd.DataFrame, method: str, seed: int) -> np.ndarray:
    """Effects of the pairs, by a recipe fitted to these cells."""
    cells = ch.read(some, time="bin")
    model = ch.fit(cells, RECIPES[method], seed=seed, progress=False)
    named = {"regulators": sorted(set(pairs["regulator"])), "targets": sorted(set(pairs["target"]))}
    found = ch.interactions(model, **named, draws=1).set_index(["regulator", "target"])["effect"]
    return found.loc[pd.MultiIndex.from_frame(pairs[["regulator", "target"]])].to_numpy()


def by_correlation(some: ad.AnnData, pairs: pd.DataFrame) -> np.ndarray:
    """Pearson correlations of the pairs, of log-normalised expression."""
    values = results.log_normalise(some.X).toarray()
    with np.errstate(invalid="ignore"):
        correlation = np.nan_to_num(np.corrcoef(values.T))
    at = {name: place for place, name in enumerate(some.var_names)}
    return correlation[pairs["regulator"].map(at), pairs["target"].map(at)]


def combined(effects: Callable[[ad.AnnData], np.ndarray], adata: ad.AnnData) -> list[float]:
    """The mean over lineages and batches, of effects of one size."""
    each = [effects(some) for some in courses(adata)]
    return np.mean([effect / np.sqrt(np.mean(effect**2)) for effect in each], 0).tolist()


def scores(effect: np.ndarray, sign: np.ndarray) -> dict[str, float]:
    """How often signs agree, and how well effects tell activation from repression."""
    rng, found = np.random.default_rng(0), np.where(effect > 0, 1, -1)
    area = roc_auc_score(sign, effect)
    drawn, shuffled = [], []
    for _ in range(DRAWS):
        rows = rng.integers(len(sign), size=len(sign))
        drawn.append(roc_auc_score(sign[rows], effect[rows]))
        shuffled.append(roc_auc_score(rng.permutation(sign), effect))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {
        "activation": float((found == sign)[sign == 1].mean()),
        "repression": float((found == sign)[sign == -1].mean()),
        "balanced": float(balanced_accuracy_score(sign, found)),
        "auroc": float(area),
        "low": float(low),
        "high": float(high),
        "p": float((1 + (np.array(shuffled) >= area).sum()) / (1 + DRAWS)),
    }


def main() -> None:
    """Fit, read, score, write the table."""
    options = results.options(__doc__, methods=["correlation", *RECIPES])
    adata = ad.read_h5ad(FOLDER / "bmmc_pathreg_lineages.h5ad")
    pairs = known_signs(list(adata.var_names))
    sign = pairs["sign"].to_numpy()
    runs: list[dict[str, Any]] = []
    for method, seed in product(options.methods, options.seeds):
        if method == "correlation" and seed != options.seeds[0]:
            continue  # nothing is drawn
        how: Callable[[ad.AnnData], np.ndarray] = (
            (lambda some: by_correlation(some, pairs))
            if method == "correlation"
            else (lambda some, m=method, s=seed: by_field(some, pairs, m, s))
        )
        path = options.folder / f"{method}-{seed}.json"
        kept = results.kept(path, lambda how=how: {"effect": combined(how, adata)})
        runs.append({"method": method, "seed": seed, **scores(np.array(kept["effect"]), sign)})
        print(runs[-1], flush=True)
    columns = {
        "activation": "activations right",
        "repression": "repressions right",
        "balanced": "balanced accuracy",
        "auroc": "AUROC",
        "low": "from",
        "high": "to",
        "p": "p",
    }
    title = f"{len(sign)} pairs, {(sign == 1).sum()} activations and {(sign == -1).sum()} repressions"
    parts = {title: results.table(pd.DataFrame(runs), by=["method"], columns=columns)}
    print(title)
    results.show(options.out, title="Signs of known regulation", script="trrust", parts=parts)


if __name__ == "__main__":
    main()
