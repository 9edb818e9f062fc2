"""Fields learned from ways between paired cells: bridges and bent ways are what their equations say."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import chreode as ch
from chreode.dynamics import pairs
from chreode.dynamics.bridge import brownian_bridge
from chreode.dynamics.geodesic import Geodesic
from chreode.dynamics.metric import Land, Radial
from chreode.errors import InputError
from chreode.evaluate.transport import wasserstein


def course(states: list[np.ndarray], days: tuple[float, ...], **columns: np.ndarray) -> ad.AnnData:
    """Snapshots as coordinates."""
    number = [len(s) for s in states]
    obs = pd.DataFrame({"day": np.repeat(days, number), **columns})
    obs.index = pd.Index([f"cell {i}" for i in range(len(obs))])
    return ad.AnnData(obs=obs, obsm={"X_true": np.concatenate(states).astype(np.float32)})


# ---- Schroedinger bridges


def test_a_bridge_has_the_spread_and_velocity_of_a_brownian_one() -> None:
    ends = (torch.zeros(20000, 1, dtype=torch.float64), torch.ones(20000, 1, dtype=torch.float64))
    gap = torch.full_like(ends[0], 4.0)

    def at(u: float) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(0)  # the same noise at every u
        return brownian_bridge(ends, share=torch.full_like(gap, u), gap=gap, noise=0.5)

    with torch.random.fork_rng():
        state, slope, drawn, wide = at(0.3)
        later, earlier = at(0.3 + 1e-5)[0], at(0.3 - 1e-5)[0]
    assert float(state.mean()) == pytest.approx(0.3, abs=0.01)
    assert float(state.std()) == pytest.approx(0.5 * np.sqrt(4 * 0.3 * 0.7), rel=0.02)
    torch.testing.assert_close(slope, (later - earlier) / (2e-5 * 4), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(state - 0.3, wide * drawn)


NOISE, FIRST, LAST = 0.6, (-1.0, 1.0), (1.5, 0.4)  # mean and standard deviation of the two samples


def truth(x: np.ndarray, u: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Flow and score of the Schroedinger bridge between two Gaussians, in closed form."""
    (m0, s0), (m1, s1) = FIRST, LAST
    shared = (np.sqrt(4 * s0**2 * s1**2 + noise**4) - noise**2) / 2  # covariance of both ends
    mean = (1 - u) * m0 + u * m1
    var = (1 - u) ** 2 * s0**2 + u**2 * s1**2 + 2 * u * (1 - u) * shared + noise**2 * u * (1 - u)
    rise = -2 * (1 - u) * s0**2 + 2 * u * s1**2 + 2 * (1 - 2 * u) * shared + noise**2 * (1 - 2 * u)
    return m1 - m0 + rise / (2 * var) * (x - mean), -(x - mean) / var


@pytest.fixture(scope="module")
def bridge() -> ch.FittedModel:
    rng = np.random.default_rng(0)
    states = [rng.normal(m, s, (400, 1)) for m, s in (FIRST, LAST)]
    cells = ch.read(course(states, (0.0, 1.0)), coordinates="X_true", time="day")
    spread = float(np.concatenate(states).std())
    return ch.fit(
        cells, ch.recipes.sf2m(hidden=(32, 32), noise=NOISE / spread), epochs=150, seed=0, progress=False
    )


@pytest.mark.parametrize("u", [0.25, 0.5, 0.75])
def test_flow_and_score_between_gaussians_are_those_of_the_closed_form(bridge: ch.FittedModel, u: float):
    motion = bridge.module.dynamics
    mean = (1 - u) * FIRST[0] + u * LAST[0]
    x = np.linspace(mean - 0.8, mean + 0.8, 41)[:, None]
    flow, score = truth(x, u, NOISE)
    z, t = torch.tensor(x, dtype=torch.float32), torch.full((41,), u)
    with torch.no_grad():
        found, pull = motion.velocity(z, t).numpy(), motion.score(z, t).numpy()
    assert np.abs(found - flow).mean() < 0.25
    assert np.abs(pull - score).mean() < 0.25 * np.abs(score).mean() + 0.1


def test_the_flow_carries_the_first_sample_to_the_last(bridge: ch.FittedModel) -> None:
    arrived = bridge.forecast(bridge.embedded, to=1.0)[:400]
    assert arrived.mean() == pytest.approx(LAST[0], abs=0.15)
    assert arrived.std() == pytest.approx(LAST[1], abs=0.12)


def test_a_model_without_a_score_says_so() -> None:
    rng = np.random.default_rng(0)
    cells = ch.read(course([rng.normal(size=(20, 1))] * 2, (0.0, 1.0)), coordinates="X_true", time="day")
    model = ch.fit(cells, ch.recipes.flow_matching(hidden=(4,)), epochs=1, progress=False)
    with pytest.raises(InputError, match="Fit sf2m"):
        model.module.dynamics.score(torch.zeros(1, 1), torch.zeros(1))


# ---- metrics and bent ways


def test_a_bent_way_leads_from_end_to_end_and_its_velocity_is_its_slope() -> None:
    generator = torch.Generator().manual_seed(0)
    way = Geodesic(3, hidden=(8,)).double()
    with torch.no_grad():
        way.layers[-1].weight.mul_(100)  # type: ignore[index]
    ends = tuple(torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    start, gap = torch.ones(5, 1).double(), torch.full((5, 1), 2.0).double()

    def at(u: float) -> tuple[torch.Tensor, torch.Tensor]:
        return way(ends, share=torch.full_like(gap, u), start=start, gap=gap)

    torch.testing.assert_close(at(0.0)[0], ends[0])
    torch.testing.assert_close(at(1.0)[0], ends[1])
    assert float((at(0.5)[0] - (ends[0] + ends[1]) / 2).abs().max().detach()) > 0.1
    slope = (at(0.3 + 1e-6)[0] - at(0.3 - 1e-6)[0]) / (2e-6 * 2)
    torch.testing.assert_close(at(0.3)[1], slope, rtol=1e-6, atol=1e-6)


def test_land_is_its_sum_over_cells() -> None:
    generator = torch.Generator().manual_seed(0)
    cells, z = (torch.randn(n, 2, generator=generator, dtype=torch.float64) for n in (40, 6))

    def room(x: torch.Tensor) -> torch.Tensor:
        apart = cells[None] - x[:, None]
        near = torch.exp(-apart.square().sum(2) / (2 * 2 * 0.5**2))
        return (apart.square() * near[:, :, None]).sum(1)

    found = Land(bandwidth=0.5, floor=0.2)(z, cells)
    torch.testing.assert_close(found, 0.2 / (room(z) / room(cells).mean(0) + 0.2))
    far = Land(bandwidth=0.5, floor=0.2)(z + 50, cells)
    torch.testing.assert_close(far, torch.ones_like(far))


def test_radial_functions_sum_to_one_among_cells_and_to_nothing_elsewhere() -> None:
    angle = torch.linspace(0, 3, 500)
    cells = torch.stack([angle.cos(), angle.sin()], 1)
    metric = Radial(2, floor=0.1)
    metric.begin(cells)
    torch.testing.assert_close(metric(cells, cells), torch.full((500, 2), 0.1 / 1.1), rtol=0.3, atol=0)
    assert float(metric(torch.zeros(1, 2), cells).min()) > 0.5
    few = Radial(2, floor=0.1)
    few.begin(cells[:3])
    assert bool(few(cells[:3], cells).isfinite().all())


def arc(n: int = 100) -> ad.AnnData:
    """Cells on a half circle at three times, each of which has cells all over a third of it and more."""
    rng = np.random.default_rng(0)
    states = []
    for centre in (0.5, np.pi / 2, np.pi - 0.5):
        angle = rng.normal(centre, 0.45, n).clip(0, np.pi)
        states.append(np.stack([-np.cos(angle), np.sin(angle)], 1) * rng.normal(1, 0.04, (n, 1)))
    return course(states, (0.0, 1.0, 2.0))


def on_arc(recipe: ch.Recipe) -> tuple[ch.FittedModel, float]:
    """A model that did not see the middle time, and how far its forecast is from it."""
    whole = arc()
    seen = whole[whole.obs["day"] != 1.0].copy()
    cells = ch.read(seen, coordinates="X_true", time="day")
    model = ch.fit(cells, recipe, epochs=150, seed=0, progress=False)
    return model, wasserstein(model.forecast(to=1.0), whole[whole.obs["day"] == 1.0].obsm["X_true"])


@pytest.fixture(scope="module")
def straight() -> float:
    return on_arc(ch.recipes.flow_matching(hidden=(32, 32)))[1]


@pytest.mark.parametrize("metric", ["land", "rbf"])
def test_ways_and_forecasts_keep_nearer_to_an_arc_than_straight_lines(metric: str, straight: float) -> None:
    model, missed = on_arc(ch.recipes.metric_flow_matching(hidden=(32, 32), metric=metric))
    assert missed < 0.8 * straight
    motion = model.module.dynamics
    u = motion.inside(torch.from_numpy(model.embedded.embedding))
    first, last = u[:100], u[100:]
    i, j = pairs(first, last, coupling="ot", generator=torch.Generator().manual_seed(0))
    half, gap = torch.full((100, 1), 0.5), motion.instants[1].expand(100, 1)
    with torch.no_grad():
        state, _ = motion.field.way((first[i], last[j]), share=half, start=0 * half, gap=gap)
        off, lines = (
            (motion.centre + motion.scale * s).norm(dim=1).sub(1).abs().mean()
            for s in (state, (first[i] + last[j]) / 2)
        )
    assert float(off) < 0.7 * float(lines)


# ---- cells divide


def branches(n: int = 80) -> ad.AnnData:
    """Two branches that go on side by side, of which the upper one doubles in a day; and their true rates."""
    rng = np.random.default_rng(0)
    states, rates = [], []
    for day, upper in ((0.0, n), (1.0, 2 * n)):
        up = np.repeat([True, False], (upper, n))
        states.append(rng.normal(0, 0.25, (len(up), 2)) + np.stack([np.full(len(up), day), 2.0 * up], 1))
        rates.append(np.where(up, np.log(2), 0.0))
    return course(states, (0.0, 1.0), rate=np.concatenate(rates))


CROSSING = {
    "ot": (lambda: ch.recipes.flow_matching(hidden=(32, 32)), None),
    "unbalanced": (lambda: ch.recipes.flow_matching(hidden=(32, 32), coupling="unbalanced"), None),
    "growth": (lambda: ch.recipes.flow_matching(hidden=(32, 32)), "rate"),
}


def crossed(name: str) -> float:
    """The share of the lower branch that a model sends up."""
    make, growth = CROSSING[name]
    cells = ch.read(branches(), coordinates="X_true", time="day", growth=growth)
    model = ch.fit(cells, make(), epochs=100, seed=0, progress=False)
    lower = (model.embedded.embedding[:, 1] < 1) & (model.embedded.cells.time.numpy() == 0)
    return float((model.forecast(model.embedded, to=1.0)[lower, 1] > 1).mean())


def test_cells_of_a_branch_that_does_not_grow_cross_where_growth_is_not_known() -> None:
    assert crossed("ot") > 0.08  # of a third that the plan sends


@pytest.mark.parametrize("name", ["unbalanced", "growth"])
def test_cells_stay_in_their_branch_where_growth_is_known_or_allowed(name: str) -> None:
    assert crossed(name) < 0.03


@pytest.mark.parametrize("distance", ["mmd", "sinkhorn"])
def test_marginals_count_cells_by_their_growth(distance: str) -> None:
    def loss(growth: str | None) -> float:
        adata = branches()
        adata.obsm["X_true"][adata.obs["day"] == 1.0, 0] -= 1  # nothing moves, cells multiply alone
        cells = ch.read(adata, coordinates="X_true", time="day", growth=growth).numbered()
        torch.manual_seed(0)
        build = ch.recipes.neural_ode(hidden=(8,), distance=distance, energy=0.0).build(cells.layout)
        build.model.dynamics.begin(cells.measured["X_true"])
        values = build.objective(build.model, build.model(cells), share=len(cells))
        return float(values["marginals"].detach())

    assert loss("rate") < 0.2 * loss(None)


def test_growth_is_read_kept_and_refused_where_it_is_missing(tmp_path) -> None:
    adata = branches(20)
    cells = ch.read(adata, coordinates="X_true", time="day", growth="rate")
    np.testing.assert_allclose(cells.growth.numpy(), adata.obs["rate"], rtol=1e-6)  # type: ignore[union-attr]
    assert cells.layout.conditions == {}
    model = ch.fit(cells, ch.recipes.sf2m(hidden=(4,)), epochs=2, progress=False)
    model.save(tmp_path / "model")
    again = ch.load(tmp_path / "model")
    np.testing.assert_array_equal(again.forecast(to=2.0), model.forecast(to=2.0))
    adata.obs.loc["cell 3", "rate"] = np.nan
    with pytest.raises(InputError, match=r"growth rate for every cell in column 'rate'; found 1 cell"):
        ch.read(adata, coordinates="X_true", time="day", growth="rate")
    adata.obs["rate"] = np.where(adata.obs["day"] == 0, 20.0, 1.0)
    with pytest.raises(InputError, match="differ by 19 over 1"):
        ch.read(adata, coordinates="X_true", time="day", growth="rate")
    with pytest.raises(InputError, match="times beside growth='rate'"):
        ch.read(adata, coordinates="X_true", growth="rate")
    adata.obs["rate"] = "fast"
    with pytest.raises(InputError, match="numbers in column 'rate', which is a growth rate"):
        ch.read(adata, coordinates="X_true", time="day", growth="rate")


def cycling(n: int = 400) -> tuple[ad.AnnData, np.ndarray]:
    """Counts of 30 genes, of which half the cells express the first five at three times the usual rate."""
    rng = np.random.default_rng(0)
    cycles = np.arange(n) % 2 == 0
    rate = np.full((n, 30), 5.0)
    rate[cycles, :5] *= 3
    adata = ad.AnnData(rng.poisson(rate).astype(np.float32))
    adata.var_names = [f"gene {j}" for j in range(30)]
    return adata, cycles


def test_cells_that_cycle_grow_and_cells_that_die_shrink() -> None:
    adata, cycles = cycling()
    genes = [f"gene {j}" for j in range(5)]
    grow = ch.dynamics.growth_rates(adata, proliferation=[*genes, "not measured"])
    assert grow.shape == (400,)
    assert grow[cycles].mean() > 1.0 > 0.0 > grow[~cycles].mean()
    die = ch.dynamics.growth_rates(ch.read(adata), proliferation=["gene 20"], apoptosis=genes)
    assert die[cycles].mean() < die[~cycles].mean() - 1.0
    assert np.abs(die).max() <= 1.4


def test_genes_that_were_not_measured_and_values_that_are_no_counts_are_refused() -> None:
    adata, _ = cycling(40)
    with pytest.raises(InputError, match="genes of proliferation among the features of rna; found none"):
        ch.dynamics.growth_rates(adata, proliferation=["MKI67"])
    with pytest.raises(InputError, match="Expected counts"):
        ch.dynamics.growth_rates(ch.read(adata, values="continuous"), proliferation=["gene 1"])


@pytest.mark.parametrize(
    ("recipe", "arguments"),
    [
        ("sf2m", {"noise": 0.0}),
        ("metric_flow_matching", {"bandwidth": 0.0}),
        ("metric_flow_matching", {"metric": "straight"}),
        ("flow_matching", {"coupling": "unbalanced", "penalty": 0.0}),
        ("cell_mnn", {"distance": "euclidean"}),
    ],
)
def test_settings_that_cannot_be_are_refused(recipe: str, arguments: dict) -> None:
    with pytest.raises(InputError, match=next(k for k in arguments if k != "coupling")):
        getattr(ch.recipes, recipe)(**arguments)
