"""Differences between groups of cells: calibrated under the null, found where they are."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy import optimize, stats

import chreode as ch
from chreode.interpret.cellwise import compare_cells
from chreode.interpret.design import replicates_of
from chreode.interpret.glm import deviances, fit, moderate, quasi_test, size_factors
from chreode.io.simulate import World
from chreode.report import markers_of
from commandline import chreode

if TYPE_CHECKING:
    from pathlib import Path


def people(seed: int = 0, *, changed: int = 0, paired: bool = False, genes: int = 500) -> ad.AnnData:
    """Eight donors of 30 to 60 cells, who vary; some genes are three times higher in condition A."""
    rng = np.random.default_rng(seed)
    donor = np.repeat(np.arange(8), rng.integers(30, 60, 8))
    condition = rng.random(len(donor)) < 0.5 if paired else donor < 4
    unit = 2 * donor + condition if paired else donor
    base = rng.lognormal(0, 1.2, genes)
    rate = base * np.exp(0.3 * rng.standard_normal((16, genes)))[unit]
    rate[:, :changed] *= np.where(condition, 3.0, 1.0)[:, None]
    mean = rate / rate.sum(1, keepdims=True) * rng.lognormal(np.log(2000), 0.4, len(donor))[:, None]
    counts = rng.poisson(mean * rng.gamma(2.0, 0.5, mean.shape)).astype(np.float32)
    obs = pd.DataFrame(
        {"donor": donor.astype(str), "condition": np.where(condition, "A", "B")},
        index=[f"cell{i}" for i in range(len(donor))],
    )
    var = pd.DataFrame(index=[f"gene{j}" for j in range(genes)])
    return ad.AnnData(sp.csr_matrix(counts), obs=obs, var=var)


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    return people(changed=50)


@pytest.fixture(scope="module")
def cells(adata):
    return ch.read(adata, label="condition", covariates="donor")


@pytest.fixture(scope="module")
def model(cells) -> ch.FittedModel:
    recipe = ch.recipes.scdgd(components=3, dim=3, hidden=[16])
    return ch.fit(cells, recipe, epochs=4, progress=False)


# Sums.


def test_pseudobulk_is_the_sum_of_the_cells(adata, cells):
    bulk = ch.pseudobulk(cells, by=["donor", "condition"])
    frame = pd.DataFrame(adata.X.toarray()).groupby([adata.obs["donor"].array, adata.obs["condition"].array])
    np.testing.assert_array_equal(bulk.X.toarray(), frame.sum().to_numpy())
    assert sp.issparse(bulk.X)
    assert bulk.obs["n_cells"].tolist() == frame.size().tolist()
    assert bulk.obs_names[0] == "0_A"
    np.testing.assert_array_equal(bulk.obs["total"], bulk.X.toarray().sum(1))
    assert bulk.var_names.tolist() == adata.var_names.tolist()


def test_pseudobulk_leaves_out_what_is_unknown_or_small(adata):
    some = adata.copy()
    some.obs.loc[some.obs["donor"] == "3", "donor"] = None
    some.obs.loc[some.obs_names[:5], "donor"] = "new"
    bulk = ch.pseudobulk(ch.read(some), by="donor", min_cells=6, source=some)
    assert bulk.obs["donor"].tolist() == ["0", "1", "2", "4", "5", "6", "7"]
    assert bulk.obs["n_cells"].sum() == len(some) - 5 - (adata.obs["donor"] == "3").sum()


def test_pseudobulk_of_the_models_components(model, adata):
    bulk = ch.pseudobulk(model, by="component")
    assert bulk.obs["n_cells"].tolist() == [n for n in np.bincount(model.embedded.components()) if n]
    np.testing.assert_allclose(bulk.X.sum(0), adata.X.sum(0))


# The parts.


@pytest.mark.parametrize("alpha", [0.0, 0.2, 3.0])
def test_deviance_is_twice_the_lost_log_likelihood(alpha):
    y, mean = np.array([0.0, 1.0, 7.0, 400.0]), np.array([0.5, 3.0, 7.0, 90.0])

    def log_prob(m: np.ndarray) -> np.ndarray:
        if alpha == 0:
            return stats.poisson.logpmf(y, m)
        return stats.nbinom.logpmf(y, 1 / alpha, 1 / (1 + alpha * m))

    expected = 2 * (log_prob(np.maximum(y, 1e-12)) - log_prob(mean))
    np.testing.assert_allclose(deviances(y, mean, alpha), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_fit_is_the_maximum_of_the_likelihood(alpha):
    rng = np.random.default_rng(1)
    design = np.column_stack([np.ones(10), np.arange(10) % 2, rng.standard_normal(10)])
    exposure = rng.uniform(0.5, 3, 10)
    counts = rng.poisson(5 * exposure, (3, 10)).astype(float)
    found = fit(counts, exposure, design, alpha=alpha)
    for row, beta in zip(counts, found.beta, strict=True):

        def lost(b: np.ndarray, row: np.ndarray = row) -> float:
            return deviances(row, exposure * np.exp(design @ b), alpha).sum()

        best = optimize.minimize(lost, np.array([1.0, 0, 0]), tol=1e-12)
        np.testing.assert_allclose(beta, best.x, atol=1e-4)


def test_size_factors_are_not_moved_by_a_few_features():
    rng = np.random.default_rng(0)
    depth = np.array([1.0, 2.0, 0.5, 1.0])
    counts = rng.poisson(100 * rng.lognormal(0, 1, 500)[:, None] * depth)
    counts[:20, 3] *= 30
    found = size_factors(counts)
    np.testing.assert_allclose(found / found[0], depth, rtol=0.05)
    assert counts[:, 3].sum() > 1.5 * counts[:, 0].sum()


def test_variances_of_equal_rows_are_pooled():
    rng = np.random.default_rng(0)
    freedom = rng.uniform(0.5, 6, 1000)  # as low counts leave fractions of a degree
    variance = rng.chisquare(freedom) / freedom
    moderated, prior = moderate(variance, freedom, level=rng.standard_normal(1000))
    assert prior > 50
    np.testing.assert_allclose(moderated, 1, atol=0.25)


def test_quasi_test_has_its_size_at_low_counts_and_intervals_that_agree():
    rng = np.random.default_rng(5)
    design = np.column_stack([np.ones(8), np.arange(8) >= 4]).astype(float)
    base = np.repeat([0.5, 2.0, 10.0, 100.0], 500)
    rate = base[:, None] * np.exp(0.3 * rng.standard_normal((2000, 8)))
    counts = rng.poisson(rate)
    found = quasi_test(counts[counts.sum(1) > 3], np.ones(8), design, coefficient=1)
    assert 0.035 < (found.p_value < 0.05).mean() < 0.06
    lower, upper = found.interval(0.95)
    assert (((lower > 0) | (upper < 0)) == (found.p_value < 0.05)).all()
    assert (lower <= found.estimate).all()
    assert (upper >= found.estimate).all()


def test_comparing_cells_is_the_exact_test_where_counts_are_few_and_poisson():
    # One cell a group leaves no variation to estimate: the binomial, mid-p.
    first, second = np.array([0, 3, 8, 20]), np.array([6, 3, 1, 12])
    counts, exposures = (
        (sp.csr_matrix(first[None]), sp.csr_matrix(second[None])),
        (np.ones(1), np.full(1, 2.0)),
    )
    found = compare_cells(*counts, exposures=exposures, level=0.95)
    for k, n, p in zip(first, first + second, found.p_value, strict=True):
        law = stats.binom(n, 1 / 3)
        tails = law.cdf(k) - law.pmf(k) / 2, law.sf(k) + law.pmf(k) / 2
        assert p == pytest.approx(2 * min(*tails, 0.5))
    inside = (found.lower < found.estimate) & (found.estimate < found.upper)
    assert inside.all()


@pytest.mark.parametrize("n", [15, 200])
def test_comparing_cells_is_calibrated_whatever_they_vary(n):
    rng = np.random.default_rng(2)
    sizes = [rng.lognormal(0, 0.5, m) for m in (n, 400)]
    rate = rng.lognormal(-1, 1.2, 1500)
    groups = [
        sp.csr_matrix(rng.poisson(s[:, None] * rate * rng.gamma(0.7, 1 / 0.7, (len(s), 1500)))) for s in sizes
    ]
    found = compare_cells(*groups, exposures=(sizes[0], sizes[1]), level=0.95)
    assert 0.02 < (found.p_value < 0.05).mean() < 0.06
    assert (((found.lower > 0) | (found.upper < 0)) == (found.p_value < 0.05)).all()


# The question.


@pytest.mark.parametrize("paired", [False, True])
def test_donors_as_replicates_are_calibrated(paired):
    low = []
    for seed in range(2):
        one = people(seed, paired=paired)
        table = ch.de(ch.read(one), group="condition=A", sample="donor", min_cells=5, source=one)
        assert table.attrs["paired"] is paired
        low.append((table["p_value"].dropna() < 0.05).mean())
    assert np.mean(low) < 0.06


def test_cells_as_replicates_find_what_is_not_there_and_say_so(caplog):
    one = people(0)
    with caplog.at_level(logging.WARNING):
        table = ch.de(ch.read(one, label="condition"), group="condition=A")
    assert (table["p_value"] < 0.05).mean() > 0.2
    assert set(table["replicates"]) == {"cells"}
    assert "treat cells as replicates" in caplog.text


def test_what_differs_is_found_with_its_size(cells):
    table = ch.de(cells, group="condition=A", sample="donor")
    true = {f"gene{j}" for j in range(50)}
    assert table["replicates"].iloc[0] == "donor (4 against 4)"
    called = set(table.index[table["q_value"] < 0.05])
    assert len(called & true) > 25
    assert len(called - true) <= 0.15 * len(called)
    effect = table.loc[sorted(true)]
    assert effect["log2_fold_change"].median() == pytest.approx(np.log2(3), abs=0.25)
    inside = (effect["lower"] < np.log2(3)) & (np.log2(3) < effect["upper"])
    assert inside.mean() > 0.85
    assert table["p_value"].dropna().is_monotonic_increasing


def test_the_other_side_has_the_other_sign(cells):
    one = ch.de(cells, group="condition=A", sample="donor")
    other = ch.de(cells, group="condition=B", against="A", sample="donor").loc[one.index]
    for name in ("log2_fold_change", "statistic"):
        np.testing.assert_allclose(one[name], -other[name], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one["lower"], -other["upper"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(one["mean"], other["mean_against"])


def test_means_and_shares_are_those_of_the_counts(adata, cells):
    mask = (adata.obs["condition"] == "A").to_numpy()
    table = ch.de(cells, group=mask)
    counts = adata.X.toarray()[mask]
    np.testing.assert_allclose(table["mean"], 1e4 * counts.sum(0)[_place(table)] / counts.sum())
    np.testing.assert_allclose(table["share"], (counts > 0).mean(0)[_place(table)])


def _place(table: pd.DataFrame) -> np.ndarray:
    return table.index.str.removeprefix("gene").astype(int).to_numpy()


def test_within_asks_the_same_of_fewer_cells(adata, cells):
    some = np.isin(adata.obs["donor"], ["0", "1", "6", "7"])
    inside = ch.de(cells, group="condition=A", within=some, sample="donor")
    fewer = ch.read(adata[some].copy(), label="condition", covariates="donor")
    alone = ch.de(fewer, group="condition=A", sample="donor")
    pd.testing.assert_frame_equal(inside, alone, check_exact=False)


def test_features_without_counts_are_described_but_not_tested():
    one = people(0, genes=60)
    one.X[:, 3] = 0
    one.X.eliminate_zeros()
    table = ch.de(ch.read(one, label="condition"), group="condition=A", sample="donor", source=one)
    assert np.isnan(table.loc["gene3", ["p_value", "q_value", "log2_fold_change"]].to_numpy(float)).all()
    assert table.loc["gene3", "mean"] == 0
    assert table.index[-1] == "gene3"


def test_features_that_some_were_not_measured_in_are_not_tested(adata):
    half = len(adata) // 2
    parts = {"a": adata[:half, :480].copy(), "b": adata[half:, 20:].copy()}
    joined = ch.read(parts, label="condition", batch="source")
    table = ch.de(joined, group="condition=A")
    lost = [f"gene{j}" for j in (*range(20), *range(480, 500))]
    assert table.loc[lost, "p_value"].isna().all()
    assert table.drop(index=lost)["p_value"].notna().mean() > 0.9


def test_donors_of_one_condition_are_left_out_of_pairs():
    donors = np.array(list("aabbccd"), dtype=object)
    group = np.array([1, 0, 1, 0, 1, 0, 1], bool)
    design = replicates_of(donors, group, ~group, "donor", 1)
    assert design.paired
    assert design.unit.tolist() == [0, 3, 1, 4, 2, 5, -1]
    assert np.linalg.matrix_rank(design.matrix) == design.matrix.shape[1] == 4


# Components.


def test_components_are_tested_on_molecules_that_did_not_make_them():
    world = World(strength=0.0, theta=1e4, depth=1500.0)
    cells = ch.read(ch.simulate(300, 120, components=1, world=world))
    model = ch.fit(cells, ch.recipes.scdgd(components=2, dim=4), seed=1, epochs=20, progress=False)
    codes, prior = model.embedded.codes["cell"], model.module.latents["cell"].prior
    axis = torch.linalg.svd(codes - codes.mean(0), full_matrices=False).Vh[0] * codes.std()
    with torch.no_grad():  # cut a population in which nothing differs across its longest axis
        prior.means.copy_(codes.mean(0) + torch.stack([axis, -axis]))
        prior.logits.zero_()
    same = ch.de(cells, group=model.embedded.components() == 0)
    split = ch.de(model, group="component=0")
    assert split.attrs["halved"]
    assert not same.attrs["halved"]
    assert min(split.attrs["cells"], split.attrs["cells_against"]) > 100
    assert (same["p_value"] < 0.05).mean() > 0.2
    assert (split["p_value"] < 0.05).mean() < 0.1


def test_components_can_be_named_on_both_sides(model):
    kept = np.flatnonzero(np.bincount(model.embedded.components(), minlength=3) > 10)
    table = ch.de(model, group=f"component={kept[0]}", against=str(kept[1]), seed=4)
    assert table.attrs["halved"]
    again = ch.de(model, group=f"component={kept[0]}", against=str(kept[1]), seed=4)
    pd.testing.assert_frame_equal(table, again)
    other = ch.de(model, group=f"component={kept[0]}", against=str(kept[1]), seed=5)
    assert not table["p_value"].equals(other.loc[table.index, "p_value"])


# Models.


def test_a_loaded_model_takes_its_counts_from_a_source_in_any_order(model, adata, tmp_path):
    model.save(tmp_path / "model")
    loaded = ch.load(tmp_path / "model")
    with pytest.raises(ch.InputError, match="Give source="):
        ch.de(loaded, group="condition=A")
    shuffled = adata[np.random.default_rng(0).permutation(len(adata))].copy()
    asked = {"group": "condition=A", "sample": "donor"}
    pd.testing.assert_frame_equal(ch.de(loaded, source=shuffled, **asked), ch.de(model, **asked))
    with pytest.raises(ch.InputError, match="without 'cell0'"):
        ch.de(loaded, source=adata[1:].copy(), **asked)


def test_the_models_own_fold_change_is_beside_and_named_so(model, cells):
    table = ch.de(model, group="condition=A", sample="donor", modelled=True)
    assert (table["model_lower"] < table["model_upper"]).all()
    expected = model.embedded.expected()
    mask = model.embedded.level_names("condition") == "A"
    ratio = np.log2(expected[mask].mean(0) / expected[~mask].mean(0))
    np.testing.assert_allclose(table["model_log2_fold_change"], ratio[_place(table)], atol=0.02)
    plain = ch.de(model, group="condition=A", sample="donor")
    pd.testing.assert_frame_equal(table[plain.columns], plain)


@pytest.mark.parametrize("name", ["scvi", "vad"])
def test_a_posterior_gives_the_models_fold_change_an_interval(adata, name):
    cells = ch.read(adata, label="condition", batch="donor")
    model = ch.fit(cells, getattr(ch.recipes, name)(dim=3, hidden=[16]), epochs=3, progress=False)
    table = ch.de(model, group="condition=A", modelled=True)
    assert (table["model_lower"] < table["model_upper"]).all()
    middle = table["model_log2_fold_change"]
    inside = (table["model_lower"] - 0.1 < middle) & (middle < table["model_upper"] + 0.1)
    assert inside.mean() > 0.9


def test_markers_of_components_are_those_of_the_report(model):
    table = ch.markers(model, top=5)
    sizes = np.bincount(model.embedded.components(), minlength=model.components)
    same = markers_of(model.component_means(), sizes, names=model.layout.modalities["rna"].names, top=5)
    assert table["feature"].tolist() == same["name"].tolist()
    np.testing.assert_array_equal(table["log2_fold_change"], same["log2_fold_change"])


def test_markers_of_a_columns_levels(model):
    table = ch.markers(model, groups="condition", top=10)
    level = model.embedded.level_names("condition")
    expected = model.embedded.expected()
    means = np.stack([expected[level == name].mean(0) for name in "AB"])
    sizes = np.array([(level == name).sum() for name in "AB"])
    same = markers_of(means, sizes, names=model.layout.modalities["rna"].names, top=10)
    assert table["group"].tolist() == ["AB"[k] for k in same["component"]]
    assert table["feature"].tolist() == same["name"].tolist()


# What is refused.


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"group": "condition"}, "COLUMN=LEVEL"),
        ({"group": "condition=C"}, "'A', 'B'"),
        ({"group": "conditio=A"}, "Did you mean 'condition'"),
        ({"group": "condition=A", "against": "A"}, "share no cell"),
        ({"group": "condition=A", "against": "C"}, "found 'C'"),
        ({"group": "condition=A", "sample": "sex"}, "found 'sex'"),
        ({"group": "condition=A", "sample": "condition"}, "at least two levels of 'condition'"),
        ({"group": "condition=A", "sample": "donor", "min_cells": 1000}, "lower min_cells"),
        ({"group": "condition=A", "min_counts": 10**9}, "smaller min_counts"),
        ({"group": "condition=A", "min_cells": 0}, "min_cells"),
        ({"group": "condition=A", "modality": "atac"}, "'atac'"),
        ({"group": "condition=A", "within": "donor=9"}, "found '9'"),
        ({"group": "component=0"}, "found 'component'"),
        ({"group": np.zeros(3, bool)}, "mask of"),
        ({"group": "condition=A", "modelled": True}, "Give the FittedModel"),
    ],
)
def test_bad_questions_are_refused(cells, asked, said):
    with pytest.raises(ch.InputError, match=said):
        ch.de(cells, **asked)


def test_continuous_values_are_refused(adata):
    some = ch.read(adata[:, :20].copy(), values="continuous", label="condition")
    with pytest.raises(ch.InputError, match="continuous values"):
        ch.de(some, group="condition=A")
    with pytest.raises(ch.InputError, match="Expected Cells"):
        ch.de(adata, group="condition=A")
    with pytest.raises(ch.InputError, match="Give by="):
        ch.pseudobulk(some, by=[])


# The command line.


@pytest.fixture(scope="module")
def folder(adata, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    adata.write_h5ad(folder / "cells.h5ad")
    quick = ("--set", "components=3", "--set", "dim=2", "--set", "hidden=[8]", "--epochs", "3", "--no-report")
    done = chreode("fit", folder / "cells.h5ad", *quick, "--label", "condition", "--out", folder / "run")
    assert done.code == 0, done.err
    return folder


def test_de_is_written_drawn_and_told(folder, cells):
    done = chreode("de", folder / "run", "--group", "condition=A", "--sample", "donor")
    assert (done.code, done.err) == (0, "")
    assert "donor (4 against 4)" in done.out
    out = folder / "run" / "de" / "condition=A_vs_rest_by_donor.csv"
    written = pd.read_csv(out, index_col="feature")
    table = ch.de(cells, group="condition=A", sample="donor")
    pd.testing.assert_frame_equal(written.loc[table.index], table, check_exact=False)
    assert out.with_suffix(".png").stat().st_size > 5000
    again = chreode("de", folder / "run", "--group", "condition=A", "--sample", "donor")
    assert again.code == 2
    assert "--overwrite" in again.err


def test_de_without_donors_says_what_its_p_values_are(folder, tmp_path):
    done = chreode("de", folder / "run", "--group", "condition=A", "--out", tmp_path / "a.csv")
    assert (done.code, done.err) == (0, "")
    assert "treat cells as replicates" in " ".join(done.out.split())
    done = chreode("de", folder / "run", "--group", "condition=Z", "--out", tmp_path / "b.csv")
    assert done.code == 2
    assert not (tmp_path / "b.csv").exists()


def test_pseudobulk_and_markers_are_written(folder, tmp_path):
    out = tmp_path / "sums.h5ad"
    done = chreode("pseudobulk", folder / "run", "--by", "donor", "--by", "condition", "--out", out)
    assert done.code == 0, done.err
    assert ad.read_h5ad(out).obs["n_cells"].sum() == len(ad.read_h5ad(folder / "cells.h5ad"))
    done = chreode("export", folder / "run", "--csv", "--out", tmp_path / "csv")
    assert done.code == 0, done.err
    table = pd.read_csv(tmp_path / "csv" / "markers.csv")
    assert table.columns.tolist()[:4] == ["modality", "group", "rank", "feature"]
    assert set(table["modality"]) == {"rna"}
