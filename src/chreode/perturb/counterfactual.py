"""The same cells under another level of a condition: what they would be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch

from chreode.errors import InputError
from chreode.interpret.asked import asked_of
from chreode.intervene import do

if TYPE_CHECKING:
    import numpy as np

    from chreode.embedded import Embedded
    from chreode.interpret.asked import Asked

__all__ = ["Private", "checked", "counterfactual", "embedded_of"]

Private = Literal["transport", "sample"]


def counterfactual(
    model: Any,
    *,
    to: Mapping[str, str | float | None],
    where: str | np.ndarray | None = None,
    private: Private = "transport",
    source: Any = None,
    seed: int = 0,
) -> Embedded:
    r"""Cells as they would be under other levels: their shared codes as they are, the rest of the new level.

    .. math:: (z_i, w_i, y_i) \to (z_i, T_{y_i \to y'}(w_i), y')

    Codes that belong to levels (of `patches`, `multigroupvi` and their like) are transported, to what cells
    of the new level with such shared codes have (`chreode.companion.Companion`), or drawn from these.
    Of recipes without such codes this is ``embedded.do()``.

    Parameters
    ----------
    model
        A `chreode.FittedModel`, which stands for the cells it was fitted on, or a `chreode.Embedded`.
    to
        New levels by column.
    where
        Only these cells: ``"COLUMN=LEVEL"`` or a mask; all by default.
    private
        ``transport`` for what to expect of each cell; ``sample`` draws, so that cells of the new level differ
        among each other as measured ones do.
    source
        A table with the column of ``where``, where it was not read.
    seed
        Of the draws.

    Returns
    -------
    Embedded
        The cells under the new levels, without counts: ``.expected()``, ``.sample(uncertain=False)``.

    Raises
    ------
    InputError
        For a column or level that the model does not know, or cells that do not exist.

    Examples
    --------
    >>> import chreode as ch
    >>> cells = ch.read(ch.simulate(80, 20, batches=2, seed=0), covariates=["batch"])
    >>> model = ch.fit(cells, ch.recipes.patches(dim=3, hidden=(8,)), epochs=2, progress=False)
    >>> ch.counterfactual(model, to={"batch": "batch0"}, where="batch=batch1")
    Embedded(42 cells by patches, 37 trained)
    """
    if not isinstance(to, Mapping) or not to:
        msg = f'Expected to= with a level by column; found {to!r}. Write to={{"condition": "stim"}}, say.'
        raise InputError(msg)
    asked = asked_of(model, source=source, counted=False)
    embedded = embedded_of(asked)
    # What was measured was so under the cells' own levels.
    some = embedded.replace(cells=embedded.cells.replace(measured={}))
    if where is not None:
        some = some.pick(asked.group(where, name="where")[0])
    draw = torch.Generator().manual_seed(seed) if checked(private) == "sample" else None
    return do(some, to, draw=draw)


def checked(private: str) -> str:
    """Where private codes come from; refuse what is unknown."""
    if private not in ("transport", "sample"):
        msg = f"Expected private codes by 'transport' or 'sample'; found {private!r}. Name one of these."
        raise InputError(msg)
    return private


def embedded_of(asked: Asked) -> Embedded:
    """The cells under a model; refuse cells without one."""
    if asked.embedded is None or not len(asked.embedded):
        msg = (
            "Expected a fitted model with its cells, or what its project() returns; found none. Fit first, "
            "or project the cells: model.project(source)."
        )
        raise InputError(msg)
    return asked.embedded
