"""The schema: which field of a source is what, checked before anything is opened."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast, get_args

import numpy as np

from chreode.errors import InputError
from chreode.words import listing, nearest

if TYPE_CHECKING:
    from chreode.layout import Role

__all__ = ["INHERITED", "Asked", "Schema", "Values"]

INHERITED: tuple[Role, ...] = ("batch", "label", "time", "growth", "course", "perturbation")
"""Roles whose columns cells that are read for a model take from it."""

Values = Literal["counts", "binary", "continuous"]
Features = str | tuple[str, ...] | int | None
T = TypeVar("T")


class Asked(NamedTuple):
    """The layer, features and kind of values of one modality; whether the kind was left open; its name."""

    counts: str | None
    features: Features
    values: Values
    open: bool = False
    modality: str = ""


@dataclass(frozen=True)
class Schema:
    """Which field of a source is what; the arguments of `chreode.read` as plain values.

    Parameters
    ----------
    counts
        Layer that holds the values, ``"raw"`` for ``adata.raw``, None for ``X``; or one by modality.
    batch, label
        Columns of the cell table in these roles.
    covariates
        Further columns that condition a decoder.
    features
        None for all, a boolean column of the feature table, names, or how many; or one by modality.
    values
        What the values are, or one by modality; None for counts, or zeros and ones where there are no others.
    modalities
        Those that are read; empty for all.
    unlabelled
        Level of the label that means that there is none.
    time
        Column of the times at which cells were measured.
    coordinates, dims
        Numbers beside the features that are read in their place, and how many of their dimensions.
    growth
        Column of the growth rates of cells.
    course, perturbation
        Columns of which cells become each other, and of the feature that is held in them.
    """

    counts: str | Mapping[str, str | None] | None = None
    batch: str | None = None
    label: str | None = None
    covariates: tuple[str, ...] = ()
    features: Features | Mapping[str, Features] = None
    values: Values | Mapping[str, Values] | None = None
    modalities: tuple[str, ...] = ()
    unlabelled: str | None = None
    time: str | None = None
    coordinates: str | None = None
    dims: int | None = None
    growth: str | None = None
    course: str | None = None
    perturbation: str | None = None

    @classmethod
    def of(
        cls,
        *,
        counts: str | Mapping[str, str | None] | None = None,
        batch: str | None = None,
        label: str | None = None,
        covariates: str | Sequence[str] = (),
        features: str | Iterable[str] | int | Mapping[str, Any] | None = None,
        values: str | Mapping[str, str] | None = None,
        modalities: str | Sequence[str] = (),
        unlabelled: str | None = None,
        time: str | None = None,
        coordinates: str | None = None,
        dims: int | None = None,
        growth: str | None = None,
        course: str | None = None,
        perturbation: str | None = None,
    ) -> Schema:
        """Check the arguments' types and bring them to plain values.

        Raises
        ------
        InputError
            For a name that is not text, a column in two roles, a number of features below one, or values
            of an unknown kind.
        """
        for argument, name in {
            "batch": batch,
            "label": label,
            "unlabelled": unlabelled,
            "time": time,
            "coordinates": coordinates,
            "growth": growth,
            "course": course,
            "perturbation": perturbation,
        }.items():
            _text(name, argument, optional=True)
        columns = (covariates,) if isinstance(covariates, str) else tuple(covariates)
        chosen = (modalities,) if isinstance(modalities, str) else tuple(modalities)
        for argument, names in {"covariates": columns, "modalities": chosen}.items():
            for name in names:
                _text(name, argument)
        schema = cls(
            _each(counts, lambda value: _text(value, "counts", optional=True)),
            batch,
            label,
            columns,
            _each(features, _features),
            _each(values, _values),
            chosen,
            unlabelled,
            time,
            coordinates,
            _dims(dims),
            growth,
            course,
            perturbation,
        )
        schema._refuse_two_roles()
        schema._refuse_features_of_coordinates()
        return schema

    @property
    def roles(self) -> list[tuple[str, Role]]:
        """The columns to be read and what each is for: batch, label, covariates and those of dynamics."""
        named: list[tuple[str | None, Role]] = [
            (self.batch, "batch"),
            (self.label, "label"),
            *((column, "covariate") for column in self.covariates),
            (self.time, "time"),
            (self.growth, "growth"),
            (self.course, "course"),
            (self.perturbation, "perturbation"),
        ]
        return [(column, role) for column, role in named if column is not None]

    def of_modality(self, name: str) -> Asked:
        """What is asked of one modality."""
        values = self.values.get(name) if isinstance(self.values, Mapping) else self.values
        return Asked(
            self.counts.get(name) if isinstance(self.counts, Mapping) else self.counts,
            self.features.get(name) if isinstance(self.features, Mapping) else self.features,
            values or "counts",
            values is None,
            name,
        )

    def refuse_unknown(self, known: Iterable[str], where: str) -> None:
        """Refuse a modality that is asked for, or asked something of, and that a source does not have.

        Raises
        ------
        InputError
            Naming those it has.
        """
        known = list(known)
        by = {"counts": self.counts, "features": self.features, "values": self.values}
        asked = dict.fromkeys(self.modalities, "modalities")
        asked |= {name: argument for argument, v in by.items() if isinstance(v, Mapping) for name in v}
        for name, argument in asked.items():
            if name not in known:
                msg = (
                    f"Expected a modality of {where} ({listing(known)}) in {argument}=; found {name!r}."
                    f"{nearest(name, known)} Name one of these."
                )
                raise InputError(msg)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values that `from_json` reads back."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Schema:
        """Read what `to_json` wrote.

        Examples
        --------
        >>> Schema.from_json({"batch": "donor", "features": ["CD3E"]}).features
        ('CD3E',)
        """
        return cls.of(**values)

    def _refuse_features_of_coordinates(self) -> None:
        if self.coordinates is None:
            if self.dims is not None:
                msg = f"Expected coordinates= beside dims={self.dims}; found none. Name an entry of obsm."
                raise InputError(msg)
            return
        asked = {"counts": self.counts, "features": self.features, "values": self.values}
        # What a model was read with says it by modality: no layer, and continuous.
        said = {name: v.values() if isinstance(v, Mapping) else [v] for name, v in asked.items()}
        if given := [name for name, each in said.items() if set(each) - {None, "continuous"}]:
            msg = (
                f"Expected coordinates={self.coordinates!r} alone; found {listing(given)} beside it, which "
                "choose among features. Leave them out, or coordinates."
            )
            raise InputError(msg)

    def _refuse_two_roles(self) -> None:
        columns = [column for column, _ in self.roles]
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            msg = (
                f"Expected every column in one role; found {listing(twice)} more than once among batch, "
                "label, covariates, time, growth, course and perturbation. Name it once (batch and "
                "covariates both condition the decoder)."
            )
            raise InputError(msg)


def _dims(dims: Any) -> int | None:
    if dims is None:
        return None
    if isinstance(dims, bool) or not isinstance(dims, (int, np.integer)) or dims < 1:
        msg = f"Expected dims to be a whole number of at least 1; found {dims!r}."
        raise InputError(msg)
    return int(dims)


def _each(value: Any, check: Callable[[Any], T]) -> Any:
    """One value, or one by modality, checked."""
    if not isinstance(value, Mapping):
        return check(value)
    return {str(name): check(one) for name, one in value.items()}


def _values(values: object) -> Values | None:
    if values is not None and values not in get_args(Values):
        msg = f"Expected values to be one of {', '.join(get_args(Values))}; found {values!r}."
        raise InputError(msg)
    return cast("Values | None", values)


def _text(name: Any, argument: str, *, optional: bool = False) -> Any:
    if isinstance(name, str) or (optional and name is None):
        return name
    msg = f"Expected {argument} to name a field with text; found {name!r} ({type(name).__name__})."
    raise InputError(msg)


def _features(features: str | Iterable[str] | int | None) -> Features:
    if features is None or isinstance(features, str):
        return features
    if isinstance(features, (int, np.integer)) and not isinstance(features, bool):
        if features < 1:
            msg = f"Expected at least one feature; found features={features}."
            raise InputError(msg)
        return int(features)
    if isinstance(features, bool) or not isinstance(features, Iterable):
        msg = (
            "Expected features to be a column of the feature table, a list of names or a whole number; "
            f"found {features!r}."
        )
        raise InputError(msg)
    names = tuple(features)
    for name in names:
        _text(name, "features")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice or not names:
        found = f"{listing(twice)} more than once" if twice else "an empty list"
        msg = f"Expected features to name every feature once; found {found}."
        raise InputError(msg)
    return tuple(str(name) for name in names)
