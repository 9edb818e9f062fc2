"""The sections of the page as plain values: what was read, the recipe, training, components, markers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.csr import CSR
from chreode.errors import InputError
from chreode.interpret.markers import markers_of
from chreode.report.components import component_by_level, components_graph
from chreode.report.draw import duration, graph, line_charts, number
from chreode.report.palette import colour_of
from chreode.report.score_tables import written
from chreode.report.variables import PER, ROLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from chreode.cells import Cells
    from chreode.layout import Covariate

__all__ = [
    "Components",
    "components_of",
    "components_section",
    "graph_section",
    "label_first",
    "markers_section",
    "read_section",
    "recipe_section",
    "training_section",
    "zeros_of",
]


@dataclass(frozen=True)
class Components:
    """What is known of a mixture's components.

    Parameters
    ----------
    absent
        Why there are none; empty when there are.
    of
        Component of each cell, ``n``, or None.
    probability
        Probability of that component, ``n``, or None.
    means
        Expected proportions at the components' means, ``k x g``, or None.
    sizes
        Cells of each component, ``k``.
    names
        What each is called, ``k``: the level of the label it was taught, or its number.
    hints
        Its commonest label with its share, ``k`` (empty strings without a label, or where that label is its
        name).
    markers
        From `chreode.interpret.markers.markers_of`.
    share
        From `components.components_graph`, ``k x k``.
    """

    absent: str
    of: np.ndarray | None
    probability: np.ndarray | None
    means: np.ndarray | None
    sizes: np.ndarray
    names: tuple[str, ...]
    hints: tuple[str, ...]
    markers: pd.DataFrame
    share: np.ndarray


def label_first(cells: Cells) -> list[Covariate]:
    """The columns of the cells: label, batch, time, then the others."""
    return sorted(cells.layout.covariates.values(), key=lambda c: ROLES[c.role])


def zeros_of(cells: Cells, modality: str) -> float | None:
    """Share of zeros among the values of the cells measured in a modality; None where no counts are held."""
    measured, n = cells.measured.get(modality), int(cells.present[modality].sum())
    if not isinstance(measured, CSR) or not n:
        return None
    return 1 - int((measured.value != 0).sum()) / (n * cells.layout.modalities[modality].n_features)


def read_section(cells: Cells, *, brief: bool = False) -> dict[str, Any]:
    """What was read: a few large numbers, the choices made, and what there was to say.

    Parameters
    ----------
    cells
        As read.
    brief
        Whether totals and zeros are told elsewhere.
    """
    several = len(cells.layout.modalities) > 1
    tiles = [{"value": number(len(cells)), "label": "cells"}]
    for name, modality in cells.layout.modalities.items():
        extra = f" ({name})" if several else ""
        what = "genes" if name == "rna" else "features"
        tiles.append({"value": number(modality.n_features), "label": what + extra})
        here = cells.present[name].cpu().numpy()
        if modality.kind == "counts" and here.any() and not brief:
            median = round(float(np.median(cells.size[name].cpu().numpy()[here])))
            tiles.append({"value": number(median), "label": "molecules in the median cell" + extra})
        zeros = None if brief else zeros_of(cells, name)
        if zeros is not None:
            tiles.append({"value": f"{100 * zeros:.1f} %", "label": "of the values are zero" + extra})
    r = cells.reading
    facts = [("source", r.source)]
    for key, value in r.schema.items():
        if value not in (None, "", [], ()):
            facts.append(
                (key, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
            )
    extras = {
        "features in the source": r.n_source_features,
        "features missing": r.missing,
        "features unknown": r.unknown,
    }
    facts += [(key, number(value)) for key, value in extras.items() if value]
    for c in label_first(cells):
        facts.append((f"{c.role} {c.column}", f"{len(c.levels)} levels" if c.categorical else "continuous"))
    return {"tiles": tiles, "facts": facts, "messages": r.messages, "n_cells": len(cells)}


def recipe_section(model: Any, cells: Cells) -> dict[str, Any]:
    """Which recipe, with what arguments, and whether it saw the label."""
    arguments = model.recipe.arguments
    label = cells.layout.in_role("label")
    supervised = bool(arguments.get("supervised"))
    if label is None:
        use = "No label was read: nothing here was taught or judged by one."
    elif supervised:
        use = (
            f"Supervised: the label “{label.column}” took part in the training, "
            "so that agreement with it proves nothing."
        )
    else:
        use = (
            f"Unsupervised: the label “{label.column}” took no part in the training; "
            "it serves tables and scores only."
        )
    return {
        "name": model.recipe.name,
        "arguments": {key: written(value) for key, value in arguments.items()},
        "supervised": supervised,
        "label": use,
        "dims": int(np.asarray(model.embedded.embedding).shape[1]),
    }


def training_section(history: pd.DataFrame) -> dict[str, Any]:
    """Epochs, seconds and one curve a term."""
    timed = len(history) > 0 and "seconds" in history.columns
    charts = line_charts(history) if len(history) else []
    return {
        "epochs": len(history),
        "seconds": duration(float(history["seconds"].max())) if timed else "",
        "charts": charts,
        "events": any(chart["events"] for chart in charts),
        "kept": any(chart["best"] for chart in charts),
    }


def components_of(model: Any, cells: Cells, *, modality: str, seed: int) -> Components:
    """Gather what is known of the components; a recipe without a mixture says so in a sentence."""
    embedded, described = model.embedded, cells.layout.modalities[modality]
    try:
        probabilities = np.asarray(embedded.probabilities())
        means = np.asarray(model.component_means(modality), dtype=np.float64)
    except InputError:
        absent = f"The prior of {model.recipe.name} is not a mixture: there are no components to show."
        nothing = markers_of(np.zeros((0, 0)), np.zeros(0), names=())
        return Components(absent, None, None, None, np.zeros(0), (), (), nothing, np.zeros((0, 0)))
    k = means.shape[0]
    assigned = np.asarray(embedded.components(), dtype=np.int64)
    sizes, names = np.bincount(assigned, minlength=k), tuple(map(str, embedded.component_names))
    return Components(
        absent="",
        of=assigned,
        probability=probabilities[np.arange(len(assigned)), assigned],
        means=means,
        sizes=sizes,
        names=names,
        hints=_hints(cells, assigned, names=names),
        markers=markers_of(means, sizes, names=described.symbols or described.names, kind=described.kind),
        share=components_graph(np.asarray(embedded.embedding), assigned, n_components=k, seed=seed),
    )


def _hints(cells: Cells, assigned: np.ndarray, *, names: Sequence[str]) -> tuple[str, ...]:
    k, label = len(names), cells.layout.in_role("label")
    if label is None or not label.categorical:
        return ("",) * k
    codes = cells.covariates[label.column].cpu().numpy()
    known = codes >= 0
    table = component_by_level(assigned[known], codes[known], n_components=k, levels=label.levels).to_numpy()
    return tuple(
        f"{label.levels[row.argmax()]} {100 * row.max() / row.sum():.0f} %"
        if row.sum() and str(label.levels[row.argmax()]) != name
        else ""
        for row, name in zip(table, names, strict=True)
    )


def components_section(cells: Cells, found: Components) -> dict[str, Any]:
    """Cells by component, and by component and level of each categorical column, the label first."""
    if found.of is None:
        return {"absent": found.absent, "tables": [], "sizes": [], "empty": 0}
    alive = np.flatnonzero(found.sizes)
    sizes = [
        {
            "k": k, "name": found.names[k], "colour": colour_of(k),
            "total": found.sizes[k], "share": found.sizes[k] / len(found.of),
        }
        for k in map(int, alive)
    ]  # fmt: skip
    tables = []
    for c in label_first(cells):
        if not c.categorical:
            continue
        codes = cells.covariates[c.column].cpu().numpy()
        table = component_by_level(found.of, codes, n_components=len(found.sizes), levels=c.levels)
        counts = table.to_numpy()[alive]
        # Levels in the order of the component that holds most of them make the table nearly diagonal.
        order = (
            np.argsort(counts.argmax(0), kind="stable") if c.role == "label" else np.arange(counts.shape[1])
        )
        counts, levels = counts[:, order], [str(table.columns[i]) for i in order]
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        rows = [
            size | {"counts": row, "shares": share.round(4)}
            for size, row, share in zip(sizes, counts, shares, strict=True)
        ]
        tables.append({"column": c.column, "role": c.role, "levels": levels, "rows": rows})
    return {"absent": "", "tables": tables, "sizes": sizes, "empty": int((found.sizes == 0).sum())}


def graph_section(found: Components, *, rows: np.ndarray, xy: np.ndarray) -> dict[str, Any] | None:
    """The graph of components, each at the median of its cells on the map."""
    if found.of is None:
        return None
    here = found.of[rows]
    places = np.zeros((len(found.sizes), 2))
    for k in np.unique(here):
        places[k] = np.median(xy[here == k], axis=0)
    return graph(found.share, found.sizes, places, hints=found.hints, names=found.names)


def markers_section(found: Components, *, kind: str) -> dict[str, Any]:
    """Markers of each component, with the words for their columns."""
    widest = float(found.markers["log2_fold_change"].max()) if len(found.markers) else 1.0
    scale = PER if kind == "counts" else 1.0
    cards = []
    for k, table in found.markers.groupby("component"):
        rows = [
            {
                "name": name,
                "change": change,
                "share": scale * share,
                "rest": scale * rest,
                "width": round(100 * change / widest, 1),
            }
            for name, change, share, rest in zip(
                table["name"], table["log2_fold_change"], table["share"], table["share_rest"], strict=True
            )
        ]
        k = int(k)  # pyright: ignore[reportArgumentType]
        facts = {
            "k": k,
            "name": found.names[k],
            "hint": found.hints[k],
            "colour": colour_of(k),
            "cells": found.sizes[k],
        }
        cards.append(facts | {"rows": rows})
    unit = {"counts": "per 10,000", "binary": "probability"}.get(kind, "value")
    return {"cards": cards, "unit": unit, "effect": "difference" if kind == "continuous" else "log₂ fold"}
