"""Simulated cells obey the model that is written above `simulate`, and their truth is the truth."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from chreode.errors import InputError
from chreode.io.network import load, network, recovery
from chreode.io.oracle import oracle
from chreode.io.simulate import World, difficult, proportions, simulate


def truth(cells):
    return cells.obs["component"].cat.codes.to_numpy()


def same_code(n_cells, **arguments):
    """Cells of one code and one size, so that every row has the same distribution."""
    world = World(strength=0.0, depth_spread=0.0, theta=2.0, theta_spread=0.0)
    return simulate(n_cells, 20, components=1, world=world, **arguments)


def test_same_seed_same_cells_and_another_seed_others():
    one, again, other = simulate(60, 40), simulate(60, 40), simulate(60, 40, seed=1)
    assert (one.X != again.X).nnz == 0
    assert np.array_equal(one.obsm["code"], again.obsm["code"])
    assert (one.X != other.X).nnz > 0
    assert not np.array_equal(one.varm["loadings"], other.varm["loadings"])


def test_more_cells_leave_the_first_ones_as_they_were(monkeypatch):
    monkeypatch.setattr("chreode.io.simulate._BLOCK", 40 * 16)
    few, many = simulate(50, 40, batches=2, dropout=0.2), simulate(90, 40, batches=2, dropout=0.2)
    assert (many.X[:50] != few.X).nnz == 0
    assert few.obs["component"].tolist() == many.obs["component"].tolist()[:50]
    assert np.array_equal(few.varm["component_centre"], many.varm["component_centre"])


def test_counts_are_sparse_integers():
    cells = simulate(128, 20_000)
    assert sp.issparse(cells.X)
    assert cells.X.dtype == np.int32
    assert cells.X.data.min() > 0
    assert cells.X.nnz < 0.2 * 128 * 20_000


def test_no_dense_matrix_is_ever_built(monkeypatch):
    seen = []
    original = proportions
    monkeypatch.setattr("chreode.io.simulate._BLOCK", 50 * 10)
    monkeypatch.setattr(
        "chreode.io.simulate.proportions", lambda *a, **k: seen.append(original(*a, **k)) or seen[-1]
    )
    simulate(101, 50)
    assert [len(block) for block in seen] == [10] * 10 + [1]


def test_counts_have_the_mean_and_variance_of_a_negative_binomial():
    cells = same_code(20_000)
    counts = cells.X.toarray()
    mean = 2000 * proportions(cells, slice(0, 1))[0]
    variance = mean + mean**2 / 2.0
    error = (counts.mean(0) - mean) / np.sqrt(variance / len(counts))
    assert np.abs(error).max() < 4
    assert counts.var(0) == pytest.approx(variance, rel=0.15)


def test_dropout_sets_its_share_of_entries_to_zero():
    whole, dropped = same_code(5000), same_code(5000, dropout=0.3)
    assert dropped.X.nnz / whole.X.nnz == pytest.approx(0.7, abs=0.01)
    kept = dropped.X.toarray() > 0
    assert np.array_equal(dropped.X.toarray()[kept], whole.X.toarray()[kept])


def test_library_sizes_are_log_normal():
    size = np.log(simulate(5000, 5, world=World(depth=500, depth_spread=0.5)).obs["size"])
    assert size.mean() == pytest.approx(np.log(500), abs=0.03)
    assert size.std() == pytest.approx(0.5, abs=0.02)


def test_codes_follow_the_mixture():
    cells = simulate(20_000, 2, components=3, world=World(dim=4, shared_axis=3.0))
    known = cells.uns["simulation"]
    weights = np.bincount(truth(cells)) / cells.n_obs
    assert weights == pytest.approx(known["weights"], abs=0.02)
    away = cells.obsm["code"] - known["means"][truth(cells)]
    assert np.cov(away.T) == pytest.approx(known["covariance"], abs=0.2)
    assert np.sort(np.linalg.eigvalsh(known["covariance"])) == pytest.approx([1, 1, 1, 9])


@pytest.mark.parametrize("components", [2, 8])
def test_separation_is_the_least_distance_between_means(components):
    means = simulate(1, 5, components=components, separation=7.0).uns["simulation"]["means"]
    apart = np.linalg.norm(means[:, None] - means, axis=-1)[np.triu_indices(components, 1)]
    assert apart.min() == pytest.approx(7.0)


def test_components_do_not_differ_along_the_shared_axis():
    known = simulate(1, 5, world=World(shared_axis=3.0)).uns["simulation"]
    axis = np.linalg.eigh(known["covariance"])[1][:, -1]
    assert np.ptp(known["means"] @ axis) < 1e-9


def test_programmes_are_sparse_and_batches_shift_genes_around_zero():
    cells = simulate(10, 3000, batches=3, world=World(share=0.05, batch_effect=0.4))
    assert (cells.varm["loadings"] != 0).mean() == pytest.approx(0.05, abs=0.005)
    assert np.abs(cells.varm["batch_effect"].mean(1)).max() < 1e-12
    assert cells.varm["batch_effect"].std() == pytest.approx(0.4 * np.sqrt(2 / 3), rel=0.05)
    assert not simulate(10, 30).varm["batch_effect"].any()


def test_proportions_of_components_are_those_of_their_cells():
    cells = simulate(400, 30, components=3, batches=2)
    without = proportions(cells, batch=False)
    for k in range(3):
        assert cells.varm["component_average"][:, k] == pytest.approx(without[truth(cells) == k].mean(0))
    assert cells.varm["component_centre"].sum(0) == pytest.approx(1)
    assert np.abs(proportions(cells) - without).max() > 1e-3


def test_truth_survives_h5ad(tmp_path):
    import anndata

    cells = difficult(n_cells=30)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert np.array_equal(proportions(again), proportions(cells))
    assert again.obs["component"].tolist() == cells.obs["component"].tolist()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_difficult_is_hard_for_principal_components_and_not_for_the_oracle(seed):
    cells = difficult(seed, n_cells=2000)
    totals = np.maximum(np.asarray(cells.X.sum(1)).ravel(), 1)
    logged = np.log1p(cells.X.multiply(1e4 / totals[:, None]).tocsr())
    codes = PCA(20, svd_solver="arpack", random_state=0).fit_transform(logged)
    found = KMeans(8, n_init=10, random_state=0).fit_predict(codes)
    assert 0.7 < adjusted_rand_score(truth(cells), found) < 0.9
    assigned = oracle(cells)
    assert (assigned == truth(cells)).mean() > 0.98
    assert adjusted_rand_score(truth(cells), assigned) > 0.97


def test_oracle_sees_counts_only():
    cells = difficult(n_cells=300)
    assigned = oracle(cells)
    cells.obsm["code"] = np.zeros_like(cells.obsm["code"])
    cells.obs["component"] = cells.obs["component"].iloc[::-1].to_numpy()
    assert np.array_equal(oracle(cells), assigned)


def test_oracle_knows_batches_and_dropout():
    cells = simulate(500, 500, batches=3, dropout=0.2, world=World(batch_effect=0.5))
    assert (oracle(cells) == truth(cells)).mean() > 0.97


def test_network_adds_the_activities_of_regulators():
    cells = network(200, 60, regulators=5, targets=8, noise=0.0)
    np.testing.assert_allclose(cells.X, cells.obsm["code"] @ cells.varm["loadings"].T, atol=1e-5)
    regulated = cells.varm["loadings"] != 0
    assert (regulated.sum(0) >= 8).all()
    assert regulated.any(1).all()


def test_network_counts_have_the_depth_asked_for():
    cells = network(300, 60, depth=500.0)
    assert sp.issparse(cells.X)
    assert cells.X.sum(1).mean() == pytest.approx(500, rel=0.02)


def test_regulators_are_recovered_by_the_right_subspace_once_the_load_exceeds_one():
    cells = network(1000, 100, noise=0.01)

    def score(fitted):
        codes = PCA(min(10, fitted - 1)).fit(cells.X[:fitted]).transform(cells.X[500:])
        return recovery(codes, cells.obsm["code"][500:]).mean()

    assert load(8, 100, regulators=10) < 1 < load(15, 100, regulators=10)
    assert score(8) < 0.8
    assert score(15) > 0.97


def test_recovery_of_noise_is_nothing_and_a_rotation_loses_nothing():
    draws = np.random.default_rng(0)
    factors = draws.standard_normal((2000, 3))
    assert recovery(factors @ draws.standard_normal((3, 3)) + 5.0, factors) == pytest.approx(np.ones(3))
    assert np.abs(recovery(draws.standard_normal((2000, 10)), factors)).max() < 0.05


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: simulate(0), "n_cells of at least 1; found 0"),
        (lambda: simulate(5, components=0), "components of at least 1; found 0"),
        (lambda: simulate(5, dropout=1.0), r"dropout in \[0, 1\); found 1.0"),
        (lambda: simulate(5, batches=0), "batches of at least 1"),
        (lambda: simulate(5, separation=-1), "separation"),
        (lambda: simulate(5, world=World(depth=0)), "depth"),
        (lambda: simulate(5, world=World(share=0)), "share"),
        (lambda: network(5, 10, targets=11), "targets from 1 to the number of features"),
    ],
)
def test_bad_arguments_are_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
