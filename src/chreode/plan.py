"""How a recipe wants to be trained: learning rates by part, epochs, events, when to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch

from chreode.axes import Float, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from chreode.cells import Cells
    from chreode.model import LatentModel

__all__ = ["FREE_STEPS", "Event", "Moment", "Plan", "Stop"]

# Of 300, 600 and 1,500 the one that told held-out molecules of 100, 300 and 1,000 cells best.
FREE_STEPS = 600


class Moment:
    """What an event may see and change.

    Parameters
    ----------
    model
        The model, to be changed in place.
    cells
        The training cells (of this rank).
    codes
        ``codes(latent)``: the codes of all training cells, of every rank, in their order.
    draws
        ``draws(latent)``: the same, drawn from their posteriors where inference has some.
    generator
        Seeded for this event at this epoch.
    seed
        The same as a number, for libraries that take one.
    total
        ``total(value)``: the sum of what every rank found with its own cells.
    progress
        Whether an event that takes long shows a bar.
    """

    __slots__ = ("cells", "codes", "draws", "generator", "model", "progress", "seed", "total")

    def __init__(
        self,
        model: LatentModel,
        cells: Cells,
        *,
        codes: Callable[[str], Float[Tensor, "n d"]],
        seed: int,
        draws: Callable[[str], Float[Tensor, "n d"]] | None = None,
        total: Callable[[Tensor], Tensor] = lambda value: value,
        progress: bool = False,
    ) -> None:
        self.model = model
        self.cells = cells
        self.codes, self.draws = codes, draws or codes
        self.seed, self.total, self.progress = seed, total, progress
        self.generator = torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Event:
    """Something done to the model between epochs: a start from data, a placement, a restart.

    Parameters
    ----------
    name
        What the progress bar and the history call it.
    do
        ``do(moment)`` changes ``moment.model``.
    at
        ``"start"`` (before the first epoch, on all cells), a fraction of the fit, or ``"end"``.
    every
        Instead of ``at``: after every so many epochs.
    """

    name: str
    do: Callable[[Moment], None]
    at: float | Literal["start", "end"] | None = None
    every: int | None = None


@dataclass(frozen=True)
class Stop:
    """Stop when held-out molecules are explained no better.

    Parameters
    ----------
    every
        Epochs between looks.
    patience
        Looks without improvement before stopping.
    margin
        Least improvement that counts, in nats per molecule (per value, where values are not counts).
    """

    every: int = 4
    patience: int = 2
    margin: float = 5e-4


@dataclass(frozen=True)
class Plan:
    """How to train.

    Parameters
    ----------
    epochs
        Passes over the cells, at most.
    minibatch
        Cells a step.
    lr
        Learning rate by part: ``codes``, ``decoder``, ``encoder``, ``prior``, ``dynamics``, ``critic``.
    code_betas
        Decay of the first and second moment of the codes' optimiser.
    update
        ``visit``: a code is stepped whenever its cell is visited; ``epoch``: once an epoch, as published.
    weight_decay
        Decoupled decay of the weights of decoder, encoders and dynamics; never of codes or priors.
    stop
        When to stop early; None trains all epochs.
    events
        What happens between epochs.
    by_time
        Whether every minibatch has its share of the cells of each time, in each course.
    cool
        Share of the fit, at its end, over which all rates but that of codes fall to nothing.
    """

    epochs: int = 40
    minibatch: int = 128
    lr: Mapping[str, float] = field(
        default_factory=lambda: {
            "codes": 3e-3,
            "decoder": 1e-3,
            "encoder": 1e-3,
            "prior": 1e-2,
            "dynamics": 2e-3,
            "critic": 3e-3,
        }
    )
    code_betas: tuple[float, float] = (0.9, 0.99)
    update: Literal["visit", "epoch"] = "visit"
    weight_decay: float = 1e-2
    stop: Stop | None = field(default_factory=Stop)
    events: tuple[Event, ...] = ()
    by_time: bool = False
    cool: float = 0.0

    def with_steps(self, least: int = FREE_STEPS, *, n_cells: int) -> Plan:
        """The same with as many more epochs, and as many more between looks, as few cells need.

        Steps are what a fit learns by, and few cells have few in an epoch.

        Parameters
        ----------
        least
            Steps, at least; what free codes need unless told otherwise.
        n_cells
            Cells that train.
        """
        steps = self.epochs * math.ceil(n_cells / self.minibatch)
        more = math.ceil(least / max(steps, 1))
        stop = self.stop and replace(self.stop, every=more * self.stop.every)
        return replace(self, epochs=more * self.epochs, stop=stop)
