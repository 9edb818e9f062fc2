"""What a step of the code is worth, in how well counts can tell: the geometry a decoder gives its codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from chreode.axes import Float, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["flatness", "geodesic_speed", "pullback"]

_LEAST = 1e-12  # counts expected of a feature: fewer say nothing, and their inverse would overflow


def pullback(
    mean_of: Callable[[Tensor], Tensor], z: Float[Tensor, "n d"], *, theta: Float[Tensor, " g"] | None = None
) -> Float[Tensor, "n d d"]:
    r"""The metric that a decoder of counts gives its codes: the Fisher information, pulled back.

    .. math:: M(z) = J^\top \mathrm{diag}(F)\, J, \qquad J_{gk} = \frac{\partial \mu_g(z)}{\partial z_k},
              \qquad F_g = \frac{1}{\mu_g + \mu_g^2 / \theta_g}

    so that a small step :math:`v` changes the law of a cell's counts by :math:`v^\top M v / 2` nats.

    Parameters
    ----------
    mean_of
        Gives the means of codes, ``n x d`` to ``n x g``, at least 0, each cell's from its own code alone
        (no normalisation over a minibatch). Where gradients are to reach its weights, it is differentiated
        twice, which decoders allow inside ``chreode.rounding.rounding(model, on=False)``.
    z
        Codes.
    theta
        Inverse dispersion of each feature; None for Poisson counts, ``1 / theta = 0``.

    Returns
    -------
    Symmetric, positive semi-definite; its gradient reaches codes, dispersions and the decoder's weights.

    Notes
    -----
    It holds ``n x d x g`` numbers, and a few times as many while gradients are followed: of a few tens of
    cells of a minibatch, not of all. It grows with the total of a cell, in proportion for Poisson counts:
    ask for cells of one size.

    The published code takes the derivatives of what goes into the softmax for those of the mean; these are of
    the mean.

    References
    ----------
    Palma, Rybakov, Hetzel, Guennemann and Theis (2025), FlatVI, doi:10.48550/arXiv.2507.11789. Arvanitidis,
    Hansen and Hauberg (2018), Latent space oddity, doi:10.48550/arXiv.1710.11379.

    Examples
    --------
    >>> import torch
    >>> pullback(torch.exp, torch.tensor([[0.0, 1.0]]))  # of Poisson counts: the means themselves
    tensor([[[1.0000, 0.0000],
             [0.0000, 2.7183]]])
    """
    d = z.shape[1]

    def slope(along: Tensor) -> Any:
        return torch.func.jvp(mean_of, (z,), (along,))

    axes = torch.eye(d, dtype=z.dtype, device=z.device)[:, None].expand(d, *z.shape)
    means, slopes = torch.func.vmap(slope)(axes)
    scaled = slopes * _root_information(means[0], theta)
    return scaled.permute(1, 0, 2) @ scaled.permute(1, 2, 0)


def flatness(
    metric: Float[Tensor, "n d d"], *, scale: float | Float[Tensor, ""] | None = None
) -> Float[Tensor, ""]:
    r"""How far a metric is from the same multiple of the identity at every cell.

    .. math:: \frac1n \sum_i \lVert M(z_i) - \alpha I \rVert_F^2

    Parameters
    ----------
    metric
        The `pullback` at codes.
    scale
        :math:`\alpha`; None for the best, :math:`\frac{1}{nd} \sum_i \mathrm{tr}\, M(z_i)`. The gradient is
        the same whether it follows that mean or not, as no other :math:`\alpha` gives less.

    Returns
    -------
    At least 0; 0 where straight lines of codes are geodesics, and of constant speed.

    Notes
    -----
    It falls with the square of the metric, thus also when codes spread or decoders heed them less. Of a
    metric that is divided by its best :math:`\alpha`, with ``scale=1.0``, it does not.

    References
    ----------
    Palma et al. (2025), FlatVI, doi:10.48550/arXiv.2507.11789, who train :math:`\alpha` or take the mean.

    Examples
    --------
    >>> import torch
    >>> metric = 3 * torch.eye(2).expand(4, 2, 2)
    >>> flatness(metric).item(), flatness(metric, scale=1.0).item()
    (0.0, 8.0)
    """
    alpha = metric.diagonal(dim1=1, dim2=2).mean() if scale is None else scale
    identity = torch.eye(metric.shape[1], dtype=metric.dtype, device=metric.device)
    return (metric - alpha * identity).square().sum((1, 2)).mean()


@torch.no_grad()
def geodesic_speed(
    mean_of: Callable[[Tensor], Tensor],
    *,
    start: Float[Tensor, "n d"],
    end: Float[Tensor, "n d"],
    theta: Float[Tensor, " g"] | None = None,
    steps: int = 20,
) -> Float[Tensor, "n t"]:
    r"""Speed along straight lines between codes, by the `pullback` metric.

    .. math:: \sqrt{v^\top M(z_0 + u v)\, v}, \qquad v = z_1 - z_0, \quad u = \tfrac{1}{2t}, \tfrac{3}{2t},
              \dots

    A geodesic has the same speed all along. One derivative a step is taken, along the line: it holds
    ``n x g`` numbers.

    Parameters
    ----------
    mean_of, theta
        As of `pullback`.
    start, end
        Codes :math:`z_0` and :math:`z_1`.
    steps
        Shares :math:`u` of the way, ``t`` of them.

    Returns
    -------
    ``n x t``; the mean over steps is the length of each line.

    References
    ----------
    Palma et al. (2025), FlatVI, doi:10.48550/arXiv.2507.11789.

    Examples
    --------
    >>> import torch
    >>> start, end = torch.tensor([[0.0]]), torch.tensor([[2.0]])
    >>> geodesic_speed(torch.exp, start=start, end=end, steps=2)  # the root of the mean, twice
    tensor([[2.5681, 4.2340]])
    """
    way = end - start
    speeds = []
    for step in range(steps):
        at = start + (step + 0.5) / steps * way
        here: Any = torch.func.jvp(mean_of, (at,), (way,))
        mean, slope = here
        speeds.append((slope * _root_information(mean, theta)).norm(dim=1))
    return torch.stack(speeds, 1)


def _root_information(mean: Float[Tensor, "n g"], theta: Float[Tensor, " g"] | None) -> Float[Tensor, "n g"]:
    """Root of the Fisher information about each mean."""
    mean = mean.clamp_min(_LEAST)
    return (mean if theta is None else mean * (1 + mean / theta)).rsqrt()
