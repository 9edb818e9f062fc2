"""Where codes start that are shared, and those that belong to levels: by what varies in these alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.infer.start import PrincipalStart
from chreode.named import Named

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from chreode.cells import Cells
    from chreode.layout import Layout

__all__ = ["Block", "ContrastiveStart", "PrivateStart", "excess"]

_TIMES = 3  # as many principal components as that many times the shared code's are compared


class Block(NamedTuple):
    """A private code: the column and the levels whose cells have it, and its dimensions."""

    column: str
    levels: tuple[str, ...]
    dim: int


class ContrastiveStart(nn.Module):
    r"""Principal components without what varies in the cells of some levels alone, which is kept apart.

    Of the scores :math:`s_i` on principal components (`PrincipalStart`, means of a column removed), with
    covariance :math:`C_b` in cells that have a private code and :math:`C_o` in the others:

    .. math::
        C_b f_k = \lambda_k C_o f_k, \quad f_k^\top C_b f_k = 1, \qquad
        p_{ik} = f_k^\top (s_i - \bar s_b), \qquad
        z_i = A^\top \Big(s_i - \sum_{k} (1 - \lambda_k^{-1/2})\, C_b f_k\, p_{ik}\Big)

    over the :math:`k` whose :math:`\lambda_k` is above what two samples of one law would have (`excess`), so
    that along each :math:`f_k` as much variance remains as other cells have; :math:`A` are the leading axes
    of what remains, in units of the first. Private codes start at the :math:`p_i` (`PrivateStart`).

    A free code stays near where it starts as long as another could say the same: from components alone the
    shared code would keep the programmes of single levels.

    Parameters
    ----------
    layout
        Features of the first modality are read.
    dim
        Dimensions of the shared code.
    blocks
        Private codes, by name. Of one column, a cell has at most one.
    batch
        Column whose levels' means are removed within clusters; None for none.

    References
    ----------
    Abid, Zhang, Bagaria and Zou (2018), contrastive principal components, doi:10.1038/s41467-018-04608-8.
    Deviation: a ratio of variances, which has a bound by chance, instead of a weighted difference.
    """

    axes: Tensor
    directions: Any

    def __init__(
        self, layout: Layout, dim: int, *, blocks: Mapping[str, Block], batch: str | None = None
    ) -> None:
        super().__init__()
        self.components = PrincipalStart(layout, _TIMES * dim, batch=batch)
        self.cite = (*self.components.cite, "cpca")
        self.directions = Named({name: _Directions(layout, _TIMES * dim, b) for name, b in blocks.items()})
        self.register_buffer("axes", torch.zeros(_TIMES * dim, dim))
        self.found: dict[str, Tensor] = {}

    def learn(self, cells: Cells, *, seed: int) -> Float[Tensor, "n d"]:
        """Find what varies in some levels alone, and return where shared codes start.

        What the cells have of private codes waits in ``found``, so that these need not project them again.
        """
        rest = scores = self.components.learn(cells, seed=seed)
        for some in self._by_column():  # those of a further attribute, in what the first ones left
            for one in some.values():
                one.learn(rest, cells)
            rest = _without(some, rest, cells)
        centred = (rest - rest.mean(0)).double()
        values, vectors = torch.linalg.eigh(centred.T @ centred / max(len(rest), 1))
        scale = values.max().clamp(min=1e-12).sqrt()
        self.axes.copy_(vectors.flip(1)[:, : self.axes.shape[1]] / scale)
        self.found = self._own(scores, cells)
        return self._placed(scores, cells)

    def forward(self, cells: Cells) -> Float[Tensor, "n d"]:
        """Where the shared codes of other cells start; of unknown level, with all that varies in them."""
        return self._placed(self.components(cells), cells)

    def own(self, cells: Cells) -> dict[str, Float[Tensor, "n p"]]:
        """What cells have of each private code: variance 1 in each dimension found, 0 where they lack it."""
        return self._own(self.components(cells), cells)

    def _own(self, scores: Tensor, cells: Cells) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for some in self._by_column():
            found |= {name: one(scores, cells) for name, one in some.items()}
            scores = _without(some, scores, cells)
        return found

    def _by_column(self) -> list[dict[str, _Directions]]:
        """Directions of each column's private codes."""
        found: dict[str, dict[str, _Directions]] = {}
        for name, one in self.directions.items():
            found.setdefault(one.column, {})[name] = one
        return list(found.values())

    def _placed(self, scores: Tensor, cells: Cells) -> Tensor:
        for some in self._by_column():
            scores = _without(some, scores, cells)
        return scores @ self.axes


class _Directions(nn.Module):
    """Of one private code: which cells have it, its filters, and what it adds to scores."""

    has: Tensor
    mean: Tensor
    filters: Tensor
    patterns: Tensor

    def __init__(self, layout: Layout, m: int, block: Block) -> None:
        super().__init__()
        self.column = layout.resolve(block.column).column
        levels = [level in block.levels for level in layout.resolve(block.column).levels]
        # The last entry is that of the unknown level, -1.
        self.register_buffer("has", torch.tensor([*levels, False]), persistent=False)
        self.register_buffer("mean", torch.zeros(m))
        self.register_buffer("filters", torch.zeros(m, block.dim))
        self.register_buffer("patterns", torch.zeros(m, block.dim))

    def learn(self, scores: Float[Tensor, "n m"], cells: Cells) -> None:
        """By the cells that have it, beside those that do not."""
        mine = self.has[cells.covariates[self.column]]
        if not mine.any():
            return
        self.mean.copy_(scores[mine].mean(0))
        found = excess(scores[mine], scores[~mine], most=self.filters.shape[1])
        for into, values in zip((self.filters, self.patterns), found, strict=True):
            into[:, : values.shape[1]] = values

    def forward(self, scores: Float[Tensor, "n m"], cells: Cells) -> Float[Tensor, "n p"]:
        """The private code of cells that have it, 0 of others."""
        return (scores - self.mean) @ self.filters * self.has[cells.covariates[self.column]][:, None]


def _without(some: Mapping[str, _Directions], scores: Tensor, cells: Cells) -> Tensor:
    """Scores without the private parts of one column, of which a cell has one."""
    return scores - torch.stack([one(scores, cells) @ one.patterns.T for one in some.values()]).sum(0)


def excess(
    own: Float[Tensor, "n m"], other: Float[Tensor, "o m"], *, most: int
) -> tuple[Float[Tensor, "m p"], Float[Tensor, "m p"]]:
    r"""Directions in which some cells vary more than others do, and more than by chance.

    Those of :math:`\lambda_k` (`ContrastiveStart`) above what is the largest of two samples of one normal law
    in the limit of many:

    .. math:: \lambda > \left(\frac{1 + \sqrt{a + b - ab}}{1 - b}\right)^2, \qquad a = m/n, \quad b = m/o

    Parameters
    ----------
    own, other
        Scores of cells that may have something of their own, and of those that do not.
    most
        Directions at most, those of the largest ratios.

    Returns
    -------
    Filters :math:`f_k`, and patterns :math:`(1 - \lambda_k^{-1/2})\, C_b f_k`; none where one side has
    fewer than two cells for each score.

    References
    ----------
    Wachter (1980), The limiting empirical measure of multiple discriminant ratios,
    doi:10.1214/aos/1176345134.

    Examples
    --------
    >>> import torch
    >>> draw = torch.Generator().manual_seed(0)
    >>> own, other = (torch.randn(500, 3, generator=draw) for _ in range(2))
    >>> own[:, 1] *= 4
    >>> filters, patterns = excess(own, other, most=2)
    >>> filters.shape, filters.abs().argmax().item()  # the second of three, in units of its own spread
    (torch.Size([3, 1]), 1)
    """
    varies = torch.cat([own, other]).var(0) > 0
    n, o, m = len(own), len(other), int(varies.sum())
    if min(n, o) < 2 * m or not m:
        return own.new_zeros(own.shape[1], 0), own.new_zeros(own.shape[1], 0)
    here, there = (_covariance(x[:, varies]) for x in (own, other))
    ridge = 1e-6 * there.diagonal().mean() * torch.eye(m).to(there)
    inverse = torch.linalg.inv(torch.linalg.cholesky(there + ridge))
    values, vectors = torch.linalg.eigh(inverse @ here @ inverse.T)
    a, b = m / n, m / o
    bound = ((1 + np.sqrt(a + b - a * b)) / (1 - b)) ** 2
    chosen = [k for k in values.argsort(descending=True)[:most].tolist() if values[k] > bound]
    filters = inverse.T @ vectors[:, chosen] / values[chosen].sqrt()
    filters = filters * filters.gather(0, filters.abs().argmax(0)[None]).sign()  # so that runs are comparable
    patterns = here @ filters * (1 - values[chosen].rsqrt())
    whole = own.new_zeros(2, own.shape[1], len(chosen))
    whole[:, varies] = torch.stack([filters, patterns]).to(whole)
    return whole[0], whole[1]


def _covariance(x: Float[Tensor, "n m"]) -> Tensor:
    centred = (x - x.mean(0)).double()
    return centred.T @ centred / max(len(x) - 1, 1)


class PrivateStart(nn.Module):
    """Each private code at the mean of its prior, which depends on the cell's levels, plus what is its own.

    Parameters
    ----------
    prior
        Whose densities have a ``mean`` for each cell; None for a mean of zero.
    contrast
        Learns before.
    blocks
        Its private codes that this one holds, side by side.
    """

    cite = ()

    def __init__(self, prior: nn.Module | None, contrast: ContrastiveStart, blocks: Sequence[str]) -> None:
        super().__init__()
        self._others: Any = (prior, contrast)  # of the latents, whose state is not saved twice
        self.blocks = tuple(blocks)

    def learn(self, cells: Cells, *, seed: int = 0) -> Float[Tensor, "n d"]:
        """The codes of the training cells, of which the contrast has learned."""
        found = self._others[1].found
        return self._codes(cells, {name: found.pop(name) for name in self.blocks})

    def forward(self, cells: Cells) -> Float[Tensor, "n d"]:
        """The mean for each cell, and what it has of its own."""
        return self._codes(cells, self._others[1].own(cells))

    def _codes(self, cells: Cells, parts: dict[str, Tensor]) -> Tensor:
        own, prior = torch.cat([parts[name] for name in self.blocks], 1), self._others[0]
        return own if prior is None else prior(cells).mean.detach().to(own) + own
