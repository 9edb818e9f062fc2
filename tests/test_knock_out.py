"""Features held at a value while cells move: exact for linear fields, in genes and in components."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import expm, null_space

import chreode as ch
from chreode.dynamics.clamp import Clamp
from chreode.errors import InputError

GENES = ["GATA1", "SPI1", "KLF1", "CEBPA"]
MATRIX = np.array([[-1, 0, 0.5, 0], [0.8, -0.5, -2, 0], [0.25, 0, 0, -0.6], [0, 1, 0, -0.3]])
SHIFT = 0.3


def genes(n: int = 90) -> ad.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"day": np.resize([0.0, 1.0, 2.0], n), "type": np.resize(["a", "b"], n)})
    obs.index = pd.Index([f"cell {i}" for i in range(n)])
    x = rng.normal(2, 1, (n, 4)) @ rng.normal(0, 1, (4, 4)) + 3
    return ad.AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=pd.Index(GENES)))


class Linear(torch.nn.Module):
    """``A z + b``, without an operator to be solved by."""

    def __init__(self, matrix: np.ndarray) -> None:
        super().__init__()
        self.matrix = torch.tensor(matrix, dtype=torch.float32)
        self.reach = torch.tensor(1e6)

    def forward(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return z @ self.matrix.T + SHIFT


def known(matrix: np.ndarray, *, solved: str = "exponential", dim: int | None = None) -> ch.FittedModel:
    """A model whose field is ``A u + b`` in its units."""
    cells = ch.read(genes(), values="continuous", time="day", label="type")
    recipe = ch.recipes.cell_mnn(hidden=(4,), bound=1e6, dim=dim)
    model = ch.fit(cells, recipe, epochs=1, progress=False)
    motion = model.module.dynamics
    if solved == "Runge-Kutta":
        motion.field, motion.steps = Linear(matrix), 16
        return model
    last = motion.field.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias[: matrix.size] = torch.tensor(matrix, dtype=torch.float32).flatten()
        last.bias[matrix.size :] = SHIFT
        motion.field.reach.fill_(1e6)
    return model


def exact(model: ch.FittedModel, z: np.ndarray, rows: np.ndarray, values: np.ndarray, matrix: np.ndarray):
    """Codes a day later in the plane ``rows z = values``: the field in coordinates of the plane, solved."""
    motion = model.module.dynamics
    scale, centre = float(motion.scale), motion.centre.double().numpy()
    rows, values = rows * scale, values - rows @ centre
    base, across = np.linalg.pinv(rows) @ values, null_space(rows)
    y = ((z - centre) / scale - base) @ across
    k = across.shape[1]
    augmented = np.zeros((k + 1, k + 1))
    augmented[:k, :k] = across.T @ matrix @ across
    augmented[:k, k] = across.T @ (matrix @ base + SHIFT)
    y = np.column_stack([y, np.ones(len(y))]) @ expm(augmented).T
    return (y[:, :k] @ across.T + base) * scale + centre


@pytest.mark.parametrize("solved", ["exponential", "Runge-Kutta"])
@pytest.mark.parametrize("held", [{"SPI1": 0.0}, {"SPI1": 1.5}, {"KLF1": 0.0, "GATA1": -2.0}])
def test_a_gene_held_leaves_the_reduced_system(solved: str, held: dict[str, float]) -> None:
    model = known(MATRIX, solved=solved)
    rows = np.eye(4)[[GENES.index(name) for name in held]]
    found = model.forecast(to=2.0, knock_out=held)
    start = model.embedded.embedding[model.embedded.cells.time.numpy() == 1.0].astype(np.float64)
    truth = exact(model, start, rows, np.array(list(held.values())), MATRIX)
    np.testing.assert_allclose(found, truth, atol=2e-4)
    for name, value in held.items():
        np.testing.assert_allclose(found[:, GENES.index(name)], value, atol=1e-5)
    # Each other gene goes as its own equation says, with the value of the one held.
    assert np.abs(found - model.forecast(to=2.0)).max() > 0.1


def test_of_components_the_gene_they_expect_is_held() -> None:
    matrix = MATRIX[:3, :3]
    model = known(matrix, dim=3)
    infer = model.module.latents["cell"].infer
    rows = infer.axes.double().numpy()[[0]]
    found = model.forecast(to=2.0, knock_out={"GATA1": 1.0})
    start = model.embedded.embedding[model.embedded.cells.time.numpy() == 1.0].astype(np.float64)
    wanted = np.array([1.0 - float(infer.mean[0])])
    np.testing.assert_allclose(found, exact(model, start, rows, wanted, matrix), atol=2e-4)
    decoded = model.forecast(to=2.0, knock_out={"GATA1": 1.0}, expected=True)
    np.testing.assert_allclose(decoded[:, 0], 1.0, atol=1e-4)
    # Where no time passes the code is the nearest that has it.
    here = model.trajectories(model.embedded, [0.0], knock_out={"GATA1": 1.0})[0]
    began = model.embedded.cells.time.numpy() == 0.0
    moved = here[began] - model.embedded.embedding[began]
    along = moved @ rows.T / (rows @ rows.T)
    np.testing.assert_allclose(moved, along * rows, atol=1e-4)


def test_paths_are_held_all_along_and_names_alone_mean_zero() -> None:
    model = known(MATRIX)
    paths = model.trajectories(model.embedded, [2.0, 2.5, 4.0], knock_out="SPI1")
    np.testing.assert_allclose(paths[:, :, 1], 0, atol=1e-5)
    np.testing.assert_array_equal(
        paths, model.trajectories(model.embedded, [2.0, 2.5, 4.0], knock_out=["SPI1"])
    )
    once = known(MATRIX)
    once.module.dynamics.once = True
    np.testing.assert_allclose(
        once.trajectories(once.embedded, [2.0, 4.0], knock_out="SPI1"), paths[[0, 2]], atol=1e-3
    )


@pytest.mark.parametrize("solved", ["exponential", "Runge-Kutta"])
def test_what_is_held_runs_away_no_more_than_what_is_free(solved: str) -> None:
    # Free, this turns and decays; with the second gene held the first grows without bound.
    matrix = np.array([[2.0, -9.0, 0, 0], [9.0, -4.0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    model = known(matrix, solved=solved)
    motion = model.module.dynamics
    reach = float(motion.inside(model.embedded.codes["cell"]).norm(dim=1).max())
    motion.field.reach.fill_(reach)
    far = model.forecast(to=60.0, knock_out={"SPI1": 1.0})
    u = (far - motion.centre.numpy()) / float(motion.scale)
    assert np.isfinite(far).all()
    assert np.linalg.norm(u, axis=1).max() < 3 * reach


def test_fates_know_of_knock_outs() -> None:
    model = known(MATRIX)
    free, held = (model.fates(neighbours=3, knock_out=k) for k in ((), {"CEBPA": 30.0}))
    assert held.shape == free.shape
    assert not np.allclose(held, free)
    np.testing.assert_allclose(held.sum(1), 1)


@pytest.mark.parametrize(
    ("knock_out", "said"),
    [
        ("GATA2", "Did you mean 'GATA1'"),
        (["SPI1", "spi1"], "Did you mean 'SPI1'"),
        ({"SPI1": float("nan")}, "finite number that 'SPI1' is held at"),
        ({"SPI1": "none"}, "finite number that 'SPI1' is held at"),
    ],
)
def test_what_cannot_be_held_is_refused_before_cells_are_read(knock_out, said: str) -> None:
    with pytest.raises(InputError, match=said):
        known(MATRIX).forecast("no.h5ad", to=1.0, knock_out=knock_out)


def test_more_genes_than_components_cannot_be_held() -> None:
    model = known(MATRIX[:2, :2], dim=2)
    assert model.forecast(to=2.0, knock_out=GENES[:2]).shape == (30, 2)
    with pytest.raises(InputError, match="2 coordinates can hold; found 'GATA1', 'SPI1', 'KLF1'"):
        model.forecast(to=2.0, knock_out=GENES[:3])


def test_a_model_without_dynamics_holds_nothing() -> None:
    cells = ch.read(genes(), values="continuous", time="day")
    model = ch.fit(cells, ch.recipes.pca(dim=2), epochs=1, progress=False)
    with pytest.raises(InputError, match="such as cell_mnn; found pca"):
        model.forecast(to=1.0, knock_out="GATA1")


def test_gradients_go_through_a_clamp() -> None:
    motion = known(MATRIX).module.dynamics
    z, now = torch.ones(3, 4, requires_grad=True), torch.zeros(3)
    clamp = Clamp(torch.eye(4)[[1]], torch.zeros(1))
    motion(z, now, now + 1, clamp=clamp)[:, [0, 2, 3]].sum().backward()
    assert z.grad is not None
    assert (z.grad[:, 1] != 0).any()  # what is held acts on the others
    assert (z.grad[:, 0] != 0).all()
