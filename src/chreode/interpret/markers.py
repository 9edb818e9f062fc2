"""What marks components, or the levels of a column, by what the decoder expects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chreode.errors import InputError
from chreode.interpret.asked import asked_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from chreode.embedded import Embedded

__all__ = ["markers", "markers_of"]


def markers(
    cells: Any, *, groups: str | None = None, modality: str | None = None, top: int = 25, source: Any = None
) -> pd.DataFrame:
    r"""Tabulate the features that the model expects more of in a group of cells than in the rest.

    .. math:: \ell_{kg} = \log_2 \frac{\rho_{kg} + \epsilon}{\bar\rho_{-k,g} + \epsilon}

    as `markers_of` says. For components :math:`\rho_k` is what the component's mean decodes to, for the
    levels of a column the average of what is expected in its cells under an average batch. No test is made:
    `chreode.de` is for that.

    Parameters
    ----------
    cells
        An `Embedded`; a `FittedModel` stands for its own.
    groups
        A column; None takes the components of the model.
    modality
        The first by default.
    top
        Features a group, >= 1.
    source
        A table with the column, where it was not read.

    Returns
    -------
    pandas.DataFrame
        ``group``, ``rank`` (from 1), ``feature``, its ``symbol`` where there are any, ``log2_fold_change``
        (of continuous values the difference), ``share`` and ``share_rest`` (expected, of the total).

    Raises
    ------
    InputError
        When the model has no components and no column is named, and for an unknown column.

    Examples
    --------
    >>> import chreode as ch
    >>> cells = ch.read(ch.simulate(90, 20, components=2, seed=0))
    >>> model = ch.fit(cells, ch.recipes.scdgd(dim=2, components=2), epochs=3, progress=False)
    >>> ch.markers(model, top=2).columns.tolist()
    ['group', 'rank', 'feature', 'log2_fold_change', 'share', 'share_rest']
    """
    asked = asked_of(cells, source=source, counted=False)
    embedded = asked.embedded
    if top < 1 or embedded is None:
        found = f"top={top}" if top < 1 else "cells alone"
        msg = f"Expected a model, and top of at least 1; found {found}. Give ch.markers(model, top=25), say."
        raise InputError(msg)
    name = embedded.modality(modality)
    described = embedded.cells.layout.modalities[name]
    if groups is None:
        means, sizes, called = _of_components(embedded, name)
    else:
        means, sizes, called = _of_levels(embedded, asked.levels(groups), name, groups)
    table = markers_of(means, sizes, names=described.names, kind=described.kind, top=top)
    place = table.pop("feature").to_numpy(dtype=int)
    table = table.rename(columns={"component": "group", "name": "feature"})
    table["group"] = [called[int(k)] for k in table["group"]]
    if described.symbols:
        table.insert(3, "symbol", np.asarray(described.symbols, dtype=object)[place])
    return table


@torch.no_grad()
def _of_components(embedded: Embedded, modality: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    means = embedded.decode(embedded.density().means, modality).proportions.cpu().numpy()
    sizes = np.bincount(embedded.components(), minlength=len(means))
    return means, sizes, embedded.component_names


def _of_levels(
    embedded: Embedded, levels: np.ndarray, modality: str, column: str
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Means of what is expected in the cells of each level, under an average batch."""
    import scipy.sparse as sp

    called = sorted({str(one) for one in levels if one is not None})
    number = {name: i for i, name in enumerate(called)}
    group = np.array([-1 if one is None else number[str(one)] for one in levels])
    batch = embedded.cells.layout.in_role("batch")
    if batch is not None and column not in (batch.column, "batch"):
        embedded = embedded.do(**{batch.column: None})
    total: Any = 0.0
    for rows, part in embedded.expected_chunks(modality):
        here = group[rows]
        known = np.flatnonzero(here >= 0)
        members = sp.csr_matrix((np.ones(len(known)), (here[known], known)), shape=(len(called), len(here)))
        total = total + members @ part
    sizes = np.bincount(group[group >= 0], minlength=len(called))
    return total / np.maximum(sizes, 1)[:, None], sizes, called


def markers_of(
    means: np.ndarray, sizes: np.ndarray, *, names: Sequence[str], kind: str = "counts", top: int = 10
) -> pd.DataFrame:
    """Features that mark each component, from what the decoder expects at its mean.

    .. math:: \\ell_{kg} = \\log_2 \\frac{\\rho_{kg} + \\epsilon}{\\bar\\rho_{-k,g} + \\epsilon}, \\qquad
              \\bar\\rho_{-k} = \\frac{\\sum_{j \\ne k} n_j \\rho_j}{\\sum_{j \\ne k} n_j}

    where the pseudo-share epsilon, the median feature's overall share (at most one in ten thousand),
    keeps features that are nearly absent everywhere from the top. Of continuous features the difference
    is taken instead.

    Parameters
    ----------
    means
        Expected proportions (values, when continuous) at each component's mean, ``k x g``.
    sizes
        Cells of each component, ``k``; those of none are left out.
    names
        Feature names, ``g``.
    kind
        ``counts``, ``binary`` or ``continuous``.
    top
        Features a component.

    Returns
    -------
    pandas.DataFrame
        Columns ``component``, ``rank`` (from 1), ``name``, ``log2_fold_change`` (the difference, when
        continuous), ``share``, ``share_rest``, ``feature`` (its place in ``names``); only
        features that are higher than in the rest.

    Examples
    --------
    >>> rho = np.array([[0.9, 0.1], [0.1, 0.9]])
    >>> markers_of(rho, np.array([5, 5]), names=["A", "B"], top=1)[["component", "name"]].values.tolist()
    [[0, 'A'], [1, 'B']]
    """
    import pandas as pd

    means = np.asarray(means, dtype=np.float64)
    weight = np.asarray(sizes, dtype=np.float64)
    total = weight @ means
    overall = total / max(weight.sum(), 1.0)
    epsilon = min(float(np.median(overall)) if overall.size else 0.0, 1e-4) + 1e-12
    parts = []
    for k in np.flatnonzero(weight > 0):
        others = weight.sum() - weight[k]
        if others <= 0:
            break
        rest = (total - weight[k] * means[k]) / others
        if kind == "continuous":
            effect = means[k] - rest
        else:
            effect = np.log2((means[k] + epsilon) / (np.maximum(rest, 0.0) + epsilon))
        best = np.argsort(-effect, kind="stable")[:top]
        best = best[effect[best] > 0]
        parts.append(
            pd.DataFrame(
                {
                    "component": k,
                    "rank": np.arange(1, len(best) + 1),
                    "name": [str(names[i]) for i in best],
                    "log2_fold_change": effect[best],
                    "share": means[k, best],
                    "share_rest": rest[best],
                    "feature": best,
                }
            )
        )
    columns = ["component", "rank", "name", "log2_fold_change", "share", "share_rest", "feature"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({c: [] for c in columns})
