"""The report's pictures for papers: each function returns a matplotlib figure and touches no global state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chreode.report.canvas import INK, SOFT, canvas, on_top, quiet, sequential
from chreode.report.draw import best_epoch, curves_of, events_of, graph
from chreode.report.flow_figures import marginals, streamlines, trajectories
from chreode.report.map_figures import embedding, shared_and_private
from chreode.report.palette import SEQUENTIAL_LIGHT, categorical
from chreode.report.regulation_figures import interaction_network, interactions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.figure import Figure

__all__ = [
    "component_graph",
    "component_table",
    "embedding",
    "interaction_network",
    "interactions",
    "marginals",
    "markers",
    "nats_against_seconds",
    "shared_and_private",
    "streamlines",
    "training_curves",
    "trajectories",
]


def training_curves(history: pd.DataFrame) -> Figure:
    """Draw every term of the loss by epoch, validation last; the epoch whose weights were kept is ringed.

    Dashed lines are events, which begin a new phase; the weights kept are the best of the last one.

    Parameters
    ----------
    history
        One row an epoch, as in ``model.history``; values that are missing are skipped.

    Examples
    --------
    >>> import pandas as pd
    >>> len(training_curves(pd.DataFrame({"epoch": [1, 2], "loss": [3.0, 2.0]})).axes)
    1
    """
    curves, events, kept = curves_of(history), events_of(history), best_epoch(history)
    columns = min(max(len(curves), 1), 3)
    rows = -(-max(len(curves), 1) // columns)
    figure = canvas(3.2 * columns, 2.3 * rows)
    for i, (name, title, x, y) in enumerate(curves):
        axes = quiet(figure.add_subplot(rows, columns, i + 1))
        axes.plot(x, y, color=SEQUENTIAL_LIGHT[4], linewidth=1.5)
        if name == "validation" and kept is not None:
            axes.plot(kept, y[x == kept][0], "o", mfc="white", mec="#d55e00", mew=1.5)
        for epoch, what in events:
            axes.axvline(epoch, color=SOFT, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
            # Upright beside its line, whatever the curve does: the title needs the room above.
            words = {"rotation": 90, "va": "center", "ha": "right", "fontsize": 6, "color": SOFT}
            axes.text(epoch, 0.5, what, transform=axes.get_xaxis_transform(), **words)
        axes.set_title(title, fontsize=9, color=INK, loc="left")
        axes.set_xlabel("epoch", fontsize=8, color=SOFT)
    return figure


def component_table(table: pd.DataFrame) -> Figure:
    """Draw cells by component and level, shaded by the share of the row.

    Parameters
    ----------
    table
        Counts, a row a component and a column a level, as `chreode.report.component_by_level` gives.

    Examples
    --------
    >>> import pandas as pd
    >>> figure = component_table(pd.DataFrame([[5, 0], [1, 4]], columns=["B", "T"]))
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['5', '1', '4']
    """
    counts = table.to_numpy()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = canvas(1.6 + 0.55 * counts.shape[1], 1.4 + 0.3 * counts.shape[0])
    axes = quiet(figure.add_subplot())
    axes.imshow(share, cmap=sequential(least="#ffffff"), vmin=0, vmax=1, aspect="auto")
    for i, j in zip(*np.nonzero(counts), strict=True):
        ink = "white" if share[i, j] > 0.45 else INK
        axes.text(j, i, f"{counts[i, j]:,}", ha="center", va="center", fontsize=7, color=ink)
    axes.set_xticks(range(counts.shape[1]), [str(c) for c in table.columns], rotation=45, ha="right")
    axes.set_yticks(range(counts.shape[0]), [str(k) for k in table.index])
    axes.set_ylabel("component", fontsize=9, color=SOFT)
    axes.spines[:].set_visible(False)
    return figure


def markers(table: pd.DataFrame, *, names: Sequence[str] = ()) -> Figure:
    """Draw the markers of each component: log2 fold change against the other components.

    Parameters
    ----------
    table
        Columns ``component``, ``name``, ``log2_fold_change``, as `chreode.report.markers_of` gives.
    names
        What each component is called; their numbers when empty.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = {"component": [0, 1], "name": ["CD3D", "CD19"], "log2_fold_change": [2.0, 3.0]}
    >>> len(markers(pd.DataFrame(rows)).axes)
    2
    """
    groups = [(int(k), part) for k, part in table.groupby("component")]  # pyright: ignore[reportArgumentType]
    columns = min(max(len(groups), 1), 4)
    rows = -(-max(len(groups), 1) // columns)
    longest = max((len(part) for _, part in groups), default=1)
    figure = canvas(2.3 * columns, rows * (0.5 + 0.17 * longest))
    widest = float(table["log2_fold_change"].max()) if len(table) else 1.0
    colours = categorical(max((k for k, _ in groups), default=0) + 1)
    for i, (k, part) in enumerate(groups):
        axes = quiet(figure.add_subplot(rows, columns, i + 1))
        axes.barh(range(len(part)), part["log2_fold_change"], color=colours[k], alpha=0.75)
        axes.set_yticks(range(len(part)), list(part["name"]))
        axes.set_ylim(longest - 0.4, -0.6)
        axes.set_xlim(0, 1.05 * widest)
        axes.set_title(names[k] if len(names) > k else f"component {k}", fontsize=9, color=INK, loc="left")
    figure.supxlabel("log2 fold change against the other components", fontsize=8, color=SOFT)
    return figure


def component_graph(
    share: np.ndarray,
    sizes: np.ndarray,
    places: np.ndarray,
    *,
    hints: Sequence[str] = (),
    names: Sequence[str] = (),
    least: float = 0.01,
) -> Figure:
    """Draw which components neighbour which.

    Parameters
    ----------
    share
        Share of each component's neighbour edges that end in each, ``k x k``, as
        `chreode.report.components_graph` gives.
    sizes
        Cells of each component, ``k``.
    places
        Where each lies on the map, ``k x 2``.
    hints
        A word below each; may be empty.
    names
        What each is called; their numbers when empty. A long name stands below, in place of the hint.
    least
        Links below this mean share of both directions are left out.

    Examples
    --------
    >>> figure = component_graph(np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([5, 5]), np.eye(2))
    >>> len(figure.axes[0].lines)
    1
    """
    drawn = graph(
        np.asarray(share), np.asarray(sizes), np.asarray(places), hints=hints, names=names, least=least
    )
    figure = canvas(6.4, 4.4)
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(0, drawn["width"])
    axes.set_ylim(drawn["height"], 0)
    axes.set_aspect("equal")
    for edge in drawn["edges"]:
        ends = [edge["x1"], edge["x2"]], [edge["y1"], edge["y2"]]
        axes.plot(*ends, color="#9aa5ae", linewidth=0.6 * edge["width"], zorder=1, solid_capstyle="round")
    from matplotlib.patches import Circle

    for node in drawn["nodes"]:
        spot = (node["x"], node["y"])
        axes.add_patch(Circle(spot, node["r"], color=node["colour"], zorder=2))
        on_top(axes, np.array(spot), node["inside"])
        if node["below"]:
            below = node["y"] + node["r"] + 12
            axes.text(node["x"], below, node["below"], ha="center", va="center", fontsize=7, color=SOFT)
    return figure


def nats_against_seconds(
    curves: Mapping[str, pd.DataFrame], *, baselines: Mapping[str, float] | None = None, log: bool = True
) -> Figure:
    """Draw held-out nats per molecule against seconds of training, one line a method.

    Parameters
    ----------
    curves
        By method, columns ``seconds`` and ``validation`` (nats per held-out molecule; lower is better);
        rows where either is missing are skipped.
    baselines
        Horizontal lines: nats by name (a mean profile, a label's profile).
    log
        Whether seconds are on a logarithmic scale.

    Examples
    --------
    >>> import pandas as pd
    >>> curve = pd.DataFrame({"seconds": [1.0, 2.0], "validation": [5.2, 5.1]})
    >>> figure = nats_against_seconds({"scdgd": curve}, baselines={"mean profile": 5.3})
    >>> [line.get_label() for line in figure.axes[0].lines]
    ['scdgd', 'mean profile']
    """
    figure = canvas(5.2, 3.4)
    axes = quiet(figure.add_subplot())
    for (name, curve), colour in zip(curves.items(), categorical(len(curves)), strict=True):
        seconds, nats = (curve[c].to_numpy(dtype=float, na_value=np.nan) for c in ("seconds", "validation"))
        ok = np.isfinite(seconds) & np.isfinite(nats)
        axes.plot(seconds[ok], nats[ok], color=colour, linewidth=1.8, label=name)
    for name, value in (baselines or {}).items():
        axes.axhline(value, color=SOFT, linewidth=1, linestyle="--", label=name)
        axes.annotate(
            name,
            (1, value),
            (-2, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            fontsize=7,
            color=SOFT,
        )
    if log:
        from matplotlib.ticker import LogLocator, NullFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds of training", fontsize=9, color=SOFT)
    axes.set_ylabel("held-out nats per molecule", fontsize=9, color=SOFT)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[: len(curves)], labels[: len(curves)], frameon=False, fontsize=8, labelcolor=INK)
    return figure
