"""The schema: which field of a source is what, checked before anything is opened."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from chreode.errors import InputError

if TYPE_CHECKING:
    from chreode.cells import Role

__all__ = ["Schema", "Values", "listing", "nearest"]

Values = Literal["counts", "binary", "continuous"]


@dataclass(frozen=True)
class Schema:
    """Which field of a source is what; the arguments of `chreode.read` as plain values.

    Parameters
    ----------
    counts
        Layer that holds the values, ``"raw"`` for ``adata.raw``, None for ``X``.
    batch, label
        Columns of the cell table in these roles.
    covariates
        Further columns that condition a decoder.
    features
        None for all, a boolean column of the feature table, names, or how many.
    values
        What the values are.
    """

    counts: str | None = None
    batch: str | None = None
    label: str | None = None
    covariates: tuple[str, ...] = ()
    features: str | tuple[str, ...] | int | None = None
    values: Values = "counts"

    @classmethod
    def of(
        cls,
        *,
        counts: str | None = None,
        batch: str | None = None,
        label: str | None = None,
        covariates: str | Sequence[str] = (),
        features: str | Iterable[str] | int | None = None,
        values: str = "counts",
    ) -> Schema:
        """Check the arguments' types and bring them to plain values.

        Raises
        ------
        InputError
            For a name that is not text, a column in two roles, a number of features below one, or values
            of an unknown kind.
        """
        for argument, name in {"counts": counts, "batch": batch, "label": label}.items():
            _text(name, argument, optional=True)
        columns = (covariates,) if isinstance(covariates, str) else tuple(covariates)
        for name in columns:
            _text(name, "covariates")
        if values not in get_args(Values):
            msg = f"Expected values to be one of {', '.join(get_args(Values))}; found {values!r}."
            raise InputError(msg)
        schema = cls(counts, batch, label, columns, _features(features), cast("Values", values))
        schema._refuse_two_roles()
        return schema

    @property
    def roles(self) -> list[tuple[str, Role]]:
        """The columns to be read and what each is for: batch, label, then covariates."""
        named: list[tuple[str | None, Role]] = [
            (self.batch, "batch"),
            (self.label, "label"),
            *((column, "covariate") for column in self.covariates),
        ]
        return [(column, role) for column, role in named if column is not None]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values that `from_json` reads back."""
        features = list(self.features) if isinstance(self.features, tuple) else self.features
        return {**asdict(self), "covariates": list(self.covariates), "features": features}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Schema:
        """Read what `to_json` wrote.

        Examples
        --------
        >>> Schema.from_json({"batch": "donor", "features": ["CD3E"]}).features
        ('CD3E',)
        """
        return cls.of(**values)

    def _refuse_two_roles(self) -> None:
        columns = [column for column, _ in self.roles]
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            msg = (
                f"Expected every column in one role; found {listing(twice)} more than once among batch, "
                "label "
                "and covariates. Name it once (batch and covariates both condition the decoder)."
            )
            raise InputError(msg)


def _text(name: object, argument: str, *, optional: bool = False) -> None:
    if isinstance(name, str) or (optional and name is None):
        return
    msg = f"Expected {argument} to name a field with text; found {name!r} ({type(name).__name__})."
    raise InputError(msg)


def _features(features: str | Iterable[str] | int | None) -> str | tuple[str, ...] | int | None:
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


def listing(names: Iterable[object], *, limit: int = 8) -> str:
    """Names in quotes, the first few of them.

    Examples
    --------
    >>> listing(["a", "b", "c"], limit=2)
    "'a', 'b' and 1 more"
    """
    every = [str(name) for name in names]
    if not every:
        return "none"
    shown = ", ".join(repr(name) for name in every[:limit])
    return shown if len(every) <= limit else f"{shown} and {len(every) - limit:,} more"


def nearest(name: str, names: Iterable[object]) -> str:
    """A sentence that offers the name that differs in case alone, the names most like it, or nothing.

    Examples
    --------
    >>> nearest("celltype", ["cell_type", "donor"])
    " Did you mean 'cell_type'?"
    """
    folded = {str(known).casefold(): str(known) for known in names}
    if name.casefold() in folded:
        return f" Did you mean {folded[name.casefold()]!r}?"
    close = difflib.get_close_matches(name.casefold(), list(folded), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(folded[match]) for match in close)}?" if close else ""
