"""Scores as they are read on the page: tables of numbers, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chreode.report.draw import number

__all__ = ["scores_section", "written"]

SCORES = {
    "nats_per_molecule": ("held-out molecules", "nats per molecule; lower is better"),
    "mean_profile": (
        "held-out molecules, by the mean profile",
        "nats per molecule, knowing nothing of the cell",
    ),
    "label_profile": ("held-out molecules, by the label's profile", "nats per molecule, knowing the label"),
    "gain": ("gain over the mean profile", "nats per molecule; higher is better"),
    "label_gain": ("gain over the label's profile", "nats per molecule; higher is better"),
    "mean_decoded_profile": ("held-out molecules, by the mean decoded profile", "nats per molecule"),
    "label_decoded_profile": ("held-out molecules, by the label's decoded profile", "nats per molecule"),
    "nats_per_value": ("held-out values", "nats per value; lower is better"),
    "values": ("values scored", ""),
    "cells": ("cells scored", ""),
    "zero_fraction_observed": ("zeros observed", "share of held-out counts"),
    "zero_fraction_expected": ("zeros expected", "share, by the model"),
    "zero_fraction_gene_error": ("error of zeros, by gene", "mean absolute difference of shares"),
    "negative_log_likelihood": (
        "negative log likelihood",
        "nats a cell, dispersion included; lower is better",
    ),
    "rmse": ("root mean squared error", "of counts scaled to 10,000 a cell; lower is better"),
    "coverage_90": ("coverage of 90 % intervals", "0.90 is right"),
    "molecules": ("molecules scored", ""),
    "leiden_clusters": ("Leiden clusters", "at resolution 1, on the codes"),
    "components": ("components in use", "with a cell at least"),
    "component_ari": ("components against label, ARI", "1 is perfect, 0 is chance"),
    "component_nmi": ("components against label, NMI", "1 is perfect"),
    "kmeans_ari": ("k-means against label, ARI", "on the codes, at the number of labels"),
    "kmeans_nmi": ("k-means against label, NMI", "on the codes, at the number of labels"),
    "leiden_ari": ("Leiden against label, ARI", "on the codes, at resolution 1"),
    "leiden_nmi": ("Leiden against label, NMI", "on the codes, at resolution 1"),
    "neighbour_accuracy": ("label told by neighbours", "share of cells; 1 is perfect"),
    "label_lisi": ("label LISI", "purity of neighbourhoods; 1 is pure, 0 is as by chance"),
    "graph_connectivity": ("graph connectivity", "1: each label is one piece"),
    "batch_mixing": ("batch mixing", "1 is perfect"),
    "batch_silhouette": ("batch silhouette", "1 is perfect"),
    "batch_accuracy": ("batch told from the code", "share of cells; chance is best"),
    "batch_accuracy_chance": ("the same, by chance", ""),
}
NATS = (
    "Nats per molecule say how surprising the model finds each molecule that it was not shown: 0.1 lower "
    "means that it gave every molecule about 10 % more probability."
)


def scores_section(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tables of scores: a number is a row; a group of numbers a table; a group of groups a wide table.

    What is called ``note``, of all scores or of a group, stands below as a paragraph; it may name the groups.
    """
    # Of several modalities, groups are called "held_out rna" and so on.
    named = [str(name).partition(" ")[0] for name, group in scores.items() if isinstance(group, Mapping)]
    titles = {name: _words(name) for name in named}
    loose = {k: v for k, v in scores.items() if not isinstance(v, Mapping)}
    groups = [(k, v) for k, v in scores.items() if isinstance(v, Mapping)]
    # A note alone is no table: it stands below the others.
    alone = [("", loose)] if loose else []
    out = []
    for name, group in groups + alone if set(loose) <= {"note"} else alone + groups:
        # What was fitted has cells too, but none of them is scored.
        own = {"cells": "cells in all"} if name == "fit" else {}
        rows = {own.get(str(k), k): v for k, v in group.items() if k != "note"}
        notes = [_noted(str(group["note"]), titles)] if "note" in group else []
        if any("nats per molecule" in SCORES.get(str(k), ("", ""))[1] for k in rows):
            notes = [NATS, *notes]
        out.append({"name": _words(name), **_table(rows), "notes": notes})
    return out


def _table(group: Mapping[Any, Any]) -> dict[str, Any]:
    """Columns and rows of one table of scores."""
    if group and all(isinstance(v, Mapping) for v in group.values()):
        columns = list(dict.fromkeys(str(c) for v in group.values() for c in v))
        rows = [
            {"name": _words(k), "meaning": "", "values": [_score(_by_text(v).get(c)) for c in columns]}
            for k, v in group.items()
        ]
        return {"columns": [_words(c) for c in columns], "rows": rows}
    rows = [
        {"name": _words(k), "meaning": SCORES.get(str(k), ("", ""))[1], "values": [_score(v)]}
        for k, v in group.items()
    ]
    return {"columns": ["value"], "rows": rows}


def _noted(note: str, titles: Mapping[str, str]) -> str:
    """A note whose names of groups are those above the tables."""
    for name, title in titles.items():
        note = note.replace(f"{name}:", f"{title}:")
    return note[:1].upper() + note[1:]


def _score(value: Any) -> str:
    """A number as it is read in a table: three figures of shares, four of what is larger."""
    value = value.item() if isinstance(value, np.generic) else value
    return number(value, 3) if isinstance(value, float) and abs(value) < 1 else written(value)


def _by_text(values: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in values.items()}


def _words(key: Any) -> str:
    return SCORES.get(str(key), (str(key).replace("_", " "), ""))[0]


def written(value: Any) -> str:
    """A value as it is read in a table: numbers in few figures, several one after the other."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return ", ".join(written(v) for v in value)
    if isinstance(value, Mapping):
        shown = [f"{_words(k)} {written(v)}" for k, v in list(value.items())[:12]]
        return ", ".join(shown) + (f" and {len(value) - 12:,} more" if len(value) > 12 else "")
    return number(value.item() if isinstance(value, np.generic) else value)
