"""A mixture of Gaussians as the prior of codes: placed where the codes are, or started as published."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from chreode.axes import Float, Int, Tensor
from chreode.priors import em
from chreode.priors.em import CovarianceKind, CovarianceRule
from chreode.priors.gaussians import MixtureDensity
from chreode.priors.softball import Softball

if TYPE_CHECKING:
    from chreode.cells import Cells

__all__ = ["Mixture"]

_LARGE = 20_000
_SUBSET = 10_000
_FULL_STEPS = 10


class Mixture(nn.Module):
    """A mixture of Gaussians whose components are the clusters of the cells.

    .. math::
        p(z) = \\sum_k \\pi_k N(z; \\mu_k, \\Sigma_k), \\qquad
        p(\\pi, \\mu, \\Sigma) = \\mathrm{Dir}(\\pi; \\alpha) \\prod_k \\mathrm{softball}(\\mu_k)
        \\prod_{kl} N(\\nu_{kl}; \\nu_0, 1)

    with ``nu`` the log variances. Shapes are those of ``components``, the capacity; the buffer ``count`` says
    how many are in use, and only those appear in what the density returns.

    Parameters
    ----------
    components
        The most components ``k`` there can be, at least 1.
    dim
        Dimensions of a code ``d``.
    covariance
        ``tied`` (one full covariance), ``diagonal``, ``isotropic`` or ``full``.
    start
        ``normal``: one standard normal, with parameters that do not move, until `place` puts components
        where the codes are. ``softball``: all components at once, see `initialise`.
    learn
        ``em``: parameters move only by `place`, `update` and `maximise`. ``gradient``: by the optimiser too.
    softball
        Prior of each mean; by default of radius 2 and sharpness 5.
    alpha
        Dirichlet concentration of the weights, positive; at least 1 with ``learn="em"``.

    Raises
    ------
    ValueError
        For fewer than one component, an unknown choice or a concentration out of range.

    Notes
    -----
    Deviations from the published mixture: the default covariance is tied and full, not diagonal, and
    components are placed late by EM, which decides their width (a width fixed by hand merges them; a start
    at random makes the clusters a matter of the seed). The standard deviation of the published start,
    ``0.2 R / K``, is not rounded (rounding makes it zero beyond 80 components). `log_hyper` is counted as
    often as the objective says, once a data set by default, not once a cell; its Dirichlet density is on the
    weights, without the Jacobian of the softmax, as published. The published prior knows no ``N`` (the
    strictly lower part of a full covariance): its entries are standard normal here. After `place`, ``nu_0``
    is the mean log variance found there.

    References
    ----------
    Schuster and Krogh (2023), The deep generative decoder: MAP estimation of representations improves
    modelling of single-cell RNA data, doi:10.1093/bioinformatics/btad497.

    Examples
    --------
    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> z = torch.cat([torch.randn(50, 2) - 6, torch.randn(50, 2) + 6])
    >>> prior = Mixture(10, 2)
    >>> prior().weights.tolist()
    [1.0]
    >>> _ = prior.place(z, components=2, generator=generator)
    >>> prior().weights.tolist()
    [0.5, 0.5]
    """

    count: Tensor
    placed: Tensor
    centre: Tensor
    within: Tensor

    def __init__(
        self,
        components: int,
        dim: int,
        *,
        covariance: CovarianceKind = "tied",
        start: Literal["normal", "softball"] = "normal",
        learn: Literal["em", "gradient"] = "em",
        softball: Softball | None = None,
        alpha: float = 1.0,
    ) -> None:
        super().__init__()
        _check(components, covariance, start, learn, alpha)
        self.components, self.dim, self.learn, self.alpha = components, dim, learn, alpha
        self.covariance: CovarianceKind = covariance
        self.start = start
        self.softball = softball or Softball(dim)
        one_for_all, correlated = covariance == "tied", covariance in ("tied", "full")
        rows, columns = 1 if one_for_all else components, 1 if covariance == "isotropic" else dim
        published = start == "softball"
        spread = math.log(0.2 * self.softball.radius / components) * 2 if published else 0.0
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.zeros(components, dim))
        self.log_variance = nn.Parameter(torch.full((rows, columns), spread))
        self.lower = nn.Parameter(torch.zeros(rows, dim, dim)) if correlated else None
        for parameter in self.parameters():
            parameter.requires_grad_(learn == "gradient")
        self.register_buffer("count", torch.tensor(components if published else 1))
        self.register_buffer("placed", torch.tensor(float(published)))
        self.register_buffer("centre", torch.tensor(spread))
        self.register_buffer("within", torch.tensor(math.exp(spread)))

    def forward(self, cells: Cells | None = None, given: Any = None) -> MixtureDensity:
        """The density of the codes of ``cells``, the same for all of them."""
        # A product with zero, not a branch: what an optimiser moves before placement has no effect, no
        # gradient is missing, and a GPU is not waited for.
        on = self.placed
        logits = (self.logits * on).masked_fill(~self._used(), -math.inf)
        lower = None if self.lower is None else (self.lower * on).tril(-1)
        return MixtureDensity(
            logits.log_softmax(0), self.means * on, self.log_variance * on, lower, self.count
        )

    def mixture(self) -> MixtureDensity:
        """The density of the codes of any cell."""
        return self()

    def modes(self) -> Float[Tensor, "k d"]:
        """Means of the components, heaviest first: candidates for the code of a new cell."""
        density = self()
        return density.means[density.log_weights.argsort(descending=True)]

    def log_hyper(self) -> Float[Tensor, ""]:
        """Log density of the parameters in use, in nats.

        Zero before placement, and with ``learn="em"``: no gradient could follow it, and `maximise` has its
        own shrinkage.
        """
        if self.learn == "em":
            return torch.zeros((), device=self.means.device)
        used, count = self._used(), self.count.to(self.means.dtype)
        log_weights = self.logits.masked_fill(~used, -math.inf).log_softmax(0)
        total = torch.lgamma(count * self.alpha) - count * math.lgamma(self.alpha)
        if self.alpha != 1:
            total = total + (self.alpha - 1) * log_weights.masked_fill(~used, 0.0).sum()
        total = total + (self.softball.log_prob(self.means) * used).sum()
        total = total + (_normal(self.log_variance - self.centre) * self._rows()).sum()
        if self.lower is not None:
            total = total + (_normal(self.lower).tril(-1) * self._rows().unsqueeze(2)).sum()
        return total * self.placed

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw the means of the published start, uniformly from the softball's hard ball.

        The log variances stay at ``2 log(0.2 R / K)`` and the weights equal. Nothing to draw with
        ``start="normal"``.
        """
        if self.start == "softball":
            self.means.copy_(self.softball.sample_ball(self.components, generator))

    @torch.no_grad()
    def place(
        self,
        z: Float[Tensor, "n d"],
        *,
        components: int,
        generator: torch.Generator,
        starts: int = 25,
        labels: Int[Tensor, " n"] | None = None,
        scale: float | Literal["em"] = "em",
    ) -> float:
        """Put components where the codes are, by EM.

        Among more than 20,000 codes the starts climb on 10,000 drawn at random and the winner climbs a few
        more steps on all.

        Parameters
        ----------
        z
            Codes.
        components
            How many, at most the capacity.
        generator
            Decides the starts: the same generator, the same components.
        starts
            k-means++ starts, judged by their likelihood.
        labels
            Groups 0, 1, ..., ``components - 1`` (-1: none) from which to climb instead.
        scale
            ``em``: the width is what EM finds. A number: the mean variance within components.

        Returns
        -------
        float
            Mean log density of the codes, in nats.

        Raises
        ------
        ValueError
            For fewer than one component, or more than the capacity or the number of codes.
        """
        self._check_place(z, components, labels)
        rule = self.rule
        few = z if len(z) <= _LARGE else z[_draw(len(z), _SUBSET, generator).to(z.device)]
        if labels is not None:
            density = em.from_labels(z, labels.to(z.device), components=components, rule=rule)
        else:
            density = em.best_of_starts(
                few, components=components, rule=rule, starts=starts, generator=generator
            )
        density, value = em.climb(z, density, rule=rule, steps=200 if few is z else _FULL_STEPS)
        self.count.fill_(components)
        self.placed.fill_(1.0)
        self.hold(density)
        if scale != "em":
            self.within.fill_(float(scale))
            self._write(em.rescale(density, to=float(scale)))
            value = float(self().log_prob(z).double().mean())
        return value

    @torch.no_grad()
    def hold(self, density: MixtureDensity) -> None:
        """Become this mixture, and keep the mean variance within its components from now on."""
        self.within.fill_(float(em.mean_variance(density)))
        self.centre.fill_(float(density.log_variance.mean()))
        self._write(density)

    def statistics(self, z: Float[Tensor, "n d"]) -> dict[str, Tensor]:
        """The sums over cells that `maximise` needs; add those of several sets of cells."""
        return em.statistics(self(), z, kind=self.covariance)

    @torch.no_grad()
    def maximise(self, statistics: dict[str, Tensor], *, scale: Literal["held", "em"] = "held") -> None:
        """The second half of a step of EM.

        Parameters
        ----------
        statistics
            What `statistics` returned, since the parameters last changed; summed over ranks if there are
            several.
        scale
            ``held``: the mean variance within components stays what it was on placement, because codes and
            covariances that both move can shrink together without bound. ``em``: free.
        """
        density = em.maximise(statistics, self(), rule=self.rule)
        if scale == "held":
            density = em.rescale(density, to=float(self.within))
        self._write(density)

    def update(self, z: Float[Tensor, "n d"], *, scale: Literal["held", "em"] = "held") -> float:
        """One step of EM on codes; the mean log density before it, in nats."""
        sums = self.statistics(z)
        self.maximise(sums, scale=scale)
        return float(sums["log_prob"] / sums["cells"])

    @torch.no_grad()
    def move_dead(self, z: Float[Tensor, "n d"], generator: torch.Generator, *, least: float = 5.0) -> int:
        """Move components with fewer than ``least`` cells to codes that are explained worst.

        A code is drawn with odds of its squared distance to the nearest component (in within-component
        standard deviations), beyond the ``d`` that is expected, so that a group without a component is found
        before a lone outlier. A moved component gets the mean covariance and the weight of an average one.

        Returns
        -------
        int
            How many were moved.
        """
        density = self()
        dead = (density.weights * len(z) < least).nonzero().squeeze(1)
        alive = (density.weights * len(z) >= least).nonzero().squeeze(1)
        if len(dead) == 0 or len(alive) == 0:
            return 0
        k = density.count
        for component in dead.tolist():
            self.means[component] = z[em.worst_explained(self(), z, alive, generator)]
            if len(self.log_variance) > 1:
                self.log_variance[component] = self.log_variance[alive].exp().mean(0).log()
            if self.lower is not None and len(self.lower) > 1:
                self.lower[component] = self.lower[alive].mean(0)
            alive = torch.cat([alive, alive.new_tensor([component])])
        weights = density.weights.clone()
        weights[dead] = 1 / k
        self.logits[:k] = (weights / weights.sum()).log()
        return len(dead)

    @property
    def rule(self) -> CovarianceRule:
        """How EM estimates the covariances."""
        return CovarianceRule(self.covariance, alpha=max(1.0, self.alpha))

    def _used(self) -> Tensor:
        return torch.arange(self.components, device=self.means.device) < self.count

    def _rows(self) -> Tensor:
        """Which rows of the covariance parameters are in use, as a column of 0 and 1."""
        if len(self.log_variance) == 1:
            return torch.ones_like(self.log_variance[:, :1])
        return self._used().to(self.means.dtype).unsqueeze(1)

    def _write(self, density: MixtureDensity) -> None:
        k = density.count
        rows = min(k, len(self.log_variance))
        self.logits.zero_()
        self.means.zero_()
        self.logits[:k] = density.log_weights
        self.means[:k] = density.means
        self.log_variance[:rows] = density.log_variance
        if self.lower is not None and density.lower is not None:
            self.lower[:rows] = density.lower

    def _check_place(self, z: Tensor, components: int, labels: Tensor | None) -> None:
        most = min(self.components, len(z))
        if not 1 <= components <= most:
            msg = (
                f"Expected from 1 to {most} components (the capacity is {self.components}, there are "
                f"{len(z)} codes); found {components}. Ask for fewer, or for a larger capacity."
            )
            raise ValueError(msg)
        if labels is not None and (len(labels) != len(z) or int(labels.max()) >= components):
            msg = (
                f"Expected {len(z)} labels from -1 to {components - 1}, one a code; found {len(labels)} up "
                f"to {int(labels.max())}. Number the groups 0, 1, ... and give one for each code."
            )
            raise ValueError(msg)


def _normal(x: Tensor) -> Tensor:
    return -0.5 * x.square() - 0.5 * math.log(2 * math.pi)


def _draw(n: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=generator, device=generator.device)[:size]


def _check(components: int, covariance: str, start: str, learn: str, alpha: float) -> None:
    choices = {
        "covariance": (covariance, ("tied", "diagonal", "isotropic", "full")),
        "start": (start, ("normal", "softball")),
        "learn": (learn, ("em", "gradient")),
    }
    for name, (found, known) in choices.items():
        if found not in known:
            msg = f"Expected {name} to be one of {', '.join(known)}; found {found!r}. Name one of these."
            raise ValueError(msg)
    least = 1.0 if learn == "em" else 0.0
    if components < 1 or alpha <= 0 or alpha < least:
        msg = (
            "Expected at least one component and a positive concentration alpha (at least 1 when learned by "
            f"EM); found components={components}, alpha={alpha}, learn={learn!r}. Raise them."
        )
        raise ValueError(msg)
