"""Deep generative decoders: free codes, a mixture or normal prior, a decoder."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval

from chreode.decoders import layered
from chreode.errors import InputError
from chreode.events import (
    centre_decoder,
    follow,
    move_dead_components,
    place_levels,
    place_means,
    start_codes,
    start_means,
)
from chreode.infer import Codebook, PrincipalStart
from chreode.likelihoods import heads, usual
from chreode.model import Latent, LatentModel
from chreode.objective import Objective, hyperprior, prior, reconstruction
from chreode.plan import Event, Plan
from chreode.priors import LabelledMixture, Mixture, StandardNormal
from chreode.recipe import Build, recipe

if TYPE_CHECKING:
    from torch import nn

    from chreode.layout import Layout

__all__ = ["dgd", "scdgd"]

Width = Annotated[int, Interval(ge=1, le=4096)]
Dim = Annotated[int, Interval(ge=1, le=512)]
Components = Annotated[int, Interval(ge=1, le=1000)] | None
Positive = Annotated[float, Interval(gt=0)]
Fraction = Annotated[float, Interval(gt=0, le=1)]
Likelihood = Literal["nb", "poisson", "zinb", "bernoulli", "normal"]
Covariance = Literal["tied", "diagonal", "isotropic", "full"]

_MOST = 60  # components that can be placed when their number is left to the data


@recipe(code="cell", cite=("scdgd",))
def scdgd(
    layout: Layout,
    *,
    dim: Dim = 20,
    components: Components = None,
    hidden: tuple[Width, ...] = (100,),
    likelihood: Literal["nb", "poisson", "zinb"] = "nb",
    covariance: Covariance = "tied",
    learn: Literal["em", "gradient"] = "em",
    place_at: Fraction = 0.75,
    noise: Annotated[float, Interval(ge=0)] = 0.3,
    init: Literal["pca", "zero"] = "pca",
    update: Literal["visit", "epoch"] = "visit",
    code_lr: Positive = 3e-3,
    prior_weight: Positive | Literal["cells"] = 1.0,
    theta_floor: Annotated[float, Interval(ge=0)] = 0.0,
    supervised: bool = False,
) -> Build:
    r"""Single-cell deep generative decoder: free codes, a Gaussian mixture, negative binomial counts.

    .. math::
        z_i \sim \sum_k \pi_k N(\mu_k, \Sigma), \quad
        x_{ij} \sim \mathrm{NB}\big(s_i\,\mathrm{softmax}(f(z_i))_j,\ \theta_j\big), \quad
        L = -\frac1n \sum_i [\log p(x_i | z_i) + \log p(z_i)] - \frac1N \log p(\pi, \mu, \Sigma)

    Codes, decoder and :math:`\theta` are maximum a posteriori estimates; components are placed on the codes
    late in the fit and follow them by expectation-maximisation. The page *scdgd* of the documentation has
    the whole process and the deviations from the paper (doi:10.1093/bioinformatics/btad497).

    Parameters
    ----------
    dim
        Dimensions of a code.
    components
        How many; None lets the communities of the codes' neighbourhood graph decide, 60 at most.
    hidden
        Widths of the decoder's hidden layers; none makes it linear.
    likelihood
        Of the counts.
    covariance
        Of the components: one full matrix for all (``tied``), or one each.
    learn
        How components follow the codes: expectation-maximisation after each epoch, or gradients.
    place_at
        When components are placed, as a fraction of the epochs; before, the prior is standard normal.
    noise
        Standard deviation of what is added to the codes that the decoder sees in training.
    init
        Codes start at principal components, or at zero under a mixture as published (ten components unless
        told otherwise, diagonal covariances, learned by gradient, from the first epoch).
    update
        Codes step at every visit, or once an epoch as published.
    code_lr
        Length of their steps: 0.1 lets counts overrule the principal components that codes start at.
    prior_weight
        Of the mixture's own prior, counted once a data set, or (``cells``) once a cell as published. Only
        with ``learn="gradient"``: expectation-maximisation has its own shrinkage.
    theta_floor
        Least inverse dispersion; 1 as published.
    supervised
        One component for each level of the label, which is then no judge of the components.
    """
    latent = _prior(layout, dim, components, covariance, learn, init, supervised)
    modality = next(iter(layout.modalities))
    head = partial(heads[likelihood], floor=theta_floor) if likelihood != "poisson" else heads[likelihood]
    model = LatentModel(
        {"cell": Latent(Codebook(layout.n_cells, dim, noise=noise, start=_start(layout, dim, init)), latent)},
        layered(layout, {"cell": dim}, heads={modality: head}, hidden=hidden),
    )
    events = _placement(latent, place_at, components, init)
    return Build(model, _objective(prior_weight), _plan(layout, update, code_lr, events))


@recipe(code="cell", cite=("dgd",))
def dgd(
    layout: Layout,
    *,
    dim: Dim = 20,
    likelihood: Likelihood | None = None,
    mixture: bool = True,
    components: Components = None,
    hidden: tuple[Width, ...] = (100, 100, 100),
    covariance: Covariance = "tied",
    learn: Literal["em", "gradient"] = "em",
    place_at: Fraction = 0.75,
    noise: Annotated[float, Interval(ge=0)] = 0.3,
    init: Literal["pca", "zero"] = "pca",
    update: Literal["visit", "epoch"] = "visit",
    code_lr: Positive = 3e-3,
    prior_weight: Positive | Literal["cells"] = 1.0,
    supervised: bool = False,
) -> Build:
    r"""Deep generative decoder for any kind of values, with a fixed standard normal or a mixture prior.

    .. math::
        z_i \sim N(0, I) \ \text{or}\ \sum_k \pi_k N(\mu_k, \Sigma), \qquad x_i \sim p(x \mid f(z_i)), \qquad
        L = -\frac1n \sum_i [\log p(x_i | z_i) + \log p(z_i)]

    with the likelihood that the values ask for: negative binomial for counts, Bernoulli for 0 and 1, normal
    for anything else. The page *dgd* of the documentation has the deviations from the paper
    (doi:10.1093/bioinformatics/btad497).

    Parameters
    ----------
    dim, components, hidden, covariance, learn, place_at, noise, init, update, code_lr
        As of `scdgd`.
    prior_weight, supervised
        As of `scdgd`.
    likelihood
        None takes the one that the values ask for.
    mixture
        Whether the prior is a mixture; else a standard normal one.
    """
    modality, described = next(iter(layout.modalities.items()))
    head = heads[likelihood or usual[described.kind]]
    if not mixture and (supervised or components is not None):
        msg = (
            "Expected neither components nor supervised=True with mixture=False, which has no components; "
            f"found components={components}, supervised={supervised}. Leave them out, or ask for the mixture."
        )
        raise InputError(msg)
    latent = (
        _prior(layout, dim, components, covariance, learn, init, supervised)
        if mixture
        else StandardNormal(dim)
    )
    model = LatentModel(
        {"cell": Latent(Codebook(layout.n_cells, dim, noise=noise, start=_start(layout, dim, init)), latent)},
        layered(layout, {"cell": dim}, heads={modality: head}, hidden=hidden),
    )
    events = _placement(latent, place_at, components, init)
    return Build(model, _objective(prior_weight), _plan(layout, update, code_lr, events))


def _prior(
    layout: Layout, dim: int, components: int | None, covariance: str, learn: str, init: str, supervised: bool
) -> nn.Module:
    """The mixture: free, or one component a level of the label."""
    refuse_more_components(layout, components)
    if supervised:
        if components is not None:
            msg = (
                f"Expected no components with supervised=True, which has one for each level of the label; "
                f"found {components}. Leave one of the two out."
            )
            raise InputError(msg)
        label = layout.in_role("label")
        if label is None or not label.categorical:
            msg = (
                "Expected a categorical label for supervised=True; found none. Read the cells with "
                "label=COLUMN."
            )
            raise InputError(msg)
        return LabelledMixture(label.column, len(label.levels), dim)
    if init == "zero":
        # As published: all components from the first epoch, drawn at random.
        return Mixture(components or 10, dim, covariance="diagonal", start="softball", learn="gradient")
    return free_mixture(layout, dim, components, covariance, learn=learn)


def refuse_more_components(layout: Layout, components: int | None) -> None:
    """Refuse more components than cells that train."""
    if components is not None and components > layout.n_cells:
        msg = (
            f"Expected at most as many components as cells that train ({layout.n_cells}); found "
            f"{components}. "
            "Ask for fewer components, or give more cells."
        )
        raise InputError(msg)


def free_mixture(
    layout: Layout, dim: int, components: int | None, covariance: str, *, learn: str = "em"
) -> Mixture:
    """A mixture that is placed on the codes; with room for many where their number is left to the data."""
    return Mixture(components or min(_MOST, layout.n_cells), dim, covariance=covariance, learn=learn)  # type: ignore[arg-type]


def _start(layout: Layout, dim: int, init: str) -> PrincipalStart | None:
    batch = layout.in_role("batch")
    return PrincipalStart(layout, dim, batch=batch.column if batch else None) if init == "pca" else None


def _objective(prior_weight: float | str) -> Objective:
    if prior_weight == "cells":
        return Objective(reconstruction(), prior("cell"), hyperprior("cell", per="cell"))
    return Objective(reconstruction(), prior("cell"), hyperprior("cell", weight=float(prior_weight)))


def _plan(
    layout: Layout, update: Literal["visit", "epoch"], code_lr: float, events: tuple[Event, ...]
) -> Plan:
    plan = Plan(update=update, events=events).with_steps(n_cells=layout.n_cells)
    return replace(plan, lr={**plan.lr, "codes": code_lr})


def _placement(latent: nn.Module, at: float, components: int | None, init: str) -> tuple[Event, ...]:
    begin = (start_codes(), centre_decoder())
    if isinstance(latent, StandardNormal):
        return begin
    if init == "zero":
        return (start_means("cell"), centre_decoder())
    if isinstance(latent, LabelledMixture):
        return (*begin, place_levels("cell"))
    place = place_means("cell", at=at, components=components)
    if latent.learn == "gradient":
        return (*begin, place, move_dead_components("cell"))
    return (*begin, place, follow("cell"), move_dead_components("cell"))
