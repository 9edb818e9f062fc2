"""totalVI: proteins with background and foreground beside RNA."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from torch import distributions

import chreode as ch
from chreode.errors import InputError
from chreode.io.mosaic import mosaic, mudata_of
from chreode.likelihoods import ProteinMixture
from chreode.likelihoods.protein import two_normals
from parts import table

if TYPE_CHECKING:
    import mudata

PROTEINS = 12


def citeseq(n_cells: int = 400, *, seed: int = 0) -> mudata.MuData:
    """Groups of cells whose proteins are foreground in some and log-normal background in the others."""
    rna = table(n_cells, 80, groups=4, seed=seed)
    rng = np.random.default_rng(seed + 1)
    group = rna.obs["type"].str.removeprefix("type ").astype(int).to_numpy()
    plate = rna.obs["plate"].str.removeprefix("plate ").astype(int).to_numpy()
    shown = np.stack([np.isin(np.arange(4), rng.permutation(4)[: 1 + j % 2]) for j in range(PROTEINS)], 1)
    foreground = shown[group] ^ (rng.random((n_cells, PROTEINS)) < 0.02)
    level = rng.normal(2.0, 0.5, PROTEINS) + rng.normal(0, 0.3, (2, PROTEINS))[plate]
    background = np.exp(level + 0.4 * rng.normal(size=(n_cells, PROTEINS)))
    mean = background * np.where(foreground, 4.0, 1.0)
    counts = rng.poisson(mean * rng.gamma(4, 0.25, mean.shape))
    proteins = ad.AnnData(counts.astype(np.float32), obs=rna.obs[[]])
    proteins.var_names = [f"CD{j}" for j in range(PROTEINS)]
    both = mudata_of({"rna": rna, "prot": proteins}, rna.obs.copy())
    both.obsm["foreground"], both.uns["level"] = foreground, level
    return both


@pytest.fixture(scope="module")
def paired() -> mudata.MuData:
    return citeseq()


@pytest.fixture(scope="module")
def model(paired):
    cells = ch.read(paired, batch="plate", label="type")
    return ch.fit(cells, ch.recipes.totalvi(dim=6, hidden=(32,)), epochs=60, seed=0, progress=False)


def told(z: np.ndarray, levels: np.ndarray) -> float:
    half = np.arange(len(z)) % 2 == 0
    return KNeighborsClassifier(15).fit(z[half], levels[half]).score(z[~half], levels[~half])


def test_the_mixture_equals_scipy_and_sums_to_one():
    top, theta = 3000, 1.7
    head = ProteinMixture(1, init=theta).eval()
    raw = torch.tensor([[1.2, 0.5, -0.7, 0.3]]).expand(top, 4)
    x = torch.arange(float(top))[:, None]
    value = head(raw, torch.ones(top), None).log_prob(x).detach().double().exp().numpy()
    low, back = np.exp(1.2), 1 / (1 + np.exp(0.7))
    means = low, low * (1 + np.exp(0.5))
    pmf = [stats.nbinom(theta, theta / (theta + mu)).pmf(np.arange(200)) for mu in means]
    np.testing.assert_allclose(value[:200], back * pmf[0] + (1 - back) * pmf[1], rtol=1e-4)
    assert value.sum() == pytest.approx(1, abs=1e-5)


def test_backgrounds_are_drawn_in_training_alone_and_diverge_as_of_torch():
    torch.manual_seed(0)
    head = ProteinMixture(5)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    raw, shift, mask = torch.randn(4, 20), torch.randn(4, 5), torch.rand(4, 5) < 0.7
    median, _, _, spread = raw.chunk(4, 1)
    scale = torch.nn.functional.softplus(spread) + 1e-4
    many = head.train()(raw.repeat(20_000, 1), torch.ones(80_000), None).background_mean.log()
    many = many.reshape(20_000, 4, 5)
    torch.testing.assert_close(many.mean(0), median, atol=0.05, rtol=0)
    torch.testing.assert_close(many.std(0), scale, atol=0.05, rtol=0)
    observed = head.eval()(raw, torch.ones(4), mask)
    torch.testing.assert_close(observed.background_mean.log(), median)
    prior = distributions.Normal(head.background_mean + shift, head.background_log_scale.exp())
    reference = distributions.kl_divergence(distributions.Normal(median, scale), prior)
    torch.testing.assert_close(observed.divergence(shift), (reference * mask).sum(1))


def test_half_of_the_counts_are_distributed_as_theory_says():
    raw = torch.tensor([[2.0, 1.0, 0.3, 0.0]]).expand(100_000, 4)
    with torch.no_grad():
        observed = ProteinMixture(1).eval()(raw, torch.ones(len(raw)), None)
        draw = torch.Generator().manual_seed(0)
        half = torch.binomial(observed.sample(draw), torch.full((len(raw), 1), 0.5), generator=draw)
        value = observed.thinned(0.5).log_prob(torch.arange(float(len(raw)))[:, None]).exp()
    share = torch.bincount(half[:, 0].long(), minlength=20)[:20] / len(raw)
    np.testing.assert_allclose(share, value[:20], atol=5 * (0.1 / len(raw)) ** 0.5)


def test_held_out_counts_are_covered_as_they_should_be(model):
    score = model.score(citeseq(200, seed=0), modality="prot")
    assert abs(score["coverage_90"] - 0.9) < 0.05
    assert score["gain"] > 0.02


def test_mixtures_start_where_the_counts_say():
    rng = np.random.default_rng(0)
    low, high, share = np.array([1.0, 2.0]), np.array([4.0, 3.5]), np.array([0.7, 0.3])
    of_low = rng.random((4000, 2)) < share
    values = np.where(of_low, low, high) + 0.4 * rng.normal(size=of_low.shape)
    there = rng.random(of_low.shape) < 0.8
    found = two_normals(torch.from_numpy(np.where(there, values, 50.0)), torch.from_numpy(there))
    for one, truth in zip(found, (low, high, [0.4, 0.4], share), strict=True):
        np.testing.assert_allclose(one, truth, atol=0.08)


def test_foreground_is_told_from_background(model, paired):
    truth, counts = paired.obsm["foreground"], paired["prot"].X
    frame = ch.foreground(model, "prot")
    assert list(frame.columns) == list(paired["prot"].var_names)
    assert list(frame.index) == list(paired.obs_names)
    assert frame.to_numpy().min() >= 0
    assert frame.to_numpy().max() <= 1
    ours = [roc_auc_score(truth[:, j], frame.iloc[:, j]) for j in range(PROTEINS)]
    plain = [roc_auc_score(truth[:, j], counts[:, j]) for j in range(PROTEINS)]
    assert np.mean(ours) > 0.95
    assert np.mean(ours) > np.mean(plain) + 0.05


def test_denoised_counts_lack_the_background(model, paired):
    truth = paired.obsm["foreground"]
    denoised = ch.foreground(model, values="counts", features=["CD1", "CD0"])
    assert list(denoised.columns) == ["CD1", "CD0"]
    whole = model.embedded.expected("prot", features=["CD1", "CD0"])
    assert (denoised.to_numpy() <= whole).all()
    back = ~truth[:, [1, 0]]
    assert denoised.to_numpy()[back].mean() < 0.6 * whole[back].mean()
    assert denoised.to_numpy()[~back].mean() > 0.75 * whole[~back].mean()
    np.testing.assert_allclose(whole.mean(0), paired["prot"].X[:, [1, 0]].mean(0), rtol=0.25)
    level = model.module.decoder.readout.heads["prot"].background_mean.detach().numpy()
    assert np.corrcoef(level, paired.uns["level"].mean(0))[0, 1] > 0.8


def test_groups_are_found_and_plates_are_mixed(model):
    embedded = model.embedded
    assert told(embedded.embedding, embedded.level_names("label").astype(str)) > 0.95
    assert told(embedded.embedding, embedded.level_names("batch").astype(str)) < 0.65


def test_proteins_of_a_plate_shift_with_it(model, paired):
    moved = [model.embedded.do(batch=f"plate {b}").expected("prot").mean(0) for b in (0, 1)]
    plate = paired.obs["plate"].to_numpy()
    level = [paired.uns["level"][plate == f"plate {b}"][0] for b in (0, 1)]
    assert np.corrcoef(np.log(moved[1] / moved[0]), level[1] - level[0])[0, 1] > 0.7


def test_a_mosaic_trains_mixes_and_is_completed(paired):
    cut = mosaic(paired, fraction=0.5, modality="prot", seed=1)
    cells = ch.read(cut, batch="plate", label="type")
    fitted = ch.fit(cells, ch.recipes.totalvi(dim=6, hidden=(32,)), epochs=60, seed=0, progress=False)
    assert np.isfinite(fitted.history["loss"]).all()
    lacks = ~cells.present["prot"].numpy()
    z, types = fitted.embedded.embedding, fitted.embedded.level_names("label").astype(str)
    assert told(z, types) > 0.95
    # Cells without proteins lie among those of their type that have them. Half of it is chance.
    assert KNeighborsClassifier(15).fit(z[~lacks], types[~lacks]).score(z[lacks], types[lacks]) > 0.95
    assert told(z, lacks) < 0.85
    at = paired.obs_names.get_indexer(cells.names[lacks])
    expected = np.log1p(fitted.embedded.expected("prot")[lacks])
    truth = np.log1p(paired["prot"].X[at])
    assert np.mean([np.corrcoef(expected[:, j], truth[:, j])[0, 1] for j in range(PROTEINS)]) > 0.5
    auc = [
        roc_auc_score(paired.obsm["foreground"][at][:, j], ch.foreground(fitted).to_numpy()[lacks][:, j])
        for j in range(PROTEINS)
    ]
    assert np.mean(auc) > 0.9


def test_cells_of_one_modality_are_projected(model, paired):
    whole = model.project(paired)
    for name, least in (("rna", 0.9), ("prot", 0.6)):
        alone = model.project(ch.read(paired[name], like=model, modalities=name))
        other = "prot" if name == "rna" else "rna"
        assert not alone.cells.present[other].any()
        z = np.concatenate([whole.embedding, alone.embedding])
        types = paired.obs["type"].to_numpy().astype(str)
        nearest = KNeighborsClassifier(15).fit(whole.embedding, types)
        assert nearest.score(z[len(types) :], types) > least


def test_panels_of_proteins_train(paired):
    half = {"rna": paired["rna"][:200].copy(), "prot": paired["prot"][:200, :8].copy()}
    some, rest = mudata_of(half, paired.obs[:200].copy()), paired[200:].copy()
    cells = ch.read({"a": some, "b": rest}, batch="source")
    assert cells.mask("prot") is not None
    recipe = ch.recipes.totalvi(dim=4, hidden=(16,), drop=0.3)
    fitted = ch.fit(cells, recipe, epochs=10, seed=0, progress=False)
    assert np.isfinite(fitted.history["loss"]).all()
    assert np.isfinite(ch.foreground(fitted).to_numpy()).all()


def test_it_is_saved_and_loaded(model, tmp_path):
    model.save(tmp_path / "m")
    loaded = ch.load(tmp_path / "m")
    np.testing.assert_array_equal(ch.foreground(loaded).to_numpy(), ch.foreground(model).to_numpy())
    assert "Gayoso" in loaded.cite()


def test_refusals(model, paired):
    with pytest.raises(InputError, match=r"whose likelihood has a background; found 'rna' without"):
        ch.foreground(model, "rna")
    with pytest.raises(InputError, match=r"values of 'probability', 'counts'; found 'odds'"):
        ch.foreground(model, values="odds")
    with pytest.raises(InputError, match=r"modalities 'rna', 'prot'; found one of 'adt'"):
        ch.recipes.totalvi(likelihood={"adt": "protein"}).build(model.layout)


def test_proteins_are_told_from_rna_by_their_number(paired):
    turned = mudata_of({"prot": paired["prot"].copy(), "rna": paired["rna"].copy()}, paired.obs.copy())
    build = ch.recipes.totalvi().build(ch.read(turned).layout)
    heads = build.model.decoder.readout.heads
    assert hasattr(heads["prot"], "background_mean")
    assert not hasattr(heads["rna"], "background_mean")
    assert [term.name for term in build.objective.terms] == ["reconstruction", "kl", "background prot"]
