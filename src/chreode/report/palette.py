"""Colours that colour-blind readers can tell apart, on white paper and on a dark screen."""

from __future__ import annotations

__all__ = [
    "CATEGORICAL",
    "DIVERGING",
    "LESS",
    "MEASURED",
    "MORE",
    "OTHER",
    "PREDICTED",
    "SEQUENTIAL_DARK",
    "SEQUENTIAL_LIGHT",
    "TIME_DARK",
    "TIME_LIGHT",
    "UNKNOWN",
    "categorical",
    "colour_of",
    "times_of",
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

MEASURED, PREDICTED = "#0072b2", "#d55e00"
"""Cells as they were measured, and where a model puts them."""

LESS, MORE = "#0072b2", "#d55e00"
"""What slows down, and what speeds up."""

DIVERGING: tuple[str, ...] = ("#00436b", "#4f9bc9", "#f2f1ee", "#f0945a", "#9a3d00")

# Times go by hue and lightness alike, so that either tells them apart.
TIME_LIGHT: tuple[str, ...] = ("#f2b134", "#e4723c", "#bd3f68", "#74307f", "#2b2a72")
TIME_DARK: tuple[str, ...] = ("#f6c667", "#ee8a5c", "#d9648f", "#a86cc4", "#7f83ee")


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


def times_of(n: int) -> list[tuple[str, str]]:
    """Colours of ``n`` successive times, on white paper and on a dark screen, from warm and light to cool.

    Parameters
    ----------
    n
        Number of times, at least 1.

    Examples
    --------
    >>> times_of(2)
    [('#f2b134', '#f6c667'), ('#2b2a72', '#7f83ee')]
    """
    places = [i / max(n - 1, 1) for i in range(n)]
    return [(_between(TIME_LIGHT, place), _between(TIME_DARK, place)) for place in places]


def _between(anchors: tuple[str, ...], place: float) -> str:
    """The colour at a place from 0 to 1 among evenly spaced ones."""
    at = min(int(place * (len(anchors) - 1)), len(anchors) - 2)
    share = place * (len(anchors) - 1) - at
    mixed = [
        round((1 - share) * int(anchors[at][i : i + 2], 16) + share * int(anchors[at + 1][i : i + 2], 16))
        for i in (1, 3, 5)
    ]
    return "#" + "".join(f"{value:02x}" for value in mixed)
