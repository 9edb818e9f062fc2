"""Several sets of cells as one: features joined by name, those that a set lacks masked in its cells."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chreode.axes import Tensor
from chreode.cells import CSR, Cells, Measured, Reading
from chreode.errors import InputError
from chreode.io.columns import not_trained_with
from chreode.io.regression import joined
from chreode.io.schema import Schema
from chreode.layout import Covariate, Layout, Modality
from chreode.words import listing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from chreode.layout import Role

__all__ = ["join"]

SOURCE = "source"
"""The column that tells joined cells apart."""


def join(
    sets: Mapping[str, Cells],
    *,
    role: Role | None = None,
    like: Layout | None = None,
    schema: Schema | None = None,
) -> Cells:
    """Put sets of cells one after the other.

    A modality has the features of all sets, in the order in which they are met; each set is a panel, so
    that what it did not measure is masked, never filled with zeros. A set that lacks a modality has no cell
    in it. Levels of a covariate are those of all sets. Cell names that occur in two sets get the set's name
    in front.

    Parameters
    ----------
    sets
        Cells by the name of their set.
    role
        Of the column "source", which names the set of each cell; None for none.
    like
        The layout of a model, where the cells were read for one: features and levels stay as they are.
    schema
        How they were read.

    Raises
    ------
    InputError
        When a modality or a column is of different kinds in two sets.
    """
    layouts = {name: cells.layout for name, cells in sets.items()}
    _refuse_strangers(layouts)
    modalities = {
        m: _joined(m, layouts, like) for m in dict.fromkeys(m for v in layouts.values() for m in v.modalities)
    }
    modalities, readout = _read_back(modalities, sets, like)
    n = sum(len(cells) for cells in sets.values())
    said: tuple[str, ...] = ()
    covariates, values = _columns(sets, like)
    if role is not None:
        if SOURCE in covariates and like is None:
            msg = f"Expected no column 'source' beside {role}='source'; found one in the cells. Rename it."
            raise InputError(msg)
        if like is None:
            covariates[SOURCE] = Covariate(SOURCE, role, levels=tuple(sets))
        level = {name: at for at, name in enumerate(covariates[SOURCE].levels)}
        if strange := [name for name in sets if name not in level]:
            n_cells = sum(len(sets[name]) for name in strange)
            said = (not_trained_with(strange, covariates[SOURCE], n_cells, name=SOURCE),)
        values[SOURCE] = torch.cat(
            [torch.full((len(c),), level.get(name, -1), dtype=torch.int64) for name, c in sets.items()]
        )
    measured, panels, panel = {}, {}, {}
    for m, described in modalities.items():
        measured[m], masks, which = _measured(m, described, sets)
        if masks is not None:
            panels[m], panel[m] = masks, which
    return Cells(
        Layout(n, modalities, covariates),
        names=_names(sets),
        measured=measured,
        size={m: torch.cat([_of(c.size, m, c, 0.0) for c in sets.values()]) for m in modalities},
        present={m: torch.cat([_of(c.present, m, c, False) for c in sets.values()]) for m in modalities},
        covariates=values,
        panels=panels,
        panel=panel,
        readout=readout,
        reading=_reading(sets, schema or Schema(), said),
    )


def _refuse_strangers(layouts: Mapping[str, Layout]) -> None:
    """Refuse a set that has a modality with others, but no feature of it."""
    held = Counter((m, f) for v in layouts.values() for m, d in v.modalities.items() for f in set(d.names))
    shared = Counter(m for v in layouts.values() for m in v.modalities)
    for name, layout in layouts.items():
        for m, described in layout.modalities.items():
            # Each is held here: those that others hold too are counted more than once.
            if shared[m] > 1 and all(held[m, f] == 1 for f in described.names):
                rest = listing(one for one in layouts if one != name)
                msg = (
                    f"Expected sets of cells that share features of {m!r}, by whose names they are joined; "
                    f"found none of {name!r} in the others ({rest}). "
                    "Modalities of the same cells belong in one MuData: mudata.MuData({...}). Otherwise give "
                    "features the same names."
                )
                raise InputError(msg)


def _joined(m: str, layouts: Mapping[str, Layout], like: Layout | None) -> Modality:
    if like is not None:
        return like.modalities[m]
    held = {name: v.modalities[m] for name, v in layouts.items() if m in v.modalities}
    kinds: list[Any] = [described.kind for described in held.values()]
    if len(set(kinds)) > 1:
        found = ", ".join(f"{described.kind} in {name!r}" for name, described in held.items())
        msg = f"Expected values of {m!r} of one kind; found {found}. Read them with the same values=..."
        raise InputError(msg)
    symbols: dict[str, str] = {}
    for described in held.values():
        for feature, symbol in zip(described.names, described.symbols or described.names, strict=True):
            symbols.setdefault(feature, symbol)
    some = any(described.symbols for described in held.values())
    return Modality(tuple(symbols), kinds[0], tuple(symbols.values()) if some else ())


def _read_back(
    modalities: dict[str, Modality], sets: Mapping[str, Cells], like: Layout | None
) -> tuple[dict[str, Modality], dict[str, Tensor]]:
    """What coordinates of all sets lead back to: features that each of them has."""
    described = [next(iter(cells.layout.modalities.values())) for cells in sets.values()]
    if like is not None or not all(cells.readout for cells in sets.values()):
        return modalities, {}
    if len({m.names for m in described}) > 1:
        return modalities, {}
    found = joined([(m.readout, c.readout) for m, c in zip(described, sets.values(), strict=True)])
    if found is None:
        return modalities, {}
    return {name: replace(m, readout=found.names) for name, m in modalities.items()}, found.tensors()


def _measured(
    m: str, described: Modality, sets: Mapping[str, Cells]
) -> tuple[Measured, Tensor | None, Tensor]:
    """Values on the joined features, and the panels: which features each distinct set measured."""
    place = {feature: at for at, feature in enumerate(described.names)}
    parts: list[CSR] = []
    masks: list[Tensor] = []
    which: list[Tensor] = []
    for cells in sets.values():
        here = cells.layout.modalities.get(m)
        if here is None:
            parts.append(CSR.empty(len(cells), described.n_features))
            which.append(torch.full((len(cells),), -1))
            continue
        target = torch.tensor([place[feature] for feature in here.names], dtype=torch.int64)
        parts.append(_moved(cells.measured[m], target, described.n_features))
        own = cells.panels.get(m, torch.ones(1, len(target), dtype=torch.bool))
        which.append(cells.panel.get(m, torch.zeros(len(cells), dtype=torch.int64)) + len(masks))
        for mask in own:
            masks.append(torch.zeros(described.n_features, dtype=torch.bool).index_copy_(0, target, mask))
    every = torch.stack(masks)
    panel = torch.cat(which).clamp_min(0)  # a cell that was not measured may have any panel
    return _stacked(parts), None if every.all() else every, panel


def _moved(measured: Measured, target: Tensor, width: int) -> CSR:
    """The same values in other columns, ascending within each row."""
    csr = measured if isinstance(measured, CSR) else CSR.of(measured.numpy())
    col = target[csr.col.long()]
    if bool((target.diff() > 0).all()):
        return CSR(csr.crow, col.int(), csr.value, width)
    order = torch.from_numpy(np.lexsort((col.numpy(), csr.row.numpy())))
    return CSR(csr.crow, col[order].int(), csr.value[order], width)


def _stacked(parts: Sequence[CSR]) -> CSR:
    starts = np.cumsum([0, *(int(part.crow[-1]) for part in parts)])
    crow = [part.crow[1:] + int(start) for part, start in zip(parts, starts, strict=False)]
    return CSR(
        torch.cat([torch.zeros(1, dtype=torch.int64), *crow]),
        torch.cat([part.col for part in parts]),
        torch.cat([part.value for part in parts]),
        parts[0].width,
    )


def _of(values: Mapping[str, Tensor], m: str, cells: Cells, fill: float | bool) -> Tensor:
    return values[m] if m in values else torch.full((len(cells),), fill)


def _columns(
    sets: Mapping[str, Cells], like: Layout | None
) -> tuple[dict[str, Covariate], dict[str, Tensor]]:
    """Covariates with the levels of all sets, and the values of all cells."""
    covariates: dict[str, Covariate] = {}
    values: dict[str, Tensor] = {}
    columns = dict.fromkeys(c for cells in sets.values() for c in cells.layout.covariates)
    for column in columns:
        held = [cells.layout.covariates.get(column) for cells in sets.values()]
        known = [c for c in held if c is not None]
        if len({(c.categorical, c.role) for c in known}) > 1:
            msg = (
                f"Expected column {column!r} to be of one kind in all sets ({listing(sets)}); found levels "
                "in one and numbers in another. Make it a category in each."
            )
            raise InputError(msg)
        joined = like.covariates[column] if like else _level_union(known, sets, column)
        covariates[column] = joined
        values[column] = torch.cat([_recoded(cells, column, joined) for cells in sets.values()])
    return covariates, values


def _level_union(known: Sequence[Covariate], sets: Mapping[str, Cells], column: str) -> Covariate:
    if known[0].categorical:
        return replace(known[0], levels=tuple(dict.fromkeys(level for c in known for level in c.levels)))
    if times := sorted({time for c in known for time in c.times}):
        return replace(known[0], times=tuple(times))
    if known[0].role == "growth":
        return known[0]
    raw = np.concatenate([c.level_names(column) for c in sets.values() if column in c.layout.covariates])
    scale = float(np.nanstd(raw))
    return replace(known[0], location=float(np.nanmean(raw)), scale=scale if scale > 0 else 1.0)


def _recoded(cells: Cells, column: str, joined: Covariate) -> Tensor:
    if column not in cells.layout.covariates:
        unknown = -1 if joined.categorical else float("nan")
        return torch.full((len(cells),), unknown)
    before, value = cells.layout.covariates[column], cells.covariates[column]
    if not joined.categorical:
        return (value * before.scale + before.location - joined.location) / joined.scale
    number = torch.tensor([*(joined.levels.index(level) for level in before.levels), -1])
    return number[value]


def _names(sets: Mapping[str, Cells]) -> np.ndarray:
    names = np.concatenate([cells.names for cells in sets.values()])
    if len(set(names)) == len(names):
        return names
    return np.asarray([f"{name}:{cell}" for name, c in sets.items() for cell in c.names], dtype=object)


def _reading(sets: Mapping[str, Cells], schema: Schema, messages: tuple[str, ...]) -> Reading:
    read = [cells.reading for cells in sets.values()]
    return Reading(
        source=", ".join(r.source for r in read),
        schema=schema.to_json(),
        messages=tuple(
            f"{name}: {said}"
            for name, r in zip(sets, read, strict=True)
            for said in r.messages
            if not said.startswith(f"There is no column {SOURCE!r}")  # it is filled in here
        )
        + messages,
        n_source_features=sum(r.n_source_features for r in read),
        missing=sum(r.missing for r in read),
        unknown=sum(r.unknown for r in read),
    )
