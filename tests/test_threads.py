"""No more threads than the data keep busy, and a word where other programs keep the cores busy."""

from __future__ import annotations

import logging
import os

import numpy as np
import pytest
import torch
from anndata import AnnData

import chreode as ch
from chreode.model import LatentModel
from chreode.threads import threads_for, warn_when_busy


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(("entries", "threads"), [(1, 1), (150_000, 1), (300_000, 2), (10**9, 4)])
def test_threads_grow_with_the_work_up_to_those_allowed(entries, threads):
    with threads_for(entries):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_threads")
def test_a_small_fit_and_its_projection_take_one_thread(monkeypatch):
    seen = set()
    forward = LatentModel.forward

    def watched(self, cells):
        seen.add(torch.get_num_threads())
        return forward(self, cells)

    monkeypatch.setattr(LatentModel, "forward", watched)
    counts = np.random.default_rng(0).poisson(1.0, size=(40, 30)).astype(np.float32)
    ch.fit(ch.read(AnnData(counts)), ch.recipes.scdgd(components=2), epochs=2, progress=False, device="cpu")
    assert seen == {1}
    assert torch.get_num_threads() == 4


@pytest.mark.skipif(not hasattr(os, "getloadavg"), reason="this system does not tell its load")
@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(("load", "said"), [(0.1, False), (1e4, True)])
def test_a_busy_machine_is_told_of(load, said, monkeypatch, caplog):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    with caplog.at_level(logging.WARNING):
        warn_when_busy()
    assert ("OMP_NUM_THREADS=1" in caplog.text) is said
