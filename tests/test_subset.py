"""Clusters within clusters: a part of the cells under the decoder of all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

import chreode as ch
from chreode.errors import InputError
from parts import table


@pytest.fixture(scope="module")
def nested() -> tuple[ch.FittedModel, np.ndarray, np.ndarray]:
    """Two kinds of cells that differ in many genes, the first of which has two kinds that differ in few."""
    import anndata as ad
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    kind, within = rng.integers(2, size=400), rng.integers(2, size=400)
    logits = rng.normal(0, 1.5, (2, 60))[kind]
    logits[:, :8] += np.where((kind == 0) & (within == 1), 1.3, 0.0)[:, None]
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    counts = rng.poisson(share * rng.lognormal(6.5, 0.2, 400)[:, None])
    adata = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)))
    recipe = ch.recipes.scdgd(dim=4, hidden=(16,), components=2)
    model = ch.fit(ch.read(adata), recipe, epochs=120, progress=False)
    return model, kind, within


def test_components_are_found_within_a_component(nested) -> None:
    model, kind, within = nested
    assert adjusted_rand_score(kind, model.embedded.components()) > 0.95
    part = model.subset(kind == 0, components=2, progress=False)
    assert adjusted_rand_score(within[kind == 0], part.embedded.components()) > 0.8
    assert len(part.embedded) == (kind == 0).sum()
    np.testing.assert_array_equal(part.embedded.names, model.embedded.names[kind == 0])


def test_the_decoder_stays_and_the_model_too(nested) -> None:
    model, kind, _ = nested
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    part = model.subset(np.flatnonzero(kind == 0), epochs=8, progress=False)
    for name, value in part.module.decoder.state_dict().items():
        assert torch.equal(value, before[f"decoder.{name}"])
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    assert all(p.requires_grad for p in part.module.decoder.parameters())
    # How many components there are is the data's to say again, unless they are given.
    assert part.recipe.arguments["components"] is None
    again = model.subset(kind == 0, epochs=8, progress=False)
    np.testing.assert_array_equal(again.embedded.embedding, part.embedded.embedding)


def test_it_is_a_model_like_any_other(nested, tmp_path) -> None:
    model, kind, _ = nested
    part = model.subset(kind == 0, components=2, epochs=8, progress=False)
    part.save(tmp_path / "part")
    loaded = ch.load(tmp_path / "part")
    np.testing.assert_array_equal(loaded.embedded.embedding, part.embedded.embedding)
    with pytest.raises(InputError, match="counts"):
        loaded.subset([0, 1, 2])


def test_an_encoders_codes_stay() -> None:
    cells = ch.read(table())
    model = ch.fit(cells, ch.recipes.scvae(dim=3, hidden=(8,), components=3), epochs=20, progress=False)
    part = model.subset(np.arange(50), components=2, epochs=6, progress=False)
    np.testing.assert_allclose(part.embedded.embedding, model.embedded.embedding[:50], rtol=1e-4, atol=1e-5)
    assert part.components == 2


@pytest.mark.parametrize("which", [np.ones(7, dtype=bool), [0, 400], np.ones((400, 1), dtype=bool), [-1]])
def test_bad_masks_are_refused(nested, which) -> None:
    with pytest.raises(InputError, match="Expected a mask of 400 cells"):
        nested[0].subset(which)


def test_too_few_cells_are_refused(nested) -> None:
    with pytest.raises(InputError, match="two cells"):
        nested[0].subset([3])
    with pytest.raises(InputError, match="Expected an argument of scdgd"):
        nested[0].subset([3, 4, 5], clusters=3)
