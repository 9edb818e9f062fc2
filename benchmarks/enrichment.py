"""Do gene sets name what a condition does, and nothing where labels of condition say nothing?

    python benchmarks/enrichment.py --folder kept --out benchmarks/results/enrichment.md

``kang``: blood cells, controls and stimulated by interferon beta, named by the fifty hallmark sets.
`patches` at its defaults, and with a linear decoder. Each dimension of the shared code, and of each level's
block over the cells in which it is on, is tested by `chreode.enrichment` and named by
`chreode.name_dimensions`; and so is what a block does when it is on (`chreode.interpret.attribute_scores`),
and what all cells would change from controls to stimulated. A name counts as interferon where it is that of
the response to interferon alpha or gamma. Labels are then permuted within types, three times a seed, and all
is done again: of these labels nothing is true.
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

import chreode as ch
from chreode.interpret import attribute_scores, dimension_scores

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FILE, TYPE, CONDITION = "kang_ifnb_muscat.h5ad", "cell_type", "condition"
LEVELS = ("ctrl", "stim")
SETS = FOLDER / "resources" / "h.all.v7.0.symbols.gmt"
INTERFERON = ("HALLMARK_INTERFERON_ALPHA_RESPONSE", "HALLMARK_INTERFERON_GAMMA_RESPONSE")
DECODERS: dict[str, dict[str, Any]] = {"default": {}, "linear": {"hidden": ()}}
PERMUTATIONS = (1, 2, 3)


def load(permutation: int, seed: int) -> Any:
    """Counts, type and condition; its labels as they are (0), or permuted within types."""
    adata: Any = ad.read_h5ad(FOLDER / FILE)
    adata.X = sp.csr_matrix(adata.X, dtype=np.float32)
    adata.obs = adata.obs[[TYPE, CONDITION]].astype(str)
    if not permutation:
        return adata
    rng, labels = np.random.default_rng([13, permutation, seed]), adata.obs[CONDITION].to_numpy().copy()
    for kind in adata.obs[TYPE].unique():
        mine = np.flatnonzero(adata.obs[TYPE] == kind)
        labels[mine] = rng.permutation(labels[mine])
    adata.obs[CONDITION] = labels
    return adata


def asked(model: ch.FittedModel) -> Iterator[tuple[str, Any]]:
    """Tables of genes x what is to be named."""
    whole = model.embedded
    yield "shared code", dimension_scores(whole, progress=False)
    levels = whole.level_names(CONDITION)
    for k, level in enumerate(LEVELS):
        scores = dimension_scores(whole.pick(levels == level), latent=CONDITION, progress=False)
        width = scores.shape[1] // len(LEVELS)
        yield f"block of {level}, dimensions", scores.iloc[:, k * width : (k + 1) * width]
    table = attribute_scores(model, attribute=CONDITION, progress=False)
    changes = table.pivot(index="feature", columns="level", values="log2_fold_change")
    for level in LEVELS:
        yield f"block of {level}, on", changes[[level]]
    before, after = (
        whole.do(**{CONDITION: level}).expected(borrow=False).mean(0, dtype=np.float64) for level in LEVELS
    )
    names = pd.Index(whole.cells.layout.modalities[whole.modality(None)].names)
    yield "stim against ctrl", pd.DataFrame({"change": np.log(after) - np.log(before)}, index=names)


def named(scores: Any) -> list[dict[str, Any]]:
    """The name of each column, with what the interferon sets say of it."""
    table: Any = ch.enrichment(scores, SETS)
    found = ch.name_dimensions(table).set_index("name")
    largest = {str(column): float(np.abs(scores[column]).max()) for column in scores}
    rows = []
    for name, mine in table[table["set"].isin(INTERFERON)].groupby("name", sort=False):
        best = mine.loc[mine["p_value"].idxmin()]
        called = found.loc[name]
        rows.append(
            {
                "proposed": called["proposed"],
                "direction": called["direction"],
                "named": float(called["proposed"] != "-"),
                "interferon": float(called["set"] in INTERFERON),
                "passed": float((table.loc[table["name"] == name, "q_value"] <= 0.05).sum()),
                "q": float(best["q_value"]),
                "up": float(best["z"] > 0),
                "auc": float(best["auc"]),
                "size": largest[str(name)],
            }
        )
    return rows


def trial(decoder: str, *, permutation: int, seed: int) -> dict[str, Any]:
    """Names of everything in one fit."""
    adata = load(permutation, seed)
    cells = ch.read(adata, covariates=[CONDITION])
    model = ch.fit(cells, ch.recipes.patches(**DECODERS[decoder]), seed=seed, progress=False)
    return {what: named(scores) for what, scores in asked(model)}


def tables(runs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """How much is named, and what the names are."""
    frame: Any = pd.DataFrame(runs)
    columns = {
        "named": "named",
        "interferon": "named interferon",
        "up": "interferon up",
        "log_q": "log10 q of interferon",
        "auc": "AUC of interferon",
        "passed": "sets that pass",
        "size": "largest score",
    }
    frame["log_q"] = np.log10(np.maximum(frame["q"], 1e-300))
    over = frame.groupby(["decoder", "labels", "what", "seed"], sort=False)[list(columns)].mean()
    first = results.table(over.reset_index(), by=["decoder", "labels", "what"], columns=columns, decimals=2)
    kept = frame[(frame["permutation"] == 0) & (frame["what"] != "shared code")]
    lines = ["| decoder | what | seed | name, direction, q of interferon |", "|---|---|---|---|"]
    for (decoder, what, seed), mine in kept.groupby(["decoder", "what", "seed"], sort=False):
        said = "; ".join(f"{r.proposed}, {r.direction}, {r.q:.1g}" for r in mine.itertuples())
        lines.append(f"| {decoder} | {what} | {seed} | {said} |")
    strange = frame[(frame["permutation"] > 0) & (frame["named"] > 0) & (frame["what"] != "shared code")]
    counts = strange.groupby(["decoder", "what", "proposed"]).size().sort_values(ascending=False)
    fits = frame.loc[frame["permutation"] > 0, ["decoder", "permutation", "seed"]].drop_duplicates()
    wrong = [
        f"In {len(fits)} fits, without the shared code.",
        "",
        "| decoder | what | name | times |",
        "|---|---|---|---|",
    ]
    wrong += [f"| {d} | {w} | {name} | {n} |" for (d, w, name), n in counts.items()]
    return {
        "How much is named": first,
        "Names, with true labels": "\n".join(lines),
        "Names, with permuted labels": "\n".join(wrong),
    }


def main() -> None:
    """Fit, name, permute, name again, write the tables."""
    options = results.options(__doc__, decoders=list(DECODERS), permutations=PERMUTATIONS)
    runs: list[dict[str, Any]] = []
    for seed, permutation, decoder in product(options.seeds, [0, *options.permutations], options.decoders):
        path = options.folder / f"{decoder} {permutation} {seed}.json"
        how: dict[str, Any] = {"permutation": permutation, "seed": seed}
        found: Any = results.kept(path, lambda d=decoder, h=how: trial(d, **h))
        labels = "permuted" if permutation else "true"
        about = {"decoder": decoder, "labels": labels, **how}
        runs += [{**about, "what": what, **row} for what, rows in found.items() for row in rows]
    results.show(
        options.out,
        title="What gene sets make of a condition",
        script="enrichment",
        parts=tables(runs),
    )


if __name__ == "__main__":
    main()
