"""Which modalities and layers of a source are read: those asked for, or those that a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from chreode.errors import InputError
from chreode.io.schema import INHERITED, Schema
from chreode.io.source import MODALITY, Part
from chreode.words import listing

if TYPE_CHECKING:
    from chreode.cells import Reading
    from chreode.io.source import Source
    from chreode.layout import Layout

__all__ = ["Fitted", "inherited", "parts_of"]


@runtime_checkable
class Fitted(Protocol):
    """What ``like=`` needs of a model: what it was trained on."""

    layout: Layout
    reading: Reading


def parts_of(source: Source, schema: Schema) -> dict[str, Part]:
    """The modalities that are asked for."""
    if not source.parts:
        # What a source of one modality holds, only the user can say.
        if len(schema.modalities) > 1:
            msg = (
                f"Expected one modality of {source.name}, which does not say that it has several; found "
                f"{listing(schema.modalities)}. Name one, or add a column 'feature_types' to its features."
            )
            raise InputError(msg)
        return {(*schema.modalities, MODALITY)[0]: Part(source)}
    wanted = [name for name in schema.modalities or source.parts if name in source.parts]
    if len(wanted) > 1 and schema.features is not None and not isinstance(schema.features, Mapping):
        msg = (
            f"Expected features by modality, of {listing(wanted)}; found {schema.features!r} for all. Give "
            f"features={{{wanted[0]!r}: ...}}."
        )
        raise InputError(msg)
    return {name: source.parts[name] for name in wanted}


def inherited(
    schema: Schema, source: Source, like: Fitted
) -> tuple[Schema, dict[str, Part], tuple[str, ...]]:
    """The model's schema, changed where this call names another field, and the modalities it can use."""
    if schema.covariates or schema.features is not None:
        msg = "Expected the model to say which covariates and features are read; found them given with like=."
        raise InputError(msg + " Leave covariates and features out.")
    known = like.layout.modalities
    if not source.parts and not schema.modalities:
        schema = replace(schema, modalities=(MODALITY if MODALITY in known else next(iter(known)),))
    parts = parts_of(source, schema)
    said: list[str] = []
    if others := [name for name in parts if name not in known]:
        said.append(f"{listing(others)} was left out, which the model does not know.")
    parts = {name: part for name, part in parts.items() if name in known}
    if not parts:
        msg = (
            f"Expected a modality that the model knows ({listing(known)}); found {listing(others)} in "
            f"{source.name}. {_remedy(source, others[0], next(iter(known)))}"
        )
        raise InputError(msg)
    kinds = {name: m.kind for name, m in known.items()}
    for name in parts:
        found = schema.of_modality(name).values
        if found not in ("counts", kinds[name]):
            msg = (
                f"Expected values={kinds[name]!r}, as the model was trained; found {found!r}. Leave values "
                "out."
            )
            raise InputError(msg)
    changes: dict[str, str | None] = {}
    for role in INHERITED:
        column = getattr(schema, role)
        trained = next((c.column for c in like.layout.covariates.values() if c.role == role), None)
        changes[role] = column or trained
        if column and trained is None:
            changes[role] = None
            said.append(f"The model knows no {role}: column {column!r} was not read.")
    trained = Schema.from_json(like.reading.schema) if like.reading.schema else Schema()
    counts, more = _layers(schema, parts, trained)
    covariates = tuple(c.column for c in like.layout.covariates.values() if c.role == "covariate")
    given = replace(
        schema,
        counts=counts,
        covariates=covariates,
        values=kinds,
        **changes,
        unlabelled=schema.unlabelled or trained.unlabelled,
    )
    return given, parts, (*said, *more)


def _remedy(source: Source, found: str, known: str) -> str:
    """How to say that a modality is one that the model knows."""
    if source.parts:
        return f"Give it that name: mudata.MuData({{{known!r}: mdata[{found!r}], ...}})."
    return (
        "Name what it holds: chreode.read(..., modalities=[...], like=model), --modality on the command line."
    )


def _layers(
    schema: Schema, parts: Mapping[str, Part], trained: Schema
) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """The layer of each modality: the one named here, or the one that training read."""
    layers: dict[str, str | None] = {}
    said: tuple[str, ...] = ()
    for name, part in parts.items():
        here: Any = schema.of_modality(name).counts
        then: Any = trained.of_modality(name).counts
        layers[name] = here or then
        fields = list(part.source.fields)
        if here is None and then not in (None, *fields) and fields == ["X"]:
            layers[name] = None
            said += (f"The model was trained on layer {then!r}; here there is only X, which was read.",)
    return layers, said
