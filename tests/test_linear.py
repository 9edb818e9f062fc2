"""The linear family against scikit-learn, quadrature, formulas and simulated factors."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy import integrate, stats
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA, FactorAnalysis

import chreode as ch
from chreode.cells import CSR
from chreode.errors import InputError
from chreode.infer import LinearGaussian, likelihood_factors, sparse_factors
from chreode.infer.gaussian import posterior
from chreode.infer.values import prepared
from chreode.likelihoods import DroppedNormal
from parts import table, tiny


def named(values: np.ndarray, prefix: str = "f") -> ad.AnnData:
    adata = ad.AnnData(values.astype(np.float32))
    adata.obs_names = [f"c{i}" for i in range(len(values))]
    adata.var_names = [f"{prefix}{j}" for j in range(values.shape[1])]
    return adata


def factors(seed: int = 0, n: int = 300, g: int = 30, d: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Values with noise of a different size for every feature, and the factors behind them."""
    rng = np.random.default_rng(seed)
    z, w = rng.normal(size=(n, d)), rng.normal(size=(g, d))
    return z @ w.T + 3 + rng.normal(size=(n, g)) * rng.uniform(0.3, 2, g), z


def views(seed: int = 0, n: int = 300) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Two modalities: two sparse factors of both, one of the first, one of the second."""
    rng = np.random.default_rng(seed)
    z, found = rng.normal(size=(n, 4)), {}
    for name, g, active in (("one", 60, (0, 1, 2)), ("two", 40, (0, 1, 3))):
        w = np.zeros((g, 4))
        w[:, active] = rng.normal(size=(g, 3)) * (rng.random((g, 3)) < 0.5)
        found[name] = z @ w.T + rng.normal(size=(n, g))
    return found, z


def joined(values: dict[str, np.ndarray]) -> md.MuData:
    with md.set_options(pull_on_update=False):
        return md.MuData({m: named(x, f"{m}_") for m, x in values.items()})


def matched(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Correlation of each true factor with the one that was found for it."""
    d = truth.shape[1]
    moving = found[:, found.std(0) > 1e-6]
    r = np.abs(np.corrcoef(truth.T, moving.T)[:d, d:])
    return r[linear_sum_assignment(-r)]


def learned(cells, rule, dim: int, **arguments: object) -> tuple[LinearGaussian, list[float]]:
    part = LinearGaussian(cells.layout, dim, rule=rule, modalities=list(cells.layout.modalities), **arguments)
    history = rule(dict(part.views.items()), prepared(cells, part.modalities, per=1e4), seed=0)
    return part, history


def test_components_are_those_of_scikit_learn() -> None:
    adata = table(150, 50)
    model = ch.fit(ch.read(adata), ch.recipes.pca(dim=5), epochs=1, validation=0, progress=False)
    counts = adata.X.toarray().astype(np.float64)
    logged = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    pca = PCA(5, svd_solver="full").fit(logged)
    found, expected = model.embedded.embedding, pca.transform(logged)
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found, expected * signs, atol=1e-3)
    np.testing.assert_allclose(ch.loadings(model).to_numpy(), pca.components_.T * signs, atol=1e-4)
    new = table(20, 50, seed=4)
    scaled = np.log1p(1e4 * new.X.toarray() / new.X.sum(1))
    np.testing.assert_allclose(
        model.project(new).embedding, pca.transform(np.asarray(scaled)) * signs, atol=1e-3
    )
    ratio = ch.variance_explained(model)["rna"]
    np.testing.assert_allclose(ratio.drop("total"), pca.explained_variance_ratio_, atol=1e-4)
    assert ratio["total"] == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-4)


def test_components_of_continuous_values_decode_to_their_projection() -> None:
    values, _ = factors()
    cells = ch.read(named(values), values="continuous")
    model = ch.fit(cells, ch.recipes.pca(dim=3), validation=0, progress=False)
    pca = PCA(3).fit(values)
    expected = pca.inverse_transform(pca.transform(values))
    np.testing.assert_allclose(model.embedded.expected(), expected, atol=1e-3)
    assert len(model.history) == 1


def test_components_explain_held_out_molecules() -> None:
    adata = table(240, 40)
    model = ch.fit(
        ch.read(adata[:200].copy()), ch.recipes.pca(dim=4), epochs=60, validation=0, progress=False
    )
    found = model.score(adata[200:].copy())
    assert found["gain"] > 0.1


def test_factor_analysis_is_as_likely_as_that_of_scikit_learn() -> None:
    values, _ = factors()
    cells = ch.read(named(values), values="continuous")
    part, history = learned(cells, likelihood_factors, 3)
    peer = FactorAnalysis(3, tol=1e-8, max_iter=5000, svd_method="lapack").fit(values)
    assert history[-1] / len(cells) == pytest.approx(peer.score(values), abs=1e-3)
    line, code = part.linear("rna"), part(cells)
    np.testing.assert_allclose(line.noise, peer.noise_variance_, rtol=1e-2)
    np.testing.assert_allclose(code.z @ line.weight.T, peer.transform(values) @ peer.components_, atol=1e-2)
    w, noise = line.weight.double().numpy(), line.noise.double().numpy()
    covariance = np.linalg.inv(np.eye(3) + w.T @ (w / noise[:, None]))
    np.testing.assert_allclose(code.posterior.covariance[7], covariance, atol=1e-5)
    np.testing.assert_allclose(code.posterior.variance[7], np.diag(covariance), atol=1e-5)


def test_sparse_values_give_the_same_factors() -> None:
    adata = table(100, 30)
    logged = np.log1p(1e4 * adata.X.toarray() / adata.X.sum(1))
    dense = ch.read(named(np.asarray(logged)), values="continuous")
    one, ours = learned(ch.read(adata), likelihood_factors, 3)
    other, theirs = learned(dense, likelihood_factors, 3)
    assert ours[-1] == pytest.approx(theirs[-1], rel=1e-5)
    np.testing.assert_allclose(one.linear("rna").weight, other.linear("rna").weight, atol=1e-2)


@pytest.mark.parametrize("dropout", [False, True])
def test_the_likelihood_never_falls(dropout: bool) -> None:
    _, history = learned(ch.read(table(100, 30)), likelihood_factors, 3, dropout=dropout)
    assert len(history) > 5
    assert min(np.diff(history)) > -1e-6 * abs(history[-1])


def test_what_is_missing_is_left_out_of_the_posterior() -> None:
    values, _ = factors()
    holes = np.random.default_rng(1).random(values.shape) < 0.3
    cells = ch.read(named(np.where(holes, np.nan, values)), values="continuous")
    part, _ = learned(cells, likelihood_factors, 3)
    line, code = part.linear("rna"), part(cells)
    mean, w, noise = (v.double().numpy() for v in line[:3])
    for i in (0, 17):
        seen = ~holes[i]
        inner = np.eye(3) + w[seen].T @ (w[seen] / noise[seen, None])
        right = w[seen].T @ ((values[i, seen] - mean[seen]) / noise[seen])
        np.testing.assert_allclose(code.z[i], np.linalg.solve(inner, right), atol=1e-4)


def dropped(seed: int = 0, n: int = 400, g: int = 40, decay: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Values of which the small ones dropped out, and the factors behind them."""
    rng = np.random.default_rng(seed)
    z, w = rng.normal(size=(n, 2)), rng.uniform(-0.8, 0.8, (g, 2))
    y = z @ w.T + rng.uniform(1.5, 4, g) + 0.3 * rng.normal(size=(n, g))
    return np.where(rng.random((n, g)) < np.exp(-decay * y**2), 0, y), z


def test_zifa_density_is_the_integral_over_its_factor() -> None:
    values, _ = dropped(n=60, g=4)
    cells = ch.read(named(values), values="continuous")
    part, _ = learned(cells, likelihood_factors, 1, dropout=True)
    found = posterior(dict(part.views.items()), cells[:3])
    head = DroppedNormal(4)
    line = part.linear("rna")
    head.log_scale.data, head.log_decay.data = 0.5 * line.noise.log(), line.decay.log()
    for i in range(3):

        def joint(z: float, i: int = i) -> float:
            raw = line.mean + line.weight[:, 0] * z
            at = head(raw[None], torch.ones(1), None).log_prob(torch.from_numpy(values[i : i + 1]).float())
            return float(at.detach().exp()) * stats.norm.pdf(z)

        total = integrate.quad(joint, -6, 6, epsabs=0, epsrel=1e-4, limit=100)[0]
        mean = integrate.quad(lambda z: z * joint(z), -6, 6, epsabs=1e-9, epsrel=1e-4, limit=100)[0] / total
        assert float(found.log_prob[i]) == pytest.approx(np.log(total), abs=1e-3)
        assert float(found.mean[i, 0]) == pytest.approx(mean, abs=1e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_zifa_finds_factors_that_zeros_hide(seed: int) -> None:
    values, z = dropped(seed)
    assert 0.3 < (values == 0).mean() < 0.7
    cells = ch.read(named(values), values="continuous")
    with_zeros = ch.fit(cells, ch.recipes.zifa(dim=2), validation=0, progress=False)
    without = ch.fit(cells, ch.recipes.factor_analysis(dim=2), validation=0, progress=False)

    def explained(model: ch.FittedModel) -> float:
        found = np.c_[model.embedded.embedding, np.ones(len(z))]
        return 1 - (z - found @ np.linalg.lstsq(found, z, rcond=None)[0]).var() / z.var()

    assert explained(with_zeros) > 0.9
    assert explained(with_zeros) > explained(without) + 0.03
    decay = with_zeros.module.decoder.readout.heads["rna"].log_decay.exp()
    assert float(decay) == pytest.approx(0.1, rel=0.2)


def test_dropped_values_have_a_density() -> None:
    head = DroppedNormal(1)
    head.log_scale.data.fill_(np.log(0.7))
    head.log_decay.data.fill_(np.log(0.4))
    observed = head(torch.full((1, 1), 1.3), torch.ones(1), None)

    def density(x: float) -> float:
        return float(observed.log_prob(torch.tensor([[x]])).detach().exp())

    parts = [
        sum(
            integrate.quad(lambda x, k=k: x**k * density(x), *ends, limit=200)[0]
            for ends in ((-5, 0), (0, 8))
        )
        for k in range(3)
    ]
    assert parts[0] + float(observed.zero_probability) == pytest.approx(1, abs=1e-4)
    assert float(observed.mean) == pytest.approx(parts[1], abs=1e-4)
    assert float(observed.variance) == pytest.approx(parts[2] - parts[1] ** 2, abs=1e-3)
    many = head(torch.full((20_000, 1), 1.3), torch.ones(20_000), None)
    drawn = many.sample(torch.Generator().manual_seed(0))
    assert float((drawn == 0).float().mean()) == pytest.approx(float(observed.zero_probability), abs=0.02)
    assert float(drawn.mean()) == pytest.approx(float(observed.mean), abs=0.03)
    x = torch.tensor([[0.0], [2.0]])
    two = head(torch.full((2, 1), 1.3), torch.ones(2), None)
    torch.testing.assert_close(two.log_prob(CSR.of(sp.csr_matrix(x.numpy()))), two.log_prob(x))
    masked = head(torch.full((2, 1), 1.3), torch.ones(2), torch.tensor([[True], [False]]))
    assert float(masked.log_prob(x)[1]) == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_mofa_finds_factors_and_where_they_matter(seed: int) -> None:
    values, z = views(seed)
    cells = ch.read(joined(values), values={"one": "continuous", "two": "continuous"})
    model = ch.fit(cells, ch.recipes.mofa(dim=8), validation=0, progress=False)
    assert matched(model.embedded.embedding, z).min() > 0.95
    found = ch.variance_explained(model)
    active = found.drop("total") > 0
    assert active.sum().to_list() == [3, 3]
    assert (active["one"] & active["two"]).sum() == 2
    assert list(found.drop("total").sum(1)) == sorted(found.drop("total").sum(1), reverse=True)
    for name, x in values.items():
        w, codes = ch.loadings(model, name).to_numpy(), model.embedded.embedding
        centred = x - model.module.decoder.readout.outputs[name].bias.detach().numpy()
        one = 1 - ((centred - np.outer(codes[:, 0], w[:, 0])) ** 2).sum() / (centred**2).sum()
        every = 1 - ((centred - codes @ w.T) ** 2).sum() / (centred**2).sum()
        assert found.loc[0, name] == pytest.approx(one, abs=1e-4)
        assert found.loc["total", name] == pytest.approx(every, abs=1e-4)


def test_mofa_bound_rises_until_a_factor_is_dropped() -> None:
    values, _ = views()
    _, history = learned(
        ch.read(joined(values), values={"one": "continuous", "two": "continuous"}), sparse_factors, 6
    )
    steps = np.diff(history)
    assert (steps < -1e-4).sum() <= 2  # where loadings may become zero, and where factors are dropped


def test_mofa_fills_in_missing_values_and_views() -> None:
    values, z = views(n=400)
    rng = np.random.default_rng(5)
    full = {m: x.copy() for m, x in values.items()}
    holes = {m: rng.random(x.shape) < 0.2 for m, x in values.items()}
    holes["two"][:80] = True  # a whole view
    gone = {m: np.where(holes[m], np.nan, x) for m, x in values.items()}
    cells = ch.read(joined(gone), values={"one": "continuous", "two": "continuous"})
    assert int(cells.present["two"].sum()) == 320
    assert any("are missing (NaN)" in said for said in cells.reading.messages)
    model = ch.fit(cells, ch.recipes.mofa(dim=8), progress=False)
    assert matched(model.embedded.embedding[80:], z[80:]).min() > 0.93
    for m, x in full.items():
        rows = slice(80, None)
        error = ((model.embedded.expected(m) - x)[rows][holes[m][rows]] ** 2).mean()
        assert error < 1.3  # the noise has variance 1, the values about 3
    new = model.project(joined({m: x[:50] for m, x in gone.items()}))
    np.testing.assert_allclose(new.embedding, model.embedded.embedding[:50], atol=1e-4)


def test_missing_values_survive_a_save(tmp_path) -> None:
    values, _ = factors(n=80)
    values[3, 4] = np.nan
    cells = ch.read(named(values), values="continuous")
    model = ch.fit(cells, ch.recipes.factor_analysis(dim=2), progress=False)
    model.save(tmp_path / "model")
    again = ch.load(tmp_path / "model")
    np.testing.assert_array_equal(again.embedded.expected(), model.embedded.expected())
    np.testing.assert_array_equal(again.project(named(values)).embedding, model.embedded.embedding)
    with pytest.raises(InputError, match=r"project\(source\)"):
        ch.variance_explained(again)
    assert ch.variance_explained(again.project(named(values))).equals(ch.variance_explained(model))


def test_mofa_of_counts_and_zeros_and_ones() -> None:
    values, z = views(n=250)
    rng = np.random.default_rng(2)
    share = np.exp(values["one"]) / np.exp(values["one"]).sum(1, keepdims=True)
    odds = 1 / (1 + np.exp(-values["two"]))
    mixed = {
        "rna": rng.poisson(2000 * share).astype(float),
        "atac": (rng.random(odds.shape) < odds).astype(float),
    }
    cells = ch.read(joined(mixed))
    model = ch.fit(cells, ch.recipes.mofa(dim=6), epochs=60, validation=0, progress=False)
    assert {m: d.kind for m, d in cells.layout.modalities.items()} == {"rna": "counts", "atac": "binary"}
    assert matched(model.embedded.embedding, z)[:2].min() > 0.6
    assert model.score(joined(mixed))["gain"] > 0.1


def test_posterior_draws_are_correlated_as_they_should_be() -> None:
    values, _ = factors(n=50)
    part, _ = learned(ch.read(named(values), values="continuous"), likelihood_factors, 2)
    q = part(ch.read(named(values), values="continuous")[:1]).posterior
    many = type(q)(q.mean.expand(20_000, -1), q.covariance.expand(20_000, -1, -1))
    drawn = many.sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.cov(drawn.T), q.covariance[0], atol=5e-3, rtol=0.05)


def test_refusals() -> None:
    model = ch.fit(tiny(), ch.recipes.scdgd(dim=2, hidden=(4,), components=2), epochs=1, progress=False)
    with pytest.raises(InputError, match="linear decoder"):
        ch.loadings(model)
    with pytest.raises(InputError, match="linear factors"):
        ch.variance_explained(model)
    with pytest.raises(InputError, match=r"found one of .prot"):
        ch.fit(tiny(), ch.recipes.mofa(likelihood={"prot": "nb"}), progress=False)
    linear = ch.fit(tiny(), ch.recipes.ldvae(dim=2, hidden=(4,)), epochs=1, progress=False)
    assert ch.loadings(linear).shape == (40, 2)
