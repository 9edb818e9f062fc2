"""The best that can be done on simulated cells: components assigned with the true parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.io.simulate import blocks, softmax

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["oracle"]


def oracle(adata: AnnData, *, steps: int = 20) -> np.ndarray:
    r"""Assign cells of `simulate` to components with the true parameters: the ceiling for any method.

    Fisher scoring finds each cell's code :math:`\hat z`; the likelihood around it is a Gaussian with
    precision :math:`H`, so that with its centre :math:`u`,
    :math:`p(x | k) \approx N(u; m_k, \Sigma + H^{-1})`. The code itself and the component are not used.

    Parameters
    ----------
    adata
        Made by `simulate`.
    steps
        Steps of Fisher scoring, each at most 2 long.

    Returns
    -------
    ndarray
        Component of each cell, 0 to K-1.

    Examples
    --------
    >>> from chreode.io.simulate import simulate
    >>> cells = simulate(60, 300, components=3)
    >>> bool((oracle(cells) == cells.obs["component"].cat.codes).mean() > 0.95)
    True
    """
    truth = adata.uns["simulation"]
    weights, means, covariance = truth["weights"], truth["means"], truth["covariance"]
    centre = weights @ means
    broad = np.linalg.inv(covariance + (means - centre).T @ ((means - centre) * weights[:, None]))
    assigned = []
    for rows in blocks(adata.n_obs, adata.n_vars):
        cells = _Counted(adata, rows)
        code = np.repeat(centre[None], cells.counts.shape[0], axis=0)
        for _ in range(steps):
            slope, curve = cells.likelihood(code)
            step = np.linalg.solve(curve + broad, (slope - (code - centre) @ broad)[..., None])[..., 0]
            length = np.linalg.norm(step, axis=1, keepdims=True)
            code = code + step * np.minimum(1.0, 2.0 / np.maximum(length, 1e-12))
        slope, curve = cells.likelihood(code)
        inverse = np.linalg.inv(curve + 1e-6 * np.eye(len(centre)))
        spread = covariance + inverse
        away = (code + (inverse @ slope[..., None])[..., 0])[:, None] - means
        squared = np.einsum("nkd,nde,nke->nk", away, np.linalg.inv(spread), away)
        assigned.append((np.log(weights) - squared / 2).argmax(1))
    return np.concatenate(assigned)


class _Counted:
    """Some cells' counts and what the true decoder needs to score a code for them."""

    def __init__(self, adata: AnnData, rows: slice) -> None:
        counts: Any = adata.X
        self.counts = np.asarray(counts[rows].todense(), dtype=np.float64)
        self.theta, self.size = adata.var["theta"].to_numpy(), adata.obs["size"].to_numpy()[rows, None]
        self.dropout = adata.uns["simulation"]["dropout"]
        self.weight = np.asarray(adata.varm["loadings"]) @ adata.uns["simulation"]["programmes"].T
        self.outer = (self.weight[:, :, None] * self.weight[:, None]).reshape(len(self.weight), -1)
        level = adata.obs["batch"].cat.codes.to_numpy()[rows]
        self.offset = adata.var["base"].to_numpy() + np.asarray(adata.varm["batch_effect"]).T[level]

    def likelihood(self, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (n x d) and Fisher information (n x d x d) of the log-likelihood at the codes."""
        rho = softmax(self.offset + code @ self.weight.T)
        mean = self.size * rho
        ratio = 1 + mean / self.theta
        error = (self.counts - mean) / ratio
        if self.dropout > 0:
            zero = (1 - self.dropout) * ratio**-self.theta
            error = np.where(self.counts == 0, error * zero / (zero + self.dropout), error)
        information = (1 - self.dropout) * mean / ratio
        pull = rho @ self.weight
        slope = error @ self.weight - error.sum(1, keepdims=True) * pull
        first = information @ self.weight
        cross = pull[:, :, None] * first[:, None]
        square = information.sum(1)[:, None, None] * pull[:, :, None] * pull[:, None]
        curve = (information @ self.outer).reshape(square.shape) - cross - cross.transpose(0, 2, 1) + square
        return slope, curve
