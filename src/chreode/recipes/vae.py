"""Variational autoencoders: an encoder gives a Gaussian over each cell's code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from chreode.decoders import MLP
from chreode.events import centre_decoder
from chreode.infer import Encoder
from chreode.likelihoods import heads
from chreode.model import Latent, LatentModel
from chreode.objective import Objective, Ramp, kl, reconstruction
from chreode.plan import Event, Plan
from chreode.priors import StandardNormal
from chreode.recipe import Build, recipe

if TYPE_CHECKING:
    from chreode.layout import Layout

__all__ = ["scvi"]

Width = Annotated[int, Field(ge=1, le=4096)]


@recipe(code="cell", cite=("scvi",))
def scvi(
    layout: Layout,
    *,
    dim: Annotated[int, Field(ge=1, le=512)] = 10,
    hidden: Annotated[tuple[Width, ...], Field(min_length=1)] = (128,),
    likelihood: Literal["nb", "zinb", "poisson"] = "zinb",
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    encode_batch: bool = False,
    warm_up: Annotated[float, Field(gt=0, lt=1)] = 0.25,
) -> Build:
    r"""Single-cell variational inference: an encoder, a standard normal prior, counts.

    .. math::
        z_i \sim N(0, I), \quad x_{ij} \sim \mathrm{ZINB}\big(s_i\,\mathrm{softmax}(f(z_i, b_i))_j,\
        \theta_j,\ \pi_{ij}\big), \quad
        L = \frac1n \sum_i \big[-E_{q_i} \log p(x_i | z_i) + w(t)\, \mathrm{KL}(q_i \,\|\, N(0, I))\big]

    with :math:`q_i = N(m(x_i), \mathrm{diag}\,v(x_i))`, one draw of it a step, and :math:`w(t)` rising to 1.
    The page *scvi* of the documentation has the whole process and the deviations from the paper
    (doi:10.1038/s41592-018-0229-2).

    Parameters
    ----------
    dim
        Dimensions of a code.
    hidden
        Widths of the decoder's hidden layers, and in reverse of the encoder's.
    likelihood
        Of the counts.
    dropout
        Probability that a hidden unit of the encoder is dropped in a step.
    encode_batch
        Whether the encoder sees the batch and covariates too; without, it encodes cells of any batch.
    warm_up
        Share of the steps in which the divergence's weight rises from 0 to 1.
    """
    modality = next(iter(layout.modalities))
    seen = tuple(layout.conditions) if encode_batch else ()
    network = {"hidden": hidden[::-1], "norm": "batch", "dropout": dropout, "columns": seen}
    encoder = Encoder(layout, dim, posterior=True, scaled=False, **network)
    head = {modality: heads[likelihood]}
    decoder = MLP(layout, {"cell": dim}, heads=head, hidden=hidden, norm="batch", columns=(), deep=True)
    model = LatentModel({"cell": Latent(encoder, StandardNormal(dim))}, decoder)
    objective = Objective(reconstruction(), kl("cell", weight=Ramp(until=warm_up)))
    # What explained held-out molecules best before the divergence had its weight is no model to return.
    arrived = Event("divergence at full weight", lambda _: None, at=warm_up)
    plan = Plan(weight_decay=1e-6, events=(centre_decoder(), arrived))
    return Build(model, objective, plan.with_steps(1500, n_cells=layout.n_cells))
