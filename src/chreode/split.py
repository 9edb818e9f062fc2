"""Which cells of a comparison are fitted, which are only ever tested, and which are compared between fits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from chreode.errors import InputError
from chreode.infer.start import PrincipalStart
from chreode.loop import mix

if TYPE_CHECKING:
    from chreode.axes import Tensor
    from chreode.cells import Cells

__all__ = ["Split"]

PARTS = 5  # of the fitted cells; embeddings are scored on each by itself
SAMPLED = 5000  # cells whose clusters and neighbours are compared between fits
COMPONENTS = 50  # principal components from which integration sets out


@dataclass(frozen=True)
class Split:
    """Which cells do what, the same for every run of a comparison.

    Parameters
    ----------
    fitted
        Positions of the cells that a fit is given.
    test
        Positions of the cells that none is given, in random order.
    subset
        Positions of the part of ``fitted`` that the fits of a subset are given.
    sample
        Positions among ``subset``, of the cells whose clusters and neighbours are compared between fits.
    part
        Part of each fitted cell, 0 to 4.
    before
        Principal components of the fitted cells, from which integration sets out.
    """

    fitted: Tensor
    test: Tensor
    subset: Tensor
    sample: Tensor
    part: Tensor
    before: Tensor

    @classmethod
    def draw(cls, cells: Cells, *, seed: int, test: float = 0.1, subset: float = 0.8) -> Split:
        """Draw one; cells without a count are in no part of it.

        Parameters
        ----------
        cells
            All of them.
        seed
            Of the draw.
        test
            Share of the cells that no fit is given.
        subset
            Share of the others that the fits of a subset are given.
        """
        rows = cells.counted.nonzero().squeeze(1)
        n_test = round(test * len(rows))
        if n_test < 2 * PARTS:
            msg = (
                f"Expected at least {20 * PARTS} cells with counts to compare recipes on (a tenth is held "
                f"out); found {len(rows)}. Read more cells."
            )
            raise InputError(msg)
        generator = torch.Generator().manual_seed(mix(seed, 211))

        def shuffled(of: Tensor) -> Tensor:
            return of[torch.randperm(len(of), generator=generator)]

        order = shuffled(rows)
        fitted = order[n_test:].sort().values
        some = shuffled(fitted)[: round(subset * len(fitted))]
        width = next(iter(cells.layout.modalities.values())).n_features
        start = PrincipalStart(cells.layout, min(COMPONENTS, len(fitted) - 1, width))
        return cls(
            fitted=fitted,
            test=order[:n_test],
            subset=some.sort().values,
            sample=some[:SAMPLED].sort().values,
            part=shuffled(torch.arange(len(fitted)) % PARTS),
            before=start.learn(cells[fitted], seed=mix(seed, 223)),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Its fields by name."""
        return {field.name: getattr(self, field.name).contiguous() for field in fields(self)}
