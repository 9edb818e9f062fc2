"""Pictures of cells in the plane: one map, or the shared code beside private ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.report.canvas import INK, SOFT, canvas, on_top, sequential
from chreode.report.maps import plane_of, project_2d
from chreode.report.palette import UNKNOWN, categorical
from chreode.report.private import attribute_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["embedding", "shared_and_private"]


def embedding(
    xy: np.ndarray,
    colour: Sequence[Any] | np.ndarray,
    *,
    title: str = "",
    method: str = "",
    levels: Sequence[str] | None = None,
    names: bool = True,
) -> Figure:
    """Draw cells on a map, coloured by a category or by a number.

    Parameters
    ----------
    xy
        ``n x 2``.
    colour
        Numbers, or categories: strings, or level numbers when ``levels`` is given (-1 for unknown).
    title
        What the colour means.
    method
        How the map was made, written below it.
    levels
        Names of the levels.
    names
        Whether the names of categories stand on the map.

    Examples
    --------
    >>> figure = embedding(np.eye(2), ["a", "b"], title="type")
    >>> figure.axes[0].get_title(loc="left")
    'type'
    """
    figure = canvas(5.6, 4.4)
    _map(figure.add_subplot(), np.asarray(xy), np.asarray(colour), title=title, levels=levels, names=names)
    if method:
        figure.supxlabel(method, fontsize=7, color=SOFT)
    return figure


def shared_and_private(model: Any, *, colour: Sequence[str] | None = None, seed: int = 0) -> Figure:
    """Draw the shared code above those that belong to levels, once for each of some columns.

    A model that separates what conditions share from what they do not mixes the levels above, and keeps
    types of cells apart there. Private codes of several levels lie apart because the model knows the level:
    look at what varies within one.

    Parameters
    ----------
    model
        A `chreode.FittedModel` or `chreode.Embedded`, of `patches`, `multigroupvi`, `contrastivevi`, ...
    colour
        Columns; by default the label and those whose levels have codes.
    seed
        Of the map of the shared code (`project_2d`); private ones lie by principal components.

    Raises
    ------
    InputError
        When no code belongs to levels, there are no cells, or a column was not read.
    """
    embedded = getattr(model, "embedded", model)
    private = {name: attribute_of(latent) for name, latent in embedded.module.latents.items()}
    private = {name: attribute for name, attribute in private.items() if attribute}
    if not private or not len(embedded):
        found = "no cells" if private else f"{embedded.recipe}, with none"
        msg = f"Expected a model with cells and codes that belong to levels; found {found}. Fit patches, say."
        raise InputError(msg)
    label = embedded.cells.layout.in_role("label")
    usual = [*([label.column] if label else []), *private.values()]
    columns: list[str] = list(dict.fromkeys(usual)) if colour is None else list(colour)
    values = [_colour_of(embedded, column) for column in columns]
    codes = embedded.embeddings
    shared, method = project_2d(codes[embedded.code], seed)
    planes = {"shared": shared, **{name: plane_of(codes[name]) for name in private}}
    figure = canvas(4.6 * len(columns), 3.4 * len(planes) + 0.3)
    for row, (name, xy) in enumerate(planes.items()):
        for column, (title, shown) in enumerate(zip(columns, values, strict=True)):
            axes = figure.add_subplot(len(planes), len(columns), row * len(columns) + column + 1)
            _map(axes, xy, shown, title=f"{name}, by {title}", levels=None, names=False)
    figure.supxlabel(f"shared: {method}; private: principal components", fontsize=7, color=SOFT)
    return figure


def _colour_of(embedded: Any, column: str) -> np.ndarray:
    levels = embedded.level_names(column)
    if levels.dtype != object:
        return levels
    return np.where(levels == None, "unknown", levels).astype(str)  # noqa: E711  (by element)


def _map(
    axes: Axes,
    xy: np.ndarray,
    values: np.ndarray,
    *,
    title: str,
    levels: Sequence[str] | None,
    names: bool,
) -> None:
    """Cells in the plane, by a number or a category each."""
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_axis_off()
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    dot = {
        "s": float(np.clip(6000 / max(len(xy), 1), 0.6, 18)),
        "linewidths": 0,
        "rasterized": len(xy) > 2000,
    }
    if levels is None and np.issubdtype(values.dtype, np.number):
        order = np.argsort(np.where(np.isnan(values.astype(float)), -np.inf, values), kind="stable")
        drawn = axes.scatter(*xy[order].T, c=values[order].astype(float), cmap=sequential(), **dot)
        bar: Any = axes.figure.colorbar(drawn, ax=axes, shrink=0.6, pad=0.02)
        bar.ax.tick_params(labelsize=8, colors=SOFT)
    else:
        _categories(axes, xy, values, levels, names=names, dot=dot)


def _categories(
    axes: Axes,
    xy: np.ndarray,
    values: np.ndarray,
    levels: Sequence[str] | None,
    *,
    names: bool,
    dot: dict[str, Any],
) -> None:
    known, codes = np.unique(values.astype(str), return_inverse=True)
    shown = [str(level) for level in (known if levels is None else levels)]
    codes = codes if levels is None else values.astype(int)
    table = np.array([*categorical(len(shown)), UNKNOWN])
    # A fixed shuffle, so that no category always lies on top.
    order = np.random.default_rng(0).permutation(len(xy))
    axes.scatter(*xy[order].T, c=table[codes[order]], **dot)
    for k in np.unique(codes[codes >= 0]):
        here = xy[codes == k]
        axes.scatter([], [], s=24, color=table[k], label=f"{shown[k]} ({len(here):,})")
        if names:
            on_top(axes, np.median(here, axis=0), shown[k])
    if (codes < 0).any():
        axes.scatter([], [], s=24, color=UNKNOWN, label=f"unknown ({int((codes < 0).sum()):,})")
    columns = 1 + len(shown) // 21
    axes.legend(
        loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=7, ncols=columns, labelcolor=INK
    )
