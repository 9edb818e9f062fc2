"""Giving a fitted model an encoder."""

from __future__ import annotations

from typing import Any

from chreode import posthoc
from chreode.errors import InputError
from chreode.fitted import FittedModel
from chreode.words import listing

__all__ = ["distil"]


def distil(
    model: FittedModel, source: Any = None, *, epochs: int | None = None, seed: int = 0, progress: bool = True
) -> FittedModel:
    """Train an encoder on the learned codes; later projections are instant.

    Parameters
    ----------
    model
        Stays as it is.
    source
        The cells to learn from, by default the fitted ones (whose counts a loaded model no longer has).
    epochs, seed, progress
        Of the encoder's training; 40 epochs unless told otherwise, more of few cells.

    Returns
    -------
    FittedModel
        The same model with encoders; ``project(source, refine=5)`` moves their codes by a few steps.
    """
    if len(model.layout.modalities) > 1:
        msg = (
            f"Expected a model of one modality to distil; found {listing(model.layout.modalities)}. Project "
            "without an encoder: model.project(source)."
        )
        raise InputError(msg)
    embedded = model.embedded if source is None else model.project(source)
    if not embedded.cells.measured:
        msg = (
            "Expected cells with counts to distil from; found a loaded model. Give the data: distil(model, "
            "source)."
        )
        raise InputError(msg)
    encoders = posthoc.distil(
        model.module, embedded.cells, embedded.codes, epochs=epochs, seed=seed, progress=progress
    )
    other = FittedModel(
        model.module,
        layout=model.layout,
        reading=model.reading,
        recipe=model.recipe,
        history=model.history,
        encoders=encoders,
    )
    other.embedded, other.reference = model.embedded, model.reference
    return other
