"""Zeros that a concatenation filled in are spoken of; genes that a donor lacks are not."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import chreode as ch


def table(genes: list[str], *, batch: str, cells: int = 60, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame({"batch": batch}, index=[f"{batch}{i}" for i in range(cells)])
    counts = rng.poisson(2.0, (cells, len(genes))).astype("float32")
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes))


@pytest.fixture
def panels() -> dict[str, ad.AnnData]:
    genes = [f"g{i}" for i in range(100)]
    return {"a": table(genes, batch="a"), "b": table(genes[:70], batch="b", seed=1)}


def spoken(source: object, **asked: str) -> list[str]:
    return [said for said in ch.read(source, **asked).reading.messages if "zero in every cell" in said]


def test_filled_in_zeros_are_spoken_of_and_the_advice_works(panels: dict[str, ad.AnnData]) -> None:
    whole = ad.concat(panels, join="outer", fill_value=0)
    (said,) = spoken(whole, batch="batch")
    assert "Of 100 features" in said
    assert "30 are zero in every cell of batch 'b'" in said
    assert "'g70', 'g71', 'g72' and 27 more" in said
    apart = ch.read(panels, batch="batch")
    assert not any("zero in every cell" in message for message in apart.reading.messages)
    mask = apart.mask("rna")
    assert mask is not None
    assert int(mask[-1].sum()) == 70


def test_nothing_is_said_without_batches(panels: dict[str, ad.AnnData]) -> None:
    assert not spoken(ad.concat(panels, join="outer", fill_value=0))


def test_few_silent_genes_are_no_panel(panels: dict[str, ad.AnnData]) -> None:
    whole = ad.concat([panels["a"], panels["a"].copy()], keys=["a", "c"], label="batch", index_unique="-")
    whole.X[60:, :2] = 0
    assert not spoken(whole, batch="batch")
    whole.X[60:, :3] = 0
    assert len(spoken(whole, batch="batch")) == 1


def test_rare_features_may_be_missing_from_a_batch() -> None:
    few = table([f"g{i}" for i in range(100)], batch="a", cells=15)
    more = few.copy()
    more.obs_names, more.obs["batch"] = [f"b{i}" for i in range(15)], "b"
    # Each of the others should be in 13 of these cells: too few to be sure.
    more.X[:, 50:] = 0
    assert not spoken(ad.concat([few, more]), batch="batch")


def test_of_several_modalities_the_one_concerned_is_named(panels: dict[str, ad.AnnData]) -> None:
    import mudata

    prot = ad.concat(panels, join="outer", fill_value=0)
    rna = table([f"r{i}" for i in range(40)], batch="a", cells=120)
    rna.obs_names = prot.obs_names
    with mudata.set_options(pull_on_update=False):
        both = mudata.MuData({"rna": rna, "prot": prot[:110].copy()})
    both.obs["batch"] = prot.obs["batch"]
    (said,) = spoken(both, batch="batch")
    assert "prot" in said
    assert "batch 'b'" in said
