"""Labels from five cells a type, how sure they are, and types that were never seen.

*Few*: of the 90 % of cells that are fitted, five of each type keep their label and the others' is unknown.
Accuracy and expected calibration error are of the fitted cells without a label, and of the other 10 %, which
no method saw. *Left out*: each type in turn is left out of the fitted cells, all of which keep their labels;
the area under the curve tells its cells from the other types' tested cells.

    python benchmarks/labels.py --peers-python peers/bin/python --folder kept \
        --out benchmarks/results/labels.md

What is in the folder is not computed again; ``--only few peer left`` computes some of it and writes no table,
``--finished`` computes nothing and writes tables of what is there.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from data import KNOWN, load
from protocol import split
from results import log_normalise, principal, run_peer, table, write
from scvi_fit import pack
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

import chreode as ch
from chreode.evaluate import calibration_error
from chreode.evaluate.outliers import reference_of, surprise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

NAME = "pbmc3k"
PER_TYPE = 5
RECIPES: dict[str, Callable[[], Any]] = {
    "scanvi": ch.recipes.scanvi,
    "scdgd": ch.recipes.scdgd,
    "scvi": ch.recipes.scvi,
    "scdgd, supervised": lambda: ch.recipes.scdgd(supervised=True),
}
LEFT_OUT = ("scdgd", "scanvi")
PEER = "scvi-tools' SCANVI"
GRIDS = {
    "L1 logistic regression on genes": (
        LogisticRegression(l1_ratio=1.0, solver="saga", max_iter=300, tol=1e-3),
        {"C": [0.03, 0.1, 0.3, 1.0, 3.0, 10.0]},
    ),
    "nearest neighbours on PCs": (KNeighborsClassifier(), {"n_neighbors": [1, 2, 3, 4]}),
}


def drawn(seed: int) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """The cells, their split, the number of each one's type, and which keep their label."""
    adata = load(NAME)
    truth = adata.obs[KNOWN[NAME].label].cat.codes.to_numpy().astype(int)
    parts = split(adata.X, name=NAME, seed=seed)
    generator = np.random.default_rng([17, seed])
    known = np.zeros(len(truth), dtype=bool)
    for kind in np.unique(truth):
        known[generator.permutation(parts.fit[truth[parts.fit] == kind])[:PER_TYPE]] = True
    return adata, parts, truth, known


def kept(path: Path, compute: Callable[[], Mapping[str, Any]] | None) -> dict[str, Any] | None:
    """What is in the folder, or computed and put there; None where it is absent and not to be computed."""
    if not path.exists():
        if compute is None:
            return None
        begun = time.perf_counter()
        found = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **found, seconds=time.perf_counter() - begun)
        print(f"{path.stem}: {time.perf_counter() - begun:.0f} s", flush=True)
    return dict(np.load(path, allow_pickle=False))


def few(recipe: str, seed: int) -> dict[str, Any]:
    """A recipe that is told five labels a type: probabilities of all cells, and what it says of itself."""
    adata, parts, truth, known = drawn(seed)
    names = np.asarray(adata.obs[KNOWN[NAME].label].cat.categories, dtype=object)
    labels = np.where(known, names[truth], None)
    fitted, new = (ad.AnnData(adata.X[rows], var=adata.var) for rows in (parts.fit, parts.test))
    fitted.obs["label"] = labels[parts.fit]
    model = ch.fit(ch.read(fitted, label="label"), RECIPES[recipe](), seed=seed, progress=False)
    found = {"fit": model.predict_labels(), "test": model.predict_labels(new)}
    return {
        **{part: of[list(names)].to_numpy() for part, of in found.items()},
        **{f"{part}_outlier": of["outlier"].to_numpy() for part, of in found.items()},
        "temperature": found["fit"].attrs["temperature"],
    }


def baseline(name: str, seed: int) -> dict[str, Any]:
    """The same from the labelled cells alone, the strength by cross-validation on them."""
    adata, parts, truth, known = drawn(seed)
    fitted, new = adata.X[parts.fit], adata.X[parts.test]
    values = (
        [log_normalise(some).toarray() for some in (fitted, new)]
        if name.startswith("L1")
        else principal(fitted, new)
    )
    mine = known[parts.fit]
    model, grid = GRIDS[name]
    folds = StratifiedKFold(PER_TYPE, shuffle=True, random_state=seed)
    scoring = "neg_log_loss" if name.startswith("L1") else "accuracy"  # votes may be 0 or 1
    search = GridSearchCV(model, grid, scoring=scoring, cv=folds)
    search.fit(values[0][mine], truth[parts.fit][mine])
    return {"fit": search.predict_proba(values[0]), "test": search.predict_proba(values[1])}


def peer(folder: Path, python: str, seeds: Sequence[int]) -> list[Path]:
    """The peer's runs, by seed."""
    jobs = []
    for seed in seeds:
        path = folder / f"peer {seed}.npz"
        if not path.exists():
            adata, parts, truth, known = drawn(seed)
            labels = np.where(known, truth, -1)[parts.fit]
            path.parent.mkdir(parents=True, exist_ok=True)
            what = {**pack("train", adata.X[parts.fit]), **pack("other", adata.X[parts.test])}
            np.savez(path, **what, labels=labels, k=truth.max() + 1, seed=seed)
        jobs.append(path)
    return run_peer(python, jobs, script="labels_peer.py")


def left_out(recipe: str, kind: int, seed: int) -> dict[str, Any]:
    """A recipe that never saw one type: how strange it finds its cells, and tested ones of the others."""
    adata, parts, truth, _ = drawn(seed)
    label = KNOWN[NAME].label
    fitted = adata[parts.fit[truth[parts.fit] != kind]].copy()
    fitted.obs[label] = fitted.obs[label].astype(str)
    model = ch.fit(ch.read(fitted, label=label), RECIPES[recipe](), seed=seed, progress=False)
    rows = np.r_[parts.test[truth[parts.test] != kind], np.flatnonzero(truth == kind)]
    new = model.project(ad.AnnData(adata.X[rows], var=adata.var, obs=adata.obs.iloc[rows][[]]))
    found = model.predict_labels(new)
    trained = model.embedded.embedding[model.embedded.trained]
    distance, _ = NearestNeighbors(n_neighbors=10).fit(trained).kneighbors(new.embedding)
    return {
        "strange": truth[rows] == kind,
        "total": np.asarray(adata.X[rows].sum(1)).ravel(),
        "outlier": found["outlier"].to_numpy(),
        "unsure": 1 - found["probability"].to_numpy(),
        "distance": distance[:, -1],
        "surprise": surprise(model.module, new.cells, new.codes).numpy(),
        "reference": len(reference_of(model).rows),
    }


def scored(name: str, seed: int, found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Accuracy and calibration of one run, of both kinds of cells."""
    _, parts, truth, known = drawn(seed)
    told = float(found.get("temperature", 1.0))
    for part, rows in (("fit", parts.fit[~known[parts.fit]]), ("test", parts.test)):
        probabilities = found[part][~known[parts.fit]] if part == "fit" else found[part]
        before = np.maximum(probabilities, 1e-300) ** told
        before = before / before.sum(1, keepdims=True)
        right = probabilities.argmax(1) == truth[rows]
        yield {
            "method": name,
            "seed": seed,
            "cells": {"fit": "fitted, without a label", "test": "new"}[part],
            "accuracy": right.mean(),
            "balanced": np.mean([right[truth[rows] == kind].mean() for kind in np.unique(truth[rows])]),
            "ece": calibration_error(probabilities, truth[rows]),
            "before": calibration_error(before, truth[rows]) if "temperature" in found else np.nan,
        }


def few_table(folder: Path, seeds: Sequence[int], python: str | None, *, finished: bool) -> str:
    """Accuracy and calibration of all methods."""
    rows: list[dict[str, Any]] = []
    how = [*((f"chreode {name}", name, few) for name in RECIPES), *((name, name, baseline) for name in GRIDS)]
    for method, name, run in how:
        for seed in seeds:
            compute = None if finished else partial(run, name, seed)
            if found := kept(folder / f"few {name} {seed}.npz", compute):
                rows += scored(method, seed, found)
    if python and not finished:
        peer(folder, python, seeds)
    for seed in seeds:
        if found := kept(folder / f"peer {seed}.out.npz", None):
            rows += scored(PEER, seed, {"fit": found["train"], "test": found["other"]})
    columns = {
        "accuracy": "accuracy",
        "balanced": "mean over types",
        "ece": "calibration error",
        "before": "before calibration",
    }
    runs = pd.DataFrame(rows).sort_values("cells", kind="stable")
    return table(runs, by=["cells", "method"], columns=columns)


def areas(found: Mapping[str, Any], totals: np.ndarray) -> dict[str, float]:
    """Area under the curve of each score of one run; of totals: few, and far from the usual."""
    rank = np.searchsorted(np.sort(totals), found["total"]) / len(totals)
    scores = {what: found[what] for what in ("outlier", "distance", "surprise", "unsure")}
    scores |= {"few": -found["total"], "far": np.abs(rank - 0.5)}
    return {what: roc_auc_score(found["strange"], score) for what, score in scores.items()}


def left_table(folder: Path, seeds: Sequence[int], recipes: Sequence[str], *, finished: bool) -> str:
    """Area under the curve for each type left out, mean over seeds, and over types."""
    names = list(load(NAME).obs[KNOWN[NAME].label].cat.categories)
    rows = []
    for seed in seeds:
        adata, parts, truth, _ = drawn(seed)
        totals = np.asarray(adata.X.sum(1)).ravel()
        for recipe in recipes:
            for kind, name in enumerate(names):
                fitted = totals[parts.fit[truth[parts.fit] != kind]]
                path = folder / f"left {recipe} {kind} {seed}.npz"
                if found := kept(path, None if finished else partial(left_out, recipe, kind, seed)):
                    rows.append({"recipe": recipe, "type": name, "seed": seed, **areas(found, fitted)})
    runs = pd.DataFrame(rows)
    whole = runs.groupby(["recipe", "seed"], sort=False).filter(lambda some: len(some) == len(names))
    every = whole.groupby(["recipe", "seed"], sort=False).mean(numeric_only=True).reset_index()
    columns = {
        "outlier": "`outlier`",
        "distance": "its distance alone",
        "surprise": "its surprise alone",
        "unsure": "1 - probability",
        "few": "few counts",
        "far": "few or many counts",
    }
    both = pd.concat([every.assign(type="mean over types"), runs]).sort_values("recipe", kind="stable")
    return table(both, by=["recipe", "type"], columns=columns)


def main() -> None:
    """Compute what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--peers-python", help="the peers' environment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--left-seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--left-recipes", nargs="+", default=list(LEFT_OUT))
    parser.add_argument("--only", nargs="+", choices=["few", "peer", "left"])
    parser.add_argument("--finished", action="store_true", help="tables of what is in the folder, no more")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder, wanted = arguments.folder, arguments.only or ["few", "peer", "left"]
    python = arguments.peers_python if "peer" in wanted else None
    if "few" in wanted:
        first = few_table(folder, arguments.seeds, python, finished=arguments.finished)
    elif python:
        peer(folder, python, arguments.seeds)
    if "left" in wanted:
        which = arguments.left_seeds, arguments.left_recipes
        second = left_table(folder, *which, finished=arguments.finished)
    if arguments.only or not arguments.out:
        return
    write(
        arguments.out,
        title="Labels from five cells a type, and types never seen",
        command="python benchmarks/labels.py --peers-python peers/bin/python --folder kept --out "
        "benchmarks/results/labels.md",
        parts={"Five labels a type": first, "A type left out": second},
        python=arguments.peers_python,
    )


if __name__ == "__main__":
    main()
