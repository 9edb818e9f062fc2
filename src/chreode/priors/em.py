"""Expectation-maximisation of a mixture of Gaussians on codes: sums over cells, then closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from chreode.axes import Float, Int, Tensor
from chreode.priors.gaussians import MixtureDensity, cholesky_parts

__all__ = [
    "CovarianceRule",
    "best_of_starts",
    "climb",
    "from_labels",
    "maximise",
    "mean_variance",
    "rescale",
    "seeds",
    "statistics",
    "worst_explained",
]

CovarianceKind = Literal["tied", "diagonal", "isotropic", "full"]

_ROWS = 16384
_LEAST = 1e-6
_MOVES, _MOVE_STEPS = 5, 15


@dataclass(frozen=True)
class CovarianceRule:
    """How the covariances of the components are estimated.

    With ``S_k`` the scatter (summed squares) of component k, ``N_k`` its cells, ``S`` and ``n`` their sums
    over components, ``nu`` the shrinkage and ``v = tr(S) / (n d)`` the mean variance, to each of which
    ``ridge * v`` is added on the diagonal:

    ==========  ==============================================================================
    tied        ``Sigma = (S + nu v I) / (n + nu)``
    diagonal    ``diag(S_k + nu S / n) / (N_k + nu)``
    isotropic   ``tr(S_k + nu S / n) / d / (N_k + nu) I``
    full        ``(S_k + nu Sigma_tied) / (N_k + nu)``, the tied one shrunk by 10 cells
    ==========  ==============================================================================

    Parameters
    ----------
    kind
        ``tied``, ``diagonal``, ``isotropic`` or ``full``.
    shrinkage
        ``nu`` in pseudo-cells, at least 0; None for 10, 30, 30 and 50 in the order above.
    ridge
        Share of the mean variance added to the diagonal, at least 0.
    alpha
        Dirichlet concentration of the weights, at least 1: each component gets ``alpha - 1`` pseudo-cells.

    Examples
    --------
    >>> CovarianceRule("diagonal").cells
    30.0
    """

    kind: CovarianceKind = "tied"
    shrinkage: float | None = None
    ridge: float = 1e-3
    alpha: float = 1.0

    @property
    def cells(self) -> float:
        """The shrinkage in pseudo-cells."""
        default = {"tied": 10.0, "diagonal": 30.0, "isotropic": 30.0, "full": 50.0}[self.kind]
        return default if self.shrinkage is None else self.shrinkage


def statistics(
    density: MixtureDensity, z: Float[Tensor, "n d"], *, kind: CovarianceKind
) -> dict[str, Tensor]:
    """The sums over cells that a step of EM needs; those of two sets of cells add up.

    ``cells`` (n), ``log_prob`` (sum of the log densities), ``weight`` (summed responsibilities ``k``),
    ``sum`` (responsibility-weighted codes ``k x d``, from the centre of the mixture) and ``square`` (their
    squares: ``d x d`` if tied, ``k x d x d`` if full, else ``k x d``), all in float64.
    """
    density, centre = _double(density), _centre(_double(density))
    total: dict[str, Tensor] = {}
    for rows in z.detach().split(_ROWS):
        shifted = rows.double() - centre
        joint = _log_joint(density, shifted, centre)
        log_prob = joint.logsumexp(1, keepdim=True)
        part = _sums(shifted, (joint - log_prob).exp_(), kind)
        part["log_prob"] = log_prob.sum()
        total = {name: total[name] + value if total else value for name, value in part.items()}
    return total


def maximise(sums: dict[str, Tensor], previous: MixtureDensity, *, rule: CovarianceRule) -> MixtureDensity:
    """The mixture (in float64) that `statistics` of ``previous`` ask for.

    A component without cells keeps its mean.
    """
    previous = _double(previous)
    centre, weight = _centre(previous), sums["weight"]
    filled = weight.clamp(min=_LEAST).unsqueeze(1)
    means = torch.where(weight.unsqueeze(1) > _LEAST, sums["sum"] / filled, previous.means - centre)
    log_variance, lower = _covariance(sums, means, rule)
    pseudo = weight + (rule.alpha - 1)
    log_weights = (pseudo / pseudo.sum()).clamp(min=1e-30).log()
    return MixtureDensity(log_weights, means + centre, log_variance, lower)


def climb(
    z: Float[Tensor, "n d"],
    start: MixtureDensity,
    *,
    rule: CovarianceRule,
    steps: int = 200,
    tolerance: float = 1e-5,
) -> tuple[MixtureDensity, float]:
    """Steps of EM until they gain less than ``tolerance`` nats a cell; the mixture, the mean log density."""
    density, before = start, -math.inf
    for _ in range(steps):
        sums = statistics(density, z, kind=rule.kind)
        now = float(sums["log_prob"] / sums["cells"])
        if now - before < tolerance:
            return density, now
        density, before = maximise(sums, density, rule=rule), now
    sums = statistics(density, z, kind=rule.kind)
    return density, float(sums["log_prob"] / sums["cells"])


def from_labels(
    z: Float[Tensor, "n d"], labels: Int[Tensor, " n"], *, components: int, rule: CovarianceRule
) -> MixtureDensity:
    """The mixture of given groups 0, 1, ...; cells labelled -1 are left out."""
    z, labels = z.detach()[labels >= 0].double(), labels[labels >= 0]
    centre = z.mean(0)
    blank = MixtureDensity(z.new_zeros(components), centre.expand(components, -1), z.new_zeros(1, 1))
    total: dict[str, Tensor] = {}
    for rows, groups in zip(z.split(_ROWS), labels.split(_ROWS), strict=True):
        hard = torch.nn.functional.one_hot(groups, components).double()
        part = _sums(rows - _centre(_double(blank)), hard, rule.kind)
        total = {name: total[name] + value if total else value for name, value in part.items()}
    return maximise(total, blank, rule=rule)


def best_of_starts(
    z: Float[Tensor, "n d"],
    *,
    components: int,
    rule: CovarianceRule,
    starts: int,
    generator: torch.Generator,
) -> MixtureDensity:
    """The likeliest mixture of several k-means++ starts.

    Each start climbs ten steps and the best five (by likelihood) climb until they converge. The best of
    these then moves components that are hardly missed to codes that are explained ill, while that pays: until
    five tries in a row have not.
    """
    z = z.detach().double()
    short: list[tuple[float, int, MixtureDensity]] = []
    for number, centres in enumerate(seeds(z, components=components, starts=starts, generator=generator)):
        nearest = torch.cat([torch.cdist(rows, centres).argmin(1) for rows in z.split(_ROWS)])
        start = from_labels(z, nearest, components=components, rule=rule)
        density, value = climb(z, start, rule=rule, steps=10)
        short.append((-value, number, density))
    finished = [climb(z, density, rule=rule) for _, _, density in sorted(short)[:5]]
    best, value = max(finished, key=lambda pair: pair[1])
    failed = 0
    while components > 1 and failed < _MOVES:
        density, reached = climb(z, _moved(best, z, generator), rule=rule, steps=_MOVE_STEPS)
        failed += 1
        if reached > value + 1e-3:
            density, reached = climb(z, density, rule=rule)
            best, value, failed = density, reached, 0
    return best


def _moved(density: MixtureDensity, z: Tensor, generator: torch.Generator) -> MixtureDensity:
    """The mixture with the component whose loss costs the least likelihood moved to an ill explained code."""
    share = torch.cat([density.responsibilities(rows) for rows in z.split(_ROWS)])
    cost = -(1 - share).clamp(min=1e-12).log().sum(0)
    # Drawn, not the least one: the next try must not repeat the last.
    odds = (-cost / cost.mean().clamp(min=1e-12) * 4).softmax(0)
    out = int(torch.multinomial(odds.to(generator.device), 1, generator=generator))
    rest = torch.arange(len(cost), device=z.device) != out
    means, weights = density.means.clone(), density.weights.clone()
    means[out] = z[worst_explained(density, z, rest.nonzero().squeeze(1), generator)]
    weights[out] = weights[rest].mean()
    log_variance, lower = density.log_variance.clone(), density.lower
    if len(log_variance) > 1:
        log_variance[out] = log_variance[rest].mean(0)
    if lower is not None and len(lower) > 1:
        lower = lower.clone()
        lower[out] = lower[rest].mean(0)
    return MixtureDensity((weights / weights.sum()).log(), means, log_variance, lower)


def seeds(
    z: Float[Tensor, "n d"], *, components: int, starts: int, generator: torch.Generator
) -> Float[Tensor, "s k d"]:
    """Greedy k-means++, all starts at once.

    Each centre is the best of a few codes drawn by their squared distance to the centres before: the one
    that leaves the least sum of squared distances.

    References
    ----------
    Arthur and Vassilvitskii (2007), k-means++: the advantages of careful seeding, SODA '07.
    """
    n, tries = len(z), 2 + int(math.log(components))
    square, row = z.square().sum(1), torch.arange(starts, device=z.device)
    first = torch.randint(n, (starts,), generator=generator, device=generator.device).to(z.device)
    chosen = [z[first]]
    nearest = _apart(chosen[0], z, square)
    for _ in range(components - 1):
        odds = (nearest + 1e-12 * nearest.mean() + 1e-30).to(generator.device)
        drawn = torch.multinomial(odds, tries, replacement=True, generator=generator).to(z.device)
        after = torch.stack([torch.minimum(nearest, _apart(z[one], z, square)) for one in drawn.unbind(1)])
        best = after.sum(2).argmin(0)
        nearest = after[best, row]
        chosen.append(z[drawn[row, best]])
    return torch.stack(chosen, 1)


def _apart(centres: Tensor, z: Tensor, square: Tensor) -> Tensor:
    """Squared distance of each centre to each code."""
    return (square - 2 * centres @ z.T + centres.square().sum(1, keepdim=True)).clamp(min=0)


def mean_variance(density: MixtureDensity) -> Float[Tensor, ""]:
    """Variance within components, averaged over dimensions and (by weight) components."""
    variance = density.covariances.diagonal(dim1=1, dim2=2).mean(1)
    return density.weights @ variance


def rescale(density: MixtureDensity, *, to: float) -> MixtureDensity:
    """The same mixture with all covariances multiplied so that their mean variance is the one given."""
    factor = math.log(to) - mean_variance(density).log()
    return MixtureDensity(density.log_weights, density.means, density.log_variance + factor, density.lower)


def worst_explained(
    density: MixtureDensity, z: Float[Tensor, "n d"], among: Int[Tensor, " k"], generator: torch.Generator
) -> int:
    """The position of a code drawn by its excess squared distance to the nearest of some components."""
    density = _double(density)
    rows = among if len(density.log_variance) > 1 else among.new_zeros(1)
    lower = None if density.lower is None else density.lower[rows]
    log_det = density.log_variance[rows].expand(-1, z.shape[1]).sum(1)
    flat = MixtureDensity(
        (log_det / 2).expand(len(among)), density.means[among], density.log_variance[rows], lower
    )
    centre = _centre(flat)
    nearest = torch.cat([_log_joint(flat, x.double() - centre, centre).amax(1) for x in z.split(_ROWS)])
    excess = -2 * nearest - z.shape[1] * (1 + math.log(2 * math.pi))
    odds = excess.clamp(min=0) + 1e-12
    return int(torch.multinomial(odds.to(generator.device), 1, generator=generator))


def _sums(z: Tensor, weight: Tensor, kind: CovarianceKind) -> dict[str, Tensor]:
    if kind == "tied":
        square = z.T @ z
    elif kind == "full":
        square = torch.stack([z.T @ (column.unsqueeze(1) * z) for column in weight.unbind(1)])
    else:
        square = weight.T @ z.square()
    cells = torch.tensor(float(len(z)), dtype=z.dtype, device=z.device)
    return {"cells": cells, "weight": weight.sum(0), "sum": weight.T @ z, "square": square}


def _covariance(sums: dict[str, Tensor], means: Tensor, rule: CovarianceRule) -> tuple[Tensor, Tensor | None]:
    weight, cells, d = sums["weight"], sums["cells"], means.shape[1]
    nu, eye = rule.cells, torch.eye(d, dtype=means.dtype, device=means.device)
    if rule.kind == "tied":
        scatter = sums["square"] - (means * weight.unsqueeze(1)).T @ means
        return cholesky_parts(_tied(scatter, cells, nu, rule.ridge).unsqueeze(0))
    if rule.kind == "full":
        outer = weight[:, None, None] * means.unsqueeze(2) * means.unsqueeze(1)
        scatter = sums["square"] - outer
        tied = _tied(scatter.sum(0), cells, min(nu, 10.0), 0.0)
        floor = rule.ridge * tied.diagonal().mean()
        own = (scatter + nu * tied) / (weight + nu).clamp(min=_LEAST)[:, None, None]
        return cholesky_parts(own + floor * eye)
    scatter = (sums["square"] - weight.unsqueeze(1) * means.square()).clamp(min=0)
    pooled = scatter.sum(0) / cells
    if rule.kind == "isotropic":
        scatter, pooled = scatter.mean(1, keepdim=True), pooled.mean().unsqueeze(0)
    variance = (scatter + nu * pooled) / (weight + nu).clamp(min=_LEAST).unsqueeze(1)
    return (variance + rule.ridge * pooled.mean() + 1e-12).log(), None


def _tied(scatter: Tensor, cells: Tensor, nu: float, ridge: float) -> Tensor:
    eye = torch.eye(len(scatter), dtype=scatter.dtype, device=scatter.device)
    mean = (scatter.diagonal().mean() / cells).clamp(min=1e-12)
    return (scatter + nu * mean * eye) / (cells + nu) + (ridge + 1e-9) * mean * eye


def _log_joint(density: MixtureDensity, shifted: Tensor, centre: Tensor) -> Tensor:
    """Log joint by matrix products: for many cells near the mixture, in float64."""
    means, log_variance, lower = density.means - centre, density.log_variance, density.lower
    d = means.shape[1]
    if lower is not None and len(lower) > 1:
        parts = zip(means, log_variance, lower, strict=True)
        apart = [((shifted - m) + (shifted - m) @ low.T) * (-v / 2).exp() for m, v, low in parts]
        square = torch.stack([x.square().sum(1) for x in apart], 1)
    elif len(log_variance) == 1:
        root = (-log_variance / 2).exp()
        skew = torch.zeros_like(means[:1].T @ means[:1]) if lower is None else lower[0]
        x, m = (shifted + shifted @ skew.T) * root, (means + means @ skew.T) * root
        square = x.square().sum(1, keepdim=True) - 2 * x @ m.T + m.square().sum(1)
    else:
        precision = (-log_variance).exp().expand(-1, d)
        square = shifted.square() @ precision.T - 2 * shifted @ (means * precision).T
        square = square + (means.square() * precision).sum(1)
    log_det = log_variance.expand(-1, d).sum(1)
    return density.log_weights - 0.5 * (square.clamp(min=0) + log_det + d * math.log(2 * math.pi))


def _centre(density: MixtureDensity) -> Tensor:
    return density.log_weights.softmax(0) @ density.means


def _double(density: MixtureDensity) -> MixtureDensity:
    """The components in use, in float64, away from any graph."""
    k = density.count
    lower = None if density.lower is None else density.lower[:k].detach().double()
    return MixtureDensity(
        density.log_weights.detach().double(),
        density.means.detach().double(),
        density.log_variance[:k].detach().double(),
        lower,
    )
