"""Geometry of the page's small line charts and of the graph of components, as numbers for SVG."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.report.palette import colour_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

__all__ = ["best_epoch", "curves_of", "duration", "events_of", "graph", "line_charts", "number", "ticks"]

WIDTH, HEIGHT = 320.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 12.0, 26.0
MINUS = "\N{MINUS SIGN}"
TERMS = {
    "loss": "Loss: all terms",
    "reconstruction": "Reconstruction, nats per cell",
    "prior": "Prior of the codes, nats per cell",
    "hyperprior": "Hyperprior, nats per cell",
    "marginals": "Marginals",
    "kinetic energy": "Kinetic energy",
    "flow matching": "Flow matching",
    "bridge matching": "Bridge matching",
    "geodesic matching": "Geodesic matching",
    "paths": "Paths",
    "sparsity": "Sparsity",
    "validation": "Held-out molecules, nats per molecule",
}
MEANINGS = {
    "loss": "Everything that training makes smaller, added up.",
    "reconstruction": "How surprising the model finds the counts it trains on.",
    "prior": "How far the codes of the cells lie from where the model expects cells.",
    "hyperprior": "How far the components themselves lie from what is plausible for them.",
    "marginals": (
        "How far cells of each time, moved to later ones, are from those measured then: squared maximum mean "
        "discrepancy, 0 for like samples, added up over the times."
    ),
    "kinetic energy": (
        "How fast cells move on their ways, mean square of the velocity: of the fields that fit, those of "
        "short and even ways win."
    ),
    "flow matching": (
        "How far the velocity is from that along straight lines between cells of successive times, in mean "
        "squares. Lines that cross keep it above 0: less is not always better."
    ),
    "bridge matching": (
        "How far flow and score are from those of cells that diffuse from one time to the next, in mean "
        "squares: chance keeps it well above 0."
    ),
    "geodesic matching": (
        "How far the velocity is from that along ways that keep to where cells are, in mean squares, and how "
        "long these ways are by that measure."
    ),
    "paths": (
        "How far cells, moved on and on, are from the cells of later times that they are taken to become, in "
        "mean squares."
    ),
    "sparsity": "How strongly each coordinate reaches the velocity of each other through the network.",
    "validation": (
        "How surprising the model finds each molecule that it was not shown, in cells set aside: 0.1 lower "
        "means that it gave every molecule about 10 % more probability."
    ),
}
PLACED = " It drops when components are placed, because every group of cells then has one near by."


def number(value: Any, figures: int = 4) -> str:
    """Write a number for people, thousands apart.

    Parameters
    ----------
    value
        A number, or anything else, which stays as it is.
    figures
        Significant figures of one that is not whole.

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
            return f"{value:.{figures - 1}e}".replace("-", MINUS)
        return f"{value:,.{max(0, figures - 1 - math.floor(math.log10(size)))}f}".replace("-", MINUS)
    return str(value)


def duration(seconds: float) -> str:
    """Write seconds for people.

    Examples
    --------
    >>> duration(0.42), duration(75.2), duration(7260)
    ('0.4 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


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
        and terms that never change.
    """
    known = [name for name in TERMS if name in history.columns]
    others = [c for c in history.columns if c not in TERMS and c not in ("epoch", "seconds")]
    names = [n for n in known if n != "validation"] + others + [n for n in known if n == "validation"]
    epoch = _epochs(history)
    curves = []
    for name in names:
        try:
            values = history[name].to_numpy(dtype=float, na_value=np.nan)
        except (TypeError, ValueError):  # words, not numbers
            continue
        ok = np.isfinite(values) & np.isfinite(epoch)
        if ok.any() and (name == "loss" or np.ptp(values[ok]) > 0):
            curves.append((name, TERMS.get(name, name), epoch[ok], values[ok]))
    return curves


def _epochs(history: pd.DataFrame) -> np.ndarray:
    if "epoch" in history.columns:
        return history["epoch"].to_numpy(dtype=float)
    return np.arange(len(history)) * 1.0


def events_of(history: pd.DataFrame) -> list[tuple[float, str]]:
    """Epochs at whose end a new phase of the fit began, and the names of what happened then.

    Parameters
    ----------
    history
        One row an epoch; without a column ``event`` nothing happened.

    Examples
    --------
    >>> import pandas as pd
    >>> events_of(pd.DataFrame({"epoch": [1, 2, 3], "event": ["", "place components", None]}))
    [(2.0, 'place components')]
    """
    if "event" not in history.columns:
        return []
    # What was read from a file has a missing value where what was fitted just now has an empty word.
    rows = zip(_epochs(history).tolist(), history["event"], strict=True)
    return [(epoch, name) for epoch, name in rows if isinstance(name, str) and name]


def best_epoch(history: pd.DataFrame) -> float | None:
    """Epoch whose weights the fit went back to at its end; None when nothing was held out.

    Parameters
    ----------
    history
        One row an epoch. An event begins a new phase from the best weights of the last one, and the fitted
        model has the best weights of the last phase, even where an earlier phase had come lower.

    Examples
    --------
    >>> import pandas as pd
    >>> best_epoch(pd.DataFrame({"epoch": [1, 2, 3], "validation": [5, 1, 3], "event": ["", "x", ""]}))
    3.0
    """
    if "validation" not in history.columns:
        return None
    epoch, value = _epochs(history), history["validation"].to_numpy(dtype=float, na_value=np.nan)
    known, phase = np.isfinite(value), np.zeros(len(value), dtype=int)
    for at, _ in events_of(history):
        phase += epoch > at
    if not known.any():
        return None
    # After an event at the very end nothing was looked at: the weights are those it began from.
    last = np.flatnonzero(known & (phase == phase[known].max()))
    return float(epoch[last[value[last].argmin()]])


def line_charts(history: pd.DataFrame) -> list[dict[str, Any]]:
    """One chart for each of `curves_of`, with the events of the fit and the best epoch of the last phase."""
    events, best = events_of(history), best_epoch(history)
    placed = any("place components" in name for _, name in events)
    charts = []
    for name, _, x, y in curves_of(history):
        ring = int(np.flatnonzero(x == best)[0]) if name == "validation" and best is not None else None
        meaning = MEANINGS.get(name, "") + (PLACED if placed and name == "prior" else "")
        charts.append(_chart(name, x, y, events=events, best=ring) | {"meaning": meaning})
    return charts


def _chart(
    name: str, x: np.ndarray, y: np.ndarray, *, events: Sequence[tuple[float, str]], best: int | None
) -> dict[str, Any]:
    x_low, x_high = float(x.min()), float(x.max())
    y_low, y_high = float(y.min()), float(y.max())
    pad = 0.06 * (y_high - y_low) or 0.05 * abs(y_high) or 1.0
    y_low, y_high = y_low - pad, y_high + pad

    def at_x(v: float) -> float:
        """Where an epoch lies."""
        share = (v - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    marks, top = _marks([(epoch, at_x(epoch), what) for epoch, what in events if x_low <= epoch <= x_high])

    def at_y(v: float) -> float:
        """Where a value lies, below the words of the events."""
        return round(HEIGHT - BOTTOM - (v - y_low) / (y_high - y_low) * (HEIGHT - top - BOTTOM), 1)

    return {
        "name": name,
        "title": TERMS.get(name, name),
        "width": WIDTH,
        "height": HEIGHT,
        "path": "M" + "L".join(f"{at_x(a)},{at_y(b)}" for a, b in zip(x, y, strict=True)),
        "x_ticks": [(at_x(v), f"{v:g}") for v in ticks(x_low, x_high) if v == int(v)],
        "y_ticks": [(at_y(v), f"{v:g}".replace("-", MINUS)) for v in ticks(y_low, y_high)],
        "events": marks,
        "bottom": HEIGHT - BOTTOM,
        "end": {"x": at_x(x[-1]), "y": at_y(y[-1])},
        "first": number(float(y[0])),
        "last": number(float(y[-1])),
        "best": None if best is None else {
            "x": at_x(x[best]), "y": at_y(y[best]), "value": number(float(y[best])), "epoch": f"{x[best]:g}"
        },
    }  # fmt: skip


def _marks(events: Sequence[tuple[float, float, str]]) -> tuple[list[dict[str, Any]], float]:
    """Lines of events from epoch, place and name, in as many rows as names need; where the curve begins."""
    rows: list[float] = []  # where the last word of each row ends
    marks = []
    for epoch, x, name in events:
        half = 3.0 * len(name)
        middle = max(min(x, WIDTH - half), half)
        row = next((i for i, end in enumerate(rows) if end < middle - half), len(rows))
        rows[row : row + 1] = [middle + half + 6.0]
        y = 11.0 + 13.0 * row
        words = {"name": name, "epoch": f"{epoch:g}", "text_x": round(middle, 1), "text_y": y}
        marks.append(words | {"x": x, "top": y + 3.0})
    return marks, TOP + 13.0 * len(rows)


def graph(
    share: np.ndarray,
    sizes: np.ndarray,
    places: np.ndarray,
    *,
    hints: Sequence[str] = (),
    names: Sequence[str] = (),
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
    names
        What each component is called; their numbers when empty. A long name stands below its circle,
        in place of the hint, as it would not fit inside.
    least
        Lines whose mean share (of both directions) is below this are left out.
    """
    alive = np.flatnonzero(sizes > 0)
    width, height = 720.0, 440.0 + 10.0 * max(0, len(alive) - 12)
    called = [names[k] if len(names) > k else str(k) for k in alive.tolist()]
    words = [hints[k] if len(hints) > k else "" for k in alive.tolist()]
    inside = [
        name if name == str(k) or len(name) <= 2 else ""
        for k, name in zip(alive.tolist(), called, strict=True)
    ]
    below = [hint if short else name for hint, short, name in zip(words, inside, called, strict=True)]
    radius = 9.0 + 17.0 * np.sqrt(sizes[alive] / max(sizes.max(initial=1), 1))
    spots = _spots(places[alive], radius, below, width=width, height=height)
    nodes = [
        {
            "k": int(k), "x": float(x), "y": float(y), "r": round(float(r), 1), "cells": int(sizes[k]),
            "name": name, "hint": hint, "inside": short, "below": text,
            "within": float(share[k, k]), "colour": colour_of(int(k)),
        }
        for k, (x, y), r, name, hint, short, text
        in zip(alive, spots, radius, called, words, inside, below, strict=True)
    ]  # fmt: skip
    edges = []
    for i, a in enumerate(nodes):
        for b in nodes[i + 1 :]:
            mean = float(share[a["k"], b["k"]] + share[b["k"], a["k"]]) / 2
            if mean >= least:
                ends = {"x1": a["x"], "y1": a["y"], "x2": b["x"], "y2": b["y"]}
                line = {"a": a["name"], "b": b["name"], "share": mean, "width": round(1.0 + 22.0 * mean, 2)}
                edges.append(line | ends)
    return {
        "width": width,
        "height": height,
        "nodes": nodes,
        "edges": sorted(edges, key=lambda e: e["share"]),
    }


def _spots(
    places: np.ndarray, radius: np.ndarray, words: Sequence[str], *, width: float, height: float
) -> np.ndarray:
    """Where circles go: as on the map, but with their words beside, not upon, each other."""
    if not len(places):
        return np.zeros((0, 2))
    half = np.stack([np.maximum(radius, 3.1 * np.array([len(w) for w in words])) + 5.0, radius + 16.0], 1)
    low, span = places.min(0), np.maximum(np.ptp(places, axis=0), 1e-9)
    page = np.array([width, height])
    spots = half + (places - low) / span * (page - 2 * half)
    spots[:, 1] = height - spots[:, 1]
    # Centres that coincide are parted along a spiral, in the order of the components.
    turn = 2.4 * np.arange(len(spots))
    spots += 0.5 * np.sqrt(turn)[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)
    home, room = spots.copy(), half[:, None] + half[None, :]
    for _ in range(400):
        delta = spots[:, None] - spots[None, :]
        near = (np.abs(delta) / room).max(-1) + np.eye(len(spots)) * 9
        if near.min() > 0.99:
            break
        push = delta * np.clip(1 / np.maximum(near, 0.02) - 1, 0, None)[..., None]
        spots = np.clip(spots + 0.3 * push.sum(1) + 0.003 * (home - spots), half, page - half)
    return spots.round(1)
