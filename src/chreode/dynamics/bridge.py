"""A flow with the score of the cells that it carries, as Schroedinger bridges have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.dynamics.fields import Perceptron

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Scored", "brownian_bridge"]


class Scored(nn.Module):
    r"""A probability flow, and beside it the score of the cells at each time.

    .. math:: \frac{dz}{dt} = v(z, t), \qquad s(z, t) = \nabla_z \log p_t(z)

    Both are perceptrons. The stochastic process :math:`dz = (v + \tfrac{\sigma^2}{2} s)\,dt + \sigma\,dW` has
    the same cells at every time as the flow alone.

    Parameters
    ----------
    dim
        Dimensions of the state.
    hidden
        Widths of the hidden layers of each.
    noise
        :math:`\sigma`, above 0.
    """

    def __init__(self, dim: int, *, hidden: Sequence[int] = (64, 64, 64), noise: float) -> None:
        super().__init__()
        self.flow, self.pull, self.noise = (
            Perceptron(dim, hidden=hidden),
            Perceptron(dim, hidden=hidden),
            noise,
        )

    @property
    def reach(self) -> Tensor:
        """Of the flow, see `chreode.dynamics.fields.confinement`."""
        return self.flow.reach

    def forward(self, z: Float[Tensor, "n d"], t: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """The velocity."""
        return self.flow(z, t)

    def score(self, z: Float[Tensor, "n d"], t: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """The gradient of the log density."""
        # What the network makes is the score's part of the drift, whose size hardly depends on the noise.
        return self.pull(z, t) * (2 / self.noise**2)


def brownian_bridge(
    ends: tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]],
    *,
    share: Float[Tensor, "n 1"],
    gap: Float[Tensor, "n 1"],
    noise: float,
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"], Float[Tensor, "n d"], Float[Tensor, "n 1"]]:
    r"""States on Brownian bridges, the velocity of the flow there, and what the score is taught by.

    .. math::
        z_u = (1 - u) z_0 + u z_1 + \sigma_u \varepsilon, \quad \sigma_u^2 = \sigma^2 h\,u (1 - u), \qquad
        v = \frac{1}{h} \Big( z_1 - z_0 + \frac{1 - 2u}{2 u (1 - u)} \sigma_u \varepsilon \Big), \quad
        s = -\varepsilon / \sigma_u

    Parameters
    ----------
    ends
        :math:`z_0` and :math:`z_1`.
    share
        :math:`u`, between 0 and 1, both excluded.
    gap
        :math:`h`, the time between both ends.
    noise
        :math:`\sigma`, after a time of 1.

    Returns
    -------
    :math:`z_u`, :math:`v`, :math:`\varepsilon` and :math:`\sigma_u`.
    """
    first, last = ends
    wide = noise * (gap * share * (1 - share)).sqrt()
    drawn = torch.randn_like(first)
    away = wide * drawn
    slope = last - first + (1 - 2 * share) / (2 * share * (1 - share)) * away
    return first + share * (last - first) + away, slope / gap, drawn, wide
