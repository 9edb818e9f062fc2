"""Coordinates that were read in place of features lead back to these."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import chreode as ch
from chreode.errors import InputError
from chreode.interpret.interactions import jacobians
from chreode.parcel import read_cells, write_cells
from commandline import chreode

N, G, D = 180, 12, 4
NAMES = [f"GENE{j}" for j in range(G)]


def reduced(*, scaled: bool = False, standardised: bool = False, sparse: bool = False) -> ad.AnnData:
    """Values whose ``X_pca`` are all of their principal components that matter, and how they were made."""
    rng = np.random.default_rng(0)
    day = np.resize([0.0, 1.0, 2.0], N)
    z = rng.normal(size=(N, D)) * [3, 2, 1.5, 1] + day[:, None]
    x = z @ rng.normal(size=(D, G)) + rng.uniform(1, 3, G)
    if scaled:
        x = (x - x.mean(0)) / x.std(0)
    u, s, v = np.linalg.svd(x - x.mean(0), full_matrices=False)
    pcs = (u * s)[:, :D]
    if standardised:
        pcs = (pcs - 0.3) / pcs.std(0)
    obs = pd.DataFrame({"day": day, "type": np.resize(["a", "b"], N)}, index=[f"cell {i}" for i in range(N)])
    values = sp.csc_matrix(x) if sparse else x
    var = pd.DataFrame(index=pd.Index(NAMES))
    return ad.AnnData(values, obs=obs, var=var, obsm={"X_pca": pcs}, varm={"PCs": v[:D].T})


def fitted(adata: ad.AnnData, recipe=None, **options) -> ch.FittedModel:
    cells = ch.read(adata, coordinates="X_pca", time="day", label="type", **options)
    return ch.fit(cells, recipe or ch.recipes.flow_matching(hidden=(8,)), epochs=2, progress=False)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("standardised", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_principal_components_lead_back_whatever_was_done_to_them(scaled, standardised, sparse) -> None:
    adata = reduced(scaled=scaled, standardised=standardised, sparse=sparse)
    model = fitted(adata)
    first = adata[adata.obs["day"] == 0].copy()
    x = first.X.toarray() if sparse else first.X
    np.testing.assert_allclose(model.trajectories(first, [0.0], expected=True)[0], x, atol=1e-3)
    if not standardised:
        loadings = model.module.latents["cell"].infer.loadings.numpy()
        np.testing.assert_allclose(loadings, adata.varm["PCs"], atol=1e-4)


def test_fewer_dimensions_are_what_least_squares_say() -> None:
    adata = reduced()
    part = fitted(adata, dims=2).module.latents["cell"].infer
    with_one = np.column_stack([np.ones(N), adata.obsm["X_pca"][:, :2]])
    expected = np.linalg.lstsq(with_one, adata.X, rcond=None)[0]
    np.testing.assert_allclose(part.level.numpy(), expected[0], atol=1e-4)
    np.testing.assert_allclose(part.loadings.numpy(), expected[1:].T, atol=1e-4)


def test_counts_are_read_back_log_normalised() -> None:
    adata = reduced()
    counts = np.random.default_rng(1).poisson(5, (N, G)).astype(np.float32)
    counts[0] = 0
    logged = np.log1p(counts / counts.sum(1, keepdims=True).clip(1) * 1e4)
    one, other = adata.copy(), adata.copy()
    one.X, other.X = sp.csr_matrix(counts), logged
    for name in ("level", "loadings"):
        found = [getattr(fitted(a).module.latents["cell"].infer, name) for a in (one, other)]
        torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)


def test_a_gene_is_held_and_interactions_speak_of_genes(tmp_path) -> None:
    adata = reduced()
    fitted(adata).save(tmp_path / "run")
    model = ch.load(tmp_path / "run")
    first = adata[:20].copy()
    held = model.forecast(first, to=3.0, knock_out={"GENE3": 1.5}, expected=True)
    np.testing.assert_allclose(held[:, 3], 1.5, atol=1e-3)
    assert held.shape == (20, G)
    effects = ch.interactions(model, regulators=["GENE3"], targets=["GENE5", "GENE3"]).set_index("target")
    loadings, mean = adata.varm["PCs"], jacobians(model).mean(0)
    whole = loadings @ mean @ np.linalg.pinv(loadings)
    assert effects.loc["GENE5", "effect"] == pytest.approx(whole[5, 3], rel=1e-2, abs=1e-4)
    assert set(ch.interactions(model)["regulator"]) == {f"X_pca {i}" for i in range(1, D + 1)}
    with pytest.raises(InputError, match="Did you mean 'GENE3'"):
        model.forecast(first, to=3.0, knock_out="gene3")


def test_a_perturbation_may_name_a_gene() -> None:
    adata = reduced()
    adata.obs["guide"] = np.resize(["GENE3", "none"], N)
    cells = ch.read(adata, coordinates="X_pca", time="day", perturbation="guide")
    recipe = ch.recipes.flow_matching(hidden=(8,))
    model = ch.fit(cells, recipe, epochs=2, progress=False)
    some = adata[adata.obs["guide"] == "GENE3"].copy()
    values = model.trajectories(some, [2.0, 5.0], expected=True)
    np.testing.assert_allclose(values[1][:, 3], values[0][:, 3], atol=1e-3)
    assert np.abs(values[1] - values[0]).max() > 1e-2


def test_a_file_without_features_and_cells_in_parcels(tmp_path) -> None:
    adata = reduced()
    bare = ad.AnnData(obs=adata.obs, obsm=adata.obsm)
    assert not ch.read(bare, coordinates="X_pca", time="day").readout
    model = fitted(bare)
    np.testing.assert_allclose(
        model.trajectories(bare, [2.0], expected=True), model.trajectories(bare, [2.0]), atol=1e-5
    )
    cells = ch.read(adata, coordinates="X_pca", time="day")
    write_cells(tmp_path, cells)
    again = read_cells(tmp_path)
    assert again.layout == cells.layout
    assert torch.equal(again.readout["total"], cells.readout["total"])
    assert torch.equal(cells[:5].readout["gram"], cells.readout["gram"])


def test_the_command_line_writes_genes(tmp_path) -> None:
    reduced().write_h5ad(tmp_path / "course.h5ad")
    options = ("--time", "day", "--coordinates", "X_pca", "--recipe", "flow_matching", "--epochs", 1)
    run = tmp_path / "run"
    assert chreode("fit", tmp_path / "course.h5ad", *options, "--no-report", "--out", run).code == 0
    out = tmp_path / "later.h5ad"
    assert chreode("forecast", run, "--to", 3, "--expected", "--knock-out", "GENE3", "--out", out).code == 0
    there = ad.read_h5ad(out)
    assert list(there.var_names) == NAMES
    np.testing.assert_allclose(there[:, "GENE3"].X, 0, atol=1e-3)


def test_several_sources_lead_back_as_all_of_their_cells_do() -> None:
    adata = reduced()
    half = np.arange(N) < 70
    sources = {"one": adata[half].copy(), "two": adata[~half, ::-1].copy()}
    parts = []
    for source in (adata, sources):
        cells = ch.read(source, coordinates="X_pca", time="day")
        parts.append(
            ch.fit(cells, ch.recipes.flow_matching(), epochs=1, progress=False).module.latents["cell"].infer
        )
    for name in ("level", "loadings"):
        torch.testing.assert_close(getattr(parts[0], name), getattr(parts[1], name), atol=1e-4, rtol=1e-4)
    sources["two"] = ad.AnnData(obs=sources["two"].obs, obsm=sources["two"].obsm)
    assert not ch.read(sources, coordinates="X_pca", time="day").layout.modalities["X_pca"].readout


def test_a_knock_out_leaves_alone_what_a_perturbation_holds() -> None:
    """In components both genes share, each stays where it is held."""
    adata = reduced()
    adata.obs["guide"] = np.resize(["GENE3", "none"], N)
    cells = ch.read(adata, coordinates="X_pca", time="day", perturbation="guide")
    model = ch.fit(cells, ch.recipes.flow_matching(hidden=(8,)), epochs=2, progress=False)
    some = adata[(adata.obs["guide"] == "GENE3") & (adata.obs["day"] == 2)].copy()
    found = model.forecast(some, to=5.0, knock_out={"GENE5": 1.0}, expected=True)
    np.testing.assert_allclose(found[:, 3], some.X[:, 3], atol=2e-3)
    np.testing.assert_allclose(found[:, 5], 1.0, atol=2e-3)
    found = model.forecast(some, to=5.0, knock_out={"GENE3": 1.0}, expected=True)
    np.testing.assert_allclose(found[:, 3], 1.0, atol=2e-3)  # what is asked for goes first


def test_features_with_missing_values_are_left_out_and_cells_read_for_another_model_still_fit() -> None:
    adata = reduced()
    adata.X[3, 2] = np.nan
    cells = ch.read(adata, coordinates="X_pca", time="day")
    assert cells.layout.modalities["X_pca"].readout == tuple(n for n in NAMES if n != "GENE2")
    model = ch.fit(cells, ch.recipes.flow_matching(hidden=(8,)), epochs=1, progress=False)
    assert np.isfinite(model.forecast(to=3.0, knock_out="GENE3", expected=True)).all()
    again = ch.read(adata, coordinates="X_pca", time="day", like=model)
    other = ch.fit(again, ch.recipes.flow_matching(hidden=(8,)), epochs=1, progress=False)
    assert other.forecast(to=3.0, expected=True).shape[1] == D
