"""Deterministic decoders without a prior: codes learned directly, or encoded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval

from chreode.decoders import layered
from chreode.events import centre_decoder, start_codes
from chreode.infer import Codebook, Encoder, PrincipalStart
from chreode.likelihoods import heads, usual
from chreode.model import Latent, LatentModel
from chreode.objective import Objective, reconstruction
from chreode.plan import Plan
from chreode.priors import Flat
from chreode.recipe import Build, recipe

if TYPE_CHECKING:
    from chreode.layout import Layout

__all__ = ["autodecoder", "autoencoder"]


@recipe(code="cell", cite=("autodecoder",))
def autodecoder(
    layout: Layout,
    *,
    dim: Annotated[int, Interval(ge=1, le=512)] = 20,
    hidden: tuple[Annotated[int, Interval(ge=1, le=4096)], ...] = (100,),
    likelihood: Literal["nb", "poisson", "zinb", "bernoulli", "normal"] | None = None,
    inference: Literal["codes", "encoder"] = "codes",
    init: Literal["pca", "zero"] = "zero",
    code_lr: Annotated[float, Interval(gt=0)] = 1e-2,
) -> Build:
    r"""Decoder and codes (or an encoder) learned by reconstruction alone, without a prior.

    .. math:: L = -\frac1n \sum_i \log p(x_i \mid f(z_i)), \qquad
              z_i \ \text{free, or}\ z_i = e(x_i) \ \text{with}\ \texttt{inference="encoder"}

    The page *autodecoder* of the documentation says more (doi:10.3390/e23111403).

    Parameters
    ----------
    dim
        Dimensions of a code.
    hidden
        Widths of the decoder's hidden layers, and in reverse of the encoder's; none makes both linear.
    likelihood
        None takes the one that the values ask for.
    inference
        ``codes``: a free code for each cell; ``encoder``: an autoencoder.
    init
        Where free codes start: at zero as published, or at principal components.
    code_lr
        Length of the steps of free codes.
    """
    modality, described = next(iter(layout.modalities.items()))
    start = PrincipalStart(layout, dim) if init == "pca" else None
    infer = (
        Codebook(layout.n_cells, dim, start=start)
        if inference == "codes"
        else Encoder(layout, dim, hidden=hidden[::-1])
    )
    chosen = {modality: heads[likelihood or usual[described.kind]]}
    decoder = layered(layout, {"cell": dim}, heads=chosen, hidden=hidden)
    model = LatentModel({"cell": Latent(infer, Flat(dim))}, decoder)
    plan = Plan(events=(start_codes(), centre_decoder())).with_steps(n_cells=layout.n_cells)
    return Build(model, Objective(reconstruction()), replace(plan, lr={**plan.lr, "codes": code_lr}))


@recipe(code="cell", cite=("autodecoder",))
def autoencoder(
    layout: Layout,
    *,
    dim: Annotated[int, Interval(ge=1, le=512)] = 20,
    hidden: tuple[Annotated[int, Interval(ge=1, le=4096)], ...] = (100,),
    likelihood: Literal["nb", "poisson", "zinb", "bernoulli", "normal"] | None = None,
) -> Build:
    r"""Encoder and decoder learned by reconstruction alone, without a prior.

    .. math:: L = -\frac1n \sum_i \log p(x_i \mid f(e(x_i)))

    It is `autodecoder` with ``inference="encoder"``. The page *autodecoder* of the documentation says more.

    Parameters
    ----------
    dim, hidden, likelihood
        As of `autodecoder`.
    """
    modality, described = next(iter(layout.modalities.items()))
    chosen = {modality: heads[likelihood or usual[described.kind]]}
    decoder = layered(layout, {"cell": dim}, heads=chosen, hidden=hidden)
    model = LatentModel({"cell": Latent(Encoder(layout, dim, hidden=hidden[::-1]), Flat(dim))}, decoder)
    plan = Plan(events=(centre_decoder(),)).with_steps(n_cells=layout.n_cells)
    return Build(model, Objective(reconstruction()), plan)
