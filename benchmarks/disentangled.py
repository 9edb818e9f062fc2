"""Does patches part what is shared from what belongs to attributes, where the truth is known?

    python benchmarks/disentangled.py --folder kept --out benchmarks/results/disentangled.md

The synthetic examples of its paper, without noise as there:

- *linear*: a shared normal truth of 10 dimensions, two attributes, and for each a block of 10 dimensions
  that is normal about -1.15 (about 1.15 for the second) where the attribute is on, and normal about 0 where
  it is off; the 30 values are these themselves. 2,000 cells of each combination;
- *linear, off is zero*: the same, but that the block of an attribute that is off is zero; *apart* with
  ``apart=True``;
- *swiss roll*: 10,000 points; the attribute is whether the axis of the roll is below 10; shared truth are
  the two coordinates across the axis.

Blocks have as many dimensions as in the truth (10 and 10; 2 and 1); *30 shared* gives the first example 30
and 1. 10,000 new cells are projected. *told*: balanced accuracy with which the attribute (the worse of two)
is told from the shared code as drawn from its posterior, which is what the model has, best of three probes
(trained on the training cells, projected alike; chance is 0.5); *by means*, from the posterior's mean,
where differences show that are far smaller than a posterior is wide. *R²* of the shared truth told from the
shared code, mean over dimensions, best of the same probes for the roll and of a linear one for what is
linear. *shift*: by how much cells that are off move when they are decoded as on, the mean over the values
of the attribute's block, as a share of the truth; *elsewhere*: the mean absolute value of the same for all
other values, in their standard deviations. *level*: accuracy with which the level is told from the private
code of cells projected without their levels. Processor minutes are those of the fit.

The standard deviation of the likelihood is 1, so that values of the linear examples are multiplied by 2.
Settings were chosen on seeds 10 and 11.
"""

from __future__ import annotations

import time
from itertools import product
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import results
import torch
from sklearn.datasets import make_swiss_roll

import chreode as ch
from chreode.evaluate import probe_blocks
from chreode.posterior import posterior

SHIFTS = {"one": -1.15, "two": 1.15}
DIM, CELLS, TIMES = 10, 2000, 2.0
LINEAR = {"dim": DIM, "private": DIM, "hidden": (), "dropout": 0.0}
ROLL = {"dim": 2, "private": 1, "hidden": (128, 128), "dropout": 0.0, "against": 30.0}
# Set, settings of the recipe, epochs.
VARIANTS: dict[str, tuple[str, dict[str, Any], int]] = {
    "linear, off is zero": ("zero", LINEAR, 200),
    "linear, off is zero, apart": ("zero", {**LINEAR, "apart": True}, 200),
    "linear": ("linear", LINEAR, 60),
    "linear, 30 shared": ("linear", {**LINEAR, "dim": 3 * DIM, "private": 1}, 60),
    "swiss roll": ("roll", ROLL, 100),
    "swiss roll, apart": ("roll", {**ROLL, "apart": True}, 100),
}


def linear(cells: int, seed: int, *, zero: bool) -> ad.AnnData:
    """As many cells of each combination of two attributes; the shared truth in ``obsm``."""
    rng, n = np.random.default_rng([seed, 60]), 4 * cells
    on = np.repeat([[0, 0], [0, 1], [1, 0], [1, 1]], cells, axis=0)
    shared, parts = rng.normal(size=(n, DIM)), []
    for number, shift in enumerate(SHIFTS.values()):
        off = 0.0 if zero else rng.normal(size=(n, DIM))
        parts.append(np.where(on[:, [number]] == 1, shift + rng.normal(size=(n, DIM)), off))
    adata = ad.AnnData((TIMES * np.hstack([shared, *parts])).astype(np.float32))
    for number, name in enumerate(SHIFTS):
        adata.obs[name] = np.array(["off", "on"])[on[:, number]]
    adata.obsm["shared"] = shared
    return adata


def roll(seed: int) -> ad.AnnData:
    """Points of the roll, the axis last; *on* is the half far along it."""
    points, _ = make_swiss_roll(10_000, random_state=seed)
    points = points[:, [0, 2, 1]]
    adata = ad.AnnData(points.astype(np.float32))
    adata.obs["one"] = np.where(points[:, 2] < 10, "off", "on")
    adata.obsm["shared"] = points[:, :2]
    return adata


def sets(name: str, seed: int) -> tuple[ad.AnnData, ad.AnnData]:
    """Cells to train on and 10,000 new ones."""
    if name == "roll":
        return roll(seed), roll(seed + 1000)
    zero = name == "zero"
    return linear(CELLS, seed, zero=zero), linear(2500, seed + 1000, zero=zero)


def block(name: str, attribute: str) -> slice:
    """Where an attribute's values are."""
    if name == "roll":
        return slice(2, 3)
    return slice(DIM, 2 * DIM) if attribute == "one" else slice(2 * DIM, 3 * DIM)


def shifted(model: ch.FittedModel, new: ad.AnnData, *, name: str, attribute: str) -> tuple[float, float]:
    """Shift of cells that are off when they are decoded as on: a share of the truth, and elsewhere."""
    off, mine = (new.obs[attribute] == "off").to_numpy(), np.zeros(new.n_vars, dtype=bool)
    mine[block(name, attribute)] = True
    here = model.project(new[off].copy())
    moved = here.do(**{attribute: "on"}).expected(size=None).mean(0) - here.expected(size=None).mean(0)
    true = new.X[~off][:, mine].mean() - new.X[off][:, mine].mean()
    return float(moved[mine].mean() / true), float((np.abs(moved) / new.X.std(0))[~mine].mean())


def generator(seed: int) -> torch.Generator:
    """Of draws of codes."""
    return torch.Generator().manual_seed(seed)


def trial(variant: str, *, seed: int) -> dict[str, float]:
    """Fit, project new cells, probe their codes."""
    name, settings, epochs = VARIANTS[variant]
    train, new = sets(name, seed)
    attributes = [column for column in SHIFTS if column in train.obs]
    cells = ch.read(train, values="continuous", covariates=attributes)
    began = time.process_time()
    recipe = ch.recipes.patches(likelihood="normal", **settings)
    model = ch.fit(cells, recipe, epochs=epochs, validation=0, seed=seed, progress=False)
    minutes = (time.process_time() - began) / 60
    known, codes = model.project(train), model.project(new)
    held = np.repeat([False, True], [train.n_obs, new.n_obs])
    both = {"shared": np.vstack([known.embedding, codes.embedding])}
    drawn = {"shared": np.vstack([posterior(one).sample(generator(seed)).numpy() for one in (known, codes)])}
    how: dict[str, Any] = {"held_out": held, "progress": False}
    told, by_draw, level, shifts = [], [], [], []
    blind = [one.copy() for one in (train, new)]
    for one in blind:
        one.obs = one.obs.drop(columns=attributes)
    hidden = [model.project(one) for one in blind]
    for column in attributes:
        levels = np.r_[train.obs[column], new.obs[column]]
        told.append(probe_blocks(both, levels, **how)["best"].item())
        by_draw.append(probe_blocks(drawn, levels, **how)["best"].item())
        private = {"own": np.vstack([one.embeddings[column] for one in hidden])}
        level.append(probe_blocks(private, levels, probes=["linear"], **how)["best"].item())
        shifts.append(shifted(model, new, name=name, attribute=column))
    truth = np.vstack([train.obsm["shared"], new.obsm["shared"]])
    # What is linear in the values is told by a linear probe; the roll asks for all three.
    probes = ["linear", "neighbours", "trees"] if name == "roll" else ["linear"]
    r2 = [probe_blocks(both, column, probes=probes, **how)["best"].item() for column in truth.T]
    return {
        "told": max(told),
        "drawn": max(by_draw),
        "r2": float(np.mean(r2)),
        "least": min(r2),
        "level": min(level),
        "shift": float(np.mean([share for share, _ in shifts])),
        "elsewhere": max(rest for _, rest in shifts),
        "processor minutes": minutes,
    }


def oracles() -> str:
    """What a block of so many dimensions can tell of the linear example's shared truth, whoever chose it."""
    lines = ["| dimensions of the block | R² of the shared truth, mean | 95 % of blocks |", "|---|---|---|"]
    rng = np.random.default_rng(0)
    for dim in (DIM, 2 * DIM, 3 * DIM):
        found = []
        for _ in range(1000):
            # With both levels' spread the same, values about their means are the same in all directions.
            axes = np.linalg.qr(rng.normal(size=(3 * DIM, dim)))[0]
            found.append((axes[:DIM] ** 2).sum(1).mean())
        low, high = np.quantile(found, [0.025, 0.975])
        lines.append(f"| {dim} | {np.mean(found):.3f} | {low:.3f} to {high:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Fit each, probe, write the table."""
    options = results.options(__doc__, variants=list(VARIANTS))
    runs: list[dict[str, Any]] = []
    for seed, variant in product(options.seeds, options.variants):
        path = options.folder / f"{variant.replace(', ', '_').replace(' ', '_')}-{seed}.json"
        found = results.kept(path, lambda v=variant, s=seed: trial(v, seed=s))
        runs.append({"variant": variant, "seed": seed, **found})
    columns = {
        "drawn": "told",
        "told": "told by means",
        "r2": "R²",
        "least": "of the worst dimension",
        "level": "level",
    }
    columns |= {"shift": "shift", "elsewhere": "elsewhere", "processor minutes": "processor minutes"}
    frame = pd.DataFrame(runs).reindex(columns=["variant", "seed", *columns])
    table = results.table(frame, by=["variant"], columns=columns)
    settings = ["| variant | settings | epochs |", "|---|---|---|"]
    for variant, (_, chosen, epochs) in VARIANTS.items():
        said = ", ".join(f"{key}={value}" for key, value in chosen.items())
        settings.append(f"| {variant} | {said} | {epochs} |")
    parts = {"10,000 new cells": table, "Settings": "\n".join(settings)}
    parts["Blocks that the data of *linear* cannot tell apart"] = oracles()
    results.show(
        options.out, title="Shared and private where the truth is known", script="disentangled", parts=parts
    )


if __name__ == "__main__":
    main()
