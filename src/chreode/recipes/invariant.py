"""What stays the same from batch to batch, and what does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chreode.errors import InputError
from chreode.model import Latent, LatentModel
from chreode.objective import Ramp, correlation
from chreode.priors import ConditionalNormal
from chreode.recipe import Build, recipe
from chreode.recipes.conditions import (
    Inference,
    Inferred,
    Likelihood,
    Weight,
    assembled,
    attributes_of,
    decoded,
)
from chreode.recipes.vae import Dim, Dropout, Share, Width
from chreode.words import listing

if TYPE_CHECKING:
    from chreode.layout import Layout

__all__ = ["invae"]


@recipe(code="shared", cite=("invae", "ivae"))
def invae(
    layout: Layout,
    *,
    attributes: tuple[str, ...] | None = None,
    batches: tuple[str, ...] = ("batch",),
    dim: Dim = 10,
    spurious: Dim = 2,
    hidden: tuple[Width, ...] = (128,),
    likelihood: Likelihood = None,
    inference: Inference = "encoder",
    penalty: Weight = 1.0,
    dropout: Dropout = 0.1,
    warm_up: Share = 0.25,
) -> Build:
    r"""inVAE: an invariant code that knows the biology of a cell, and a spurious one that knows its batch.

    .. math::
        z_i \mid d_i \sim N\big(m(d_i), \mathrm{diag}\,v(d_i)\big), \quad
        u_i \mid e_i \sim N\big(m(e_i), \mathrm{diag}\,v(e_i)\big), \quad
        x_i \sim p(x \mid f(z_i, u_i)), \quad
        L = \frac1n \sum_i \big[-E_{q_i} \log p(x_i | z_i, u_i) + w(t)\,\mathrm{KL}(q_i \| p)\big]
        + w(t)\,\lambda\, \mathrm{KL}\big(q(z, u) \,\|\, q(z)\,q(u)\big)

    with attributes :math:`d_i` and batches :math:`e_i`, of which the decoder sees neither. The page *invae*
    of the documentation says more (doi:10.48550/arXiv.2307.00558).

    Parameters
    ----------
    attributes
        Columns of the biology, to which the invariant code, ``shared``, is tied; None takes all covariates
        that were read.
    batches
        Columns to which the spurious code is tied.
    dim, spurious
        Dimensions of the invariant code, and of the spurious one.
    hidden, likelihood, dropout, warm_up
        As of `vae`.
    inference
        As of `patches`.
    penalty
        :math:`\lambda`, which keeps the two codes independent.
    """
    biology = attributes_of(layout, attributes, continuous=True)
    if batches == ("batch",) and layout.find("batch") is None:
        msg = (
            "Expected cells with a batch, to which the spurious code is tied; found columns "
            f"{listing(layout.covariates)} without. Read the cells with batch=COLUMN, or let batches= name "
            "columns that were read."
        )
        raise InputError(msg)
    technology = attributes_of(layout, batches, called="batches")
    if both := sorted({*biology} & {*technology}):
        msg = f"Expected attributes that are no batches; found {listing(both)} among both. Name it once."
        raise InputError(msg)
    seen = (*biology, *technology)
    how = Inferred(layout, hidden=hidden, dropout=dropout, kind=inference, clear_of=technology, sees=seen)
    prior = ConditionalNormal(layout, technology, spurious)
    latents = {
        "shared": Latent(how.shared(dim), ConditionalNormal(layout, biology, dim)),
        "spurious": Latent(how.beside(spurious, sees=seen), prior),
    }
    widths = {"shared": dim, "spurious": spurious}
    model = LatentModel(latents, decoded(layout.without(*seen), widths, hidden, likelihood))
    terms = [correlation(*widths, weight=Ramp(end=penalty, until=warm_up))] if penalty else []
    return assembled(layout, model, warm_up=warm_up, terms=terms, attributes=biology)
