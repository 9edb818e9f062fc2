"""Are the scores of scIB those of scib-metrics, given the same neighbours and clusters?

python benchmarks/scib_parity.py --scib-python scib/bin/python --out benchmarks/results/scib_parity.md
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import data
import numpy as np
import results
import scipy.sparse as sp

import chreode as ch
from chreode import evaluate

NAMES = {  # ours, of scib-metrics
    "isolated_labels": "isolated_labels",
    "kmeans_nmi": "nmi_ari_cluster_labels_kmeans_nmi",
    "kmeans_ari": "nmi_ari_cluster_labels_kmeans_ari",
    "silhouette_label": "silhouette_label",
    "clisi": "clisi_knn",
    "bras": "bras",
    "ilisi": "ilisi_knn",
    "kbet": "kbet_per_label",
    "graph_connectivity": "graph_connectivity",
    "pcr_comparison": "pcr_comparison",
    "bio": "Bio conservation",
    "batch": "Batch correction",
    "total": "Total",
}
SETS = {"bmmc": "batch", "kang": "condition", "pbmc3k": None}
WORDS = {
    "bmmc": "`bmmc_pathreg_lineages`, its five batches",
    "kang": "`kang_ifnb_muscat`, control and stimulated cells as batches",
    "pbmc3k": "`pbmc3k_2000hvg`, each cell given one of three batches by chance",
    "simulated": "20,000 simulated codes of 20 dimensions, ten labels, five batches",
}
RECIPES = ("scdgd", "scvi")


def embeddings(name: str, *, seeds: int, epochs: int) -> list[dict[str, Any]]:
    """Principal components, and codes of a few epochs of two recipes, of one data set."""
    cells, batch = data.load(name), SETS[name]
    if batch is None:
        batch = "drawn"
        cells.obs[batch] = np.random.default_rng(0).choice(["a", "b", "c"], len(cells), p=[0.5, 0.3, 0.2])
    known = {
        "labels": cells.obs[data.KNOWN[name].label].to_numpy().astype(str),
        "batches": cells.obs[batch].to_numpy().astype(str),
        "before": results.principal(cells.X)[0].astype(np.float32),
    }
    made = [{"set": name, "of": "principal components", "seed": 0, "codes": known["before"], **known}]
    read = ch.read(cells, batch=batch)
    for recipe in RECIPES:
        for seed in range(seeds):
            model = ch.fit(
                read, getattr(ch.recipes, recipe)(), seed=seed, epochs=epochs, validation=0, progress=False
            )
            codes = np.asarray(model.embedded.embedding, dtype=np.float32)
            made.append({"set": name, "of": f"`{recipe}`", "seed": seed, "codes": codes, **known})
    return made


def simulated(n: int = 20_000) -> dict[str, Any]:
    """Codes of many cells: ten labels, five batches of unequal size that lie a little apart."""
    rng = np.random.default_rng(0)
    labels, batches = rng.integers(0, 10, n), rng.choice(5, n, p=[0.4, 0.3, 0.15, 0.1, 0.05])
    types, shifts = 2 * rng.normal(size=(10, 20)), rng.normal(size=(5, 20))
    before = rng.normal(size=(n, 20)) + types[labels] + shifts[batches]
    codes = before - 0.8 * shifts[batches]
    one = {"set": "simulated", "of": "codes", "seed": 0, "labels": labels.astype(str)}
    arrays = {"before": before.astype(np.float32), "codes": codes.astype(np.float32)}
    return {**one, **arrays, "batches": batches.astype(str)}


def compared(one: dict[str, Any], near: tuple[np.ndarray, np.ndarray], peer: Any) -> dict[str, Any]:
    """Both values of every score of one embedding."""
    known = {name: one[name] for name in ("labels", "batches", "before")}
    start = time.process_time()
    ours = evaluate.integration_scores(one["codes"], **known, neighbours=near, clusters=peer["clusters"])
    seconds = time.process_time() - start
    theirs = dict(zip(peer["names"], peer["exact"], strict=True))
    both = {name: (ours[name], float(theirs[of])) for name, of in NAMES.items()}
    fifty = tuple(array[:, :50] for array in near)
    both["kBET on all cells"] = (evaluate.kbet(fifty[0], one["batches"]), float(peer["kbet_all"]))
    own = float(dict(zip(peer["names"], peer["own"], strict=True))["kbet_per_label"])
    graph = sp.csr_matrix((peer["data"], peer["indices"], peer["indptr"]), shape=[len(near[0])] * 2)
    return {
        "both": both,
        "kbet, as it comes": own,
        "graph": abs(evaluate.fuzzy_graph(fifty) - graph).max(),
        "seconds": (seconds, float(peer["seconds"])),
        "versions": str(peer["versions"]),
    }


def section(name: str, runs: list[dict[str, Any]]) -> list[str]:
    """One data set: both values for the first seed of each embedding, differences over all."""
    first = [run for run in runs if run["seed"] == 0]
    lines = [f"## {WORDS[name]}", ""]
    head = [f"{run['of']}: chreode | scib-metrics | difference" for run in first]
    lines += [
        f"| score | {' | '.join(head)} | largest difference of {len(runs)} |",
        "|---" * (2 + 3 * len(first)) + "|",
    ]
    for score in first[0]["both"]:
        cells = []
        for run in first:
            ours, theirs = run["both"][score]
            cells += [f"{ours:.5f}", f"{theirs:.5f}", f"{abs(ours - theirs):.1e}"]
        largest = max(abs(ours - theirs) for ours, theirs in (run["both"][score] for run in runs))
        lines.append(f"| {score} | {' | '.join(cells)} | {largest:.1e} |")
    as_it_comes = max(abs(run["kbet, as it comes"] - run["both"]["kbet"][0]) for run in runs)
    graph = max(run["graph"] for run in runs)
    seconds = " and ".join(f"{np.median([run['seconds'][i] for run in runs]):.1f}" for i in range(2))
    return [
        *lines,
        "",
        f"kBET of scib-metrics as it comes differs by at most {as_it_comes:.1e}. Weights of the graph differ "
        f"by at most {graph:.1e}. Processor time for all scores, neighbours given: {seconds} s (median; "
        "scib-metrics' after most of its compilation).",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scib-python", default="scib/bin/python")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="keep codes and answers there; none is made again")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        jobs = made(folder, seeds=options.seeds, epochs=options.epochs)
        todo = [str(path) for path in jobs if not path.with_suffix(".out.npz").exists()]
        if todo:
            script = str(Path(__file__).with_name("scib_peer.py"))
            # It allocates by jax and warns a great deal; its own lines are printed.
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run(
                [options.scib_python, script, *todo], check=True, env=environment, stderr=subprocess.DEVNULL
            )
        runs = []
        for path in jobs:
            with np.load(path) as stored, np.load(path.with_suffix(".out.npz")) as peer:
                one = {name: stored[name] for name in stored.files}
                run = compared(one, (one["near"], one["distances"]), peer)
            runs.append({**run, **{key: one[key].item() for key in ("set", "of", "seed")}})
    page(runs, options)


def made(folder: Path, *, seeds: int, epochs: int) -> list[Path]:
    """The jobs of all embeddings, written where they are not yet."""
    jobs = []
    for name in (*SETS, "simulated"):
        marker = folder / f"{name}-jobs.txt"
        if not marker.exists():
            all_of = [simulated()] if name == "simulated" else embeddings(name, seeds=seeds, epochs=epochs)
            paths = [folder / f"{name}-{i}.npz" for i in range(len(all_of))]
            for path, one in zip(paths, all_of, strict=True):
                near, distances = evaluate.neighbourhoods(one["codes"], 90)
                np.savez(path, near=near, distances=distances, **one)
            marker.write_text("\n".join(path.name for path in paths))
        jobs += [folder / line for line in marker.read_text().split()]
    return jobs


def page(runs: list[dict[str, Any]], options: argparse.Namespace) -> None:
    worst = max(abs(ours - theirs) for run in runs for ours, theirs in run["both"].values())
    packages = ("chreode", "numpy", "scipy", "scikit-learn")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    lines = [
        "# The scores of scIB beside scib-metrics",
        "",
        "    python benchmarks/scib_parity.py --scib-python scib/bin/python "
        f"--seeds {options.seeds} --epochs {options.epochs} --out benchmarks/results/scib_parity.md",
        "",
        f"Python {platform.python_version()}, {versions}; peer: {runs[0]['versions']}. One thread.",
        "",
        f"{len(runs)} embeddings: principal components, codes of `scdgd` and `scvi` after {options.epochs} "
        f"epochs ({options.seeds} fit{'s' * (options.seeds > 1)} each), simulated ones. Both are given the "
        "same 90 neighbours and the clusters of scib-metrics' k-means. For its kBET, the search among "
        "diffusion components is made exact, and labels come by size, since 0.5.10 takes no more components "
        "for a label than for the smallest before it. "
        f"**The largest of all differences is {worst:.1e}.**",
        "",
    ]
    for name in dict.fromkeys(run["set"] for run in runs):
        lines += section(name, [run for run in runs if run["set"] == name])
    results.put(lines, options.out)


if __name__ == "__main__":
    main()
