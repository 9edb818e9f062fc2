"""Small SCVI, LinearSCVI and SCANVI models of scvi-tools with what they say; run by the peers' Python.

    peers/bin/python benchmarks/scvi_parity_peer.py OUT.npz

One model a likelihood, with and without batches, one with two hidden layers, one whose encoder sees the
batch, and those with labels. Everything is said in double precision: the posterior, and reconstruction and
divergence a cell, once with the posterior's mean as code and once with codes whose noise is kept. Where there
are labels the loss is that of scvi-tools itself, which is handed what it would draw.
"""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import scipy.sparse as sp
import scvi
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

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
CASES["labels, batches"] = {"model": "SCANVI", "gene_likelihood": "zinb", "batches": True}
CASES["labels, linear classifier"] = {
    "model": "SCANVI",
    "gene_likelihood": "poisson",
    "batches": False,
    "linear_classifier": True,
}
CASES["labels, two layers"] = {
    "model": "SCANVI",
    "gene_likelihood": "nb",
    "batches": True,
    "n_layers": 2,
    "encode_covariates": True,
}
CASES["encoded batch"] = {
    "gene_likelihood": "zinb",
    "batches": True,
    "n_layers": 2,
    "encode_covariates": True,
}


def table() -> ad.AnnData:
    """Counts of 40 cells and 24 genes in three batches that are not in the order of the alphabet.

    Half of the cells have one of three labels.
    """
    rng = np.random.default_rng(0)
    share = rng.gamma(0.5, size=24) * rng.lognormal(0, 1, (3, 24))[rng.integers(3, size=40)]
    counts = rng.poisson(share * rng.lognormal(1, 1, (40, 1)) * rng.gamma(2, 0.5, (40, 24)))
    cells = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)))
    cells.obs_names = [f"cell {i}" for i in range(40)]
    cells.var_names = [f"gene {j}" for j in range(24)]
    cells.obs["batch"] = np.asarray(["b", "a", "c"])[rng.integers(3, size=40)]
    cells.obs["type"] = np.asarray(["y", "x", "z"])[rng.integers(3, size=40)]
    cells.obs.loc[rng.random(40) < 0.5, "type"] = "Unknown"
    return cells


@contextmanager
def drawing(*noise: torch.Tensor) -> Iterator[None]:
    """Gaussians give their mean where they would be drawn from, moved by the noise of their shape."""
    by_shape = {one.shape: one for one in noise}

    def handed(self: torch.distributions.Normal, shape: Any = ()) -> torch.Tensor:
        return self.loc + self.scale * by_shape[self.loc.shape] if noise else self.loc

    kept = torch.distributions.Normal.rsample
    torch.distributions.Normal.rsample = handed
    try:
        yield
    finally:
        torch.distributions.Normal.rsample = kept


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


@torch.no_grad()
def said_of_labels(
    module: Any, x: torch.Tensor, batch: torch.Tensor, labels: torch.Tensor, noises: list[torch.Tensor]
) -> dict[str, np.ndarray]:
    """What a module that knows labels says beside it; its loss averages over them in every cell."""
    tensors = {"X": x, "batch": batch, "labels": labels}
    found = {}
    for name, some in (("mean", []), ("noise", noises)):
        with drawing(*some):
            inferred, _, loss = module(tensors, loss_kwargs={"kl_weight": 1.0})
        found[f"loss at the {name}"] = sum([*loss.reconstruction_loss.values(), *loss.kl_local.values()])
    z, n_labels = inferred["qz"].loc, module.n_labels
    found["probabilities"] = module.classify(x, batch_index=batch).softmax(-1)
    found["classification"] = module.classification_loss(
        {key: value[labels[:, 0] < n_labels] for key, value in tensors.items()}
    )[0]
    bounds = []
    for k in range(n_labels):
        label = torch.nn.functional.one_hot(torch.full((len(x),), k), n_labels)
        with drawing():
            second, u = module.encoder_z2_z1(z, label)
        mean, variance = module.decoder_z1_z2(u, label)
        normal = torch.distributions.Normal(torch.zeros_like(u), torch.ones_like(u))
        divergence = torch.distributions.kl_divergence(second, normal).sum(-1)
        bounds.append(torch.distributions.Normal(mean, variance.sqrt()).log_prob(z).sum(-1) - divergence)
    found["bounds"] = torch.stack(bounds, 1)
    return {name: value.numpy() for name, value in found.items()}


def main() -> None:
    warnings.simplefilter("ignore")
    cells, kept = table(), {}
    kept["counts"], kept["batch"] = cells.X.toarray(), cells.obs["batch"].to_numpy().astype(str)
    kept["type"] = cells.obs["type"].to_numpy().astype(str)
    for name, case in CASES.items():
        scvi.settings.seed = 0
        arguments = {k: v for k, v in case.items() if k not in ("batches", "model")}
        kind = getattr(scvi.model, case.get("model", "SCVI"))
        arguments = {"n_hidden": 7, "n_latent": 3, "n_layers": 1, "dropout_rate": 0.1, **arguments}
        labelled = kind is scvi.model.SCANVI
        more = {"labels_key": "type", "unlabeled_category": "Unknown"} if labelled else {}
        kind.setup_anndata(cells, batch_key="batch" if case["batches"] else None, **more)
        model = kind(cells, **arguments)
        model.train(20, accelerator="cpu", enable_progress_bar=False, batch_size=20)
        module = model.module.double().eval()
        draw = torch.Generator().manual_seed(1)
        noise = torch.randn(len(cells), 3, dtype=torch.float64, generator=draw)
        codes = torch.from_numpy(cells.obs["_scvi_batch"].to_numpy().astype(np.int64))[:, None]
        x = torch.from_numpy(cells.X.toarray().astype(np.float64))
        needless = ("l_encoder", "decoder.px_r_decoder")
        needless += () if arguments["gene_likelihood"] == "zinb" else ("decoder.px_dropout_decoder",)
        state = {k: v.numpy() for k, v in module.state_dict().items() if not k.startswith(needless)}
        kept |= {f"{name}/state/{k}": v for k, v in state.items()}
        kept |= {f"{name}/said/{k}": v for k, v in said(module, x, codes, noise).items()}
        kept[f"{name}/noise"] = noise.numpy()
        if labelled:
            labels = torch.from_numpy(cells.obs["_scvi_labels"].to_numpy().astype(np.int64))[:, None]
            second = torch.randn(module.n_labels * len(cells), 3, dtype=torch.float64, generator=draw)
            # Its rows are labels, then cells.
            of_labels = said_of_labels(module, x, codes, labels, [noise, second])
            kept |= {f"{name}/said/{k}": v for k, v in of_labels.items()}
            kept[f"{name}/second noise"] = second.numpy()
            kept[f"{name}/labels"] = np.asarray(model._label_mapping).astype(str)
        kept[f"{name}/facts"] = np.asarray(json.dumps({**case, **arguments}))
    kept["version"] = np.asarray(scvi.__version__)
    np.savez(sys.argv[1], **kept)


if __name__ == "__main__":
    main()
