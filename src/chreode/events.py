"""Data-dependent events: where codes start, where components are placed, which are moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from chreode.cells import CSR
from chreode.courses import line_of, refuse_unheld
from chreode.decoders.totals import log_totals
from chreode.memory import cells_at_a_time
from chreode.optim import codebooks
from chreode.plan import Event, Moment
from chreode.priors.placement import count_communities
from chreode.priors.weights import weight_precision
from chreode.settle import encoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chreode.axes import Tensor

__all__ = [
    "centre_decoder",
    "count_labels",
    "count_levels",
    "describe_codes",
    "follow",
    "learn_factors",
    "learn_totals",
    "move_dead_components",
    "pair_codes",
    "place_levels",
    "place_means",
    "placed",
    "spread_codes",
    "start_codes",
    "start_dynamics",
    "start_inputs",
    "start_levels",
    "start_means",
    "weigh_readout",
]

_SAMPLE = 2000  # cells that say how the hidden units vary


def start_codes() -> Event:
    """Before the first epoch: codes at the principal components of the counts."""

    def do(moment: Moment) -> None:
        for codebook in codebooks(moment.model).values():
            if codebook.start is not None:
                learned = codebook.start.learn(moment.cells, seed=moment.seed)
                codebook.codes.copy_(codebook.allowed(learned))

    return Event("start codes", do, at="start")


def start_inputs(latent: str) -> Event:
    """Before the first epoch: the pseudo-cells of a `chreode.priors.VampPrior` at random training cells."""

    def do(moment: Moment) -> None:
        part = moment.model.latents[latent]
        chosen = torch.randperm(len(moment.cells), generator=moment.generator)[: len(part.prior.inputs)]
        values = part.infer.encoder.read(moment.cells[chosen])
        part.prior.start(values.dense() if isinstance(values, CSR) else values, moment.generator)

    return Event("start pseudo-cells", do, at="start")


def start_dynamics(latent: str) -> Event:
    """Before the first epoch: the units of the dynamics and their reach; what cannot be held is refused."""

    def do(moment: Moment) -> None:
        model = moment.model
        model.dynamics.begin(moment.codes(latent))
        described = next(iter(moment.cells.layout.modalities.values()))
        names = (*described.names, *described.readout)
        for feature in {*model.dynamics.held} - {-1}:
            refuse_unheld(line_of(model, latent), [feature], [names[feature]])

    return Event("start dynamics", do, at="start")


def spread_codes(latent: str) -> Event:
    """Before the first epoch: codes that are gradients get a standard deviation of 1."""

    def do(moment: Moment) -> None:
        some = moment.cells[torch.randperm(len(moment.cells), generator=moment.generator)[:_SAMPLE]]
        infer = moment.model.latents[latent].infer
        moment.model.eval()
        infer.spread(infer(some, moment.model.given(latent, {}, some)).z)

    return Event("spread codes", do, at="start")


def describe_codes(latent: str) -> Event:
    """After the last epoch: the Gaussian that codes are drawn from, for a `chreode.priors.Ball`."""

    def do(moment: Moment) -> None:
        moment.model.latents[latent].prior.describe(moment.codes(latent))

    return Event("describe codes", do, at="end")


def centre_decoder() -> Event:
    """Before the first epoch: a code of zero decodes to the mean profile."""
    return Event(
        "centre decoder", lambda moment: moment.model.decoder.readout.centre(moment.cells), at="start"
    )


def count_labels(latent: str) -> Event:
    """Before the first epoch: which share of the training cells has a label, for a prior that asks."""

    def do(moment: Moment) -> None:
        prior = moment.model.latents[latent].prior
        known = (prior.levels(moment.cells) >= 0).sum().clamp(min=1)
        prior.labelled.fill_(known / len(moment.cells))

    return Event("count labels", do, at="start")


def count_levels() -> Event:
    """Before the first epoch: the share of the cells that each level has, for critics."""

    def do(moment: Moment) -> None:
        for column, critic in moment.model.critics.items():
            levels = moment.cells.covariates[moment.cells.layout.resolve(column).column]
            number = torch.bincount(levels[levels >= 0], minlength=len(critic.log_share))
            critic.count(moment.total(number.double()).to(critic.log_share))

    return Event("count levels", do, at="start")


def pair_codes(shared: str) -> Event:
    """After the last epoch: which private codes go with which shared ones, over the training cells."""

    def own(moment: Moment, name: str) -> Tensor:
        infer = moment.model.latents[name].infer
        return infer.codes if infer.free else encoded(moment.model, name, moment.cells)

    def do(moment: Moment) -> None:
        main = own(moment, shared)
        for name, latent in moment.model.latents.items():
            if name != shared:
                latent.pair(main, own(moment, name), moment.cells, total=moment.total)

    return Event("pair codes", do, at="end")


def learn_factors() -> Event:
    """Before the first epoch: the linear map from values to codes, by a closed form or its iteration.

    The readout of a modality that is not counted becomes what the codes were learned to expect of it; of
    others, loadings begin there.
    """

    @torch.no_grad()
    def do(moment: Moment) -> None:
        readout = moment.model.decoder.readout
        for latent in moment.model.latents.values():
            latent.infer.learn(moment.cells, seed=moment.seed, progress=moment.progress)
            for name in latent.infer.modalities:
                line, output, head = latent.infer.linear(name), readout.outputs[name], readout.heads[name]
                output.weight[: len(line.weight)] = line.weight
                if moment.cells.layout.modalities[name].kind == "continuous":
                    output.bias[: len(line.mean)] = line.mean
                    head.log_scale.copy_(0.5 * line.noise.log())
                    if line.decay is not None:
                        head.log_decay.copy_(line.decay.log())

    return Event("learn factors", do, at="start")


def weigh_readout(*, every: int = 1) -> Event:
    """After every epoch: the precision of the readout's weights by evidence, for each modality."""
    known: dict[str, tuple[Tensor, Tensor]] = {}  # of the cells that train, which stay the same

    @torch.no_grad()
    def do(moment: Moment) -> None:
        cells, decoder = moment.cells, moment.model.decoder
        some = cells[torch.randperm(len(cells), generator=moment.generator)[:_SAMPLE].to(cells.device)]
        codes = {name: latent.infer(some, None).z for name, latent in moment.model.latents.items()}
        for name, units in decoder.units(codes, some).items():
            output = decoder.readout.outputs[name]
            if name not in known:
                both = cells.column_sums(name), cells.times_measured(name)
                known[name] = moment.total(both[0].double()), moment.total(both[1].double())
            total, number = known[name]
            mean = total / number.clamp_min(1)
            centred = units[some.present[name]] - units[some.present[name]].mean(0)
            many = moment.total(some.present[name].sum().double()).clamp_min(1)
            covariance = moment.total((centred.T @ centred).double()) / many
            # A head with several outputs a feature has them one after the other.
            each = decoder.readout.heads[name].information(mean).view(-1, len(number))
            information = (number * each).reshape(-1)
            output.shrink(
                weight_precision(
                    output.weight,
                    covariance=covariance,
                    information=information,
                    precision=float(output.precision),
                )
            )

    return Event("weigh readout", do, every=every)


def learn_totals() -> Event:
    """After the last epoch: what totals codes go along with, for modalities that a cell lacks."""

    def do(moment: Moment) -> None:
        decoder, logs = moment.model.decoder, []
        step = cells_at_a_time(moment.cells.layout.width, most=_SAMPLE)

        def batches() -> Iterator[tuple[dict[str, Tensor], Tensor]]:
            for number, some in enumerate(torch.arange(len(moment.cells)).split(step)):
                cells = moment.cells[some]
                codes = {name: latent.infer(cells, None).z for name, latent in moment.model.latents.items()}
                if number == len(logs):  # where there are panels these are decoded: once is enough
                    logs.append(log_totals(decoder, codes, cells))
                yield decoder.units(codes, cells), logs[number]

        decoder.totals.learn(batches, total=moment.total)

    return Event("learn totals", do, at="end")


def start_means(latent: str) -> Event:
    """Before the first epoch: mixture means drawn from their softball, as published."""

    def do(moment: Moment) -> None:
        moment.model.latents[latent].prior.initialise(moment.generator)

    return Event("draw means", do, at="start")


def place_levels(latent: str) -> Event:
    """Before the first epoch: the component of each level placed where the codes of its cells start."""

    def do(moment: Moment) -> None:
        prior = moment.model.latents[latent].prior
        column = moment.cells.layout.resolve(prior.column).column
        prior.place(moment.codes(latent), moment.cells.covariates[column])

    return Event("place levels", do, at="start")


def start_levels(latent: str) -> Event:
    """Before the first epoch: the levels' means drawn, and the codes of their cells put there."""

    @torch.no_grad()
    def do(moment: Moment) -> None:
        prior = moment.model.latents[latent].prior
        prior.initialise(moment.generator)
        level = moment.cells.covariates[moment.cells.layout.resolve(prior.column).column]
        means = prior.modes().to(level.device)
        codes = moment.model.latents[latent].infer.codes
        codes.copy_(torch.where((level >= 0)[:, None], means[level.clamp(min=0)], means.mean(0)))

    return Event(f"start {latent}", do, at="start")


def place_means(latent: str, *, at: float, components: int | None) -> Event:
    """At a fraction of the fit: components placed where the codes are.

    With ``components=None`` their number is that of the communities of the codes' neighbourhood graph,
    which also start the placement.
    """

    def do(moment: Moment) -> None:
        prior, draws = moment.model.latents[latent].prior, moment.draws(latent)
        if components is None:
            count, labels = count_communities(moment.codes(latent), seed=moment.seed)
            count = min(count, prior.components)
            prior.place(
                draws, components=count, generator=moment.generator, labels=labels.clamp(max=count - 1)
            )
        else:
            prior.place(draws, components=components, generator=moment.generator)

    return Event("place components", do, at=at)


def follow(latent: str, *, every: int = 1, scale: Literal["held", "em"] = "held") -> Event:
    """After every epoch: one step of expectation-maximisation of the placed mixture on the codes.

    Codes that are points, and covariances, would shrink together without bound: the scale is ``held``. What
    is drawn from posteriors cannot, so that ``em`` may find it.
    """

    def do(moment: Moment) -> None:
        prior = moment.model.latents[latent].prior
        if prior.placed:  # there is no mixture before
            prior.update(moment.draws(latent), scale=scale)

    return Event("follow codes", do, every=every)


def placed(latent: str, *, at: float, components: int | None) -> tuple[Event, ...]:
    """A mixture over posteriors: placed on draws of them at a fraction of the fit, which it then follows."""
    return (
        place_means(latent, at=at, components=components),
        follow(latent, scale="em"),
        move_dead_components(latent),
    )


def move_dead_components(latent: str, *, every: int = 5) -> Event:
    """Every few epochs: components that hold no cells are moved to where codes are explained worst."""

    def do(moment: Moment) -> None:
        prior = moment.model.latents[latent].prior
        if prior.placed:
            prior.move_dead(moment.codes(latent), generator=moment.generator)

    return Event("move dead components", do, every=every)
