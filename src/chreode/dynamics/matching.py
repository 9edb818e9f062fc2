"""How far predicted cells are from those observed, and which cell may become which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from chreode.axes import Float, Int, Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Coupling", "interpolate", "mmd", "pairs"]

Coupling = Literal["independent", "ot"]


def mmd(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], *, widths: Sequence[float] = (1.0,)
) -> Float[Tensor, ""]:
    r"""Squared maximum mean discrepancy between two samples under Laplace kernels, summed over their widths.

    .. math:: \overline{k(x, x')} + \overline{k(y, y')} - 2\,\overline{k(x, y)}, \qquad
              k(u, v) = \sum_\sigma \exp\Big(-\frac{\lVert u - v \rVert_1}{d\,\sigma}\Big)

    the biased estimate, which is never negative.

    Parameters
    ----------
    x, y
        The samples.
    widths
        :math:`\sigma`, above 0, in units of the coordinates.

    References
    ----------
    Gretton et al. (2012), *A kernel two-sample test*, JMLR 13.
    """
    d = x.shape[1]

    def mean(u: Tensor, v: Tensor) -> Tensor:
        far = torch.cdist(u, v, p=1) / d
        return torch.stack([torch.exp(-far / width).mean() for width in widths]).sum()

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def pairs(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    coupling: Coupling,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Positions of cells that are taken to be the same cell earlier and later, as many as the larger sample.

    Parameters
    ----------
    x, y
        Samples of two times.
    coupling
        ``independent``: any with any; ``ot``: drawn from the plan of least mean squared distance.
    generator
        Of the draw; None for torch's own.
    """
    n, m = len(x), len(y)
    many = max(n, m)
    if coupling == "independent":
        return tuple(  # type: ignore[return-value]
            torch.randint(size, (many,), generator=generator) for size in (n, m)
        )
    cost = torch.cdist(x.double(), y.double()).square().cpu().numpy()
    plan = _plan(x, y, cost)
    rows, columns = plan.nonzero()
    chosen = torch.multinomial(
        torch.from_numpy(plan[rows, columns]), many, replacement=True, generator=generator
    )
    return torch.from_numpy(rows)[chosen], torch.from_numpy(columns)[chosen]


def interpolate(
    before: Float[np.ndarray, "n d"],
    after: Float[np.ndarray, "m d"],
    *,
    share: float,
    seed: int = 0,
) -> Float[np.ndarray, "n d"]:
    r"""Cells of one time on their way to a later one, by optimal transport alone; nothing is trained.

    .. math:: z_i + s\,(z'_{j(i)} - z_i), \qquad j(i) \sim \pi_{i \cdot}

    with :math:`\pi` the plan of least mean distance between both samples, whole.

    Parameters
    ----------
    before, after
        Samples of two times.
    share
        :math:`s`, of the time between them.
    seed
        Of the draw of partners.

    Examples
    --------
    >>> interpolate(np.array([[0.0], [5.0]]), np.array([[7.0], [1.0]]), share=0.5).ravel().tolist()
    [0.5, 6.0]
    """
    import ot

    plan = _plan(before, after, ot.dist(before, after, metric="euclidean"))
    chance = plan / plan.sum(1, keepdims=True)
    drawn = np.random.default_rng(seed).random((len(before), 1))
    partner = (chance.cumsum(1) < drawn).sum(1).clip(max=len(after) - 1)
    return before + share * (after[partner] - before)


def _plan(x: Any, y: Any, cost: Any) -> np.ndarray:
    """The plan of least cost between two samples whose cells weigh the same."""
    import ot

    a, b = (np.full(len(sample), 1 / len(sample)) for sample in (x, y))
    plan: Any = ot.emd(a, b, np.asarray(cost, dtype=np.float64), numItermax=10**7)
    return np.asarray(plan)
