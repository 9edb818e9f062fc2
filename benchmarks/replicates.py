"""Responses predicted in a replicate, or a patient, in which they were never seen.

    python benchmarks/replicates.py --folder kept --out benchmarks/results/replicates.md

**Knock-outs.** ``papalexi``: THP-1 cells whose guide is sure (`guide_fraction` of at least 0.8), six
knock-outs that are known to do much and controls, in three replicates, 299 genes. The cells of one knock-out
in one replicate are left out of everything, and its change there predicted from that replicate's controls.
Beside it the same knock-out's change in the other replicates, and the mean of the other knock-outs in the
same one, whose changes are from the very controls that the truth is; four of the six responses are nearly the
same, so that a knock-out that was never seen at all would be its neighbour's.

**Patients.** ``glioblastoma``: five patients, each with and without panobinostat, 300 genes, no types of
cells. The treated cells of one patient are left out, and their change predicted from the patient's controls,
whole and in groups: components of a mixture on the shared codes of the other four patients (5 of them; those
with 20 cells of each kind). Beside it the mean change of the other patients (in groups: of the same group).

Scores are those of `out_of_distribution.py`: changes of the log of one more than the mean per ten thousand.
``patches`` was named before anything was run; its attribute is the perturbation (treatment), the batch is the
replicate (patient).

**Escape.** Half of each cell's molecules train `patches`; cells are projected without their perturbation, and
*on* is the mean of the block of the knock-out. Among cells of a knock-out, those whose pathway (the genes of
Hallmark's interferon gamma response, of TGF beta signalling for SMAD4, without the target) has at least the
controls' median in the other half are said to escape; AUROC of *on* for those that do not. *By the pathway
itself*: of the pathway's score in the half that trained, which needs to be told the genes.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import results
import scipy.sparse as sp
from data import FOLDER
from out_of_distribution import change, correlation

import chreode as ch
from chreode.evaluate import change_scores, split_half_ceiling

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTROL = {"papalexi": "non-targeting", "glioblastoma": "ctrl"}
COLUMN = {"papalexi": "perturbation", "glioblastoma": "condition"}
STRONG = ("IFNGR1", "IFNGR2", "JAK2", "STAT1", "SMAD4", "IRF1")
RECIPES = {
    "patches": ch.recipes.patches,
    "patches, free": lambda: ch.recipes.patches(inference="free"),
    "cpa": ch.recipes.cpa,
    "scvi": ch.recipes.scvi,
}
METHODS = ("no change", "the same elsewhere", "others here", *RECIPES)
SETS = {"SMAD4": "HALLMARK_TGF_BETA_SIGNALING"}
GROUPS, LEAST = 5, 20


def load(name: str) -> ad.AnnData:
    """Counts, with the perturbation and the replicate."""
    if name == "papalexi":
        adata = ad.read_h5ad(FOLDER / "papalexi_eccite_299genes.h5ad")
        kept = adata.obs["perturbation"].isin([*STRONG, CONTROL[name]]) & (adata.obs["guide_fraction"] >= 0.8)
        adata = adata[kept.to_numpy()].copy()
        adata.obs["perturbation"] = adata.obs["perturbation"].astype(str)
    else:
        adata = ad.read_h5ad(FOLDER / "glioblastoma_panobinostat.h5ad")
        adata.obs["condition"] = adata.obs["condition"].astype(str)
    adata.obs["batch"] = adata.obs["batch"].astype(str)
    adata.X = sp.csr_matrix(adata.X)
    return adata


def of(adata: ad.AnnData, name: str, level: str, batch: str) -> np.ndarray:
    """Which cells have a perturbation, in a replicate."""
    return ((adata.obs[COLUMN[name]] == level) & (adata.obs["batch"] == batch)).to_numpy()


def changed(adata: ad.AnnData, name: str, level: str, batch: str) -> np.ndarray:
    """Measured change by a perturbation in a replicate."""
    return change(*(adata.X[of(adata, name, one, batch)] for one in (CONTROL[name], level)))


def predicted(adata: ad.AnnData, name: str, level: str, batch: str, *, method: str, seed: int) -> np.ndarray:
    """Change of each gene by a perturbation in a replicate, whose cells are left out."""
    batches = sorted(set(adata.obs["batch"]) - {batch})
    if method == "no change":
        return np.zeros(adata.n_vars)
    if method == "the same elsewhere":
        return np.mean([changed(adata, name, level, other) for other in batches], axis=0)
    if method == "others here":
        others = [one for one in sorted(set(adata.obs[COLUMN[name]])) if one not in (level, CONTROL[name])]
        return np.mean([changed(adata, name, other, batch) for other in others], axis=0)
    train = adata[~of(adata, name, level, batch)].copy()
    model = fitted(train, name, method=method, seed=seed)
    here = model.embedded.pick(of(train, name, CONTROL[name], batch))
    return expected_change(here, name, level)


def fitted(train: ad.AnnData, name: str, *, method: str, seed: int) -> ch.FittedModel:
    """A recipe at its defaults on cells with perturbations and replicates."""
    cells = ch.read(train, batch="batch", covariates=[COLUMN[name]])
    return ch.fit(cells, RECIPES[method](), seed=seed, progress=False)


def expected_change(here: ch.Embedded, name: str, level: str) -> np.ndarray:
    """Change that the decoder expects of cells that are given another level."""
    after = here.do(**{COLUMN[name]: level})
    ends = [one.expected(size=1e4, borrow=False).mean(0, dtype=np.float64) for one in (here, after)]
    return np.log1p(ends[1]) - np.log1p(ends[0])


def trial(name: str, level: str, batch: str, *, method: str, seed: int) -> dict[str, float]:
    """Scores of one prediction, and what two halves of the truth allow."""
    adata = load(name)
    guess = predicted(adata, name, level, batch, method=method, seed=seed)
    truth = changed(adata, name, level, batch)
    elsewhere = predicted(adata, name, level, batch, method="the same elsewhere", seed=seed)
    scores = change_scores(guess, truth, reference=elsewhere)
    parts = [adata.X[of(adata, name, one, batch)] for one in (CONTROL[name], level)]
    ceiling = split_half_ceiling(*parts, change=change)["ceiling"]
    names = ("pearson", "rank", "sign", "slope")
    ahead = correlation(guess, truth) - correlation(elsewhere, truth)
    return {**{key: scores[key] for key in names}, "ahead": ahead, "ceiling": ceiling}


def in_groups(batch: str, *, seed: int) -> dict[str, float]:
    """Changes of a patient's groups of cells, which are components of shared codes."""
    from sklearn.mixture import GaussianMixture

    name = "glioblastoma"
    adata = load(name)
    out = of(adata, name, "panobinostat", batch)
    model = fitted(adata[~out].copy(), name, method="patches", seed=seed)
    codes = np.zeros((adata.n_obs, model.embedded.embedding.shape[1]))
    codes[~out] = model.embedded.embedding
    codes[out] = model.project(adata[out].copy(), progress=False).embedding
    strangers = (adata.obs["batch"] != batch).to_numpy()
    mixture = GaussianMixture(GROUPS, random_state=seed).fit(codes[strangers])
    group = mixture.predict(codes)
    found: dict[str, list[float]] = {"model": [], "elsewhere": [], "ceiling": []}
    train = np.flatnonzero(~out)
    for k in range(GROUPS):
        mine = adata[group == k]
        sizes = {one: of(mine, name, one, batch).sum() for one in ("ctrl", "panobinostat")}
        others = [b for b in sorted(set(mine.obs["batch"])) if b != batch and enough(mine, name, b)]
        if min(sizes.values()) < LEAST or not others:
            continue
        truth = changed(mine, name, "panobinostat", batch)
        here = model.embedded.pick((of(adata, name, "ctrl", batch) & (group == k))[train])
        elsewhere = np.mean([changed(mine, name, "panobinostat", other) for other in others], axis=0)
        parts = [mine.X[of(mine, name, one, batch)] for one in ("ctrl", "panobinostat")]
        found["model"].append(correlation(expected_change(here, name, "panobinostat"), truth))
        found["elsewhere"].append(correlation(elsewhere, truth))
        found["ceiling"].append(split_half_ceiling(*parts, change=change)["ceiling"])
    return {"groups": float(len(found["model"])), **{key: mean(values) for key, values in found.items()}}


def enough(adata: ad.AnnData, name: str, batch: str) -> bool:
    """Whether a replicate has cells of both kinds."""
    levels = sorted(set(adata.obs[COLUMN[name]]))
    return len(levels) > 1 and all(of(adata, name, level, batch).sum() >= LEAST for level in levels)


def mean(values: Sequence[float]) -> float:
    """NaN of none."""
    return float(np.mean(values)) if values else float("nan")


def escape(*, seed: int) -> list[dict[str, Any]]:
    """How well the block of a knock-out tells cells that it did not reach, by knock-out."""
    from sklearn.metrics import roc_auc_score

    adata = load("papalexi")
    rng = np.random.default_rng(seed)
    half = adata.X.copy()
    half.data = rng.binomial(adata.X.data.astype(np.int64), 0.5).astype(np.float32)
    rest = sp.csr_matrix(adata.X - half)
    training = ad.AnnData(half, obs=adata.obs, var=adata.var)
    model = fitted(training, "papalexi", method="patches", seed=seed)
    blind = training.copy()
    blind.obs["perturbation"] = None
    placed = model.project(blind, progress=False)
    levels = model.embedded.cells.layout.resolve("perturbation").levels
    blocks = placed.embeddings["perturbation"].reshape(len(placed), len(levels), -1).mean(2)
    names, found = np.asarray(adata.obs["perturbation"]), []
    for target in STRONG:
        genes = [gene for gene in pathway(target) if gene in adata.var_names and gene != target]
        own, other = (share(part, adata.var_names.get_indexer(genes)) for part in (half, rest))
        mine, controls = names == target, names == CONTROL["papalexi"]
        reached = other[mine] < np.median(other[controls])
        on = blocks[mine, levels.index(target)]
        found.append(
            {
                "target": target,
                "genes": len(genes),
                "reached": float(reached.mean()),
                "block": float(roc_auc_score(reached, on)),
                "pathway": float(roc_auc_score(reached, -own[mine])),
                "against controls": float(
                    roc_auc_score(mine[mine | controls], blocks[mine | controls, levels.index(target)])
                ),
            }
        )
    return found


def pathway(target: str) -> list[str]:
    """The genes that a knock-out should lower."""
    name = SETS.get(target, "HALLMARK_INTERFERON_GAMMA_RESPONSE")
    lines = (FOLDER / "resources" / "h.all.v7.0.symbols.gmt").read_text().splitlines()
    return next(line.split("\t")[2:] for line in lines if line.startswith(name + "\t"))


def share(counts: sp.csr_matrix, columns: np.ndarray) -> np.ndarray:
    """Of some genes, by cell."""
    total = np.maximum(np.asarray(counts.sum(1)).ravel(), 1.0)
    return np.asarray(counts[:, columns].sum(1)).ravel() / total


def main() -> None:
    """Leave out, predict, score, write the tables."""
    options = results.options(
        __doc__, parts=["papalexi", "glioblastoma", "groups", "escape"], methods=METHODS
    )
    cases = {
        "papalexi": list(product(STRONG, ("rep_1", "rep_2", "rep_3"))),
        "glioblastoma": [("panobinostat", batch) for batch in sorted(set(load("glioblastoma").obs["batch"]))],
    }
    tables: dict[str, str] = {}
    columns = {"pearson": "correlation", "ahead": "ahead of the same elsewhere", "ceiling": "ceiling"}
    columns |= {"rank": "rank", "sign": "sign of 100", "slope": "slope"}
    for name in (part for part in cases if part in options.parts):
        runs: list[dict[str, Any]] = []
        methods = [m for m in options.methods if name == "papalexi" or m != "others here"]
        for method, (level, batch), seed in product(methods, cases[name], options.seeds):
            path = options.folder / f"{name}-{method}-{level}-{batch}-{seed}.json".replace(" ", "_")
            how = {"method": method, "seed": seed}
            found = results.kept(path, lambda n=name, a=level, b=batch, h=how: trial(n, a, b, **h))
            left = level if name == "papalexi" else batch
            runs.append({"method": method, "seed": seed, "left out": left, **found})
        frame = pd.DataFrame(runs)
        over = frame.groupby(["method", "seed"], sort=False, as_index=False)[list(columns)].mean()
        tables[f"{name}, mean over what is left out"] = results.table(over, by=["method"], columns=columns)
        shown = {"pearson": "correlation", "ceiling": "ceiling"}
        each = frame.groupby(["left out", "method", "seed"], sort=False, as_index=False)[list(shown)].mean()
        title = f"{name}, each" + (", mean over replicates" if name == "papalexi" else "")
        tables[title] = results.table(each, by=["left out", "method"], columns=shown)
    if "groups" in options.parts:
        runs = []
        for (_, batch), seed in product(cases["glioblastoma"], options.seeds):
            path = options.folder / f"groups-{batch}-{seed}.json"
            found = results.kept(path, lambda b=batch, s=seed: in_groups(b, seed=s))
            runs.append({"patient": batch, "seed": seed, **found})
        shown = {
            "groups": "groups",
            "model": "patches",
            "elsewhere": "the same elsewhere",
            "ceiling": "ceiling",
        }
        tables["glioblastoma, in groups"] = results.table(pd.DataFrame(runs), by=["patient"], columns=shown)
    if "escape" in options.parts:
        tables["Escape"] = escaped(options.folder, options.seeds)
    results.show(options.out, title="Where it was never seen", script="replicates", parts=tables)


def escaped(folder: Any, seeds: Sequence[int]) -> str:
    """The table of escape."""
    runs = []
    for seed in seeds:
        path = folder / f"escape-{seed}.json"
        found: Any = results.kept(path, lambda s=seed: {"all": escape(seed=s)})  # type: ignore[dict-item]
        runs += [{"seed": seed, **one} for one in found["all"]]
    shown = {"reached": "reached", "block": "AUROC of the block", "pathway": "by the pathway itself"}
    shown |= {"against controls": "block, against controls"}
    return results.table(pd.DataFrame(runs), by=["target"], columns=shown)


if __name__ == "__main__":
    main()
