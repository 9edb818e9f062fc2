"""Which populations of cells, such as cultures, are most like a target."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.evaluate.neighbours import subsample
from chreode.evaluate.populations import Metric, Population, distance_of, floor_of, resampled
from chreode.interpret.asked import Asked, asked_of
from chreode.interpret.matches import Matches
from chreode.words import level_name, listing, nearest

if TYPE_CHECKING:
    import pandas as pd

    Group = str | Mapping[str, Any] | np.ndarray

__all__ = ["match"]


def match(
    embedded: Any,
    *,
    target: Group,
    systems: str,
    within: Group | None = None,
    latent: str | None = None,
    metric: Metric = "energy",
    cells: int = 1000,
    bootstraps: int = 500,
    confidence: float = 0.95,
    top: int = 1,
    source: Any = None,
    seed: int = 0,
    progress: bool = True,
) -> Matches:
    r"""Rank populations of cells, such as cultures or animals, by how near their codes are to a target's.

    With ``metric="energy"``, of cells x of the target and y of a system,

    .. math:: 2\,\mathrm E \lVert z_x - z_y \rVert - \mathrm E \lVert z_x - z_{x'} \rVert
              - \mathrm E \lVert z_y - z_{y'} \rVert

    which is 0 if, and only if, both are distributed alike. The estimate has no bias, so that systems of few
    cells seem no farther than those of many, and may fall a little below 0; see
    `chreode.evaluate.populations.distance_of`. Intervals are percentiles of bootstrap samples of the cells of
    both, the target's being the same for all systems. They tell how sure the distance of *these* samples is,
    with cells as replicates: they are silent on other donors and other cultures of the kind.

    Parameters
    ----------
    embedded
        Cells under a model: an `Embedded`; a `FittedModel` stands for its own. No counts are needed.
    target
        The population to be like: levels by column, ``{"tissue": "tumour", "cell_type": "macrophage"}``,
        where a list allows several levels; ``"COLUMN=LEVEL"``; or a mask of the cells. Its cells are left out
        of the systems.
    systems
        Column whose levels are the systems; cells of unknown level are left out.
    within
        Only these cells count as the systems', as of ``target``.
    latent
        The code whose distances are taken; the main one by default. One without what batches differ in, as
        ``"shared"`` of a model that has it, keeps the way of measuring out of the comparison.
    metric
        ``energy``; ``mmd``, squared, of five Gaussian kernels; ``sliced`` (Wasserstein-1 of projections); or
        ``centroid``, the squared distance of the means, blind to anything else.
    cells
        Of a population with more cells, so many random ones are taken, at least 2; time and memory grow with
        its square.
    bootstraps
        Samples of the cells, at least 1.
    confidence
        Of the intervals, in (0, 1).
    top
        ``share_top`` counts the samples in which a system is among so many nearest, at least 1.
    source
        A table with columns that were not read.
    seed
        Of all that is drawn. What is found of a system does not depend on which others there are.
    progress
        Whether to show a bar.

    Returns
    -------
    Matches
        Its ``table`` has one row a system, the nearest first: ``rank``, ``distance`` with ``lower`` and
        ``upper``, ``share_top``, and ``cells``, how many it has. ``attrs``: ``target``, ``systems``,
        ``within``, ``metric``, ``latent``, ``confidence``, ``top``, ``bootstraps``, ``seed``;
        ``target_cells``; ``excluded``, how many cells each system lost to the target; ``left_out``, which
        systems kept fewer than two cells, and how many; ``floor``, the distance that random halves of the
        target exceed with a chance of one less ``confidence``: what is nearer can hardly be told from it. Its
        `Matches.recommend` proposes a few systems that cover all.

    Raises
    ------
    InputError
        For columns, levels or a latent that do not exist, a target or systems without two cells, settings out
        of range, or a model without cells.

    References
    ----------
    Gigante et al. (2022), SystemMatch, doi:10.48550/arXiv.2205.07110, which has no public code. Deviations:
    the distance (theirs is not told in detail), and the intervals, which are new here.

    Examples
    --------
    >>> import chreode as ch
    >>> adata = ch.simulate(300, 30, components=3, seed=1)
    >>> cells = ch.read(adata, label="component")
    >>> model = ch.fit(cells, ch.recipes.pca(dim=3), epochs=1, progress=False)
    >>> found = ch.match(model, target={"component": 0}, systems="component", progress=False)
    >>> found.table.index.tolist(), found.table.attrs["left_out"]
    (['1', '2'], {'0': 0})
    >>> found.recommend(1, progress=False)["stands_for"].tolist()
    [['2']]
    """
    from tqdm.auto import tqdm

    _check(cells, bootstraps, confidence, top, seed)
    asked = asked_of(embedded, source=source, counted=False)
    codes, name = _codes(asked, latent)
    aim, of_target = _group(asked, target, "target")
    levels, inside = asked.levels(systems), None if within is None else _group(asked, within, "within")
    chosen = ~aim if inside is None else ~aim & inside[0]
    members, excluded, left_out = _members(levels, chosen, aim, systems)

    def taken(rows: np.ndarray, purpose: int) -> Population:
        rng = np.random.default_rng([seed, purpose])
        some = codes[rows[subsample(len(rows), limit=cells, seed=seed)]]
        return resampled(some, bootstraps=bootstraps, rng=rng)

    goal = taken(_target_rows(aim, of_target), 0)
    distance = distance_of(metric, goal.codes, seed=seed)
    floor = floor_of(distance, goal.codes, confidence=confidence, rng=np.random.default_rng([seed, 1]))
    kept, found = {}, []
    for system, rows in tqdm(members.items(), desc="systems", disable=not progress):
        one = taken(rows, 2 + zlib.crc32(system.encode()))
        kept[system] = one.codes
        found.append(distance(goal, one))
    table = _table(np.stack(found), list(members), confidence=confidence, top=top)
    table["cells"] = [len(members[system]) for system in table.index]
    table.index.name = systems
    table.attrs = {"target": of_target, "systems": systems, "within": inside and inside[1], "metric": metric}
    table.attrs |= {"latent": name, "confidence": confidence, "top": top, "bootstraps": bootstraps}
    table.attrs |= {"seed": seed, "target_cells": int(aim.sum()), "floor": floor}
    table.attrs |= {"excluded": excluded, "left_out": left_out}
    return Matches(table, {system: kept[system] for system in table.index}, distance)


def _check(cells: int, bootstraps: int, confidence: float, top: int, seed: int) -> None:
    if not 0 < confidence < 1:
        msg = f"Expected a confidence in (0, 1); found {confidence}. Give 0.95, say."
        raise InputError(msg)
    if cells < 2 or bootstraps < 1 or top < 1 or not 0 <= seed < 2**32:
        found = f"cells={cells}, bootstraps={bootstraps}, top={top}, seed={seed}"
        msg = "Expected at least 2 cells, 1 bootstrap sample, top of 1 and a seed from 0 to 4,294,967,295; "
        raise InputError(msg + f"found {found}. Leave them out for the defaults.")


def _codes(asked: Asked, latent: str | None) -> tuple[np.ndarray, str]:
    held = asked.embedded
    if held is None:
        msg = "Expected a fitted model, or what its project() returns; found Cells. Fit these cells first."
        raise InputError(msg)
    name = latent or held.code
    if name not in held.codes:
        msg = f"Expected a latent of the model ({listing(held.codes)}); found {latent!r}."
        raise InputError(msg + f"{nearest(name, held.codes)} Name one of these.")
    return held.codes[name].cpu().numpy(), name


def _group(asked: Asked, group: Group, name: str) -> tuple[np.ndarray, str]:
    """The mask of a group of cells, and what it is called."""
    if not isinstance(group, Mapping):
        mask, column = asked.group(group, name=name)
        return mask, str(group) if column else "a mask"
    if not group:
        msg = f"Expected {name} as levels by column; found none. Write {{'tissue': 'tumour'}}, say."
        raise InputError(msg)
    mask, told = np.ones(len(asked), dtype=bool), []
    for column, wanted in group.items():
        several = wanted if isinstance(wanted, (list, tuple, set)) else [wanted]
        levels = [level_name(level) for level in several]
        mask &= np.any([asked.of_level(column, level) for level in levels], axis=0)
        told.append(f"{column}={' or '.join(levels)}")
    words = ", ".join(told)
    if not mask.any():
        msg = f"Expected cells of the {name} {words}; found none that are all of it. Ask for less."
        raise InputError(msg)
    return mask, words


def _target_rows(aim: np.ndarray, called: str) -> np.ndarray:
    rows = np.flatnonzero(aim)
    if len(rows) < 2:
        msg = f"Expected a target of at least 2 cells; found 1 of {called}. Name another, or fewer columns."
        raise InputError(msg)
    return rows


def _members(
    levels: np.ndarray, chosen: np.ndarray, aim: np.ndarray, column: str
) -> tuple[dict[str, np.ndarray], dict[str, int], dict[str, int]]:
    """Rows of each system, how many cells each lost to the target, and who has fewer than two left."""
    rows = {name: np.flatnonzero((levels == name) & chosen) for name in sorted({*levels} - {None})}
    lost = {name: int(((levels == name) & aim).sum()) for name in rows}
    members = {name: some for name, some in rows.items() if len(some) > 1}
    if not members:
        msg = (
            f"Expected a system in {column!r} with at least two cells that are not the target's; found none "
            f"among {listing(rows)}. Name another column, or widen within=."
        )
        raise InputError(msg)
    left_out = {name: len(some) for name, some in rows.items() if name not in members}
    return members, {name: n for name, n in lost.items() if n}, left_out


def _table(found: np.ndarray, names: list[str], *, confidence: float, top: int) -> pd.DataFrame:
    """The nearest first, from distances systems x (1 + bootstrap samples)."""
    import pandas as pd

    whole, drawn = found[:, 0], found[:, 1:]
    places = drawn.argsort(0, kind="stable").argsort(0, kind="stable")
    lower, upper = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=1)
    order = whole.argsort(kind="stable")
    columns = {"rank": np.arange(1, len(names) + 1), "distance": whole[order], "lower": lower[order]}
    columns |= {"upper": upper[order], "share_top": (places < top).mean(1)[order]}
    return pd.DataFrame(columns, index=pd.Index([names[i] for i in order]))
