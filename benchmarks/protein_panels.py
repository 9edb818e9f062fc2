"""Two panels of proteins in one model: hidden from one set, predicted by what the other set measured.

    python benchmarks/protein_panels.py --out benchmarks/results/protein_panels.md

``pbmc10k_protein_200`` (14 proteins) and ``pbmc5k_protein_200`` (29, the 14 among them), 200 cells each, and
the 2,000 genes of both that are most variable by deviance within the sets. They are read together: what a
panel lacks is masked in its cells, and the set is the batch. Each of the 14 shared proteins is hidden from
one set and then from the other, one at a time (28 fits a seed), and multiDGD at its defaults expects it in
the cells from which it was hidden, at the set's median total: by default as in the other set, which measured
it; *under its own set*, with ``borrow=False``; and either *of the cell's total*, as what is expected beside
the other shared proteins (under the same set), given how many of these were counted in the cell.

Beside: the mean of log1p counts of the 15 nearest cells of the other set, on 20 principal components of RNA,
centred in each set, or on these and the other shared proteins (log1p of counts, centred in each cell,
standardised in each set; both blocks with the same variance); and of the latter also *of the cell's total*,
from the log ratio of the protein to the others. Judged by the correlation of log1p expected and measured
counts over the cells, with an interval (95 %) from 1,000 bootstrap draws of cells, the same cells for all
proteins and methods; correlations are means over the seeds.

The 15 proteins that only one panel has cannot be judged in the other: of known markers, what is expected in
the cells of ``pbmc10k`` (under their own set, and as in ``pbmc5k``, the default) stands before what was
measured in ``pbmc5k``, by groups of cells. A cell's group is that of CD3, CD19, CD14 and CD56 which is
highest, each as log1p counts standardised in its set.

``--folder`` keeps what was predicted, so that a run can go on: empty it when chreode changes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import results
import scipy.sparse as sp
from proteins import correlations
from sklearn.neighbors import NearestNeighbors

import chreode as ch

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = ("pbmc10k", "pbmc5k")
PREFIX = "prot:"
GROUPS = {"CD3": "T", "CD19": "B", "CD14": "monocytes", "CD56": "NK"}
MARKERS = {"CD20": "B", "HLA-DR": "B, monocytes", "CD11b": "monocytes, NK", "CD86": "monocytes"}
MARKERS |= {"CD27": "T, B", "CD28": "T", "CD278": "T", "CD335": "NK"}
OURS, OWN = "multiDGD", "multiDGD, under its own set"
RNA, BOTH = "15 neighbours on RNA", "15 neighbours on RNA and proteins"
TOTAL = ", of the cell's total"
METHODS = (OWN, OURS, OWN + TOTAL, OURS + TOTAL, RNA, BOTH, BOTH + TOTAL)
PAIRS = ((OURS, RNA), (OURS, BOTH), (OURS + TOTAL, BOTH + TOTAL), (OWN, RNA), (OWN, BOTH), (OURS, OWN))


class Sets:
    """Both sets on their shared genes, with the names of their proteins."""

    def __init__(self, *, genes: int = 2000) -> None:
        with mudata.set_options(pull_on_update=False):
            read = {name: mudata.read_h5mu(FOLDER / f"{name}_protein_200.h5mu") for name in SETS}
        rna = ad.concat({name: m["rna"] for name, m in read.items()}, label="set", index_unique=":")
        kept = list(ch.read(rna, batch="set", features=genes).layout.modalities["rna"].names)
        self.rna = {name: m["rna"][:, kept].copy() for name, m in read.items()}
        self.proteins = {name: m["prot"].copy() for name, m in read.items()}
        for table in self.proteins.values():
            table.var_names = table.var_names.str.removesuffix("_TotalSeqB")
        one, more = (list(self.proteins[name].var_names) for name in SETS)
        self.shared = [protein for protein in one if protein in more]

    def rows(self, name: str) -> slice:
        """Where the cells of a set are among those of both."""
        first = self.rna[SETS[0]].n_obs
        return slice(0, first) if name == SETS[0] else slice(first, None)

    def counts(self, name: str, proteins: list[str]) -> np.ndarray:
        """Measured counts."""
        return self.proteins[name][:, proteins].X.toarray().astype(np.float64)

    def size(self, name: str, *, without: str) -> float:
        """The median total of a set's cells in its panel without one protein."""
        others = [p for p in self.proteins[name].var_names if p != without]
        return float(np.median(self.counts(name, others).sum(1)))

    def hiding(self, protein: str | None = None, *, of: str | None = None) -> dict[str, mudata.MuData]:
        """Both sets; one protein is not in the panel of one of them."""
        found = {}
        with mudata.set_options(pull_on_update=False):
            for name in SETS:
                kept = [p for p in self.proteins[name].var_names if name != of or p != protein]
                both = {"rna": self.rna[name].copy(), "prot": self.proteins[name][:, kept].copy()}
                found[name] = mudata.MuData(both)
        return found


def other(name: str) -> str:
    """The set that is not this one."""
    return SETS[1 - SETS.index(name)]


def fitted(mdata: dict[str, mudata.MuData], *, seed: int, epochs: int | None) -> Any:
    """The embedded cells of multiDGD at its defaults."""
    cells = ch.read(mdata, batch="source")
    return ch.fit(cells, ch.recipes.multidgd(), seed=seed, epochs=epochs, progress=False).embedded


def ours(
    sets: Sets, protein: str, name: str, *, seed: int, epochs: int | None, folder: Path | None
) -> np.ndarray:
    """log1p of what is expected of a protein in the set that it was hidden from, in four ways."""
    kept = folder and folder / f"{name}-{short(protein)}-{seed}-{epochs}-{sets.rna[name].n_vars}.npy"
    if kept and kept.exists():
        return np.load(kept)
    embedded = fitted(sets.hiding(protein, of=name), seed=seed, epochs=epochs)
    rows, size = sets.rows(name), sets.size(name, without=protein)
    others = [p for p in sets.shared if p != protein]
    totals = sets.counts(name, others).sum(1)
    plain, of_total = [], []
    for some in (embedded, embedded.do(source=other(name))):
        expected = some.expected("prot", size=size, features=[protein, *others], borrow=False)[rows]
        expected = expected.astype(np.float64)
        plain.append(np.log1p(expected[:, 0]))
        of_total.append(np.log1p(expected[:, 0] / expected[:, 1:].sum(1) * totals))
    found = np.stack([*plain, *of_total])
    if kept:
        np.save(kept, found)
    return found


def standardised(values: np.ndarray) -> np.ndarray:
    """Each column to mean 0 and variance 1."""
    return (values - values.mean(0)) / np.maximum(values.std(0), 1e-6)


def nearest(sets: Sets, name: str, components: np.ndarray, *, without: str | None) -> np.ndarray:
    """The 15 nearest cells of the other set to each of this one; with proteins unless ``without`` is None."""
    spaces = {}
    for one in SETS:
        part = components[sets.rows(one)]
        part = part - part.mean(0)
        blocks = [part / np.sqrt(part.var(0).sum())]
        if without is not None:
            logged = np.log1p(sets.counts(one, [p for p in sets.shared if p != without]))
            block = standardised(logged - logged.mean(1, keepdims=True))
            blocks.append(block / np.sqrt(block.shape[1]))
        spaces[one] = np.concatenate(blocks, axis=1)
    return NearestNeighbors(n_neighbors=15).fit(spaces[other(name)]).kneighbors(spaces[name])[1]


def neighbours(sets: Sets, protein: str, name: str, components: np.ndarray) -> list[np.ndarray]:
    """The same of the nearest cells of the other set."""
    others = [p for p in sets.shared if p != protein]
    counts = sets.counts(other(name), [protein])[:, 0]
    ratio = np.log1p(counts) - np.log(sets.counts(other(name), others).sum(1))
    on_rna = nearest(sets, name, components, without=None)
    on_both = nearest(sets, name, components, without=protein)
    total = np.log(sets.counts(name, others).sum(1))
    logged = np.log1p(counts)
    return [logged[on_rna].mean(1), logged[on_both].mean(1), ratio[on_both].mean(1) + total]


def predicted(sets: Sets, proteins: list[str], *, seeds: list[int], **given: Any) -> dict[str, Any]:
    """By set: log1p predictions, seeds x methods x proteins x cells."""
    found = {}
    components = results.principal(sp.vstack([sets.rna[name].X for name in SETS]).tocsr())[0]
    for name in SETS:
        simple = {p: neighbours(sets, p, name, components) for p in proteins}
        every = []
        for seed in seeds:
            rows = []
            for protein in proteins:
                start = time.perf_counter()
                mine = ours(sets, protein, name, seed=seed, **given)
                rows.append([*mine, *simple[protein]])
                seconds = time.perf_counter() - start
                r = np.corrcoef(mine[0], np.log1p(sets.counts(name, [protein])[:, 0]))[0, 1]
                said = f"{name}, seed {seed}, {short(protein)}: {r:.3f}, {seconds:.1f} seconds"
                print(said, file=sys.stderr, flush=True)
            every.append(np.asarray(rows).transpose(1, 0, 2))
        found[name] = np.stack(every)
    return found


def correlated(expected: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Correlations over cells, seeds x methods x proteins."""
    seeds, methods, proteins, cells = expected.shape
    repeated = np.broadcast_to(measured.T, expected.shape)
    both = (x.reshape(-1, cells).T for x in (expected, repeated))
    return correlations(*both).reshape(seeds, methods, proteins)


def resampled(expected: np.ndarray, measured: np.ndarray, *, draws: int) -> np.ndarray:
    """The same with cells drawn anew, means over seeds: draws x methods x proteins."""
    rng = np.random.default_rng(0)
    picks = rng.integers(len(measured), size=(draws, len(measured)))
    return np.stack([correlated(expected[..., at], measured[at]).mean(0) for at in picks])


def shown(value: float, draws: np.ndarray, *, sign: bool = False) -> str:
    """A value and its interval."""
    low, high = np.quantile(draws, [0.025, 0.975])
    form = "+.3f" if sign else ".3f"
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def short(protein: str) -> str:
    """A protein without what tells it from its gene."""
    return protein.removeprefix(PREFIX)


def grid(rows: list[list[str]], header: list[str]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables(
    sets: Sets, found: dict[str, Any], proteins: list[str], *, seeds: list[int], draws: int
) -> dict[str, str]:
    """Means by direction, their intervals and differences, and every protein."""
    runs: dict[tuple[str, int], dict[str, Any]] = {}
    means, less, each = [[m] for m in METHODS], [list(pair) for pair in PAIRS], []
    for name in SETS:
        measured = np.log1p(sets.counts(name, proteins))
        by_seed = correlated(found[name], measured)
        drawn = resampled(found[name], measured, draws=draws)
        overall = by_seed.mean(0)
        for m, method in enumerate(METHODS):
            means[m].append(shown(overall[m].mean(), drawn[:, m].mean(1)))
            for s, seed in enumerate(seeds):
                row = runs.setdefault((method, seed), {"method": method, "seed": seed})
                row[name] = by_seed[s, m].mean()
        for pair, row in zip(PAIRS, less, strict=True):
            one, two = map(METHODS.index, pair)
            gap, gaps = overall[one] - overall[two], (drawn[:, one] - drawn[:, two]).mean(1)
            row.append(f"{shown(gap.mean(), gaps, sign=True)}, {(gap > 0).sum()} of {len(gap)} higher")
        for p, protein in enumerate(proteins):
            values = [shown(overall[m, p], drawn[:, m, p]) for m in range(len(METHODS))]
            each.append([short(protein), name, *values])
    columns = {name: f"hidden from {name}" for name in SETS}
    header = [*columns.values()]
    return {
        "Mean over proteins, spread over seeds": results.table(
            pd.DataFrame(list(runs.values())), by=["method"], columns=columns
        ),
        "Mean over proteins, interval over cells": grid(means, ["method", *header]),
        "Differences": grid(less, ["method", "less", *header]),
        "By protein": grid(each, ["protein", "hidden from", *METHODS]),
    }


def groups(sets: Sets, name: str) -> np.ndarray:
    """The group of each cell of a set."""
    marked = standardised(np.log1p(sets.counts(name, [PREFIX + marker for marker in GROUPS]))).argmax(1)
    return np.asarray(list(GROUPS.values()))[marked]


def unseen(sets: Sets, *, seed: int, epochs: int | None) -> str:
    """Markers that one panel lacks: expected in its cells in two ways, and measured in the other's."""
    embedded = fitted(sets.hiding(), seed=seed, epochs=epochs)
    markers = [PREFIX + marker for marker in MARKERS]
    seen = {"own": embedded, "moved": embedded.do(source=SETS[1])}
    expected = {
        k: e.expected("prot", size=1e4, features=markers, borrow=False)[sets.rows(SETS[0])]
        for k, e in seen.items()
    }
    every = sets.counts(SETS[1], list(sets.proteins[SETS[1]].var_names)).sum(1, keepdims=True)
    measured = sets.counts(SETS[1], markers) / every * 1e4
    here, there = (groups(sets, name) for name in SETS)
    rows = []
    for j, marker in enumerate(markers):
        row = [short(marker), MARKERS[short(marker)]]
        for name in GROUPS.values():
            values = [e[here == name, j].mean() for e in expected.values()]
            values.append(measured[there == name, j].mean())
            row.append(", ".join(f"{value:.1f}" for value in values))
        rows.append(row)
    size = [f"{n} ({(here == n).sum()}, {(there == n).sum()})" for n in GROUPS.values()]
    return grid(rows, ["protein", "known of", *size])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="the recipe's by default")
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--proteins", nargs="+", help="only these, to try the script")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="keep what was predicted here")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    sets = Sets(genes=options.genes)
    proteins = [PREFIX + p for p in options.proteins] if options.proteins else sets.shared
    given = {"epochs": options.epochs, "folder": options.folder}
    found = predicted(sets, proteins, seeds=options.seeds, **given)
    parts = tables(sets, found, proteins, seeds=options.seeds, draws=options.draws)
    parts["Proteins that one panel lacks: expected in pbmc10k, measured in pbmc5k, per ten thousand"] = (
        unseen(sets, seed=options.seeds[0], epochs=options.epochs)
    )
    print("\n\n".join(parts.values()))
    if options.out:
        command = "python benchmarks/protein_panels.py"
        results.write(options.out, title="Two panels of proteins in one model", command=command, parts=parts)


if __name__ == "__main__":
    main()
