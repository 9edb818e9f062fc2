"""Where cells end: the labels of those that were measured where they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.forecast import KnockOut, clamped, motion_of, trajectories

if TYPE_CHECKING:
    import pandas as pd

    from chreode.embedded import Embedded

__all__ = ["fates"]


def fates(
    model: Any,
    source: Any = None,
    *,
    labels: str | None = None,
    to: float | None = None,
    neighbours: int = 30,
    knock_out: KnockOut = (),
    progress: bool = False,
) -> pd.DataFrame:
    """How probable it is that each cell ends near each label.

    Cells are moved to a measured time, the last one by default; the probability of a label is its share among
    the nearest cells that were measured then. The field is deterministic: a probability between 0 and 1
    says that types lie together where the cell arrives, not that its way forks.

    Parameters
    ----------
    model
        A fitted model with dynamics.
    source
        Anything `chreode.read` takes, with the times at which its cells set out; None for the fitted cells.
    labels
        Column of the labels; the one that was read as ``label`` by default.
    to
        A measured time.
    neighbours
        How many nearest cells.
    knock_out
        Features held at 0, or at values, on the way; as of ``model.forecast``.
    progress
        Whether to show a bar.

    Returns
    -------
    DataFrame
        A row a cell, a column a label; rows sum to 1.

    Raises
    ------
    InputError
        For a model without dynamics or cells, a time that was not measured, labels that no cell of that time
        has, or no neighbours.
    """
    import pandas as pd
    from sklearn.neighbors import NearestNeighbors

    times, clamp = motion_of(model.embedded).times, clamped(model.embedded, knock_out)
    to = times[-1] if to is None else to
    _refuse(model.embedded, times, to, neighbours)
    there, known = _labelled(model.embedded, labels, to)
    embedded = model.embedded if source is None else model.project(source, progress=progress)
    arrived = trajectories(embedded, [to], clamp=clamp, progress=progress)[0]
    nearest = NearestNeighbors(n_neighbors=min(neighbours, len(known)))
    _, near = nearest.fit(model.embedded.embedding[there]).kneighbors(arrived)
    levels = np.unique(known)
    shares = np.stack([(known[near] == level).mean(1) for level in levels], 1)
    return pd.DataFrame(shares, index=pd.Index(embedded.names), columns=pd.Index(levels))


def _refuse(embedded: Embedded, times: tuple[float, ...], to: float, neighbours: int) -> None:
    if to not in times:
        known = ", ".join(f"{t:g}" for t in times)
        msg = f"Expected a measured time ({known}), whose cells tell the labels; found {to:g}."
        raise InputError(msg + " Name one of them.")
    if neighbours < 1:
        msg = f"Expected at least one neighbour; found neighbours={neighbours}. Ask for 10 or more."
        raise InputError(msg)
    if not len(embedded):
        msg = "Expected a model that was saved with its cells; found none. Save it with cells=True."
        raise InputError(msg)


def _labelled(embedded: Embedded, labels: str | None, to: float) -> tuple[np.ndarray, np.ndarray]:
    """Which fitted cells are of a time and have a label, and the labels of these."""
    layout = embedded.cells.layout
    if labels is None and layout.in_role("label") is None:
        columns = ", ".join(c.column for c in layout.covariates.values() if c.categorical) or "none"
        msg = (
            f"Expected labels of cells; found none, as no column was read as the label ({columns} were read)."
        )
        raise InputError(msg + " Read the cells with label=COLUMN, or give labels=COLUMN.")
    levels = embedded.level_names("label" if labels is None else labels)
    there = embedded.cells.time.numpy() == np.float32(to)
    there &= np.asarray([level is not None for level in levels])
    if not there.any():
        msg = f"Expected cells of time {to:g} with a label; found none. Choose another time, or other labels."
        raise InputError(msg)
    return there, levels[there].astype(str)
