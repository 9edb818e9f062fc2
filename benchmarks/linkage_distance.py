"""Whether a gene's links are stronger near its start: linkage beside correlation, on real paired cells.

    python benchmarks/linkage_distance.py --folder kept --out benchmarks/results/linkage_distance.md

Cells of ``a549_scicar_dex`` (2,641 cells, 1,185 genes, 52,761 peaks of zeros and ones, GRCh37); multiDGD is
fitted with defaults. Decided before looking: all genes that are in at least 5 % of the cells, whose start is
known, and that have at least 20 peaks within 500 kb that are open in at least 10 cells; these peaks alone.

*Linkage* is what `chreode.linkage` tests, with every cell moved (``cells=``) so that all genes share a pass:
the effect of silencing on a peak, and ``z``, that effect against 100 genes of similar expression on the same
peak, as the normal quantile of its p-value, judged among these peaks. *Correlation* is that of the gene's
log-normalised expression and the peak over cells, times the root of their number. For each gene, Spearman's
correlation with the distance from its start, over its peaks: below 0 it is stronger nearby. Peaks near starts
are more open, and open peaks may respond more to anything; so beside each stands the same of all *other*
genes, at the very same peaks and distances. The difference is the trend that belongs to the gene. Its
interval is a bootstrap of chromosomes (neighbours share peaks); its p-value, two-sided, comes from 10,000
permutations of which gene goes with which peaks, so that it is 0.0001 at least. Decided after looking: the
same without peaks in the gene itself, whose reads may follow transcription whatever they regulate.

``--folder`` keeps fits and effects, so that a run can go on: empty it when chreode changes.
"""

from __future__ import annotations

import argparse
import logging
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import mudata
import numpy as np
import pandas as pd
import results
import scipy.sparse as sp
import torch
from scipy.stats import false_discovery_control, norm, rankdata, spearmanr

import chreode as ch
from chreode.io.genes import distance_to_start, read_genes
from chreode.io.regions import parse_regions
from chreode.perturb.null import judge, matched_genes
from chreode.perturb.response import Push, mean_level, spread
from chreode.settle import frozen

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
WINDOW, PEAKS, OPEN, EXPRESSED = 500_000, 20, 10, 0.05
EDGES = np.asarray([0, 1, 5, 20, 50, 100, 200, 500]) * 1000.0
DRAWS = 10_000
CELLS = 500  # in which chreode.linkage compares genes
MEASURES = {
    "effect": "linkage, size of the effect",
    "z": "linkage, size of z",
    "closing": "linkage, z of closing",
    "correlation": "correlation, its size",
    "together": "correlation, with its sign",
}


class Setting(NamedTuple):
    """The cells, the genes that are asked for, and the peaks around them."""

    mdata: mudata.MuData
    genes: np.ndarray  # positions of genes
    chromosome: np.ndarray  # of each
    peaks: np.ndarray  # positions of peaks in any window
    near: list[np.ndarray]  # of each gene, positions among peaks
    distance: list[np.ndarray]  # how far they are
    within: list[np.ndarray]  # and whether they lie in the gene, beyond its start


def setting(annotation: Path) -> Setting:
    """Choose genes and peaks by the rule above."""
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.read_h5mu(DATA / "a549_scicar_dex.h5mu")
    known = read_genes(annotation)
    regions = parse_regions(mdata["atac"].var_names)
    is_open = np.asarray((mdata["atac"].X > 0).sum(0)).ravel() >= OPEN
    share = np.asarray((mdata["rna"].X > 0).mean(0)).ravel()
    genes, inside, signed = [], [], []
    for j, name in enumerate(mdata["rna"].var_names):
        if name not in known.index or share[j] < EXPRESSED:
            continue
        distance = distance_to_start(regions, known.loc[name])
        here = np.flatnonzero(is_open & (np.abs(distance) <= WINDOW))
        if len(here) >= PEAKS:
            genes.append(j)
            inside.append(here)
            signed.append(distance[here])
    rows = known.loc[mdata["rna"].var_names[genes]]
    peaks = np.unique(np.concatenate(inside))
    return Setting(
        mdata,
        genes=np.asarray(genes),
        chromosome=rows["chromosome"].to_numpy(),
        peaks=peaks,
        near=[np.searchsorted(peaks, here) for here in inside],
        distance=[np.abs(distance) for distance in signed],
        within=[(d > 0) & (d <= n) for d, n in zip(signed, rows["end"] - rows["start"], strict=True)],
    )


def outside(chosen: Setting) -> Setting:
    """The same genes without the peaks that lie in them."""
    near, distance, within = (
        [values[~lies] for values, lies in zip(lists, chosen.within, strict=True)]
        for lists in (chosen.near, chosen.distance, chosen.within)
    )
    return chosen._replace(near=near, distance=distance, within=within)


def fitted(mdata: mudata.MuData, seed: int, folder: Path) -> ch.FittedModel:
    """A model fitted with defaults; kept in ``folder``."""
    kept = folder / f"multidgd-{seed}"
    if not kept.exists():
        ch.fit(ch.read(mdata), ch.recipes.multidgd(), seed=seed, progress=False).save(kept)
    return ch.load(kept)


def linked(model: ch.FittedModel, chosen: Setting, *, kept: Path) -> dict[str, np.ndarray]:
    """Size of effects, and z, of every chosen gene on every chosen peak; from then on in ``kept``."""
    if not kept.exists():
        effects, z = silenced(model, chosen)
        np.savez(kept, effect=np.abs(effects), z=z)
    with np.load(kept) as stored:
        return {"effect": stored["effect"], "z": np.abs(stored["z"]), "closing": -stored["z"]}


def silenced(model: ch.FittedModel, chosen: Setting, *, null: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Effects and z when each chosen gene falls silent: what `chreode.linkage` says with seed 0."""
    embedded = model.embedded
    first = np.random.default_rng(0).permutation(len(embedded))[:CELLS]
    rows = torch.from_numpy(np.sort(first))
    n_genes = chosen.mdata["rna"].n_vars
    push = Push(embedded, "rna", "atac", 0.1 * spread(embedded.codes[embedded.code]))
    with frozen(embedded.module):
        level = mean_level(embedded, rows, "rna").cpu().numpy()
        expected = mean_level(embedded, rows, "atac").cpu().numpy()[chosen.peaks]
        effects = -push.linear(rows, [torch.tensor([j]) for j in range(n_genes)]).cpu().numpy()
    effects = effects[:, chosen.peaks]
    z = np.empty((len(chosen.genes), len(chosen.peaks)))
    for row, j in enumerate(chosen.genes):
        rng = np.random.default_rng(0)
        rng.permutation(len(embedded))  # linkage draws its cells before its genes
        others = matched_genes(level, np.asarray([j]), null=null, rng=rng)[:, 0]
        verdict = judge(effects[j], effects[others], expected)
        z[row] = np.sign(verdict.t) * norm.isf(verdict.p_value / 2)
    return effects[chosen.genes], z


def correlated(chosen: Setting) -> dict[str, np.ndarray]:
    """Correlation of every chosen gene with every chosen peak over cells, in units of its standard error."""
    rna = results.log_normalise(sp.csr_matrix(chosen.mdata["rna"].X))[:, chosen.genes].toarray()
    atac = sp.csr_matrix(chosen.mdata["atac"].X[:, chosen.peaks], dtype=np.float64)
    rna = (rna - rna.mean(0)) / rna.std(0)
    share = np.asarray(atac.mean(0)).ravel()
    # Zeros and ones: their variance is that of their share.
    both = (atac.T @ rna).T / np.sqrt(len(rna) * share * (1 - share))
    return {"correlation": np.abs(both), "together": both}


def slopes(values: np.ndarray, chosen: Setting) -> np.ndarray:
    """Spearman's correlation with distance of every gene's values (rows) at every gene's peaks (columns)."""
    found = np.empty((len(chosen.genes),) * 2)
    for column, (near, distance) in enumerate(zip(chosen.near, chosen.distance, strict=True)):
        ranks = rankdata(values[:, near], axis=1)
        far = rankdata(distance)
        ranks, far = ranks - ranks.mean(1, keepdims=True), far - far.mean()
        found[:, column] = ranks @ far / np.sqrt((ranks**2).sum(1) * (far**2).sum())
    return found


def others(matrix: np.ndarray) -> np.ndarray:
    """Mean of each column without its diagonal."""
    return (matrix.sum(0) - np.diag(matrix)) / (len(matrix) - 1)


def clustered(values: np.ndarray, cluster: np.ndarray, *, draws: int = 2000) -> np.ndarray:
    """Interval of 95 % of a mean (last axis; NaN left out) by a bootstrap of clusters."""
    _, where = np.unique(cluster, return_inverse=True)
    n = where.max() + 1
    rng = np.random.default_rng(0)
    times = np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(draws)])[:, where]
    there = np.isfinite(values)
    means = times @ np.where(there, values, 0) / np.maximum(times @ there.astype(float), 1)
    return np.quantile(means, [0.025, 0.975])


def tested(values: np.ndarray, chosen: Setting) -> dict[str, float]:
    """One row of the table."""
    matrix = slopes(values, chosen)
    own, rest = np.diag(matrix), others(matrix)
    rng = np.random.default_rng(0)
    columns = np.arange(len(matrix))
    shuffled = np.asarray([matrix[rng.permutation(len(matrix)), columns].mean() for _ in range(DRAWS)])
    further = np.abs(shuffled - shuffled.mean()) >= abs(own.mean() - shuffled.mean())
    low, high = clustered(own - rest, chosen.chromosome)
    return {
        "own": own.mean(),
        "others": rest.mean(),
        "difference": (own - rest).mean(),
        "low": low,
        "high": high,
        "p": (1 + further.sum()) / (1 + DRAWS),
    }


def binned(values: np.ndarray, chosen: Setting) -> pd.DataFrame:
    """Mean value of genes' own and of other genes at the same peaks, by distance; a row a bin."""
    total = values.sum(0)
    own, rest = (np.full((len(chosen.genes), len(EDGES) - 1), np.nan) for _ in range(2))
    for row, (near, distance) in enumerate(zip(chosen.near, chosen.distance, strict=True)):
        inside = np.digitize(distance, EDGES[1:-1])
        for which in np.unique(inside):
            here = near[inside == which]
            own[row, which] = values[row, here].mean()
            rest[row, which] = ((total[here] - values[row, here]) / (len(values) - 1)).mean()
    intervals = np.stack([clustered(column, chosen.chromosome) for column in (own - rest).T])
    return pd.DataFrame(
        {
            "own": np.nanmean(own, 0),
            "others": np.nanmean(rest, 0),
            "difference": np.nanmean(own - rest, 0),
            "low": intervals[:, 0],
            "high": intervals[:, 1],
        }
    )


def labels() -> list[str]:
    """What the bins are called."""
    ends = [f"{edge / 1000:g}" for edge in EDGES]
    return [f"{a}-{b} kb" for a, b in pairwise(ends)]


def bins_table(bins: pd.DataFrame, chosen: Setting) -> str:
    """Peaks by distance: how many, how open, and how far genes' own go beyond other genes there."""
    near, distance = np.concatenate(chosen.near), np.concatenate(chosen.distance)
    share = np.asarray((chosen.mdata["atac"].X[:, chosen.peaks] > 0).mean(0)).ravel()[near]
    inside = np.digitize(distance, EDGES[1:-1])
    measures = bins["measure"].unique()
    lines = [f"| distance | pairs | open in | {' | '.join(measures)} |", "|" + "---|" * (3 + len(measures))]
    for which, label in enumerate(labels()):
        cells = [label, f"{(inside == which).sum():,}", f"{share[inside == which].mean():.1%}"]
        for measure in measures:
            mean = bins[(bins["measure"] == measure) & (bins["bin"] == which)].mean(numeric_only=True)
            cells.append(f"{mean['difference']:+.2f} ({mean['low']:+.2f} to {mean['high']:+.2f})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(bins: pd.DataFrame, beyond: pd.DataFrame, chosen: Setting):
    """Size of z, and its sign beyond other genes at the same peaks, against distance."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(11, 3.8), layout="constrained")
    left, middle, right = drawing.subplots(1, 3)
    share = np.asarray((chosen.mdata["atac"].X[:, chosen.peaks] > 0).mean(0)).ravel()
    inside = np.digitize(np.concatenate(chosen.distance), EDGES[1:-1])
    x = np.arange(len(labels()))
    openness = pd.Series(share[np.concatenate(chosen.near)]).groupby(inside).mean()
    left.plot(x, 100 * openness.reindex(x), "o-", color="0.3")
    left.set_ylabel("a peak is open in % of cells")
    for measure, colour in (("z", "#c0392b"), ("correlation", "#2c6fbb")):
        for column, style in (("own", "-"), ("others", ":")):
            label = f"{measure if measure != 'z' else 'linkage'}, {column.replace('own', 'own gene')}"
            for _, rows in bins[bins["measure"] == MEASURES[measure]].groupby("seed"):
                middle.plot(x, rows[column], style, color=colour, label=label)
                label = None
    middle.set_ylabel("mean size of z")
    shift = iter(np.linspace(-0.3, 0.3, 4))
    for frame, where, face in ((bins, "", None), (beyond, ", outside the gene", "white")):
        for measure, colour in (("closing", "#c0392b"), ("together", "#2c6fbb")):
            rows = frame[frame["measure"] == MEASURES[measure]].groupby("bin").mean(numeric_only=True)
            bar = np.abs(rows[["low", "high"]].to_numpy().T - rows["difference"].to_numpy())
            label = ("linkage" if measure == "closing" else "correlation") + where
            style = {"fmt": "o", "ms": 4, "color": colour, "mfc": face or colour, "label": label}
            right.errorbar(x + next(shift), rows["difference"], bar, **style)
    right.axhline(0, color="0.6", linewidth=0.8)
    right.set_ylabel("z of going together,\nown gene less other genes (95 %)")
    for axes in (left, middle, right):
        axes.set_xticks(x, labels(), rotation=45, ha="right")
        axes.set_xlabel("distance from the start of transcription")
    middle.legend(frameon=False, fontsize=8)
    right.legend(frameon=False, fontsize=8)
    return drawing


def agreement(model: ch.FittedModel, chosen: Setting, z: np.ndarray, *, genes: int) -> str:
    """How `chreode.linkage` itself agrees: with the same cells, and with those it moves by default."""
    names = chosen.mdata["atac"].var_names[chosen.peaks]
    picked = np.random.default_rng(0).permutation(len(chosen.genes))[:genes]
    cells = ch.read(chosen.mdata)
    embedded = model.embedded.replace(cells=model.embedded.cells.replace(measured=cells.measured))
    same, default = [], []
    for row in picked:
        gene = chosen.mdata["rna"].var_names[chosen.genes[row]]
        for which, kept in ((np.ones(len(cells), bool), same), (None, default)):
            p_value = ch.linkage(embedded, gene, cells=which).loc[names, "p_value"]
            kept.append(spearmanr(norm.isf(p_value / 2), z[row]).statistic)
    return (
        f"Of {genes} genes at random, sizes of z by `chreode.linkage` itself have a rank correlation with "
        f"those used here of {min(same):.4f} at least when all cells move, and {np.median(default):.2f} "
        f"({min(default):.2f} to {max(default):.2f}) when those move that express the gene, its default."
    )


def passed(z: np.ndarray, chosen: Setting) -> int:
    """Pairs that pass a false discovery rate of 0.1 within their gene's window."""
    p_values = [2 * norm.sf(np.abs(z[row, near])) for row, near in enumerate(chosen.near)]
    return sum(int((false_discovery_control(p) <= 0.1).sum()) for p in p_values)


def everything(chosen: Setting, options: argparse.Namespace) -> tuple[list[tuple], str]:
    """Each measure with its seed and values, and how linkage itself agrees."""
    found, calls, note = [], [], ""
    for seed in options.seeds:
        model = fitted(chosen.mdata, seed, options.folder)
        values = linked(model, chosen, kept=options.folder / f"linked-{seed}.npz")
        if options.check and not note:
            note = agreement(model, chosen, values["z"], genes=options.check)
        found += [(MEASURES[name], seed, matrix) for name, matrix in values.items()]
        calls.append(passed(values["z"], chosen))
    # Correlation knows no seed: it is one run.
    found += [(MEASURES[name], 0, matrix) for name, matrix in correlated(chosen).items()]
    called = (
        f"At a false discovery rate of 0.1 within a gene's window, {', '.join(map(str, calls))} pairs pass."
    )
    return found, f"{note} {called}"


def judged(found: list[tuple], chosen: Setting) -> tuple[str, pd.DataFrame]:
    """The table of trends, and means by distance."""
    rows, bins = [], []
    for measure, seed, matrix in found:
        rows.append({"measure": measure, "seed": seed, **tested(matrix, chosen)})
        bins.append(binned(matrix, chosen).assign(measure=measure, seed=seed).reset_index(names="bin"))
        print(measure, seed, *(f"{value:.4f}" for value in list(rows[-1].values())[2:]), flush=True)
    columns = {name: name for name in ("own", "others", "difference")} | {"low": "95 % from", "high": "to"}
    table = results.table(pd.DataFrame(rows), by=["measure"], columns=columns | {"p": "p"}, decimals=4)
    return table, pd.concat(bins)


def main() -> None:
    """Run, and write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--genes", type=Path, default=DATA / "resources" / "grch37_genes.csv.gz")
    parser.add_argument("--check", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    chosen = setting(options.genes)
    found, note = everything(chosen, options)
    parts, bins = {}, []
    for title, part in (("All peaks", chosen), ("Peaks outside the gene", outside(chosen))):
        pairs = sum(map(len, part.near))
        said = (
            f"{len(part.genes)} genes, {len(np.unique(np.concatenate(part.near))):,} peaks, {pairs:,} pairs."
        )
        table, by_distance = judged(found, part)
        bins.append(by_distance)
        parts[title] = (
            f"{said} Spearman's correlation with distance, mean over genes; below 0: stronger nearby.\n\n"
            f"{table}\n\nMean z, own less others' at the same peaks; in brackets 95 %, mean over seeds.\n\n"
            + bins_table(by_distance[by_distance["measure"] != MEASURES["effect"]], part)
        )
    if options.out:
        parts["Beside"] = f"{note}\n\n![By distance]({options.out.stem}.png)"
        command = "python benchmarks/linkage_distance.py --folder kept"
        results.write(options.out, title="Links and distance", command=command, parts=parts)
        results.save(figure(*bins, chosen), options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
