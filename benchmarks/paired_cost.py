"""What an epoch over RNA and peaks costs: multiDGD beside MultiVI (defaults), time and memory.

    python benchmarks/paired_cost.py --peers-python peers/bin/python --out benchmarks/results/paired_cost.md

The cells of `paired.py` with seed 0, fitted for a few epochs. Each method runs in a process of its own, in
turn, several times, its threads bound to cores; the ratio is taken turn by turn. Time is the median epoch: of
ours those without a look at held-out molecules, whose time stands beside; MultiVI's include the looks it
takes after each. Memory is the rise of the peak resident size above its value before the model is built
(Linux). Both have fitted a corner of the data for one epoch before, so that nothing of it is what was
imported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import results
from paired import Split
from step_time import reset_peak, resident

if TYPE_CHECKING:
    import scipy.sparse as sp

CORNER = slice(200), slice(300)


def ours(split: Split, *, epochs: int) -> dict[str, float]:
    """Of multiDGD."""
    import mudata

    import chreode as ch

    small = {m: split.mdata[split.fit][CORNER[0]][m][:, CORNER[1]].copy() for m in ("rna", "atac")}
    with mudata.set_options(pull_on_update=False):
        corner = mudata.MuData(small)
    ch.fit(ch.read(corner), ch.recipes.multidgd(), epochs=1, progress=False)
    cells = ch.read(split.mdata[split.fit])
    before = reset_peak()
    model = ch.fit(cells, ch.recipes.multidgd(), epochs=epochs, progress=False)
    peak = resident("VmHWM")
    clock, looked = model.history["seconds"].diff(), model.history["validation"].notna()
    return {
        "epoch": float(clock[~looked].median()),
        "look": float(clock[looked].median() - clock[~looked].median()),
        "memory": peak - before,
    }


def theirs(split: Split, *, epochs: int) -> dict[str, float]:
    """Of MultiVI; run by the peers' Python."""
    import scvi
    from multivi_peer import Clock, table

    def fit(rna: sp.csr_matrix, atac: sp.csr_matrix, *, epochs: int) -> tuple[Clock, float]:
        cells, clock = table(rna, atac), Clock()
        before = reset_peak()
        model = scvi.model.MULTIVI(cells, n_genes=rna.shape[1], n_regions=atac.shape[1])
        quiet = {"accelerator": "cpu", "enable_progress_bar": False}
        model.train(max_epochs=epochs, callbacks=[clock], **quiet)
        return clock, resident("VmHWM") - before

    warnings.simplefilter("ignore")
    rna, atac = split.rna[split.fit], split.atac[split.fit]
    fit(rna[CORNER], atac[CORNER], epochs=1)
    clock, memory = fit(rna, atac, epochs=epochs)
    return {"epoch": float(np.median(np.diff(clock.ticks))), "memory": memory}


def in_turn(pythons: dict[str, str], *, turns: int, epochs: int) -> pd.DataFrame:
    """Every method in its own process, and the others' costs over ours."""
    rows = []
    for turn in range(turns):
        for method, python in pythons.items():
            command = [python, __file__, "--only", method, "--epochs", str(epochs)]
            bound = {**os.environ, "OMP_PROC_BIND": "true"}
            said = subprocess.run(command, check=True, env=bound, stdout=subprocess.PIPE, text=True)
            rows.append({"method": method, "seed": turn, **json.loads(said.stdout.strip().splitlines()[-1])})
            print(rows[-1], file=sys.stderr, flush=True)
    runs = pd.DataFrame(rows)
    mine = runs[runs["method"] == "multiDGD"].set_index("seed")
    for what in ("epoch", "memory"):
        runs[f"{what}, times ours"] = runs[what] / runs["seed"].map(mine[what])
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers-python", default="peers/bin/python")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--only", choices=["multiDGD", "MultiVI"], help="one run of one method, as JSON")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.only:
        run = ours if options.only == "multiDGD" else theirs
        print(json.dumps(run(Split(0), epochs=options.epochs)))
        return
    pythons = {"multiDGD": sys.executable, "MultiVI": options.peers_python}
    runs = in_turn(pythons, turns=options.turns, epochs=options.epochs)
    columns = {"epoch": "seconds an epoch", "epoch, times ours": "times ours", "look": "a look's"}
    columns |= {"memory": "memory rise, MB", "memory, times ours": "times ours"}
    parts = {"Cost": results.table(runs, by=["method"], columns=columns)}
    print(parts["Cost"])
    if options.out:
        results.write(
            options.out,
            title="What an epoch over RNA and peaks costs",
            command="python benchmarks/paired_cost.py --peers-python peers/bin/python",
            parts=parts,
            python=options.peers_python,
            threads="two threads",
        )


if __name__ == "__main__":
    main()
