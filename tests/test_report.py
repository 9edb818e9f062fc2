"""The report: what it gathers, that it cannot be broken by names, and that it works in a browser."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from html import unescape
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from chreode.cells import Cells, Reading
from chreode.csr import CSR
from chreode.errors import InputError
from chreode.layout import Covariate, Layout, Modality
from chreode.report import (
    collect,
    component_by_level,
    components_graph,
    figures,
    markers_of,
    project_2d,
    render,
    write_report,
)
from chreode.report.draw import best_epoch, graph, line_charts, number, ticks
from chreode.report.pack import fold, pack, quantise, unpack
from chreode.report.palette import CATEGORICAL

TYPES = ("B cells", "CD4 T cells", "CD8 T cells", "NK cells", "Monocytes")
TAUGHT = (*TYPES[:3], "CD56+/CD16+ Natural Killer Cells Of The Blood", "4")
NASTY = '</script><img src=x onerror="window.pwned=1">'


class FakeEmbedded:
    """Cells in clusters, decoded by what each cluster expects."""

    def __init__(self, cells, codes, components, means):
        self.cells, self.embedding, self.means = cells, codes, means
        self.code, self.embeddings = "code", {"code": codes}
        latent = SimpleNamespace(of_levels=False, only=None, prior=None)
        self.module = SimpleNamespace(dynamics=None, latents={"code": latent})
        self._components, self.names = components, cells.names
        self.component_names = [str(k) for k in range(len(means))]
        self.trained = np.arange(len(cells)) % 10 != 0

    def components(self):
        return self._components

    def probabilities(self):
        p = np.full((len(self.cells), len(self.means)), 0.02)
        p[np.arange(len(p)), self._components] = 1 - 0.02 * (p.shape[1] - 1)
        return p

    def expected(self, modality=None, *, size=1.0, features=None):
        names = list(self.cells.layout.modalities[modality or "rna"].names)
        columns = slice(None) if features is None else [names.index(f) for f in features]
        return size * self.means[self._components][:, columns].astype(np.float32)


class FakeModel:
    """What the report asks of a `FittedModel`."""

    def __init__(self, cells, codes, components, means, supervised=False):
        self.embedded = FakeEmbedded(cells, codes, components, means)
        self.layout, self.reading = cells.layout, cells.reading
        self.recipe = SimpleNamespace(
            name="scdgd", arguments={"dim": codes.shape[1], "supervised": supervised}
        )
        epoch = np.arange(1, 41)
        self.history = pd.DataFrame(
            {
                "epoch": epoch,
                "seconds": 0.3 * epoch,
                "loss": 900 + 400 * np.exp(-epoch / 6),
                "reconstruction": 880 + 390 * np.exp(-epoch / 6),
                "prior": 20 + 10 * np.exp(-epoch / 6),
                "hyperprior": 0.1 + 0 * epoch,
                "validation": [5.0 + 0.4 * np.exp(-e / 5) + 0.002 * e if e % 4 == 0 else None for e in epoch],
                "event": ["" if e != 12 else "place components" for e in epoch],
            }
        )

    def component_means(self, modality=None):
        return self.embedded.means

    def cite(self):
        return "@article{schuster2023,\n  title={The Deep Generative Decoder}\n}"


def made(n=600, g=80, *, d=2, seed=0, counts=True, **changes):
    """A model and its cells: five clusters, two of them near, ten markers each."""
    rng = np.random.default_rng(seed)
    k = len(TYPES)
    components = rng.integers(0, k, n)
    centres = rng.normal(size=(k, d)) * 6
    centres[2] = centres[1] + 2.2
    codes = (centres[components] + rng.normal(size=(n, d))).astype(np.float32)
    profile = np.tile(rng.gamma(0.6, 1.0, g) + 0.01, (k, 1))
    for c in range(k):
        profile[c, 10 * c : 10 * c + 10] *= rng.uniform(4, 20, profile[c, 10 * c : 10 * c + 10].size)
    means = profile / profile.sum(1, keepdims=True)
    x = rng.poisson(means[components] * rng.lognormal(6, 0.3, n)[:, None])
    names = [f"GENE{i}" for i in range(g)]
    label = Covariate("cell_type", "label", TYPES)
    batch = Covariate("donor", "batch", ("d1", "d2", "d3"))
    age = Covariate("age", "covariate", location=50.0, scale=10.0)
    layout = Layout(n, {"rna": Modality(tuple(names))}, {c.column: c for c in (batch, age, label)})
    labels = np.where(
        rng.random(n) < 0.03, -1, np.where(rng.random(n) < 0.05, rng.integers(0, k, n), components)
    )
    cells = Cells(
        changes.pop("layout", layout),
        names=[f"cell{i}" for i in range(n)],
        measured={"rna": CSR.of(x)},
        covariates={
            "donor": torch.from_numpy(rng.integers(0, 3, n)),
            "age": torch.from_numpy(rng.normal(size=n).astype(np.float32)),
            "cell_type": torch.from_numpy(labels),
        },
        reading=Reading(
            "pbmc.h5ad", {"counts": "counts", "label": "cell_type"}, ("3 cells hold no count.",), 2000
        ),
    )
    model = FakeModel(cells, codes, components, means, **changes)
    return model, cells if counts else cells.replace(measured={})


SCORES = {
    "nats_per_molecule": 5.05,
    "component_ari": np.float32(0.71),
    "own_number": float("nan"),
    "by embedding": {"scdgd": {"ari": 0.7, "nmi": 0.8}, "PCA": {"ari": 0.6}},
}


LONG = ", which also decided when to stop training; for an untouched judge, score other cells" * 2
FITTED = {
    "held_out": {"nats_per_molecule": 5.4436, "molecules": 24195, "zero_fraction_gene_error": 0.03617},
    "embedding": {"component_ari": 0.5113, "neighbour_accuracy": 0.8114},
    "note": "held_out: molecules of validation cells" + LONG,
}


def page_of(text):
    """The JSON that the page's script reads."""
    return json.loads(re.search(r'<script id="payload"[^>]*>(.*?)</script>', text, re.DOTALL).group(1))


# ---- small parts


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_packed_arrays_come_back(dtype):
    array = (np.random.default_rng(0).random(999) * 250).astype(dtype)
    assert np.array_equal(unpack(pack(array)), array)
    assert pack(array) == pack(array.copy())


@pytest.mark.parametrize("levels", [2, 255, 256, 65536])
def test_quantised_values_are_within_half_a_step(levels):
    values = np.random.default_rng(1).normal(size=500) * 37
    q, low, step = quantise(values, levels=levels)
    assert q.max() == levels - 1
    assert np.abs(low + step * q - values).max() <= step / 2 + 1e-9


@pytest.mark.parametrize("values", [np.full(5, 3.0), np.full(5, np.nan), np.zeros(0)])
def test_quantising_nothing_much_is_harmless(values):
    q, low, step = quantise(values, levels=256)
    assert (q == 0).all()
    assert np.isfinite([low, step]).all()


def test_folding_keeps_the_commonest_levels_and_every_cell():
    rng = np.random.default_rng(2)
    codes = np.where(rng.random(3000) < 0.1, -1, rng.zipf(1.5, 3000) % 60)
    folded, names = fold(codes, [f"L{i}" for i in range(60)], limit=40)
    assert len(names) == 41
    assert names[-1] == "other (20 levels)"
    for place, name in enumerate(names[:-1]):
        assert ((folded == place) == (codes == int(name[1:]))).all()
    kept = {int(name[1:]) for name in names[:-1]}
    count = np.bincount(codes[codes >= 0], minlength=60)
    assert min(count[k] for k in kept) >= max(count[k] for k in set(range(60)) - kept)
    assert ((folded == 255) == (codes < 0)).all()


def test_components_by_level_counts_every_cell_once():
    rng = np.random.default_rng(3)
    components, codes = rng.integers(0, 4, 500), rng.integers(-1, 3, 500)
    table = component_by_level(components, codes, n_components=5, levels=["a", "b", "c"])
    assert table.shape == (5, 4)
    for k in range(5):
        for c in range(-1, 3):
            column = "unknown" if c < 0 else "abc"[c]
            assert table.loc[k, column] == ((components == k) & (codes == c)).sum()


def test_graph_of_components_equals_counting_neighbours():
    rng = np.random.default_rng(4)
    z, components = rng.normal(size=(60, 3)), rng.integers(0, 3, 60)
    z[1] = z[0]  # duplicates must not count themselves
    distance = ((z[:, None] - z[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, 1, kind="stable")[:, :5]
    expected = np.zeros((4, 4))
    for i in range(60):
        for j in near[i]:
            expected[components[i], components[j]] += 1
    expected[:3] /= expected[:3].sum(1, keepdims=True)
    share = components_graph(z, components, n_components=4, neighbours=5)
    np.testing.assert_allclose(share, expected, atol=1e-12)


def test_graph_of_components_from_a_sample_is_near_that_of_all():
    model, _ = made(2000)
    e = model.embedded
    exact = components_graph(e.embedding, e.components(), n_components=5)
    sampled = components_graph(e.embedding, e.components(), n_components=5, queries=1000)
    np.testing.assert_allclose(sampled, exact, atol=0.05)
    assert not np.array_equal(sampled, exact)


def test_markers_are_the_planted_ones_and_their_numbers_are_right():
    model, _ = made(g=80)
    rho, sizes = model.embedded.means, np.array([10, 20, 30, 40, 0])
    table = markers_of(rho, sizes, names=[f"GENE{i}" for i in range(80)], top=5)
    assert set(table["component"]) == {0, 1, 2, 3}  # the fifth holds no cell
    for row in table.itertuples():
        assert 10 * row.component <= row.feature < 10 * row.component + 10
        others = np.delete(np.arange(5), row.component)
        rest = np.average(rho[others], axis=0, weights=sizes[others])[row.feature]
        assert row.share == pytest.approx(rho[row.component, row.feature])
        assert row.share_rest == pytest.approx(rest)
        assert row.log2_fold_change == pytest.approx(np.log2((row.share + 1e-4) / (rest + 1e-4)))
    ranked = table.groupby("component")["log2_fold_change"].apply(lambda c: c.is_monotonic_decreasing)
    assert ranked.all()


def test_genes_absent_nearly_everywhere_are_no_markers():
    rho = np.full((2, 1000), 1e-3)
    rho[0, 0], rho[1, 0] = 1e-9, 1e-12  # a thousandfold, of nothing
    rho[0, 1] = 3e-3
    assert markers_of(rho, np.array([5, 5]), names=range(1000), top=1)["name"].iloc[0] == "1"


def test_one_component_has_no_markers():
    assert markers_of(np.array([[0.5, 0.5]]), np.array([9]), names="ab").empty


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.7, 12.2), (1e-6, 3e-6), (881.2, 1290.0)])
def test_ticks_are_round_inside_and_few(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 9
    assert low - 1e-9 <= found[0]
    assert found[-1] <= high + 1e-9
    np.testing.assert_allclose(np.diff(found), found[1] - found[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (-1234, "−1,234"), (5.0512, "5.051"), (1e-9, "1.000e−09"), (float("inf"), "–"), (True, "yes")],
)
def test_numbers_are_written_for_people(value, text):
    assert number(value) == text


def test_circles_of_the_graph_neither_overlap_nor_leave_the_page():
    k = 12
    drawn = graph(np.full((k, k), 1 / k), np.arange(k), np.zeros((k, 2)), hints=["CD4 T cells 93 %"] * k)
    nodes = drawn["nodes"]
    assert [node["k"] for node in nodes] == list(range(1, k))  # the first holds no cell
    for i, a in enumerate(nodes):
        assert a["r"] <= a["x"] <= drawn["width"] - a["r"]
        assert a["r"] <= a["y"] <= drawn["height"] - a["r"]
        for b in nodes[i + 1 :]:
            assert np.hypot(a["x"] - b["x"], a["y"] - b["y"]) >= a["r"] + b["r"]
    assert len(drawn["edges"]) == (k - 1) * (k - 2) // 2


def test_curves_skip_what_is_missing_and_mark_the_best():
    charts = {chart["name"]: chart for chart in line_charts(made()[0].history)}
    assert list(charts) == ["loss", "reconstruction", "prior", "validation"]
    assert charts["validation"]["path"].count("L") == 9  # ten of forty epochs were validated
    assert charts["validation"]["best"]["epoch"] in {str(e) for e in range(4, 41, 4)}


PHASES = pd.DataFrame(
    {
        "epoch": np.arange(1, 9),
        "loss": np.linspace(900, 800, 8),
        "validation": [None, 5.5, None, 5.1, None, 5.3, 5.2, 5.25],
        "event": ["", "", "", "place components", "", "", "", ""],
    }
)


def test_the_best_of_the_last_phase_is_ringed_and_the_event_marked():
    assert best_epoch(PHASES) == 7
    loss, validation = line_charts(PHASES)
    assert validation["best"]["epoch"] == "7"
    for chart in (loss, validation):
        (event,) = chart["events"]
        assert (event["name"], event["epoch"]) == ("place components", "4")
        at = chart["path"][1:].split("L")[3 if chart is loss else 1]
        assert event["x"] == float(at.split(",")[0])
        half = 3 * len(event["name"])
        assert half <= event["text_x"] <= chart["width"] - half
        highest = min(float(spot.split(",")[1]) for spot in chart["path"][1:].split("L"))
        assert highest > event["text_y"]  # the curve stays below the words
    page = collect(*made(50), {}, "x")
    assert "place components" in render(page)
    axes = figures.training_curves(PHASES).axes[1]
    assert axes.lines[1].get_xdata()[0] == 7
    assert axes.lines[2].get_xdata()[0] == 4
    assert axes.texts[0].get_text() == "place components"


@pytest.mark.parametrize(
    ("validation", "events", "kept"),
    [
        ([3.0, 1.0, 2.0], ["", "", ""], 2),
        ([3.0, 1.0, 2.0], [np.nan] * 3, 2),  # as read from a file
        ([3.0, 1.0, 2.0], ["", "", "a"], 2),  # nothing was looked at after
        ([1.0, 3.0, 2.0], ["a", "b", ""], 3),
        ([np.nan] * 3, ["", "a", ""], None),
        ([1.0, 2.0, 2.0], ["a", None, ""], 2),
    ],
)
def test_the_epoch_that_was_kept(validation, events, kept):
    history = pd.DataFrame({"epoch": [1, 2, 3], "validation": validation, "event": events})
    assert best_epoch(history) == kept


def test_the_kept_epoch_is_that_of_a_fit():
    """`restore_best` of the loop goes back to the weights whose epoch is ringed."""
    import chreode
    from chreode.loop import _Rank

    kept = []
    restore = _Rank.restore_best

    def spy(rank):
        kept.append(rank.clock["best"])
        restore(rank)

    cells = made(120, g=30)[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Rank, "restore_best", spy)
        model = chreode.fit(cells, chreode.recipes.scdgd(), epochs=16, progress=False, device="cpu")
    rows = model.history.set_index("epoch")
    assert rows["event"].ne("").any()
    assert rows.loc[best_epoch(model.history), "validation"] == kept[-1]


def test_words_of_events_near_each_other_stand_in_rows():
    history = PHASES.assign(event=["", "", "place components", "move", "place components", "", "", ""])
    marks = line_charts(history)[0]["events"]
    assert len({mark["text_y"] for mark in marks}) == 3


# ---- colours


def seen(colours, matrix):
    """OKLab coordinates of colours, as some eye sees them."""
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(matrix).T, 0, 1)
    lms = linear @ np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.63]]).T
    return (
        np.cbrt(lms)
        @ np.array([[0.2105, 0.7936, -0.0041], [1.978, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]).T
    )


EYES = {
    "normal": np.eye(3),
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
}


@pytest.mark.parametrize("eye", EYES)
def test_colours_are_told_apart(eye):
    lab = seen(CATEGORICAL, EYES[eye])
    apart = np.sqrt(((lab[:, None] - lab[None]) ** 2).sum(-1)) + 9 * np.eye(40)
    assert apart[:8, :8].min() > 0.07
    assert apart.min() > 0.03


def test_colours_show_on_white_and_on_dark():
    ground = seen(["#ffffff", "#1b2024"], np.eye(3))
    lab = seen(CATEGORICAL, np.eye(3))
    assert len(set(CATEGORICAL)) == 40
    assert np.sqrt(((lab[:, None] - ground[None]) ** 2).sum(-1)).min() > 0.15


# ---- the map


def test_projection_of_two_dimensions_is_the_code_itself():
    codes = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    xy, how = project_2d(codes, 0)
    assert np.array_equal(xy, codes)
    assert "code itself" in how


@pytest.mark.parametrize(("n", "d"), [(1, 5), (20, 5), (100, 1), (100, 5)])
def test_projection_by_principal_components(n, d):
    codes = np.random.default_rng(0).normal(size=(n, d)) * np.arange(1, d + 1)
    xy, how = project_2d(codes, 0, limit=10)
    assert xy.shape == (n, 2)
    assert "principal components" in how
    values = np.linalg.svd(codes - codes.mean(0), compute_uv=False)[:2]
    np.testing.assert_allclose((xy.astype(float) ** 2).sum(0)[: len(values)], values**2, rtol=1e-4, atol=1e-8)


def test_projection_by_umap_depends_on_the_seed_alone():
    codes = made(60, d=6)[0].embedded.embedding
    xy, how = project_2d(codes, 3)
    assert "UMAP" in how
    assert "seed 3" in how
    assert np.array_equal(xy, project_2d(codes.copy(), 3)[0])


# ---- what is gathered


def test_everything_gathered_is_json_and_the_same_each_time():
    model, cells = made()
    context = collect(model, cells, SCORES, ["chreode", "fit", "my file.h5ad"])
    assert json.loads(json.dumps(context, allow_nan=False)) == context
    assert context == collect(model, cells, SCORES, ["chreode", "fit", "my file.h5ad"])
    assert context["command"] == "chreode fit 'my file.h5ad'"
    assert render(context | {"made": "today"}) == render(context | {"made": "today"})


def test_values_of_genes_in_the_page_are_those_of_model_and_data():
    model, cells = made(300, g=500)
    features = page_of(render(collect(model, cells, {}, "x")))["features"]
    assert len(features["names"]) == 400
    dense = cells.measured["rna"].dense().numpy()
    for j in range(0, 400, 37):
        column = int(features["names"][j][4:])
        rho = model.embedded.means[model.embedded.components(), column]
        got = features["expected"][j]
        decoded = np.expm1(got["low"] + got["step"] * unpack(got["values"])) / features["per"]
        np.testing.assert_allclose(np.log1p(1e4 * decoded), np.log1p(1e4 * rho), atol=got["step"] / 2 + 1e-5)
        assert np.array_equal(unpack(features["observed"][j]["values"]), dense[:, column])
    marked = collect(model, cells, {}, "x")["markers"]["cards"]
    assert {row["name"] for card in marked for row in card["rows"]} <= set(features["names"])


def test_counts_beyond_a_byte_are_kept_within_half_a_step():
    model, cells = made(50, g=30)
    x = cells.measured["rna"].dense()
    x[0, 0] = 90_000
    features = collect(model, cells.replace(measured={"rna": CSR.of(x.numpy())}), {}, "x")["payload"][
        "features"
    ]
    j = features["names"].index("GENE0")
    got = features["observed"][j]
    assert (
        np.abs(got["step"] * unpack(got["values"]).astype(float) - x[:, 0].numpy()).max() <= got["step"] / 2
    )


def test_features_a_panel_did_not_measure_are_unknown_not_zero():
    model, cells = made(100, g=30)
    panels = torch.ones(2, 30, dtype=torch.bool)
    panels[1, 4] = False
    cells = cells.replace(panels={"rna": panels}, panel={"rna": torch.arange(100) % 2})
    features = collect(model, cells, {}, "x")["payload"]["features"]
    q = unpack(features["observed"][features["names"].index("GENE4")]["values"])
    assert ((q == 255) == (np.arange(100) % 2 == 1)).all()


def test_what_was_read_is_told():
    model, cells = made()
    text = unescape(render(collect(model, cells, SCORES, "chreode fit pbmc.h5ad")))
    zeros = 100 * (cells.measured["rna"].dense() == 0).float().mean()
    for words in ("600", "3 cells hold no count.", f"{zeros:.1f} %", "chreode fit pbmc.h5ad", "schuster2023"):
        assert words in text
    assert f"torch</dt><dd>{torch.__version__.split('+')[0]}" in text
    assert "NaN" not in text[: text.index('<script id="payload"')]


@pytest.mark.parametrize(
    ("supervised", "words"), [(False, "took no part in the training"), (True, "took part in the training")]
)
def test_the_page_says_whether_the_label_was_used(supervised, words):
    model, cells = made(supervised=supervised)
    context = collect(model, cells, {}, "x")
    assert words in context["recipe"]["label"]
    assert context["recipe"]["supervised"] is supervised


def test_other_cells_are_refused():
    model, cells = made(50)
    for others in (cells[:40], cells[torch.arange(50).flip(0)]):
        with pytest.raises(InputError, match="Expected the cells this model was fitted to"):
            collect(model, others, {}, "x")


def test_without_counts_labels_or_components_there_is_still_a_page():
    model, cells = made(counts=False)
    context = collect(model, cells, {}, "x")
    assert context["payload"]["features"]["observed"] == []
    assert not any("zero" in tile["label"] for tile in context["read"]["tiles"])

    def absent():
        msg = "This recipe has no mixture."
        raise InputError(msg)

    bare = cells.replace(layout=Layout(600, dict(cells.layout.modalities)), covariates={})
    model.embedded.components = model.embedded.probabilities = absent
    text = render(collect(model, bare, {}, "x"))
    assert "is not a mixture: there are no components" in text
    assert [c["title"] for c in page_of(text)["columns"]] == ["molecules in the cell", "trained or held out"]


def test_a_continuous_modality_has_no_shares():
    model, cells = made(100, g=30)
    values = torch.randn(100, 30, generator=torch.Generator().manual_seed(0))
    modality = Modality(cells.layout.modalities["rna"].names, "continuous", tuple(f"S{i}" for i in range(30)))
    layout = Layout(100, {"rna": modality}, dict(cells.layout.covariates))
    cells = cells.replace(layout=layout, measured={"rna": values}, size={"rna": torch.ones(100)})
    model.embedded.cells = cells
    context = collect(model, cells, {}, "x")
    features = context["payload"]["features"]
    assert context["markers"]["effect"] == "difference"
    assert features["symbols"][0] == "S" + features["names"][0][4:]
    got, column = features["observed"][0], int(features["names"][0][4:])
    decoded = got["low"] + got["step"] * unpack(got["values"])
    np.testing.assert_allclose(decoded, values[:, column], atol=got["step"] / 2 + 1e-6)
    render(context)


def test_scores_of_every_shape_become_tables():
    groups = collect(*made(50), SCORES, "x")["scores"]
    assert groups[0]["rows"][0] == {
        "name": "held-out molecules",
        "meaning": "nats per molecule; lower is better",
        "values": ["5.050"],
    }
    assert groups[0]["rows"][1]["values"] == ["0.710"]
    assert groups[0]["rows"][2]["values"] == ["–"]
    assert groups[1]["columns"] == ["ari", "nmi"]
    assert groups[1]["rows"][1] == {"name": "PCA", "meaning": "", "values": ["0.600", "–"]}


def test_a_note_is_a_paragraph_and_no_score():
    groups = collect(*made(50), FITTED, "x")["scores"]
    rows = [row["name"] for group in groups for row in group["rows"]]
    assert collect(*made(50), {"fit": {"cells": 50}}, "x")["scores"][0]["rows"][0]["name"] == "cells in all"
    assert "note" not in rows
    assert groups[-1] | {"columns": []} == {
        "name": "",
        "columns": [],
        "rows": [],
        "notes": ["Held out: molecules of validation cells" + LONG],
    }


def test_nats_and_the_prior_are_explained_where_they_appear():
    model, cells = made(50)
    context = collect(model, cells, FITTED, "x")
    held, embedding, _ = context["scores"]
    assert [note[:18] for note in held["notes"]] == ["Nats per molecule "]
    assert embedding["notes"] == []
    meanings = {chart["name"]: chart["meaning"] for chart in context["training"]["charts"]}
    assert "10 % more probability" in meanings["validation"]
    assert "drops when components are placed" in meanings["prior"]
    text = unescape(render(context))
    assert all(meaning in text for meaning in (*meanings.values(), *held["notes"]))
    model.history["event"] = ""
    prior = next(c for c in line_charts(model.history) if c["name"] == "prior")
    assert "placed" not in prior["meaning"]


def supervised(n=200):
    """A model whose components are called as the levels they were taught, and its last by its number."""
    model, cells = made(n, supervised=True)
    model.embedded.component_names = list(TAUGHT)
    return model, cells


def test_components_of_a_supervised_fit_go_by_their_names():
    model, cells = supervised()
    context = collect(model, cells, {}, "x")
    names = list(TAUGHT)
    assert [row["name"] for row in context["components"]["tables"][0]["rows"]] == names
    assert [card["name"] for card in context["markers"]["cards"]] == names
    nodes = context["graph"]["nodes"]
    assert [node["name"] for node in nodes] == names
    assert [(node["inside"], node["below"][:9]) for node in nodes[3:]] == [
        ("", "CD56+/CD1"),
        ("4", "Monocytes"),
    ]
    assert {edge["a"] for edge in context["graph"]["edges"]} <= set(names)
    column = context["payload"]["columns"][0]
    assert (column["levels"], column["numbers"]) == (names, [0, 1, 2, 3, 4])
    assert column["hints"][:3] == [""] * 3  # the commonest label is the name


def test_names_of_folded_components_stay_with_their_numbers():
    model, cells = made(600)
    k = 50
    components = np.arange(600) % k
    e = model.embedded
    e._components, e.means = components, np.full((k, 80), 1 / 80)
    e.component_names = [str(k - 1 - i) for i in range(k)]  # names that look like other numbers
    column = collect(model, cells, {}, "x")["payload"]["columns"][0]
    assert column["levels"][-1] == "other (10 levels)"
    assert column["numbers"][-1] is None
    codes = unpack(column["codes"])
    for place, own in enumerate(column["numbers"][:-1]):
        assert column["levels"][place] == e.component_names[own]
        assert ((codes == place) == (components == own)).all()


def test_a_page_is_whole_or_not_there(tmp_path, monkeypatch):
    model, cells = made(50)
    path = tmp_path / "deep" / "report.html"
    assert write_report(path, model=model, cells=cells, scores={}, command="x") == path
    before = path.read_bytes()
    assert before.endswith(b"</html>\n") or before.endswith(b"</html>")
    with monkeypatch.context() as patch, contextlib.suppress(OSError):

        def fails(*_, **__):
            msg = "disk full"
            raise OSError(msg)

        patch.setattr("pathlib.Path.write_text", fails)
        write_report(path, model=model, cells=cells, scores={}, command="y")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def nasty():
    """A model all of whose names are attacks."""
    model, cells = made(60, g=12)
    levels = tuple(NASTY + str(i) for i in range(5))
    label, batch = Covariate(NASTY, "label", levels), Covariate("donor", "batch", levels[:3])
    layout = Layout(
        60, {"rna": Modality(tuple(NASTY + str(i) for i in range(12)))}, {NASTY: label, "donor": batch}
    )
    covariates = {NASTY: cells.covariates["cell_type"], "donor": cells.covariates["donor"]}
    names = np.array([f"{NASTY}{i}" for i in range(60)], dtype=object)
    reading = Reading(NASTY, {NASTY: NASTY}, (NASTY,))
    cells = cells.replace(layout=layout, covariates=covariates, names=names, reading=reading)
    model.embedded.cells, model.embedded.names = cells, names
    model.recipe.arguments[NASTY] = NASTY
    model.history[NASTY] = np.arange(40.0)
    model.cite = lambda: NASTY
    return model, cells


def test_names_cannot_leave_their_place():
    model, cells = nasty()
    text = render(collect(model, cells, {NASTY: 1, "b": {NASTY: {NASTY: 2}}}, NASTY, title=NASTY))
    assert "<img" not in text
    assert text.count("</script>") == 2
    assert page_of(text)["columns"][1]["title"] == NASTY


# ---- figures


def drawn_figures():
    model, cells = made(400)
    e = model.embedded
    components, codes = e.components(), cells.covariates["cell_type"].numpy()
    sizes = np.bincount(components)
    table = component_by_level(components, codes, n_components=5, levels=TYPES)
    share = components_graph(e.embedding, components, n_components=5)
    marks = markers_of(e.means, sizes, names=cells.layout.modalities["rna"].names)
    return {
        "curves": figures.training_curves(model.history),
        "label": figures.embedding(
            e.embedding, codes, title="cell_type", levels=TYPES, method="UMAP, seed 0"
        ),
        "strings": figures.embedding(e.embedding, np.array(TYPES)[components]),
        "gene": figures.embedding(e.embedding, e.expected(features=["GENE3"])[:, 0], title="GENE3"),
        "table": figures.component_table(table),
        "markers": figures.markers(marks),
        "graph": figures.component_graph(share, sizes, np.eye(5)[:, :2], hints=TYPES),
        "nats": figures.nats_against_seconds({"scdgd": model.history}, baselines={"mean profile": 5.4}),
    }


def test_figures_show_the_numbers_and_leave_pyplot_alone(tmp_path):
    from matplotlib._pylab_helpers import Gcf
    from matplotlib.figure import Figure

    managers = list(Gcf.figs)
    found = drawn_figures()
    assert list(Gcf.figs) == managers
    for name, figure in found.items():
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    assert len(found["curves"].axes) == 4
    assert len(found["label"].axes[0].collections[0].get_offsets()) == 400
    legend = [text.get_text() for text in found["label"].axes[0].get_legend().get_texts()]
    assert len(legend) == 6
    assert legend[-1].startswith("unknown")
    assert sum(int(text.get_text().replace(",", "")) for text in found["table"].axes[0].texts) == 400
    assert len(found["markers"].axes) == 5
    assert len(found["graph"].axes[0].patches) == 5
    assert len(found["nats"].axes[0].lines[0].get_xdata()) == 10


# ---- in a browser


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=chromium, args=options)
        yield running
        running.close()


def until(page, condition):
    """Wait for a condition; the page's policy forbids the `eval` that Playwright's own waiting uses."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never true: {condition}")


@contextlib.contextmanager
def opened(browser, path, **options):
    """A page that is ready, that said nothing on the console and asked for no other file."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True, **options)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=true]", timeout=60_000, state="attached")
    until(page, "document.getElementById('map').dataset.paint !== undefined")
    yield page
    assert said == []
    assert [url for url in asked if not url.startswith("blob:")] == [path.as_uri()]
    context.close()


def painted(page):
    """How many pixels of the map have each colour."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.evaluate("""() => {
        const c = document.getElementById('map'), count = {};
        const d = new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer);
        for (const v of d) count[v] = (count[v] || 0) + 1;
        return count;
    }""")


def pixels_of(count, colour, ground="#ffffff"):
    """Pixels of a category's colour where a single point covers the ground (0.86 opaque)."""
    rgb = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in (colour, ground)]
    want = [g + (c - g) * 0.86 for c, g in zip(*rgb, strict=True)]
    return sum(
        n
        for v, n in count.items()
        if all(abs(((int(v) >> s) & 255) - w) <= 2 for s, w in zip((0, 8, 16), want, strict=True))
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    model, cells = made(600, g=500)
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(
        path, model=model, cells=cells, scores=SCORES, command="chreode fit pbmc.h5ad", title="Blood"
    )
    return path


def test_the_map_is_drawn_and_the_legend_hides_and_shows(browser, report, tmp_path):
    with opened(browser, report) as page:
        before = painted(page)
        assert all(pixels_of(before, CATEGORICAL[k]) > 50 for k in range(5))
        rows = page.locator("#legend .row")
        assert rows.count() == 5
        rows.nth(1).click()
        page.mouse.move(5, 5)
        assert rows.nth(1).get_attribute("aria-pressed") == "false"
        assert pixels_of(painted(page), CATEGORICAL[1]) == 0
        rows.nth(0).dblclick()
        page.mouse.move(5, 5)
        shown = painted(page)
        assert pixels_of(shown, CATEGORICAL[0]) > 50
        assert pixels_of(shown, CATEGORICAL[2]) == 0
        page.get_by_role("button", name="Show all").click()
        page.mouse.move(5, 5)
        assert painted(page) == before
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        assert (tmp_path / "page.png").stat().st_size > 50_000


def test_colours_follow_the_column_that_is_chosen(browser, report):
    with opened(browser, report) as page:
        titles = page.locator("#colour option:not([disabled])").all_inner_texts()
        assert titles[:4] == ["component", "cell_type (label)", "donor (batch)", "age (covariate)"]
        page.get_by_label("Colour by").select_option(label="cell_type (label)")
        legend = page.locator("#legend").inner_text()
        assert all(name in legend for name in (*TYPES, "unknown"))
        page.get_by_label("Colour by").select_option(label="age (covariate)")
        low, _, high = (float(t) for t in page.locator("#legend .ends span").all_inner_texts())
        assert 10 < low < 50 < high < 90


def test_a_typed_gene_colours_the_map(browser, report):
    with opened(browser, report) as page:
        stored = page_of(report.read_text(encoding="utf-8"))["features"]["names"]
        by_component = painted(page)
        gene = page.get_by_label("or type a gene")
        gene.fill("gene13")
        gene.press("Enter")
        until(page, "document.getElementById('map').dataset.colour === 'GENE13, expected by the model'")
        expected = painted(page)
        assert expected != by_component
        page.get_by_label("observed").check()
        until(page, "document.getElementById('map').dataset.colour === 'GENE13, observed'")
        assert painted(page) != expected
        page.get_by_label("expected").check()
        other = next(f"GENE{i}" for i in range(500) if f"GENE{i}" not in stored)
        gene.fill(other)
        gene.press("Enter")
        until(page, f"document.getElementById('map').dataset.colour.startsWith('{other}, mean')")
        assert "not stored cell by cell" in page.locator("#message").inner_text()
        gene.fill("GENE13X")
        gene.press("Enter")
        page.get_by_role("status").get_by_text("No feature called").wait_for()
        page.locator("#message").get_by_role("button", name="GENE13", exact=True).click()
        until(page, "document.getElementById('map').dataset.colour.startsWith('GENE13,')")
        assert page.locator("#message").inner_text().strip() == ""


def test_the_map_moves_zooms_and_names_the_cell_under_the_pointer(browser, report):
    with opened(browser, report) as page:
        page.locator("#map").scroll_into_view_if_needed()
        start = painted(page)
        spot = page.evaluate("""() => {
            const [x, y] = chreode.map.place(chreode.map.x[7], chreode.map.y[7]), r = chreode.map.ratio;
            const box = document.getElementById('map').getBoundingClientRect();
            return [box.left + x / r, box.top + y / r];
        }""")
        page.mouse.move(*spot)
        page.locator("#tip b").wait_for()
        near = page.evaluate("""() => {
            const m = chreode.map, k = chreode.names.indexOf(document.querySelector('#tip b').textContent);
            return Math.hypot(...m.place(m.x[k], m.y[k]).map((v, j) => v - m.place(m.x[7], m.y[7])[j]));
        }""")
        assert near < 2
        assert "component:" in page.locator("#tip").inner_text()
        page.mouse.wheel(0, -400)
        assert page.evaluate("chreode.map.zoom") == 1  # the page scrolls until the map is clicked
        page.locator("#map").scroll_into_view_if_needed()
        page.locator("#map").click(position={"x": 60, "y": 60})
        page.mouse.wheel(0, -400)
        until(page, "chreode.map.zoom > 1.5")
        zoomed = painted(page)
        assert zoomed != start
        page.mouse.down()
        page.mouse.move(400, 500)
        page.mouse.up()
        assert painted(page) != zoomed
        page.get_by_role("button", name="Reset").click()
        page.mouse.move(5, 5)
        assert painted(page) == start
        page.locator("#map").press("+")
        assert page.evaluate("chreode.map.zoom") > 1


def test_markers_and_components_lead_to_the_map(browser, report):
    with opened(browser, report) as page:
        marker = page.locator("[data-gene]").first
        name = marker.inner_text()
        marker.click()
        until(page, f"document.getElementById('map').dataset.colour === '{name}, expected by the model'")
        page.locator("svg.graph g[data-component='2']").press("Enter")
        until(page, "document.getElementById('map').dataset.colour === 'component'")
        pressed = page.locator("#legend .row[aria-pressed=true]")
        assert pressed.count() == 1
        assert pressed.get_attribute("data-code") == "2"


def test_everything_can_be_reached_and_is_named(browser, report):
    with opened(browser, report) as page:
        unnamed = page.evaluate("""() => [...document.querySelectorAll('input, select')]
            .filter((e) => !e.labels.length).map((e) => e.outerHTML)""")
        assert unnamed == []
        assert page.evaluate(
            "[...document.querySelectorAll('button')].every((b) => b.textContent.trim() || b.ariaLabel)"
        )
        assert page.evaluate(
            "[...document.querySelectorAll('svg[role], canvas[role]')].every((e) => e.ariaLabel)"
        )
        assert page.locator("h1").inner_text() == "Blood"
        targets = page.evaluate(
            "[...document.querySelectorAll('nav a')].every((a) => document.querySelector(a.hash))"
        )
        assert targets
        for width in (360, 800):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """The page of a supervised fit, with scores as a fit writes them."""
    model, cells = supervised(600)
    path = tmp_path_factory.mktemp("taught") / "report.html"
    return write_report(path, model=model, cells=cells, scores=FITTED, command="x")


@pytest.mark.parametrize("width", [700, 1000, 1400, 1600])
def test_scores_are_seen_at_once(browser, taught, width):
    with opened(browser, taught) as page:
        page.set_viewport_size({"width": width, "height": 900})
        cards = page.locator("#scores .card")
        assert cards.count() == 2
        for card in cards.all():
            assert card.evaluate("(e) => e.scrollWidth <= e.clientWidth")
            right = card.evaluate("(e) => e.getBoundingClientRect().right")
            for value in card.locator("td").all():
                assert value.evaluate("(e) => e.getBoundingClientRect().right") <= right
                assert value.evaluate("(e) => getComputedStyle(e).textAlign") == "right"
        assert page.locator("#scores td").all_inner_texts() == ["5.444", "24,195", "0.0362", "0.511", "0.811"]
        note = page.locator("#scores p", has_text="also decided when to stop")
        assert note.count() == 1
        assert note.evaluate("(e) => e.closest('table') === null && e.scrollWidth <= e.clientWidth")


def test_counts_of_the_legend_stay_on_one_line(browser, tmp_path):
    model, cells = made(600)
    # A label without a space beside a long name leaves a narrow legend no room but the count's.
    levels = tuple(f"CD4+/CD45RA+/CD25-_Naive_{name.replace(' ', '_')}" for name in TYPES)
    covariates = cells.layout.covariates | {"cell_type": Covariate("cell_type", "label", levels)}
    layout = Layout(600, dict(cells.layout.modalities), covariates)
    cells = cells.replace(layout=layout)
    path = write_report(tmp_path / "r.html", model=model, cells=cells, scores={}, command="x")
    with opened(browser, path) as page:
        page.set_viewport_size({"width": 1000, "height": 900})
        counts = page.locator("#legend .count")
        assert counts.count() == 5
        for count in counts.all():
            lines = count.evaluate(
                "(e) => { const r = document.createRange(); r.selectNodeContents(e); "
                "return new Set([...r.getClientRects()].map((b) => b.top)).size; }"
            )
            assert lines == 1


def test_names_of_components_lead_to_the_map(browser, taught):
    with opened(browser, taught) as page:
        rows = page.locator("#legend .row span:nth-child(2)").all_inner_texts()
        assert rows == list(TAUGHT)
        assert all(pixels_of(painted(page), CATEGORICAL[k]) > 50 for k in range(5))
        page.set_viewport_size({"width": 1000, "height": 900})
        assert page.evaluate(
            "[...document.querySelectorAll('.mark h3')].every((e) => e.scrollWidth <= e.clientWidth)"
        )
        page.locator("#markers h3 button", has_text="CD8 T cells").click()
        pressed = page.locator("#legend .row[aria-pressed=true]")
        until(page, "document.querySelectorAll('#legend .row[aria-pressed=true]').length === 1")
        assert "CD8 T cells" in pressed.inner_text()


def test_a_dark_screen_gets_a_dark_map(browser, report):
    with opened(browser, report, color_scheme="dark") as page:
        count = painted(page)
        ground = int(max(count, key=count.get))
        assert [(ground >> s) & 255 for s in (0, 8, 16)] == [0x1B, 0x20, 0x24]
        assert pixels_of(count, CATEGORICAL[0], ground="#1b2024") > 50


def test_hostile_names_run_nothing(browser, tmp_path):
    model, cells = nasty()
    path = write_report(
        tmp_path / "r.html", model=model, cells=cells, scores={NASTY: 1}, command=NASTY, title=NASTY
    )
    with opened(browser, path) as page:
        for value in page.locator("#colour option:not([disabled])").all():
            page.get_by_label("Colour by").select_option(value=value.get_attribute("value"))
        page.get_by_label("or type a gene").fill(NASTY + "99")
        page.get_by_label("or type a gene").press("Enter")
        page.locator("#message button").first.click()
        page.locator("#map").hover()
        assert page.evaluate("window.pwned") is None
        assert page.locator("img").count() == 0
        assert page.locator("h1").inner_text() == NASTY


def test_fifty_thousand_cells_stay_responsive(browser, tmp_path):
    model, cells = made(50_000, g=60)
    path = write_report(tmp_path / "large.html", model=model, cells=cells, scores={}, command="x")
    assert path.stat().st_size < 12e6
    with opened(browser, path) as page:
        count = painted(page)
        assert all(pixels_of(count, CATEGORICAL[k]) > 500 for k in range(5))
        assert float(page.get_attribute("#map", "data-paint")) < 1000
        page.get_by_label("or type a gene").fill("GENE3")
        until(page, "document.getElementById('map').dataset.colour === 'GENE3, expected by the model'")
        spent = page.evaluate("""async () => {
            const start = performance.now();
            for (let i = 0; i < 20; i++) {
                chreode.map.zoomAt(400, 300, i % 2 ? 0.9 : 1.15);
                await new Promise((done) => requestAnimationFrame(done));
            }
            return (performance.now() - start) / 20;
        }""")
        assert spent < 500  # milliseconds a frame, on a busy machine without a GPU
