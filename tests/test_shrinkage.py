"""Readout weights are shrunk as much as the data ask for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import chreode as ch
from chreode.io.simulate_multiome import simulate_multiome
from chreode.optim import optimiser, weigh_priors
from chreode.plan import Plan, Stop
from chreode.priors import weight_precision


def settled(weight: torch.Tensor, **arguments) -> float:
    precision = 1.0
    for _ in range(60):
        precision = weight_precision(weight, precision=precision, **arguments)
    return precision


@pytest.mark.parametrize("sd", [0.1, 1.0])
def test_the_precision_is_that_of_weights_the_data_determine(sd):
    weight = sd * torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    found = settled(weight, covariance=torch.eye(3), information=torch.full((4000,), 1e6))
    assert found == pytest.approx(sd**-2, rel=0.05)


def test_ridge_regression_by_evidence_finds_the_weights_own_spread():
    # y_j = h w_j + noise: weights and precision in turn end at the spread of the true weights.
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(40, 3, generator=generator)
    true = 0.5 * torch.randn(3, 3000, generator=generator)
    y = h @ true + torch.randn(40, 3000, generator=generator) * 2
    centred = h - h.mean(0)
    covariance, information = centred.T @ centred / 40, torch.full((3000,), 40 / 4.0)
    precision = 100.0
    for _ in range(200):
        inner = 40 * covariance / 4 + precision * torch.eye(3)
        weight = torch.linalg.solve(inner, centred.T @ y / 4).T
        precision = weight_precision(
            weight, covariance=covariance, information=information, precision=precision
        )
    assert precision**-0.5 == pytest.approx(0.5, rel=0.1)


def test_weights_near_zero_are_held_there():
    weight = 1e-3 * torch.randn(100, 2)
    found = settled(weight, covariance=torch.eye(2), information=torch.zeros(100))
    assert found == pytest.approx(1e-3)  # nothing is known either way: the least
    assert settled(1e-7 * weight, covariance=torch.eye(2), information=torch.ones(100)) > 1e6


@pytest.fixture(scope="module")
def cells():
    return ch.read(simulate_multiome(150, 40, 80, seed=0))


def built(cells):
    return ch.recipes.multidgd(dim=3, hidden=(8, 8), components=2).build(cells.layout)


def test_the_prior_is_followed_by_gradient_and_only_where_there_is_one(cells):
    build = built(cells)
    adam = optimiser(build.model, build.plan)
    weigh_priors(adam, build.model, share=0.5)
    coupled = [g for g in adam.param_groups if not g["decoupled_weight_decay"]]
    outputs = build.model.decoder.readout.outputs
    assert [g["params"] for g in coupled] == [[output.weight] for output in outputs.values()]
    assert all(g["weight_decay"] == 150.0 for g in coupled)
    plain = ch.recipes.scdgd(dim=3, hidden=(8,)).build(cells.only("rna").layout)
    groups = optimiser(plain.model, plain.plan).param_groups
    assert all(g["decoupled_weight_decay"] for g in groups)
    assert sum(g["weight_decay"] > 0 for g in groups) >= 1


def test_a_saved_model_knows_how_strongly_it_shrank(cells, tmp_path):
    recipe = ch.recipes.multidgd(dim=3, hidden=(8, 8), components=2)
    whole = ch.fit(cells, recipe, seed=0, epochs=6, progress=False)
    state = {k: v.clone() for k, v in whole.module.state_dict().items() if "precision" in k}
    assert len(state) == 2
    assert all(float(v) != 300 for v in state.values())
    whole.save(tmp_path / "model")
    again = ch.load(tmp_path / "model").module.state_dict()
    assert all(torch.equal(again[k], v) for k, v in state.items())


def test_noise_is_shrunk_more_than_signal():
    precision = {}
    for noise in (False, True):
        mdata = simulate_multiome(1000, 100, 400, components=3, seed=1)
        if noise:
            # Each peak in other cells: it keeps its frequency, and has nothing to do with genes or peaks.
            rng, peaks = np.random.default_rng(0), mdata["atac"].X.toarray()
            mdata.mod["atac"].X = sp.csr_matrix(rng.permuted(peaks, axis=0))
        recipe = ch.recipes.multidgd(dim=4, components=3)
        model = ch.fit(ch.read(mdata), recipe, epochs=60, seed=0, progress=False)
        precision[noise] = float(model.module.decoder.readout.outputs["atac"].precision)
    assert precision[True] > 2 * precision[False]


def test_few_cells_have_more_epochs_and_as_many_looks():
    plan = Plan(epochs=40, minibatch=128, stop=Stop(every=4))
    few, many = plan.with_steps(1500, n_cells=300), plan.with_steps(1500, n_cells=100_000)
    assert (few.epochs, few.stop.every) == (520, 52)  # 13 times 40 epochs of 3 steps
    assert (many.epochs, many.stop.every) == (40, 4)
    assert replace(plan, stop=None).with_steps(1500, n_cells=300).stop is None
