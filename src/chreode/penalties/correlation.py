"""Dependence of blocks of a code over cells, told by their posteriors."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Literal

import torch

from chreode.axes import Float, Tensor
from chreode.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["total_correlation"]


def total_correlation(
    samples: Float[Tensor, "n d"],
    posteriors: tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]],
    *,
    blocks: Sequence[int],
    n_cells: int,
    sampling: Literal["stratified", "weighted"] = "stratified",
) -> Float[Tensor, ""]:
    r"""Total correlation of blocks of a code, over all cells, from a minibatch.

    .. math:: \mathrm{KL}\Big(q(z) \,\Big\Vert\, \prod_b q(z_b)\Big), \qquad
              q(z) = \frac1N \sum_j q(z \mid x_j) \approx \sum_{j} w_{ij}\, q(z_i \mid x_j)

    with diagonal Gaussian posteriors, at one sample of each cell of a minibatch of :math:`n` out of
    :math:`N` cells, and

    .. math:: w_{ii} = \frac1N, \quad w_{ij} = \frac{N - 1}{N (n - 1)} \quad\text{(stratified)}, \qquad
              w_{ij} = \frac{1}{N n} \quad\text{(weighted)}

    Parameters
    ----------
    samples
        A code of each cell, drawn from its posterior.
    posteriors
        Means and variances, of the same cells in the same order.
    blocks
        Numbers of consecutive dimensions in each block: ``[9, 1]`` for independence of the last from the
        others, ``[1] * d`` for that of all.
    n_cells
        Cells that train, :math:`N`, at least ``n``.
    sampling
        Weights of the posteriors.

    Returns
    -------
    In nats; 0, with a gradient of 0, of a minibatch of one cell.

    Raises
    ------
    InputError
        When blocks do not add up to ``d``, or there are fewer cells than in the minibatch.

    Notes
    -----
    The papers weigh: every density is then too small by a factor of about ``N``, the total correlation too
    large by about ``log(N)`` for each block but one, and a cell's own posterior counts ``N / n`` times too
    much in its gradient. Stratified densities are unbiased, and exact where the minibatch is all cells. Their
    logarithms are not: where posteriors are so narrow in so many dimensions that no two cells of a minibatch
    overlap, no weights help. It takes memory for ``n x n x d`` numbers.

    References
    ----------
    Chen, Li, Grosse and Duvenaud (2018), Isolating sources of disentanglement in variational autoencoders,
    doi:10.48550/arXiv.1802.04942. Aliee, Kapl, Hediyeh-Zadeh and Theis (2023), inVAE, between two blocks,
    doi:10.48550/arXiv.2307.00558.

    Examples
    --------
    >>> import torch
    >>> draw = torch.Generator().manual_seed(0)
    >>> shared = torch.randn(500, 1, generator=draw)
    >>> mean, variance = torch.cat([shared, shared], 1), torch.full((500, 2), 0.5)
    >>> z = mean + variance.sqrt() * torch.randn(500, 2, generator=draw)
    >>> value = total_correlation(z, (mean, variance), blocks=[1, 1], n_cells=500)
    >>> round(value.item(), 1)  # about -log(1 - r^2) / 2
    0.3
    """
    n, d = samples.shape
    if sum(blocks) != d or n_cells < n:
        msg = (
            f"Expected blocks of {d} dimensions together and at least {n} cells; found blocks {list(blocks)} "
            f"and {n_cells} cells. Split all dimensions into blocks, and count all cells that train."
        )
        raise InputError(msg)
    if n == 1:
        return samples[:0].sum()
    mean, variance = posteriors
    # By differences, of which narrow posteriors leave more than of products.
    by_dimension = ((samples[:, None] - mean).square() / variance + variance.log()) / -2
    by_block = torch.stack([block.sum(2) for block in by_dimension.split(list(blocks), 2)])
    densities = torch.cat([by_block.sum(0, keepdim=True), by_block]) + _weights(samples, n_cells, sampling)
    joint, *apart = densities.logsumexp(2).mean(1)
    return joint - torch.stack(apart).sum()


def _weights(samples: Tensor, n_cells: int, sampling: str) -> Tensor:
    """Logarithms of what each posterior weighs in the density at each sample."""
    n = len(samples)
    if sampling == "weighted":
        return samples.new_full((n, n), -log(n_cells * n))
    return samples.new_full((n, n), log((n_cells - 1) / (n_cells * (n - 1)))).fill_diagonal_(-log(n_cells))
