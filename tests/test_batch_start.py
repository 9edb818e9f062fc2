"""Batches are taken out of the codes' start, and no cell is drawn to where its batch has none."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier

from chreode.evaluate.integration import batch_mixing
from chreode.infer.start import remove_batches


def cells(*, lacking: bool) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Four types in two batches that are shifted; of the last, the second batch has none."""
    rng = np.random.default_rng(0)
    centres = 3.0 * np.eye(4, 6)
    kind, batch = rng.integers(4, size=1600), rng.integers(2, size=1600)
    if lacking:
        batch[kind == 3] = 0
    shift = np.array([[0.0] * 6, [0.0, 0.0, 0.0, 0.0, 1.5, -1.5]])
    x = centres[kind] + shift[batch] + 0.6 * rng.normal(size=(1600, 6))
    return torch.from_numpy(x).float(), torch.from_numpy(batch), kind


def test_batches_mix_within_types():
    x, batch, kind = cells(lacking=False)
    after = remove_batches(x, batch, seed=0).numpy()
    before = batch_mixing(x.numpy(), batch.numpy(), labels=kind)
    assert before < 0.3
    assert batch_mixing(after, batch.numpy(), labels=kind) > 0.8


def test_a_batch_without_a_type_gets_no_cells_of_it():
    x, batch, kind = cells(lacking=True)
    after, other = remove_batches(x, batch, seed=0).numpy(), batch.numpy() == 1
    vote = KNeighborsClassifier(15).fit(after[~other], kind[~other]).predict(after[other])
    assert (vote == 3).sum() == 0
    assert (vote == kind[other]).mean() > 0.98
