"""Negative binomial and Bernoulli in one pass over each cell, compiled for the processor at hand.

What `chreode.likelihoods.closed` and `chreode.likelihoods.binary` do in many passes of PyTorch's over a
minibatch is done here while the row of one cell is in the cache. The formulas are the same. Exponential and
logarithm are written without branches, so that a compiler turns loops over features into vector instructions.
"""

from __future__ import annotations

import math
from inspect import unwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import carray, cfunc, njit, types
from numpy.polynomial import Chebyshev, Polynomial

from chreode.likelihoods.sparse import masked
from chreode.openmp import ADDRESSES, run, thread_count, thread_number, threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from chreode.axes import Tensor
    from chreode.likelihoods.closed import Scored
    from chreode.likelihoods.sparse import NonZeros

__all__ = ["score_bernoulli", "score_negative_binomial", "worth_it"]

# Types are numba's to know.
_F4: Any = np.float32
_I4: Any = np.int32
_I8: Any = np.int64
_U1: Any = np.uint8
_array: Any = carray

# Division by zero gives an infinity, as in PyTorch.
_common: dict[str, Any] = {"error_model": "numpy"}


def _compiler(*freedoms: str, **options: Any) -> Callable[[Callable], Any]:
    """A decorator; ``freedoms`` are what it may do to a formula beyond IEEE's rules."""
    # Tests wrap functions to check their types.
    return lambda function: njit(fastmath=set(freedoms), **options, **_common)(unwrap(function))


# In a formula nothing may change the order of terms, which is chosen with care; a sum over a row may.
_formula = _compiler("arcp", "contract", "nsz", forceinline=True)
_loop = _compiler("arcp", "contract", "nsz", "reassoc")


def _series(function: Callable[[np.ndarray], np.ndarray], degree: int, ends: tuple[float, float]) -> tuple:
    """Coefficients, the constant first, of a polynomial close to a function everywhere between the ends."""
    found = Chebyshev.interpolate(function, degree, domain=ends).convert(kind=Polynomial)
    return tuple(_F4(c) for c in found.coef)


_LN2 = math.log(2)
# With these, exponential and logarithm are as exact as float32 holds them.
_EXP = _series(lambda f: (np.expm1(f) - f) / f**2, 5, (-_LN2 / 2, _LN2 / 2))
_LOG = _series(lambda f: (np.log1p(f) - f + f**2 / 2) / f**3, 8, (math.sqrt(0.5) - 1, math.sqrt(2) - 1))
# The logarithm of two in two pieces, the first so short that its multiples are exact.
_HIGH = 0.693359375
_LOW = _LN2 - _HIGH
# Added to a number, it leaves the nearest integer in the lowest bits; subtracted again, the integer itself.
_ROUND = 1.5 * 2.0**23
# Below, the exponential leaves float32.
_LOWEST = -87.0
_SQRT_HALF = int(_F4(math.sqrt(0.5)).view(_I4))
_STIRLING = 4 - 0.5 * math.log(2 * math.pi)


@_formula
def _exp(x):
    """Exponential of a number up to zero."""
    y = max(x, _F4(_LOWEST))
    shifted = _F4(y * _F4(1 / _LN2) + _F4(_ROUND))
    power = shifted - _F4(_ROUND)
    f = y - power * _F4(_HIGH)
    f = f - power * _F4(_LOW)
    p = ((((_EXP[5] * f + _EXP[4]) * f + _EXP[3]) * f + _EXP[2]) * f + _EXP[1]) * f + _EXP[0]
    two_to_power = _I4((shifted.view(_I4) + 127) << 23).view(_F4)
    exponential = (p * f * f + f + _F4(1)) * two_to_power
    # A number that is none stays so.
    return exponential if x > _F4(_LOWEST) or x != x else _F4(0)


@_formula
def _split(x):
    """The power k of two, and 2^-k, which brings a positive number to between sqrt(1/2) and sqrt(2)."""
    power = _I4((_F4(x).view(_I4) - _SQRT_HALF) >> 23)
    return _F4(power), _I4((127 - power) << 23).view(_F4)


@_formula
def _bend(f):
    """``log(1+f) - f`` for 1+f between sqrt(1/2) and sqrt(2)."""
    p = (((_LOG[8] * f + _LOG[7]) * f + _LOG[6]) * f + _LOG[5]) * f + _LOG[4]
    p = (((p * f + _LOG[3]) * f + _LOG[2]) * f + _LOG[1]) * f + _LOG[0]
    square = f * f
    return p * f * square - _F4(0.5) * square


@_formula
def _log(x):
    power, back = _split(x)
    f = x * back - _F4(1)
    return power * _F4(_LN2) + (f + _bend(f))


@_formula
def _log1p(x):
    """Logarithm of ``1+x``, exact for small x too, as f is then x itself."""
    power, back = _split(x + _F4(1))
    f = x * back + (back - _F4(1))
    return power * _F4(_LN2) + (f + _bend(f))


@_formula
def _dense(r):
    """``log(1+r)``, ``r/(1+r)`` and the second less the first, for r from zero."""
    power, back = _split(r + _F4(1))
    f = r * back + (back - _F4(1))
    bend = _bend(f)
    log = power * _F4(_LN2) + (f + bend)
    part = r / (_F4(1) + r)
    # For small r, where f is r, the difference without its cancelling terms.
    less = -r * part - bend if power == _F4(0) else part - log
    return log, part, less


@_formula
def _tail(i):
    """What Stirling's series adds to the log gamma function of ``1/i``; see `chreode.likelihoods.closed`."""
    s = i * i
    return (((s * _F4(-1 / 1680) + _F4(1 / 1260)) * s - _F4(1 / 360)) * s + _F4(1 / 12)) * i


@_formula
def _tail_slope(i):
    """What it adds to the digamma function."""
    s = i * i
    return ((s * _F4(-1 / 252) + _F4(1 / 120)) * s - _F4(1 / 12)) * s - _F4(0.5) * i


@_formula
def _rising(x, theta):
    """`chreode.likelihoods.closed.rising` of one count: the value and the slope."""
    t, z, v = theta + _F4(3), x + theta, x + _F4(4)
    w = x + t
    log = _log1p(x / t)
    above = ((x + _F4(6)) * x + _F4(11)) * x + _F4(6)
    below = ((z + _F4(3)) * z + _F4(2)) * z
    # Divided first: the product of three thetas and three counts leaves float32.
    product = above / below * theta * (theta + _F4(1)) * (theta + _F4(2))
    i, j = _F4(1) / w, _F4(1) / t
    value = (w - _F4(0.5)) * log - (x + _F4(3.5)) * _log(v)
    value = value + (_tail(i) - _tail(j) - _tail(_F4(1) / v) + _F4(_STIRLING) + _log(product))
    slope = (_tail_slope(i) - _tail_slope(j) + log) * theta
    slope += ((t - _F4(1)) * theta * _F4(3) + _F4(2)) / ((theta + _F4(1)) * (theta + _F4(2)))
    slope -= ((z + _F4(2)) * z * _F4(3) + _F4(2)) * theta / below
    return value, slope


@_loop
def _largest(row):
    """The largest entry, compared as integers, whose order is that of the floats: so it is vectorised."""
    bits = row.view(_I4)
    largest = _I4(-(2**31))
    for j in range(len(bits)):
        b = _I4(bits[j] ^ ((bits[j] >> 31) & 0x7FFFFFFF))
        largest = b if b > largest else largest
    return _I4(_I4(largest) ^ ((_I4(largest) >> 31) & 0x7FFFFFFF)).view(_F4)


@_loop
def _exponentials(row, largest, out):
    total = _F4(0)
    for j in range(len(row)):
        out[j] = _exp(row[j] - largest)
        total += out[j]
    return total


@_loop
def _without_counts(share, scale, size, weight, theta, inverse, pull, by_theta):
    """The dense part of one cell: ``sum theta log(1+r)`` and ``sum theta r/(1+r)``, kept in ``pull``."""
    value, total = _F4(0), _F4(0)
    for j in range(len(share)):
        share[j] *= scale
        log, part, less = _dense(share[j] * size * inverse[j])
        value += theta[j] * log
        pull[j] = theta[j] * part
        total += pull[j]
        by_theta[j] += weight * theta[j] * less
    return value, total


@_loop
def _with_counts(x, logit, mean, theta, log_scale):
    """Value and gradient to log mu of one cell's non-zeros, and each one's to log mu and log theta.

    The last two take the place of ``mean`` and ``theta``.
    """
    value, total = _F4(0), _F4(0)
    for k in range(len(x)):
        t, whole = theta[k], mean[k] + theta[k]
        rising, slope = _rising(x[k], t)
        # As the rising factorial is less x log(theta+3), neither logarithm is large.
        value += rising + x[k] * (_log((t + _F4(3)) / whole) + (logit[k] + log_scale))
        mean[k] = t * x[k] / whole
        total += mean[k]
        theta[k] = slope - mean[k]
    return value, total


@_loop
def _to_logits(share, pull, total):
    for j in range(len(share)):
        share[j] = -pull[j] - share[j] * total


@_loop
def _cell(logits, size, weight, theta, inverse, col, x, pull, work, gradient, by_theta, tied):
    """Value and gradient to the log size of one cell; its gradients to the logits and to log theta.

    Logits whose softmax ties them (1, not 0) share the latter.
    """
    largest = _largest(logits)
    total = _exponentials(logits, largest, gradient)
    value, down = _without_counts(gradient, _F4(1) / total, size, weight, theta, inverse, pull, by_theta)
    n = len(col)
    logit, mean, there = work[0, :n], work[1, :n], work[2, :n]
    for k in range(n):
        j = np.uint32(col[k])
        logit[k], mean[k], there[k] = logits[j], gradient[j] * size, theta[j]
    exact = math.log(np.float64(size)) - math.log(np.float64(total)) - np.float64(largest)
    log_scale = _F4(exact)
    at_counts, up = _with_counts(x, logit, mean, there, log_scale)
    # What the rounding lost counts once a molecule, and deep cells have many.
    value -= _F4(x.sum() * (exact - log_scale))
    _to_logits(gradient, pull, tied * (up - down))
    for k in range(n):
        j = np.uint32(col[k])
        gradient[j] += mean[k]
        by_theta[j] += weight * there[k]
    return at_counts - value, up - down


def _negative_binomial(addresses):
    """One thread's cells."""
    n, g, nnz, n_threads, tied = _array(addresses[0], (5,), _I8)
    crow, col = _array(addresses[1], (n + 1,), _I8), _array(addresses[2], (nnz,), _I4)
    x = _array(addresses[3], (nnz,), _F4)
    logits = _array(addresses[4], (n, g), _F4)
    size, weight = _array(addresses[5], (n,), _F4), _array(addresses[6], (n,), _F4)
    theta, inverse = _array(addresses[7], (g,), _F4), _array(addresses[8], (g,), _F4)
    value, by_log_size = _array(addresses[9], (n,), _F4), _array(addresses[10], (n,), _F4)
    gradient = _array(addresses[11], (n, g), _F4)
    by_theta = _array(addresses[12], (n_threads, g), _F4)
    this, count = thread_number(), thread_count()
    first, end = n * this // count, n * (this + 1) // count
    longest = 0
    for i in range(first, end):
        longest = max(longest, crow[i + 1] - crow[i])
    pull, work = np.empty(g, _F4), np.empty((3, longest), _F4)
    for i in range(first, end):
        here = slice(crow[i], crow[i + 1])
        value[i], by_log_size[i] = _cell(
            logits[i], size[i], weight[i], theta, inverse, col[here], x[here], pull, work, gradient[i],
            by_theta[this], _F4(tied),
        )  # fmt: skip


@_formula
def _softplus(x):
    """``log(1+exp(x))`` and its slope."""
    small = _exp(-abs(x))
    return max(x, _F4(0)) + _log1p(small), (_F4(1) if x > 0 else small) / (_F4(1) + small)


@_loop
def _without_ones(raw, shift, gradient):
    """The dense part of one cell of zeros and ones: ``sum softplus``, and its gradient's negative."""
    total = _F4(0)
    for j in range(len(raw)):
        value, slope = _softplus(raw[j] + shift)
        total += value
        gradient[j] = -slope
    return total


@_loop
def _without_ones_of(keep, raw, shift, gradient):
    """The same of the features that are kept (1, not 0)."""
    total = _F4(0)
    for j in range(len(raw)):
        value, slope = _softplus(raw[j] + shift)
        total += _F4(keep[j]) * value
        gradient[j] = -_F4(keep[j]) * slope
    return total


def _bernoulli(addresses):
    """One thread's cells."""
    n, g, nnz, n_masked = _array(addresses[0], (4,), _I8)
    crow, col = _array(addresses[1], (n + 1,), _I8), _array(addresses[2], (nnz,), _I4)
    x = _array(addresses[3], (nnz,), _F4)
    raw, shift = _array(addresses[4], (n, g), _F4), _array(addresses[5], (n,), _F4)
    value, gradient = _array(addresses[6], (n,), _F4), _array(addresses[7], (n, g), _F4)
    mask = _array(addresses[8], (n_masked, g), _U1)
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


def _compiled(function: Callable) -> Any:
    try:
        return cfunc(types.void(ADDRESSES), cache=True, **_common)(unwrap(function))
    except RuntimeError:  # no folder to keep the result in
        return cfunc(types.void(ADDRESSES), **_common)(unwrap(function))


_negative_binomial = _compiled(_negative_binomial)
_bernoulli = _compiled(_bernoulli)


def worth_it() -> bool:
    """Whether this is faster than PyTorch's passes: by about four times, on as many threads."""
    return 4 * threads() >= torch.get_num_threads()


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
    size = size.to(logits.dtype).clamp_min(1e-20)
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
