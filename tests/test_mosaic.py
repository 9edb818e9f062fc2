"""A mosaic is its cells, of which some have lost a modality and nothing else."""

from __future__ import annotations

import warnings

import mudata
import numpy as np
import pytest

from chreode.errors import InputError
from chreode.io.mosaic import mosaic
from chreode.io.simulate_multiome import Multiome, simulate_multiome, true_links


def small(n_cells=60, *, batches=1):
    world = Multiome(atac_depth=30)
    return simulate_multiome(n_cells, 40, 150, components=3, batches=batches, world=world)


def expression_alone():
    with mudata.set_options(pull_on_update=False):
        return mudata.MuData({"rna": small()["rna"]})


def same(one, other):
    return all((one[name].X != other[name].X).nnz == 0 for name in ("rna", "atac"))


def test_truth_survives_a_mosaic_and_h5mu(tmp_path):
    mdata = small(batches=2)
    with mudata.set_options(pull_on_update=False):
        mosaic(mdata).write_h5mu(tmp_path / "cells.h5mu")
        again = mudata.read_h5mu(tmp_path / "cells.h5mu")
    for level in ("programme", "direct"):
        assert (true_links(again, level=level) != true_links(mdata, level=level)).nnz == 0
    assert again.obs["batch"].tolist() == mdata.obs["batch"].tolist()


def test_a_mosaic_loses_the_named_modality_in_its_share_of_the_cells():
    mdata = small(batches=2)
    some = mosaic(mdata, fraction=0.25, modality="rna")
    assert some["rna"].n_obs == 45
    assert some["atac"].n_obs == 60
    assert (some["atac"].X != mdata["atac"].X).nnz == 0
    left = some["rna"].obs_names
    assert (some["rna"].X != mdata["rna"][left].X).nnz == 0
    assert some.obsm["rna"].sum() == 45
    assert set(some.obs_names[some.obsm["rna"].ravel()]) == set(left)


def test_a_mosaic_without_a_name_loses_one_of_the_two_per_cell():
    mdata = small(400)
    some = mosaic(mdata, fraction=0.5)
    has = np.column_stack([some.obsm["rna"], some.obsm["atac"]])
    assert has.any(1).all()
    assert has.all(1).sum() == 200
    assert 70 < (~has[:, 0]).sum() < 130
    assert some["rna"].n_obs + some["atac"].n_obs == 600


def test_a_mosaic_knows_all_cells_in_their_order_and_leaves_the_whole_as_it_was():
    mdata = small(batches=2)
    some = mosaic(mdata, fraction=0.9, seed=2)
    assert some.obs.equals(mdata.obs)
    assert some.obs_names.equals(mdata.obs_names)
    assert np.array_equal(some.obsm["code"], mdata.obsm["code"])
    assert some.uns["simulation"].keys() == mdata.uns["simulation"].keys()
    assert same(mdata, small(batches=2))
    assert mdata.obsm["rna"].all()


def test_a_larger_fraction_takes_the_same_cells_and_more():
    mdata = small()
    few, many = mosaic(mdata, fraction=0.3), mosaic(mdata, fraction=0.6)
    assert same(mosaic(mdata, fraction=0.3), few)
    assert not np.array_equal(few.obsm["rna"], mosaic(mdata, fraction=0.3, seed=1).obsm["rna"])
    for name in ("rna", "atac"):
        assert set(many[name].obs_names) < set(few[name].obs_names)


def test_a_mosaic_of_nothing_is_a_copy():
    mdata = small()
    assert same(mosaic(mdata, fraction=0.0), mdata)


def test_nothing_is_warned_of_and_no_option_is_changed():
    with mudata.set_options() as options:
        before = dict(options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        true_links(mosaic(small(batches=2)))
    assert options == before


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: mosaic(small(), fraction=1.5), r"fraction in \[0, 1\]; found 1.5"),
        (lambda: mosaic(small(), modality="protein"), "modality of rna, atac; found 'protein'"),
        (lambda: mosaic(mosaic(small())), "every cell in every modality; found some without rna"),
        (lambda: mosaic(small(), fraction=1.0, modality="atac"), "found none in atac. Lower the fraction"),
        (lambda: mosaic(expression_alone()), "at least two modalities; found 1"),
    ],
)
def test_bad_arguments_are_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
