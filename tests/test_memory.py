"""Large arrays are kept between steps, and given back in the end."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from chreode import memory
from chreode.memory import kept_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")


def faults() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def churn(times: int) -> int:
    """Page faults of asking for 80 MB again and again."""
    before = faults()
    for _ in range(times):
        torch.zeros(20_000_000).add_(1)
    return faults() - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


def test_what_is_freed_is_used_again():
    outside = churn(5)
    with kept_memory():
        churn(1)
        with kept_memory():
            pass
        inside = churn(5)
    # Once at most, where the first block has meanwhile been cut.
    assert inside < outside / 3


def test_memory_is_given_back_afterwards():
    with kept_memory():
        churn(1)
        kept = resident()
    assert resident() < kept - 10_000


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    with kept_memory():
        assert churn(1) >= 0
