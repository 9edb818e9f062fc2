"""Cells that nothing could be learned from are refused before training."""

from __future__ import annotations

import mudata as md
import pytest

import chreode as ch
from chreode.errors import InputError
from chreode.io.simulate_multiome import simulate_multiome
from parts import table


@pytest.fixture
def paired():
    return simulate_multiome(90, 30, 60, seed=0)


def test_a_covariate_of_one_level_or_value_is_refused():
    adata = table()
    adata.obs["site"], adata.obs["dose"] = "s1", 2.5
    with pytest.raises(InputError, match=r"found one level \('s1'\) in column 'site'"):
        ch.read(adata, covariates=["site"])
    with pytest.raises(InputError, match=r"found one value \(2\.5\) in column 'dose'"):
        ch.read(adata, covariates=["dose"])
    # It may differ between sources, and new cells may all be alike.
    other = table(seed=1)
    other.obs["site"] = "s2"
    cells = ch.read({"a": adata, "b": other}, covariates=["site"])
    assert cells.layout.covariates["site"].levels == ("s1", "s2")
    assert len(ch.read(adata, like=cells)) == adata.n_obs


def test_modalities_without_a_cell_in_common_are_refused(paired):
    with md.set_options(pull_on_update=False):
        apart = md.MuData({"rna": paired["rna"][:40].copy(), "atac": paired["atac"][40:].copy()})
        some = md.MuData({"rna": paired["rna"][:50].copy(), "atac": paired["atac"][40:].copy()})
    with pytest.raises(InputError, match="in 'rna' and in 'atac'; found none"):
        ch.read(apart)
    assert int(ch.read(some).present["rna"].sum()) == 50
    # A model that knows both may be shown them.
    assert len(ch.read(apart, like=ch.read(some))) == 90


def test_modalities_may_be_linked_by_a_third(paired):
    third = paired["atac"].copy()
    third.var_names = [f"p{j}" for j in range(third.n_vars)]
    with md.set_options(pull_on_update=False):
        chain = md.MuData(
            {"rna": paired["rna"][:40].copy(), "third": third, "atac": paired["atac"][40:].copy()}
        )
    assert len(ch.read(chain)) == 90
