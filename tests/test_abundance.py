"""Abundance: donors are the replicates; intervals hold, and known changes are found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, false_discovery_control, ttest_ind, ttest_rel

import chreode as ch
from chreode.errors import InputError
from chreode.interpret import abundance_figure
from chreode.interpret.abundance import _false_discovery_rate
from chreode.interpret.replicates import effects

TWO = np.repeat([0.0, 1.0], 5)
DESIGN = np.stack([np.ones(10), TWO], 1)


def test_many_cells_of_two_groups_are_students_test():
    rng = np.random.default_rng(0)
    share = np.exp(rng.normal(0, 0.4, (2, 10)))
    counts, exposure = np.round(1e7 * share), np.full(10, 1e8)
    found = effects(counts, exposure, DESIGN, coefficient=1)
    log = np.log(share)
    assert np.allclose(found.p_value, ttest_ind(log[:, 5:], log[:, :5], axis=1).pvalue, rtol=1e-3)
    pairs = np.concatenate([DESIGN, np.tile(np.eye(5)[:, 1:], (2, 1))], 1)
    found = effects(counts, exposure, pairs, coefficient=1)
    assert np.allclose(found.p_value, ttest_rel(log[:, 5:], log[:, :5], axis=1).pvalue, rtol=1e-3)


@pytest.mark.parametrize(("per", "varies"), [(2, 0.3), (4, 0.8)])
def test_intervals_of_donors_hold(per, varies):
    rng = np.random.default_rng(1)
    side = np.repeat([0.0, 1.0], per)
    design = np.stack([np.ones(2 * per), side], 1)
    inside = []
    for _ in range(150):
        change = np.zeros(6)
        change[0] = 1.0  # of six groups; relative to the last, which stays
        share = np.exp(rng.normal(0, 0.5, (6, 1)) + varies * rng.normal(size=(6, 2 * per)))
        share = share * np.exp(change[:, None] * side)
        counts = rng.poisson(800 * share / share.sum(0) * np.exp(rng.normal(0, 0.4, 2 * per)))
        found = effects(counts[:-1], np.maximum(counts[-1], 1), design, coefficient=1)
        lower, upper = found.interval(0.95)
        inside.append((lower <= change[:-1]) & (change[:-1] <= upper))
    # The groups of one world share a reference: they count as one and a half.
    assert np.mean(inside) == pytest.approx(0.95, abs=0.035)


def test_cells_are_not_replicates():
    """Three donors a side of ten thousand cells, without an effect: called no oftener than by chance."""
    rng = np.random.default_rng(2)
    design = np.stack([np.ones(6), np.repeat([0.0, 1.0], 3)], 1)
    called = 0
    for _ in range(200):
        counts = rng.multinomial(10_000, rng.dirichlet(np.full(8, 20.0), 6)).T[:1]
        called += int(effects(counts, np.full(6, 10_000), design, coefficient=1).p_value[0] < 0.05)
    assert binomtest(called, 200, 0.05).pvalue > 0.01


@pytest.fixture(scope="module")
def adata():
    """Six donors a condition; the first component is three times as frequent under treatment."""
    adata = ch.simulate(3000, 40, components=4, seed=3)
    rng = np.random.default_rng(3)
    donor, component = rng.integers(12, size=3000), adata.obs["component"].cat.codes.to_numpy()
    keep = (component == 0) & (donor >= 6) | (component != 0) | (rng.random(3000) < 0.3)
    adata.obs["donor"], adata.obs["dish"] = [f"d{i}" for i in donor], [f"p{i % 6}" for i in donor]
    adata.obs["treated"] = np.where(donor >= 6, "yes", "no")
    return adata[keep].copy()


@pytest.fixture(scope="module")
def embedded(adata):
    cells = ch.read(adata, label="component")
    model = ch.fit(cells, ch.recipes.scdgd(dim=10, components=4), epochs=2, progress=False)
    code = torch.from_numpy(adata.obsm["code"].astype(np.float32))
    return model.embedded.replace(cells=cells, codes={"cell": code})


ASKED = {"condition": "treated", "sample": "donor"}


def test_a_group_that_grows_is_found(embedded, adata):
    table = ch.abundance(embedded, **ASKED, groups="component", source=adata)
    assert table["q_value"].idxmin() == "0"
    assert table.attrs["replicates"] == "donor (6 against 6)"
    direct = table.loc["0"]
    assert direct["proportion"] > direct["proportion_against"]
    assert table["cells"].sum() == len(adata)
    for other in ("1", "2", "3"):
        relative = ch.abundance(embedded, **ASKED, groups="component", reference=other, source=adata)
        assert other not in relative.index
        assert relative.loc["0", "lower"] < np.log2(1 / 0.3) < relative.loc["0", "upper"]
        assert (relative.drop("0")["q_value"] > 0.05).all()


def test_sides_turn_the_sign(embedded, adata):
    one = ch.abundance(embedded, condition="treated=yes", sample="donor", groups="label", source=adata)
    other = ch.abundance(embedded, condition="treated=no", sample="donor", groups="label", source=adata)
    assert np.allclose(one["log2_fold_change"], -other["log2_fold_change"])
    assert np.allclose(one["p_value"], other["p_value"])
    assert (one.attrs["against"], other.attrs["against"]) == ("no", "yes")


def test_donors_under_both_conditions_are_paired(embedded, adata):
    table = ch.abundance(embedded, condition="treated", sample="dish", groups="component", source=adata)
    assert table.attrs["paired"]
    assert table.attrs["replicates"] == "dish (6 pairs)"
    assert table["q_value"].idxmin() == "0"


def test_neighbourhoods_lie_where_cells_are_more(embedded, adata):
    table = ch.abundance(embedded, **ASKED, groups="neighbourhoods", source=adata)
    assert set(table.index) <= set(adata.obs_names)
    called = table[table["q_value"] < 0.1]
    grown = called[called["log2_fold_change"] > 0]
    assert len(grown) > 10
    assert (grown["group"] == "0").mean() > 0.95
    assert (table["share"] <= 1).all()
    assert table["p_value"].is_monotonic_increasing
    assert abundance_figure(table).axes


def test_a_loaded_model_needs_no_counts(embedded, adata):
    cells = embedded.cells.replace(measured={})
    again = embedded.replace(cells=cells)
    one, other = (ch.abundance(each, **ASKED, groups="component", source=adata) for each in (embedded, again))
    assert one.equals(other)


def test_equal_weights_are_benjamini_and_hochbergs():
    p = np.random.default_rng(0).random(50) ** 2
    assert np.allclose(_false_discovery_rate(p, np.full(50, 3.0)), false_discovery_control(p))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"condition": "treatd"}, "treatd"),
        ({"condition": "donor"}, "two levels"),
        ({"condition": "treated=maybe"}, "maybe"),
        ({"condition": "treated=yes", "against": "yes"}, "other levels"),
        ({"sample": "treated"}, "at least two levels of 'treated'"),
        ({"groups": "nothing"}, "nothing"),
        ({"reference": "9"}, "a group"),
        ({"groups": "neighbourhoods", "reference": "0"}, "no reference"),
        ({"neighbours": 5}, "no neighbours"),
        ({"groups": "neighbourhoods", "neighbours": 0}, "one neighbour"),
        ({"confidence": 1.0}, "confidence"),
        ({"source": None}, "source="),
    ],
)
def test_what_cannot_be_asked(embedded, adata, changed, said):
    asked = {**ASKED, "groups": "component", "source": adata} | changed
    with pytest.raises(InputError, match=said):
        ch.abundance(embedded, **asked)


def test_one_model_is_expected():
    with pytest.raises(InputError, match="fitted model"):
        ch.abundance(3, **ASKED)
