"""Few ways through a field: those of a sparse system are found, and where there is none nothing depends."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

import chreode as ch
from chreode.dynamics import Perceptron

TRUE = np.diag([-0.8, -0.6, -1.0, -0.5, -0.7])
TRUE[[1, 2, 3, 0, 4, 2], [0, 1, 2, 3, 0, 4]] = 1.5, -1.2, 1.0, -1.4, 0.7, 0.6


def slopes(field: Perceptron, x: torch.Tensor) -> np.ndarray:
    """The Jacobian at each state."""
    x = x.clone().requires_grad_()
    velocity = field(x, torch.zeros(len(x)))
    rows = [torch.autograd.grad(v, x, retain_graph=True)[0] for v in velocity.sum(0)]
    return torch.stack(rows, 1).numpy()


def taught(weight: float, seed: int) -> np.ndarray:
    """Jacobians of a field that was told noisy velocities of few states."""
    torch.manual_seed(seed)
    x = torch.randn(120, 5)
    y = x @ torch.tensor(TRUE, dtype=torch.float32).T + torch.randn(120, 5)
    field = Perceptron(5, hidden=(32, 32))
    optimiser = torch.optim.Adam(field.parameters(), lr=5e-3)
    for _ in range(300):
        loss = (field(x, torch.zeros(120)) - y).square().mean() + weight * field.paths().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return slopes(field, torch.randn(100, 5))


def test_edges_of_a_sparse_system_are_told_better() -> None:
    edge, off = TRUE != 0, ~np.eye(5, dtype=bool)
    scores, small = {}, {}
    for weight in (0.0, 0.3):
        strength = [np.abs(taught(weight, seed)).mean(0) for seed in range(3)]
        scores[weight] = np.mean([roc_auc_score(edge[off], s[off]) for s in strength])
        small[weight] = np.mean([(s < 0.1)[~edge].mean() for s in strength])
    assert scores[0.3] > max(scores[0.0] + 0.02, 0.95)
    assert small[0.3] > 0.5 > 0.2 > small[0.0]


def test_paths_multiply_along_the_way_and_without_any_nothing_depends() -> None:
    torch.manual_seed(0)
    field = Perceptron(3, hidden=(4, 5))
    w1, w2, w3 = (field.layers[i].weight.detach().abs() for i in (0, 2, 4))
    expected = sum(
        w3[:, b, None, None] * w2[None, b, a, None] * w1[a, None, :3] for a in range(4) for b in range(5)
    )
    torch.testing.assert_close(field.paths().detach(), expected.reshape(3, 3))
    with torch.no_grad():
        field.layers[0].weight[:2, 0] = 0  # the first input reaches two units alone,
        field.layers[2].weight[:, 2:] = 0  # which lead nowhere
    assert (field.paths()[:, 0] == 0).all()
    jacobian = slopes(field, torch.randn(20, 3))
    assert (jacobian[:, :, 0] == 0).all()
    assert (jacobian[:, :, 1] != 0).any()


def test_a_recipe_weighs_them() -> None:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"day": np.repeat([0.0, 1.0, 2.0], 30)}, index=[f"cell {i}" for i in range(90)])
    adata = ad.AnnData(obs=obs, obsm={"X_some": rng.normal(size=(90, 3)).astype(np.float32)})
    cells = ch.read(adata, coordinates="X_some", time="day")
    left = {}
    for weight in (0.0, 10.0):
        recipe = ch.recipes.neural_ode(hidden=(8, 8), sparsity=weight)
        model = ch.fit(cells, recipe, epochs=60, progress=False)
        left[weight] = float(model.module.dynamics.field.paths().detach().mean())
        assert ("sparsity" in model.history) == (weight > 0)
    assert left[10.0] < 0.3 * left[0.0]
    with pytest.raises(ch.errors.InputError, match="sparsity"):
        ch.recipes.neural_ode(sparsity=-1.0)
