"""A fit on one rank: epochs, events, looks at held-out molecules, checkpoints."""

from __future__ import annotations

import hashlib
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from chreode.axes import Tensor
from chreode.checkpoint import write_checkpoint
from chreode.held_out import halves, spent
from chreode.io.loader import minibatches
from chreode.memory import cells_at_a_time, kept_memory
from chreode.named import module_name
from chreode.nonfinite import NonFinite, explain
from chreode.objective import Step
from chreode.optim import CodeAdam, codebooks, cool, optimiser, weigh_priors
from chreode.plan import Event, Moment
from chreode.rounding import rounding, rounds_fast
from chreode.settle import encoded, infer_codes
from chreode.threads import threads_for, warn_when_busy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lightning_fabric import Fabric

    from chreode.cells import Cells
    from chreode.recipe import Build

__all__ = ["Call", "mix", "run", "run_here", "seeded"]

State = tuple[dict[str, Tensor], dict[str, Any]]


@dataclass(frozen=True)
class Call:
    """The arguments of one call of fit; a resumed run must have the same."""

    epochs: int | None = None
    seed: int = 0
    device: str = "auto"
    devices: int = 1
    precision: str = "auto"
    validation: float = 0.1
    checkpoint: str | None = None
    progress: bool = True
    named: str = "fit"  # what its progress bar says


def mix(*numbers: int) -> int:
    """One seed from several numbers; different numbers give unrelated seeds."""
    digest = hashlib.sha256(",".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(digest[:4], "little")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global random state seeded inside, and put back afterwards."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def run(
    fabric: Fabric,
    build: Build,
    cells: Cells,
    held: Cells | None,
    call: Call,
    facts: Mapping[str, Any],
    found: State | None,
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """One rank's fit from the start or a checkpoint; returns the gathered state and the history."""
    rank = _Rank(fabric, build, cells, held, call, dict(facts))
    if found is not None:
        rank.restore(*found)
    if not rank.facts["finished"]:
        rounds = call.precision == "auto" and rounds_fast(fabric.device)
        threads = threads_for(build.plan.minibatch * cells.layout.width)
        with threads, rounding(build.model, on=rounds), kept_memory():
            if rank.number == 0:
                warn_when_busy()
            rank.loop()
    return rank.gathered(), rank.history


def run_here(build: Build, cells: Cells, call: Call) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """A fit within another call: on the CPU, with no cells held out and nothing kept on disk."""
    from lightning_fabric import Fabric

    return run(Fabric(accelerator="cpu", devices=1), build, cells, None, call, {"finished": False}, None)


class _Rank:
    """What a fit holds between epochs, on one rank."""

    def __init__(
        self,
        fabric: Fabric,
        build: Build,
        cells: Cells,
        held: Cells | None,
        call: Call,
        facts: dict[str, Any],
    ) -> None:
        self.fabric, self.plan, self.call, self.facts = fabric, build.plan, call, facts
        self.model, self.n_cells = build.model, len(cells)
        self.world, self.number = fabric.world_size, fabric.global_rank
        self.books = codebooks(self.model)
        groups = cells.samples if self.plan.by_time else None  # of all ranks' cells
        if self.world > 1:
            # Each rank owns every world-th cell and its codes; DDP must not share those.
            owned = torch.arange(self.number, self.n_cells, self.world)
            cells = cells[owned].replace(index=torch.arange(len(owned)))
            for book in self.books.values():
                book.weight = book.weight[owned].clone()
        self.cells = cells.to(fabric.device)
        self.groups = groups
        step = Step(self.model, build.objective)
        ignore = [f"model.{self._weight(name)}" for name in self.books]
        torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(step, ignore)
        self.model.to(fabric.device)
        adam = optimiser(self.model, self.plan)
        self.step, self.adam = fabric.setup(step, adam) if adam else (fabric.setup_module(step), None)
        options = {"lr": self.plan.lr["codes"], "betas": self.plan.code_betas, "update": self.plan.update}
        self.code_adams = {name: CodeAdam(book, **options) for name, book in self.books.items()}
        self.history: list[dict[str, Any]] = []
        self.clock = {"epoch": 0, "skipped": 0, "looks": 0, "best": None, "mark": None, "seconds": 0.0}
        self.best: dict[str, Tensor] = {}
        self.warm: dict[str, Tensor] = {}
        self.halves: tuple[Cells, Cells] | None = None
        if held is not None and self.plan.stop is not None:
            both = halves(held, torch.Generator().manual_seed(mix(call.seed, 13)))
            self.halves = (both[0].to(fabric.device), both[1].to(fabric.device))
            # Their place is found now: among what a step asks for and frees, it would be one more hole.
            self.best = {name: torch.zeros_like(value) for name, value in self.model.state_dict().items()}

    @staticmethod
    def _weight(latent: str) -> str:
        return f"latents.{module_name(latent)}.infer.weight"

    # ---- the loop

    @property
    def time(self) -> int:
        """Epochs done or skipped; the plan's fractions are fractions of this."""
        return self.clock["epoch"] + self.clock["skipped"]

    def loop(self) -> None:
        """Epochs and events until the plan is done, with a progress bar and checkpoints."""
        from tqdm.auto import tqdm

        quiet = not self.call.progress or self.number > 0
        bar = tqdm(
            total=self.plan.epochs, initial=self.time, desc=self.call.named, unit="epoch", disable=quiet
        )
        saved, cost = 0.0, 0.0
        while self.time < self.plan.epochs:
            before, start = self.time, time.perf_counter()
            row = self.epoch()
            row["validation"] = self.look(before)
            row["event"] = self.happen(before)
            self.clock["seconds"] += time.perf_counter() - start
            self.history.append({**row, "seconds": self.clock["seconds"]})
            bar.update(self.time - before)
            held_out = {} if row["validation"] is None else {"held_out": f"{row['validation']:.4f}"}
            bar.set_postfix({"loss": f"{row['loss']:.2f}", **held_out})
            now = time.perf_counter()
            # Writing takes no more than about a twentieth of the time.
            if self.call.checkpoint and now - saved > 20 * cost:
                self.save()
                saved, cost = time.perf_counter(), time.perf_counter() - now
        bar.close()
        self.restore_best()
        self.fire([e for e in self.plan.events if e.at == "end"])
        self.facts["finished"] = True
        if self.call.checkpoint:
            self.save()

    def epoch(self) -> dict[str, Any]:
        """One pass over the cells; returns the mean of every term, in nats per cell."""
        number = self.clock["epoch"]
        order = minibatches(
            self.n_cells,
            size=self.plan.minibatch,
            seed=mix(self.call.seed, 17),
            epoch=number,
            group=self.groups,
        )
        totals: dict[str, float] = {}
        if self.adam is not None:
            weigh_priors(self.adam, self.model, share=self.plan.minibatch / self.n_cells)
        self.step.train()
        with seeded(mix(self.call.seed, 19, number, self.number)):
            for i, chosen in enumerate(order):
                # Every rank walks the same global minibatches and takes the cells it owns of each.
                mine = chosen if self.world == 1 else chosen[chosen % self.world == self.number] // self.world
                share = len(chosen) / self.world
                done = (self.time + i / len(order)) / self.plan.epochs
                for name, value in self.take_step(self.cells[mine], share, i, done).items():
                    totals[name] = totals.get(name, 0.0) + value * len(chosen) / self.n_cells
        self.step.eval()
        for adam in self.code_adams.values():
            adam.end_epoch()
        if self.world > 1:
            sums: Any = self.fabric.all_reduce(torch.tensor(list(totals.values())), reduce_op="mean")
            totals = dict(zip(totals, sums.tolist(), strict=True))
        self.clock["epoch"] += 1
        return {"epoch": self.clock["epoch"], "loss": sum(totals.values()), **totals}

    def take_step(self, cells: Cells, share: float, number: int, done: float) -> dict[str, float]:
        """One step on one minibatch, at a share of the fit; returns the terms, in nats per cell."""
        values = self.step(cells, share, done)
        numbers = torch.stack([v.detach() for v in values.values()]).tolist()
        terms = dict(zip(values, numbers, strict=True))
        if not all(abs(v) < float("inf") for v in numbers):
            epoch = self.clock["epoch"] + 1
            raise NonFinite(explain(self.model, cells, terms, epoch=epoch, step=number + 1))
        if self.adam is not None:
            if self.plan.cool:
                cool(self.adam, (1 - done) / self.plan.cool)
            self.adam.zero_grad(set_to_none=True)
        # Of minus the sum over cells: the gradients of their log probabilities are ones, by which nothing
        # need be multiplied.
        loss = torch.stack(list(values.values())).sum()
        if loss.requires_grad:  # else there is nothing to learn: all was found before the first step
            self.fabric.backward(-share * loss)
        if self.adam is not None:
            self.adam.step()
        for adam in self.code_adams.values():
            adam.step()
        return terms

    # ---- events and early stopping

    def _tick(self, event: Event) -> int | None:
        return max(1, round(event.at * self.plan.epochs)) if isinstance(event.at, float) else None

    def happen(self, before: int) -> str:
        """Fire the events whose time came in this epoch; returns their names."""
        due = [
            e for e in self.plan.events if (tick := self._tick(e)) is not None and before < tick <= self.time
        ]
        if due:
            # A fraction is a new phase: it begins from the best of the last one.
            self.restore_best()
            self.clock.update(best=None, mark=None, looks=0)
        due += [e for e in self.plan.events if e.every and self.clock["epoch"] % e.every == 0]
        self.fire(due)
        return ", ".join(e.name for e in due if e.every is None)

    def fire(self, events: Sequence[Event]) -> None:
        """Do events, with the codes of all ranks at hand."""
        for number, event in enumerate(events):
            seed = mix(self.call.seed, 23, self.clock["epoch"], number)
            draws = partial(self.codes, seed=seed)
            event.do(
                Moment(self.model, self.cells, codes=self.codes, draws=draws, seed=seed, total=self.total)
            )

    def look(self, before: int) -> float | None:
        """Held-out nats, when a look is due; move on to the next phase when they fall no more."""
        stop = self.plan.stop
        ticks = [tick for e in self.plan.events if (tick := self._tick(e)) is not None]
        ends = any(before < tick <= self.time for tick in [*ticks, self.plan.epochs])
        if stop is None or self.halves is None or not (ends or self.clock["epoch"] % stop.every == 0):
            return None
        value = self.fabric.broadcast(self._held_out())
        if self.clock["best"] is None or value < self.clock["best"]:
            self.clock["best"] = value
            self.keep()
        if self.clock["mark"] is None or value < self.clock["mark"] - stop.margin:
            self.clock.update(mark=value, looks=0)
        else:
            self.clock["looks"] += 1
        if self.clock["looks"] >= stop.patience and not ends:
            target = min([tick for tick in ticks if tick > self.time], default=self.plan.epochs)
            self.clock["skipped"] += target - self.time
        return value

    def _held_out(self) -> float:
        first, second = self.halves  # type: ignore[misc]
        # What an encoder says of them changes with it: only free codes go on from the last look.
        start = None
        if self.warm and self.books:
            said = {name: encoded(self.model, name, first) for name in self.warm.keys() - self.books.keys()}
            start = self.warm | said
        self.warm = infer_codes(self.model, first, start=start, steps=20 if start else 100)
        total, on = 0.0, 0.0
        with torch.no_grad():
            for some in torch.arange(len(second)).split(cells_at_a_time(second.layout.width)):
                z = {name: value[some] for name, value in self.warm.items()}
                part, number = spent(self.model.trace(z, second[some]).observed, second[some])
                total, on = total + part, on + number
        return total / max(on, 1.0)

    @torch.no_grad()
    def keep(self) -> None:
        """Keep the weights and codes as they are now, in the place of those kept before."""
        for name, value in self.model.state_dict().items():
            self.best[name].copy_(value)

    def restore_best(self) -> None:
        """Go back to the weights and codes that explained held-out molecules best in this phase."""
        if self.best and self.clock["best"] is not None:
            self.model.load_state_dict(self.best)

    # ---- state

    @torch.no_grad()
    def codes(self, latent: str, seed: int | None = None) -> Tensor:
        """The codes of all cells that train, in order, of every rank.

        With a seed they are drawn from their posteriors, where inference has some.
        """
        draw = None if seed is None else torch.Generator().manual_seed(mix(seed, self.number))
        if latent in self.books:
            book = self.books[latent]
            return self._gather(
                book.codes if draw is None or not book.posterior else book.posterior.sample(draw)
            )
        return self._gather(encoded(self.model, latent, self.cells, draw))

    def total(self, value: Tensor) -> Tensor:
        """The sum over ranks."""
        every: Any = value if self.world == 1 else self.fabric.all_reduce(value, reduce_op="sum")
        return every

    def _gather(self, mine: Tensor) -> Tensor:
        if self.world == 1:
            return mine
        longest = -(-self.n_cells // self.world)
        padded = torch.zeros((longest, *mine.shape[1:]), dtype=mine.dtype, device=mine.device)
        padded[: len(mine)] = mine
        every: Any = self.fabric.all_gather(padded)  # world x longest x ...
        return every.transpose(0, 1).reshape(-1, *mine.shape[1:])[: self.n_cells]

    def gathered(self, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """A state of the model (its own by default) with the codes of every rank, on the CPU."""
        state = dict(self.model.state_dict() if state is None else state)
        for name in self.books:
            if self._weight(name) in state:
                state[self._weight(name)] = self._gather(state[self._weight(name)])
        return {k: v.detach().cpu() for k, v in state.items()}

    def save(self) -> None:
        """Write a checkpoint (on the first rank; all take part)."""
        tensors = {f"model/{k}": v for k, v in self.gathered().items()}
        tensors |= {f"best/{k}": v for k, v in self.gathered(self.best).items()}
        tensors |= {f"warm/{k}": v for k, v in self.warm.items()}
        for name, adam in self.code_adams.items():
            tensors |= {f"codes/{name}/{k}": self._gather(v) for k, v in adam.state.items()}
        if self.adam is not None:
            for i, entry in self.adam.state_dict()["state"].items():
                tensors |= {f"adam/{i}/{k}": torch.as_tensor(v) for k, v in entry.items()}
        if self.number == 0:
            facts = {**self.facts, "clock": self.clock, "history": self.history}
            write_checkpoint(str(self.call.checkpoint), tensors, facts)
        self.fabric.barrier()

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Continue from a checkpoint, each rank with its own cells' part."""

        def own(value: Tensor) -> Tensor:
            return value[self.number :: self.world].to(self.fabric.device)

        def under(prefix: str) -> dict[str, Tensor]:
            return {
                k.removeprefix(prefix): v.to(self.fabric.device)
                for k, v in tensors.items()
                if k.startswith(prefix)
            }

        weights = {self._weight(name) for name in self.books}
        local = {
            which: {k: own(v) if k in weights else v for k, v in under(f"{which}/").items()}
            for which in ("model", "best")
        }
        self.model.load_state_dict(local["model"])
        self.best, self.warm = local["best"] or self.best, under("warm/")
        for name, adam in self.code_adams.items():
            adam.load({k: own(v) for k, v in under(f"codes/{name}/").items()})
        if self.adam is not None:
            state = self.adam.state_dict()
            entries: dict[int, dict[str, Tensor]] = {}
            for key, value in under("adam/").items():
                i, name = key.split("/")
                entries.setdefault(int(i), {})[name] = value
            self.adam.load_state_dict({"state": entries, "param_groups": state["param_groups"]})
        self.facts["finished"] = facts["finished"]
        self.clock, self.history = dict(facts["clock"]), list(facts["history"])
