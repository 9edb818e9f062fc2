"""What each block of a code tells of an attribute: probes on held-out cells, and mutual information.

A block is free of an attribute when nothing predicts it from there better than chance; the mixing of an
attribute's levels in a block, within types of cells, is `chreode.evaluate.batch_mixing` with the types for
``labels``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.evaluate.neighbours import checked, every_level, known_levels
from chreode.words import many

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    Part = tuple[np.ndarray, np.ndarray]  # cells that teach, and cells that are scored

__all__ = ["information_gap", "probe_blocks"]

PROBES = ("linear", "neighbours", "trees")
SHARE = 0.3  # of cells that are held out, where the caller holds out none
NEIGHBOURS = 15
FEWEST = 2  # cells of a level on either side of the split
BINS = 10  # of a numeric attribute


def probe_blocks(
    blocks: Mapping[str, Any],
    attribute: Any,
    *,
    within: Any = None,
    held_out: Any = None,
    probes: Sequence[str] = PROBES,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    r"""How well an attribute can be predicted from each block of a code, on held-out cells.

    Levels are scored by the balanced accuracy, for which guessing is worth :math:`1/c` whatever the
    proportions, and numbers by :math:`R^2`, for which it is worth 0:

    .. math::

        \frac{1}{c} \sum_{l} \frac{\#\{i \in l: \hat y_i = l\}}{\#\{i \in l\}}, \qquad
        1 - \frac{\sum_i (y_i - \hat y_i)^2}{\sum_i (y_i - \bar y)^2}

    Probes are trained on the other cells, whose codes they standardise: ``linear`` (logistic or ridge
    regression), ``neighbours`` (the 15 nearest), ``trees`` (gradient boosting). They weigh all levels alike.

    Parameters
    ----------
    blocks
        Codes of each block, ``n x d``, by name. The block of a model that was told the attribute of a cell
        proves nothing about this cell: give codes that were inferred without.
    attribute
        Of each cell, ``n``, none missing: levels, or numbers where its type is floating point.
    within
        Group of each cell, such as its type, ``n``, none missing: probes are trained and scored within each
        group, and scores are means weighted by its held-out cells. Groups that lack a level (fewer than two
        cells of it, trained on or held out) are skipped. None for one group of all.
    held_out
        Cells that are scored, a mask ``n``. None draws 30 % of each level in each group.
    probes
        Which of the three.
    seed
        Of the split and the trees.
    progress
        Whether to show a bar.

    Returns
    -------
    A row a block: the score of each probe; ``best`` of these, and its ``probe``; ``chance``; ``se``, the
    standard error of ``best`` over held-out cells; ``cells`` held out. The best of three is a little above
    chance for a block that tells nothing. ``attrs["skipped"]`` names skipped groups, with the reason.

    Raises
    ------
    InputError
        When blocks differ in cells or are not finite, the attribute is missing in a cell or the same in all,
        a probe is unknown, no cell is held out or trained on, or every group is skipped.

    References
    ----------
    Locatello et al., 2019, Challenging common assumptions in the unsupervised learning of disentangled
    representations. doi:10.48550/arXiv.1811.12359

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> condition = rng.choice(["ctrl", "stim"], 400)
    >>> blocks = {"shared": rng.normal(size=(400, 3)), "private": rng.normal(size=(400, 1))}
    >>> blocks["private"] += 6 * (condition == "stim")[:, None]
    >>> probe_blocks(blocks, condition, probes=["linear", "neighbours"]).round(1)[["best", "chance", "cells"]]
             best  chance  cells
    shared    0.5     0.5    120
    private   1.0     0.5    120
    """
    import pandas as pd
    from tqdm.auto import tqdm

    codes = _codes(blocks)
    if not probes or any(probe not in PROBES for probe in probes):
        msg = f"Expected probes among {', '.join(PROBES)}; found {list(probes)}. Name one or more of them."
        raise InputError(msg)
    n = len(next(iter(codes.values())))
    truth, levels = _attribute(attribute, n)
    parts, skipped = _parts(truth, levels, within=within, held_out=held_out, seed=seed)
    found = {name: {probe: [] for probe in probes} for name in codes}
    tries = [(name, probe, part) for name in codes for probe in probes for part in parts]
    for name, probe, part in tqdm(tries, desc="probes", disable=not progress):
        found[name][probe].append(_probed(probe, codes[name], truth, part, levels, seed))
    rows = {name: _row(scores, parts, levels) for name, scores in found.items()}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.attrs["skipped"] = skipped
    return table


def information_gap(code: Any, attributes: Mapping[str, Any], *, seed: int = 0) -> pd.DataFrame:
    r"""Whether each attribute lies along one dimension of a code: the mutual information gap.

    .. math:: \mathrm{gap}_v = \frac{I(z_{(1)}; v) - I(z_{(2)}; v)}{H(v)}

    with the two dimensions that tell most of attribute :math:`v`. It is near 1 when one dimension tells all
    of it and no other tells anything, and near 0 when two tell as much; that two dimensions hold an attribute
    together is not seen from either.

    Parameters
    ----------
    code
        Code of each cell, ``n x d``, at least two dimensions.
    attributes
        Of each cell, ``n``, none missing, by name: levels, or numbers where the type is floating point,
        which are cut in ten bins of as many cells.
    seed
        Of the noise that breaks ties of the estimator.

    Returns
    -------
    A row an attribute: ``gap``; ``dimension``, the one that tells most, and ``second``; ``information``, what
    the first tells as a share of the entropy; ``entropy`` in nats. ``attrs["mig"]`` is the mean gap.

    Raises
    ------
    InputError
        When the code has one dimension or is not finite, no attribute is given, or one is missing in a cell
        or has one level.

    Notes
    -----
    Information is estimated by nearest neighbours (Ross, 2014; scikit-learn), not by binning the code as in
    the paper: bins leave a positive bias that grows with their number. It is cut to between 0 and the
    entropy.

    References
    ----------
    Chen et al., 2018, Isolating sources of disentanglement in variational autoencoders.
    doi:10.48550/arXiv.1802.04942
    Ross, 2014, Mutual information between discrete and continuous data sets.
    doi:10.1371/journal.pone.0087357

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> condition = rng.choice(["ctrl", "stim"], 400)
    >>> code = np.c_[rng.normal(size=400), 9.0 * (condition == "stim") + rng.normal(size=400)]
    >>> information_gap(code, {"condition": condition})[["gap", "dimension"]].round(1)
               gap  dimension
    condition  1.0          1
    """
    import pandas as pd
    from sklearn.feature_selection import mutual_info_classif

    points = checked(code)
    if points.shape[1] < 2 or not attributes:
        msg = (
            f"Expected a code of two dimensions or more, and attributes; found {points.shape[1]} and "
            f"{len(attributes)}. A gap is between two dimensions."
        )
        raise InputError(msg)
    rows = {}
    for name, values in attributes.items():
        level, levels = _attribute(values, len(points))
        if levels is None:
            level = _binned(level)
        share = np.bincount(level.astype(np.int64)) / len(level)
        share = share[share > 0]
        entropy = float(-(share * np.log(share)).sum())
        told = mutual_info_classif(points, level, random_state=seed)
        told = np.clip(told / entropy, 0.0, 1.0)
        second, first = np.argsort(told, kind="stable")[-2:]
        rows[name] = {
            "gap": told[first] - told[second],
            "dimension": int(first),
            "second": int(second),
            "information": told[first],
            "entropy": entropy,
        }
    table = pd.DataFrame.from_dict(rows, orient="index").astype({"dimension": int, "second": int})
    table.attrs["mig"] = float(table["gap"].mean())
    return table


def _codes(blocks: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not isinstance(blocks, Mapping):
        msg = f"Expected codes by name; found {type(blocks).__name__}. Give what a projection has, say: "
        raise InputError(msg + "model.project(source).embeddings.")
    codes = {name: checked(block) for name, block in blocks.items()}
    sizes = {len(code) for code in codes.values()}
    if len(sizes) != 1:
        found = {name: len(code) for name, code in codes.items()}
        msg = f"Expected blocks of the same cells; found {found}. Give the codes of the same cells, in order."
        raise InputError(msg)
    return codes


def _attribute(values: Any, n: int) -> tuple[np.ndarray, int | None]:
    """Numbers, or the number of each cell's level and how many levels there are."""
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.floating):
        level, c = every_level(array, n=n, what="level of the attribute")
        if c < 2:
            msg = f"Expected at least two levels; found {c}. An attribute that does not vary tells nothing."
            raise InputError(msg)
        return level, c
    if array.shape != (n,) or not np.isfinite(array).all():
        msg = (
            f"Expected a finite number for each of {many(n, 'cell')}; found shape {array.shape} with "
            f"{int((~np.isfinite(array)).sum())} missing. Leave these cells out."
        )
        raise InputError(msg)
    if np.ptp(array) == 0:
        msg = f"Expected numbers that differ; found {array[0]:g} in all cells. Nothing can be predicted."
        raise InputError(msg)
    return array.astype(np.float64), None


def _binned(numbers: np.ndarray) -> np.ndarray:
    edges = np.quantile(numbers, np.linspace(0, 1, BINS + 1)[1:-1])
    return np.unique(np.searchsorted(edges, numbers), return_inverse=True)[1]


def _parts(
    truth: np.ndarray, levels: int | None, *, within: Any, held_out: Any, seed: int
) -> tuple[list[Part], dict[str, str]]:
    """The groups whose cells can be scored, and why others cannot."""
    n = len(truth)
    level = np.zeros(n, dtype=np.int64) if levels is None else truth
    group, names = np.zeros(n, dtype=np.int64), ["all cells"]
    if within is not None:
        group, _ = every_level(within, n=n, what="group")
        names = known_levels(within)[1].tolist()
    test = _drawn(group * (levels or 1) + level, seed) if held_out is None else _mask(held_out, n)
    parts, skipped = [], {}
    for number, name in enumerate(names):
        sides = [np.flatnonzero((group == number) & side) for side in (~test, test)]
        fewest = min(int(np.bincount(level[side], minlength=levels or 1).min()) for side in sides)
        if fewest < FEWEST:
            what = "cells" if levels is None else "cells of each level"
            skipped[str(name)] = f"needs {FEWEST} {what}, trained on and held out; has {fewest}"
        elif levels is None and any(np.ptp(truth[side]) == 0 for side in sides):
            skipped[str(name)] = "the attribute does not vary"
        else:
            parts.append((sides[0], sides[1]))
    if not parts:
        msg = (
            f"Expected cells that can be trained on and scored; found none in {many(len(names), 'group')} "
            f"({next(iter(skipped.values()))}). Give more cells, or fewer groups."
        )
        raise InputError(msg)
    return parts, skipped


def _drawn(stratum: np.ndarray, seed: int) -> np.ndarray:
    """A mask of the same share of every stratum, at random."""
    shuffled = np.random.default_rng(seed).permutation(len(stratum))
    order = shuffled[np.argsort(stratum[shuffled], kind="stable")]
    counts = np.bincount(stratum)
    place = np.arange(len(stratum)) - np.repeat(np.cumsum(counts) - counts, counts)
    mask = np.empty(len(stratum), dtype=bool)
    mask[order] = place < np.repeat(np.round(SHARE * counts), counts)
    return mask


def _mask(held_out: Any, n: int) -> np.ndarray:
    mask = np.asarray(held_out)
    if mask.shape != (n,) or mask.dtype != bool:
        msg = (
            f"Expected a mask of {many(n, 'cell')} that are held out, booleans; found {mask.dtype} of shape "
            f"{mask.shape}. Give one boolean a cell."
        )
        raise InputError(msg)
    return mask


def _probed(
    probe: str, code: np.ndarray, truth: np.ndarray, part: Part, levels: int | None, seed: int
) -> tuple[float, float]:
    """Score of one probe in one group, and its variance over held-out cells."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(code[part[0]])
    seen, new = (np.asarray(scaler.transform(code[side])) for side in part)
    predicted = _predicted(probe, seen, truth[part[0]], new, levels, seed)
    right = truth[part[1]]
    if levels is None:
        error, spread = (predicted - right) ** 2, (right - right.mean()) ** 2
        ratio = error.mean() / spread.mean()
        # Of a ratio of means.
        return float(1.0 - ratio), float(np.var(error - ratio * spread) / len(right) / spread.mean() ** 2)
    cells = np.bincount(right, minlength=levels)
    hits = np.bincount(right[predicted == right], minlength=levels)
    recall, smooth = hits / cells, (hits + 1) / (cells + 2)
    return float(recall.mean()), float((smooth * (1 - smooth) / cells).sum() / levels**2)


def _predicted(
    probe: str, seen: np.ndarray, truth: np.ndarray, new: np.ndarray, levels: int | None, seed: int
) -> np.ndarray:
    """What a probe that was trained on some cells predicts for others."""
    from sklearn import ensemble, linear_model, neighbors

    k = min(NEIGHBOURS, len(seen))
    if levels is None:
        regressors: dict[str, Any] = {
            "linear": linear_model.Ridge(),
            "neighbours": neighbors.KNeighborsRegressor(k),
            "trees": ensemble.HistGradientBoostingRegressor(random_state=seed),
        }
        return regressors[probe].fit(seen, truth).predict(new)
    if probe == "neighbours":
        votes = neighbors.KNeighborsClassifier(k).fit(seen, truth).predict_proba(new)
        # A vote of a rare level weighs more; the training cells' levels are 0, 1, ... without a gap.
        return (np.asarray(votes) / np.bincount(truth)).argmax(axis=1)
    classifiers: dict[str, Any] = {
        "linear": linear_model.LogisticRegression(class_weight="balanced", max_iter=1_000),
        "trees": ensemble.HistGradientBoostingClassifier(class_weight="balanced", random_state=seed),
    }
    return classifiers[probe].fit(seen, truth).predict(new)


def _row(
    found: dict[str, list[tuple[float, float]]], parts: list[Part], levels: int | None
) -> dict[str, Any]:
    """One block's row: each probe's mean over groups, weighted by their held-out cells."""
    cells = np.array([len(test) for _, test in parts])
    weight = cells / cells.sum()
    scores = {probe: float(weight @ [score for score, _ in several]) for probe, several in found.items()}
    best = max(scores, key=lambda probe: scores[probe])
    return {
        **scores,
        "best": scores[best],
        "probe": best,
        "chance": 0.0 if levels is None else 1.0 / levels,
        "se": float(np.sqrt(weight**2 @ [variance for _, variance in found[best]])),
        "cells": int(cells.sum()),
    }
