"""A field over the codes of cells, in units that suit a network: what moves them from one time to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from chreode.axes import Float, Int, Tensor
from chreode.dynamics.clamp import Clamped
from chreode.dynamics.solve import exponential, rk4
from chreode.errors import InputError

if TYPE_CHECKING:
    from chreode.cells import Cells
    from chreode.dynamics.clamp import Clamp
    from chreode.layout import Layout

__all__ = ["Motion", "Travel"]


class Travel(NamedTuple):
    r"""Where cells came, and the kinetic energy of their ways.

    Parameters
    ----------
    states
        At the end, in units of the field.
    energy
        :math:`\frac{1}{K} \sum_k \lVert u_{k+1} - u_k \rVert^2 / (h^2 d)` over the K steps of the solver, of
        length h: the least mean square of a velocity that leads through these states.
    """

    states: Float[Tensor, "n d"]
    energy: Float[Tensor, " n"]


class Motion(nn.Module):
    r"""How codes move: a field, and the units in which it sees them.

    .. math:: \frac{dz}{dt} = \frac{\sigma}{\tau}\, f\Big(\frac{z - m}{\sigma}, \frac{t - t_0}{\tau}\Big)

    with :math:`m` the mean of the codes and :math:`\sigma` the root mean square of their deviations (one
    number: no direction is blown up), :math:`t_0` the first time and :math:`\tau` the mean interval.

    Parameters
    ----------
    layout
        Whose times are followed.
    field
        ``field(u, s) -> velocity`` in these units; with an ``operator`` it is solved by exponentials, with a
        ``begin(u, zero)`` it is shown the states of the cells that train, and that of a code of 0.
    dim
        Of the codes.
    steps
        Of the solver, for each mean interval.
    once
        Whether an ``operator`` is taken once for the whole way, at its start, as Cell-MNN was published.

    Raises
    ------
    InputError
        When the cells were read without times.
    """

    centre: Tensor
    scale: Tensor
    instants: Tensor
    field: Any  # nn.Module's own __getattr__ would call it a Tensor

    def __init__(
        self, layout: Layout, field: nn.Module, *, dim: int, steps: int = 4, once: bool = False
    ) -> None:
        super().__init__()
        times: Any = layout.in_role("time")
        if times is None:
            msg = "Expected cells with times; found none. Read them with time=COLUMN (--time)."
            raise InputError(msg)
        self.field, self.steps, self.once = field, steps, once
        self.times: tuple[float, ...] = times.times
        self.interval = (self.times[-1] - self.times[0]) / (len(self.times) - 1)
        self.held = layout.held
        self.register_buffer("instants", self.clock(torch.tensor(self.times)), persistent=False)
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def begin(self, codes: Float[Tensor, "n d"]) -> None:
        """Take the units from the codes of the cells that train."""
        self.centre.copy_(codes.mean(0))
        self.scale.copy_(codes.var(0, correction=0).mean().sqrt().clamp_min(1e-8))
        # Where codes differ some lie further out than 1; where none do the reach must not be 0.
        u = self.inside(codes)
        self.field.reach.fill_(max(1.0, float(u.norm(dim=1).max())))
        if hasattr(self.field, "begin"):
            self.field.begin(u, zero=self.inside(torch.zeros_like(codes[:1]))[0])

    def inside(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Codes in the field's units."""
        return (z - self.centre) / self.scale

    def clock(self, t: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Times in mean intervals since the first."""
        return (t - self.times[0]) / self.interval

    def features(self, cells: Cells) -> Int[Tensor, " n"]:
        """Which feature each cell's perturbation holds; -1 for none."""
        held = torch.tensor([*self.held, -1], device=cells.device)
        return held[cells.perturbation]

    def grown(self, growth: Float[Tensor, " n"], *, start: int, end: int) -> Float[Tensor, " n"]:
        """How many cells each will be by a later of the measured times, by growth rates per unit of time."""
        return (growth * (self.times[end] - self.times[start])).exp()

    def move(
        self,
        u: Float[Tensor, "n d"],
        start: Float[Tensor, " n"],
        end: Float[Tensor, " n"],
        *,
        clamp: Clamp | None = None,
    ) -> Float[Tensor, "n d"]:
        """States in the field's units at a later (or earlier) time in its own, clamped or free."""
        return self.travel(u, start, end, clamp=clamp).states

    def travel(
        self,
        u: Float[Tensor, "n d"],
        start: Float[Tensor, " n"],
        end: Float[Tensor, " n"],
        *,
        clamp: Clamp | None = None,
    ) -> Travel:
        """As `move`, and the kinetic energy of each cell's way."""
        field = self.field if clamp is None else Clamped(self.field, clamp)
        # Each cell takes the steps that its own way needs, whatever way others in its company have.
        needed = ((end - start).abs() * self.steps).ceil().clamp_min(1)
        needed = torch.ones_like(needed) if self.once else needed
        found = Travel(u, torch.zeros_like(start))
        for steps in needed.unique().tolist():
            here = needed == steps
            some = self._solve(field, u[here], start[here], end[here], int(steps))
            if len(some.states) == len(u):
                return some
            found = Travel(*(old.index_put((here,), new) for old, new in zip(found, some, strict=True)))
        return found

    def _solve(self, field: Any, u: Tensor, start: Tensor, end: Tensor, steps: int) -> Travel:
        h, energy = (end - start) / steps, torch.zeros_like(start)
        for number in range(steps):
            t = start + number * h
            moved = self._step(field, u, t, t + h)
            energy = energy + (moved - u).square().mean(1)
            u = moved
        # Who stays at one time has no way.
        return Travel(u, energy / (steps * h.square()).clamp_min(torch.finfo(h.dtype).tiny))

    def _step(self, field: Any, u: Tensor, start: Tensor, end: Tensor) -> Tensor:
        operator = getattr(field, "operator", None)
        if operator is None:
            return rk4(field, u, start, end)
        return exponential(operator, u, start, end, trapezoid=not self.once)

    def forward(
        self,
        z: Float[Tensor, "n d"],
        start: Float[Tensor, " n"],
        end: Float[Tensor, " n"],
        *,
        clamp: Clamp | None = None,
    ) -> Float[Tensor, "n d"]:
        """Codes that were ``z`` at ``start``, at ``end``; a clamp keeps them in the plane they are in."""
        u = self.move(self.inside(z), self.clock(start), self.clock(end), clamp=clamp)
        return u * self.scale + self.centre

    def velocity(self, z: Float[Tensor, "n d"], t: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """``dz/dt``, in units of the code per unit of time."""
        return self.field(self.inside(z), self.clock(t)) * (self.scale / self.interval)

    def score(self, z: Float[Tensor, "n d"], t: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """Gradient of the log density of the cells of a time, per unit of the code, of a field that has one.

        Raises
        ------
        InputError
            When the field learned none.
        """
        if not hasattr(self.field, "score"):
            msg = f"Expected a field with a score, as of sf2m; found {type(self.field).__name__}. Fit sf2m."
            raise InputError(msg)
        return self.field.score(self.inside(z), self.clock(t)) / self.scale
