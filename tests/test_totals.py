"""What totals go with codes, and with the totals of other modalities."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch

import chreode as ch
from chreode.decoders.totals import Totals, log_totals
from chreode.errors import InputError
from chreode.io.mosaic import mudata_of
from chreode.io.simulate_multiome import Multiome, simulate_multiome

WORLD = Multiome(dim=4, depth=800, atac_depth=80, gene_share=0.3, peak_share=0.3)


def large_and_small(n_cells: int, *, seed: int):
    """Paired cells some of which are larger, in both modalities: all their counts are thinned alike."""
    whole = simulate_multiome(n_cells, 60, 80, components=3, world=WORLD, seed=seed)
    rng = np.random.default_rng(seed)
    kept = rng.uniform(0.2, 1, n_cells)
    parts = {}
    for name in ("rna", "atac"):
        parts[name] = whole[name].copy()
        counts = parts[name].X.tocsr()
        chance = np.repeat(kept, np.diff(counts.indptr))
        counts.data = rng.binomial(counts.data.astype(int), chance).astype(counts.dtype)
        counts.eliminate_zeros()
        parts[name].X = counts
    return mudata_of(parts, whole.obs.copy())


@pytest.fixture(scope="module")
def whole():
    return large_and_small(600, seed=1)


@pytest.fixture(scope="module")
def new(whole):
    return mudata_of({m: whole[m][400:].copy() for m in ("rna", "atac")}, whole.obs[400:].copy())


@pytest.fixture(scope="module")
def model(whole):
    recipe = ch.recipes.multidgd(dim=4, components=3)
    cells = ch.read(mudata_of({m: whole[m][:400].copy() for m in ("rna", "atac")}, whole.obs[:400].copy()))
    return ch.fit(cells, recipe, epochs=60, seed=0, progress=False, device="cpu")


def totals_of(mdata, name: str) -> np.ndarray:
    return np.asarray(mdata[name].X.sum(1)).ravel()


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(np.log1p(x), np.log1p(y))[0, 1])


def test_totals_of_a_modality_that_was_not_measured_follow_those_that_were(model, new):
    alone = model.project(mudata_of({"rna": new["rna"].copy()}, new.obs.copy()))
    truth, told = totals_of(new, "atac"), alone.totals("atac")
    nothing = alone.replace(
        cells=alone.cells.replace(present={m: torch.zeros(200) > 0 for m in ("rna", "atac")})
    )
    assert correlation(told, truth) > correlation(nothing.totals("atac"), truth) + 0.3
    assert abs(np.log1p(told).mean() - np.log1p(truth).mean()) < 0.2


def test_the_own_total_is_not_looked_at(model):
    cells = model.embedded.cells
    more = {**cells.size, "atac": cells.size["atac"] * 3}
    moved = model.embedded.replace(cells=cells.replace(size=more))
    np.testing.assert_array_equal(moved.totals("atac"), model.embedded.totals("atac"))
    counted = cells.size["atac"].numpy() > 0
    assert (moved.totals("rna") > model.embedded.totals("rna"))[counted].all()


def test_expected_counts_add_up_to_the_predicted_total(model):
    expected = model.embedded.expected("rna", size="predicted")
    np.testing.assert_allclose(expected.sum(1), model.embedded.totals("rna"), rtol=1e-4)
    share = expected / expected.sum(1, keepdims=True)
    np.testing.assert_allclose(share, model.embedded.expected("rna"), rtol=1e-3, atol=1e-6)
    per = model.embedded.expected("rna", size=np.int64(10_000))
    np.testing.assert_allclose(per.sum(1), 10_000, rtol=1e-4)
    few = model.embedded.expected("rna", size="predicted", features=["gene3"])
    np.testing.assert_allclose(few[:, 0], expected[:, 3], rtol=1e-5)


def test_saved_models_know_totals_and_panels(model, tmp_path):
    model.save(tmp_path / "m")
    loaded = ch.load(tmp_path / "m")
    np.testing.assert_allclose(loaded.embedded.totals("rna"), model.embedded.totals("rna"), rtol=1e-5)


def test_what_a_panel_leaves_out_is_added_in_its_expected_share(model, new):
    whole = model.project(mudata_of({"rna": new["rna"].copy()}, new.obs.copy()))
    part = model.project(mudata_of({"rna": new["rna"][:, :40].copy()}, new.obs.copy()))
    logs = log_totals(model.module.decoder, whole.codes, part.cells).numpy()
    truth, left = np.log(totals_of(new, "rna")), part.cells.size["rna"].log().numpy()
    np.testing.assert_allclose(logs[:, 0], left - np.log(whole.expected("rna")[:, :40].sum(1)), rtol=1e-4)
    assert np.isnan(logs[:, 1]).all()
    assert np.abs(logs[:, 0] - truth).mean() < 0.5 * np.abs(left - truth).mean()


def test_mosaics_of_panels_keep_their_panels_when_saved(tmp_path):
    both = large_and_small(120, seed=4)
    sets = {
        "a": mudata_of({m: both[m][:60].copy() for m in ("rna", "atac")}, both.obs[:60].copy()),
        "b": mudata_of({"rna": both["rna"][60:, :40].copy()}, both.obs[60:].copy()),
    }
    model = ch.fit(ch.read(sets), ch.recipes.multidgd(dim=3, components=2), epochs=3, progress=False)
    model.save(tmp_path / "m")
    loaded = ch.load(tmp_path / "m").embedded
    assert torch.equal(loaded.cells.mask("rna"), model.embedded.cells.mask("rna"))
    for name in ("rna", "atac"):
        np.testing.assert_allclose(loaded.totals(name), model.embedded.totals(name), rtol=1e-4)


def drawn(n: int, *, seed: int):
    """Hidden units and log totals of three modalities; a third of the cells lacks each."""
    rng = np.random.default_rng(seed)
    units = torch.from_numpy(rng.normal(size=(n, 5))).float()
    weight = rng.normal(size=(5, 3))
    root = rng.normal(size=(3, 3)) / 2
    logs = units.numpy() @ weight + [5, 6, 7] + rng.normal(size=(n, 3)) @ root.T
    seen = logs.copy()
    seen[np.arange(n), rng.integers(0, 3, n)] = np.nan
    return units, weight, root @ root.T, logs, torch.from_numpy(seen).float()


def test_weights_and_covariance_are_recovered_where_every_cell_lacks_something():
    units, weight, covariance, _, seen = drawn(20_000, seed=0)
    totals = Totals(dict.fromkeys("abc", 5))
    parts = list(zip(units.split(777), seen.split(777), strict=True))
    totals.learn(lambda: [(dict.fromkeys("abc", u), s) for u, s in parts])
    found = torch.stack([totals.get_buffer(f"weight_{m}") for m in range(3)], 1)
    np.testing.assert_allclose(found, weight, atol=0.05)
    np.testing.assert_allclose(totals.intercept, [5, 6, 7], atol=0.05)
    np.testing.assert_allclose(totals.covariance, covariance, atol=0.05)


def test_the_conditional_mean_is_that_of_a_joint_normal():
    units, weight, covariance, logs, _ = drawn(50, seed=1)
    totals = Totals(dict.fromkeys("abc", 5))
    for m in range(3):
        totals.get_buffer(f"weight_{m}").copy_(torch.from_numpy(weight[:, m]))
    totals.intercept.copy_(torch.tensor([5.0, 6.0, 7.0]))
    totals.covariance.copy_(torch.from_numpy(covariance))
    usual = units.double().numpy() @ weight + [5, 6, 7]
    rest = logs - usual
    gain = np.linalg.solve(covariance[:2, :2], covariance[:2, 2])
    told = totals(dict.fromkeys("abc", units), torch.from_numpy(logs).float(), "c").log()
    np.testing.assert_allclose(told, usual[:, 2] + rest[:, :2] @ gain, rtol=1e-3)
    only = torch.from_numpy(logs).float()
    only[:, 1:] = torch.nan
    expected = usual[:, 2] + rest[:, 0] * covariance[0, 2] / covariance[0, 0]
    np.testing.assert_allclose(totals(dict.fromkeys("abc", units), only, "c").log(), expected, rtol=1e-3)


def test_two_ranks_learn_what_one_would():
    units, *_, seen = drawn(300, seed=2)
    whole = Totals(dict.fromkeys("abc", 5))
    whole.learn(lambda: [(dict.fromkeys("abc", units), seen)])
    both, barrier, sums = [], Barrier(2), [None, None]

    def rank(number: int) -> None:
        here = slice(0, 200) if number == 0 else slice(200, 300)

        def total(value: torch.Tensor) -> torch.Tensor:
            sums[number] = value.clone()
            barrier.wait()
            found = sums[0] + sums[1]
            barrier.wait()
            return found

        part = Totals(dict.fromkeys("abc", 5))
        part.learn(lambda: [(dict.fromkeys("abc", units[here]), seen[here])], total=total)
        both.append(part)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(rank, range(2)))
    for part in both:
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(part.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cells", [20, 40, 60, 101, 150])
def test_units_as_many_as_cells_do_not_pass_for_knowledge(cells):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        units = torch.from_numpy(rng.normal(size=(cells, 100))).float()
        noise = torch.from_numpy(rng.normal(size=(cells, 1))).float() / 2
        totals = Totals({"rna": 100})
        totals.learn(lambda batch=({"rna": units}, noise): [batch])
        new = torch.from_numpy(rng.normal(size=(500, 100))).float()
        told = totals({"rna": new}, torch.full((500, 1), torch.nan), "rna").log()
        assert float(told.square().mean().sqrt()) < 0.45


def test_a_bridge_of_two_mosaics_is_better_than_no_totals():
    # RNA and peaks in half of the cells, RNA and proteins in the others: peaks never met proteins.
    rng = np.random.default_rng(0)
    covariance = 0.25 * (0.2 * np.eye(3) + 0.8)
    train, new = (rng.multivariate_normal([0, 0, 0], covariance, 4000) for _ in range(2))
    train[:2000, 2] = train[2000:, 1] = np.nan
    units = {"rna": torch.zeros(4000, 2), "atac": torch.zeros(4000, 2), "prot": torch.zeros(4000, 2)}
    totals = Totals(dict.fromkeys(units, 2))
    totals.learn(lambda: [(units, torch.from_numpy(train).float())])
    error = {}
    for name, given in {"nothing": [], "rna": [0], "peaks": [1], "both": [0, 1]}.items():
        logs = np.full_like(new, np.nan)
        logs[:, given] = new[:, given]
        told = totals(units, torch.from_numpy(logs).float(), "prot").log().numpy()
        error[name] = np.sqrt(np.mean((told - new[:, 2]) ** 2))
    assert error["both"] < error["rna"] + 0.03 < error["nothing"] - 0.1
    assert error["peaks"] < error["nothing"] - 0.1


def test_totals_are_refused_where_there_are_none(model):
    adata = large_and_small(60, seed=5)["rna"]
    one = ch.fit(ch.read(adata), ch.recipes.scdgd(dim=2, components=2), epochs=2, progress=False)
    with pytest.raises(InputError, match="learned what totals go with codes"):
        one.embedded.totals()
    with pytest.raises(InputError, match="Expected a modality"):
        model.embedded.totals("prot")
    adata.X = adata.X.toarray() + 0.5
    other = ch.fit(
        ch.read(adata, values="continuous"),
        ch.recipes.multidgd(dim=2, components=2),
        epochs=2,
        progress=False,
    )
    with pytest.raises(InputError, match="which is continuous"):
        other.embedded.expected(size="predicted")
    with pytest.raises(InputError, match="a number or 'predicted'; found 'expected'"):
        model.embedded.expected(size="expected")
