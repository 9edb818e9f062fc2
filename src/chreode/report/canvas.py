"""What every picture for papers is drawn on: a sheet that no global state knows, quiet axes, and colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chreode.report.palette import SEQUENTIAL_LIGHT

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["INK", "SOFT", "canvas", "on_top", "quiet", "sequential"]

INK, SOFT = "#1e2429", "#59636c"


def canvas(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    return figure


def quiet(axes: Axes) -> Axes:
    """Axes without what need not be seen."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b9bec4")
    axes.tick_params(colors=SOFT, labelsize=8)
    return axes


def sequential(*, least: str = SEQUENTIAL_LIGHT[0]) -> Any:
    """The colour map of amounts, from its ``least`` colour on."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("chreode", [least, *SEQUENTIAL_LIGHT[1:]])


def on_top(axes: Axes, spot: np.ndarray, text: str) -> None:
    """Write on the drawing, with a halo."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.2, foreground="white")]
    x, y = spot
    axes.text(x, y, text, ha="center", va="center", fontsize=8, color=INK, weight="bold", path_effects=halo)
