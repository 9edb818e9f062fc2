"""Simulated multiome cells obey the model written above `simulate_multiome`, and their truth is the truth."""

from __future__ import annotations

from functools import cache

import mudata
import numpy as np
import pytest
import scipy.sparse as sp

from chreode.errors import InputError
from chreode.io.simulate import softmax
from chreode.io.simulate_multiome import Multiome, simulate_multiome, true_links


@cache
def pooled():
    """Cells enough for the truth to be seen; no test may change them."""
    return simulate_multiome(1500, 400, 1500, world=Multiome(depth=1500, atac_depth=300), seed=3)


def small(n_cells=60, n_genes=40, n_peaks=150, **arguments):
    return simulate_multiome(
        n_cells, n_genes, n_peaks, **{"components": 3, "world": Multiome(atac_depth=30), **arguments}
    )


def activity(mdata):
    return mdata.obsm["code"] @ mdata.uns["simulation"]["programmes"]


def beyond(values, known):
    """Standardised residuals of every column's regression on what is known."""
    known = np.column_stack([known, np.ones(len(known))])
    left = values - known @ np.linalg.lstsq(known, values, rcond=None)[0]
    return (left - left.mean(0)) / np.maximum(left.std(0), 1e-12)


def residuals(mdata):
    """Expression and accessibility that neither the codes nor the cells' depths explain."""
    found = []
    for part in (mdata["rna"], mdata["atac"]):
        size = part.obs["size"].to_numpy()[:, None]
        values = np.log1p(part.X.toarray() * (np.median(size) / size))
        found.append(beyond(values, np.hstack([mdata.obsm["code"], np.log(size)])))
    return found


def same(one, other):
    return all((one[name].X != other[name].X).nnz == 0 for name in ("rna", "atac"))


def test_two_modalities_of_the_same_cells():
    mdata = small(batches=2)
    assert list(mdata.mod) == ["rna", "atac"]
    assert mdata["rna"].shape == (60, 40)
    assert mdata["atac"].shape == (60, 150)
    assert list(mdata.obs.columns) == ["component", "batch"]
    for part in mdata.mod.values():
        assert part.obs_names.equals(mdata.obs_names)
        assert part.obs[["component", "batch"]].equals(mdata.obs)


def test_counts_are_sparse_integers_and_peaks_zero_or_one():
    mdata = simulate_multiome(64)
    for part in mdata.mod.values():
        assert sp.issparse(part.X)
        assert part.X.dtype == np.int32
        assert part.X.data.min() > 0
    assert set(mdata["atac"].X.data) == {1}
    assert 0.04 < mdata["atac"].X.nnz / (64 * 5000) < 0.15


def test_without_binary_fragments_are_counted_and_open_is_at_least_one():
    counted = small(world=Multiome(atac_depth=60, binary=False))
    opened = small(world=Multiome(atac_depth=60))
    assert counted["atac"].X.max() > 1
    assert ((counted["atac"].X > 0) != (opened["atac"].X > 0)).nnz == 0
    assert (counted["rna"].X != opened["rna"].X).nnz == 0


def test_same_seed_same_cells_and_another_seed_others():
    one, again, other = small(), small(), small(seed=1)
    assert same(one, again)
    assert one["atac"].var.equals(again["atac"].var)
    assert np.array_equal(one.obsm["code"], again.obsm["code"])
    assert not same(one, other)
    assert not one["atac"].var_names.equals(other["atac"].var_names)


def test_more_cells_leave_the_first_ones_as_they_were(monkeypatch):
    monkeypatch.setattr("chreode.io.simulate._BLOCK", 190 * 16)
    few, many = small(50, batches=2), small(90, batches=2)
    assert same(few, many[:50])
    assert few.obs["component"].tolist() == many.obs["component"].tolist()[:50]
    assert np.array_equal(few.obsm["code"], many.obsm["code"][:50])
    assert (true_links(few) != true_links(many)).nnz == 0


def test_no_dense_matrix_is_ever_built(monkeypatch):
    rows = []
    monkeypatch.setattr("chreode.io.simulate._BLOCK", 190 * 10)
    monkeypatch.setattr(
        "chreode.io.simulate_multiome.softmax", lambda logits: rows.append(len(logits)) or softmax(logits)
    )
    small(101)
    assert rows == [10] * 20 + [1] * 2


def test_library_sizes_are_log_normal_around_their_medians():
    world = Multiome(depth=800, atac_depth=300, depth_spread=0.5, atac_spread=0.2, binary=False)
    mdata = simulate_multiome(3000, 30, 40, world=world)
    for name, median, spread in (("rna", 800, 0.5), ("atac", 300, 0.2)):
        size = mdata[name].obs["size"]
        assert np.log(size).mean() == pytest.approx(np.log(median), abs=0.04)
        assert np.log(size).std() == pytest.approx(spread, rel=0.05)
        assert np.median(mdata[name].X.sum(1).A1) == pytest.approx(median, rel=0.05)
    assert abs(np.corrcoef(mdata["rna"].obs["size"], mdata["atac"].obs["size"])[0, 1]) < 0.1


def test_open_peaks_are_somewhat_fewer_than_fragments():
    opened = np.median(simulate_multiome(200)["atac"].X.sum(1).A1)
    assert 350 < opened < 500


def test_codes_follow_the_mixture():
    mdata = simulate_multiome(10_000, 2, 4, components=3, world=Multiome(dim=4, separation=6.0))
    known, component = mdata.uns["simulation"], mdata.obs["component"].cat.codes.to_numpy()
    assert np.bincount(component) / 10_000 == pytest.approx(known["weights"], abs=0.02)
    assert np.cov((mdata.obsm["code"] - known["means"][component]).T) == pytest.approx(np.eye(4), abs=0.06)
    apart = np.linalg.norm(known["means"][:, None] - known["means"], axis=-1)[np.triu_indices(3, 1)]
    assert apart.min() == pytest.approx(6.0)


def test_counts_have_the_mean_and_variance_of_a_negative_binomial():
    world = Multiome(strength=0, direct=0, depth_spread=0, theta=2.0, theta_spread=0)
    counts = simulate_multiome(8000, 20, 10, world=world)["rna"]
    mean = 2000 * softmax(counts.var["base"].to_numpy()[None])[0]
    variance = mean + mean**2 / 2.0
    found = counts.X.toarray()
    assert np.abs((found.mean(0) - mean) / np.sqrt(variance / len(found))).max() < 4
    assert found.var(0) == pytest.approx(variance, rel=0.2)


def test_a_peak_is_open_as_often_as_a_poisson_is_not_zero():
    world = Multiome(strength=0, direct=0, atac_depth=20, atac_spread=0)
    peaks = simulate_multiome(8000, 5, 60, world=world)["atac"]
    chance = -np.expm1(-20 * softmax(peaks.var["base"].to_numpy()[None])[0])
    error = (peaks.X.mean(0).A1 - chance) / np.sqrt(chance * (1 - chance) / 8000)
    assert np.abs(error).max() < 4


def test_batches_shift_features_around_zero():
    mdata = small(400, batches=3, world=Multiome(batch_effect=1.0, strength=0, direct=0, atac_depth=30))
    for part in mdata.mod.values():
        assert np.abs(part.varm["batch_effect"].mean(1)).max() < 1e-12
        first = (part.obs["batch"] == "batch0").to_numpy()
        change = np.log((part.X[first].mean(0).A1 + 0.01) / (part.X.mean(0).A1 + 0.01))
        assert np.corrcoef(change, part.varm["batch_effect"][:, 0])[0, 1] > 0.8
    assert not small()["atac"].varm["batch_effect"].any()


def test_programmes_are_sparse_and_signed_and_most_features_are_in_none():
    for part in simulate_multiome(2).mod.values():
        member, loadings = part.varm["member"], part.varm["loadings"]
        assert sp.issparse(member)
        assert member.dtype == bool
        assert (member != (loadings != 0)).nnz == 0
        assert member.nnz / np.prod(member.shape) == pytest.approx(0.02, abs=0.003)
        assert (member.sum(1).A1 == 0).mean() == pytest.approx(0.98**20, abs=0.05)
        assert (loadings.data > 0).mean() == pytest.approx(0.5, abs=0.1)
        assert np.abs(loadings.data).mean() == pytest.approx(0.3, rel=0.05)
        assert np.abs(loadings.data).min() >= 0.15


@pytest.mark.parametrize("name", ["rna", "atac"])
def test_features_follow_their_programmes_and_others_do_not(name):
    part = pooled()[name]
    alone = part.varm["member"].sum(1).A1 == 1
    feature, programme = part.varm["member"][alone].nonzero()
    size = part.obs["size"].to_numpy()[:, None]
    values = part.X.toarray() / size
    driven, null = values[:, alone][:, feature], values[:, part.varm["member"].sum(1).A1 == 0]
    sign = np.sign(np.asarray(part.varm["loadings"][alone][feature, programme]).ravel())
    activities = beyond(activity(pooled()), np.zeros((1500, 0)))
    with_own = sign * (beyond(driven, np.zeros((1500, 0))) * activities[:, programme]).mean(0)
    assert with_own.mean() > 0.15
    assert (with_own > 0).mean() > 0.95
    # The proportions sum to one, so that a null feature moves a little where many programmes do.
    with_any = (beyond(null, np.zeros((1500, 0))) * activities[:, [0]]).mean(0)
    assert abs(with_any.mean()) < 0.05


def test_direct_pairs_vary_together_beyond_programmes_and_other_pairs_do_not():
    mdata = pooled()
    genes, peaks = residuals(mdata)
    linked = true_links(mdata, level="direct")
    gene, peak = linked.nonzero()
    together = (genes.T @ peaks) / mdata.n_obs
    assert len(gene) > 200
    assert together[gene, peak].mean() > 0.05
    others = together[~linked.toarray()]
    assert abs(others.mean()) < 0.002
    by_programme = true_links(mdata).toarray() & ~linked.toarray()
    assert abs(together[by_programme].mean()) < 0.005


def test_without_strength_direct_pairs_are_like_all_others():
    mdata = simulate_multiome(800, 400, 1500, world=Multiome(direct=0.0, atac_depth=300), seed=3)
    genes, peaks = residuals(mdata)
    gene, peak = true_links(mdata, level="direct").nonzero()
    assert (genes[:, gene] * peaks[:, peak]).mean(0).mean() == pytest.approx(0, abs=0.01)


def test_programme_links_are_shared_programmes():
    mdata = pooled()
    links = true_links(mdata)
    shared = mdata["rna"].varm["member"].astype(int) @ mdata["atac"].varm["member"].astype(int).T
    assert links.dtype == bool
    assert links.shape == (400, 1500)
    assert np.array_equal(links.toarray(), shared.toarray() > 0)
    assert 0 < links.nnz < 0.02 * 400 * 1500


def test_direct_links_are_few_and_near_the_start_of_transcription():
    mdata = simulate_multiome(2)
    links = true_links(mdata, level="direct")
    number = links.sum(1).A1
    assert links.dtype == bool
    assert set(number) == set(range(6))
    assert (number > 0).mean() == pytest.approx(0.3, abs=0.05)
    assert links.sum(0).max() == 1
    gene, peak = links.nonzero()
    genes, peaks = mdata["rna"].var.iloc[gene], mdata["atac"].var.iloc[peak]
    assert genes["chromosome"].tolist() == peaks["chromosome"].tolist()
    tss = genes["tss"].to_numpy()
    assert (peaks["start"].to_numpy() >= tss - 250_000).all()
    assert (peaks["end"].to_numpy() <= tss + 250_000).all()


def test_genome_is_consistent():
    mdata = simulate_multiome(2)
    genes, peaks = mdata["rna"].var, mdata["atac"].var
    assert genes["chromosome"].nunique() == peaks["chromosome"].nunique() == 5
    places = zip(peaks["chromosome"], peaks["start"], peaks["end"], strict=True)
    assert peaks.index.tolist() == [f"{c}:{s}-{e}" for c, s, e in places]
    assert peaks.index.is_unique
    assert (peaks["end"] - peaks["start"] == 500).all()
    assert (genes["start"] >= 0).all()
    assert (peaks["start"] >= 0).all()
    forward = (genes["strand"] == "+").to_numpy()
    assert 0.4 < forward.mean() < 0.6
    assert (genes["tss"] == np.where(forward, genes["start"], genes["end"] - 1)).all()
    pairs = genes[["chromosome", "tss"]].merge(peaks[["chromosome", "start"]], on="chromosome")
    near = (pairs["tss"] - pairs["start"]).abs() < 250_000
    assert near.sum() > 10 * true_links(mdata, level="direct").nnz


def test_few_peaks_leave_half_of_them_without_a_gene():
    mdata = simulate_multiome(2, 100, 20)
    assert true_links(mdata, level="direct").nnz == 10


def test_links_follow_features_that_are_left_out():
    mdata = pooled()
    genes, peaks = np.arange(0, 400, 3), np.arange(1, 1500, 2)
    parts = {"rna": mdata["rna"][:, genes].copy(), "atac": mdata["atac"][:, peaks].copy()}
    with mudata.set_options(pull_on_update=False):
        fewer = mudata.MuData(parts)
    for level in ("programme", "direct"):
        whole = true_links(mdata, level=level)
        assert (true_links(fewer, level=level) != whole[genes][:, peaks]).nnz == 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: simulate_multiome(0), "n_cells of at least 1; found 0"),
        (lambda: simulate_multiome(5, 0), "n_genes of at least 1; found 0"),
        (lambda: simulate_multiome(5, 5, 0), "n_peaks of at least 1; found 0"),
        (lambda: simulate_multiome(5, components=0), "components of at least 1; found 0"),
        (lambda: simulate_multiome(5, batches=0), "batches of at least 1"),
        (lambda: Multiome(atac_depth=0), "atac_depth above 0; found 0"),
        (lambda: Multiome(peak_share=1.5), "peak_share of at most 1; found 1.5"),
        (lambda: Multiome(gene_share=0), "gene_share above 0"),
        (lambda: Multiome(direct_share=-0.1), "direct_share of at least 0"),
        (lambda: Multiome(direct=-1), "direct of at least 0; found -1"),
        (lambda: Multiome(chromosomes=0), "chromosomes of at least 1"),
        (lambda: true_links(small(), level="gene"), 'level "programme" or "direct"; found \'gene\''),
        (
            lambda: true_links(foreign()),
            "rna and atac of simulate_multiome; found rna, atac without its truth",
        ),
    ],
)
def test_bad_arguments_are_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()


def foreign():
    """Cells that were not simulated."""
    from anndata import AnnData

    with mudata.set_options(pull_on_update=False):
        parts = {name: AnnData(np.ones((3, 2))) for name in ("rna", "atac")}
        for name, part in parts.items():
            part.var_names = [f"{name}{j}" for j in range(2)]
        return mudata.MuData(parts)
