"""How the correlation of two features changes along an ordering of cells, at every resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.interpret.q_values import q_values
from chreode.words import listing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from chreode.axes import Float, Int

__all__ = ["Multiresolution", "correlation_figure", "multiresolution"]

_METHODS = ("pearson", "spearman")
_FLAT = 1e-10  # of a whole feature's variance: less is rounding


@dataclass(frozen=True)
class Multiresolution:
    """Correlations in windows of ordered cells, widths x starts; NaN where there is no such window.

    Parameters
    ----------
    correlation
        Of each window, NaN also where a feature does not vary in it.
    p_value, q_value
        Against no correlation, and adjusted for all windows.
    widths
        Cells of the windows, rising, ``w``.
    starts
        Place of their first cell in the ordering, ``s``.
    n_cells
        How many cells were ordered.
    pair
        What was correlated.
    method
        ``pearson`` or ``spearman``.
    """

    correlation: Float[np.ndarray, "w s"]
    p_value: Float[np.ndarray, "w s"]
    q_value: Float[np.ndarray, "w s"]
    widths: Int[np.ndarray, " w"]
    starts: Int[np.ndarray, " s"]
    n_cells: int
    pair: tuple[str, str]
    method: str

    def significant(self, fdr: float = 0.05) -> Float[np.ndarray, "w s"]:
        """The correlations whose ``q_value`` is at most ``fdr``; NaN elsewhere."""
        return np.where(self.q_value <= fdr, self.correlation, np.nan)

    def table(self) -> pd.DataFrame:
        """One row a window: its ``centre`` (place in the ordering), ``width`` and what was found."""
        import pandas as pd

        row, column = np.nonzero(self.starts[None] + self.widths[:, None] <= self.n_cells)
        return pd.DataFrame(
            {
                "centre": self.starts[column] + (self.widths[row] - 1) / 2,
                "width": self.widths[row],
                "correlation": self.correlation[row, column],
                "p_value": self.p_value[row, column],
                "q_value": self.q_value[row, column],
            }
        )


def multiresolution(
    values: Any,
    *,
    order: Any,
    narrowest: int = 20,
    method: str = "pearson",
    windows: int = 1_000_000,
    permutations: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> Multiresolution:
    r"""Correlate two features in every window of cells, of every width, along an ordering.

    .. math:: r_{sw} = \operatorname{cor}\big( (x_i, y_i) : s \le i < s + w \big), \qquad
              w = w_{\min}, \dots, n, \quad s = 0, \dots, n - w

    of cells sorted by ``order`` (multiresolution correlation analysis). Sums over windows are differences of
    running sums, so a window costs the same whatever its width. What is one colour in a whole triangle of the
    figure holds at all resolutions; colours that change tell of subpopulations, thin stripes of single cells.

    Parameters
    ----------
    values
        Two columns, n x 2: an array, or a table, whose columns name the pair. Of counts give logarithms, as
        windows of a few cells are ruled by the largest values.
    order
        One number a cell: pseudotime, time, a dimension of the code, another gene. Cells with equal numbers
        stay as they come.
    narrowest
        Cells of the narrowest windows, at least 4.
    method
        ``pearson``, or ``spearman``: ranks are taken once among all cells, not in each window anew.
    windows
        Where there would be more, only every so manieth width and start is taken; memory is bounded by it.
    permutations
        0 takes p-values from Fisher's transformation, :math:`\sqrt{w - 3}\,\operatorname{artanh} r` being
        normal, and adjusts them over windows (Benjamini-Hochberg). A number, 99 say, compares each window
        with the most extreme one of each of so many data sets in which the second feature was shuffled:
        ``q_value`` is then the chance that any window at all seems as correlated, whatever the features'
        distribution.
    seed
        Of the shuffling.
    progress
        Whether to show a bar over permutations.

    Raises
    ------
    InputError
        When values are not two columns of finite numbers, the ordering is of other cells, or a setting is out
        of range.

    References
    ----------
    Feigelman, Theis and Marr (2014). MCA: multiresolution correlation analysis, a graphical tool for
    subpopulation identification in single-cell gene expression data. BMC Bioinformatics 15, 240.
    doi:10.1186/1471-2105-15-240

    Examples
    --------
    >>> x = np.linspace(-1, 1, 60)
    >>> found = multiresolution(np.column_stack([x, np.abs(x)]), order=x, narrowest=30)
    >>> found.correlation[0, [0, -1]].round(3).tolist()  # of the first thirty cells, and of the last
    [-1.0, 1.0]
    """
    from scipy.stats import norm, rankdata

    pair, two, place = _asked(values, order)
    n = len(two)
    _refuse_settings(n, narrowest, method, windows, permutations)
    two = two[np.argsort(place, kind="stable")]
    if method == "spearman":
        two = rankdata(two, axis=0)
    step = _step(n, narrowest, windows)
    widths, starts = np.arange(narrowest, n + 1, step), np.arange(0, n - narrowest + 1, step)
    correlation = _correlations(two, widths, starts)
    score = _fisher(correlation, widths)
    p_value = 2 * norm.sf(np.abs(score))
    q_value = q_values(p_value)
    if permutations:
        from tqdm.auto import tqdm

        draws = np.random.default_rng(seed)
        extremes = np.empty(permutations)
        for k in tqdm(range(permutations), desc="permutations", disable=not progress):
            shuffled = np.column_stack([two[:, 0], draws.permutation(two[:, 1])])
            found = np.abs(_fisher(_correlations(shuffled, widths, starts), widths))
            extremes[k] = np.nanmax(found, initial=0.0)
        beyond = permutations - np.searchsorted(np.sort(extremes), np.abs(score), side="left")
        q_value = np.where(np.isnan(score), np.nan, (1 + beyond) / (1 + permutations))
    return Multiresolution(correlation, p_value, q_value, widths, starts, n, pair, method)


def _asked(values: Any, order: Any) -> tuple[tuple[str, str], np.ndarray, np.ndarray]:
    columns = [str(name) for name in getattr(values, "columns", ("x", "y"))]
    try:
        two, place = np.asarray(values, dtype=np.float64), np.asarray(order, dtype=np.float64)
    except (TypeError, ValueError):
        msg = "Expected numbers, of two features and of the ordering; found something else. Give log counts,"
        raise InputError(msg + " and a pseudotime, say.") from None
    if two.ndim != 2 or two.shape[1] != 2 or place.shape != two.shape[:1]:
        msg = f"Expected values of n cells x 2 features and an order of n numbers; found {two.shape} and "
        raise InputError(msg + f"{place.shape}. Give one row, and one number, a cell.")
    lost = [
        name
        for name, column in zip((*columns, "order"), (*two.T, place), strict=True)
        if not np.isfinite(column).all()
    ]
    if lost:
        msg = f"Expected finite numbers; found others in {listing(lost)}. Leave such cells out, as those that"
        raise InputError(msg + " have no pseudotime.")
    return (columns[0], columns[1]), two, place


def _refuse_settings(n: int, narrowest: int, method: str, windows: int, permutations: int) -> None:
    if method not in _METHODS:
        msg = f"Expected method to be one of {listing(_METHODS)}; found {method!r}. Name one of these."
        raise InputError(msg)
    if not 4 <= narrowest <= n:
        msg = f"Expected windows of at least 4 of {n:,} cells; found narrowest={narrowest}. Give 20, say,"
        raise InputError(msg + " and more cells than that.")
    if windows < 1 or permutations < 0:
        msg = f"Expected at least one window, and no less than 0 permutations; found windows={windows}, "
        raise InputError(msg + f"permutations={permutations}. Leave them out.")


def _step(n: int, narrowest: int, windows: int) -> int:
    """The least step in widths and starts with which there are no more than so many windows."""

    def count(step: int) -> int:
        k = (n - narrowest) // step + 1
        return k * (k + 1) // 2

    step = max(1, int((n - narrowest) / np.sqrt(2 * windows)) - 1)
    while count(step) > windows and step <= n:
        step += 1
    return step


def _correlations(two: np.ndarray, widths: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Pearson's, in all windows."""
    n = len(two)
    scaled = two - two.mean(0)
    scaled = scaled / np.where(scaled.std(0) > 0, scaled.std(0), 1)
    x, y = scaled.T
    sums = np.zeros((5, n + 1))
    np.cumsum([x, y, x * x, y * y, x * y], axis=1, out=sums[:, 1:])
    # Where a value differs from the one before; windows without such a place are constant, exactly.
    moved = np.zeros((2, n + 1), dtype=np.int64)
    np.cumsum(two[1:].T != two[:-1].T, axis=1, out=moved[:, 2:])
    found = np.full((len(widths), len(starts)), np.nan)
    for row, width in enumerate(widths):
        first = starts[starts + width <= n]
        sx, sy, xx, yy, xy = (sums[:, first + width] - sums[:, first]) / width
        varied = (moved[:, first + width] > moved[:, first + 1]).all(0)
        vx, vy = xx - sx * sx, yy - sy * sy
        varied &= (vx > _FLAT) & (vy > _FLAT)
        size = np.sqrt(np.where(varied, vx * vy, 1))
        found[row, : len(first)] = np.where(varied, np.clip((xy - sx * sy) / size, -1, 1), np.nan)
    return found


def _fisher(correlation: np.ndarray, widths: np.ndarray) -> np.ndarray:
    inside = np.clip(correlation, -1 + 1e-15, 1 - 1e-15)
    return np.arctanh(inside) * np.sqrt(widths[:, None] - 3)


def correlation_figure(found: Multiresolution, *, fdr: float | None = 0.05, pixels: int = 600) -> Figure:
    """The triangle of correlations: centre of the window across, its width upwards; grey what may be chance.

    Parameters
    ----------
    found
        What `chreode.multiresolution` returned.
    fdr
        Windows of a larger ``q_value`` are grey; None shows all.
    pixels
        Across, and at most upwards.

    Raises
    ------
    InputError
        For an fdr out of (0, 1), or fewer than one pixel.

    Examples
    --------
    >>> x = np.linspace(-1, 1, 60)
    >>> found = multiresolution(np.column_stack([x, np.abs(x)]), order=x)
    >>> correlation_figure(found).axes[0].get_ylabel()
    'cells in the window'
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    if (fdr is not None and not 0 < fdr < 1) or pixels < 1:
        msg = f"Expected an fdr in (0, 1) and at least one pixel; found fdr={fdr}, pixels={pixels}."
        raise InputError(msg + " Leave them out.")
    n = found.n_cells
    across, upwards = (np.arange(pixels) + 0.5) / pixels, min(pixels, len(found.widths))
    level = (np.arange(upwards) + 0.5) / upwards
    row = np.minimum((level * len(found.widths)).astype(int), len(found.widths) - 1)
    step = int(found.starts[1] - found.starts[0]) if len(found.starts) > 1 else 1
    start = across[None] * n - found.widths[row][:, None] / 2
    there = (start >= -step / 2) & (start <= n - found.widths[row][:, None] + step / 2)
    last = (n - found.widths[row][:, None]) // step
    column = np.clip(np.round(start / step).astype(int), 0, last)
    shown = found.correlation if fdr is None else found.significant(fdr)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    extent = (0, n, found.widths[0], max(found.widths[-1], found.widths[0] + 1))
    kwargs: dict[str, Any] = {"origin": "lower", "aspect": "auto", "extent": extent}
    axes.imshow(np.where(there, 0.0, np.nan), cmap=ListedColormap(["0.88"]), **kwargs)
    picture = np.where(there, shown[row[:, None], column], np.nan)
    drawn = axes.imshow(picture, cmap=colormaps["RdBu_r"], vmin=-1, vmax=1, **kwargs)
    axes.set_xlabel("centre of the window, in cells along the ordering")
    axes.set_ylabel("cells in the window")
    axes.set_title(" and ".join(found.pair), fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.colorbar(drawn, ax=axes, label=f"{found.method.capitalize()} correlation", shrink=0.8)
    return figure
