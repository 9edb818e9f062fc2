"""Dependence of variables, told by kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from chreode.axes import Float, Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["dhsic", "gaussian_kernel", "hsic", "median_width", "squared_distances", "usual_width"]


def gaussian_kernel(
    x: Float[Tensor, "n d"], *, width: float | Float[Tensor, ""] | None = None
) -> Float[Tensor, "n n"]:
    r"""The Gaussian kernel of all pairs.

    .. math:: k(x_i, x_j) = \exp\!\Big(-\frac{\lVert x_i - x_j \rVert^2}{2\sigma^2}\Big)

    Parameters
    ----------
    x
        Values of a variable, ``n x d``.
    width
        :math:`\sigma`, positive; None takes the `median_width`.

    Examples
    --------
    >>> import torch
    >>> gaussian_kernel(torch.tensor([[0.0], [1.0]]), width=1.0).round(decimals=4)
    tensor([[1.0000, 0.6065],
            [0.6065, 1.0000]])
    """
    square = _squares(x)
    sigma = median_width(x) if width is None else width
    return (-square / (2 * sigma**2)).exp()


@torch.no_grad()
def median_width(x: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    r"""The usual width of a kernel: the median distance of different cells; 1 where that is 0.

    No gradient follows it.

    Examples
    --------
    >>> import torch
    >>> median_width(torch.tensor([[0.0], [1.0], [3.0]])).item()
    2.0
    """
    return usual_width(_squares(x))


@torch.no_grad()
def usual_width(square: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """The `median_width` of cells whose squared distances are known."""
    rows, columns = torch.triu_indices(*square.shape, offset=1, device=square.device)
    pairs = square[rows, columns]
    median = pairs.median().sqrt() if len(pairs) else square.new_zeros(())
    return torch.where(median > 0, median, torch.ones_like(median))


def squared_distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Squared distances by one product, whose gradient is finite where they are 0.

    They are as exact as the squares of the coordinates: centre these where they are far from 0.
    """
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp_min(0)


def hsic(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> Float[Tensor, ""]:
    r"""The Hilbert-Schmidt independence criterion of two variables, the biased estimate.

    .. math:: \widehat{\mathrm{HSIC}} = \frac{1}{n^2} \mathrm{tr}(K H L H), \qquad H = I - \tfrac1n 1 1^\top

    with Gaussian kernels of the `median_width`.

    Parameters
    ----------
    x, y
        Values of the same cells, in the same order.

    Returns
    -------
    At least 0; 0 for independent variables as ``n`` grows.

    References
    ----------
    Gretton, Bousquet, Smola and Schoelkopf (2005), Measuring statistical dependence with Hilbert-Schmidt
    norms, doi:10.1007/11564089_7.
    """
    return dhsic([x, y])


def dhsic(variables: Sequence[Float[Tensor, "n _"]]) -> Float[Tensor, ""]:
    r"""The criterion for joint independence of several variables, the biased estimate.

    .. math::
        \frac{1}{n^2}\sum_{ij} \prod_a K^a_{ij} + \prod_a \frac{1}{n^2} \sum_{ij} K^a_{ij}
        - \frac{2}{n} \sum_i \prod_a \frac1n \sum_j K^a_{ij}

    with Gaussian kernels of the `median_width`; for two variables it is `hsic`.

    Parameters
    ----------
    variables
        Values of the same cells, in the same order; at least two variables.

    Returns
    -------
    At least 0; 0 for jointly independent variables as ``n`` grows.

    References
    ----------
    Pfister, Buehlmann, Schoelkopf and Peters (2018), Kernel-based tests for joint independence,
    doi:10.1111/rssb.12235.

    Examples
    --------
    >>> import torch
    >>> draw = torch.Generator().manual_seed(0)
    >>> a, b = torch.randn(200, 1, generator=draw), torch.randn(200, 1, generator=draw)
    >>> bool(dhsic([a, b]) < 0.1 * dhsic([a, a]))
    True
    """
    kernels = torch.stack([gaussian_kernel(x) for x in variables])
    rows = kernels.mean(2)
    return kernels.prod(0).mean() + kernels.mean((1, 2)).prod() - 2 * rows.prod(0).mean()


def _squares(x: Tensor) -> Tensor:
    # Of few dimensions: differences lose nothing where points are close, as a product would.
    return (x.unsqueeze(1) - x.unsqueeze(0)).square().sum(2)
