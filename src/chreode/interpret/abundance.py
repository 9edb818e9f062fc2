"""Which groups of cells are more or less frequent under a condition, with donors as replicates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.embedded import Embedded
from chreode.errors import InputError
from chreode.interpret.asked import Asked
from chreode.interpret.design import Design, replicates_of
from chreode.interpret.replicates import Effects, effects
from chreode.words import listing, many, nearest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["abundance", "abundance_figure"]

_CENTRES = 2000  # neighbourhoods at most, and a tenth of the cells


def abundance(
    embedded: Any,
    *,
    condition: str,
    sample: str,
    against: str = "rest",
    groups: str | None = None,
    reference: str | None = None,
    neighbours: int | None = None,
    confidence: float = 0.95,
    source: Any = None,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Which components, types or neighbourhoods of cells are more frequent under one condition.

    The unit of replication is the donor, never the cell: the cells of each donor under each condition are
    counted by group, and

    .. math::

        \log \frac{y_{gu}}{N_u} = \beta_g t_u + \gamma_{g, \mathrm{donor}(u)} + \varepsilon_{gu}, \qquad
        \operatorname{Var} \varepsilon_{gu} = \varphi_g \Big( \alpha + \frac{1}{\mu_{gu}} \Big)

    is fitted with :math:`N_u` all cells of the unit, or those of a ``reference`` group. Counting adds
    :math:`1/\mu` to the variance, donors add :math:`\alpha`, for all groups alike, and :math:`\varphi_g` is
    moderated: see `chreode.interpret.replicates.effects`. Where at least half of the donors (and two) have
    cells under both conditions they are compared with themselves (a paired design), and the others are left
    out; else donors share the intercept.

    Proportions sum to one: when one group grows, the others shrink without having changed. ``reference``
    names a group that is taken to stay, and everything is told relative to it.

    Neighbourhoods are random cells (a tenth, at most 2,000), each moved to the cell in the middle of its
    neighbours, with their nearest neighbours in the code. They overlap; the false discovery rate weights
    each by the distance to its last neighbour, so that crowded places do not count more often.

    Parameters
    ----------
    embedded
        Cells under a model: an `Embedded`; a `FittedModel` stands for its own. No counts are needed.
    condition
        ``"COLUMN=LEVEL"``, or a column of two levels, of which the later in order is compared with the other.
    sample
        Column of the donors (or animals, cultures: whatever was sampled independently).
    against
        ``"rest"`` for all other cells, those of unknown level left out, or a level of the same column.
    groups
        ``"components"`` of the model, ``"neighbourhoods"``, or a column, whose unknown cells are left out.
        None: components where the prior has some, else neighbourhoods.
    reference
        A group, which all samples must have; not of neighbourhoods.
    neighbours
        Cells of a neighbourhood beside its own. None: five for each sum of cells that is compared, 30 at
        least.
    confidence
        Of the intervals, in (0, 1).
    source
        A table with columns that were not read.
    seed
        Of the random cells.

    Returns
    -------
    One row a group, in their order (neighbourhoods: named by their cell, the smallest ``p_value`` first):
    ``proportion`` and ``proportion_against``, means over donors; ``log2_fold_change`` with ``lower`` and
    ``upper``; ``p_value``; ``q_value`` (Benjamini-Hochberg, weighted as above for neighbourhoods);
    ``cells``, how many were counted. Of neighbourhoods also ``group``, the most frequent component or label
    in it, and ``share`` of its cells. ``attrs``: ``condition``, ``against``, ``sample``, ``groups``,
    ``reference``, ``replicates`` in words, ``paired``, ``units`` (the sums that were compared) and
    ``dispersion`` (:math:`\alpha`).

    Raises
    ------
    InputError
        For columns, levels or groups that do not exist, and for fewer than two donors under a condition: no
        interval can be given then.

    References
    ----------
    Phipson et al. (2022), propeller, doi:10.1093/bioinformatics/btac582; Büttner et al. (2021), scCODA,
    doi:10.1038/s41467-021-27150-6; Dann et al. (2022), Milo, doi:10.1038/s41587-021-01033-z. Deviations:
    logarithms with variances from counts in place of arcsine or logit, and of negative binomials with
    quasi-likelihood; neighbourhoods all have one size.

    Examples
    --------
    >>> import chreode as ch
    >>> adata = ch.simulate(400, 50, components=3, seed=1)
    >>> adata.obs["donor"] = [f"d{i % 8}" for i in range(400)]
    >>> adata.obs["treated"] = [("no", "yes")[i % 8 // 4] for i in range(400)]
    >>> recipe = ch.recipes.scdgd(dim=3, components=3)
    >>> model = ch.fit(ch.read(adata, label="component"), recipe, epochs=5, progress=False)
    >>> table = ch.abundance(model, condition="treated", sample="donor", groups="component", source=adata)
    >>> table.attrs["replicates"], len(table)
    ('donor (4 against 4)', 3)
    """
    held = getattr(embedded, "embedded", embedded)
    if not isinstance(held, Embedded):
        msg = (
            f"Expected a fitted model, or what its project() returns; found {type(embedded).__name__}. "
            "Fit these cells first."
        )
        raise InputError(msg)
    if groups is None:
        groups = "components" if int(held.module.latents[held.code].prior.count) else "neighbourhoods"
    _check(groups, reference, neighbours, confidence)
    asked = Asked(held.cells, held, source)
    first, second, levels = _conditions(asked, condition, against)
    near = groups == "neighbourhoods"
    group, names = (np.zeros(len(held), dtype=int), []) if near else _groups(asked, groups)
    design = _replicated(asked.levels(sample), first & (group >= 0), second & (group >= 0), sample)
    kept = np.flatnonzero(design.unit >= 0)
    unit, n_units = design.unit[kept], len(design.units)
    total = np.bincount(unit, minlength=n_units)
    if near:
        k = neighbours or max(30, 5 * n_units)
        centres, members, radius = _neighbourhoods(held.embedding[kept], k, seed)
        counts = _counted(members, unit[members], n_units)
        columns = _described(held, kept[members])
        index, weight = held.names[kept[centres]], 1 / np.maximum(radius, 1e-12)
    else:
        counts = np.zeros((len(names), n_units))
        np.add.at(counts, (group[kept], unit), 1)
        columns, index, weight = {}, np.asarray(names, dtype=object), np.ones(len(names))
    exposure, rows = total, counts.sum(1) > 0
    if reference is not None:
        exposure = _of_reference(counts, names, reference, design)
        rows &= index != reference
    found = effects(counts[rows], exposure, design.matrix, coefficient=1)
    table = _table(
        counts[rows], total, found, index[rows], weight[rows], confidence=confidence, design=design
    )
    for name, values in columns.items():
        table[name] = values[rows]
    table.index.name = "cell" if near else groups
    table.attrs = {
        **levels,
        "sample": sample,
        "groups": groups,
        "reference": reference,
        "replicates": design.words,
        "paired": design.paired,
        "units": design.units,
        "dispersion": found.dispersion,
    }
    return table.sort_values("p_value", kind="stable") if near else table


def abundance_figure(table: pd.DataFrame, *, fdr: float = 0.1) -> Figure:
    """Fold changes with their intervals; of neighbourhoods, a swarm for each group they lie in.

    Parameters
    ----------
    table
        What `abundance` returned.
    fdr
        Largest ``q_value`` that is marked.

    Examples
    --------
    >>> import pandas as pd
    >>> row = {"log2_fold_change": 1.0, "lower": 0.5, "upper": 1.5, "q_value": 0.01}
    >>> len(abundance_figure(pd.DataFrame([row], index=["B cell"])).axes)
    1
    """
    from matplotlib.figure import Figure

    near = table.attrs.get("groups") == "neighbourhoods"
    group = table["group"].astype(str) if "group" in table else table.index.astype(str)
    names = list(dict.fromkeys(sorted(group) if near else group))
    place = np.array([names.index(one) for one in group], dtype=float)
    if near:
        place += np.random.default_rng(0).uniform(-0.3, 0.3, len(place))
    figure = Figure(figsize=(6, 1 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="0.6", linewidth=0.8)
    change, passed = table["log2_fold_change"].to_numpy(), (table["q_value"] <= fdr).to_numpy()
    for chosen, colour, label in ((~passed, "0.55", "others"), (passed, "#c0392b", f"q ≤ {fdr:g}")):
        if not near:
            ends = table[["lower", "upper"]].to_numpy()[chosen]
            axes.hlines(place[chosen], *ends.T, color=colour, linewidth=1.2)
        axes.scatter(change[chosen], place[chosen], s=8 if near else 26, c=colour, label=label)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    what = table.attrs.get("condition", "the condition")
    axes.set_xlabel(f"log2 fold change under {what}")
    axes.legend(frameon=False)
    return figure


def _check(groups: str, reference: str | None, neighbours: int | None, confidence: float) -> None:
    if not 0 < confidence < 1:
        msg = f"Expected a confidence in (0, 1); found {confidence}. Give 0.95, say."
        raise InputError(msg)
    near = groups == "neighbourhoods"
    if (reference is not None and near) or (neighbours is not None and not near):
        wrong = "reference" if near else "neighbours"
        msg = f"Expected no {wrong}= with groups={groups!r}; found one. Leave it out."
        raise InputError(msg)
    if neighbours is not None and neighbours < 1:
        msg = f"Expected at least one neighbour; found {neighbours}. Leave neighbours out for the default."
        raise InputError(msg)


def _conditions(asked: Asked, condition: str, against: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Masks of the cells under the condition and of the others, and what both are called."""
    column, equals, level = condition.partition("=")
    levels = asked.levels(column)
    known = sorted({str(one) for one in levels if one is not None})
    if not equals:
        if len(known) != 2:
            msg = (
                f"Expected a column of two levels, or COLUMN=LEVEL; found {column!r} with "
                f"{many(len(known), 'level')} ({listing(known)}). Write condition='{column}=LEVEL'."
            )
            raise InputError(msg)
        level = known[1]
    for one in (level, *([] if against == "rest" else [against])):
        if one not in known:
            msg = f"Expected a level of {column!r} ({listing(known)}); found {one!r}.{nearest(one, known)}"
            raise InputError(msg + " Name one of these.")
    first = levels == level
    second = ~first & (levels != None) if against == "rest" else levels == against  # noqa: E711  (by element)
    if level == against or not second.any():
        msg = f"Expected cells of other levels of {column!r}; found {level!r} alone. Name another level."
        raise InputError(msg)
    others = [one for one in known if one != level]
    other = others[0] if against == "rest" and len(others) == 1 else against
    return first, second, {"condition": f"{column}={level}", "against": other}


def _groups(asked: Asked, groups: str) -> tuple[np.ndarray, list[str]]:
    """The number of each cell's group, -1 where it is unknown, and the names of the groups in order."""
    embedded, covariate = asked.embedded, asked.cells.layout.find(groups)
    if groups == "components" and covariate is None and embedded is not None:
        number, names = embedded.components(), embedded.component_names
    else:
        levels = asked.levels(groups)
        names = sorted({str(one) for one in levels if one is not None})
        if covariate is not None:
            names = [name for name in covariate.levels if name in names]
        where = {name: i for i, name in enumerate(names)}
        number = np.array([where.get(one, -1) for one in levels])
    if len(np.unique(number[number >= 0])) < 2:
        msg = f"Expected at least two groups of cells; found fewer in {groups!r}. Name another column."
        raise InputError(msg)
    return number, names


def _replicated(samples: np.ndarray, first: np.ndarray, second: np.ndarray, column: str) -> Design:
    """The donors of either side; two a side is the least that says how donors vary."""
    there = [len({s for s in samples[mask] if s is not None}) for mask in (first, second)]
    if min(there) < 2:
        msg = (
            f"Expected at least two levels of {column!r} under each condition; found {there[0]} and "
            f"{there[1]}. One says nothing of how donors vary: take more donors, or name another column. "
            "Proportions alone are pandas.crosstab(group, condition, normalize='columns')."
        )
        raise InputError(msg)
    return replicates_of(samples, first, second, column, 1)


def _of_reference(counts: np.ndarray, names: list[str], reference: str, design: Design) -> np.ndarray:
    """Cells of the reference group in each unit."""
    if reference not in names:
        msg = (
            f"Expected a group ({listing(names)}); found reference={reference!r}.{nearest(reference, names)}"
        )
        raise InputError(msg + " Name one of these.")
    exposure = counts[names.index(reference)]
    if (exposure == 0).any():
        donor = design.units[int(exposure.argmin())][0]
        msg = (
            f"Expected a reference that every donor has; found none of {reference!r} in {donor!r}. Name "
            "another group."
        )
        raise InputError(msg)
    return exposure


def _neighbourhoods(codes: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells in the middle of neighbourhoods, the members of each (itself first), and how far they reach."""
    from sklearn.neighbors import NearestNeighbors

    n = len(codes)
    number = int(min(max(0.1 * n, min(n, 50)), _CENTRES))
    some = np.random.default_rng(seed).choice(n, number, replace=False)
    search = NearestNeighbors(n_neighbors=min(k + 1, n)).fit(codes)
    middle = np.median(codes[search.kneighbors(codes[some], return_distance=False)], axis=1)
    centres = np.unique(search.kneighbors(middle, n_neighbors=1, return_distance=False))
    distance, members = search.kneighbors(codes[centres])
    return centres, members, distance[:, -1]


def _counted(members: np.ndarray, unit: np.ndarray, n_units: int) -> np.ndarray:
    """How many members of each neighbourhood are of each unit."""
    row = np.arange(len(members))[:, None] * n_units
    return np.bincount((row + unit).ravel(), minlength=len(members) * n_units).reshape(-1, n_units) * 1.0


def _described(embedded: Embedded, members: np.ndarray) -> dict[str, np.ndarray]:
    """The most frequent label, or else component, of each neighbourhood, and its share."""
    label = embedded.cells.layout.in_role("label")
    if label is not None and label.categorical:
        number, names = embedded.cells.covariates[label.column].cpu().numpy(), [*label.levels, "unknown"]
    elif int(embedded.module.latents[embedded.code].prior.count):
        number, names = embedded.components(), embedded.component_names
    else:
        return {}
    counts = _counted(members, number[members] % len(names), len(names))
    most = counts.argmax(1)
    return {
        "group": np.asarray(names, dtype=object)[most],
        "share": counts.max(1) / members.shape[1],
    }


def _table(
    counts: np.ndarray,
    total: np.ndarray,
    found: Effects,
    index: np.ndarray,
    weight: np.ndarray,
    *,
    confidence: float,
    design: Design,
) -> pd.DataFrame:
    import pandas as pd

    side = design.matrix[:, 1] == 1
    lower, upper = (end / np.log(2) for end in found.interval(confidence))
    columns = {
        "proportion": (counts / total)[:, side].mean(1),
        "proportion_against": (counts / total)[:, ~side].mean(1),
        "log2_fold_change": found.estimate / np.log(2),
        "lower": lower,
        "upper": upper,
        "p_value": found.p_value,
        "q_value": _false_discovery_rate(found.p_value, weight),
        "cells": counts.sum(1).astype(int),
    }
    return pd.DataFrame(columns, index=index)


def _false_discovery_rate(p_value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg's, where a test counts as often as its weight says."""
    order = np.argsort(p_value, kind="stable")
    raw = p_value[order] * weight.sum() / weight[order].cumsum()
    rate = np.empty_like(raw)
    rate[order] = np.minimum(np.minimum.accumulate(raw[::-1])[::-1], 1)
    return rate
