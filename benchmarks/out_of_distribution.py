"""Stimulated cells of a type that was never seen stimulated: predicted responses, and the mean of the others.

    python benchmarks/out_of_distribution.py --peers-python peers/bin/python --folder kept \
        --out benchmarks/results/out_of_distribution.md

``kang``: five types of blood cells, controls and stimulated by interferon beta. One type's stimulated cells
at a time are left out of everything. A change is that of the log of one more than the mean per ten thousand;
predicted ones are of what the decoder expects of the type's control cells under both conditions. Scores are
those of `chreode.evaluate.change_scores`; *ahead* is the correlation less that of the mean of others, with
its bootstrap standard error over the cells left out; *told beyond the mean* the share of the squares that the
mean of the others leaves.

``patches`` was named for this before anything was run; others are there to compare. *arithmetic*: codes of
a `vae` without conditions, moved by the mean difference of the other types', as of scGen (which itself needs
a scvi-tools of 2022 and does not import with a current one). *three fits*: the mean of the predictions of
three seeds, other ones in each row, as `chreode.response` gives for several fits. Peers are scvi-tools'
SCVI, SCANVI and ContrastiveVI, as `out_of_distribution_peer.py` says.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import results
import scipy.sparse as sp
import torch
from data import FOLDER
from scvi_fit import pack

import chreode as ch
from chreode.evaluate import change_scores, split_half_ceiling

if TYPE_CHECKING:
    from pathlib import Path

FILE, TYPE, CONDITION = "kang_ifnb_muscat.h5ad", "cell_type", "condition"
BEFORE, AFTER = "ctrl", "stim"
TYPES = ("B cells", "CD14+ Monocytes", "CD4 T cells", "CD8 T cells", "FCGR3A+ Monocytes")
RECIPES = {
    "patches": lambda: ch.recipes.patches(),
    "patches, linear": lambda: ch.recipes.patches(hidden=()),
    "patches, mixing=0.05": lambda: ch.recipes.patches(mixing=0.05),
    "patches, apart": lambda: ch.recipes.patches(apart=True),
    "patches, free": lambda: ch.recipes.patches(inference="free"),
    "multigroupvi": lambda: ch.recipes.multigroupvi(),
    "multigroupvi, not apart": lambda: ch.recipes.multigroupvi(apart=False),
    "multigroupvi, free": lambda: ch.recipes.multigroupvi(inference="free"),
    "contrastivevi": lambda: ch.recipes.contrastivevi(background=BEFORE),
    "contrastivevi, not apart": lambda: ch.recipes.contrastivevi(background=BEFORE, apart=False),
    "contrastivevi, free": lambda: ch.recipes.contrastivevi(background=BEFORE, inference="free"),
    "trvae": lambda: ch.recipes.trvae(),
    "trvae, free": lambda: ch.recipes.trvae(inference="free"),
    "cpa": lambda: ch.recipes.cpa(),
    "cpa, free": lambda: ch.recipes.cpa(inference="free"),
    "biolord": lambda: ch.recipes.biolord(),
    "biolord, encoder": lambda: ch.recipes.biolord(inference="encoder"),
    "lord": lambda: ch.recipes.lord(),
    "scvi": lambda: ch.recipes.scvi(),
    "scdgd": lambda: ch.recipes.scdgd(),
}
PEERS = ("SCVI", "SCANVI", "ContrastiveVI")
THREE = ", three fits"
METHODS = ("no change", "mean of others", "arithmetic", *RECIPES, f"patches{THREE}", f"arithmetic{THREE}")
BOOTSTRAPS = 200


def load() -> ad.AnnData:
    """Counts, type and condition."""
    adata = ad.read_h5ad(FOLDER / FILE)
    adata.X = sp.csr_matrix(adata.X)
    return adata


def level(counts: sp.csr_matrix) -> np.ndarray:
    """Log of one more than the mean per ten thousand."""
    size = np.maximum(np.asarray(counts.sum(1), dtype=np.float64), 1.0)
    return np.log1p(np.asarray(counts.multiply(1e4 / size).mean(0)).ravel())


def change(before: sp.csr_matrix, after: sp.csr_matrix) -> np.ndarray:
    """Change of each gene between two sets of cells."""
    return level(after) - level(before)


def parts_of(adata: ad.AnnData, kind: str) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Control and stimulated cells of a type."""
    mine, condition = (adata.obs[TYPE] == kind).to_numpy(), adata.obs[CONDITION].to_numpy()
    return adata.X[mine & (condition == BEFORE)], adata.X[mine & (condition == AFTER)]


def of_others(adata: ad.AnnData, kind: str) -> np.ndarray:
    """Mean change of the other types."""
    return np.mean([change(*parts_of(adata, other)) for other in TYPES if other != kind], axis=0)


def predicted(adata: ad.AnnData, kind: str, *, method: str, seed: int) -> np.ndarray:
    """Change of each gene in a type whose stimulated cells are left out."""
    if method == "no change":
        return np.zeros(adata.n_vars)
    if method == "mean of others":
        return of_others(adata, kind)
    if method.endswith(THREE):
        one = {"method": method.removesuffix(THREE)}
        return np.mean([predicted(adata, kind, **one, seed=3 * seed + k) for k in range(3)], axis=0)
    out = (adata.obs[TYPE] == kind) & (adata.obs[CONDITION] == AFTER)
    train = adata[~out.to_numpy()].copy()
    plain = method == "arithmetic"
    columns: dict[str, Any] = {} if plain else {"covariates": [CONDITION]}
    made = ch.recipes.vae() if plain else RECIPES[method]()
    model = ch.fit(ch.read(train, label=TYPE, **columns), made, seed=seed, progress=False)
    here = model.embedded.pick((train.obs[TYPE] == kind).to_numpy())
    after = moved(model, train, kind) if plain else here.do(**{CONDITION: AFTER})
    ends = [one.expected(size=1e4, borrow=False).mean(0, dtype=np.float64) for one in (here, after)]
    return np.log1p(ends[1]) - np.log1p(ends[0])


def moved(model: ch.FittedModel, train: ad.AnnData, kind: str) -> ch.Embedded:
    """Control cells of a type, whose codes are moved by the mean difference of the other types'."""
    code, condition, types = model.embedded.embedding, train.obs[CONDITION], train.obs[TYPE]

    def mean(other: str, which: str) -> np.ndarray:
        return code[((types == other) & (condition == which)).to_numpy()].mean(0)

    shift = np.mean([mean(t, AFTER) - mean(t, BEFORE) for t in TYPES if t != kind], axis=0)
    here = model.embedded.pick((types == kind).to_numpy())
    codes = {**here.codes, here.code: here.codes[here.code] + torch.from_numpy(shift).float()}
    return here.replace(cells=here.cells, codes=codes)


def job_of(path: Path, kind: str, *, model: str, seed: int) -> Path:
    """Write what a peer is given."""
    adata = load()
    types, condition = adata.obs[TYPE].to_numpy(), adata.obs[CONDITION].to_numpy()
    rows = np.flatnonzero(~((types == kind) & (condition == AFTER)))
    numbers = {"types": pd.Index(TYPES).get_indexer(types[rows]), "kind": TYPES.index(kind), "seed": seed}
    told = {"after": (condition[rows] == AFTER).astype(np.int64), "model": model}
    np.savez(path, **pack("train", adata.X[rows]), **numbers, **told)
    return path


def of_peer(path: Path, kind: str, *, python: str, model: str, seed: int) -> dict[str, float]:
    """Scores of a peer's prediction."""
    job = job_of(path.with_suffix(".npz"), kind, model=model, seed=seed)
    (out,) = results.run_peer(python, [job], script="out_of_distribution_peer.py")
    before, after = np.load(out)["ends"]
    return judged(np.log1p(after) - np.log1p(before), kind, seed=seed)


def trial(kind: str, *, method: str, seed: int) -> dict[str, float]:
    """Scores of one prediction."""
    return judged(predicted(load(), kind, method=method, seed=seed), kind, seed=seed)


def judged(guess: np.ndarray, kind: str, *, seed: int) -> dict[str, float]:
    """A predicted change beside the true one, and the mean of the other types."""
    adata = load()
    before, after = parts_of(adata, kind)
    others, truth = of_others(adata, kind), change(before, after)
    scores = change_scores(guess, truth, reference=others)
    rng = np.random.default_rng(seed)
    ahead = []
    for _ in range(BOOTSTRAPS):
        drawn = [part[rng.integers(part.shape[0], size=part.shape[0])] for part in (before, after)]
        again = change(*drawn)
        ahead.append(correlation(guess, again) - correlation(others, again))
    return {
        **{name: scores[name] for name in ("pearson", "rank", "sign", "slope", "weighted_r2")},
        "told": 1 - float(((guess - truth) ** 2).sum() / ((others - truth) ** 2).sum()),
        "ahead": correlation(guess, truth) - correlation(others, truth),
        "error": float(np.std(ahead, ddof=1)),
    }


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's; 0 for what does not vary."""
    return float(np.corrcoef(one, other)[0, 1]) if np.ptp(one) else 0.0


def ceilings() -> str:
    """What a perfect prediction could reach, by type."""
    adata, lines = (
        load(),
        ["| type | control | stimulated | halves agree | ceiling |", "|---|---|---|---|---|"],
    )
    for kind in TYPES:
        before, after = parts_of(adata, kind)
        found = split_half_ceiling(before, after, change=change)
        cells = f"{before.shape[0]} | {after.shape[0]}"
        lines.append(f"| {kind} | {cells} | {found['r']:.3f} | {found['ceiling']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Leave out, predict, score, write the tables."""
    options = results.options(__doc__, peers="scvi-tools", types=TYPES, methods=METHODS)
    runs: list[dict[str, Any]] = []
    for method, kind, seed in product(options.methods, options.types, options.seeds):
        path = options.folder / f"{method.replace(' ', '_')}-{kind.replace(' ', '_')}-{seed}.json"
        found = results.kept(path, lambda m=method, k=kind, s=seed: trial(k, method=m, seed=s))
        runs.append({"method": method, "type": kind, "seed": seed, **found})
    python = options.peers_python
    for model, kind, seed in product(PEERS if python else (), options.types, options.seeds):
        path = options.folder / f"{model}-{kind.replace(' ', '_')}-{seed}.json"
        how = {"python": python, "model": model, "seed": seed}
        found = results.kept(path, lambda p=path, k=kind, h=how: of_peer(p, k, **h))
        runs.append({"method": f"{model} (scvi-tools)", "type": kind, "seed": seed, **found})
    frame = pd.DataFrame(runs)
    columns = {
        "pearson": "correlation",
        "ahead": "ahead",
        "error": "standard error",
        "rank": "rank",
        "sign": "sign of 100",
        "slope": "slope",
        "told": "told beyond the mean",
        "weighted_r2": "weighted R²",
    }
    over = frame.drop(columns="type").groupby(["method", "seed"], sort=False, as_index=False).mean()
    parts = {"Ceilings": ceilings(), "Mean over types": results.table(over, by=["method"], columns=columns)}
    for kind, group in frame.groupby("type", sort=False):
        parts[str(kind)] = results.table(group, by=["method"], columns=columns)
    results.show(
        options.out,
        title="A type never seen stimulated",
        script="out_of_distribution",
        parts=parts,
        peers=True,
    )


if __name__ == "__main__":
    main()
