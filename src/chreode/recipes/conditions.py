"""What recipes of conditions are built from: their attributes, inference, critics and plan."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval

from chreode.crossing import check_crossing
from chreode.decoders import Bypass, layered
from chreode.errors import InputError
from chreode.events import centre_decoder, count_levels, pair_codes, start_codes
from chreode.infer import (
    Block,
    ContrastiveStart,
    Encoder,
    PrincipalStart,
    PrivateStart,
    VariationalCodebook,
    VariationalEncoder,
)
from chreode.lessons import teach_encoders
from chreode.likelihoods import heads, usual
from chreode.objective import Objective, Ramp, adversary, kl, reconstruction
from chreode.penalties import Critic
from chreode.plan import Event, Plan
from chreode.recipe import Build
from chreode.words import listing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from chreode.layout import Layout
    from chreode.model import LatentModel
    from chreode.objective import Term

__all__ = [
    "Inference",
    "Inferred",
    "Likelihood",
    "Mixing",
    "Weight",
    "assembled",
    "attributes_of",
    "critics_of",
    "decoded",
    "one_of",
    "planned",
]

Likelihood = Literal["nb", "poisson", "zinb", "bernoulli", "normal"] | None
Inference = Literal["encoder", "free"]
Weight = Annotated[float, Interval(ge=0)]
Mixing = Annotated[float, Interval(ge=0, le=1)]
_HIDDEN: tuple[int, ...] = (128,)  # of encoders, where the decoder is linear
_CODE_LR = 1e-2  # of free codes, as of vad
_STEPS = 1500  # at least, however few cells there are


def attributes_of(
    layout: Layout,
    named: tuple[str, ...] | None,
    *,
    continuous: bool = False,
    called: str = "attributes",
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
    called
        The argument that names them.

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
        raise InputError(_without(layout, continuous=continuous, called=called))
    for covariate in found:
        if len(covariate.levels) < 2 and (covariate.categorical or not continuous):
            held = f"one level, {listing(covariate.levels)}" if covariate.levels else "a continuous column"
            remedy = "Leave it out, or read cells of several levels."
            if not covariate.levels:
                remedy = f"Leave it out, or, if its numbers are levels, {_as_text(covariate.column)}."
            msg = f"Expected attributes with at least two levels; found {held}, in {covariate.column!r}. "
            raise InputError(msg + remedy)
        if covariate.column == "shared":
            msg = (
                "Expected attributes of other names than 'shared', the code of all cells. Rename the column."
            )
            raise InputError(msg)
    return tuple(c.column for c in found)


def _without(layout: Layout, *, continuous: bool, called: str) -> str:
    """What is said of cells that were read without an attribute."""
    expected = f"Expected a {'' if continuous else 'categorical '}covariate as attribute; found "
    numbers = [c.column for c in layout.covariates.values() if c.role == "covariate"]
    other = f", or let {called}= name a column that was read"
    if numbers:
        those = "holds numbers" if len(numbers) == 1 else "hold numbers"
        remedy = f"If they are levels, {_as_text(numbers[0])}{other}."
        return f"{expected}{listing(numbers)}, which {those}. {remedy}"
    if not layout.covariates:
        return f"{expected}no column that was read. Read the cells with covariates='condition', say."
    found = f"columns {listing(layout.covariates)}, none of which was read as one"
    return f"{expected}{found}. Read the cells with covariates='condition', say{other}."


def _as_text(column: str) -> str:
    return f"read them as text: adata.obs[{column!r}] = adata.obs[{column!r}].astype(str)"


def one_of(layout: Layout, named: str | None, *, called: str) -> str:
    """The one attribute of a recipe that knows only one."""
    found = attributes_of(layout, None if named is None else (named,), called=called)
    if len(found) > 1:
        msg = f"Expected one {called}; found {listing(found)}. Name it: {called}={found[0]!r}."
        raise InputError(msg)
    return next(iter(found))


def decoded(
    layout: Layout,
    widths: dict[str, int],
    hidden: tuple[int, ...],
    likelihood: str | None,
    *,
    mixing: float = 1.0,
) -> nn.Module:
    """A decoder of the first modality under the likelihood that its values ask for.

    With ``mixing`` below 1, all codes but the shared one go straight to its outputs (`Bypass`).
    """
    modality, described = next(iter(layout.modalities.items()))
    made: dict[str, Any] = {"heads": {modality: heads[likelihood or usual[described.kind]]}, "hidden": hidden}
    if not hidden or mixing == 1:
        return layered(layout, widths, **made)
    return Bypass(layout, widths, straight=set(widths) - {"shared"}, mixing=mixing, **made)


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
    blocks
        Private codes, by name.
    apart
        Whether encoders are taught, before the fit, the codes at which free ones of these blocks start.
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
        blocks: Mapping[str, Block] | None = None,
        apart: bool = False,
    ) -> None:
        self.layout, self.hidden, self.dropout = layout, hidden, dropout
        self.free, self.sees, self.blocks = kind == "free", sees, blocks or {}
        self.clear_of = next((c for c in clear_of if layout.resolve(c).categorical), None)
        self.contrast: ContrastiveStart | None = None
        self.apart = bool(self.blocks) and (apart or self.free)

    def shared(self, dim: int) -> nn.Module:
        """Of the code that all cells have; free ones start clear of the first categorical column."""
        if self.apart:
            self.contrast = ContrastiveStart(self.layout, dim, blocks=self.blocks, batch=self.clear_of)
        start: Any = self.contrast
        if not self.free:
            return self._encoder(dim, self.sees, start=start)
        return VariationalCodebook(self.layout.n_cells, dim, start=start or self.start(dim))

    def start(self, dim: int) -> PrincipalStart:
        """Where free codes start that have no private ones beside them."""
        return PrincipalStart(self.layout, dim, batch=self.clear_of)

    def private(
        self, blocks: Sequence[str], *, prior: nn.Module, around: bool = True, sees: tuple[str, ...] = ()
    ) -> nn.Module:
        """Of private codes side by side, after `shared`; those ``apart`` start by what varies in their cells.

        Encoders begin at the prior's mean where they are ``around`` it, else at zero.
        """
        dim = sum(self.blocks[name].dim for name in blocks)
        origin = prior if around or self.free else None
        start: Any = PrivateStart(origin, self.contrast, blocks) if self.contrast else None
        if self.free:
            return VariationalCodebook(self.layout.n_cells, dim, start=start)
        return self._encoder(dim, sees, around=origin, start=start)

    def beside(self, dim: int, *, sees: tuple[str, ...]) -> nn.Module:
        """Of another code that all cells have; free ones start at zero."""
        return VariationalCodebook(self.layout.n_cells, dim) if self.free else self._encoder(dim, sees)

    def _encoder(
        self, dim: int, sees: tuple[str, ...], *, around: nn.Module | None = None, start: Any = None
    ) -> VariationalEncoder:
        how: dict[str, Any] = {"norm": "batch", "dropout": self.dropout, "columns": sees}
        layout = self.layout.conditioned_by(*sees)
        encoder = Encoder(layout, 2 * dim, hidden=self.hidden[::-1] or _HIDDEN, **how)
        return VariationalEncoder(encoder, around=around, start=start)


def critics_of(
    layout: Layout, columns: tuple[str, ...], dim: int, *, against: float, warm_up: float
) -> tuple[dict[str, Critic], list[Term]]:
    """What keeps levels of columns out of shared codes, by weight: critics, and the terms that train them."""
    if not against:
        return {}, []
    ramp = Ramp(end=against, until=warm_up)
    critics = {column: Critic(dim, len(layout.resolve(column).levels)) for column in columns}
    return critics, [adversary("shared", column, weight=ramp) for column in columns]


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
    begin = [check_crossing(attributes), count_levels(), start_codes(), teach_encoders(), centre_decoder()]
    plan = planned(layout, *begin, arrived, pair_codes("shared"))
    return Build(model, Objective(reconstruction(), *divergence, *terms), plan)


def planned(layout: Layout, *events: Event) -> Plan:
    """Enough steps for few cells too, and codes that are free move faster than weights."""
    plan = Plan(weight_decay=1e-6, events=events).with_steps(_STEPS, n_cells=layout.n_cells)
    return replace(plan, lr={**plan.lr, "codes": _CODE_LR})
