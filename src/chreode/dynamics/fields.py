"""Fields that move cells: the velocity of a state at a time."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.dynamics.linearised import Linearised

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["LocallyLinear", "Perceptron", "stack"]

_SMALL = 0.01  # of the usual start of the last layer: cells stand still until something is learned


class Perceptron(nn.Module):
    r"""A velocity by a multilayer perceptron of state and time.

    .. math:: \frac{dz}{dt} = f(z, t)

    Beyond ``reach`` from the origin it has no outward part, see `confinement`.

    Parameters
    ----------
    dim
        Dimensions ``d`` of the state.
    hidden
        Widths of the hidden layers, at least one.
    activation
        Of their units.
    """

    reach: Tensor

    def __init__(
        self, dim: int, *, hidden: Sequence[int] = (64, 64, 64), activation: Callable[[], nn.Module] = nn.SELU
    ) -> None:
        super().__init__()
        self.layers = stack(dim + 1, dim, hidden, activation)
        self.register_buffer("reach", torch.tensor(float("inf")))

    def forward(self, z: Float[Tensor, "n d"], t: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """The velocity."""
        return confined(self.layers(torch.cat([z, t[:, None]], 1)), z, self.reach)

    def paths(self) -> Float[Tensor, "d d"]:
        """The weights of all paths from each coordinate of the state to each of the velocity (its rows)."""
        first, *others = (p.abs() for p in self.layers.parameters() if p.ndim == 2)
        found = first[:, :-1]  # the last input is the time
        for weight in others:
            found = weight @ found
        return found


class LocallyLinear(nn.Module):
    r"""A velocity that is linear in the state, by an operator that a network makes of state and time.

    .. math:: \frac{dz}{dt} = A(z, t)\,z + b(z, t), \qquad
              A = \frac{\beta M S}{\sqrt{\beta^2 + \lVert M \rVert_F^2 / d}}

    with ``M`` and ``b`` the network's. ``S`` has ``r`` orthonormal rows, learned, the directions in which the
    operator is linear; of up to ``rank`` dimensions it is the identity, and ``A`` any matrix. The operator's
    root mean square singular value stays below the bound :math:`\beta`. Beyond
    ``reach`` from the origin a multiple of the state is taken from the velocity so that it has no outward
    part, see `confinement`: so no cell leaves a ball of twice that radius.

    Parameters
    ----------
    dim
        Dimensions ``d`` of the state.
    hidden
        Widths of the hidden layers, at least one.
    affine
        Whether there is a ``b``; without it, as published, the origin cannot move.
    bound
        :math:`\beta`, above 0, per unit of time; infinite to leave the operator as it is.
    rank
        Directions ``r`` at most; None for as many as dimensions.
    activation
        Of the hidden units.

    References
    ----------
    Cell-MNN (2025), doi:10.48550/arXiv.2510.02903, where A is diagonalisable with real eigenvalues (no
    rotation), unbounded, and ``b`` is 0.
    """

    reach: Tensor

    def __init__(
        self,
        dim: int,
        *,
        hidden: Sequence[int] = (96, 96, 96, 96),
        affine: bool = True,
        bound: float = 4.0,
        rank: int | None = None,
        activation: Callable[[], nn.Module] = nn.LeakyReLU,
    ) -> None:
        super().__init__()
        self.dim, self.rank, self.affine, self.bound = dim, min(dim, rank or dim), affine, bound
        self.layers = stack(dim + 1, dim * self.rank + dim * affine, hidden, activation)
        if self.rank < dim:
            self.directions = nn.Parameter(torch.linalg.qr(torch.randn(dim, self.rank))[0])
        self.register_buffer("reach", torch.tensor(float("inf")))

    def forward(self, z: Float[Tensor, "n d"], t: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """The velocity."""
        return self.operator(z, t).velocity(z)

    def operator(self, z: Float[Tensor, "n d"], t: Float[Tensor, " n"]) -> Linearised:
        """The field near the states."""
        d, r = self.dim, self.rank
        last: Any = self.layers[-1]
        seen = self.layers[:-1](torch.cat([z, t[:, None]], 1))
        made = torch.addmm(last.bias[:, None], last.weight, seen.T)  # cells last
        gain = made[: d * r].view(d, r, -1)
        if self.bound < float("inf"):
            size = gain.square().sum((0, 1)) / d
            gain = gain * (self.bound / (self.bound**2 + size).sqrt())
        sight = (
            torch.linalg.qr(self.directions)[0].T if r < d else torch.eye(d, dtype=z.dtype, device=z.device)
        )
        near = Linearised(gain, sight, made[d * r :] if self.affine else torch.zeros_like(z.T))
        if _within(z, self.reach):
            return near
        return near._replace(pull=confinement(near.velocity(z), z, self.reach))


def confinement(
    velocity: Float[Tensor, "n d"], z: Float[Tensor, "n d"], reach: Float[Tensor, ""]
) -> Float[Tensor, " n"]:
    r"""The pull towards the origin, per unit of the state, that takes a velocity's outward part beyond reach.

    .. math:: \kappa = w\big(\lVert z \rVert / \rho\big)\,\frac{\max(v \cdot z, 0)}{\lVert z \rVert^2}, \qquad
              v' = v - \kappa z

    with ``w`` rising smoothly from 0 at the reach :math:`\rho` to 1 at twice it. Within it nothing changes.
    """
    square = z.square().sum(1).clamp_min(torch.finfo(z.dtype).tiny)
    share = (square.sqrt() / reach - 1).clamp(0, 1)
    weight = share * share * (3 - 2 * share)
    return weight * (velocity * z).sum(1).clamp_min(0) / square


def confined(
    velocity: Float[Tensor, "n d"], z: Float[Tensor, "n d"], reach: Float[Tensor, ""]
) -> Float[Tensor, "n d"]:
    """A velocity less what `confinement` takes."""
    if _within(z, reach):
        return velocity
    return velocity - confinement(velocity, z, reach)[:, None] * z


@torch.no_grad()
def _within(z: Float[Tensor, "n d"], reach: Float[Tensor, ""]) -> bool:
    """Whether no cell is beyond reach, so that nothing pulls any: most of the time, and it costs little."""
    return bool((z.square().sum(1) <= reach.square()).all())


def stack(
    inputs: int, outputs: int, hidden: Sequence[int], activation: Callable[[], nn.Module]
) -> nn.Sequential:
    """Layers of a network whose last one makes little at first."""
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise([inputs, *hidden]):
        linear = nn.Linear(before, after)
        nn.init.kaiming_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        parts += [linear, activation()]
    last = nn.Linear(hidden[-1], outputs)
    with torch.no_grad():
        nn.init.kaiming_normal_(last.weight).mul_(_SMALL)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*parts, last)
