"""Genes that regulate each other: the field keeps to its network, is found again, and knows of knock-outs."""

from __future__ import annotations

from itertools import pairwise

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import linear_sum_assignment

import chreode as ch
from chreode.dynamics.regulation import Regulation
from chreode.errors import InputError
from chreode.io.edges import edges, positions
from commandline import chreode

GENES = ["A", "B", "C", "D"]
# A makes B, B represses C, C makes D, D makes A.
WEIGHTS = np.zeros((4, 4))
WEIGHTS[1, 0], WEIGHTS[2, 1], WEIGHTS[3, 2], WEIGHTS[0, 3] = 4, -4, 4, 3
NETWORK = {"A": ["B"], "B": ["C"], "C": ["D"], "D": ["A"]}
DAYS = (0.0, 1.0, 2.0, 3.0)


def follow(x: np.ndarray, days: float, *, without: int | None = None) -> np.ndarray:
    """Where the true circuit brings cells."""
    free = np.arange(4) != (-1 if without is None else without)

    def velocity(_: float, flat: np.ndarray) -> np.ndarray:
        y = flat.reshape(x.shape)
        made = 1 / (1 + np.exp(-(y @ WEIGHTS.T - WEIGHTS.sum(1) / 2)))
        return ((made - y) * free).ravel()

    if not days:
        return x * free
    return solve_ivp(velocity, (0, days), (x * free).ravel(), rtol=1e-7).y[:, -1].reshape(x.shape)


def begin(seed: int) -> np.ndarray:
    """Four populations of 25 cells."""
    rng = np.random.default_rng(seed)
    centres = np.array([[0.9, 0.1, 0.2, 0.1], [0.1, 0.9, 0.8, 0.2], [0.2, 0.2, 0.1, 0.9], [0.5, 0, 1, 1]])
    return (np.repeat(centres, 25, axis=0) + rng.normal(0, 0.08, (100, 4))).clip(0)


def cells_of(x: np.ndarray, days: np.ndarray) -> ad.AnnData:
    obs = pd.DataFrame({"day": days}, index=[f"cell {i}" for i in range(len(x))])
    return ad.AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=pd.Index(GENES)))


def course() -> ad.AnnData:
    x = [follow(begin(k), day) for k, day in enumerate(DAYS)]
    return cells_of(np.concatenate(x), np.repeat(DAYS, 100))


@pytest.fixture(scope="module")
def fitted() -> ch.FittedModel:
    cells = ch.read(course(), values="continuous", time="day")
    return ch.fit(cells, ch.recipes.flecs(network=NETWORK, steps=1), epochs=300, progress=False)


def test_signs_and_knock_outs_are_found(fitted: ch.FittedModel) -> None:
    weights = fitted.module.dynamics.field.weights().detach().numpy()
    np.testing.assert_array_equal(weights != 0, WEIGHTS != 0)
    np.testing.assert_array_equal(np.sign(weights), np.sign(WEIGHTS))
    new = cells_of(begin(9), np.zeros(100))
    x, wild = begin(9), follow(begin(9), 3.0)
    found = fitted.forecast(new, to=3.0)
    assert np.abs(found - wild).mean() < 0.25 * np.abs(x - wild).mean()
    effects, told = [], []
    for gene, name in enumerate(GENES):
        held = fitted.forecast(new, to=3.0, knock_out=name)
        np.testing.assert_allclose(held[:, gene], 0, atol=1e-5)
        others = np.arange(4) != gene
        effects.append((follow(x, 3.0, without=gene) - wild)[:, others].mean(0))
        told.append((held - found)[:, others].mean(0))
    assert np.corrcoef(np.concatenate(effects), np.concatenate(told))[0, 1] > 0.9


def test_the_field_keeps_to_its_network(fitted: ch.FittedModel) -> None:
    table = ch.interactions(fitted)
    edges_ = {(r, t) for r, targets in NETWORK.items() for t in targets}
    strong = {
        (r, t) for r, t, e in zip(table["regulator"], table["target"], table["effect"], strict=True) if e
    }
    assert strong == edges_ | {(gene, gene) for gene in GENES}


def test_forecasts_far_beyond_the_last_time_stay_where_levels_can_be(fitted: ch.FittedModel) -> None:
    motion = fitted.module.dynamics
    top = motion.field.log_top.exp() * motion.scale
    far = fitted.forecast(to=300.0)
    assert (far > -1e-4).all()
    assert (far < 1.01 * top.detach().numpy()).all()
    at_rest = fitted.forecast(to=300.0, knock_out={"A": 100.0})
    assert np.isfinite(at_rest).all()


def test_a_field_begins_at_the_levels_that_were_seen() -> None:
    torch.manual_seed(0)
    field = Regulation(3, torch.tensor([[0], [1]]), fastest=4.0)
    x = torch.rand(50, 3) * torch.tensor([1.0, 5.0, 0.0])
    centre = x.mean(0)
    field.begin(x - centre, zero=-centre)
    field.weight.data.zero_()
    velocity = field(x - centre, torch.zeros(50))
    torch.testing.assert_close(velocity[:, :2], (0.5 * (centre - x))[:, :2], rtol=1e-4, atol=1e-5)
    # What is never made stays at nothing, within what the logarithm of a level allows.
    assert (velocity[:, 2].abs() < 1e-3).all()
    # Production is never negative: nothing falls below none.
    assert (field(-centre.expand(5, 3), torch.zeros(5)) >= 0).all()


@pytest.mark.parametrize("length", [2, 3])
def test_paths_follow_the_cells_that_transport_takes_for_the_same(length: int) -> None:
    adata = course()
    cells = ch.read(adata, values="continuous", time="day").numbered()
    build = ch.recipes.flecs(length=length).build(cells.layout)
    build.model.dynamics.begin(torch.from_numpy(adata.X))
    motion, x = build.model.dynamics, torch.from_numpy(adata.X).split(100)
    partner = [linear_sum_assignment(torch.cdist(a, b).square())[1] for a, b in pairwise(x)]
    far = []
    for start in range(3):
        z, cell = x[start], np.arange(100)
        for t in range(start, min(start + length - 1, 3)):
            z, cell = motion(z, *(torch.full((100,), DAYS[s]) for s in (t, t + 1))), partner[t][cell]
            far.append(((z - x[t + 1][cell]) / motion.scale).square().mean())
    values = build.objective(build.model, build.model(cells), share=len(cells))
    torch.testing.assert_close(values["paths"], torch.stack(far).mean())


def test_levels_below_zero_are_measured_from_the_least() -> None:
    field = Regulation(2, torch.tensor([[0], [1]]))
    u = torch.tensor([[-3.0, 1.0], [1.0, 2.0]])
    field.begin(u, zero=torch.tensor([-1.0, -1.0]))
    torch.testing.assert_close(field.zero, torch.tensor([-3.0, -1.0]))


def test_of_counts_the_coordinates_are_log_normalised() -> None:
    rng = np.random.default_rng(0)
    adata = cells_of(rng.poisson(5, (90, 4)).astype(np.float32), np.resize([0.0, 1.0, 2.0], 90))
    adata.X[:, 3] = 0
    model = ch.fit(ch.read(adata, time="day"), ch.recipes.flecs(), epochs=2, progress=False)
    expected = np.log1p(1e4 * adata.X / adata.X.sum(1, keepdims=True))
    np.testing.assert_allclose(model.embedded.embedding, expected, rtol=1e-5)
    assert model.forecast(to=2.0, knock_out="B", expected=True).shape == (30, 4)


def test_features_that_a_panel_lacks_are_at_their_means() -> None:
    adata = cells_of(np.arange(360).reshape(90, 4) % 7.0, np.resize([0.0, 1.0, 2.0], 90))
    model = ch.fit(
        ch.read(adata, values="continuous", time="day"), ch.recipes.flecs(), epochs=2, progress=False
    )
    some = model.project(adata[:6, ["A", "C", "D"]].copy())
    np.testing.assert_allclose(some.embedding[:, [0, 2, 3]], adata.X[:6, [0, 2, 3]], rtol=1e-6)
    np.testing.assert_allclose(some.embedding[:, 1], adata.X[:, 1].mean(), rtol=1e-5)


# ---- the network


def test_a_network_is_read_as_it_comes(tmp_path) -> None:
    table = pd.DataFrame([("A", "B"), ("A", "C"), ("B", "NA")], columns=["regulator", "target"])
    table.assign(effect=0.5).to_csv(tmp_path / "network.csv", index=False)
    table.to_csv(tmp_path / "network.tsv", index=False, sep="\t")
    known = {"A": ("B", "C"), "B": ("NA",)}
    given = (
        table,
        tmp_path / "network.csv",
        str(tmp_path / "network.tsv"),
        {"A": ["B", "C", "B"], "B": "NA", "C": []},
    )
    for network in given:
        assert edges(network) == known
    assert positions(known, ["A", "B", "C"]) == [[0, 0], [1, 2]]
    assert positions(known, ["g1", "g2", "g3", "g4"], ["A", "B", "C", "NA"]) == [[0, 0, 1], [1, 2, 3]]


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("no.csv", "found no file 'no.csv'"),
        (3, "found int"),
        ({}, "with edges; found none"),
        ({"A": 3}, "with edges; found none"),
        (pd.DataFrame({"TF": ["A"], "target": ["B"]}), "'regulator' and 'target'; found 'TF', 'target'"),
    ],
)
def test_what_is_no_network_is_refused(network: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ch.recipes.flecs(network=network)


def test_a_network_of_other_genes_and_too_many_genes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = ch.read(course(), values="continuous", time="day")
    with pytest.raises(InputError, match=r"found none, but 'a', 'b'. Did you mean 'A'"):
        ch.fit(cells, ch.recipes.flecs(network={"a": ["b"]}), progress=False)
    monkeypatch.setattr("chreode.recipes.regulation._GENES", 3)
    with pytest.raises(InputError, match="at most 3 features of rna, which are coordinates; found 4"):
        ch.fit(cells, ch.recipes.flecs(network=NETWORK), progress=False)


def test_the_command_line_takes_a_file_and_the_model_keeps_its_network(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    course().write_h5ad("course.h5ad")
    pd.DataFrame({"regulator": ["A", "B"], "target": ["B", "C"]}).to_csv("network.csv", index=False)
    fit = ("fit", "course.h5ad", "--recipe", "flecs", "--time", "day", "--values", "continuous")
    done = chreode(*fit, "--set", "network=network.csv", "--epochs", "2", "--no-report", "--out", "run")
    assert (done.code, done.err) == (0, "")
    (tmp_path / "network.csv").unlink()
    model = ch.load("run")
    assert model.recipe.arguments["network"] == {"A": ("B",), "B": ("C",)}
    assert int((model.module.dynamics.field.weights() != 0).sum()) == 2
    done = chreode("forecast", "run", "--to", 2, "--knock-out", "B", "--out", "there.h5ad")
    assert done.code == 0, done.err
    assert (np.abs(ad.read_h5ad("there.h5ad").obsm["X_flecs"][:, 1]) < 1e-6).all()
    done = chreode(*fit, "--set", "network=network.csv", "--no-report", "--out", "other")
    assert (done.code, "found no file 'network.csv'" in done.err) == (2, True)
