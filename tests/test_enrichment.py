"""Enrichment against SciPy, planted sets, derivatives of decoders, and a known response."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import chreode as ch
from chreode.errors import InputError
from chreode.interpret import component_scores, dimension_scores, enrichment_figure, mean_jacobian
from chreode.interpret.naming import readable

GENES = [f"g{i}" for i in range(400)]


def drawn(seed: int = 0, dims: int = 2) -> pd.DataFrame:
    scores = np.random.default_rng(seed).normal(size=(len(GENES), dims))
    return pd.DataFrame(scores, index=GENES, columns=[f"z{k}" for k in range(dims)])


def random_sets(number: int, seed: int = 0) -> dict[str, list[str]]:
    rng = np.random.default_rng(seed)
    return {f"set {i}": list(rng.choice(GENES, rng.integers(5, 60), replace=False)) for i in range(number)}


@pytest.mark.parametrize("ties", [False, True])
def test_z_is_that_of_mann_and_whitney(ties):
    scores, sets = drawn(), random_sets(20)
    scores = scores.round(0) if ties else scores
    table = ch.enrichment(scores, sets, correlation=0.0)
    assert len(table) == 40
    for row in table.itertuples():
        inside = scores.index.isin(sets[row.set])
        values = scores[row.name].to_numpy()
        found = stats.mannwhitneyu(values[inside], values[~inside], use_continuity=False, method="asymptotic")
        np.testing.assert_allclose(row.p_value, found.pvalue, rtol=1e-9)
        np.testing.assert_allclose(row.auc, found.statistic / (inside.sum() * (~inside).sum()))
        np.testing.assert_allclose(row.difference, values[inside].mean() - values[~inside].mean())
        assert row.found == row.size == len(sets[row.set])
    for _, part in table.groupby("name"):
        np.testing.assert_allclose(part["q_value"], stats.false_discovery_control(part["p_value"]))


def test_correlated_features_have_the_variance_of_ranks():
    rng, m, n, rho = np.random.default_rng(0), 20, 100, 0.3
    draws = rng.normal(size=(n, 1500))
    draws[:m] = np.sqrt(1 - rho) * draws[:m] + np.sqrt(rho) * rng.normal(size=1500)
    genes = GENES[:n]
    table = ch.enrichment(pd.DataFrame(draws, index=genes), {"set": genes[:m]}, correlation=rho)
    assert table["z"].std() == pytest.approx(1, abs=0.06)
    naive = ch.enrichment(pd.DataFrame(draws, index=genes), {"set": genes[:m]}, correlation=0.0)
    assert naive["z"].std() > 1.8


def test_a_planted_set_is_found_with_its_sign():
    scores, sets = drawn(1), random_sets(60, seed=1)
    planted = GENES[10:40]
    scores.loc[planted, "z0"] += 1.0
    scores.loc[planted, "z1"] -= 1.0
    table = ch.enrichment(scores, {**sets, "planted": planted})
    best = table.groupby("name").first()
    assert (best["set"] == "planted").all()
    assert (best["q_value"] < 0.05).all()
    assert best["direction"].tolist() == ["up", "down"]
    assert (best["auc"] > 0.5).tolist() == [True, False]
    for name, ascending in (("z0", False), ("z1", True)):
        leading = scores.loc[planted, name].sort_values(ascending=ascending).index[:10]
        assert best.loc[name, "leading"].split(", ") == list(leading)
    named = ch.name_dimensions(pd.concat([part for _, part in table.groupby("name")]).set_axis([0] * 122))
    assert named["proposed"].tolist() == ["planted", "planted"]
    assert named["direction"].tolist() == ["up", "down"]


def test_features_in_random_order_give_nothing():
    table = ch.enrichment(drawn(2, dims=10), random_sets(200, seed=2), correlation=0.0)
    assert (table["p_value"] < 0.05).mean() == pytest.approx(0.05, abs=0.015)
    assert (ch.enrichment(drawn(2, dims=10), random_sets(200, seed=2))["p_value"] < 0.05).mean() < 0.05
    named = ch.name_dimensions(table, fdr=0.01)
    assert (named["proposed"] == "-").sum() >= 9


def test_ranks_alone_count():
    scores, sets = drawn(), random_sets(20)
    kept = ["name", "set", "direction", "z", "p_value", "q_value", "auc", "leading"]
    table = ch.enrichment(scores, sets)
    pd.testing.assert_frame_equal(ch.enrichment(np.exp(3 * scores), sets)[kept], table[kept])
    turned = ch.enrichment(-scores, sets)
    np.testing.assert_allclose(turned["z"], -table["z"], atol=1e-12)
    assert (turned["set"] == table["set"]).all()
    assert (turned["direction"] != table["direction"]).all()
    shuffled = ch.enrichment(scores.sample(frac=1, random_state=0), sets)
    pd.testing.assert_frame_equal(shuffled, table)


def test_sets_of_another_size_are_left_out():
    sets = {"few": GENES[:4], "fits": [*GENES[:5], "unknown"], "many": GENES[:50], "all": GENES}
    table = ch.enrichment(drawn(), sets, most=49)
    assert table["set"].unique().tolist() == ["fits"]
    assert table[["found", "size"]].values.tolist() == [[5, 6], [5, 6]]
    assert table.attrs == {"left_out": {"few": 1, "many": 2}, "features": 400, "correlation": 0.01}
    assert set(ch.enrichment(drawn(), sets)["set"]) == {"fits", "many"}  # all features have no rest


def test_equal_scores_are_no_finding():
    scores = pd.DataFrame({"z": np.zeros(400)}, index=GENES)
    table = ch.enrichment(scores, random_sets(3))
    assert (table["z"] == 0).all()
    assert (table["q_value"] == 1).all()
    assert (table["leading"] == "").all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"scores": np.zeros((400, 2))}, "found ndarray"),
        ({"scores": drawn().iloc[:0]}, "a table of"),
        ({"scores": drawn().assign(z1=np.nan)}, "'z1'"),
        ({"scores": drawn().assign(z1="high")}, "'z1'"),
        ({"scores": pd.concat([drawn(), drawn().iloc[:1]])}, "'g0' more than once"),
        ({"scores": drawn().set_axis(["z", "z"], axis=1)}, "'z' more than once"),
        ({"gene_sets": {"other": ["G1", "G2"]}}, "'G1'. Did you mean 'g1'"),
        ({"gene_sets": {"small": GENES[:2]}}, "sets with 2 to 2"),
        ({"correlation": 1.0}, "correlation=1.0"),
        ({"correlation": -0.1}, "correlation=-0.1"),
        ({"least": 0}, "least=0"),
        ({"least": 50, "most": 40}, "most=40"),
    ],
)
def test_bad_input_is_refused(arguments, says):
    given = {"scores": drawn(), "gene_sets": random_sets(3), **arguments}
    with pytest.raises(InputError, match=says):
        ch.enrichment(given.pop("scores"), given.pop("gene_sets"), **given)


def test_names_and_figures_refuse_other_tables():
    table = ch.enrichment(drawn(), random_sets(3))
    for wrong, fdr in ((drawn(), 0.05), (table.iloc[:0], 0.05), (3, 0.05), (table, 0.0), (table, 1.0)):
        with pytest.raises(InputError):
            ch.name_dimensions(wrong, fdr=fdr)
        with pytest.raises(InputError):
            enrichment_figure(wrong, fdr=fdr)
    with pytest.raises(InputError, match="sets=0"):
        enrichment_figure(table, sets=0)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("HALLMARK_INTERFERON_ALPHA_RESPONSE", "Interferon alpha response"),
        ("HALLMARK_IL2_STAT5_SIGNALING", "IL2 STAT5 signaling"),
        ("HALLMARK_DNA_REPAIR", "DNA repair"),
        ("KEGG_MEDICUS_REFERENCE_PATHWAY", "Reference pathway"),
        ("MY_OWN_SET", "My own set"),
        ("Interleukin-6 signaling", "Interleukin-6 signaling"),
        ("TP53", "TP53"),
        ("HALLMARK_", "Hallmark"),
    ],
)
def test_names_are_readable(name, read):
    assert readable(name) == read


def test_the_figure_shows_effects():
    scores = drawn(1)
    scores.loc[GENES[:30], "z0"] += 1.5
    table = ch.enrichment(scores, {**random_sets(30), "HALLMARK_DNA_REPAIR": GENES[:30]})
    axes = enrichment_figure(table, sets=5).axes[0]
    assert [one.get_text() for one in axes.get_xticklabels()] == ["dimension z0", "dimension z1"]
    labels = [one.get_text() for one in axes.get_yticklabels()]
    assert len(labels) == 5
    assert labels[0] == "DNA repair"
    dots = axes.collections[0]
    assert len(dots.get_offsets()) == 10
    at = np.flatnonzero((dots.get_offsets() == [0, 0]).all(1))[0]
    assert dots.get_sizes()[at] == dots.get_sizes().max()
    assert dots.get_array()[at] > 0.5


def small(recipe: ch.recipe, *, batch: bool = False):
    adata = ch.simulate(120, 30, components=3, seed=0)
    if batch:
        adata.obs["batch"] = np.where(np.arange(120) % 2, "a", "b")
    cells = ch.read(adata, batch="batch" if batch else None)
    return ch.fit(cells, recipe, epochs=3, seed=0, progress=False)


@pytest.mark.parametrize("name", ["scdgd", "scvi", "scvae"])
def test_derivatives_are_finite_differences(name):
    free = {"components": 3} if name == "scdgd" else {}
    model = small(getattr(ch.recipes, name)(dim=3, **free), batch=True)
    table = mean_jacobian(model, progress=False)
    embedded = model.embedded
    module = embedded.module.double()
    codes = embedded.embedding.astype(np.float64)
    step = 1e-5
    for k in range(3):
        logs = []
        for sign in (1, -1):
            moved = codes.copy()
            moved[:, k] += sign * step
            other = embedded.replace(
                cells=embedded.cells, codes={**embedded.codes, embedded.code: torch.from_numpy(moved)}
            )
            logs.append(np.log(other.expected(borrow=False)).mean(0))
        np.testing.assert_allclose(table[k], (logs[0] - logs[1]) / (2 * step), rtol=2e-3, atol=2e-5)
    module.float()


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_dimensions_of_other_latents_are_those_of_cells_that_have_them(hidden):
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.poisson(2.0, (120, 30)).astype(np.float32))
    adata.obs["drug"] = np.where(np.arange(120) % 3, "yes", "no")
    cells = ch.read(adata, covariates=["drug"])
    blocks = ch.fit(cells, ch.recipes.patches(dim=3, private=2, hidden=hidden), epochs=2, progress=False)
    table = dimension_scores(blocks, latent="drug", progress=False)
    assert table.columns.tolist() == ["no 0", "no 1", "yes 0", "yes 1"]
    assert dimension_scores(blocks, progress=False).columns.tolist() == [0, 1, 2]
    gated = ch.recipes.contrastivevi(background="no", dim=3, private=2, hidden=hidden)
    salient = ch.fit(cells, gated, epochs=2, progress=False)
    found = mean_jacobian(salient, latent="salient", progress=False)
    treated = salient.embedded.pick(salient.embedded.level_names("drug") == "yes")
    pd.testing.assert_frame_equal(found, mean_jacobian(treated, latent="salient", progress=False))
    sets = {"first": list(found.index[:8])}
    tested = ch.enrichment(salient, sets, latent="salient", progress=False)
    assert tested["name"].astype(int).tolist() == [0, 1]
    with pytest.raises(InputError, match=r"'shared', 'salient'.*found 'salent'.*Did you mean"):
        dimension_scores(salient, latent="salent")


def test_derivatives_of_a_linear_decoder_are_its_loadings():
    model = small(ch.recipes.ldvae(dim=3))
    loadings, jacobian = ch.loadings(model), mean_jacobian(model, progress=False)
    pd.testing.assert_frame_equal(dimension_scores(model), loadings)
    shift = loadings.to_numpy() - jacobian.to_numpy()
    np.testing.assert_allclose(shift, shift[:1].repeat(30, 0), atol=1e-4)
    sets = {"first": list(loadings.index[:8]), "last": list(loadings.index[-8:])}
    kept = ["name", "set", "z", "leading"]
    pd.testing.assert_frame_equal(ch.enrichment(model, sets)[kept], ch.enrichment(jacobian, sets)[kept])


def test_components_are_tested_against_the_average_cell():
    model = small(ch.recipes.scdgd(dim=2, components=3))
    scores = component_scores(model)
    embedded = model.embedded
    means = embedded.decode(embedded.density().means).proportions.detach().numpy()
    np.testing.assert_allclose(scores, (np.log(means) - np.log(embedded.expected().mean(0))).T, atol=1e-4)
    sets = {"first": list(scores.index[:8]), "last": list(scores.index[-8:])}
    table = ch.enrichment(model, sets, progress=False)
    assert table.groupby("kind", sort=False)["name"].unique().map(list).to_dict() == {
        "dimension": ["0", "1"],
        "component": ["0", "1", "2"],
    }
    alone = ch.enrichment(scores, sets)
    np.testing.assert_allclose(table.loc[table["kind"] == "component", "z"], alone["z"])
    assert ch.name_dimensions(table)["kind"].tolist() == ["dimension"] * 2 + ["component"] * 3
    labels = enrichment_figure(table).axes[0].get_xticklabels()
    assert labels[-1].get_text() == "component 2"


def test_symbols_are_known_too():
    adata = ch.simulate(60, 30, components=2, seed=0)
    adata.var["gene_symbols"] = [f"SYM{j}" for j in range(30)]
    cells = ch.read(adata)
    if not next(iter(cells.layout.modalities.values())).symbols:
        pytest.fail("the symbols were not read")
    model = ch.fit(cells, ch.recipes.pca(dim=2), epochs=1, progress=False)
    by_symbol = ch.enrichment(model, {"s": [f"SYM{j}" for j in range(6)]})
    by_name = ch.enrichment(model, {"s": list(adata.var_names[:6])})
    pd.testing.assert_frame_equal(by_symbol, by_name)


def test_a_model_without_cells_is_refused(tmp_path):
    small(ch.recipes.scdgd(dim=2, components=2)).save(tmp_path / "m", cells=False)
    with pytest.raises(InputError, match="saved with its cells"):
        ch.enrichment(ch.load(tmp_path / "m"), {"a": GENES[:5]})


def test_interferon_is_found_in_stimulated_cells(shared):
    adata = ad.read_h5ad(shared / "kang_ifnb_muscat.h5ad")
    hallmark = shared / "resources" / "h.all.v7.0.symbols.gmt"
    sums = [
        np.asarray(adata.X[(adata.obs["condition"] == one).to_numpy()].sum(0)).ravel() + 1
        for one in ("ctrl", "stim")
    ]
    shares = [np.log(one / one.sum()) for one in sums]
    change = pd.Series(shares[1] - shares[0], index=adata.var_names)
    table = ch.enrichment(change.to_frame("stimulation"), hallmark)
    named = ch.name_dimensions(table)
    assert named["proposed"][0] in ("Interferon alpha response", "Interferon gamma response")
    assert named["direction"][0] == "up"
    assert named["q_value"][0] < 1e-6
    rng = np.random.default_rng(0)
    shuffled = pd.DataFrame({k: rng.permutation(change.to_numpy()) for k in range(20)}, index=change.index)
    assert (ch.name_dimensions(ch.enrichment(shuffled, hallmark))["proposed"] == "-").sum() >= 18
