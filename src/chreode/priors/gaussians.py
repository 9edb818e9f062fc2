"""A mixture of Gaussians as a density over codes; everything in log space."""

from __future__ import annotations

import math
from typing import Any

import torch

from chreode.axes import Float, Tensor

__all__ = ["MixtureDensity", "cholesky_parts"]


class MixtureDensity:
    """A mixture of Gaussians.

    .. math::
        \\log p(z) = \\log \\sum_k \\pi_k \\, N(z; \\mu_k, \\Sigma_k), \\qquad
        \\Sigma_k^{-1} = (I + N_k)^\\top \\operatorname{diag}(e^{-\\nu_k}) (I + N_k)

    The covariance is held by its modified Cholesky parts: ``N_k`` is strictly lower triangular (zero for a
    diagonal covariance) and ``nu_kl`` is the log variance of coordinate ``l`` given those before it. Any
    real numbers make a covariance, its log determinant is ``sum(nu)``, and whitening is a product.

    Parameters
    ----------
    log_weights
        Log weights, ``k``, ``-inf`` for components not in use.
    means
        ``k x d``.
    log_variance
        ``nu``: ``k x d``, ``k x 1`` (isotropic) or ``1 x d`` (one covariance for all).
    lower
        ``N``: ``k x d x d`` or ``1 x d x d``, strictly lower triangular; None for zero.
    count
        How many components are in use, the first ones; all of them by default.

    References
    ----------
    Pourahmadi (1999), Joint mean-covariance models with applications to longitudinal data,
    doi:10.1093/biomet/86.3.677.

    Examples
    --------
    >>> import torch
    >>> two = MixtureDensity(torch.tensor([0.5, 0.5]).log(), torch.tensor([[-9.0], [9.0]]), torch.zeros(2, 1))
    >>> two.responsibilities(torch.tensor([[8.0]])).round().tolist()
    [[0.0, 1.0]]
    """

    __slots__ = ("_count", "log_variance", "lower", "means_all", "weights_all")

    def __init__(
        self,
        log_weights: Float[Tensor, " k"],
        means: Float[Tensor, "k d"],
        log_variance: Float[Tensor, "k_or_1 d_or_1"],
        lower: Float[Tensor, "k_or_1 d d"] | None = None,
        count: Tensor | None = None,
    ) -> None:
        self.weights_all, self.means_all = log_weights, means
        self.log_variance, self.lower, self._count = log_variance, lower, count

    @property
    def count(self) -> int:
        """Components in use ``k``."""
        return len(self.means_all) if self._count is None else int(self._count)

    @property
    def log_weights(self) -> Float[Tensor, " k"]:
        """Log weights of the components in use."""
        return self.weights_all[: self.count]

    @property
    def weights(self) -> Float[Tensor, " k"]:
        """Weights of the components in use; they sum to one."""
        return self.log_weights.exp()

    @property
    def means(self) -> Float[Tensor, "k d"]:
        """Means of the components in use."""
        return self.means_all[: self.count]

    @property
    def covariances(self) -> Float[Tensor, "k d d"]:
        """Covariances of the components in use."""
        k, d = self.means.shape
        root = (self.log_variance[:k] / 2).exp().expand(-1, d)
        if self.lower is None:
            return torch.diag_embed(root.square()).expand(k, d, d)
        unit = torch.eye(d, dtype=root.dtype, device=root.device) + self.lower[:k]
        half = torch.linalg.solve_triangular(unit, torch.diag_embed(root), upper=False)
        return (half @ half.mT).expand(k, d, d)

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Log density of each code, in nats."""
        # On a GPU reading the count would wait for it; components not in use weigh -inf there instead.
        k = len(self.means_all) if self.means_all.is_cuda else self.count
        return self._joint(z, k).logsumexp(1)

    def kl(self, posterior: Any, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Kullback-Leibler divergence of a posterior, estimated without bias by one code drawn from it.

        .. math:: \\widehat{\\mathrm{KL}} = \\log q(z) - \\log p(z), \\qquad z \\sim q

        There is no closed form for a mixture.
        """
        return posterior.log_prob(z) - self.log_prob(z)

    def log_joint(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Log weight plus log density of each component at each code, in nats."""
        return self._joint(z, self.count)

    def responsibilities(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Probability of each component given each code; rows sum to one however far the code is."""
        return self.log_joint(z).softmax(1)

    def sample(
        self, n: int, generator: torch.Generator, component: int | None = None
    ) -> Float[Tensor, "n d"]:
        """Draw codes, from one component if it is named.

        Raises
        ------
        ValueError
            For a component that is not in use.
        """
        means, d = self.means.detach(), self.means.shape[1]
        which = _pick(self.weights.detach(), n, generator, component)
        noise = torch.randn(n, d, generator=generator, device=generator.device)
        which, noise = which.to(means.device), noise.to(means)
        row = which if len(self.log_variance) > 1 else torch.zeros_like(which)
        noise = noise * (self.log_variance.detach()[row] / 2).exp()
        if self.lower is not None:
            unit = torch.eye(d, dtype=noise.dtype, device=noise.device) + self.lower.detach()
            half = torch.linalg.solve_triangular(unit, torch.eye(d).to(noise), upper=False)
            shared = len(half) == 1
            noise = noise @ half[0].mT if shared else (half[row] @ noise.unsqueeze(2)).squeeze(2)
        return means[which] + noise

    def _joint(self, z: Tensor, k: int) -> Tensor:
        means, log_variance, lower = self.means_all[:k], self.log_variance[:k], self.lower
        d = means.shape[1]
        if lower is None:
            distance = z.unsqueeze(1) - means
        elif len(lower) == 1:
            distance = (z + z @ lower[0].mT).unsqueeze(1) - (means + means @ lower[0].mT)
        else:
            centred = z.unsqueeze(1) - means
            distance = centred + torch.einsum("nkd,ked->nke", centred, lower[:k])
        square = (distance * (-log_variance / 2).exp()).square().sum(2)
        log_det = log_variance.expand(-1, d).sum(1)
        return self.weights_all[:k] - 0.5 * (square + log_det + d * math.log(2 * math.pi))


def cholesky_parts(
    covariance: Float[Tensor, "k d d"],
) -> tuple[Float[Tensor, "k d"], Float[Tensor, "k d d"]]:
    """The modified Cholesky parts ``nu`` and ``N`` of positive definite matrices.

    Examples
    --------
    >>> import torch
    >>> log_variance, lower = cholesky_parts(torch.tensor([[[1.0, 0.5], [0.5, 1.0]]]))
    >>> log_variance.exp().round(decimals=2)
    tensor([[1.0000, 0.7500]])
    """
    root = torch.linalg.cholesky(covariance)
    scale = root.diagonal(dim1=1, dim2=2)
    eye = torch.eye(root.shape[1], dtype=root.dtype, device=root.device)
    inverse = torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False)
    return 2 * scale.log(), (scale.unsqueeze(2) * inverse).tril(-1)


def _pick(weights: Tensor, n: int, generator: torch.Generator, component: int | None) -> Tensor:
    if component is None:
        weights = weights.to(generator.device)
        return torch.multinomial(weights, n, replacement=True, generator=generator)
    if not 0 <= component < len(weights):
        msg = (
            f"Expected a component from 0 to {len(weights) - 1}; found {component}. "
            "Name one of the components in use."
        )
        raise ValueError(msg)
    return torch.full((n,), component, device=generator.device)
