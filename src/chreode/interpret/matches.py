"""Populations ranked by their distance from a target: as a table, a figure, and a few that stand for all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.evaluate.medoids import k_medoids
from chreode.evaluate.populations import Population
from chreode.words import listing, many, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.figure import Figure

    from chreode.axes import Float

__all__ = ["Matches", "match_figure"]


@dataclass(frozen=True, repr=False)
class Matches:
    """Systems by their distance from a target; what `chreode.match` returns.

    Parameters
    ----------
    table
        One row a system, the nearest first: see `chreode.match`.
    codes
        The cells of each system that distances were taken from, in the order of the table.
    distance
        Between two populations.
    """

    table: pd.DataFrame
    codes: dict[str, Float[np.ndarray, "_ d"]]
    distance: Any
    _known: dict[tuple[str, str], float] = field(default_factory=dict)

    def __repr__(self) -> str:
        facts = self.table.attrs
        left = f"; {many(len(facts['left_out']), 'other')} left out" if facts["left_out"] else ""
        near = ", ".join(f"{name} {value:.3g}" for name, value in self.table["distance"].head(3).items())
        return (
            f"Matches({many(len(self.table), 'system')} of {facts['systems']} by {facts['metric']} distance "
            f"from {facts['target']}: {near}{', ...' if len(self.table) > 3 else ''}; halves of the target "
            f"{facts['floor']:.3g}{left})"
        )

    def between(self, systems: Sequence[str] | None = None, *, progress: bool = True) -> pd.DataFrame:
        """Distances of systems from each other, at least 0.

        Parameters
        ----------
        systems
            Which, by name; all by default.
        progress
            Whether to show a bar.

        Raises
        ------
        InputError
            For a system that is not there.
        """
        import pandas as pd
        from tqdm.auto import tqdm

        names = list(self.table.index) if systems is None else list(systems)
        lost = [name for name in names if name not in self.codes]
        if lost:
            msg = f"Expected systems of the table ({listing(self.codes)}); found {lost[0]!r}."
            raise InputError(msg + f"{nearest(lost[0], self.codes)} Name some of these.")
        cells = {name: _undrawn(self.codes[name]) for name in names}
        found = np.zeros((len(names), len(names)))
        pairs = list(zip(*np.triu_indices(len(names), 1), strict=True))
        for i, j in tqdm(pairs, desc="distances", unit="pair", disable=not progress):
            one, other = names[i], names[j]
            if (one, other) not in self._known:
                value = max(float(self.distance(cells[one], cells[other])[0]), 0.0)
                self._known[one, other] = self._known[other, one] = value
            found[i, j] = found[j, i] = self._known[one, other]
        index = pd.Index(names)
        return pd.DataFrame(found, index=index, columns=index)

    def recommend(
        self, k: int, *, nearest: int | None = None, seed: int = 0, progress: bool = True
    ) -> pd.DataFrame:
        """Few systems that stand for all, or for those nearest to the target.

        They are the medoids of the systems' distances from each other
        (`chreode.evaluate.medoids.k_medoids`): every system is near to one of them.

        Parameters
        ----------
        k
            How many.
        nearest
            Only so many systems nearest to the target count; all by default.
        seed
            As of `k_medoids`.
        progress
            Whether to show a bar.

        Returns
        -------
        pandas.DataFrame
            One row a chosen system, the nearest to the target first: its ``rank`` and ``distance``, the other
            systems it ``stands_for`` and how far the farthest of these is (``reach``). ``attrs``: ``cost``,
            the sum of the distances of all from their own.

        Raises
        ------
        InputError
            For ``nearest`` or ``k`` out of range.
        """
        import pandas as pd

        n = len(self.table) if nearest is None else nearest
        if not 1 <= n <= len(self.table) or not 1 <= k <= n:
            msg = f"Expected 1 <= k <= nearest <= {len(self.table)}, the number of systems; found k={k}"
            raise InputError(msg + f", nearest={nearest}. Give other numbers.")
        distances = self.between(list(self.table.index[:n]), progress=progress)
        found = k_medoids(distances.to_numpy(), k, seed=seed)
        rows = {}
        for place, medoid in enumerate(found.chosen):
            name = distances.index[medoid]
            own = (found.nearest == place) & (np.arange(n) != medoid)
            rows[name] = {
                **self.table.loc[name, ["rank", "distance"]],
                "stands_for": list(distances.index[own]),
                "reach": float(distances[name][own].max()) if own.any() else 0.0,
            }
        chosen = pd.DataFrame.from_dict(rows, orient="index").astype({"rank": int})
        chosen.index.name = self.table.index.name
        chosen.attrs = {"cost": found.cost}
        return chosen


def match_figure(found: Matches | pd.DataFrame, *, most: int = 40) -> Figure:
    """Distances with their intervals, the nearest on top, and the floor that halves of the target set.

    Parameters
    ----------
    found
        What `chreode.match` returned, or its table.
    most
        So many of the nearest are drawn, at least 1.

    Raises
    ------
    InputError
        For fewer than one.

    Examples
    --------
    >>> import pandas as pd
    >>> row = {"distance": 1.0, "lower": 0.5, "upper": 1.5, "share_top": 1.0}
    >>> match_figure(pd.DataFrame([row], index=["organoid"])).axes[0].get_yticklabels()[0].get_text()
    'organoid'
    """
    from matplotlib.figure import Figure

    if most < 1:
        msg = f"Expected at least one system to draw; found most={most}. Leave it out."
        raise InputError(msg)
    whole = found.table if isinstance(found, Matches) else found
    table, facts = whole.head(most), whole.attrs
    place = np.arange(len(table))
    figure = Figure(figsize=(6, 1.2 + 0.28 * len(table)), layout="constrained")
    axes = figure.subplots()
    axes.hlines(place, table["lower"], table["upper"], color="0.55", linewidth=1.2)
    drawn = axes.scatter(table["distance"], place, c=table["share_top"], cmap="viridis", vmin=0, vmax=1, s=28)
    floor = facts.get("floor", np.nan)
    if np.isfinite(floor):
        axes.axvline(floor, color="#c0392b", linewidth=1, linestyle="--", label="halves of the target")
        axes.legend(frameon=False, fontsize=8)
    axes.set_yticks(place, table.index.astype(str))
    axes.invert_yaxis()
    axes.set_xlabel(f"{facts.get('metric', '')} distance from {facts.get('target', 'the target')}".strip())
    axes.spines[["top", "right"]].set_visible(False)
    nearest = "nearest" if facts.get("top", 1) == 1 else f"among the {facts['top']} nearest"
    figure.colorbar(drawn, ax=axes, label=f"share of samples in which {nearest}", shrink=0.8)
    return figure


def _undrawn(codes: np.ndarray) -> Population:
    return Population(np.asarray(codes, dtype=np.float64), np.zeros((0, len(codes)), dtype=np.int64))
