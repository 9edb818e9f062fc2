"""Recipes without an encoder network: free Gaussians, codes in a ball, gradients at the origin."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval

from chreode.decoders import layered
from chreode.events import centre_decoder, describe_codes, placed, spread_codes, start_codes
from chreode.infer import Codebook, GradientOrigin, PrincipalStart, VariationalCodebook
from chreode.likelihoods import heads, usual
from chreode.model import Latent, LatentModel
from chreode.objective import Objective, kl, reconstruction
from chreode.plan import Plan
from chreode.priors import Ball, Flat, StandardNormal
from chreode.recipe import Build, recipe
from chreode.recipes.dgd import Components, Dim, Width, free_mixture, refuse_more_components

if TYPE_CHECKING:
    from torch import nn

    from chreode.layout import Layout

__all__ = ["glo", "gon", "vad"]


@recipe(code="cell", cite=("vad",))
def vad(
    layout: Layout,
    *,
    dim: Dim = 20,
    hidden: tuple[Width, ...] = (100,),
    likelihood: Literal["nb", "poisson", "zinb", "bernoulli", "normal"] | None = None,
    init: Literal["pca", "zero"] = "pca",
    code_lr: Annotated[float, Interval(gt=0)] = 1e-2,
    mixture: bool = False,
    components: Components = None,
    place_at: Annotated[float, Interval(gt=0, le=1)] = 0.75,
) -> Build:
    r"""Variational auto-decoder: a free Gaussian over each cell's code, without an encoder.

    .. math::
        z_i \sim N(0, I), \quad x_i \sim p(x \mid f(z_i)), \quad
        L = \frac1n \sum_i \big[-E_{q_i} \log p(x_i | z_i) + \mathrm{KL}(q_i \,\|\, N(0, I))\big]

    with :math:`q_i = N(m_i, \mathrm{diag}\,v_i)` of which mean and variance are parameters. The page *vad* of
    the documentation says more (doi:10.48550/arXiv.1903.00840).

    Parameters
    ----------
    dim, likelihood
        As of `vae`.
    hidden
        Widths of the decoder's hidden layers; none makes it linear.
    init
        Means start at principal components, or at zero.
    code_lr
        Length of the steps of means, and of log variances divided by 10.
    mixture
        Whether the prior is a mixture, placed on draws of all posteriors and following them; else it is
        standard normal.
    components, place_at
        As of `scdgd`.
    """
    refuse_more_components(layout, components)
    decoder = _decoder(layout, dim, hidden, likelihood)
    infer = VariationalCodebook(layout.n_cells, dim, start=_start(layout, dim, init))
    prior = free_mixture(layout, dim, components, "tied") if mixture else StandardNormal(dim)
    model = LatentModel({"cell": Latent(infer, prior)}, decoder)
    events = placed("cell", at=place_at, components=components) if mixture else ()
    plan = Plan(events=(start_codes(), centre_decoder(), *events)).with_steps(n_cells=layout.n_cells)
    plan = replace(plan, lr={**plan.lr, "codes": code_lr})
    return Build(model, Objective(reconstruction(), kl("cell")), plan)


@recipe(code="cell", cite=("glo",))
def glo(
    layout: Layout,
    *,
    dim: Dim = 20,
    hidden: tuple[Width, ...] = (100,),
    likelihood: Literal["nb", "poisson", "zinb", "bernoulli", "normal"] | None = None,
    radius: Annotated[float, Interval(gt=0)] = 1.0,
    init: Literal["pca", "zero"] = "pca",
    code_lr: Annotated[float, Interval(gt=0)] = 1e-2,
) -> Build:
    r"""Generative latent optimisation: free codes that are kept in a ball.

    .. math:: L = -\frac1n \sum_i \log p(x_i \mid f(z_i)), \qquad \lVert z_i \rVert \le R

    New cells are drawn from a Gaussian fitted to the codes. The page *glo* of the documentation says more
    (doi:10.48550/arXiv.1707.05776).

    Parameters
    ----------
    dim, likelihood
        As of `vad`.
    hidden, init
        As of `vad`.
    radius
        Of the ball.
    code_lr
        Length of the steps of codes.
    """
    decoder = _decoder(layout, dim, hidden, likelihood)
    infer = Codebook(layout.n_cells, dim, start=_start(layout, dim, init), radius=radius)
    model = LatentModel({"cell": Latent(infer, Ball(dim, radius=radius))}, decoder)
    plan = Plan(events=(start_codes(), centre_decoder(), describe_codes("cell")))
    plan = plan.with_steps(n_cells=layout.n_cells)
    return Build(model, Objective(reconstruction()), replace(plan, lr={**plan.lr, "codes": code_lr}))


@recipe(code="cell", cite=("gon",))
def gon(
    layout: Layout,
    *,
    dim: Dim = 20,
    hidden: tuple[Width, ...] = (100,),
    likelihood: Literal["nb", "poisson", "bernoulli", "normal"] | None = None,
) -> Build:
    r"""Gradient origin network: a code is the gradient of the decoder's likelihood at the origin.

    .. math::
        z_i = a \circ \tfrac{1}{s_i} \nabla_z \log p(x_i \mid f(z)) \big|_{z=0}, \qquad
        L = -\frac1n \sum_i \log p(x_i \mid f(z_i))

    so that the decoder, with a scale :math:`a` a dimension, is its own encoder. The page *gon* of the
    documentation says more (doi:10.48550/arXiv.2007.02798).

    Parameters
    ----------
    dim, likelihood
        As of `vad`.
    hidden
        As of `vad`.
    """
    infer, decoder = GradientOrigin(layout, dim), _decoder(layout, dim, hidden, likelihood)
    model = LatentModel({"cell": Latent(infer, Flat(dim))}, decoder)
    plan = Plan(events=(centre_decoder(), spread_codes("cell"))).with_steps(_STEPS, n_cells=layout.n_cells)
    return Build(model, Objective(reconstruction()), plan)


_STEPS = 1500  # of a network that infers, at least, however few cells there are


def _decoder(layout: Layout, dim: int, hidden: tuple[int, ...], likelihood: str | None) -> nn.Module:
    modality, described = next(iter(layout.modalities.items()))
    chosen = {modality: heads[likelihood or usual[described.kind]]}
    return layered(layout, {"cell": dim}, heads=chosen, hidden=hidden)


def _start(layout: Layout, dim: int, init: str) -> PrincipalStart | None:
    batch = layout.in_role("batch")
    return PrincipalStart(layout, dim, batch=batch.column if batch else None) if init == "pca" else None
