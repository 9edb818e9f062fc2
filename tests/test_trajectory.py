"""Fields learned from snapshots: simulated flows are found again, and forecasts stay where they can be."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import chreode as ch
from chreode.dynamics import mmd
from chreode.errors import InputError
from chreode.evaluate.transport import wasserstein
from chreode.io.loader import minibatches

TURN = np.array([[-0.1, -0.9], [0.9, -0.1]])  # a quarter of a turn and some decay in 1.75 days
PER_TIME = 80


def flow(z: np.ndarray, days: float) -> np.ndarray:
    """Where the true field brings states: a turn about (1, 0) with decay."""
    angle = 0.9 * days
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (z - [1.0, 0.0]) @ (np.exp(-0.1 * days) * turn).T + [1.0, 0.0]


def start(rng: np.random.Generator, n: int) -> np.ndarray:
    """Two populations."""
    return rng.normal(0, 0.25, (n, 2)) + np.array([[4.0, 0.0], [1.0, 2.5]])[rng.integers(2, size=n)]


def snapshots(days: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0), seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    states = [flow(start(rng, PER_TIME), day) for day in days]
    obs = pd.DataFrame({"day": np.repeat(days, PER_TIME)})
    obs.index = pd.Index([f"cell {i}" for i in range(len(obs))])
    return ad.AnnData(obs=obs, obsm={"X_true": np.concatenate(states).astype(np.float32)})


RECIPES = {
    "cell_mnn": (lambda: ch.recipes.cell_mnn(hidden=(32,), energy=0.01), 0.25),
    "neural_ode": (lambda: ch.recipes.neural_ode(hidden=(32, 32), energy=0.01), 0.15),
    "flow_matching": (lambda: ch.recipes.flow_matching(hidden=(32, 32), noise=0.05), 0.5),
}


@pytest.fixture(scope="module", params=RECIPES)
def fitted(request: pytest.FixtureRequest) -> tuple[ch.FittedModel, float]:
    make, near = RECIPES[request.param]
    cells = ch.read(snapshots(), coordinates="X_true", time="day")
    return ch.fit(cells, make(), epochs=100, progress=False), near


def test_cells_arrive_where_the_true_flow_brings_them(fitted: tuple[ch.FittedModel, float]) -> None:
    model, near = fitted
    new = snapshots((0.0,), seed=1)
    z = new.obsm["X_true"]
    for day in (0.5, 1.5, 2.0):  # one of them was never measured
        found = model.forecast(new, to=day)
        apart = (
            np.linalg.norm(found - flow(z, day), axis=1).mean()
            / np.linalg.norm(z - flow(z, day), axis=1).mean()
        )
        assert apart < near


def test_a_forecast_sets_out_from_the_last_time_before_it(fitted: tuple[ch.FittedModel, float]) -> None:
    model, _ = fitted
    days = model.embedded.cells.time.numpy()
    whole = model.forecast(model.embedded, to=1.5)
    np.testing.assert_array_equal(model.forecast(to=1.5), whole[days == 1.0])
    paths = model.trajectories(model.embedded, [2.0, 1.5])
    np.testing.assert_allclose(paths[1], whole, atol=1e-6)
    assert paths.shape == (2, len(days), 2)
    here = model.forecast(model.embedded, to=1.0)[days == 1.0]
    np.testing.assert_allclose(here, model.embedded.embedding[days == 1.0], atol=1e-6)


def test_an_operator_taken_once_holds_for_the_whole_way() -> None:
    cells = ch.read(snapshots(), coordinates="X_true", time="day")
    model = ch.fit(cells, ch.recipes.cell_mnn(hidden=(8,), steps=0), epochs=30, progress=False)
    paths = model.trajectories(model.embedded, [1.0, 2.0])
    np.testing.assert_array_equal(paths[1], model.forecast(model.embedded, to=2.0))


def test_forecasts_far_beyond_the_last_time_stay_finite(fitted: tuple[ch.FittedModel, float]) -> None:
    model, _ = fitted
    centre, scale = model.module.dynamics.centre.numpy(), float(model.module.dynamics.scale)
    far = np.linalg.norm((model.forecast(to=22.0) - centre) / scale, axis=1)
    assert far.max() < 2.05 * float(model.module.dynamics.field.reach)


def test_a_field_runs_back_as_well(fitted: tuple[ch.FittedModel, float]) -> None:
    model, _ = fitted
    motion, z = model.module.dynamics, torch.tensor(snapshots((0.0,), seed=2).obsm["X_true"])
    zero, one = torch.zeros(len(z)), torch.ones(len(z))
    with torch.no_grad():
        there = motion(z, zero, one)
        back = motion(there, one, zero)
    assert float((back - z).norm(dim=1).mean()) < 0.1 * float((there - z).norm(dim=1).mean())


def test_velocity_is_the_derivative_of_the_path(fitted: tuple[ch.FittedModel, float]) -> None:
    model, _ = fitted
    motion, z = model.module.dynamics, torch.tensor(snapshots((0.5,), seed=2).obsm["X_true"])
    now, h = torch.full((len(z),), 0.5), 1e-2
    with torch.no_grad():
        slope = (motion(z, now, now + h) - motion(z, now, now - h)) / (2 * h)
        torch.testing.assert_close(motion.velocity(z, now), slope, atol=0.05, rtol=0.05)


def test_a_time_left_out_is_predicted_better_than_by_waiting() -> None:
    every, kept = snapshots((0.0, 0.5, 1.0, 1.5, 2.0)), snapshots((0.0, 0.5, 1.0, 1.5, 2.0))
    kept = kept[kept.obs["day"] != 1.5].copy()
    model = ch.fit(
        ch.read(kept, coordinates="X_true", time="day"), RECIPES["cell_mnn"][0](), epochs=100, progress=False
    )
    observed = every[every.obs["day"] == 1.5].obsm["X_true"]
    waiting = every[every.obs["day"] == 1.0].obsm["X_true"]
    assert wasserstein(model.forecast(to=1.5), observed) < 0.5 * wasserstein(waiting, observed)


def test_loaded_models_forecast_the_same(fitted: tuple[ch.FittedModel, float], tmp_path) -> None:
    model, _ = fitted
    model.save(tmp_path / "model")
    again = ch.load(tmp_path / "model")
    np.testing.assert_array_equal(again.forecast(to=1.5), model.forecast(to=1.5))
    new = snapshots((0.0, 1.0), seed=3)
    np.testing.assert_array_equal(again.forecast(new, to=2.0), model.forecast(new, to=2.0))


def test_counts_are_moved_as_principal_components_and_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    days = np.repeat([0, 1, 2], 100)
    # Genes that rise, fall or stay.
    rate = np.exp(np.outer(days, np.linspace(-1, 1, 30))) * 5
    counts = rng.poisson(rate).astype(np.float32)
    obs = pd.DataFrame({"day": days}, index=[f"cell {i}" for i in range(300)])
    adata = ad.AnnData(counts, obs=obs)
    model = ch.fit(ch.read(adata, time="day"), ch.recipes.cell_mnn(dim=2), epochs=100, progress=False)
    share = model.forecast(to=2, expected=True)
    assert share.shape == (100, 30)
    np.testing.assert_allclose(share.sum(1), 1, rtol=1e-4)
    truth = rate[-1] / rate[-1].sum()
    assert np.corrcoef(np.log(share.mean(0)), np.log(truth))[0, 1] > 0.98
    monkeypatch.setattr("chreode.forecast._LIMIT", 1000)
    with pytest.raises(InputError, match="at most 2 GB"):
        model.forecast(to=2, expected=True)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda m: m.forecast(to=0.0), "after the first measured one, 0"),
        (lambda m: m.forecast(m.embedded, to=-1.0), "from the first measured one on, 0"),
        (lambda m: m.forecast(to=float("nan")), "finite numbers"),
        (lambda m: m.trajectories(m.embedded, ["later"]), "finite numbers"),
        (lambda m: m.forecast(_undated(), to=1.0), "time of every cell"),
        (lambda m: m.forecast("no.h5ad", to=-1.0), "from the first measured one on, 0"),  # before it is read
        (lambda m: m.forecast(snapshots((-1.0,)), to=1.0), "80 cells before it"),
    ],
)
def test_times_that_cannot_be_are_refused(fitted: tuple[ch.FittedModel, float], ask, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ask(fitted[0])


def _undated() -> ad.AnnData:
    adata = snapshots((1.0,))
    del adata.obs["day"]
    return adata


def test_dynamics_ask_for_times_and_forecasts_for_dynamics() -> None:
    adata = snapshots()
    with pytest.raises(InputError, match="time=COLUMN"):
        ch.fit(ch.read(adata, coordinates="X_true"), ch.recipes.cell_mnn(), progress=False)
    model = ch.fit(ch.read(adata, coordinates="X_true"), ch.recipes.pca(dim=2), epochs=1, progress=False)
    with pytest.raises(InputError, match="such as cell_mnn; found pca"):
        model.forecast(to=1.0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"coordinates": "X_tru"}, "Did you mean 'X_true'"),
        ({"coordinates": "X_true", "dims": 3}, "3 dimensions"),
        ({"dims": 2}, "beside dims=2"),
        ({"coordinates": "X_true", "features": 5}, "'features' beside it"),
        ({"coordinates": "X_true", "dims": 0}, "at least 1"),
        ({"coordinates": "X_true", "values": "counts"}, "'values' beside it"),
    ],
)
def test_coordinates_that_are_not_there_are_refused(arguments: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ch.read(snapshots(), time="day", **arguments)


def test_missing_coordinates_are_refused_by_name() -> None:
    adata = snapshots()
    adata.obsm["X_true"][3, 1] = np.nan
    with pytest.raises(InputError, match=r"1 of 320 cells .* 'cell 3'"):
        ch.read(adata, coordinates="X_true", time="day")


def test_coordinates_are_read_from_a_file_with_nothing_else(tmp_path) -> None:
    adata = snapshots()
    adata.write_h5ad(tmp_path / "coordinates.h5ad")
    cells = ch.read(tmp_path / "coordinates.h5ad", coordinates="X_true", dims=1, time="day")
    np.testing.assert_array_equal(cells.measured["X_true"].numpy(), adata.obsm["X_true"][:, :1])
    other = adata.copy()
    other.obsm["X_there"] = other.obsm.pop("X_true")
    again = ch.read(other, coordinates="X_there", like=cells)
    np.testing.assert_array_equal(again.measured["X_true"].numpy(), adata.obsm["X_true"][:, :1])
    twice = ch.read(adata, coordinates="X_true", like=again)
    np.testing.assert_array_equal(twice.measured["X_true"].numpy(), adata.obsm["X_true"][:, :1])


def test_coordinates_that_a_model_of_features_does_not_know_are_named() -> None:
    adata = snapshots()
    known = ad.AnnData(np.ones((len(adata), 3), dtype=np.float32), obs=adata.obs, obsm=adata.obsm)
    cells = ch.read(known, coordinates="X_true", like=ch.read(known))
    assert any("'X_true' was not read" in said for said in cells.reading.messages)


def test_coordinates_that_are_all_alike_stay_where_they_are() -> None:
    adata = snapshots()
    adata.obsm["X_true"][:] = 1.5
    cells = ch.read(adata, coordinates="X_true", time="day")
    model = ch.fit(cells, ch.recipes.cell_mnn(hidden=(8,)), epochs=5, progress=False)
    np.testing.assert_allclose(model.forecast(to=3.0), 1.5, atol=1e-5)


def test_every_minibatch_has_its_share_of_every_time() -> None:
    group = torch.from_numpy(np.random.default_rng(0).choice(3, size=300, p=[0.6, 0.3, 0.1]))
    parts = minibatches(300, size=60, seed=0, epoch=0, group=group)
    assert sorted(torch.cat(parts).tolist()) == list(range(300))
    total = torch.bincount(group, minlength=3)
    for part in parts:
        assert (torch.bincount(group[part], minlength=3) - total / len(parts)).abs().max() <= 2
    other = minibatches(300, size=60, seed=0, epoch=1, group=group)
    assert any(not torch.equal(a, b) for a, b in zip(parts, other, strict=True))


def test_an_operator_taken_once_is_learned_as_it_is_used() -> None:
    cells = ch.read(snapshots(), coordinates="X_true", time="day").numbered()
    torch.manual_seed(0)
    build = ch.recipes.cell_mnn(hidden=(8,), steps=0, decay=1.0, energy=0.0).build(cells.layout)
    motion = build.model.dynamics
    with torch.no_grad():
        motion.field.layers[-1].weight.mul_(50)
        u, at = motion.inside(cells.measured["X_true"]), cells.snapshot  # type: ignore[arg-type]
        told = sum(
            mmd(motion.move(u[at == s], *(motion.instants[i].expand(PER_TIME) for i in (s, t))), u[at == t])
            for s in range(4)
            for t in range(s + 1, 4)
        )
        values = build.objective(build.model, build.model(cells), share=len(cells))
    assert float(values["marginals"]) == pytest.approx(float(told), rel=1e-5)


@pytest.mark.parametrize("make", [ch.recipes.cell_mnn, ch.recipes.neural_ode])
def test_between_two_far_times_cells_are_half_way_at_half_time(make) -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(0, 0.3, (400, 2))
    states[200:] += [4.0, 2.0]
    obs = pd.DataFrame({"day": np.repeat([0.0, 2.0], 200)}, index=[f"cell {i}" for i in range(400)])
    cells = ch.read(ad.AnnData(obs=obs, obsm={"X_true": states}), coordinates="X_true", time="day")
    model = ch.fit(cells, make(hidden=(32, 32)), seed=0, progress=False)
    way = [model.forecast(to=day).mean(0) @ [4.0, 2.0] / 20 for day in (0.5, 1.0, 1.5)]
    np.testing.assert_allclose(way, [0.25, 0.5, 0.75], atol=0.12)


def test_the_kinetic_energy_of_an_even_way_is_the_square_of_the_velocity() -> None:
    cells = ch.read(snapshots(), coordinates="X_true", time="day").numbered()
    build = ch.recipes.neural_ode(hidden=(8,)).build(cells.layout)
    motion = build.model.dynamics
    last = motion.field.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.3, -0.4]))
    values = build.objective(build.model, build.model(cells), share=len(cells))
    assert float(values["kinetic energy"].detach()) == pytest.approx(0.03 * 0.25 / 2, rel=1e-4)


def test_a_minibatch_without_cells_that_set_out_has_no_kinetic_energy() -> None:
    cells = ch.read(snapshots(), coordinates="X_true", time="day").numbered()
    build = ch.recipes.cell_mnn(hidden=(8,)).build(cells.layout)
    last = cells[cells.snapshot == 3]
    values = build.objective(build.model, build.model(last), share=len(last))
    assert all(float(value.detach()) == 0 for value in values.values())


def test_more_components_than_features_and_networks_without_units_are_refused() -> None:
    cells = ch.read(snapshots(), coordinates="X_true", time="day")
    with pytest.raises(InputError, match="at most as many components as features of X_true, 2"):
        ch.fit(cells, ch.recipes.cell_mnn(dim=3), progress=False)
    with pytest.raises(InputError, match="hidden"):
        ch.recipes.cell_mnn(hidden=())
