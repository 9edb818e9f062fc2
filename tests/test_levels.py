"""Levels that a model was not trained with, each given a component of its own."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch

import chreode as ch
from chreode.errors import InputError
from chreode.io.simulate_multiome import Multiome, simulate_multiome
from commandline import chreode

WORLD = Multiome(dim=4, depth=600, atac_depth=60, gene_share=0.2, peak_share=0.2)


@pytest.fixture(scope="module")
def three():
    mdata = simulate_multiome(600, 150, 300, components=3, batches=3, world=WORLD, seed=4)
    assert len(set(mdata.obs["batch"])) == 3
    return mdata


@pytest.fixture(scope="module")
def left(three):
    """The batch that is left out."""
    return sorted(set(three.obs["batch"]))[-1]


@pytest.fixture(scope="module")
def model(three, left):
    cells = ch.read(three[(three.obs["batch"] != left).to_numpy()].copy(), batch="batch")
    return ch.fit(cells, ch.recipes.multidgd(dim=6, components=3), epochs=24, seed=0, progress=False)


@pytest.fixture(scope="module")
def new(three, left):
    return three[(three.obs["batch"] == left).to_numpy()].copy()


@pytest.fixture(scope="module")
def wider(model, new):
    return ch.add_levels(model, new)


def nats(embedded, mdata) -> float:
    """Nats a molecule spent on RNA."""
    x, expected = mdata["rna"].X.toarray(), embedded.expected("rna")
    return float(-(x * np.log(expected / expected.sum(1, keepdims=True))).sum() / x.sum())


def test_a_new_level_has_a_component_where_its_codes_are(wider, new, left):
    assert wider.layout.covariates["batch"].levels[-1] == left
    placed = wider.project(new)
    assert set(placed.level_names("batch")) == {left}
    mean = wider.module.latents["batch"].prior.modes()[-1].detach().numpy()
    codes = placed.embeddings["batch"]
    assert np.linalg.norm(codes.mean(0) - mean) < 0.2 * codes.std() + 0.05


def test_a_known_level_left_unknown_by_a_rename_is_found_again(model, three):
    """The component that a batch would get as a new one lies by the one it had."""
    known = model.layout.covariates["batch"].levels[0]
    renamed = three[(three.obs["batch"] == known).to_numpy()].copy()
    renamed.obs["batch"] = "renamed"
    wider = ch.add_levels(model, renamed)
    means = wider.module.latents["batch"].prior.mixture.means.detach()
    apart = (means[-1] - means[:-1]).norm(dim=1)
    assert apart.argmin() == 0
    assert apart[0] < 0.5 * (means[0] - means[1]).norm()


def test_nothing_else_changes(model, wider):
    ours, theirs = model.module.state_dict(), wider.module.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if value.shape == theirs[name].shape and not name.endswith("count"):
            assert torch.equal(value, theirs[name]), name
        elif value.ndim:
            assert name.startswith(("latents.", "decoder.readout.seen.")), name
            assert torch.equal(value, theirs[name][: len(value)]), name
    assert torch.equal(model.embedded.codes["basal"], wider.embedded.codes["basal"])
    assert np.array_equal(model.embedded.expected("rna"), wider.embedded.expected("rna"))


def test_new_cells_are_decoded_no_worse_than_with_an_unknown_level(model, wider, new, left):
    under_their_own = nats(wider.project(new), new)
    assert under_their_own < nats(model.project(new), new) + 0.002
    known = model.layout.covariates["batch"].levels[0]
    assert under_their_own < nats(wider.project(new).do(batch=known), new)
    # Cells of other batches can be decoded as if they were of the new one.
    assert not np.array_equal(wider.embedded.do(batch=left).expected("rna"), wider.embedded.expected("rna"))


def test_a_wider_model_can_be_kept(wider, new, left, tmp_path):
    wider.save(tmp_path / "wider")
    again = ch.load(tmp_path / "wider")
    assert again.layout == wider.layout
    assert np.allclose(again.project(new).embedding, wider.project(new).embedding, atol=1e-5)
    assert left in again.layout.covariates["batch"].levels


def test_levels_of_several_columns_and_known_cells_among_them(three, left):
    mdata = three.copy()
    rng = np.random.default_rng(0)
    mdata.obs["site"] = rng.choice(["a", "b", "c"], mdata.n_obs)
    trained = ((mdata.obs["batch"] != left) & (mdata.obs["site"] != "c")).to_numpy()
    cells = ch.read(mdata[trained].copy(), batch="batch", covariates="site")
    model = ch.fit(cells, ch.recipes.multidgd(dim=4, components=3), epochs=3, progress=False)
    wider = ch.add_levels(model, mdata)
    assert [len(wider.layout.covariates[c].levels) for c in ("batch", "site")] == [3, 3]
    assert wider.module.latents["site"].prior.mixture.means.shape == (3, 2)
    assert len(wider.project(mdata)) == mdata.n_obs


def test_what_cannot_work_is_refused(model, new, three):
    known = three[(three.obs["batch"] != new.obs["batch"].iloc[0]).to_numpy()].copy()
    with pytest.raises(InputError, match="Expected cells of levels that the model does not know"):
        ch.add_levels(model, known)
    with pytest.raises(InputError, match="Expected cells that were read for this model"):
        ch.add_levels(model, ch.read(new))
    with pytest.raises(InputError, match="with one table and like=model; found several tables"):
        ch.read({"a": new}, like=model, add_levels=True)
    with pytest.raises(InputError, match="found no model"):
        ch.read(new, add_levels=True)
    weighted = ch.fit(ch.read(known["rna"], batch="batch"), ch.recipes.scdgd(), epochs=1, progress=False)
    with pytest.raises(InputError, match="such as multidgd's; found scdgd"):
        ch.add_levels(weighted, new["rna"])


def test_on_the_command_line(model, new, tmp_path):
    model.save(tmp_path / "run")
    new.write(tmp_path / "new.h5mu")
    files = [tmp_path / "run", tmp_path / "new.h5mu", "--out", tmp_path / "out.h5mu"]
    plain = chreode("project", *files)
    assert (plain.code, "not trained with" in plain.out) == (0, True)
    added = chreode("project", *files, "--add-levels", "--overwrite")
    assert (added.code, "not trained with" in added.out) == (0, False)
    new_one = next(name for name in new.obs["batch"] if name not in model.layout.covariates["batch"].levels)
    assert f"A component was added for '{new_one}' of 'batch'." in added.out


def test_a_modality_is_completed_on_the_command_line(model, new, tmp_path):
    model.save(tmp_path / "run")
    rna = new["rna"].copy()
    rna.obs["batch"] = new.obs["batch"].astype(str)
    rna.write_h5ad(tmp_path / "new.h5ad")
    files = [tmp_path / "run", tmp_path / "new.h5ad", "--out", tmp_path / "out.h5ad"]
    done = chreode("project", *files, "--expected", "atac")
    assert done.code == 0, done.err
    written = ad.read_h5ad(tmp_path / "out.h5ad")
    table = written.obsm["multidgd_expected_atac"]
    assert list(table.columns) == list(model.layout.modalities["atac"].names)
    np.testing.assert_allclose(table.to_numpy(), model.project(rna).expected("atac"), rtol=1e-3, atol=1e-5)
    wrong = chreode("project", *files, "--overwrite", "--expected", "prot")
    assert (wrong.code, "Expected a modality (rna, atac); found 'prot'" in wrong.err) == (2, True)
    model.project(rna).write(rna, expected=["rna"])
    assert rna.obsm["multidgd_expected_rna"].sum(axis=1).to_numpy() == pytest.approx(10_000)
