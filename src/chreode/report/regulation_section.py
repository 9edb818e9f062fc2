"""What the page shows of interactions: heat maps and networks, as SVG draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.interpret.interactions import connected, interactions
from chreode.report.draw import number
from chreode.report.flow import by_time
from chreode.report.regulation import edges_of, heat_of, ring, shade

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from chreode.axes import Float
    from chreode.embedded import Embedded
    from chreode.report.regulation import Edge, Heat

__all__ = ["regulation_section"]

CELL = 15.0  # of a heat map
RING, RADIUS = 420.0, 106.0
LONGEST = 11  # of a name, which is cut beyond it
GROUPS = 6  # of one kind
FEWEST = 20  # cells of a group that is shown: a bootstrap of fewer says little
GENES = 25
EDGES = 20
WIDEST = 100  # codes whose Jacobians are taken


def regulation_section(model: Any, *, seed: int = 0, progress: bool = False) -> dict[str, Any] | None:
    """Interactions of the genes that take most part in them; None where there are none to name.

    Of a sample of cells: a heat map by the label, where there is one, and networks by time and by label.

    Parameters
    ----------
    model
        A `chreode.FittedModel` with its cells.
    seed
        Of the draw of cells, and of the bootstrap.
    progress
        Whether to show a bar.
    """
    from tqdm.auto import tqdm

    embedded: Embedded = model.embedded
    d = embedded.embedding.shape[1]
    if embedded.module.dynamics is None or embedded.cells.reading.schema.get("coordinates"):
        return None
    if d > WIDEST:
        return {"absent": f"Not drawn for more than {WIDEST} codes (here {d}): ask chreode.interactions."}
    rows = by_time(embedded, most=int(np.clip(4e7 / d**3, 200, 2000)), seed=seed)
    some = embedded.replace(
        cells=embedded.cells[rows], codes={name: z[rows] for name, z in embedded.codes.items()}
    )
    columns = [c.column for role in ("time", "label") if (c := embedded.cells.layout.in_role(role))]
    with tqdm(total=2 + len(columns), desc="draw the interactions", disable=not progress) as bar:
        genes = connected(some, most=GENES)
        bar.update()
        if len(genes) < 2:
            return None
        among = {"regulators": genes, "targets": genes, "seed": seed}
        every = interactions(some, **among)
        bar.update()
        tables = {}
        for column in columns:
            tables[column] = _large(interactions(some, groups=column, **among), some, column=column)
            bar.update()
    tables = {column: table for column, table in tables.items() if len(table)}
    kind = embedded.cells.layout.modalities[embedded.modality(None)].kind
    called = _called(embedded, genes)
    by = columns[1] if len(columns) > 1 and columns[1] in tables else ""
    heat = heat_of(tables[by] if by else every, features=genes)
    return {
        "absent": "",
        "what": "gene" if kind == "counts" else "feature",
        "genes": len(genes),
        "cells": len(some),
        "by": by,
        "heats": [_heat(heat, group, called) for group in heat.effect],
        "heat": {"width": CELL * len(genes) + 90, "height": CELL * len(genes) + 90, "cell": CELL},
        "scale": number(heat.scale, 2),
        "networks": [
            {"column": column, "panels": _networks(table, genes, called)} for column, table in tables.items()
        ],
        "ring": RING,
    }


def _called(embedded: Embedded, genes: Sequence[str]) -> dict[str, str]:
    """Symbols of genes where there are any, else their names; long ones are cut, but for their ends."""
    described = embedded.cells.layout.modalities[embedded.modality(None)]
    symbols = dict(zip(described.names, described.symbols or described.names, strict=True))
    words = {gene: symbols.get(gene) or gene for gene in genes}
    dots = "\N{HORIZONTAL ELLIPSIS}"
    return {g: w if len(w) <= LONGEST else w[:4] + dots + w[5 - LONGEST :] for g, w in words.items()}


def _large(table: pd.DataFrame, embedded: Embedded, *, column: str) -> pd.DataFrame:
    """Of the groups with enough cells the largest; of many times some, evenly."""
    levels = [level for level in embedded.level_names(column) if level is not None]
    count = np.unique(np.asarray(levels), return_counts=True)[1].tolist()
    sizes = dict(zip(dict.fromkeys(table["group"]), count, strict=True))  # both in the order of the levels
    enough = [group for group, n in sizes.items() if n >= FEWEST]
    if embedded.cells.layout.resolve(column).role == "time":
        chosen = np.unique(np.linspace(0, len(enough) - 1, GROUPS).round().astype(int)) if enough else []
        kept = [enough[i] for i in chosen]
    else:
        kept = sorted(sorted(enough, key=lambda g: -sizes[g])[:GROUPS])
    return table.loc[table["group"].isin(kept)]


def _heat(heat: Heat, group: str, called: Mapping[str, str]) -> dict[str, Any]:
    """Squares of one group: what speeds up or slows down, how much, and whether that is stable."""
    squares, arrow = [], "\N{RIGHTWARDS ARROW}"
    for y, target in enumerate(heat.targets):
        for x, regulator in enumerate(heat.regulators):
            effect, stable = heat.effect[group][y, x], heat.stable[group][y, x]
            if not np.isfinite(effect):
                continue
            side = (CELL - 1) * (1.0 if stable else 0.42)
            squares.append(
                {
                    "x": round(CELL * (x + 0.5) - side / 2, 1),
                    "y": round(CELL * (y + 0.5) - side / 2, 1),
                    "side": round(side, 1),
                    "more": bool(effect > 0),
                    "share": round(abs(shade(float(effect), heat.scale)), 2),
                    "words": f"{called[regulator]} {arrow} {called[target]}: {number(float(effect), 2)}",
                }
            )
    names = {kind: [called[g] for g in getattr(heat, kind)] for kind in ("targets", "regulators")}
    return {"group": group, "squares": squares, **names}


def _networks(table: pd.DataFrame, genes: Sequence[str], called: Mapping[str, str]) -> list[dict[str, Any]]:
    """A network for each group, with the same places and widths."""
    heat = heat_of(table, features=genes)
    order = list(dict.fromkeys([*heat.targets, *heat.regulators]))
    found = {g: edges_of(table, g, features=order, most=EDGES, scale=heat.scale) for g in heat.effect}
    used = {name for edges in found.values() for edge in edges for name in edge[:2]}
    places = {
        name: RING / 2 + RADIUS * spot * [1, -1]
        for name, spot in ring([name for name in order if name in used]).items()
    }
    return [
        {
            "group": group,
            "nodes": [_node(called[name], spot) for name, spot in places.items()],
            "edges": [
                {"words": _words(edge, called)}
                | _edge(edge, places[edge.regulator], places[edge.target], scale=heat.scale)
                for edge in reversed(edges)
            ],
        }
        for group, edges in found.items()
    ]


def _words(edge: Edge, called: Mapping[str, str]) -> str:
    does = "speeds up" if edge.effect > 0 else "slows down"
    how = f"{number(edge.effect, 2)}, sign stable in {100 * edge.stability:.0f} %"
    return f"{called[edge.regulator]} {does} {called[edge.target]}: {how}"


def _node(name: str, spot: Float[np.ndarray, " 2"]) -> dict[str, Any]:
    """A dot, and its name along the radius, never upside down."""
    out = (spot - RING / 2) / RADIUS
    turn, left = float(np.degrees(np.arctan2(out[1], out[0]))), bool(out[0] < -1e-9)
    text = RING / 2 + (RADIUS + 10) * out
    return {
        "name": name,
        "x": round(float(spot[0]), 1),
        "y": round(float(spot[1]), 1),
        "text_x": round(float(text[0]), 1),
        "text_y": round(float(text[1]), 1),
        "turn": round(turn + 180 if left else turn, 1),
        "anchor": "end" if left else "start",
    }


def _edge(
    edge: Edge, start: Float[np.ndarray, " 2"], end: Float[np.ndarray, " 2"], *, scale: float
) -> dict[str, Any]:
    """A curve that bends towards the middle, and its end: a head that speeds up, a bar that slows down."""
    width = 0.8 + 1.4 * min(abs(edge.effect) / scale, 1.0)
    bend = 0.5 * (start + end) + 0.35 * (RING / 2 - 0.5 * (start + end)) + _aside(end - start) * 10
    start = start + 7 * _unit(bend - start)
    towards = _unit(end - bend)
    tip, aside = end - 7 * towards, _aside(towards)
    more = edge.effect > 0
    if more:
        size = 5 + 1.5 * width
        stop = tip - size * towards
        last = [tip, stop + 0.45 * size * aside, stop - 0.45 * size * aside]
    else:
        stop, last = tip, [tip + (3 + width) * aside, tip - (3 + width) * aside]
    xy = [f"{x:.1f} {y:.1f}" for x, y in (start, bend, stop)]
    return {
        "more": more,
        "path": f"M{xy[0]}Q{xy[1]} {xy[2]}",
        "last": "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in last) + ("Z" if more else ""),
        "width": round(width, 2),
    }


def _unit(along: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " 2"]:
    return along / max(float(np.linalg.norm(along)), 1e-9)


def _aside(along: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " 2"]:
    return _unit(np.array([-along[1], along[0]]))
