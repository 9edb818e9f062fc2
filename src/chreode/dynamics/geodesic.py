"""Ways between two cells that bend towards where other cells are, and a field that follows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.dynamics.fields import Perceptron, stack

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Geodesic", "Guided"]


class Geodesic(nn.Module):
    r"""Ways from one cell to another, straight but for what a network adds between the ends.

    .. math:: z_u = (1 - u) z_0 + u z_1 + 2 u (1 - u)\,\varphi(z_0, z_1, t)

    Parameters
    ----------
    dim
        Dimensions of the state.
    hidden
        Widths of the network's hidden layers.
    """

    def __init__(self, dim: int, *, hidden: Sequence[int] = (64, 64, 64)) -> None:
        super().__init__()
        self.layers = stack(2 * dim + 1, dim, hidden, nn.SELU)

    def forward(
        self,
        ends: tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]],
        *,
        share: Float[Tensor, "n 1"],
        start: Float[Tensor, "n 1"],
        gap: Float[Tensor, "n 1"],
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """States at a share u of the ways, which begin at a time and take another, and their velocities."""
        first, last = ends
        both = torch.cat(ends, 1)

        def bend(u: Tensor) -> Tensor:
            return self.layers(torch.cat([both, start + u * gap], 1))

        slopes: Any = torch.func.jvp(bend, (share,), (torch.ones_like(share),))
        added, turn = slopes
        hump = 2 * share * (1 - share)
        state = first + share * (last - first) + hump * added
        return state, (last - first + 2 * (1 - 2 * share) * added + hump * turn) / gap


class Guided(nn.Module):
    """A perceptron's velocity, which learns from ways that are short by a metric.

    Parameters
    ----------
    dim
        Dimensions of the state.
    hidden
        Widths of the hidden layers of the field, and of the network that bends the ways.
    metric
        ``metric(z, cells)``: the diagonal of a metric tensor at states.
    """

    metric: Any  # nn.Module's own __getattr__ would call it a Tensor

    def __init__(self, dim: int, *, hidden: Sequence[int] = (64, 64, 64), metric: nn.Module) -> None:
        super().__init__()
        self.flow, self.way, self.metric = (
            Perceptron(dim, hidden=hidden),
            Geodesic(dim, hidden=hidden),
            metric,
        )

    @property
    def reach(self) -> Tensor:
        """Of the flow, see `chreode.dynamics.fields.confinement`."""
        return self.flow.reach

    def begin(self, u: Float[Tensor, "n d"], *, zero: Float[Tensor, " d"]) -> None:
        """Show the cells that train to a metric that learns from them."""
        if hasattr(self.metric, "begin"):
            self.metric.begin(u)

    def forward(self, z: Float[Tensor, "n d"], t: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """The velocity."""
        return self.flow(z, t)
