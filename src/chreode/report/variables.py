"""What the map can be coloured by: columns of the cells, and features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.csr import CSR
from chreode.report.pack import fold, pack, pack_text, quantise

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd

    from chreode.cells import Cells
    from chreode.layout import Covariate, Modality

__all__ = ["PER", "ROLES", "choose_features", "chosen_markers", "columns_of", "feature_values", "place_of"]

PER = 1e4
"""Shares and counts are shown per this many molecules."""
ROLES = {"label": 0, "batch": 1, "time": 2, "growth": 3, "course": 4, "perturbation": 5, "covariate": 6}
"""Columns are listed in this order."""

UNMEASURED = 255
PALETTE_LIMIT = 40
BYTES = 5_000_000
TABLE = 4_000_000


def categorical_column(
    title: str, codes: np.ndarray, *, levels: Sequence[str], role: str, hints: Sequence[str] = ()
) -> dict[str, Any]:
    """A column with levels, the rarest folded when there are more than colours."""
    folded, names = fold(codes, levels, limit=PALETTE_LIMIT)
    kept = list(hints) if len(names) == len(hints) else []
    return {
        "title": title,
        "role": role,
        "kind": "categorical",
        "levels": names,
        "hints": kept,
        "codes": pack(folded),
    }


def continuous_column(title: str, values: np.ndarray, *, role: str, log: bool = False) -> dict[str, Any]:
    """A column of numbers in 255 steps; level 255 says that the value is unknown."""
    shown = np.log1p(values) if log else values
    q, low, step = quantise(shown, levels=UNMEASURED)
    q[~np.isfinite(np.asarray(values, dtype=np.float64))] = UNMEASURED
    return {
        "title": title,
        "role": role,
        "kind": "continuous",
        "log": log,
        "low": low,
        "step": step,
        "values": pack(q),
    }


def place_of(covariate: Covariate, columns: Sequence[Mapping[str, Any]]) -> int:
    """Which of the columns, as `columns_of` has them, a covariate is."""
    wanted = (covariate.column, covariate.role)
    return next(i for i, c in enumerate(columns) if (c["title"], c["role"]) == wanted)


def columns_of(
    cells: Cells,
    *,
    rows: np.ndarray,
    components: np.ndarray | None,
    names: Sequence[str],
    hints: Sequence[str],
    probability: np.ndarray | None,
    trained: np.ndarray,
) -> list[dict[str, Any]]:
    """Everything that describes a cell, but features.

    Parameters
    ----------
    cells
        As read.
    rows
        Cells on the map.
    components
        Component of each cell, or None.
    names
        What each component is called.
    hints
        One remark a component (its commonest label); may be empty.
    probability
        Probability of each cell's component, or None.
    trained
        Whether the cell was trained on.
    """
    columns = []
    if components is not None:
        numbers = [str(k) for k in range(len(names))]
        column = categorical_column("component", components[rows], levels=numbers, role="model", hints=hints)
        # Folding goes by number: names may be numbers too, and need not differ. Those folded have none.
        kept = [int(k) if k.isdecimal() else None for k in column["levels"]]
        called = [text if k is None else names[k] for k, text in zip(kept, column["levels"], strict=True)]
        columns.append(column | {"levels": called, "numbers": kept})
    for c in sorted(cells.layout.covariates.values(), key=lambda c: ROLES[c.role]):
        values = cells.covariates[c.column].cpu().numpy()[rows]
        if c.categorical:
            columns.append(categorical_column(c.column, values, levels=c.levels, role=c.role))
        else:
            columns.append(continuous_column(c.column, values * c.scale + c.location, role=c.role))
    if probability is not None:
        columns.append(continuous_column("probability of the component", probability[rows], role="model"))
    for name, modality in cells.layout.modalities.items():
        if modality.kind == "counts":
            title = "molecules in the cell" + (f" ({name})" if len(cells.layout.modalities) > 1 else "")
            # Of a cell that was not measured in it, the total is not zero but unknown.
            total = np.where(cells.present[name].cpu(), cells.size[name].cpu(), np.nan)[rows]
            columns.append(continuous_column(title, total, role="cell", log=True))
    if not trained.all():
        held = (~trained[rows]).astype(int)
        split = categorical_column("trained or held out", held, levels=["trained", "held out"], role="model")
        columns.append(split)
    return columns


def choose_features(
    markers: pd.DataFrame,
    means: np.ndarray | None,
    *,
    sizes: np.ndarray,
    measured: Any,
    n_cells: int,
    n_features: int,
) -> np.ndarray:
    """Choose the features whose value in every cell is stored: markers, then those that vary most.

    Best markers of all components come before second ones. Variation is the chi-square statistic of the
    components' expected proportions, or the variance over the mean of the counts when there are no
    components.

    Parameters
    ----------
    markers
        From `chreode.interpret.markers.markers_of`.
    means, sizes
        Expected proportions ``k x g`` (or None) and cells of each component.
    measured
        What was measured, a `CSR` or anything else, which is then ignored.
    n_cells, n_features
        Cells on the map and features in all; between 40 and 400 features are chosen, so that a page
        stays at a few megabytes.
    """
    room = min(n_features, _room(n_cells))
    first = _best_first(markers)
    spread = np.zeros(n_features)
    if means is not None and sizes.sum() > 0:
        weight = sizes / sizes.sum()
        overall = weight @ means
        spread = weight @ (means - overall) ** 2 / (np.abs(overall) + 1e-9)
    elif isinstance(measured, CSR):
        mean = measured.sum_columns().double().numpy() / len(measured)
        square = measured.with_value(measured.value**2).sum_columns().double().numpy() / len(measured)
        spread = (square - mean**2) / (mean + 1e-9)
    return _once(np.concatenate([first, np.argsort(-spread, kind="stable")]))[:room]


def chosen_markers(markers: pd.DataFrame, *, n_cells: int, sharing: int) -> np.ndarray:
    """Choose markers alone, for modalities that share half the room of the one shown first.

    Parameters
    ----------
    markers
        From `chreode.interpret.markers.markers_of`.
    n_cells
        Cells on the map.
    sharing
        How many modalities share the room.
    """
    return _once(_best_first(markers))[: _room(n_cells) // (2 * sharing)]


def _room(n_cells: int) -> int:
    return int(np.clip(BYTES // max(n_cells, 1), 40, 400))


def _best_first(markers: pd.DataFrame) -> np.ndarray:
    if not len(markers):
        return np.zeros(0, dtype=np.int64)
    return markers.sort_values(["rank", "component"])["feature"].to_numpy(dtype=np.int64)


def _once(features: np.ndarray) -> np.ndarray:
    """Each feature where it comes first."""
    _, where = np.unique(features, return_index=True)
    return features[np.sort(where)]


def feature_values(
    cells: Cells,
    expected: np.ndarray | None,
    *,
    modality: str,
    features: np.ndarray,
    rows: np.ndarray,
    means: np.ndarray | None,
) -> dict[str, Any]:
    """Values of the chosen features in the cells of the map, and of all features in the components.

    Parameters
    ----------
    cells
        As read; observed values are left out when they hold no counts.
    expected
        What the model expects, ``n x len(features)``, or None.
    modality
        Which one.
    features
        Places of the chosen features.
    rows
        Cells on the map.
    means
        Expected proportions of all features at the components' means, ``k x g``, or None.
    """
    described = cells.layout.modalities[modality]
    out: dict[str, Any] = {
        "kind": described.kind,
        "per": PER,
        "names": [described.names[i] for i in features],
        "symbols": [described.symbols[i] for i in features] if described.symbols else [],
        "expected": [],
        "observed": [],
        "all": pack_text([_shown(described, i) for i in range(described.n_features)]),
        "size": pack(cells.size[modality].cpu().numpy()[rows].astype(np.float32)),
    }
    counts = described.kind == "counts"
    if expected is not None:
        for j in range(len(features)):
            values = expected[rows, j]
            q, low, step = quantise(np.log1p(PER * values) if counts else values, levels=128)
            out["expected"].append({"low": low, "step": step, "values": pack(q)})
    if modality in cells.measured:
        out["observed"] = _observed(cells[rows], modality=modality, features=features)
    if means is not None and described.kind != "continuous" and means.size <= TABLE:
        top = np.abs(means).max(0)
        scaled = np.round(np.clip(means / np.where(top > 0, top, 1.0), 0, 1) * 255).astype(np.uint8)
        out["component_top"] = pack(top.astype(np.float32))
        out["component_share"] = pack(scaled.ravel())
    return out


def _shown(modality: Modality, i: int) -> str:
    return modality.symbols[i] if modality.symbols and modality.symbols[i] else modality.names[i]


def _observed(cells: Cells, *, modality: str, features: np.ndarray) -> list[dict[str, Any]]:
    """Observed values, one feature at a time, in 255 steps; counts up to 254 are exact."""
    measured, mask = cells.measured[modality], cells.mask(modality)
    absent = ~cells.present[modality].cpu().numpy()
    stored = _sparse(measured, features) if isinstance(measured, CSR) else _dense(measured, features)
    out = []
    for j, (q, low, step) in zip(features, stored, strict=True):
        if mask is not None:
            q[~mask[:, int(j)].cpu().numpy()] = UNMEASURED
        q[absent] = UNMEASURED
        out.append({"low": low, "step": step, "values": pack(q)})
    return out


def _dense(measured: Any, features: np.ndarray) -> Iterator[tuple[np.ndarray, float, float]]:
    """Columns of a dense matrix; 255 says that a value is not known."""
    for j in features:
        values = measured[:, int(j)].cpu().numpy()
        q, low, step = quantise(values, levels=UNMEASURED)
        q[~np.isfinite(values)] = UNMEASURED
        yield q, low, step


def _sparse(measured: CSR, features: np.ndarray) -> Iterator[tuple[np.ndarray, float, float]]:
    """Columns of a sparse matrix, made dense one at a time."""
    sparse = measured.scipy().tocsc()
    for j in features:
        here = slice(int(sparse.indptr[j]), int(sparse.indptr[j + 1]))
        values: np.ndarray = np.asarray(sparse.data[here])
        step = max(1.0, float(np.ceil(values.max(initial=0.0) / (UNMEASURED - 1))))
        q = np.zeros(len(measured), dtype=np.uint8)
        q[sparse.indices[here]] = np.round(values / step)
        yield q, 0.0, step
