"""The linear family: are simulated factors found, and are closed forms those of scikit-learn?

    python benchmarks/linear.py --peers-python peers/bin/python --out benchmarks/results/linear.md

*MOFA.* 500 cells, two Gaussian views of 200 and 100 features with noise of variance 1. Of five factors two
are of both views, two of the first, one of the second; half of a factor's weights are zero. A tenth of the
entries is missing, and a fifth of the cells lack the second view. Both methods may use 12 factors and are
told nothing. Found factors are matched to true ones by the correlation of codes, of which *codes* is the
mean and *worst* the least; *loadings* is the correlation of the matched factors' weights with the true
ones. A factor is active in a view where it explains at least 0.1 % of its variance. *Error* is the mean
squared error of the missing entries of cells that have the view. mofapy2 runs at its defaults but for
``convergence_mode="medium"``. Seconds are of the processor, since the machine is shared.

*ZIFA.* 600 cells, 60 features, three factors; values drop out with probability exp(-0.1 y^2). *Explained*
is the share of the true factors' variance that a linear map of the codes explains, with three dimensions
each.

*Closed forms.* pca beside scikit-learn's and scanpy's on the counts of PBMC 68k (log1p of counts scaled to
10,000), factor_analysis beside scikit-learn's on the same values: the sine of the largest angle between the
subspaces, and nats a cell.

*Two real views.* 7,839 cord blood cells (2,463 genes, 10 proteins, counts both), of which a tenth is
tested: what the factors explain, the gain over the mean profile in nats per held-out molecule of tested
cells, and how well the type is told by 15 neighbours of the fitted cells' codes in five folds, beside the
principal components of the RNA.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import results
from scipy.linalg import subspace_angles
from scipy.optimize import linear_sum_assignment

import chreode as ch

ACTIVE = (("one", 200, (0, 1, 2, 3)), ("two", 100, (0, 1, 4)))
LEAST = 1e-3
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "cbmc_citeseq.h5mu"


def simulated(seed: int, *, n: int = 500) -> dict[str, Any]:
    """Two views, their weights, their factors, and which entries are missing."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 5))
    views, weights, missing = {}, {}, {}
    for name, g, active in ACTIVE:
        w = np.zeros((g, 5))
        w[:, active] = rng.normal(size=(g, len(active))) * (rng.random((g, len(active))) < 0.5)
        views[name], weights[name] = z @ w.T + rng.normal(size=(n, g)), w
        missing[name] = rng.random((n, g)) < 0.1
    lack = rng.random(n) < 0.2
    missing["two"][lack] = True
    return {"z": z, "views": views, "weights": weights, "missing": missing, "lack": lack}


def named(values: np.ndarray, prefix: str) -> Any:
    """An AnnData whose cells and features have names."""
    from anndata import AnnData

    adata = AnnData(values.astype(np.float32))
    adata.obs_names = [f"cell {i}" for i in range(len(values))]
    adata.var_names = [f"{prefix} {j}" for j in range(values.shape[1])]
    return adata


def ours(truth: dict[str, Any], *, seed: int) -> dict[str, Any]:
    """mofa on the views with what is missing as NaN."""
    import mudata

    gone = {m: np.where(truth["missing"][m], np.nan, x) for m, x in truth["views"].items()}
    with mudata.set_options(pull_on_update=False):
        both = mudata.MuData({m: named(x, m) for m, x in gone.items()})
    cells = ch.read(both, values=dict.fromkeys(gone, "continuous"))
    begin = time.process_time()
    model = ch.fit(cells, ch.recipes.mofa(dim=12), validation=0, seed=seed, progress=False)
    seconds = time.process_time() - begin
    return {
        "z": model.embedded.embedding,
        "weights": [ch.loadings(model, m).to_numpy() for m in gone],
        "filled": [model.embedded.expected(m) for m in gone],
        "explained": ch.variance_explained(model).drop("total").to_numpy().T,
        "seconds": seconds,
    }


def peer(python: str, truths: dict[int, dict[str, Any]], folder: Path) -> dict[int, dict[str, Any]]:
    """mofapy2 on the same views."""
    jobs = {}
    for seed, truth in truths.items():
        jobs[seed] = folder / f"mofa{seed}.npz"
        gone = [np.where(truth["missing"][m], np.nan, x) for m, x in truth["views"].items()]
        np.savez(jobs[seed], view0=gone[0], view1=gone[1], dim=12, seed=seed)
    script = str(Path(__file__).resolve().parent / "linear_peer.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    todo = [str(p) for p in jobs.values() if not p.with_suffix(".out.npz").exists()]
    if todo:
        subprocess.run([python, script, *todo], check=True, env=environment, stdout=subprocess.DEVNULL)
    found = {}
    for seed, path in jobs.items():
        out = np.load(path.with_suffix(".out.npz"))
        found[seed] = {
            "z": out["z"],
            "weights": [out["weight0"], out["weight1"]],
            "filled": [out["filled0"], out["filled1"]],
            "explained": out["explained"],
            "seconds": float(out["seconds"]),
        }
    return found


def judged(found: dict[str, Any], truth: dict[str, Any]) -> dict[str, Any]:
    """What the docstring says, of one fit."""
    z, codes = truth["z"], found["z"]
    moves = codes.std(0) > 1e-6  # a factor that is off has no correlation, whatever rounding says
    r = np.zeros((z.shape[1], codes.shape[1]))
    r[:, moves] = np.abs(np.corrcoef(z.T, codes[:, moves].T)[: z.shape[1], z.shape[1] :])
    rows, columns = linear_sum_assignment(-r)
    row: dict[str, Any] = {"codes": r[rows, columns].mean(), "worst": r[rows, columns].min()}
    pairs: list[float] = []
    for (m, _, active), w in zip(ACTIVE, found["weights"], strict=True):
        pairs += [abs(np.corrcoef(truth["weights"][m][:, k], w[:, columns[k]])[0, 1]) for k in active]
    row["loadings"] = float(np.nanmean(pairs))
    for at, (m, _, _) in enumerate(ACTIVE):
        row[f"active {m}"] = int((found["explained"][at] > LEAST).sum())
        row[f"explained {m}"] = 100 * float(found["explained"][at].sum())
        here = truth["missing"][m].copy()
        if m == "two":
            here &= ~truth["lack"][:, None]
        row[f"error {m}"] = float(((found["filled"][at] - truth["views"][m])[here] ** 2).mean())
    return {**row, "seconds": found["seconds"]}


def mofa_table(python: str | None, seeds: list[int], folder: Path) -> str:
    """MOFA beside mofapy2."""
    truths = {seed: simulated(seed) for seed in seeds}
    runs = [{"method": "chreode mofa", "seed": s, **judged(ours(t, seed=s), t)} for s, t in truths.items()]
    if python:
        peers = peer(python, truths, folder)
        runs += [{"method": "mofapy2 0.7.5", "seed": s, **judged(peers[s], truths[s])} for s in seeds]
    frame = pd.DataFrame(runs)
    columns = {name: name for name in frame.columns if name not in ("method", "seed")}
    table = results.table(frame, by=["method"], columns=columns)
    noise = [
        np.mean(
            [
                ((t["views"][m] - t["z"] @ t["weights"][m].T)[t["missing"][m]] ** 2).mean()
                for t in truths.values()
            ]
        )
        for m, _, _ in ACTIVE
    ]
    return (
        table
        + f"\n\nTrue: 4 and 3 active factors; noise of the missing entries {noise[0]:.3f} and {noise[1]:.3f}."
    )


def dropped(seed: int, *, n: int = 600, g: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Values of which the small ones dropped out, and the factors behind them."""
    rng = np.random.default_rng(seed)
    z, w = rng.normal(size=(n, 3)), rng.uniform(-0.8, 0.8, (g, 3))
    y = z @ w.T + rng.uniform(1.5, 4, g) + 0.5 * rng.normal(size=(n, g))
    return np.where(rng.random((n, g)) < np.exp(-0.1 * y**2), 0, y), z


def zifa_table(seeds: list[int]) -> str:
    """How much of the true factors codes explain, where zeros are inflated."""
    runs = []
    for seed in seeds:
        values, z = dropped(seed)
        cells = ch.read(named(values, "gene"), values="continuous")
        for name in ("zifa", "factor_analysis", "pca"):
            begin = time.process_time()
            model = ch.fit(cells, getattr(ch.recipes, name)(dim=3), validation=0, seed=seed, progress=False)
            seconds = time.process_time() - begin
            codes = np.c_[model.embedded.embedding, np.ones(len(z))]
            rest = z - codes @ np.linalg.lstsq(codes, z, rcond=None)[0]
            row = {"method": name, "seed": seed, "zeros": (values == 0).mean(), "seconds": seconds}
            row["explained"] = 1 - (rest.var(0) / z.var(0)).mean()
            if name == "zifa":
                row["decay"] = float(model.module.decoder.readout.heads["rna"].log_decay.exp())
            runs.append(row)
    columns = {c: c for c in ("explained", "decay", "zeros", "seconds")}
    return results.table(pd.DataFrame(runs), by=["method"], columns=columns)


def closed_table(*, dim: int = 10) -> str:
    """pca and factor_analysis beside scikit-learn and scanpy."""
    import scanpy as sc
    from data import load
    from sklearn.decomposition import PCA, FactorAnalysis

    adata = load("pbmc68k")
    cells = ch.read(adata)
    logged = results.log_normalise(adata.X).toarray()
    lines = [f"| chreode | beside | compared | found |\n|{'---|' * 4}"]
    model = ch.fit(cells, ch.recipes.pca(dim=dim), validation=0, epochs=1, progress=False)
    ours = ch.loadings(model).to_numpy().astype(float)
    exact = PCA(dim, svd_solver="full").fit(logged)
    copy = adata.copy()
    sc.pp.normalize_total(copy, target_sum=1e4)
    sc.pp.log1p(copy)
    sc.pp.pca(copy, n_comps=dim, svd_solver="arpack")
    for name, axes in (
        ("scikit-learn PCA (full)", exact.components_.T),
        ("scanpy pca (arpack)", copy.varm["PCs"]),
    ):
        sine = float(np.sin(subspace_angles(ours, np.asarray(axes, dtype=float)).max()))
        lines.append(f"| pca | {name} | sine of the largest angle | {sine:.1e} |")
    scores = exact.transform(logged)
    signs = np.sign((scores * model.embedded.embedding).sum(0))
    worst = np.abs(model.embedded.embedding - scores * signs).max() / scores.std(0).max()
    lines.append(
        f"| pca | scikit-learn PCA (full) | largest difference of codes / sd of PC 1 | {worst:.1e} |"
    )
    varies = logged.var(0) > 0
    begin = time.process_time()
    model = ch.fit(cells, ch.recipes.factor_analysis(dim=dim), validation=0, epochs=1, progress=False)
    mine = time.process_time() - begin
    begin = time.process_time()
    other = FactorAnalysis(dim, tol=1e-8, max_iter=3000, svd_method="lapack").fit(logged[:, varies])
    theirs = time.process_time() - begin
    line = model.module.latents["cell"].infer.linear("rna")
    mean, w, noise = (v.double().numpy()[varies] for v in line[:3])
    centred = logged[:, varies] - mean
    covariance = w @ w.T + np.diag(noise)
    _, logdet = np.linalg.slogdet(covariance)
    quad = (centred * np.linalg.solve(covariance, centred.T).T).sum(1).mean()
    value = -0.5 * (quad + logdet + varies.sum() * np.log(2 * np.pi))
    reference = other.score(logged[:, varies])
    lines.append(
        f"| factor_analysis | scikit-learn FactorAnalysis | log density, nats a cell | {value:.3f} beside "
        f"{reference:.3f} |"
    )
    lines.append(
        "| factor_analysis | scikit-learn FactorAnalysis | processor seconds | "
        f"{mine:.1f} beside {theirs:.1f} |"
    )
    return "\n".join(lines)


def real_table(seeds: list[int]) -> str:
    """MOFA on RNA and proteins."""
    import mudata
    from sklearn.model_selection import cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    with mudata.set_options(pull_on_update=False):
        mdata = mudata.read_h5mu(DATA)
    types = mdata.obs["cell_type"].astype(str).to_numpy()
    keep = ~np.isin(types, ("Mouse", "Unknown"))
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.MuData({m: mdata[m][keep].copy() for m in ("rna", "prot")})
    runs, tables = [], []
    for seed in seeds:
        tested = np.random.default_rng(seed).random(mdata.n_obs) < 0.1
        with mudata.set_options(pull_on_update=False):
            fitted, other = (
                mudata.MuData({m: mdata[m][rows].copy() for m in ("rna", "prot")})
                for rows in (~tested, tested)
            )
        begin = time.process_time()
        model = ch.fit(ch.read(fitted), ch.recipes.mofa(), seed=seed, progress=False)
        seconds = time.process_time() - begin
        found = ch.variance_explained(model)
        pcs = results.principal(fitted["rna"].X.tocsr(), n=15)[0]
        for name, codes in (("mofa", model.embedded.embedding), ("PCs of RNA", pcs)):
            told = cross_val_score(KNeighborsClassifier(15), codes, types[keep][~tested], cv=5).mean()
            runs.append({"codes": name, "seed": seed, "neighbour accuracy": told})
        runs[-2] |= {
            "factors": int((model.embedded.embedding.std(0) > 1e-6).sum()),
            "RNA explained, %": 100 * found.loc["total", "rna"],
            "proteins explained, %": 100 * found.loc["total", "prot"],
            **{f"gain, {m}": model.score(other, modality=m)["gain"] for m in ("rna", "prot")},
            "seconds": seconds,
        }
        tables.append(100 * found)
    frame = pd.DataFrame(runs)
    columns = {c: c for c in frame.columns if c not in ("codes", "seed")}
    text = results.table(frame, by=["codes"], columns=columns)
    lines = ["| factor | RNA, % | proteins, % |", "|---|---|---|"]
    lines += [f"| {k} | {row.rna:.2f} | {row.prot:.2f} |" for k, row in tables[0].iterrows()]
    return text + f"\n\nOf the variance, by factor (seed {seeds[0]}):\n\n" + "\n".join(lines)


PARTS = {
    "mofa": ("MOFA beside mofapy2 0.7.5", lambda seeds, python, work: mofa_table(python, seeds, work)),
    "zifa": ("ZIFA, where zeros are inflated", lambda seeds, *_: zifa_table(seeds)),
    "closed": ("Closed forms", lambda *_: closed_table()),
    "real": ("Two real views", lambda seeds, *_: real_table(seeds)),
}


def main() -> None:
    """Run all, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers-python")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, help="a folder that keeps what is done, to go on from")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    with tempfile.TemporaryDirectory() as folder:
        work = asked.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        for name in asked.parts:
            done = work / f"{name}.md"
            if not done.exists():
                done.write_text(PARTS[name][1](asked.seeds, asked.peers_python, work))
        texts = {PARTS[name][0]: (work / f"{name}.md").read_text() for name in asked.parts}
    command = "python benchmarks/linear.py --peers-python peers/bin/python --out benchmarks/results/linear.md"
    if asked.out:
        results.write(asked.out, title="The linear family", command=command, parts=texts)
    for name, text in texts.items():
        print(f"\n## {name}\n\n{text}")


if __name__ == "__main__":
    main()
