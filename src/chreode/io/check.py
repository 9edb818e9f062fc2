"""What is refused of cells that are read to be trained on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from chreode.errors import InputError
from chreode.words import listing, nearest

if TYPE_CHECKING:
    from chreode.cells import Cells

__all__ = [
    "refuse_constant",
    "refuse_courses",
    "refuse_growth",
    "refuse_perturbations",
    "refuse_single_times",
    "refuse_unlinked",
]

_MOST = 1e6  # cells that one cell of the first time may become, for each that another does


def refuse_constant(cells: Cells) -> None:
    """Refuse a covariate that is the same in every cell: nothing can be learned of it.

    Raises
    ------
    InputError
        When a covariate has one level, or one value.
    """
    for name, covariate in cells.layout.covariates.items():
        if covariate.role != "covariate":
            continue
        known = cells.covariates[name]
        known = known[known >= 0] if covariate.categorical else known[~known.isnan()]
        if len(known) and (known == known[0]).all():
            value = repr(covariate.levels[0]) if covariate.categorical else f"{covariate.location:g}"
            kind = "level" if covariate.categorical else "value"
            msg = (
                f"Expected a covariate that differs between cells; found one {kind} ({value}) in column "
                f"{name!r}. Leave it out, or read more cells."
            )
            raise InputError(msg)


def refuse_single_times(cells: Cells) -> None:
    """Refuse times that tell nothing of how cells change: one alone, or times of one cell each.

    Raises
    ------
    InputError
        When all cells are of one time, one cell alone is of some time, or times are so far from 0 that single
        precision, in which cells hold them, changes the intervals.
    """
    time = cells.layout.in_role("time")
    if time is None:
        return
    if len(time.times) < 2:
        msg = f"Expected at least two times in column {time.column!r}; found one, {min(time.times):g}."
        raise InputError(msg + " Read cells of other times too, or leave time out.")
    exact = torch.tensor(time.times, dtype=torch.float64)
    gaps, held = exact.diff(), exact.float().double().diff()
    if exact.abs().max() > 100 * gaps.sum() and ((held - gaps).abs() > 0.01 * gaps).any():
        msg = (
            f"Expected times near 0 in column {time.column!r}; found {exact[0]:.12g} to {exact[-1]:.12g}, "
            "too far from it for their intervals to be kept. Count them from the first one."
        )
        raise InputError(msg)
    number = torch.bincount(cells.snapshot, minlength=len(time.times)).tolist()
    if few := [f"{t:g}" for t, n in zip(time.times, number, strict=True) if n < 2]:
        msg = (
            f"Expected several cells at every time in column {time.column!r}; found a single one at "
            f"{listing(few)}. Leave these cells out, or bring their times together (a pseudotime to a few "
            "bins)."
        )
        raise InputError(msg)


def refuse_growth(cells: Cells) -> None:
    """Refuse growth rates that cannot be: of cells without times, or by which a few cells become all.

    Raises
    ------
    InputError
        When there are no times, or one cell would have become a million times as many as another by the last.
    """
    column, time = cells.layout.in_role("growth"), cells.layout.in_role("time")
    if column is None or cells.growth is None:
        return
    if time is None:
        msg = f"Expected times beside growth={column.column!r}; found none. Name their column with time=."
        raise InputError(msg)
    spread, span = float(cells.growth.max() - cells.growth.min()), time.times[-1] - time.times[0]
    if spread * span > math.log(_MOST):
        msg = (
            f"Expected growth rates in column {column.column!r} per unit of the times in {time.column!r}, by "
            f"which no cell becomes {_MOST:,.0f} times as many as another; found rates that differ by "
            f"{spread:g} over {span:g}. Divide them, or give logarithms where they are factors."
        )
        raise InputError(msg)


def refuse_courses(cells: Cells) -> None:
    """Refuse courses, or perturbations, of which a field learns nothing: they have no times, or one alone.

    Raises
    ------
    InputError
        When there are no times, or some course has cells of one time.
    """
    layout = cells.layout
    found = [c for c in (layout.in_role("course"), layout.in_role("perturbation")) if c is not None]
    if found and layout.in_role("time") is None:
        name = found[0]
        msg = f"Expected times beside {name.role}={name.column!r}; found none. Name their column with time=."
        raise InputError(msg)
    if not found:
        return
    held = torch.tensor([*layout.held, -1])[cells.perturbation]  # whatever it is called where none is
    key = torch.stack([cells.course, held])
    for pair in key.unique(dim=1).T:
        here = (pair == key.T).all(1)
        times = cells.time[here].unique()
        if len(times) < 2:
            first = int(here.nonzero()[0])
            named = [str(cells.level_names(c.column)[first]) for c in found]
            msg = (
                f"Expected cells of two times or more in every {' and '.join(c.role for c in found)}; found "
                f"those of {listing(named)} at {float(times[0]):g} alone. Leave these cells out."
            )
            raise InputError(msg)


def refuse_perturbations(cells: Cells) -> None:
    """Refuse perturbations that do not say which feature is held.

    Raises
    ------
    InputError
        When no level names a feature, or more than one does not: what those do to cells is not known.
    """
    column = cells.layout.in_role("perturbation")
    if column is None:
        return
    held = dict(zip(column.levels, cells.layout.held, strict=True))
    others = [level for level, feature in held.items() if feature < 0]
    if len(others) > 1 or len(others) == len(held):
        name, modality = next(iter(cells.layout.modalities.items()))
        msg = (
            f"Expected levels of {column.column!r} that name features of {name}, and at most one more for "
            f"cells in which nothing is held; found {listing(others)}.{nearest(others[0], modality.names)} "
            "Rename them, or leave the column out."
        )
        raise InputError(msg)


def refuse_unlinked(cells: Cells) -> None:
    """Refuse modalities that no cell links to the others: nothing would say what of one goes with the other.

    Raises
    ------
    InputError
        When the modalities fall into groups that no cell has something of two of.
    """
    names = list(cells.layout.modalities)
    linked, before = names[:1], 0
    while before < len(linked):
        before = len(linked)
        for name in names:
            if name not in linked and any((cells.present[name] & cells.present[m]).any() for m in linked):
                linked.append(name)
    if others := [name for name in names if name not in linked]:
        msg = (
            f"Expected cells that were measured in {listing(linked)} and in {listing(others)}; found none: "
            "nothing says what goes with what. Give paired cells too (their names must be the same in both), "
            "or one of them with modalities=..."
        )
        raise InputError(msg)
