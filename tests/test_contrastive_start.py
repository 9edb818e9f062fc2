"""Where free codes start that are shared and private: what varies in some levels alone is put apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import chreode as ch
from chreode.infer import Block, ContrastiveStart, PrivateStart
from chreode.infer.contrast import excess
from chreode.lessons import teach_encoders
from chreode.plan import Moment
from chreode.priors import SwitchedNormal

if TYPE_CHECKING:
    from collections.abc import Callable

    from chreode.recipe import Recipe

GENES = 200


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def world(n: int = 1200, *, levels: tuple[str, ...] = ("a.1", "b")) -> tuple[ad.AnnData, np.ndarray]:
    """Three types, a programme of all cells and one of each level; and what cells have of the latter."""
    rng = np.random.default_rng(0)
    kind, group = rng.integers(3, size=n), rng.integers(len(levels), size=n)
    logits = rng.normal(0, 0.7, GENES) + rng.normal(0, 0.7, (3, GENES))[kind]
    logits = logits + rng.normal(size=(n, 1)) * rng.normal(0, 0.3, GENES)
    activity, genes = rng.normal(size=n), rng.permutation(GENES)
    for g in range(len(levels)):
        mine = genes[30 * g : 30 * (g + 1)]
        logits[:, mine] += (activity * (group == g))[:, None] * rng.choice([-0.9, 0.9], 30)
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(2000 * share).astype(np.float32)))
    adata.obs["group"], adata.obs["kind"] = np.array(levels)[group], kind.astype(str)
    adata.obs["half"] = np.array(["x", "y"])[np.arange(n) % 2]
    return adata, activity


def blocks(*levels: str, dim: int = 2) -> dict[str, Block]:
    return {f"group={level}": Block("group", (level,), dim) for level in levels}


def told(codes: torch.Tensor, truth: np.ndarray) -> float:
    """R² of what a linear map of codes tells of a number, on the other half of the cells."""
    x = np.c_[codes.double().numpy(), np.ones(len(codes))]
    weights = np.linalg.lstsq(x[::2], truth[::2], rcond=None)[0]
    return 1 - np.var(truth[1::2] - x[1::2] @ weights) / np.var(truth[1::2])


def test_no_direction_stands_out_of_two_samples_of_one_law():
    found = []
    for seed in range(40):
        own, other = (torch.randn(n, 30, generator=generator(2 * seed + k)) for k, n in enumerate((400, 300)))
        spread = torch.linspace(0.1, 3, 30)
        found.append(excess(own * spread, other * spread, most=5)[0].shape[1])
    assert np.mean(found) < 0.5  # the bound is that of the limit, about which the largest ratio scatters


def test_what_is_taken_out_leaves_the_others_variance():
    own, other = (torch.randn(2000, 8, generator=generator(k)) for k in range(2))
    own[:, 3] *= 5
    filters, patterns = excess(own, other, most=4)
    assert filters.shape == (8, 1)
    private = (own - own.mean(0)) @ filters
    torch.testing.assert_close(private.var(), torch.tensor(1.0), rtol=1e-3, atol=0)
    assert np.corrcoef(private[:, 0], own[:, 3])[0, 1] ** 2 > 0.98
    rest = own - private @ patterns.T
    assert abs(rest[:, 3].var() / other[:, 3].var() - 1) < 0.15
    kept = [k for k in range(8) if k != 3]
    torch.testing.assert_close(rest[:, kept].var(0), own[:, kept].var(0), rtol=0.05, atol=0)


def test_programmes_of_levels_start_in_their_codes_and_not_in_the_shared_one():
    adata, activity = world()
    cells = ch.read(adata, covariates=["group"])
    start = ContrastiveStart(cells.layout, 5, blocks=blocks("a.1", "b"), batch="group")
    plain = start.components
    shared, own = start.learn(cells, seed=0), start.own(cells)
    components = plain(cells)[:, :5]
    for level in ("a.1", "b"):
        rows = (adata.obs["group"] == level).to_numpy()
        assert told(components[rows], activity[rows]) > 0.6
        assert told(shared[rows], activity[rows]) < 0.25
        assert told(own[f"group={level}"][rows], activity[rows]) > 0.75
        assert (own[f"group={level}"][~rows] == 0).all()
    # Other cells are moved as far as their batch was on average, the learned ones cluster by cluster.
    assert told(start(cells), shared[:, 0].double().numpy()) > 0.98
    kind = (adata.obs["kind"] == "0").to_numpy().astype(float)
    assert told(shared, kind) > 0.8
    assert "cpca" in start.cite


def test_a_private_code_starts_at_its_prior_and_what_is_its_own():
    adata, _ = world()
    cells = ch.read(adata, covariates=["group"])
    start = ContrastiveStart(cells.layout, 5, blocks=blocks("a.1", "b"))
    start.learn(cells, seed=0)
    prior = SwitchedNormal(cells.layout, "group", 2, n_shared=5)
    own = start.own(cells)
    found = PrivateStart(prior, start, ["group=a.1", "group=b"]).learn(cells)
    torch.testing.assert_close(found - prior(cells).mean, torch.cat([own["group=a.1"], own["group=b"]], 1))


def test_a_column_that_tells_nothing_takes_nothing_out():
    adata, _ = world()
    cells = ch.read(adata, covariates=["group", "half"])
    also = {f"half={level}": Block("half", (level,), 2) for level in "xy"}
    with_it = ContrastiveStart(cells.layout, 5, blocks={**blocks("a.1", "b"), **also})
    without = ContrastiveStart(cells.layout, 5, blocks=blocks("a.1", "b"))
    z, other = with_it.learn(cells, seed=0), without.learn(cells, seed=0)
    # Signs of axes are arbitrary; what they span is not.
    distance, expected = torch.pdist(z[:200]), torch.pdist(other[:200])
    assert torch.corrcoef(torch.stack([distance, expected]))[0, 1] > 0.98


def test_cells_of_unknown_level_keep_all_that_varies():
    adata, _ = world()
    cells = ch.read(adata, covariates=["group"])
    start = ContrastiveStart(cells.layout, 5, blocks=blocks("a.1", "b"))
    start.learn(cells, seed=0)
    unknown = cells.replace(covariates={"group": torch.full((len(cells),), -1)})
    torch.testing.assert_close(start(unknown), start.components(unknown) @ start.axes)
    assert all((own == 0).all() for own in start.own(unknown).values())


@pytest.mark.parametrize("n", [3, 12])
def test_few_cells_have_nothing_of_their_own(n: int):
    adata, _ = world()
    cells = ch.read(adata[:n].copy(), covariates=["group"])
    levels = cells.layout.covariates["group"].levels
    start = ContrastiveStart(cells.layout, 2, blocks=blocks(*levels))
    assert torch.isfinite(start.learn(cells, seed=0)).all()
    assert all((own == 0).all() for own in start.own(cells).values())


@pytest.mark.parametrize("inference", ["free", "encoder"])
def test_codes_keep_programmes_apart_and_their_genes_are_found(inference: str):
    adata, activity = world(levels=("control", "treated", "other"))
    cells = ch.read(adata, covariates=["group"])
    recipe = ch.recipes.multigroupvi(inference=inference, dim=5, private=2, hidden=(64,))
    model = ch.fit(cells, recipe, epochs=60, seed=0, progress=False)
    rows = (adata.obs["group"] == "treated").to_numpy()
    codes = {name: torch.from_numpy(z[rows]) for name, z in model.embedded.embeddings.items()}
    assert told(codes["group=treated"], activity[rows]) > 0.6
    assert told(codes["shared"], activity[rows]) < 0.35


@pytest.mark.parametrize(
    "recipe", [ch.recipes.patches, ch.recipes.multigroupvi], ids=["patches", "multigroupvi"]
)
def test_encoders_are_taught_where_free_codes_start(recipe: Callable[..., Recipe]):
    adata, _ = world()
    cells = ch.read(adata, covariates=["group"]).numbered()
    how = {"dim": 5, "private": 2, "hidden": (64,)}
    free = recipe(**how, inference="free").build(cells.layout)
    aim, missed = free.model.latents["shared"].infer.start.learn(cells, seed=0), {}
    for apart in (True, False):
        model = recipe(**how, apart=apart).build(cells.layout).model
        before, state = {n: value.clone() for n, value in model.state_dict().items()}, torch.get_rng_state()
        teach_encoders().do(Moment(model, cells, codes=lambda _: torch.empty(0), seed=0))
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items()) is not apart
        answer = model.train().latents["shared"].infer(cells).centre  # running means arrive in the fit
        missed[apart] = ((answer - aim) ** 2).mean() / aim.var()
    assert missed[True] < 0.2 < 0.8 < missed[False]
