"""Interactions read off a field: exact for a known one, mapped to genes as finite differences say."""

from __future__ import annotations

import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import chreode as ch
from chreode.errors import InputError
from chreode.interpret.interactions import jacobians, operators

DAYS = (0.0, 1.0, 2.0)


def course(n: int = 90, d: int = 3, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame({"day": np.resize(DAYS, n), "type": np.resize(["a", "b"], n)})
    obs.index = pd.Index([f"cell {i}" for i in range(n)])
    return ad.AnnData(obs=obs, obsm={"X_some": rng.normal(0, 2, (n, d)).astype(np.float32)})


def known(matrix: np.ndarray) -> ch.FittedModel:
    """A model whose field is ``A z + b`` everywhere."""
    cells = ch.read(course(d=len(matrix)), coordinates="X_some", time="day", label="type")
    model = ch.fit(cells, ch.recipes.cell_mnn(hidden=(4,), bound=1e6), epochs=1, progress=False)
    last = model.module.dynamics.field.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias[: matrix.size] = torch.tensor(matrix, dtype=torch.float32).flatten()
        last.bias[matrix.size :] = 0.3
        model.module.dynamics.field.reach.fill_(1e6)
    return model


MATRIX = np.array([[-1.0, 0.0, 0.5], [0.0, -0.5, -2.0], [0.25, 0.0, 0.0]])


def test_of_a_known_linear_field_the_jacobian_is_its_matrix() -> None:
    model = known(MATRIX)
    np.testing.assert_allclose(jacobians(model), np.broadcast_to(MATRIX, (90, 3, 3)), atol=1e-4)
    np.testing.assert_allclose(operators(model, np.arange(5)), np.broadcast_to(MATRIX, (5, 3, 3)), atol=1e-5)
    table = ch.interactions(model)
    assert list(table.columns[:4]) == ["group", "regulator", "target", "effect"]
    first = table.iloc[0]
    assert (first["regulator"], first["target"], first["sign"]) == ("X_some 3", "X_some 2", -1)
    assert first["effect"] == pytest.approx(-2, abs=1e-3)
    assert first["stability"] == 1.0
    assert (table["effect"].abs().diff().dropna() <= 1e-9).all()
    grouped = ch.interactions(model, groups="type", regulators=["X_some 1"], draws=20)
    assert sorted(grouped["group"].unique()) == ["a", "b"]
    assert set(grouped["regulator"]) == {"X_some 1"}


def test_a_field_without_an_operator_says_what_to_read() -> None:
    cells = ch.read(course(), coordinates="X_some", time="day")
    model = ch.fit(cells, ch.recipes.flow_matching(hidden=(4,)), epochs=1, progress=False)
    with pytest.raises(InputError, match=r"as of cell_mnn; found that of flow_matching\..*jacobians"):
        operators(model)


def test_the_map_to_genes_is_what_finite_differences_say() -> None:
    model, rng = known(MATRIX), np.random.default_rng(1)
    # Standardised components: z = (V'(x - mean) - m) / s, so that x changes by V s for a unit of z.
    axes, scale = np.linalg.qr(rng.normal(size=(6, 3)))[0], np.array([0.5, 2.0, 3.0])
    genes = pd.DataFrame(axes * scale, index=[f"gene {i}" for i in range(6)])
    x, mean, shift = rng.normal(size=6), rng.normal(size=6), rng.normal(size=3)

    def velocity(x: np.ndarray) -> np.ndarray:
        z = (axes.T @ (x - mean) - shift) / scale
        with torch.no_grad():
            moved = model.module.dynamics.velocity(torch.tensor(z[None], dtype=torch.float32), torch.ones(1))
        return (axes * scale) @ moved.numpy()[0]

    table = ch.interactions(model, loadings=genes, draws=2).pivot(
        index="target", columns="regulator", values="effect"
    )
    for j in range(6):
        step = 0.5 * np.eye(6)[j]
        slope = velocity(x + step) - velocity(x - step)
        np.testing.assert_allclose(table[f"gene {j}"], slope, atol=2e-3)


def test_genes_of_a_model_of_counts_need_no_loadings() -> None:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"day": np.resize(DAYS, 90)}, index=[f"cell {i}" for i in range(90)])
    adata = ad.AnnData(rng.poisson(5, (90, 8)).astype(np.float32), obs=obs)
    model = ch.fit(
        ch.read(adata, time="day"), ch.recipes.cell_mnn(dim=2, hidden=(4,)), epochs=2, progress=False
    )
    table = ch.interactions(model, targets=["3", "5"], draws=5)
    assert len(table) == 16
    axes = model.module.latents["cell"].infer.axes.double().numpy()
    mean = jacobians(model).mean(0)
    expected = axes @ mean @ np.linalg.pinv(axes)
    row = table[(table["target"] == "3") & (table["regulator"] == "0")].iloc[0]
    assert row["effect"] == pytest.approx(expected[3, 0], abs=1e-6)


def test_several_models_say_what_they_agree_on() -> None:
    other = MATRIX.copy()
    other[0, 2], other[2, 0] = -0.5, 0.75
    table = ch.interactions([known(MATRIX), known(other), known(MATRIX)])
    by = table.set_index(["target", "regulator"])
    assert by.loc[("X_some 1", "X_some 3"), "stability"] == pytest.approx(2 / 3)
    assert by.loc[("X_some 3", "X_some 1"), "stability"] == 1.0
    assert by.loc[("X_some 3", "X_some 1"), "effect"] == pytest.approx((0.25 + 0.75 + 0.25) / 3, abs=1e-3)
    assert by.loc[("X_some 3", "X_some 1"), "spread"] > 0.2


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        ({"groups": "tissue"}, "tissue"),
        ({"targets": ["X_some 4"]}, "Did you mean"),
        ({"loadings": np.ones((5, 2))}, "by 3 coordinates"),
        ({"loadings": np.full((5, 3), np.nan)}, "finite loadings"),
        ({"draws": 0}, "at least one draw"),
    ],
)
def test_what_is_not_there_is_refused(ask: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ch.interactions(known(MATRIX), **ask)


def test_models_that_cannot_be_averaged_are_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = known(MATRIX)
    with pytest.raises(InputError, match="found none"):
        ch.interactions([])
    turned = ch.read(course(seed=1), coordinates="X_some", time="day", label="type")
    other = ch.fit(turned, ch.recipes.cell_mnn(hidden=(4,)), epochs=1, progress=False)
    with pytest.raises(InputError, match=r"same cells .* in model 2"):
        ch.interactions([model, other])
    model.save(tmp_path / "bare", cells=False)
    bare = ch.load(tmp_path / "bare")
    with pytest.raises(InputError, match="saved with its cells"):
        ch.interactions(bare)
    with pytest.raises(InputError, match="saved with its cells"):
        bare.fates(course())
    with pytest.raises(InputError, match="at least one neighbour"):
        model.fates(neighbours=0)
    monkeypatch.setattr(sys.modules[jacobians.__module__], "_PAIRS", 10)
    assert len(ch.interactions(model)) == 9
    with pytest.raises(InputError, match="2 groups"):
        ch.interactions(model, groups="type")


def test_fates_of_a_fork_are_those_of_its_branches() -> None:
    # Cells drift along the first axis, and away from 0 along the second.
    rng = np.random.default_rng(0)
    side, day = rng.choice([-1, 1], 300), np.resize(DAYS, 300)
    z = np.stack([day + rng.normal(0, 0.1, 300), side * (0.2 + day) + rng.normal(0, 0.05, 300)], 1)
    obs = pd.DataFrame({"day": day, "type": np.where(day == 2, np.where(side > 0, "up", "down"), "young")})
    obs.index = pd.Index([f"cell {i}" for i in range(300)])
    adata = ad.AnnData(obs=obs, obsm={"X_fork": z.astype(np.float32)})
    cells = ch.read(adata, coordinates="X_fork", time="day", label="type")
    model = ch.fit(cells, ch.recipes.flow_matching(hidden=(32, 32), noise=0.02), epochs=150, progress=False)
    found = model.fates(adata[day == 0])
    assert list(found.columns) == ["down", "up"]
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert list(found.index) == list(adata.obs_names[day == 0])
    right = (found["up"] > 0.5).to_numpy() == (side[day == 0] > 0)
    assert right.mean() > 0.95
    assert list(model.fates(to=1.0).columns) == ["young"]
    with pytest.raises(InputError, match=r"measured time \(0, 1, 2\)"):
        model.fates(to=1.5)
