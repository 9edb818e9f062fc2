"""Variational recipes: an encoder gives a Gaussian over each cell's code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval, MinLen

from chreode.decoders import MLP, Linear, layered
from chreode.events import centre_decoder, placed, start_inputs
from chreode.infer import Encoder, VariationalEncoder
from chreode.likelihoods import heads, usual
from chreode.model import Latent, LatentModel
from chreode.objective import Objective, Ramp, independence, kl, reconstruction
from chreode.plan import Event, Plan
from chreode.priors import StandardNormal, VampPrior
from chreode.recipe import Build, recipe
from chreode.recipes.dgd import Components, Covariance, free_mixture, refuse_more_components

if TYPE_CHECKING:
    from torch import nn

    from chreode.layout import Layout
    from chreode.objective import Term

__all__ = ["beta_vae", "dhsic_vae", "ldvae", "scvae", "scvi", "vae"]

Width = Annotated[int, Interval(ge=1, le=4096)]
Dim = Annotated[int, Interval(ge=1, le=512)]
Dropout = Annotated[float, Interval(ge=0, lt=1)]
Share = Annotated[float, Interval(gt=0, lt=1)]
Counts = Literal["nb", "zinb", "poisson"]
_STEPS = 1500  # at least, however few cells there are


@recipe(code="cell", cite=("vae",))
def vae(
    layout: Layout,
    *,
    dim: Dim = 10,
    hidden: tuple[Width, ...] = (128,),
    likelihood: Literal["nb", "poisson", "zinb", "bernoulli", "normal"] | None = None,
    dropout: Dropout = 0.1,
    warm_up: Share = 0.25,
    prior: Literal["normal", "vamp"] = "normal",
    inputs: Annotated[int, Interval(ge=1, le=1000)] = 50,
) -> Build:
    r"""Variational autoencoder for any kind of values, with a standard normal prior or one of posteriors.

    .. math::
        z_i \sim N(0, I), \quad x_i \sim p(x \mid f(z_i)), \quad
        L = \frac1n \sum_i \big[-E_{q_i} \log p(x_i | z_i) + w(t)\, \mathrm{KL}(q_i \,\|\, N(0, I))\big]

    with :math:`q_i = N(m(x_i), \mathrm{diag}\,v(x_i))`, one draw of it a step, and :math:`w(t)` rising to 1.
    The page *vae* of the documentation says more (doi:10.48550/arXiv.1312.6114).

    Parameters
    ----------
    dim
        Dimensions of a code.
    hidden
        Widths of the decoder's hidden layers, and in reverse of the encoder's; none makes both linear.
    likelihood
        None takes the one that the values ask for. ``normal``, that of continuous ones, has a standard
        deviation of 1: bring values to units in which their noise is about that.
    dropout
        Probability that a hidden unit of the encoder is dropped in a step.
    warm_up
        Share of the steps in which the divergence's weight rises from 0 to 1.
    prior
        ``normal``, or ``vamp``: the mixture of the posteriors of pseudo-cells that are learned
        (doi:10.48550/arXiv.1705.07120).
    inputs
        How many pseudo-cells.
    """
    infer, decoder = _any_kind(layout, dim, hidden, likelihood, dropout=dropout)
    if prior == "normal":
        return built(layout, infer, StandardNormal(dim), decoder, warm_up=warm_up)
    made, events = VampPrior(infer, dim, inputs=inputs), (start_inputs("cell"),)
    return built(layout, infer, made, decoder, warm_up=warm_up, events=events)


@recipe(code="cell", cite=("beta_vae",))
def beta_vae(
    layout: Layout,
    *,
    beta: Annotated[float, Interval(gt=0)] = 4.0,
    dim: Dim = 10,
    hidden: tuple[Width, ...] = (128,),
    likelihood: Literal["nb", "poisson", "zinb", "bernoulli", "normal"] | None = None,
    dropout: Dropout = 0.1,
    warm_up: Share = 0.25,
) -> Build:
    r"""Variational autoencoder whose divergence weighs more (or less), for codes that are told apart better.

    .. math::
        L = \frac1n \sum_i \big[-E_{q_i} \log p(x_i | z_i) + \beta\,w(t)\,\mathrm{KL}(q_i \,\|\, N(0, I))\big]

    The page *beta_vae* of the documentation says more.

    Parameters
    ----------
    beta
        Weight at which the divergence arrives; 1 is `vae`.
    dim, hidden, likelihood, dropout, warm_up
        As of `vae`.
    """
    infer, decoder = _any_kind(layout, dim, hidden, likelihood, dropout=dropout)
    return built(layout, infer, StandardNormal(dim), decoder, beta=beta, warm_up=warm_up)


@recipe(code="cell", cite=("dhsic_vae", "hsic_vae"))
def dhsic_vae(
    layout: Layout,
    *,
    penalty: Annotated[float, Interval(ge=0)] = 1000.0,
    dim: Dim = 10,
    hidden: tuple[Width, ...] = (128,),
    likelihood: Literal["nb", "poisson", "zinb", "bernoulli", "normal"] | None = None,
    dropout: Dropout = 0.1,
    warm_up: Share = 0.25,
) -> Build:
    r"""Variational autoencoder whose dimensions are kept independent of each other over cells.

    .. math::
        L = \frac1n \sum_i \big[-E_{q_i} \log p(x_i | z_i) + w(t)\,\mathrm{KL}(q_i \,\|\, N(0, I))\big]
        + \lambda\, \widehat{\mathrm{dHSIC}}(z_1, \dots, z_d)

    with the kernel criterion of joint independence of the codes drawn for a minibatch. The page *dhsic_vae*
    of the documentation says more.

    Parameters
    ----------
    penalty
        :math:`\lambda`, in nats a cell; 0 is `vae`.
    dim, hidden, likelihood, dropout, warm_up
        As of `vae`.
    """
    infer, decoder = _any_kind(layout, dim, hidden, likelihood, dropout=dropout)
    terms = (independence("cell", weight=penalty),)
    return built(layout, infer, StandardNormal(dim), decoder, warm_up=warm_up, terms=terms)


@recipe(code="cell", cite=("scvae",))
def scvae(
    layout: Layout,
    *,
    dim: Dim = 10,
    components: Components = None,
    hidden: tuple[Width, ...] = (128,),
    likelihood: Literal["nb", "poisson", "zinb", "bernoulli", "normal"] | None = None,
    covariance: Covariance = "tied",
    dropout: Dropout = 0.1,
    warm_up: Share = 0.25,
    place_at: Annotated[float, Interval(gt=0, le=1)] = 0.5,
) -> Build:
    r"""Gaussian-mixture variational autoencoder: an encoder, and components that are the cells' clusters.

    .. math::
        z_i \sim \sum_k \pi_k N(\mu_k, \Sigma), \quad x_i \sim p(x \mid f(z_i)), \quad
        L = \frac1n \sum_i \big[-E_{q_i} \log p(x_i | z_i) + w(t)\, \mathrm{KL}(q_i \,\|\, p)\big]

    with the divergence from the mixture estimated by the code that is drawn. Components are placed on draws
    of all posteriors and follow them by expectation-maximisation. The page *scvae* of the documentation says
    more (doi:10.1093/bioinformatics/btaa293).

    Parameters
    ----------
    dim, hidden, likelihood, dropout, warm_up
        As of `vae`.
    components, covariance
        As of `scdgd`.
    place_at
        When components are placed, as a fraction of the epochs; before, the prior is standard normal.
    """
    refuse_more_components(layout, components)
    infer, decoder = _any_kind(layout, dim, hidden, likelihood, dropout=dropout)
    prior = free_mixture(layout, dim, components, covariance)
    events = placed("cell", at=place_at, components=components)
    return built(layout, infer, prior, decoder, warm_up=warm_up, events=events)


@recipe(code="cell", cite=("scvi",))
def scvi(
    layout: Layout,
    *,
    dim: Dim = 20,
    hidden: Annotated[tuple[Width, ...], MinLen(1)] = (128,),
    likelihood: Counts = "nb",
    dropout: Dropout = 0.1,
    encode_batch: bool = False,
    warm_up: Share = 0.25,
) -> Build:
    r"""Single-cell variational inference: an encoder, a standard normal prior, counts.

    .. math::
        z_i \sim N(0, I), \quad x_{ij} \sim \mathrm{NB}\big(s_i\,\mathrm{softmax}(f(z_i, b_i))_j,\
        \theta_j\big)

    with inference and objective as of `vae`. The page *scvi* of the documentation has the whole process and
    the deviations from the paper (doi:10.1038/s41592-018-0229-2).

    Parameters
    ----------
    dim, dropout, warm_up
        As of `vae`.
    hidden
        Widths of the decoder's hidden layers, and in reverse of the encoder's.
    likelihood
        Of the counts; ``zinb`` as published.
    encode_batch
        Whether the encoder sees the batch and covariates too; without, it encodes cells of any batch.
    """
    modality = next(iter(layout.modalities))
    head = {modality: heads[likelihood]}
    decoder = MLP(layout, {"cell": dim}, heads=head, hidden=hidden, norm="batch", columns=(), deep=True)
    encoder = of_counts(layout, dim, hidden[::-1], dropout=dropout, encode_batch=encode_batch)
    return built(layout, encoder, StandardNormal(dim), decoder, warm_up=warm_up)


@recipe(code="cell", cite=("ldvae", "scvi"))
def ldvae(
    layout: Layout,
    *,
    dim: Dim = 10,
    hidden: Annotated[tuple[Width, ...], MinLen(1)] = (128,),
    likelihood: Counts = "nb",
    dropout: Dropout = 0.1,
    encode_batch: bool = False,
    warm_up: Share = 0.25,
) -> Build:
    r"""Variational autoencoder with a linear decoder: each dimension has a loading for each gene.

    .. math::
        z_i \sim N(0, I), \quad x_{ij} \sim \mathrm{NB}\big(s_i\,\mathrm{softmax}(W z_i + a + o_i)_j,\
        \theta_j\big)

    with inference and objective as of `vae`. The page *ldvae* of the documentation says more
    (doi:10.1093/bioinformatics/btaa169).

    Parameters
    ----------
    dim, dropout, warm_up
        As of `vae`.
    hidden
        Widths of the encoder's hidden layers.
    likelihood, encode_batch
        As of `scvi`.
    """
    modality = next(iter(layout.modalities))
    decoder = Linear(layout, {"cell": dim}, heads={modality: heads[likelihood]})
    encoder = of_counts(layout, dim, hidden, dropout=dropout, encode_batch=encode_batch)
    return built(layout, encoder, StandardNormal(dim), decoder, warm_up=warm_up)


def of_counts(
    layout: Layout, dim: int, hidden: tuple[int, ...], *, dropout: float, encode_batch: bool
) -> VariationalEncoder:
    """The encoder of scVI."""
    seen = tuple(layout.conditions) if encode_batch else ()
    how = {"norm": "batch", "dropout": dropout, "columns": seen}
    return VariationalEncoder(Encoder(layout, 2 * dim, hidden=hidden, scaled=False, **how))


def _any_kind(
    layout: Layout, dim: int, hidden: tuple[int, ...], likelihood: str | None, *, dropout: float
) -> tuple[VariationalEncoder, nn.Module]:
    """Encoder and decoder for the kind of values there is."""
    modality, described = next(iter(layout.modalities.items()))
    encoder = Encoder(layout, 2 * dim, hidden=hidden[::-1], norm="batch", dropout=dropout)
    chosen = {modality: heads[likelihood or usual[described.kind]]}
    return VariationalEncoder(encoder), layered(layout, {"cell": dim}, heads=chosen, hidden=hidden)


def built(
    layout: Layout,
    infer: nn.Module,
    prior: nn.Module,
    decoder: nn.Module,
    *,
    warm_up: float,
    beta: float = 1.0,
    terms: tuple[Term, ...] = (),
    events: tuple[Event, ...] = (),
) -> Build:
    """An encoder that says how sure it is of a code, and a divergence that arrives at its weight."""
    model = LatentModel({"cell": Latent(infer, prior)}, decoder)
    divergence = kl("cell", weight=Ramp(end=beta, until=warm_up))
    # What explained held-out molecules best before the divergence had its weight is no model to return.
    arrived = Event("divergence at full weight", lambda _: None, at=warm_up)
    plan = Plan(weight_decay=1e-6, events=(centre_decoder(), *events, arrived))
    plan = plan.with_steps(_STEPS, n_cells=layout.n_cells)
    return Build(model, Objective(reconstruction(), divergence, *terms), plan)
