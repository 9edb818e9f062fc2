"""How strongly the weights of a last layer are shrunk: found from the data, by evidence."""

from __future__ import annotations

import torch

from chreode.axes import Float, Tensor

__all__ = ["weight_precision"]

# Features worked on at a time: in double precision these are more than they seem.
_ROWS = 1024


@torch.no_grad()
def weight_precision(
    weight: Float[Tensor, "g w"],
    *,
    covariance: Float[Tensor, "w w"],
    information: Float[Tensor, " g"],
    precision: float,
) -> float:
    r"""Precision of the Gaussian prior of a layer's weights, one step closer to the most probable one.

    .. math:: W_{jk} \sim N(0, \lambda^{-1}), \qquad
              \gamma = \sum_{jk} \frac{t_j s_k}{\lambda + t_j s_k}, \qquad
              \lambda \leftarrow \sqrt{\lambda\, \gamma / \lVert W \rVert^2}

    :math:`\gamma` is the number of weights that the data determine: those whose information exceeds the
    prior's. Where features have few counts nearly none do, :math:`\lambda` grows, and the layer stays near
    the mean.

    Parameters
    ----------
    weight
        The layer's weights.
    covariance
        Of the layer's inputs over cells; :math:`s` are its eigenvalues.
    information
        Fisher information about each output, :math:`t`, summed over cells.
    precision
        The one until now, above 0.

    Returns
    -------
    float
        The next one, between 1e-3 and 1e9.

    References
    ----------
    MacKay (1992), Bayesian interpolation. https://doi.org/10.1162/neco.1992.4.3.415. Deviations: the
    curvature is that at the mean profile, and each step goes half of the way, on a logarithmic scale.

    Examples
    --------
    >>> import torch
    >>> noise = torch.full((100, 2), 1e-3)
    >>> args = {"covariance": torch.eye(2), "information": torch.ones(100)}
    >>> weight_precision(noise, **args, precision=1.0) > 100
    True
    """
    spread = torch.linalg.eigvalsh(covariance.double()).clamp_min(0)
    # Features of few counts share a mean, and so what is known of them.
    values, features = information.double().unique(return_counts=True)
    determined = 0.0
    for some, many in zip(values.split(_ROWS), features.split(_ROWS), strict=True):
        known = some[:, None] * spread
        determined += float(((known / (precision + known)).sum(1) * many).sum())
    square = sum(float(torch.linalg.vector_norm(rows)) ** 2 for rows in weight.split(_ROWS))
    best = determined / max(square, 1e-12)
    return min(max((precision * best) ** 0.5, 1e-3), 1e9)
