"""What a recipe may know of the data: the features of each modality, and the columns that describe cells."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from chreode.errors import InputError
from chreode.words import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Covariate", "Kind", "Layout", "Modality", "Role", "encode"]

Kind = Literal["counts", "binary", "continuous"]
Role = Literal["batch", "label", "covariate", "time", "growth", "course", "perturbation"]


@dataclass(frozen=True)
class Modality:
    """The features of one modality, in order.

    Parameters
    ----------
    names
        Feature names, unique, ``g`` of them.
    kind
        What the values are: ``counts`` (0, 1, 2, ...), ``binary`` (0, 1) or ``continuous``.
    symbols
        Readable names beside ``names`` (a 10x file is keyed by gene ids); empty when there are none.
    readout
        Of coordinates that were read in place of features: names of these, which they lead back to.
    """

    names: tuple[str, ...]
    kind: Kind = "counts"
    symbols: tuple[str, ...] = ()
    readout: tuple[str, ...] = ()

    @property
    def positions(self) -> dict[str, int]:
        """Where a feature is, by name or symbol; those that coordinates lead back to come after these."""
        after = {name: self.n_features + j for j, name in enumerate(self.readout)}
        return after | {g: j for names in (self.symbols, self.names) for j, g in enumerate(names)}

    @property
    def n_features(self) -> int:
        """Number of features ``g``."""
        return len(self.names)


@dataclass(frozen=True)
class Covariate:
    """One column that describes cells.

    Parameters
    ----------
    column
        Its name in the user's table.
    role
        ``batch`` and ``covariate`` condition the decoder; ``label`` is for scores and tables unless a
        recipe is supervised; ``time`` is when a cell was measured, which dynamics follow; ``growth`` how fast
        its kind multiplies, which they count by; ``course`` says which cells become each other;
        ``perturbation`` which feature is held at its value.
    levels
        Level names of a categorical column, ``c`` of them; empty for a continuous one.
    location, scale
        Mean and standard deviation of a continuous column in the training cells; the model sees
        ``(value - location) / scale``. A time or growth rate is seen as it is.
    times
        The times at which cells were measured, in order, of a column that is a time.
    """

    column: str
    role: Role
    levels: tuple[str, ...] = ()
    location: float = 0.0
    scale: float = 1.0
    times: tuple[float, ...] = ()

    @property
    def categorical(self) -> bool:
        """Whether the column has levels."""
        return bool(self.levels)


@dataclass(frozen=True)
class Layout:
    """Everything a recipe may know of the data: names, kinds and sizes, never values.

    Parameters
    ----------
    n_cells
        Number of cells that have a row in a codebook: those that train.
    modalities
        `Modality` by name (``rna``, ...).
    covariates
        `Covariate` by column name.
    """

    n_cells: int
    modalities: Mapping[str, Modality]
    covariates: Mapping[str, Covariate] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Features of all modalities together."""
        return sum(m.n_features for m in self.modalities.values())

    @property
    def conditions(self) -> dict[str, Covariate]:
        """The covariates that condition a decoder: batch first; none of another role."""
        chosen = [c for c in self.covariates.values() if c.role in ("batch", "covariate")]
        return {c.column: c for c in sorted(chosen, key=lambda c: c.role != "batch")}

    def without(self, *columns: str) -> Layout:
        """The same without some covariates."""
        left = {name: c for name, c in self.covariates.items() if name not in columns}
        return replace(self, covariates=left)

    def conditioned_by(self, *columns: str) -> Layout:
        """The same with some covariates as conditions, whatever their role."""
        changed = {name: replace(self.covariates[name], role="covariate") for name in columns}
        return replace(self, covariates={**self.covariates, **changed})

    @property
    def held(self) -> tuple[int, ...]:
        """Which feature of the first modality each level of the perturbation names; -1 for none."""
        column = self.in_role("perturbation")
        if column is None:
            return ()
        at = next(iter(self.modalities.values())).positions
        return tuple(at.get(level, -1) for level in column.levels)

    @property
    def n_courses(self) -> int:
        """In how many courses cells may be followed, those of each perturbation apart."""
        course = self.in_role("course")
        return len(course.levels if course else ("",)) * len({-1, *self.held})

    def in_role(self, role: Role) -> Covariate | None:
        """The first covariate in a role, or None."""
        return next((c for c in self.covariates.values() if c.role == role), None)

    def find(self, column: str) -> Covariate | None:
        """As `resolve`, or None."""
        in_role = next((c for c in self.covariates.values() if c.role == column), None)
        return self.covariates.get(column) or in_role

    def resolve(self, column: str) -> Covariate:
        """The covariate called ``column``, or the one in the role that ``column`` names (``batch``, say).

        Raises
        ------
        InputError
            When there is neither, naming the columns that exist.
        """
        found = self.find(column)
        if found is None:
            known = ", ".join(self.covariates) or "none"
            msg = (
                f"Expected a covariate that was read ({known}); found {column!r}. Name one of these, or read "
                "the cells with it."
            )
            raise InputError(msg)
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values that `from_json` reads back."""
        return {
            "n_cells": self.n_cells,
            "modalities": {name: asdict(m) for name, m in self.modalities.items()},
            "covariates": {name: asdict(c) for name, c in self.covariates.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Layout:
        """Read what `to_json` wrote."""

        def tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
            return {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}

        return cls(
            n_cells=values["n_cells"],
            modalities={k: Modality(**tuples(v)) for k, v in values["modalities"].items()},
            covariates={k: Covariate(**tuples(v)) for k, v in values["covariates"].items()},
        )

    @property
    def fingerprint(self) -> str:
        """A short hash of all of it, to tell one layout from another."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def encode(covariate: Covariate, level: str | float | None) -> float | int:
    """The number that stands for a level: its position, -1 or NaN for unknown, or a standardised value."""
    if level is None:
        return -1 if covariate.categorical else float("nan")
    if not covariate.categorical:
        try:
            return (float(level) - covariate.location) / covariate.scale
        except (TypeError, ValueError):
            msg = (
                f"Expected a number for {covariate.column!r}; found {level!r}. Give a number, or None for "
                "unknown."
            )
            raise InputError(msg) from None
    if str(level) not in covariate.levels:
        known = ", ".join(covariate.levels[:12]) + (", ..." if len(covariate.levels) > 12 else "")
        msg = (
            f"Expected a level of {covariate.column!r} ({known}); found {level!r}."
            f"{nearest(str(level), covariate.levels)} Name one of these, or None for unknown."
        )
        raise InputError(msg)
    return covariate.levels.index(str(level))
