"""Colours that colour-blind readers can tell apart, on white paper and on a dark screen."""

from __future__ import annotations

__all__ = [
    "CATEGORICAL",
    "OTHER",
    "SEQUENTIAL_DARK",
    "SEQUENTIAL_LIGHT",
    "UNKNOWN",
    "categorical",
    "colour_of",
]

# Okabe and Ito's hues first; every later colour is the one, of all that show on light and dark grounds,
# furthest (OKLab, least of normal, protanope and deuteranope vision) from those before it.
CATEGORICAL: tuple[str, ...] = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#694754", "#a8c99d",
    "#9b1207", "#8481f6", "#82207e", "#3144ae", "#2dd8d3", "#6b6b49", "#995380", "#84d765",
    "#85ad63", "#6a8bcf", "#4f69d7", "#a05001", "#bda4a4", "#ae794c", "#a2419d", "#25aabe",
    "#3f5c35", "#d98941", "#4f9491", "#976fa3", "#38d2f3", "#856e6e", "#d98cd2", "#b1ac88",
    "#7d3d6f", "#494597", "#e3acc1", "#8996ee", "#d66e74", "#578c19", "#2f82d6", "#426496",
)  # fmt: skip

OTHER = "#8b9097"
"""Levels beyond the palette, folded together."""

UNKNOWN = "#b9bec4"
"""Cells whose level is not known."""

SEQUENTIAL_LIGHT: tuple[str, ...] = (
    "#d8dde0", "#b3ced3", "#7fb8bd", "#3f93a6", "#22698c", "#1b3f6f", "#1a1b46",
)  # fmt: skip
SEQUENTIAL_DARK: tuple[str, ...] = (
    "#3a4047", "#34546b", "#2f7b8c", "#3fa391", "#7fc67a", "#cfe060", "#fdf6b0",
)  # fmt: skip


def colour_of(k: int) -> str:
    """Colour of one level.

    Examples
    --------
    >>> colour_of(0), colour_of(1000)
    ('#0072b2', '#8b9097')
    """
    return CATEGORICAL[k] if k < len(CATEGORICAL) else OTHER


def categorical(n: int) -> list[str]:
    """Colours of ``n`` levels; those beyond the palette's 40 share one grey.

    Parameters
    ----------
    n
        Number of levels, 0 or more.

    Examples
    --------
    >>> categorical(2)
    ['#0072b2', '#e69f00']
    >>> len(set(categorical(60)))
    41
    """
    return [colour_of(i) for i in range(n)]
