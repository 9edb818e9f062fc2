"""Where cells end: the labels of those that were measured where they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.forecast import KnockOut, clamped, motion_of, trajectories

if TYPE_CHECKING:
    import pandas as pd

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
    if to not in times:
        known = ", ".join(f"{t:g}" for t in times)
        msg = f"Expected a measured time ({known}), whose cells tell the labels; found {to:g}."
        raise InputError(msg + " Name one of them.")
    if neighbours < 1:
        msg = f"Expected at least one neighbour; found neighbours={neighbours}. Ask for 10 or more."
        raise InputError(msg)
    if not len(model.embedded):
        msg = "Expected a model that was saved with its cells; found none. Save it with cells=True."
        raise InputError(msg)
    known_labels = model.embedded.level_names("label" if labels is None else labels)
    there = (model.embedded.cells.time.numpy() == np.float32(to)) & np.asarray(
        [level is not None for level in known_labels]
    )
    if not there.any():
        msg = f"Expected cells of time {to:g} with a label; found none. Choose another time, or other labels."
        raise InputError(msg)
    embedded = model.embedded if source is None else model.project(source, progress=progress)
    arrived = trajectories(embedded, [to], clamp=clamp, progress=progress)[0]
    nearest = NearestNeighbors(n_neighbors=min(neighbours, int(there.sum())))
    _, near = nearest.fit(model.embedded.embedding[there]).kneighbors(arrived)
    levels = np.unique(known_labels[there].astype(str))
    found = known_labels[there].astype(str)[near]
    shares = np.stack([(found == level).mean(1) for level in levels], 1)
    return pd.DataFrame(shares, index=pd.Index(embedded.names), columns=pd.Index(levels))
