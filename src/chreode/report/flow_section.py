"""What a model of dynamics adds to the page: streams, ways and arrivals, as SVG draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chreode.errors import InputError
from chreode.report.draw import number
from chreode.report.flow import Plane, arrivals, by_time, density, paths, streams, velocities
from chreode.report.palette import times_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from chreode.axes import Float, Int
    from chreode.embedded import Embedded
    from chreode.report.flow import Arrival

__all__ = ["flow_section"]

WIDTH, HEIGHT, PANEL = 560.0, 460.0, 300.0
EDGE = 34.0  # of a panel, for densities
SHOWN = 2500  # cells behind lines
BESIDE = 500  # cells of each sample in a panel
ARRIVALS = 8  # panels, and rings on a way


class Frame(NamedTuple):
    """How a plane lies in a picture: pixels a unit, and the place of the origin."""

    scale: float
    x: float
    y: float

    @classmethod
    def around(
        cls, xy: Float[np.ndarray, "n 2"], *, width: float, height: float, room: float = 12.0
    ) -> Frame:
        """The largest with one scale for both directions, in whose middle the cells lie."""
        low, high = xy.min(0), xy.max(0)
        span = np.maximum(high - low, 1e-9 * max(1.0, float(np.abs(xy).max())))
        scale = float(min((width - 2 * room) / span[0], (height - 2 * room) / span[1]))
        middle = (low + high) / 2
        return cls(scale, float(width / 2 - scale * middle[0]), float(height / 2 + scale * middle[1]))

    def place(self, xy: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "... 2"]:
        """Pixels, from the upper left."""
        return np.stack([self.x + self.scale * xy[..., 0], self.y - self.scale * xy[..., 1]], -1)


def flow_section(model: Any, *, seed: int = 0, progress: bool = False) -> dict[str, Any] | None:
    """Streams, ways and arrivals of a model with dynamics; None for one without.

    Parameters
    ----------
    model
        A `chreode.FittedModel` with its cells.
    seed
        Of the draws of cells.
    progress
        Whether to show a bar.
    """
    from tqdm.auto import tqdm

    embedded: Embedded = model.embedded
    motion = embedded.module.dynamics
    if motion is None:
        return None
    try:
        plane = Plane.of(embedded)
    except InputError as error:
        return {"absent": str(error)}
    time: Any = embedded.cells.layout.in_role("time")
    steps = 1 + np.unique(np.linspace(0, len(motion.times) - 2, ARRIVALS).round().astype(int))
    rows = by_time(embedded, most=SHOWN, seed=seed)
    xy = plane.place(embedded.embedding[rows])
    with tqdm(total=len(steps) + 2, desc="draw the dynamics", disable=not progress) as bar:
        flow = streams(xy, velocities(embedded, rows) @ plane.axes)
        bar.update()
        moments, codes = paths(embedded, seed=seed)
        ways = plane.place(codes)
        bar.update()
        found = []
        for step in steps.tolist():
            found += arrivals(embedded, steps=[step], seed=seed)
            bar.update()
    frame = Frame.around(np.concatenate([xy, ways.reshape(-1, 2)]), width=WIDTH, height=HEIGHT)
    return {
        "absent": "",
        "column": time.column,
        "times": [
            {"name": f"{t:g}", "light": light, "dark": dark}
            for t, (light, dark) in zip(motion.times, times_of(len(motion.times)), strict=True)
        ],
        "plane": {"names": plane.names, "share": f"{100 * plane.share:.0f}"},
        "dims": codes.shape[-1],
        "width": WIDTH,
        "height": HEIGHT,
        "cells": _dots_by_time(frame.place(xy), embedded.cells.snapshot.cpu().numpy()[rows], seed=seed),
        "streams": [_stream(frame.place(s.points), s.speed) for s in flow],
        **_ways(frame.place(ways), moments, motion.times),
        "arrivals": _panels(found, plane, xy),
        "steps": len(motion.times) - 1,
    }


def _dots(xy: Float[np.ndarray, "n 2"]) -> str:
    """Points as one path: strokes of no length, whose round ends show."""
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in xy)


def _line(xy: Float[np.ndarray, "p 2"]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in xy)


def _dots_by_time(
    xy: Float[np.ndarray, "n 2"], at: Int[np.ndarray, " n"], *, seed: int, rounds: int = 6
) -> list[dict[str, Any]]:
    """Points in a few rounds of all times, so that no time lies on top of the others."""
    order = np.random.default_rng(seed).permutation(len(xy))
    parts = []
    for some in np.array_split(order, rounds):
        for t in np.unique(at[some]):
            parts.append({"time": int(t), "path": _dots(xy[some[at[some] == t]])})
    return parts


def _stream(xy: Float[np.ndarray, "p 2"], speed: float) -> dict[str, Any]:
    """A line, and a head in its middle."""
    middle = max(1, len(xy) // 2)
    along = xy[middle] - xy[middle - 1]
    along = along / max(float(np.linalg.norm(along)), 1e-9)
    aside, size = np.array([-along[1], along[0]]), 3.5 + 2.5 * speed
    head = [xy[middle] + size * along, *(xy[middle] - size * (along + s * 0.8 * aside) for s in (1, -1))]
    return {"path": _line(xy), "head": _line(np.stack(head)) + "Z", "width": round(0.7 + 1.3 * speed, 2)}


def _ways(
    ways: Float[np.ndarray, "k m 2"], moments: Float[np.ndarray, " k"], times: Sequence[float]
) -> dict[str, Any]:
    """Lines of cells that are followed, and where each is at the measured times."""
    shown = np.unique(np.linspace(0, len(times) - 1, ARRIVALS).round().astype(int)).tolist()
    stops = [{"time": i, "path": _dots(ways[int(np.argmin(np.abs(moments - times[i])))])} for i in shown]
    return {
        "ways": [_line(ways[:, i]) for i in range(ways.shape[1])],
        "stops": stops,
        "followed": ways.shape[1],
    }


def _panels(found: Sequence[Arrival], plane: Plane, xy: Float[np.ndarray, "n 2"]) -> list[dict[str, Any]]:
    """Measured and predicted cells of each step, with densities along two edges, and their distances."""
    shape = {"width": PANEL - EDGE, "height": PANEL - EDGE}
    every = np.concatenate([xy, *(plane.place(arrival.arrived) for arrival in found)])
    frame = Frame.around(every, **shape, room=4.0)
    panels = []
    for arrival in found:
        samples = {"measured": arrival.measured, "predicted": arrival.arrived}
        places = {name: frame.place(plane.place(codes)) for name, codes in samples.items()}
        distances = [
            {"name": name, "moved": number(moved, 3), "copied": number(copied, 3)}
            for name, (moved, copied) in (
                ("Wasserstein-1", arrival.wasserstein),
                ("energy distance", arrival.energy),
            )
        ]
        panels.append(
            {
                "before": f"{arrival.before:g}",
                "time": f"{arrival.time:g}",
                "n": len(arrival.measured),
                "distances": distances,
                "samples": [
                    {"name": name, "dots": _dots(spots[:BESIDE]), "edges": edges}
                    for (name, spots), edges in zip(
                        places.items(), _edges(list(places.values())), strict=True
                    )
                ],
            }
        )
    return panels


def _edges(samples: Sequence[Float[np.ndarray, "n 2"]]) -> Iterable[list[str]]:
    """Densities of several samples, along the top and the right of a panel whose cells begin at ``EDGE``."""
    inside = PANEL - EDGE
    heights = np.stack([[density(xy[:, a], 0.0, inside) for a in (0, 1)] for xy in samples])
    heights = heights / np.maximum(heights.max((0, 2), keepdims=True), 1e-12) * (EDGE - 4)
    along = (np.arange(heights.shape[2]) + 0.5) * inside / heights.shape[2]
    for top, right in heights:
        yield [
            _line(np.stack([along, -2 - top], 1)),
            _line(np.stack([inside + 2 + right, along], 1)),
        ]
