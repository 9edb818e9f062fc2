"""Scores of the whole and of random parts of the cells, whose spread says how much hangs on which cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chreode import posthoc
from chreode.cells import CSR, Cells
from chreode.evaluate.scib import integration_scores
from chreode.evaluate.scores import score_embedding
from chreode.held_out import halves, nats
from chreode.memory import cells_at_a_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chreode.axes import Tensor

__all__ = ["embedding_in_parts", "molecules_in_parts"]

Scores = tuple[dict[str, float], dict[str, list[float]]]
"""Each score, and the same on each part."""

_BLOCKS = 20


def molecules_in_parts(model: Any, test: Cells, fitted: Cells, *, seed: int, parts: int = _BLOCKS) -> Scores:
    r"""Score held-out molecules of the first modality, and what they gain over one profile for all cells.

    Cells are thinned into halves; codes are inferred from one half, the other is scored:

    .. math:: \frac{\sum_{ig} x_{ig} (\log \rho_{ig} - \log \bar\rho_g)}{\sum_{ig} x_{ig}}

    Parameters
    ----------
    model
        A `chreode.FittedModel`.
    test
        Cells that it never saw, in random order.
    fitted
        Cells that it was given; their mean profile :math:`\bar\rho`, with one molecule added to each
        feature, is what must be beaten. Each cell's is taken over the features of its panel.
    seed
        Of the thinning.
    parts
        How many the test cells are divided into.

    Returns
    -------
    ``gain``, ``nats_per_molecule`` and ``mean_profile``; for values that are not counts ``nats_per_value``.
    """
    if set(model.layout.modalities) < set(test.layout.modalities):
        test = test.only(*model.layout.modalities)
    first, second = halves(test, torch.Generator().manual_seed(seed))
    codes = posthoc.project(model.module, first, encoders=model.encoders)
    modality = next(iter(model.layout.modalities))
    blocks = torch.arange(len(second)).tensor_split(min(parts, len(second)))
    spent, on = np.array([_spent(model, second, codes, modality, rows) for rows in blocks]).T
    by_part, whole = spent / np.maximum(on, 1.0), float(spent.sum() / max(on.sum(), 1.0))
    measured = second.measured[modality]
    if test.layout.modalities[modality].kind != "counts" or not isinstance(measured, CSR):
        return {"nats_per_value": whole}, {"nats_per_value": by_part.tolist()}
    profile = _profile(measured, second, fitted, modality)
    of_profile = np.array([float(profile[rows].sum()) for rows in blocks])
    mean = float(of_profile.sum() / max(on.sum(), 1.0))
    scores = {"gain": mean - whole, "nats_per_molecule": whole, "mean_profile": mean}
    gains = (of_profile - spent) / np.maximum(on, 1.0)
    return scores, {"gain": gains.tolist(), "nats_per_molecule": by_part.tolist()}


@torch.no_grad()
def _spent(
    model: Any, second: Cells, codes: Mapping[str, Tensor], modality: str, rows: Tensor
) -> tuple[float, float]:
    total, on = 0.0, 0.0
    for some in rows.split(cells_at_a_time(second.layout.width)):
        observed = model.module.trace({name: z[some] for name, z in codes.items()}, second[some]).observed
        part, number = nats(observed[modality], second[some], modality)
        total, on = total + part, on + number
    return total, on


def _profile(measured: CSR, second: Cells, fitted: Cells, modality: str) -> Tensor:
    """Nats of each cell under the mean profile of the fitted cells."""
    sums = fitted.column_sums(modality).double() + 1.0
    panels = second.panels.get(modality, torch.ones(1, len(sums), dtype=torch.bool))
    panel = second.panel.get(modality, torch.zeros(len(second), dtype=torch.int64))
    shares = sums * panels
    logs = (shares / shares.sum(1, keepdim=True)).log()
    each = -measured.value.double() * logs[panel[measured.row], measured.col.long()]
    return torch.zeros(len(second), dtype=torch.float64).index_add(0, measured.row, each)


def embedding_in_parts(
    codes: np.ndarray,
    *,
    part: np.ndarray,
    labels: np.ndarray | None = None,
    batches: np.ndarray | None = None,
    components: np.ndarray | None = None,
    before: np.ndarray | None = None,
    seed: int = 0,
) -> Scores:
    """Score an embedding by all that labels and batches allow.

    Parameters
    ----------
    codes
        Codes, ``n x d``.
    part
        Part of each cell, 0, 1, ...
    labels, batches, components
        Of each cell, where they are known.
    before
        Codes before integration, ``n x e``.
    seed
        Of clusters and subsamples.

    Returns
    -------
    What `score_embedding` gives; with labels ``clustering``, the mean of ARI and NMI of Leiden (at resolution
    1) and k-means clusters (as many as labels); with batches too, what `integration_scores` gives under the
    prefix ``scib_``, its ``total`` as ``integration``.
    """
    known = {"labels": labels, "batches": batches, "components": components, "before": before}
    whole = _embedding(codes, known, seed=seed)
    each = []
    for number in np.unique(part):
        rows = np.flatnonzero(part == number)
        some = {name: None if values is None else values[rows] for name, values in known.items()}
        each.append(_embedding(codes[rows], some, seed=seed))
    return whole, {name: [one.get(name, float("nan")) for one in each] for name in whole}


def _embedding(codes: np.ndarray, known: Mapping[str, np.ndarray | None], *, seed: int) -> dict[str, float]:
    labels, batches, before = known["labels"], known["batches"], known["before"]
    found = score_embedding(codes, labels=labels, batches=batches, components=known["components"], seed=seed)
    clusters = [f"{by}_{index}" for by in ("leiden", "kmeans") for index in ("ari", "nmi")]
    if set(clusters) <= found.keys():
        found["clustering"] = float(np.mean([found[name] for name in clusters]))
    if labels is not None and batches is not None:
        scib = integration_scores(codes, labels=labels, batches=batches, before=before, seed=seed)
        if {"bio", "batch", "total"} <= scib.keys():
            found["integration"] = scib.pop("total")
        found |= {f"scib_{name}": value for name, value in scib.items()}
    return found
