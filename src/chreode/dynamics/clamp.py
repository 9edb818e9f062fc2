"""Features held at a value while cells move: states kept in the plane where they have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from chreode.axes import Float, Tensor
from chreode.dynamics.fields import confined, confinement

if TYPE_CHECKING:
    from chreode.dynamics.linearised import Linearised
    from chreode.dynamics.solve import Operator

__all__ = ["Clamp", "Clamped"]


class Clamp:
    r"""The states at which features, linear in the state, have given values: a plane.

    .. math:: C z = v, \qquad z' = z - C^{+}(C z - v), \qquad P = I - C^{+} C

    with :math:`z'` the nearest state in the plane, and ``P`` what takes from a velocity the part that leads
    out of it. Where features are coordinates ``C`` has a single 1 in each row, and both change these alone.

    Parameters
    ----------
    rows
        ``C``, a row for each feature, linearly independent.
    values
        ``v``, of each, for all states or for each of ``n``.

    Examples
    --------
    >>> plane = Clamp(torch.tensor([[1.0, 1.0]]), torch.tensor([2.0]))
    >>> plane.nearest(torch.tensor([[3.0, 1.0]]))
    tensor([[2., 0.]])
    """

    def __init__(self, rows: Float[Tensor, "k d"], values: Float[Tensor, "*n k"]) -> None:
        self.rows, self.values = rows, values
        inverse = torch.linalg.pinv(rows.double())
        along = torch.eye(rows.shape[1], dtype=torch.float64, device=rows.device) - inverse @ rows.double()
        self.along = along.to(rows.dtype)
        self.offset = (values.double() @ inverse.T).to(rows.dtype)

    def nearest(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The nearest states in the plane."""
        return z @ self.along + self.offset

    def beside(self, other: Clamp | None, z: Float[Tensor, "n d"]) -> Clamp:
        """The plane that also holds what another one holds, at what it is in states; unless this one does."""
        if other is None:
            return self
        rows = torch.cat([self.rows, other.rows])
        if int(torch.linalg.matrix_rank(rows.double(), rtol=1e-4)) == len(self.rows):
            return self
        return Clamp(rows, torch.cat([self.values.expand(len(z), -1), z @ other.rows.T], 1))


class Clamped:
    r"""A field whose cells stay in a plane: the part of its velocity that leads out of it is taken away.

    .. math:: \frac{dz}{dt} = P\,f(z, t)

    what projecting the state after every step tends to as steps become short; a solver keeps its order.
    Beyond the field's reach along the plane the velocity has no outward part, see
    `chreode.dynamics.fields.confinement`.

    Parameters
    ----------
    field
        With a ``reach``, and perhaps an ``operator``.
    plane
        Whose directions are kept; they are the same in all units.
    """

    def __init__(self, field: Any, plane: Clamp) -> None:
        self.field, self.along = field, plane.along
        self.operator: Operator | None = self._operator if hasattr(field, "operator") else None

    def __call__(self, z: Float[Tensor, "n d"], t: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """The velocity."""
        return confined(self.field(z, t) @ self.along, z @ self.along, self.field.reach)

    def _operator(self, z: Float[Tensor, "n d"], t: Float[Tensor, " n"]) -> Linearised:
        free = self.field.operator(z, t)._replace(pull=None)
        near = free._replace(
            gain=torch.einsum("ed,drn->ern", self.along, free.gain), offset=self.along @ free.offset
        )
        pull = confinement(near.velocity(z), z @ self.along, self.field.reach)
        return near._replace(pull=pull, plane=self.along)
