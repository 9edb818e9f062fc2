"""How well the codes of cells are known: a Gaussian for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from chreode.axes import Float, Int, Tensor
from chreode.errors import InputError
from chreode.infer.posterior import GaussianPosterior
from chreode.memory import cells_at_a_time
from chreode.parts import Code
from chreode.settle import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chreode.cells import Cells
    from chreode.model import LatentModel

__all__ = ["curvature", "posterior"]

_LEAST = 1e-2  # curvature: codes are spread less than this allows for
_STEP = 1e-2  # in units of the code: gradients differ by far more than rounding, curvature hardly


def posterior(embedded: Any, rows: Int[Tensor, " r"] | None = None) -> GaussianPosterior:
    r"""The posterior of each cell's main code: what inference says of it, else Laplace's approximation.

    .. math:: q(z_i) = N(m_i, \mathrm{diag}\,v_i), \qquad
              v_{id}^{-1} = -\frac{\partial^2}{\partial z_d^2} \log p(x_i, z) \Big|_{z = m_i}

    An encoder or a table of Gaussians gives both; a point code is taken as the mode, and :math:`v` from the
    curvature there (`curvature`). Being diagonal it is that of each dimension given the others. Where the
    joint is flat, or not at a mode, standard deviations end at 10.

    Parameters
    ----------
    embedded
        Cells with their counts (`chreode.embedded.Embedded`).
    rows
        Positions of those that are asked for; all by default.

    Raises
    ------
    InputError
        When the cells have no counts, as after loading.
    """
    cells, codes, name = embedded.cells, embedded.codes, embedded.code
    if set(cells.layout.modalities) - set(cells.measured):
        msg = (
            "Expected cells with their counts, which say how well a code is known; found none, as after "
            "loading, or of cells under another level. Project the cells again, model.project(source), or "
            "take codes as they are: sample(uncertain=False)."
        )
        raise InputError(msg)
    rows = torch.arange(len(cells)) if rows is None else rows
    mean = codes[name][rows]
    known, left = torch.zeros_like(mean), torch.arange(len(rows))
    infer = embedded.module.latents[name].infer
    # A table of Gaussians has a row for each cell that trained; the code of another is a point, and so is
    # that of every cell where only some of them are left, whose rows are not known.
    table = getattr(infer, "posterior", None) if infer.free else None
    trained = torch.from_numpy(embedded.trained)
    if table is not None and int(trained.sum()) == len(table.variance):
        mine, place = trained[rows], trained.cumsum(0) - 1
        known[mine], left = table.variance[place[rows[mine]]].to(known), left[~mine]
    for some in left.split(cells_at_a_time(cells.layout.width)):
        here, some_cells = {latent: z[rows[some]] for latent, z in codes.items()}, cells[rows[some]]
        found = None if infer.free else _inferred(embedded.module, some_cells, here, name)
        if found is None:
            found = 1 / curvature(embedded.module, some_cells, here, name).clamp(min=_LEAST)
        known[some] = found
    return GaussianPosterior(mean, known)


@torch.no_grad()
def _inferred(model: LatentModel, cells: Cells, codes: Mapping[str, Tensor], name: str) -> Tensor | None:
    """The variances that an encoder gives; None where it gives points."""
    with frozen(model):
        given = model.given(name, {n: Code(z) for n, z in codes.items() if n != name}, cells)
        found = model.latents[name].infer(cells, given).posterior
    return None if found is None else found.variance


def curvature(
    model: LatentModel, cells: Cells, codes: Mapping[str, Float[Tensor, "n d"]], name: str
) -> Float[Tensor, "n d"]:
    """Second derivatives of the negative log joint along each dimension of a latent's codes.

    By central differences of its gradient, two a dimension: likelihoods are differentiated once.

    Parameters
    ----------
    model
        Its weights are not touched.
    cells
        With counts; a few hundred.
    codes
        By latent, ``n x d``.
    name
        Of the latent.
    """
    here = codes[name]
    found = torch.zeros_like(here)

    def slope(z: Tensor) -> Tensor:
        leaf = z.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(-model.energy({**codes, name: leaf}, cells).sum(), leaf)
        return -gradient

    with frozen(model), torch.enable_grad():
        for d in range(here.shape[1]):
            step = here.new_zeros(here.shape[1])
            step[d] = _STEP
            found[:, d] = (slope(here + step) - slope(here - step))[:, d] / (2 * _STEP)
    return found
