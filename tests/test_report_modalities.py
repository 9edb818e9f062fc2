"""The page of a model of several modalities: who was measured in what, and codes of covariates."""

from __future__ import annotations

import json
from html import unescape
from typing import TYPE_CHECKING

import numpy as np
import pytest

import chreode as ch
import test_report
from chreode.errors import InputError
from chreode.io.mosaic import mosaic, mudata_of
from chreode.io.simulate_multiome import Multiome, simulate_multiome
from chreode.report import collect, render, write_report
from chreode.report.modalities import modalities_section
from chreode.report.pack import unpack
from chreode.report.palette import CATEGORICAL
from test_report import NASTY, made, page_of, painted, until

if TYPE_CHECKING:
    import mudata

SECTIONS = ('id="modalities"', 'id="codes"')
browser = test_report.browser  # a fixture


@pytest.fixture(scope="module")
def cut() -> mudata.MuData:
    """Cells of which some lack a modality, and some a plate."""
    world = Multiome(dim=4, depth=400, atac_depth=40, gene_share=0.3, peak_share=0.3)
    whole = simulate_multiome(240, 60, 90, components=3, batches=2, world=world, seed=0)
    plates = np.random.default_rng(0).choice(["p1", "p2", "p3"], 240).astype(object)
    plates[:12] = None
    whole.obs["plate"] = plates
    return mosaic(whole, fraction=0.5, seed=1)


@pytest.fixture(scope="module")
def cells(cut):
    return ch.read(cut, batch="batch", label="component", covariates=["plate"])


@pytest.fixture(scope="module")
def model(cells):
    """Of two dimensions, so that the map needs no UMAP."""
    recipe = ch.recipes.multidgd(dim=2, components=3)
    return ch.fit(cells, recipe, epochs=6, seed=0, progress=False, device="cpu")


@pytest.fixture(scope="module")
def context(model, cells):
    return collect(model, cells, {}, "chreode fit mosaic.h5mu")


@pytest.fixture(scope="module")
def report(model, cells, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(path, model=model, cells=cells, scores={}, command="x")


def test_the_table_says_what_each_modality_is_and_how_much_was_measured(context, cut):
    rna, atac = context["modalities"]["rows"]
    for row, name in ((rna, "rna"), (atac, "atac")):
        x = cut[name].X.toarray()
        assert row["name"] == name
        assert (row["cells"], row["features"]) == x.shape
        assert float(row["total"].replace(",", "")) == np.median(x.sum(1))
        assert row["zeros"] == f"{100 * (x == 0).mean():.1f} %"
    assert (rna["kind"], rna["likelihood"]) == ("counts", "negative binomial")
    assert (atac["kind"], atac["likelihood"]) == ("binary", "Bernoulli, by depth")


def test_combinations_of_modalities_cover_every_cell(context, cut):
    found = {c["name"]: c["cells"] for c in context["modalities"]["combinations"]}
    rna, atac = (cut.obs_names.isin(cut[name].obs_names) for name in ("rna", "atac"))
    assert found == {
        "rna + atac": (rna & atac).sum(),
        "rna only": (rna & ~atac).sum(),
        "atac only": (atac & ~rna).sum(),
    }
    assert sum(found.values()) == 240
    assert next(iter(found)) == "rna + atac"
    assert sum(c["share"] for c in context["modalities"]["combinations"]) == pytest.approx(1)


def test_what_cells_lack_can_be_completed(context, model, cells):
    text = unescape(render(context))
    assert 'model.embedded.expected("atac")' in text
    everywhere = {m: here | True for m, here in cells.present.items()}
    whole = modalities_section(model, cells.replace(present=everywhere))
    assert whole is not None
    assert whole["calls"] == []
    complete = unescape(render(context | {"modalities": whole}))
    assert "model.embedded.expected" not in complete
    assert [c["name"] for c in whole["combinations"]] == ["rna + atac"]


def test_codes_of_covariates_are_those_of_the_model(context, model, cells):
    assert [(code["column"], code["unknown"]) for code in context["codes"]] == [("batch", 0), ("plate", 12)]
    payload = context["payload"]
    for code, drawn in zip(context["codes"], payload["codes"], strict=True):
        assert payload["columns"][drawn["colour"]]["title"] == code["column"]
        codes = model.embedded.embeddings[code["latent"]]
        for axis, values in zip(drawn["xy"], codes.T, strict=True):
            got = axis["low"] + axis["step"] * unpack(axis["values"]).astype(float)
            assert len(got) == len(cells)
            np.testing.assert_allclose(got, values, atol=axis["step"] / 2 + 1e-6)
    assert "Where plate is unknown (12 cells)" in render(context)


def test_markers_of_each_modality_are_shown_and_stored(context, model, cells):
    payload = page_of(render(context))
    (atac,) = payload["others"]
    assert (payload["features"]["modality"], atac["modality"]) == ("rna", "atac")
    (group,) = context["other_markers"]
    assert (group["modality"], group["unit"]) == ("atac", "probability")
    marked = {row["name"] for card in group["cards"] for row in card["rows"]}
    assert marked
    assert marked == set(atac["names"])
    expected = model.embedded.expected("atac", features=atac["names"])
    for values, stored in zip(expected.T, atac["expected"], strict=True):
        got = stored["low"] + stored["step"] * unpack(stored["values"])
        np.testing.assert_allclose(got, values, atol=stored["step"] / 2 + 1e-6)


def test_what_was_not_measured_is_unknown_not_zero(context, cells):
    payload = context["payload"]
    sets = {"rna": payload["features"], "atac": payload["others"][0]}
    for name, features in sets.items():
        absent = ~cells.present[name].numpy()
        assert absent.any()
        for stored in features["observed"]:
            assert ((unpack(stored["values"]) == 255) == absent).all()
    total = next(c for c in payload["columns"] if c["title"] == "molecules in the cell (rna)")
    assert ((unpack(total["values"]) == 255) == ~cells.present["rna"].numpy()).all()


def test_the_page_of_one_modality_has_no_such_sections(cut):
    context = collect(*made(100), {}, "x")
    text = render(context)
    assert not any(section in text for section in SECTIONS)
    assert "Marker genes" in text
    assert not {"others", "codes"} & set(context["payload"])
    assert "modality" not in context["payload"]["features"]
    turned = mudata_of({"atac": cut["atac"].copy(), "rna": cut["rna"].copy()}, cut.obs.copy())
    read = ch.read(turned, label="component")  # of which the recipe takes the first alone
    recipe = ch.recipes.scdgd(dim=2, components=2)
    alone = ch.fit(read, recipe, epochs=1, seed=0, progress=False, device="cpu")
    context = collect(alone, read, {}, "x")
    assert context["markers"]["modality"] == "atac"
    assert not any(section in render(context) for section in SECTIONS)


def test_covariate_codes_of_one_modality_are_shown_too(cut):
    read = ch.read(cut["rna"][np.asarray(cut["rna"].obs["batch"].notna())], batch="batch")
    recipe = ch.recipes.multidgd(dim=2, components=2)
    alone = ch.fit(read, recipe, epochs=1, seed=0, progress=False, device="cpu")
    context = collect(alone, read, {}, "x")
    assert [code["column"] for code in context["codes"]] == ["batch"]
    assert len(context["payload"]["codes"]) == 1
    text = render(context)
    assert SECTIONS[1] in text
    assert SECTIONS[0] not in text


def test_a_saved_model_without_counts_has_its_page(model, tmp_path):
    model.save(tmp_path / "m")
    loaded = ch.load(tmp_path / "m")
    context = collect(loaded, loaded.embedded.cells, {}, "x")
    assert [row["zeros"] for row in context["modalities"]["rows"]] == ["–", "–"]
    assert context["payload"]["others"][0]["observed"] == []
    assert len(context["codes"]) == 2
    render(context)


def test_without_components_there_is_still_a_page(model, cells, monkeypatch):
    def absent():
        msg = "This recipe has no mixture."
        raise InputError(msg)

    monkeypatch.setattr(model.embedded, "probabilities", absent)
    context = collect(model, cells, {}, "x")
    assert context["payload"]["others"][0]["names"] == []
    text = render(context)
    assert all(section in text for section in SECTIONS)


def test_names_of_modalities_and_levels_are_escaped(context):
    hostile = json.loads(json.dumps(context).replace("atac", "ATAC"))
    rows, code = hostile["modalities"]["rows"], hostile["codes"][0]
    rows[1]["name"] = code["column"] = hostile["other_markers"][0]["modality"] = NASTY
    hostile["modalities"]["calls"] = hostile["payload"]["others"][0]["names"] = [NASTY]
    hostile["modalities"]["combinations"][0]["name"] = NASTY
    text = render(hostile)
    assert "<img" not in text
    assert text.count("</script>") == 2


# ---- in a browser


def beside(page, i):
    """How many pixels of the i-th map of codes have each colour."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.evaluate(
        """(i) => {
        const c = document.querySelectorAll('.code .points')[i], count = {};
        const d = new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer);
        for (const v of d) count[v] = (count[v] || 0) + 1;
        return count;
    }""",
        i,
    )


def inked(count, colour):
    """Pixels of a category's colour where points lie upon each other, as those of one level do."""
    want = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return sum(
        n
        for v, n in count.items()
        if all(abs(((int(v) >> s) & 255) - w) <= 6 for s, w in zip((0, 8, 16), want, strict=True))
    )


def test_codes_are_drawn_a_point_a_cell_at_equal_aspect(browser, report):
    with test_report.opened(browser, report) as page:
        assert page.evaluate("chreode.beside.map((code) => code.map.n)") == [240, 240]
        until(page, "[...document.querySelectorAll('.code .points')].every((c) => c.dataset.paint)")
        for i, levels in enumerate((2, 3)):
            count = beside(page, i)
            assert all(inked(count, CATEGORICAL[k]) > 10 for k in range(levels))
            inside, ratio = page.evaluate(
                """(i) => {
                const { map } = chreode.beside[i], [x, y] = map.place(0, 0), [right, top] = map.place(1, 1);
                const spots = Array.from(map.x, (_, j) => map.place(map.x[j], map.y[j]));
                return [spots.every(([a, b]) => a > 0 && b > 0 && a < map.width && b < map.height),
                    (right - x) / (y - top)];
            }""",
                i,
            )
            assert inside
            assert ratio == pytest.approx(1)


def test_codes_answer_to_pointer_and_legend(browser, report):
    with test_report.opened(browser, report) as page:
        landscape, code = painted(page), page.locator(".code").nth(1)
        rows = code.locator(".legend .row")
        assert [t.split("\n")[0] for t in rows.all_inner_texts()] == ["p1", "p2", "p3", "unknown"]
        rows.nth(1).click()
        page.mouse.move(5, 5)
        assert inked(beside(page, 1), CATEGORICAL[1]) == 0
        assert inked(beside(page, 0), CATEGORICAL[1]) > 10
        assert painted(page) == landscape
        code.get_by_role("button", name="Show all").click()
        code.locator(".points").scroll_into_view_if_needed()
        spot = page.evaluate("""() => {
            const { map } = chreode.beside[1], [x, y] = map.place(map.x[20], map.y[20]);
            const box = map.canvas.getBoundingClientRect();
            return [box.left + x / map.ratio, box.top + y / map.ratio];
        }""")
        page.mouse.move(*spot)
        code.locator(".tip b").wait_for()
        assert "plate: p" in code.locator(".tip").inner_text()
        assert page.locator("#tip").is_hidden()
        code.locator(".points").press("+")
        assert page.evaluate("chreode.beside.map((c) => c.map.zoom > 1)") == [False, True]


def test_features_of_every_modality_colour_the_map(browser, report):
    with test_report.opened(browser, report) as page:
        marker = page.locator("[data-modality=atac]").first
        name = marker.inner_text()
        marker.click()
        colour = "document.getElementById('map').dataset.colour"
        until(page, f"{colour} === '{name} (atac), expected by the model'")
        low, _, high = (float(t) for t in page.locator("#legend .ends span").all_inner_texts())
        assert 0 <= low < high <= 1
        page.get_by_label("observed").check()
        until(page, f"{colour} === '{name} (atac), observed'")
        assert page.evaluate("chreode.now.values.filter(Number.isNaN).length") > 0
        field = page.get_by_label("or type a feature")
        field.fill("gene3")
        field.press("Enter")
        until(page, f"{colour} === 'gene3 (rna), observed'")
        stored = page_of(report.read_text(encoding="utf-8"))["others"][0]["names"]
        peaks = page.evaluate("chreode.sets[1].all")
        field.fill(next(peak for peak in peaks if peak not in stored))
        field.press("Enter")
        page.get_by_role("status").get_by_text("(atac) was read, but is not stored").wait_for()


@pytest.mark.parametrize("width", [360, 1000, 1400])
def test_nothing_is_cut_or_overflows(browser, report, width):
    with test_report.opened(browser, report) as page:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if width >= 1000:
            for part in ("nav .wrap", ".modalities", ".code .legend"):
                assert page.locator(part).first.evaluate("(e) => e.scrollWidth <= e.clientWidth"), part
        cards = page.evaluate(
            "[...document.querySelectorAll('.code')].map((e) => e.getBoundingClientRect().width)"
        )
        assert len(set(cards)) == 1
        targets = page.evaluate(
            "[...document.querySelectorAll('nav a')].every((a) => document.querySelector(a.hash))"
        )
        assert targets
        assert page.evaluate("[...document.querySelectorAll('canvas[role]')].every((e) => e.ariaLabel)")
