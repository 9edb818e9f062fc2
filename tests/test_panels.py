"""Of features that a panel did not measure, cells that were measured in them tell where a fit begins."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chreode.cells import CSR, Cells
from chreode.decoders.readout import Readout
from chreode.infer import PrincipalStart
from chreode.layout import Layout, Modality
from chreode.likelihoods import heads

N, G, LACKS = 3000, 12, 5  # every other cell lacks the last five features
PROFILE = np.exp(np.random.default_rng(1).normal(size=G))
PROFILE /= PROFILE.sum()


def cells(values: np.ndarray, kind: str = "counts") -> Cells:
    """Two panels, the second without the last features."""
    panels = torch.ones(2, G, dtype=torch.bool)
    panels[1, -LACKS:] = False
    panel = torch.arange(N) % 2
    return Cells(
        Layout(N, {"rna": Modality(tuple(f"g{j}" for j in range(G)), kind=kind)}),
        names=[str(i) for i in range(N)],
        measured={"rna": CSR.of((values * panels[panel].numpy()).astype(np.float32))},
        panels={"rna": panels},
        panel={"rna": panel},
    )


def decoded(head: str, some: Cells) -> torch.Tensor:
    """What a code of zero decodes to, of the first cell, once the decoder is centred."""
    readout = Readout(some.layout, 2, {"rna": heads[head]})
    readout.centre(some)
    with torch.no_grad():
        return readout(torch.zeros(1, 2), some[torch.tensor([0])])["rna"].mean[0]


@pytest.mark.parametrize("depth", [(100, 100), (300, 30), (30, 300)])
@pytest.mark.parametrize("head", ["nb", "poisson", "nb_free"])
def test_a_decoder_of_counts_starts_at_the_profile_of_the_cells_that_measured_each_feature(head, depth):
    depths = np.array(depth)[np.arange(N) % 2, None]
    some = cells(np.random.default_rng(0).poisson(depths * PROFILE))
    mean = decoded(head, some)
    torch.testing.assert_close(mean / mean.sum(), torch.from_numpy(PROFILE).float(), rtol=0.05, atol=0)


def test_the_profile_is_as_likely_as_any():
    """Of counts at a code of zero it is the maximum of the likelihood under all panels."""
    some = cells(np.random.default_rng(0).poisson(np.array([40, 90])[np.arange(N) % 2, None] * PROFILE))
    shares = some.panels["rna"] * some.whole_sums("rna")
    size = torch.zeros(2).index_add_(0, some.panel["rna"], some.size["rna"])
    expected = size @ (shares / shares.sum(1, keepdim=True))  # the gradient is its distance from the sums
    torch.testing.assert_close(expected, some.column_sums("rna"), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("head", "kind"), [("normal", "continuous"), ("bernoulli", "binary")])
def test_a_decoder_of_other_values_starts_at_their_mean_where_they_were_measured(head, kind):
    values = np.random.default_rng(0).random((N, G)) < np.linspace(0.2, 0.8, G)
    mean = decoded(head, cells(values, kind))
    expected = np.where(np.arange(G) < G - LACKS, values.mean(0), values[::2].mean(0))
    np.testing.assert_allclose(mean.numpy(), expected, atol=2e-3)


def test_whole_sums_without_panels_are_the_sums():
    some = cells(np.random.default_rng(0).poisson(20 * PROFILE, (N, G)))
    whole = Cells(some.layout, names=some.names, measured=some.measured)
    assert torch.equal(whole.whole_sums("rna"), whole.column_sums("rna"))


def test_codes_start_where_the_cells_differ_and_not_their_panels():
    """The components are of values about the means, and totals as if of all features."""
    rng = np.random.default_rng(0)
    code = rng.normal(size=(N, 1))
    effect = np.linspace(-1, 1, G)
    some = cells(rng.poisson(2000 * PROFILE * np.exp(0.5 * code * effect)))
    start = PrincipalStart(some.layout, 2)
    found = start.learn(some, seed=0).numpy()
    panel = some.panel["rna"].numpy()
    for one, least in ((0, 0.95), (1, 0.8)):  # most of what varies is masked in the second panel
        assert abs(np.corrcoef(found[panel == one, 0], code[panel == one, 0])[0, 1]) > least
    between = found[panel == 1].mean(0) - found[panel == 0].mean(0)
    assert np.abs(between).max() < 0.25 * found[:, 0].std()
    np.testing.assert_allclose(start(some).numpy(), found, atol=1e-5)


@pytest.mark.parametrize("kind", ["counts", "continuous"])
def test_the_start_is_centred_and_scaled_by_the_cells_that_were_measured(kind):
    values = np.random.default_rng(0).poisson(100 * PROFILE, (N, G)).astype(float)
    some = cells(values, kind)
    start = PrincipalStart(some.layout, 2)
    start.learn(some, seed=0)
    entered = values
    if kind == "counts":
        # A total is what it would be with all features.
        size = some.size["rna"].numpy() / np.where(np.arange(N) % 2, PROFILE[:-LACKS].sum(), 1.0)
        entered = np.log1p(values * np.median(size) / size[:, None])
    entered = np.where(some.mask("rna").numpy(), entered, np.nan)
    scale = np.nanstd(entered, 0) if kind == "counts" else np.ones(G)
    np.testing.assert_allclose(start.scale, scale, rtol=1e-2)
    np.testing.assert_allclose(start.mean, np.nanmean(entered, 0) / scale, rtol=1e-2)


def test_a_feature_is_measured_in_the_cells_whose_panel_has_it_and_nowhere_else():
    some = cells(np.random.default_rng(0).poisson(20 * PROFILE, (N, G)))
    mask = some.mask("rna")
    assert mask is not None
    assert torch.equal(some.times_measured("rna"), mask.sum(0).float())
    few = some[torch.arange(5)]
    assert few.times_measured("rna").tolist() == [5.0] * (G - LACKS) + [3.0] * LACKS
    whole = Cells(some.layout, names=some.names, measured=some.measured)
    assert torch.equal(whole.times_measured("rna"), torch.full((G,), float(N)))
