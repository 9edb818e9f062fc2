"""Model systems: distances are those of references, intervals cover, ranks are right, medoids are best."""

from __future__ import annotations

from itertools import combinations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import cdist, pdist
from scipy.stats import foldnorm, wasserstein_distance
from sklearn.metrics.pairwise import rbf_kernel

import chreode as ch
from chreode.errors import InputError
from chreode.evaluate import medoids
from chreode.evaluate.medoids import k_medoids
from chreode.evaluate.populations import METRICS, distance_of, floor_of, resampled
from chreode.evaluate.transport import energy_distance
from chreode.interpret import match_figure
from commandline import QUICK, chreode, small

QUIET = {"progress": False}


def pair(n: int = 40, m: int = 25, d: int = 3, shift: float = 0.7, seed: int = 0, bootstraps: int = 0):
    rng = np.random.default_rng(seed)
    codes = rng.normal(size=(n, d)), rng.normal(shift, 1.5, size=(m, d))
    return [resampled(one, bootstraps=bootstraps, rng=rng) for one in codes]


def directions(d: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(d, 64))
    return drawn / np.linalg.norm(drawn, axis=0)


def reference(metric: str, x: np.ndarray, y: np.ndarray, width: float) -> float:
    if metric == "energy":
        return energy_distance(x, y) - pdist(x).mean() / len(x) - pdist(y).mean() / len(y)
    if metric == "centroid":
        noise = sum(np.var(one, axis=0, ddof=1).sum() / len(one) for one in (x, y))
        return float(((x.mean(0) - y.mean(0)) ** 2).sum() - noise)
    if metric == "sliced":
        along = directions(x.shape[1], 0)
        return float(np.mean([wasserstein_distance(x @ one, y @ one) for one in along.T]))
    total = 0.0
    for factor in (1, 2, 4, 8, 16):
        gamma = 1 / (2 * (factor * width) ** 2)
        own = [rbf_kernel(one, gamma=gamma)[np.triu_indices(len(one), 1)].mean() for one in (x, y)]
        total += (sum(own) - 2 * rbf_kernel(x, y, gamma=gamma).mean()) / 5
    return float(total)


@pytest.mark.parametrize("metric", METRICS)
def test_distances_are_those_of_references(metric):
    x, y = pair()
    found = distance_of(metric, x.codes)(x, y)
    expected = reference(metric, x.codes, y.codes, np.sort(pdist(x.codes))[389])  # of 780, the lower median
    assert found.shape == (1,)
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


def test_samples_are_the_cells_drawn():
    x, y = pair(bootstraps=5)
    drawn = [[np.repeat(p.codes, times, axis=0) for times in p.times] for p in (x, y)]
    (n, _), (m, _) = x.codes.shape, y.codes.shape
    energy = distance_of("energy", x.codes)(x, y)[1:]
    sliced = distance_of("sliced", x.codes)(x, y)
    raw = []
    for a, b, found in zip(*drawn, energy, strict=True):
        own = cdist(a, a).mean() * (n / (n - 1)) ** 2 + cdist(b, b).mean() * (m / (m - 1)) ** 2
        np.testing.assert_allclose(found, 2 * cdist(a, b).mean() - own)
        raw.append(reference("sliced", a, b, 1.0))
    whole = reference("sliced", x.codes, y.codes, 1.0)
    excess = np.mean(raw) - whole
    np.testing.assert_allclose(sliced, [whole - excess, *(np.array(raw) - 2 * excess)])


@pytest.mark.parametrize("metric", ["energy", "mmd", "centroid"])
def test_few_cells_seem_no_farther(metric):
    """Of one law, estimates and samples are around 0, which those that count a cell as its own are not."""
    rng = np.random.default_rng(1)
    distance = distance_of(metric, rng.normal(size=(200, 2)))
    found, drawn, biased = [], [], []
    for _ in range(300):
        x, y = (resampled(rng.normal(size=(n, 2)), bootstraps=20, rng=rng) for n in (30, 6))
        whole = distance(x, y)
        found.append(whole[0])
        drawn.append(whole[1:].mean())
        biased.append(energy_distance(x.codes, y.codes))
    error = np.std(found) / np.sqrt(300)
    assert abs(np.mean(found)) < 3.5 * error
    assert abs(np.mean(np.subtract(drawn, found))) < 3.5 * np.std(np.subtract(drawn, found)) / np.sqrt(300)
    assert np.mean(biased) > 0.2


def test_random_halves_of_one_population_are_near():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(200, 3))
    distance = distance_of("energy", codes)
    floor = floor_of(distance, codes, confidence=0.95, rng=rng, repeats=100)
    x, y = (resampled(codes + shift, bootstraps=0, rng=rng) for shift in (0.0, 1.0))
    assert 0 < floor < 0.05 * distance(x, y)[0]
    assert np.isnan(floor_of(distance, codes[:3], confidence=0.95, rng=rng))


def test_medoids_are_the_best_of_all_choices(monkeypatch):
    rng = np.random.default_rng(0)
    for s, k in ((7, 1), (9, 3), (9, 9), (14, 4), (25, 3)):
        points = rng.normal(size=(s, 2))
        d = cdist(points, points)
        best = min(d[list(chosen)].min(0).sum() for chosen in combinations(range(s), k))
        for limit in (10**7, 0):  # all choices, then exchanges
            monkeypatch.setattr(medoids, "_EXACT", limit)
            found = k_medoids(d, k, seed=1)
            np.testing.assert_allclose(found.cost, best)
            assert len(set(found.chosen.tolist())) == k
            np.testing.assert_allclose(d[found.chosen[found.nearest], np.arange(s)].sum(), best)


@pytest.mark.parametrize(
    ("distances", "k", "says"),
    [
        (np.zeros((3, 2)), 1, "square table"),
        (np.full((3, 3), np.nan), 1, "finite"),
        (-np.ones((3, 3)), 1, "at least 0"),
        (np.zeros((3, 3)), 0, "k from 1 to 3"),
        (np.zeros((3, 3)), 4, "found 4"),
    ],
)
def test_bad_tables_of_distances_are_refused(distances, k, says):
    with pytest.raises(InputError, match=says):
        k_medoids(distances, k)


SHIFTS = {"tumour": 0.0, "near": 0.3, "middle": 1.0, "far": 3.0, "tiny": 0.0}
SIZES = {"tumour": 150, "near": 150, "middle": 100, "far": 80, "tiny": 12}


@pytest.fixture(scope="module")
def adata():
    """Cells of five systems; half of them are of the other type, which is elsewhere in every system."""
    rng = np.random.default_rng(4)
    system = np.repeat(list(SIZES), list(SIZES.values()))
    kind = np.resize(["macrophage", "T cell"], len(system))
    codes = rng.normal(size=(len(system), 4))
    codes[:, 0] += np.array([SHIFTS[one] for one in system])
    codes[:, 1] += 10 * (kind == "T cell")
    adata = ad.AnnData(rng.poisson(2.0, (len(system), 12)).astype(np.float32))
    adata.obs_names = [f"cell {i}" for i in range(len(system))]
    adata.obs["system"], adata.obs["cell_type"] = system, kind
    adata.obs["day"] = np.resize([1, 2, 2], len(system))
    adata.obsm["code"] = codes.astype(np.float32)
    return adata


@pytest.fixture(scope="module")
def model(adata):
    cells = ch.read(adata, label="system", covariates=["cell_type"])
    return ch.fit(cells, ch.recipes.pca(dim=4), epochs=1, progress=False)


def with_codes(embedded, codes: np.ndarray):
    return embedded.replace(cells=embedded.cells, codes={"cell": torch.from_numpy(codes)})


@pytest.fixture(scope="module")
def embedded(adata, model):
    return with_codes(model.embedded, adata.obsm["code"])


ASKED = {
    "target": {"system": "tumour", "cell_type": "macrophage"},
    "within": "cell_type=macrophage",
    "systems": "system",
    **QUIET,
}


@pytest.fixture(scope="module")
def found(embedded):
    return ch.match(embedded, **ASKED)


@pytest.mark.parametrize("metric", METRICS)
def test_systems_are_ranked_by_their_distance(embedded, metric):
    table = ch.match(embedded, **ASKED, metric=metric, bootstraps=200).table
    order = [name for name in table.index if name != "tiny"]
    assert order == ["near", "middle", "far"]
    if metric != "sliced":
        # Six cells of the target's own law, in spite of their number.
        assert table.loc["tiny", "lower"] < table.loc["near", "lower"]
        assert table.loc["tiny", "rank"] <= 2
    assert (table["lower"] <= table["distance"]).all()
    assert (table["distance"] <= table["upper"]).all()
    assert table["share_top"].sum() == pytest.approx(1)
    assert table.loc[["middle", "far"], "share_top"].max() < 0.01
    assert table["distance"].is_monotonic_increasing


def test_what_is_told_of_the_systems(found):
    table = found.table
    assert table.columns.tolist() == ["rank", "distance", "lower", "upper", "share_top", "cells"]
    assert table.index.name == "system"
    assert table["cells"].to_dict() == {"near": 75, "middle": 50, "far": 40, "tiny": 6}
    facts = table.attrs
    assert (facts["target"], facts["target_cells"]) == ("system=tumour, cell_type=macrophage", 75)
    assert facts["excluded"] == {"tumour": 75}
    assert facts["left_out"] == {"tumour": 0}
    assert 0 < facts["floor"] < table.loc["middle", "distance"]
    told = repr(found)
    for part in ("4 systems", "energy distance from system=tumour", "1 other left out"):
        assert part in told


def test_systems_that_overlap_the_target_lose_its_cells(embedded):
    found = ch.match(embedded, target={"cell_type": "macrophage"}, systems="system", **QUIET)
    assert found.table.loc["tumour", "cells"] == 75
    assert found.table.attrs["excluded"]["near"] == 75
    assert found.table.attrs["left_out"] == {}


def test_a_target_may_be_given_in_several_ways(embedded, adata, found):
    mask = ((adata.obs["system"] == "tumour") & (adata.obs["cell_type"] == "macrophage")).to_numpy()
    same = ch.match(embedded, **{**ASKED, "target": mask, "within": {"cell_type": ["macrophage"]}})
    pd.testing.assert_frame_equal(same.table, found.table)
    both = ch.match(embedded, target={"system": ["tumour", "near"]}, systems="system", **QUIET)
    assert both.table.attrs["target"] == "system=tumour or near"
    assert sorted(both.table.index) == ["far", "middle", "tiny"]
    days = ch.match(embedded, target={"day": 1}, systems="system", source=adata, **QUIET)
    assert days.table.attrs["target_cells"] == int((adata.obs["day"] == 1).sum())


def test_the_seed_decides_and_other_systems_do_not_matter(embedded, adata, found):
    again, other = (ch.match(embedded, **ASKED, seed=seed) for seed in (0, 1))
    pd.testing.assert_frame_equal(again.table, found.table)
    assert not np.allclose(other.table["lower"], found.table["lower"])
    np.testing.assert_allclose(other.table["distance"], found.table["distance"])
    fewer = (adata.obs["cell_type"] == "macrophage") & (adata.obs["system"] != "far")
    some = ch.match(embedded, **{**ASKED, "within": fewer.to_numpy()})
    columns = ["distance", "lower", "upper"]
    pd.testing.assert_frame_equal(some.table[columns], found.table.loc[some.table.index, columns])


def test_large_populations_are_cut(embedded):
    few, all_ = (ch.match(embedded, **ASKED, cells=cells, bootstraps=50) for cells in (20, 1000))
    assert {len(codes) for codes in few.codes.values()} == {20, 6}
    assert few.table["cells"].sum() == all_.table["cells"].sum()
    wider = (few.table["upper"] - few.table["lower"])["middle"]
    assert wider > 1.3 * (all_.table["upper"] - all_.table["lower"])["middle"]


def test_another_latent_may_be_asked_for(embedded):
    codes = {**embedded.codes, "shared": torch.flip(embedded.codes["cell"], [0])}
    two = embedded.replace(cells=embedded.cells, codes=codes)
    assert ch.match(two, **ASKED, latent="shared").table.attrs["latent"] == "shared"
    assert (
        not ch.match(two, **ASKED, latent="shared")
        .table["distance"]
        .equals(ch.match(two, **ASKED).table["distance"])
    )


def test_intervals_cover_the_true_distance(embedded):
    """Energy distance of normal laws in closed form: 2 E|x - y| - E|x - x'| - E|y - y'|."""
    rng = np.random.default_rng(5)
    rows = embedded.level_names("label")
    goal, other = rows == "tumour", rows == "near"
    shift, width = 1.0, 2.0
    spread = np.sqrt(1 + width**2)
    means = [foldnorm.mean(shift / spread, scale=spread), np.sqrt(4 / np.pi), width * np.sqrt(4 / np.pi)]
    truth = 2 * means[0] - means[1] - means[2]
    inside = []
    for seed in range(80):
        codes = np.zeros((len(rows), 1), dtype=np.float32)
        codes[goal, 0] = rng.normal(size=goal.sum())
        codes[other, 0] = rng.normal(shift, width, size=other.sum())
        held, seen = with_codes(embedded, codes), {"bootstraps": 200, "confidence": 0.9, "seed": seed}
        table = ch.match(held, target=goal, systems="system", within=other, **seen, **QUIET).table
        inside.append(table["lower"].iloc[0] <= truth <= table["upper"].iloc[0])
    assert 0.82 <= np.mean(inside) <= 0.97


def test_a_few_systems_cover_all(embedded):
    """Twelve systems in three clumps: one of each is proposed."""
    rng = np.random.default_rng(2)
    system = np.resize([f"s{i:02d}" for i in range(12)], len(embedded))
    clump = np.array([int(one[1:]) % 3 for one in system])
    codes = rng.normal(size=(len(system), 2)) + 6 * clump[:, None]
    held = with_codes(embedded, codes.astype(np.float32))
    aim = np.arange(len(held)) < 60
    source = ad.AnnData(obs=pd.DataFrame({"culture": system}, index=held.names))
    found = ch.match(held, target=aim, systems="culture", source=source, bootstraps=20, **QUIET)
    chosen = found.recommend(3, progress=False)
    assert sorted(int(name[1:]) % 3 for name in chosen.index) == [0, 1, 2]
    for name, others in chosen["stands_for"].items():
        assert sorted([name, *others]) == [f"s{i:02d}" for i in range(int(name[1:]) % 3, 12, 3)]
    assert chosen["rank"].is_monotonic_increasing
    assert chosen.index.name == "culture"
    between = found.between(progress=False)
    np.testing.assert_array_equal(between, between.T)
    np.testing.assert_allclose(chosen.attrs["cost"], between.loc[chosen.index].min().sum(), rtol=1e-12)
    one = between.loc[["s00", "s01"], ["s01"]].to_numpy()[0, 0]
    pair_ = [resampled(found.codes[name], bootstraps=0, rng=rng) for name in ("s00", "s01")]
    assert one == pytest.approx(distance_of("energy", codes)(*pair_)[0])
    near = found.recommend(2, nearest=4, progress=False)
    assert set(near.index) <= set(found.table.index[:4])
    pd.testing.assert_frame_equal(near, found.recommend(2, nearest=4, progress=False))


def test_a_loaded_model_needs_no_counts(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = ch.load(tmp_path / "model")
    pd.testing.assert_frame_equal(ch.match(loaded, **ASKED).table, ch.match(model, **ASKED).table)


def test_the_figure_shows_intervals_and_the_floor(found):
    figure = match_figure(found, most=3)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == found.table.index[:3].tolist()
    segments = axes.collections[0].get_segments()
    np.testing.assert_allclose([s[:, 0] for s in segments], found.table[["lower", "upper"]].to_numpy()[:3])
    assert axes.lines[0].get_xdata()[0] == found.table.attrs["floor"]
    assert "system=tumour" in axes.get_xlabel()
    with pytest.raises(InputError, match="most=0"):
        match_figure(found.table, most=0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"target": {"system": "tumor"}}, "Did you mean"),
        ({"target": {"tisue": "tumour"}}, "found 'tisue'"),
        ({"target": {}}, "levels by column"),
        ({"target": {"system": "tumour", "cell_type": "B cell"}}, "'B cell'"),
        ({"target": {"system": ["near"], "label": "far"}}, "none that are all of it"),
        ({"target": "tumour"}, "COLUMN=LEVEL"),
        ({"target": np.zeros(487, dtype=bool)}, "somewhere true"),
        ({"target": np.ones(3, dtype=bool)}, "mask of 3"),
        ({"target": np.arange(492) == 1}, "at least 2 cells"),
        ({"systems": "culture"}, "found 'culture'"),
        ({"systems": "cell_type", "within": {"system": "tumour"}}, None),
        (
            {"within": {"system": "tumour", "cell_type": "macrophage"}},
            "at least two cells that are not the target's",
        ),
        ({"latent": "shard"}, "latent of the model"),
        ({"metric": "cosine"}, "energy, mmd, sliced, centroid"),
        ({"cells": 1}, "cells=1"),
        ({"bootstraps": 0}, "bootstraps=0"),
        ({"top": 0}, "top=0"),
        ({"seed": -1}, "seed=-1"),
        ({"confidence": 1.0}, "found 1.0"),
    ],
)
def test_bad_input_is_refused(embedded, change, says):
    if says is None:
        assert ch.match(embedded, **{**ASKED, **change}).table.index.tolist() == ["T cell"]
        return
    with pytest.raises(InputError, match=says):
        ch.match(embedded, **{**ASKED, **change})


def test_cells_without_a_model_are_refused(embedded, found):
    for wrong, says in ((3, "found int"), (embedded.cells, "found Cells")):
        with pytest.raises(InputError, match=says):
            ch.match(wrong, **ASKED)
    for k, nearest in ((0, None), (5, None), (3, 2), (1, 9)):
        with pytest.raises(InputError, match="number of systems"):
            found.recommend(k, nearest=nearest, progress=False)
    with pytest.raises(InputError, match="found 'fur'"):
        found.between(["far", "fur"], progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run that read the types but not the donors."""
    folder = tmp_path_factory.mktemp("finished")
    small().write_h5ad(folder / "cells.h5ad")
    done = chreode(
        "fit", folder / "cells.h5ad", *QUICK, "--label", "type", "--no-report", "--out", folder / "run"
    )
    assert done.code == 0, done.err
    return folder


def test_the_command_writes_draws_and_tells(folder):
    typed = ("match", folder / "run", "--target", "donor=donor 0", "--systems", "type", "--recommend", "2")
    done = chreode(*typed)
    assert (done.code, done.err) == (0, "")
    out = folder / "run" / "matches" / "donor=donor_0_by_type.csv"
    written = pd.read_csv(out, index_col="type")
    loaded = ch.load(folder / "run")
    asked = {"target": {"donor": "donor 0"}, "systems": "type", "source": folder / "cells.h5ad"}
    found = ch.match(loaded, **asked, **QUIET)
    pd.testing.assert_frame_equal(written, found.table)
    assert out.with_suffix(".png").stat().st_size > 5000
    said = " ".join(done.out.split())
    for part in ("3 levels of type", "cells as replicates", "2 systems to cover", found.table.index[0]):
        assert part in said
    again = chreode(*typed)
    assert again.code == 2
    assert "--overwrite" in again.err


def test_the_command_needs_no_file_for_columns_that_were_read(folder, tmp_path):
    model, out = folder / "run" / "model", ("--out", tmp_path / "a.csv")
    types = ("--target", "type=type 0", "--target", "type=type 1", "--systems", "type")
    done = chreode("match", model, *types, *out)
    assert (done.code, done.err) == (0, "")
    assert pd.read_csv(tmp_path / "a.csv")["type"].tolist() == ["type 2"]
    assert "Left out" in done.out
    for wrong, says in (
        (("--target", "donor=donor 0", "--systems", "type"), "--data"),
        (("--target", "type 0", "--systems", "type"), "--target as COLUMN=LEVEL"),
        ((*types, "--nearest", "1"), "--recommend"),
    ):
        done = chreode("match", model, *wrong, "--out", tmp_path / "b.csv")
        assert done.code == 2
        assert says in done.err
    assert not (tmp_path / "b.csv").exists()
