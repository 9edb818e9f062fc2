"""The term of flatvi is zero where the decoder is flat; benchmarks/flatness.py asks what it brings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
import torch
from torch import nn

import chreode as ch
from chreode.errors import InputError
from chreode.model import Latent, LatentModel
from chreode.objective import flat
from parts import tiny

if TYPE_CHECKING:
    from chreode.cells import Cells


class _Square(nn.Module):
    """A decoder to squares of a scaled code: its Poisson metric is 4 times the scale squared."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.readout: Any = nn.Module()
        self.readout.heads = {"rna": nn.Module()}

    def forward(self, z: dict[str, torch.Tensor], cells: Cells) -> dict[str, Any]:
        return {"rna": type("Law", (), {"mean": (self.scale * z["cell"]).square()})}


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_term_is_zero_of_a_flat_decoder_in_any_unit_and_not_of_an_uneven_one(
    scale: float,
) -> None:
    cells = tiny()
    z = 1.0 + torch.rand(len(cells), 2, generator=torch.Generator().manual_seed(0))

    def term(decoder: nn.Module, codes: torch.Tensor) -> float:
        model = LatentModel({"cell": Latent(nn.Identity(), nn.Identity())}, decoder)
        return flat("cell", cells=20).of(model, model.trace({"cell": codes}, cells)).item()

    assert term(_Square(scale), z) == pytest.approx(0, abs=1e-8)
    uneven = _Square(scale)
    uneven.scale = torch.tensor([scale, 2 * scale])
    assert term(uneven, z) == pytest.approx(2 * (3 / 5) ** 2, rel=1e-4)  # metric (1, 4) over its mean of 2.5


def test_values_that_are_no_counts_are_refused() -> None:
    values = ad.AnnData(np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32))
    with pytest.raises(InputError, match="counts"):
        ch.fit(ch.read(values, values="continuous"), ch.recipes.flatvi(), epochs=1, progress=False)
