"""Codes for cells under a model that stays as it is: start at the best candidate, then descend."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from chreode.axes import Float, Tensor
from chreode.memory import cells_at_a_time, kept_memory
from chreode.parts import Code
from chreode.threads import threads_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from chreode.cells import Cells
    from chreode.model import LatentModel

__all__ = ["at_modes", "best_start", "by_chunks", "encoded", "frozen", "infer_codes", "settle"]


@contextmanager
def frozen(model: LatentModel) -> Iterator[None]:
    """Evaluate without training: no parameter gets a gradient, and every switch is put back afterwards."""
    learned = [p for p in model.parameters() if p.requires_grad]
    training = model.training
    for p in learned:
        p.requires_grad_(False)
    model.eval()
    try:
        yield
    finally:
        for p in learned:
            p.requires_grad_(True)
        model.train(training)


@torch.no_grad()
def encoded(
    model: LatentModel, latent: str, cells: Cells, draw: torch.Generator | None = None
) -> Float[Tensor, "n d"]:
    """What an encoder says of any number of cells; drawn from posteriors, where it has some, if asked to."""
    found = []
    for at in range(0, len(cells), cells_at_a_time(cells.layout.width)):
        code = model.latents[latent].infer(cells[slice(at, at + cells_at_a_time(cells.layout.width))], None)
        found.append(code.posterior.sample(draw) if draw and code.posterior else code.centre)
    return torch.cat(found)


@torch.no_grad()
def at_modes(
    model: LatentModel, cells: Cells, codes: Mapping[str, Float[Tensor, "n d"]]
) -> dict[str, Float[Tensor, "n d"]]:
    """The same codes, but those of cells without a count at the prior's mode of least energy.

    Such cells say nothing of where they belong, though their levels may. Among equal modes the first, the
    heaviest, is taken.
    """
    placed = dict(codes)
    empty = (~cells.counted).nonzero().squeeze(1)
    if not len(empty):
        return placed
    some = cells[empty]
    here = {name: value[empty] for name, value in placed.items()}
    for name, latent in model.latents.items():
        if latent.of_levels:
            continue
        modes = latent.prior.modes().to(here[name])
        energy = [model.energy({**here, name: mode.expand_as(here[name])}, some) for mode in modes]
        here[name] = modes[torch.stack(energy).argmin(0)]
        placed[name] = placed[name].index_copy(0, empty, here[name])
    return placed


@torch.no_grad()
def best_start(model: LatentModel, cells: Cells) -> dict[str, Float[Tensor, "n d"]]:
    """For each free latent, the candidate of least energy: a mode of the prior or the cell's linear start.

    The energy is the negative log *joint* of code and counts, so a component far from the cell's other
    evidence does not win on counts alone. Latents with an encoder are encoded. Cells without a count begin
    at a mode, whatever their linear start or the encoder says.
    """
    current: dict[str, Tensor] = {}
    for name, latent in model.latents.items():
        if latent.infer.free:
            current[name] = latent.infer.propose(cells)
        else:
            given = model.given(name, {n: Code(z) for n, z in current.items()}, cells)
            current[name] = latent.infer(cells, given).centre
    current = at_modes(model, cells, current)
    for name, latent in model.latents.items():
        if not latent.infer.free:
            continue
        best = current[name]
        energy = model.energy(current, cells)
        for mode in latent.prior.modes().to(best):
            candidate = mode.expand_as(best)
            other = model.energy({**current, name: candidate}, cells)
            better = (other < energy)[:, None]
            best = torch.where(better, candidate, best)
            energy = torch.minimum(other, energy)
        current[name] = best
    return current


def settle(
    model: LatentModel,
    cells: Cells,
    start: Mapping[str, Float[Tensor, "n d"]],
    *,
    steps: int = 300,
    lr: float = 0.1,
    tolerance: float = 1e-2,
    encoded: bool = False,
) -> dict[str, Float[Tensor, "n d"]]:
    """Move codes down the negative log joint until they stop gaining; the model stays bit-identical.

    Adam on the codes alone. When ten steps gain less than ``tolerance`` nats a cell the step length is
    divided by three; after three such cuts the codes have converged. Each cell keeps the best code it met.

    Parameters
    ----------
    model
        Its weights are not touched.
    cells
        With counts.
    start
        Where to begin, by latent.
    steps
        At most so many.
    lr
        First step length, in units of the code.
    tolerance
        Gain that is still worth ten steps, in nats a cell.
    encoded
        Whether codes that an encoder gave are moved too; else only free ones.
    """
    free = [name for name, latent in model.latents.items() if encoded or latent.infer.free]
    codes = {name: value.detach().clone() for name, value in start.items()}
    if not free or not len(cells):
        return codes
    leaves = {name: codes[name].clone().requires_grad_() for name in free}
    # As in training it climbs minus the energy: by gradients of one nothing need be multiplied.
    adam = torch.optim.Adam(list(leaves.values()), lr=lr, betas=(0.9, 0.99), maximize=True)
    best = torch.full((len(cells),), torch.inf, device=cells.device)
    previous, cuts = torch.inf, 0
    with frozen(model), torch.enable_grad():
        for step in range(steps + 1):
            energy = model.energy({**codes, **leaves}, cells)
            better = energy.detach() < best
            best = torch.where(better, energy.detach(), best)
            for name in free:
                codes[name] = torch.where(better[:, None], leaves[name].detach(), codes[name])
            if step % 10 == 0:
                now = float(best.mean())
                if previous - now < tolerance:
                    cuts += 1
                    for group in adam.param_groups:
                        group["lr"] /= 3
                    if cuts > 3:
                        break
                previous = now
            if step == steps:
                break
            gradients = torch.autograd.grad(-energy.sum(), list(leaves.values()))
            for leaf, gradient in zip(leaves.values(), gradients, strict=True):
                leaf.grad = gradient
            adam.step()
            for name, leaf in leaves.items():
                infer = model.latents[name].infer
                if infer.free:
                    leaf.data = infer.allowed(leaf.data)
    return codes


def infer_codes(
    model: LatentModel,
    cells: Cells,
    *,
    start: Mapping[str, Float[Tensor, "n d"]] | None = None,
    steps: int = 300,
    lr: float = 0.1,
    encoded: bool = False,
    chunk: int | None = None,
    show: str | None = None,
) -> dict[str, Float[Tensor, "n d"]]:
    """Codes of any number of cells, a chunk at a time: `best_start` unless given, then `settle`.

    Parameters
    ----------
    model
        Its weights are not touched.
    cells
        With counts.
    start
        Where to begin, by latent; None searches.
    steps, lr, encoded
        As in `settle`.
    chunk
        Cells at a time, which bounds memory by ``chunk x g``; None for 512, fewer above 5,000 features.
    show
        What a progress bar says; None shows none.
    """
    chunk = chunk or cells_at_a_time(cells.layout.width)

    def settled(some: Cells, begin: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        begin = best_start(model, some) if begin is None else begin
        return settle(model, some, begin, steps=steps, lr=lr, encoded=encoded)

    return by_chunks(model, cells, settled, start=start, chunk=chunk, show=show)


def by_chunks(
    model: LatentModel,
    cells: Cells,
    find: Callable[[Cells, Mapping[str, Tensor] | None], Mapping[str, Tensor]],
    *,
    start: Mapping[str, Float[Tensor, "n d"]] | None,
    chunk: int,
    show: str | None,
) -> dict[str, Float[Tensor, "n d"]]:
    """Codes of any number of cells, so many at a time; the model stays bit-identical.

    Parameters
    ----------
    model
        Its weights are not touched.
    cells
        With counts.
    find
        ``find(some, begin) -> codes`` of some cells by latent; ``begin`` are the codes to start from.
    start
        Those of all cells, or None.
    chunk
        Cells at a time, which bounds memory by ``chunk x g``.
    show
        What a progress bar says; None shows none.
    """
    from tqdm.auto import tqdm

    found: dict[str, list[Tensor]] = {name: [] for name in model.latents}
    threads = threads_for(min(chunk, len(cells)) * cells.layout.width)
    with frozen(model), threads, kept_memory():
        for at in tqdm(range(0, len(cells), chunk), desc=show, disable=show is None, unit="chunk"):
            here = slice(at, at + chunk)
            begin = None if start is None else {name: value[here] for name, value in start.items()}
            for name, value in find(cells[here], begin).items():
                found[name].append(value)
    return {name: torch.cat(parts) if parts else torch.zeros(0) for name, parts in found.items()}
