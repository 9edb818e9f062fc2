"""Cells of a batch that was never trained on: multiDGD and scDGD (defaults) beside scVI with surgery.

    python benchmarks/unseen.py --peers-python peers/bin/python --out benchmarks/results/unseen.md

Each of the five batches of ``bmmc_pathreg_lineages`` (9,353 cells, 529 genes) is left out in turn, and each
site that has more than one. Half of a left-out batch's cells are judged and train nothing. A model is fitted
twice: *unseen* to the other batches alone, *seen* to them and the other half of what was left out. Both
project the judged cells with their weights frozen; to *unseen* their batch is an unknown level. With *its
level added*, multiDGD's *unseen* has a component for it, fitted to the half that is not judged, and no weight
is touched.

- Molecules of the judged cells are thinned into binomial halves: one infers the code, the other is judged in
  nats a molecule, as the gain over the mean profile of the other batches' cells (for all methods the same).
  The ratio of the two gains, *unseen* over *seen*, is to be at least 0.9.
- With codes from all of its molecules, a judged cell gets the label of its 15 nearest cells of the other
  batches. The labels are three lineages and their shared progenitors.
- One batch, ``s2d4``, has no erythroid cells: none of its cells should get that label, its progenitors (which
  other batches share with the erythroid lineage) apart. Erythroid cells of other batches should.

scVI is fitted to the other batches with the options that scArches recommends; then surgery trains the weights
of the left-out batch, and these only, on the half that is not judged, which ours do not see. Its *seen* is an
ordinary fit with the same options. Beside: 20 principal components, and the mean profile of the left-out
batch's other half.

``--folder`` keeps what was fitted, ours too, so that a run can go on: empty it when chreode changes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import data
import numpy as np
import pandas as pd
import results
from scvi_fit import pack
from sklearn.neighbors import KNeighborsClassifier

if TYPE_CHECKING:
    from collections.abc import Callable

    import scipy.sparse as sp
    from anndata import AnnData

ARMS = ("unseen", "seen")
ERYTHROID = "eryth"
OURS = ("multidgd", "scdgd")
SCVI = "scVI, scArches"
ADDING, ADDED = "multidgd", "multidgd, its level added"


def groups(adata: AnnData) -> dict[str, list[str]]:
    """What is left out together, by name: every batch, and every site of several."""
    batches = adata.obs.groupby("site", observed=True)["batch"].unique()
    found = {name: [name] for names in batches for name in sorted(names)}
    several = {f"site {site}": sorted(names) for site, names in batches.items() if len(names) > 1}
    return found | several


class Split:
    """Rows of the other batches, of the half that trains and of the half that is judged; with one seed."""

    def __init__(self, adata: AnnData, left_out: list[str], *, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.adata = adata
        self.batch, self.type = (adata.obs[c].to_numpy().astype(str) for c in ("batch", "cell_type"))
        self.others = np.flatnonzero(~np.isin(self.batch, left_out))
        shuffled = [rng.permutation(np.flatnonzero(self.batch == name)) for name in left_out]
        self.seen = np.sort(np.concatenate([rows[len(rows) // 2 :] for rows in shuffled]))
        self.judged = np.sort(np.concatenate([rows[: len(rows) // 2] for rows in shuffled]))
        self.counts = adata.X.tocsr().astype(np.int64)
        self.whole = self.counts[self.judged]
        self.first = self.whole.copy()
        self.first.data = rng.binomial(self.first.data, 0.5)
        self.first.eliminate_zeros()
        self.second = (self.whole - self.first).toarray()

    def trained(self, arm: str) -> np.ndarray:
        """Rows that a model is fitted to, those of the other batches first."""
        return self.others if arm == "unseen" else np.concatenate([self.others, self.seen])

    def cells(self, rows: np.ndarray, counts: sp.csr_matrix | None = None) -> AnnData:
        """Cells of which only the batch is told."""
        from anndata import AnnData

        obs = pd.DataFrame({"batch": self.batch[rows]}, index=self.adata.obs_names[rows])
        values = self.counts[rows] if counts is None else counts
        return AnnData(values.astype(np.int32), obs=obs, var=self.adata.var[[]].copy())


def profile(counts: sp.csr_matrix) -> np.ndarray:
    """Shares of all molecules of some cells."""
    total = np.asarray(counts.sum(0)).ravel() + 0.5
    return total / total.sum()


def kept(path: Path, make: Callable[[Path], Any]) -> dict[str, np.ndarray]:
    """What ``make`` writes; not made again where it is."""
    if not path.exists():
        part = path.with_suffix(".part.npz")
        make(part)
        part.rename(path)
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def ours(out: Path, split: Split, recipe: str, *, seed: int, epochs: int | None) -> None:
    """Write shares of the judged cells, codes of them and of the other batches' cells, in both arms."""
    import chreode as ch

    found: dict[str, Any] = {}
    for arm in ARMS:
        cells = ch.read(split.cells(split.trained(arm)), batch="batch")
        model = ch.fit(cells, getattr(ch.recipes, recipe)(), seed=seed, epochs=epochs, progress=False)
        models = {arm: model}
        if (arm, recipe) == ("unseen", ADDING):
            models["added"] = ch.add_levels(model, split.cells(split.seen))
        for name, one in models.items():
            expected = one.project(split.cells(split.judged, split.first)).expected()
            found[f"{name}_share"] = expected / expected.sum(1, keepdims=True)
            found[f"{name}_judged"] = one.project(split.cells(split.judged, split.whole)).embedding
        found[f"{arm}_others"] = model.embedded.embedding[: len(split.others)]
        found[f"{arm}_seconds"] = model.history["seconds"].iloc[-1]
    np.savez(out, **found)


def theirs(out: Path, split: Split, *, seed: int, options: argparse.Namespace) -> None:
    """The same of scVI, in the peers' environment; its *unseen* is surgery."""
    job = out.with_suffix(".job.npz")
    parts = {"others": split.counts[split.others], "seen": split.counts[split.seen]}
    parts |= {"first": split.first, "whole": split.whole}
    batches = {f"{name}_batch": split.batch[getattr(split, name)] for name in ("others", "seen", "judged")}
    packed = {k: v for name, counts in parts.items() for k, v in pack(name, counts).items()}
    np.savez(job, seed=seed, epochs=options.epochs or 0, surgery=options.surgery_epochs, **batches, **packed)
    script = Path(__file__).with_name("unseen_peer.py")
    command = [options.peers_python, str(script), str(job), str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    job.unlink()


def gain(share: np.ndarray, split: Split) -> float:
    """Nats gained over the other batches' mean profile for each judged molecule."""
    reference = profile(split.counts[split.others])
    ratio = np.log(share.clip(1e-10)) - np.log(reference)
    return float((split.second * ratio).sum() / split.second.sum())


def told(others: np.ndarray, judged: np.ndarray, split: Split) -> np.ndarray:
    """Label of each judged cell by 15 neighbours among the other batches' cells."""
    return KNeighborsClassifier(15).fit(others, split.type[split.others]).predict(judged)


def labels(found: dict[str, np.ndarray], arm: str, split: Split) -> dict[str, float]:
    """How well cell types are told, and how many cells count as erythroid."""
    said, truth = told(found[f"{arm}_others"], found[f"{arm}_judged"], split), split.type[split.judged]
    batch = split.batch[split.judged]
    bearing = np.unique(split.batch[split.type == ERYTHROID])
    erythroid, without = said == ERYTHROID, ~np.isin(batch, bearing)
    progenitor = np.char.startswith(truth, "progenitor")
    each = [float((said[truth == name] == name).mean()) for name in np.unique(truth)]
    row = {"accuracy": float((said == truth).mean()), "balanced": float(np.mean(each))}
    if without.any():
        row["false"] = float(erythroid[without].mean())
        row["false, committed"] = float(erythroid[without & ~progenitor].mean())
    if (truth == ERYTHROID).any():
        row["true"] = float(erythroid[truth == ERYTHROID].mean())
    return {f"{arm}: {name}": value for name, value in row.items()}


def judge(
    methods: dict[str, dict[str, np.ndarray]], split: Split, *, left_out: str, seed: int
) -> pd.DataFrame:
    """One row a method."""
    rows = []
    for method, found in methods.items():
        row: dict[str, Any] = {"left out": left_out, "method": method, "seed": seed}
        for arm in ARMS:
            if f"{arm}_share" in found:
                row[f"{arm}: gain"] = gain(found[f"{arm}_share"], split)
            if f"{arm}_others" in found:
                row |= labels(found, arm, split)
            if f"{arm}_seconds" in found:
                row[f"{arm}: seconds"] = float(found[f"{arm}_seconds"])
        if "unseen: gain" in row:
            row["ratio"] = row["unseen: gain"] / row["seen: gain"]
        rows.append(row)
    return pd.DataFrame(rows)


def baselines(split: Split) -> dict[str, dict[str, np.ndarray]]:
    """Codes and shares without a model."""
    counts = split.counts.astype(np.float32)
    others, judged = results.principal(counts[split.others], counts[split.judged])
    own = {name: profile(counts[split.seen[split.batch[split.seen] == name]]) for name in set(split.batch)}
    mean = np.stack([own[name] for name in split.batch[split.judged]])
    return {
        "20 PCs": {"unseen_others": others, "unseen_judged": judged},
        "mean of the batch": {"seen_share": mean},
    }


def compared(split: Split, name: str, *, seed: int, options: argparse.Namespace) -> pd.DataFrame:
    """All methods on one split."""
    end = f"{name.replace(' ', '-')}-{seed}-{split.adata.n_obs}"
    methods = {}
    for recipe in OURS:
        path = options.folder / f"{recipe}-{end}-{options.our_epochs}.npz"
        make = partial(ours, split=split, recipe=recipe, seed=seed, epochs=options.our_epochs)
        methods[recipe] = kept(path, make)
    added = {k.replace("added", "unseen"): v for k, v in methods[ADDING].items() if k.startswith("added")}
    methods[ADDED] = methods[ADDING] | added
    if options.peers_python and (options.peer_seeds is None or seed in options.peer_seeds):
        path = options.folder / f"scvi-{end}-{options.epochs}-{options.surgery_epochs}.npz"
        methods[SCVI] = kept(path, partial(theirs, split=split, seed=seed, options=options))
    return judge(methods | baselines(split), split, left_out=name, seed=seed)


def summary(runs: pd.DataFrame) -> str:
    """Ratio of each method over the batches that were left out: its mean and its least."""
    single = runs[~runs["left out"].str.startswith("site ") & runs["ratio"].notna()]
    ratios = single.groupby(["method", "seed"], sort=False)["ratio"].agg(["mean", "min"]).reset_index()
    columns = {"mean": "mean ratio over batches", "min": "least"}
    return results.table(ratios, by=["method"], columns=columns)


def by_arm(runs: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """A row for each arm of a run."""
    keys = ["left out", "method", "seed"]
    frames = []
    for arm in ARMS:
        names = {f"{arm}: {c}": c for c in columns}
        one = runs.reindex(columns=[*keys, *names]).rename(columns=names)
        frames.append(one.assign(batch=arm)[one[list(columns)].notna().any(axis=1)])
    long = pd.concat(frames)
    # Methods in the order of the runs, the two arms of each one below the other.
    return long.iloc[np.argsort(long.index, kind="stable")]


def tables(runs: pd.DataFrame) -> dict[str, str]:
    """What is written."""
    by = ["left out", "method"]
    gains = {"unseen: gain": "gain, unseen", "seen: gain": "gain, seen", "ratio": "ratio"}
    types = {"accuracy": "accuracy", "balanced": "mean of types"}
    erythroid = {"false": "told erythroid where none is", "false, committed": "progenitors left out"}
    erythroid["true"] = "erythroid cells told"
    names = {"Cell types by 15 neighbours": types, "Shares told erythroid by 15 neighbours": erythroid}
    labelled = {
        title: results.table(by_arm(runs, columns), by=[*by, "batch"], columns=columns, decimals=4)
        for title, columns in names.items()
    }
    return {
        "Ratio of gains, unseen over seen": summary(runs),
        "Nats gained a held-out molecule": results.table(
            runs[runs["seen: gain"].notna()], by=by, columns=gains
        ),
        **labelled,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers-python", help="the peers' Python; without it there is no scVI")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--peer-seeds", type=int, nargs="+", help="of scVI; all by default")
    parser.add_argument("--site-seeds", type=int, nargs="*", default=[0], help="where a site is left out")
    parser.add_argument("--left-out", nargs="+", help="only these, such as s2d4 or 'site s1'")
    parser.add_argument("--epochs", type=int, help="of scVI; its own rule by default")
    parser.add_argument("--surgery-epochs", type=int, default=100)
    parser.add_argument("--our-epochs", type=int)
    parser.add_argument("--cells", type=int, help="only so many, to try the script")
    parser.add_argument("--folder", type=Path, help="keep what was fitted here")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    adata = data.load("bmmc")
    if options.cells:
        adata = adata[np.sort(np.random.default_rng(0).permutation(adata.n_obs)[: options.cells])].copy()
    frames = []
    with tempfile.TemporaryDirectory() as temporary:
        options.folder = options.folder or Path(temporary)
        options.folder.mkdir(parents=True, exist_ok=True)
        for name, left_out in groups(adata).items():
            if options.left_out and name not in options.left_out:
                continue
            for seed in options.site_seeds if name.startswith("site ") else options.seeds:
                split = Split(adata, left_out, seed=seed)
                frames.append(compared(split, name, seed=seed, options=options))
                print(frames[-1].T.to_string(), file=sys.stderr, flush=True)
    parts = tables(pd.concat(frames, ignore_index=True))
    print("\n\n".join(f"{title}\n\n{text}" for title, text in parts.items()))
    if options.out:
        results.write(
            options.out,
            title="Cells of a batch that was never trained on",
            command="python benchmarks/unseen.py --peers-python peers/bin/python",
            parts=parts,
            python=options.peers_python,
        )


if __name__ == "__main__":
    main()
