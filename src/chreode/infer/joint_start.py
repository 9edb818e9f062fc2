"""Where codes of cells start that were measured in several modalities, or in some of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.infer.start import PrincipalStart, learn_shift, shifted
from chreode.named import Named

if TYPE_CHECKING:
    from chreode.cells import Cells
    from chreode.layout import Layout

__all__ = ["JointStart"]


class JointStart(nn.Module):
    """Principal components of the modalities' principal components; those of a missing modality are expected.

    .. math:: y_i = (z_{i1}, \\dots, z_{iM}), \\qquad
              \\hat y_{ia} = \\Sigma_{ap} (\\Sigma_{pp} + \\lambda I)^{-1} y_{ip}, \\qquad
              z_i = y_i A / \\mathrm{sd}(\\mathrm{PC}_1)

    with :math:`z_{im}` the `PrincipalStart` of modality m, p the modalities that a cell has and a those it
    lacks, and :math:`\\Sigma` the covariances over the cells that have both.

    Parameters
    ----------
    layout
        Features.
    dim
        Number of components.
    batch
        Column whose levels' means are removed within clusters; None for none.
    """

    mean: Tensor
    covariance: Tensor
    axes: Tensor
    shift: Tensor

    def __init__(self, layout: Layout, dim: int, *, batch: str | None = None) -> None:
        super().__init__()
        self.dim, self.batch = dim, batch
        self.cite = ("harmony",) if batch else ()
        self.parts = Named(
            {
                m: PrincipalStart(layout, dim, modality=m, depths=d.kind == "binary")
                for m, d in layout.modalities.items()
            }
        )
        wide = dim * len(self.parts)
        self.register_buffer("mean", torch.zeros(wide))
        self.register_buffer("covariance", torch.eye(wide))
        self.register_buffer("axes", torch.zeros(wide, dim))
        self.register_buffer("shift", torch.zeros(len(layout.covariates[batch].levels) if batch else 0, dim))

    def learn(self, cells: Cells, *, seed: int) -> Float[Tensor, "n d"]:
        """Find the components of these cells and return where their codes start."""
        found = torch.zeros(len(cells), len(self.axes))
        known = torch.zeros(len(cells), len(self.axes))
        for at, (m, part) in enumerate(self._parts()):
            rows = cells.present[m].nonzero().squeeze(1)
            columns = slice(at * self.dim, (at + 1) * self.dim)
            if len(rows) < 2:
                continue
            found[rows, columns] = part.learn(cells[rows], seed=seed)
            known[rows, columns] = 1.0
        self.mean.copy_(found.sum(0) / known.sum(0).clamp_min(1))
        centred = (found - self.mean) * known
        self.covariance.copy_(centred.T @ centred / (known.T @ known).clamp_min(1))
        whole = self._completed(found, cells)
        from sklearn.decomposition import PCA

        pca: Any = PCA(min(self.dim, *whole.shape), svd_solver="full").fit(whole.numpy())
        scale = float(np.sqrt(pca.explained_variance_[0])) or 1.0
        signs = np.sign(pca.components_[np.arange(pca.n_components_), np.abs(pca.components_).argmax(1)])
        axes = torch.from_numpy(pca.components_ * signs[:, None]).T.float() / scale
        self.axes[:, : pca.n_components_] = axes
        start = whole @ self.axes
        return start if self.batch is None else learn_shift(self.shift, start, cells, self.batch, seed=seed)

    def forward(self, cells: Cells) -> Float[Tensor, "n d"]:
        """Where the codes of other cells start."""
        found = torch.cat([part(cells) for _, part in self._parts()], 1)
        start = self._completed(found, cells) @ self.axes
        return start if self.batch is None else shifted(self.shift, start, cells, self.batch)

    def _parts(self) -> list[tuple[str, PrincipalStart]]:
        return self.parts.items()

    def _completed(self, found: Tensor, cells: Cells) -> Tensor:
        """Centred components of all modalities, those of absent ones expected from the others."""
        there = torch.stack([cells.present[m] for m in self.parts], 1)
        whole = found - self.mean
        ridge = 1e-2 * torch.eye(len(self.mean), device=found.device)
        for pattern in torch.unique(there, dim=0):
            if pattern.all():
                continue
            rows = (there == pattern).all(1).nonzero().squeeze(1)
            has = pattern.repeat_interleave(self.dim)
            if not has.any():
                whole[rows] = 0.0
                continue
            inner = (self.covariance + ridge)[has][:, has]
            weights = torch.linalg.solve(inner, self.covariance[has][:, ~has])
            some = whole[rows]
            some[:, ~has] = some[:, has] @ weights
            whole[rows] = some
        return whole
