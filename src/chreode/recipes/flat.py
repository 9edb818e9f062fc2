"""Codes in which straight lines are the shortest ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval

from chreode.decoders import layered
from chreode.infer import Encoder, VariationalEncoder
from chreode.likelihoods import heads
from chreode.objective import Ramp, flat
from chreode.priors import StandardNormal
from chreode.recipe import Build, recipe
from chreode.recipes.vae import Dim, Dropout, Share, Width, built

if TYPE_CHECKING:
    from chreode.layout import Layout

__all__ = ["flatvi"]


@recipe(code="cell", cite=("flatvi", "vae"))
def flatvi(
    layout: Layout,
    *,
    dim: Dim = 10,
    hidden: tuple[Width, ...] = (128,),
    likelihood: Literal["nb", "poisson"] = "nb",
    flatness: Annotated[float, Interval(ge=0)] = 100.0,
    cells: Annotated[int, Interval(ge=1, le=512)] = 32,
    dropout: Dropout = 0.1,
    warm_up: Share = 0.25,
) -> Build:
    r"""FlatVI: a variational autoencoder of counts in whose codes straight lines are the shortest ways.

    .. math::
        z_i \sim N(0, I), \quad x_{ij} \sim \mathrm{NB}\big(s_i\,\mathrm{softmax}(f(z_i, b_i))_j,\
        \theta_j\big), \quad
        L = \frac1n \sum_i \big[-E_{q_i} \log p(x_i | z_i) + w(t)\, \mathrm{KL}(q_i \,\|\, N(0, I))\big]
        + w(t)\,\lambda\,\overline{\lVert M(z) / \alpha - I \rVert_F^2}

    with :math:`M` the Fisher information that counts have about the code and :math:`\alpha` its mean
    diagonal. The page *flatvi* of the documentation says more (doi:10.48550/arXiv.2507.11789).

    Parameters
    ----------
    dim, dropout, warm_up
        As of `vae`.
    hidden
        Widths of the decoder's hidden layers, and in reverse of the encoder's; none makes both linear.
    likelihood
        Of the counts.
    flatness
        :math:`\lambda`, in nats a cell; 0 is `vae`.
    cells
        How many cells of a minibatch are asked for their metric in a step.
    """
    modality = next(iter(layout.modalities))
    encoder = Encoder(layout, 2 * dim, hidden=hidden[::-1], norm="batch", dropout=dropout)
    decoder = layered(layout, {"cell": dim}, heads={modality: heads[likelihood]}, hidden=hidden)
    weight = Ramp(end=flatness, until=warm_up)
    terms = (flat("cell", cells=cells, weight=weight),) if flatness else ()
    return built(
        layout, VariationalEncoder(encoder), StandardNormal(dim), decoder, warm_up=warm_up, terms=terms
    )
