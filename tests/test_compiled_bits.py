"""A compiled likelihood is the same to the bit when it was just compiled and when it was kept from before."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCORED = """
import torch
from chreode.csr import CSR
from chreode.likelihoods import fused, fused_inflated
from chreode.likelihoods.sparse import NonZeros

torch.manual_seed(0)
x = torch.poisson(torch.rand(60, 40) * 2)
entries = NonZeros(CSR.of(x.numpy()), torch.float32)
size, theta, raw = torch.rand(60) * 100 + 5, torch.randn(40), torch.randn(60, 40)
scored = {
    "nb": fused.score_negative_binomial(entries, None, (raw, size, theta), (True,) * 3, None),
    "poisson": fused.score_poisson(entries, None, (raw, size), (True, True), None),
    "bernoulli": fused.score_bernoulli(entries, None, (raw, size / 100), (True, True), None),
    "zinb": fused_inflated.score_zero_inflated(
        entries, None, (torch.randn(60, 80), size, theta), (True,) * 3, None
    ),
}
for name, (value, gradients) in scored.items():
    print(name, [part.double().numpy().tobytes().hex()[:4000] for part in (value, *gradients)])
"""


def test_what_was_just_compiled_and_what_was_kept_give_the_same_bits(tmp_path):
    pytest.importorskip("numba")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    said = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", SCORED], env=environment, capture_output=True, text=True, check=True
        )
        said.append(done.stdout)
    assert len(said[0].splitlines()) == 4
    assert said[0] == said[1]
