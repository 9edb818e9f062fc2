"""A field as it is near some cells: linear in the state, of each cell for itself."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from chreode.axes import Float, Tensor

__all__ = ["Linearised"]

_NORM = 2.0  # of a matrix whose exponential's series is summed, at most: few digits cancel
_TERMS = 26  # of that series, at most: the remainder is below 1e-18


class Linearised(NamedTuple):
    r"""Velocities :math:`G_i S z + b_i - \kappa_i P z` of cells i, cells last: so a product is a sum of rows.

    Parameters
    ----------
    gain
        ``G``, what each of ``r`` directions adds to the velocity.
    sight
        ``S``, the directions of the state that are seen, the same for all cells.
    offset
        ``b``.
    pull
        :math:`\kappa`, at least 0; None where nothing is pulled.
    plane
        ``P``, symmetric, onto the directions that are pulled; None for all.
    """

    gain: Float[Tensor, "d r n"]
    sight: Float[Tensor, "r d"]
    offset: Float[Tensor, "d n"]
    pull: Float[Tensor, " n"] | None = None
    plane: Float[Tensor, "d d"] | None = None

    def velocity(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Of the states."""
        found = (_times(self.gain, self.sight @ z.T) + self.offset).T
        if self.pull is None:
            return found
        return found - self.pull[:, None] * (z if self.plane is None else z @ self.plane)

    def operator(self) -> Float[Tensor, "n d d"]:
        """``G S``, of each cell."""
        return torch.einsum("drn,re->nde", self.gain, self.sight)

    def between(self, far: Linearised) -> Linearised:
        """The mean with the field at the end of a step; where that pulls, it holds alone."""
        if self.pull is None and far.pull is None:
            return self._replace(gain=(self.gain + far.gain) / 2, offset=(self.offset + far.offset) / 2)
        free = torch.zeros_like(self.offset[0])
        here, there = (free if near.pull is None else near.pull for near in (self, far))
        share = torch.where(there > 0, 1.0, 0.5)
        return self._replace(
            gain=self.gain.lerp(far.gain, share),
            offset=self.offset.lerp(far.offset, share),
            pull=here.lerp(there, share),
        )

    def move(self, z: Float[Tensor, "n d"], h: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
        r"""States after times ``h``.

        .. math::
            z(h) = z + h b + h G \Big(w + \sum_{k \ge 1} \frac{M^{k-1} (M w + h S b)}{(k+1)!}\Big), \qquad
            w = S z, \quad M = h S G

        which is the exponential's action, with products in the ``r`` directions alone. The series is summed
        to the precision of its numbers, the way cut so that the norm of ``M`` is at most 2. The pull acts
        half before, half after.
        """
        z = self._pulled(z, h / 2)
        seen = torch.einsum("sd,drn->srn", self.sight, self.gain) * h
        cuts, terms = _cuts(seen)
        seen, part = seen / cuts, h / cuts
        w, driven = self.sight @ z.T, (self.sight @ self.offset) * part
        total = torch.zeros_like(w)
        for _ in range(cuts):
            first = _times(seen, w) + driven
            found = first
            for k in range(terms + 1, 2, -1):
                found = torch.add(first, _times(seen, found), alpha=1 / k)
            mean = w + found / 2
            total = total + mean
            w = w + driven + _times(seen, mean)
        moved = self.offset * h + _times(self.gain, total * part)
        return self._pulled(z + moved.T, h / 2)

    def _pulled(self, z: Tensor, h: Tensor) -> Tensor:
        """What the pull leaves of states after a time."""
        if self.pull is None:
            return z
        lost = 1 - (-self.pull * h).exp()
        return z - lost[:, None] * (z if self.plane is None else z @ self.plane)


def _times(matrices: Float[Tensor, "d r n"], vectors: Float[Tensor, "r n"]) -> Float[Tensor, "d n"]:
    return (matrices * vectors).sum(1)


@torch.no_grad()
def _cuts(matrices: Float[Tensor, "r r n"]) -> tuple[int, int]:
    """In how many parts, and how many terms of the series in each."""
    norm = float(matrices.abs().sum(0).amax()) if matrices.numel() else 0.0
    cuts = max(1, min(1024, math.ceil(norm / _NORM))) if norm < float("inf") else 1
    terms, left = 1, min(norm / cuts, _NORM)
    while left > torch.finfo(matrices.dtype).eps / 8 and terms < _TERMS:
        terms += 1
        left *= norm / cuts / terms
    return cuts, terms
