"""Variational recipes: an encoder, or a table, gives a Gaussian over each cell's code."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from chreode.decoders import MLP, Linear, layered
from chreode.events import centre_decoder, start_codes
from chreode.infer import Encoder, PrincipalStart, VariationalCodebook, VariationalEncoder
from chreode.likelihoods import heads, usual
from chreode.model import Latent, LatentModel
from chreode.objective import Objective, Ramp, kl, reconstruction
from chreode.plan import Event, Plan
from chreode.priors import StandardNormal
from chreode.recipe import Build, recipe

if TYPE_CHECKING:
    from torch import nn

    from chreode.layout import Layout
    from chreode.objective import Term

__all__ = ["beta_vae", "ldvae", "scvi", "vad", "vae"]

Width = Annotated[int, Field(ge=1, le=4096)]
Dim = Annotated[int, Field(ge=1, le=512)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
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
) -> Build:
    r"""Variational autoencoder for any kind of values, with a standard normal prior.

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
        None takes the one that the values ask for.
    dropout
        Probability that a hidden unit of the encoder is dropped in a step.
    warm_up
        Share of the steps in which the divergence's weight rises from 0 to 1.
    """
    return _any_kind(layout, dim, hidden, likelihood, dropout=dropout, beta=1.0, warm_up=warm_up)


@recipe(code="cell", cite=("beta_vae",))
def beta_vae(
    layout: Layout,
    *,
    beta: Annotated[float, Field(gt=0)] = 4.0,
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
    return _any_kind(layout, dim, hidden, likelihood, dropout=dropout, beta=beta, warm_up=warm_up)


@recipe(code="cell", cite=("scvi",))
def scvi(
    layout: Layout,
    *,
    dim: Dim = 10,
    hidden: Annotated[tuple[Width, ...], Field(min_length=1)] = (128,),
    likelihood: Counts = "zinb",
    dropout: Dropout = 0.1,
    encode_batch: bool = False,
    warm_up: Share = 0.25,
) -> Build:
    r"""Single-cell variational inference: an encoder, a standard normal prior, counts.

    .. math::
        z_i \sim N(0, I), \quad x_{ij} \sim \mathrm{ZINB}\big(s_i\,\mathrm{softmax}(f(z_i, b_i))_j,\
        \theta_j,\ \pi_{ij}\big)

    with inference and objective as of `vae`. The page *scvi* of the documentation has the whole process and
    the deviations from the paper (doi:10.1038/s41592-018-0229-2).

    Parameters
    ----------
    dim, dropout, warm_up
        As of `vae`.
    hidden
        Widths of the decoder's hidden layers, and in reverse of the encoder's.
    likelihood
        Of the counts.
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
    hidden: Annotated[tuple[Width, ...], Field(min_length=1)] = (128,),
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


@recipe(code="cell", cite=("vad",))
def vad(
    layout: Layout,
    *,
    dim: Dim = 20,
    hidden: tuple[Width, ...] = (100,),
    likelihood: Literal["nb", "poisson", "zinb", "bernoulli", "normal"] | None = None,
    init: Literal["pca", "zero"] = "pca",
    code_lr: Annotated[float, Field(gt=0)] = 1e-2,
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
    """
    modality, described = next(iter(layout.modalities.items()))
    batch = layout.in_role("batch")
    start = PrincipalStart(layout, dim, batch=batch.column if batch else None) if init == "pca" else None
    chosen = {modality: heads[likelihood or usual[described.kind]]}
    decoder = layered(layout, {"cell": dim}, heads=chosen, hidden=hidden)
    infer = VariationalCodebook(layout.n_cells, dim, start=start)
    model = LatentModel({"cell": Latent(infer, StandardNormal(dim))}, decoder)
    plan = Plan(events=(start_codes(), centre_decoder()))
    plan = replace(plan, lr={**plan.lr, "codes": code_lr})
    return Build(model, Objective(reconstruction(), kl("cell")), plan)


def of_counts(
    layout: Layout, dim: int, hidden: tuple[int, ...], *, dropout: float, encode_batch: bool
) -> VariationalEncoder:
    """The encoder of scVI."""
    seen = tuple(layout.conditions) if encode_batch else ()
    how = {"norm": "batch", "dropout": dropout, "columns": seen}
    return VariationalEncoder(Encoder(layout, 2 * dim, hidden=hidden, scaled=False, **how))


def _any_kind(
    layout: Layout,
    dim: int,
    hidden: tuple[int, ...],
    likelihood: str | None,
    *,
    dropout: float,
    beta: float,
    warm_up: float,
) -> Build:
    modality, described = next(iter(layout.modalities.items()))
    how = {"norm": "batch", "dropout": dropout}
    encoder = Encoder(layout, 2 * dim, hidden=hidden[::-1], **how)
    chosen = {modality: heads[likelihood or usual[described.kind]]}
    decoder = layered(layout, {"cell": dim}, heads=chosen, hidden=hidden)
    infer = VariationalEncoder(encoder)
    return built(layout, infer, StandardNormal(dim), decoder, beta=beta, warm_up=warm_up)


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
