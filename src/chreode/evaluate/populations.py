"""How far populations of cells are from each other, however few cells they have, and how sure that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch

from chreode.axes import Float, Int
from chreode.errors import InputError
from chreode.penalties.kernels import median_width

if TYPE_CHECKING:
    from collections.abc import Callable

    Distance = Callable[["Population", "Population"], Float[np.ndarray, " b+1"]]

__all__ = ["METRICS", "Metric", "Population", "distance_of", "floor_of", "resampled"]

Metric = Literal["energy", "mmd", "sliced", "centroid"]
METRICS: tuple[Metric, ...] = ("energy", "mmd", "sliced", "centroid")

_KERNELS, _WIDEST = 5, 16  # each half as wide as the one before, in median distances of the target's cells
_DIRECTIONS = 64


class Population(NamedTuple):
    """Cells of one population, and how often each is drawn in each bootstrap sample of as many cells."""

    codes: Float[np.ndarray, "n d"]
    times: Int[np.ndarray, "b n"]


def resampled(codes: Float[np.ndarray, "n d"], *, bootstraps: int, rng: np.random.Generator) -> Population:
    """A population with its bootstrap samples.

    Parameters
    ----------
    codes
        Cells by dimensions, at least 2 cells.
    bootstraps
        How many samples, at least 0.
    rng
        Which draws them.
    """
    n = len(codes)
    times = rng.multinomial(n, np.full(n, 1 / n), size=bootstraps)
    return Population(np.asarray(codes, dtype=np.float64), times)


def distance_of(metric: Metric, target: Float[np.ndarray, "n d"], *, seed: int = 0) -> Distance:
    r"""The distance of two populations by a metric: of all their cells, then of each bootstrap sample.

    ``energy``, ``mmd`` and ``centroid`` are of the form

    .. math:: 2\,\mathrm E\,h(x, y) - \mathrm E\,h(x, x') - \mathrm E\,h(y, y')

    with :math:`h` the Euclidean distance, one less a Gaussian kernel (the mean of five), and half the squared
    Euclidean distance, which gives the squared distance of the means. Means are taken over pairs of different
    cells, so that the estimate has no bias, whatever the number of cells: it may fall a little below 0 where
    `chreode.evaluate.transport.energy_distance`, which counts each cell as its own neighbour, is above.
    A sample is of :math:`n` cells with replacement, two of which are the same in one pair of :math:`n`; for
    that its means are divided by :math:`(n - 1)^2 / n^2`.

    ``sliced`` is the Wasserstein-1 distance of projections, on average over 64 random directions, less the
    bias that bootstrap samples show: by how much they are further apart on average than all the cells, once
    off the estimate, and twice off each sample. That is most of it among many cells that differ; populations
    of less than about 50 still seem too far, and between those of one law samples never reach 0. Without
    samples there is no correction.

    Parameters
    ----------
    metric
        One of ``energy``, ``mmd``, ``sliced``, ``centroid``.
    target
        Cells whose median distance is the unit of the kernels' widths (1, 2, 4, 8 and 16 of it).
    seed
        Of the random directions.

    Returns
    -------
    A function of two `Population` of as many samples, which gives ``b + 1`` distances.

    Raises
    ------
    InputError
        For another metric.

    References
    ----------
    Szekely and Rizzo (2013), doi:10.1016/j.jspi.2013.03.018; Gretton et al. (2012), *A kernel two-sample
    test*, JMLR 13; Bonneel et al. (2015), doi:10.1007/s10851-014-0506-3.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, y = (resampled(rng.normal(m, 1, (200, 2)), bootstraps=9, rng=rng) for m in (0.0, 2.0))
    >>> float(distance_of("centroid", x.codes)(x, y)[0].round())
    8.0
    """
    if metric not in METRICS:
        msg = f"Expected a metric ({', '.join(METRICS)}); found {metric!r}. Name one of these."
        raise InputError(msg)
    if metric == "sliced":
        directions = np.random.default_rng(seed).normal(size=(target.shape[1], _DIRECTIONS))
        directions /= np.linalg.norm(directions, axis=0)
        return lambda x, y: _less_bias(_sliced(directions, x, y))
    h = _gaussian(target) if metric == "mmd" else _euclidean if metric == "energy" else _half_square
    return lambda x, y: 2 * _across(h, x, y) - _within(h, x) - _within(h, y)


def floor_of(
    distance: Distance,
    codes: Float[np.ndarray, "n d"],
    *,
    confidence: float,
    rng: np.random.Generator,
    repeats: int = 50,
) -> float:
    """The distance that random halves of one population seldom exceed: 0 in all but noise.

    Parameters
    ----------
    distance
        What `distance_of` gave.
    codes
        Cells by dimensions; at least 4 cells, else there are no halves, and it is NaN.
    confidence
        The share of halves that are no further apart, in (0, 1).
    rng
        Which cuts.
    repeats
        Times that the cells are cut.
    """
    if len(codes) < 4:
        return float("nan")
    found = []
    for _ in range(repeats):
        halves = np.array_split(rng.permutation(len(codes)), 2)
        one, other = (resampled(codes[half], bootstraps=0, rng=rng) for half in halves)
        found.append(distance(one, other)[0])
    return float(np.quantile(found, confidence))


def _euclidean(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist

    return cdist(x, y)


def _half_square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist

    return cdist(x, y, "sqeuclidean") / 2


def _gaussian(target: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """One less the mean kernel."""
    width = float(median_width(torch.from_numpy(target[:500].astype(np.float64))))

    def h(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        kernel = np.exp(-_half_square(x, y) / (_WIDEST * width) ** 2)
        total = kernel.copy()
        for _ in range(_KERNELS - 1):
            kernel = np.square(np.square(kernel))  # that of half the width
            total += kernel
        return 1 - total / _KERNELS

    return h


def _within(h: Callable, x: Population) -> np.ndarray:
    n, pairs = len(x.codes), h(x.codes, x.codes)
    drawn = ((x.times @ pairs) * x.times).sum(1) / (n - 1) ** 2
    return np.append(pairs.sum() / (n * (n - 1)), drawn)


def _across(h: Callable, x: Population, y: Population) -> np.ndarray:
    pairs = h(x.codes, y.codes)
    return np.append(pairs.mean(), ((x.times @ pairs) * y.times).sum(1) / pairs.size)


def _sliced(directions: np.ndarray, x: Population, y: Population) -> np.ndarray:
    """The area between the distribution functions of projections, which is their Wasserstein-1 distance."""
    shares = [np.vstack([np.ones(len(p.codes)), p.times]) / len(p.codes) for p in (x, y)]
    jumps = np.hstack([shares[0], -shares[1]])
    total = np.zeros(len(jumps))
    for along in np.vstack([x.codes, y.codes]).dot(directions).T:
        order = np.argsort(along)
        between = np.abs(np.cumsum(jumps[:, order], axis=1)[:, :-1])
        total += between @ np.diff(along[order])
    return total / directions.shape[1]


def _less_bias(found: np.ndarray) -> np.ndarray:
    if len(found) == 1:
        return found
    excess = found[1:].mean() - found[0]
    return np.append(found[0] - excess, found[1:] - 2 * excess)
