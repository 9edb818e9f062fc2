"""Training steps a second and memory: scDGD, or scVI, beside scvi-tools' SCVI, in one run.

    python benchmarks/step_time.py --peers-python peers/bin/python --out benchmarks/results/step_time.md

Both train by their own loops on the same file: negative binomial, 128 hidden units in one layer, 20 latent
dimensions, minibatches of 128 cells, 20,000 features of which 10 % are not zero; optimiser and data loading
included. SCVI also has an encoder: that is what free codes save; with ``--recipe scvi`` ours has it too, and
``--likelihood`` is that of both sides. Each side runs in a process of its own, its
threads bound to cores, in turn, several times; the ratio is taken turn by turn. Memory is the rise of the
peak resident size above its value just before training (Linux). ``--profile`` prints where our step's time
goes, ``--scale`` our time and memory from 1,000 to 100,000 cells, ``--device cuda`` both on a GPU with our
counts resident there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import results
import scipy.sparse as sp

WIDTHS = {"hidden": 128, "latent": 20, "minibatch": 128}


def simulate(path: Path, *, n_cells: int, n_features: int, density: float, seed: int = 0) -> None:
    """Counts with a given share of non-zeros, features of unequal abundance."""
    rng = np.random.default_rng(seed)
    n_values = int(n_features * density)
    abundance = rng.lognormal(0, 1, n_features)
    odds = abundance / abundance.sum()
    columns = np.concatenate(
        [np.sort(rng.choice(n_features, n_values, replace=False, p=odds)) for _ in range(n_cells)]
    )
    values = rng.geometric(0.4, len(columns)).astype(np.float32)
    crow = np.arange(n_cells + 1) * n_values
    sp.save_npz(path, sp.csr_matrix((values, columns, crow), shape=(n_cells, n_features)), compressed=False)


def resident(field: str) -> float:
    """``VmRSS`` or ``VmHWM`` of this process, in megabytes; not a number outside Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    line = next(text for text in status.read_text().splitlines() if text.startswith(field))
    return int(line.split()[1]) / 1024


def reset_peak() -> float:
    """Forget the peak so far, where the system allows it; the resident size now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("the peak cannot be reset here: memory counts what came before, too", file=sys.stderr)
    return resident("VmRSS")


def recipe_of(name: str, likelihood: str) -> Any:
    """What our side trains, as wide as the other's."""
    import chreode as ch

    widths = {"hidden": (WIDTHS["hidden"],), "dim": WIDTHS["latent"], "likelihood": likelihood}
    return ch.recipes.scvi(**widths) if name == "scvi" else ch.recipes.scdgd(components=10, **widths)


def ours(
    path: Path, *, epochs: int, device: str, precision: str, recipe: str, likelihood: str
) -> dict[str, float]:
    """Steps a second of `chreode.fit`, the first epoch left out, and memory."""
    # What training imports is loaded before, as it is on the other side: memory is that of the training.
    import anndata as ad
    import lightning_fabric  # noqa: F401
    import numba  # noqa: F401
    import sklearn.decomposition
    import sklearn.neighbors  # noqa: F401

    import chreode as ch

    cells = ch.read(ad.AnnData(sp.load_npz(path)))
    made = recipe_of(recipe, likelihood)
    before = reset_peak()
    how = {"device": device, "precision": precision, "progress": False}
    model = ch.fit(cells, made, epochs=epochs, validation=0, **how)
    seconds = np.diff(model.history["seconds"].to_numpy())
    # The epoch after which the components are placed holds an event, not only steps.
    plain = seconds[model.history["event"].to_numpy()[1:] == ""]
    steps = -(-len(cells) // WIDTHS["minibatch"])
    return {
        "steps_per_second": steps / float(np.median(plain)),
        "memory": resident("VmHWM") - before,
        "seconds": float(model.history["seconds"].iloc[-1]),
    }


def theirs(path: Path, *, epochs: int, device: str, likelihood: str) -> dict[str, float]:
    """Steps a second of SCVI's own training, the first epoch left out, and memory."""
    import logging
    import warnings

    import anndata as ad
    import scvi
    from lightning.pytorch.callbacks import Callback

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    ticks: list[float] = []

    class Clock(Callback):
        def on_train_epoch_end(self, *_: object) -> None:
            ticks.append(time.perf_counter())

    adata = ad.AnnData(sp.load_npz(path))
    scvi.model.SCVI.setup_anndata(adata)
    model = scvi.model.SCVI(
        adata, n_hidden=WIDTHS["hidden"], n_latent=WIDTHS["latent"], n_layers=1, gene_likelihood=likelihood
    )
    before = reset_peak()
    start = time.perf_counter()
    model.train(
        max_epochs=epochs,
        train_size=1.0,
        batch_size=WIDTHS["minibatch"],
        accelerator="gpu" if device == "cuda" else "cpu",
        callbacks=[Clock()],
        enable_progress_bar=False,
    )
    steps = -(-adata.n_obs // WIDTHS["minibatch"])
    return {
        "steps_per_second": steps / float(np.median(np.diff(ticks))),
        "memory": resident("VmHWM") - before,
        "seconds": time.perf_counter() - start,
    }


def profile(path: Path, *, recipe: str, likelihood: str, steps: int = 20) -> str:
    """A table of what our training step spends its time on."""
    import anndata as ad
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    import chreode as ch
    from chreode.objective import Step
    from chreode.optim import CodeAdam, codebooks, optimiser
    from chreode.rounding import rounding, rounds_fast

    cells = ch.read(ad.AnnData(sp.load_npz(path)))
    build = recipe_of(recipe, likelihood).build(cells.layout)
    step, adam = Step(build.model, build.objective).train(), optimiser(build.model, build.plan)
    codes = [CodeAdam(book, lr=1e-2) for book in codebooks(build.model).values()]

    def one(number: int) -> None:
        rows = torch.arange(number * 128, (number + 1) * 128) % len(cells)
        values = step(cells[rows], 128.0)
        adam.zero_grad(set_to_none=True)
        (-128.0 * torch.stack(list(values.values())).sum()).backward()
        adam.step()
        for code in codes:
            code.step()

    with rounding(build.model, on=rounds_fast(torch.device("cpu"))):
        for number in range(5):
            one(number)
        with watch(activities=[ProfilerActivity.CPU]) as seen:
            for number in range(steps):
                one(number)
    return seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=45)


def worker(
    python: str, side: str, path: Path, options: argparse.Namespace, **more: object
) -> dict[str, float]:
    """One side in a process of its own."""
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in more.items()]
    command = [
        python,
        __file__,
        "--worker",
        side,
        "--file",
        str(path),
        f"--threads={options.threads}",
        *flags,
    ]
    for name in ("device", "precision", "recipe", "likelihood"):
        command.append(f"--{name}={getattr(options, name)}")
    # Threads stay on their cores, on both sides: now and then a scheduler runs two on one, for a whole run.
    environment = {**os.environ, "OMP_PROC_BIND": "true"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(options: argparse.Namespace, folder: Path) -> list[str]:
    """Both sides in turn; a table of medians and the ratio of each turn."""
    path = folder / "counts.npz"
    simulate(path, n_cells=options.cells, n_features=options.features, density=0.1)
    rows = []
    for turn in range(options.turns):
        a = worker(sys.executable, "ours", path, options, epochs=options.epochs)
        b = worker(options.peers_python, "theirs", path, options, epochs=options.epochs)
        rows.append((a, b, a["steps_per_second"] / b["steps_per_second"]))
        print(turn, a, b, flush=True)

    def middle(side: int, key: str) -> str:
        values = [row[side][key] for row in rows]
        return f"{np.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"

    ratios = [row[2] for row in rows]
    share = [row[0]["memory"] / row[1]["memory"] for row in rows]
    return [
        "| | steps a second | ms a step | memory rise, MB |",
        "|---|---|---|---|",
        *(
            f"| {name} | {middle(side, 'steps_per_second')} | "
            f"{1e3 / np.median([row[side]['steps_per_second'] for row in rows]):.1f} | "
            f"{middle(side, 'memory')} |"
            for side, name in enumerate((f"chreode {options.recipe}", "scvi-tools SCVI"))
        ),
        "",
        f"Steps a second, ours over theirs, turn by turn: median {np.median(ratios):.1f} "
        f"({', '.join(f'{r:.1f}' for r in ratios)}). Memory, ours over theirs: {np.median(share):.2f}.",
    ]


def scale(options: argparse.Namespace, folder: Path) -> list[str]:
    """Our time and memory by the number of cells."""
    lines = [
        "| cells | seconds (5 epochs) | seconds per 1,000 cells | memory rise, MB |",
        "|---|---|---|---|",
    ]
    for n_cells in (1_000, 3_000, 10_000, 30_000, 100_000):
        path = folder / f"{n_cells}.npz"
        simulate(path, n_cells=n_cells, n_features=2_000, density=0.1)
        row = worker(sys.executable, "ours", path, options, epochs=5)
        lines.append(
            f"| {n_cells:,} | {row['seconds']:.1f} | {1e3 * row['seconds'] / n_cells:.2f} | "
            f"{row['memory']:.0f} |"
        )
        print(lines[-1], flush=True)
        path.unlink()
    return lines


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers-python")
    parser.add_argument("--worker", choices=("ours", "theirs"))
    parser.add_argument("--file", type=Path)
    parser.add_argument("--cells", type=int, default=2_560)
    parser.add_argument("--features", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto", help="of our side; see chreode.fit")
    parser.add_argument("--recipe", choices=("scdgd", "scvi"), default="scdgd")
    parser.add_argument("--likelihood", choices=("nb", "zinb", "poisson"), default="nb")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--scale", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    if options.worker:
        how = {"epochs": options.epochs, "device": options.device, "likelihood": options.likelihood}
        if options.worker == "ours":
            ran = ours(options.file, **how, precision=options.precision, recipe=options.recipe)
            print(json.dumps(ran))
        else:
            print(json.dumps(theirs(options.file, **how)))
        return
    lines = ["# Steps a second and memory", ""]
    lines += [
        f"`python benchmarks/step_time.py {' '.join(sys.argv[1:])}`; {platform.machine()}, {options.threads} "
        f"threads bound to cores, torch {torch.__version__}, {options.device}.",
        "",
    ]
    with tempfile.TemporaryDirectory() as folder:
        if options.peers_python:
            lines += compare(options, Path(folder))
        if options.profile:
            path, what = (
                Path(folder) / "profile.npz",
                {"recipe": options.recipe, "likelihood": options.likelihood},
            )
            simulate(path, n_cells=1_280, n_features=options.features, density=0.1)
            lines += ["", "Where the time of our step goes:", "", "```", profile(path, **what), "```"]
        if options.scale:
            lines += ["", *scale(options, Path(folder))]
    results.put(lines, options.out)


if __name__ == "__main__":
    main()
