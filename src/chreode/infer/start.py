"""Where codes start: principal components, with the batches' means taken out within clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from chreode.axes import Float, Int, Tensor
from chreode.cells import CSR, Cells
from chreode.csr import repeat
from chreode.infer.principal import leading, moments

if TYPE_CHECKING:
    from chreode.layout import Layout

__all__ = ["PrincipalStart", "learn_shift", "remove_batches", "shifted"]

_SAMPLE = 20_000  # cells that decide the components; the others are projected
_ROWS = 1024  # cells worked on at a time
_LEAST = 1e-9  # what is divided by


class PrincipalStart(nn.Module):
    """Principal components of log-normalised counts, kept as a linear map for cells that come later.

    .. math:: u_{ig} = \\log(1 + c\\,x_{ig}/s_i), \\qquad
              v_{ig} = \\min(u_{ig},\\, \\bar u_g + 10\\sigma_g)/\\sigma_g, \\qquad
              z_i = (v_i - \\bar v) V / \\mathrm{sd}(\\mathrm{PC}_1)

    with :math:`c` the median total of the cells and :math:`\\sigma_g` the feature's standard deviation, as is
    usual before principal components of expression. Values that are not counts are only centred. A
    feature that a panel did not measure is at its mean, which is that of the cells that were measured in it,
    and a total is what it would be with all features, by their shares in those cells.

    Parameters
    ----------
    layout
        Features.
    dim
        Number of components.
    batch
        Column whose levels' means are removed within clusters (`remove_batches`); None for none.
    modality
        Whose features; the first by default.
    depths
        Whether zeros and ones are divided by their total as counts are; by default only counts are.
    """

    loadings: Tensor
    mean: Tensor
    scale: Tensor
    cap: Tensor
    depth: Tensor
    profile: Tensor
    shift: Tensor

    def __init__(
        self,
        layout: Layout,
        dim: int,
        *,
        batch: str | None = None,
        modality: str | None = None,
        depths: bool = False,
    ) -> None:
        super().__init__()
        self.modality = modality or next(iter(layout.modalities))
        self.counts = layout.modalities[self.modality].kind == "counts"
        self.depths = depths or self.counts
        self.batch = batch
        self.cite = ("harmony",) if batch else ()
        n_levels = len(layout.covariates[batch].levels) if batch else 0
        features = layout.modalities[self.modality].n_features
        self.register_buffer("loadings", torch.zeros(features, dim))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.register_buffer("cap", torch.full((features,), torch.inf))
        self.register_buffer("depth", torch.ones(()))
        self.register_buffer("profile", torch.ones(features))
        self.register_buffer("shift", torch.zeros(n_levels, dim))

    def learn(self, cells: Cells, *, seed: int) -> Float[Tensor, "n d"]:
        """Find the components of these cells and return where their codes start."""
        from sklearn.decomposition import PCA

        rng = np.random.default_rng(seed)
        sample = np.sort(rng.permutation(len(cells))[:_SAMPLE])
        some = cells[torch.from_numpy(sample)] if len(sample) < len(cells) else cells
        if self.depths:
            self.profile.copy_(some.whole_sums(self.modality))
            size = self._size(some)
            self.depth.copy_(size[size > 0].median())
        if self.counts:
            self._learn_scale(some, self._transform(some))
        values = self._transform(some)
        matrix: Any = values.scipy() if isinstance(values, CSR) else values.cpu().numpy()
        found = min(self.loadings.shape[1], min(matrix.shape) - 1)
        if found < 1 or not (values.value if isinstance(values, CSR) else values).var() > 0:
            return torch.zeros(len(cells), self.loadings.shape[1])  # nothing varies
        if self.modality in some.panels:
            self._learn_masked(some, values, seed=seed)
        else:
            # Never dense, and many times faster than the eigenvectors of a covariance of all features.
            pca: Any = PCA(found, svd_solver="arpack", random_state=int(seed)).fit(matrix)
            scale = float(np.sqrt(pca.explained_variance_[0])) or 1.0
            # The sign of a component is arbitrary; fixing it makes runs comparable.
            signs = np.sign(pca.components_[np.arange(found), np.abs(pca.components_).argmax(1)])
            self.loadings[:, :found] = torch.from_numpy(pca.components_ * signs[:, None]).T.float() / scale
            self.mean.copy_(torch.from_numpy(pca.mean_))
        start = self._project(cells)
        return start if self.batch is None else learn_shift(self.shift, start, cells, self.batch, seed=seed)

    def forward(self, cells: Cells) -> Float[Tensor, "n d"]:
        """Where the codes of other cells start."""
        start = self._project(cells)
        return start if self.batch is None else shifted(self.shift, start, cells, self.batch)

    def _transform(self, cells: Cells) -> CSR | Tensor:
        values = cells.measured[self.modality]
        if not self.depths or not isinstance(values, CSR):
            return values
        factor = self.depth / self._size(cells).clamp(min=1)
        new = torch.empty_like(values.value)
        # In blocks of rows: what is worked with is wider than what is kept.
        for at in range(0, len(cells), _ROWS):
            crow = values.crow[at : at + _ROWS + 1]
            here = slice(int(crow[0]), int(crow[-1]))
            scaled = values.value[here] * repeat(factor[at : at + _ROWS], crow.diff(), here.stop - here.start)
            column = values.col[here].long()
            new[here] = torch.minimum(torch.log1p(scaled), self.cap[column]) / self.scale[column]
        return values.with_value(new)

    def _size(self, cells: Cells) -> Tensor:
        """Totals, those of a panel that lacks features divided by the share of the others."""
        size = cells.size[self.modality]
        if self.modality not in cells.panels:
            return size
        share = cells.panels[self.modality].to(self.profile) @ self.profile
        share = share.clamp(min=_LEAST) / self.profile.sum().clamp(min=_LEAST)
        return size / share[cells.panel[self.modality]]

    def _learn_masked(self, cells: Cells, values: CSR | Tensor, *, seed: int) -> None:
        """Means over the cells that were measured in a feature, and components of what is about them."""
        m, dim = self.modality, self.loadings.shape[1]
        entered = self._entered(cells, values)
        mean, _ = moments(entered, m)
        axes, along = leading(entered, {m: mean}, {m: torch.ones_like(mean)}, dim=dim, seed=seed)
        self.loadings.copy_(axes[m] / (float(along[0]) or 1.0))
        self.mean.copy_(mean)

    def _entered(self, cells: Cells, values: CSR | Tensor) -> Cells:
        """The cells with these values for theirs."""
        return cells.replace(measured={**cells.measured, self.modality: values})

    def _learn_scale(self, cells: Cells, values: CSR | Tensor) -> None:
        """Each feature's standard deviation, and where its values are cut; from values on their own scale."""
        if not isinstance(values, CSR):
            return
        if self.modality in cells.panels:
            mean, variance = moments(self._entered(cells, values), self.modality)
            sd = variance.sqrt()
        else:
            n = len(values)
            mean = values.sum_columns() / n
            square = values.with_value(values.value**2).sum_columns() / n
            sd = (square - mean**2).clamp(min=0).sqrt()
        self.scale.copy_(torch.where(sd > 0, sd, 1))
        self.cap.copy_(mean + 10 * self.scale)

    def _project(self, cells: Cells) -> Tensor:
        parts = []
        for at in range(0, max(len(cells), 1), _ROWS):
            some = cells[at : at + _ROWS]
            mask = some.mask(self.modality)
            mean = self.mean @ self.loadings if mask is None else (mask * self.mean) @ self.loadings
            parts.append(self._transform(some) @ self.loadings - mean)
        return torch.cat(parts)


def learn_shift(
    shift: Float[Tensor, "b d"], start: Float[Tensor, "n d"], cells: Cells, batch: str, *, seed: int
) -> Float[Tensor, "n d"]:
    """`remove_batches`; how far each batch was moved on average is put into ``shift``."""
    level = cells.covariates[batch]
    corrected = remove_batches(start, level, seed=seed)
    for b in range(len(shift)):
        if (level == b).any():
            shift[b] = (corrected - start)[level == b].mean(0)
    return corrected


def shifted(
    shift: Float[Tensor, "b d"], start: Float[Tensor, "n d"], cells: Cells, batch: str
) -> Float[Tensor, "n d"]:
    """Codes of other cells, moved as far as their batch was; those of unknown batches stay."""
    if batch not in cells.covariates:
        return start
    level = cells.covariates[batch]
    return start + torch.where((level >= 0)[:, None], shift[level.clamp(min=0)], 0)


def remove_batches(
    codes: Float[Tensor, "n d"], level: Int[Tensor, " n"], *, seed: int, clusters: int = 30, rounds: int = 10
) -> Float[Tensor, "n d"]:
    """Take the batches' means out of codes, within soft clusters that every batch shares.

    Cells are clustered softly, with a penalty on clusters that one batch fills; within each cluster the
    batches' means are moved to the cluster's mean; the two steps alternate. This is the idea of Harmony
    with a ridge on small batches.

    Parameters
    ----------
    codes
        Where the codes are.
    level
        Batch of each cell, -1 for unknown (left where it is).
    seed
        Start of the clustering.
    clusters, rounds
        How many clusters, how often the two steps alternate.

    References
    ----------
    Korsunsky et al. (2019), doi:10.1038/s41592-019-0619-0. Deviations: Euclidean instead of cosine
    distances, a fixed number of rounds, and clusters where a batch is rare do not attract its cells: they
    would draw in cells of other kinds where the batch has none of this one.
    """
    from sklearn.cluster import KMeans

    known = level >= 0
    x = codes[known].double()
    batch = torch.nn.functional.one_hot(level[known]).double()
    batch = batch[:, batch.sum(0) > 0]
    k = min(clusters, max(2, len(x) // 30))
    sample = np.random.default_rng(seed).permutation(len(x))[:_SAMPLE]
    means = torch.from_numpy(
        KMeans(k, n_init=cast("Any", 3), random_state=seed).fit(x[sample].numpy()).cluster_centers_
    )
    share = batch.mean(0)
    z = x.clone()
    width = None
    for _ in range(rounds):
        for _ in range(5):
            distance = torch.cdist(z, means) ** 2
            width = distance.min(1).values.mean() if width is None else width
            member = torch.softmax(-distance / width, 1)
            observed = batch.T @ member + 1
            expected = share[:, None] * member.sum(0) + 1
            fullness = torch.log(observed / expected)
            # A batch may lack a kind of cells: where it is rare, nothing draws its cells in.
            member = torch.softmax(-distance / width - 2 * (batch @ fullness.clamp(min=0)), 1)
            means = (member.T @ z) / member.sum(0)[:, None].clamp(min=1e-9)
        z = x - _batch_offsets(x, batch, member)
    out = codes.clone()
    out[known] = z.to(codes.dtype)
    return out


def _batch_offsets(x: Tensor, batch: Tensor, member: Tensor) -> Tensor:
    """Mean offset of each cell's batch from its cluster's balanced mean, weighted by membership."""
    weight = torch.einsum("nb,nk->kb", batch, member)
    total = torch.einsum("nb,nk,nd->kbd", batch, member, x)
    mean = total / weight.clamp(min=1e-9)[..., None]
    shrink = weight / (weight + 5)  # a batch with few cells in a cluster says little about its offset there
    centre = (shrink[..., None] * mean).sum(1) / shrink.sum(1).clamp(min=1e-9)[:, None]
    offset = shrink[..., None] * (mean - centre[:, None])
    return torch.einsum("nb,nk,kbd->nd", batch, member, offset)
