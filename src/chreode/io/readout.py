"""What the features beside coordinates are expected to be at them: the map back."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from chreode.axes import Float, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from chreode.io.matrix import Matrix

__all__ = ["Readout", "read_out"]

_TOTAL = 1e4  # that the counts of every cell are scaled to


class Readout(NamedTuple):
    r"""Expected values :math:`\bar x + L z` of features at coordinates.

    Parameters
    ----------
    names
        Of the features.
    level
        :math:`\bar x`, at coordinates of 0.
    loadings
        ``L``, features by coordinates.
    """

    names: tuple[str, ...]
    level: Float[Tensor, " g"]
    loadings: Float[Tensor, "g d"]

    def tensors(self) -> dict[str, Tensor]:
        """As cells hold it."""
        return {"level": self.level, "loadings": self.loadings}


def read_out(matrix: Matrix, names: Iterable[object], z: Float[np.ndarray, "n d"]) -> Readout:
    r"""Least squares of features on coordinates.

    .. math:: L = X_c^\top Z_c\,(Z_c^\top Z_c)^{+}, \qquad \bar x = \overline{X} - L\,\overline{Z}

    with both centred. Of principal components of ``X`` these are the loadings, with the centring and scaling
    that lie between, whatever they were. Counts are log-normalised first, other values are as they are.

    Parameters
    ----------
    matrix
        ``X``, cells by features.
    names
        Of the features.
    z
        Coordinates of the cells.
    """
    size = _totals(matrix)
    middle = z.mean(0, dtype=np.float64)
    centred = z - middle
    total = np.zeros(matrix.shape[1])
    across = np.zeros((matrix.shape[1], z.shape[1]))
    for row, col, found in matrix.blocks():
        value = found if size is None else np.log1p(found * (_TOTAL / size[row]))
        total += np.bincount(col, value, minlength=len(total))
        across += _products(row, col, value, centred, len(total))
    weight = across @ np.linalg.pinv(centred.T @ centred, hermitian=True)
    level = total / len(z) - weight @ middle
    return Readout(tuple(map(str, names)), torch.from_numpy(level).float(), torch.from_numpy(weight).float())


def _totals(matrix: Matrix) -> Float[np.ndarray, " n"] | None:
    """Sum of every cell, at least 1, where all values are counts; else None."""
    size = np.zeros(matrix.shape[0])
    for row, _, value in matrix.blocks():
        if (value < 0).any() or (value != np.rint(value)).any():
            return None
        size += np.bincount(row, value, minlength=len(size))
    return size.clip(1)


def _products(row: np.ndarray, col: np.ndarray, value: np.ndarray, z: np.ndarray, g: int) -> np.ndarray:
    """``X' Z`` over some non-zeros of ``X``."""
    import scipy.sparse as sp

    return sp.csr_matrix((value, (col, row)), shape=(g, len(z))) @ z
