"""Coordinates that lie beside the cells (``obsm``), read in place of the features."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.io.matrix import Matrix
from chreode.io.regression import Regression, regress
from chreode.io.schema import Schema
from chreode.io.source import Field, Source, Table
from chreode.words import listing, many, nearest

if TYPE_CHECKING:
    from chreode.io.wanted import Fitted

__all__ = ["at_coordinates"]


def at_coordinates(source: Source, schema: Schema, like: Fitted | None) -> tuple[Source, Schema]:
    """The source whose one modality is the coordinates asked for, or that the model knows; else as it was.

    Raises
    ------
    InputError
        When there are none of this name, or fewer dimensions than asked for, or some are not finite numbers.
    """
    known = None if like is None else Schema.from_json(like.reading.schema).coordinates
    key = schema.coordinates or known
    if key is None:
        return source, schema
    if like is not None and known is None:
        said = f"The model knows no coordinates: {key!r} was not read."
        return replace(source, messages=(*source.messages, said)), schema
    # To the model they are what it was trained on, whatever they are called here.
    name = key if like is None else next(iter(like.layout.modalities))
    if name in source.parts:  # as cells that were read before have them
        return source, schema
    dims = schema.dims if like is None else like.layout.modalities[name].n_features
    values = _values(source, key)
    if dims is not None and dims > values.shape[1]:
        msg = (
            f"Expected {many(dims, 'dimension')} in obsm[{key!r}] of {source.name}; found {values.shape[1]}. "
            "Give fewer dims, or other coordinates."
        )
        raise InputError(msg)
    values = values[:, :dims]
    _refuse_missing(values, key, source)
    features = Table(np.asarray([f"{name} {i + 1}" for i in range(values.shape[1])], dtype=object))
    field = Field(Matrix.of(values, where=f"obsm[{key!r}]"), features)
    readout = _readout(source, values) if like is None else None  # which a model knows already
    alone = Source(source.name, source.cells, features, {"X": lambda: field}, readout=readout)
    changed = {"modalities": (name,), "values": "continuous", "coordinates": key}
    return alone, Schema.from_json({**schema.to_json(), **changed})


def _readout(source: Source, values: np.ndarray) -> Regression | None:
    """How the features in ``X`` go with coordinates; None where there is no ``X``."""
    if source.parts or "X" not in source.fields:
        return None
    field = source.field(None)
    return regress(field.matrix, field.features.names, values) if len(field.features) else None


def _values(source: Source, key: str) -> np.ndarray:
    if key not in source.tables:
        found = f"found {listing(sorted(source.tables))}" if source.tables else "it has no obsm"
        msg = f"Expected obsm[{key!r}] in {source.name}; {found}.{nearest(key, source.tables)} "
        remedy = "Name coordinates that are there."
        if not source.tables:
            remedy = (
                'Where X itself holds them, read values="continuous" (--values continuous) in their place.'
            )
        raise InputError(msg + remedy)
    stored: Any = source.tables[key]()
    stored = stored.toarray() if hasattr(stored, "toarray") else stored
    try:
        values = np.asarray(stored, dtype=np.float32)
    except (TypeError, ValueError):
        values = np.zeros((0, 0), dtype=np.float32)
    if values.ndim != 2 or not values.size:
        msg = f"Expected numbers, cells by dimensions, in obsm[{key!r}] of {source.name}; found others."
        raise InputError(msg + " Give other coordinates.")
    return values


def _refuse_missing(values: np.ndarray, key: str, source: Source) -> None:
    missing = ~np.isfinite(values).all(1)
    if missing.any():
        first = listing(source.cells.names[missing][:3])
        msg = (
            f"Expected finite coordinates of every cell in obsm[{key!r}]; found {int(missing.sum()):,} of "
            f"{len(values):,} cells with missing or infinite ones (first: {first}). Leave these cells out."
        )
        raise InputError(msg)
