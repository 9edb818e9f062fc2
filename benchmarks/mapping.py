"""Mapping across studies: control cells of Kang et al. on a model of 10x Genomics' PBMC 3k.

    python benchmarks/mapping.py --peers-python peers/bin/python

The two files share 344 genes (of 2,000 and 1,267) and five cell types. Every method is fitted to all
cells of ``pbmc3k``, without the other study; a control cell of ``kang`` gets the label that most of its
15 nearest reference cells have among all reference labels (NK, dendritic cells and platelets, which
``kang`` lacks here, are wrong answers), both in the method's codes. The reference's two CD4 T labels
count as one. The table also has the accuracy when only reference cells of the five types may be
neighbours, the mean of the five types' accuracies, and each type's.

chreode masks the 1,656 genes that ``kang`` lacks (``project`` reads with ``like=model``) and infers codes
by descent. SCVI cannot mask: fitted to the shared genes, or to all genes with the missing ones set to
zero; in both cases its encoder maps the new cells directly, without surgery. Principal components are
those of the log-normalised shared genes. "Shifted" rows also see that the query is another study, with no
label: the mean of each gene is allowed to differ. For principal components both studies are centred on
their own means, for chreode the decoder gets a log fold change a gene (`shifted`).
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import data
import numpy as np
import pandas as pd
import results
import scipy.sparse as sp
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

import chreode as ch

if TYPE_CHECKING:
    from anndata import AnnData

SHIFTED = "chreode, shifted"


def studies() -> tuple[AnnData, AnnData, list[str]]:
    """Reference, control cells of the query, and the shared genes; ``obs["type"]`` is common to both."""
    reference, query = data.load("pbmc3k"), data.load("kang")
    query = query[query.obs["condition"].astype(str) == "ctrl"].copy()
    for cells in (reference, query):
        names = cells.obs["cell_type"].astype(str)
        cells.obs["type"] = names.map(data.TYPES).fillna(names)
    known = set(query.var_names)
    return reference, query, [gene for gene in reference.var_names if gene in known]


def judge(
    codes: np.ndarray, new: np.ndarray, types: np.ndarray, truth: np.ndarray
) -> tuple[dict[str, float], np.ndarray]:
    """Accuracies of the labels of 15 nearest reference cells, and those labels."""
    told = KNeighborsClassifier(15).fit(codes, types).predict(new)
    among = np.isin(types, truth)
    restricted = KNeighborsClassifier(15).fit(codes[among], types[among]).predict(new)
    each = {name: float((told[truth == name] == name).mean()) for name in np.unique(truth)}
    found = {"accuracy": float((told == truth).mean()), "restricted": float((restricted == truth).mean())}
    return found | {"balanced": float(np.mean(list(each.values())))} | each, told


def shifted(
    model: ch.FittedModel, query: AnnData, *, rounds: int = 3, pseudocount: float = 50.0
) -> np.ndarray:
    """Codes of another study's cells when each gene may have a fold change of its own.

    Codes and fold changes alternate: given the codes, a gene's log fold change is that of its molecules over
    those expected, each with ``pseudocount`` molecules added, which shrinks those of rare genes.
    """
    embedded = model.project(query)
    cells, own = embedded.cells, copy.deepcopy(model)
    mask = cells.mask("rna")
    seen = torch.ones(len(query.var_names)) if mask is None else mask[0]
    total = cells.measured["rna"].sum_columns()
    for _ in range(rounds):
        with torch.no_grad():
            expected = own.module.decoder(embedded.codes, cells)["rna"].mean.sum(0)
            change = ((total + pseudocount) / (expected + pseudocount)).log() * seen
            own.module.decoder.readout.outputs["rna"].bias += change
        embedded = own.project(query)
    return embedded.embedding


def ours(
    reference: AnnData, query: AnnData, shared: list[str], seed: int
) -> dict[str, tuple[np.ndarray, ...]]:
    """Codes of reference and query, by method."""
    codes = {}
    plain = query.copy()
    plain.obs = plain.obs[[]]
    for name, genes in {"chreode": None, "chreode, shared genes only": shared}.items():
        started = time.perf_counter()
        cells = ch.read(reference, features=genes)
        model = ch.fit(cells, ch.recipes.scdgd(), seed=seed, progress=False)
        codes[name] = (model.embedded.embedding, model.project(plain).embedding)
        print(f"{name}, seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
        if genes is None:
            codes[SHIFTED] = (model.embedded.embedding, shifted(model, plain))
    return codes


def components(reference: AnnData, query: AnnData, shared: list[str]) -> dict[str, tuple[np.ndarray, ...]]:
    """Principal components of the shared genes; the second pair with each study centred on its own."""
    first, second = reference[:, shared].X, query[:, shared].X
    plain = results.principal(first, second)
    values = [results.log_normalise(counts).toarray() for counts in (first, second)]
    pca = PCA(20, svd_solver="arpack", random_state=0).fit(values[0])
    centred = [(each - each.mean(0)) @ pca.components_.T for each in values]
    return {"20 PCs, shared genes": tuple(plain), "20 PCs, shifted": tuple(centred)}


def theirs(
    reference: AnnData, query: AnnData, shared: list[str], *, options: argparse.Namespace, folder: Path
) -> dict[tuple[str, int], tuple[np.ndarray, ...]]:
    """Codes by SCVI, by method and seed."""
    place = reference.var_names.get_indexer(shared)
    chosen = sp.csr_matrix(
        (np.ones(len(shared), dtype=np.float32), (np.arange(len(shared)), place)),
        shape=(len(shared), reference.n_vars),
    )
    filled = sp.csr_matrix(query[:, shared].X @ chosen)
    kinds = {
        "scVI, shared genes": (reference[:, shared].X, query[:, shared].X),
        "scVI, missing genes zero": (reference.X, filled),
    }
    jobs = {}
    for name, (train, other) in kinds.items():
        for seed in options.seed:
            path = folder / f"mapping-{other.shape[1]}-{seed}-{options.scvi_epochs}.npz"
            jobs[name, seed] = results.job(
                path, train=train, other=other, seed=seed, epochs=options.scvi_epochs
            )
    codes = {}
    for key, path in zip(jobs, results.run_peer(options.peers_python, list(jobs.values())), strict=True):
        with np.load(path) as found:
            codes[key] = (found["train_codes"], found["other_codes"])
    return codes


def draw(told: dict[str, np.ndarray], truth: np.ndarray) -> None:
    """One confusion table a method, of the first seed."""
    import matplotlib.pyplot as plt

    rows = list(np.unique(truth))
    columns = [*rows, "another type"]
    figure, axes = plt.subplots(1, len(told), figsize=(3.1 * len(told), 3.0), sharey=True)
    for axis, (name, labels) in zip(axes, told.items(), strict=True):
        labels = np.where(np.isin(labels, rows), labels, "another type")
        shares = pd.crosstab(truth, labels, normalize="index").reindex(index=rows, columns=columns).fillna(0)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (i, j), share in np.ndenumerate(shares.to_numpy()):
            if share >= 0.005:
                axis.text(
                    j, i, f"{share:.2f}", ha="center", va="center", color="w" if share > 0.6 else "k", size=7
                )
        axis.set_title(f"{name}\n{(labels == truth).mean():.3f} right", size=9)
        axis.set_xticks(range(len(columns)), columns, rotation=90, size=7)
        axis.set_yticks(range(len(rows)), rows, size=7)
    axes[0].set_ylabel("label by the authors", size=8)
    figure.supxlabel("label told by neighbours in the reference (seed 0)", size=8, y=-0.28)
    results.save(figure, results.FOLDER / "mapping.png")


def main() -> None:
    """Fit, map, compare, write."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--peers-python", required=True, help="the peers' Python")
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--scvi-epochs", type=int, default=60)
    parser.add_argument("--scratch", type=Path, default=None, help="keep the peer's runs here, to run on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    reference, query, shared = studies()
    types, truth = reference.obs["type"].to_numpy(), query.obs["type"].to_numpy()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.scratch or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        peers = theirs(reference, query, shared, options=options, folder=folder)
    rows, drawn = [], {}
    fixed = components(reference, query, shared)
    for seed in options.seed:
        codes = ours(reference, query, shared, seed)
        codes |= {name: pair for (name, at), pair in peers.items() if at == seed} | fixed
        for name, pair in codes.items():
            found, told = judge(*pair, types, truth)
            rows.append({"method": name, "seed": seed} | found)
            if seed == options.seed[0]:
                drawn[name] = told
    runs = pd.DataFrame(rows)
    print(runs.round(3).to_string())
    columns = {"accuracy": "accuracy", "restricted": "among the five types", "balanced": "mean of types"}
    columns |= {name: name for name in np.unique(truth)}
    text = (
        f"{len(query)} control cells, {len(shared)} shared genes, {len(reference)} reference cells; "
        f"SCVI: NB, 20 dimensions, {options.scvi_epochs} epochs.\n\n"
        + results.table(runs, by=["method"], columns=columns)
        + "\n\n![Confusion tables](mapping.png)"
    )
    results.write(
        results.FOLDER / "mapping.md",
        title="Mapping across studies",
        command="python benchmarks/mapping.py --peers-python peers/bin/python",
        parts={"Label accuracy": text},
        python=options.peers_python,
    )
    draw({name: drawn[name] for name in drawn if name != "chreode, shared genes only"}, truth)


if __name__ == "__main__":
    main()
