"""Cells under another level: which genes answer, how surely, and what is refused."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import chreode as ch
from chreode.errors import InputError
from chreode.interpret import attribute_scores
from chreode.perturb import response_figure
from commandline import chreode

GENES, CHANGED = 120, 20


def treated(n: int = 600, *, seed: int = 0) -> tuple[ad.AnnData, np.ndarray]:
    """Three kinds of cells under two conditions, which change the first genes; the true log2 change."""
    rng = np.random.default_rng(seed)
    profile = np.random.default_rng(5)
    kinds = profile.normal(0, 1.0, GENES) + profile.normal(0, 0.8, (3, GENES))
    effect = np.zeros(GENES)
    effect[:CHANGED] = profile.choice([-1.0, 1.0], CHANGED) * profile.uniform(0.7, 1.5, CHANGED)
    kind, drug = rng.integers(3, size=n), rng.integers(2, size=n)
    logits = kinds[kind] + drug[:, None] * effect
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    depth = rng.lognormal(6.5, 0.2, n)[:, None]
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(share * depth).astype(np.float32)))
    adata.obs_names = [f"cell {i}" for i in range(n)]
    adata.var_names = [f"gene {j}" for j in range(GENES)]
    adata.obs["kind"] = np.array(["x", "y", "z"])[kind]
    adata.obs["condition"] = np.array(["ctrl", "stim"])[drug]
    ends = np.stack([np.exp(kinds), np.exp(kinds + effect)])
    ends /= ends.sum(2, keepdims=True)
    return adata, np.log2(ends[1] / ends[0])


RECIPE = {"dim": 4, "hidden": (32,)}


@pytest.fixture(scope="module")
def data():
    return treated()


@pytest.fixture(scope="module")
def model(data):
    cells = ch.read(data[0], covariates=["condition"], label="kind")
    return ch.fit(cells, ch.recipes.patches(**RECIPE), epochs=120, seed=0, progress=False)


ASKED = {"condition": ("ctrl", "stim"), "groups": "kind"}


def test_responses_are_those_of_the_truth(data, model):
    table = ch.response(model, **ASKED, draws=4)
    wide = table.pivot(index="feature", columns="group", values="log2_fold_change")
    wide = wide.loc[data[0].var_names]
    for k, group in enumerate(("x", "y", "z")):
        assert np.corrcoef(wide[group], data[1][k])[0, 1] > 0.9
    first = table.groupby("group").head(CHANGED)["feature"]
    assert first.isin(data[0].var_names[:CHANGED]).mean() > 0.8
    assert (table["lower"] < table["log2_fold_change"]).all()
    assert (table["log2_fold_change"] < table["upper"]).all()
    assert table.attrs["source"] == "codes drawn from their posteriors, of one fit"
    ctrl = data[0].obs["kind"][(data[0].obs["condition"] == "ctrl").to_numpy()].value_counts()
    assert table.drop_duplicates("group").set_index("group")["cells"].to_dict() == ctrl.to_dict()
    stim = data[0].obs["kind"][(data[0].obs["condition"] == "stim").to_numpy()].value_counts()
    assert table.drop_duplicates("group").set_index("group")["seen"].to_dict() == stim.to_dict()
    again = ch.response(model, **ASKED, draws=4)
    pd.testing.assert_frame_equal(table, again)


def test_a_response_is_what_decoding_under_both_levels_says(data, model):
    table = ch.response(model, condition=("ctrl", "stim"), where="kind=x", draws=0).set_index("feature")
    some = model.embedded.pick(
        ((data[0].obs["kind"] == "x") & (data[0].obs["condition"] == "ctrl")).to_numpy()
    )
    before = some.expected(size=1e4, borrow=False).mean(0)
    after = some.do(condition="stim").expected(size=1e4, borrow=False).mean(0)
    found = table.loc[data[0].var_names]
    np.testing.assert_allclose(found["before"], before, rtol=1e-4)
    np.testing.assert_allclose(found["after"], after, rtol=1e-4)
    np.testing.assert_allclose(found["log2_fold_change"], np.log2(after / before), rtol=1e-3, atol=1e-5)
    # Of one fit whose codes are taken as they are nothing tells how sure it is.
    assert found[["p_value", "lower", "upper"]].isna().all(axis=None)
    assert table["log2_fold_change"].abs().is_monotonic_decreasing
    assert table.attrs["source"] == "codes as they are, of one fit"
    assert len(response_figure(table.reset_index()).axes) == 2


def test_fits_of_resampled_cells_widen_the_interval(data, model):
    one = ch.response(model, **ASKED, draws=4)
    fits = []
    for seed in range(3):
        cells = ch.read(data[0], covariates=["condition"], label="kind").resampled(seed=seed)
        fits.append(ch.fit(cells, ch.recipes.patches(**RECIPE), epochs=25, seed=seed, progress=False))
    several = ch.response(fits, **ASKED, draws=4)
    assert several.attrs["fits"] == 3
    assert several.attrs["source"] == "codes drawn from their posteriors, of 3 fits"
    # Of one fit there is nothing to test against; what three fits say of a variance is shared by features.
    assert one["p_value"].isna().all()
    changed = several["feature"].isin(data[0].var_names[:CHANGED])
    passed = several["q_value"] <= 0.05
    assert passed[changed].mean() > 0.6
    assert passed[~changed].mean() < 0.02
    assert (several["upper"] - several["lower"]).median() > 2 * (one["upper"] - one["lower"]).median()
    assert ch.response(fits[:2], **ASKED, draws=0)["p_value"].isna().all()
    with pytest.raises(InputError, match=r"two that answer alike in every number\. Fit with other seeds"):
        ch.response([fits[0], fits[1], fits[0]], **ASKED, draws=0)


def test_resampled_cells_are_named_apart(data):
    cells = ch.read(data[0])
    drawn = cells.resampled(seed=1)
    assert len(drawn) == len(cells) == len(set(drawn.names))
    origin = pd.Index(drawn.names.astype(str)).str.replace(r"\.\d+$", "", regex=True)
    assert 0.55 < origin.nunique() / len(cells) < 0.7
    np.testing.assert_array_equal(drawn.measured["rna"].sum_rows(), data[0][origin].X.sum(1).A1)
    np.testing.assert_array_equal(drawn.names, cells.resampled(seed=1).names)


def test_what_was_seen_is_told_whatever_cells_are_asked_about(data, model):
    adata, asked = data[0], {"condition": ("ctrl", "stim"), "draws": 0}
    kind, stim = adata.obs["kind"] == "x", adata.obs["condition"] == "stim"
    assert set(ch.response(model, **asked, where="condition=ctrl")["seen"]) == {stim.sum()}
    assert set(ch.response(model, **asked, where="kind=x")["seen"]) == {(kind & stim).sum()}
    assert set(ch.response(model, **asked, where=(kind & ~stim).to_numpy())["seen"]) == {0}


def test_sampled_private_codes_vary_and_transported_ones_do_not(model):
    to = {"to": {"condition": "stim"}, "where": "condition=ctrl"}
    mean = ch.counterfactual(model, **to)
    drawn = ch.counterfactual(model, **to, private="sample", seed=3)
    np.testing.assert_array_equal(mean.embedding, drawn.embedding)
    blocks = [one.embeddings["condition"][:, 2:].var(0) for one in (mean, drawn)]
    assert (blocks[1] > blocks[0]).all()
    again = ch.counterfactual(model, **to, private="sample", seed=3)
    np.testing.assert_array_equal(drawn.embeddings["condition"], again.embeddings["condition"])
    assert (mean.level_names("condition") == "stim").all()
    shown = mean.sample(uncertain=False)
    assert shown.shape == (len(mean), GENES)


def test_a_response_draws_itself(model, tmp_path):
    table = ch.response(model, **ASKED, draws=3)
    response_figure(table).savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_another_table_is_not_drawn(model):
    with pytest.raises(InputError, match=r"table of chreode\.response; found columns 'feature'"):
        response_figure(pd.DataFrame({"feature": ["a"]}))


def test_levels_to_put_in_place_are_named_by_column(model):
    with pytest.raises(InputError, match=r"a level by column; found 'stim'\. Write to=\{"):
        ch.counterfactual(model, to="stim")


def test_cells_under_another_level_are_written_beside_those_measured(data, model):
    adata = data[0].copy()
    model.embedded.write(adata)
    ch.counterfactual(model, to={"condition": "stim"}).write(adata, key="stimulated")
    assert {"X_patches_condition", "X_stimulated_condition", "X_stimulated"} <= set(adata.obsm)
    np.testing.assert_array_equal(adata.obsm["X_patches"], adata.obsm["X_stimulated"])
    assert (adata.obsm["X_patches_condition"] != adata.obsm["X_stimulated_condition"]).any()


def test_some_cells_are_written_into_a_table_of_these(data, model):
    some = ch.counterfactual(model, to={"condition": "stim"}, where="kind=x")
    with pytest.raises(InputError, match=r"Write into these alone: some = adata\[embedded\.names\]"):
        some.write(data[0].copy())
    alone = data[0][some.names].copy()
    some.write(alone, key="stimulated")
    np.testing.assert_array_equal(alone.obsm["X_stimulated"], some.embedding)


def test_names_with_slashes_are_read_back(data, tmp_path):
    adata = data[0].copy()
    adata.obs["drug/dose"] = adata.obs["condition"].map({"ctrl": "0/10", "stim": "10/10"}).to_numpy()
    cells = ch.read(adata, covariates=["drug/dose"])
    for recipe in (ch.recipes.patches(**RECIPE), ch.recipes.multigroupvi(**RECIPE)):
        fit = ch.fit(cells, recipe, epochs=1, progress=False)
        fit.embedded.write(adata)
    adata.write_h5ad(tmp_path / "a.h5ad")
    found = ad.read_h5ad(tmp_path / "a.h5ad").obsm
    assert {"X_patches_drug_dose", "X_multigroupvi_drug_dose=10_10"} <= set(found)
    run = ("--recipe", "multigroupvi", "--covariate", "drug/dose", "--epochs", "1", "--no-report")
    done = chreode("fit", tmp_path / "a.h5ad", *run, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    done = chreode("export", tmp_path / "run", "--csv", "--out", tmp_path / "tables")
    assert done.code == 0, done.err
    assert (tmp_path / "tables" / "codes_drug_dose=10_10.csv").exists()


def test_cells_are_chosen_by_a_column_that_was_not_read(data, model):
    adata = data[0].copy()
    adata.obs["donor"] = np.where(np.arange(len(adata)) % 3, "one", "two")
    chosen = ch.counterfactual(model, to={"condition": "stim"}, where="donor=two", source=adata)
    np.testing.assert_array_equal(chosen.names, adata.obs_names[adata.obs["donor"] == "two"])


def test_sets_of_genes_are_found_in_tables_as_they_come(data, model):
    table = ch.response(model, **ASKED, draws=0)
    raised = table.groupby("feature")["log2_fold_change"].mean().nlargest(10).index
    found = ch.enrichment(table, {"raised": list(raised)})
    assert found["name"].tolist() == ["x", "y", "z"]
    assert (found["direction"] == "up").all()
    scores = attribute_scores(model, attribute="condition", progress=False)
    assert ch.enrichment(scores, {"raised": list(raised)})["name"].tolist() == ["ctrl", "stim"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "one column with two levels; found none"),
        ({"condition": ("ctrl", "stim"), "group": "kind"}, "found 'group'. Did you mean 'groups'"),
        ({"condition": "stim"}, "one column with two levels"),
        ({"condition": ("ctrl", "stym")}, "found 'stym'. Did you mean 'stim'"),
        ({"condition": ("stim", "stim")}, "two levels of 'condition'; found 'stim' twice"),
        ({"kind": ("x", "y")}, "conditions nothing"),
        ({"condition": ("ctrl", "stim"), "groups": "knd"}, "'knd'"),
        ({"condition": ("ctrl", "stim"), "where": "kind=w"}, "'w'"),
        ({"condition": ("ctrl", "stim"), "draws": 1}, "draws of 0, or 2 and more"),
        ({"condition": ("ctrl", "stim"), "level": 1.0}, "a level between 0 and 1"),
        ({"condition": ("ctrl", "stim"), "private": "both"}, "'transport' or 'sample'; found 'both'"),
    ],
)
def test_what_cannot_be_asked_is_refused(model, asked, says):
    with pytest.raises(InputError, match=says):
        ch.response(model, **asked)


def test_a_group_without_cells_to_start_from_is_named(data, model):
    kept = (data[0].obs["kind"] != "y") | (data[0].obs["condition"] == "stim")
    with pytest.raises(InputError, match="in every group; found none in 'y'"):
        ch.response(model.project(data[0][kept.to_numpy()].copy()), **ASKED)


def test_the_command_writes_what_the_function_says(data, tmp_path):
    data[0].write_h5ad(tmp_path / "cells.h5ad")
    fit = ("--recipe", "patches", "--covariate", "condition", "--label", "kind", "--epochs", "2")
    done = chreode("fit", tmp_path / "cells.h5ad", *fit, "--no-report", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    typed = (
        "counterfactual",
        tmp_path / "run",
        "--set",
        "condition=stim",
        "--where",
        "kind=x",
        "--draws",
        "3",
    )
    done = chreode(*typed)
    assert (done.code, done.err) == (0, "")
    out = tmp_path / "run" / "counterfactual" / "condition=stim_in_kind=x.csv"
    found = pd.read_csv(out)
    loaded = ch.load(tmp_path / "run")
    asked = {"condition": ("ctrl", "stim"), "where": "kind=x", "draws": 3, "source": tmp_path / "cells.h5ad"}
    pd.testing.assert_frame_equal(found, ch.response(loaded, **asked), check_dtype=False)
    assert out.with_suffix(".png").stat().st_size > 5000
    assert "ctrl to stim" in done.out
    assert "never seen" not in done.out.lower()
    done = chreode(*typed[:4], "--where", "condition=ctrl", "--draws", "0", "--out", tmp_path / "c.csv")
    assert "was seen under" not in done.out
    for wrong, says in (
        (("--set", "stim"), "COLUMN=LEVEL; found 'stim'. Write --set condition=stim, say"),
        (("--set", "condition=x"), "'condition'"),
    ):
        done = chreode("counterfactual", tmp_path / "run", *wrong, "--out", tmp_path / "b.csv")
        assert done.code == 2
        assert says in done.err
    assert not (tmp_path / "b.csv").exists()


def test_the_command_names_a_folder_of_other_cells_and_cells_that_tell_nothing(data, tmp_path):
    adata = data[0].copy()
    adata.obs["sample"] = [f"{one} {i % 2}" for i, one in enumerate(adata.obs["condition"])]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    adata[:300].copy().write_h5ad(tmp_path / "half.h5ad")
    fit = ("--recipe", "patches", "--covariate", "condition", "--epochs", "1", "--no-report")
    for name in ("cells", "half"):
        done = chreode("fit", tmp_path / f"{name}.h5ad", *fit, "--label", "sample", "--out", tmp_path / name)
        assert done.code == 0, done.err
    asked = ("--set", "condition=stim", "--draws", "0", "--out", tmp_path / "a.csv")
    done = chreode("counterfactual", tmp_path / "half", tmp_path / "cells", *asked)
    assert done.code == 2
    assert f"found a fit of others in {tmp_path / 'cells'}: 'cell 300'" in done.err
    done = chreode("counterfactual", tmp_path / "cells", *asked, "--where", "sample=ctrl 0")
    assert done.code == 0, done.err
    assert "No cell of the question was seen under stim: the response is predicted from others." in done.out
