"""An encoder or not, and how the decoder was trained: five models with one decoder, by the number of cells.

    python benchmarks/encoder_or_not.py --folder kept --out benchmarks/results/encoder_or_not.md

The deep generative decoder (point codes under a mixture), free Gaussians (VAD) under a standard normal
prior and under a mixture, and an encoder's Gaussians (VAE) under the same two priors. All have one decoder:
20 dimensions, one hidden layer of 100, negative binomial counts. Each has four settings to choose from
(`SETTINGS`): the one with the fewest nats per held-out molecule of *validation* cells, of 1,000 cells in a
split of its own, is taken for the data set; test cells and labels choose nothing.

A seed draws the split: a tenth of all cells is tested, and of the others the first so many, in a random
order of the seed's own, are fitted, nested by size. Test cells' codes are inferred from a binomial half of
their molecules and the other half is scored, as the gain over the mean profile of the fitted cells in nats
per held-out molecule. Encoder models are scored twice: by the encoder's own answer, and after test codes
were optimised under the frozen decoder until they gained no more, as free codes are. The first difference
is the amortisation gap; what is left between the optimised codes of two models is how the decoder was
trained.

Each finished fit is kept in ``--folder``, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import data
import numpy as np
import results
import torch

import chreode as ch
from chreode import posthoc
from chreode.evaluate import neighbour_accuracy
from chreode.evaluate.fidelity import mean_profile_nats
from chreode.held_out import halves, nats
from chreode.io.read import read

if TYPE_CHECKING:
    from chreode.cells import Cells

DECODER = {"dim": 20, "hidden": (100,), "likelihood": "nb"}
SIZES = (100, 300, 1000, 3000, None)
_RATES = [{"code_lr": rate} for rate in (1e-3, 3e-3, 1e-2, 3e-2)]
_ENCODERS = [{"dropout": d, "warm_up": w} for d, w in product((0.0, 0.1), (0.1, 0.25))]
MODELS = {
    "DGD": ("scdgd", {}),
    "VAD": ("vad", {}),
    "VAD, mixture": ("vad", {"mixture": True}),
    "VAE": ("vae", {}),
    "VAE, mixture": ("scvae", {}),
}
SETTINGS = {
    "DGD": [{"code_lr": rate, "noise": noise} for rate, noise in product((3e-3, 1e-2), (0.0, 0.3))],
    "VAD": _RATES,
    "VAD, mixture": _RATES,
    "VAE": _ENCODERS,
    "VAE, mixture": _ENCODERS,
}
TITLES = {"bmmc": "bone marrow, 529 genes", "cbmc": "cord blood, 2,463 genes"}


def recipe(name: str, setting: dict[str, float]) -> ch.Recipe:
    """The model with a setting."""
    function, more = MODELS[name]
    return getattr(ch.recipes, function)(**DECODER, **more, **setting)


def parts(name: str, seed: int, size: int | None) -> tuple[object, object, str, str | None]:
    """The cells to fit, those to test, and their columns."""
    adata, known = data.load(name), data.KNOWN[name]
    order = np.random.default_rng([seed, 17]).permutation(adata.n_obs)
    n_test = round(0.1 * adata.n_obs)
    fit = np.sort(order[n_test:][:size])
    return adata[fit].copy(), adata[np.sort(order[:n_test])].copy(), known.label, known.batch


def fitted(name: str, seed: int, size: int | None, made: ch.Recipe) -> tuple[ch.FittedModel, object]:
    """A fit, and the cells that it did not see."""
    fit, test, label, batch = parts(name, seed, size)
    if batch is not None and size is not None and size <= 100:
        batch = None if fit.obs[batch].value_counts().min() < 5 else batch
    cells = ch.read(fit, batch=batch, label=label)
    return ch.fit(cells, made, seed=seed, progress=False), test


def halved(model: ch.FittedModel, test: object, *, seed: int) -> tuple[Cells, Cells]:
    """Tested cells with the two halves of their molecules."""
    return halves(read(test, like=model), torch.Generator().manual_seed(seed))


def gain_of(model: ch.FittedModel, codes: dict[str, torch.Tensor], second: Cells) -> float:
    """Nats a molecule of the second halves that codes explain beyond the fitted cells' mean profile."""
    fitted = model.embedded.cells[torch.from_numpy(np.flatnonzero(model.embedded.trained))]
    profile = mean_profile_nats(fitted.measured["rna"].scipy(), second.measured["rna"].scipy())
    with torch.no_grad():
        spent, on = nats(model.module.trace(codes, second).observed["rna"], second, "rna")
    return profile - spent / on


def gains(model: ch.FittedModel, test: object, *, seed: int) -> dict[str, float]:
    """Gain over the mean profile in nats per held-out molecule, and seconds by 1,000 cells, both ways."""
    first, second = halved(model, test, seed=seed)
    ways = {"own": None, "optimised": None if model.module.latents["cell"].infer.free else 300}
    found = {}
    for way, refine in ways.items():
        start = time.perf_counter()
        codes = posthoc.project(model.module, first, refine=refine)
        found[f"{way} seconds"] = 1e3 * (time.perf_counter() - start) / len(first)
        found[way] = gain_of(model, codes, second)
    return found


def chosen(name: str, model: str, folder: Path) -> dict[str, float]:
    """The setting with the fewest nats on validation cells of a split of its own."""
    path = folder / f"{name}-{model}-setting.json"
    if not path.exists():
        looks = []
        for setting in SETTINGS[model]:
            made, _ = fitted(name, 1000, 1000, recipe(model, setting))
            looks.append(float(made.history["validation"].min()))
        path.write_text(json.dumps({"settings": SETTINGS[model], "nats": looks}))
    read = json.loads(path.read_text())
    return read["settings"][int(np.argmin(read["nats"]))]


def run(name: str, model: str, size: int | None, seed: int, folder: Path) -> dict[str, float]:
    """One fit and its scores, unless it is there already."""

    def compute() -> dict[str, float]:
        made, test = fitted(name, seed, size, recipe(model, chosen(name, model, folder)))
        labels = made.embedded.level_names(data.KNOWN[name].label)
        return {
            **gains(made, test, seed=seed),
            "neighbours": neighbour_accuracy(made.embedded.embedding, labels, seed=seed),
            "epochs": len(made.history),
            "seconds": float(made.history["seconds"].iloc[-1]),
        }

    return results.kept(folder / f"{name}-{model}-{size or 'all'}-{seed}.json", compute)


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}"


def lines_of(name: str, found: dict[tuple, list[dict[str, float]]], sizes: list[int | None]) -> list[str]:
    """The tables of one data set."""
    head = ["| cells | " + " | ".join(MODELS) + " |", "|---" * (len(MODELS) + 1) + "|"]
    text = []
    for key, what in {
        "optimised": "Test codes optimised under the frozen decoder: gain, nats a held-out molecule.",
        "own": "Test codes by each model's own inference: gain, nats a held-out molecule.",
        "neighbours": "Labels of the fitted cells told by 15 neighbours.",
    }.items():
        rows = [
            f"| {size or 'all'} | " + " | ".join(
                spread([run[key] for run in found[name, model, size]]) for model in MODELS
            ) + " |"
            for size in sizes
        ]  # fmt: skip
        text += [what, "", *head, *rows, ""]
    text += [
        "Differences of the same seeds, with 95 % intervals: what the encoder costs at test time (optimised "
        "less own), and what training with an encoder does to the decoder (VAE less VAD, both optimised).",
        "",
        "| cells | amortisation gap, VAE | the same, mixture | decoder: VAE less VAD | the same, mixtures |",
        "|---|---|---|---|---|",
    ]
    for size in sizes:
        values = {
            (m, k): [run[k] for run in found[name, m, size]] for m in MODELS for k in ("own", "optimised")
        }
        text.append(
            f"| {size or 'all'} | {results.paired(values['VAE', 'optimised'], values['VAE', 'own'])} | "
            f"{results.paired(values['VAE, mixture', 'optimised'], values['VAE, mixture', 'own'])} | "
            f"{results.paired(values['VAE', 'optimised'], values['VAD', 'optimised'])} | "
            f"{results.paired(values['VAE, mixture', 'optimised'], values['VAD, mixture', 'optimised'])} |"
        )
    return [*text, ""]


def figure(path: Path, found: dict[tuple, list[dict[str, float]]], names: list[str], sizes: list) -> None:
    """Gain against the number of cells: optimised codes solid, the encoder's own dashed."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    drawing, axes = plt.subplots(1, len(names), figsize=(5 * len(names), 4), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        whole = round(0.9 * data.load(name).n_obs)
        at = [size or whole for size in sizes]
        for number, model in enumerate(MODELS):
            for key, line in (("optimised", "-"), ("own", "--")):
                if key == "own" and not model.startswith("VAE"):
                    continue
                mean = [np.mean([r[key] for r in found[name, model, size]]) for size in sizes]
                label = model if key == "optimised" else f"{model}, encoder's answer"
                axis.plot(at, mean, line, color=f"C{number}", marker="o", markersize=3, label=label)
        axis.set(xscale="log", xlabel="cells fitted", title=TITLES.get(name, name))
        axis.set_ylabel("gain, nats a held-out molecule")
    axes[0][0].legend(fontsize=7)
    drawing.tight_layout()
    drawing.savefig(path, dpi=150)


def main() -> None:
    """Fit what is not there yet, then write the tables and the figure."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--folder", type=Path, required=True, help="of finished fits")
    parser.add_argument("--datasets", nargs="+", default=["bmmc", "cbmc"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--sizes", nargs="+", type=int, default=None, help="0 for all cells")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    options.folder.mkdir(parents=True, exist_ok=True)
    sizes = list(SIZES) if options.sizes is None else [size or None for size in options.sizes]
    found: dict[tuple, list[dict[str, float]]] = {}
    for name, seed, size, model in product(options.datasets, options.seeds, sizes, MODELS):
        found.setdefault((name, model, size), []).append(run(name, model, size, seed, options.folder))
    pages = {}
    for name in options.datasets:
        settings = ", ".join(f"{model} {chosen(name, model, options.folder)}" for model in MODELS)
        lines = [*lines_of(name, found, sizes), f"Settings chosen on validation molecules: {settings}."]
        pages[f"{TITLES.get(name, name)} (`{name}`)"] = "\n".join(lines)
    print("\n\n".join(pages.values()))
    if options.out:
        figure(options.out.with_suffix(".png"), found, options.datasets, sizes)
        pages = {"Figure": f"![gain by number of cells]({options.out.stem}.png)", **pages}
        command = f"python benchmarks/encoder_or_not.py --folder kept --datasets {' '.join(options.datasets)}"
        meant = f"Seeds {options.seeds}, mean ± standard deviation"
        results.write(options.out, title="An encoder or not", command=command, parts=pages, spread=meant)


if __name__ == "__main__":
    main()
