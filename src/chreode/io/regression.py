"""What the features beside coordinates are expected to be at them: the way back, as sums over cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from chreode.axes import Float, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from chreode.io.matrix import Matrix

__all__ = ["Regression", "joined", "regress", "solved"]

_TOTAL = 1e4  # that the counts of every cell are scaled to


class Regression(NamedTuple):
    r"""Sums over cells that say how features go with coordinates, :math:`\tilde z = (1, z)`.

    Parameters
    ----------
    names
        Of the features.
    total
        :math:`X^\top \tilde Z`, features by one and the coordinates.
    gram
        :math:`\tilde Z^\top \tilde Z`.
    """

    names: tuple[str, ...]
    total: Float[Tensor, "g d+1"]
    gram: Float[Tensor, "d+1 d+1"]

    def tensors(self) -> dict[str, Tensor]:
        """As cells hold it."""
        return {"total": self.total, "gram": self.gram}


def regress(matrix: Matrix, names: Iterable[object], z: Float[np.ndarray, "n d"]) -> Regression:
    """Sums of the features of cells at coordinates; features that have missing values are left out.

    Counts are log-normalised first, other values are as they are.

    Parameters
    ----------
    matrix
        ``X``, cells by features.
    names
        Of the features.
    z
        Coordinates of the cells.
    """
    import scipy.sparse as sp

    wide = np.column_stack([np.ones(len(z)), z.astype(np.float64)])
    size = _totals(matrix)
    total = np.zeros((matrix.shape[1], wide.shape[1]))
    for row, col, found in matrix.blocks():
        value = found if size is None else np.log1p(found * (_TOTAL / size[row]))
        total += sp.csr_matrix((value, (col, row)), shape=(len(total), len(z))) @ wide
    known = np.isfinite(total).all(1)
    kept = np.asarray([str(name) for name in names], dtype=object)[known]
    return Regression(tuple(kept.tolist()), torch.from_numpy(total[known]), torch.from_numpy(wide.T @ wide))


def solved(sums: Mapping[str, Tensor]) -> tuple[Float[Tensor, " g"], Float[Tensor, "g d"]]:
    r"""Least squares, :math:`\bar x + L z`: what features are at coordinates of 0, and their loadings.

    .. math:: L = X_c^\top Z_c\,(Z_c^\top Z_c)^{+}, \qquad \bar x = \overline{X} - L\,\overline{Z}

    with both centred. Of principal components of ``X`` these are the loadings, with the centring and scaling
    that lie between, whatever they were.
    """
    total, gram = sums["total"], sums["gram"]
    n, middle = gram[0, 0], gram[0, 1:] / gram[0, 0]
    centred = gram[1:, 1:] - n * torch.outer(middle, middle)
    loadings = (total[:, 1:] - torch.outer(total[:, 0], middle)) @ torch.linalg.pinv(centred, hermitian=True)
    return total[:, 0] / n - loadings @ middle, loadings


def joined(every: Sequence[tuple[tuple[str, ...], Mapping[str, Tensor]]]) -> Regression | None:
    """Of several sets of cells, on the features that all have; None where one has none."""
    first, *others = every
    shared = [name for name in first[0] if all(name in names for names, _ in others)]
    if not shared:
        return None
    rows = [torch.tensor([names.index(name) for name in shared]) for names, _ in every]
    total = torch.stack([sums["total"][at] for at, (_, sums) in zip(rows, every, strict=True)]).sum(0)
    gram = torch.stack([sums["gram"] for _, sums in every]).sum(0)
    return Regression(tuple(shared), total, gram)


def _totals(matrix: Matrix) -> Float[np.ndarray, " n"] | None:
    """Sum of every cell, at least 1, where all values are counts; else None."""
    size = np.zeros(matrix.shape[0])
    for row, _, value in matrix.blocks():
        if (value < 0).any() or (value != np.rint(value)).any():
            return None
        size += np.bincount(row, value, minlength=len(size))
    return size.clip(1)
