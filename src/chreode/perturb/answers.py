"""Which features answer to a change of level, and how surely."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from chreode.errors import InputError
from chreode.interpret.asked import asked_of
from chreode.interpret.glm import moderate
from chreode.interpret.q_values import q_values
from chreode.intervene import do
from chreode.perturb.counterfactual import Private, checked, embedded_of
from chreode.posterior import posterior
from chreode.words import listing, many, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.figure import Figure

    from chreode.axes import Float, Int, Tensor
    from chreode.embedded import Embedded
    from chreode.infer.posterior import GaussianPosterior
    from chreode.interpret.asked import Asked

__all__ = ["response", "response_figure", "surest", "tested"]

_EVERYONE = "all"
_LEAST = 1e-30  # of an expectation
_PER = 1e4  # molecules that expectations are given per
_FITS = 3  # that tell how sure a fit is, at least
_ASKED = ("groups", "where", "modality", "private", "draws", "level", "source", "seed", "progress")


def response(
    model: Any,
    *,
    groups: str | None = None,
    where: str | np.ndarray | None = None,
    modality: str | None = None,
    private: Private = "transport",
    draws: int = 20,
    level: float = 0.9,
    source: Any = None,
    seed: int = 0,
    progress: bool = False,
    **condition: tuple[str, str],
) -> pd.DataFrame:
    r"""Which features a change of level would raise or lower in each group of cells, and how surely.

    .. math::
        \beta_{kg} = \log_2 \frac{\sum_{i \in k} E_g(z_i, w'_i, y')}{\sum_{i \in k} E_g(z_i, w_i, y)}, \qquad
        s^2_{kg} = \frac{\nu_k\, s^2_{k0} + (F - 1) \operatorname{Var}_{\text{fits}} \hat\beta_{kg}}
        {\nu_k + F - 1} + \overline{\operatorname{Var}_{\text{codes}} \hat\beta_{kg}}

    over the cells of the group that have the first level, which are decoded under both. Codes are drawn from
    their posteriors (`chreode.posterior.posterior`; of a loaded model, where ``source`` has the counts).
    Those tell how well codes are known, of a decoder that is taken as it is: give several fits, of cells
    drawn again, for what another data set would have said. A few fits tell little of the variance of one
    feature, and more of what features have: :math:`s^2_{k0}` and :math:`\nu_k` are those of
    `chreode.interpret.glm.moderate`, without a trend.

    Parameters
    ----------
    model
        A `chreode.FittedModel` or `chreode.Embedded`; or several, fitted from several seeds or on resampled
        cells (``ch.fit(cells.resampled(seed=s), recipe, seed=s)``), at least three of which tell how sure
        the fit is.
    condition
        One column with two levels: ``condition=("ctrl", "stim")``.
    groups
        Column whose levels are told apart; None for all cells together. Cells of unknown level are left out.
    where, private
        As of `counterfactual`.
    modality
        The first by default.
    draws
        Of the codes of each fit; 0 takes them as they are. Without counts, as of a loaded model without
        ``source``, none can be drawn.
    level
        Of the intervals, between 0 and 1.
    source
        The same cells with counts, for loaded models; or a table with columns that were not read.
    seed
        Of the draws.
    progress
        Whether to show bars.

    Returns
    -------
    pandas.DataFrame
        A row a group and feature, within each group the surest first, by change over its error: ``group``,
        ``feature``, ``log2_fold_change`` (``change`` of continuous values) with ``lower`` and ``upper``,
        ``p_value`` (against no change, by Student's t with :math:`\nu_k + F - 1` degrees of freedom),
        ``q_value`` within the group (Benjamini-Hochberg), ``before`` and ``after`` (per ten thousand),
        ``cells``, and ``seen``: how many cells of the group, and of a mask ``where``, have the second level
        (of a group without any, others tell all). Of fewer than three fits there are no p-values, and the
        strongest responses come first: the intervals of one, normal, say nothing of what other cells would
        have taught, and where no codes are drawn there are none (NaN).
        ``attrs``: ``condition``, ``modality``, ``fits``, ``source``: what intervals are made of.

    Raises
    ------
    InputError
        For levels or columns that are not known, a level that is both, a group without cells of the first
        level (which the message names), fits of other features, or the same fit twice.

    Examples
    --------
    >>> import chreode as ch
    >>> cells = ch.read(ch.simulate(80, 20, batches=2, seed=0), covariates=["batch"])
    >>> model = ch.fit(cells, ch.recipes.patches(dim=3, hidden=(8,)), epochs=2, progress=False)
    >>> table = ch.response(model, batch=("batch0", "batch1"), draws=3)
    >>> len(table), table.attrs["source"]
    (20, 'codes drawn from their posteriors, of one fit')
    """
    column, levels = _condition(condition)
    if not 0 < level < 1 or draws < 0 or draws == 1:
        msg = "Expected a level between 0 and 1, and draws of 0, or 2 and more; found "
        raise InputError(msg + f"{level} and {draws}. The usual ones are 0.9 and 20.")
    fits = list(model) if isinstance(model, (list, tuple)) else [model]
    how = {"groups": groups, "where": where, "modality": modality, "private": checked(private)}
    how |= {"draws": draws, "source": source, "progress": progress}
    found = [_changes(one, column, levels, seed=seed + number, **how) for number, one in enumerate(fits)]
    names, features = found[0].groups, found[0].features
    if not fits or any(one.groups != names or one.features != features for one in found):
        msg = "Expected fits of the same features and groups; found others. Read their cells alike."
        raise InputError(msg)
    if any(np.array_equal(a.change, b.change) for a, b in combinations(found, 2)):
        msg = (
            "Expected fits that differ; found two that answer alike in every number. Fit with other seeds, or"
        )
        raise InputError(msg + " on cells drawn again: ch.fit(cells.resampled(seed=s), recipe, seed=s).")
    table = _table(found, level=level)
    drawn = draws > 0 and all(one.within is not None for one in found)
    codes = "codes drawn from their posteriors" if drawn else "codes as they are"
    number = many(len(fits), "fit") if len(fits) > 1 else "one fit"
    table.attrs = {"condition": {column: levels}, "modality": found[0].modality, "fits": len(fits)}
    table.attrs["source"] = f"{codes}, of {number}"
    return table


def response_figure(table: pd.DataFrame, *, names: int = 20) -> Figure:
    """The strongest responses as a table of colours: features by groups, blank where the sign is unsure.

    Parameters
    ----------
    table
        What `response` returned.
    names
        Features that are shown: those whose response is surest in some group.
    """
    from matplotlib.figure import Figure

    effect = next((c for c in ("log2_fold_change", "change") if c in table), "")
    if not effect or "condition" not in table.attrs:
        msg = f"Expected a table of chreode.response; found columns {listing(list(table.columns))}. Draw what"
        raise InputError(msg + " response() returned, as it is: other tables have lost what was asked.")
    order = surest(table)["feature"].drop_duplicates()[:names]
    groups = list(dict.fromkeys(table["group"]))
    wide = table.assign(shown=table[effect].mask(table["lower"] * table["upper"] <= 0))
    shown = wide.pivot(index="feature", columns="group", values="shown").loc[order, groups]
    most = max(float(np.nanmax(np.abs(shown.to_numpy()), initial=0.0)), 1e-9)
    figure = Figure(figsize=(2.5 + 0.5 * len(groups), 1.5 + 0.2 * len(order)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shown.to_numpy(), cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    axes.set_xticks(range(len(groups)), groups, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(order)), list(order), fontsize=7)
    (column, (before, after)) = next(iter(table.attrs["condition"].items()))
    figure.colorbar(image, label=f"{effect.replace('_', ' ')}, {column}: {before} to {after}")
    return figure


def tested(table: pd.DataFrame) -> bool:
    """Whether a table of `response` has p-values: whether it is of enough fits."""
    return bool(table["p_value"].notna().any())


def surest(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table of `response`, those first whose change is most of the width of its interval.

    Of fewer than three fits, whose intervals tell little, those first whose change is largest.
    """
    effect = "log2_fold_change" if "log2_fold_change" in table else "change"
    size = table[effect].abs()
    if tested(table):
        size = size / np.maximum(table["upper"] - table["lower"], _LEAST)
    return table.iloc[np.argsort(-size.to_numpy(), kind="stable")]


class _Found(NamedTuple):
    """Responses by one fit: change, its variance over draws, and expectations, groups by features each."""

    groups: list[str]
    features: list[str]
    modality: str
    continuous: bool
    change: np.ndarray
    within: np.ndarray | None
    before: np.ndarray
    after: np.ndarray
    cells: np.ndarray
    seen: np.ndarray


def _condition(condition: Mapping[str, Any]) -> tuple[str, tuple[str, str]]:
    """The one column that changes, and its levels."""
    pairs = {k: v for k, v in condition.items() if isinstance(v, (tuple, list)) and len(v) == 2}
    if misspelt := next((k for k in condition if k not in pairs and nearest(k, _ASKED)), None):
        msg = f"Expected arguments of chreode.response, and one column with two levels; found {misspelt!r}."
        raise InputError(msg + nearest(misspelt, _ASKED))
    if len(condition) != 1 or not pairs:
        msg = (
            f"Expected one column with two levels; found {condition or 'none'}. Write "
            'ch.response(model, condition=("ctrl", "stim")), with the name of your column.'
        )
        raise InputError(msg)
    ((column, (before, after)),) = pairs.items()
    if str(before) == str(after):
        msg = f"Expected two levels of {column!r}; found {before!r} twice. Name the level to come from"
        raise InputError(msg + " first, and the one to go to.")
    return column, (str(before), str(after))


def _changes(
    model: Any,
    column: str,
    levels: tuple[str, str],
    *,
    groups: str | None,
    where: Any,
    modality: str | None,
    private: str,
    draws: int,
    source: Any,
    seed: int,
    progress: bool,
) -> _Found:
    """Responses by one fit."""
    from tqdm.auto import trange

    asked = asked_of(model, source=source, counted=source is not None)
    embedded = embedded_of(asked)
    name = embedded.modality(modality)
    described = embedded.cells.layout.modalities[name]
    told = _told(asked, groups, where)
    own = isinstance(where, str) and where.partition("=")[0] == column  # which no cell of the second level is
    mask, names, group = _grouped(asked, column, levels[0], told)
    some = embedded.replace(cells=embedded.cells.replace(measured={})).pick(mask)
    pair = _Pair(some, {column: levels[1]}, group, modality=name, sample=private == "sample")
    generator = torch.Generator().manual_seed(seed)
    before, after = pair.means(None, generator)
    within = None
    if draws and not set(embedded.cells.layout.modalities) - set(embedded.cells.measured):
        known = posterior(embedded, torch.from_numpy(np.flatnonzero(mask)))
        bar = trange(draws, desc="draws", disable=not progress)
        within = np.stack([pair.change(*pair.means(known, generator)) for _ in bar]).var(0, ddof=1)
    return _Found(
        groups=names,
        features=list(described.names),
        modality=name,
        continuous=pair.continuous,
        change=pair.change(before, after),
        within=within,
        before=before,
        after=after,
        cells=np.bincount(group, minlength=len(names)),
        seen=_seen(asked, column, levels[1], told if not own else _told(asked, groups, None), names),
    )


def _told(asked: Asked, groups: str | None, where: Any) -> np.ndarray:
    """The group of each cell, None where it is unknown or the cell is not asked about."""
    told = np.full(len(asked), _EVERYONE, dtype=object) if groups is None else asked.levels(groups).copy()
    if where is not None:
        told[~asked.group(where, name="where")[0]] = None
    return told


def _seen(asked: Asked, column: str, after: str, told: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """How many cells of each group have the second level."""
    theirs = told[asked.levels(column) == after]
    return np.array([(theirs == name).sum() for name in names])


def _grouped(
    asked: Asked, column: str, before: str, told: np.ndarray
) -> tuple[np.ndarray, list[str], Int[Tensor, " n"]]:
    """The cells that are asked about, and which group each of them is of."""
    inside = told != None  # noqa: E711  (by element)
    names = sorted({str(one) for one in told[inside]})
    mask = inside & asked.of_level(column, before)
    number = {name: k for k, name in enumerate(names)}
    group = torch.tensor([number[str(one)] for one in told[mask]], dtype=torch.long)
    if empty := [name for k, name in enumerate(names) if not (group == k).any()]:
        msg = (
            f"Expected cells of {column!r} {before!r} in every group; found none in {listing(empty)}. What "
            "such a group would do starts from nothing: ask of other cells with where=, or merge it with "
            "another."
        )
        raise InputError(msg)
    return mask, names, group


class _Pair:
    """Cells under their own level and another, decoded together and summed by group."""

    def __init__(
        self, embedded: Embedded, to: Mapping[str, str], group: Tensor, *, modality: str, sample: bool
    ) -> None:
        self.embedded, self.to, self.modality, self.sample = embedded, to, modality, sample
        self.continuous = embedded.cells.layout.modalities[modality].kind == "continuous"
        self.member = torch.nn.functional.one_hot(group).double().T.numpy()

    def means(
        self, known: GaussianPosterior | None, generator: torch.Generator
    ) -> tuple[Float[np.ndarray, "k g"], Float[np.ndarray, "k g"]]:
        """Mean expectation of each group before and after, at the codes or at a draw of the shared ones."""
        own = self.embedded
        if known is not None:
            codes = {**own.codes, own.code: known.sample(generator)}
            own = own.replace(cells=own.cells, codes=codes)
        moved = do(own, self.to, draw=generator if self.sample else None)
        return self._mean(own), self._mean(moved)

    def change(
        self, before: Float[np.ndarray, "k g"], after: Float[np.ndarray, "k g"]
    ) -> Float[np.ndarray, "k g"]:
        """Log ratio to the base 2; the difference of continuous values."""
        if self.continuous:
            return after - before
        return np.log2(np.maximum(after, _LEAST)) - np.log2(np.maximum(before, _LEAST))

    def _mean(self, embedded: Embedded) -> Float[np.ndarray, "k g"]:
        size = None if self.continuous else _PER
        parts = embedded.expected_chunks(self.modality, size=size, borrow=False)
        total = sum(self.member[:, rows] @ part.astype(np.float64) for rows, part in parts)
        return np.asarray(total) / self.member.sum(1, keepdims=True)


def _error(found: Sequence[_Found]) -> tuple[Float[np.ndarray, "k g"], Float[np.ndarray, " k"]]:
    """Standard error of each mean change, and degrees of freedom by group."""
    n, shape = len(found), found[0].change.shape
    variance, freedom = np.zeros(shape), np.full(shape[0], np.inf)
    if n > 1:
        between = np.stack([one.change for one in found]).var(0, ddof=1)
        own, alike = np.full(shape[1], n - 1.0), np.zeros(shape[1])
        for k in range(shape[0]):  # a group
            variance[k], prior = moderate(between[k], own, level=alike)
            freedom[k] = n - 1 + prior
    drawn = [one.within for one in found if one.within is not None]
    if len(drawn) == n:
        variance = variance + np.mean(drawn, axis=0)
    elif n == 1:
        variance[:] = np.nan  # nothing tells
    return np.sqrt(variance), freedom


def _table(found: Sequence[_Found], *, level: float) -> pd.DataFrame:
    """Estimates over fits, with intervals by the spread between them and within each."""
    import pandas as pd
    from scipy import stats

    first = found[0]
    estimate = np.mean([one.change for one in found], axis=0)
    error, freedom = _error(found)
    law = stats.t(freedom[:, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.abs(estimate) / error
    enough = len(found) >= _FITS
    p_value = 2 * law.sf(statistic) if enough else np.full_like(estimate, np.nan)
    surely = np.nan_to_num(statistic, nan=0.0, posinf=np.inf) if enough else np.zeros_like(estimate)
    width = law.ppf(0.5 + level / 2) * error
    tables = []
    for k, group in enumerate(first.groups):
        order = np.lexsort((-np.abs(estimate[k]), -surely[k]))
        columns = {
            "group": group,
            "feature": np.asarray(first.features, dtype=object),
            "change" if first.continuous else "log2_fold_change": estimate[k],
            "lower": estimate[k] - width[k],
            "upper": estimate[k] + width[k],
            "p_value": p_value[k],
            "q_value": q_values(p_value[k]),
            "before": np.mean([one.before[k] for one in found], axis=0),
            "after": np.mean([one.after[k] for one in found], axis=0),
            "cells": int(first.cells[k]),
            "seen": int(first.seen[k]),
        }
        tables.append(pd.DataFrame(columns).iloc[order])
    return pd.concat(tables, ignore_index=True)
