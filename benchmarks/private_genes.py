"""Are the genes found that vary in one group alone, and is the rest kept apart?

    python benchmarks/private_genes.py --folder kept --out benchmarks/results/private_genes.md

**Known private genes.** Simulated counts (negative binomial) of 3,000 cells and 500 genes: three types, two
programmes that all cells vary along, and groups ``control``, ``a`` and ``b``. Cells of the last two have
each a programme of 50 genes, half of which rise where the others fall. What a cell has of it is normal
about 0 (*varies*), so that means of the group do not tell, or about 2 (*on*). Precision is the share of
private genes among the first 50 of ``chreode.interpret.attribute_scores``, by its magnitude and by its
spread, the mean over ``a`` and ``b``; *other group's*, of the genes of the other of the two. `contrastivevi`
has ``control`` for background.
Beside them two rankings that need no model: by the difference of means of log-normalised counts to all
other cells, in standard errors, and by the ratio of their variances within types.

**As of Splatter.** The setting of multiGroupVI: five types, two groups, and in each group two programmes of
25 genes, of which each cell of the group has one. Means, library sizes and dispersions are drawn as
Splatter does; genes that fewer than a tenth of the cells have are left out. On 1,500 cells that were not
trained on: precision at 50; the group told from the shared code within types, types told from it, the
programme of a cell told from its private code and from the shared one (best probe of three, balanced
accuracy; by chance 0.5, and 0.2 for types).

Recipes are as they come, beside the other setting of ``apart``.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import results
import scipy.sparse as sp
from scipy import special

import chreode as ch
from chreode.evaluate import probe_blocks
from chreode.interpret import attribute_scores

CONTROL, GROUPS, PRIVATE = "control", ("a", "b"), 50
RECIPES = {
    "patches": lambda: ch.recipes.patches(),
    "patches, apart": lambda: ch.recipes.patches(apart=True),
    "patches, free": lambda: ch.recipes.patches(inference="free"),
    "multigroupvi": lambda: ch.recipes.multigroupvi(),
    "multigroupvi, not apart": lambda: ch.recipes.multigroupvi(apart=False),
    "multigroupvi, free": lambda: ch.recipes.multigroupvi(inference="free"),
    "contrastivevi": lambda: ch.recipes.contrastivevi(background=CONTROL),
    "contrastivevi, not apart": lambda: ch.recipes.contrastivevi(background=CONTROL, apart=False),
    "contrastivevi, free": lambda: ch.recipes.contrastivevi(background=CONTROL, inference="free"),
}
METHODS = (*RECIPES, "difference of means", "ratio of variances")
SPLATTER = tuple(name for name in RECIPES if not name.startswith("contrastivevi"))
MEANS = {"varies": 0.0, "on": 2.0}


def known(programme: str, seed: int) -> tuple[ad.AnnData, dict[str, set[str]]]:
    """Counts, and the private genes of each group."""
    rng, n, g = np.random.default_rng([seed, 50]), 3000, 500
    kind, group = rng.integers(3, size=n), rng.integers(3, size=n)
    shared = rng.normal(0, 0.5, (2, g)) * (rng.random((2, g)) < 0.3)
    logits = rng.normal(0, 1.0, g) + rng.normal(0, 0.8, (3, g))[kind] + rng.normal(size=(n, 2)) @ shared
    genes = rng.permutation(g)[: 2 * PRIVATE].reshape(2, PRIVATE)
    for number, mine in enumerate(genes):
        activity = rng.normal(MEANS[programme], 1.0, n) * (group == number + 1)
        logits[:, mine] += activity[:, None] * rng.permutation(np.repeat([-0.8, 0.8], PRIVATE // 2))
    mean = special.softmax(logits, axis=1) * rng.lognormal(np.log(2500), 0.3, (n, 1))
    theta = 1 + rng.gamma(4.0, 1.0, g)
    columns = {"type": [f"type {k}" for k in kind], "group": np.array([CONTROL, *GROUPS])[group]}
    adata = counted(rng.poisson(rng.gamma(theta, mean / theta)), columns)
    return adata, {name: {f"gene {j}" for j in mine} for name, mine in zip(GROUPS, genes, strict=True)}


def counted(counts: np.ndarray, columns: dict[str, Any]) -> ad.AnnData:
    """Counts with names and columns."""
    adata = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)))
    adata.obs_names = [f"cell {i}" for i in range(adata.n_obs)]
    adata.var_names = [f"gene {j}" for j in range(adata.n_vars)]
    for name, values in columns.items():
        adata.obs[name] = values
    return adata


class Splatter:
    """Parameters drawn as Splatter does: gamma means, log-normal factors of types and programmes."""

    def __init__(self, seed: int, *, genes: int = 1000) -> None:
        rng = np.random.default_rng([seed, 51])
        self.mean = rng.gamma(0.6, 1 / 0.3, genes) + 1e-3
        changed = rng.random((5, genes)) < 0.1
        self.types = np.where(changed, rng.lognormal(0.5, 0.5, (5, genes)), 1.0)
        # Private genes are such as are expressed at all: those above the median.
        order = rng.permutation(np.flatnonzero(self.mean > np.median(self.mean)))
        self.private = order[: 2 * PRIVATE].reshape(2, 2, PRIVATE // 2)
        self.factors = rng.lognormal(1.0, 0.3, self.private.shape)

    def draw(self, n: int, seed: int) -> ad.AnnData:
        """Counts of some cells."""
        rng = np.random.default_rng([seed, 52, n])
        kind, group, programme = (rng.integers(k, size=n) for k in (5, 2, 2))
        share = self.mean * self.types[kind]
        for i, j in product(range(2), range(2)):
            here = np.flatnonzero((group == i) & (programme == j))
            share[np.ix_(here, self.private[i, j])] *= self.factors[i, j]
        share /= share.sum(1, keepdims=True)
        mean = share * rng.lognormal(np.log(4000), 0.2, (n, 1))
        # The biological coefficient of variation falls with the mean, and differs from entry to entry.
        variation = (0.1 + 1 / np.sqrt(mean)) * np.sqrt(60 / rng.chisquare(60, mean.shape))
        counts = rng.poisson(rng.gamma(variation**-2, mean * variation**2))
        columns = {"type": [f"type {k}" for k in kind], "group": np.array(GROUPS)[group]}
        return counted(counts, columns | {"programme": [f"programme {k}" for k in programme]})


def model_free(adata: ad.AnnData, group: str, method: str) -> list[str]:
    """Genes ranked without a model."""
    values = results.log_normalise(adata.X).toarray()
    mine, kind = (adata.obs["group"] == group).to_numpy(), adata.obs["type"].to_numpy()
    for one in np.unique(kind):
        if method == "ratio of variances":
            for side in (mine, ~mine):
                values[(kind == one) & side] -= values[(kind == one) & side].mean(0)
    here, other = values[mine], values[~mine]
    if method == "ratio of variances":
        score = here.var(0) / other.var(0)
    else:
        error = here.var(0) / len(here) + other.var(0) / len(other)
        score = np.abs(here.mean(0) - other.mean(0)) / np.sqrt(error)
    return adata.var_names[np.argsort(-score)].tolist()


def ranked(model: ch.FittedModel) -> dict[str, dict[str, list[str]]]:
    """Genes of each group by their scores, of either kind."""
    table = attribute_scores(model, attribute="group", progress=False)
    return {
        by: {
            str(level): rows.sort_values(by, ascending=False)["feature"].tolist()
            for level, rows in table.groupby("level")
        }
        for by in ("magnitude", "spread")
    }


def of_known(programme: str, *, method: str, seed: int) -> dict[str, float]:
    """Precision of one method on one simulation."""
    adata, genes = known(programme, seed)
    if method in RECIPES:
        cells = ch.read(adata, covariates=["group"], label="type")
        return precisions(ranked(ch.fit(cells, RECIPES[method](), seed=seed, progress=False)), genes)
    return precision({group: model_free(adata, group, method) for group in GROUPS}, genes)


def precisions(orders: dict[str, dict[str, list[str]]], genes: dict[str, set[str]]) -> dict[str, float]:
    """By magnitude, and by spread."""
    spread = precision(orders["spread"], genes)
    found = {f"spread {name}": value for name, value in spread.items()}
    return precision(orders["magnitude"], genes) | found


def precision(order: dict[str, list[str]], genes: dict[str, set[str]]) -> dict[str, float]:
    """Of one group's genes, and of the other's, which are wrong there."""
    hits = {(a, b): len(genes[b] & set(order[a][:PRIVATE])) / PRIVATE for a, b in product(GROUPS, GROUPS)}
    own, other = [hits[a, a] for a in GROUPS], [hits[a, b] for a, b in product(GROUPS, GROUPS) if a != b]
    return {"precision": float(np.mean(own)), "least": min(own), "other": float(np.mean(other))}


def of_splatter(*, method: str, seed: int) -> dict[str, float]:
    """Precision, and what blocks tell of cells that were not trained on."""
    world = Splatter(seed)
    train, new = world.draw(3000, seed), world.draw(1500, seed)
    seen = np.asarray((train.X > 0).mean(0)).ravel() > 0.1
    train, new = train[:, seen].copy(), new[:, seen].copy()
    model = ch.fit(
        ch.read(train, covariates=["group"], label="type"), RECIPES[method](), seed=seed, progress=False
    )
    codes = model.project(new)
    genes = {group: {f"gene {j}" for j in world.private[k].ravel()} for k, group in enumerate(GROUPS)}
    shared, group = {"shared": codes.embedding}, new.obs["group"].to_numpy()
    kind, programme = new.obs["type"].to_numpy(), new.obs["programme"].to_numpy()
    private = np.hstack([z for name, z in codes.embeddings.items() if name != "shared"])
    how: dict[str, Any] = {"progress": False, "seed": seed}
    within = probe_blocks(shared | {"private": private}, programme, within=group, **how)["best"]
    return {
        **precisions(ranked(model), genes),
        "group": probe_blocks(shared, group, within=kind, **how)["best"].item(),
        "types": probe_blocks(shared, kind, **how)["best"].item(),
        "in private": within["private"],
        "in shared": within["shared"],
    }


def main() -> None:
    """Fit, rank, score, write the tables."""
    options = results.options(__doc__, simulations=[*MEANS, "splatter"], methods=METHODS)
    parts: dict[str, str] = {}
    columns = {"precision": "precision at 50", "other": "other group's"}
    columns |= {"spread precision": "by spread", "spread least": "of the worse group"}
    blocks = {"group": "group told from shared", "types": "types told from shared"}
    blocks |= {"in private": "programme told from private", "in shared": "programme told from shared"}
    for simulation in options.simulations:
        splatter, runs = simulation == "splatter", []
        methods = [m for m in options.methods if m in SPLATTER or not splatter]
        for seed, method in product(options.seeds, methods):
            path = options.folder / f"{simulation}-{method.replace(' ', '_')}-{seed}.json"
            found = results.kept(
                path, lambda p=simulation, m=method, s=seed: plain(trial(p, method=m, seed=s))
            )
            runs.append({"method": method, "seed": seed, **found})
        title = "As of Splatter" if splatter else f"Known private genes, programme: {simulation}"
        shown = columns | blocks if splatter else columns
        frame = pd.DataFrame(runs).reindex(columns=["method", "seed", *shown])
        parts[title] = results.table(frame, by=["method"], columns=shown)
    results.show(options.out, title="Genes of one group alone", script="private_genes", parts=parts)


def trial(simulation: str, *, method: str, seed: int) -> dict[str, Any]:
    """One method on one simulation."""
    if simulation == "splatter":
        return of_splatter(method=method, seed=seed)
    return of_known(simulation, method=method, seed=seed)


def plain(found: dict[str, Any]) -> dict[str, float]:
    """Numbers as JSON has them."""
    return {name: float(value) for name, value in found.items()}


if __name__ == "__main__":
    main()
