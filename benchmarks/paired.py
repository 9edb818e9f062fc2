"""RNA and peaks of the same cells: multiDGD and multivi beside MultiVI (defaults), on cells not fitted on.

    python benchmarks/paired.py --peers-python peers/bin/python --out benchmarks/results/paired.md

Cells of ``a549_scicar_dex`` (2,641 cells, 1,185 genes, 52,761 peaks of zeros and ones). A tenth is tested and
decides nothing. Of the tested cells, codes are inferred three times, and judged on what was left out:

- *half*: from one binomial half of the RNA molecules and all peaks; judged on the other half's molecules,
  in nats each, as the gain over the mean profile of the fitted cells;
- *rna*: from all RNA, no peaks; judged on all peaks;
- *peaks*: from a random half of the peaks, no RNA; judged on the other half of the peaks.

Peaks are judged by the area under the precision-recall curve, in each cell over peaks, and for each peak
that is open in at least 10 tested cells over cells. Beside: the mean accessibility times the cell's depth
(of the peaks that were seen; of all in *rna*, where no method knows it), the mean of the cell's own time
point, which no method knows, and the mean of the 50 nearest fitted cells on 20 principal components of
RNA. Differences are paired by cell or peak, with a bootstrap interval. MultiVI sees zeros where something
is left out, which is how it is told so; of its accessibilities, these times its own depth of the cell, and
these times the peaks seen in the cell, each column takes what does it most good; of its proportions, these
or what is left of them once zeros are inflated (where the fit is one that kept them). Ours is decoded at the
depth that was seen, or, from RNA, at the one it predicts (``size="predicted"``). The treatment time is told
by 15 neighbours of the fitted cells' codes in five folds.

``--folder`` keeps what was fitted, so that a run can go on: empty it when chreode changes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import results
import scipy.sparse as sp
from scvi_fit import pack
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "a549_scicar_dex.h5mu"
VERSIONS = ("half", "rna", "peaks")
OURS = {"multidgd": "multiDGD", "multivi": "multivi of chreode"}


class Split:
    """What is fitted and what is tested, with one seed; of ``a549_scicar_dex`` or other cells."""

    def __init__(self, seed: int, *, cells: int | None = None, mdata: mudata.MuData | None = None) -> None:
        with mudata.set_options(pull_on_update=False):
            self.mdata = mudata.read_h5mu(DATA) if mdata is None else mdata
        rng = np.random.default_rng(seed)
        order = rng.permutation(self.mdata.n_obs)[:cells]
        n_test = len(order) // 10
        self.test, self.fit = np.sort(order[:n_test]), np.sort(order[n_test:])
        self.rna, self.atac = (self.mdata[m].X.tocsr().astype(np.int64) for m in ("rna", "atac"))
        # Only the baselines and the codes' score ask for it; simulated cells have none.
        self.time = self.mdata.obs["time"].to_numpy() if "time" in self.mdata.obs else np.empty(0)
        first = self.rna[self.test].copy()
        first.data = rng.binomial(first.data, 0.5)
        self.first, self.second = first, self.rna[self.test] - first
        self.seen = rng.random(self.atac.shape[1]) < 0.5
        self.depth = np.asarray(self.atac[self.test][:, self.seen].sum(1)).reshape(-1, 1)

    def tested(self, version: str) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """RNA and peaks of the tested cells; what is left out is zero."""
        rna, atac = self.rna[self.test], self.atac[self.test]
        if version == "half":
            return self.first, atac
        if version == "rna":
            return rna, sp.csr_matrix(atac.shape, dtype=atac.dtype)
        seen = sp.diags_array(self.seen.astype(np.int64), format="csr", dtype=np.int64)
        return sp.csr_matrix(rna.shape, dtype=rna.dtype), (atac @ seen).tocsr()


def ours(split: Split, *, recipe: str, seed: int, epochs: int | None, folder: Path) -> dict[str, Any]:
    """Codes, proportions and accessibilities of a recipe at its defaults; kept in ``folder``."""
    kept = folder / f"{recipe}-{seed}-{epochs}-{len(split.fit)}.npz"
    if not kept.exists():
        np.savez(kept, **fitted(split, recipe=recipe, seed=seed, epochs=epochs))
    with np.load(kept) as stored:
        return {name: stored[name] if stored[name].ndim else stored[name].item() for name in stored.files}


def fitted(split: Split, *, recipe: str, seed: int, epochs: int | None) -> dict[str, Any]:
    """What `ours` keeps."""
    from step_time import reset_peak, resident

    import chreode as ch

    cells = ch.read(split.mdata[split.fit])
    before = reset_peak()
    start = time.perf_counter()
    model = ch.fit(cells, getattr(ch.recipes, recipe)(), seed=seed, epochs=epochs, progress=False)
    found: dict[str, Any] = {"seconds": time.perf_counter() - start, "memory": resident("VmHWM") - before}
    plain = model.history[model.history["validation"].isna()]["epoch"]
    clock = model.history["seconds"].diff()
    # Epochs without a look at held-out molecules; MultiVI's include its own looks.
    found["epoch"] = float(clock[model.history["epoch"].isin(plain)].median())
    found["epochs"], found["codes"] = len(model.history), model.embedded.embedding
    for version in VERSIONS:
        rna, _ = split.tested(version)
        some = split.mdata[split.test]
        parts = {}
        if version != "peaks":
            parts["rna"] = some["rna"].copy()
            parts["rna"].X = rna
        if version != "rna":
            parts["atac"] = some["atac"][:, split.seen if version == "peaks" else slice(None)].copy()
        with mudata.set_options(pull_on_update=False):
            embedded = model.project(mudata.MuData(parts), progress=False)
        found[f"{version}_rna"] = embedded.expected("rna")
        # Of half of the peaks, the depth of the others is known; from RNA it has to be told as well.
        size = "predicted" if version == "rna" else None
        found[f"{version}_atac"] = embedded.expected("atac", size=size)
    # Peaks are rare, so that their odds, which grow with depth, are their probabilities.
    found["peaks_atac"] = split.depth * found["peaks_atac"]
    return found


def theirs(split: Split, *, seed: int, epochs: int | None, python: str, folder: Path) -> dict[str, Any]:
    """The same of MultiVI, in the peers' environment; what lies in ``folder`` is not fitted again."""
    out = folder / f"multivi-{seed}-{epochs}-{len(split.fit)}.npz"
    if not out.exists():
        held = {"fit_rna": split.rna[split.fit], "fit_atac": split.atac[split.fit]}
        for version in VERSIONS:
            held[f"{version}_rna"], held[f"{version}_atac"] = split.tested(version)
        packed = {k: v for name, x in held.items() for k, v in pack(name, x.tocsr()).items()}
        # Its own: the peer reads it to the end, hours later.
        job = out.with_suffix(".job.npz")
        np.savez(job, seed=seed, epochs=epochs or 0, versions=list(VERSIONS), **packed)
        script = Path(__file__).with_name("multivi_peer.py")
        subprocess.run([python, str(script), str(job), str(out)], check=True, stdout=subprocess.DEVNULL)
    with np.load(out) as stored:
        found = {name: stored[name] for name in stored.files}
    ticks = found["seconds"]
    found |= {"seconds": float(ticks[-1]), "epoch": float(np.median(np.diff(ticks))), "epochs": len(ticks)}
    found["peaks_atac_seen"] = split.depth * found["peaks_atac"].astype(np.float32)
    return found


def baselines(split: Split) -> dict[str, dict[str, np.ndarray]]:
    """Accessibilities without a model."""
    rna, atac = split.rna[split.fit], split.atac[split.fit]
    mean = np.asarray(atac.mean(0)).ravel()
    tested = split.atac[split.test]
    every = np.asarray(tested.sum(1)).reshape(-1, 1)
    by_time = {t: np.asarray(atac[split.time[split.fit] == t].mean(0)).ravel() for t in np.unique(split.time)}
    fitted, others = results.principal(rna, split.rna[split.test])
    _, rows = NearestNeighbors(n_neighbors=50).fit(fitted).kneighbors(others)
    neighbours = np.stack([np.asarray(atac[at].mean(0)).ravel() for at in rows])
    return {
        "mean x depth": {"rna_atac": every * mean, "peaks_atac": split.depth * mean},
        "mean of the time point": {"rna_atac": np.stack([by_time[t] for t in split.time[split.test]])},
        "50 neighbours on RNA": {"rna_atac": neighbours},
    }


def areas(expected: np.ndarray, split: Split, *, judged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area under precision-recall of each cell over peaks, and of each peak over cells."""
    truth = split.atac[split.test][:, judged].toarray().astype(bool)
    expected = np.asarray(expected, dtype=np.float32)[:, judged]
    some = truth.any(1)
    pairs = zip(truth[some], expected[some], strict=True)
    cells = np.asarray([average_precision_score(t, e) for t, e in pairs])
    open_ = np.flatnonzero(truth.sum(0) >= 10)
    peaks = np.asarray([average_precision_score(truth[:, j], expected[:, j]) for j in open_])
    return cells, peaks


def nats(found: dict[str, Any], split: Split, *, fitted: np.ndarray) -> np.ndarray:
    """Gain over the mean profile of some cells of each tested cell's held-out molecules; and their number.

    Of the peer's proportions, with and without its zero inflation, the better ones.
    """
    ways = [found[k] for k in ("half_rna", "half_rna_shown") if k in found]
    held = split.second.toarray()
    return max((gained(w, held=held, fitted=split.rna[fitted]) for w in ways), key=lambda g: g[0].sum())


def gained(expected: np.ndarray, *, held: np.ndarray, fitted: sp.csr_matrix) -> np.ndarray:
    """Gain of proportions over the mean profile of the fitted cells on each cell's held-out counts; these."""
    profile = np.asarray(fitted.sum(0)).ravel() + 0.5
    profile = profile / profile.sum()
    share = expected / expected.sum(1, keepdims=True)
    gain = (held * (np.log(share.clip(1e-10)) - np.log(profile))).sum(1)
    return np.stack([gain, held.sum(1)])


def told(codes: np.ndarray, split: Split) -> float:
    """Accuracy of the treatment time by 15 neighbours, five folds."""
    label = split.time[split.fit].astype(str)
    return float(cross_val_score(KNeighborsClassifier(15), codes, label, cv=5).mean())


def interval(difference: np.ndarray, *, draws: int = 2000) -> tuple[float, float]:
    """Bootstrap interval (95 %) of a mean."""
    rng = np.random.default_rng(0)
    means = difference[rng.integers(len(difference), size=(draws, len(difference)))].mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def judge(methods: dict[str, dict[str, Any]], split: Split) -> dict[str, dict[str, np.ndarray]]:
    """Everything that is judged, per cell or peak, by method."""
    scores: dict[str, dict[str, np.ndarray]] = {}
    for name, found in methods.items():
        mine: dict[str, np.ndarray] = {}
        if "half_rna" in found:
            mine["nats"] = nats(found, split, fitted=split.fit)
        for version, judged in (("rna", np.ones_like(split.seen)), ("peaks", ~split.seen)):
            ways = [found[k] for k in found if k.startswith(f"{version}_atac")]
            both = [areas(way, split, judged=judged) for way in ways]
            for number, what in enumerate(("per cell", "per peak")):
                if both:
                    mine[f"{version}, {what}"] = max((pair[number] for pair in both), key=np.mean)
        scores[name] = mine
    return scores


COLUMNS = {
    "nats": "RNA nats gained a held-out molecule",
    "told": "time told",
    "rna, per cell": "peaks from RNA, per cell",
    "rna, per peak": "peaks from RNA, per peak",
    "peaks, per cell": "peaks from peaks, per cell",
    "peaks, per peak": "peaks from peaks, per peak",
}
COST = {"epoch": "seconds an epoch", "epochs": "epochs", "seconds": "seconds", "memory": "memory rise, MB"}


def summary(methods: dict[str, dict[str, Any]], split: Split, *, seed: int) -> tuple[pd.DataFrame, str]:
    """One row a method, and how ours differs from MultiVI."""
    scores = judge(methods, split)
    rows = []
    for name, mine in scores.items():
        row = {"method": name, "seed": seed, **{c: v.mean() for c, v in mine.items() if c != "nats"}}
        if "nats" in mine:
            row["nats"] = mine["nats"][0].sum() / mine["nats"][1].sum()
        if "codes" in methods[name]:
            row["told"] = told(methods[name]["codes"], split)
        rows.append({**row, **{c: float(methods[name][c]) for c in COST if c in methods[name]}})
    lines = []
    for shown in OURS.values():
        if shown not in scores or "MultiVI" not in scores:
            continue
        one, other = scores[shown], scores["MultiVI"]
        parts = {c: one[c] - other[c] for c in list(COLUMNS)[2:]}
        parts["nats"] = (one["nats"][0] - other["nats"][0]) / one["nats"][1].mean()
        said = []
        for name, difference in parts.items():
            low, high = interval(difference)
            said.append(f"{name} {difference.mean():+.4f} ({low:+.4f} to {high:+.4f})")
        lines.append(f"- seed {seed}, {shown}: " + "; ".join(said))
    return pd.DataFrame(rows), "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers-python", default="peers/bin/python")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="of MultiVI; its own rule by default")
    parser.add_argument("--our-epochs", type=int)
    parser.add_argument("--recipes", nargs="*", choices=list(OURS), default=list(OURS), help="of ours")
    parser.add_argument("--no-peer", action="store_true", help="ours alone")
    parser.add_argument("--cells", type=int, help="only so many, to try the script")
    parser.add_argument("--folder", type=Path, help="where fits are kept")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    frames, said = [], []
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        split = Split(seed, cells=options.cells)
        methods: dict[str, dict[str, Any]] = {
            OURS[name]: ours(split, recipe=name, seed=seed, epochs=options.our_epochs, folder=folder)
            for name in options.recipes
        }
        if not options.no_peer:
            how = {"epochs": options.epochs, "python": options.peers_python}
            methods["MultiVI"] = theirs(split, seed=seed, folder=folder, **how)
        methods["20 PCs of RNA"] = {"codes": results.principal(split.rna[split.fit])[0]}
        methods |= baselines(split)
        frame, difference = summary(methods, split, seed=seed)
        frames.append(frame)
        said.append(difference)
        print(frame.to_string(), difference, sep="\n", file=sys.stderr, flush=True)
    runs = pd.concat(frames)
    parts = {
        "Quality": results.table(runs, by=["method"], columns=COLUMNS, decimals=4),
        "Ours less MultiVI's, mean and 95 % interval": "\n".join(said),
        "Cost": results.table(runs[runs["epoch"].notna()], by=["method"], columns=COST, decimals=2),
    }
    if options.out:
        command = "python benchmarks/paired.py --peers-python peers/bin/python"
        results.write(
            options.out,
            title="RNA and peaks of the same cells",
            command=command,
            parts=parts,
            python=None if options.no_peer else options.peers_python,
        )


if __name__ == "__main__":
    main()
