"""Labels that some cells have: how they are read, what the prior makes of them, what the rest are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

import chreode as ch
from chreode.infer.posterior import GaussianPosterior
from chreode.loop import seeded
from chreode.priors import LabelHierarchy, LabelledMixture
from parts import table, tiny

if TYPE_CHECKING:
    from chreode.embedded import Embedded
    from chreode.fitted import FittedModel


def some_labelled(level: str | None = "Unknown") -> ad.AnnData:
    """The table, with a label for one cell in twelve."""
    cells = table(n_cells=240)
    labels = np.array(cells.obs["type"], dtype=object)
    labels[np.arange(240) % 12 > 0] = level
    cells.obs["some"] = labels
    return cells


def test_a_level_may_mean_no_label(caplog: pytest.LogCaptureFixture) -> None:
    cells = ch.read(some_labelled(), label="some", unlabelled="Unknown")
    same = ch.read(some_labelled(None), label="some")
    assert cells.layout.covariates == same.layout.covariates
    assert torch.equal(cells.covariates["some"], same.covariates["some"])
    assert (cells.covariates["some"] == -1).sum() == 220
    assert "any other" not in caplog.text
    as_level = ch.read(some_labelled(), label="some")
    assert "Unknown" in as_level.layout.covariates["some"].levels
    assert "unlabelled='Unknown'" in caplog.text
    known, unknown = some_labelled(), some_labelled()
    unknown.obs["some"] = "Unknown"
    both = ch.read({"known": known, "unknown": unknown}, label="some", unlabelled="Unknown")
    assert (both.covariates["some"] == -1).sum() == 220 + 240
    with pytest.raises(ch.InputError, match="label="):
        ch.read(some_labelled(), unlabelled="Unknown")
    with pytest.raises(ch.InputError, match="none in any cell"):
        ch.read(unknown, label="some", unlabelled="Unknown")


def made(*, dim: int = 2) -> LabelHierarchy:
    with seeded(0):
        prior = LabelHierarchy("type", 3, dim, hidden=(6,), classifier=(5,)).double()
        for parameter in prior.parameters():
            parameter.data += 0.5 * torch.randn_like(parameter)
    return prior.eval()


def test_the_bound_is_what_quadrature_says_and_below_the_density() -> None:
    prior = made(dim=1)
    z = torch.tensor([[-1.0], [0.2], [1.5]]).double()
    u = torch.linspace(-9, 9, 2001, dtype=torch.float64)[:, None]
    width, one = u[1, 0] - u[0, 0], torch.ones_like(u)
    noise = torch.randn(4000 * 3, 3, 1, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        drawn = prior.mixture().bounds(z.repeat(4000, 1), noise).view(4000, 3, 3)
        for i, code in enumerate(z):
            for k in range(3):
                level = torch.full((len(u),), k)
                joint = prior.given(u, level).log_prob(code * one) + GaussianPosterior(0 * one, one).log_prob(
                    u
                )
                q = prior.second(code[None], torch.tensor([k]))
                log_q = GaussianPosterior(q.mean * one, q.variance * one).log_prob(u)
                bound = (log_q.exp() * (joint - log_q)).sum() * width
                error = drawn[:, i, k].std() / 4000**0.5
                assert (drawn[:, i, k].mean() - bound).abs() < 5 * error
                assert bound < joint.logsumexp(0) + width.log()


def test_unknown_labels_are_summed_over() -> None:
    prior = made()
    cells = tiny()[torch.arange(20)]
    z = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).double()
    posterior = GaussianPosterior(torch.zeros_like(z), torch.ones_like(z))
    with torch.no_grad():
        bounds, q = prior.mixture().bounds(z), prior.label_probabilities(z)
        known = prior(cells).log_prob(z)
        assert torch.equal(known, bounds[torch.arange(20), cells.covariates["type"]])
        unknown = prior(cells.do(label=None)).log_prob(z)
        expected = (q * bounds).sum(1) - (q * (q.log() + np.log(3))).sum(1)
        torch.testing.assert_close(unknown, expected)
        # Were the classifier the posterior of the label, the sum would be the log of the mean over labels.
        assert (unknown <= (bounds - np.log(3)).logsumexp(1) + 1e-9).all()
        torch.testing.assert_close(
            prior(cells).kl(posterior, z), posterior.log_prob(z) - prior(cells).log_prob(z)
        )
        assert torch.equal(prior(cells).responsibilities(z).argmax(1), cells.covariates["type"])
        torch.testing.assert_close(prior.mixture().responsibilities(z), q)


def test_a_labelled_mixture_says_labels_too() -> None:
    mixture = LabelledMixture("type", 3, 2)
    mixture.initialise(torch.Generator().manual_seed(0))
    z = mixture.modes().detach()
    found = mixture.label_probabilities(z)
    torch.testing.assert_close(found.sum(1), torch.ones(3))
    assert found.argmax(1).tolist() == [0, 1, 2]


def few_labelled() -> ad.AnnData:
    """Cells of five types that less tells apart than what else varies. Five of each have a label."""
    rng, n, g = np.random.default_rng(1), 500, 150
    kind = rng.integers(5, size=n)
    marks = rng.normal(0, 1, (5, g)) * (rng.random((5, g)) < 0.2)
    logits = rng.normal(0, 1.2, g) + marks[kind] + rng.normal(size=(n, 4)) @ rng.normal(0, 0.35, (4, g))
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    counts = rng.poisson(share * rng.lognormal(6, 0.3, (n, 1)) * rng.gamma(5, 0.2, (n, g)))
    cells = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)))
    cells.obs_names = [f"cell {i}" for i in range(n)]
    cells.var_names = [f"gene {j}" for j in range(g)]
    truth = np.asarray([f"type {k}" for k in kind], dtype=object)
    known = np.concatenate([np.flatnonzero(kind[:400] == k)[:5] for k in range(5)])
    cells.obs["type"] = truth
    cells.obs["some"] = np.where(np.isin(np.arange(n), known), truth, "Unknown")
    return cells


@pytest.fixture(scope="module")
def model() -> FittedModel:
    cells = ch.read(few_labelled()[:400].copy(), label="some", unlabelled="Unknown")
    return ch.fit(cells, ch.recipes.scanvi(), epochs=200, progress=False)


def named(cells: Embedded) -> np.ndarray:
    return np.asarray(cells.component_names)[cells.components()]


def test_the_rest_get_their_labels(model: FittedModel) -> None:
    """Better than from the labelled cells alone: the others say how types lie."""
    adata = few_labelled()
    counts = adata.X.toarray()
    codes = PCA(10, random_state=0).fit_transform(np.log1p(1e4 * counts / counts.sum(1, keepdims=True)))
    known = np.asarray(adata.obs["some"]) != "Unknown"
    truth = np.asarray(adata.obs["type"])
    alone = LogisticRegression(max_iter=1000).fit(codes[known], truth[known]).score(codes, truth)
    first, new = adata[:400].copy(), adata[400:].copy()
    fitted, projected = named(model.embedded), named(model.project(new))
    assert (fitted == truth[:400]).mean() > alone + 0.05
    assert (projected == truth[400:]).mean() > 0.8
    model.write(first)
    assert first.obs["scanvi_component"].tolist() == fitted.tolist()
    np.testing.assert_allclose(first.obsm["scanvi_probabilities"].sum(1), 1, rtol=1e-5)


def test_new_cells_may_be_called_unlabelled_too(model: FittedModel) -> None:
    said = model.project(few_labelled()[400:].copy()).cells.reading.messages
    assert said == ("Column 'some' is missing in 100 cells, where it is unknown.",)


def test_cells_of_a_label_can_be_drawn(model: FittedModel) -> None:
    drawn = model.sample(100, component=1, seed=0)
    assert set(drawn.obs["component"]) == {"type 1"}
    assert (named(model.project(drawn)) == "type 1").mean() > 0.5  # one in five by chance


def test_a_label_is_needed() -> None:
    for options in ({}, {"label": "one"}):
        cells = table()
        cells.obs["one"] = "same"
        with pytest.raises(ch.InputError, match="at least two levels"):
            ch.fit(ch.read(cells, **options), ch.recipes.scanvi(), progress=False)
