"""After the fit: codes for new cells, and an encoder that learns to give them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.csr import CSR
from chreode.infer.distilled import DistilledEncoder
from chreode.loop import Call, mix, run_here, seeded
from chreode.model import Latent, LatentModel, Trace
from chreode.objective import Objective, Term, reconstruction
from chreode.plan import Plan
from chreode.recipe import Build
from chreode.scoring import inform, score
from chreode.settle import at_modes, encoded, frozen, infer_codes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from chreode.cells import Cells
    from chreode.infer import Encoder
    from chreode.parts import Code, Given

__all__ = ["codes_of_all", "distil", "project"]

_CLOSE = 0.06  # first step from an encoder's answer, which is near
_EPOCHS, _STEPS = 40, 1500  # of a distilled encoder: the second is at least, however few cells there are
_LEAST = 0.3  # share of the molecules that it is shown


def project(
    model: LatentModel,
    cells: Cells,
    *,
    encoders: Mapping[str, DistilledEncoder] | None = None,
    refine: int | None = None,
    labelled: bool = False,
    show: str | None = None,
) -> dict[str, Float[Tensor, "n d"]]:
    """Codes of cells under a finished model, which stays bit-identical.

    Free codes begin at the best candidate under the joint density (a component's mean, or the cell's
    principal components) and descend until they gain no more. With an encoder, the model's own or a distilled
    one, codes are its answer, moved by ``refine`` steps if asked to. Cells without a count are at the
    prior's mode.

    Parameters
    ----------
    model
        Decoder and priors.
    cells
        With counts; batches and covariates may be unknown.
    encoders
        Distilled encoder by latent.
    refine
        Steps at most: of descent (`settle`), or after a distilled encoder of Fisher scoring (`score`). None
        means until converged for free codes, and none after an encoder.
    labelled
        Whether a supervised prior may place codes by the labels of the cells. Not where these codes are to be
        judged: there the label is hidden.
    show
        What a progress bar says; None shows none.
    """
    label = cells.layout.in_role("label")
    if label and not labelled and model.columns & {label.column, "label"}:
        cells = cells.do(**{label.column: None})
    if not encoders and any(latent.infer.free for latent in model.latents.values()):
        return infer_codes(model, cells, steps=300 if refine is None else refine, show=show)
    if not encoders:
        return infer_codes(model, cells, steps=refine or 0, lr=_CLOSE, encoded=bool(refine), show=show)
    start: dict[str, list[Tensor]] = {name: [] for name in encoders}
    with frozen(model), torch.no_grad():
        for at in range(0, len(cells), 4096):
            some = cells[slice(at, at + 4096)]
            said = {name: encoder.encoder(some).z for name, encoder in encoders.items()}
            for name, latent in model.latents.items():
                if latent.of_levels:  # what is known of a cell's levels need not be encoded
                    said[name] = latent.infer.known(some, otherwise=said[name])
            for name, value in at_modes(model, some, said).items():
                start[name].append(value)
    codes = {name: torch.cat(parts) for name, parts in start.items()}
    if not refine:
        return codes
    moved = {name: encoder for name, encoder in encoders.items() if not model.latents[name].of_levels}
    return score(model, cells, moved, codes, steps=refine, show=show)


def codes_of_all(model: LatentModel, cells: Cells, trained: np.ndarray) -> dict[str, Tensor]:
    """Codes in the file's order: learned ones for cells that trained, projected ones for the others."""
    if not any(latent.infer.free for latent in model.latents.values()):
        return project(model, cells, labelled=True)
    others = torch.from_numpy(~trained)
    projected = project(model, cells[others], labelled=True) if others.any() else {}
    codes = {}
    for name, latent in model.latents.items():
        if not latent.infer.free:
            with frozen(model):
                codes[name] = encoded(model, name, cells)
            continue
        learned = latent.infer.codes
        codes[name] = learned.new_zeros(len(cells), learned.shape[1])
        codes[name][~others] = learned
        if name in projected:
            codes[name][others] = projected[name]
    return codes


class _Thinned(nn.Module):
    """An encoder that is shown a part of each cell's molecules while it learns."""

    free = False

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, cells: Cells, given: Given | None = None) -> Code:
        """Encode the cells."""
        return self.encoder(_thinned(cells) if self.training else cells, given)


def _thinned(cells: Cells) -> Cells:
    """A binomial part of each cell's counts, the share drawn anew for each."""
    measured, size = dict(cells.measured), dict(cells.size)
    for name, modality in cells.layout.modalities.items():
        csr = measured[name]
        if modality.kind == "counts" and isinstance(csr, CSR):
            share = _LEAST + (1 - _LEAST) * torch.rand(len(csr), device=csr.value.device)
            measured[name] = part = csr.with_value(torch.binomial(csr.value, share[csr.row]))
            size[name] = part.sum_rows()
    return cells.replace(measured=measured, size=size)


def distil(
    model: LatentModel,
    cells: Cells,
    codes: Mapping[str, Float[Tensor, "n d"]],
    *,
    hidden: tuple[int, ...] = (256,),
    epochs: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, DistilledEncoder]:
    """Train an encoder on codes that were learned without one, under the finished decoder.

    .. math:: L = \\frac1n \\sum_i \\lVert e(\\tilde x_i) - z_i \\rVert^2 / d
              - \\log p(x_i \\mid e(\\tilde x_i)) / s_i

    with the decoder frozen; the second term counts nats per molecule, so that a code may leave the learned
    one where that explains the cell better. Of counts the encoder is shown a binomial part in every step,
    from 0.3 to all, so that it learns a cell's place and not its molecules, and meets shallower cells. Epochs
    are 40, or as many more as 1,500 steps need.

    References
    ----------
    Schuster and Krogh (2021), A manifold learning perspective on representation learning: learning decoder
    and representations without an encoder, doi:10.3390/e23111403.
    """
    learned = {name: value.detach() for name, value in codes.items()}
    cells = cells.numbered()
    with seeded(mix(seed, 29)):
        encoders = {
            name: DistilledEncoder(cells.layout, value.shape[1], hidden=hidden, dropout=0.1)
            for name, value in learned.items()
        }

    def imitation(_: LatentModel, trace: Trace) -> Tensor:
        rows = trace.cells.index
        return sum((((trace.codes[n].z - z[rows]) ** 2).mean(1) for n, z in learned.items()), torch.zeros(()))

    explain = reconstruction()

    def per_molecule(student: LatentModel, trace: Trace) -> Tensor:
        size = sum(trace.cells.size.values(), torch.zeros(()))
        return explain.of(student, trace) / size.clamp(min=1)

    latents = {
        name: Latent(_Thinned(encoder.encoder), nn.Identity(), only=model.latents[name].only)
        for name, encoder in encoders.items()
    }
    student = LatentModel(latents, model.decoder)
    terms = Objective(Term("imitation", imitation), Term("reconstruction", per_molecule))
    rates = {"codes": 0.0, "decoder": 0.0, "encoder": 1e-3, "prior": 0.0}
    plan = Plan(epochs=epochs or _EPOCHS, lr=rates, stop=None)
    if epochs is None:
        plan = plan.with_steps(_STEPS, n_cells=len(cells))
    with frozen(model):
        # Of the student's parts only the encoders learn: the decoder's switches are off here.
        call = Call(plan.epochs, seed, "cpu", progress=progress, named="distil")
        run_here(Build(student, terms, plan), cells, call)
    for encoder in encoders.values():
        encoder.eval().zero_grad(set_to_none=True)
    inform(model, cells, encoders, generator=torch.Generator().manual_seed(mix(seed, 31)))
    return encoders
