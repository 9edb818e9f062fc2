"""Circuits with a known Jacobian: what of it fields learn from snapshots, from several starts or from one.

    python benchmarks/circuits.py --folder kept --out benchmarks/results/circuits.md

Cells are started in populations, follow the true equations exactly, and are measured at six times, 150 of
each population at each (a cell once, as cells are destroyed). Recipes are fitted at their defaults. Their
Jacobians (`chreode.interpret.interactions.jacobians`) are compared with the true ones at the measured cells,
over entries that are not of a gene on itself: the signs of entries above a tenth of the largest true one, the
area under the curve by which the mean absolute entry tells edges from none, and the correlation of all
entries. The velocity's error is relative to its mean square. With one starting population the same marginals
are left by many fields.

Each gene in turn is then knocked out, where no cell that was fitted shows it: cells of the first time are
moved to the last with the gene held at 0, and the other genes' mean is compared with the true one, the
squared error relative to what the knock-out changes (1: as if nothing were held). ``1+`` is one starting
population with the knock-outs of all genes but the last beside it, told by ``perturbation=``; the last one is
predicted.

``linear``: five genes, seven edges. ``toggle``: two genes that repress each other. ``ring``: five genes, each
repressing the next, and one activation across.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import results
import torch
from scipy.integrate import solve_ivp
from sklearn.metrics import roc_auc_score

import chreode as ch
from chreode.interpret.interactions import jacobians

if TYPE_CHECKING:
    from collections.abc import Callable

TIMES = np.linspace(0, 2, 6)
EACH = 150  # cells of a population at a time
RECIPES = {
    "cell_mnn": ch.recipes.cell_mnn(),
    "neural_ode": ch.recipes.neural_ode(),
    "flow_matching": ch.recipes.flow_matching(),
}
LINEAR = np.diag([-0.8, -0.6, -1.0, -0.5, -0.7])
for _target, _regulator, _effect in (
    (1, 0, 1.5), (2, 1, -1.2), (3, 2, 1.0), (0, 3, -1.4), (4, 0, 1.1), (4, 2, -0.9), (2, 4, 0.8),
):  # fmt: skip
    LINEAR[_target, _regulator] = _effect


def repressed(x: np.ndarray) -> np.ndarray:
    """Production under a repressor, of Hill coefficient 2."""
    return 3 / (1 + x**2)


def toggle(x: np.ndarray) -> np.ndarray:
    """Two genes, each repressed by the other."""
    return repressed(x[::-1]) - x


def ring(x: np.ndarray) -> np.ndarray:
    """Five genes, each repressed by the one before; the third also activates the first."""
    velocity = repressed(np.roll(x, 1, axis=0)) - x
    velocity[0] += x[2] ** 2 / (1 + x[2] ** 2)
    return velocity


TITLES = {
    "8": "8 starting populations",
    "1": "1 starting population",
    "1+": "1 starting population, and knock-outs",
}
# The field, how many genes, and which edges there are (target, regulator).
CIRCUITS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int, set[tuple[int, int]]]] = {
    "linear": (
        lambda x: LINEAR @ x,
        5,
        {(i, j) for i in range(5) for j in range(5) if i != j and LINEAR[i, j]},
    ),
    "toggle": (toggle, 2, {(0, 1), (1, 0)}),
    "ring": (ring, 5, {(i, (i - 1) % 5) for i in range(5)} | {(0, 2)}),
}


def true_jacobian(field: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """Central differences at each cell, ``n x g x g``."""
    h, (n, g) = 1e-5, x.shape
    columns = [(field((x + h * e).T) - field((x - h * e).T)).T / (2 * h) for e in np.eye(g)]
    return np.stack(columns, 2).reshape(n, g, g)


def moved(
    field: Callable[[np.ndarray], np.ndarray], x: np.ndarray, t: float, *, out: int | None = None
) -> np.ndarray:
    """Cells after a time, by the true field; one gene held at 0."""
    x = x.copy()

    def velocity(_: float, flat: np.ndarray) -> np.ndarray:
        found = field(flat.reshape(x.shape[::-1]))
        if out is not None:
            found[out] = 0
        return found.ravel()

    if out is not None:
        x[:, out] = 0
    if not t:
        return x
    solved = solve_ivp(velocity, (0, t), x.T.ravel(), rtol=1e-6, atol=1e-8)
    return solved.y[:, -1].reshape(x.shape[::-1]).T


def knock_outs(
    model: ch.FittedModel, first: ad.AnnData, field: Callable[[np.ndarray], np.ndarray]
) -> list[float]:
    """For each gene held at 0 in no cell, the error of the others' mean, relative to what that changes."""
    x, errors = np.asarray(first.obsm["X_genes"], dtype=np.float64), []
    usual = moved(field, x, TIMES[-1]).mean(0)
    seen = set(model.layout.held)
    for gene, name in enumerate(model.layout.modalities["X_genes"].names):
        if gene in seen:
            continue
        others = np.arange(x.shape[1]) != gene
        predicted = model.forecast(first, to=TIMES[-1], knock_out=name).mean(0)
        true = moved(field, x, TIMES[-1], out=gene).mean(0)
        off, changed = ((a - true)[others] for a in (predicted, usual))
        errors.append(float((off**2).sum() / (changed**2).sum()))
    return errors


def simulate(name: str, starts: str, seed: int) -> ad.AnnData:
    """Snapshots of cells that began in so many populations; with a plus, also under knock-outs."""
    field, g, _ = CIRCUITS[name]
    number = int(starts.rstrip("+"))
    rng = np.random.default_rng([seed, number])
    centres = rng.uniform(0, 3, (number, g)) if name != "linear" else rng.normal(0, 2, (number, g))
    states, days, held = [], [], []
    for out in (None, *range(g - 1)) if starts.endswith("+") else (None,):
        for t in TIMES:
            begin = np.repeat(centres, EACH, axis=0) + rng.normal(0, 0.2, (number * EACH, g))
            begin = begin if name == "linear" else begin.clip(0)
            states.append(moved(field, begin, t, out=out))
            days += [t] * len(begin)
            held += ["none" if out is None else f"X_genes {out + 1}"] * len(begin)
    obs = pd.DataFrame({"time": days, "held": held}, index=[f"cell {i}" for i in range(len(days))])
    return ad.AnnData(obs=obs, obsm={"X_genes": np.concatenate(states).astype(np.float32)})


def trial(name: str, starts: str, method: str, seed: int) -> dict[str, float]:
    """One fit and how near its field is to the true one, at the measured cells."""
    field, g, edges = CIRCUITS[name]
    adata = simulate(name, starts, seed)
    x = np.asarray(adata.obsm["X_genes"], dtype=np.float64)
    told = {"perturbation": "held"} if starts.endswith("+") else {}
    cells = ch.read(adata, coordinates="X_genes", time="time", **told)
    model = ch.fit(cells, RECIPES[method], seed=seed, progress=False)
    off = ~np.eye(g, dtype=bool)
    found, true = jacobians(model)[:, off], true_jacobian(field, x)[:, off]
    told = np.abs(true) > 0.1 * np.abs(true).max()
    is_edge = np.array([(i, j) in edges for i in range(g) for j in range(g) if i != j])
    with torch.no_grad():
        velocity = model.module.dynamics.velocity(
            torch.from_numpy(x).float(), torch.tensor(adata.obs["time"].to_numpy(), dtype=torch.float32)
        ).numpy()
    exact = field(x.T).T
    errors = knock_outs(model, adata[(adata.obs["time"] == 0) & (adata.obs["held"] == "none")].copy(), field)
    return {
        "signs": float((np.sign(found) == np.sign(true))[told].mean()),
        "auroc": float(roc_auc_score(is_edge, np.abs(found).mean(0))) if not is_edge.all() else float("nan"),
        "correlation": float(np.corrcoef(found.ravel(), true.ravel())[0, 1]),
        "velocity": float(((velocity - exact) ** 2).mean() / (exact**2).mean()),
        "knock_out": float(np.median(errors)),
    }


def main() -> None:
    """Simulate, fit, compare, write the table."""
    options = results.options(
        __doc__, circuits=list(CIRCUITS), starts=["8", "1", "1+"], methods=list(RECIPES)
    )
    runs: list[dict[str, Any]] = []
    for name, starts, method, seed in product(
        options.circuits, options.starts, options.methods, options.seeds
    ):
        path = options.folder / f"{name}-{starts}-{method}-{seed}.json"
        found = results.kept(
            path, lambda n=name, k=starts, m=method, s=seed: trial(n, starts=k, method=m, seed=s)
        )
        runs.append({"circuit": name, "starts": starts, "method": method, "seed": seed, **found})
        print(runs[-1], flush=True)
    columns = {
        "signs": "signs right",
        "auroc": "edges, AUROC",
        "correlation": "correlation of entries",
        "velocity": "velocity, relative error",
        "knock_out": "knock-outs, relative error (median)",
    }
    frame = pd.DataFrame(runs)
    parts = {
        TITLES[starts]: results.table(group, by=["circuit", "method"], columns=columns)
        for starts, group in frame.groupby("starts", sort=False)
    }
    results.show(options.out, title="Circuits with a known Jacobian", script="circuits", parts=parts)


if __name__ == "__main__":
    main()
