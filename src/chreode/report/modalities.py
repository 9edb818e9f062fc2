"""What multiDGD adds to the page: who was measured in what, and codes of covariates."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.interpret.markers import markers_of
from chreode.likelihoods import heads
from chreode.report.draw import number
from chreode.report.pack import axis
from chreode.report.sections import Components, markers_section, zeros_of
from chreode.report.variables import ROLES, chosen_markers, feature_values, place_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from chreode.cells import Cells

__all__ = [
    "codes_section",
    "modalities_section",
    "other_features",
    "other_markers",
    "other_markers_section",
    "several",
]

WORDS = {
    "nb": "negative binomial",
    "poisson": "Poisson",
    "nb_free": "negative binomial without a fixed total",
    "zinb": "zero-inflated negative binomial",
    "bernoulli": "Bernoulli",
    "accessibility": "Bernoulli, by depth",
    "normal": "normal",
    "protein": "protein background and foreground",
}
MARKERS = 5


def several(model: Any) -> bool:
    """Whether the model, which may have left some of what was read out, is one of several modalities."""
    return len(model.layout.modalities) > 1


def modalities_section(model: Any, cells: Cells) -> dict[str, Any] | None:
    """Modalities with their likelihoods and cells, and who has which; None for a model of one.

    Parameters
    ----------
    model
        A `chreode.FittedModel`.
    cells
        As read.
    """
    if not several(model):
        return None
    rows, present = [], {m: cells.present[m].cpu().numpy() for m in model.layout.modalities}
    for name, here in present.items():
        described = cells.layout.modalities[name]
        total = None
        if described.kind != "continuous" and here.any():
            median = float(np.median(cells.size[name].cpu().numpy()[here]))
            total = int(median) if median.is_integer() else median
        zeros = zeros_of(cells, name)
        rows.append(
            {
                "name": name,
                "features": described.n_features,
                "kind": described.kind,
                "likelihood": _likelihood(model, name),
                "cells": int(here.sum()),
                "total": number(total),
                "zeros": number(None) if zeros is None else f"{100 * zeros:.1f} %",
            }
        )
    lacking = [name for name, here in present.items() if not here.all()]
    calls = [f"model.embedded.expected({json.dumps(name, ensure_ascii=False)})" for name in lacking]
    return {"rows": rows, "combinations": _combinations(present), "calls": calls}


def _likelihood(model: Any, modality: str) -> str:
    """In words, what models a modality."""
    readout = getattr(model.module.decoder, "readout", None)
    if readout is None:  # a decoder of the user's own
        return number(None)
    head = type(readout.heads[modality])
    return next((WORDS[name] for name, made in heads.items() if made is head), head.__name__)


def _combinations(present: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """How many cells have which modalities, the commonest first."""
    names = list(present)
    sets, count = np.unique(np.stack(list(present.values()), 1), axis=0, return_counts=True)
    out = []
    for k in np.lexsort((-sets.sum(1), -count)):
        has = [name for name, here in zip(names, sets[k], strict=True) if here]
        text = " + ".join(has) if len(has) > 1 else f"{has[0]} only" if has else "none"
        out.append({"name": text, "cells": int(count[k]), "share": count[k] / count.sum()})
    return out


def codes_section(
    model: Any, cells: Cells, *, rows: np.ndarray, columns: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Codes of two dimensions beside the cells' own, whose components are the levels of a column.

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
    embedded, out = model.embedded, []
    for name, codes in embedded.embeddings.items():
        taught = None if name == embedded.code else embedded.module.latents[name].column
        if not taught or codes.shape[1] != 2:
            continue
        covariate = cells.layout.resolve(taught)
        out.append(
            {
                "latent": name,
                "column": covariate.column,
                "role": covariate.role,
                "levels": len(covariate.levels),
                "unknown": int((cells.covariates[covariate.column] < 0).sum()),
                "colour": place_of(covariate, columns),
                "xy": [axis(values) for values in codes[rows].T],
            }
        )
    return sorted(out, key=lambda code: ROLES[code["role"]])


def other_markers(model: Any, cells: Cells, found: Components, *, modality: str) -> dict[str, pd.DataFrame]:
    """Markers of the components among the features of every modality but the first shown; few of each."""
    others: dict[str, pd.DataFrame] = {}
    for name in model.layout.modalities:
        if name == modality:
            continue
        described, means, sizes = cells.layout.modalities[name], np.zeros((0, 0)), np.zeros(0)
        if found.of is not None:
            means, sizes = np.asarray(model.component_means(name), dtype=np.float64), found.sizes
        names = described.symbols or described.names
        others[name] = markers_of(means, sizes, names=names, kind=described.kind, top=MARKERS)
    return others


def other_markers_section(
    cells: Cells, found: Components, marked: Mapping[str, pd.DataFrame]
) -> list[dict[str, Any]]:
    """`sections.markers_section` of each of those modalities that has any."""
    return [
        {"modality": name}
        | markers_section(replace(found, markers=table), kind=cells.layout.modalities[name].kind)
        for name, table in marked.items()
        if len(table)
    ]


def other_features(
    embedded: Any, cells: Cells, marked: Mapping[str, pd.DataFrame], *, rows: np.ndarray
) -> list[dict[str, Any]]:
    """Values in the cells of the map of the features that mark components in the other modalities."""
    out = []
    for name, table in marked.items():
        described = cells.layout.modalities[name]
        features = chosen_markers(table, n_cells=len(rows), sharing=len(marked))
        expected = np.asarray(embedded.expected(name, features=[described.names[i] for i in features]))
        # The table of components' means is left out: of a hundred thousand peaks it would be the page's bulk.
        values = feature_values(cells, expected, modality=name, features=features, rows=rows, means=None)
        out.append(values | {"modality": name})
    return out
