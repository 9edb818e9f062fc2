"""What all conditions share and what one has of its own: every recipe with blocks, and what stands beside.

    python benchmarks/conditions.py --peers-python peers/bin/python --folder kept \
        --out benchmarks/results/conditions.md

``kang``: five types of blood cells of two donors, controls and stimulated by interferon beta. A fifth of
the cells, by the seed, is held out. Models see the others with their condition (invae the type too, scANVI
as its label), then all cells are projected, without their type. Probes learn from training cells that were
projected in the same way as the held-out ones, which they are scored on: the best of three, balanced
accuracy, so that codes which tell nothing are a little above chance (*random codes*). Molecules are scored
as elsewhere: codes of held-out cells from one half of each, nats of the other half.

The private block is probed where it can be inferred without the condition: by an encoder that does not see
it, or by descent under a prior that does not know it; of lord and biolord by their second stage, an encoder
of the levels' codes, which is a classifier. No recipe was changed from its defaults, and nothing was chosen
by these numbers. The peers' environment needs harmonypy 2.1.0 too.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import protocol
import results
import scipy.sparse as sp
from data import FOLDER
from scvi_fit import pack

import chreode as ch
from chreode.evaluate import batch_mixing, probe_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

FILE, TYPE, CONDITION, BEFORE = "kang_ifnb_muscat.h5ad", "cell_type", "condition", "ctrl"
HELD_OUT = 0.2
DESCENT = 300  # steps at most from an encoder's answer, where the level is unknown
RECIPES: dict[str, Callable[..., Any]] = {
    "patches": ch.recipes.patches,
    "patches, linear": lambda **how: ch.recipes.patches(hidden=(), **how),
    "patches, apart": lambda **how: ch.recipes.patches(apart=True, **how),
    "multigroupvi": ch.recipes.multigroupvi,
    "multigroupvi, not apart": lambda **how: ch.recipes.multigroupvi(apart=False, **how),
    "contrastivevi": lambda **how: ch.recipes.contrastivevi(background=BEFORE, **how),
    "contrastivevi, not apart": lambda **how: ch.recipes.contrastivevi(background=BEFORE, apart=False, **how),
    "trvae": ch.recipes.trvae,
    "cpa": ch.recipes.cpa,
    "biolord": ch.recipes.biolord,
    "lord": ch.recipes.lord,
    "invae": lambda **how: ch.recipes.invae(attributes=[TYPE], batches=[CONDITION], **how),
}
FORMS = ("encoder", "free")
# Free codes always start apart.
OURS = [f"{name}, {form}" for name in RECIPES for form in FORMS if form == "encoder" or "apart" not in name]
PEERS = ("Harmony of components", "scVI of scvi-tools", "scANVI of scvi-tools")
METHODS = ("random codes", "components", *PEERS, "scvi", *OURS)


def load() -> Any:
    """Counts, type and condition."""
    adata: Any = ad.read_h5ad(FOLDER / FILE)
    adata.X = sp.csr_matrix(adata.X, dtype=np.float32)
    adata.obs = adata.obs[[TYPE, CONDITION]].astype(str)
    return adata


def held_out(n: int, seed: int) -> np.ndarray:
    """A mask of a fifth of the cells."""
    mask = np.zeros(n, dtype=bool)
    mask[np.random.default_rng([5, seed]).permutation(n)[: round(HELD_OUT * n)]] = True
    return mask


def halves(counts: sp.csr_matrix, seed: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Binomial halves of the counts."""
    first, second = counts.copy(), counts.copy()
    first.data = np.random.default_rng([7, seed]).binomial(counts.data.astype(int), 0.5).astype(np.float32)
    second.data = counts.data - first.data
    return first, second


def seen(adata: Any, *columns: str) -> ad.AnnData:
    """The same cells with these columns alone."""
    return ad.AnnData(adata.X, obs=adata.obs[list(columns)].copy(), var=adata.var)


def fitted(method: str, train: Any, seed: int) -> ch.FittedModel:
    """One of our models."""
    name, _, form = method.rpartition(", ")
    if method == "scvi":
        cells, recipe = ch.read(seen(train, CONDITION), covariates=[CONDITION]), ch.recipes.scvi()
    else:
        columns = [TYPE, CONDITION] if name == "invae" else [CONDITION]
        cells = ch.read(seen(train, *columns), covariates=columns)
        recipe = RECIPES[name](inference=form)
    return ch.fit(cells, recipe, seed=seed, progress=False)


def private(method: str, model: ch.FittedModel, unknown: ch.Embedded, seed: int) -> np.ndarray | None:
    """Codes of what belongs to a condition, of cells of which it is unknown; None where that cannot be."""
    name, _, form = method.rpartition(", ")
    gated, levels = name.startswith(("multigroupvi", "contrastivevi")), name in {"biolord", "lord"}
    if name in {"", "trvae", "cpa"} or (gated and form == "free") or (levels and form == "encoder"):
        return None  # no such code, or no way to infer it without the condition
    if levels:
        codes = ch.distil(model, seed=seed, progress=False).project(unknown.cells).embeddings
    elif form == "encoder":
        codes = model.project(unknown.cells, refine=DESCENT).embeddings
    else:
        codes = unknown.embeddings  # they have descended
    return np.concatenate([z for latent, z in codes.items() if latent != model.code], axis=1)


def ours(method: str, seed: int) -> dict[str, Any]:
    """Codes of all cells by one of our models, and nats of held-out molecules."""
    adata = load()
    out = held_out(adata.n_obs, seed)
    model = fitted(method, adata[~out].copy(), seed)
    first, second = halves(adata.X[out], seed)
    half = ad.AnnData(first, obs=adata.obs.loc[out, [CONDITION]].copy(), var=adata.var)
    trained, unknown = model.embedded.trained, model.project(seen(adata))
    found = {
        "shared": model.project(seen(adata, CONDITION)).embedding,
        "unknown": unknown.embedding,
        "fitted": model.embedded.embedding[trained],
        "rows": np.flatnonzero(~out)[trained],
        "nats": protocol.nats(second, model.project(half).expected()),
    }
    own = private(method, model, unknown, seed)
    return found if own is None else {**found, "private": own}


def beside(method: str, seed: int, python: str | None, folder: Path) -> dict[str, Any]:
    """The same of components, of codes that know nothing, and of the peers."""
    adata = load()
    out = held_out(adata.n_obs, seed)
    codes = np.zeros((adata.n_obs, 20))
    codes[~out], codes[out] = results.principal(adata.X[~out], adata.X[out])
    if method == "components":
        return {"shared": codes}
    if method == "random codes":
        return {"shared": np.random.default_rng([11, seed]).normal(size=(adata.n_obs, 10))}
    first, second = halves(adata.X[out], seed)
    path = folder / f"peers {seed}.npz"
    if not path.exists():
        what: dict[str, Any] = (
            pack("train", adata.X[~out]) | pack("other", adata.X[out]) | pack("half", first)
        )
        columns = {c: adata.obs[c].to_numpy().astype(str) for c in (TYPE, CONDITION)}
        np.savez(path, **what, **columns, out=out, components=codes, seed=seed)
    if python is None:
        msg = f"Expected --peers-python for {method}, which runs in an environment of its own."
        raise SystemExit(msg)
    with np.load(results.run_peer(python, [path], script="conditions_peer.py")[0]) as done:
        name = method.split()[0]
        found = {"shared": done[f"{name}.shared"]}
        if f"{name}.expected" in done:
            found["nats"] = protocol.nats(second, done[f"{name}.expected"])
        return found


def told(
    codes: np.ndarray, what: np.ndarray, *, out: np.ndarray | None, seed: int, within: Any = None
) -> float:
    """The best of three probes, balanced."""
    table = probe_blocks({"it": codes}, what, within=within, held_out=out, seed=seed, progress=False)
    return float(table.loc["it", "best"])


def scores(found: dict[str, Any], seed: int) -> dict[str, float]:
    """All columns of the table that can be filled."""
    adata = load()
    out = held_out(adata.n_obs, seed)
    kind, condition = adata.obs[TYPE].to_numpy(), adata.obs[CONDITION].to_numpy()
    how: dict[str, Any] = {"out": out, "seed": seed}
    shared = found["shared"]
    row = {
        "told": told(shared, condition, within=kind, **how),
        "mixing": batch_mixing(shared[out], condition[out], labels=kind[out], seed=seed),
        "type": told(shared, kind, **how),
    }
    if "unknown" in found:
        same = np.array_equal(found["unknown"], shared)  # of an encoder that does not see the condition
        row["unknown"] = row["told"] if same else told(found["unknown"], condition, within=kind, **how)
    if "fitted" in found:
        rows = found["rows"]
        row["fitted"] = told(found["fitted"], condition[rows], within=kind[rows], out=None, seed=seed)
    if "private" in found:
        row["private"] = told(found["private"], condition, within=kind, **how)
    if "nats" in found:
        row["nats"] = float(found["nats"])
    return row


def trial(method: str, *, seed: int, python: str | None, folder: Path) -> dict[str, float]:
    """Scores of one method; its codes are kept."""
    path = folder / f"{method} {seed}.codes.npz"
    if not path.exists():
        known = method == "scvi" or method in OURS
        np.savez(path, **(ours(method, seed) if known else beside(method, seed, python, folder)))
    with np.load(path) as kept:
        return scores(dict(kept), seed)


def tables(runs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What is held out in one table, and what the level does to codes in another."""
    frame: Any = pd.DataFrame(runs).rename(columns={"method": "codes"})
    main = {
        "told": "condition told, within types",
        "mixing": "mixing within types",
        "type": "type told",
        "private": "condition told from the private block",
        "nats": "nats per molecule",
    }
    known = {
        "told": "projected, condition known",
        "unknown": "projected, condition unknown",
        "fitted": "as fitted",
    }
    mine = frame[frame["codes"].isin(["scvi", *OURS])]
    return {
        "Held-out cells": results.table(frame, by=["codes"], columns=main),
        "Condition told from the shared block, by how codes were inferred": results.table(
            mine, by=["codes"], columns=known
        ),
    }


def main() -> None:
    """Fit, project, probe, write the tables."""
    options = results.options(__doc__, peers="harmonypy and scvi-tools", methods=METHODS)
    runs = []
    for seed, method in product(options.seeds, options.methods):
        where: dict[str, Any] = {"python": options.peers_python, "folder": options.folder}
        path = options.folder / f"{method} {seed}.json"
        found = results.kept(path, lambda m=method, s=seed, w=where: trial(m, seed=s, **w))
        runs.append({"method": method, "seed": seed, **found})
    title = "What conditions share, and what one has of its own"
    results.show(options.out, title=title, script="conditions", parts=tables(runs), peers=True)


if __name__ == "__main__":
    main()
