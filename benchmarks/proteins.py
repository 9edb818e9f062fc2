"""Proteins from RNA alone: multiDGD and totalvi beside totalVI (defaults), on cells not fitted on.

    python benchmarks/proteins.py --peers-python peers/bin/python --out benchmarks/results/proteins.md

The 7,839 cells of ``cbmc_citeseq`` (cord blood; 2,463 genes, 10 proteins) that are not mouse or unknown. A
tenth of each cell type is tested and decides nothing. multiDGD is fitted on RNA and proteins of the others;
tested cells are projected from RNA alone, and their proteins expected at the fitted cells' median total.

totalVI is told in three ways that a cell has no proteins (see `totalvi_peer.py`): *zeros*, as its encoder
gets them; *copies*, where each fitted cell is fitted a second time without its proteins, so that the encoder
knows such cells; *along*, the way of its tutorials, where the tested cells' RNA is fitted too, which no other
method here may. Its proteins are those expected to be counted, background and all; without background
they stand in a table of their own.

A protein's prediction is judged by the correlation over tested cells of log1p expected and log1p measured
counts: over all, and within cell types (mean over types of at least 20 tested cells, weighted by their
number); means over proteins. *Shares* are the same with each cell's counts scaled to the median total of the
fitted cells, expected and measured alike. With *predicted totals*, multiDGD's proteins are expected at the
total that it predicts for each tested cell (``size="predicted"``). Beside: the mean of the tested
cell's own type, which no method knows (within a type it has no correlation), and the mean of the 50 nearest
fitted cells on 20 principal components of RNA, both of log1p counts.

Types are told by 15 neighbours of the fitted cells' codes in five folds; the adjusted Rand index is that of
our components, and of Leiden at resolution 1 on a graph of 15 neighbours (scikit-network), with the types.
Under the 50 neighbours stand the principal components.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import results
from protocol import leiden
from scvi_fit import pack
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "cbmc_citeseq.h5mu"
WAYS = ("zeros", "copies", "along")
LEFT_OUT = ("Mouse", "Unknown")
FEWEST = 20
"""Tested cells of a type within which correlations count."""


class Split:
    """What is fitted and what is tested, with one seed."""

    def __init__(self, seed: int, *, cells: int | None = None) -> None:
        with mudata.set_options(pull_on_update=False):
            self.mdata = mudata.read_h5mu(DATA)
        every = self.mdata.obs["cell_type"].astype(str).to_numpy()
        rng = np.random.default_rng(seed)
        order = rng.permutation(np.flatnonzero(~np.isin(every, LEFT_OUT)))[:cells]
        of_type = [order[every[order] == name] for name in np.unique(every[order])]
        self.test = np.sort(np.concatenate([rows[: round(len(rows) / 10)] for rows in of_type]))
        self.fit = np.setdiff1d(order, self.test)
        self.types, self.tested_types = every[self.fit], every[self.test]
        rna, proteins = (self.mdata[m].X.tocsr().astype(np.int64) for m in ("rna", "prot"))
        self.rna, self.tested_rna = rna[self.fit], rna[self.test]
        self.proteins, self.measured = proteins[self.fit], proteins[self.test].toarray()
        self.names = [name.removeprefix("prot:") for name in self.mdata["prot"].var_names]
        self.total = float(np.median(np.asarray(self.proteins.sum(1))))


def ours(split: Split, *, seed: int, epochs: int | None) -> dict[str, Any]:
    """Codes and expected proteins of multiDGD at its defaults."""
    import chreode as ch

    cells = ch.read(split.mdata[split.fit])
    start = time.perf_counter()
    model = ch.fit(cells, ch.recipes.multidgd(), seed=seed, epochs=epochs, progress=False)
    found: dict[str, Any] = {"seconds": time.perf_counter() - start}
    plain = model.history[model.history["validation"].isna()]["epoch"]
    clock = model.history["seconds"].diff()
    # Epochs without a look at held-out molecules; totalVI's include its own looks.
    found["epoch"] = float(clock[model.history["epoch"].isin(plain)].median())
    found["epochs"], found["codes"] = len(model.history), model.embedded.embedding
    found["components"] = model.embedded.components()
    with mudata.set_options(pull_on_update=False):
        alone = mudata.MuData({"rna": split.mdata["rna"][split.test].copy()})
    start = time.perf_counter()
    projected = model.project(alone, progress=False)
    found["projecting"] = time.perf_counter() - start
    names = list(split.mdata["prot"].var_names)
    found["expected"] = projected.expected("prot", size=split.total, features=names)
    found["with totals"] = projected.expected("prot", size="predicted", features=names)
    return found


def ours_encoded(split: Split, *, seed: int, epochs: int | None) -> dict[str, Any]:
    """The same of our totalvi, whose proteins are counts by themselves; and those without background."""
    import chreode as ch

    cells = ch.read(split.mdata[split.fit])
    start = time.perf_counter()
    model = ch.fit(cells, ch.recipes.totalvi(), seed=seed, epochs=epochs, progress=False)
    found: dict[str, Any] = {"seconds": time.perf_counter() - start, "codes": model.embedded.embedding}
    plain = model.history[model.history["validation"].isna()]["epoch"]
    clock = model.history["seconds"].diff()
    found["epoch"] = float(clock[model.history["epoch"].isin(plain)].median())
    found["epochs"] = len(model.history)
    with mudata.set_options(pull_on_update=False):
        alone = mudata.MuData({"rna": split.mdata["rna"][split.test].copy()})
    start = time.perf_counter()
    projected = model.project(alone, progress=False)
    found["projecting"] = time.perf_counter() - start
    names = list(split.mdata["prot"].var_names)
    found["expected"] = projected.expected("prot", features=names)
    found["denoised"] = ch.foreground(projected, "prot", features=names, values="counts").to_numpy()
    return found


def theirs(
    split: Split, *, way: str, seed: int, epochs: int | None, python: str, folder: Path
) -> dict[str, Any]:
    """The same of totalVI, in the peers' environment; what lies in ``folder`` is not fitted again."""
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"totalvi-{way}-{seed}-{epochs}-{len(split.fit)}.npz"
    if not out.exists():
        held = {"fit_rna": split.rna, "fit_prot": split.proteins, "test_rna": split.tested_rna}
        packed = {k: v for name, x in held.items() for k, v in pack(name, x).items()}
        job = out.with_suffix(".job.npz")
        np.savez(job, seed=seed, epochs=epochs or 0, way=way, **packed)
        script = Path(__file__).with_name("totalvi_peer.py")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [python, str(script), str(job), str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    with np.load(out) as stored:
        found: dict[str, Any] = {name: stored[name] for name in stored.files}
    ticks = found["seconds"]
    found |= {"seconds": float(ticks[-1]), "epoch": float(np.median(np.diff(ticks))), "epochs": len(ticks)}
    return found | {"expected": found["counted"]}


def baselines(split: Split) -> dict[str, dict[str, Any]]:
    """Proteins without a model."""
    logged = np.log1p(split.proteins.toarray())
    of_type = {name: logged[split.types == name].mean(0) for name in np.unique(split.types)}
    fitted, others = results.principal(split.rna, split.tested_rna)
    _, rows = NearestNeighbors(n_neighbors=50).fit(fitted).kneighbors(others)
    mean = np.stack([of_type[name] for name in split.tested_types])
    return {
        "mean of the type": {"expected": np.expm1(mean), "flat": True},
        "50 neighbours on RNA": {"expected": np.expm1(logged[rows].mean(1)), "codes": fitted},
    }


def correlations(expected: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Pearson correlation of each column over the rows; 0 for a constant one."""
    x, y = (v - v.mean(0) for v in (expected, measured))
    norm = np.sqrt((x**2).sum(0) * (y**2).sum(0))
    return np.divide((x * y).sum(0), norm, out=np.zeros(norm.shape), where=norm > 0)


def within(expected: np.ndarray, measured: np.ndarray, types: np.ndarray) -> np.ndarray:
    """The same within types, weighted by their cells."""
    names, cells = np.unique(types, return_counts=True)
    large = [(types == name, n) for name, n in zip(names, cells, strict=True) if n >= FEWEST]
    found = [correlations(expected[rows], measured[rows]) for rows, _ in large]
    if not found:
        return np.full(expected.shape[1], np.nan)
    return np.average(found, axis=0, weights=[n for _, n in large])


def judge(found: dict[str, Any], split: Split, *, of: str = "expected") -> dict[str, np.ndarray]:
    """Correlations of each protein, of counts and of shares."""
    scores = {}
    counts = np.asarray(found[of], dtype=np.float64), split.measured.astype(np.float64)
    shares = tuple(x * split.total / x.sum(1, keepdims=True).clip(1e-9) for x in counts)
    for name, both in (("", counts), (", shares", shares)):
        expected, measured = map(np.log1p, both)
        scores[f"overall{name}"] = correlations(expected, measured)
        if "flat" not in found:
            scores[f"within{name}"] = within(expected, measured, split.tested_types)
    return scores


def grouped(found: dict[str, Any], split: Split) -> dict[str, float]:
    """How well types are told by the fitted cells' codes and components."""
    if "codes" not in found:
        return {}
    codes, types = found["codes"], split.types
    told = {
        "told": float(cross_val_score(KNeighborsClassifier(15), codes, types, cv=5).mean()),
        "leiden": float(adjusted_rand_score(types, leiden(codes))),
    }
    if "components" in found:
        told["ari"] = float(adjusted_rand_score(types, found["components"]))
        told["k"] = len(np.unique(found["components"]))
    return told


OURS, TOTALS, ENCODED = "multiDGD", "multiDGD, predicted totals", "totalvi of chreode"
COLUMNS = {
    "overall": "overall",
    "within": "within types",
    "overall, shares": "overall, shares",
    "within, shares": "within types, shares",
}
GROUPS = {
    "told": "type told by 15 neighbours",
    "ari": "ARI of the components",
    "leiden": "ARI of Leiden on the codes",
    "k": "components in use",
}
COST = {
    "epoch": "seconds an epoch",
    "epochs": "epochs",
    "seconds": "seconds of fitting",
    "projecting": "seconds of projecting",
}


def summary(methods: dict[str, dict[str, Any]], split: Split, *, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """One row a method, and how ours differs from each of the others."""
    rows, scores, groups = [], {}, {}
    for name, found in methods.items():
        mine = scores[name] = judge(found, split)
        groups[name] = grouped(found, split)
        row = {"method": name, "seed": seed, **{c: v.mean() for c, v in mine.items()}, **groups[name]}
        row |= dict(zip(split.names, mine["overall"], strict=True))
        if "within" in mine:
            row |= {f"{p}, within": r for p, r in zip(split.names, mine["within"], strict=True)}
        if "denoised" in found:
            row |= {f"denoised {c}": v.mean() for c, v in judge(found, split, of="denoised").items()}
        rows.append(row | {c: float(found[c]) for c in COST if c in found})
    said = []
    mine = [name for name in (OURS, TOTALS, ENCODED) if name in methods]
    for one, other in product(mine, [name for name in methods if name not in mine]):
        parts = []
        for column in COLUMNS:
            if column in scores[other]:
                less = scores[one][column] - scores[other][column]
                parts.append(f"{column} {less.mean():+.4f} ({(less > 0).sum()} of {len(less)} higher)")
        for column in ("told", "leiden"):
            if column in groups[one] and column in groups[other]:
                parts.append(f"{GROUPS[column]} {groups[one][column] - groups[other][column]:+.4f}")
        said.append(f"- seed {seed}, {one} less {other}: " + "; ".join(parts))
    return pd.DataFrame(rows), said


def tables(runs: pd.DataFrame, said: list[str], *, proteins: list[str]) -> dict[str, str]:
    """The parts of the result."""
    by, codes = ["method"], runs["told"].notna()
    each = {name: name for name in proteins}
    parts = {
        "Proteins from RNA": results.table(runs, by=by, columns=COLUMNS, decimals=4),
        "Ours less the others'": "\n".join(said),
        "By protein, overall": results.table(runs, by=by, columns=each),
    }
    inside = {f"{name}, within": name for name in proteins if f"{name}, within" in runs}
    some = runs[runs["within"].notna()]
    if len(some):
        parts["By protein, within types"] = results.table(some, by=by, columns=inside)
    if "denoised overall" in runs:
        columns = {f"denoised {c}": shown for c, shown in COLUMNS.items()}
        some = runs[runs["denoised overall"].notna()]
        parts["Without background"] = results.table(some, by=by, columns=columns, decimals=4)
    parts["Types"] = results.table(runs[codes], by=by, columns=GROUPS)
    parts["Cost"] = results.table(runs[runs["epoch"].notna()], by=by, columns=COST, decimals=2)
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers-python", default="peers/bin/python")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--ways", nargs="*", choices=WAYS, default=list(WAYS), help="in which totalVI is told"
    )
    parser.add_argument("--epochs", type=int, help="of totalVI; its own rule by default")
    parser.add_argument("--our-epochs", type=int)
    parser.add_argument(
        "--recipes", nargs="*", choices=("multidgd", "totalvi"), default=["multidgd", "totalvi"]
    )
    parser.add_argument("--cells", type=int, help="only so many, to try the script")
    parser.add_argument("--folder", type=Path, help="keep totalVI's runs, and use those that are there")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    frames, said = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in options.seeds:
            split = Split(seed, cells=options.cells)
            methods = {}
            if "multidgd" in options.recipes:
                methods[OURS] = ours(split, seed=seed, epochs=options.our_epochs)
                methods[TOTALS] = {"expected": methods[OURS]["with totals"]}
            if "totalvi" in options.recipes:
                methods[ENCODED] = ours_encoded(split, seed=seed, epochs=options.our_epochs)
            for way in options.ways:
                given = {"seed": seed, "epochs": options.epochs, "python": options.peers_python}
                folder = options.folder or Path(temporary)
                methods[f"totalVI, {way}"] = theirs(split, way=way, folder=folder, **given)
            frame, differences = summary(methods | baselines(split), split, seed=seed)
            frames.append(frame)
            said += differences
            print(frame.to_string(), *differences, sep="\n", file=sys.stderr, flush=True)
    parts = tables(pd.concat(frames), said, proteins=split.names)
    if options.out:
        results.write(
            options.out,
            title="Proteins from RNA alone",
            command="python benchmarks/proteins.py --peers-python peers/bin/python",
            parts=parts,
            python=options.peers_python if options.ways else None,
        )


if __name__ == "__main__":
    main()
