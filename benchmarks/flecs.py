"""A field that knows the network: held-out knock-outs of simulated circuits; real cells at a time left out.

    python benchmarks/flecs.py --folder kept --out benchmarks/results/flecs.md

Circuits: 12 genes with one to three regulators each, drawn by seed; a gene is made by a sigmoid of a
weighted sum of its regulators, and decays. Cells begin in six populations, follow the equations exactly,
and are measured with noise at five times, 40 of each population at each, a cell once. Every recipe is
fitted at its defaults to these wild-type snapshots alone. Then new cells of the same populations are
followed to the last time with one gene held at 0, each of the twelve in turn, by the true equations and by
the model, and the means of the other genes compared. The error is relative to that of a prediction that
nothing changes: the root of the summed squared errors of the means over that of the summed squared true
effects. Beside it: correlation of predicted and true effects, the error of wild-type cells at the last time
relative to staying where they began, and the area under the curve by which the mean absolute Jacobian tells
edges from other pairs.

Mouse haematopoiesis (``paul15_tradeseq``): 240 genes, five bins of the pseudotime of the first lineage; the
third is left out, and the cells of the second are forecast. Pseudotime was made from expression: this is
interpolation along an ordering, and says nothing of knock-outs. The network is each gene's ten most
correlated ones among the cells that train. The error of gene means is relative to that of copying the bin
before.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import results
from data import FOLDER
from scipy.integrate import solve_ivp
from sklearn.metrics import roc_auc_score

import chreode as ch
from chreode.dynamics import interpolate
from chreode.evaluate.transport import energy_distance, wasserstein
from chreode.interpret.interactions import jacobians

if TYPE_CHECKING:
    from chreode.recipe import Recipe

GENES, POPULATIONS, EACH = 12, 6, 40
TIMES = (0.0, 0.75, 1.5, 2.25, 3.0)
NOISE = 0.05
BINS, OUT = 5, 2
CORRELATED = 10


class Circuit(NamedTuple):
    """``dx/dt = rate (top sigmoid(weights x + bias) - x)``."""

    weights: np.ndarray
    bias: np.ndarray
    rate: np.ndarray
    top: np.ndarray

    def follow(self, x: np.ndarray, until: float, *, without: int | None = None) -> np.ndarray:
        """Where cells are, exactly, one gene held at 0."""
        free = np.arange(x.shape[1]) != (-1 if without is None else without)
        x = x * free

        def velocity(_: float, flat: np.ndarray) -> np.ndarray:
            y = flat.reshape(x.shape)
            made = self.top / (1 + np.exp(-(y @ self.weights.T + self.bias)))
            return (self.rate * (made - y) * free).ravel()

        if not until:
            return x
        return solve_ivp(velocity, (0, until), x.ravel(), rtol=1e-6, atol=1e-8).y[:, -1].reshape(x.shape)


def circuit(seed: int) -> Circuit:
    """A circuit in which every gene has one to three regulators, none of them itself."""
    rng = np.random.default_rng([seed, 1])
    weights = np.zeros((GENES, GENES))
    for i in range(GENES):
        regulators = rng.choice(np.delete(np.arange(GENES), i), rng.integers(1, 4), replace=False)
        signs = rng.choice([-1, 1], len(regulators))
        weights[i, regulators] = rng.uniform(1.5, 4, len(regulators)) * signs
    bias = rng.normal(0, 0.5, GENES) - 0.35 * weights.sum(1)
    return Circuit(weights, bias, rng.uniform(0.5, 1.5, GENES), rng.uniform(0.8, 2, GENES))


def table(x: np.ndarray, times: np.ndarray) -> ad.AnnData:
    """Cells by genes with times."""
    obs = pd.DataFrame({"time": times}, index=[f"cell {i}" for i in range(len(x))])
    var = pd.DataFrame(index=[f"G{j}" for j in range(x.shape[1])])
    return ad.AnnData(x.astype(np.float32), obs=obs, var=var)


def began(made: Circuit, seed: int, *, again: int) -> np.ndarray:
    """Cells at the first time: the same populations, new cells each time."""
    centres = np.random.default_rng([seed, 2]).uniform(0, 1, (POPULATIONS, GENES)) * made.top
    spread = np.random.default_rng([seed, 3, again]).normal(0, 0.15, (POPULATIONS * EACH, GENES))
    return (np.repeat(centres, EACH, axis=0) + spread).clip(0)


def snapshots(made: Circuit, seed: int) -> ad.AnnData:
    """Wild-type cells as measured."""
    x = [made.follow(began(made, seed, again=k), until) for k, until in enumerate(TIMES)]
    noise = np.random.default_rng([seed, 4]).normal(0, NOISE, (len(x), *x[0].shape))
    return table((np.stack(x) + noise).clip(0).reshape(-1, GENES), np.repeat(TIMES, POPULATIONS * EACH))


def network(weights: np.ndarray, *, wrong: float = 0.0, seed: int = 0) -> dict[str, list[str]]:
    """The targets of each regulator, a share of the edges moved to pairs without one."""
    rng, has = np.random.default_rng([seed, 5]), weights != 0
    edges, others = np.argwhere(has), np.argwhere(~has & ~np.eye(len(has), dtype=bool))
    moved = rng.permutation(len(edges))[: round(wrong * len(edges))]
    edges[moved] = others[rng.permutation(len(others))[: len(moved)]]
    found: dict[str, list[str]] = {}
    for target, regulator in edges:
        found.setdefault(f"G{regulator}", []).append(f"G{target}")
    return found


def recipes_of(made: Circuit, seed: int) -> dict[str, Recipe]:
    """What is compared on circuits."""
    return {
        "flecs, true network": ch.recipes.flecs(network=network(made.weights)),
        "flecs, 30 % wrong edges": ch.recipes.flecs(network=network(made.weights, wrong=0.3, seed=seed)),
        "flecs, no network": ch.recipes.flecs(),
        "flow_matching": ch.recipes.flow_matching(),
        "cell_mnn": ch.recipes.cell_mnn(),
        "neural_ode": ch.recipes.neural_ode(),
    }


def knocked_out(method: str, seed: int) -> dict[str, float]:
    """One fit to wild-type snapshots, and how near its knock-outs are to the true ones."""
    made = circuit(seed)
    cells = ch.read(snapshots(made, seed), values="continuous", time="time")
    model = ch.fit(cells, recipes_of(made, seed)[method], seed=seed, progress=False)
    start, last = began(made, seed, again=len(TIMES)), TIMES[-1]
    new = table(start, np.zeros(len(start)))
    wild, wild_predicted = made.follow(start, last), model.forecast(new, to=last)
    effects, predicted = [], []
    for gene in range(GENES):
        others = np.arange(GENES) != gene
        true = made.follow(start, last, without=gene)
        found = model.forecast(new, to=last, knock_out=f"G{gene}")
        effects.append((true - wild)[:, others].mean(0))
        predicted.append((found - wild)[:, others].mean(0))
    effect, guess = np.concatenate(effects), np.concatenate(predicted)
    off = ~np.eye(GENES, dtype=bool)
    strength = np.abs(jacobians(model)).mean(0)[off]
    return {
        "error": float(np.sqrt(((guess - effect) ** 2).sum() / (effect**2).sum())),
        "correlation": float(np.corrcoef(guess, effect)[0, 1]),
        "wild": float(np.sqrt(((wild_predicted - wild) ** 2).sum() / ((start - wild) ** 2).sum())),
        "auroc": float(roc_auc_score(made.weights[off] != 0, strength)),
    }


def lineage() -> ad.AnnData:
    """Log-normalised cells of the first lineage, with the bin of their pseudotime as the time."""
    adata = ad.read_h5ad(FOLDER / "paul15_tradeseq.h5ad")
    adata = adata[adata.obs["weight_1"] > 0.5].copy()
    adata.X = results.log_normalise(adata.X).astype(np.float32)
    pseudotime = adata.obs["pseudotime_1"]
    adata.obs["bin"] = pd.qcut(pseudotime.rank(method="first"), BINS, labels=False).astype(float)
    adata.obs["time"] = pseudotime.groupby(adata.obs["bin"]).transform("median")
    return adata


def correlated(adata: ad.AnnData) -> dict[str, list[str]]:
    """A network of each gene's most correlated ones."""
    strength = np.abs(np.corrcoef(adata.X.toarray().T))
    np.fill_diagonal(strength, 0)
    found: dict[str, list[str]] = {}
    for target, row in enumerate(np.nan_to_num(strength)):
        for regulator in np.argsort(-row)[:CORRELATED]:
            found.setdefault(adata.var_names[regulator], []).append(adata.var_names[target])
    return found


REAL = (
    "bin before",
    "transport",
    "flecs, correlations",
    "flecs, no network",
    "flow_matching, genes",
    "cell_mnn, 10 components",
)


def forecast(adata: ad.AnnData, out: float, *, method: str, seed: int) -> np.ndarray:
    """Cells of the bin before ``out``, at it."""
    times = adata.obs["time"].to_numpy()
    before, after = times[times < out].max(), times[times > out].min()
    earlier, later = (adata.X[times == t].toarray().astype(np.float64) for t in (before, after))
    if method == "bin before":
        return earlier
    if method == "transport":
        return interpolate(earlier, later, share=(out - before) / (after - before), seed=seed)
    train = adata[times != out].copy()
    recipe = {
        "flecs, correlations": lambda: ch.recipes.flecs(network=correlated(train)),
        "flecs, no network": ch.recipes.flecs,
        "flow_matching, genes": ch.recipes.flow_matching,
        "cell_mnn, 10 components": lambda: ch.recipes.cell_mnn(dim=10),
    }[method]()
    cells = ch.read(train, values="continuous", time="time")
    model = ch.fit(cells, recipe, seed=seed, progress=False)
    return model.forecast(to=out, expected=True).astype(np.float64)


def left_out(method: str, seed: int) -> dict[str, float]:
    """How far a forecast is from the cells of the bin left out."""
    adata = lineage()
    times = adata.obs["time"].to_numpy()
    out = float(np.unique(times)[OUT])
    observed = adata.X[times == out].toarray().astype(np.float64)
    predicted, copied = (forecast(adata, out, method=m, seed=seed) for m in (method, "bin before"))
    means = [np.linalg.norm(x.mean(0) - observed.mean(0)) for x in (predicted, copied)]
    return {
        "means": float(means[0] / means[1]),
        "energy": energy_distance(predicted, observed),
        "w1": wasserstein(predicted, observed),
    }


def main() -> None:
    """Simulate, fit, knock out, forecast, write the tables."""
    options = results.options(__doc__)
    tasks = {
        "Knock-outs of simulated circuits": (
            knocked_out,
            list(recipes_of(circuit(0), 0)),
            {
                "error": "error of means",
                "correlation": "correlation of effects",
                "wild": "wild type, error",
                "auroc": "edges, AUROC",
            },
        ),
        "Mouse haematopoiesis, a bin of pseudotime left out": (
            left_out,
            REAL,
            {"means": "error of gene means", "energy": "energy distance", "w1": "Wasserstein-1"},
        ),
    }
    parts = {}
    for title, (trial, methods, columns) in tasks.items():
        runs: list[dict[str, Any]] = []
        for seed, method in product(options.seeds, methods):
            path = options.folder / f"{trial.__name__}-{method.replace(' ', '_')}-{seed}.json"
            found = results.kept(path, lambda trial=trial, m=method, s=seed: trial(m, s))
            runs.append({"method": method, "seed": seed, **found})
        parts[title] = results.table(pd.DataFrame(runs), by=["method"], columns=columns)
    results.show(options.out, title="Regulation by a network", script="flecs", parts=parts)


if __name__ == "__main__":
    main()
