"""An objective is a sum of named terms, each saying what it is counted per."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from chreode.axes import Tensor
from chreode.infer.fused import kept
from chreode.penalties import (
    adversarial,
    dhsic,
    flatness,
    mmd_by_level,
    pullback,
    total_correlation,
    wasserstein_to_zero,
)
from chreode.rounding import rounding

if TYPE_CHECKING:
    from collections.abc import Callable

    from chreode.model import LatentModel, Trace

__all__ = [
    "Objective",
    "Ramp",
    "Step",
    "Term",
    "adversary",
    "classification",
    "closed",
    "correlation",
    "discrepancy",
    "flat",
    "hyperprior",
    "independence",
    "kl",
    "prior",
    "reconstruction",
]


@dataclass(frozen=True)
class Ramp:
    """A weight that rises in a straight line, step by step, and then stays.

    .. math:: w(t) = a + (b - a) \\min(t / u,\\ 1)

    at a share :math:`t` of the steps of the fit, so that it ends at :math:`b` however many cells there are.

    Parameters
    ----------
    start, end
        Weights :math:`a` and :math:`b`.
    until
        Share :math:`u` of the steps at which it arrives, above 0.

    Examples
    --------
    >>> ramp = Ramp(0.0, 1.0, until=0.5)
    >>> ramp(0.25), ramp(0.75)
    (0.5, 1.0)
    """

    start: float = 0.0
    end: float = 1.0
    until: float = 0.5

    def __call__(self, progress: float) -> float:
        """The weight at a share of the steps."""
        return self.start + (self.end - self.start) * min(progress / self.until, 1.0)


@dataclass(frozen=True)
class Term:
    """One summand of the objective.

    Parameters
    ----------
    name
        What the history calls it.
    of
        ``of(model, trace)``: a value for each cell, or one number, in nats.
    weight
        Its factor; a `Ramp` where it changes during the fit.
    per
        ``cell``: one value a cell, averaged. ``dataset``: one number for the whole data set, so a cell
        bears 1/n of it. ``minibatch``: one number, taken as it is.
    """

    name: str
    of: Callable[[LatentModel, Trace], Tensor]
    weight: float | Ramp = 1.0
    per: Literal["cell", "minibatch", "dataset"] = "cell"


class Objective:
    """A sum of terms, in nats per cell.

    .. math:: L = \\frac{1}{n} \\sum_i \\sum_{a \\in \\text{cell}} w_a\\, t_a(i)
              + \\frac{1}{N} \\sum_{b \\in \\text{dataset}} w_b\\, t_b
              + \\sum_{c \\in \\text{minibatch}} w_c\\, t_c

    with :math:`n` cells in the minibatch and :math:`N` in the data set.

    Parameters
    ----------
    terms
        The summands; their names must differ.
    """

    def __init__(self, *terms: Term) -> None:
        names = [term.name for term in terms]
        if len(set(names)) < len(names):
            msg = f"Expected terms with different names; found {', '.join(names)}. Give each its own name."
            raise ValueError(msg)
        self.terms = terms

    def __call__(
        self, model: LatentModel, trace: Trace, *, share: float, progress: float = 1.0
    ) -> dict[str, Tensor]:
        """Each weighted term.

        Parameters
        ----------
        model, trace
            What is judged.
        share
            Number of cells the average is taken over.
        progress
            Share of the fit's steps that are done, for weights that change.
        """
        values = {}
        for term in self.terms:
            value = term.of(model, trace)
            if term.per == "cell":
                value = value.sum() / share
            elif term.per == "dataset":
                value = value / trace.cells.layout.n_cells
            weight = term.weight(progress) if isinstance(term.weight, Ramp) else term.weight
            values[term.name] = weight * value
        return values


class Step(nn.Module):
    """Model and objective as one module, whose forward pass returns named numbers (for Fabric to wrap)."""

    def __init__(self, model: LatentModel, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, cells: object, share: float, progress: float = 1.0) -> dict[str, Tensor]:
        """Trace the cells and evaluate every term."""
        return self.objective(self.model, self.model(cells), share=share, progress=progress)


def reconstruction(modality: str | None = None, *, weight: float = 1.0, drop: float = 0.0) -> Term:
    """Negative log likelihood of what was measured, over one modality or all that are present.

    .. math:: -\\sum_m \\log p(x_{im} \\mid z_i)

    With ``drop`` a cell of several modalities keeps, with this probability, a random one of them in a step.
    """

    def of(model: LatentModel, trace: Trace) -> Tensor:
        names = list(trace.observed) if modality is None else [modality]
        cells = trace.cells
        there = torch.stack([cells.present[m] for m in names])
        if drop and model.training:
            there = kept(there, drop)
        parts = [trace.observed[m].log_prob(cells.measured[m]) for m in names]
        return -(torch.stack(parts) * there).sum(0)

    return Term("reconstruction" if modality is None else f"reconstruction {modality}", of, weight)


def prior(latent: str, *, weight: float = 1.0) -> Term:
    """Negative log density of the codes under their prior, :math:`-\\log p(z_i)`."""

    def of(model: LatentModel, trace: Trace) -> Tensor:
        return -model.prior(latent, trace).log_prob(trace.codes[latent].centre)

    return Term("prior", of, weight)


def kl(latent: str, *, weight: float | Ramp = 1.0) -> Term:
    """Kullback-Leibler divergence of the codes' posterior from their prior, :math:`\\mathrm{KL}(q_i \\| p)`.

    In closed form where the prior has one, else from the code that was drawn; the prior says which.
    """

    def of(model: LatentModel, trace: Trace) -> Tensor:
        code = trace.codes[latent]
        return model.prior(latent, trace).kl(code.posterior, code.z)

    return Term("kl", of, weight)


def classification(latent: str, *, weight: float = 1.0) -> Term:
    r"""Negative log probability of the labels that are known, :math:`-\frac{N}{N_y} \log q(y_i \mid m_i)`.

    For a prior with a classifier. With :math:`N_y` of :math:`N` training cells labelled, it is the mean over
    these, so that a few of them are not outweighed.
    """

    def of(model: LatentModel, trace: Trace) -> Tensor:
        prior = model.latents[latent].prior
        logits = prior.classifier(trace.codes[latent].centre)
        lost = nn.functional.cross_entropy(
            logits, prior.levels(trace.cells), ignore_index=-1, reduction="none"
        )
        return lost / prior.labelled

    return Term("classification", of, weight)


def independence(latent: str, *, weight: float = 1.0) -> Term:
    """Joint dependence of codes' dimensions in a minibatch, :math:`\\mathrm{dHSIC}(z_1, \\dots, z_d)`."""

    def of(model: LatentModel, trace: Trace) -> Tensor:
        return dhsic(list(trace.codes[latent].z.split(1, dim=1)))

    return Term("dependence", of, weight, "minibatch")


def adversary(latent: str, column: str, *, weight: float | Ramp = 1.0) -> Term:
    r"""What a critic fails to tell of a column from codes, which learn to leave it nothing.

    .. math:: -\log r(y_i \mid z_i)

    of the model's critic of that column; see `chreode.penalties.adversarial` for the bound. The weight scales
    both sides, but the critic, stepped by Adam, does not notice.
    """

    def of(model: LatentModel, trace: Trace) -> Tensor:
        covariate = trace.cells.layout.resolve(column)
        levels = trace.cells.covariates[covariate.column]
        return adversarial(model.critics[column], trace.codes[latent].z, levels)

    return Term(f"adversary {column}", of, weight)


def closed(latent: str, *, weight: float | Ramp = 1.0) -> Term:
    r"""How far the posterior of a private code is from zero, in cells that do not have it.

    .. math:: (1 - g_i)\, W_2^2\big(q_i,\ \delta_0\big) = (1 - g_i) \sum_d m_{id}^2 + v_{id}
    """

    def of(model: LatentModel, trace: Trace) -> Tensor:
        posterior = trace.codes[latent].posterior
        away = wasserstein_to_zero(posterior.mean, posterior.variance)
        return away * (1 - model.latents[latent].only(trace.cells))

    return Term(f"closed {latent}", of, weight)


def discrepancy(column: str, *, latent: str | None = None, weight: float | Ramp = 1.0) -> Term:
    r"""How far apart cells of different levels are in a minibatch: :math:`\mathrm{MMD}^2` of pairs of levels.

    In the codes of one latent or, without, in the decoder's first hidden layer; see
    `chreode.penalties.mmd_by_level`.
    """

    def of(model: LatentModel, trace: Trace) -> Tensor:
        def first() -> Tensor:
            z = {name: code.z for name, code in trace.codes.items()}
            return model.decoder.hidden.first(z, trace.cells)

        levels = trace.cells.covariates[trace.cells.layout.resolve(column).column]
        return mmd_by_level(trace.codes[latent].z if latent else trace.shared("first hidden", first), levels)

    return Term(f"discrepancy {column}", of, weight, "minibatch")


def correlation(*latents: str, weight: float | Ramp = 1.0) -> Term:
    r"""Total correlation of latents over all cells, :math:`\mathrm{KL}(q(z) \,\|\, \prod_b q(z_b))`.

    See `chreode.penalties.total_correlation`.
    """

    def of(model: LatentModel, trace: Trace) -> Tensor:
        codes = [trace.codes[name] for name in latents]
        posteriors = [code.posterior for code in codes]
        return total_correlation(
            torch.cat([code.z for code in codes], 1),
            (torch.cat([q.mean for q in posteriors], 1), torch.cat([q.variance for q in posteriors], 1)),
            blocks=[code.z.shape[1] for code in codes],
            n_cells=max(trace.cells.layout.n_cells, len(trace.cells)),
        )

    return Term("total correlation", of, weight, "minibatch")


def flat(latent: str, *, cells: int, weight: float | Ramp = 1.0) -> Term:
    r"""How far the metric of the first modality's counts is from a multiple of the identity.

    .. math:: \frac1n \sum_i \lVert M(u_i z_i + (1 - u_i) z_{i'}) / \alpha - I \rVert_F^2, \qquad
              u_i \sim U(0, 1)

    between the codes of random pairs of some cells, under the first one's conditions, at the mean size;
    without a unit, so that neither wide codes nor a dull decoder lessen it. See `chreode.penalties.flatness`.
    """

    def of(model: LatentModel, trace: Trace) -> Tensor:
        some = trace.cells[slice(0, cells)]
        modality, size = next(iter(some.size.items()))
        some = some.replace(size={**some.size, modality: size.new_full(size.shape, float(size.mean()))})
        here = {name: code.z[:cells] for name, code in trace.codes.items()}
        z = here[latent]
        share = torch.rand(len(z), 1, device=z.device)
        between = share * z + (1 - share) * z[torch.randperm(len(z), device=z.device)]

        def mean_of(z: Tensor) -> Tensor:
            return model.decode({**here, latent: z}, some)[modality].mean

        theta = getattr(model.decoder.readout.heads[modality], "theta", None)
        with rounding(model, on=False):
            metric = pullback(mean_of, between, theta=None if theta is None else theta.detach())
        return flatness(metric / metric.diagonal(dim1=1, dim2=2).mean(), scale=1.0)

    return Term("flatness", of, weight, "minibatch")


def hyperprior(latent: str, *, weight: float = 1.0, per: Literal["cell", "dataset"] = "dataset") -> Term:
    """Negative log density of the prior's own parameters, counted once per data set.

    ``per="cell"`` counts it once for every cell, as the published code does; the component widths are
    then pinned to their starting value whatever the data say.
    """

    def of(model: LatentModel, trace: Trace) -> Tensor:
        value = -model.latents[latent].prior.log_hyper()
        return value.expand(len(trace.cells)) if per == "cell" else value

    return Term("hyperprior", of, weight, per)
