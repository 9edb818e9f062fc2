"""Who finds doublets: codes, Scrublet, or the total count alone.

    python benchmarks/doublets.py --peers-python peers/bin/python --folder kept

*sc_mixology*: 909 droplets of five cell lines, 338 of them doublets by genotype. *haber* and *kang*: 8 %
doublets of two types are planted (both parents are taken out), whose molecules are kept with probability 1
(twice as deep as a cell) or 0.5 (as deep as one). What `chreode.doublets` does was chosen on pbmc3k, planted
likewise, and never by a column of doublets. It is given the 2,000 genes of most deviance (haber has 1,000,
kang 1,267), Scrublet all of them, from which it chooses by itself. Both are told the true rate.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import results
import scipy.sparse as sp
import torch
from data import FOLDER, KNOWN, load
from sklearn.metrics import average_precision_score, roc_auc_score

import chreode as ch

PLANTED = 0.08
SETS = (("sc_mixology", None), ("haber", 1.0), ("haber", 0.5), ("kang", 1.0), ("kang", 0.5))


def genotyped(data: Path) -> tuple[sp.csr_matrix, np.ndarray]:
    """All droplets of sc_mixology, and which are doublets by genotype."""
    adata = ad.read_h5ad(data / "sc_mixology_5cl_celseq2.h5ad")
    return sp.csr_matrix(adata.X, dtype=np.float32), adata.obs["doublet"].to_numpy().astype(bool)


def planted(name: str, *, kept: float, seed: int, data: Path) -> tuple[sp.csr_matrix, np.ndarray]:
    """Cells of which some were put together in pairs of two types, and which these are."""
    adata = load(name, folder=data)
    types = adata.obs[KNOWN[name].label].astype(str).to_numpy()
    rng = np.random.default_rng([seed, 77])
    order, pairs = list(rng.permutation(len(types))), []
    while len(pairs) < round(PLANTED * len(types) / (1 + PLANTED)):
        first = order.pop()
        other = next(i for i in reversed(range(len(order))) if types[order[i]] != types[first])
        pairs.append((first, order.pop(other)))
    first, second = np.array(pairs).T
    both = sp.csr_matrix(adata.X[first] + adata.X[second])
    both.data = rng.binomial(both.data.astype(int), kept).astype(np.float32)
    both.eliminate_zeros()
    rest = np.setdiff1d(np.arange(len(types)), np.r_[first, second])
    truth = np.repeat([False, True], [len(rest), len(pairs)])
    return sp.vstack([adata.X[rest], both], format="csr"), truth


def scrublet(counts: sp.csr_matrix, *, rate: float, seed: int, path: Path, python: str) -> np.ndarray:
    """Scrublet's scores, from the peers' environment."""
    found = path.with_suffix(".out.npy")
    if not found.exists():
        sp.save_npz(path, counts)
        script = str(Path(__file__).resolve().parent / "doublets_peer.py")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        command = [python, script, str(path), str(rate), str(seed)]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return np.load(found)


def ours(counts: sp.csr_matrix, *, rate: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and calls under scdgd."""
    cells = ch.read(ad.AnnData(counts))
    model = ch.fit(cells, ch.recipes.scdgd(), seed=seed, progress=False)
    table = ch.doublets(model, rate=rate, seed=seed, progress=False)
    return table["score"].to_numpy(), table["neighbours"].to_numpy()


def run(name: str, kept: float | None, seed: int, options: argparse.Namespace) -> list[dict]:
    """The scores of every method on one data set."""
    title = name if kept is None else f"{name}, planted, molecules kept {kept:g}"
    path = options.folder / f"doublets_{name}_{kept}_{seed}.npz"
    store = path.with_suffix(".csv")
    if store.exists():
        return pd.read_csv(store).to_dict("records")
    if kept is None:
        counts, truth = genotyped(options.data)
    else:
        counts, truth = planted(name, kept=kept, seed=seed, data=options.data)
    few = ad.AnnData(counts)
    if counts.shape[1] > 2000:
        names = ch.read(few, features=2000).layout.modalities["rna"].names
        few = few[:, list(names)].copy()
    rate = float(truth.mean())
    judged, near = ours(few.X, rate=min(rate, 0.45), seed=seed)
    python = options.peers_python
    found = {
        "chreode": judged,
        "chreode, neighbours alone": near,
        "Scrublet": scrublet(counts, rate=rate, seed=seed, path=path, python=python),
        "total count": np.asarray(counts.sum(1)).ravel(),
    }
    rows = []
    for method, score in found.items():
        top = np.argsort(-score, kind="stable")[: truth.sum()]
        quality = {"auroc": roc_auc_score(truth, score), "ap": average_precision_score(truth, score)}
        rows.append({"set": title, "method": method, "seed": seed, **quality, "right": truth[top].mean()})
    pd.DataFrame(rows).to_csv(store, index=False)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers-python", default="peers/bin/python")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=FOLDER)
    parser.add_argument("--folder", type=Path, default=Path("kept"))
    parser.add_argument("--out", type=Path, default=results.FOLDER / "doublets.md")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    rows = []
    for seed in range(options.seeds):
        for name, kept in SETS:
            rows += run(name, kept, seed, options)
            print(pd.DataFrame(rows[-4:]).to_string(index=False, header=False), flush=True)
    columns = {"auroc": "AUROC", "ap": "average precision", "right": "right among as many as there are"}
    runs = pd.DataFrame(rows).sort_values(["set", "method"], kind="stable")
    table = results.table(runs, by=["set", "method"], columns=columns)
    command = "python benchmarks/doublets.py --peers-python peers/bin/python --folder kept"
    results.write(options.out, title="Doublets", command=command, parts={"Scores": table})
    print(table)


if __name__ == "__main__":
    main()
