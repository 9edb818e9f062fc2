"""Correlations of windows against NumPy's, and what they say of simulated subpopulations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import chreode as ch
from chreode.errors import InputError
from chreode.interpret.resolution import correlation_figure


def independent(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)), rng.random(n)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("windows", [1_000_000, 60])
def test_windows_equal_numpy(method, windows):
    values, order = independent(70)
    values = values * [1e-3, 1e3] + [1e3, -1e5]
    found = ch.multiresolution(values, order=order, narrowest=5, method=method, windows=windows)
    ranked = stats.rankdata(values, axis=0) if method == "spearman" else values
    ranked = ranked[np.argsort(order)]
    seen = 0
    for i, width in enumerate(found.widths):
        for j, start in enumerate(found.starts):
            if start + width > 70:
                assert np.isnan(found.correlation[i, j])
                continue
            expected = np.corrcoef(ranked[start : start + width].T)[0, 1]
            np.testing.assert_allclose(found.correlation[i, j], expected, atol=1e-8)
            seen += 1
    assert seen == len(found.table()) <= windows
    assert seen == 66 * 67 // 2 if windows > 60 else seen > 40


def test_p_values_are_those_of_fisher():
    values, order = independent(40)
    found = ch.multiresolution(values, order=order, narrowest=39)
    whole = stats.pearsonr(*values.T).confidence_interval  # the same transformation
    level = 1 - found.p_value[-1, 0]
    ends = whole(level)
    np.testing.assert_allclose(min(abs(ends.low), abs(ends.high)), 0, atol=1e-9)


def test_opposite_subpopulations_show_both_signs():
    rng = np.random.default_rng(1)
    x = rng.normal(size=400)
    y = np.repeat([1, -1], 200) * x + 0.7 * rng.normal(size=400)
    found = ch.multiresolution(np.column_stack([x, y]), order=np.arange(400), narrowest=40)
    table = found.table()
    told = table["q_value"] <= 0.05
    first, second = table["centre"] + table["width"] / 2 <= 200, table["centre"] - table["width"] / 2 >= 200
    assert told[first | second].mean() > 0.95
    assert (table["correlation"][first] > 0.4).all()
    assert (table["correlation"][second] < -0.4).all()
    assert not told.iloc[-1]  # all cells together


@pytest.mark.parametrize("permutations", [0, 19])
def test_independent_features_are_masked(permutations):
    told = []
    for seed in range(40):
        values, order = independent(80, 1000 + seed)
        found = ch.multiresolution(values, order=order, permutations=permutations, seed=seed, progress=False)
        told.append(np.isfinite(found.significant()).any())
    # Both keep the chance of a single false window at 5 % or less when nothing is true.
    assert sum(told) <= 5


def test_permutations_find_what_is_there_and_depend_on_the_seed_alone():
    rng = np.random.default_rng(0)
    x = rng.poisson(1.0, 200).astype(float)
    values = np.column_stack([x, x + rng.poisson(1.0, 200)])
    found, same, other = (
        ch.multiresolution(values, order=np.arange(200), permutations=19, seed=seed, progress=False)
        for seed in (3, 3, 4)
    )
    assert np.nanmin(found.q_value) == 1 / 20
    np.testing.assert_array_equal(found.q_value, same.q_value)
    assert not np.array_equal(found.q_value, other.q_value, equal_nan=True)


def test_windows_without_variation_have_no_correlation():
    values, order = independent(100)
    values[20:60, 0] = 0.1  # does not cancel exactly in running sums
    found = ch.multiresolution(values, order=np.arange(100), narrowest=10)
    start, width = found.starts[None], found.widths[:, None]
    constant = (start >= 20) & (start + width <= 60)
    inside = start + width <= 100
    np.testing.assert_array_equal(np.isnan(found.correlation) & inside, constant)
    np.testing.assert_array_equal(np.isnan(found.q_value) & inside, constant)
    still = ch.multiresolution(
        np.column_stack([np.ones(100), order]), order=order, permutations=3, progress=False
    )
    assert np.isnan(still.correlation).all()
    assert len(correlation_figure(still).axes) == 2


def test_windows_are_bounded():
    values, order = independent(5000)
    found = ch.multiresolution(values, order=order, windows=20_000)
    assert 10_000 < np.isfinite(found.correlation).sum() <= 20_000
    assert found.correlation.size <= 2 * 20_000 + 400


def test_the_figure_is_a_triangle():
    values, order = independent(200)
    table = pd.DataFrame(values, columns=["NANOG", "REX1"])
    found = ch.multiresolution(table, order=order)
    figure = correlation_figure(found, fdr=None, pixels=101)
    axes = figure.axes[0]
    assert axes.get_title() == "NANOG and REX1"
    picture = axes.images[1].get_array().filled(np.nan)
    assert np.isfinite(picture[0]).mean() > 0.85
    assert np.isfinite(picture[-1]).mean() < 0.05
    assert np.isfinite(picture).mean() == pytest.approx(0.47, abs=0.05)
    # The middle column, from the whole sample down.
    assert picture[-1, 50] == pytest.approx(found.correlation[-1, 0], abs=0.02)
    masked = correlation_figure(found, fdr=1e-9, pixels=101).axes[0].images[1].get_array()
    assert not np.isfinite(masked.filled(np.nan)).any()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"values": np.zeros((50, 3))}, "2 features"),
        ({"values": np.zeros(50)}, "2 features"),
        ({"values": [["a", "b"]] * 50}, "numbers"),
        ({"values": np.full((50, 2), np.nan)}, "'x', 'y'"),
        ({"order": np.arange(49)}, "order of n numbers"),
        ({"order": np.full(50, np.nan)}, "'order'"),
        ({"narrowest": 3}, "narrowest=3"),
        ({"narrowest": 51}, "narrowest=51"),
        ({"method": "kendall"}, "'kendall'"),
        ({"windows": 0}, "windows=0"),
        ({"permutations": -1}, "permutations=-1"),
    ],
)
def test_bad_input_is_refused(change, says):
    values, order = independent(50)
    given = {"values": values, "order": order, **change}
    with pytest.raises(InputError, match=says):
        ch.multiresolution(given.pop("values"), **given)


def test_bad_settings_of_the_figure_are_refused():
    values, order = independent(50)
    found = ch.multiresolution(values, order=order)
    for wrong in ({"fdr": 0.0}, {"fdr": 1.5}, {"pixels": 0}):
        with pytest.raises(InputError, match="fdr"):
            correlation_figure(found, **wrong)
