"""Small SCVI and LinearSCVI models of scvi-tools with what they say of some cells; run by the peers' Python.

    peers/bin/python benchmarks/scvi_parity_peer.py OUT.npz

One model a likelihood, with and without batches, one with two hidden layers and one whose encoder sees the
batch. Everything is said in double precision: the posterior, and reconstruction and divergence a cell, once
with the posterior's mean as code and once with codes whose noise is kept.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import anndata as ad
import numpy as np
import scipy.sparse as sp
import scvi
import torch

CASES: dict[str, dict[str, Any]] = {
    f"{likelihood}, {batches}": {"gene_likelihood": likelihood, "batches": batches == "batches"}
    for likelihood in ("nb", "zinb", "poisson")
    for batches in ("batches", "one batch")
}
CASES["two layers"] = {"gene_likelihood": "nb", "batches": True, "n_layers": 2}
LINEAR = {"model": "LinearSCVI", "use_observed_lib_size": True}
CASES["linear, batches"] = {**LINEAR, "gene_likelihood": "nb", "batches": True}
CASES["linear, inflated"] = {**LINEAR, "gene_likelihood": "zinb", "batches": True, "bias": True}
CASES["linear, one batch"] = {**LINEAR, "gene_likelihood": "poisson", "batches": False, "n_layers": 2}
CASES["encoded batch"] = {
    "gene_likelihood": "zinb",
    "batches": True,
    "n_layers": 2,
    "encode_covariates": True,
}


def table() -> ad.AnnData:
    """Counts of 40 cells and 24 genes in three batches that are not in the order of the alphabet."""
    rng = np.random.default_rng(0)
    share = rng.gamma(0.5, size=24) * rng.lognormal(0, 1, (3, 24))[rng.integers(3, size=40)]
    counts = rng.poisson(share * rng.lognormal(1, 1, (40, 1)) * rng.gamma(2, 0.5, (40, 24)))
    cells = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)))
    cells.obs_names = [f"cell {i}" for i in range(40)]
    cells.var_names = [f"gene {j}" for j in range(24)]
    cells.obs["batch"] = np.asarray(["b", "a", "c"])[rng.integers(3, size=40)]
    return cells


@torch.no_grad()
def said(module: Any, x: torch.Tensor, batch: torch.Tensor, noise: torch.Tensor) -> dict[str, np.ndarray]:
    """What a module says of cells."""
    inferred = module.inference(x=x, batch_index=batch)
    posterior = inferred["qz"]
    found = {"mean": posterior.loc, "variance": posterior.scale**2}
    for name, z in (("mean", posterior.loc), ("noise", posterior.loc + posterior.scale * noise)):
        given = module.generative(z=z, library=inferred["library"], batch_index=batch)
        found[f"reconstruction at the {name}"] = -given["px"].log_prob(x).sum(-1)
    found["divergence"] = torch.distributions.kl_divergence(posterior, given["pz"]).sum(-1)
    return {name: value.numpy() for name, value in found.items()}


def main() -> None:
    warnings.simplefilter("ignore")
    cells, kept = table(), {}
    kept["counts"], kept["batch"] = cells.X.toarray(), cells.obs["batch"].to_numpy().astype(str)
    for name, case in CASES.items():
        scvi.settings.seed = 0
        arguments = {k: v for k, v in case.items() if k not in ("batches", "model")}
        kind = getattr(scvi.model, case.get("model", "SCVI"))
        arguments = {"n_hidden": 7, "n_latent": 3, "n_layers": 1, "dropout_rate": 0.1, **arguments}
        kind.setup_anndata(cells, batch_key="batch" if case["batches"] else None)
        model = kind(cells, **arguments)
        model.train(20, accelerator="cpu", enable_progress_bar=False, batch_size=20)
        module = model.module.double().eval()
        noise = torch.randn(len(cells), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        codes = torch.from_numpy(cells.obs["_scvi_batch"].to_numpy().astype(np.int64))[:, None]
        x = torch.from_numpy(cells.X.toarray().astype(np.float64))
        needless = ("l_encoder", "decoder.px_r_decoder")
        needless += () if arguments["gene_likelihood"] == "zinb" else ("decoder.px_dropout_decoder",)
        state = {k: v.numpy() for k, v in module.state_dict().items() if not k.startswith(needless)}
        kept |= {f"{name}/state/{k}": v for k, v in state.items()}
        kept |= {f"{name}/said/{k}": v for k, v in said(module, x, codes, noise).items()}
        kept[f"{name}/noise"] = noise.numpy()
        kept[f"{name}/facts"] = np.asarray(json.dumps({**case, **arguments}))
    kept["version"] = np.asarray(scvi.__version__)
    np.savez(sys.argv[1], **kept)


if __name__ == "__main__":
    main()
