"""Do codes hold pseudotime as well as principal components do?

    python benchmarks/pseudotime.py

``bmmc``: the authors' pseudotime, made for each lineage and batch, so each of these is judged on its own
(14 with at least 50 cells); chreode with the defaults, and with ``batch``. ``paul15``: two slingshot
pseudotimes, each on the cells whose weight on its curve is above one half. All cells are embedded, by
chreode's defaults and by 20 principal components of log-normalised counts (plain, and with genes scaled
to unit variance), without pseudotime. Then pseudotime is predicted in five folds, by 15 nearest
neighbours and by ridge regression (penalty chosen within the training folds), and Spearman's correlation
of the held-out predictions is reported: mean over the groups.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import data
import numpy as np
import pandas as pd
import protocol
import results
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor

import chreode as ch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

FEWEST = 50


def groups(name: str, obs: pd.DataFrame) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, rows and pseudotime of every group of cells that has a pseudotime of its own."""
    if name == "paul15":
        for curve in (1, 2):
            rows = np.flatnonzero(obs[f"weight_{curve}"] > 0.5)
            yield f"curve {curve}", rows, obs[f"pseudotime_{curve}"].to_numpy()[rows]
        return
    for (lineage, batch), part in obs.groupby(["lineage", "batch"], observed=True):
        if len(part) >= FEWEST:
            yield f"{lineage} {batch}", obs.index.get_indexer(part.index), part["pseudotime"].to_numpy()


def predicted(codes: np.ndarray, time: np.ndarray, *, seed: int) -> dict[str, float]:
    """Spearman's correlation of held-out predictions with pseudotime."""
    folds = KFold(5, shuffle=True, random_state=seed)
    models = {"neighbours": KNeighborsRegressor(15), "linear": RidgeCV(np.logspace(-3, 3, 13))}
    scaled = {"neighbours": codes, "linear": (codes - codes.mean(0)) / codes.std(0)}
    return {
        name: float(spearmanr(cross_val_predict(model, scaled[name], time, cv=folds), time).statistic)
        for name, model in models.items()
    }


def embeddings(name: str, adata: AnnData, seed: int) -> dict[str, np.ndarray]:
    """Codes of all cells, by method."""
    found = {"20 PCs": protocol.pcs(adata.X), "20 PCs, scaled genes": protocol.pcs(adata.X, scaled=True)}
    choices = {"chreode": {}}
    if data.KNOWN[name].batch:
        choices["chreode, batch"] = {"batch": data.KNOWN[name].batch}
    for method, reading in choices.items():
        cells = ch.read(adata, **reading)
        found[method] = ch.fit(cells, ch.recipes.scdgd(), seed=seed, progress=False).embedded.embedding
    return found


def draw(runs: pd.DataFrame) -> None:
    """Every group a point: chreode against 20 PCs."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.7))
    for axis, score in zip(axes, ("neighbours", "linear"), strict=True):
        wide = runs.pivot_table(index=["data set", "group"], columns="method", values=score)
        axis.plot([0.25, 1], [0.25, 1], color="0.6", lw=0.8)
        for name, part in wide.groupby(level=0):
            axis.scatter(part["20 PCs"], part["chreode"], s=22, alpha=0.8, label=name)
        axis.set_xlabel("20 PCs", size=9)
        axis.set_ylabel("chreode", size=9)
        axis.set_title(f"Spearman correlation, {score}", size=9)
        axis.tick_params(labelsize=8)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    results.save(figure, results.FOLDER / "pseudotime.png")


def main() -> None:
    """Embed, predict, write."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--dataset", nargs="+", default=["bmmc", "paul15"], choices=["bmmc", "paul15"])
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.dataset:
        adata = data.load(name)
        for seed in options.seed:
            for method, codes in embeddings(name, adata, seed).items():
                for group, cells, time in groups(name, adata.obs):
                    where = {"data set": name, "method": method, "group": group, "seed": seed}
                    rows.append(where | predicted(codes[cells], time, seed=seed))
            print(
                pd.DataFrame(rows).groupby(["data set", "method"])[["neighbours", "linear"]].mean().round(3)
            )
    runs = pd.DataFrame(rows)
    columns = {"neighbours": "15 neighbours", "linear": "linear"}
    means = runs.groupby(["data set", "method", "seed"], sort=False)[list(columns)].mean().reset_index()
    results.write(
        results.FOLDER / "pseudotime.md",
        title="Pseudotime from codes",
        command="python benchmarks/pseudotime.py",
        parts={
            "Mean over groups": results.table(means, by=["data set", "method"], columns=columns)
            + "\n\n![chreode against PCs](pseudotime.png)",
            "Every group": results.table(runs, by=["data set", "group", "method"], columns=columns),
        },
    )
    draw(runs)


if __name__ == "__main__":
    main()
