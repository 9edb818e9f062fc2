"""The order in which cells are seen, and counts split in two."""

from __future__ import annotations

import numpy as np
import torch

from chreode.axes import Float, Int, Tensor
from chreode.cells import CSR
from chreode.errors import InputError

__all__ = ["minibatches", "stream", "thin"]


def stream(seed: int, *numbers: int) -> torch.Generator:
    """A generator of its own for each combination of numbers, the same on every machine.

    Parameters
    ----------
    seed
        The run's seed, at least 0.
    numbers
        What the stream is for: the epoch, say.

    Examples
    --------
    >>> stream(0, 1).initial_seed() == stream(0, 1).initial_seed()
    True
    >>> stream(0, 1).initial_seed() == stream(1, 0).initial_seed()
    False
    """
    mixed = np.random.SeedSequence([seed, *numbers]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> np.uint64(1)))


def minibatches(
    n: int, *, size: int, seed: int, epoch: int, group: Int[Tensor, " n"] | None = None
) -> list[Int[Tensor, " _b"]]:
    """Cut a permutation of ``n`` cells into minibatches of nearly equal size.

    The permutation is a function of (seed, epoch) alone, so that a resumed run sees the same order. Sizes
    differ by one at most, and none is a single cell when ``size`` and ``n`` are at least two.

    Parameters
    ----------
    n
        Number of cells.
    size
        Cells in a minibatch, at most (3 where 2 would leave a single one).
    seed, epoch
        What the order depends on, both at least 0.
    group
        Of each cell; every minibatch then has its share of each group.

    Raises
    ------
    InputError
        When there is no cell, or ``size`` is below one.

    Examples
    --------
    >>> [len(rows) for rows in minibatches(10, size=4, seed=0, epoch=3)]
    [4, 3, 3]
    """
    if size < 1 or n < 1:
        msg = (
            f"Expected size of at least 1 and at least one cell; found {size} and {n}. Give another "
            "minibatch size, or cells."
        )
        raise InputError(msg)
    number = -(-n // size)
    if size > 1:
        number = max(min(number, n // 2), 1)
    order = torch.randperm(n, generator=stream(seed, epoch))
    if group is not None:
        order = order[_spread(group.cpu()[order]).argsort(stable=True)]
    return list(torch.tensor_split(order, number))


def _spread(group: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Where each comes among its group, from 0 to 1."""
    at = group.argsort(stable=True)
    _, inverse, number = group[at].unique_consecutive(return_inverse=True, return_counts=True)
    before = number.cumsum(0) - number
    place = torch.empty(len(group), dtype=torch.float64)
    place[at] = (torch.arange(len(group)) - before[inverse] + 0.5).double() / number[inverse]
    return place


def thin(csr: CSR, generator: torch.Generator, *, fraction: float = 0.5) -> tuple[CSR, CSR]:
    """Split counts at random into two parts, molecule by molecule.

    .. math:: a_{ij} \\sim \\text{Binomial}(x_{ij}, f), \\qquad b_{ij} = x_{ij} - a_{ij}

    If x is Poisson the parts are independent, which is why one can be scored given the other.

    Parameters
    ----------
    csr
        Counts; only non-zeros are drawn for.
    generator
        Where randomness comes from, on the device of the counts.
    fraction
        Expected share of the first part, between 0 and 1.

    Returns
    -------
    Both parts, each without stored zeros.

    Raises
    ------
    InputError
        When ``fraction`` is not between 0 and 1.

    Examples
    --------
    >>> counts = CSR.of([[0, 4], [3, 0]])
    >>> one, other = thin(counts, torch.Generator().manual_seed(0))
    >>> (one.dense() + other.dense()).tolist()
    [[0.0, 4.0], [3.0, 0.0]]
    """
    if not 0 < fraction < 1:
        msg = f"Expected a fraction between 0 and 1; found {fraction}."
        raise InputError(msg)
    # double precision: the rejection sampler rounds large counts in single precision
    count = csr.value.double()
    first = torch.binomial(count, torch.full_like(count, fraction), generator=generator)
    return _without_zeros(csr, first), _without_zeros(csr, count - first)


def _without_zeros(csr: CSR, value: Tensor) -> CSR:
    here = value > 0
    kept = torch.zeros(len(value) + 1, dtype=torch.int64, device=value.device)
    torch.cumsum(here, 0, out=kept[1:])
    return CSR(kept[csr.crow], csr.col[here], value[here].float(), csr.width)
