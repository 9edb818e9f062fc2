"""Several modalities under encoders: totalVI (RNA and proteins) and MultiVI (RNA and peaks)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Interval, MinLen

from chreode.decoders import MLP, Joint
from chreode.errors import InputError
from chreode.events import learn_totals
from chreode.infer import ExpertEncoder, FusedEncoder, VariationalEncoder
from chreode.likelihoods import ProteinMixture, heads
from chreode.objective import Ramp, Term
from chreode.plan import Event
from chreode.priors import StandardNormal
from chreode.recipe import Build, recipe
from chreode.recipes.vae import Dim, Dropout, Share, Width, built
from chreode.words import listing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chreode.axes import Tensor
    from chreode.layout import Layout
    from chreode.model import LatentModel, Trace
    from chreode.plan import Moment

__all__ = ["multivi", "totalvi"]

Widths = Annotated[tuple[Width, ...], MinLen(1)]
Head = Literal["nb", "nb_free", "poisson", "zinb", "protein", "accessibility", "bernoulli", "normal"]
Chance = Annotated[float, Interval(ge=0, le=1)]
_LR = 3e-3  # of totalvi: that of other recipes leaves dispersions behind
_SAMPLE = 5000  # cells that say where the mixtures of proteins start


@recipe(code="cell", cite=("totalvi",), joint=True)
def totalvi(
    layout: Layout,
    *,
    dim: Dim = 20,
    hidden: Widths = (256,),
    likelihood: dict[str, Head] | None = None,
    dropout: Dropout = 0.2,
    drop: Chance = 0.3,
    encode_batch: bool = False,
    warm_up: Share = 0.25,
) -> Build:
    r"""RNA and proteins of the same cells from one code, with background and foreground of every protein.

    .. math::
        z_i \sim N(0, I), \quad
        x_{ij} \sim \mathrm{NB}\big(s_i\,\mathrm{softmax}(f(z_i, b_i))_j,\ \theta_j\big), \quad
        y_{ik} \sim \pi_{ik}\,\mathrm{NB}(\beta_{ik}, \theta_k)
        + (1 - \pi_{ik})\,\mathrm{NB}\big(\beta_{ik} (1 + \alpha_{ik}), \theta_k\big), \quad
        \log \beta_{ik} \sim N(c_k + o_{k b_i}, d_k^2)

    An encoder reads the modalities that a cell has; those it lacks are predicted from its code. The page
    *totalvi* of the documentation has the whole process and the deviations from the paper
    (doi:10.1038/s41592-020-01050-x).

    Parameters
    ----------
    dim
        Dimensions of a code.
    hidden
        Widths of the decoder's hidden layers; the encoder has them reversed, and one more of the first width.
    likelihood
        By modality; None takes the protein mixture for every modality of counts but that with the most
        features, which is RNA and negative binomial; accessibility for zeros and ones, normal for others.
    dropout
        Probability that a hidden unit of the encoder is dropped in a step.
    drop
        Probability that the encoder sees a random one of a cell's modalities only, in a step.
    encode_batch
        Whether the encoder sees the batch and covariates too; without, it encodes cells of any batch.
    warm_up
        Share of the steps in which the divergences' weights rise from 0 to 1.
    """
    chosen = _heads(layout, likelihood or {})
    decoder = MLP(layout, {"cell": dim}, heads=chosen, hidden=hidden, norm="batch", deep=True)
    seen = tuple(layout.conditions) if encode_batch else ()
    how: dict[str, Any] = {"norm": "batch", "dropout": dropout, "drop": drop, "columns": seen}
    encoder = FusedEncoder(layout, 2 * dim, hidden=(hidden[-1], *hidden[::-1]), **how)
    terms, events = _of_proteins(chosen, warm_up)
    events = (*events, Event("centre encoder", lambda moment: encoder.centre(moment.cells), at="start"))
    infer, prior = VariationalEncoder(encoder), StandardNormal(dim)
    build = built(layout, infer, prior, decoder, warm_up=warm_up, terms=terms, events=events)
    return replace(build, plan=replace(build.plan, lr={**build.plan.lr, "decoder": _LR, "encoder": _LR}))


@recipe(code="cell", cite=("multivi",), joint=True)
def multivi(
    layout: Layout,
    *,
    dim: Dim = 10,
    hidden: Widths = (128, 128),
    likelihood: dict[str, Head] | None = None,
    dropout: Dropout = 0.1,
    combine: Literal["average", "product"] = "average",
    align: Annotated[float, Interval(ge=0)] = 1.0,
    encode_batch: bool = False,
    warm_up: Share = 0.25,
) -> Build:
    r"""RNA and peaks, of the same cells or not, from one code: an encoder a modality, which must agree.

    .. math::
        z_i \sim N(0, I), \quad x_{im} \sim p_m\big(x \mid f_m(z_i, b_i)\big), \quad
        q_i = N\Big(\tfrac{1}{M_i} \sum_m m_{im},\ \tfrac{1}{M_i} \sum_m v_{im}\Big), \quad
        L = \frac1n \sum_i \Big[-\sum_m E_{q_i} \log p(x_{im} | z_i) + w(t)\,\mathrm{KL}(q_i\,\|\,N(0, I))
        + \lambda \sum_{m < m'} \mathrm{KL}(q_{im}\,\|\,q_{im'}) + \mathrm{KL}(q_{im'}\,\|\,q_{im})\Big]

    over the :math:`M_i` modalities that a cell has. The page *multivi* of the documentation has the whole
    process and the deviations from the paper (doi:10.1038/s41592-023-01909-9).

    Parameters
    ----------
    dim
        Dimensions of a code.
    hidden
        Widths of the decoder's trunk, and reversed of each modality's encoder.
    likelihood
        By modality, as of `totalvi`.
    dropout, encode_batch, warm_up
        As of `totalvi`.
    combine
        How the posteriors of a cell's modalities make one: their ``average``, or their ``product`` with the
        prior.
    align
        Weight :math:`\lambda` of their divergence from each other.
    """
    chosen = _heads(layout, likelihood or {})
    decoder = Joint(layout, {"cell": dim}, heads=chosen, hidden=hidden)
    seen = tuple(layout.conditions) if encode_batch else ()
    encoder = ExpertEncoder(layout, dim, hidden=hidden[::-1], dropout=dropout, combine=combine, columns=seen)
    terms, events = _of_proteins(chosen, warm_up)
    how: dict[str, Any] = {"terms": (*terms, alignment("cell", weight=align))}
    how["events"] = (*events, learn_totals())
    return built(layout, encoder, StandardNormal(dim), decoder, warm_up=warm_up, **how)


def alignment(latent: str, *, weight: float = 1.0) -> Term:
    """Divergence between the posteriors that the modalities of a cell give, both ways, over all pairs."""

    def of(model: LatentModel, trace: Trace) -> Tensor:
        experts = list(trace.codes[latent].posterior.experts.items())
        present = trace.cells.present
        total = torch.zeros_like(trace.codes[latent].z[:, 0])
        for at, (m, one) in enumerate(experts):
            for other, two in experts[at + 1 :]:
                total = total + (one.kl(two) + two.kl(one)) * (present[m] & present[other])
        return total

    return Term("alignment", of, weight)


def background(modality: str, *, weight: float | Ramp = 1.0) -> Term:
    """Divergence of a cell's protein backgrounds from their prior, whose mean differs by batch."""

    def of(model: LatentModel, trace: Trace) -> Tensor:
        observed: Any = trace.observed[modality]
        offset = model.decoder.readout.offsets[modality](trace.cells)
        shift = None if offset is None else offset.chunk(4, dim=1)[0]
        return observed.divergence(shift) * trace.cells.present[modality]

    return Term(f"background {modality}", of, weight)


def start_background(modality: str) -> Event:
    """Before the first epoch: each protein's background and foreground where its counts say."""

    def do(moment: Moment) -> None:
        present = moment.cells.present[modality].nonzero().squeeze(1)
        chosen = torch.randperm(len(present), generator=moment.generator)[:_SAMPLE]
        some = moment.cells[present[chosen.to(present.device)]]
        measured, readout = some.measured[modality], moment.model.decoder.readout
        counts = measured if isinstance(measured, torch.Tensor) else measured.dense()
        mask = some.mask(modality)
        there = torch.ones_like(counts, dtype=torch.bool) if mask is None else mask
        readout.heads[modality].start(readout.outputs[modality].bias, counts, there)

    return Event(f"start background {modality}", do, at="start")


def _of_proteins(chosen: Mapping[str, Any], warm_up: float) -> tuple[tuple[Term, ...], tuple[Event, ...]]:
    """What modalities of proteins add to the objective, and what happens to them at the start."""
    proteins = [m for m, head in chosen.items() if head is ProteinMixture]
    terms = tuple(background(m, weight=Ramp(until=warm_up)) for m in proteins)
    return terms, tuple(start_background(m) for m in proteins)


def _heads(layout: Layout, chosen: Mapping[str, str]) -> dict[str, Any]:
    unknown = [name for name in chosen if name not in layout.modalities]
    if unknown:
        msg = (
            f"Expected likelihoods of the modalities {listing(layout.modalities)}; found one of "
            f"{listing(unknown)}. Name one that was read."
        )
        raise InputError(msg)
    counts = {m: d.n_features for m, d in layout.modalities.items() if d.kind == "counts"}
    usual = {m: "protein" if n < max(counts.values()) else "nb" for m, n in counts.items()}
    kinds = {"binary": "accessibility", "continuous": "normal"}
    found = {m: kinds.get(d.kind) or usual[m] for m, d in layout.modalities.items()} | dict(chosen)
    return {m: heads[name] for m, name in found.items()}
