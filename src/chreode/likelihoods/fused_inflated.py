"""Zero-inflated negative binomial in one pass over each cell, compiled for the processor at hand.

The formulas are those of `chreode.likelihoods.closed.score_zero_inflated`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from chreode.likelihoods.formulas import (
    F4,
    I4,
    I8,
    array,
    compiled,
    dense,
    exponentials,
    largest_of,
    log_of,
    loop,
    sigmoids,
    softplus,
    to_logits,
    with_counts,
)
from chreode.likelihoods.sparse import masked
from chreode.openmp import run, thread_count, thread_number, threads

if TYPE_CHECKING:
    from chreode.axes import Tensor
    from chreode.likelihoods.closed import Scored
    from chreode.likelihoods.sparse import NonZeros

__all__ = ["score_zero_inflated"]

_LOST = -80.0  # below, the sigmoid of a dropout logit leaves float32


@loop
def _without_counts(share, scale, size, weight, theta, inverse, dropout, pull, by_dropout, by_theta):
    """The dense part of one cell: ``sum log P(0)``, and its gradients' parts.

    That to log mu, whose negative is kept in ``pull`` and summed, to the dropout logits and to log theta.
    """
    value, total = F4(0), F4(0)
    for j in range(len(share)):
        share[j] *= scale
        log, part, less = dense(share[j] * size * inverse[j])
        logit = max(dropout[j], F4(_LOST))
        prior, _ = sigmoids(logit)
        lost, there = sigmoids(logit + theta[j] * log)
        value += log_of(prior / lost)
        pull[j] = there * theta[j] * part
        total += pull[j]
        by_dropout[j] = lost - prior
        by_theta[j] += weight * there * theta[j] * less
    return value, total


@loop
def _seen(x, theta, inverse, mean, dropout, pull, slope):
    """What counts change: minus ``sum softplus(d-a)``, and the parts that the dense part gave to lost zeros.

    The share of lost zeros takes the place of ``dropout``; ``pull`` and ``slope`` get the gradients.
    """
    value, total = F4(0), F4(0)
    for k in range(len(x)):
        log, part, less = dense(mean[k] * inverse[k])
        surplus = max(dropout[k], F4(_LOST)) + theta[k] * log
        more, lost = softplus(surplus)
        # A stored zero is a zero like any other.
        seen = F4(1) if x[k] > 0 else F4(0)
        value -= seen * more
        dropout[k] = seen * lost
        pull[k] = -dropout[k] * theta[k] * part
        slope[k] = dropout[k] * theta[k] * less
        total += pull[k]
    return value, total


@loop
def _cell(raw, size, weight, theta, inverse, col, x, pull, work, gradient, by_theta):
    """Value and gradient to the log size of one cell; its gradients to the outputs and to log theta."""
    g, n = len(theta), len(col)
    logits, dropout, share, by_dropout = raw[:g], raw[g:], gradient[:g], gradient[g:]
    largest = largest_of(logits)
    total = exponentials(logits, largest, share)
    value, down = _without_counts(
        share, F4(1) / total, size, weight, theta, inverse, dropout, pull, by_dropout, by_theta
    )
    logit, mean, there, lost = work[0, :n], work[1, :n], work[2, :n], work[3, :n]
    extra, slope, one_over = work[4, :n], work[5, :n], work[6, :n]
    for k in range(n):
        j = np.uint32(col[k])
        logit[k], mean[k], there[k], one_over[k] = logits[j], share[j] * size, theta[j], inverse[j]
        lost[k] = dropout[j]
    more, up = _seen(x, there, one_over, mean, lost, extra, slope)
    log_scale = F4(math.log(np.float64(size)) - math.log(np.float64(total)) - np.float64(largest))
    at_counts, higher = with_counts(x, logit, mean, there, log_scale)
    more += at_counts
    rise = up + higher - down
    to_logits(share, pull, rise)
    for k in range(n):
        j = np.uint32(col[k])
        share[j] += mean[k] + extra[k]
        by_dropout[j] -= lost[k]
        by_theta[j] += weight * (there[k] + slope[k])
    return value + more, rise


def _zero_inflated(addresses):
    """One thread's cells."""
    n, g, nnz, n_threads = array(addresses[0], (4,), I8)
    crow, col = array(addresses[1], (n + 1,), I8), array(addresses[2], (nnz,), I4)
    x, raw = array(addresses[3], (nnz,), F4), array(addresses[4], (n, 2 * g), F4)
    size, weight = array(addresses[5], (n,), F4), array(addresses[6], (n,), F4)
    theta, inverse = array(addresses[7], (g,), F4), array(addresses[8], (g,), F4)
    value, by_log_size = array(addresses[9], (n,), F4), array(addresses[10], (n,), F4)
    gradient = array(addresses[11], (n, 2 * g), F4)
    by_theta = array(addresses[12], (n_threads, g), F4)
    this, count = thread_number(), thread_count()
    first, end = n * this // count, n * (this + 1) // count
    longest = 0
    for i in range(first, end):
        longest = max(longest, crow[i + 1] - crow[i])
    pull, work = np.empty(g, F4), np.empty((7, longest), F4)
    for i in range(first, end):
        here = slice(crow[i], crow[i + 1])
        value[i], by_log_size[i] = _cell(
            raw[i], size[i], weight[i], theta, inverse, col[here], x[here], pull, work, gradient[i],
            by_theta[this],
        )  # fmt: skip


_zero_inflated = compiled(_zero_inflated)


def score_zero_inflated(
    entries: NonZeros,
    mask: Tensor | None,
    inputs: tuple[Tensor, ...],
    wanted: tuple[bool, ...],
    weight: Tensor | None,
) -> Scored:
    """The same as `chreode.likelihoods.closed.score_zero_inflated`, in float32 on the CPU."""
    raw, size, log_theta = inputs
    g = len(log_theta)
    if mask is not None:
        raw = torch.cat([masked(raw[:, :g], mask), raw[:, g:]], 1)
    raw, theta = raw.contiguous(), log_theta.exp().to(raw.dtype)
    size = size.to(raw.dtype).clamp_min(1e-20)
    weight = torch.ones_like(size) if weight is None else weight.to(raw.dtype).contiguous()
    value, by_log_size, gradient = torch.empty_like(size), torch.empty_like(size), torch.empty_like(raw)
    by_theta = raw.new_zeros(threads(), g)
    shape = torch.tensor([len(raw), g, len(entries.value), len(by_theta)])
    run(
        _zero_inflated.address,
        [
            shape,
            *(entries.crow, entries.narrow, entries.value),
            *(raw, size, weight),
            *(theta, 1 / theta),
            *(value, by_log_size, gradient, by_theta),
        ],
    )
    gradients = gradient, by_log_size.div_(size), by_theta.sum(0)
    return value, [each if want else None for each, want in zip(gradients, wanted, strict=True)]
