"""Codes of attributes' levels beside a code of each cell that says nothing of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval, MinLen

from chreode.crossing import check_crossing
from chreode.decoders import Summed
from chreode.errors import InputError
from chreode.events import centre_decoder, start_codes
from chreode.infer import Codebook, Encoder, LevelCodes, NoisyEncoder
from chreode.model import Latent, LatentModel
from chreode.objective import Objective, Ramp, discrepancy, prior, reconstruction
from chreode.priors import Flat, StandardNormal
from chreode.recipe import Build, recipe
from chreode.recipes.conditions import (
    Inference,
    Inferred,
    Likelihood,
    Weight,
    assembled,
    attributes_of,
    critics_of,
    decoded,
    one_of,
    planned,
)
from chreode.recipes.vae import Dim, Dropout, Share, Width

if TYPE_CHECKING:
    from chreode.layout import Layout

__all__ = ["biolord", "cpa", "lord", "trvae"]

Noise = Annotated[float, Interval(ge=0)]
_ORDERED = 16  # dimensions of the code of a continuous attribute


@recipe(code="shared", cite=("trvae",))
def trvae(
    layout: Layout,
    *,
    attributes: tuple[str, ...] | None = None,
    dim: Dim = 10,
    hidden: tuple[Width, ...] = (128,),
    likelihood: Likelihood = None,
    inference: Inference = "encoder",
    on: Literal["code", "hidden"] = "code",
    penalty: Weight = 50.0,
    dropout: Dropout = 0.1,
    warm_up: Share = 0.25,
) -> Build:
    r"""trVAE: encoder and decoder see the attributes, and codes of their levels are brought together.

    .. math::
        z_i \sim N(0, I), \quad x_i \sim p(x \mid f(z_i, y_i)), \quad
        L = \frac1n \sum_i \big[-E_{q_i} \log p(x_i | z_i, y_i) + w(t)\,\mathrm{KL}(q_i \| p)\big]
        + w(t)\,\beta \sum_a \overline{\mathrm{MMD}^2}(z_l, z_{l'})

    with :math:`q_i` of an encoder that sees :math:`y_i` too, and a mean over pairs of levels of an attribute.
    The page *trvae* of the documentation says more (doi:10.1093/bioinformatics/btaa800).

    Parameters
    ----------
    attributes
        Columns whose levels are brought together; None takes all categorical covariates that were read.
    dim
        Dimensions of a code.
    hidden, likelihood, dropout, warm_up
        As of `vae`.
    inference
        As of `patches`.
    on
        What is brought together: the ``code``, or the decoder's first ``hidden`` layer, as published.
    penalty
        :math:`\beta`, in nats a cell.
    """
    chosen = attributes_of(layout, attributes)
    if on == "hidden" and not hidden:
        msg = "Expected a hidden layer for on='hidden'; found hidden=(). Name a width, or set on='code'."
        raise InputError(msg)
    how = Inferred(layout, hidden=hidden, dropout=dropout, kind=inference, clear_of=chosen, sees=chosen)
    latents = {"shared": Latent(how.shared(dim), StandardNormal(dim))}
    decoder = decoded(layout.conditioned_by(*chosen), {"shared": dim}, hidden, likelihood)
    latent, weight = "shared" if on == "code" else None, Ramp(end=penalty, until=warm_up)
    terms = [discrepancy(column, latent=latent, weight=weight) for column in chosen if penalty]
    return assembled(layout, LatentModel(latents, decoder), warm_up=warm_up, terms=terms, attributes=chosen)


@recipe(code="shared", cite=("cpa",))
def cpa(
    layout: Layout,
    *,
    attributes: tuple[str, ...] | None = None,
    dim: Dim = 10,
    hidden: Annotated[tuple[Width, ...], MinLen(1)] = (128,),
    likelihood: Likelihood = None,
    inference: Inference = "encoder",
    against: Weight = 5.0,
    dropout: Dropout = 0.1,
    warm_up: Share = 0.25,
) -> Build:
    r"""Compositional perturbation autoencoder: codes of attributes, added to one that says nothing of them.

    .. math::
        z_i \sim N(0, I), \quad x_i \sim p\big(x \mid f(z_i + \textstyle\sum_a e_{a, y_{ia}})\big), \quad
        L = \frac1n \sum_i \big[-E_{q_i} \log p(x_i | \cdot) + w(t)\,\mathrm{KL}(q_i \| p)
        + w(t)\,\lambda\, \max_r \sum_a \log r_a(y_{ia} | z_i)\big]

    with critics :math:`r_a` that keep the attributes out of the basal code :math:`z_i`, here ``shared``. The
    page *cpa* of the documentation says more (doi:10.15252/msb.202211517).

    Parameters
    ----------
    attributes
        Columns that have codes; None takes all covariates that were read, categorical and continuous.
    dim
        Dimensions of the codes.
    hidden
        Widths of the decoder's hidden layers, and in reverse of the encoder's.
    likelihood, dropout, warm_up
        As of `vae`.
    inference
        As of `patches`.
    against
        Weight of the critics, of categorical attributes; 0 leaves them out.
    """
    chosen = attributes_of(layout, attributes, continuous=True)
    how = Inferred(layout, hidden=hidden, dropout=dropout, kind=inference, clear_of=chosen)
    latents = {"shared": Latent(how.shared(dim), StandardNormal(dim))}
    latents |= {column: Latent(LevelCodes(layout, column, dim), Flat(dim)) for column in chosen}
    levelled = tuple(column for column in chosen if layout.resolve(column).categorical)
    critics, terms = critics_of(layout, levelled, dim, against=against, warm_up=warm_up)
    rest = layout.without(*chosen)
    decoder = Summed(list(latents), dim, make=lambda inputs: decoded(rest, dict(inputs), hidden, likelihood))
    model = LatentModel(latents, decoder, critics=critics)
    return assembled(layout, model, warm_up=warm_up, terms=terms, attributes=chosen)


@recipe(code="shared", cite=("biolord",))
def biolord(
    layout: Layout,
    *,
    attributes: tuple[str, ...] | None = None,
    dim: Dim = 10,
    private: Dim = 4,
    hidden: tuple[Width, ...] = (128,),
    likelihood: Likelihood = None,
    inference: Inference = "free",
    noise: Noise = 0.5,
) -> Build:
    r"""biolord: a noisy code of each cell beside codes of the levels of its attributes.

    .. math::
        x_i \sim p\big(x \mid f(u_i + \sigma \varepsilon_i, e_{1, y_{i1}}, e_{2, y_{i2}}, \dots)\big), \qquad
        L = \frac1n \sum_i \big[-\log p(x_i | \cdot) + \tfrac12 \lVert u_i \rVert^2\big]

    so that a cell's own code :math:`u_i`, ``shared``, which is blurred and costs its square, leaves to the
    codes of levels what these can say. The page *biolord* of the documentation says more
    (doi:10.1038/s41587-023-02079-x).

    Parameters
    ----------
    attributes
        Columns that have codes; None takes all covariates that were read, categorical and continuous.
    dim
        Dimensions of a cell's own code.
    private
        Dimensions of the code of a level; that of a continuous attribute has 16.
    hidden, likelihood
        As of `vae`.
    inference
        ``free``, as published: own codes are parameters; or ``encoder``.
    noise
        Standard deviation :math:`\sigma` of the noise on own codes in training, in units of their prior.
    """
    chosen = attributes_of(layout, attributes, continuous=True)
    widths = {c: private if layout.resolve(c).categorical else _ORDERED for c in chosen}
    return _optimised(
        layout, {"shared": dim, **widths}, hidden=hidden, likelihood=likelihood, kind=inference, noise=noise
    )


@recipe(code="shared", cite=("lord",))
def lord(
    layout: Layout,
    *,
    attribute: str | None = None,
    dim: Dim = 10,
    private: Dim = 10,
    hidden: tuple[Width, ...] = (128,),
    likelihood: Likelihood = None,
    inference: Inference = "free",
    noise: Noise = 1.0,
) -> Build:
    r"""LORD: a very noisy content code of each cell beside the code of its class.

    .. math::
        x_i \sim p\big(x \mid f(c_i + \sigma \varepsilon_i, e_{y_i})\big), \qquad
        L = \frac1n \sum_i \big[-\log p(x_i | \cdot) + \tfrac12 \lVert c_i \rVert^2\big]

    It is `biolord` of one attribute, with more noise; ``model.distil()`` then makes encoders of content and
    class. The page *lord* of the documentation says more (doi:10.48550/arXiv.1906.11796).

    Parameters
    ----------
    attribute
        Column of the classes; None takes the one categorical covariate that was read.
    dim, private
        Dimensions of a content code, and of the code of a class.
    hidden, likelihood
        As of `vae`.
    inference
        As of `biolord`.
    noise
        As of `biolord`.
    """
    widths = {"shared": dim, one_of(layout, attribute, called="attribute"): private}
    return _optimised(layout, widths, hidden=hidden, likelihood=likelihood, kind=inference, noise=noise)


def _optimised(
    layout: Layout,
    widths: dict[str, int],
    *,
    hidden: tuple[int, ...],
    likelihood: str | None,
    kind: Inference,
    noise: float,
) -> Build:
    """A noisy code that all cells have, and one for the levels of each other column that is named."""
    dim, chosen = widths["shared"], tuple(name for name in widths if name != "shared")
    how = Inferred(layout, hidden=hidden, dropout=0.0, kind=kind, clear_of=chosen)
    own = (
        Codebook(layout.n_cells, dim, noise=noise, start=how.start(dim))
        if how.free
        else NoisyEncoder(Encoder(layout, dim, hidden=hidden[::-1], norm="batch"), noise=noise)
    )
    latents = {"shared": Latent(own, StandardNormal(dim))}
    latents |= {c: Latent(LevelCodes(layout, c, widths[c]), Flat(widths[c])) for c in chosen}
    model = LatentModel(latents, decoded(layout.without(*chosen), widths, hidden, likelihood))
    plan = planned(layout, check_crossing(chosen), start_codes(), centre_decoder())
    return Build(model, Objective(reconstruction(), prior("shared")), plan)
