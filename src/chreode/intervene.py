"""The same codes under other levels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from chreode.errors import InputError
from chreode.io.schema import listing, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chreode.axes import Float, Tensor
    from chreode.cells import Cells

__all__ = ["average", "do"]


def do(embedded: Any, levels: Mapping[str, str | float | None]) -> Any:
    """Cells under other levels; see `chreode.embedded.Embedded.do`."""
    for name, level in levels.items():
        _refuse_idle(embedded, name, level)
    cells = embedded.cells.do(**levels)
    return embedded.replace(cells=cells, codes={**embedded.codes, **_codes_of(embedded, cells, levels)})


def average(embedded: Any, latent: str) -> Float[Tensor, " d"]:
    """The code of an average cell in another latent than the main one."""
    part = embedded.module.latents[latent]
    if part.column:
        return part.prior.mixture().weights.detach() @ part.prior.modes().detach()
    return embedded.codes[latent].mean(0)


def _codes_of(embedded: Any, cells: Cells, levels: Mapping[str, Any]) -> dict[str, Tensor]:
    """Codes of latents whose components are levels: the mean of the level that was set, or of all."""
    columns = {embedded.cells.layout.resolve(name).column for name in levels}
    moved = {}
    for name, latent in embedded.module.latents.items():
        if name == embedded.code or not latent.column:
            continue
        column = embedded.cells.layout.resolve(latent.column).column
        if column in columns:
            means = latent.prior.modes().detach()
            level = cells.covariates[column]
            known = (level >= 0)[:, None]
            moved[name] = torch.where(known, means[level.clamp(min=0)], average(embedded, name))
    return moved


def _refuse_idle(embedded: Any, name: str, level: str | float | None) -> None:
    """Refuse to set what neither conditions the decoder nor tells a supervised prior."""
    layout = embedded.cells.layout
    covariate = layout.find(name)
    columns = {latent.column for latent in embedded.module.latents.values()}
    if covariate and (covariate.column in {*layout.conditions, *columns} or level is None):
        return
    known = listing(layout.conditions)
    if covariate is None:
        found, column = f"{name!r}.{nearest(name, layout.conditions)}", "COLUMN"
    else:
        role = covariate.role
        found = f"{name!r}, which was read as the {role}: it conditions nothing, so nothing would change."
        column = covariate.column
    one = "Name one of these, or fit" if layout.conditions else "Fit"
    msg = (
        f"Expected a column that conditions the decoder ({known}); found {found} {one} on cells read "
        f"with batch={column!r} or covariates={column!r}."
    )
    raise InputError(msg)
