"""A supervised fit begins with every level's component where the codes of its cells are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import chreode as ch
from chreode.errors import InputError
from chreode.io.simulate import simulate


def labelled(components: int = 10) -> ch.Cells:
    return ch.read(simulate(600, 200, components=components, separation=8.0, seed=0), label="component")


def test_ten_levels_are_told_apart_without_their_label() -> None:
    cells = labelled()
    model = ch.fit(cells, ch.recipes.scdgd(dim=10, supervised=True), epochs=10, progress=False)
    density = model.module.latents["cell"].prior.mixture()
    trained = torch.from_numpy(np.flatnonzero(model.embedded.trained))
    codes = torch.from_numpy(model.embedded.embedding)[trained]
    level = cells.covariates["component"][trained]
    assert (density.responsibilities(codes).argmax(1) == level).double().mean() > 0.95
    # A width that the codes do not have would cost hundreds of nats a cell.
    own = -model.history["prior"].iloc[0]
    assert own > -3 * codes.shape[1]


def test_levels_without_codes_get_the_mean_of_all() -> None:
    prior = ch.priors.LabelledMixture("type", 3, 2)
    z = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    levels = torch.arange(50) % 2
    levels[:4] = -1
    prior.place(z, levels)
    means = prior.mixture.means
    torch.testing.assert_close(means[0], z[levels == 0].mean(0))
    torch.testing.assert_close(means[2], z[levels >= 0].mean(0))


@pytest.mark.parametrize(
    "recipe",
    [
        lambda: ch.recipes.scdgd(supervised=True, components=4),
        lambda: ch.recipes.dgd(mixture=False, components=4),
        lambda: ch.recipes.dgd(mixture=False, supervised=True),
    ],
)
def test_contradicting_arguments_are_refused(recipe) -> None:
    with pytest.raises(InputError, match="Leave"):
        ch.fit(labelled(3), recipe(), epochs=1, progress=False)


def test_the_papers_of_the_parts_are_cited() -> None:
    cells = ch.read(simulate(80, 60, components=2, batches=2, seed=0), label="component", batch="batch")
    recipe = ch.recipes.scdgd(dim=3, likelihood="zinb", supervised=True)
    cited = ch.fit(cells, recipe, epochs=1, progress=False).cite()
    for doi in ("btad497", "s41592-019-0619-0", "s41592-018-0229-2", "s41467-024-53340-z"):
        assert doi in cited
    plain = ch.fit(labelled(2), ch.recipes.scdgd(dim=3), epochs=1, progress=False).cite()
    assert "btad497" in plain
    assert "s41592" not in plain
