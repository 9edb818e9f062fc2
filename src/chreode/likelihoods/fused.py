"""Negative binomial, Poisson and Bernoulli in one pass over each cell, compiled for the processor at hand.

What `chreode.likelihoods.closed` and `chreode.likelihoods.binary` do in many passes of PyTorch's over a
minibatch is done here while the row of one cell is in the cache. The formulas are the same.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from chreode.likelihoods.closed import NO_SIZE
from chreode.likelihoods.formulas import (
    F4,
    I4,
    I8,
    U1,
    array,
    compiled,
    dense,
    exponentials,
    largest_of,
    loop,
    softplus,
    to_logits,
    with_counts,
    with_poisson_counts,
)
from chreode.likelihoods.sparse import masked
from chreode.openmp import run, thread_count, thread_number, threads

if TYPE_CHECKING:
    from chreode.axes import Tensor
    from chreode.likelihoods.closed import Scored
    from chreode.likelihoods.sparse import NonZeros

__all__ = ["score_bernoulli", "score_negative_binomial", "score_poisson"]


@loop
def _without_counts(share, scale, size, weight, theta, inverse, pull, by_theta):
    """The dense part of one cell: ``sum theta log(1+r)`` and ``sum theta r/(1+r)``, kept in ``pull``."""
    value, total = F4(0), F4(0)
    for j in range(len(share)):
        share[j] *= scale
        log, part, less = dense(share[j] * size * inverse[j])
        value += theta[j] * log
        pull[j] = theta[j] * part
        total += pull[j]
        by_theta[j] += weight * theta[j] * less
    return value, total


@loop
def _cell(logits, size, weight, theta, inverse, col, x, pull, work, gradient, by_theta, tied):
    """Value and gradient to the log size of one cell; its gradients to the logits and to log theta.

    Logits whose softmax ties them (1, not 0) share the latter.
    """
    largest = largest_of(logits)
    total = exponentials(logits, largest, gradient)
    value, down = _without_counts(gradient, F4(1) / total, size, weight, theta, inverse, pull, by_theta)
    n = len(col)
    logit, mean, there = work[0, :n], work[1, :n], work[2, :n]
    for k in range(n):
        j = np.uint32(col[k])
        logit[k], mean[k], there[k] = logits[j], gradient[j] * size, theta[j]
    log_scale = F4(math.log(np.float64(size)) - math.log(np.float64(total)) - np.float64(largest))
    at_counts, up = with_counts(x, logit, mean, there, log_scale)
    to_logits(gradient, pull, tied * (up - down))
    for k in range(n):
        j = np.uint32(col[k])
        gradient[j] += mean[k]
        by_theta[j] += weight * there[k]
    return at_counts - value, up - down


def _negative_binomial(addresses):
    """One thread's cells."""
    n, g, nnz, n_threads, tied = array(addresses[0], (5,), I8)
    crow, col = array(addresses[1], (n + 1,), I8), array(addresses[2], (nnz,), I4)
    x = array(addresses[3], (nnz,), F4)
    logits = array(addresses[4], (n, g), F4)
    size, weight = array(addresses[5], (n,), F4), array(addresses[6], (n,), F4)
    theta, inverse = array(addresses[7], (g,), F4), array(addresses[8], (g,), F4)
    value, by_log_size = array(addresses[9], (n,), F4), array(addresses[10], (n,), F4)
    gradient = array(addresses[11], (n, g), F4)
    by_theta = array(addresses[12], (n_threads, g), F4)
    this, count = thread_number(), thread_count()
    first, end = n * this // count, n * (this + 1) // count
    longest = 0
    for i in range(first, end):
        longest = max(longest, crow[i + 1] - crow[i])
    pull, work = np.empty(g, F4), np.empty((3, longest), F4)
    for i in range(first, end):
        here = slice(crow[i], crow[i + 1])
        value[i], by_log_size[i] = _cell(
            logits[i], size[i], weight[i], theta, inverse, col[here], x[here], pull, work, gradient[i],
            by_theta[this], F4(tied),
        )  # fmt: skip


@loop
def _scaled(row, factor):
    """A row times a number, in its place."""
    for j in range(len(row)):
        row[j] *= factor


@loop
def _poisson_cell(logits, size, col, x, work, gradient):
    """Value and gradient to the log size of one cell under Poisson; its gradient to the logits."""
    largest = largest_of(logits)
    total = exponentials(logits, largest, gradient)
    logit = work[: len(col)]
    for k in range(len(col)):
        logit[k] = logits[np.uint32(col[k])]
    exact = math.log(np.float64(size)) - math.log(np.float64(total)) - np.float64(largest)
    log_scale = F4(exact)
    value, molecules = with_poisson_counts(x, logit, log_scale)
    # What the rounding lost counts once a molecule, and deep cells have many.
    value += F4(molecules * (exact - log_scale))
    _scaled(gradient, -molecules / total)
    for k in range(len(col)):
        gradient[np.uint32(col[k])] += x[k]
    return value - size, molecules - size


def _poisson(addresses):
    """One thread's cells."""
    n, g, nnz = array(addresses[0], (3,), I8)
    crow, col = array(addresses[1], (n + 1,), I8), array(addresses[2], (nnz,), I4)
    x, logits = array(addresses[3], (nnz,), F4), array(addresses[4], (n, g), F4)
    size, value = array(addresses[5], (n,), F4), array(addresses[6], (n,), F4)
    by_log_size, gradient = array(addresses[7], (n,), F4), array(addresses[8], (n, g), F4)
    this, count = thread_number(), thread_count()
    work = np.empty(g, F4)
    for i in range(n * this // count, n * (this + 1) // count):
        here = slice(crow[i], crow[i + 1])
        value[i], by_log_size[i] = _poisson_cell(logits[i], size[i], col[here], x[here], work, gradient[i])


@loop
def _without_ones(raw, shift, gradient):
    """The dense part of one cell of zeros and ones: ``sum softplus``, and its gradient's negative."""
    total = F4(0)
    for j in range(len(raw)):
        value, slope = softplus(raw[j] + shift)
        total += value
        gradient[j] = -slope
    return total


@loop
def _without_ones_of(keep, raw, shift, gradient):
    """The same of the features that are kept (1, not 0)."""
    total = F4(0)
    for j in range(len(raw)):
        value, slope = softplus(raw[j] + shift)
        total += F4(keep[j]) * value
        gradient[j] = -F4(keep[j]) * slope
    return total


def _bernoulli(addresses):
    """One thread's cells."""
    n, g, nnz, n_masked = array(addresses[0], (4,), I8)
    crow, col = array(addresses[1], (n + 1,), I8), array(addresses[2], (nnz,), I4)
    x = array(addresses[3], (nnz,), F4)
    raw, shift = array(addresses[4], (n, g), F4), array(addresses[5], (n,), F4)
    value, gradient = array(addresses[6], (n,), F4), array(addresses[7], (n, g), F4)
    mask = array(addresses[8], (n_masked, g), U1)
    this, count = thread_number(), thread_count()
    for i in range(n * this // count, n * (this + 1) // count):
        if n_masked:
            total = -_without_ones_of(mask[i], raw[i], shift[i], gradient[i])
        else:
            total = -_without_ones(raw[i], shift[i], gradient[i])
        for k in range(crow[i], crow[i + 1]):
            j = np.uint32(col[k])
            total += x[k] * (raw[i, j] + shift[i])
            gradient[i, j] += x[k]
        value[i] = total


_negative_binomial = compiled(_negative_binomial)
_poisson = compiled(_poisson)
_bernoulli = compiled(_bernoulli)


def score_negative_binomial(
    entries: NonZeros,
    mask: Tensor | None,
    inputs: tuple[Tensor, ...],
    wanted: tuple[bool, ...],
    weight: Tensor | None,
    *,
    free: bool = False,
) -> Scored:
    """The same as `chreode.likelihoods.closed.score_negative_binomial`, in float32 on the CPU."""
    raw, size, log_theta = inputs
    logits = masked(raw, mask).contiguous()
    theta = log_theta.exp().to(logits.dtype)
    size = size.to(logits.dtype).clamp_min(NO_SIZE)
    weight = None if weight is None else weight.to(logits.dtype).contiguous()
    (n, g), count = logits.shape, threads()
    value, by_log_size, gradient = torch.empty_like(size), torch.empty_like(size), torch.empty_like(logits)
    by_theta = logits.new_zeros(count, g)
    run(
        _negative_binomial.address,
        [
            torch.tensor([n, g, len(entries.value), count, not free]),
            *(entries.crow, entries.narrow, entries.value),
            *(logits, size, torch.ones_like(size) if weight is None else weight),
            *(theta, 1 / theta),
            *(value, by_log_size, gradient, by_theta),
        ],
    )
    gradients = gradient, by_log_size.div_(size), by_theta.sum(0)
    return value, [each if want else None for each, want in zip(gradients, wanted, strict=True)]


def score_poisson(
    entries: NonZeros,
    mask: Tensor | None,
    inputs: tuple[Tensor, ...],
    wanted: tuple[bool, ...],
    weight: Tensor | None,
) -> Scored:
    """The same as `chreode.likelihoods.closed.score_poisson`, in float32 on the CPU."""
    raw, size = inputs
    logits, size = masked(raw, mask).contiguous(), size.to(raw.dtype).clamp_min(NO_SIZE).contiguous()
    value, by_log_size, gradient = torch.empty_like(size), torch.empty_like(size), torch.empty_like(logits)
    run(
        _poisson.address,
        [
            torch.tensor([*logits.shape, len(entries.value)]),
            *(entries.crow, entries.narrow, entries.value),
            *(logits, size, value, by_log_size, gradient),
        ],
    )
    return value, [gradient if wanted[0] else None, by_log_size.div_(size) if wanted[1] else None]


def score_bernoulli(
    entries: NonZeros,
    mask: Tensor | None,
    inputs: tuple[Tensor, ...],
    wanted: tuple[bool, ...],
    weight: Tensor | None,
) -> Scored:
    """The same as the score of `chreode.likelihoods.binary`, in float32 on the CPU."""
    raw, shift = inputs[0].contiguous(), inputs[1].contiguous()
    value, gradient = torch.empty_like(shift), torch.empty_like(raw)
    mask = torch.empty((0, raw.shape[1]), dtype=torch.bool) if mask is None else mask.contiguous()
    shape = torch.tensor([*raw.shape, len(entries.value), len(mask)])
    run(
        _bernoulli.address,
        [shape, entries.crow, entries.narrow, entries.value, raw, shift, value, gradient, mask],
    )
    return value, [gradient if wanted[0] else None, gradient.sum(1) if wanted[1] else None]
