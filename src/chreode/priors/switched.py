"""A block of code for every level of an attribute, which the cell's own level switches on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from chreode.axes import Float, Int, Tensor
from chreode.companion import Companion

if TYPE_CHECKING:
    from collections.abc import Callable

    from chreode.cells import Cells
    from chreode.layout import Layout

__all__ = ["SwitchedDensity", "SwitchedNormal"]

_LOG_2PI = math.log(2 * math.pi)


class SwitchedDensity:
    r"""Normal blocks, one a level, of which that of the cell's level has another mean and width.

    .. math::
        \log p(w_i \mid y_i) = \sum_k \log N(w_{ik};\ m_{[k = y_i]}\,1,\ s^2_{[k = y_i]} I)

    A cell of unknown level has the mean of this density over the levels.

    Parameters
    ----------
    levels
        Level of each cell, ``n``, -1 where it is unknown.
    n_levels
        Levels ``k``.
    dim
        Dimensions of a block; a code has ``k * dim``, level by level.
    mean, scale
        :math:`(m_0, m_1)` and :math:`(s_0, s_1)`: off, on.

    Examples
    --------
    >>> import torch
    >>> one = SwitchedDensity(torch.tensor([0]), n_levels=2, dim=1, mean=(0.0, 3.0), scale=(0.1, 1.0))
    >>> one.mean.tolist()
    [[3.0, 0.0]]
    """

    __slots__ = ("dim", "levels", "locations", "n_levels", "scales")

    def __init__(
        self,
        levels: Int[Tensor, " n"],
        *,
        n_levels: int,
        dim: int,
        mean: tuple[float, float],
        scale: tuple[float, float],
    ) -> None:
        self.levels, self.n_levels, self.dim = levels, n_levels, dim
        self.locations, self.scales = mean, scale

    @property
    def mean(self) -> Float[Tensor, "n kd"]:
        """Mean of each cell's code; where the level is unknown, over the levels."""
        return self._switched(*self.locations)

    @property
    def scale(self) -> Float[Tensor, "n kd"]:
        """Standard deviation of each cell's code; where the level is unknown, their mean over the levels."""
        return self._switched(*self.scales)

    def _switched(self, off: float, on: float) -> Float[Tensor, "n kd"]:
        switched = nn.functional.one_hot(self.levels.clamp(min=0), self.n_levels).float()
        unknown = torch.full_like(switched, 1 / self.n_levels)
        share = torch.where((self.levels < 0)[:, None], unknown, switched)
        return (off + (on - off) * share).repeat_interleave(self.dim, 1)

    def log_prob(self, z: Float[Tensor, "n kd"]) -> Float[Tensor, " n"]:
        """Log density of each code, in nats."""
        blocks = z.unflatten(1, (self.n_levels, self.dim))

        def block(which: int) -> Tensor:
            scale = self.scales[which]
            square = ((blocks - self.locations[which]) / scale).square().sum(2)
            return -0.5 * square - self.dim * (math.log(scale) + 0.5 * _LOG_2PI)

        return self._by_level(block(0), block(1)).logsumexp(1)

    def kl(self, posterior: Any, z: Float[Tensor, "n kd"]) -> Float[Tensor, " n"]:
        """Divergence of a Gaussian posterior: in closed form; by the codes drawn where a level is unknown."""
        mean = posterior.mean.unflatten(1, (self.n_levels, self.dim))
        variance = posterior.variance.unflatten(1, (self.n_levels, self.dim))

        def block(which: int) -> Tensor:
            wide = self.scales[which] ** 2
            apart = (variance + (mean - self.locations[which]).square()) / wide
            return 0.5 * (apart - variance.log() + math.log(wide) - 1).sum(2)

        off, on = block(0), block(1)
        level = self.levels.clamp(min=0)[:, None]
        known = (off.sum(1, keepdim=True) - off + on).gather(1, level).squeeze(1)
        if not (self.levels < 0).any():
            return known
        return torch.where(self.levels < 0, posterior.log_prob(z) - self.log_prob(z), known)

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n kd"]:
        """Draw codes of cells of any level, each as often."""
        level = torch.randint(self.n_levels, (n,), generator=generator, device=generator.device)
        on = nn.functional.one_hot(level, self.n_levels).float().repeat_interleave(self.dim, 1)
        noise = torch.randn(on.shape, generator=generator, device=generator.device)
        mean, scale = ((off + (at - off) * on) for off, at in (self.locations, self.scales))
        return mean + scale * noise

    def _by_level(self, off: Float[Tensor, "n k"], on: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Log density with each level that is possible, ``-inf`` for the others."""
        joint = off.sum(1, keepdim=True) - off + on
        level = self.levels[:, None]
        possible = level == torch.arange(self.n_levels, device=level.device)
        known = joint.masked_fill(~possible, -math.inf)
        return torch.where(level < 0, joint - math.log(self.n_levels), known)


class SwitchedNormal(nn.Module):
    r"""A prior with a block for each level of an attribute: about 3 in cells of the level, about 0 in others.

    .. math::
        w_{ik} \mid y_i \sim N\big(m_{[k = y_i]}\,1,\ s^2_{[k = y_i]} I\big), \qquad
        (m_0, m_1) = (0, 3), \quad (s_0, s_1) = (0.1, 1)

    What cells of one level alone do has room in the block that is on in them; in all others it is all but
    constant, so that what the levels share does not fit there.

    Parameters
    ----------
    layout
        Covariates.
    attribute
        Categorical covariate, by name or role.
    dim
        Dimensions of a block.
    n_shared
        Dimensions of the shared code, for `transport`.
    mean, scale
        Of blocks that are off, and on.

    References
    ----------
    Klys, Snell and Zemel (2018), Learning latent subspaces in variational autoencoders,
    doi:10.48550/arXiv.1812.06190. Beker et al. (2024), Patches, doi:10.1101/2024.12.23.630186.
    """

    cite: ClassVar[tuple[str, ...]] = ("csvae",)
    count = 0  # it has no components
    companions: Any

    def __init__(
        self,
        layout: Layout,
        attribute: str,
        dim: int,
        *,
        n_shared: int,
        mean: tuple[float, float] = (0.0, 3.0),
        scale: tuple[float, float] = (0.1, 1.0),
    ) -> None:
        super().__init__()
        covariate = layout.resolve(attribute)
        self.attribute, self.n_levels, self.dim = covariate.column, len(covariate.levels), dim
        self.how = {"n_levels": self.n_levels, "dim": dim, "mean": mean, "scale": scale}
        self.companions = nn.ModuleList(Companion(n_shared, dim) for _ in covariate.levels)

    def forward(self, cells: Cells, given: Any = None) -> SwitchedDensity:
        """The density of the codes of ``cells``: each has its own."""
        return SwitchedDensity(cells.covariates[self.attribute], **self.how)

    def mixture(self) -> SwitchedDensity:
        """The density of the codes of any cell, whatever its level."""
        return SwitchedDensity(torch.zeros(0, dtype=torch.long), **self.how)

    def log_hyper(self) -> Float[Tensor, ""]:
        """Zero: there are no parameters."""
        return torch.zeros(())

    def modes(self) -> Float[Tensor, "k kd"]:
        """The mode of each level."""
        return SwitchedDensity(torch.arange(self.n_levels), **self.how).mean

    def pair(
        self,
        shared: Float[Tensor, "n s"],
        own: Float[Tensor, "n kd"],
        cells: Cells,
        *,
        total: Callable[[Tensor], Tensor],
    ) -> None:
        """Learn what a block that is on goes with, over the cells of each level."""
        blocks = own.unflatten(1, (self.n_levels, self.dim))
        for level, companion in enumerate(self.companions):
            here = (cells.covariates[self.attribute] == level).float()
            companion.learn(shared, blocks[:, level], here, total=total)

    def transport(
        self,
        shared: Float[Tensor, "n s"],
        own: Float[Tensor, "n kd"],
        *,
        before: Cells,
        after: Cells,
        draw: torch.Generator | None = None,
    ) -> Float[Tensor, "n kd"]:
        """Codes of cells that were given another level: its block as its cells have it, the old one off.

        With the level unknown, all blocks are at the mean over levels.
        """
        old, new = before.covariates[self.attribute], after.covariates[self.attribute]
        moved = SwitchedDensity(new, **self.how).mean.unflatten(1, (self.n_levels, self.dim)).clone()
        for level, companion in enumerate(self.companions):
            here = (new == level)[:, None]
            moved[:, level] = torch.where(here, companion(shared, draw), moved[:, level])
        return torch.where((old == new)[:, None], own, moved.flatten(1))
