"""Are a model's samples cells one could have measured? chreode's draws beside SCVI's, against held-out cells.

    python benchmarks/samples.py --peers-python peers/bin/python

70 % of the cells are fitted, the others are what samples are compared with: means, variances, fractions
of zeros of genes, correlations between the 100 most variable genes, and how well boosted trees on
principal components tell samples from cells (AUC, 0.5 is best; see `chreode.evaluate.compare_samples`).
As many cells are drawn as were fitted, and the fitted cells themselves stand in the first row: no model
can be asked for more. chreode draws a code from its mixture and a total from a fitted cell of that
component; SCVI (NB, 20 dimensions) a code from N(0, I) and the total of a fitted cell, or, second row, a
code from the posterior of a fitted cell.

*By component*: a cell, measured or drawn by anyone, belongs to the component that most of its 15 nearest
fitted cells have, in 20 principal components of the fitted cells; components of at least 50 cells on both
sides, weighted by their held-out cells.

*Bias*: expected counts, given each cell's code, against counts, median over genes with at least 50
molecules in the fitted cells, in three groups by dispersion. The groups come from the moments of the
fitted cells (`overdispersion`), so that they are the same for every model.

*finished*: after the default fit, in closed form or nearly so, with codes and decoder left as they are:
output biases such that each gene's expected total over the fitted cells is the measured one
(`match_means`), and inverse dispersions at their maximum a posteriori, shrunk to a common value
(`fit_dispersions`).
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import data
import numpy as np
import pandas as pd
import results
import torch
from scvi_fit import unpack
from sklearn.neighbors import KNeighborsClassifier

import chreode as ch
from chreode.evaluate import compare_components, compare_samples, dispersion_bias

if TYPE_CHECKING:
    import scipy.sparse as sp
    from anndata import AnnData

SETS = ("kang", "haber", "pbmc3k")
SCORES = {
    "mean_correlation": "means r",
    "mean_error": "means error",
    "variance_correlation": "variances r",
    "variance_error": "variances error",
    "zero_error": "zeros error",
    "gene_correlation": "gene-gene r",
    "gene_correlation_error": "gene-gene error",
    "auc": "AUC",
}
CELLS, LEVELS = ("fitted", "held-out"), ("low", "middle", "high")
BIAS = {f"{cells} {level}": f"{cells}, {level}" for cells in CELLS for level in LEVELS}
FEWEST = 50


def halves(name: str, seed: int) -> tuple[AnnData, AnnData]:
    """Fitted and held-out cells, a function of (data set, seed)."""
    adata = data.load(name)
    order = np.random.default_rng([zlib.crc32(name.encode()), seed]).permutation(adata.n_obs)
    held, fitted = np.split(order, [round(0.3 * adata.n_obs)])
    return adata[np.sort(fitted)].copy(), adata[np.sort(held)].copy()


def overdispersion(counts: sp.csr_matrix) -> np.ndarray:
    """Inverse dispersion of each gene by moments: its variance beyond Poisson's, all cells alike."""
    size = np.asarray(counts.sum(1), dtype=np.float64).ravel()
    share = np.asarray(counts.sum(0), dtype=np.float64).ravel() / size.sum()
    squares = np.asarray(counts.multiply(counts).sum(0), dtype=np.float64).ravel()
    excess = squares - 2 * share * (counts.T @ size) + share**2 * (size @ size) - share * size.sum()
    return 1.0 / np.clip(excess / np.maximum(share**2 * (size @ size), 1e-12), 1e-3, 1e3)


def fitted_part(model: ch.FittedModel) -> tuple[Any, dict[str, torch.Tensor]]:
    """The cells that trained, and their codes."""
    rows = torch.from_numpy(np.flatnonzero(model.embedded.trained))
    return model.embedded.cells[rows], {name: z[rows] for name, z in model.embedded.codes.items()}


@torch.no_grad()
def match_means(model: ch.FittedModel, *, rounds: int = 3) -> None:
    """Move output biases until each gene's expected total over the fitted cells is the measured one."""
    cells, codes = fitted_part(model)
    total = cells.measured["rna"].sum_columns()
    bias = model.module.decoder.readout.outputs["rna"].bias
    for _ in range(rounds):
        expected = model.module.decoder(codes, cells)["rna"].mean.sum(0)
        bias += ((total + 1) / (expected + 1)).log()  # one molecule more, for genes without any


def fit_dispersions(model: ch.FittedModel, *, spread: float = 1.0, steps: int = 80) -> None:
    """Inverse dispersions of greatest posterior density given means; log theta ~ N(their mean, spread²)."""
    cells, codes = fitted_part(model)
    head = model.module.decoder.readout.heads["rna"]
    for parameter in model.module.parameters():
        parameter.requires_grad_(False)
    log_theta = head.log_theta.requires_grad_(True)
    adam = torch.optim.Adam([log_theta], lr=0.1)
    for _ in range(steps):
        adam.zero_grad()
        fit = model.module.decoder(codes, cells)["rna"].log_prob(cells.measured["rna"]).sum()
        shrinkage = ((log_theta - log_theta.mean().detach()) ** 2).sum() / (2 * spread**2)
        (shrinkage - fit).backward()
        adam.step()
    log_theta.requires_grad_(False)


def ours(fitted: AnnData, seed: int) -> dict[str, ch.FittedModel]:
    """The models that are compared, by name."""
    cells = ch.read(fitted)
    models = {}
    choices = {
        "theta floor 1 (published)": {"theta_floor": 1.0},
        "Poisson": {"likelihood": "poisson"},
        "default": {},
    }
    for name, arguments in choices.items():
        models[f"chreode, {name}"] = ch.fit(cells, ch.recipes.scdgd(**arguments), seed=seed, progress=False)
    finished = copy.deepcopy(models["chreode, default"])
    fit_dispersions(finished)
    models["chreode, dispersions fitted"] = copy.deepcopy(finished)
    match_means(finished)
    fit_dispersions(finished)
    models["chreode, finished"] = finished
    return models


@torch.no_grad()
def expected_sum(model: ch.FittedModel, embedded: Any) -> np.ndarray:
    """What the decoder expects of all these cells together, a gene."""
    total = torch.zeros(len(model.layout.modalities["rna"].names))
    for at in range(0, len(embedded), 512):
        rows = slice(at, at + 512)
        codes = {name: z[rows] for name, z in embedded.codes.items()}
        total += model.module.decoder(codes, embedded.cells[rows])["rna"].mean.sum(0)
    return total.numpy()


def bias(fitted: AnnData, held: AnnData, sums: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Median relative bias of genes' means in three groups by dispersion, in fitted and in held-out cells."""
    chosen = np.asarray(fitted.X.sum(0)).ravel() >= FEWEST
    chosen &= np.asarray(held.X.sum(0)).ravel() > 0
    theta = overdispersion(fitted.X)[chosen]
    found = {}
    for name, cells, total in zip(CELLS, (fitted, held), sums, strict=True):
        table = dispersion_bias(cells.X[:, chosen], total[chosen] / cells.n_obs, theta)
        found |= {f"{name} {level}": value for level, value in table["bias"].items()}
    return found


def by_component(
    fitted: AnnData, held: AnnData, drawn: dict[str, sp.csr_matrix], components: np.ndarray, seed: int
) -> list[dict[str, object]]:
    """Scores of each method within components, averaged with the held-out cells as weights."""
    codes, held_codes, *others = results.principal(fitted.X, held.X, *drawn.values())
    vote = KNeighborsClassifier(15).fit(codes, components)
    rows = []
    for (name, counts), place in zip(drawn.items(), others, strict=True):
        table = compare_components(
            held.X,
            counts,
            observed_components=vote.predict(held_codes),
            sampled_components=vote.predict(place),
            seed=seed,
        ).dropna()
        weights = table["observed_cells"] / table["observed_cells"].sum()
        mean = {score: float((table[score] * weights).sum()) for score in SCORES}
        rows.append({"method": name, "components": len(table)} | mean)
    return rows


def compare(name: str, seed: int, peer: Path) -> tuple[list[dict[str, object]], ...]:
    """Rows of the three tables for one split, and the counts drawn."""
    fitted, held = halves(name, seed)
    drawn: dict[str, sp.csr_matrix] = {"the fitted cells": fitted.X}
    sums = {"the fitted cells": (fitted.X.sum(0).A1, fitted.X.sum(0).A1 * held.X.sum() / fitted.X.sum())}
    models = ours(fitted, seed)
    for method, model in models.items():
        drawn[method] = model.sample(fitted.n_obs, seed=seed).X
        sums[method] = (expected_sum(model, model.embedded), expected_sum(model, model.project(held)))
    with np.load(peer) as found:
        drawn["scVI, prior"], drawn["scVI, posterior of fitted cells"] = (
            unpack("prior", found),
            unpack("posterior", found),
        )
        sums["scVI"] = (found["train_sum"], found["other_sum"])
    where = {"data set": name, "seed": seed}
    whole = [where | {"method": m} | compare_samples(held.X, x, seed=seed) for m, x in drawn.items()]
    biases = [where | {"method": m} | bias(fitted, held, pair) for m, pair in sums.items()]
    chosen = {
        m: drawn[m] for m in ("the fitted cells", "chreode, default", "chreode, finished", "scVI, prior")
    }
    parts = by_component(fitted, held, chosen, models["chreode, default"].embedded.components(), seed)
    return whole, [where | row for row in parts], biases, [{"held": held.X, **chosen}]


def draw(name: str, counts: dict[str, sp.csr_matrix], path: Path) -> None:
    """Zeros, variances and correlations of pairs of genes of one split, samples against cells."""
    import matplotlib.pyplot as plt

    held = counts["held"]
    methods = ("chreode, default", "chreode, finished", "scVI, prior")
    figure, axes = plt.subplots(3, 3, figsize=(8.4, 8.0))
    logged = results.log_normalise(held).toarray()
    top = np.argsort(-logged.var(0))[:100]
    pairs = np.triu_indices(100, 1)

    def views(x: sp.csr_matrix) -> dict[str, np.ndarray]:
        dense = x.toarray()
        related = np.nan_to_num(np.corrcoef(results.log_normalise(x).toarray()[:, top].T))
        variance = np.log10(dense.var(0) + 1e-3)
        return {
            "fraction of zeros": (dense == 0).mean(0),
            "log10 variance": variance,
            "gene-gene correlation": related[pairs],
        }

    truth = views(held)
    for column, method in enumerate(methods):
        for row, (view, values) in enumerate(views(counts[method]).items()):
            axis = axes[row, column]
            low, high = min(truth[view].min(), values.min()), max(truth[view].max(), values.max())
            axis.plot([low, high], [low, high], color="0.6", lw=0.8)
            axis.scatter(truth[view], values, s=2, alpha=0.3, lw=0, color="#1f5a99", rasterized=True)
            axis.set_xlabel(f"{view}, held-out cells", size=8)
            axis.set_ylabel("samples", size=8)
            axis.tick_params(labelsize=7)
        axes[0, column].set_title(method, size=10)
    figure.suptitle(f"{name}, seed 0", size=10)
    figure.tight_layout()
    results.save(figure, path)


def draw_bias(biases: pd.DataFrame, path: Path) -> None:
    """Bias by dispersion, each data set a panel, each method a line."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(biases["data set"]))
    figure, axes = plt.subplots(2, len(names), figsize=(3.4 * len(names), 5.6), sharex=True, squeeze=False)
    for column, name in enumerate(names):
        for row, cells in enumerate(CELLS):
            axis = axes[row, column]
            axis.axhline(0, color="0.6", lw=0.8)
            for method, group in biases[biases["data set"] == name].groupby("method", sort=False):
                if method == "the fitted cells" and cells == "fitted":
                    continue
                values = np.array([group[f"{cells} {level}"] for level in LEVELS]).T
                style = {"color": "k", "ls": ":"} if method == "the fitted cells" else {}
                line = axis.plot(LEVELS, values.mean(0), marker="o", ms=3, lw=1.2, label=method, **style)[0]
                axis.fill_between(LEVELS, values.min(0), values.max(0), alpha=0.12, color=line.get_color())
            axis.set_title(f"{name}, {cells} cells", size=9)
            axis.tick_params(labelsize=8)
        axes[1, column].set_xlabel("dispersion of the genes", size=8)
    for axis in axes[:, 0]:
        axis.set_ylabel("expected / measured − 1", size=8)
    axes[1, -1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.tight_layout()
    results.save(figure, path)


def main() -> None:
    """Fit, draw, compare, write."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--peers-python", required=True, help="the peers' Python")
    parser.add_argument("--dataset", nargs="+", default=list(SETS), choices=list(data.KNOWN))
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--scvi-epochs", type=int, default=60)
    parser.add_argument("--scratch", type=Path, default=None, help="keep the peer's runs here, to run on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables: tuple[list, ...] = ([], [], [])
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.scratch or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        jobs = {}
        for name in options.dataset:
            for seed in options.seed:
                fitted, held = halves(name, seed)
                path = folder / f"samples-{name}-{seed}-{options.scvi_epochs}.npz"
                more = {"seed": seed, "epochs": options.scvi_epochs, "n_samples": fitted.n_obs}
                jobs[name, seed] = results.job(path, train=fitted.X, other=held.X, **more)
        peers = dict(zip(jobs, results.run_peer(options.peers_python, list(jobs.values())), strict=True))
        for (name, seed), peer in peers.items():
            *rows, (counts,) = compare(name, seed, peer)
            for table, more in zip(tables, rows, strict=True):
                table.extend(more)
            print(pd.DataFrame(rows[0]).round(3).to_string(), flush=True)
            if (name, seed) == (options.dataset[0], options.seed[0]):
                draw(name, counts, results.FOLDER / "samples.png")
    report(*map(pd.DataFrame, tables), options)


def report(
    whole: pd.DataFrame, parts: pd.DataFrame, biases: pd.DataFrame, options: argparse.Namespace
) -> None:
    """Write tables and the figure of the bias."""
    by = ["data set", "method"]
    draw_bias(biases, results.FOLDER / "samples_bias.png")
    results.write(
        results.FOLDER / "samples.md",
        title="Samples against held-out cells",
        command="python benchmarks/samples.py --peers-python peers/bin/python",
        parts={
            "All cells": f"SCVI: NB, 20 dimensions, {options.scvi_epochs} epochs.\n\n"
            + results.table(whole, by=by, columns=SCORES)
            + "\n\n![Samples against cells](samples.png)",
            "By component": results.table(parts, by=by, columns={"components": "components", **SCORES}),
            "Bias of expected means by dispersion": results.table(biases, by=by, columns=BIAS)
            + "\n\n![Bias by dispersion](samples_bias.png)",
        },
        python=options.peers_python,
    )


if __name__ == "__main__":
    main()
