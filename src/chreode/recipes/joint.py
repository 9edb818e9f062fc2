"""Several modalities from one code: multiDGD."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval, MinLen

from chreode.decoders import Joint
from chreode.errors import InputError
from chreode.events import (
    centre_decoder,
    follow,
    learn_totals,
    move_dead_components,
    place_means,
    start_codes,
    start_levels,
    weigh_readout,
)
from chreode.infer import Codebook, JointStart
from chreode.likelihoods import heads, usual
from chreode.model import Latent, LatentModel
from chreode.objective import Objective, hyperprior, prior, reconstruction
from chreode.plan import Plan
from chreode.priors import LabelledMixture
from chreode.recipe import Build, recipe
from chreode.recipes.dgd import free_mixture, refuse_more_components
from chreode.words import listing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chreode.layout import Layout

__all__ = ["multidgd"]

# Beside other modalities, the depth of zeros and ones is no business of the cells' code.
_USUAL = {**usual, "binary": "accessibility"}
# Where the precision of the readout's weights begins; evidence takes it from there.
_PRECISION = 300.0
# A few hundred cells are no reason to learn from a few hundred steps.
_STEPS = 1500


@recipe(code="basal", cite=("multidgd",), joint=True)
def multidgd(
    layout: Layout,
    *,
    dim: Annotated[int, Interval(ge=1, le=512)] = 20,
    components: Annotated[int, Interval(ge=1, le=1000)] | None = None,
    hidden: Annotated[tuple[Annotated[int, Interval(ge=1, le=4096)], ...], MinLen(1)] = (100, 100),
    likelihood: dict[str, Literal["nb", "nb_free", "poisson", "zinb", "accessibility", "bernoulli", "normal"]]
    | None = None,
    covariate_dim: Annotated[int, Interval(ge=1, le=32)] = 2,
    covariance: Literal["tied", "diagonal", "isotropic", "full"] = "tied",
    place_at: Annotated[float, Interval(gt=0, le=1)] = 0.75,
    noise: Annotated[float, Interval(ge=0)] = 0.3,
    code_lr: Annotated[float, Interval(gt=0)] = 3e-3,
    drop: Annotated[float, Interval(ge=0, le=1)] = 0.0,
) -> Build:
    r"""Deep generative decoder of several modalities, with a code for each covariate beside the cell's own.

    .. math::
        z_i \sim \sum_k \pi_k N(\mu_k, \Sigma), \quad
        y_{ic} \sim N(\nu_{c, l_{ic}}, \sigma^2_{c, l_{ic}} I), \quad
        x_{im} \sim p_m\big(x \mid f_m(z_i, y_{i1}, \dots)\big), \quad
        L = -\frac1n \sum_i \Big[\sum_{m\ \text{present}} \log p(x_{im} | z_i, y_i) + \log p(z_i)
        + \sum_c \log p(y_{ic})\Big] - \frac1N \log p(\pi, \mu, \Sigma, \nu, \sigma)
        + \frac1N \sum_m \frac{\lambda_m}{2} \lVert W_m \rVert^2

    A cell may miss modalities: its codes are found from those it has. A cell whose level is missing is
    marginalised over the levels. The precision of each modality's readout is found by evidence. The page
    *multidgd* of the documentation has the whole process and the deviations from the paper
    (doi:10.1038/s41467-024-53340-z).

    Parameters
    ----------
    dim, components, covariance, place_at, noise, code_lr
        As of `scdgd`.
    hidden
        Widths of the trunk, which all modalities share.
    likelihood
        By modality; None takes those that the values ask for: negative binomial for counts, accessibility
        for zeros and ones, normal for anything else. ``nb_free`` makes no feature pay for another's rise.
    drop
        Probability that a step on a cell of several modalities sees a random one of them only.
    covariate_dim
        Dimensions of the code of each categorical batch and covariate. Continuous ones shift the decoder.
    """
    refuse_more_components(layout, components)
    mixture = free_mixture(layout, dim, components, covariance)
    latents = {"basal": Latent(_basal(layout, dim, noise), mixture)}
    terms = [reconstruction(drop=drop), prior("basal"), hyperprior("basal")]
    events = [start_codes(), centre_decoder()]
    levels = {name: c for name, c in layout.conditions.items() if c.categorical}
    if "basal" in levels:
        msg = "Expected batch and covariates of other names than 'basal', the cells' own code. Rename it."
        raise InputError(msg)
    for name, covariate in levels.items():
        book = Codebook(layout.n_cells, covariate_dim)
        latents[name] = Latent(book, LabelledMixture(name, len(covariate.levels), covariate_dim))
        terms += [replace(term(name), name=f"{term.__name__} {name}") for term in (prior, hyperprior)]
        events.append(start_levels(name))
    decoder = Joint(
        layout,
        {"basal": dim, **dict.fromkeys(levels, covariate_dim)},
        heads=_heads(layout, likelihood or {}),
        hidden=hidden,
        columns=[name for name in layout.conditions if name not in levels],
    )
    decoder.readout.shrink(_PRECISION)
    events += [place_means("basal", at=place_at, components=components)]
    events += [follow("basal"), move_dead_components("basal"), weigh_readout()]
    events += [learn_totals()]
    plan = Plan(events=tuple(events)).with_steps(_STEPS, n_cells=layout.n_cells)
    return Build(
        LatentModel(latents, decoder), Objective(*terms), replace(plan, lr={**plan.lr, "codes": code_lr})
    )


def _basal(layout: Layout, dim: int, noise: float) -> Codebook:
    batch = layout.in_role("batch")
    start = JointStart(layout, dim, batch=batch.column if batch else None)
    return Codebook(layout.n_cells, dim, noise=noise, start=start)


def _heads(layout: Layout, chosen: Mapping[str, str]) -> dict[str, Any]:
    unknown = [name for name in chosen if name not in layout.modalities]
    if unknown:
        msg = (
            f"Expected likelihoods of the modalities {listing(layout.modalities)}; found one of "
            f"{listing(unknown)}. Name one that was read."
        )
        raise InputError(msg)
    return {m: heads[chosen.get(m, _USUAL[described.kind])] for m, described in layout.modalities.items()}
