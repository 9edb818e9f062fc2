"""Principal components as codes, and the leading axes of values that are never made dense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.infer.values import Block, blocks, prepared
from chreode.parts import Code, Given

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chreode.cells import Cells
    from chreode.layout import Layout

__all__ = ["LEAST", "Line", "PrincipalComponents", "leading", "moments", "usual"]

LEAST = 1e-4
"""Noise of a feature, at least, as a share of its variance."""


class Line(NamedTuple):
    """What a code expects of a modality.

    Parameters
    ----------
    mean, weight, noise
        Of each feature: its mean ``g``, its loadings ``g x d``, the variance that is left ``g``.
    decay
        Of dropout, where there is any.
    """

    mean: Tensor
    weight: Tensor
    noise: Tensor
    decay: Tensor | None = None


def usual(variance: Float[Tensor, " g"]) -> Float[Tensor, " g"]:
    """Variances, those of features that hardly vary raised to a millionth of the others' mean."""
    varies = variance[variance > 0]
    return variance.clamp_min(1e-6 * float(varies.mean()) if len(varies) else 1.0)


def moments(cells: Cells, modality: str) -> tuple[Float[Tensor, " g"], Float[Tensor, " g"]]:
    """Mean and variance of each feature over the prepared cells that it was measured in."""
    total: Any = 0.0
    for _, some in blocks(cells):
        block = Block(some, modality)
        ones = block.present[:, None]
        sums = torch.cat([block.turned_times(ones), block.squared().turned_times(ones)], 1)
        total = total + torch.cat([sums, block.by_feature(ones).expand(len(sums), 1)], 1)
    mean, square = (total[:, :2] / total[:, 2:].clamp_min(1)).T
    return mean, (square - mean.square()).clamp_min(0)


def leading(
    cells: Cells, means: Mapping[str, Tensor], scales: Mapping[str, Tensor], *, dim: int, seed: int
) -> tuple[dict[str, Float[Tensor, "g d"]], Float[Tensor, " d"]]:
    """Leading eigenvectors of the covariance of some modalities, and the standard deviations along them.

    Values are centred and divided by their scales as they are multiplied, never in place; a missing one is
    at its mean. The sign of an axis makes its largest entry positive; axes beyond the rank are zero.

    Parameters
    ----------
    cells
        Prepared.
    means, scales
        Of the features of each modality.
    dim
        How many.
    seed
        Of the vector that the search begins with.
    """
    from scipy.sparse import linalg

    widths = [len(mean) for mean in means.values()]
    n, g = len(cells), sum(widths)

    def parts(vector: Any) -> dict[str, Tensor]:
        pieces = torch.from_numpy(np.ascontiguousarray(vector, dtype=np.float64)).reshape(g, -1).split(widths)
        return {m: piece / scales[m][:, None] for m, piece in zip(means, pieces, strict=True)}

    def times(vector: Any) -> np.ndarray:
        weights, out = parts(vector), []
        for _, some in blocks(cells):
            total: Any = 0.0
            for m, weight in weights.items():
                block = Block(some, m)
                total = total + block.times(weight) - block.by_cell(means[m][:, None] * weight)
            out.append(total)
        return torch.cat(out).numpy()

    def turned(vector: Any) -> np.ndarray:
        codes = torch.from_numpy(np.ascontiguousarray(vector, dtype=np.float64)).reshape(n, -1)
        total: dict[str, Any] = dict.fromkeys(means, 0.0)
        for rows, some in blocks(cells):
            for m, mean in means.items():
                block = Block(some, m)
                here = codes[rows]
                total[m] = total[m] + block.turned_times(here) - mean[:, None] * block.by_feature(here)
        return torch.cat([total[m] / scales[m][:, None] for m in means]).numpy()

    found = min(dim, n - 1, g - 1)
    axes, deviations = torch.zeros(g, dim, dtype=torch.float64), torch.zeros(dim, dtype=torch.float64)
    rng = np.random.default_rng(seed)
    if found >= 1 and np.any(times(rng.normal(size=g))):  # else nothing varies
        make: Any = linalg.LinearOperator
        operator = make((n, g), matvec=times, rmatvec=turned, matmat=times, rmatmat=turned)
        _, values, vectors = cast("Any", linalg.svds(operator, k=found, v0=rng.normal(size=min(n, g))))
        order = np.argsort(-values)
        values, vectors = values[order], vectors[order]
        vectors = vectors * np.sign(vectors[np.arange(found), np.abs(vectors).argmax(1)])[:, None]
        axes[:, :found] = torch.from_numpy(np.ascontiguousarray(vectors.T))
        deviations[:found] = torch.from_numpy(values.copy()) / n**0.5
    return dict(zip(means, axes.split(widths), strict=True)), deviations


class PrincipalComponents(nn.Module):
    r"""Principal components of log-normalised counts, or of other values as they are.

    .. math:: z_i = V^\top (u_i - \bar u), \qquad u_{ij} = \log(1 + c\,x_{ij}/s_i)

    with the leading orthonormal eigenvectors :math:`V` of the covariance over all cells that train. Values
    are centred without being made dense. A feature that a panel did not measure is at its mean.

    Parameters
    ----------
    layout
        The features of the first modality are read.
    dim
        Number of components ``d``.
    per
        The total :math:`c` that the counts of every cell are scaled to.
    """

    free = False  # the code is a function of the values
    mean: Tensor
    noise: Tensor
    axes: Tensor

    def __init__(self, layout: Layout, dim: int, *, per: float = 1e4) -> None:
        super().__init__()
        self.modalities, self.per = (next(iter(layout.modalities)),), per
        g = layout.modalities[self.modalities[0]].n_features
        self.register_buffer("mean", torch.zeros(g))
        self.register_buffer("noise", torch.ones(g))
        # A random projection until it has learned: from codes of zero a decoder would learn nothing.
        self.register_buffer("axes", torch.randn(g, dim) / g**0.5)

    def learn(self, cells: Cells, *, seed: int, progress: bool = False) -> None:
        """Find the components of these cells; the search shows no bar."""
        (m,) = self.modalities
        cells = prepared(cells, self.modalities, per=self.per)
        mean, variance = moments(cells, m)
        ones = torch.ones_like(mean)
        axes, along = leading(cells, {m: mean}, {m: ones}, dim=self.axes.shape[1], seed=seed)
        self.mean.copy_(mean)
        self.axes.copy_(axes[m])
        left = variance - (axes[m] * along).square().sum(1)
        self.noise.copy_(left.maximum(LEAST * usual(variance)))

    def linear(self, modality: str) -> Line:
        """What the components expect of a modality."""
        return Line(self.mean, self.axes, self.noise)

    def forward(self, cells: Cells, given: Given | None = None) -> Code:
        """Project the cells."""
        (m,) = self.modalities
        values, mask = prepared(cells, self.modalities, per=self.per).measured[m], cells.mask(m)
        centre = self.mean @ self.axes if mask is None else (mask * self.mean) @ self.axes
        return Code((values @ self.axes - centre) * cells.present[m][:, None])

    def propose(self, cells: Cells) -> Float[Tensor, "n d"]:
        """The components."""
        return self(cells).z
