"""How many cells does it take? multiDGD beside MultiVI (defaults) on fewer and fewer cells.

    python benchmarks/small_data.py --peers-python peers/bin/python --folder kept --longer 5000 \
        --out benchmarks/results/small_data.md

Data: ``a549_scicar_dex`` (2,377 fitted cells, 1,185 genes, 52,761 peaks; 10 to 100 % of them), and a
simulation (20,000 fitted cells, 400 genes, 2,000 peaks, few enough for MultiVI's epochs to be affordable;
the world of `mosaic.py`; 1 to 100 %). Protocol of `paired.py`: a tenth of the cells is tested and decides
nothing; a tested cell's code is inferred from one binomial half of its RNA molecules and all its peaks and
judged on the other half, in nats each. A seed decides which cells are tested, which are fitted and both
methods' start: the tested cells and their halves are the same whatever is fitted, and fewer cells are some
of the more. MultiVI trains for its own number of epochs: at most 500, and it stops by itself. Where cells
are few, that is so few steps that it has not learned yet; ``--longer`` is a second MultiVI, of at most 2,000
cells, which may take so many epochs and still stops by itself. Its proportions are those it calls
normalised, or these once zeros were inflated, whichever are better.

- *gain*: over the mean profile of the cells that were fitted, and, in the figure, over that of all cells
  that could have been, so that the curve says what more cells bring; the first profile stands beside;
- *peaks*: from half of the peaks and no RNA, judged on the other half, and from all RNA, judged on all:
  nats each open peak, expected accessibilities divided by their sum over the judged peaks (how many peaks
  are open is not judged: no method knows the depth of what it did not see); and areas under
  precision-recall, as in `paired.py`;
- *the truth*: the simulation's own proportions, given each cell's true code, without the direct links.

``--folder`` keeps what was fitted, so that hours can be spread over several runs; give it that of
`paired.py` and MultiVI is not fitted twice to all cells of ``a549_scicar_dex``. ``--only theirs`` or
``--only ours`` fits and writes no table; ``--kept`` fits nothing and writes that of what both have fitted.
The smallest fractions come first, each with all its seeds. Delete what is ours (``multidgd-*``) from the
folder when chreode changes.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import paired
import pandas as pd
import results
import torch
from mosaic import WORLD
from scipy.special import softmax
from scvi_fit import unpack

from chreode.io.simulate_multiome import simulate_multiome

FRACTIONS = {"a549": (0.1, 0.25, 0.5, 1.0), "simulation": (0.01, 0.03, 0.1, 0.3, 1.0)}
SIMULATED, GENES, PEAKS = 22_222, 400, 2_000
TRUTH, PROFILE = "the truth", "mean profile"
# What is judged in nats, by what a tested cell's code is inferred from.
GAINS = {
    "half": "RNA, nats a held-out molecule",
    "peaks": "peaks from peaks, nats an open peak",
    "rna": "peaks from RNA, nats an open peak",
}
PEER, LONGER, FEW = "MultiVI", "MultiVI, longer", 2_000
COLOURS = {"multiDGD": "#1f5a99", PEER: "#c8641e", LONGER: "#e0b088", PROFILE: "0.5"}
OF_ALL = {f"{version}, of all": what for version, what in GAINS.items()}
AREAS = {c: what for c, what in paired.COLUMNS.items() if "," in c}


def split_of(name: str, *, seed: int, cells: int | None) -> paired.Split:
    """All cells that can be fitted and those that are tested."""
    if name == "a549":
        return paired.Split(seed, cells=cells)
    # One world: that of another seed would differ by more than the fits do.
    drawn = simulate_multiome(cells or SIMULATED, GENES, PEAKS, components=5, world=WORLD, seed=0)
    return paired.Split(seed, mdata=drawn)


def fewer(split: paired.Split, fraction: float, *, seed: int) -> paired.Split:
    """The same tested cells and some of those that are fitted, which are also some of any larger fraction."""
    some = copy.copy(split)
    order = np.random.default_rng([seed, 1]).permutation(split.fit)
    some.fit = np.sort(order[: max(round(fraction * len(order)), 1)])
    return some


def unchanged(split: paired.Split, job: Path) -> None:
    """Refuse a kept fit of the peer that saw other cells, say of a simulator that has changed since."""
    if not job.exists():
        return
    with np.load(job) as stored:
        for name, now in (("fit_rna", split.rna[split.fit]), ("half_rna", split.first)):
            before = unpack(name, stored)
            if before.shape != now.shape or (before != now).nnz:
                sys.exit(f"Expected the cells of this split in {job}; found others. Empty the folder.")


def kept(method: str, folder: Path, seed: int, epochs: int | None, split: paired.Split) -> bool:
    """Whether a fit lies in the folder."""
    return (folder / f"{method}-{seed}-{epochs}-{len(split.fit)}.npz").exists()


def fits(split: paired.Split, *, seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What all methods, or those asked for, make of a split; kept in ``folder``."""
    most = {PEER: options.epochs}
    if options.longer and len(split.fit) <= FEW:
        most[LONGER] = options.longer
    found = {}
    both = {"multivi": options.epochs, "multidgd": options.our_epochs}
    if options.kept and not all(kept(m, folder, seed, epochs, split) for m, epochs in both.items()):
        return found
    for name, epochs in most.items() if options.only != "ours" else ():
        if options.kept and not kept("multivi", folder, seed, epochs, split):
            continue
        unchanged(split, folder / f"multivi-{seed}-{epochs}-{len(split.fit)}.job.npz")
        how = {"epochs": epochs, "python": options.peers_python, "folder": folder}
        found[name] = paired.theirs(split, seed=seed, **how)
    if options.only != "theirs":
        given = {"recipe": "multidgd", "epochs": options.our_epochs, "folder": folder}
        found["multiDGD"] = paired.ours(split, seed=seed, **given)
    return found


def truth(split: paired.Split) -> dict[str, Any]:
    """The simulation's proportions of the tested cells, given their codes."""
    world = split.mdata.uns["simulation"]
    activity = split.mdata.obsm["code"][split.test] @ world["programmes"]
    share = {}
    for modality in ("rna", "atac"):
        part = split.mdata[modality]
        logits = part.var["base"].to_numpy() + (part.varm["loadings"] @ activity.T).T
        share[modality] = softmax(logits, axis=1)
    return {"half_rna": share["rna"], "rna_atac": share["atac"], "peaks_atac": split.depth * share["atac"]}


def gains(found: dict[str, Any], split: paired.Split, *, fitted: np.ndarray) -> dict[str, float]:
    """Nats gained over the mean profile of some cells, by what a code is inferred from."""
    open_ = split.atac[split.test].toarray()
    each = {"half": paired.nats(found, split, fitted=fitted)}
    for version, judged in (("peaks", ~split.seen), ("rna", np.ones_like(split.seen))):
        expected = np.asarray(found[f"{version}_atac"], dtype=np.float64)[:, judged]
        each[version] = paired.gained(expected, held=open_[:, judged], fitted=split.atac[fitted][:, judged])
    return {version: float(gain.sum() / held.sum()) for version, (gain, held) in each.items()}


def scored(
    methods: dict[str, dict[str, Any]], split: paired.Split, *, every: np.ndarray
) -> list[dict[str, Any]]:
    """One row a method: gains over the profile of the fitted cells, and of ``every`` cell; and areas."""
    rows = []
    for name, scores in paired.judge(methods, split).items():
        row = {"method": name, **gains(methods[name], split, fitted=split.fit)}
        of_all = gains(methods[name], split, fitted=every)
        row |= {f"{version}, of all": gain for version, gain in of_all.items()}
        row |= {c: each.mean() for c, each in scores.items() if c in AREAS}
        rows.append({**row, "epochs": methods[name].get("epochs", np.nan)})
    profile = {c: rows[0][c] - rows[0][version] for c, version in zip(OF_ALL, GAINS, strict=True)}
    return [*rows, {"method": PROFILE, **profile}]


def tables(runs: pd.DataFrame) -> dict[str, str]:
    """The tables of a data set's runs, and how multiDGD differs from its peers at each number of cells."""
    means = {**GAINS, **AREAS}
    by = ["cells", "method"]
    of = {name: rows.set_index(["cells", "seed"])[list(means)] for name, rows in runs.groupby("method")}
    less = pd.concat(
        [(of["multiDGD"] - of[name]).dropna().assign(method=name) for name in (PEER, LONGER) if name in of]
    )
    models = runs.loc[runs["method"] != PROFILE]
    return {
        "gain over the mean profile of the fitted cells": results.table(models, by=by, columns=GAINS),
        "gain over the mean profile of all cells": results.table(runs, by=by, columns=OF_ALL),
        "areas, and epochs": results.table(models, by=by, columns=AREAS | {"epochs": "epochs"}),
        "multiDGD less": results.table(less.sort_index().reset_index(), by=by, columns=means),
    }


def draw(runs: dict[str, pd.DataFrame], path: Path) -> None:
    """Gain against number of cells: a column each data set, a point each seed, a line through their mean."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(runs), figsize=(4.2 * len(runs), 6.4), sharex="col", squeeze=False)
    for column, (name, rows) in enumerate(runs.items()):
        for axis, version in zip(axes[:, column], ("half", "peaks"), strict=True):
            score = f"{version}, of all"
            for method, colour in COLOURS.items():
                mine = rows[rows["method"] == method]
                if mine.empty:
                    continue
                axis.scatter(mine["cells"], mine[score], s=14, color=colour, alpha=0.7, lw=0)
                mean = mine.groupby("cells")[score].mean()
                axis.plot(mean.index, mean, color=colour, lw=1.2, label=method)
            most = rows.loc[rows["method"] == TRUTH, score]
            if len(most):
                axis.axhline(most.mean(), color="0.2", ls=":", lw=1, label=f"{TRUTH}, codes known")
            axis.axhline(0, color="0.8", lw=0.8, zorder=0)
            axis.set_xscale("log")
            fitted = sorted(set(rows["cells"]))
            axis.set_xticks(fitted, [f"{n:,}" for n in fitted], size=8)
            axis.minorticks_off()
            axis.set_ylabel(f"gain over the mean profile of all cells\n{GAINS[version]}", size=8)
        axes[0, column].set_title(name, size=10)
        axes[1, column].set_xlabel("cells fitted", size=8)
        axes[0, column].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    results.save(figure, path)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peers-python", default="peers/bin/python")
    parser.add_argument("--data", nargs="+", choices=FRACTIONS, default=list(FRACTIONS))
    parser.add_argument("--fractions", type=float, nargs="+", help="each data set its own by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=("ours", "theirs"), help="fit this, and write no table")
    parser.add_argument("--kept", action="store_true", help="fit nothing: the table of what both have fitted")
    parser.add_argument("--epochs", type=int, help="of MultiVI; its own rule by default")
    parser.add_argument("--longer", type=int, help="epochs at most of a second MultiVI, where cells are few")
    parser.add_argument("--our-epochs", type=int)
    parser.add_argument("--cells", type=int, help="only so many, tested ones included, to try the script")
    parser.add_argument("--folder", type=Path, help="where fits are kept")
    parser.add_argument("--out", type=Path, help="table; the figure goes beside it")
    return parser.parse_args()


def run(options: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Fit what is not kept yet, and judge; a table of runs each data set."""
    folder = options.folder or Path(tempfile.mkdtemp())
    # A file is named by its number of cells alone: fits of a trial must not pass for others.
    folder = folder / f"of-{options.cells}" if options.cells else folder
    folders = {"a549": folder, "simulation": folder / "simulation"}
    asked = {name: sorted(options.fractions or FRACTIONS[name]) for name in options.data}
    work = [(f, name, seed) for name in asked for f in asked[name] for seed in options.seeds]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in options.data}
    for fraction, name, seed in sorted(work):
        folders[name].mkdir(parents=True, exist_ok=True)
        whole = split_of(name, seed=seed, cells=options.cells)
        split = fewer(whole, fraction, seed=seed)
        methods = fits(split, seed=seed, folder=folders[name], options=options)
        if not methods:
            continue
        rows: list[dict[str, Any]] = [
            {"method": m, "epochs": found["epochs"]} for m, found in methods.items()
        ]
        if options.only is None:
            if name == "simulation" and fraction == asked[name][-1]:
                methods[TRUTH] = truth(whole)
            rows = scored(methods, split, every=whole.fit)
        rows = [{"cells": len(split.fit), "seed": seed, **row} for row in rows]
        runs[name] += rows
        print(name, pd.DataFrame(rows).to_string(), sep="\n", flush=True)
    if not any(runs.values()):
        sys.exit(f"Expected fits of both methods in {folder}; found none. Give --folder.")
    return {name: pd.DataFrame(rows) for name, rows in runs.items() if rows}


def main() -> None:
    """Run, and write the tables and the figure."""
    options = arguments()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the peer
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    runs = run(options)
    if options.out and options.only is None:
        command = "python benchmarks/small_data.py --peers-python peers/bin/python"
        command += f" --longer {options.longer}" if options.longer else ""
        results.write(
            options.out,
            title="Fewer and fewer cells",
            command=command,
            parts={f"{name}: {what}": t for name, rows in runs.items() for what, t in tables(rows).items()},
            python=options.peers_python,
        )
        draw(runs, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
