"""How far samples of codes are from each other, and codes from none."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import torch

from chreode.axes import Float, Int, Tensor
from chreode.errors import InputError
from chreode.penalties.kernels import squared_distances, usual_width

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "TRVAE_WIDTHS",
    "WIDTHS",
    "mmd",
    "mmd_by_level",
    "sliced_wasserstein",
    "wasserstein_by_level",
    "wasserstein_to_zero",
]

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Widths of kernels in units of the median distance."""

TRVAE_WIDTHS = tuple(
    sqrt(g) for g in (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1, *range(5, 36, 5), 100, 1e3, 1e4, 1e5, 1e6)
)
"""Widths of trVAE's 19 kernels, in units of the coordinates: to be asked for with ``unit=1.0``."""

_PAIR = 2  # cells that a level needs to be compared: fewer have no distance within


def mmd(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    widths: Sequence[float] = WIDTHS,
    unit: float | None = None,
    unbiased: bool = True,
) -> Float[Tensor, ""]:
    r"""Squared maximum mean discrepancy between two samples under a sum of Gaussian kernels.

    .. math:: \overline{k(x, x')} + \overline{k(y, y')} - 2\,\overline{k(x, y)}, \qquad
              k(u, v) = \sum_w \exp\Big(-\frac{\lVert u - v \rVert^2}{2 w^2 \sigma^2}\Big)

    `chreode.dynamics.mmd` is that under Laplace kernels, with weights of cells.

    Parameters
    ----------
    x, y
        The samples, of at least two cells each.
    widths
        :math:`w`, above 0. `TRVAE_WIDTHS` with ``unit=1.0`` are those of trVAE.
    unit
        :math:`\sigma`, above 0; None for the median distance of different cells of both samples, which no
        gradient follows.
    unbiased
        Whether means within a sample leave out each cell's kernel with itself. The default, as the gradient
        is then on average that of the laws the samples come from, and 0 where these are one; the value is
        negative about as often as positive there. With them, as in trVAE, the estimate is never negative, but
        too large by about :math:`(k(u, u) - \overline{k}) (1/n + 1/m)`, which codes that shrink make smaller.

    Raises
    ------
    InputError
        When a sample has fewer than two cells.

    References
    ----------
    Gretton et al. (2012), *A kernel two-sample test*, JMLR 13, 723-773. Lotfollahi et al. (2020), trVAE,
    doi:10.1093/bioinformatics/btaa800.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> mmd(x, x, unbiased=False).item()
    0.0
    >>> mmd(x, x + 100, widths=[1.0], unit=1.0, unbiased=False).round(decimals=4)
    tensor(1.6065)
    """
    z, index, count = _two(x, y, fewest=_PAIR)
    return _over_pairs(_discrepancies(z, index, count, widths=widths, unit=unit, unbiased=unbiased), count)


def mmd_by_level(
    z: Float[Tensor, "n d"],
    levels: Int[Tensor, " n"],
    *,
    widths: Sequence[float] = WIDTHS,
    unit: float | None = None,
    unbiased: bool = True,
) -> Float[Tensor, ""]:
    r"""The `mmd` between cells of different levels, on average over pairs of levels.

    .. math:: \frac{\sum_{a<b} w_{ab}\,\mathrm{MMD}^2(z_a, z_b)}{\sum_{a<b} w_{ab}}, \qquad
              w_{ab} = \frac{n_a n_b}{n_a + n_b}

    so that a pair of rare levels, whose discrepancy a minibatch hardly tells, counts less. All pairs come
    from one matrix of kernels, of all cells that are compared; its median is their common unit.

    Parameters
    ----------
    z
        Codes of a minibatch.
    levels
        The level of each cell; those of unknown level, -1, and of levels with one cell are left out.
    widths, unit, unbiased
        As of `mmd`.

    Returns
    -------
    The average; 0, with a gradient of 0, where fewer than two levels have two cells.

    Notes
    -----
    trVAE sums over pairs, so that its weight must change with the number of levels.

    Examples
    --------
    >>> import torch
    >>> z = torch.tensor([[0.0], [1.0], [0.0], [1.0], [9.0]])
    >>> mmd_by_level(z, torch.tensor([0, 0, 1, 1, -1]), unbiased=False).item()
    0.0
    """
    kept, index, count = _compared(levels)
    if len(count) < _PAIR:
        return z[:0].sum()
    apart = _discrepancies(z[kept], index, count, widths=widths, unit=unit, unbiased=unbiased)
    return _over_pairs(apart, count)


def sliced_wasserstein(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    generator: torch.Generator,
    projections: int = 50,
) -> Float[Tensor, ""]:
    r"""Squared sliced Wasserstein-2 distance between two samples.

    .. math:: \frac1P \sum_p \int_0^1 \big(F^{-1}_{p}(u) - G^{-1}_{p}(u)\big)^2 du

    with the quantiles of both samples along random directions :math:`p` of length 1. Quantiles are steps, and
    the integral is exact for samples of any two sizes. `chreode.dynamics.sinkhorn` transports in all
    dimensions at once.

    Parameters
    ----------
    x, y
        The samples, of at least one cell each.
    generator
        Draws the directions.
    projections
        Directions :math:`P`.

    Returns
    -------
    At least 0, and above 0 also between two samples of one law, the more the fewer cells. That of a sample
    and itself moved by :math:`v` is :math:`\lVert v \rVert^2 / d` on average over directions.

    Raises
    ------
    InputError
        When a sample has no cell.

    References
    ----------
    Bonneel, Rabin, Peyre and Pfister (2015), Sliced and Radon Wasserstein barycenters of measures,
    doi:10.1007/s10851-014-0506-3.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> sliced_wasserstein(x, torch.tensor([[2.0]]), generator=torch.Generator().manual_seed(0))
    tensor(2.5000)
    """
    z, index, count = _two(x, y, fewest=1)
    return _over_pairs(_slices(z, index, count, _directions(z, projections, generator)), count)


def wasserstein_by_level(
    z: Float[Tensor, "n d"],
    levels: Int[Tensor, " n"],
    *,
    generator: torch.Generator,
    projections: int = 50,
) -> Float[Tensor, ""]:
    """The `sliced_wasserstein` between cells of different levels, on average over pairs of levels.

    Pairs are weighted as by `mmd_by_level`, and share their directions; codes are sorted once.

    Parameters
    ----------
    z
        Codes of a minibatch.
    levels
        The level of each cell; those of unknown level, -1, and of levels with one cell are left out.
    generator, projections
        As of `sliced_wasserstein`.

    Returns
    -------
    The average; 0, with a gradient of 0, where fewer than two levels have two cells.

    Examples
    --------
    >>> import torch
    >>> z, levels = torch.tensor([[0.0], [1.0], [3.0], [4.0]]), torch.tensor([0, 0, 1, 1])
    >>> wasserstein_by_level(z, levels, generator=torch.Generator().manual_seed(0))
    tensor(9.0000)
    """
    kept, index, count = _compared(levels)
    directions = _directions(z, projections, generator)
    if len(count) < _PAIR:
        return z[:0].sum()
    return _over_pairs(_slices(z[kept], index, count, directions), count)


def wasserstein_to_zero(mean: Float[Tensor, "n d"], variance: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    r"""Squared Wasserstein-2 distance of Gaussian posteriors from codes that are exactly 0.

    .. math:: W_2^2\big(\mathcal N(m, \mathrm{diag}\,v),\ \delta_0\big) = \sum_k m_k^2 + v_k

    Parameters
    ----------
    mean, variance
        Of each cell's posterior.

    References
    ----------
    Weinberger, Lopez, Huetter and Regev (2022), multiGroupVI, doi:10.1101/2022.12.13.520349. Weinberger, Lin
    and Lee (2023), contrastiveVI, doi:10.1038/s41592-023-01955-3.

    Examples
    --------
    >>> import torch
    >>> wasserstein_to_zero(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.5]]))
    tensor([10.5000])
    """
    return (mean.square() + variance).sum(1)


def _two(x: Tensor, y: Tensor, *, fewest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two samples as one, which of them each cell is of, and their numbers of cells."""
    if min(len(x), len(y)) < fewest:
        what = "one cell" if fewest == 1 else f"{fewest} cells"
        msg = f"Expected at least {what} in each sample; found {len(x)} and {len(y)}. Give more cells."
        raise InputError(msg)
    count = torch.tensor([len(x), len(y)], device=x.device)
    return torch.cat([x, y]), torch.arange(2, device=x.device).repeat_interleave(count), count


def _compared(levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which cells have levels that can be compared, which of these, and their numbers of cells."""
    known = levels >= 0
    count = torch.bincount(levels[known], minlength=1)
    enough = count >= _PAIR
    kept = known & enough[levels.clamp_min(0)]
    return kept, (enough.cumsum(0) - 1)[levels[kept]], count[enough]


def _over_pairs(apart: Tensor, count: Tensor) -> Tensor:
    """Distances of levels, ``c x c``, on average over their pairs."""
    several = count.to(apart)
    weight = (several[:, None] * several / (several[:, None] + several)).triu(1)
    return (weight * apart).sum() / weight.sum()


def _discrepancies(
    z: Tensor, index: Tensor, count: Tensor, *, widths: Sequence[float], unit: float | None, unbiased: bool
) -> Tensor:
    """Squared maximum mean discrepancies of all pairs of levels."""
    # Where codes lie as a whole matters to nothing but rounding.
    z = z - z.detach().mean(0)
    square = squared_distances(z, z)
    sigma = usual_width(square) if unit is None else unit
    kernel = torch.stack([torch.exp(square / (-2 * (width * sigma) ** 2)) for width in widths]).sum(0)
    # Each cell's with itself is known, and rounding would show in the narrowest.
    kernel = kernel.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), 0)
    member = torch.nn.functional.one_hot(index, len(count)).to(z)
    total = member.T @ kernel @ member
    n = count.to(z)
    own = total.diagonal()
    within = own / (n * (n - 1)) if unbiased else (own + n * len(widths)) / n**2
    return within[:, None] + within - 2 * total / (n[:, None] * n)


def _directions(z: Tensor, projections: int, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(z.shape[1], projections, generator=generator, device=generator.device)
    return torch.nn.functional.normalize(drawn, dim=0).to(z)


def _slices(z: Tensor, index: Tensor, count: Tensor, directions: Tensor) -> Tensor:
    """Squared sliced distances of all pairs of levels."""
    along = z @ directions
    order = along.detach().argsort(0)
    order = order.gather(0, index[order].argsort(stable=True, dim=0))
    rows, share = (part.to(z.device) for part in _steps(count.cpu()))
    # By level and ascending, then as steps that begin and end together in all levels.
    ascending = along.gather(0, order)
    quantile = ascending.index_select(0, rows.flatten()).view(*rows.shape, -1)
    flat = (quantile * share.to(z).sqrt()[:, None]).flatten(1)
    flat = flat - flat.detach().mean(0)
    return squared_distances(flat, flat) / directions.shape[1]


def _steps(count: Tensor) -> tuple[Tensor, Tensor]:
    """Of cells in ascending order by level: which is each level's at each step of the quantiles, ``c x q``.

    And how long the steps are. They end wherever those of a level do, at most as many as there are cells.
    """
    before = count.cumsum(0) - count
    rank = torch.arange(int(count.sum())) - before.repeat_interleave(count)
    ends = ((rank + 1).double() / count.repeat_interleave(count)).unique()
    share = ends.diff(prepend=ends.new_zeros(1))
    middle = ends - share / 2
    return before[:, None] + (middle * count[:, None]).long(), share
