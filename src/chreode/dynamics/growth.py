"""How fast cells multiply, from what they express."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.axes import Float
from chreode.cells import CSR, Cells
from chreode.errors import InputError
from chreode.io.read import read
from chreode.words import listing

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["growth_rates"]

_FURTHEST = 5.0  # standard deviations that a gene counts, at most
_TOTAL = 1e4
# Of the logistic curves: rates per unit of time, and the score that is halfway with how wide the rise is.
_LEAST, _MOST = 0.3, 1.7
_BIRTH, _DEATH = (0.25, 0.5), (0.1, 0.2)


def growth_rates(
    source: Any, *, proliferation: Sequence[str], apoptosis: Sequence[str] = ()
) -> Float[np.ndarray, " n"]:
    r"""Growth rate of each cell from the genes of proliferation and apoptosis that it expresses.

    .. math:: g = \beta(p) - \delta(a), \qquad
              \beta(p) = 0.3 + \frac{1.4}{1 + e^{-8 (p - 0.25)}}, \quad
              \delta(a) = 0.3 + \frac{1.4}{1 + e^{-20 (a - 0.1)}}

    with scores p and a: means over the genes of log-normalised counts, in standard deviations of each gene
    over all cells, at most 5. Without genes of apoptosis death is as in an average cell. Rates are per day,
    and the curves were made for reprogrammed fibroblasts: a first guess, to be scaled by what is known of a
    tissue.

    Parameters
    ----------
    source
        Counts: `chreode.Cells`, or anything `chreode.read` takes.
    proliferation, apoptosis
        Genes, by name or symbol; those that were not measured are left out.

    Returns
    -------
    A rate a cell, to be put into ``obs`` and read with ``growth=COLUMN``.

    Raises
    ------
    InputError
        When none of the genes was measured, or the first modality is not of counts.

    References
    ----------
    Schiebinger et al. (2019), doi:10.1016/j.cell.2019.01.006.

    Examples
    --------
    >>> import chreode as ch
    >>> rates = growth_rates(ch.datasets.pbmc68k(), proliferation=["PCNA", "STMN1"])
    >>> rates.shape, bool((np.abs(rates) < 1.5).all())
    ((700,), True)
    """
    cells = source if isinstance(source, Cells) else read(source)
    birth = _rate(_score(cells, proliferation, what="proliferation"), _BIRTH)
    death = _rate(_score(cells, apoptosis, what="apoptosis") if len(apoptosis) else np.zeros(()), _DEATH)
    return birth - death


def _rate(score: np.ndarray, curve: tuple[float, float]) -> np.ndarray:
    centre, width = curve
    return _LEAST + (_MOST - _LEAST) / (1 + np.exp(-4 / width * (score - centre)))


def _score(cells: Cells, genes: Sequence[str], *, what: str) -> np.ndarray:
    """Mean over genes of how many standard deviations a cell is above the mean of all."""
    name, modality = next(iter(cells.layout.modalities.items()))
    if modality.kind != "counts":
        msg = f"Expected counts, of which genes tell how cells grow; found {modality.kind} values of {name}."
        raise InputError(msg + " Read the counts.")
    where = {g: j for names in (modality.symbols, modality.names) for j, g in enumerate(names)}
    chosen = sorted({where[g] for g in genes if g in where})
    if not chosen:
        msg = f"Expected genes of {what} among the features of {name}; found none of {listing(genes)}."
        raise InputError(msg + " Name them as the features are named.")
    counts: Any = cells.measured[name]
    matrix = counts.scipy() if isinstance(counts, CSR) else counts.numpy()
    some = matrix[:, chosen]
    some = np.asarray(some.todense() if hasattr(some, "todense") else some, dtype=np.float64)
    logged = np.log1p(some * (_TOTAL / cells.size[name].numpy().clip(1))[:, None])
    spread = logged.std(0)
    standard = (logged - logged.mean(0)) / np.where(spread > 0, spread, 1.0)
    return standard.clip(-_FURTHEST, _FURTHEST).mean(1)
