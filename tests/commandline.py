"""What tests of the command line share: a small file, and a way to type."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from chreode.cli import main

if TYPE_CHECKING:
    from pathlib import Path

# A fit that takes a second: two dimensions need no UMAP in the report.
QUICK = ("--set", "components=3", "--set", "dim=2", "--set", "hidden=[8]", "--epochs", "4")


class Typed(NamedTuple):
    """What came of a command."""

    code: int
    out: str
    err: str


def chreode(*arguments: object) -> Typed:
    """Type a command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
    return Typed(code, out.getvalue(), err.getvalue())


def small(n: int = 120, *, genes: int = 40, seed: int = 0) -> ad.AnnData:
    """Counts of cells of three types in two batches; genes have symbols, one column marks half of them."""
    profile = np.random.default_rng(7).gamma(0.5, size=(3, genes)) + 0.02
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=n)
    counts = rng.poisson(200 * profile[kind] / profile.sum(1)[kind, None]).astype(np.float32)
    obs = pd.DataFrame(
        {
            "type": pd.Categorical([f"type {k}" for k in kind]),
            "donor": pd.Categorical([f"donor {i}" for i in rng.integers(2, size=n)]),
            "age": rng.uniform(20, 80, size=n),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    var = pd.DataFrame({"chosen": np.arange(genes) % 2 == 0}, index=[f"GENE{j}" for j in range(genes)])
    return ad.AnnData(sp.csr_matrix(counts), obs=obs, var=var)


def normalised(adata: ad.AnnData) -> ad.AnnData:
    """The same with log-normalised values in ``X``."""
    other = adata.copy()
    total = np.asarray(adata.X.sum(1))
    other.X = sp.csr_matrix(np.log1p(adata.X.toarray() * (1e4 / total)).astype(np.float32))
    return other


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path in a folder with its size and time of change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.stat()
        found[str(path.relative_to(folder))] = (0, 0) if path.is_dir() else (stat.st_size, stat.st_mtime_ns)
    return found
