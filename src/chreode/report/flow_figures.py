"""Pictures of dynamics for papers; `chreode.report.figures` hands them on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.report.canvas import INK, SOFT, canvas, quiet
from chreode.report.draw import number
from chreode.report.flow import Plane, arrivals, by_time, density, paths, streams, velocities
from chreode.report.palette import MEASURED, PREDICTED, times_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from chreode.axes import Float
    from chreode.embedded import Embedded

__all__ = ["marginals", "streamlines", "trajectories"]

_SHOWN = 3000  # cells whose velocities are averaged, or that lie behind paths
_PANEL = 600  # cells of each sample in a picture of marginals


def streamlines(model: Any, *, axes: tuple[int, int] | None = None, seed: int = 0) -> Figure:
    """Draw lines along the velocity of cells, averaged where there are some, over cells by time.

    Velocities are those at each cell's own place and time, projected to two coordinates; wide lines are
    fast. What moves across the plane, and what differs between cells that lie over one another in it, is
    not seen.

    Parameters
    ----------
    model
        With dynamics and its cells: fitted, loaded, or its embedded cells.
    axes
        Positions of two coordinates. None takes the first two, or the first two principal axes of the codes
        where those show clearly more of their variance.
    seed
        Of the draw of cells, when there are more than 3,000.

    Raises
    ------
    InputError
        For a model without dynamics or cells, one dimension, or coordinates that are not there.
    """
    embedded, plane = _seen(model, axes)
    rows = by_time(embedded, most=_SHOWN, seed=seed)
    xy = plane.place(embedded.embedding[rows])
    figure, drawn = _map(embedded, plane, xy, rows)
    for stream in streams(xy, velocities(embedded, rows) @ plane.axes):
        width = 0.6 + 1.4 * stream.speed
        drawn.plot(*stream.points.T, color=INK, linewidth=width, solid_capstyle="round")
        middle = len(stream.points) // 2
        arrow = {"arrowstyle": "-|>", "color": INK, "lw": 0, "mutation_scale": 6 + 3 * width}
        ends = {"xy": stream.points[middle], "xytext": stream.points[middle - 1]}
        drawn.annotate("", **ends, arrowprops=arrow | {"shrinkA": 0, "shrinkB": 0})
    return figure


def trajectories(
    model: Any, *, axes: tuple[int, int] | None = None, cells: int = 40, seed: int = 0
) -> Figure:
    """Draw cells of the first time followed to the last one, over all cells by time.

    Rings mark the measured times on each way, in their colours: a ring lies among cells of its colour
    where the model is right.

    Parameters
    ----------
    model, axes
        As of `streamlines`.
    cells
        How many are followed, drawn at random.
    seed
        Of the draws.

    Raises
    ------
    InputError
        As `streamlines`.
    """
    embedded, plane = _seen(model, axes)
    rows = by_time(embedded, most=_SHOWN, seed=seed)
    figure, drawn = _map(embedded, plane, plane.place(embedded.embedding[rows]), rows)
    moments, codes = paths(embedded, cells=cells, seed=seed)
    ways = plane.place(codes)
    times: Any = embedded.cells.layout.in_role("time")
    for i in range(ways.shape[1]):
        drawn.plot(*ways[:, i].T, color=INK, linewidth=0.7, alpha=0.8)
    for (colour, _), t in zip(times_of(len(times.times)), times.times, strict=True):
        spots = ways[int(np.argmin(np.abs(moments - t)))]
        drawn.scatter(*spots.T, s=14, color=colour, edgecolors=INK, linewidths=0.7, zorder=3)
    return figure


def marginals(model: Any, *, axes: tuple[int, int] | None = None, seed: int = 0) -> Figure:
    """Draw the cells of each time moved to the next one beside those measured then.

    Curves along the edges are the densities of both. Below are the Wasserstein-1 and the energy distance of
    the moved cells from the measured ones, in all coordinates, and of the same cells where they set out:
    what a model is worth that only copies the time before. The model was fitted to these cells.

    Parameters
    ----------
    model, axes
        As of `streamlines`.
    seed
        Of the draw of cells, at most 1,000 of each time and as many of both samples.

    Raises
    ------
    InputError
        As `streamlines`.
    """
    embedded, plane = _seen(model, axes)
    found = arrivals(embedded, seed=seed)
    columns = min(len(found), 4)
    rows = -(-len(found) // columns)
    figure = canvas(3.0 * columns, 3.3 * rows + 0.3)
    every = plane.place(np.concatenate([embedded.embedding, *(a.arrived for a in found)]))
    low, high = every.min(0), every.max(0)
    pad = 0.14 * (high - low)
    for i, arrival in enumerate(found):
        drawn = quiet(figure.add_subplot(rows, columns, i + 1))
        drawn.set_title(f"{arrival.before:g} to {arrival.time:g}", fontsize=9, color=INK, loc="left")
        for codes, colour, style in ((arrival.measured, MEASURED, "-"), (arrival.arrived, PREDICTED, "--")):
            xy = plane.place(codes)
            drawn.scatter(*xy[:_PANEL].T, s=5, color=colour, linewidths=0, alpha=0.6)
            _edges(drawn, xy, low, high + pad, colour=colour, style=style)
        drawn.set_xlim(low[0] - 0.02 * pad[0], high[0] + pad[0])
        drawn.set_ylim(low[1] - 0.02 * pad[1], high[1] + pad[1])
        lines = [
            f"{name} {number(far, 3)}; copied {number(copied, 3)}"
            for name, (far, copied) in (("W1", arrival.wasserstein), ("energy", arrival.energy))
        ]
        drawn.set_xlabel("\n".join(lines), fontsize=8, color=INK)
    from matplotlib.lines import Line2D

    named: Any = (("measured", MEASURED, "-"), ("predicted", PREDICTED, "--"))
    handles = [Line2D([], [], color=c, linestyle=s, marker="o", ms=4, label=name) for name, c, s in named]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    figure.supxlabel(_words(plane), fontsize=7, color=SOFT)
    return figure


def _edges(
    drawn: Axes,
    xy: Float[np.ndarray, "n 2"],
    low: Float[np.ndarray, " 2"],
    high: Float[np.ndarray, " 2"],
    *,
    colour: str,
    style: str,
) -> None:
    """Densities of both coordinates, the first along the top and the second along the right."""
    for a in (0, 1):
        heights = density(xy[:, a], low[a], high[a])
        along = np.linspace(low[a], high[a], len(heights))
        b = 1 - a
        over = high[b] - 0.12 * (high[b] - low[b]) * (1 - heights / heights.max())
        x, y = (along, over) if a == 0 else (over, along)
        drawn.plot(x, y, style, color=colour, linewidth=1.2)


def _seen(model: Any, axes: tuple[int, int] | None) -> tuple[Embedded, Plane]:
    embedded: Embedded = getattr(model, "embedded", model)
    return embedded, Plane.of(embedded, axes=axes)


def _map(
    embedded: Embedded, plane: Plane, xy: Float[np.ndarray, "n 2"], rows: np.ndarray
) -> tuple[Figure, Axes]:
    """Cells by time."""
    figure = canvas(5.6, 4.4)
    drawn = quiet(figure.add_subplot())
    drawn.set_aspect("equal", adjustable="datalim")
    times: Any = embedded.cells.layout.in_role("time")
    at = embedded.cells.snapshot.cpu().numpy()[rows]
    colours = np.array([light for light, _ in times_of(len(times.times))])
    order = np.random.default_rng(0).permutation(len(xy))
    drawn.scatter(
        *xy[order].T, c=colours[at[order]], s=9, alpha=0.45, linewidths=0, rasterized=len(xy) > 2000
    )
    for t, colour in zip(times.times, colours, strict=True):
        drawn.scatter([], [], s=24, color=colour, label=f"{t:g}")
    legend = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False, "fontsize": 7}
    drawn.legend(title=times.column, title_fontsize=8, ncols=1 + len(times.times) // 21, **legend)
    drawn.set_xlabel(plane.names[0], fontsize=8, color=SOFT)
    drawn.set_ylabel(plane.names[1], fontsize=8, color=SOFT)
    figure.supxlabel(_words(plane), fontsize=7, color=SOFT)
    return figure, drawn


def _words(plane: Plane) -> str:
    return f"{plane.names[0]} and {plane.names[1]}: {100 * plane.share:.0f} % of the variance of the codes"
