"""The page, and a figure, of models of conditions: private codes beside the shared one, and responses."""

from __future__ import annotations

import numpy as np
import pytest

import chreode as ch
from chreode.errors import InputError
from chreode.report import collect, render
from chreode.report.figures import shared_and_private
from chreode.report.pack import unpack
from test_counterfactual import CHANGED, treated


@pytest.fixture(scope="module")
def data():
    adata, _ = treated(240)
    # Cells of the last kind were never seen under the second condition.
    return adata[~((adata.obs["kind"] == "z") & (adata.obs["condition"] == "stim")).to_numpy()].copy()


@pytest.fixture(scope="module")
def cells(data):
    return ch.read(data, covariates=["condition"], label="kind")


@pytest.fixture(scope="module")
def model(cells):
    """Of two shared dimensions, so that the map needs no UMAP."""
    return ch.fit(cells, ch.recipes.patches(dim=2, hidden=(8,)), epochs=20, seed=0, progress=False)


@pytest.fixture(scope="module")
def context(model, cells):
    return collect(model, cells, {}, "chreode fit cells.h5ad")


def test_private_codes_are_those_of_the_model_in_their_plane(context, model):
    (code,) = context["private"]
    assert (code["latent"], code["column"], code["dims"]) == ("condition", "condition", 4)
    codes = model.embedded.embeddings["condition"].astype(np.float64)
    centred = codes - codes.mean(0)
    drawn = context["payload"]["codes"][0]["xy"]
    found = np.stack([a["low"] + a["step"] * unpack(a["values"]).astype(float) for a in drawn], 1)
    # Of the plane of most variance: as much of it as the two largest singular values have.
    most = (np.linalg.svd(centred, compute_uv=False)[:2] ** 2).sum()
    np.testing.assert_allclose((found**2).sum(), most, rtol=1e-2)


def test_responses_are_what_the_function_says_and_name_what_was_never_seen(context, model):
    (shown,) = context["responses"]
    assert (shown["before"], shown["after"]) == ("ctrl", "stim")
    assert [(g["name"], g["unseen"]) for g in shown["groups"]] == [("x", False), ("y", False), ("z", True)]
    table = ch.response(model, condition=("ctrl", "stim"), groups="kind", draws=0)
    wide = table.pivot(index="feature", columns="group", values="log2_fold_change")
    for row in shown["rows"]:
        assert [cell["value"] for cell in row["cells"]] == [f"{v:+.2f}" for v in wide.loc[row["feature"]]]
    strongest = wide.abs().max(axis=1)
    assert len(shown["rows"]) == 20
    assert min(strongest[row["feature"]] for row in shown["rows"]) >= strongest.nlargest(21).iloc[-1]


def test_the_page_has_both_and_says_what_they_are_not(context):
    page = render(context)
    for words in ('id="codes"', 'id="responses"', "which proves nothing", "not tests", "never seen"):
        assert words in page
    assert "not a mixture" in page


def test_gene_sets_stand_out_in_responses(model, cells, data, tmp_path):
    changed = list(data.var_names[:CHANGED])
    table = ch.response(model, condition=("ctrl", "stim"), where="kind=x", draws=0).set_index("feature")
    up = [gene for gene in changed if table.loc[gene, "log2_fold_change"] > 0]
    others = list(data.var_names[60:75])
    lines = ["\t".join([name, "-", *genes]) for name, genes in (("THE_DRUG", up), ("OTHERS", others))]
    (tmp_path / "sets.gmt").write_text("\n".join(lines) + "\n")
    context = collect(model, cells, {}, "chreode fit cells.h5ad", gene_sets=tmp_path / "sets.gmt")
    responses, dimensions = context["gene_sets"]["kinds"]
    assert (responses["title"], responses["names"], dimensions["names"]) == ("Responses", 3, 2)
    assert [card["name"] for card in responses["cards"]] == [f"{kind}, ctrl to stim" for kind in "xyz"]
    for card in responses["cards"]:
        assert [(row["set"], row["up"]) for row in card["rows"]] == [("The drug", True)]
    page = render(context)
    assert 'id="sets"' in page
    assert "The drug" in page
    assert f"than the rest of the {len(data.var_names):,}, at a" in page
    (tmp_path / "sets.gmt").write_text("STRANGERS\t-\tA\tB\tC\tD\tE\n")
    with pytest.raises(InputError, match="Expected gene sets of the features"):
        collect(model, cells, {}, "chreode fit cells.h5ad", gene_sets=tmp_path / "sets.gmt")


def test_models_without_conditions_have_neither(data):
    cells = ch.read(data)
    model = ch.fit(cells, ch.recipes.vae(dim=2, hidden=(8,)), epochs=1, progress=False)
    context = collect(model, cells, {}, "chreode fit cells.h5ad")
    assert (context["private"], context["responses"]) == ([], [])
    with pytest.raises(InputError, match="codes that belong to levels; found vae, with none"):
        shared_and_private(model)


def test_gated_codes_have_a_map_for_each_level(data):
    cells = ch.read(data, covariates=["condition"])
    model = ch.fit(cells, ch.recipes.multigroupvi(dim=2, private=3, hidden=(8,)), epochs=1, progress=False)
    context = collect(model, cells, {}, "chreode fit cells.h5ad")
    assert [code["latent"] for code in context["private"]] == ["condition=ctrl", "condition=stim"]
    (shown,) = context["responses"]
    assert [g["name"] for g in shown["groups"]] == ["all"]


def test_shared_and_private_codes_are_drawn_beside_each_other(model, tmp_path):
    figure = shared_and_private(model)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        f"{code}, by {column}" for code in ("shared", "condition") for column in ("kind", "condition")
    ]
    figure.savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 20_000
    with pytest.raises(InputError, match="'knd'"):
        shared_and_private(model, colour=["knd"])
