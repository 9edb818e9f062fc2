"""`scvi` here beside scvi-tools' SCVI: held-out molecules, clusters, neighbours, mixing, by file.

    python benchmarks/quality.py --peers-python peers/bin/python --folder kept --out quality.md

Both see the same cells of the same splits (`protocol.split`); both encode tested cells from one binomial
half of their molecules and are scored by the other, in nats a molecule beyond the mean profile. The peer
runs twice: at its own defaults, and at the setting of six that its validation molecules chose, stopped
early on them (`scvi_peer.py`). Ours runs at its defaults. Files with batches are fitted with them.
``two_studies`` is the control cells of kang with pbmc3k: 344 genes, five types, two technologies.

A difference is taken seed by seed; its interval is Student's over seeds. ``--finished`` runs nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import data
import numpy as np
import pandas as pd
import protocol
import results
import torch

import chreode as ch

if TYPE_CHECKING:
    import scipy.sparse as sp

BATCH = {
    "pbmc68k": None,
    "pbmc3k": None,
    "kang": "condition",
    "haber": None,
    "sc_mixology": "batch",
    "bmmc": "batch",
    "two_studies": "study",
}
PEERS = {"defaults": "scvi-tools, defaults", "best": "scvi-tools, tuned"}
OURS = "chreode scvi"
SCORES = {
    "gain": "gain, nats",
    "kmeans_ari": "k-means ARI",
    "leiden_ari": "Leiden ARI",
    "knn": "neighbours' label",
    "mixing": "mixing",
}


def profile_nats(counts: sp.csr_matrix, split: protocol.Split) -> float:
    """Nats per held-out molecule of tested cells under the mean profile of the fitted ones."""
    mean, _ = protocol.profiles(counts[split.fit])
    return protocol.nats(split.second[split.test], mean[0])


def scores(name: str, codes: np.ndarray, fit: np.ndarray) -> dict[str, float]:
    """Of fitted cells' codes against types and batches."""
    obs, batch = data.load(name).obs.iloc[fit], BATCH[name]
    batches = None if batch is None else obs[batch].to_numpy()
    return protocol.scores(codes, obs[data.KNOWN[name].label].to_numpy(), batches=batches)


def ours(name: str, seed: int) -> dict[str, float]:
    """One fit at our defaults."""
    adata, batch = data.load(name), BATCH[name]
    split = protocol.split(adata.X, name=name, seed=seed)
    start = time.perf_counter()
    cells = ch.read(adata[split.fit].copy(), batch=batch)
    model = ch.fit(cells, ch.recipes.scvi(), seed=seed, progress=False)
    seconds = time.perf_counter() - start
    first = ad.AnnData(split.first[split.test], obs=adata.obs.iloc[split.test], var=adata.var)
    nats = protocol.nats(split.second[split.test], model.project(first).expected())
    found = {"gain": profile_nats(adata.X, split) - nats, "seconds": seconds}
    return found | scores(name, model.embedded.embedding, split.fit)


def theirs(path: Path, name: str, seed: int) -> dict[str, float]:
    """The peer's run on the same split."""
    adata = data.load(name)
    split = protocol.split(adata.X, name=name, seed=seed)
    with np.load(path) as run:
        found = {
            "gain": profile_nats(adata.X, split) - float(run["nats"]),
            "seconds": float(run["seconds"]),
        }
        return found | scores(name, run["codes"], run["fit"])


def peer_paths(folder: Path, name: str, seed: int) -> dict[str, Path]:
    """Where the peer's runs lie, by setting."""
    parts = [name, "{}", BATCH[name], str(seed)]
    pattern = "-".join(part for part in parts if part)
    return {setting: folder / f"{pattern.format(setting)}.npz" for setting in PEERS}


def run_peers(python: str, folder: Path, seeds: list[int]) -> None:
    """Run what is missing of the peer, a file at a time."""
    script = str(Path(__file__).parent / "scvi_peer.py")
    for seed in seeds:
        for name, batch in BATCH.items():
            if all(path.exists() for path in peer_paths(folder, name, seed).values()):
                continue
            call = [python, script, "--dataset", name, "--seed", str(seed), "--out", str(folder)]
            subprocess.run([*call, *(["--batch", batch] if batch else [])], check=True)


def rows(folder: Path, seeds: list[int]) -> pd.DataFrame:
    """One row a run: file, method, seed, scores."""
    found = []
    for name in BATCH:
        for seed in seeds:
            paths = {s: p for s, p in peer_paths(folder, name, seed).items() if p.exists()}
            runs = {
                OURS: results.kept(folder / f"ours-{name}-{seed}.json", lambda n=name, s=seed: ours(n, s))
            }
            for setting, path in paths.items():
                compute = lambda p=path, n=name, s=seed: theirs(p, n, s)  # noqa: E731
                runs[PEERS[setting]] = results.kept(path.with_suffix(".json"), compute)
            found += [{"file": name, "method": key, "seed": seed, **values} for key, values in runs.items()]
    return pd.DataFrame(found)


def differences(runs: pd.DataFrame, peer: str) -> str:
    """Markdown: ours less the peer's, seed by seed, with Student's interval."""
    columns = list(SCORES)
    lines = ["| file | seeds | " + " | ".join(SCORES[c] for c in columns) + " |"]
    lines += ["|" + "---|" * (2 + len(columns))]
    for name, group in runs.groupby("file", sort=False):
        if peer not in set(group["method"]):
            continue
        by = group.set_index(["method", "seed"])[columns]
        own, other = by.loc[OURS].align(by.loc[peer], join="inner")
        cells = ["" if own[c].isna().any() else results.paired(own[c], other[c]) for c in columns]
        lines.append(f"| {name} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then write the tables."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--peers-python", default=None)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--finished", action="store_true", help="run no peer")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    options.folder.mkdir(parents=True, exist_ok=True)
    if not options.finished and options.peers_python:
        run_peers(options.peers_python, options.folder, options.seeds)
    runs = rows(options.folder, options.seeds)
    parts = {"Scores": results.table(runs, by=["file", "method"], columns=SCORES)}
    for peer in PEERS.values():
        if peer in set(runs["method"]):
            parts[f"chreode less {peer}"] = differences(runs, peer)
    print("\n\n".join(f"{name}\n\n{text}" for name, text in parts.items()))
    if options.out:
        command = "python benchmarks/quality.py --peers-python peers/bin/python --folder kept"
        python = options.peers_python
        results.write(
            options.out, title="scvi beside scvi-tools", command=command, parts=parts, python=python
        )


if __name__ == "__main__":
    main()
