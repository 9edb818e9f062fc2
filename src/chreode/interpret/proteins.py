"""Proteins without what their antibodies left behind everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from chreode.errors import InputError
from chreode.expected import expected
from chreode.words import listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from chreode.embedded import Embedded

__all__ = ["foreground"]

_ASKED = {"probability": "foreground_probability", "counts": "foreground_mean"}


def foreground(
    model: Any,
    modality: str | None = None,
    *,
    features: Sequence[str] | None = None,
    values: Literal["probability", "counts"] = "probability",
    borrow: bool = True,
) -> pd.DataFrame:
    r"""What is foreground in each cell: how probable it is, or its counts without the background.

    .. math:: 1 - \pi_{ik}, \qquad (1 - \pi_{ik})\, \beta_{ik} (1 + \alpha_{ik})

    of `chreode.likelihoods.ProteinMixture`, as the decoder has them at the cell's code: also in cells in
    which the protein was not measured.

    Parameters
    ----------
    model
        A `FittedModel`, or an `Embedded` of one.
    modality
        Of proteins; None takes the only one.
    features
        Names of proteins; all by default.
    values
        ``probability``, or expected ``counts``.
    borrow
        Whether batches that a protein was not measured in borrow from others, as of `Embedded.expected`.

    Returns
    -------
    DataFrame
        Cells by proteins.

    Raises
    ------
    InputError
        When no modality of the model has a background, or not this one.

    References
    ----------
    Gayoso et al. (2021), totalVI, doi:10.1038/s41592-020-01050-x.
    """
    import pandas as pd

    if values not in _ASKED:
        msg = f"Expected values of {listing(_ASKED)}; found {values!r}. Ask for one of these."
        raise InputError(msg)
    embedded: Embedded = getattr(model, "embedded", model)
    name = _with_background(embedded, modality)
    columns = embedded.columns(name, features)
    chunks = expected(embedded, name, size=None, columns=columns, borrow=borrow, what=_ASKED[values])
    found = np.concatenate([part for _, part in chunks])
    shown = features or embedded.cells.layout.modalities[name].names
    return pd.DataFrame(found, index=pd.Index(embedded.names), columns=pd.Index(list(shown)))


def _with_background(embedded: Embedded, modality: str | None) -> str:
    """The modality that is meant, whose likelihood must have a background."""
    z = embedded.codes[embedded.code][:1]
    asked = embedded.cells.layout.modalities if modality is None else [embedded.modality(modality)]
    have = [m for m in asked if hasattr(embedded.decode(z, m), _ASKED["probability"])]
    if len(have) == 1:
        return have[0]
    if have:
        msg = f"Expected a modality; found several of proteins ({listing(have)}). Name the one that you mean."
    else:
        msg = (
            f"Expected a modality whose likelihood has a background; found {listing(asked)} without. Fit "
            "with totalvi, or with likelihood={...: 'protein'}."
        )
    raise InputError(msg)
