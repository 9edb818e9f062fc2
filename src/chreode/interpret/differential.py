"""Which features differ between two groups of cells, with donors as replicates where there are any."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chreode import posthoc
from chreode.errors import InputError
from chreode.held_out import halves
from chreode.interpret.asked import Asked, asked_of
from chreode.interpret.cellwise import compare_cells
from chreode.interpret.design import Design, replicates_of
from chreode.interpret.glm import quasi_test, size_factors
from chreode.interpret.modelled import model_change
from chreode.interpret.pseudobulk import unit_sums
from chreode.interpret.q_values import q_values
from chreode.words import many

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse as sp
    from matplotlib.figure import Figure

__all__ = ["de", "volcano_figure"]

_LEVEL = 0.95  # of intervals
_DRAWS = 50  # from the posterior of the codes
_MODELLED = {"estimate": "model_log2_fold_change", "lower": "model_lower", "upper": "model_upper"}


@dataclass(frozen=True)
class _Groups:
    """Counts of one modality in two groups of cells."""

    counts: sp.csr_matrix
    size: np.ndarray
    first: np.ndarray
    second: np.ndarray
    everywhere: np.ndarray


def de(
    cells: Any,
    *,
    group: str | np.ndarray,
    against: str | np.ndarray = "rest",
    within: str | np.ndarray | None = None,
    sample: str | None = None,
    modality: str | None = None,
    min_cells: int = 10,
    min_counts: int = 10,
    modelled: bool = False,
    source: Any = None,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    r"""Test which features have another share of the molecules in one group of cells than in another.

    With ``sample=``, a column of donors, the unit of replication is the donor: counts are summed by donor
    and group (`chreode.pseudobulk`), and

    .. math::

        \log \mu_{gu} = \log N_u + \beta_g t_u + \gamma_{g, \mathrm{donor}(u)}, \qquad
        \operatorname{Var} y_{gu} = \varphi_g (\mu_{gu} + \alpha \mu_{gu}^2)

    is fitted and :math:`\beta_g` tested by quasi-likelihood with moderated :math:`\varphi_g`
    (`chreode.interpret.glm.quasi_test`). Where at least half of the donors (and two) have cells in both
    groups, each of these has a level of its own (a paired design) and the others are left out; else donors
    share the intercept. Without ``sample`` cells are compared as if each were a replicate
    (`chreode.interpret.cellwise.compare_cells`), which tells how these cells differ, not whether other
    donors' would: the p-values are far too small for that, and the result says so.

    Tests are of counts as they were measured. What a decoder expects never enters one: its values are
    smoothed over cells, which makes them dependent. ``modelled`` puts the model's own fold change beside.

    Components of the model (``group="component=2"``) were drawn to differ, so that testing them on the same
    molecules finds differences where there are none. Each molecule goes to one of two halves at random:
    cells are projected with the first half, which gives their components, and tested on the second. Where
    genes vary far beyond Poisson within a cell, both halves share that, and p-values stay a little small.

    Parameters
    ----------
    cells
        An `Embedded`; a `FittedModel` stands for its own. `Cells` will do where no model is asked.
    group
        ``"COLUMN=LEVEL"``, or a mask of ``n`` cells. ``"component=K"`` is a component of the model.
    against
        ``"rest"`` for all other cells, those of unknown level left out; another level of the same column; or
        a mask.
    within
        Only these cells: ``"COLUMN=LEVEL"`` or a mask.
    sample
        Column of the donors (or animals, cultures: whatever was sampled independently).
    modality
        Of counts, or of zeros and ones; the first by default.
    min_cells
        Donors with fewer cells of a group are left out of that group, >= 1.
    min_counts
        Features with fewer counts in all are not tested, >= 1.
    modelled
        Whether to add what the decoder expects (`chreode.interpret.modelled.model_change`).
    source
        The same cells with counts, for a loaded model; or a table with columns that were not read.
    seed
        Of the halves, and of draws from a posterior.
    progress
        Whether to show bars while cells are projected and decoded.

    Returns
    -------
    One row a feature, the smallest ``p_value`` first: ``log2_fold_change`` with ``lower`` and ``upper``
    (95 %); ``statistic``, signed, for ranking; ``p_value``; ``q_value`` (Benjamini-Hochberg); ``mean`` and
    ``mean_against`` in molecules per ten thousand; ``share`` and ``share_against`` of the cells that express
    it; ``replicates``, what the p-values count. With ``modelled``: ``model_log2_fold_change`` with
    ``model_lower`` and ``model_upper``. Features that were not tested have no p-value. ``attrs``:
    ``group``, ``against``, ``within``, ``modality``, ``cells`` and ``cells_against``, ``replicates``,
    ``paired``, ``units`` (the sums that were compared) and ``halved``.

    Raises
    ------
    InputError
        For groups or columns that do not exist or overlap, too few donors, or values that are not counts.

    References
    ----------
    Squair et al. (2021), false discoveries when cells are replicates, doi:10.1038/s41467-021-25960-2; Lund et
    al. (2012), quasi-likelihood, doi:10.1515/1544-6115.1826; Neufeld et al. (2024), count splitting,
    doi:10.1093/biostatistics/kxac047.

    Examples
    --------
    >>> import chreode as ch
    >>> adata = ch.simulate(400, 50, components=2, seed=1)
    >>> adata.obs["donor"] = np.arange(400) % 4
    >>> cells = ch.read(adata, label="component")
    >>> table = ch.de(cells, group="component=0", sample="donor", source=adata)
    >>> table["replicates"].iloc[0], bool((table["q_value"] < 0.05).sum() > 5)
    ('donor (4 pairs)', True)
    """
    if min_cells < 1 or min_counts < 1 or not 0 <= seed < 2**32:
        msg = "Expected min_cells and min_counts of at least 1 and a seed from 0 to 4,294,967,295; found "
        raise InputError(msg + f"{min_cells}, {min_counts} and {seed}. Give other numbers.")
    asked = asked_of(cells, source=source)
    if modelled and asked.embedded is None:
        msg = "Expected a model with modelled=True; found cells alone. Give the FittedModel."
        raise InputError(msg)
    column = group.partition("=")[0] if isinstance(group, str) else ""
    halved = asked.own(column)
    if halved:
        asked = _second_half(asked, seed=seed, progress=progress)
    first, second = _masks(asked, group, against, within)
    name, groups = _counted(asked, modality, first, second)
    design = sample and replicates_of(asked.levels(sample), groups.first, groups.second, sample, min_cells)
    table = _described(groups, asked.cells.layout.modalities[name])
    tested = _tested(groups, min_counts)
    result = _by_sample(groups, tested, design) if design else _by_cell(groups, tested)
    table = _joined(table, tested, result)
    replicates = design.words if design else "cells"
    table["replicates"] = replicates
    if modelled and asked.embedded is not None:
        asks = {"modality": name, "keep": column, "draws": _DRAWS, "progress": progress}
        rng = np.random.default_rng(seed)
        found = model_change(asked.embedded, groups.first, groups.second, rng=rng, **asks)
        for key, values in found.items():
            table[_MODELLED[key]] = values / np.log(2)
    if not design:
        logging.getLogger(__name__).warning(
            "These p-values treat cells as replicates: they say nothing of other donors. Name a column of "
            "donors with sample=."
        )
    size = table["statistic"].abs().fillna(-1.0).to_numpy()
    table = table.iloc[np.lexsort((-size, table["p_value"].fillna(2.0).to_numpy()))]
    sides = {"group": group, "against": against, "within": within}
    table.attrs = {side: "mask" if isinstance(one, np.ndarray) else one for side, one in sides.items()} | {
        "modality": name,
        "cells": int(groups.first.sum()),
        "cells_against": int(groups.second.sum()),
        "replicates": replicates,
        "paired": bool(design and design.paired),
        "units": design.units if design else [],
        "halved": halved,
    }
    return table


def volcano_figure(table: pd.DataFrame, *, fdr: float = 0.05, names: int = 12) -> Figure:
    """Fold changes against p-values, with the names of the strongest.

    Parameters
    ----------
    table
        What `de` returned.
    fdr
        Largest ``q_value`` that is marked.
    names
        How many are named.
    """
    from matplotlib.figure import Figure

    shown = table.dropna(subset=["p_value"])
    effect = shown["log2_fold_change"].to_numpy()
    # What a double cannot hold is drawn at its end.
    height = -np.log10(np.maximum(shown["p_value"].to_numpy(), 1e-300))
    passed = (shown["q_value"] <= fdr).to_numpy()
    figure = Figure(figsize=(5.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="0.6", linewidth=0.8)
    for chosen, colour, label in (
        (~passed, "0.6", "others"),
        (passed, "#c0392b", f"false discovery rate {fdr:g}"),
    ):
        axes.scatter(effect[chosen], height[chosen], s=8, c=colour, label=label, linewidths=0)
    for i in np.flatnonzero(passed)[:names]:
        axes.annotate(_name(shown, i), (effect[i], height[i]), (2, 2), textcoords="offset points", fontsize=7)
    attrs = table.attrs
    axes.set_xlabel(f"log2 fold change, {attrs.get('group', 'group')} against {attrs.get('against', 'rest')}")
    axes.set_ylabel(f"-log10 p; replicates: {attrs.get('replicates', 'unknown')}")
    axes.legend(frameon=False, fontsize=8)
    return figure


def _name(table: pd.DataFrame, row: int) -> str:
    return str(table["symbol"].iloc[row] if "symbol" in table else table.index[row])


def _second_half(asked: Asked, *, seed: int, progress: bool) -> Asked:
    """The cells with components by one half of their molecules, and the other half as their counts."""
    embedded = asked.embedded
    if embedded is None:
        return asked
    seen, kept = halves(asked.cells, torch.Generator().manual_seed(seed))
    show = "half of the molecules" if progress else None
    codes = posthoc.project(embedded.module, seen, show=show)
    return asked.replace(cells=kept, embedded=embedded.replace(cells=kept, codes=codes))


def _masks(asked: Asked, group: Any, against: Any, within: Any) -> tuple[np.ndarray, np.ndarray]:
    """The two groups of cells."""
    first, column = asked.group(group, name="group")
    if isinstance(against, str) and against == "rest":
        second = ~first & (asked.levels(column) != None if column else True)  # noqa: E711  (by element)
    elif isinstance(against, str):
        if not column:
            msg = f"Expected against= 'rest' or a mask beside a mask; found {against!r}. Give a mask."
            raise InputError(msg)
        second = asked.of_level(column, against.removeprefix(f"{column}="))
    else:
        second, _ = asked.group(against, name="against")
    if (first & second).any():
        both = many(int((first & second).sum()), "cell")
        msg = f"Expected two groups that share no cell; found {both} in both. Give another against."
        raise InputError(msg)
    if within is not None:
        inside, _ = asked.group(within, name="within")
        first, second = first & inside, second & inside
    return first, second


def _counted(
    asked: Asked, modality: str | None, first: np.ndarray, second: np.ndarray
) -> tuple[str, _Groups]:
    """The groups' counts: of cells that were measured, by the total of features that all were measured in."""
    name, counts, present, everywhere = asked.counts(modality)
    size = np.asarray(
        (counts if everywhere.all() else counts[:, everywhere]).sum(1, dtype=np.float64)
    ).ravel()
    first, second = first & present & (size > 0), second & present & (size > 0)
    if min(first.sum(), second.sum()) < 2:
        found = f"{first.sum()} and {second.sum()}"
        msg = f"Expected at least two cells with counts in each group; found {found}. Give other groups."
        raise InputError(msg)
    return name, _Groups(counts, size, first, second, everywhere)


def _described(groups: _Groups, described: Any) -> pd.DataFrame:
    """Mean expression and share of expressing cells on both sides."""
    import pandas as pd

    table = pd.DataFrame(index=pd.Index(described.names, name="feature"))
    if described.symbols:
        table["symbol"] = list(described.symbols)
    for suffix, mask in (("", groups.first), ("_against", groups.second)):
        some = groups.counts[mask]
        table[f"mean{suffix}"] = np.asarray(some.sum(0, dtype=np.float64)).ravel() * (
            1e4 / groups.size[mask].sum()
        )
        table[f"share{suffix}"] = some.getnnz(0) / int(mask.sum())
    return table


def _tested(groups: _Groups, min_counts: int) -> np.ndarray:
    """Positions of the features with counts enough, in cells that were all measured in them."""
    either = groups.first | groups.second
    total = np.asarray(groups.counts[either].sum(0, dtype=np.float64)).ravel()
    tested = np.flatnonzero(groups.everywhere & (total >= min_counts))
    if not len(tested):
        msg = f"Expected features with {min_counts} counts or more in both groups together; found none. Give"
        raise InputError(msg + " other groups, or a smaller min_counts.")
    return tested


def _by_cell(groups: _Groups, tested: np.ndarray) -> dict[str, np.ndarray]:
    some = [groups.counts[mask][:, tested] for mask in (groups.first, groups.second)]
    sums = np.stack([np.asarray(one.sum(0, dtype=np.float64)).ravel() for one in some], 1)
    # Corrected as sums over donors are, so that one feature's rise is not the fall of all others.
    factors = size_factors(sums) / sums.sum(0)
    sizes = [groups.size[mask] * f for mask, f in zip((groups.first, groups.second), factors, strict=True)]
    found = compare_cells(some[0], some[1], exposures=(sizes[0], sizes[1]), level=_LEVEL)
    return {**found._asdict()}


def _by_sample(groups: _Groups, tested: np.ndarray, design: Design) -> dict[str, np.ndarray]:
    sums = unit_sums(groups.counts, design.unit, len(design.units))[:, groups.everywhere].toarray().T
    exposure = size_factors(sums)
    here = sums[np.searchsorted(np.flatnonzero(groups.everywhere), tested)]
    counted = here.sum(1) > 0
    found = quasi_test(here[counted], exposure, design.matrix, coefficient=1)
    lower, upper = found.interval(_LEVEL)
    values = {"estimate": found.estimate, "lower": lower, "upper": upper}
    values |= {"statistic": found.statistic, "p_value": found.p_value}
    wide = {name: np.full(len(tested), np.nan) for name in values}
    for name, value in values.items():
        wide[name][counted] = value
    return wide


def _joined(table: pd.DataFrame, tested: np.ndarray, result: dict[str, np.ndarray]) -> pd.DataFrame:
    """The table with the tests' columns first."""
    wide = {name: np.full(len(table), np.nan) for name in result}
    for name, values in result.items():
        wide[name][tested] = values
    columns = {
        "log2_fold_change": wide["estimate"] / np.log(2),
        "lower": wide["lower"] / np.log(2),
        "upper": wide["upper"] / np.log(2),
        "statistic": wide["statistic"],
        "p_value": wide["p_value"],
        "q_value": q_values(wide["p_value"]),
    }
    at = int("symbol" in table)
    for place, (name, values) in enumerate(columns.items()):
        table.insert(at + place, name, values)
    return table
