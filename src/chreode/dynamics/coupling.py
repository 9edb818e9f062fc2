"""Which cell may become which: plans of transport between two samples, and pairs drawn from them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from chreode.axes import Float, Int, Tensor
from chreode.dynamics.entropic import potentials
from chreode.dynamics.matching import shares
from chreode.errors import InputError

__all__ = ["Coupling", "interpolate", "pairs", "transport"]

Coupling = Literal["independent", "ot"]


def transport(
    cost: Float[Tensor, "n m"],
    *,
    weights: tuple[Float[Tensor, " n"], Float[Tensor, " m"]],
    epsilon: float = 0.0,
    penalty: float = float("inf"),
) -> Float[Tensor, "n m"]:
    r"""The plan of transport of least cost between two samples.

    .. math:: \min_P\ \langle C, P \rangle + \epsilon\,\mathrm{KL}(P \,\|\, a b^\top)
              + \lambda\,\mathrm{KL}(P 1 \,\|\, a) + \lambda\,\mathrm{KL}(P^\top 1 \,\|\, b)

    With an infinite penalty :math:`\lambda` the plan's marginals are the weights; with a finite one a pair
    whose cost is c keeps about :math:`e^{-c / 2 \lambda}` of its mass rather than be sent so far: what grew
    or died is not explained by cells that became others.

    Parameters
    ----------
    cost
        :math:`C`, of sending each cell of one sample to each of the other.
    weights
        :math:`a` and :math:`b`, above 0, each of sum 1.
    epsilon
        0 for the exact plan, which needs marginals that are held.
    penalty
        :math:`\lambda`, above 0, in units of the cost.

    Raises
    ------
    InputError
        For a finite penalty without an epsilon.

    References
    ----------
    Chizat et al. (2018), doi:10.1090/mcom/3303.

    Examples
    --------
    >>> cost = torch.tensor([[0.0, 9.0], [9.0, 0.0]], dtype=torch.float64)
    >>> even, uneven = torch.tensor([0.5, 0.5]).double(), torch.tensor([0.75, 0.25]).double()
    >>> transport(cost, weights=(even, uneven))  # a quarter crosses
    tensor([[0.5000, 0.0000],
            [0.2500, 0.2500]], dtype=torch.float64)
    >>> transport(cost, weights=(even, uneven), epsilon=0.1, penalty=1.0).round(decimals=2)
    tensor([[0.6000, 0.0000],
            [0.0000, 0.3400]], dtype=torch.float64)
    """
    a, b = weights
    if epsilon == 0 and penalty < float("inf"):
        msg = f"Expected epsilon above 0 beside penalty={penalty:g}; found 0. Give a small one."
        raise InputError(msg)
    if epsilon == 0:
        import ot

        exact: Any = ot.emd(*(_array(v) for v in (a, b, cost)), numItermax=10**7)
        return torch.from_numpy(np.asarray(exact))
    f, g = potentials(cost, weights=weights, epsilon=epsilon, penalty=penalty)
    return a[:, None] * b * torch.exp((f[:, None] + g - cost) / epsilon)


def pairs(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    coupling: Coupling,
    weights: Float[Tensor, " n"] | None = None,
    epsilon: float = 0.0,
    penalty: float = float("inf"),
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Positions of cells that are taken to be the same cell earlier and later, as many as the larger sample.

    Parameters
    ----------
    x, y
        Samples of two times.
    coupling
        ``independent``: any with any; ``ot``: drawn from the plan of least mean squared distance.
    weights
        How many cells each of x stands for at the time of y, above 0; None for one each.
    epsilon, penalty
        As of `transport`.
    generator
        Of the draw; None for torch's own.
    """
    many = max(len(x), len(y))
    a, b = shares(x.double(), weights), shares(y.double())

    def draw(share: Tensor) -> Tensor:
        return torch.multinomial(share.cpu(), many, replacement=True, generator=generator)

    if coupling == "independent":
        return draw(a), draw(b)
    cost = torch.cdist(x.double(), y.double()).square()
    plan = transport(cost, weights=(a, b), epsilon=epsilon, penalty=penalty).cpu()
    rows, columns = plan.nonzero(as_tuple=True)
    chosen = draw(plan[rows, columns])
    return rows[chosen], columns[chosen]


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
    x, y = (torch.from_numpy(np.asarray(s, dtype=np.float64)) for s in (before, after))
    plan = transport(torch.cdist(x, y), weights=(shares(x), shares(y))).numpy()
    chance = plan / plan.sum(1, keepdims=True)
    drawn = np.random.default_rng(seed).random((len(before), 1))
    partner = (chance.cumsum(1) < drawn).sum(1).clip(max=len(after) - 1)
    return before + share * (after[partner] - before)


def _array(value: Tensor) -> np.ndarray:
    return value.double().cpu().numpy()
