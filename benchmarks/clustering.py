"""scDGD at its defaults beside scVI's best setting and principal components: likelihood and clusters.

    python benchmarks/clustering.py --peers DIR --out benchmarks/results/clustering.md

``DIR`` holds what `scvi_peer.py --setting best` wrote; ``--peers-python`` runs it first, for what is missing.
The labels choose nothing: no setting, no epoch, no number of components. Three columns for clusters: our
components at the K chosen, k-means at the true K on every embedding, Leiden at resolution 1 on every one. As
a control, ``mixture``: the very mixture we place, its K chosen in the same way, fitted afterwards to every
embedding. ``--datasets cbmc starmap paul15`` are sets that no setting was chosen on.
Agreement is the adjusted Rand index of our components between fits: of two seeds on the same cells, of fits
on two random 80 % of the cells (on the cells they share), and of fits on the two halves of all molecules.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from itertools import combinations
from pathlib import Path

import anndata as ad
import data
import numpy as np
import pandas as pd
import protocol
import results
import torch
from peers import against, references
from sklearn.metrics import adjusted_rand_score

import chreode as ch
from chreode.priors import count_communities, em
from chreode.storage import versions


def scored(name: str, codes: np.ndarray, fit: np.ndarray) -> dict[str, float]:
    """Scores of codes, and of the mixture our fit would place on them: K chosen, EM until it converges."""
    z = torch.from_numpy(np.ascontiguousarray(codes)).double()
    count, groups = count_communities(z)
    rule = em.CovarianceRule("tied")
    mixture, _ = em.climb(z, em.from_labels(z, groups, components=count, rule=rule), rule=rule)
    labels = data.load(name).obs[data.KNOWN[name].label].iloc[fit].astype(str)
    found = adjusted_rand_score(labels, mixture.responsibilities(z).argmax(1))
    return against(name, codes, fit) | {"mixture_ari": found, "mixture_k": count}


def fit(adata: ad.AnnData, *, seed: int, arguments: dict | None = None) -> ch.FittedModel:
    """Our defaults on these cells."""
    return ch.fit(ch.read(adata), ch.recipes.scdgd(**(arguments or {})), seed=seed, progress=False)


def ours(
    name: str, seed: int, arguments: dict | None = None, *, half: bool = False
) -> tuple[dict[str, object], ch.FittedModel]:
    """One fit on one split: held-out nats, scores of the codes, ARI of the components."""
    adata, known = data.load(name), data.KNOWN[name]
    split = protocol.split(adata.X, name=name, seed=seed)
    start = time.perf_counter()
    cells = ad.AnnData(split.first if half else adata.X, obs=adata.obs, var=adata.var)
    model = fit(cells[split.fit].copy(), seed=seed, arguments=arguments)
    seconds = time.perf_counter() - start
    first = ad.AnnData(split.first[split.test], obs=adata.obs.iloc[split.test], var=adata.var)
    nats = protocol.nats(split.second[split.test], model.project(first).expected())
    labels = adata.obs[known.label].iloc[split.fit].astype(str)
    row = {"dataset": name, "method": "scDGD", "seed": seed, "nats": nats, "seconds": seconds}
    row |= scored(name, model.embedded.embedding, split.fit)
    row |= {
        "components": model.components,
        "component_ari": adjusted_rand_score(labels, model.embedded.components()),
    }
    return row, model


def agreement(name: str) -> dict[str, object]:
    """Agreement of components between seeds, subsets of the cells and halves of the molecules."""
    adata = data.load(name)

    def components(cells: ad.AnnData, seed: int) -> pd.Series:
        embedded = fit(cells, seed=seed).embedded
        return pd.Series(embedded.components(), index=embedded.names)

    def ari(a: pd.Series, b: pd.Series) -> float:
        both = a.index.intersection(b.index)
        return float(adjusted_rand_score(a[both], b[both]))

    seeds = [components(adata, seed) for seed in range(3)]
    rng = np.random.default_rng(0)
    parts = []
    for seed in range(3):
        chosen = np.sort(rng.permutation(adata.n_obs)[: round(0.8 * adata.n_obs)])
        parts.append(components(adata[chosen].copy(), seed))
    split = protocol.split(adata.X, name=name, seed=0)
    halves = [
        components(ad.AnnData(half, obs=adata.obs, var=adata.var), 0) for half in (split.first, split.second)
    ]
    rows = {
        "seeds": [ari(a, b) for a, b in combinations(seeds, 2)],
        "subsets": [ari(a, b) for a, b in combinations(parts, 2)],
    }
    return {
        "dataset": name,
        "K": "/".join(str(part.nunique()) for part in seeds),
        **{key: f"{np.mean(v):.2f} ({min(v):.2f}-{max(v):.2f})" for key, v in rows.items()},
        "halves": f"{ari(*halves):.2f}",
    }


def theirs(folder: Path, name: str, seed: int, *, half: bool = False) -> dict[str, object]:
    """scVI's run on the same split."""
    with np.load(folder / f"{name}-best-{'half-' if half else ''}{seed}.npz") as run:
        row = {
            "dataset": name,
            "method": "scVI",
            "seed": seed,
            "nats": float(run["nats"]),
            "seconds": float(run["seconds"]),
        }
        return row | scored(name, run["codes"], run["fit"])


def table(rows: list[dict[str, object]]) -> str:
    """Markdown, mean and half range over seeds."""
    frame = pd.DataFrame(rows)
    columns = [
        "nats",
        "knn",
        "component_ari",
        "components",
        "mixture_ari",
        "mixture_k",
        "kmeans_ari",
        "leiden_ari",
        "leiden_k",
        "seconds",
    ]
    lines = ["| data set | method | " + " | ".join(columns) + " |", "|" + "---|" * (2 + len(columns))]
    for (name, method), group in frame.groupby(["dataset", "method"], sort=False):
        cells = []
        for column in columns:
            values = group[column].dropna() if column in group else pd.Series(dtype=float)
            few = {"components": 1, "mixture_k": 1, "leiden_k": 1, "seconds": 0}.get(column, 3)
            half = (values.max() - values.min()) / 2 if len(values) else 0
            cells.append(f"{values.mean():.{few}f} ± {half:.{few}f}" if len(values) else "")
        lines.append(f"| {name} | {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def grid(rows: list[dict[str, object]]) -> str:
    """Markdown of rows with the same keys."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    return "\n".join([*lines, *("| " + " | ".join(str(v) for v in row.values()) + " |" for row in rows)])


def main() -> None:
    """Run what is asked for and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--peers-python")
    parser.add_argument("--datasets", nargs="+", default=list(data.FIVE))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--half", action="store_true", help="fit on the first half of the molecules only")
    parser.add_argument("--agreement", action="store_true", help="fit eight more times a data set")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peers_python:
        peer = [options.peers_python, str(Path(__file__).with_name("scvi_peer.py")), "--setting", "best"]
        peer += ["--half"] if options.half else []
        seeds = [str(seed) for seed in options.seeds]
        subprocess.run(
            [*peer, "--dataset", *options.datasets, "--seed", *seeds, "--out", str(options.peers)], check=True
        )
    rows: list[dict[str, object]] = []
    agreed = []
    for name in options.datasets:
        for seed in options.seeds:
            pair = (
                ours(name, seed, half=options.half)[0],
                theirs(options.peers, name, seed, half=options.half),
            )
            rows += [*pair, *([] if options.half else references(name, seed, score=scored))]
            print(json.dumps(pair[0], default=str), flush=True)
        if options.agreement:
            agreed.append(agreement(name))
            print(agreed[-1], flush=True)
    order = {name: i for i, name in enumerate(options.datasets)}
    methods = ["scDGD", "scVI", "20 PCs", "20 PCs, scaled genes", "mean profile", "label profiles"]
    rows.sort(key=lambda row: (order[str(row["dataset"])], methods.index(str(row["method"]))))
    lines = [
        "# Clustering and likelihood",
        "",
        f"`python {Path(__file__).name} --peers DIR{' --half' if options.half else ''}"
        f"{'' if options.datasets == list(data.FIVE) else ' --datasets ' + ' '.join(options.datasets)}`; "
        f"{', '.join(f'{k} {v}' for k, v in versions().items())}; "
        f"scvi-tools 1.4.2; {options.threads} thread(s) of a shared machine; seeds {options.seeds}; mean "
        "± half range.",
        "",
        table(rows),
        "",
    ]
    if agreed:
        lines += [
            "Agreement of the components between fits (adjusted Rand index; mean and range of three pairs):"
        ]
        lines += ["", grid(agreed), ""]
    results.put(lines, options.out)


if __name__ == "__main__":
    main()
