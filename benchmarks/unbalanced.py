"""Plans of balanced and unbalanced transport on mouse haematopoiesis: ours beside moscot's.

    python benchmarks/unbalanced.py --peers-python DIR/bin/python --work jobs \\
        --out benchmarks/results/unbalanced.md

moscot lives in an environment of its own (``pip install moscot``). A thousand cells of each of two successive
times are drawn by seed; both methods get the same coordinates, squared distances over their mean, and the
same width epsilon (0.05). moscot's ``tau`` of both marginals is ``penalty / (penalty + epsilon)``, 1 holding
them. Plans are compared at a mass of 1: half the sum of absolute differences, 0 for the same and 1 for plans
that share nothing. Their masses differ where marginals are relaxed: the entropy of ours is relative to the
product of the weights, moscot's to counting pairs, which makes every pair cheaper by epsilon times the
logarithm of their number ``n m``, so that its mass grows with it, by the factor
``(n m) ** (epsilon / (2 penalty + epsilon))``. The ratio of masses over that factor should be 1. Beside them
the correlation of what each cell that sets out keeps (its marginal), which unbalanced transport reads as
growth; and the largest error of a held marginal.
Seconds of moscot are those of its ``solve`` and of the plan as an array, a second time and the first.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import results
import torch
from dynamics import load

from chreode.dynamics import transport

EPSILON = 0.05
TAUS = (1.0, 0.95, 0.8)


def job(folder: Path, *, step: int, tau: float, seed: int, cells: int) -> Path:
    """Write the problem of one step between times."""
    x, t = load("haematopoiesis")
    rng = np.random.default_rng([seed, step])
    before, after = (x[rng.permutation(np.flatnonzero(t == u))[:cells]] for u in (step, step + 1))
    path = folder / f"{step}-{tau}-{seed}.npz"
    np.savez(path, before=before, after=after, epsilon=EPSILON, tau=tau)
    return path


def ours(path: Path, *, penalty: float) -> tuple[np.ndarray, float]:
    """The plan, and seconds."""
    problem = np.load(path)
    x, y = (torch.from_numpy(problem[name]).double() for name in ("before", "after"))
    start = time.perf_counter()
    cost = torch.cdist(x, y).square()
    weights = tuple(torch.full((len(s),), 1 / len(s)).double() for s in (x, y))
    plan = transport(cost / cost.mean(), weights=weights, epsilon=EPSILON, penalty=penalty)
    return plan.numpy(), time.perf_counter() - start


def compare(path: Path, found: Path) -> dict[str, Any]:
    """How alike both plans are."""
    tau = float(np.load(path)["tau"])
    held = tau == 1
    penalty = float("inf") if held else EPSILON * tau / (1 - tau)
    plan, seconds = ours(path, penalty=penalty)
    peer = np.load(found)
    other = peer["plan"].astype(np.float64)
    keeps = [p.sum(1) for p in (plan, other)]
    expected = plan.size ** (EPSILON / (2 * penalty + EPSILON))
    return {
        "apart": np.abs(plan / plan.sum() - other / other.sum()).sum() / 2,
        "mass": plan.sum(),
        "peer_mass": other.sum(),
        "ratio": other.sum() / plan.sum() / expected,
        "correlation": np.nan if held else np.corrcoef(*keeps)[0, 1],
        "error": np.abs(keeps[0] * len(plan) - 1).max() if held else np.nan,
        "peer_error": np.abs(keeps[1] * len(plan) - 1).max() if held else np.nan,
        "seconds": seconds,
        "again": float(peer["again"]),
        "first": float(peer["seconds"]),
    }


def main() -> None:
    """Solve, compare, write the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--peers-python", required=True, help="of an environment with moscot")
    parser.add_argument("--work", type=Path, required=True, help="where problems and plans are kept")
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    asked = list(product((0, 1), TAUS, options.seeds))
    jobs = [
        job(options.work, step=step, tau=tau, seed=seed, cells=options.cells) for step, tau, seed in asked
    ]
    found = results.run_peer(options.peers_python, jobs, script="unbalanced_peer.py")
    runs = [
        {"days": f"{step} to {step + 1}", "tau": f"{tau:g}", "seed": seed, **compare(path, out)}
        for (step, tau, seed), path, out in zip(asked, jobs, found, strict=True)
    ]
    columns = {
        "apart": "apart",
        "mass": "mass",
        "peer_mass": "mass, moscot",
        "ratio": "ratio over expected",
        "correlation": "correlation of growth",
        "error": "error of marginals",
        "peer_error": "error, moscot",
        "seconds": "seconds",
        "again": "seconds, moscot",
        "first": "its first",
    }
    text = results.table(pd.DataFrame(runs), by=["days", "tau"], columns=columns, decimals=4)
    print(text)
    if options.out:
        command = "python benchmarks/unbalanced.py --peers-python DIR/bin/python --work jobs"
        command += " --out benchmarks/results/unbalanced.md"
        versions = str(np.load(found[0])["versions"])
        title = f"{options.cells:,} cells of each time, epsilon {EPSILON} of the mean cost; {versions}"
        parts = {title: text}
        results.write(options.out, title="Unbalanced transport", command=command, parts=parts)


if __name__ == "__main__":
    main()
