"""The compiled likelihoods: on any number of threads, without OpenMP, and where it cannot be had."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch

import chreode.likelihoods
from chreode import openmp
from chreode.cells import CSR
from chreode.likelihoods import compiled, formulas, heads

N, G = 11, 300

WITHOUT = """
import ctypes

known = ctypes.CDLL
def only_named(name, *rest, **others):
    if name is None:
        raise OSError("nothing found")
    return known(name, *rest, **others)
ctypes.CDLL = only_named

import torch
torch.set_num_threads(2)
from chreode import openmp
assert openmp.threads() == 1
import test_fused
torch.save(test_fused.gradients(), "{path}")
"""


def gradients() -> list[torch.Tensor]:
    """Value, and gradients to outputs and inverse dispersions."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(N, G, generator=generator).requires_grad_()
    x = torch.poisson(raw.detach().exp(), generator)
    x[4] = 0
    head = heads["nb"](G, init=torch.logspace(-2, 3, G))
    value = head(raw, x.sum(1), None).log_prob(CSR.of(x.numpy()))
    found = [value.detach(), *torch.autograd.grad(value.sum(), [raw, head.log_theta])]
    both = torch.cat([raw.detach(), torch.randn(N, G, generator=generator)], 1).requires_grad_()
    head = heads["zinb"](G, init=torch.logspace(-2, 3, G))
    value = head(both, x.sum(1), None).log_prob(CSR.of(x.numpy()))
    found += [value.detach(), *torch.autograd.grad(value.sum(), [both, head.log_theta])]
    for name, values in {"bernoulli": (x > 0).float(), "poisson": x}.items():
        value = heads[name](G)(raw, x.sum(1), None).log_prob(CSR.of(values.numpy()))
        found += [value.detach(), *torch.autograd.grad(value.sum(), [raw])]
    return found


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [2, 3, 16])
def test_threads_share_out_the_cells(threads, count):
    threads(1)
    one = gradients()
    threads(count)
    several, again = gradients(), gradients()
    assert all(torch.equal(a, b) for a, b in zip(several, again, strict=True))
    for which, (a, b) in enumerate(zip(one, several, strict=True)):
        # Over cells, inverse dispersions are summed thread by thread.
        torch.testing.assert_close(a, b) if which in (2, 5) else torch.testing.assert_close(
            a, b, rtol=0, atol=0
        )


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch's OpenMP has GNU's entry on Linux only")
def test_the_threads_are_those_of_pytorch(threads):
    threads(2)
    assert openmp.threads() == 2


def test_without_openmp_one_thread_does_it(tmp_path):
    path = tmp_path / "gradients.pt"
    subprocess.run(
        [sys.executable, "-c", WITHOUT.format(path=path)], check=True, cwd=__file__.rpartition("/")[0]
    )
    for one, other in zip(gradients(), torch.load(path, weights_only=True), strict=True):
        torch.testing.assert_close(one, other)


def test_what_cannot_be_compiled_is_said_and_done_without(monkeypatch, caplog):
    want = gradients()
    monkeypatch.setitem(sys.modules, "chreode.likelihoods.fused", None)
    monkeypatch.delattr(chreode.likelihoods, "fused")
    compiled.load.cache_clear()
    with caplog.at_level(logging.WARNING):
        found = gradients()
    compiled.load.cache_clear()
    assert "could not be compiled" in caplog.text
    for one, other in zip(want, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_one_thread_of_many_is_not_worth_it(monkeypatch):
    monkeypatch.setattr(openmp, "threads", lambda: 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert compiled.compiled_for(torch.zeros(1, 2)) is None


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson", "bernoulli", "accessibility"])
def test_outputs_that_are_no_numbers_give_no_number(name):
    head = heads[name](G)
    raw = torch.zeros(3, head.outputs * G)
    raw[0, 5], raw[1, 7] = torch.nan, torch.inf
    x = torch.ones(3, G)
    value = head(raw, x.sum(1), None).log_prob(x)
    assert value.isfinite().tolist() == [False, False, True]


def test_it_agrees_with_pytorch_from_the_smallest_to_the_largest():
    x = torch.cat([-torch.logspace(-10, 2.2, 500), torch.zeros(1), torch.tensor([-1e30])])
    out = torch.empty_like(x)
    formulas.exponentials(x.numpy(), torch.zeros(1).numpy()[0], out.numpy())
    torch.testing.assert_close(out, x.exp(), rtol=3e-7, atol=1e-37)
