"""Linkage: what closes when a gene falls silent, against the truth of simulated programmes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy.stats import false_discovery_control, kstest
from sklearn.metrics import roc_auc_score

import chreode as ch
from chreode.errors import InputError
from chreode.io.genes import distance_to_start
from chreode.io.regions import parse_regions
from chreode.io.simulate_multiome import Multiome, simulate_multiome, true_links
from chreode.perturb import linkage, linkage_figure, response
from chreode.perturb.null import judge, matched_genes
from chreode.perturb.response import Push, spread

if TYPE_CHECKING:
    import mudata
    import pandas as pd

# Stronger than the default (1 instead of 0.3) and in more dimensions: the directions of programmes are
# random, so that in few dimensions a peak of another programme moves nearly as much as one of the gene's own.
WORLD = Multiome(
    dim=20,
    programmes=12,
    gene_share=0.06,
    peak_share=0.04,
    strength=1.0,
    separation=3,
    depth=3000,
    atac_depth=150,
)


@pytest.fixture(scope="module", params=[1, 2])
def recovered(request):
    """A fitted world, its true links, and the links found of eight genes that have a programme."""
    paired = simulate_multiome(1500, 400, 500, components=3, world=WORLD, seed=request.param)
    model = ch.fit(
        ch.read(paired), ch.recipes.multidgd(dim=20, components=3), epochs=30, seed=0, progress=False
    )
    truth = true_links(paired, level="programme").toarray()
    expressed = np.asarray((paired["rna"].X > 0).mean(0)).ravel() > 0.1
    genes = np.flatnonzero((truth.sum(1) > 3) & expressed)
    genes = np.random.default_rng(0).permutation(genes)[:8]
    links = {j: linkage(model, f"gene{j}").reindex(paired["atac"].var_names) for j in genes}
    return paired, truth, links


def test_peaks_of_the_genes_programmes_are_found(recovered):
    _, truth, links = recovered
    scores = [roc_auc_score(truth[j], -np.log(found["p_value"])) for j, found in links.items()]
    assert np.mean(scores) > 0.93


def test_false_discoveries_are_about_as_many_as_promised(recovered):
    _, truth, links = recovered
    false, power = [], []
    for j, found in links.items():
        called = (found["q_value"] <= 0.1).to_numpy()
        false.append((called & ~truth[j]).sum() / max(1, called.sum()))
        power.append((called & truth[j]).sum() / truth[j].sum())
    assert np.mean(false) < 0.2
    assert np.mean(power) > 0.1  # 0.17 to 0.8, by the fit


def test_a_silent_gene_closes_peaks_that_open_with_it(recovered):
    paired, truth, links = recovered
    loadings = {m: paired[m].varm["loadings"].toarray() for m in ("rna", "atac")}
    agree = []
    for j, found in links.items():
        assert found.attrs["log_change"] < 0
        sign = np.sign(loadings["atac"] @ loadings["rna"][j])
        agree.append((np.sign(found["effect"]) == -sign)[truth[j]].mean())
    assert np.mean(agree) > 0.95


@pytest.fixture(scope="module")
def paired() -> mudata.MuData:
    world = Multiome(dim=3, depth=300, atac_depth=30, gene_share=0.2, peak_share=0.2)
    return simulate_multiome(300, 80, 150, components=2, batches=2, world=world, seed=3)


@pytest.fixture(scope="module")
def model(paired):
    cells = ch.read(paired, batch="batch")
    return ch.fit(cells, ch.recipes.multidgd(dim=5, components=2), epochs=8, seed=0, progress=False)


@pytest.fixture(scope="module")
def genes(paired) -> pd.DataFrame:
    return paired["rna"].var[["chromosome", "start", "end", "tss", "strand"]].astype({"chromosome": str})


def push(model, *, length: float | None) -> Push:
    return Push(model.embedded, "rna", "atac", length)


ROWS, GENE = torch.arange(300), torch.tensor([7])


def test_what_is_returned(model, paired):
    links = ch.linkage(model, "gene7", null=40)
    assert links.columns.tolist() == [
        "effect",
        "relative",
        "standard_error",
        "p_value",
        "q_value",
        "distance",
    ]
    assert sorted(links.index) == sorted(paired["atac"].var_names)
    assert links["p_value"].is_monotonic_increasing
    assert links["distance"].isna().all()
    assert links.drop(columns="distance").notna().all(axis=None)
    np.testing.assert_allclose(links["q_value"], false_discovery_control(links["p_value"]))
    assert links.attrs["cells"] == int((paired["rna"].X[:, 7] > 0).sum())
    assert len(links.attrs["null_genes"]) == 40
    assert "gene7" not in links.attrs["null_genes"]
    again = linkage(model.embedded, "gene7", null=40)
    assert again.equals(links)


def test_the_model_stays_as_it_is(model):
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    learned = [p.requires_grad for p in model.module.parameters()]
    codes = {k: v.clone() for k, v in model.embedded.codes.items()}
    linkage(model, "gene7", null=20)
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    assert [p.requires_grad for p in model.module.parameters()] == learned
    assert all(torch.equal(v, codes[k]) for k, v in model.embedded.codes.items())
    assert all(p.grad is None for p in model.module.parameters())


def test_activating_is_the_mirror_of_silencing(model):
    down = linkage(model, "gene7", null=40, fraction=0.01)
    up = linkage(model, "gene7", null=40, fraction=0.01, direction="activate").loc[down.index]
    np.testing.assert_allclose(up["p_value"], down["p_value"])
    np.testing.assert_allclose(up["effect"], -down["effect"], atol=0.05 * down["effect"].abs().max())
    assert down.attrs["log_change"] < 0 < up.attrs["log_change"]


def test_steps_have_their_length_and_none_is_steeper(model):
    length = 0.01 * spread(model.embedded.codes["basal"])
    steps = push(model, length=length).steps(ROWS, GENE)
    torch.testing.assert_close(steps.norm(dim=1), torch.full((300,), length))
    proportions = model.embedded.expected("rna")[:, 7]

    def risen(moved: torch.Tensor) -> float:
        codes = {**model.embedded.codes, "basal": model.embedded.codes["basal"] + moved}
        there = model.embedded.replace(cells=model.embedded.cells, codes=codes)
        return float(np.log(there.expected("rna")[:, 7] / proportions).mean())

    best = risen(steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        other = torch.randn(steps.shape, generator=generator)
        assert risen(length * other / other.norm(dim=1, keepdim=True)) < best
    assert push(model, length=length).finite(ROWS, GENE, way=1).level == pytest.approx(best, rel=1e-3)


def test_the_sign_step_moves_every_coordinate_by_a_hundredth(model):
    steps = push(model, length=None).steps(ROWS, GENE)
    assert steps.abs().unique().tolist() == pytest.approx([0.01])
    # as published: one step of Adam on the loss of a zero count of this gene alone
    z = model.embedded.codes["basal"].clone().requires_grad_()
    cells = model.embedded.cells
    observed = model.module.decoder({**model.embedded.codes, "basal": z}, cells)["rna"]
    (-observed.zero_probability[:, 7].log()).sum().backward()
    old = z.detach().clone()
    torch.optim.Adam([z], lr=0.01, betas=(0.5, 0.7)).step()
    torch.testing.assert_close(z.detach() - old, -steps, rtol=1e-3, atol=1e-5)
    assert linkage(model, "gene7", null=20, step="sign").attrs["step_length"] == pytest.approx(0.01 * 5**0.5)


def test_the_derivative_is_the_limit_of_whole_steps(model):
    small = push(model, length=1e-3)
    slope = small.linear(ROWS, [GENE, torch.tensor([3, 5])])
    for row, columns in zip(slope, (GENE, torch.tensor([3, 5])), strict=True):
        whole = small.finite(ROWS, columns, way=1)
        torch.testing.assert_close(row, whole.mean, rtol=0.02, atol=3e-7)


def test_blocks_of_cells_do_not_matter(model, monkeypatch):
    one = linkage(model, "gene7", null=20)
    monkeypatch.setattr(response, "_ENTRIES", 16)
    many = linkage(model, "gene7", null=20).loc[one.index]
    np.testing.assert_allclose(many["effect"], one["effect"], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(many["standard_error"], one["standard_error"], rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(many["p_value"], one["p_value"], rtol=1e-2, atol=1e-3)


def test_the_standard_error_is_that_of_the_mean(model):
    length = 0.1 * spread(model.embedded.codes["basal"])
    mask = np.arange(300) < 90
    links = linkage(model, "gene7", null=20, cells=mask)
    steps = torch.zeros(300, 5)
    steps[:90] = -push(model, length=length).steps(torch.arange(90), GENE)
    codes = {**model.embedded.codes, "basal": model.embedded.codes["basal"] + steps}
    there = model.embedded.replace(cells=model.embedded.cells, codes=codes)
    change = (there.expected("atac") - model.embedded.expected("atac"))[mask]
    names = list(model.layout.modalities["atac"].names)
    np.testing.assert_allclose(links.loc[names, "effect"], change.mean(0), rtol=1e-3, atol=1e-6)
    error = change.std(0, ddof=1) / 90**0.5
    np.testing.assert_allclose(links.loc[names, "standard_error"], error, rtol=1e-2, atol=1e-6)
    assert links.attrs["cells"] == 90


def test_genes_answer_too_and_several_act_together(model):
    links = linkage(model, ["gene7", "gene9"], modality="rna", null=20)
    assert len(links) == 78
    assert not {"gene7", "gene9"} & set(links.index)
    assert links.attrs["gene"] == ["gene7", "gene9"]
    assert links.attrs["log_change"] < 0
    assert linkage(model, model.layout.modalities["atac"].names[0], modality="rna", null=20).shape[0] == 80


def test_softmax_keeps_the_total_and_other_likelihoods_answer(paired):
    recipe = ch.recipes.multidgd(dim=3, components=2, likelihood={"rna": "zinb", "atac": "poisson"})
    model = ch.fit(ch.read(paired), recipe, epochs=2, seed=0, progress=False)
    links = linkage(model, "gene7", null=20)
    assert links["effect"].abs().max() > 0
    assert abs(links["effect"].sum()) < 1e-5
    alone = ch.fit(ch.read(paired["rna"]), ch.recipes.scdgd(dim=3, components=2), epochs=2, progress=False)
    assert len(linkage(alone, "gene7", modality="rna", null=20)) == 79
    with pytest.raises(InputError, match=r"modality of the model \(rna\); found 'atac'"):
        linkage(alone, "gene7")


def test_peaks_of_free_totals_need_not_make_up_for_each_other(paired):
    model, sums = None, {}
    for head in ("nb", "nb_free"):
        recipe = ch.recipes.multidgd(dim=3, components=2, likelihood={"atac": head})
        model = ch.fit(ch.read(paired), recipe, epochs=20, seed=0, progress=False)
        links = linkage(model, "gene7", null=20)
        sums[head] = abs(links["effect"].sum()) / links["effect"].abs().sum()
    assert sums["nb"] < 1e-4
    assert sums["nb_free"] > 0.01
    total = model.embedded.expected("atac").sum(1)
    assert total.mean() == pytest.approx(1, abs=0.1)


def test_without_counts_the_upper_half_of_the_cells_moves(model, tmp_path):
    model.save(tmp_path / "m")
    loaded = ch.load(tmp_path / "m")
    links = linkage(loaded, "gene7", null=20)
    assert links.attrs["cells"] == 150
    level = model.embedded.expected("rna", features=["gene7"])[:, 0]
    same = linkage(model, "gene7", null=20, cells=level > np.median(level))
    np.testing.assert_allclose(links["effect"], same.loc[links.index, "effect"], rtol=1e-4)


def test_distances_and_the_window(model, genes, paired):
    whole = linkage(model, "gene7", null=20, genes=genes)
    regions = parse_regions(whole.index)
    np.testing.assert_array_equal(whole["distance"], distance_to_start(regions, genes.loc["gene7"]))
    near = linkage(model, "gene7", null=20, genes=genes, window=400_000)
    inside = whole.index[whole["distance"].abs() <= 400_000]
    assert 0 < len(inside) < 150
    assert set(near.index) == set(inside)
    np.testing.assert_allclose(near["p_value"], whole.loc[near.index, "p_value"])
    np.testing.assert_allclose(near["q_value"], false_discovery_control(near["p_value"]))
    both = linkage(model, ["gene7", "gene8"], null=20, genes=genes)["distance"].abs()
    other = linkage(model, "gene8", null=20, genes=genes)["distance"].abs()
    np.testing.assert_array_equal(both, np.fmin(whole["distance"].abs()[both.index], other[both.index]))


def test_the_figure_shows_every_peak_with_a_distance(model, genes):
    links = linkage(model, "gene7", null=20, genes=genes)
    drawn = linkage_figure(links).axes[0]
    shown = sum(len(points.get_offsets()) for points in drawn.collections)
    assert shown == links["distance"].notna().sum()
    assert "gene7" in drawn.get_xlabel()
    with pytest.raises(InputError, match="Expected links with distances"):
        linkage_figure(linkage(model, "gene7", null=20))


@pytest.mark.parametrize(
    ("gene", "wrong", "message"),
    [
        ("Gene7", {}, r"genes that the model knows; found 'Gene7'\. Did you mean 'gene7'\?"),
        ([], {}, "genes that the model knows; found none"),
        ("gene7", {"modality": "protein"}, r"modality of the model \(rna, atac\); found 'protein'"),
        ("gene7", {"direction": "down"}, "direction to be 'silence' or 'activate'; found 'down'"),
        ("gene7", {"step": "adam"}, "step to be 'gradient' or 'sign'; found 'adam'"),
        ("gene7", {"fraction": 0}, "positive fraction"),
        ("gene7", {"window": 1e5}, "Expected a table of genes.* found no genes="),
        ("gene7", {"cells": np.zeros(300, bool)}, "found a mask that is nowhere true"),
        ("gene7", {"cells": np.arange(3)}, "a mask of 300 cells"),
        ("gene7", {"null": 5}, "at least 20 random genes"),
        ("gene7", {"null": 90}, "found 79 other genes for null=90"),
    ],
)
def test_what_cannot_be_is_refused(model, gene, wrong, message):
    with pytest.raises(InputError, match=message):
        linkage(model, gene, **{"null": 20, **wrong})


def test_a_gene_without_place_or_cells_is_refused(model, genes, paired):
    with pytest.raises(InputError, match=r"Expected a fitted model.*found MuData"):
        linkage(paired, "gene7")
    with pytest.raises(InputError, match="Expected 'gene7' in the table of genes"):
        linkage(model, "gene7", genes=genes.drop("gene7"))
    with pytest.raises(InputError, match="features of 'rna' whose names are no regions"):
        linkage(model, "gene7", modality="rna", genes=genes, window=1e5)
    silent = paired[:20].copy()
    silent["rna"].X = silent["rna"].X.multiply(np.arange(80) != 7).tocsr()
    with pytest.raises(InputError, match="no cell that expresses the gene"):
        linkage(model.project(silent), "gene7")


def test_p_values_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(20):
        scale = np.exp(rng.normal(size=1000))
        verdict = judge(scale * rng.normal(size=1000), scale * rng.normal(size=(100, 1000)), scale)
        assert verdict.inflation < 1.15
        p_values.append(verdict.p_value)
    p_value = np.concatenate(p_values)
    assert kstest(p_value, "uniform").statistic < 0.03
    assert 0.6 < (p_value < 0.01).mean() / 0.01 < 1.4
    assert 0.3 < (p_value < 0.001).mean() / 0.001 < 2


@pytest.mark.parametrize("wide", [1.0, 2.0])
def test_discoveries_are_right_as_often_as_promised(wide):
    """A tenth of the other genes are linked too, and the gene moves all peaks further than they do."""
    false = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        scale = np.exp(rng.normal(size=2000))
        linked = rng.random(2000) < 0.05
        effect = wide * scale * (rng.normal(size=2000) + 7 * linked)
        others = scale * (rng.normal(size=(100, 2000)) + 7 * (rng.random((100, 2000)) < 0.1))
        verdict = judge(effect, others, scale)
        called = false_discovery_control(verdict.p_value) <= 0.1
        assert (called & linked).sum() > 0.7 * linked.sum()
        false.append((called & ~linked).sum() / max(1, called.sum()))
    assert np.mean(false) < 0.15


def test_a_feature_that_no_gene_moves_says_nothing():
    verdict = judge(np.zeros(5), np.zeros((20, 5)), np.ones(5))
    np.testing.assert_array_equal(verdict.p_value, 1)


def test_random_genes_are_as_expressed_as_the_gene():
    level = np.random.default_rng(0).lognormal(size=2000)
    rank = np.argsort(np.argsort(level))
    sets = matched_genes(level, np.asarray([3, 70]), null=100, rng=np.random.default_rng(1))
    assert sets.shape == (100, 2)
    assert not np.isin(sets, [3, 70]).any()
    for column, gene in zip(sets.T, (3, 70), strict=True):
        assert len(set(column)) == 100
        assert np.abs(rank[column] - rank[gene]).max() <= 200
