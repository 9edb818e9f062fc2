"""Cells that become each other: those of one course, with the same feature held, by time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch

from chreode.axes import Float, Tensor
from chreode.cells import pair_numbers
from chreode.dynamics.clamp import Clamp
from chreode.errors import InputError
from chreode.words import listing, many

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from chreode.dynamics import Motion
    from chreode.dynamics.motion import Travel
    from chreode.infer.principal import Line
    from chreode.model import LatentModel, Trace

__all__ = ["Course", "Step", "courses", "held_still", "line_of", "refuse_unheld"]


class Step(NamedTuple):
    """Cells of one time of a course and those of a later one, in units of the field."""

    before: Float[Tensor, "n d"]
    after: Float[Tensor, "m d"]
    start: Float[Tensor, ""]
    end: Float[Tensor, ""]
    grown: Float[Tensor, " n"] | None  # how many each of those before will be; None where none grows


@dataclass(frozen=True, eq=False)
class Course:
    """Cells of a minibatch that become each other, at the times at which there are some.

    Parameters
    ----------
    motion
        What moves them.
    times
        Which of its times.
    states
        Of the cells of each, in units of the field.
    growth
        Their growth rates; None where cells were read without.
    held
        What their perturbation holds; None where nothing is held.
    """

    motion: Motion
    times: list[int]
    states: list[Float[Tensor, "_ d"]]  # as many as there are, each time
    growth: list[Float[Tensor, " _"]] | None
    held: Clamp | None

    @property
    def n_cells(self) -> int:
        """At all of them."""
        return sum(map(len, self.states))

    def step(self, k: int, later: int) -> Step:
        """From its k-th time to a later one."""
        s, t = self.times[k], self.times[later]
        grown = None if self.growth is None else self.motion.grown(self.growth[k], start=s, end=t)
        start, end = self.motion.instants[[s, t]].unbind()
        return Step(self.states[k], self.states[later], start, end, grown)

    def steps(self) -> Iterator[Step]:
        """From each time to the next one."""
        return (self.step(k, k + 1) for k in range(len(self.times) - 1))

    def move(self, z: Float[Tensor, "n d"], start: Tensor, end: Tensor) -> Float[Tensor, "n d"]:
        """States at a later time; times are the field's, one for all or of each cell."""
        return self.motion.move(z, start.expand(len(z)), end.expand(len(z)), clamp=self.held)

    @cached_property
    def ahead(self) -> Travel:
        """Of the cells of all times but the last, to the next time."""
        out = self.states[:-1]
        start, end = (self.at(times, out) for times in (self.times[:-1], self.times[1:]))
        return self.motion.travel(torch.cat(out), start, end, clamp=self.held)

    def at(self, times: Sequence[int], states: Sequence[Float[Tensor, "n d"]]) -> Float[Tensor, " m"]:
        """The field's time of each cell of states at several of its times."""
        sizes = torch.tensor([len(z) for z in states], device=states[0].device)
        return self.motion.instants[list(times)].repeat_interleave(sizes)

    def free(self, change: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """What of a change of states is not held."""
        return change if self.held is None else change @ self.held.along


def courses(model: LatentModel, trace: Trace, latent: str) -> list[Course]:
    """The courses of a minibatch, of two times or more."""
    return trace.shared(f"courses of {latent}", lambda: _courses(model, trace, latent))


def _courses(model: LatentModel, trace: Trace, latent: str) -> list[Course]:
    motion, cells = model.dynamics, trace.cells
    z, growth = motion.inside(trace.codes[latent].z), cells.growth
    feature = motion.features(cells)
    snapshot, followed = cells.snapshot, pair_numbers(cells.course, feature)
    found = []
    for number in range(int(followed.max()) + 1 if len(followed) else 0):
        here = followed == number
        held = int(feature[here][0])
        rows = [here & (snapshot == t) for t in range(len(motion.instants))]
        times = [t for t, some in enumerate(rows) if some.any()]
        if len(times) > 1:
            rates = None if growth is None else [growth[rows[t]] for t in times]
            states, on = [z[rows[t]] for t in times], held_still(model, latent, held)
            found.append(Course(motion, times, states, rates, on))
    return found


def held_still(model: LatentModel, latent: str, feature: int) -> Clamp | None:
    """The directions of codes in which one feature stands still; None for the feature -1, which is none."""
    if feature < 0:
        return None
    row = line_of(model, latent).weight[feature : feature + 1]
    return Clamp(row, row.new_zeros(1))


def line_of(model: LatentModel, latent: str) -> Line:
    """What codes expect of the features of the first modality, and of those that coordinates lead back to."""
    infer = model.latents[latent].infer
    return infer.lead() if hasattr(infer, "lead") else infer.linear(infer.modalities[0])


def refuse_unheld(line: Line, columns: Sequence[int], names: Sequence[str]) -> None:
    """Refuse features that codes cannot hold apart, or hardly have at all: the others would move without end.

    Raises
    ------
    InputError
        Naming them.
    """
    rows, unknown = line.weight[columns], line.noise.isnan()
    alike = line.weight[unknown == unknown[columns].any()]  # coordinates, or what they lead back to
    least = 1e-3 * float(alike.norm(dim=1).max())
    if int(torch.linalg.matrix_rank(rows.double(), atol=least, rtol=0)) < len(rows):
        msg = (
            f"Expected features that {many(rows.shape[1], 'coordinate')} can hold; found {listing(names)}, "
            "which these hardly tell apart, or from nothing. Hold fewer, or fit more components (dim=)."
        )
        raise InputError(msg)
