"""How far predicted cells are from those observed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from chreode.axes import Float, Tensor
from chreode.dynamics.entropic import own_potential, potentials, softmin
from chreode.penalties.kernels import squared_distances

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["mmd", "shares", "sinkhorn"]

_MOST = 300  # iterations, which what is left over hardly shows in the least of transport


def mmd(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    widths: Sequence[float] = (1.0,),
    weights: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    r"""Squared maximum mean discrepancy between two samples under Laplace kernels, summed over their widths.

    .. math:: \overline{k(x, x')} + \overline{k(y, y')} - 2\,\overline{k(x, y)}, \qquad
              k(u, v) = \sum_\sigma \exp\Big(-\frac{\lVert u - v \rVert_1}{d\,\sigma}\Big)

    the biased estimate, which is never negative.

    Parameters
    ----------
    x, y
        The samples.
    widths
        :math:`\sigma`, above 0, in units of the coordinates.
    weights
        How much each cell of x counts, above 0; None for all the same.

    References
    ----------
    Gretton et al. (2012), *A kernel two-sample test*, JMLR 13.
    """
    d, a, b = x.shape[1], shares(x, weights), shares(y)

    def mean(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
        far = torch.cdist(u, v, p=1) / d
        return torch.stack([a @ torch.exp(-far / width) @ b for width in widths]).sum()

    return mean(x, x, a, a) + mean(y, y, b, b) - 2 * mean(x, y, a, b)


def sinkhorn(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    epsilon: float = 0.05,
    weights: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    r"""Sinkhorn divergence between two samples: entropic transport, less what blurs it.

    .. math:: W_\epsilon(x, y) - \tfrac12 W_\epsilon(x, x) - \tfrac12 W_\epsilon(y, y), \qquad
              W_\epsilon = \min_P \langle C, P \rangle + \epsilon s\,\mathrm{KL}(P \,\|\, a b^\top)

    with squared distances C. It is 0 for equal samples and never negative, up to what the iteration leaves
    (about 1e-5 s); for small :math:`\epsilon` it is the squared Wasserstein-2 distance, for large ones the
    squared distance of the means.

    Parameters
    ----------
    x, y
        The samples.
    epsilon
        Above 0, in units of the scale s: the mean squared distance between two cells of y.
    weights
        How much each cell of x counts, above 0; None for all the same.

    References
    ----------
    Feydy et al. (2019), doi:10.48550/arXiv.1810.08278.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> sinkhorn(x, x + 3).round(decimals=3)
    tensor(9.)
    """
    a, b = shares(x, weights), shares(y)
    cost = squared_distances(x, y)
    # A single cell has no scale of its own.
    spread = 2 * y.detach().var(0, correction=0).sum()
    scale = float(spread) or float(cost.detach().mean()) or 1.0
    width = epsilon * scale
    _, g = potentials(cost.detach(), weights=(a, b), epsilon=width, tolerance=1e-3, most=_MOST)
    return _least(cost, (a, b), g, width) - (_own(x, a, width) + _own(y, b, width)) / 2


def shares(x: Float[Tensor, "n d"], weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, " n"]:
    """What share each cell of a sample has, from weights or the same for all."""
    if weights is None:
        return x.new_full((len(x),), 1 / len(x))
    return (weights / weights.sum()).to(x)


def _least(cost: Tensor, weights: tuple[Tensor, Tensor], g: Tensor, epsilon: float) -> Tensor:
    """The least of entropic transport, given a potential; its gradient is that of the cost under the plan."""
    a, b = weights
    return a @ softmin(cost, g, b, epsilon) + b @ g


def _own(x: Tensor, a: Tensor, epsilon: float) -> Tensor:
    """What entropic transport of a sample to itself costs."""
    cost = squared_distances(x, x)
    return _least(cost, (a, a), own_potential(cost.detach(), weights=a, epsilon=epsilon), epsilon)
