"""Fitting a recipe to cells."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from chreode import posthoc
from chreode.fitted import FittedModel
from chreode.loop import Call
from chreode.train import check, train
from chreode.words import listing

if TYPE_CHECKING:
    from pathlib import Path

    from chreode.cells import Cells
    from chreode.recipe import Recipe

__all__ = ["fit"]


def fit(
    cells: Cells,
    recipe: Recipe,
    *,
    epochs: int | None = None,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    precision: str = "auto",
    validation: float = 0.1,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> FittedModel:
    """Fit a recipe to cells.

    Parameters
    ----------
    cells
        From `chreode.read`.
    recipe
        From `chreode.recipes`.
    epochs
        Passes over the cells at most; None takes the recipe's.
    seed
        Of everything random in this call; nothing global changes.
    device
        ``auto`` (CUDA if there is one, else the CPU), ``cpu``, ``cuda`` or ``mps``.
    devices
        How many. With more than one, each owns its cells and their codes; call from under
        ``if __name__ == "__main__":``, since further processes are spawned.
    precision
        ``auto``: single precision, but on CPUs that multiply bfloat16 faster an encoder's first layer and a
        decoder's last are trained on numbers rounded to it before they are multiplied (`chreode.rounding`);
        else as Lightning Fabric names it: ``32-true``, ``bf16-mixed``, ...
    validation
        Share of the cells whose held-out molecules decide when to stop; 0 trains all epochs on all cells,
        as recipes do that do not stop early.
    checkpoint
        A folder for atomic checkpoints; the same call on it resumes, and returns a finished run's model.
    progress
        Whether to show a bar.

    Returns
    -------
    FittedModel
        Its ``embedded`` covers every cell read, in the file's order.

    Raises
    ------
    InputError
        Before training: for arguments out of range, cells without counts, a likelihood that does not hold
        the values, or a checkpoint of another call.
    NonFinite
        When the loss stops being a number; names term, step, cells and features.
    """
    call = Call(
        epochs, seed, device, devices, precision, validation, checkpoint and str(checkpoint), progress
    )
    check(cells, recipe, call)
    cells = _modelled(cells, recipe)
    trained = train(cells, recipe, call)
    module = trained.build.model
    model = FittedModel(
        module,
        layout=replace(cells.layout, n_cells=len(trained.rows)),
        reading=cells.reading,
        recipe=recipe,
        history=trained.history,
    )
    mask = np.zeros(len(cells), dtype=bool)
    mask[trained.rows.numpy()] = True
    codes = posthoc.codes_of_all(module, cells, mask)
    model.embedded = model.embed(cells, trained=mask, codes=codes)
    return model


def _modelled(cells: Cells, recipe: Recipe) -> Cells:
    """The cells in the modalities that the recipe models."""
    if not cells.readout and any(m.readout for m in cells.layout.modalities.values()):
        # Read for another model, which knows the way back from coordinates; this one could not learn it.
        known = {name: replace(m, readout=()) for name, m in cells.layout.modalities.items()}
        cells = cells.replace(layout=replace(cells.layout, modalities=known))
    first, *others = cells.layout.modalities
    if recipe.definition.joint or not others:
        return cells
    logging.getLogger(__name__).warning(
        "%s models one modality: %s is used and %s left out. Read with modalities=... (--modality) to "
        "choose, or fit a recipe of several, such as multidgd.",
        recipe.name,
        first,
        listing(others),
    )
    return cells.only(first)
