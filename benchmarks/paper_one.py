"""Decoder alone, autoencoder, and encoder on the trained decoder, by the number of training examples.

    python benchmarks/paper_one.py --out benchmarks/results/paper_one.md      # and paper_one.png beside it

After Schuster and Krogh (2021), A manifold learning perspective on representation learning: learning decoder
and representations without an encoder, doi:10.3390/e23111403. Sizes, data and optimisers are our own. Three
ways to train the same decoder (one latent, reconstruction alone, no prior):

- *decoder alone*: `autodecoder(inference="codes")`, codes are parameters; codes of test examples by descent;
- *autoencoder*: `autodecoder(inference="encoder")`;
- *encoder on the decoder*: `chreode.distil` of the first, and its codes moved by 20 steps (`refine=20`).

Data: scikit-learn's digits (8 x 8) and the MNIST test images (28 x 28, of ``../shared/data/images``), pixels
scaled to 0..1; and the bipartite network of `chreode.io.network` (10 regulators, 100 genes, noise 0.1), with
a linear decoder of 10 dimensions, by its load: values per unknown, below 1 of which nothing determines the
regulators. A seed draws the split (of the network, the cells too) and starts the fits; training sets are
nested; everything is scored on test examples that no fit saw: mean squared error of the reconstruction, and
for the network how much of each true regulator linear regression reads out of the codes (cross-validated R²,
mean over regulators).
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch

import chreode as ch
from chreode.io.network import load, network, recovery
from chreode.storage import versions

IMAGES = Path(__file__).resolve().parents[2] / "shared" / "data" / "images"
REGULATORS, GENES = 10, 100
SIZES = {
    "digits": (50, 100, 200, 400, 800, 1297),
    "mnist": (100, 300, 1000),
    "network": (6, 9, 11, 13, 20, 50, 200),
}
EPOCHS = {"digits": 400, "mnist": 400, "network": 2000}
MODELS = {
    "digits": {"dim": 20, "hidden": (100,)},
    "mnist": {"dim": 20, "hidden": (100,)},
    "network": {"dim": REGULATORS, "hidden": ()},
}
METHODS = {
    "decoder": "decoder alone",
    "autoencoder": "autoencoder",
    "distilled": "encoder on the decoder",
    "refined": "encoder on the decoder, 20 steps",
    "pca": "principal components",
}
TITLES = {"digits": "digits", "mnist": "MNIST", "network": "regulatory network"}


def examples(name: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Training examples in random order, test examples, and the truth behind the latter where known."""
    if name == "network":
        cells = network(700, GENES, regulators=REGULATORS, noise=0.1, seed=seed)
        values = np.asarray(cells.X)
        return values[:200], values[200:], np.asarray(cells.obsm["code"])[200:]
    if name == "digits":
        from sklearn.datasets import load_digits

        values, n_test = load_digits().data / 16, 500
    else:
        with gzip.open(IMAGES / "t10k-images-idx3-ubyte.gz") as file:
            values = np.frombuffer(file.read(), dtype=np.uint8, offset=16).reshape(-1, 784) / 255
        n_test = 1000
    order = np.random.default_rng(seed).permutation(len(values))
    values = values[order].astype(np.float32)
    return values[n_test:], values[:n_test], None


def table_of(values: np.ndarray, prefix: str) -> ad.AnnData:
    """Examples as `chreode.read` takes them."""
    obs = pd.DataFrame(index=[f"{prefix}{i}" for i in range(len(values))])
    return ad.AnnData(
        values.copy(), obs=obs, var=pd.DataFrame(index=[f"x{j}" for j in range(values.shape[1])])
    )


def principal(train: np.ndarray, test: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and reconstructions of the test examples by principal components of the training ones."""
    from sklearn.decomposition import PCA

    pca = PCA(min(dim, len(train) - 1)).fit(train)
    codes = pca.transform(test)
    return codes, pca.inverse_transform(codes)


def compare(name: str, n: int, seed: int) -> list[dict[str, object]]:
    """All methods on the first ``n`` training examples."""
    train, test, truth = examples(name, seed)
    cells, held = ch.read(table_of(train[:n], "train"), values="continuous"), table_of(test, "test")
    rows: list[dict[str, object]] = []

    def note(method: str, codes: np.ndarray, decoded: np.ndarray, seconds: float) -> None:
        row = {"data": name, "n": n, "seed": seed, "method": method, "seconds": seconds}
        row["error"] = float(np.mean((decoded - test) ** 2))
        if truth is not None:
            row["recovered"] = float(recovery(codes, truth).mean())
            row["load"] = load(n, GENES, regulators=REGULATORS)
        rows.append(row)

    def fitted(inference: str) -> ch.FittedModel:
        recipe = ch.recipes.autodecoder(inference=inference, **MODELS[name])
        return ch.fit(
            cells, recipe, epochs=EPOCHS[name], seed=seed, validation=0, device="cpu", progress=False
        )

    for method, inference in (("decoder", "codes"), ("autoencoder", "encoder")):
        start = time.process_time()
        model = fitted(inference)
        seconds = time.process_time() - start
        found = model.project(held)
        note(method, found.embedding, found.expected(), seconds)
        if method == "decoder":
            start = time.process_time()
            model = ch.distil(model, epochs=EPOCHS[name], seed=seed, progress=False)
            seconds = time.process_time() - start
            for late, refine in (("distilled", None), ("refined", 20)):
                found = model.project(held, refine=refine)
                note(late, found.embedding, found.expected(), seconds)
    note("pca", *principal(train[:n], test, int(MODELS[name]["dim"])), 0.0)
    return rows


def spread(runs: pd.DataFrame, value: str, few: int) -> str:
    """Markdown: a row for each size, a column for each method; mean and half range over seeds."""
    index = "load" if runs["data"].iloc[0] == "network" else "n"
    lines = [
        f"| {'examples' if index == 'n' else 'examples (load)'} | " + " | ".join(METHODS.values()) + " |"
    ]
    lines.append("|" + "---|" * (1 + len(METHODS)))
    for n, group in runs.groupby("n"):
        first = f"{n}" if index == "n" else f"{n} ({group['load'].iloc[0]:.2f})"
        cells = []
        for method in METHODS:
            values = group.loc[group["method"] == method, value]
            cells.append(f"{values.mean():.{few}f} ± {(values.max() - values.min()) / 2:.{few}f}")
        lines.append(f"| {first} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figure(runs: pd.DataFrame, path: Path) -> None:
    """Error by size for every data set, and recovered regulators by load; bands are the range over seeds."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    panels = [(name, "error") for name in TITLES if name in set(runs["data"])]
    if "network" in set(runs["data"]):
        panels.append(("network", "recovered"))
    drawn, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 3.2), layout="constrained")
    for axis, (name, value) in zip(np.atleast_1d(axes), panels, strict=True):
        some, x = runs[runs["data"] == name], "load" if name == "network" else "n"
        for number, (method, words) in enumerate(METHODS.items()):
            seeds = some[some["method"] == method].groupby(x)[value]
            colour = "0.6" if method == "pca" else f"C{number}"
            axis.plot(
                seeds.mean().index,
                seeds.mean(),
                color=colour,
                marker=".",
                label=words,
                ls="--" if method == "pca" else "-",
            )
            axis.fill_between(seeds.mean().index, seeds.min(), seeds.max(), color=colour, alpha=0.15, lw=0)
        axis.set_xscale("log")
        axis.set_title(TITLES[name])
        axis.set_xlabel("values per unknown (load)" if x == "load" else "training examples")
        axis.set_ylabel("test error (mean square)" if value == "error" else "regulators recovered (R²)")
        if value == "error":
            axis.set_yscale("log")
        if x == "load":
            axis.axvline(1, color="0.8", lw=1, zorder=0)
            axis.set_xticks([0.6, 1, 2, 4], ["0.6", "1", "2", "4"])
            axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    lines, words = np.atleast_1d(axes)[0].get_legend_handles_labels()
    drawn.legend(lines, words, frameon=False, loc="outside lower center", ncols=len(words))
    drawn.savefig(path, dpi=150)


def report(runs: pd.DataFrame, command: str, seeds: list[int]) -> str:
    """The results page."""
    lines = [
        "# Decoder alone, autoencoder, and encoder on the trained decoder",
        "",
        f"`{command}`; {', '.join(f'{k} {v}' for k, v in versions().items())}; seeds {seeds}, mean "
        "± half range.",
        "",
        "Mean squared error of test examples after training on the first so many examples (the same passes "
        f"over the data for every method: {', '.join(f'{TITLES[k]} {v}' for k, v in EPOCHS.items())}; no "
        "early stopping; decoder with one hidden layer of 100 and codes of 20 dimensions for images, linear "
        "with 10 for the network). `benchmarks/paper_one.py` says more.",
        "",
    ]
    if len(set(runs["data"])) == len(TITLES):
        lines += ["![errors by size](paper_one.png)", ""]
    for name in TITLES:
        some = runs[runs["data"] == name]
        if len(some):
            lines += [f"## {TITLES[name]}", "", spread(some, "error", 4), ""]
        if name == "network" and len(some):
            lines += ["How much of the true regulators the codes of test cells hold (R²):", ""]
            lines += [spread(some, "recovered", 3), ""]
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for; write the table and the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, help="CSV of runs: continued when it exists")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, object]] = []
    if options.runs and options.runs.exists():
        rows = pd.read_csv(options.runs).to_dict("records")
    done = {(row["data"], row["n"], row["seed"]) for row in rows}
    for name in options.data:
        for seed in options.seeds:
            for n in SIZES[name]:
                if (name, n, seed) in done:
                    continue
                rows += compare(name, n, seed)
                print(
                    name, seed, n, {r["method"]: round(float(r["error"]), 4) for r in rows[-5:]}, flush=True
                )
                if options.runs:
                    pd.DataFrame(rows).to_csv(options.runs, index=False)
    runs = pd.DataFrame(rows)
    command = f"python benchmarks/paper_one.py --seeds {' '.join(map(str, options.seeds))}"
    page = report(runs, f"{command} --threads {options.threads}", options.seeds)
    print(page)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(page)
        figure(runs, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
