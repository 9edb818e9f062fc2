"""Which cells are two: simulated doublets, placed by the model, beside which every cell is judged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chreode import posthoc
from chreode.cells import CSR, Cells
from chreode.embedded import Embedded
from chreode.errors import InputError
from chreode.interpret.asked import asked_of
from chreode.io.loader import stream
from chreode.words import many

if TYPE_CHECKING:
    import pandas as pd

    from chreode.axes import Tensor

__all__ = ["doublets", "summed"]

_NEIGHBOURS = 50
_FOLDS = 5
_FEWEST = 50  # cells, below which five folds of them teach nothing


def doublets(
    model: Any,
    source: Any = None,
    *,
    rate: float | None = None,
    simulated: int | None = None,
    refine: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    r"""Score how much each cell looks like two cells in one droplet.

    Doublets are made of random pairs of these cells, of one batch, by adding what was measured in both:

    .. math:: \tilde x \sim \mathrm{Binomial}(x_i + x_j,\ f), \qquad f \sim U(\tfrac12, 1)

    since two cells that share a droplet yield more molecules than one, but hardly twice as many. The cells
    and the doublets are placed alike by the frozen decoder, all with fresh codes (those that were learned in
    training lie elsewhere than projected ones). Two classifiers (boosted trees) then tell doublets from
    cells: one by the code and the share of doublets among its 50 nearest neighbours, the other by these and
    the total count. The score is their mean in log-odds, as a probability, where the second weighs as much as
    the cells that the first is surest of are deeper than others, of what simulated doublets are: the total
    counts where it tells. No cell, and no simulated doublet, is judged by trees that saw it. As cells hold
    true doublets, the trees are grown again without those of the highest scores.

    Doublets of two cells of one kind look like one cell, and are not found. Cells that express the programmes
    of two kinds (cells that divide, or differentiate) can look like doublets.

    Parameters
    ----------
    model
        A `FittedModel` (with encoders, where it was distilled), or an `Embedded`.
    source
        The same cells with their counts, for a model that was loaded; anything `chreode.read` takes.
    rate
        Share of doublets that is expected, in (0, 0.5). None: as in droplets of 10x, 0.8 % for each thousand
        cells of a batch, which is wrong where a batch is no capture.
    simulated
        How many doublets are made; as many as cells by default, at most 20,000.
    refine
        Steps of projection at most, as in ``model.project``.
    seed
        Of the pairs, the molecules and the folds.
    progress
        Whether to show bars of the projections.

    Returns
    -------
    One row a cell, in their order: ``score`` in [0, 1]; ``doublet``, whether it is among the ``rate`` of
    highest scores; ``neighbours``, the share of simulated doublets among the neighbours. ``attrs``:
    ``simulated``, the scores of the simulated doublets; ``rate``; ``threshold``, the least score called;
    ``recall``, the share of simulated doublets at or above it: where it is low, calls are guesses.

    Raises
    ------
    InputError
        Without counts, for continuous values, fewer than 50 cells, or a rate out of range.

    References
    ----------
    Wolock et al. (2019), Scrublet, doi:10.1016/j.cels.2018.11.005; Bernstein et al. (2020), Solo,
    doi:10.1016/j.cels.2020.05.010; Germain et al. (2022), scDblFinder, doi:10.12688/f1000research.73600.2.
    Deviations: fresh codes of a frozen decoder in place of principal components, or of the encoder that was
    trained; molecules are lost at random; scores are never of a classifier's own training data.

    Examples
    --------
    >>> import chreode as ch
    >>> cells = ch.read(ch.simulate(200, 60, components=2, seed=0))
    >>> model = ch.fit(cells, ch.recipes.scdgd(dim=3, components=2), epochs=4, progress=False)
    >>> table = ch.doublets(model, rate=0.1, progress=False)
    >>> table.columns.tolist(), int(table["doublet"].sum())
    (['score', 'doublet', 'neighbours'], 20)
    """
    import pandas as pd

    held, cells = _asked(model, source)
    number = min(len(cells), 20_000) if simulated is None else simulated
    rate = _rate(cells) if rate is None else rate
    if not 0 < rate < 0.5 or number < _FEWEST or not 0 <= seed < 2**32:
        msg = (
            f"Expected a rate in (0, 0.5), at least {_FEWEST} simulated doublets and a seed from 0 to "
            f"4,294,967,295; found {rate:g}, {number} and {seed}. Give other numbers."
        )
        raise InputError(msg)
    rng = np.random.default_rng(seed)
    first, second = _pairs(_strata(cells), number, rng)
    pairs = summed(cells, first, second, fraction=rng.uniform(0.5, 1, number), generator=stream(seed, 1))
    encoders = getattr(model, "encoders", None) or None
    codes = [
        posthoc.project(held.module, some, encoders=encoders, refine=refine, show=show if progress else None)
        for some, show in ((cells, "cells"), (pairs, "doublets"))
    ]
    made = np.repeat([False, True], [len(cells), number])
    embedding = np.concatenate([each[held.code].cpu().numpy() for each in codes])
    near = _share(embedding, made)
    features = np.column_stack([embedding, near, np.concatenate([_depth(cells), _depth(pairs)])])
    score = _judged(features, made, depths=len(cells.layout.modalities), rate=rate, seed=seed)
    own, theirs = score[~made], score[made]
    called = np.zeros(len(cells), dtype=bool)
    called[np.argsort(-own, kind="stable")[: max(1, round(rate * len(cells)))]] = True
    columns = {"score": own, "doublet": called, "neighbours": near[~made]}
    table = pd.DataFrame(columns, index=pd.Index(cells.names))
    threshold = float(own[called].min())
    recall = float((theirs >= threshold).mean())
    table.attrs = {"simulated": theirs.tolist(), "rate": rate, "threshold": threshold, "recall": recall}
    return table


def summed(
    cells: Cells, first: np.ndarray, second: np.ndarray, *, fraction: np.ndarray, generator: torch.Generator
) -> Cells:
    """Two cells in one: the sums of pairs, of which each molecule is kept with the pair's probability.

    Zeros and ones stay so: what either cell has, the pair has, with that probability. All else is the first
    cell's.

    Parameters
    ----------
    cells
        With counts, or zeros and ones.
    first, second
        Positions of the pairs, ``p``.
    fraction
        Probability that a molecule is kept, in (0, 1], ``p``.
    generator
        Where randomness comes from.

    Examples
    --------
    >>> import chreode as ch
    >>> cells = ch.read(ch.simulate(10, 5, components=1))
    >>> one, other = np.array([0, 1]), np.array([2, 3])
    >>> pairs = summed(cells, one, other, fraction=np.ones(2), generator=torch.Generator())
    >>> bool((pairs.size["rna"] == cells.size["rna"][:2] + cells.size["rna"][2:4]).all())
    True
    """
    measured, size = {}, {}
    for name, modality in cells.layout.modalities.items():
        values: Any = cells.measured[name]
        both = CSR.of(
            values.take(torch.from_numpy(first)).scipy() + values.take(torch.from_numpy(second)).scipy()
        )
        count = both.value.double().clamp(max=1 if modality.kind == "binary" else torch.inf)
        kept = torch.binomial(count, torch.from_numpy(fraction)[both.row], generator=generator)
        matrix = both.with_value(kept.float()).scipy()
        matrix.eliminate_zeros()
        measured[name] = CSR.of(matrix)
        size[name] = measured[name].sum_rows()
    pairs = cells[torch.from_numpy(first)].replace(measured=measured, size=size)
    return pairs.replace(names=np.array([f"doublet{i}" for i in range(len(first))], dtype=object))


def _asked(model: Any, source: Any) -> tuple[Embedded, Cells]:
    """The cells of a model, with counts that can be added."""
    held = getattr(model, "embedded", model)
    if not isinstance(held, Embedded):
        msg = f"Expected a fitted model, or what its project() returns; found {type(model).__name__}."
        raise InputError(msg + " Fit these cells first.")
    cells = asked_of(held, source=source).cells
    continuous = [name for name, m in cells.layout.modalities.items() if m.kind == "continuous"]
    if continuous or len(cells) < _FEWEST:
        found = f"{continuous[0]!r} of continuous values" if continuous else many(len(cells), "cell")
        msg = f"Expected counts, or zeros and ones, of at least {_FEWEST} cells; found {found}."
        raise InputError(msg + " Fit such cells: sums of others are no doublets.")
    return held, cells


def _strata(cells: Cells) -> np.ndarray:
    """Numbers that tell apart cells that cannot share a droplet, or were not measured alike."""
    batch = cells.layout.in_role("batch")
    columns: list[Tensor] = [*cells.present.values(), *cells.panel.values()]
    if batch is not None:
        columns.append(cells.covariates[batch.column])
    values = torch.stack([column.long() for column in columns], 1).cpu().numpy()
    return np.unique(values, axis=0, return_inverse=True)[1].ravel()


def _pairs(strata: np.ndarray, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random pairs of different cells of one stratum; a lonely cell pairs with none."""
    size = np.bincount(strata)
    order = np.argsort(strata, kind="stable")
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    first = rng.choice(np.flatnonzero(size[strata] > 1), number)
    start = (np.cumsum(size) - size)[strata[first]]
    shift = rng.integers(1, size[strata[first]])
    return first, order[start + (place[first] - start + shift) % size[strata[first]]]


def _rate(cells: Cells) -> float:
    """The share of doublets in droplets of 10x: 0.8 % for each thousand cells that were captured."""
    batch = cells.layout.in_role("batch")
    level = torch.zeros_like(cells.index) if batch is None else cells.covariates[batch.column] + 1
    size = level.bincount().cpu().numpy()
    return float(min(0.008 * (size**2).sum() / 1000 / size.sum(), 0.4))


def _depth(cells: Cells) -> np.ndarray:
    """Logarithms of what was counted, a column a modality."""
    return torch.stack([size.double().clamp(min=1).log() for size in cells.size.values()], 1).cpu().numpy()


def _share(codes: np.ndarray, made: np.ndarray) -> np.ndarray:
    """The share of made cells among the nearest neighbours of each."""
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=_NEIGHBOURS).fit(codes).kneighbors(return_distance=False)
    return made[near].mean(1)


def _judged(features: np.ndarray, made: np.ndarray, *, depths: int, rate: float, seed: int) -> np.ndarray:
    """Probability of being made, by trees that did not see the cell; the last columns are depths."""
    odds = []
    for columns in (slice(-depths), slice(None)):
        kept = np.ones(len(made), dtype=bool)
        for _ in range(2):
            chance = _out_of_fold(features[:, columns], made, kept, seed)
            kept = made | (chance <= np.quantile(chance[~made], 1 - rate))
        chance = chance.clip(1e-4, 1 - 1e-4)
        odds.append(np.log(chance / (1 - chance)))
    weight = _weight_of_depth(features[:, -depths:].mean(1), odds[0], made, rate)
    return 1 / (1 + np.exp(-(1 - weight) * odds[0] - weight * odds[1]))


def _weight_of_depth(depth: np.ndarray, odds: np.ndarray, made: np.ndarray, rate: float) -> float:
    """How much deeper the likeliest cells are than the others, of what made doublets are; in [0, 1]."""
    top = odds > np.quantile(odds[~made], 1 - rate)
    if not (top & ~made).any() or not (top & made).any():
        return 0.5
    usual = depth[~made & ~top].mean()
    made_deeper = depth[made & top].mean() - usual
    return float(np.clip((depth[~made & top].mean() - usual) / made_deeper, 0, 1)) if made_deeper > 0 else 0.0


def _out_of_fold(features: np.ndarray, made: np.ndarray, kept: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold

    chance = np.zeros(len(made))
    for train, test in StratifiedKFold(_FOLDS, shuffle=True, random_state=seed).split(features, made):
        trees = HistGradientBoostingClassifier(
            max_iter=60, max_leaf_nodes=8, l2_regularization=1.0, random_state=seed
        )
        trees.fit(features[train[kept[train]]], made[train[kept[train]]])
        chance[test] = trees.predict_proba(features[test])[:, 1]
    return chance
