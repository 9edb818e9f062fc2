"""What a model of conditions adds to the page: codes that belong to levels, and predicted responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chreode.errors import InputError
from chreode.perturb.answers import response
from chreode.report.maps import plane_of
from chreode.report.pack import axis
from chreode.report.variables import place_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from chreode.axes import Float, Int
    from chreode.cells import Cells
    from chreode.layout import Covariate

__all__ = ["Response", "attribute_of", "private_codes", "responses_of", "responses_section"]

DECODED = 2000  # cells of the first level, of which a response is told
SHOWN = 20  # features of a table
LEVELS = 6  # of a column, and groups beside each other: tables grow with both
_CONTROLS = {"baseline", "control", "ctrl", "dmso", "mock", "none", "untreated", "unstimulated", "vehicle"}
_SEEN = 2  # cells under the second level; fewer are as good as none


def attribute_of(latent: Any) -> str:
    """The column to whose levels a latent's code belongs, where it differs from cell to cell; or none."""
    if latent.of_levels:
        return ""
    parts = ((latent.only, "column"), (latent.prior, "attribute"))
    return next((found for part, name in parts if (found := getattr(part, name, None))), "")


def private_codes(
    model: Any, cells: Cells, *, rows: Int[np.ndarray, " r"], columns: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Codes that belong to levels, in a plane each, as `chreode.report.modalities.codes_section` has them.

    Parameters
    ----------
    model
        A `chreode.FittedModel`.
    cells
        As read.
    rows
        Cells on the map.
    columns
        From `variables.columns_of`; a code is coloured by its column there.
    """
    out = []
    for name, codes in model.embedded.embeddings.items():
        attribute = attribute_of(model.embedded.module.latents[name])
        if not attribute:
            continue
        covariate = cells.layout.resolve(attribute)
        out.append(
            {
                "latent": name,
                "column": covariate.column,
                "levels": len(covariate.levels),
                "dims": codes.shape[1],
                "colour": place_of(covariate, columns),
                "xy": [axis(values) for values in plane_of(codes)[rows].T],
            }
        )
    return out


class Response(NamedTuple):
    """What the model expects of cells of one level under another: features by groups."""

    column: str
    before: str
    after: str
    effect: str
    change: pd.DataFrame
    unseen: frozenset[str]


def responses_of(model: Any, cells: Cells, *, modality: str, seed: int) -> list[Response]:
    """Predicted responses of each condition, of one fit.

    Of columns that the recipe was told of as conditions (covariates; of `patches` and its like, attributes),
    the level that is called as controls are, else the commonest, is changed to each of the others.

    Parameters
    ----------
    model
        A `chreode.FittedModel`.
    cells
        As read.
    modality
        Whose features answer.
    seed
        Of the draw of cells.
    """
    found = []
    for covariate in _conditions(model, cells):
        levels = cells.level_names(covariate.column)
        counts = [int((levels == level).sum()) for level in covariate.levels]
        # Controls before all others, then the commonest.
        named = [level.casefold() in _CONTROLS for level in covariate.levels]
        first = covariate.levels[
            max(range(len(counts)), key=lambda k: (named[k] and counts[k] > 0, counts[k]))
        ]
        groups, told = _groups(cells, levels == first)
        mask = _some(told & (levels == first), seed=seed)
        for other, n in zip(covariate.levels, counts, strict=True):
            if other == first or not n:
                continue
            asked: dict[str, Any] = {covariate.column: (first, other), "where": mask, "groups": groups}
            try:
                table = response(model, modality=modality, draws=0, **asked)
            except InputError:  # a column that nothing was learned of: named, but idle in this recipe
                continue
            effect = "log2_fold_change" if "log2_fold_change" in table else "change"
            wide = table.pivot(index="feature", columns="group", values=effect)
            few = _unseen(cells, groups, levels == other, list(map(str, wide.columns)))
            found.append(Response(covariate.column, first, other, effect, wide, few))
    return found


def responses_section(responses: Sequence[Response]) -> list[dict[str, Any]]:
    """The features that answer most, groups beside each other: a table for each response."""
    return [_table(one) for one in responses]


def _conditions(model: Any, cells: Cells) -> list[Covariate]:
    """Columns that make conditions: covariates, and attributes of the recipe, of a few levels."""
    own = {attribute_of(latent) for latent in model.embedded.module.latents.values()}
    known = [c for c in cells.layout.covariates.values() if c.column in own or c.role == "covariate"]
    return [c for c in known if 2 <= len(c.levels) <= LEVELS]


def _groups(cells: Cells, first: np.ndarray) -> tuple[str | None, np.ndarray]:
    """The label, where it was read, and the cells of its levels that are commonest in the first level."""
    label, everyone = cells.layout.in_role("label"), np.ones(len(cells), dtype=bool)
    if label is None or not label.categorical:
        return None, everyone
    names = cells.level_names(label.column)
    here = [(int((first & (names == level)).sum()), level) for level in label.levels]
    kept = [level for n, level in sorted(here, reverse=True)[:LEVELS] if n]
    return label.column, np.isin(names.astype(str), kept)


def _some(mask: np.ndarray, *, seed: int) -> np.ndarray:
    """At most so many of them, at random."""
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(mask))[:DECODED]
    some = np.zeros(len(mask), dtype=bool)
    some[rows] = True
    return some


def _unseen(cells: Cells, groups: str | None, second: np.ndarray, names: Sequence[str]) -> frozenset[str]:
    """Groups that have hardly a cell of the second level."""
    if groups is None:
        return frozenset()
    levels = cells.level_names(groups)[second].astype(str)
    return frozenset(name for name in names if (levels == name).sum() < _SEEN)


def _table(one: Response) -> dict[str, Any]:
    strongest = one.change.abs().max(axis=1).nlargest(SHOWN).index
    values: Float[np.ndarray, "f k"] = one.change.loc[strongest].to_numpy()
    most = max(float(np.abs(values).max(initial=0)), 1e-9)
    return {
        "column": one.column,
        "before": one.before,
        "after": one.after,
        "log": one.effect == "log2_fold_change",
        "groups": [{"name": str(g), "unseen": str(g) in one.unseen} for g in one.change.columns],
        "rows": [
            {
                "feature": str(feature),
                "cells": [{"value": f"{v:+.2f}", "share": round(abs(v) / most, 3), "up": v > 0} for v in row],
            }
            for feature, row in zip(strongest, values.tolist(), strict=True)
        ],
    }
