"""What several comparisons share: the peer's runs, spreads over seeds, and the file of a result."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scvi_fit import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

__all__ = [
    "FOLDER",
    "job",
    "kept",
    "log_normalise",
    "options",
    "paired",
    "principal",
    "put",
    "run_peer",
    "save",
    "show",
    "table",
    "write",
]

FOLDER = Path(__file__).resolve().parent / "results"
READING = "\n## Reading\n"


def job(
    path: Path,
    *,
    train: sp.csr_matrix,
    other: sp.csr_matrix,
    seed: int,
    epochs: int,
    n_samples: int = 0,
    n_latent: int = 20,
) -> Path:
    """Write one job for `scvi_fit.py`."""
    numbers = {"seed": seed, "epochs": epochs, "n_latent": n_latent, "n_samples": n_samples}
    np.savez(path, **pack("train", train), **pack("other", other), **numbers)
    return path


def run_peer(python: str, jobs: Sequence[Path], *, script: str = "scvi_fit.py") -> list[Path]:
    """Run the jobs that have no result yet, in the peers' environment; where the results are."""
    script = str(Path(__file__).resolve().parent / script)
    found = [path.with_suffix(".out.npz") for path in jobs]
    todo = [str(path) for path, out in zip(jobs, found, strict=True) if not out.exists()]
    if todo:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        # The peer's progress and warnings are many; its own lines are printed.
        command = [shutil.which(python) or python, script, *todo]
        subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
    return found


def log_normalise(counts: sp.csr_matrix, *, total: float = 1e4) -> sp.csr_matrix:
    """``log1p`` of counts scaled to one total a cell."""
    size = np.maximum(np.asarray(counts.sum(1), dtype=np.float64).ravel(), 1.0)
    logged = sp.csr_matrix(sp.diags(total / size) @ counts)
    logged.data = np.log1p(logged.data)
    return logged


def principal(train: sp.csr_matrix, *others: sp.csr_matrix, n: int = 20) -> list[np.ndarray]:
    """Principal components of the log-normalised training cells, and the others' places in them."""
    from sklearn.decomposition import PCA

    values = log_normalise(train)
    pca = PCA(n, svd_solver="arpack", random_state=0).fit(values)
    return [pca.transform(values), *(pca.transform(log_normalise(other)) for other in others)]


def table(runs: pd.DataFrame, *, by: Sequence[str], columns: Mapping[str, str], decimals: int = 3) -> str:
    """Markdown: a row for each group in its first order, mean and half range over its runs."""
    lines = [
        f"| {' | '.join([*by, 'seeds', *columns.values()])} |",
        "|" + "---|" * (len(by) + 1 + len(columns)),
    ]
    for keys, group in runs.groupby(list(by), sort=False):
        cells = [*map(str, keys), str(group["seed"].nunique())]
        for column in columns:
            values = group[column].dropna()
            half = (values.max() - values.min()) / 2 if len(values) > 1 else 0.0
            cells.append(f"{values.mean():.{decimals}f} ± {half:.{decimals}f}" if len(values) else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write(
    path: Path,
    *,
    title: str,
    command: str,
    parts: Mapping[str, str],
    python: str | None = None,
    threads: str = "one thread",
    spread: str = "Mean ± half of the range over seeds",
) -> None:
    """Write a result: command, versions, machine, tables; what a person wrote under *Reading* stays."""
    names = ("chreode", "torch", "numpy", "scipy", "scikit-learn", "anndata")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    if python is not None:
        ask = "import scvi, torch; print(f'scvi-tools {scvi.__version__}, torch {torch.__version__}')"
        asked = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True)
        versions += f"; peers' environment: {asked.stdout.strip().splitlines()[-1]}"
    head = (
        f"# {title}\n\n    {command}\n\nPython {platform.python_version()}, {versions}. "
        f"Two shared CPU cores, {threads} a process. {spread}.\n"
    )
    reading = path.read_text().partition(READING)[2] if path.exists() else ""
    body = "".join(f"\n## {name}\n\n{text}\n" for name, text in parts.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + body + (READING + reading if reading else ""))


def kept(path: Path, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Numbers that were computed and kept before, or are now."""
    if not path.exists():
        path.write_text(json.dumps(compute()))
        print(path.stem, path.read_text(), flush=True)
    return json.loads(path.read_text())


def options(doc: str | None, *, peers: str = "", **choices: Sequence[Any]) -> argparse.Namespace:
    """What is asked of a benchmark that keeps its runs: some of each choice, seeds, and folder and table.

    With ``peers``, what they are, it may be told where their Python is. Sets one thread, hides warnings and
    makes the folder.
    """
    import torch

    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, values in (choices | {"seeds": [0, 1, 2]}).items():
        parser.add_argument(f"--{name}", nargs="+", type=type(values[0]), default=list(values))
    if peers:
        parser.add_argument("--peers-python", help=f"with {peers}; without, nothing is put beside ours")
    parser.add_argument("--folder", type=Path, required=True, help="where finished runs are kept")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    return asked


def show(out: Path | None, *, title: str, script: str, parts: Mapping[str, str], peers: bool = False) -> None:
    """Print tables of kept runs, and write them if asked to."""
    print("\n\n".join(parts.values()))
    if out:
        beside = "--peers-python peers/bin/python " if peers else ""
        command = f"python benchmarks/{script}.py {beside}--folder kept --out benchmarks/results/{script}.md"
        write(out, title=title, command=command, parts=parts)


def paired(a: Sequence[float], b: Sequence[float]) -> str:
    """Mean difference of the same seeds and Student's 95 % interval."""
    from scipy import stats

    less = np.subtract(a, b)
    if len(less) < 2:
        return f"{less.mean():+.3f}"
    half = stats.t.ppf(0.975, len(less) - 1) * less.std(ddof=1) / len(less) ** 0.5
    return f"{less.mean():+.3f} ({less.mean() - half:+.3f} to {less.mean() + half:+.3f})"


def put(lines: Sequence[str], path: Path | None) -> None:
    """Print a page and, where a path is given, write it there."""
    page = "\n".join(lines).rstrip()
    print(page)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page + "\n")


def save(figure: Any, path: Path) -> None:
    """A figure as a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": ""})
