"""A supervised mixture: one component a level of a covariate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from chreode.axes import Float, Int, Tensor
from chreode.priors import em
from chreode.priors.mixture import Mixture

if TYPE_CHECKING:
    from chreode.cells import Cells
    from chreode.priors.em import CovarianceKind
    from chreode.priors.gaussians import MixtureDensity
    from chreode.priors.softball import Softball

__all__ = ["LabelledDensity", "LabelledMixture"]


class LabelledDensity:
    """A mixture for cells some of whose components are known.

    .. math::
        \\log p(z_i \\mid y_i) = \\begin{cases}
        \\log N(z_i; \\mu_{y_i}, \\Sigma_{y_i}) & y_i \\text{ known} \\\\
        \\log \\sum_k \\pi_k N(z_i; \\mu_k, \\Sigma_k) & y_i = -1 \\end{cases}

    Parameters
    ----------
    mixture
        The components.
    levels
        Component of each cell, ``n``, -1 where it is unknown.

    Examples
    --------
    >>> import torch
    >>> from chreode.priors import MixtureDensity
    >>> two = MixtureDensity(torch.tensor([0.5, 0.5]).log(), torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1))
    >>> some = LabelledDensity(two, torch.tensor([0, -1]))
    >>> some.responsibilities(torch.zeros(2, 1)).tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """

    __slots__ = ("levels", "mixture")

    def __init__(self, mixture: MixtureDensity, levels: Int[Tensor, " n"]) -> None:
        self.mixture, self.levels = mixture, levels

    @property
    def means(self) -> Float[Tensor, "k d"]:
        """Means of the levels."""
        return self.mixture.means

    @property
    def weights(self) -> Float[Tensor, " k"]:
        """Weights of the levels among cells whose level is unknown."""
        return self.mixture.weights

    @property
    def covariances(self) -> Float[Tensor, "k d d"]:
        """Covariances of the levels."""
        return self.mixture.covariances

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log density of each cell's code given its level where known, in nats."""
        return self.log_joint(z).logsumexp(1)

    def kl(self, posterior: Any, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """As of `chreode.priors.MixtureDensity`: estimated by one code drawn from the posterior."""
        return posterior.log_prob(z) - self.log_prob(z)

    def log_joint(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Log density with each level that is possible for the cell, in nats; ``-inf`` for the others.

        A cell of a known level has no weight in it: the level is given, not drawn.
        """
        joint = self.mixture.log_joint(z)
        levels = self.levels.unsqueeze(1)
        known = joint - self.mixture.log_weights
        possible = levels == torch.arange(joint.shape[1], device=levels.device)
        known = known.masked_fill(~possible, -math.inf)
        return torch.where(levels < 0, joint, known)

    def responsibilities(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Probability of each level; 1 for the level that is known."""
        return self.log_joint(z).softmax(1)

    def sample(
        self, n: int, generator: torch.Generator, component: int | None = None
    ) -> Float[Tensor, "n d"]:
        """Draw codes of any level by weight, or of one level."""
        return self.mixture.sample(n, generator, component)


class LabelledMixture(nn.Module):
    """A supervised prior: the codes of each level of a covariate are one Gaussian.

    Parameters
    ----------
    column
        Categorical covariate, by name or role (``batch``, ``label``).
    n_levels
        Its levels ``k``, at least 1.
    dim
        Dimensions of a code ``d``.
    covariance
        ``isotropic``, ``diagonal``, ``full`` or ``tied``.
    softball
        Prior of each mean; by default of radius 2 and sharpness 5.
    alpha
        Dirichlet concentration of the weights, positive.

    Notes
    -----
    Deviations from the published supervised mixture: the density of a labelled cell is that of its
    component, not multiplied by the number of classes; cells without a label are marginalised over the
    components (published with a sign error). The weights matter to those only; with every cell labelled
    the Dirichlet prior keeps them equal. Parameters are learned by gradient.

    References
    ----------
    Schuster, Dann, Krogh and Teichmann (2024), multiDGD: a versatile deep generative model for
    multi-omics data, doi:10.1038/s41467-024-53340-z.

    Examples
    --------
    >>> import torch
    >>> prior = LabelledMixture("cell_type", 3, 2)
    >>> prior.initialise(torch.Generator().manual_seed(0))
    >>> prior.mixture().weights.shape
    torch.Size([3])
    """

    cite: ClassVar[tuple[str, ...]] = ("multidgd",)

    def __init__(
        self,
        column: str,
        n_levels: int,
        dim: int,
        *,
        covariance: CovarianceKind = "isotropic",
        softball: Softball | None = None,
        alpha: float = 2.0,
    ) -> None:
        super().__init__()
        self.column, self.dim = column, dim
        self.mixture = Mixture(
            n_levels,
            dim,
            covariance=covariance,
            start="softball",
            learn="gradient",
            softball=softball,
            alpha=alpha,
        )

    def forward(self, cells: Cells, given: Any = None) -> LabelledDensity:
        """The density of the codes of ``cells``: each has its own.

        Raises
        ------
        InputError
            When the column was not read.
        ValueError
            When the column is continuous, or a cell has a level that the prior does not.
        """
        covariate = cells.layout.resolve(self.column)
        if not covariate.categorical or len(covariate.levels) > self.mixture.components:
            found = len(covariate.levels) or "a continuous column"
            msg = (
                f"Expected at most {self.mixture.components} levels of {self.column!r}; found {found}. "
                "Build the prior for the levels that were read."
            )
            raise ValueError(msg)
        return LabelledDensity(self.mixture(cells, given), cells.covariates[covariate.column])

    def label_probabilities(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Probability of each level given the code alone, under the mixture."""
        return self.mixture().responsibilities(z)

    def log_hyper(self) -> Float[Tensor, ""]:
        """Log density of the parameters, in nats."""
        return self.mixture.log_hyper()

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the means from the softball's hard ball."""
        self.mixture.initialise(generator)

    def transport(
        self,
        shared: Float[Tensor, "n s"],
        own: Float[Tensor, "n d"],
        *,
        before: Cells,
        after: Cells,
        draw: torch.Generator | None = None,
    ) -> Float[Tensor, "n d"]:
        """Codes of cells that were given another level: its mean, or that of all where it is unknown."""
        means = self.modes().detach()
        level = after.covariates[after.layout.resolve(self.column).column]
        average = self.mixture().weights.detach() @ means
        return torch.where((level >= 0)[:, None], means[level.clamp(min=0)], average)

    @property
    def count(self) -> Tensor:
        """Number of levels."""
        return self.mixture.count

    def modes(self) -> Float[Tensor, "k d"]:
        """Means of the levels."""
        return self.mixture.modes()

    @torch.no_grad()
    def place(self, z: Float[Tensor, "n d"], levels: Int[Tensor, " n"]) -> None:
        """Put every level's mean and width where its codes are; a level without codes gets the mean of all.

        Parameters
        ----------
        z
            Codes.
        levels
            Level of each, -1 for unknown, which has no part in it.
        """
        if (levels >= 0).any():
            rule, number = self.mixture.rule, self.mixture.components
            self.mixture.hold(em.from_labels(z, levels.to(z.device), components=number, rule=rule))
