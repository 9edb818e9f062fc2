"""What cells of all levels share, and what those of one have of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval

from chreode.crossing import check_crossing
from chreode.decoders import layered
from chreode.errors import InputError
from chreode.events import centre_decoder, count_levels, pair_codes, start_codes
from chreode.gated import Gate
from chreode.infer import Encoder, PrincipalStart, PriorStart, VariationalCodebook, VariationalEncoder
from chreode.likelihoods import heads, usual
from chreode.model import Latent, LatentModel
from chreode.objective import Objective, Ramp, adversary, closed, kl, reconstruction
from chreode.penalties import Critic
from chreode.plan import Event, Plan
from chreode.priors import StandardNormal, SwitchedNormal
from chreode.recipe import Build, recipe
from chreode.recipes.vae import Dim, Dropout, Share, Width
from chreode.words import listing

if TYPE_CHECKING:
    from torch import nn

    from chreode.layout import Layout
    from chreode.objective import Term

__all__ = ["contrastivevi", "multigroupvi", "patches"]

Likelihood = Literal["nb", "poisson", "zinb", "bernoulli", "normal"] | None
Inference = Literal["encoder", "free"]
Weight = Annotated[float, Interval(ge=0)]
_HIDDEN: tuple[int, ...] = (128,)  # of encoders, where the decoder is linear
_CODE_LR = 1e-2  # of free Gaussians, as of vad
_STEPS = 1500  # at least, however few cells there are


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
    """
    chosen = attributes_of(layout, attributes)
    how = Inferred(layout, hidden=hidden, dropout=dropout, kind=inference, clear_of=chosen)
    latents = {"shared": Latent(how.shared(dim), StandardNormal(dim))}
    for column in chosen:
        prior = SwitchedNormal(layout, column, private, n_shared=dim)
        width = private * prior.n_levels
        latents[column] = Latent(how.private(width, prior=prior, sees=(column,)), prior)
    critics, terms = critics_of(layout, chosen, dim, against=against, warm_up=warm_up)
    widths = {"shared": dim} | {c: private * latents[c].prior.n_levels for c in chosen}
    decoder = decoded(layout.without(*chosen), widths, hidden, likelihood)
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
    dropout: Dropout = 0.1,
    warm_up: Share = 0.25,
) -> Build:
    r"""multiGroupVI: a code that all groups share, and one more for each group that only its cells have.

    .. math::
        z_i \sim N(0, I), \quad t_{i\gamma} \sim N(0, I), \quad
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
    inference, against
        As of `patches`.
    penalty
        :math:`\omega`, which keeps the codes of other groups at zero.
    """
    column = one_of(layout, group, called="group")
    gates = {f"{column}={level}": (level,) for level in layout.resolve(column).levels}
    how = Inferred(layout, hidden=hidden, dropout=dropout, kind=inference, clear_of=(column,))
    return _gated(
        layout,
        how,
        column,
        gates,
        dims=(dim, private),
        likelihood=likelihood,
        against=against,
        penalty=penalty,
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
    dropout: Dropout = 0.1,
    warm_up: Share = 0.25,
) -> Build:
    r"""contrastiveVI: a code that all cells share, and a salient one that cells of the background lack.

    .. math::
        z_i \sim N(0, I), \quad s_i \sim N(0, I), \quad
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
    inference, against
        As of `patches`.
    penalty
        :math:`\omega`, which keeps salient codes of the background at zero.
    """
    column = one_of(layout, condition, called="condition")
    levels = layout.resolve(column).levels
    if background not in levels:
        msg = (
            f"Expected a background that is a level of {column!r} ({listing(levels)}); found {background!r}. "
            "Name the level of the controls."
        )
        raise InputError(msg)
    how = Inferred(layout, hidden=hidden, dropout=dropout, kind=inference, clear_of=(column,))
    gates = {"salient": tuple(level for level in levels if level != background)}
    return _gated(
        layout,
        how,
        column,
        gates,
        dims=(dim, private),
        likelihood=likelihood,
        against=against,
        penalty=penalty,
        warm_up=warm_up,
    )


def attributes_of(
    layout: Layout, named: tuple[str, ...] | None, *, continuous: bool = False
) -> tuple[str, ...]:
    """The columns a recipe takes for attributes: those named, else the covariates.

    Parameters
    ----------
    layout
        Of the cells.
    named
        By the user, or None.
    continuous
        Whether continuous columns are taken too; else categorical ones alone.

    Raises
    ------
    InputError
        For a column that was not read, has a single level or is of the wrong kind, and where there are none.
    """
    if named is None:
        mine = [c for c in layout.covariates.values() if c.role == "covariate"]
        named = tuple(c.column for c in mine if c.categorical or continuous)
    found = [layout.resolve(name) for name in named]
    if not found:
        columns = listing(layout.covariates) if layout.covariates else "none"
        kind = "covariate" if continuous else "categorical covariate"
        msg = (
            f"Expected a {kind} as attribute; found columns {columns}, none of which is one. "
            "Read the cells with covariates='condition', say, or let attributes= name columns that were read."
        )
        raise InputError(msg)
    for covariate in found:
        if len(covariate.levels) < 2 and (covariate.categorical or not continuous):
            held = f"one level, {listing(covariate.levels)}" if covariate.levels else "a continuous column"
            msg = (
                f"Expected attributes with at least two levels; found {held}, in {covariate.column!r}. Leave "
                "it out, or read cells of several levels."
            )
            raise InputError(msg)
        if covariate.column == "shared":
            msg = (
                "Expected attributes of other names than 'shared', the code of all cells. Rename the column."
            )
            raise InputError(msg)
    return tuple(c.column for c in found)


def one_of(layout: Layout, named: str | None, *, called: str) -> str:
    """The one attribute of a recipe that knows only one."""
    found = attributes_of(layout, None if named is None else (named,))
    if len(found) > 1:
        msg = f"Expected one {called}; found {listing(found)}. Name it: {called}={found[0]!r}."
        raise InputError(msg)
    return next(iter(found))


def decoded(
    layout: Layout, widths: dict[str, int], hidden: tuple[int, ...], likelihood: str | None
) -> nn.Module:
    """A decoder of the first modality under the likelihood that its values ask for."""
    modality, described = next(iter(layout.modalities.items()))
    return layered(
        layout, widths, heads={modality: heads[likelihood or usual[described.kind]]}, hidden=hidden
    )


class Inferred:
    """How the latents of one recipe are inferred: by encoders, or as free Gaussians.

    Parameters
    ----------
    layout
        Of the cells.
    hidden, dropout
        Of encoders.
    kind
        ``encoder`` or ``free``.
    clear_of
        Columns that shared codes are to say nothing of.
    sees
        Columns that encoders of shared codes see; none, so that they need not be known.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        hidden: tuple[int, ...],
        dropout: float,
        kind: Inference,
        clear_of: tuple[str, ...],
        sees: tuple[str, ...] = (),
    ) -> None:
        self.layout, self.hidden, self.dropout = layout, hidden, dropout
        self.free, self.sees = kind == "free", sees
        self.clear_of = next((c for c in clear_of if layout.resolve(c).categorical), None)

    def shared(self, dim: int) -> nn.Module:
        """Of the code that all cells have; free ones start clear of the first categorical column."""
        if self.free:
            return VariationalCodebook(self.layout.n_cells, dim, start=self.start(dim))
        return self._encoder(dim, self.sees)

    def start(self, dim: int) -> PrincipalStart:
        """Where free shared codes start."""
        return PrincipalStart(self.layout, dim, batch=self.clear_of)

    def private(self, dim: int, *, prior: nn.Module | None = None, sees: tuple[str, ...] = ()) -> nn.Module:
        """Of the code of a level; free ones start where their prior is, or at zero."""
        if self.free:
            start: Any = PriorStart(prior) if prior is not None else None
            return VariationalCodebook(self.layout.n_cells, dim, start=start)
        return self._encoder(dim, sees, around=prior)

    def _encoder(
        self, dim: int, sees: tuple[str, ...], *, around: nn.Module | None = None
    ) -> VariationalEncoder:
        how: dict[str, Any] = {"norm": "batch", "dropout": self.dropout, "columns": sees}
        layout = self.layout.conditioned_by(*sees)
        encoder = Encoder(layout, 2 * dim, hidden=self.hidden[::-1] or _HIDDEN, **how)
        return VariationalEncoder(encoder, around=around)


def critics_of(
    layout: Layout, columns: tuple[str, ...], dim: int, *, against: float, warm_up: float
) -> tuple[dict[str, Critic], list[Term]]:
    """What keeps levels of columns out of shared codes, by weight: critics, and the terms that train them."""
    if not against:
        return {}, []
    ramp = Ramp(end=against, until=warm_up)
    critics = {column: Critic(dim, len(layout.resolve(column).levels)) for column in columns}
    return critics, [adversary("shared", column, weight=ramp) for column in columns]


def _gated(
    layout: Layout,
    how: Inferred,
    column: str,
    gates: dict[str, tuple[str, ...]],
    *,
    dims: tuple[int, int],
    likelihood: str | None,
    against: float,
    penalty: float,
    warm_up: float,
) -> Build:
    """A shared code, and private ones that only cells of some levels have."""
    dim, private = dims
    latents = {"shared": Latent(how.shared(dim), StandardNormal(dim))}
    for name, levels in gates.items():
        gate = Gate(layout, column, levels, dims=dims)
        latents[name] = Latent(how.private(private), StandardNormal(private), only=gate)
    # A free Gaussian of a cell that lacks the code is never looked at: nothing need keep it anywhere.
    critics, terms = critics_of(layout, (column,), dim, against=against, warm_up=warm_up)
    terms += [] if how.free else [closed(name, weight=penalty) for name in gates]
    widths = {"shared": dim, **dict.fromkeys(gates, private)}
    decoder = decoded(layout.without(column), widths, how.hidden, likelihood)
    model = LatentModel(latents, decoder, critics=critics)
    return assembled(layout, model, warm_up=warm_up, terms=terms, attributes=(column,))


def assembled(
    layout: Layout,
    model: LatentModel,
    *,
    warm_up: float,
    terms: list[Term],
    attributes: tuple[str, ...],
) -> Build:
    """Divergences that arrive at their weight, with what else there is to check, count and learn."""
    names = [name for name, latent in model.latents.items() if not latent.of_levels]
    divergence = [replace(kl(name, weight=Ramp(until=warm_up)), name=f"kl {name}") for name in names]
    arrived = Event("divergence at full weight", lambda _: None, at=warm_up)
    events = [check_crossing(attributes), count_levels(), start_codes(), centre_decoder(), arrived]
    plan = Plan(weight_decay=1e-6, events=(*events, pair_codes("shared")))
    plan = plan.with_steps(_STEPS, n_cells=layout.n_cells)
    plan = replace(plan, lr={**plan.lr, "codes": _CODE_LR})
    return Build(model, Objective(reconstruction(), *divergence, *terms), plan)
