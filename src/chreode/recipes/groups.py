"""What cells of all levels share, and what those of one have of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from chreode.errors import InputError
from chreode.gated import Gate
from chreode.infer import Block
from chreode.model import Latent, LatentModel
from chreode.objective import closed
from chreode.priors import ShiftedNormal, StandardNormal, SwitchedNormal
from chreode.recipe import Build, recipe
from chreode.recipes.conditions import (
    Inference,
    Inferred,
    Likelihood,
    Mixing,
    Weight,
    assembled,
    attributes_of,
    critics_of,
    decoded,
    one_of,
)
from chreode.recipes.vae import Dim, Dropout, Share, Width
from chreode.words import listing

if TYPE_CHECKING:
    from chreode.layout import Layout

__all__ = ["contrastivevi", "multigroupvi", "patches"]


@recipe(code="shared", cite=("patches", "csvae"))
def patches(
    layout: Layout,
    *,
    attributes: tuple[str, ...] | None = None,
    dim: Dim = 10,
    private: Annotated[int, Interval(ge=1, le=64)] = 2,
    hidden: tuple[Width, ...] = (128,),
    likelihood: Likelihood = None,
    inference: Inference = "encoder",
    against: Weight = 5.0,
    mixing: Mixing = 1.0,
    apart: bool = False,
    dropout: Dropout = 0.1,
    warm_up: Share = 0.25,
) -> Build:
    r"""Patches: a code that says nothing of some attributes, and a block of code for each of their levels.

    .. math::
        z_i \sim N(0, I), \quad
        w_{ik} \mid y_i \sim N\big(m_{[k = y_i]}\,1,\ s^2_{[k = y_i]} I\big), \quad
        x_i \sim p(x \mid f(z_i, w_i)), \quad
        L = \frac1n \sum_i \big[-E_{q_i} \log p(x_i | z_i, w_i) + t\,\mathrm{KL}(q_i \| p)
        + \lambda\, \max_r \log r(y_i | z_i)\big]

    with blocks about 3 where they are on and about 0 where they are off, and critics :math:`r` that keep
    attributes out of the shared code. The page *patches* of the documentation says more
    (doi:10.1101/2024.12.23.630186).

    Parameters
    ----------
    attributes
        Columns whose levels have blocks; None takes all categorical covariates that were read.
    dim
        Dimensions of the shared code.
    private
        Dimensions of the block of a level.
    hidden, likelihood, dropout, warm_up
        As of `vae`.
    inference
        ``encoder``, or ``free``: Gaussians over each cell's codes that are learned directly, as of `vad`.
    against
        Weight of the critics; 0 leaves them out.
    mixing
        Below 1, private codes go straight to the log proportions, and hidden layers see so much of them: 0
        for effects that are the same in all kinds of cells. 1, as published, mixes all codes.
    apart
        Whether encoders too are taught, before the fit, to part what varies in the cells of one level alone
        from what all share (`chreode.infer.ContrastiveStart`), where free codes always start. True for
        programmes that only cells of a level have; predictions for a type that was never seen under a level
        are worse then.
    """
    chosen = attributes_of(layout, attributes)
    blocks = {c: _blocks(layout, c, private) for c in chosen}
    every = {name: block for some in blocks.values() for name, block in some.items()}
    how = Inferred(
        layout, hidden=hidden, dropout=dropout, kind=inference, clear_of=chosen, blocks=every, apart=apart
    )
    latents = {"shared": Latent(how.shared(dim), StandardNormal(dim))}
    for column, some in blocks.items():
        prior = SwitchedNormal(layout, column, private, n_shared=dim)
        latents[column] = Latent(how.private([*some], prior=prior, sees=(column,)), prior)
    critics, terms = critics_of(layout, chosen, dim, against=against, warm_up=warm_up)
    widths = {"shared": dim} | {column: private * len(some) for column, some in blocks.items()}
    decoder = decoded(layout.without(*chosen), widths, hidden, likelihood, mixing=mixing)
    model = LatentModel(latents, decoder, critics=critics)
    return assembled(layout, model, warm_up=warm_up, terms=terms, attributes=chosen)


@recipe(code="shared", cite=("multigroupvi",))
def multigroupvi(
    layout: Layout,
    *,
    group: str | None = None,
    dim: Dim = 10,
    private: Dim = 10,
    hidden: tuple[Width, ...] = (128,),
    likelihood: Likelihood = None,
    inference: Inference = "encoder",
    against: Weight = 5.0,
    penalty: Weight = 1.0,
    location: Annotated[float, Interval(ge=0, le=5)] = 1.0,
    mixing: Mixing = 1.0,
    apart: bool = True,
    dropout: Dropout = 0.1,
    warm_up: Share = 0.25,
) -> Build:
    r"""multiGroupVI: a code that all groups share, and one more for each group that only its cells have.

    .. math::
        z_i \sim N(0, I), \quad t_{i\gamma} \sim N(m 1, I), \quad
        x_i \sim p\big(x \mid f(z_i, 0, \dots, t_{i\gamma_i}, \dots, 0)\big), \quad
        L = \frac1n \sum_i \big[-E_{q_i} \log p(x_i | \cdot)
        + w(t)\,(\mathrm{KL}_{z} + \mathrm{KL}_{t_{\gamma_i}})
        + \omega \sum_{\gamma \ne \gamma_i} W_2^2(q_{i\gamma}, \delta_0)
        + \lambda\, \max_r \log r(\gamma_i | z_i)\big]

    The page *multigroupvi* of the documentation says more.

    Parameters
    ----------
    group
        Column of the groups; None takes the one categorical covariate that was read.
    dim, private
        Dimensions of the shared code, and of that of a group.
    hidden, likelihood, dropout, warm_up
        As of `vae`.
    inference, against, mixing, apart
        As of `patches`.
    penalty
        :math:`\omega`, which keeps the codes of other groups at zero.
    location
        Mean :math:`m` of each dimension of a group's code in its cells; published 0.
    """
    column = one_of(layout, group, called="group")
    blocks = _blocks(layout, column, private)
    how = Inferred(
        layout, hidden=hidden, dropout=dropout, kind=inference, clear_of=(column,), blocks=blocks, apart=apart
    )
    return _gated(
        layout,
        how,
        column,
        dim=dim,
        likelihood=likelihood,
        against=against,
        penalty=penalty,
        location=location,
        mixing=mixing,
        warm_up=warm_up,
    )


@recipe(code="shared", cite=("contrastivevi",))
def contrastivevi(
    layout: Layout,
    *,
    background: str,
    condition: str | None = None,
    dim: Dim = 10,
    private: Dim = 10,
    hidden: tuple[Width, ...] = (128,),
    likelihood: Likelihood = None,
    inference: Inference = "encoder",
    against: Weight = 5.0,
    penalty: Weight = 1.0,
    location: Annotated[float, Interval(ge=0, le=5)] = 1.0,
    mixing: Mixing = 1.0,
    apart: bool = True,
    dropout: Dropout = 0.1,
    warm_up: Share = 0.25,
) -> Build:
    r"""contrastiveVI: a code that all cells share, and a salient one that cells of the background lack.

    .. math::
        z_i \sim N(0, I), \quad s_i \sim N(m 1, I), \quad
        x_i \sim p\big(x \mid f(z_i, g_i s_i)\big), \quad
        L = \frac1n \sum_i \big[-E_{q_i} \log p(x_i | \cdot) + w(t)\,(\mathrm{KL}_z + g_i\,\mathrm{KL}_s)
        + \omega\,(1 - g_i)\, W_2^2(q^s_i, \delta_0) + \lambda\, \max_r \log r(y_i | z_i)\big]

    with :math:`g_i = 0` in the background, else 1. The page *contrastivevi* of the documentation says more
    (doi:10.1038/s41592-023-01955-3).

    Parameters
    ----------
    background
        The level without a salient code: controls, say.
    condition
        Column of that level; None takes the one categorical covariate that was read.
    dim, private
        Dimensions of the shared code, and of the salient one.
    hidden, likelihood, dropout, warm_up
        As of `vae`.
    inference, against, mixing, apart
        As of `patches`.
    penalty
        :math:`\omega`, which keeps salient codes of the background at zero.
    location
        Mean :math:`m` of each dimension of a salient code; published 0.
    """
    column = one_of(layout, condition, called="condition")
    levels = layout.resolve(column).levels
    if background not in levels:
        msg = (
            f"Expected a background that is a level of {column!r} ({listing(levels)}); found {background!r}. "
            "Name the level of the controls."
        )
        raise InputError(msg)
    blocks = {"salient": Block(column, tuple(level for level in levels if level != background), private)}
    how = Inferred(
        layout, hidden=hidden, dropout=dropout, kind=inference, clear_of=(column,), blocks=blocks, apart=apart
    )
    return _gated(
        layout,
        how,
        column,
        dim=dim,
        likelihood=likelihood,
        against=against,
        penalty=penalty,
        location=location,
        mixing=mixing,
        warm_up=warm_up,
    )


def _blocks(layout: Layout, column: str, dim: int) -> dict[str, Block]:
    """A private code for each level of a column."""
    return {f"{column}={level}": Block(column, (level,), dim) for level in layout.resolve(column).levels}


def _gated(
    layout: Layout,
    how: Inferred,
    column: str,
    *,
    dim: int,
    likelihood: str | None,
    against: float,
    penalty: float,
    location: float,
    mixing: float,
    warm_up: float,
) -> Build:
    """A shared code, and private ones that only cells of some levels have."""
    latents = {"shared": Latent(how.shared(dim), StandardNormal(dim))}
    for name, block in how.blocks.items():
        gate, prior = (
            Gate(layout, column, block.levels, dims=(dim, block.dim)),
            ShiftedNormal(block.dim, location),
        )
        # Encoders are not to begin there: what they say of cells without the code should be zero.
        latents[name] = Latent(how.private([name], prior=prior, around=False), prior, only=gate)
    # A free Gaussian of a cell that lacks the code is never looked at: nothing need keep it anywhere.
    critics, terms = critics_of(layout, (column,), dim, against=against, warm_up=warm_up)
    terms += [] if how.free else [closed(name, weight=penalty) for name in how.blocks]
    widths = {"shared": dim} | {name: block.dim for name, block in how.blocks.items()}
    decoder = decoded(layout.without(column), widths, how.hidden, likelihood, mixing=mixing)
    model = LatentModel(latents, decoder, critics=critics)
    return assembled(layout, model, warm_up=warm_up, terms=terms, attributes=(column,))
