"""invae keeps batches out of one code and cell types out of the other, and moves codes between levels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression

import chreode as ch
from chreode.errors import InputError
from chreode.priors import ConditionalDensity, ConditionalNormal
from parts import tiny

if TYPE_CHECKING:
    from chreode.cells import Cells


def simulate(n: int = 1200, n_genes: int = 60, *, seed: int = 0) -> ad.AnnData:
    """Two cell types under three conditions in two batches, through two bent layers."""
    rng = np.random.default_rng(seed)
    kind, condition, batch = (rng.integers(k, size=n) for k in (2, 3, 2))
    invariant = rng.normal(0, 1.5, (2, 4))[kind] + rng.normal(0, 1.0, (3, 4))[condition]
    moved, widths = np.array([[-1.2, 0.8], [1.2, -0.8]])[batch], np.array([[0.4, 1.0], [1.0, 0.4]])[batch]
    spurious = moved + widths * rng.normal(size=(n, 2))
    h = np.concatenate([invariant + rng.normal(0, 0.7, (n, 4)), spurious], 1)
    for _ in range(2):
        h = h @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
        h = np.where(h > 0, h, 0.3 * h)
    odds = np.exp(h @ rng.normal(0, 0.6, (6, n_genes)))
    mean = odds / odds.sum(1, keepdims=True) * rng.lognormal(7, 0.2, (n, 1))
    counts = rng.poisson(mean * rng.gamma(5, 0.2, mean.shape))
    obs = {"cell_type": kind, "condition": condition, "batch": batch}
    names = [f"cell {i}" for i in range(n)]
    named = {key: [f"{key} {level}" for level in found] for key, found in obs.items()}
    return ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=pd.DataFrame(named, index=names))


def told(train: np.ndarray, levels: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Accuracy on held-out cells of a linear probe."""
    return LogisticRegression(max_iter=1000).fit(train, levels).score(test, truth)


def test_the_shared_code_knows_types_and_the_spurious_one_batches_on_held_out_cells() -> None:
    adata = simulate()
    train, test = adata[:800].copy(), adata[800:].copy()
    cells = ch.read(train, batch="batch", label="cell_type", covariates=["condition"])
    recipe = ch.recipes.invae(attributes=("cell_type", "condition"), dim=6, hidden=(64,))
    model = ch.fit(cells, recipe, epochs=60, progress=False)
    seen, new = model.embedded.embeddings, model.project(test).embeddings

    def accuracy(block: str, column: str, kind: str | None = None) -> float:
        here, there = (a.obs["cell_type"].isin([kind] if kind else a.obs["cell_type"]) for a in (train, test))
        known, truth = train.obs[column][here], test.obs[column][there]
        return told(seen[block][here], known, new[block][there], truth)

    kinds = train.obs["cell_type"].unique()
    assert np.mean([accuracy("shared", "batch", kind) for kind in kinds]) < 0.5 + 0.1
    assert accuracy("shared", "cell_type") > 0.95
    assert accuracy("spurious", "batch") > 0.9
    assert accuracy("spurious", "cell_type") < 0.5 + 0.1


def two_levels() -> tuple[ConditionalNormal, Cells]:
    """A prior with known laws of two plates: N(-1, e) and N(1, 1/e)."""
    cells = tiny()
    prior = ConditionalNormal(cells.layout, ["plate"], 1)
    with torch.no_grad():
        prior.sums.vectors[0].copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    return prior, cells


def test_a_code_keeps_its_standing_among_the_cells_of_its_level() -> None:
    prior, cells = two_levels()
    own = torch.randn(len(cells), 1, generator=torch.Generator().manual_seed(0))
    before, after = cells, cells.do(plate="plate 1")
    moved = prior.transport(own, own, before=before, after=after)
    old, new = prior(before), prior(after)

    def standing(z: torch.Tensor, density: ConditionalDensity) -> np.ndarray:
        return stats.norm.cdf(z, density.mean.detach(), (0.5 * density.log_variance).exp().detach())

    np.testing.assert_allclose(standing(moved, new), standing(own, old), atol=1e-5)
    same = cells.covariates["plate"] == 1
    assert torch.equal(moved[same], own[same])
    assert not torch.isclose(moved[~same], own[~same]).any()
    back = prior.transport(own, moved, before=after, after=before)
    torch.testing.assert_close(back[~same], own[~same])


def test_an_unknown_level_is_the_standard_normal_and_a_draw_is_of_the_new_level() -> None:
    prior, cells = two_levels()
    unknown = prior(cells.do(plate=None))
    assert unknown.mean.abs().max() == 0 == unknown.log_variance.abs().max()
    own = torch.zeros(len(cells), 1)
    before, after = cells.do(plate="plate 0"), cells.do(plate="plate 1")
    drawn = prior.transport(own, own, before=before, after=after, draw=torch.Generator().manual_seed(0))
    law = prior(after)
    mean, scale = law.mean[0].item(), (0.5 * law.log_variance[0]).exp().item()
    assert stats.kstest(drawn.numpy().ravel(), "norm", (mean, scale)).pvalue > 0.01


@pytest.mark.parametrize("inference", ["encoder", "free"])
def test_another_batch_moves_the_spurious_code_and_another_attribute_the_shared_one(inference: str) -> None:
    recipe = ch.recipes.invae(attributes=("type",), dim=4, hidden=(8,), inference=inference)
    embedded = ch.fit(tiny(), recipe, epochs=10, progress=False).embedded
    moved = embedded.do(batch="plate 1")
    other = embedded.level_names("plate") != "plate 1"
    np.testing.assert_array_equal(moved.embedding, embedded.embedding)
    changed = (moved.embeddings["spurious"] != embedded.embeddings["spurious"]).any(1)
    np.testing.assert_array_equal(changed, other)
    assert (embedded.do(type="type 0").embedding != embedded.embedding).any()


def test_attributes_that_are_batches_and_cells_without_batches_are_refused() -> None:
    with pytest.raises(InputError, match="found 'plate' among both"):
        ch.fit(tiny(), ch.recipes.invae(attributes=("type", "plate")), epochs=1, progress=False)
    bare = ch.read(simulate(50), covariates=["condition"])
    with pytest.raises(
        InputError, match=r"found columns 'condition' without\. .* batch=COLUMN, or let batches="
    ):
        ch.fit(bare, ch.recipes.invae(), epochs=1, progress=False)
