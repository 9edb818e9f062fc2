"""Genes of private codes: what a linear decoder says in closed form, and the known ones of a simulation."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax

import chreode as ch
from chreode.decoders import Linear
from chreode.errors import InputError
from chreode.events import centre_decoder, start_codes
from chreode.gated import Gate
from chreode.infer import Codebook, PrincipalStart
from chreode.interpret import attribute_scores
from chreode.likelihoods import heads
from chreode.model import Latent, LatentModel
from chreode.objective import Objective, prior, reconstruction
from chreode.plan import Plan
from chreode.priors import StandardNormal
from chreode.recipe import Build, recipe

GENES, PRIVATE = 300, 50


@recipe(code="shared")
def two_blocks(layout):
    """A code that all cells have, and one that treated cells have beside."""
    start = PrincipalStart(layout, 2)
    gate = Gate(layout, "treated", ["yes"], dims=(2, 1))
    latents = {
        "shared": Latent(Codebook(layout.n_cells, 2, start=start), StandardNormal(2)),
        "private": Latent(Codebook(layout.n_cells, 1, noise=0.1), StandardNormal(1), only=gate),
    }
    decoder = Linear(layout.without("treated"), {"shared": 2, "private": 1}, heads={"rna": heads["poisson"]})
    objective = Objective(reconstruction(), prior("shared"), replace(prior("private"), name="prior private"))
    events, rates = (start_codes(), centre_decoder()), {"codes": 3e-2, "decoder": 1e-2}
    plan = Plan(events=events, stop=None, lr={**Plan().lr, **rates})
    return Build(LatentModel(latents, decoder), objective, plan)


@pytest.fixture(scope="module")
def adata():
    """Two programmes of all cells; one of treated cells, which some have and some have not."""
    rng = np.random.default_rng(0)
    n = 600
    treated = np.resize([True, False], n)
    loadings = np.zeros((3, GENES))
    for k, genes in enumerate((slice(50, 130), slice(120, 200), slice(0, PRIVATE))):
        loadings[k, genes] = rng.choice([-0.8, 0.8], genes.stop - genes.start)
    codes = rng.normal(size=(n, 3))
    codes[:, 2] *= treated
    logits = rng.normal(0, 1, GENES) + codes @ loadings
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    adata = ad.AnnData(rng.poisson(3000 * share).astype(np.float32))
    adata.obs_names = [f"cell {i}" for i in range(n)]
    adata.var_names = [f"gene {j}" for j in range(GENES)]
    adata.obs["treated"] = np.where(treated, "yes", "no")
    adata.obs["group"] = np.where(np.arange(n) % 3 == 0, None, np.where(np.arange(n) < 5, "few", "many"))
    return adata


@pytest.fixture(scope="module")
def model(adata):
    cells = ch.read(adata, covariates=["treated"])
    return ch.fit(cells, two_blocks(), epochs=60, seed=0, progress=False)


def scores(model, **changes):
    asked = {"attribute": "treated", "off": {"private": 0.0}, "progress": False, **changes}
    return attribute_scores(model, **asked)


def test_private_genes_are_found(model):
    table = scores(model)
    first = table[(table["level"] == "yes") & (table["rank"] <= PRIVATE)]["feature"]
    found = np.array([int(name.split()[1]) < PRIVATE for name in first])
    assert found.mean() >= 0.9
    # The programme goes both ways, so that its mean change does not tell it.
    yes = table[table["level"] == "yes"].set_index("feature")
    by_mean = yes["log2_fold_change"].abs().nlargest(PRIVATE).index
    assert yes.loc[first, "magnitude"].mean() > 3 * yes.loc[by_mean, "log2_fold_change"].abs().mean()
    assert set(table["level"]) == {"yes"}  # the others have no private code


def test_scores_are_those_of_a_linear_decoder(model):
    parts = [model.module.decoder.loadings("rna", latent) for latent in ("shared", "private")]
    weight = torch.cat(parts, 1).numpy().astype(np.float64)
    bias = model.module.decoder.readout.outputs["rna"].bias.detach().numpy()
    codes = np.hstack([model.embedded.embeddings[name] for name in ("shared", "private")])
    treated = model.embedded.level_names("treated") == "yes"
    without = codes.copy()
    without[:, 2] = 0.5
    here, there = (log_softmax(z[treated] @ weight.T + bias, axis=1) for z in (codes, without))
    change = (here - there) / np.log(2)
    table = scores(model, off={"private": 0.5})
    yes = (
        table[table["level"] == "yes"]
        .set_index("feature")
        .loc[list(model.embedded.cells.layout.modalities["rna"].names)]
    )
    np.testing.assert_allclose(yes["log2_fold_change"], change.mean(0), atol=1e-5)
    np.testing.assert_allclose(yes["magnitude"], np.sqrt((change**2).mean(0)), atol=1e-5)
    error = change.std(0, ddof=1) / np.sqrt(treated.sum())
    np.testing.assert_allclose(yes["standard_error"], error, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(yes["spread"], change.std(0), atol=1e-5)
    np.testing.assert_array_equal(yes["rank"].argsort(), yes["magnitude"].to_numpy().argsort()[::-1])
    assert (yes["cells"] == treated.sum()).all()


def test_scores_are_ranked_by_what_differs_from_cell_to_cell(model):
    by_spread = scores(model, off={"private": 0.5}, by="spread")
    yes = by_spread[by_spread["level"] == "yes"]
    assert yes["spread"].is_monotonic_decreasing
    assert not yes["magnitude"].is_monotonic_decreasing
    with pytest.raises(InputError, match="found by='mean'"):
        scores(model, by="mean")


def test_off_may_be_said_in_several_ways(model):
    table = scores(model)
    pd.testing.assert_frame_equal(scores(model, off={"private": torch.zeros(1)}), table)

    def off(codes, rows):
        assert torch.equal(rows, torch.arange(600))
        return {"private": torch.zeros_like(codes["private"])}

    pd.testing.assert_frame_equal(scores(model, off=off), table)


def test_levels_may_come_from_elsewhere_and_be_unknown(model, adata):
    table = scores(model, attribute="group", source=adata)
    assert table.groupby("level")["cells"].first().to_dict() == {"few": 3, "many": 397}
    single = adata.copy()
    single.obs["group"] = np.where(np.arange(600) == 0, "one", None)
    alone = scores(model, attribute="group", source=single)
    assert alone["standard_error"].isna().all()
    assert (alone["magnitude"] == alone["log2_fold_change"].abs()).all()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"attribute": "treatment"}, "found 'treatment'"),
        ({"off": {"privat": 0.0}}, "private of 1 dimensions.*found 'privat'"),
        ({"off": {"shared": torch.zeros(3)}}, "found 'shared'"),
        ({"off": {}}, "found none"),
        ({"off": lambda codes, rows: {"private": torch.zeros(2, 1)}}, "found 'private'"),
        ({"modality": "atac"}, "a modality"),
    ],
)
def test_bad_input_is_refused(model, changes, says):
    with pytest.raises(InputError, match=says):
        scores(model, **changes)
    with pytest.raises(InputError, match="found Cells"):
        scores(model.embedded.cells)
