"""Fit SCVI to a matrix of counts, encode other cells and draw from it: the peer's side of a comparison.

Runs in the peers' environment (``peers.txt``), called by `samples.py` and `mapping.py`, which decide
about cells and features; one thread:

    python benchmarks/scvi_fit.py JOB.npz ...

A job holds ``train`` and ``other`` (CSR parts, see `pack`), ``seed``, ``epochs``, ``n_latent`` and
``n_samples``. Beside it ``JOB.out.npz`` is written: posterior means ``train_codes`` and ``other_codes``,
what is expected of all these cells together ``train_sum`` and ``other_sum``, counts ``prior`` (code from
N(0, I), total of a random training cell) and ``posterior`` (code from the posterior of a random training
cell, its total), inverse dispersions ``theta`` and ``seconds`` of training.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

__all__ = ["pack", "unpack"]

CHUNK = 512


def pack(name: str, matrix: sp.csr_matrix) -> dict[str, np.ndarray]:
    """A CSR matrix as arrays that an npz file holds."""
    return {
        f"{name}.data": matrix.data.astype(np.float32),
        f"{name}.indices": matrix.indices,
        f"{name}.indptr": matrix.indptr,
        f"{name}.shape": np.asarray(matrix.shape),
    }


def unpack(name: str, arrays: Any) -> sp.csr_matrix:
    """The matrix that `pack` made into arrays."""
    parts = tuple(arrays[f"{name}.{part}"] for part in ("data", "indices", "indptr"))
    return sp.csr_matrix(parts, shape=tuple(arrays[f"{name}.shape"]))


@torch.no_grad()
def encode(module: Any, counts: sp.csr_matrix) -> tuple[np.ndarray, torch.Tensor]:
    """Posterior means, and the sum over cells of the expected counts decoded from them."""
    codes, total = [], torch.zeros(counts.shape[1])
    for at in range(0, counts.shape[0], CHUNK):
        x = torch.from_numpy(counts[at : at + CHUNK].toarray())
        batch = torch.zeros(len(x), 1, dtype=torch.int64)
        mean = module.inference(x, batch)["qz"].loc
        size = x.sum(1, keepdim=True)
        total += (module.generative(mean, size.clamp(min=1).log(), batch)["px"].scale * size).sum(0)
        codes.append(mean.numpy())
    return np.concatenate(codes), total


@torch.no_grad()
def draw(module: Any, counts: sp.csr_matrix, n: int, *, prior: bool) -> sp.csr_matrix:
    """Counts of ``n`` cells with random donors' totals; codes from the prior, or the donors' posteriors."""
    donors = torch.randint(counts.shape[0], (n,))
    parts = []
    for rows in donors.split(CHUNK):
        x = torch.from_numpy(counts[rows.numpy()].toarray())
        batch = torch.zeros(len(x), 1, dtype=torch.int64)
        posterior = module.inference(x, batch)["qz"]
        z = torch.randn_like(posterior.loc) if prior else posterior.sample()
        drawn = module.generative(z, x.sum(1, keepdim=True).clamp(min=1).log(), batch)["px"].sample()
        parts.append(sp.csr_matrix(drawn.numpy()))
    return sp.vstack(parts, format="csr")


def run(job: Any) -> dict[str, Any]:
    """Fit, encode and draw."""
    import scvi
    from anndata import AnnData

    train, other = unpack("train", job), unpack("other", job)
    scvi.settings.seed = int(job["seed"])
    training = AnnData(train.copy())
    scvi.model.SCVI.setup_anndata(training)
    model = scvi.model.SCVI(training, gene_likelihood="nb", n_latent=int(job["n_latent"]))
    started = time.perf_counter()
    epochs = int(job["epochs"])
    model.train(max_epochs=epochs, train_size=1.0, accelerator="cpu", enable_progress_bar=False)
    seconds = time.perf_counter() - started
    module = model.module.eval()
    found = {"theta": module.px_r.detach().exp().numpy(), "seconds": seconds}
    for name, counts in {"train": train, "other": other}.items():
        codes, total = encode(module, counts)
        found |= {f"{name}_codes": codes, f"{name}_sum": total.numpy()}
    for name in ("prior", "posterior"):
        if int(job["n_samples"]):
            found |= pack(name, draw(module, train, int(job["n_samples"]), prior=name == "prior"))
    return found


def main() -> None:
    """Run the jobs named on the command line, one after the other."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for path in map(Path, sys.argv[1:]):
        with np.load(path) as job:
            found = run(job)
        np.savez_compressed(path.with_suffix(".out.npz"), **found)
        print(f"{path.stem}: {found['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
