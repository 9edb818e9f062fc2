"""What dynamics look like in a plane: where cells are, which way they go there, and where they arrive."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from chreode.errors import InputError
from chreode.evaluate.transport import energy_distance, wasserstein
from chreode.forecast import before as setting_out
from chreode.forecast import motion_of, trajectories

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chreode.axes import Bool, Float, Int
    from chreode.embedded import Embedded

__all__ = ["Arrival", "Plane", "Stream", "arrivals", "by_time", "density", "paths", "streams", "velocities"]

_AS_GOOD = 0.9  # of the spread that the best plane shows: coordinates show as much, and have names
_NODES = 26  # of the grid, along the longer side
_OPERATORS = 1 << 24  # entries of cells' operators at a time
_BINS = 64


class Plane(NamedTuple):
    """Two directions in which codes are seen.

    Parameters
    ----------
    axes
        ``d x 2``, orthonormal.
    centre
        What is subtracted before, ``d``.
    names
        Of both.
    share
        Of the variance of the codes that it shows.
    """

    axes: Float[np.ndarray, "d 2"]
    centre: Float[np.ndarray, " d"]
    names: tuple[str, str]
    share: float

    @classmethod
    def of(cls, embedded: Embedded, *, axes: tuple[int, int] | None = None) -> Plane:
        """Two coordinates of the codes; where none are named the first two, or principal axes if better.

        Raises
        ------
        InputError
            For codes of one dimension, of no cells, or coordinates that are not there.
        """
        motion_of(embedded)
        codes = embedded.embedding.astype(np.float64)
        d = codes.shape[1]
        if d < 2 or not len(codes):
            found = f"{d}" if len(codes) else "no cells"
            msg = f"Expected cells with codes of two dimensions at least, to draw them; found {found}."
            raise InputError(msg + " Fit more coordinates, or load a model that was saved with its cells.")
        if axes is not None and (len(set(axes)) != 2 or not all(0 <= a < d for a in axes)):
            msg = f"Expected two coordinates from 0 to {d - 1}; found {axes!r}. Give others, such as (0, 1)."
            raise InputError(msg)
        covariance = np.cov(codes.T, bias=True)
        total = max(float(np.trace(covariance)), 1e-300)
        along, principal = np.linalg.eigh(covariance)
        chosen = (0, 1) if axes is None else axes
        seen = float(sum(covariance[a, a] for a in chosen))
        if axes is None and seen < _AS_GOOD * along[-2:].sum():
            best = principal[:, [-1, -2]]
            best = best * np.sign(best[np.abs(best).argmax(0), [0, 1]])  # the largest entry is positive
            share = float(along[-2:].sum()) / total
            return cls(best, codes.mean(0), ("principal axis 1", "principal axis 2"), share)
        names = _coordinates(embedded, d)
        plane = np.eye(d)[:, list(chosen)]
        return cls(plane, np.zeros(d), (names[chosen[0]], names[chosen[1]]), seen / total)

    def place(self, codes: np.ndarray) -> Float[np.ndarray, "... 2"]:
        """Where codes lie in it."""
        return (codes - self.centre) @ self.axes


def _coordinates(embedded: Embedded, d: int) -> list[str]:
    """What coordinates are called: as they were read, or the components of a recipe's own."""
    infer = embedded.module.latents[embedded.code].infer
    described = next(iter(embedded.cells.layout.modalities.values()))
    if described.n_features == d and not hasattr(infer, "axes"):
        return list(described.symbols or described.names)
    return [f"component {i + 1}" for i in range(d)]


def by_time(embedded: Embedded, *, most: int, seed: int = 0) -> Int[np.ndarray, " m"]:
    """Positions of cells for a picture, at most so many: of each time a share as large as it has."""
    n = len(embedded)
    if n <= most:
        return np.arange(n)
    order = np.random.default_rng(seed).permutation(n)
    times = embedded.cells.snapshot.cpu().numpy()[order]
    # Every so many cells of each time in turn, so that none is left out.
    place = np.zeros(n)
    for t in np.unique(times):
        here = np.flatnonzero(times == t)
        place[here] = (np.arange(len(here)) + 0.5) / len(here)
    return np.sort(order[np.argsort(place, kind="stable")[:most]])


@torch.no_grad()
def velocities(embedded: Embedded, rows: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m d"]:
    """Velocities of cells where and when they were measured."""
    motion = motion_of(embedded)
    at = torch.from_numpy(rows)
    z, t = embedded.codes[embedded.code][at], embedded.cells.time[at]
    step = max(1, _OPERATORS // z.shape[1] ** 2)
    parts = [motion.velocity(a, b) for a, b in zip(z.split(step), t.split(step), strict=True)]
    return torch.cat(parts).cpu().numpy()


class Stream(NamedTuple):
    """A line that velocities are tangent to.

    Parameters
    ----------
    points
        Along it, in its direction.
    speed
        On the way, on average, as a share of the grid's largest.
    """

    points: Float[np.ndarray, "p 2"]
    speed: float


def streams(
    xy: Float[np.ndarray, "n 2"], velocity: Float[np.ndarray, "n 2"], *, density: float = 1.2
) -> list[Stream]:
    r"""Lines along the mean velocity of the cells near each node of a grid.

    .. math:: \bar v(x) = \frac{\sum_i k(x - x_i)\,v_i}{\sum_i k(x - x_i)}, \qquad
              k(u) = e^{-\lVert u \rVert^2 / 2 h^2}

    with ``h`` the distance between nodes. Nodes with no cell near (weights that sum to less than 1) have no
    velocity, and lines end there.

    Parameters
    ----------
    xy, velocity
        Of cells, in a plane.
    density
        Of the lines.
    """
    from matplotlib.figure import Figure

    low, span = xy.min(0), np.maximum(np.ptp(xy, axis=0), 1e-9 * max(1.0, float(np.abs(xy).max())))
    h = float(span.max()) / (_NODES - 1)
    ticks = [low[a] + h * np.arange(max(4, int(span[a] / h) + 2)) for a in (0, 1)]
    nodes = np.stack(np.meshgrid(*ticks), -1)
    weight = np.exp(-((nodes[:, :, None] - xy) ** 2).sum(-1) / (2 * h * h))
    total = weight.sum(-1)
    mean = np.where((total < 1)[..., None], np.nan, weight @ velocity / np.maximum(total, 1e-9)[..., None])
    speed = np.linalg.norm(mean, axis=-1)
    if not np.nanmax(np.nan_to_num(speed)) > 0:
        return []
    drawn = Figure().add_subplot()
    shape = {"broken_streamlines": True, "minlength": 0.06, "density": density}
    found = drawn.streamplot(*ticks, *np.moveaxis(np.ma.masked_invalid(mean), -1, 0), **shape)
    lines = []
    for points in _chained(found.lines.get_segments()):
        column, row = np.rint((points - low) / h).astype(int).T
        passed = speed[row.clip(max=len(speed) - 1), column.clip(max=speed.shape[1] - 1)]
        if np.isfinite(passed).any():
            lines.append(Stream(points, float(np.nanmean(passed) / np.nanmax(speed))))
    return lines


def _chained(pieces: Sequence[Float[np.ndarray, "p 2"]]) -> list[Float[np.ndarray, "p 2"]]:
    """Lines from pieces of them, which are whole in some versions of matplotlib and two points in others."""
    lines: list[list[np.ndarray]] = []
    for piece in pieces:
        if lines and np.array_equal(lines[-1][-1][-1], piece[0]):
            lines[-1].append(piece[1:])
        else:
            lines.append([piece])
    whole = [np.concatenate(line) for line in lines]
    moving = [np.append(True, np.any(np.diff(points, axis=0) != 0, axis=1)) for points in whole]
    return [points[some] for points, some in zip(whole, moving, strict=True) if some.sum() > 1]


def paths(
    embedded: Embedded, *, cells: int = 40, seed: int = 0
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k m d"]]:
    """Cells of the first time followed to the last one: times, of which the measured are some, and codes.

    Parameters
    ----------
    embedded
        Cells with times.
    cells
        How many at most, drawn at random.
    seed
        Of the draw.
    """
    times = motion_of(embedded).times
    between = max(2, min(8, 160 // len(times)))
    every = [np.linspace(a, b, between, endpoint=False) for a, b in itertools.pairwise(times)]
    first = np.flatnonzero(embedded.cells.snapshot.cpu().numpy() == 0)
    which = np.zeros(len(embedded), dtype=bool)
    which[np.random.default_rng(seed).choice(first, min(cells, len(first)), replace=False)] = True
    moments = np.concatenate([*every, times[-1:]])
    return moments, trajectories(embedded, moments.tolist(), which=which)


class Arrival(NamedTuple):
    """Cells of a time moved to the next one, beside those measured then, as many.

    Parameters
    ----------
    before, time
        The two times.
    set_out, arrived, measured
        Codes of the cells before, the same cells moved, and others that were measured.
    wasserstein, energy
        Distances from those measured: of those that arrived, and of those that set out.
    """

    before: float
    time: float
    set_out: Float[np.ndarray, "n d"]
    arrived: Float[np.ndarray, "n d"]
    measured: Float[np.ndarray, "n d"]
    wasserstein: tuple[float, float]
    energy: tuple[float, float]


def arrivals(
    embedded: Embedded, *, most: int = 1000, steps: Sequence[int] | None = None, seed: int = 0
) -> list[Arrival]:
    """Cells of each time moved to the next of their course, and how far from those measured there they are.

    Parameters
    ----------
    embedded
        Cells with times.
    most
        Cells of a time, at most; both samples have equally many of each course, as their distance depends on
        it.
    steps
        Positions of the times that are arrived at, from 1; all by default.
    seed
        Of the draw of cells.
    """
    times, rng = motion_of(embedded).times, np.random.default_rng(seed)
    codes, at = embedded.embedding, embedded.cells.snapshot.cpu().numpy()
    followed = embedded.cells.followed.cpu().numpy()
    found = []
    for t in range(1, len(times)) if steps is None else steps:
        before, here = _alike(followed, setting_out(embedded, times[t]), at == t, most=most, rng=rng)
        which: Bool[np.ndarray, " n"] = np.isin(np.arange(len(at)), before)
        arrived = trajectories(embedded, [times[t]], which=which)[0]
        samples = (arrived, codes[before])
        found.append(
            Arrival(
                times[t - 1],
                times[t],
                codes[before],
                arrived,
                codes[here],
                tuple(wasserstein(x, codes[here]) for x in samples),  # type: ignore[arg-type]
                tuple(energy_distance(x, codes[here]) for x in samples),  # type: ignore[arg-type]
            )
        )
    return found


def _alike(
    followed: Int[np.ndarray, " n"],
    one: Bool[np.ndarray, " n"],
    other: Bool[np.ndarray, " n"],
    *,
    most: int,
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Positions of as many cells of one mask as of another, in each course, in order."""
    here = [followed == course for course in np.unique(followed)]
    each = [(np.flatnonzero(one & course), np.flatnonzero(other & course)) for course in here]
    number = np.array([min(map(len, both)) for both in each])
    number = np.ceil(number * min(1.0, most / max(number.sum(), 1))).astype(int)
    drawn = [
        [rng.choice(rows, n, replace=False) for rows in both] for both, n in zip(each, number, strict=True)
    ]
    first, second = (np.sort(np.concatenate(rows)) for rows in zip(*drawn, strict=True))
    return first, second


def density(values: Float[np.ndarray, " n"], low: float, high: float) -> Float[np.ndarray, " b"]:
    """Smoothed density of values at 64 places from ``low`` to ``high``, which are the edges of the bins."""
    from scipy.ndimage import gaussian_filter1d

    count, _ = np.histogram(values, bins=_BINS, range=(low, high))
    return gaussian_filter1d(count / max(len(values), 1), 2.0)
