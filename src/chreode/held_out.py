"""Held-out molecules: half of a cell's molecules infer its code, the other half judges it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from chreode.cells import CSR, Cells
from chreode.io.loader import thin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chreode.axes import Tensor
    from chreode.cells import Measured
    from chreode.parts import Observed

__all__ = ["halves", "nats", "spent"]


def halves(cells: Cells, generator: torch.Generator) -> tuple[Cells, Cells]:
    """Split what was measured in every cell into two parts that know nothing of each other.

    Counts are thinned binomially: each molecule goes to one side or the other, so both halves are counts of
    the same proportions at half the depth. Binary and continuous values cannot be thinned: a random half
    of the features goes to each side, by panels.
    """
    parts = (dict(cells.measured), dict(cells.measured))
    sizes = (dict(cells.size), dict(cells.size))
    panels = (dict(cells.panels), dict(cells.panels))
    panel = dict(cells.panel)
    for name, modality in cells.layout.modalities.items():
        measured = cells.measured[name]
        if modality.kind == "counts" and isinstance(measured, CSR):
            first, second = thin(measured, generator)
            for side, half in enumerate((first, second)):
                parts[side][name] = half
                sizes[side][name] = half.sum_rows()
            continue
        chosen = torch.rand(modality.n_features, generator=generator).to(cells.device) < 0.5
        old = cells.panels.get(
            name, torch.ones(1, modality.n_features, dtype=torch.bool, device=cells.device)
        )
        panel[name] = cells.panel.get(name, torch.zeros(len(cells), dtype=torch.int64, device=cells.device))
        panels[0][name], panels[1][name] = old & chosen, old & ~chosen
        if modality.kind == "binary":
            for side, some in zip(sizes, (chosen, ~chosen), strict=True):
                side[name] = (measured @ some.to(cells.size[name])[:, None]).squeeze(1)
    first, second = (
        cells.replace(measured=parts[s], size=sizes[s], panels=panels[s], panel=panel) for s in (0, 1)
    )
    return first, second


@torch.no_grad()
def nats(observed: Observed, cells: Cells, modality: str) -> tuple[float, float]:
    """Nats spent on what was measured, and the number of molecules (or values) they were spent on.

    For counts :math:`-\\sum_{ig} x_{ig} \\log \\rho_{ig}` with :math:`\\rho` the expected proportions, over
    :math:`\\sum x` molecules: what the dispersion says does not matter. Otherwise the negative log
    likelihood, over the values of the panel.
    """
    measured = cells.measured[modality]
    if cells.layout.modalities[modality].kind == "counts" and isinstance(measured, CSR):
        share = observed.proportions[measured.row, measured.col.long()]
        spent = -(measured.value.double() * share.clamp(min=1e-30).log().double()).sum()
        return float(spent), float(measured.value.double().sum())
    here = cells.present[modality]
    mask = cells.mask(modality)
    width = cells.layout.modalities[modality].n_features
    values = int(here.sum()) * width if mask is None else int(mask[here].sum())
    return float(-(observed.log_prob(measured) * here).double().sum()), float(values)


@torch.no_grad()
def spent(observed: Mapping[str, Observed], cells: Cells) -> tuple[float, float]:
    """`nats` of all modalities, and what they were spent on.

    Beside others, a binary modality counts its ones: a zero among thousands of features is no molecule.
    """
    total, on = 0.0, 0.0
    for modality, one in observed.items():
        part, number = nats(one, cells, modality)
        measured = cells.measured[modality]
        if len(observed) > 1 and cells.layout.modalities[modality].kind == "binary":
            number = _ones(measured, cells.mask(modality))
        total, on = total + part, on + number
    return total, on


def _ones(measured: Measured, mask: Tensor | None) -> float:
    """Ones among the features that are scored."""
    if not isinstance(measured, CSR):
        return float((measured if mask is None else measured * mask).sum())
    if mask is None:
        return float(measured.value.sum())
    return float(measured.value[mask[measured.row, measured.col.long()]].sum())
