"""The same codes under other levels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chreode.errors import InputError
from chreode.words import listing, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Generator

    from chreode.axes import Float, Tensor

__all__ = ["average", "do"]


def do(embedded: Any, levels: Mapping[str, str | float | None], *, draw: Generator | None = None) -> Any:
    """Cells under other levels; see `chreode.embedded.Embedded.do`.

    Codes that levels bring along are drawn with a generator, else they are what to expect.
    """
    for name, level in levels.items():
        _refuse_idle(embedded, name, level)
    cells = embedded.cells.do(**levels)
    columns = {embedded.cells.layout.resolve(name).column for name in levels}
    codes, shared = dict(embedded.codes), embedded.codes[embedded.code]
    for name, latent in embedded.module.latents.items():
        known = {embedded.cells.layout.resolve(column).column for column in latent.columns}
        if known & columns:
            drawn = None if name == embedded.code else draw  # the main code stays that of its cell
            own = codes[name]
            codes[name] = latent.transport(shared, own, before=embedded.cells, after=cells, draw=drawn)
    return embedded.replace(cells=cells, codes=codes)


def average(embedded: Any, latent: str) -> Float[Tensor, " d"]:
    """The code of an average cell in another latent than the main one."""
    part = embedded.module.latents[latent]
    if part.column:
        return part.prior.mixture().weights.detach() @ part.prior.modes().detach()
    return embedded.codes[latent].mean(0)


def _refuse_idle(embedded: Any, name: str, level: str | float | None) -> None:
    """Refuse to set what neither conditions the decoder nor tells a supervised prior."""
    layout = embedded.cells.layout
    covariate = layout.find(name)
    columns = {*layout.conditions, *embedded.module.columns}
    if covariate and (covariate.column in columns or level is None):
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
