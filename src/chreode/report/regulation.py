"""Interactions as pictures show them: an order of features, colours of effects, and a network in a ring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chreode.errors import InputError
from chreode.words import listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from chreode.axes import Bool, Float

__all__ = ["LEAST", "STABLE", "Edge", "Heat", "edges_of", "heat_of", "ring", "shade", "strongest"]

STABLE = 0.95
"""Share of draws, or models, that agree on a sign, from which it is called stable."""

LEAST = 0.25
"""Of the strongest effect, that an edge must have."""

_COLUMNS = ("group", "regulator", "target", "effect", "stability")


class Heat(NamedTuple):
    """Effects between features, those with like effects beside each other.

    Parameters
    ----------
    targets, regulators
        Names of rows and columns.
    effect
        By group, targets by regulators; missing pairs are NaN.
    stable
        By group, whether the sign is.
    scale
        The effect that has the full colour.
    """

    targets: list[str]
    regulators: list[str]
    effect: dict[str, Float[np.ndarray, "r c"]]
    stable: dict[str, Bool[np.ndarray, "r c"]]
    scale: float


class Edge(NamedTuple):
    """One regulator's stable effect on a target."""

    regulator: str
    target: str
    effect: float
    stability: float


def strongest(table: pd.DataFrame, *, most: int) -> list[str]:
    """The features with the strongest effects on others, or from others, over all groups together.

    Raises
    ------
    InputError
        When the table is not one of `chreode.interactions`, or holds no interaction.
    """
    _refuse_other(table)
    of_others = table.loc[table["regulator"] != table["target"]]
    square: Any = of_others["effect"] ** 2
    both = (
        square.groupby(of_others["regulator"])
        .sum()
        .add(square.groupby(of_others["target"]).sum(), fill_value=0)
    )
    return list(both.sort_values(ascending=False, kind="stable").index[:most])


def heat_of(table: pd.DataFrame, *, features: Sequence[str]) -> Heat:
    """Effects among some features, as a matrix for each group.

    Rows and columns have one order, by average linkage of the features' effects in all groups. The colours'
    scale is the 98th percentile of the effects between different features: what features do to themselves,
    decay most of all, would drown the others.
    """
    _refuse_other(table)
    groups = list(dict.fromkeys(table["group"]))
    rows, columns = (
        [name for name in features if name in set(table[kind])] for kind in ("target", "regulator")
    )
    effect, stable = {}, {}
    for group in groups:
        part = table[table["group"] == group]
        square: Any = part.pivot(index="target", columns="regulator", values=["effect", "stability"])
        effect[group] = square["effect"].reindex(index=rows, columns=columns).to_numpy(dtype=float)
        stability = square["stability"].reindex(index=rows, columns=columns).to_numpy(dtype=float)
        stable[group] = np.nan_to_num(stability) >= STABLE
    order = _order(rows, columns, list(effect.values()))
    at_rows, at_columns = ([names.index(n) for n in order if n in names] for names in (rows, columns))
    other = np.array([[r != c for c in columns] for r in rows])
    sizes = np.abs(np.concatenate([e[other] for e in effect.values()]))
    sizes = sizes[np.isfinite(sizes)]
    where = np.ix_(at_rows, at_columns)
    return Heat(
        [rows[i] for i in at_rows],
        [columns[i] for i in at_columns],
        {g: e[where] for g, e in effect.items()},
        {g: s[where] for g, s in stable.items()},
        float(np.quantile(sizes, 0.98)) if len(sizes) and sizes.max() > 0 else 1.0,
    )


def _order(rows: list[str], columns: list[str], effects: Sequence[np.ndarray]) -> list[str]:
    """Features by average linkage of what they do and what is done to them."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    names = list(dict.fromkeys([*rows, *columns]))
    if len(names) < 3:
        return names
    about = []
    for name in names:
        does = [e[:, columns.index(name)] if name in columns else np.zeros(len(rows)) for e in effects]
        gets = [e[rows.index(name)] if name in rows else np.zeros(len(columns)) for e in effects]
        about.append(np.nan_to_num(np.concatenate([*does, *gets])))
    merged = linkage(np.stack(about), "average", optimal_ordering=len(names) <= 200)
    return [names[i] for i in leaves_list(merged)]


def edges_of(
    table: pd.DataFrame, group: str, *, features: Sequence[str], most: int, scale: float
) -> list[Edge]:
    """The strongest stable effects among different features in a group, the strongest first.

    Parameters
    ----------
    table
        Of `chreode.interactions`.
    group
        One of its groups.
    features
        Among which.
    most
        How many.
    scale
        Effects below a quarter of this are left out, so that a group with none has no edges.
    """
    size, known = np.abs(table["effect"].to_numpy()), list(features)
    here = (table["group"] == group) & (table["regulator"] != table["target"])
    here &= table["regulator"].isin(known) & table["target"].isin(known)
    here &= (table["stability"] >= STABLE) & (size >= LEAST * scale)
    first = table.loc[here].iloc[np.argsort(-size[here], kind="stable")[:most]]
    rows = zip(*(first[name] for name in ("regulator", "target", "effect", "stability")), strict=True)
    return [Edge(str(r), str(t), float(e), float(s)) for r, t, e, s in rows]


def ring(names: Sequence[str]) -> dict[str, Float[np.ndarray, " 2"]]:
    """Places of features on a circle of radius 1, clockwise from the top."""
    turn = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / max(len(names), 1)
    return dict(zip(names, np.stack([np.cos(turn), np.sin(turn)], 1), strict=True))


def shade(effect: float, scale: float) -> float:
    """How far an effect goes towards its full colour: from -1 to 1, small ones raised to be seen."""
    share = float(np.clip(effect / scale, -1, 1))
    return float(np.sign(share) * np.sqrt(abs(share)))


def _refuse_other(table: pd.DataFrame) -> None:
    missing = [name for name in _COLUMNS if name not in table]
    if missing or not len(table):
        found = f"none of {listing(missing)}" if missing else "no rows"
        msg = f"Expected interactions, as chreode.interactions gives them; found a table with {found}."
        raise InputError(msg + " Give that table.")
