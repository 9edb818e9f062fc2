"""Transport by moscot: the peer's side of `unbalanced.py`, in an environment of moscot's own, one thread.

    DIR/bin/python benchmarks/unbalanced_peer.py JOB.npz ...

A job holds ``before`` and ``after`` (coordinates of two times), ``epsilon`` (in mean costs) and ``tau`` (of
both marginals). Beside it ``JOB.out.npz`` is written with the ``plan``, ``seconds`` of the first solution,
``again`` of a second one of the same problem, and ``versions``.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np

__all__: list[str] = []


def main() -> None:
    """Solve every job."""
    import anndata as ad
    import pandas as pd
    from moscot.problems.time import TemporalProblem

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for path in map(Path, sys.argv[1:]):
        job = np.load(path)
        number = [len(job["before"]), len(job["after"])]
        obs = pd.DataFrame({"time": pd.Categorical(np.repeat([0.0, 1.0], number))})
        obs.index = obs.index.astype(str)
        codes = np.concatenate([job["before"], job["after"]]).astype(np.float32)
        adata = ad.AnnData(codes, obs=obs, obsm={"X_code": codes})
        how = {"epsilon": float(job["epsilon"]), "tau_a": float(job["tau"]), "tau_b": float(job["tau"])}
        spent = []
        for _ in range(2):
            problem = TemporalProblem(adata).prepare(time_key="time", joint_attr="X_code")
            start = time.perf_counter()
            problem = problem.solve(scale_cost="mean", **how)
            solution = problem[(0.0, 1.0)].solution
            plan = np.asarray(solution.transport_matrix)
            spent.append(time.perf_counter() - start)
        assert plan.shape == tuple(number), plan.shape
        np.savez(
            path.with_suffix(".out.npz"),
            plan=plan,
            seconds=spent[0],
            again=spent[1],
            versions=", ".join(f"{name} {version(name)}" for name in ("moscot", "ott-jax", "jax")),
        )
        print(f"{path.name}: {spent[0]:.1f} s, then {spent[1]:.1f} s", flush=True)


if __name__ == "__main__":
    main()
