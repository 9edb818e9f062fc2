"""How far predicted cells are from those observed, and which cell may become which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from chreode.axes import Float, Int, Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Coupling", "mmd", "pairs", "wasserstein"]

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
    import ot

    cost = torch.cdist(x.double(), y.double()).square().cpu().numpy()
    found: Any = ot.emd(np.full(n, 1 / n), np.full(m, 1 / m), cost, numItermax=10**7)
    plan = np.asarray(found)
    rows, columns = plan.nonzero()
    chosen = torch.multinomial(
        torch.from_numpy(plan[rows, columns]), many, replacement=True, generator=generator
    )
    return torch.from_numpy(rows)[chosen], torch.from_numpy(columns)[chosen]


def wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """Exact Wasserstein-1 distance between two samples, with Euclidean ground cost.

    Parameters
    ----------
    x, y
        Cells by dimensions.
    """
    import ot

    x, y = (np.asarray(part, dtype=np.float64) for part in (x, y))
    cost = ot.dist(x, y, metric="euclidean")
    a, b = (np.full(len(part), 1 / len(part)) for part in (x, y))
    least: Any = ot.emd2(a, b, cost, numItermax=10**7)
    return float(least)
