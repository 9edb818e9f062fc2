"""Counts summed over the cells of a sample, or of a type within it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.interpret.asked import asked_of
from chreode.words import many

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import scipy.sparse as sp

__all__ = ["pseudobulk", "unit_sums"]


def pseudobulk(
    cells: Any,
    *,
    by: str | Sequence[str],
    modality: str | None = None,
    min_cells: int = 1,
    source: Any = None,
) -> ad.AnnData:
    r"""Sum the counts of all cells that agree in some columns.

    .. math:: y_{ug} = \sum_{i \in u} x_{ig}

    Counts as they were measured, not what a decoder expects of them: what methods for bulk samples (edgeR,
    DESeq2, limma) start from.

    Parameters
    ----------
    cells
        `Cells`, an `Embedded`, or a `FittedModel`, which stands for its own.
    by
        Columns, such as ``["donor", "cell_type"]``; ``"component"`` is the model's own. Cells of unknown
        level are left out.
    modality
        Whose counts; the first by default.
    min_cells
        Combinations of fewer cells are left out, >= 1.
    source
        The same cells with counts, for a loaded model; or a table with the columns, where they were not read.

    Returns
    -------
    AnnData
        One row a combination that occurs, in order, named by its levels: sums in ``X`` (sparse), the columns
        with ``n_cells`` and ``total`` in ``obs``.

    Raises
    ------
    InputError
        For columns that do not exist, values that cannot be summed, or when nothing is left.

    References
    ----------
    Crowell et al. (2020), muscat, doi:10.1038/s41467-020-19894-4.

    Examples
    --------
    >>> import chreode as ch
    >>> cells = ch.read(ch.simulate(60, 20, components=2, batches=2), batch="batch")
    >>> bulk = ch.pseudobulk(cells, by="batch")
    >>> bulk.shape, bulk.obs["n_cells"].tolist() == cells.covariates["batch"].bincount().tolist()
    ((2, 20), True)
    """
    import anndata as ad
    import pandas as pd

    asked = asked_of(cells, source=source)
    columns = [by] if isinstance(by, str) else list(by)
    if not columns or len(set(columns)) < len(columns) or min_cells < 1:
        msg = f"Expected by= columns, each once, and min_cells of at least 1; found {by!r} and {min_cells}."
        raise InputError(msg + " Give by=['donor', 'cell_type'], say.")
    name, counts, present, _ = asked.counts(modality)
    table: Any = pd.DataFrame({column: asked.levels(column) for column in columns})
    known = table.notna().all(axis=1).to_numpy() & present
    groups = table[known].groupby(columns, sort=True, observed=True)
    unit = np.full(len(table), -1)
    unit[known] = groups.ngroup().to_numpy()
    n_cells = np.bincount(unit[known])
    kept = np.flatnonzero(n_cells >= min_cells)
    if not len(kept):
        msg = (
            f"Expected combinations of {' and '.join(columns)} with {many(min_cells, 'cell')} or more; found"
        )
        raise InputError(msg + " none. Give other columns, or a smaller min_cells.")
    sums: Any = unit_sums(counts, unit, len(n_cells))[kept]
    obs = pd.DataFrame(list(groups.groups), columns=pd.Index(columns)).iloc[kept].reset_index(drop=True)
    obs.index = pd.Index(["_".join(map(str, row)) for row in obs.to_numpy()])
    obs["n_cells"], obs["total"] = n_cells[kept], np.asarray(sums.sum(1)).ravel()
    described = asked.cells.layout.modalities[name]
    var = pd.DataFrame(index=pd.Index(described.names))
    if described.symbols:
        var["symbol"] = list(described.symbols)
    return ad.AnnData(sums, obs=obs, var=var)


def unit_sums(counts: sp.csr_matrix, unit: np.ndarray, n: int) -> sp.csr_matrix:
    """Sums of the rows of each of ``n`` units; rows of unit -1 are left out.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> unit_sums(sp.csr_matrix([[1, 0], [2, 3], [4, 0]]), np.array([1, -1, 1]), 2).toarray().tolist()
    [[0.0, 0.0], [5.0, 0.0]]
    """
    import scipy.sparse as sp

    rows = np.flatnonzero(unit >= 0)
    members = sp.csr_matrix((np.ones(len(rows)), (unit[rows], rows)), shape=(n, len(unit)))
    summed: Any = members @ counts
    return sp.csr_matrix(summed)
