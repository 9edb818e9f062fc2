"""How many threads an amount of work is worth."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["threads_for", "warn_when_busy"]

# Entries of a cells-by-features block that keep one thread busy: 1,200 features of a minibatch of 128.
_WORTH = 150_000


@contextmanager
def threads_for(entries: int) -> Iterator[None]:
    """Inside, PyTorch uses no more threads than blocks of so many entries keep busy.

    More would not be faster, and on cores that other programs use, or that a container may not use, threads
    that wait for one another take many times longer. The number depends on the data and the machine alone,
    so that a fit can be repeated to the bit.

    Parameters
    ----------
    entries
        Cells times features of what is worked on at a time.

    Examples
    --------
    >>> import torch
    >>> with threads_for(100_000):
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, round(entries / _WORTH))))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def warn_when_busy() -> None:
    """Say so when other programs use all cores, since several threads are then slower than one."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # Windows has none
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    if threads > 1 and load >= cores:
        logging.getLogger(__name__).warning(
            "Other programs keep this machine busy (load %.1f on %d cores), and %d threads that wait for one "
            "another may then be many times slower than one: set OMP_NUM_THREADS=1 before Python starts.",
            load,
            cores,
            threads,
        )
