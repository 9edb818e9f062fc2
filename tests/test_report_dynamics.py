"""What is drawn of dynamics: lines follow velocities, distances and effects are those of the model."""

from __future__ import annotations

import re
import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import chreode as ch
from chreode.errors import InputError
from chreode.evaluate.transport import energy_distance, wasserstein
from chreode.interpret.interactions import connected
from chreode.report import figures, write_report
from chreode.report.flow import Plane, arrivals, by_time, density, paths, streams, velocities
from chreode.report.flow_section import flow_section
from chreode.report.regulation import edges_of, heat_of, ring, shade, strongest
from chreode.report.regulation_section import regulation_section

DAYS = (0.0, 1.0, 3.0)
PER_TIME = 40
SHIFT = np.array([2.0, 0.5, 0.0])
NASTY = '<img src=x onerror="window.pwned=1">'


def course(d: int = 3, *, stretch: float = 1.0) -> ad.AnnData:
    """Cells that drift by ``SHIFT`` a day, more of them at the first time."""
    rng = np.random.default_rng(0)
    days = np.repeat(DAYS, (2 * PER_TIME, PER_TIME, PER_TIME))
    x = rng.normal(size=(len(days), d)) * np.r_[1.0, np.ones(d - 1) * stretch]
    x[:, : min(d, 3)] += days[:, None] * SHIFT[:d]
    obs = pd.DataFrame({"day": days, "type": np.resize(["a", "b"], len(days))})
    obs.index = pd.Index([f"cell {i}" for i in range(len(days))])
    return ad.AnnData(obs=obs, obsm={"X_pca": x.astype(np.float32)})


def drifting(d: int = 3, **how: float) -> ch.FittedModel:
    """A model whose field is ``SHIFT`` everywhere."""
    cells = ch.read(course(d, **how), coordinates="X_pca", time="day", label="type")
    model = ch.fit(cells, ch.recipes.flow_matching(hidden=(4,)), epochs=1, progress=False)
    motion = model.module.dynamics
    with torch.no_grad():
        last = motion.field.layers[-1]
        last.weight.zero_()
        last.bias.zero_()
        last.bias[:3] = torch.tensor(SHIFT[:d]) * motion.interval / motion.scale
        motion.field.reach.fill_(1e6)
    return model


@pytest.fixture(scope="module")
def drift() -> ch.FittedModel:
    return drifting()


@pytest.fixture(scope="module")
def counted() -> ch.FittedModel:
    """A model of counts of 30 genes, which has learned something."""
    rng = np.random.default_rng(1)
    days = np.repeat(DAYS, 60)
    state = np.stack([days / 3, np.where(rng.random(180) < 0.5, 1, -1) * days / 3], 1)
    log = state @ rng.normal(size=(2, 30)) * 1.2 + rng.normal(size=30)
    counts = rng.poisson(20 * np.exp(log)).astype(np.float32)
    names = [f"GENE{j}" for j in range(30)]
    names[3] = NASTY
    obs = pd.DataFrame(
        {"day": days, "type": np.where(days == 0, "root", np.where(state[:, 1] > 0, "x", "y"))}
    )
    obs.index = pd.Index([f"cell {i}" for i in range(180)])
    adata = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=pd.Index(names)))
    cells = ch.read(adata, time="day", label="type")
    return ch.fit(cells, ch.recipes.cell_mnn(dim=3, hidden=(16,)), epochs=15, progress=False)


# ---- the plane


def test_coordinates_are_shown_where_they_show_as_much_as_principal_axes(drift) -> None:
    plane = Plane.of(drift.embedded)
    z = drift.embedded.embedding
    assert plane.names == ("X_pca 1", "X_pca 2")
    np.testing.assert_allclose(plane.place(z), z[:, :2], atol=1e-6)
    assert plane.share == pytest.approx(z[:, :2].var(0).sum() / z.var(0).sum(), rel=1e-4)
    np.testing.assert_allclose(Plane.of(drift.embedded, axes=(2, 0)).place(z), z[:, [2, 0]], atol=1e-6)


def test_principal_axes_are_shown_where_the_first_coordinates_show_little() -> None:
    embedded = drifting(5, stretch=30.0).embedded
    plane = Plane.of(embedded)
    z = embedded.embedding - embedded.embedding.mean(0)
    values = np.linalg.svd(z, compute_uv=False) ** 2
    assert plane.names[0] == "principal axis 1"
    assert plane.share == pytest.approx(values[:2].sum() / values.sum(), rel=1e-4)
    np.testing.assert_allclose(plane.place(embedded.embedding).var(0), values[:2] / len(z), rtol=1e-4)


@pytest.mark.parametrize("axes", [(0, 0), (0, 3), (-1, 1)])
def test_coordinates_that_are_not_there_are_refused(drift, axes) -> None:
    with pytest.raises(InputError, match="Expected two coordinates from 0 to 2"):
        figures.streamlines(drift, axes=axes)


def test_one_dimension_and_no_dynamics_are_refused() -> None:
    with pytest.raises(InputError, match="two dimensions at least"):
        figures.streamlines(drifting(1))
    static = ch.fit(ch.read(course(), coordinates="X_pca", time="day"), ch.recipes.pca(dim=2), progress=False)
    with pytest.raises(InputError, match="Expected a model of how cells move in time"):
        figures.trajectories(static)
    assert flow_section(static) is None
    assert regulation_section(static) is None
    assert "two dimensions" in flow_section(drifting(1))["absent"]


def test_a_sample_of_cells_has_a_share_of_every_time(drift) -> None:
    rows = by_time(drift.embedded, most=40)
    assert len(set(rows.tolist())) == 40
    np.testing.assert_array_equal(np.bincount(drift.embedded.cells.snapshot[rows]), [20, 10, 10])
    assert by_time(drift.embedded, most=10_000).tolist() == list(range(len(drift.embedded)))


# ---- lines


def test_lines_follow_the_velocity_of_the_cells() -> None:
    rng = np.random.default_rng(0)
    xy = rng.uniform(-1, 1, (3000, 2))
    found = streams(xy, np.stack([-xy[:, 1], xy[:, 0]], 1))  # a turn
    assert len(found) > 10
    for stream in found:
        along, at = np.diff(stream.points, axis=0), (stream.points[1:] + stream.points[:-1]) / 2
        true = np.stack([-at[:, 1], at[:, 0]], 1)
        far = np.linalg.norm(at, axis=1) > 0.3
        cosine = (along * true).sum(1) / np.linalg.norm(along, axis=1) / np.linalg.norm(true, axis=1)
        assert (cosine[far] > 0.85).all()  # least at the edges of the square
    speeds = [(np.linalg.norm(s.points, axis=1).mean(), s.speed) for s in found]
    assert np.corrcoef(np.array(speeds).T)[0, 1] > 0.95


def test_there_are_no_lines_where_there_are_no_cells() -> None:
    rng = np.random.default_rng(0)
    xy = rng.normal(0, 0.5, (800, 2))
    xy[400:, 0] += 10
    points = np.concatenate([s.points for s in streams(xy, np.tile([1.0, 0.0], (800, 1)))])
    assert not ((points[:, 0] > 4) & (points[:, 0] < 6)).any()
    assert streams(xy, np.zeros_like(xy)) == []


def test_velocities_are_those_of_the_field(drift) -> None:
    rows = np.array([3, 0, 77])
    np.testing.assert_allclose(velocities(drift.embedded, rows), np.tile(SHIFT, (3, 1)), rtol=1e-4, atol=1e-5)


def test_cells_are_followed_from_the_first_time_to_the_last(drift) -> None:
    moments, codes = paths(drift.embedded, cells=7)
    assert set(DAYS) <= set(moments.tolist())
    assert codes.shape == (len(moments), 7, 3)
    first = drift.embedded.embedding[: 2 * PER_TIME]
    assert all((np.abs(first - start).max(1) < 1e-6).any() for start in codes[0])
    expected = codes[0] + moments[:, None, None] * SHIFT
    np.testing.assert_allclose(codes, expected, atol=1e-4)


# ---- arrivals


def test_arrivals_are_as_many_as_measured_and_their_distances_are_exact(drift) -> None:
    z, days = drift.embedded.embedding, course().obs["day"].to_numpy()
    found = arrivals(drift.embedded)
    assert [(a.before, a.time) for a in found] == [(0.0, 1.0), (1.0, 3.0)]
    for a in found:
        assert len(a.measured) == len(a.arrived) == len(a.set_out) == PER_TIME
        np.testing.assert_allclose(a.arrived, a.set_out + (a.time - a.before) * SHIFT, atol=1e-4)
        assert a.wasserstein == (wasserstein(a.arrived, a.measured), wasserstein(a.set_out, a.measured))
        assert a.energy == (energy_distance(a.arrived, a.measured), energy_distance(a.set_out, a.measured))
        assert a.energy[0] < 0.1 * a.energy[1]
    np.testing.assert_array_equal(found[1].measured, z[days == 3.0])
    assert [a.time for a in arrivals(drift.embedded, steps=[2], most=10)] == [3.0]


def test_a_density_is_where_the_values_are() -> None:
    found = density(np.full(100, 2.5), 0.0, 4.0)
    assert found.argmax() in (39, 40)
    assert found.sum() == pytest.approx(1)


# ---- interactions


def test_those_that_take_most_part_are_those_of_the_whole_table(counted) -> None:
    every = ch.interactions(counted, draws=1)
    others = every[every["regulator"] != every["target"]]
    square = others["effect"] ** 2
    part = square.groupby(others["regulator"]).sum() + square.groupby(others["target"]).sum()
    assert connected(counted, most=8) == part.sort_values(ascending=False).index[:8].tolist()
    assert strongest(every, most=8) == connected(counted, most=8)


def test_times_are_groups_in_their_order(counted) -> None:
    table = ch.interactions(counted, groups="day", regulators=["GENE1"], targets=["GENE2"], draws=5)
    assert table["group"].tolist() == ["0", "1", "3"]


def made(effects: dict[tuple[str, str], float], group: str = "all", **how: float) -> pd.DataFrame:
    rows = [
        {"group": group, "regulator": r, "target": t, "effect": e, "stability": how.get(r + t, 1.0)}
        for (r, t), e in effects.items()
    ]
    return pd.DataFrame(rows)


def test_a_heat_map_holds_the_effects_and_puts_like_features_together() -> None:
    effects = {(r, t): 0.01 for r in "ABCD" for t in "ABCD"} | {("A", t): 5.0 for t in "CD"}
    effects |= {("C", t): -5.0 for t in "CD"} | {("B", t): 4.9 for t in "CD"}
    table = made(effects, AC=0.5)
    heat = heat_of(table, features=["A", "B", "C", "D"])
    for y, target in enumerate(heat.targets):
        for x, regulator in enumerate(heat.regulators):
            assert heat.effect["all"][y, x] == effects[regulator, target]
            assert heat.stable["all"][y, x] == ((regulator, target) != ("A", "C"))
    assert abs(heat.regulators.index("A") - heat.regulators.index("B")) == 1
    some = heat_of(table[table["regulator"] == "A"], features=["A", "C"])
    assert (some.targets, some.regulators) == (["A", "C"], ["A"])


def test_edges_are_strong_and_stable_and_between_different_features() -> None:
    effects = {("A", "B"): 4.0, ("B", "A"): -5.0, ("A", "A"): -9.0, ("B", "C"): 3.0, ("C", "B"): 0.1}
    table = made(effects, BC=0.9)
    found = edges_of(table, "all", features=["A", "B", "C"], most=5, scale=5.0)
    assert [(e.regulator, e.target, e.effect) for e in found] == [("B", "A", -5.0), ("A", "B", 4.0)]
    assert len(edges_of(table, "all", features=["A", "B"], most=1, scale=5.0)) == 1
    assert edges_of(table, "other", features=["A", "B"], most=1, scale=5.0) == []


def test_shades_keep_the_sign_and_the_order_of_effects() -> None:
    shades = [shade(e, 2.0) for e in (-3.0, -2.0, -0.1, 0.0, 0.1, 1.0, 2.0)]
    assert shades == sorted(shades)
    assert shades[0] == shades[1] == -1
    assert [np.sign(s) for s in shades] == [-1, -1, -1, 0, 1, 1, 1]
    assert {len(ring("abc")), len(ring(""))} == {3, 0}


@pytest.mark.parametrize("draw", [figures.interactions, figures.interaction_network])
def test_other_tables_are_refused(draw) -> None:
    with pytest.raises(InputError, match="Expected interactions"):
        draw(pd.DataFrame({"gene": ["A"]}))
    with pytest.raises(InputError, match="no rows"):
        draw(made({("A", "B"): 1.0}).head(0))


# ---- figures


def test_figures_show_the_cells_and_the_numbers(counted, tmp_path) -> None:
    genes = connected(counted, most=6)
    table = ch.interactions(counted, groups="day", regulators=genes, targets=genes)
    drawn = {
        "streamlines": figures.streamlines(counted),
        "trajectories": figures.trajectories(counted, cells=5),
        "marginals": figures.marginals(counted),
        "interactions": figures.interactions(table),
        "network": figures.interaction_network(table),
    }
    for name, figure in drawn.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    assert len(drawn["streamlines"].axes[0].collections[0].get_offsets()) == 180
    assert len(drawn["streamlines"].axes[0].lines) > 3
    assert len(drawn["trajectories"].axes[0].lines) == 5
    words = drawn["marginals"].axes[0].get_xlabel()
    assert re.fullmatch(r"W1 [\d.]+; copied [\d.]+\nenergy [\d.]+; copied [\d.]+", words)
    assert [axes.get_title(loc="left") for axes in drawn["interactions"].axes[:3]] == ["0", "1", "3"]
    assert len(drawn["interactions"].axes[0].collections[0].get_paths()) == 36


# ---- the page


def page(model: ch.FittedModel, path) -> str:
    cells = model.embedded.cells
    return write_report(path, model=model, cells=cells, scores={}, command="chreode fit").read_text("utf-8")


def test_a_loaded_model_has_the_same_section(counted, tmp_path) -> None:
    counted.save(tmp_path / "model")
    loaded = ch.load(tmp_path / "model")
    assert flow_section(loaded) == flow_section(counted)
    assert regulation_section(loaded) == regulation_section(counted)


def test_coordinates_have_no_genes_to_name(drift) -> None:
    assert regulation_section(drift) is None


def test_five_hundred_coordinates_are_drawn() -> None:
    section = flow_section(drifting(500))
    assert len(section["arrivals"]) == 2
    assert section["streams"]


def test_groups_of_few_cells_are_left_out(counted) -> None:
    section = regulation_section(counted)
    assert section["by"] == "type"
    assert [h["group"] for h in section["heats"]] == ["root", "x", "y"]
    assert [n["column"] for n in section["networks"]] == ["day", "type"]
    few = counted.embedded.replace(
        cells=counted.embedded.cells[np.arange(0, 180, 10)],
        codes={k: z[::10] for k, z in counted.embedded.codes.items()},
    )
    section = regulation_section(type("Fitted", (), {"embedded": few}))
    assert (section["by"], section["networks"], len(section["heats"])) == ("", [], 1)


def test_the_page_shows_dynamics_in_a_browser(counted, tmp_path, monkeypatch) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
    # The map is tested elsewhere, and takes longest.
    monkeypatch.setattr("chreode.report.page.project_2d", lambda codes, *_, **__: (codes[:, :2], "two codes"))
    page(counted, tmp_path / "page.html")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=chromium, args=options)
        for width in (1280, 400):
            shown = running.new_page(viewport={"width": width, "height": 900})
            said: list[str] = []
            shown.on("console", lambda message, said=said: said.append(message.text))
            shown.on("pageerror", lambda error, said=said: said.append(str(error)))
            shown.goto((tmp_path / "page.html").as_uri())
            shown.wait_for_selector("html[data-ready=true]", timeout=60_000, state="attached")
            assert said == []
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
            assert shown.evaluate("window.pwned") is None
            assert shown.locator("#dynamics svg.flow").count() == 4
            assert shown.locator("#dynamics svg.flow .way").count() > 40
            assert shown.locator("#dynamics svg.effects").count() == 3
            assert shown.locator("#dynamics svg.ring").count() == 6
            boxes = [box.bounding_box() for box in shown.locator("#dynamics svg.flow").all()]
            assert all(box["width"] > 180 and box["x"] + box["width"] <= width for box in boxes)
            shown.close()
        running.close()
