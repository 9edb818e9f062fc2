"""Pictures of interactions for papers; `chreode.report.figures` hands them on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.report.canvas import INK, SOFT, canvas
from chreode.report.draw import number
from chreode.report.palette import DIVERGING, LESS, MORE
from chreode.report.regulation import STABLE, edges_of, heat_of, ring, shade, strongest

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from chreode.report.regulation import Edge

__all__ = ["interaction_network", "interactions"]


def interactions(table: pd.DataFrame, *, most: int = 25) -> Figure:
    """Draw effects between features as a heat map, one for each group: targets by regulators.

    Orange regulators speed their target up, blue ones slow it down; a small square is an effect whose sign
    is not stable (fewer than 95 % of draws, or models, agree). The order of features puts like ones beside
    each other, and is the same in all groups.

    Parameters
    ----------
    table
        Of `chreode.interactions`.
    most
        Features at most, those with the strongest effects.

    Raises
    ------
    InputError
        When the table is another one.

    Examples
    --------
    >>> import pandas as pd
    >>> row = {"group": "all", "regulator": "A", "target": "B", "effect": 1.0, "stability": 1.0}
    >>> interactions(pd.DataFrame([row])).axes[0].get_xlabel()
    'regulator'
    """
    heat = heat_of(table, features=strongest(table, most=most))
    rows, columns = len(heat.targets), len(heat.regulators)
    across = min(len(heat.effect), 3)
    down = -(-len(heat.effect) // across)
    figure = canvas(across * (1.3 + 0.17 * columns) + 0.6, down * (1.3 + 0.17 * rows))
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    colours = LinearSegmentedColormap.from_list("effect", DIVERGING)
    every = []
    for i, (group, effect) in enumerate(heat.effect.items()):
        drawn = figure.add_subplot(down, across, i + 1)
        every.append(drawn)
        y, x = np.nonzero(np.isfinite(effect))
        values = [shade(effect[a, b], heat.scale) for a, b in zip(y, x, strict=True)]
        _squares(drawn, x, y, colours((np.array(values) + 1) / 2), heat.stable[group][y, x])
        drawn.set_xticks(range(columns), heat.regulators, rotation=90, fontsize=6)
        drawn.set_yticks(range(rows), heat.targets, fontsize=6)
        drawn.set_xlim(-0.5, columns - 0.5)
        drawn.set_ylim(rows - 0.5, -0.5)
        drawn.tick_params(length=0, colors=SOFT)
        drawn.spines[:].set_color("#d8dde0")
        drawn.set_title(group, fontsize=9, color=INK, loc="left")
        drawn.set_xlabel("regulator", fontsize=8, color=SOFT)
        drawn.set_ylabel("target", fontsize=8, color=SOFT)
        drawn.set_aspect("equal")
    from matplotlib.cm import ScalarMappable

    shades = ScalarMappable(Normalize(-1, 1), colours)
    bar = figure.colorbar(shades, ax=every, shrink=0.5, pad=0.02, aspect=30)
    shown = [share * heat.scale for share in (-1, -0.25, 0, 0.25, 1)]
    bar.set_ticks([shade(e, heat.scale) for e in shown], labels=[number(e, 2) for e in shown])
    bar.ax.tick_params(labelsize=7, colors=SOFT)
    bar.set_label("change of the target's velocity\nby a unit of the regulator", fontsize=7, color=SOFT)
    return figure


def _squares(drawn: Axes, x: np.ndarray, y: np.ndarray, colours: np.ndarray, stable: np.ndarray) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    sides = np.where(stable, 0.94, 0.4)
    patches = [
        Rectangle((a - s / 2, b - s / 2), s, s) for a, b, s in zip(x.tolist(), y.tolist(), sides, strict=True)
    ]
    drawn.add_collection(PatchCollection(patches, facecolors=colours, linewidths=0))


def interaction_network(table: pd.DataFrame, *, most: int = 20, features: int = 25) -> Figure:
    """Draw the strongest stable effects between features as arrows from regulator to target, by group.

    An orange arrow speeds its target up; a blue, dashed line with a flat end slows it down. Wide ones are
    strong. Every group has the same places and scale, so that they can be compared. Effects are stable when
    95 % of draws, or models, agree on the sign, and left out below a quarter of the strongest.

    Parameters
    ----------
    table
        Of `chreode.interactions`.
    most
        Edges of a group, at most.
    features
        Among how many features, those with the strongest effects.

    Raises
    ------
    InputError
        When the table is another one.

    Examples
    --------
    >>> import pandas as pd
    >>> row = {"group": "all", "regulator": "A", "target": "B", "effect": 1.0, "stability": 1.0}
    >>> len(interaction_network(pd.DataFrame([row])).axes[0].patches)
    1
    """
    heat = heat_of(table, features=strongest(table, most=features))
    among = [*heat.targets, *heat.regulators]
    found = {g: edges_of(table, g, features=among, most=most, scale=heat.scale) for g in heat.effect}
    taking_part = {name for edges in found.values() for edge in edges for name in edge[:2]}
    places = ring([name for name in dict.fromkeys(among) if name in taking_part])
    across = min(len(found), 3)
    down = -(-len(found) // across)
    figure = canvas(3.6 * across, 3.7 * down + 0.3)
    for i, (group, edges) in enumerate(found.items()):
        drawn = figure.add_subplot(down, across, i + 1)
        drawn.set_axis_off()
        drawn.set_xlim(-1.6, 1.6)
        drawn.set_ylim(-1.6, 1.6)
        drawn.set_aspect("equal")
        drawn.set_title(group, fontsize=9, color=INK, loc="left")
        _network(drawn, edges, places, scale=heat.scale)
    fold = ";\n" if across == 1 else "; "  # one group is narrower than the words
    words = f"sign stable in at least {100 * STABLE:.0f} %{fold}orange speeds up, dashed blue slows down"
    figure.supxlabel(words, fontsize=7, color=SOFT)
    return figure


def _network(drawn: Axes, edges: Sequence[Edge], places: dict[str, Any], *, scale: float) -> None:
    from matplotlib.patches import FancyArrowPatch

    for edge in reversed(edges):
        more = edge.effect > 0
        width = 0.5 + 1.1 * min(abs(edge.effect) / scale, 1.0)
        style = "-|>,head_width=3,head_length=5" if more else "|-|,widthA=0,widthB=2.6"
        ends = {"posA": places[edge.regulator], "posB": places[edge.target], "shrinkA": 5, "shrinkB": 6}
        look: dict[str, Any] = {"color": MORE if more else LESS, "linestyle": "-" if more else (0, (4, 2))}
        curve = {"connectionstyle": "arc3,rad=0.12", "mutation_scale": 1.0, "linewidth": width}
        drawn.add_patch(FancyArrowPatch(**ends, arrowstyle=style, **curve, **look))
    for name, (x, y) in places.items():
        drawn.plot(x, y, "o", color=SOFT, markersize=4)
        turn = np.degrees(np.arctan2(y, x))
        left = x < -1e-9
        drawn.text(
            1.08 * x, 1.08 * y, name, fontsize=7, color=INK, rotation=turn + 180 if left else turn,
            rotation_mode="anchor", ha="right" if left else "left", va="center",
        )  # fmt: skip
