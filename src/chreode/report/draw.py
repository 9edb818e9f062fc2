"""Geometry of the page's small line charts and of the graph of components, as numbers for SVG."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.report.palette import colour_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

__all__ = ["curves_of", "graph", "line_charts", "number", "ticks"]

WIDTH, HEIGHT = 320.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 12.0, 26.0
MINUS = "\N{MINUS SIGN}"
TERMS = {
    "loss": "Loss: all terms, nats per cell",
    "reconstruction": "Reconstruction, nats per cell",
    "prior": "Prior of the codes, nats per cell",
    "hyperprior": "Hyperprior, nats per cell",
    "validation": "Held-out molecules, nats per molecule",
}


def number(value: Any) -> str:
    """Write a number for people: three or four significant figures, thousands apart.

    Examples
    --------
    >>> number(12345), number(0.123456), number(None), number("a")
    ('12,345', '0.1235', '\N{EN DASH}', 'a')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}".replace("-", MINUS)
    if isinstance(value, (float, np.floating)):
        size = abs(float(value))
        if size == 0:
            return "0"
        if size < 1e-3 or size >= 1e7:
            return f"{value:.2e}".replace("-", MINUS)
        return f"{value:,.{max(0, 3 - math.floor(math.log10(size)))}f}".replace("-", MINUS)
    return str(value)


def ticks(low: float, high: float, *, about: int = 4) -> list[float]:
    """Round numbers between two others.

    Examples
    --------
    >>> ticks(0.0, 10.0)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    span = high - low
    if not span > 0:
        return [low]
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.75)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def curves_of(history: pd.DataFrame) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """Every curve of a history: name, title, epochs and values; the loss first, validation last.

    Parameters
    ----------
    history
        One row an epoch. Values that are missing or not finite are skipped, and so are columns of words
        and terms outside the usual ones that never change.
    """
    known = [name for name in TERMS if name in history.columns]
    others = [c for c in history.columns if c not in TERMS and c not in ("epoch", "seconds")]
    names = [n for n in known if n != "validation"] + others + [n for n in known if n == "validation"]
    epoch = (
        history["epoch"].to_numpy(dtype=float)
        if "epoch" in history.columns
        else np.arange(len(history)) * 1.0
    )
    curves = []
    for name in names:
        try:
            values = history[name].to_numpy(dtype=float, na_value=np.nan)
        except (TypeError, ValueError):  # words, not numbers
            continue
        ok = np.isfinite(values) & np.isfinite(epoch)
        if ok.any() and (name in TERMS or np.ptp(values[ok]) > 0):
            curves.append((name, TERMS.get(name, name), epoch[ok], values[ok]))
    return curves


def line_charts(history: pd.DataFrame) -> list[dict[str, Any]]:
    """One chart for each of `curves_of`."""
    return [_chart(name, x, y) for name, _, x, y in curves_of(history)]


def _chart(name: str, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    x_low, x_high = float(x.min()), float(x.max())
    y_low, y_high = float(y.min()), float(y.max())
    pad = 0.06 * (y_high - y_low) or 0.05 * abs(y_high) or 1.0
    y_low, y_high = y_low - pad, y_high + pad

    def at_x(v: float) -> float:
        share = (v - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def at_y(v: float) -> float:
        return round(HEIGHT - BOTTOM - (v - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    best = int(y.argmin()) if name == "validation" else None
    return {
        "name": name,
        "title": TERMS.get(name, name),
        "width": WIDTH,
        "height": HEIGHT,
        "path": "M" + "L".join(f"{at_x(a)},{at_y(b)}" for a, b in zip(x, y, strict=True)),
        "x_ticks": [(at_x(v), f"{v:g}") for v in ticks(x_low, x_high) if v == int(v)],
        "y_ticks": [(at_y(v), f"{v:g}".replace("-", MINUS)) for v in ticks(y_low, y_high)],
        "end": {"x": at_x(x[-1]), "y": at_y(y[-1])},
        "first": number(float(y[0])),
        "last": number(float(y[-1])),
        "best": None if best is None else {
            "x": at_x(x[best]), "y": at_y(y[best]), "value": number(float(y[best])), "epoch": f"{x[best]:g}"
        },
    }  # fmt: skip


def graph(
    share: np.ndarray,
    sizes: np.ndarray,
    places: np.ndarray,
    *,
    hints: Sequence[str] = (),
    least: float = 0.01,
) -> dict[str, Any]:
    """Circles and lines of the graph of components.

    Parameters
    ----------
    share
        Row-normalised shares of neighbour edges, ``k x k``.
    sizes
        Cells of each component, ``k``; those of none are left out.
    places
        Where each component lies on the map, ``k x 2``.
    hints
        Commonest label of each component; may be empty.
    least
        Lines whose mean share (of both directions) is below this are left out.
    """
    width, height, margin = 640.0, 440.0, 46.0
    alive = np.flatnonzero(sizes > 0)
    spots = np.full((len(sizes), 2), np.nan)
    if len(alive):
        radius = {int(k): 9.0 + 17.0 * math.sqrt(sizes[k] / sizes.max()) for k in alive}
        low, span = places[alive].min(0), np.maximum(np.ptp(places[alive], axis=0), 1e-9)
        spots[alive] = (places[alive] - low) / span * [width - 2 * margin, height - 2 * margin] + margin
        spots[:, 1] = height - spots[:, 1]
        spots[alive] = _apart(
            spots[alive], np.array([radius[int(k)] for k in alive]), width=width, height=height
        )
    edges = []
    for i, a in enumerate(alive):
        for b in alive[i + 1 :]:
            mean = (share[a, b] + share[b, a]) / 2
            if mean >= least:
                line = {
                    "a": int(a),
                    "b": int(b),
                    "share": float(mean),
                    "width": round(1.0 + 22.0 * float(mean), 2),
                }
                ends = {"x1": spots[a, 0], "y1": spots[a, 1], "x2": spots[b, 0], "y2": spots[b, 1]}
                edges.append(line | {k: round(float(v), 1) for k, v in ends.items()})
    nodes = [
        {
            "k": int(k), "x": round(float(spots[k, 0]), 1), "y": round(float(spots[k, 1]), 1),
            "r": round(radius[int(k)], 1), "cells": int(sizes[k]), "hint": hints[k] if len(hints) > k else "",
            "within": float(share[k, k]), "colour": colour_of(int(k)),
        }
        for k in alive
    ]  # fmt: skip
    return {
        "width": width,
        "height": height,
        "nodes": nodes,
        "edges": sorted(edges, key=lambda e: e["share"]),
    }


def _apart(spots: np.ndarray, radius: np.ndarray, *, width: float, height: float) -> np.ndarray:
    """Push circles that overlap apart, a little at a time, staying near where they were."""
    spots, home = spots.copy(), spots.copy()
    room = radius[:, None] + radius[None, :] + 14.0
    for _ in range(200):
        delta = spots[:, None] - spots[None, :]
        distance = np.sqrt((delta**2).sum(-1)) + np.eye(len(spots)) * 1e9
        overlap = np.maximum(room - distance, 0.0)
        if overlap.max() < 0.5:
            break
        # Coinciding centres need a direction; the order of the components gives one.
        turn = np.arange(len(spots)) * 2.4
        direction = np.where(
            distance[..., None] > 1e-6,
            delta / distance[..., None],
            np.stack([np.cos(turn), np.sin(turn)], -1)[:, None],
        )
        spots += 0.25 * (direction * overlap[..., None]).sum(1) + 0.01 * (home - spots)
        spots = np.clip(spots, radius[:, None] + 4, np.array([width, height]) - radius[:, None] - 4)
    return spots
