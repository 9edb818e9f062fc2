"""Which features are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chreode.axes import Float, Int
from chreode.errors import InputError
from chreode.words import listing, nearest

if TYPE_CHECKING:
    from chreode.io.matrix import Matrix
    from chreode.io.source import Field, Table

__all__ = ["by_column", "by_deviance", "by_name", "deviance", "most_variable"]


def by_column(field: Field, column: str, *, also: Table) -> np.ndarray:
    """Positions of the features a boolean column marks.

    Parameters
    ----------
    field
        The matrix whose features are chosen.
    column
        A column of its table or of ``also``.
    also
        The source's main feature table: ``raw`` often lacks the column that ``var`` has.

    Raises
    ------
    InputError
        When the column is absent, not boolean, or marks nothing.
    """
    table = field.features if column in field.features.columns else also
    if column not in table.columns:
        columns = tuple(dict.fromkeys([*field.features.columns, *also.columns]))
        msg = (
            f"Expected a column {column!r} in the feature table; found {listing(columns, limit=30)}."
            f"{nearest(column, columns)} Give a column, a list of names or a number."
        )
        raise InputError(msg)
    values = table.column(column)
    known = set(values.dropna().unique().tolist())
    if not known <= {True, False} or values.isna().any():
        found = (
            "missing values"
            if values.isna().any()
            else f"values such as {next(iter(known - {True, False}))!r}"
        )
        msg = f"Expected only True and False in column {column!r} of the feature table; found {found}."
        raise InputError(msg + " Give a boolean column.")
    marked = values.to_numpy().astype(bool)
    chosen = (
        np.flatnonzero(marked) if table is field.features else _positions(field.features, table.names[marked])
    )
    if not len(chosen):
        msg = f"Expected column {column!r} to mark some features; found none marked. Give another column."
        raise InputError(msg)
    return chosen


def _positions(table: Table, names: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.isin(table.names.astype(str), names.astype(str)))


def by_name(field: Field, names: tuple[str, ...]) -> np.ndarray:
    """Positions of named features, in the order of the names; a symbol that is unique counts as a name.

    Raises
    ------
    InputError
        When some are absent, or two stand for the same feature.
    """
    position = {name: at for at, name in enumerate(field.features.names)}
    if field.symbols is not None:
        symbols, first, times = np.unique(field.symbols.astype(str), return_index=True, return_counts=True)
        for symbol, at in zip(symbols[times == 1], first[times == 1], strict=True):
            position.setdefault(str(symbol), int(at))
    absent = [name for name in names if name not in position]
    if absent:
        msg = (
            f"Expected the features asked for among the {len(field.features):,} of the source; found "
            f"{len(absent):,} of {len(names):,} absent "
            f"({listing(absent)}).{nearest(absent[0], list(position))} "
            "Correct or drop these names."
        )
        raise InputError(msg)
    chosen = np.asarray([position[name] for name in names], dtype=np.int64)
    if len(np.unique(chosen)) < len(chosen):
        twice = [name for name in names if np.sum(chosen == position[name]) > 1]
        msg = f"Expected every feature once; found {listing(twice)} for the same one. Drop all but one name."
        raise InputError(msg)
    return chosen


def deviance(
    matrix: Matrix, *, total: Float[np.ndarray, " n"], group: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "b g"]:
    """Poisson deviance of every feature from a constant share of the counts, in each group of cells.

    .. math:: D_j = 2 \\sum_i \\left[ x_{ij} \\log \\frac{x_{ij}}{n_i \\pi_j} - x_{ij} + n_i \\pi_j
        \\right], \\qquad \\pi_j = \\frac{\\sum_i x_{ij}}{\\sum_i n_i}

    The last two terms cancel in the sum, so that only non-zeros count and the matrix stays sparse.

    Parameters
    ----------
    matrix
        Counts, n cells by g features, read once in blocks.
    total
        Counts of each cell over all features, ``n``.
    group
        Group of each cell (its experimental batch), 0 to b - 1, ``n``.

    Returns
    -------
    Deviance, b groups by g features; 0 where a feature has no counts.

    References
    ----------
    Townes FW, Hicks SC, Aryee MJ, Irizarry RA (2019). Feature selection and dimension reduction for
    single-cell RNA-seq based on a multinomial model. Genome Biology. doi:10.1186/s13059-019-1861-6
    """
    groups, g = int(group.max()) + 1, matrix.shape[1]
    within = np.zeros(groups * g)
    counts = np.zeros(groups * g)
    for block in matrix.blocks():
        at = group[block.row] * g + block.col
        within += np.bincount(at, block.value * np.log(block.value / total[block.row]), minlength=groups * g)
        counts += np.bincount(at, block.value, minlength=groups * g)
    within, counts = within.reshape(groups, g), counts.reshape(groups, g)
    depth = np.bincount(group, total, minlength=groups)[:, None]
    share = np.divide(counts, depth, out=np.ones_like(counts), where=counts > 0)
    return 2 * np.maximum(within - counts * np.log(share), 0)


def most_variable(deviances: Float[np.ndarray, "b g"], keep: int) -> np.ndarray:
    """The ``keep`` features most variable within groups, so that a difference between groups selects nothing.

    Features are ordered by the number of groups in which they are among the first ``keep``, then by their
    median rank there, then by their deviance.

    Parameters
    ----------
    deviances
        As `deviance` returns, b groups by g features.
    keep
        How many, 1 to g.

    Returns
    -------
    Their positions, ascending.

    Examples
    --------
    >>> most_variable(np.asarray([[9.0, 1.0, 5.0, 0.0], [8.0, 0.0, 7.0, 1.0]]), 2).tolist()
    [0, 2]
    """
    order = np.argsort(-deviances, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(deviances.shape[1])[None], axis=1)
    times = (rank < keep).sum(0)
    first = np.lexsort((-deviances.sum(0), np.median(rank, axis=0), -times))
    return np.sort(first[:keep])


def by_deviance(matrix: Matrix, keep: int, *, total: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Positions of the ``keep`` features most variable by deviance within groups, ascending."""
    if keep >= matrix.shape[1]:
        return np.arange(matrix.shape[1])
    return most_variable(deviance(matrix, total=total, group=group), keep)
