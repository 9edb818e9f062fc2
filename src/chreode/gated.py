"""Latents that only some cells have: those of some levels of a column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.companion import Companion
from chreode.errors import InputError
from chreode.words import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chreode.cells import Cells
    from chreode.layout import Layout
    from chreode.parts import Density

__all__ = ["Gate", "GatedDensity"]


class Gate(nn.Module):
    r"""Which cells have a latent at all: those of some levels of a column.

    .. math:: g_i = 1 \text{ if } y_i \in \text{levels, else } 0

    Where it is closed the decoder sees a code of zero and the prior counts nothing. A cell of unknown level
    has none of the latents that levels open: it is decoded from what all cells share.

    Parameters
    ----------
    layout
        Covariates.
    column
        Categorical covariate, by name or role (``batch``, ``label``).
    levels
        Those that open it.
    dims
        Dimensions of the shared code and of the latent's own, for `companion`: what own code to expect of a
        cell that gets one because its level was changed.

    Raises
    ------
    InputError
        For a column that was not read or is continuous, and for a level that it does not have.
    """

    companion: Any
    open: Tensor

    def __init__(self, layout: Layout, column: str, levels: Sequence[str], *, dims: tuple[int, int]) -> None:
        super().__init__()
        covariate = layout.resolve(column)
        for level in levels:
            if level not in covariate.levels:
                known = ", ".join(covariate.levels) or "none: it is continuous"
                msg = (
                    f"Expected a level of {covariate.column!r} ({known}); found {level!r}."
                    f"{nearest(level, covariate.levels)}"
                )
                raise InputError(msg)
        self.column, self.levels = covariate.column, tuple(levels)
        is_open = torch.tensor([level in levels for level in covariate.levels] + [False])
        self.register_buffer("open", is_open.float(), persistent=False)
        self.companion = Companion(*dims)

    def forward(self, cells: Cells) -> Float[Tensor, " n"]:
        """1 for cells that have the latent, 0 for others."""
        return self.open[cells.covariates[self.column]]  # the last entry is that of the unknown level, -1

    def pair(
        self,
        shared: Float[Tensor, "n s"],
        own: Float[Tensor, "n d"],
        cells: Cells,
        *,
        total: Callable[[Tensor], Tensor],
    ) -> None:
        """Learn what own codes go with shared ones, over cells that have both."""
        self.companion.learn(shared, own, self(cells), total=total)

    def transport(
        self,
        shared: Float[Tensor, "n s"],
        own: Float[Tensor, "n d"],
        *,
        before: Cells,
        after: Cells,
        draw: torch.Generator | None = None,
    ) -> Float[Tensor, "n d"]:
        """Own codes after a change of levels: cells that have had one keep it, others get a companion's."""
        new = (self(after) > self(before))[:, None]
        return torch.where(new, self.companion(shared, draw), own)


class GatedDensity:
    """A prior that counts only in cells whose gate is open.

    .. math:: \\log p_i = g_i \\log p(z_i)

    Parameters
    ----------
    density
        Of the codes of cells that have them.
    gate
        1 or 0 a cell.
    """

    __slots__ = ("density", "gate")

    def __init__(self, density: Density, gate: Float[Tensor, " n"]) -> None:
        self.density, self.gate = density, gate

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log density of each code, in nats; 0 where the gate is closed."""
        return self.gate * self.density.log_prob(z)

    def kl(self, posterior: Any, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Divergence of the posterior, in nats; 0 where the gate is closed."""
        return self.gate * self.density.kl(posterior, z)

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Codes of cells that have them."""
        return self.density.sample(n, generator)
