"""Fisher scoring: a few steps from an encoder's answer to the best code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from chreode.axes import Float, Tensor
from chreode.csr import CSR
from chreode.memory import cells_at_a_time, kept_memory
from chreode.parts import Code
from chreode.settle import frozen
from chreode.threads import threads_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chreode.cells import Cells
    from chreode.infer.distilled import DistilledEncoder
    from chreode.model import LatentModel

__all__ = ["inform", "score"]

_LENGTH = 0.5  # of a step, as a share of the whole one
_ENOUGH = 2048  # cells that tell the information


def inform(
    model: LatentModel,
    cells: Cells,
    encoders: Mapping[str, DistilledEncoder],
    *,
    generator: torch.Generator,
) -> None:
    """Tell each encoder the information of a molecule, and of the prior, at its answers for these cells.

    Both are the mean outer product of scores, of counts :math:`y_i` drawn from the model itself and of the
    prior:

    .. math:: F = \\frac{\\sum_i g_i g_i^T}{\\sum_i s_i}, \\quad
              g_i = \\nabla_z \\log p(y_i \\mid z_i), \\; y_i \\sim p(\\cdot \\mid z_i); \\qquad
              P = \\frac1n \\sum_i h_i h_i^T, \\quad h_i = \\nabla_z \\log p(z_i)
    """
    rows = torch.randperm(len(cells), generator=generator)[:_ENOUGH]
    chunk = cells_at_a_time(cells.layout.width)
    molecules = {
        name: torch.zeros(encoder.widths[-1], encoder.widths[-1]) for name, encoder in encoders.items()
    }
    prior = {name: torch.zeros_like(sums) for name, sums in molecules.items()}
    total = torch.zeros(())
    with frozen(model), torch.enable_grad():
        for some in (cells[part] for part in rows.split(chunk)):
            leaves = {
                name: encoder.encoder(some).z.detach().requires_grad_() for name, encoder in encoders.items()
            }
            trace = model.trace(leaves, some)
            log_prob = torch.zeros(())
            for modality, observed in trace.observed.items():
                drawn: CSR | Tensor = observed.sample(generator)
                drawn = (
                    CSR.of(drawn.cpu()).to(some.device) if isinstance(some.measured[modality], CSR) else drawn
                )
                log_prob = log_prob + observed.log_prob(drawn).sum()
                total += some.size[modality].sum()
            told = torch.autograd.grad(log_prob, list(leaves.values()), retain_graph=True)
            for (name, leaf), scores in zip(leaves.items(), told, strict=True):
                codes = {other: Code(value.detach()) for other, value in leaves.items()} | {name: Code(leaf)}
                density = model.latents[name].prior(some, model.given(name, codes, some))
                molecules[name] += scores.T @ scores
                log_density = density.log_prob(leaf).sum()
                if log_density.requires_grad:  # else it is flat, and says nothing of the code
                    (slope,) = torch.autograd.grad(log_density, leaf)
                    prior[name] += slope.T @ slope
    for name, encoder in encoders.items():
        encoder.inform(molecules[name] / total.clamp(min=1), prior[name] / len(rows))


def score(
    model: LatentModel,
    cells: Cells,
    encoders: Mapping[str, DistilledEncoder],
    start: Mapping[str, Float[Tensor, "n d"]],
    *,
    steps: int,
    show: str | None = None,
) -> dict[str, Float[Tensor, "n d"]]:
    """Codes after so many steps of Fisher scoring, a chunk of cells at a time; the model stays bit-identical.

    A step is half of the whole one, since a cell's own information may be more than the average cell's, and
    at most as long as its posterior is wide (`DistilledEncoder.step`). One that proves to raise the energy is
    taken back, and the next is a quarter as long; the last is not looked at again, which would take as long
    as half a step.

    Parameters
    ----------
    model
        Its weights are not touched.
    cells
        With counts.
    encoders
        `DistilledEncoder` by latent, for their steps.
    start
        Where to begin, by latent.
    steps
        How many.
    show
        What a progress bar says; None shows none.
    """
    from tqdm.auto import tqdm

    chunk = cells_at_a_time(cells.layout.width)
    found: dict[str, list[Tensor]] = {name: [] for name in start}
    with frozen(model), threads_for(min(chunk, len(cells)) * cells.layout.width), kept_memory():
        for at in tqdm(range(0, len(cells), chunk), desc=show, disable=show is None, unit="chunk"):
            begin = {name: value[at : at + chunk] for name, value in start.items()}
            for name, value in _scored(model, cells[slice(at, at + chunk)], encoders, begin, steps).items():
                found[name].append(value)
    return {name: torch.cat(parts) if parts else start[name] for name, parts in found.items()}


def _scored(
    model: LatentModel,
    cells: Cells,
    encoders: Mapping[str, DistilledEncoder],
    codes: Mapping[str, Tensor],
    steps: int,
) -> dict[str, Tensor]:
    size = torch.stack([cells.size[modality] for modality in cells.layout.modalities]).sum(0)
    length = torch.full((len(cells), 1), _LENGTH, device=cells.device)
    best, slopes = codes, {name: torch.zeros_like(value) for name, value in codes.items()}
    highest = torch.full((len(cells),), -torch.inf, device=cells.device)
    for _ in range(steps):
        joint, there = _slopes(model, cells, codes)
        better = (joint > highest)[:, None]
        highest = torch.maximum(joint, highest)
        length = torch.where(better, length, length / 4)
        best = {name: torch.where(better, z, best[name]) for name, z in codes.items()}
        slopes = {name: torch.where(better, slope, slopes[name]) for name, slope in there.items()}
        codes = {name: z + encoders[name].step(slopes[name], size, length) for name, z in best.items()}
    return dict(codes)


def _slopes(
    model: LatentModel, cells: Cells, codes: Mapping[str, Tensor]
) -> tuple[Float[Tensor, " n"], dict[str, Tensor]]:
    """The log joint of each cell, and its gradient by latent."""
    leaves = {name: value.detach().requires_grad_() for name, value in codes.items()}
    with torch.enable_grad():
        joint = -model.energy(leaves, cells)
        slopes = torch.autograd.grad(joint.sum(), list(leaves.values()))
    return joint.detach(), dict(zip(leaves, slopes, strict=True))
