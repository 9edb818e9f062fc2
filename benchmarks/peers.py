"""One table of the peers' results: what `scvi_peer.py` wrote, beside principal components and profiles.

Runs in chreode's own environment (it has scikit-network for the Leiden column):

    python benchmarks/peers.py DIR            # markdown, mean and half range over seeds
    python benchmarks/peers.py DIR --csv      # one line a run
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

import data
import numpy as np
import pandas as pd
import protocol

if TYPE_CHECKING:
    from collections.abc import Callable

COLUMNS = ("nats", "kmeans_ari", "leiden_ari", "leiden_k", "knn", "mixing", "seconds", "best_epoch")


def read(folder: Path) -> pd.DataFrame:
    """One row a run: data set, method, seed, scores."""
    rows = []
    for path in sorted(folder.glob("*.npz")):
        matched = re.fullmatch(r"(?P<dataset>[^-]+)-(?P<method>.+)-(?P<seed>\d+)", path.stem)
        if matched is None or matched["dataset"] not in data.KNOWN:
            continue
        name, seed = matched["dataset"], int(matched["seed"])
        with np.load(path) as run:
            values = {key: float(run[key]) for key in ("nats", "seconds", "best_epoch", "memory_rise_mb")}
            values |= against(name, run["codes"], run["fit"])
        rows.append({"dataset": name, "method": f"scVI {matched['method']}", "seed": seed} | values)
    return pd.DataFrame(rows)


def against(name: str, codes: np.ndarray, fit: np.ndarray) -> dict[str, float]:
    """Scores of fitted cells' codes against the labels, and the batches where they are known."""
    known, obs = data.KNOWN[name], data.load(name).obs.iloc[fit]
    batches = None if known.batch is None else obs[known.batch].to_numpy()
    return protocol.scores(codes, obs[known.label].to_numpy(), batches=batches)


def references(
    name: str, seed: int, *, score: Callable[[str, np.ndarray, np.ndarray], dict] = against
) -> list[dict[str, object]]:
    """Rows of the mean profile, the labels' profiles, and principal components plain and scaled."""
    adata, label = data.load(name), data.KNOWN[name].label
    split = protocol.split(adata.X, name=name, seed=seed)
    labels = adata.obs[label].to_numpy().astype(str)
    mean, _ = protocol.profiles(adata.X[split.fit])
    each, names = protocol.profiles(adata.X[split.fit], labels[split.fit])
    held = split.second[split.test]
    rows: list[dict[str, object]] = [
        {"method": "mean profile", "nats": protocol.nats(held, mean[0])},
        {
            "method": "label profiles",
            "nats": protocol.nats(held, each[np.searchsorted(names, labels[split.test])]),
        },
    ]
    for method, scaled in (("20 PCs", False), ("20 PCs, scaled genes", True)):
        codes = protocol.pcs(adata.X[split.fit], scaled=scaled)
        rows.append({"method": method} | score(name, codes, split.fit))
    return [{"dataset": name, "seed": seed} | row for row in rows]


def table(runs: pd.DataFrame) -> str:
    """Markdown: a row for each data set and method, mean and half range over seeds."""
    columns = [c for c in COLUMNS if c in runs]
    lines = ["| data set | method | seeds | " + " | ".join(columns) + " |", "|" + "---|" * (3 + len(columns))]
    order = {name: i for i, name in enumerate(data.KNOWN)}
    groups = sorted(runs.groupby(["dataset", "method"]), key=lambda item: (order[item[0][0]], item[0][1]))
    for (name, method), group in groups:
        cells = []
        for column in columns:
            values = group[column].dropna()
            few = {"seconds": 0, "best_epoch": 0, "leiden_k": 1}.get(column, 3)
            spread = (values.max() - values.min()) / 2 if len(values) else 0.0
            cells.append(f"{values.mean():.{few}f} ± {spread:.{few}f}" if len(values) else "")
        lines.append(f"| {name} | {method} | {group['seed'].nunique()} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--csv", action="store_true", help="one line a run")
    options = parser.parse_args()
    runs = read(options.folder)
    extra = [
        row
        for name, seed in {(r.dataset, r.seed) for r in runs.itertuples()}
        for row in references(name, seed)
    ]
    runs = pd.concat([runs, pd.DataFrame(extra)], ignore_index=True)
    print(runs.to_csv(index=False) if options.csv else table(runs))


if __name__ == "__main__":
    main()
