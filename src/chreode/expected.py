"""What a decoder expects of cells, also of what their batch was never measured in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from chreode.axes import Float, Int, Tensor
from chreode.cells import Cells
from chreode.decoders.totals import log_totals
from chreode.errors import InputError
from chreode.memory import cells_at_a_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chreode.layout import Layout

__all__ = ["blank", "expected", "totals"]


def expected(
    embedded: Any,
    modality: str,
    *,
    size: float | Literal["predicted"] | None,
    columns: Int[Tensor, " f"] | None,
    borrow: bool,
    what: str = "mean",
) -> Iterator[tuple[slice, np.ndarray]]:
    """What the decoder expects, a few cells at a time; see `chreode.embedded.Embedded.expected`.

    Parameters
    ----------
    embedded
        A `chreode.embedded.Embedded`.
    modality
        Of the model.
    size
        Size factor to decode at; None for that of `blank`, ``"predicted"`` for the `totals`.
    columns
        Positions of features; None for all.
    borrow
        Whether what a level was never measured in is averaged over the levels that were.
    what
        Which property of the distribution is asked for.

    Yields
    ------
    Rows, and values of these cells by features.

    Raises
    ------
    InputError
        When the size is another word, and as `totals` does.
    """
    if isinstance(size, str) and size != "predicted":
        msg = f"Expected size to be a number or 'predicted'; found {size!r}. Give 10_000, say."
        raise InputError(msg)
    loans = _loans(embedded, modality, columns) if borrow else []
    at_size = torch.from_numpy(totals(embedded, modality)) if size == "predicted" else size
    step = cells_at_a_time(embedded.cells.layout.width, most=1024)
    for at in range(0, len(embedded), step):
        rows = torch.arange(at, min(at + step, len(embedded)))
        mean = _mean(embedded, modality, rows, at_size, what)
        for borrowers, lenders in loans:
            here = borrowers[rows].nonzero().squeeze(1)
            if len(here):
                lent = [_mean(moved, modality, rows[here], at_size, what) * whose for moved, whose in lenders]
                times = torch.stack([whose for _, whose in lenders]).sum(0)
                average = torch.stack(lent).sum(0) / times.clamp_min(1)
                mean[here] = torch.where(times > 0, average, mean[here])
        part = (mean if columns is None else mean[:, columns]).cpu().numpy()
        yield slice(at, at + len(rows)), part


@torch.no_grad()
def totals(embedded: Any, modality: str) -> Float[np.ndarray, " n"]:
    """See `chreode.embedded.Embedded.totals`."""
    layout, decoder = embedded.cells.layout, embedded.module.decoder
    described = layout.modalities[modality]
    if described.kind == "continuous":
        msg = (
            f"Expected a modality of counts, or of zeros and ones, whose totals vary; found {modality!r}, "
            "which is continuous. Leave size out."
        )
        raise InputError(msg)
    part = getattr(decoder, "totals", None)
    if part is None or not bool(part.learned):
        msg = (
            "Expected a model that has learned what totals go with codes; found one that has not. Fit with "
            "multidgd, or give size= a number."
        )
        raise InputError(msg)
    found = []
    for rows in torch.arange(len(embedded)).split(cells_at_a_time(layout.width, most=1024)):
        codes = {name: z[rows] for name, z in embedded.codes.items()}
        cells = embedded.cells[rows]
        logs = log_totals(decoder, codes, cells)
        found.append(part(decoder.units(codes, cells), logs, modality).cpu().numpy())
    return np.concatenate(found) if found else np.zeros(0, dtype=np.float32)


@torch.no_grad()
def _mean(
    embedded: Any, modality: str, rows: Int[Tensor, " n"], size: float | Tensor | None, what: str
) -> Float[Tensor, "n g"]:
    """What is expected in some cells with every feature measured."""
    layout = embedded.cells.layout
    some = blank(layout, len(rows), size=None if isinstance(size, Tensor) else size)
    if isinstance(size, Tensor):
        some = some.replace(size={**some.size, modality: size[rows]})
    some = some.replace(covariates={k: v[rows] for k, v in embedded.cells.covariates.items()})
    observed = embedded.module.decode({n: z[rows] for n, z in embedded.codes.items()}, some)[modality]
    return getattr(observed, what)


def _loans(
    embedded: Any, modality: str, columns: Int[Tensor, " f"] | None
) -> list[tuple[Tensor, list[tuple[Any, Tensor]]]]:
    """Which cells decode features under other levels: the cells moved there, and which features."""
    readout = getattr(embedded.module.decoder, "readout", None)
    seen = None if readout is None else readout.seen[modality]
    if seen is None or seen.everything:
        return []
    layout, covariates = embedded.cells.layout, embedded.cells.covariates
    wanted = None
    if columns is not None:
        wanted = torch.zeros(layout.modalities[modality].n_features, dtype=torch.bool)
        wanted[columns] = True
    levels = torch.stack([covariates[column] for column in seen.columns], 1)
    loans = []
    for own in levels.unique(dim=0):
        lenders = []
        for taken, lent in seen.lenders(dict(zip(seen.columns, own.tolist(), strict=True)), wanted):
            moved = embedded.do(**{c: layout.covariates[c].levels[k] for c, k in taken.items()})
            lenders.append((moved, lent))
        if lenders:
            loans.append(((levels == own).all(1), lenders))
    return loans


def blank(layout: Layout, n: int, *, size: float | None = None) -> Cells:
    """Cells of which only the size is known: by default 1 for counts, the average for zeros and ones."""
    covariates = {
        c.column: torch.full((n,), -1) if c.categorical else torch.full((n,), float("nan"))
        for c in layout.covariates.values()
    }
    usual = {"counts": 1.0, "binary": float("nan"), "continuous": 1.0}
    sizes = {
        m: torch.full((n,), usual[d.kind] if size is None or d.kind == "continuous" else float(size))
        for m, d in layout.modalities.items()
    }
    return Cells(layout, names=np.zeros(n, dtype=object), measured={}, size=sizes, covariates=covariates)
