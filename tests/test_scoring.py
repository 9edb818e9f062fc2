"""Fisher scoring from an encoder's answer: exact where the model is linear, and never uphill."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
import torch

import chreode as ch
from chreode.infer import DistilledEncoder
from chreode.io.read import read
from chreode.scoring import inform, score
from parts import table

if TYPE_CHECKING:
    from torch import Tensor

    from chreode.cells import Cells
    from chreode.model import LatentModel

DIM = 3


@pytest.fixture(scope="module")
def linear() -> tuple[LatentModel, Cells]:
    """Factor analysis of continuous values."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3000, DIM)) @ rng.normal(size=(DIM, 12)) + rng.normal(size=(3000, 12))
    cells = ch.read(ad.AnnData(values.astype(np.float32)), values="continuous")
    return ch.fit(cells, ch.recipes.factor_analysis(dim=DIM), epochs=1, progress=False).module, cells


def exact(model: LatentModel, cells: Cells) -> tuple[Tensor, Tensor]:
    """The information of a cell's values on its code, and the mode of its posterior, by linear algebra."""
    (name,) = cells.layout.modalities

    def mean(z: Tensor) -> Tensor:
        return model.trace({"cell": z}, cells[: len(z)]).observed[name].mean

    at_zero = mean(torch.zeros(len(cells), DIM))
    loadings = mean(torch.eye(DIM)) - at_zero[0]
    observed: Any = model.trace({"cell": torch.zeros(1, DIM)}, cells[:1]).observed[name]
    variance = observed.variance[0]
    information = (loadings / variance) @ loadings.T
    values = cells.measured[name]
    assert isinstance(values, torch.Tensor)
    told = ((values - at_zero) / variance) @ loadings.T
    return information, torch.linalg.solve(torch.eye(DIM) + information, told.T).T


def slopes(model: LatentModel, cells: Cells, z: Tensor) -> Tensor:
    leaf = z.clone().requires_grad_()
    return torch.autograd.grad(-model.energy({"cell": leaf}, cells).sum(), leaf)[0].detach()


def test_drawn_values_tell_the_information(linear: tuple[LatentModel, Cells]) -> None:
    model, cells = linear
    encoder = DistilledEncoder(cells.layout, DIM)
    inform(model, cells, {"cell": encoder}, generator=torch.Generator().manual_seed(0))
    told = torch.linalg.inv(encoder.basis).T @ torch.diag(encoder.informed) @ torch.linalg.inv(encoder.basis)
    information, _ = exact(model, cells)
    assert (told - information).norm() < 0.1 * information.norm()


def test_a_whole_step_in_a_linear_model_ends_at_the_mode(linear: tuple[LatentModel, Cells]) -> None:
    model, cells = linear
    information, mode = exact(model, cells)
    encoder = DistilledEncoder(cells.layout, DIM)
    encoder.inform(information.detach(), torch.eye(DIM))
    near = mode.detach() + 0.05 * torch.randn(len(cells), DIM, generator=torch.Generator().manual_seed(1))
    ones = torch.ones(len(cells))
    step = encoder.step(slopes(model, cells, near), ones, ones[:, None])
    torch.testing.assert_close(near + step, mode, atol=1e-4, rtol=1e-3)
    # From far away a step is as long as the posterior is wide, towards the mode.
    far = mode.detach() + 50.0
    step = encoder.step(slopes(model, cells, far), ones, ones[:, None])
    square = (step @ (torch.eye(DIM) + information) * step).sum(1)
    torch.testing.assert_close(square, DIM * ones, atol=0, rtol=1e-3)
    assert torch.nn.functional.cosine_similarity(step, mode - far).min() > 0.999


def test_steps_go_down_and_reach_what_descent_reaches() -> None:
    adata = table(400)
    model = ch.fit(
        ch.read(adata, batch="plate"), ch.recipes.scdgd(dim=4, hidden=(16,)), epochs=60, progress=False
    )
    quick = ch.distil(model, epochs=60, progress=False)
    cells = read(adata[:200].copy(), like=model)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    with torch.no_grad():
        answer = {"cell": quick.encoders["cell"].encoder(cells).z}
        energy = [model.module.energy(answer, cells)]
        for steps in (1, 2, 5, 20):
            codes = score(model.module, cells, quick.encoders, answer, steps=steps)
            energy.append(model.module.energy(codes, cells))
        settled = model.module.energy({"cell": model.project(adata[:200].copy()).codes["cell"]}, cells)
    means = [float(e.mean()) for e in energy]
    assert means == sorted(means, reverse=True)
    for later in energy[1:]:
        assert (later <= energy[0] + 1e-3).all()
    assert float((energy[-1] - settled).mean()) < 0.1 * float((energy[0] - settled).mean()) + 0.1
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, before[name])


def test_without_a_prior_molecules_alone_inform() -> None:
    cells = ch.read(table(100))
    model = ch.fit(cells, ch.recipes.autodecoder(dim=3, hidden=(8,)), epochs=10, progress=False)
    quick = ch.distil(model, epochs=2, progress=False)
    assert bool(quick.encoders["cell"].informed.max() > 0)
    codes = quick.project(table(20), refine=3).embedding
    assert np.isfinite(codes).all()
