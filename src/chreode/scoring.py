"""Fisher scoring: a few steps from an encoder's answer to the best code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from chreode.axes import Float, Tensor
from chreode.csr import CSR
from chreode.memory import cells_at_a_time
from chreode.model import Trace
from chreode.parts import Code
from chreode.settle import by_chunks, frozen

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
    widths = {name: encoder.widths[-1] for name, encoder in encoders.items()}
    molecules, prior = ({name: torch.zeros(d, d) for name, d in widths.items()} for _ in range(2))
    total = torch.zeros(())
    with frozen(model), torch.enable_grad():
        for part in rows.split(cells_at_a_time(cells.layout.width)):
            some = cells[part]
            codes = {
                name: encoder.encoder(some).z.detach().requires_grad_() for name, encoder in encoders.items()
            }
            total += torch.stack([some.size[modality].sum() for modality in some.layout.modalities]).sum()
            for sums, slopes in (
                (molecules, _drawn_slopes(model, some, codes, generator)),
                (prior, _prior_slopes(model, some, codes)),
            ):
                for name, slope in slopes.items():
                    sums[name] += slope.T @ slope
    for name, encoder in encoders.items():
        encoder.inform(molecules[name] / total.clamp(min=1), prior[name] / len(rows))


def _drawn_slopes(
    model: LatentModel, cells: Cells, codes: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """Gradients of the log-likelihood of counts that are drawn from the model itself, by latent."""
    log_prob = torch.zeros(())
    for modality, observed in model.trace(dict(codes), cells).observed.items():
        drawn: CSR | Tensor = observed.sample(generator)
        if isinstance(cells.measured[modality], CSR):
            drawn = CSR.of(drawn.cpu()).to(cells.device)
        log_prob = log_prob + observed.log_prob(drawn).sum()
    return dict(zip(codes, torch.autograd.grad(log_prob, list(codes.values())), strict=True))


def _prior_slopes(model: LatentModel, cells: Cells, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of the log prior of each latent by its own code, the others' given."""
    found = {}
    for name, leaf in codes.items():
        others = {other: Code(value.detach()) for other, value in codes.items()} | {name: Code(leaf)}
        density = model.prior(name, Trace(cells, others, {}))
        log_density = density.log_prob(leaf).sum()
        if log_density.requires_grad:  # else it is flat, and says nothing of the code
            (found[name],) = torch.autograd.grad(log_density, leaf)
    return found


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
        `DistilledEncoder` by latent, for their steps; codes of others stay.
    start
        Where to begin, by latent.
    steps
        How many.
    show
        What a progress bar says; None shows none.
    """

    def scored(some: Cells, begin: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        return _scored(model, some, encoders, begin or {}, steps)

    chunk = cells_at_a_time(cells.layout.width)
    return by_chunks(model, cells, scored, start=start, chunk=chunk, show=show)


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
        codes = best | {
            name: best[name] + encoder.step(slopes[name], size, length) for name, encoder in encoders.items()
        }
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
