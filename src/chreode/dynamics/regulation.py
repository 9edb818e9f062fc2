"""A field of genes that regulate each other through a network."""

from __future__ import annotations

import math

import torch
from torch import nn

from chreode.axes import Float, Int, Tensor
from chreode.dynamics.fields import confined

__all__ = ["Regulation"]

_SLOW = 0.5  # of the rates, at the start: what is lost in a mean interval
_ROOM = 1.2  # between the highest level that a gene was seen at, and what full production keeps it at


class Regulation(nn.Module):
    r"""Production of every gene as its regulators say, less decay.

    .. math::
        \frac{dx_i}{dt} = \alpha_i\,m_i\,\mathrm{sigmoid}\Big(b_i + \sum_{j \to i} w_{ij}\,x_j\Big)
                          - \alpha_i\,x_i, \qquad 0 < \alpha_i < \alpha_{max}, \quad m_i > 0

    with a weight for each edge of the network alone; :math:`m_i` is the level that full production keeps a
    gene at. So production is bounded and never negative, levels stay between 0 and the higher of
    :math:`m_i` and where they began. Levels are measured from 0, or from the least value of genes that have
    values below 0. Beyond ``reach`` from the mean the velocity has no outward part, see
    `chreode.dynamics.fields.confinement`.

    Parameters
    ----------
    genes
        How many, ``g``.
    edges
        Regulator and target of each edge, as positions; a gene may regulate itself.
    fastest
        :math:`\alpha_{max}`, the greatest rate of decay, per unit of time.

    References
    ----------
    Bertin et al. (2025), doi:10.48550/arXiv.2503.20027, where full production is 1 for every gene.
    """

    edges: Tensor
    reach: Tensor
    zero: Tensor

    def __init__(self, genes: int, edges: Int[Tensor, "2 e"], *, fastest: float = 8.0) -> None:
        super().__init__()
        self.fastest = fastest
        self.register_buffer("edges", edges, persistent=False)
        self.register_buffer("reach", torch.tensor(float("inf")))
        self.register_buffer("zero", torch.zeros(genes))
        self.weight = nn.Parameter(0.01 * torch.randn(edges.shape[1]))
        self.bias = nn.Parameter(torch.zeros(genes))
        self.log_top = nn.Parameter(torch.zeros(genes))
        self.rate = nn.Parameter(torch.full((genes,), math.log(_SLOW / (fastest - _SLOW))))

    @torch.no_grad()
    def begin(self, u: Float[Tensor, "n g"], *, zero: Float[Tensor, " g"]) -> None:
        """Take the levels from the states of the cells that train; at the start all tend to their mean."""
        self.zero.copy_(zero.minimum(u.amin(0)))
        above = u - self.zero
        top = (_ROOM * above.amax(0)).clamp_min(1e-3)
        self.log_top.copy_(top.log())
        self.bias.copy_((above.mean(0) / top).clamp(1e-3, 1 - 1e-3).logit())

    def weights(self) -> Float[Tensor, "g g"]:
        """``w``, a row for each target; 0 where there is no edge."""
        regulator, target = self.edges.unbind()
        g = len(self.bias)
        return self.weight.new_zeros(g, g).index_put((target, regulator), self.weight)

    def rates(self) -> Float[Tensor, " g"]:
        r""":math:`\alpha`."""
        return self.fastest * self.rate.sigmoid()

    def forward(self, u: Float[Tensor, "n g"], t: Float[Tensor, " n"]) -> Float[Tensor, "n g"]:
        """The velocity."""
        production = self.log_top.exp() * torch.sigmoid(u @ self.weights().T + self.bias)
        return confined(self.rates() * (production - (u - self.zero)), u, self.reach)
