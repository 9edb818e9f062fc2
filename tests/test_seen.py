"""What a level was never measured in is decoded as in one that was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import chreode as ch
from chreode.cells import Cells
from chreode.decoders.seen import Seen
from chreode.io.mosaic import mudata_of
from chreode.io.simulate_multiome import Multiome, simulate_multiome
from chreode.layout import Covariate, Layout, Modality

WORLD = Multiome(dim=4, depth=800, atac_depth=60, gene_share=0.3, peak_share=0.3)


@pytest.fixture(scope="module")
def whole():
    return simulate_multiome(300, 60, 80, components=3, batches=3, world=WORLD, seed=2)


@pytest.fixture(scope="module")
def model(whole):
    """Peaks were measured in the first two batches alone."""
    measured = (whole.obs["batch"] != "batch2").to_numpy()
    cut = mudata_of({"rna": whole["rna"].copy(), "atac": whole["atac"][measured].copy()}, whole.obs.copy())
    recipe = ch.recipes.multidgd(dim=4, components=3)
    return ch.fit(ch.read(cut, batch="batch"), recipe, epochs=100, seed=0, progress=False, device="cpu")


def likely(expected: np.ndarray, found: np.ndarray) -> float:
    p = expected.clip(1e-4, 1 - 1e-4)
    return float((found * np.log(p) + (1 - found) * np.log1p(-p)).sum(1).mean())


def as_in_both(embedded: ch.Embedded) -> np.ndarray:
    """The mean over the batches that were measured."""
    each = [embedded.do(batch=b).expected("atac", borrow=False) for b in ("batch0", "batch1")]
    return np.mean(each, axis=0)


def test_what_a_batch_never_saw_is_better_expected_as_in_another(whole, model):
    lost = ~model.embedded.cells.present["atac"].numpy()
    truth = whole["atac"][model.embedded.names].X.toarray()[lost]
    own, lent = (model.embedded.expected("atac", borrow=borrow)[lost] for borrow in (False, True))
    assert likely(lent, truth) > likely(own, truth)


def test_only_what_was_not_measured_is_borrowed(model):
    embedded = model.embedded
    lost = ~embedded.cells.present["atac"].numpy()
    lent, own = embedded.expected("atac"), embedded.expected("atac", borrow=False)
    np.testing.assert_allclose(lent[lost], as_in_both(embedded)[lost], rtol=1e-5)
    np.testing.assert_array_equal(lent[~lost], own[~lost])
    names = list(embedded.cells.layout.modalities["atac"].names[5:8])
    np.testing.assert_allclose(embedded.expected("atac", features=names), lent[:, 5:8], rtol=1e-5)
    np.testing.assert_array_equal(embedded.expected("rna"), embedded.expected("rna", borrow=False))


def test_a_loaded_model_and_new_cells_borrow_alike(whole, model, tmp_path):
    model.save(tmp_path / "m")
    loaded = ch.load(tmp_path / "m")
    np.testing.assert_allclose(loaded.embedded.expected("atac"), model.embedded.expected("atac"), rtol=1e-5)
    some = mudata_of({"rna": whole["rna"][:9].copy()}, whole.obs[:9].copy())
    new = loaded.project(some)
    late = new.level_names("batch") == "batch2"
    assert late.any()
    np.testing.assert_allclose(new.expected("atac")[late], as_in_both(new)[late], rtol=1e-5)


def seen_in(**table: list[list[int]]) -> Seen:
    """Of columns whose levels were measured in some of four features."""
    columns = {c: Covariate(c, "covariate", tuple(map(str, range(len(rows))))) for c, rows in table.items()}
    seen = Seen(Layout(1, {"rna": Modality(tuple("abcd"))}, columns), "rna")
    for column, rows in table.items():
        seen.of(column).copy_(torch.tensor(rows, dtype=torch.bool))
    return seen


def lent(
    seen: Seen, wanted: list[int] | None = None, **levels: int
) -> list[tuple[dict[str, int], list[int]]]:
    mask = None if wanted is None else torch.tensor(wanted, dtype=torch.bool)
    return [(taken, mask.int().tolist()) for taken, mask in seen.lenders(levels, mask)]


def test_levels_lend_what_they_saw():
    seen = seen_in(plate=[[1, 0, 0, 0], [0, 1, 0, 1], [1, 0, 1, 1]])
    assert lent(seen, plate=0) == [({"plate": 1}, [0, 1, 0, 1]), ({"plate": 2}, [0, 0, 1, 1])]
    assert lent(seen, [1, 1, 0, 0], plate=0) == [({"plate": 1}, [0, 1, 0, 0])]
    assert lent(seen, [1, 0, 0, 0], plate=0) == []
    assert lent(seen, plate=-1) == []
    assert lent(seen_in(plate=[[1, 1, 1, 0], [1, 0, 1, 0]]), plate=0) == []


def test_columns_lend_together():
    seen = seen_in(plate=[[1, 1, 1, 0], [1, 1, 1, 1]], site=[[1, 1, 0, 0], [1, 1, 1, 1]])
    both, half = ({"plate": 1, "site": 1}, [0, 0, 1, 1]), ({"plate": 0, "site": 1}, [0, 0, 1, 0])
    assert lent(seen, plate=0, site=0) == [both, half]
    assert lent(seen, plate=0, site=1) == [({"plate": 1}, [0, 0, 0, 1])]


def test_new_levels_are_noted_and_known_ones_stay():
    seen = seen_in(plate=[[1, 1, 1, 1], [1, 1, 1, 1]])
    present, plates = torch.tensor([True, True, False]), torch.tensor([0, 1, 1])
    covariate = Covariate("plate", "covariate", ("0", "1"))
    layout = Layout(3, {"rna": Modality(tuple("abcd"))}, {"plate": covariate})
    panels = {"rna": torch.tensor([[0, 0, 1, 1], [1, 0, 0, 1]]).bool()}
    names = ["x", "y", "z"]
    cells = Cells(
        layout,
        names=names,
        measured={},
        present={"rna": present},
        covariates={"plate": plates},
        panels=panels,
        panel={"rna": torch.tensor([0, 1, 0])},
    )
    seen.note(cells, since={"plate": 1})
    assert seen.of("plate").int().tolist() == [[1, 1, 1, 1], [1, 0, 0, 1]]
    seen.note(cells)
    assert seen.of("plate").int().tolist() == [[0, 0, 1, 1], [1, 0, 0, 1]]


def test_no_cells_expect_nothing(model):
    cells = model.embedded.cells
    none = model.embed(
        cells[:0], trained=np.zeros(0, bool), codes={k: v[:0] for k, v in model.embedded.codes.items()}
    )
    assert none.expected("atac").shape == (0, 80)
