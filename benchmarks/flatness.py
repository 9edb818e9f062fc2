"""Are straight lines of codes the shortest ways, and at what price?

`flatvi` beside the same recipe with ``flatness=0``, on cells that were not trained on (15 %):

- *along lines*: squared coefficient of variation of the speed along straight lines between the codes of 300
  random pairs of held-out cells, the mean over lines; 0 where each has one speed;
- *everywhere*: the same of the speed by unit of length of the line, over all lines and steps, so that lines
  of different places and directions count too;
- *nats*: held-out nats per molecule, with codes inferred from the other half of the molecules;
- *between times* (simulated alone): cells of the second and fourth of five times are paired so that their
  codes are least far apart, the code half way between is decoded, and means of log-normalised counts are held
  against those of the third time, which nobody saw: squared error, 1 for those of the time before.

The set *simulated* is 1,200 cells at five times on a bent path and 200 genes (`decoded.simulate`); those of
`data` may be named too, as ``--sets simulated paul15_300``, bone marrow with the 300 genes of the greatest
deviance. The weight was chosen on simulated cells of another size.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import results
import scipy.sparse as sp
import torch
from data import load as load_data
from decoded import moments, simulate
from scipy.optimize import linear_sum_assignment

import chreode as ch
from chreode.penalties import geodesic_speed

if TYPE_CHECKING:
    import anndata as ad

METHODS = {"vae": {"flatness": 0.0}, "flatvi": {}}
COLUMNS = {"along": "along lines", "everywhere": "everywhere", "nats": "nats", "between": "between times"}
LINES = 300


def load(name: str, seed: int) -> ad.AnnData:
    """Counts, with a column ``time`` where they are simulated."""
    if name == "simulated":
        return simulate(seed, n_cells=1200, n_genes=200)
    return load_data(name)


def speeds(embedded: Any, generator: np.random.Generator) -> dict[str, float]:
    """How much the speed varies along straight lines, and over them all."""
    z, modality = torch.from_numpy(embedded.embedding), embedded.modality(None)
    pairs = torch.from_numpy(np.stack([generator.permutation(len(z))[:2] for _ in range(LINES)]))
    start, end = z[pairs[:, 0]], z[pairs[:, 1]]
    size = embedded.cells.size[modality]
    cells = embedded.cells[pairs[:, 0]].replace(size={modality: torch.full((LINES,), float(size.mean()))})
    theta = embedded.module.decoder.readout.heads[modality].theta.detach()

    def mean_of(codes: torch.Tensor) -> torch.Tensor:
        return embedded.module.decode({embedded.code: codes}, cells)[modality].mean

    speed = geodesic_speed(mean_of, start=start, end=end, theta=theta).double()
    unit = speed / (end - start).norm(dim=1, keepdim=True)
    along = speed.var(1) / speed.mean(1).square()
    return {"along": float(along.mean()), "everywhere": float(unit.var() / unit.mean() ** 2)}


def between(embedded: Any, times: np.ndarray, adata: ad.AnnData) -> float:
    """Error of the genes half way from the second to the fourth time, beside the third."""
    first, last = (np.flatnonzero(times == time) for time in (1.0, 3.0))
    codes = embedded.embedding
    apart = ((codes[first][:, None] - codes[last]) ** 2).sum(2)
    i, j = linear_sum_assignment(apart)
    half = torch.from_numpy((codes[first[i]] + codes[last[j]]) / 2)
    modality = embedded.modality(None)
    with torch.no_grad():
        observed = embedded.module.decode({embedded.code: half}, embedded.cells[first[i]])[modality]
    counts = sp.csr_matrix(observed.sample(torch.Generator().manual_seed(0)).numpy())
    known = adata.obs["time"].to_numpy()
    found, true, start = (moments(c)[0] for c in (counts, adata.X[known == 2.0], adata.X[known == 1.0]))
    return float(((found - true) ** 2).sum() / ((start - true) ** 2).sum())


def trial(name: str, *, method: str, seed: int) -> dict[str, float]:
    """Fit, and judge on cells that were held out."""
    adata, generator = load(name, seed), np.random.default_rng([seed, 11])
    timed = "time" in adata.obs
    held = generator.random(adata.n_obs) < 0.15
    seen = adata.obs["time"].to_numpy() != 2.0 if timed else np.ones(adata.n_obs, dtype=bool)
    train, test = adata[seen & ~held].copy(), adata[seen & held].copy()
    model = ch.fit(ch.read(train), ch.recipes.flatvi(**METHODS[method]), seed=seed, progress=False)
    found = speeds(model.project(test), generator)
    found["nats"] = model.score(test)["nats_per_molecule"]
    found["between"] = between(model.embedded, train.obs["time"].to_numpy(), adata) if timed else float("nan")
    return found


def main() -> None:
    """Fit each, judge, write the table."""
    options = results.options(__doc__, sets=["simulated"], methods=list(METHODS))
    runs: list[dict[str, Any]] = []
    for seed, name, method in product(options.seeds, options.sets, options.methods):
        path = options.folder / f"{name}-{method}-{seed}.json"
        found = results.kept(path, lambda n=name, m=method, s=seed: trial(n, method=m, seed=s))
        runs.append({"set": name, "method": method, "seed": seed, **found})
    table = pd.DataFrame(runs)
    parts = {
        str(name): results.table(group, by=["method"], columns=COLUMNS, decimals=4)
        for name, group in table.groupby("set", sort=False)
    }
    results.show(options.out, title="Straight lines of codes", script="flatness", parts=parts)


if __name__ == "__main__":
    main()
