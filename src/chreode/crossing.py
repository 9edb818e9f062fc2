"""Columns that cannot be told apart, found before a fit."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from chreode.errors import InputError, InputWarning
from chreode.plan import Event, Moment
from chreode.words import listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chreode.axes import Int, Tensor
    from chreode.layout import Covariate

__all__ = ["check_crossing"]

_FEW = 10  # cells, of which a level says next to nothing


def check_crossing(attributes: Sequence[str]) -> Event:
    """Before the first epoch: whether levels of attributes can be told, from each other and from batches.

    Two attributes that say the same are refused. A level of an attribute whose cells are all of batches (or
    of levels of another covariate) that no other level has is confounded with them: there is a warning, as
    what that level does cannot be told from what those batches do. There is one too for levels of few cells.
    """

    def do(moment: Moment) -> None:
        layout = moment.cells.layout
        chosen = [column for column in map(layout.resolve, attributes) if column.categorical]
        others = [c for c in layout.conditions.values() if c.categorical and c not in chosen]
        for number, one in enumerate(chosen):
            _warn_few(one, _crossed(moment, one, one).diagonal())
            for other in chosen[number + 1 :]:
                _refuse_same(one, other, _crossed(moment, one, other))
            for other in others:
                _warn_confounded(one, other, _crossed(moment, one, other))

    return Event("check attributes", do, at="start")


def _crossed(moment: Moment, one: Covariate, other: Covariate) -> Int[Tensor, "a b"]:
    """How many cells have each pair of levels."""
    first, second = (moment.cells.covariates[c.column] for c in (one, other))
    known = (first >= 0) & (second >= 0)
    width = len(other.levels)
    number = torch.bincount((first * width + second)[known], minlength=len(one.levels) * width)
    return moment.total(number.double()).long().view(-1, width)


def _warn_few(one: Covariate, number: Int[Tensor, " a"]) -> None:
    few = {level: n for level, n in zip(one.levels, number.tolist(), strict=True) if n < _FEW}
    if few:
        msg = (
            f"Expected at least {_FEW} training cells of each level of {one.column!r}; found fewer of "
            f"{listing(few)} (as few as {min(few.values())}): what is said of these levels is a guess. Leave "
            "their cells out, or merge levels."
        )
        warnings.warn(msg, InputWarning, stacklevel=2)


def _refuse_same(one: Covariate, other: Covariate, number: Int[Tensor, "a b"]) -> None:
    together = number > 0
    if together.sum(0).max() <= 1 and together.sum(1).max() <= 1:
        msg = (
            f"Expected attributes that differ; found that {one.column!r} and {other.column!r} divide the "
            f"cells in the same way. Name one of them: attributes=[{one.column!r}]."
        )
        raise InputError(msg)


def _warn_confounded(one: Covariate, other: Covariate, number: Int[Tensor, "a b"]) -> None:
    there = number > 0
    alone = there & (there.sum(0) == 1)  # of those that other levels have nothing of
    apart = there.any(1) & (alone == there).all(1)
    if apart.any():
        levels = [level for level, found in zip(one.levels, apart.tolist(), strict=True) if found]
        msg = (
            f"No cells of {one.column!r} {listing(levels)} share a level of {other.column!r} with cells of "
            f"other levels, so that what these levels do cannot be told from what {other.column!r} does: "
            f"responses to them mean both. Read the cells without {other.column!r}, or more of them."
        )
        warnings.warn(msg, InputWarning, stacklevel=2)
