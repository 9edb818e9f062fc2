"""Metrics of the space of codes by which a way is short where cells are, and long where there are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from chreode.axes import Float, Tensor

__all__ = ["Land", "Radial"]

_MOST = 2000  # cells that centres and their weights are found by
_FEWEST = 5  # cells a centre, on average
_WIDER = 1.5  # kernels than clusters


class Land(nn.Module):
    r"""The LAND metric: cells at hand, each as far as a kernel reaches, say in which direction there is room.

    .. math:: G_{kk}(z) = \frac{\rho}{h_k(z) / \bar h_k + \rho}, \qquad
              h_k(z) = \sum_i (z_{ik} - z_k)^2\,\exp\Big(-\frac{\lVert z_i - z \rVert^2}{2 d \gamma^2}\Big)

    with :math:`\bar h_k` its mean at the cells: far from them G is 1, among them near :math:`\rho`.

    Parameters
    ----------
    bandwidth
        :math:`\gamma`, above 0, in units of the state for each coordinate.
    floor
        :math:`\rho`, above 0.

    References
    ----------
    Arvanitidis et al. (2016), doi:10.48550/arXiv.1606.02518; Kapusniak et al. (2024),
    doi:10.48550/arXiv.2405.14780, whose sums are not over their mean, so that they grow with the cells.
    """

    def __init__(self, *, bandwidth: float, floor: float) -> None:
        super().__init__()
        self.bandwidth, self.floor = bandwidth, floor

    def forward(self, z: Float[Tensor, "n d"], cells: Float[Tensor, "m d"]) -> Float[Tensor, "n d"]:
        """The diagonal of G at states, by cells."""
        with torch.no_grad():
            usual = self._room(cells, cells).mean(0).clamp_min(torch.finfo(z.dtype).tiny)
        return self.floor / (self._room(z, cells) / usual + self.floor)

    def _room(self, z: Tensor, cells: Tensor) -> Tensor:
        near = torch.exp(-torch.cdist(z, cells).square() / (2 * z.shape[1] * self.bandwidth**2))
        # Of the square of a difference, with one product for each of its parts.
        parts = near @ cells.square() - 2 * z * (near @ cells) + z.square() * near.sum(1, keepdim=True)
        return parts.clamp_min(0)


class Radial(nn.Module):
    r"""A metric by radial basis functions, fitted so that their sum is 1 at the cells that train.

    .. math:: G(z) = \frac{\rho}{h(z) + \rho}\,I, \qquad
              h(z) = \sum_k w_k \exp\Big(-\frac{\lVert z - c_k \rVert^2}{4 \kappa^2 \sigma_k^2}\Big)

    with centres by k-means, :math:`\sigma_k` the root mean square distance of a centre's cells from it,
    :math:`\kappa` 1.5, and weights of at least 0 by least squares.

    Parameters
    ----------
    dim
        Dimensions of the state.
    centres
        How many at most.
    floor
        :math:`\rho`, above 0.

    References
    ----------
    Kapusniak et al. (2024), doi:10.48550/arXiv.2405.14780, who find the weights by gradients.
    """

    centres: Tensor
    precision: Tensor
    weights: Tensor

    def __init__(self, dim: int, *, centres: int = 150, floor: float) -> None:
        super().__init__()
        self.floor = floor
        self.register_buffer("centres", torch.zeros(centres, dim))
        self.register_buffer("precision", torch.zeros(centres))
        self.register_buffer("weights", torch.zeros(centres))

    @torch.no_grad()
    def begin(self, u: Float[Tensor, "n d"], *, seed: int = 0) -> None:
        """Find centres, widths and weights from the cells that train."""
        from scipy.optimize import nnls
        from sklearn.cluster import KMeans

        chosen = np.random.default_rng(seed).permutation(len(u))[:_MOST]
        some = u.cpu().numpy()[chosen]
        number = max(1, min(len(self.centres), len(some) // _FEWEST))
        clusters: Any = KMeans
        found = clusters(number, n_init=1, random_state=seed).fit(some)
        cluster: Any = found.labels_
        size = np.bincount(cluster, minlength=number).clip(1)
        far = np.square(some - found.cluster_centers_[cluster]).sum(1)
        square = np.bincount(cluster, far, minlength=number) / size
        # A cluster of one cell has no width of its own.
        square = np.where(size > 1, square, square[size > 1].mean() if (size > 1).any() else 1.0)
        self.weights.zero_()
        self.centres[:number] = torch.from_numpy(found.cluster_centers_)
        self.precision[:number] = torch.from_numpy(1 / (4 * _WIDER**2 * square.clip(1e-8)))
        near = self._near(torch.from_numpy(some).to(u))[:, :number].double().cpu().numpy()
        self.weights[:number] = torch.from_numpy(nnls(near, np.ones(len(near)))[0])

    def forward(self, z: Float[Tensor, "n d"], cells: Float[Tensor, "m d"]) -> Float[Tensor, "n d"]:
        """The diagonal of G at states; cells at hand do not matter."""
        return (self.floor / (self._near(z) @ self.weights + self.floor))[:, None].expand_as(z)

    def _near(self, z: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(z, self.centres).square() * self.precision)
