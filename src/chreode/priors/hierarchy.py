"""A label hierarchy: a label and a second code say where the code of a cell is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from chreode.axes import Float, Int, Tensor
from chreode.cells import Cells
from chreode.infer.posterior import GaussianPosterior
from chreode.layers import Layers
from chreode.layout import Covariate, Layout
from chreode.priors.normal import NormalDensity

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["HierarchyDensity", "LabelHierarchy"]

_LEAST = 1e-4  # variance of what an encoder says, as of codes


class HierarchyDensity:
    r"""The density of codes under a label hierarchy, by the bound that variational inference gives.

    .. math::
        b_y(z) = E_{q(u \mid z, y)} \log p(z \mid u, y) - \mathrm{KL}\big(q(u \mid z, y) \,\|\, N(0, I)\big),
        \qquad
        \log p(z_i) \ge \begin{cases} b_{y_i}(z_i) & y_i \text{ known} \\
        \sum_y q(y \mid z_i)\, b_y(z_i) - \mathrm{KL}\big(q(y \mid z_i) \,\|\, p(y)\big) & y_i = -1
        \end{cases}

    The sum over labels is exact. The mean over the second code :math:`u` is taken by one draw of it while the
    prior trains, else by the mean of :math:`q`.

    Parameters
    ----------
    prior
        The networks.
    levels
        Label of each cell, ``n``, -1 where it is unknown; None where all are.
    """

    __slots__ = ("levels", "prior")

    def __init__(self, prior: LabelHierarchy, levels: Int[Tensor, " n"] | None = None) -> None:
        self.prior, self.levels = prior, levels

    @property
    def means(self) -> Float[Tensor, "k d"]:
        """Codes of the labels, at a second code of zero."""
        return self.prior.modes()

    @property
    def log_weights(self) -> Float[Tensor, " k"]:
        """Log probability of each label before anything is measured."""
        return self.prior.log_weights

    @property
    def weights(self) -> Float[Tensor, " k"]:
        """Probability of each label before anything is measured."""
        return self.log_weights.exp()

    def bounds(
        self, z: Float[Tensor, "n d"], noise: Float[Tensor, "n k d"] | None = None
    ) -> Float[Tensor, "n k"]:
        """The bound :math:`b_y` on the log density of each code under each label, in nats.

        Parameters
        ----------
        z
            Codes.
        noise
            Standard normal, to draw the second code with; None as the class says.
        """
        number = len(self.log_weights)
        every = torch.arange(number, device=z.device).repeat(len(z))
        repeated = z.repeat_interleave(number, dim=0)
        second = self.prior.second(repeated, every)
        if noise is not None:
            u = second.mean + second.variance.sqrt() * noise.flatten(0, 1)
        else:
            u = second.sample() if self.prior.training else second.mean
        divergence = NormalDensity(z.shape[1]).kl(second, u)
        return (self.prior.given(u, every).log_prob(repeated) - divergence).view(len(z), number)

    def log_prob(
        self, z: Float[Tensor, "n d"], noise: Float[Tensor, "n k d"] | None = None
    ) -> Float[Tensor, " n"]:
        """The bound on the log density of each cell's code, given its label where known, in nats.

        ``noise`` is that of `bounds`.
        """
        bounds = self.bounds(z, noise)
        log_q = self.prior.classifier(z).log_softmax(1)
        unknown = (log_q.exp() * (bounds - log_q + self.log_weights)).sum(1)
        if self.levels is None:
            return unknown
        known = bounds.gather(1, self.levels.clamp(min=0)[:, None]).squeeze(1)
        return torch.where(self.levels < 0, unknown, known)

    def kl(self, posterior: Any, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Divergence estimated by one code drawn from the posterior; no closed form exists."""
        return posterior.log_prob(z) - self.log_prob(z)

    def responsibilities(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        r"""Probability of each label, :math:`q(y \mid z)`; 1 for the label that is known."""
        found = self.prior.label_probabilities(z)
        if self.levels is None:
            return found
        known = nn.functional.one_hot(self.levels.clamp(min=0), found.shape[1]).to(found)
        return torch.where(self.levels[:, None] < 0, found, known)

    @torch.no_grad()
    def sample(
        self, n: int, generator: torch.Generator, component: int | None = None
    ) -> Float[Tensor, "n d"]:
        """Draw codes of any label by weight, or of one label."""
        if component is None:
            weights = self.weights.to(generator.device)
            levels = torch.multinomial(weights, n, replacement=True, generator=generator)
        else:
            levels = torch.full((n,), component, device=generator.device)
        u = NormalDensity(self.prior.dim).sample(n, generator)
        return self.prior.given(u, levels).sample(generator)


class _Network(nn.Module):
    """Batch-normalised hidden layers, or none, whose units a level may shift, and a linear output."""

    def __init__(
        self, dim: int, width: int, hidden: Sequence[int], *, n_levels: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        level = Covariate("level", "covariate", tuple(map(str, range(n_levels))))
        self.layout = Layout(0, {}, {"level": level} if n_levels else {})
        self.layers = None
        if hidden:
            first = nn.Linear(dim, hidden[0], bias=False)
            self.layers = Layers(first, self.layout, hidden, deep=True, norm="batch", dropout=dropout)
        self.output = nn.Linear(hidden[-1] if hidden else dim, width)

    def forward(self, z: Float[Tensor, "n d"], levels: Int[Tensor, " n"] | None = None) -> Tensor:
        if self.layers is None:
            return self.output(z)
        names, covariates = np.zeros(len(z), dtype=object), {} if levels is None else {"level": levels}
        return self.output(
            self.layers(z, Cells(self.layout, names=names, measured={}, covariates=covariates))
        )


class LabelHierarchy(nn.Module):
    r"""A prior of codes under a label that some cells have: scANVI's.

    .. math::
        y \sim \mathrm{Cat}(\pi), \quad u \sim N(0, I), \quad
        z \mid u, y \sim N\big(m_W(u, y),\ \mathrm{diag}\,v_W(u, y)\big)

    with :math:`q(u \mid z, y)` and the classifier :math:`q(y \mid z)` to infer what is not known. The
    networks have batch-normalised hidden layers, shifted by the label.

    Parameters
    ----------
    column
        Categorical covariate, by name or role (``label``).
    n_levels
        Its levels ``k``, at least 1.
    dim
        Dimensions of a code ``d``, and of the second one.
    hidden
        Widths of the hidden layers of both Gaussians, at least one.
    classifier
        Widths of the hidden layers of the classifier; none makes it linear.
    dropout
        Probability that a unit of :math:`q` is dropped in training.

    References
    ----------
    Xu, Lopez, Mehlman, Regier, Jordan and Yosef (2021), Probabilistic harmonization and annotation of
    single-cell transcriptomics data with deep generative models, doi:10.15252/msb.20209620.

    Examples
    --------
    >>> import torch
    >>> prior = LabelHierarchy("cell_type", 3, 2, hidden=(8,)).eval()
    >>> prior.label_probabilities(torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    >>> prior.mixture().log_prob(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    cite: ClassVar[tuple[str, ...]] = ("scanvi",)
    log_weights: Tensor
    labelled: Tensor

    def __init__(
        self,
        column: str,
        n_levels: int,
        dim: int,
        *,
        hidden: Sequence[int] = (128,),
        classifier: Sequence[int] = (128,),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.column, self.dim, self.count = column, dim, n_levels
        self.encoder = _Network(dim, 2 * dim, hidden, n_levels=n_levels, dropout=dropout)
        self.decoder = _Network(dim, 2 * dim, hidden, n_levels=n_levels)
        self.classifier = _Network(dim, n_levels, classifier, dropout=dropout)
        self.register_buffer("log_weights", torch.full((n_levels,), 1 / n_levels).log())
        self.register_buffer("labelled", torch.tensor(1.0))  # share of the cells that train

    def forward(self, cells: Cells, given: Any = None) -> HierarchyDensity:
        """The density of the codes of ``cells``: each has its own."""
        return HierarchyDensity(self, self.levels(cells))

    def levels(self, cells: Cells) -> Int[Tensor, " n"]:
        """Label of each cell, -1 for unknown."""
        return cells.covariates[cells.layout.resolve(self.column).column]

    def given(self, u: Float[Tensor, "n d"], levels: Int[Tensor, " n"]) -> GaussianPosterior:
        r""":math:`p(z \mid u, y)`, where codes with this second code and label are."""
        mean, log_variance = self.decoder(u, levels).chunk(2, dim=1)
        return GaussianPosterior(mean, log_variance.exp())

    def second(self, z: Float[Tensor, "n d"], levels: Int[Tensor, " n"]) -> GaussianPosterior:
        r""":math:`q(u \mid z, y)`, what a code says of the second one if it has this label."""
        mean, log_variance = self.encoder(z, levels).chunk(2, dim=1)
        return GaussianPosterior(mean, log_variance.exp() + _LEAST)

    def label_probabilities(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        r"""Probability of each label given the code alone, :math:`q(y \mid z)`."""
        return self.classifier(z).softmax(1)

    def log_hyper(self) -> Float[Tensor, ""]:
        """Zero: the networks have no prior."""
        return torch.zeros(())

    def mixture(self) -> HierarchyDensity:
        """The density of the codes of cells without a label."""
        return HierarchyDensity(self)

    def modes(self) -> Float[Tensor, "k d"]:
        """Codes of the labels, at a second code of zero."""
        levels = torch.arange(self.count, device=self.log_weights.device)
        zero = self.log_weights.new_zeros(self.count, self.dim)
        return self.given(zero, levels).mean
