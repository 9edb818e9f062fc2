"""The same cells under another level of a condition: what they would be, and which genes answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from chreode.embedded import Embedded
from chreode.errors import InputError
from chreode.interpret.asked import asked_of
from chreode.interpret.q_values import q_values
from chreode.intervene import do
from chreode.io.schema import listing
from chreode.posterior import posterior_of
from chreode.words import many

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.figure import Figure

    from chreode.axes import Float, Int, Tensor
    from chreode.infer.posterior import GaussianPosterior
    from chreode.interpret.asked import Asked

__all__ = ["counterfactual", "response", "response_figure"]

Private = Literal["transport", "sample"]
_EVERYONE = "all"
_LEAST = 1e-30  # of an expectation
_PER = 1e4  # molecules that expectations are given per


def counterfactual(
    model: Any,
    *,
    to: Mapping[str, str | float | None],
    where: str | np.ndarray | None = None,
    private: Private = "transport",
    seed: int = 0,
) -> Embedded:
    r"""Cells as they would be under other levels: their shared codes as they are, the rest of the new level.

    .. math:: (z_i, w_i, y_i) \to (z_i, T_{y_i \to y'}(w_i), y')

    Codes that belong to levels (of `patches`, `multigroupvi` and their like) are transported, to what cells
    of the new level with such shared codes have (`chreode.companion.Companion`), or drawn from these.
    Of recipes without such codes this is ``embedded.do()``.

    Parameters
    ----------
    model
        A `chreode.FittedModel`, which stands for the cells it was fitted on, or a `chreode.Embedded`.
    to
        New levels by column.
    where
        Only these cells: ``"COLUMN=LEVEL"`` or a mask; all by default.
    private
        ``transport`` for what to expect of each cell; ``sample`` draws, so that cells of the new level differ
        among each other as measured ones do.
    seed
        Of the draws.

    Returns
    -------
    Embedded
        The cells under the new levels, without counts: ``.expected()``, ``.sample(uncertain=False)``.

    Raises
    ------
    InputError
        For a column or level that the model does not know, or cells that do not exist.

    Examples
    --------
    >>> import chreode as ch
    >>> cells = ch.read(ch.simulate(80, 20, batches=2, seed=0), covariates=["batch"])
    >>> model = ch.fit(cells, ch.recipes.patches(dim=3, hidden=(8,)), epochs=2, progress=False)
    >>> ch.counterfactual(model, to={"batch": "batch0"}, where="batch=batch1")
    Embedded(42 cells by patches, 37 trained)
    """
    asked = asked_of(model, counted=False)
    some = _some(_of_model(asked), None if where is None else asked.group(where, name="where")[0])
    draw = torch.Generator().manual_seed(seed) if _checked(private) == "sample" else None
    return do(some, to, draw=draw)


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
        s^2_{kg} = \operatorname{Var}_{\text{fits}} \hat\beta_{kg}
        + \overline{\operatorname{Var}_{\text{codes}} \hat\beta_{kg}}

    over the cells of the group that have the first level, which are decoded under both. Codes are drawn from
    their posteriors (`chreode.posterior.posterior`; of a loaded model, where ``source`` has the counts).
    Those tell how well codes are known, of a decoder that is taken as it is: give several fits, of cells
    drawn again, for what another data set would have said.

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
        Of the codes of each fit; 0 takes them as they are.
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
        A row a group and feature, within each group the surest first: ``group``, ``feature``,
        ``log2_fold_change`` (``change`` of continuous values) with ``lower`` and ``upper``, ``p_value``
        (against no change, by Student's t with one degree of freedom less than there are fits; normal for one
        fit), ``q_value`` within the group (Benjamini-Hochberg), ``before`` and ``after`` (per ten thousand),
        ``cells``. ``attrs``: ``condition``, ``modality``, ``fits``, ``source``: what intervals are made of.

    Raises
    ------
    InputError
        For levels or columns that are not known, a group without cells of the first level (which the message
        names), or fits of other features.

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
    how = {"groups": groups, "where": where, "modality": modality, "private": _checked(private)}
    how |= {"draws": draws, "source": source, "progress": progress}
    found = [_changes(one, column, levels, seed=seed + number, **how) for number, one in enumerate(fits)]
    names, features = found[0].groups, found[0].features
    if not fits or any(one.groups != names or one.features != features for one in found):
        msg = "Expected fits of the same features and groups; found others. Read their cells alike."
        raise InputError(msg)
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

    effect = next(c for c in ("log2_fold_change", "change") if c in table)
    order = table.sort_values("p_value", kind="stable")["feature"].drop_duplicates()[:names]
    groups = list(dict.fromkeys(table["group"]))
    wide = table.assign(shown=table[effect].where(table["lower"] * table["upper"] > 0))
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


def _condition(condition: Mapping[str, Any]) -> tuple[str, tuple[str, str]]:
    """The one column that changes, and its levels."""
    pairs = {k: v for k, v in condition.items() if isinstance(v, (tuple, list)) and len(v) == 2}
    if len(condition) != 1 or not pairs:
        msg = (
            f"Expected one column with two levels; found {condition or 'none'}. Write "
            'ch.response(model, condition=("ctrl", "stim")), with the name of your column.'
        )
        raise InputError(msg)
    ((column, (before, after)),) = pairs.items()
    return column, (str(before), str(after))


def _checked(private: str) -> str:
    if private not in ("transport", "sample"):
        msg = f"Expected private codes by 'transport' or 'sample'; found {private!r}. Name one of these."
        raise InputError(msg)
    return private


def _of_model(asked: Asked) -> Embedded:
    if asked.embedded is None or not len(asked.embedded):
        msg = (
            "Expected a fitted model with its cells, or what its project() returns; found none. Fit first, "
            "or project the cells: model.project(source)."
        )
        raise InputError(msg)
    return asked.embedded


def _some(embedded: Embedded, mask: np.ndarray | None) -> Embedded:
    """Some of the cells, without their counts, which are not looked at."""
    rows = torch.arange(len(embedded)) if mask is None else torch.from_numpy(np.flatnonzero(mask))
    codes = {name: z[rows] for name, z in embedded.codes.items()}
    cells, trained = embedded.cells.replace(measured={})[rows], embedded.trained[rows.numpy()]
    return Embedded(
        embedded.module, cells, codes, code=embedded.code, recipe=embedded.recipe, trained=trained
    )


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
    embedded = _of_model(asked)
    name = embedded.modality(modality)
    described = embedded.cells.layout.modalities[name]
    mask, names, group = _grouped(asked, column, levels[0], groups, where)
    pair = _Pair(_some(embedded, mask), {column: levels[1]}, group, modality=name, sample=private == "sample")
    generator = torch.Generator().manual_seed(seed)
    before, after = pair.means(None, generator)
    within = None
    if draws and not set(embedded.cells.layout.modalities) - set(embedded.cells.measured):
        known = posterior_of(embedded, torch.from_numpy(np.flatnonzero(mask)))
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
    )


def _grouped(
    asked: Asked, column: str, before: str, groups: str | None, where: Any
) -> tuple[np.ndarray, list[str], Int[Tensor, " n"]]:
    """The cells that are asked about, and which group each of them is of."""
    told = np.full(len(asked), _EVERYONE, dtype=object) if groups is None else asked.levels(groups)
    inside = told != None  # noqa: E711  (by element)
    if where is not None:
        inside &= asked.group(where, name="where")[0]
    names = sorted({str(one) for one in told[inside]})
    mask = inside & asked.of_level(column, before)
    number = {name: k for k, name in enumerate(names)}
    group = torch.tensor([number[str(one)] for one in told[mask]], dtype=torch.long)
    if empty := [name for k, name in enumerate(names) if not (group == k).any()]:
        msg = (
            f"Expected cells of {column!r} {before!r} in every group; found none in {listing(empty)}. What "
            "such a group would do starts from nothing: leave it out with where=, or merge it with another."
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


def _table(found: Sequence[_Found], *, level: float) -> pd.DataFrame:
    """Estimates over fits, with intervals by the spread between them and within each."""
    import pandas as pd
    from scipy import stats

    first, n = found[0], len(found)
    changes = np.stack([one.change for one in found])
    estimate = changes.mean(0)
    variance = changes.var(0, ddof=1) if n > 1 else np.zeros_like(estimate)
    drawn = [one.within for one in found if one.within is not None]
    if len(drawn) == n:
        variance = variance + np.mean(drawn, axis=0)
    error = np.sqrt(variance)
    law: Any = stats.t(n - 1) if n > 1 else stats.norm()
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = np.where(error > 0, 2 * law.sf(np.abs(estimate) / error), np.nan)
    width = law.ppf(0.5 + level / 2) * error
    tables = []
    for k, group in enumerate(first.groups):
        order = np.lexsort((-np.abs(estimate[k]), np.nan_to_num(p_value[k], nan=2.0)))
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
        }
        tables.append(pd.DataFrame(columns).iloc[order])
    return pd.concat(tables, ignore_index=True)
