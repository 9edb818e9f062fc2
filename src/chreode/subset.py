"""A part of the cells: their codes and components anew, under the decoder that all of them taught."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from chreode.axes import Tensor
from chreode.loop import Call, mix, run_here, seeded
from chreode.optim import codebooks
from chreode.priors import Mixture
from chreode.train import Trained, begin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chreode.cells import Cells
    from chreode.model import LatentModel
    from chreode.recipe import Build, Recipe

__all__ = ["refit"]


def refit(
    model: LatentModel, recipe: Recipe, cells: Cells, codes: Mapping[str, Tensor], *, call: Call
) -> Trained:
    """Fit free codes and a mixture to some cells; decoder and encoders stay bit-identical.

    The recipe's plan is run on these cells, from their codes and without held-out molecules: components are
    placed where these codes are, as if there were no others. Any other prior stays as it is.

    Parameters
    ----------
    model
        Whose decoder explains the cells; is not touched.
    recipe
        It was fitted with, or the same with other arguments of the mixture.
    cells
        With counts.
    codes
        By latent, where to begin.
    call
        Epochs, seed and progress of the run.
    """
    import pandas as pd

    training = cells.numbered()
    with seeded(mix(call.seed, 7)):
        build = recipe.build(training.layout)
    begin(build, training, mix(call.seed, 11), progress=call.progress)
    plan = replace(build.plan, epochs=call.epochs or build.plan.epochs, stop=None)
    build = replace(build, plan=plan)
    _take(build, model, codes)
    still = [build.model.decoder, *(latent.infer for latent in build.model.latents.values())]
    still = [p for part in still for p in part.parameters() if p.requires_grad]
    for p in still:
        p.requires_grad_(False)
    tensors, history = run_here(build, training, replace(call, epochs=plan.epochs))
    for p in still:
        p.requires_grad_(True)
    build.model.load_state_dict(tensors)
    _networks(build, model)  # whose running statistics, if any, the run moved
    build.model.eval().zero_grad(set_to_none=True)
    rows = torch.arange(len(cells))
    return Trained(build, rows, rows[:0], pd.DataFrame(history))


def _networks(build: Build, model: LatentModel) -> None:
    """Decoder and encoders of the model."""
    build.model.decoder.load_state_dict(model.decoder.state_dict())
    for name, latent in build.model.latents.items():
        if not latent.infer.free:
            latent.infer.load_state_dict(model.latents[name].infer.state_dict())


@torch.no_grad()
def _take(build: Build, model: LatentModel, codes: Mapping[str, Tensor]) -> None:
    """Decoder, encoders, codes, and priors but mixtures, from the model."""
    _networks(build, model)
    for name, latent in build.model.latents.items():
        if not isinstance(latent.prior, Mixture):
            latent.prior.load_state_dict(model.latents[name].prior.state_dict())
    for name, book in codebooks(build.model).items():
        book.codes.copy_(codes[name])
        if book.start is not None:
            # Where codes of new cells begin: as all cells have it.
            book.start.load_state_dict(model.latents[name].infer.start.state_dict())
