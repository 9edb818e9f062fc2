"""Exponentials, logarithms and gamma functions for compiled loops.

They are written without branches, so that a compiler turns loops over features into vector instructions, and
are as exact as float32 holds them.
"""

from __future__ import annotations

import math
from inspect import unwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import carray, cfunc, njit, types
from numpy.polynomial import Chebyshev, Polynomial

from chreode.openmp import ADDRESSES

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "F4",
    "I4",
    "I8",
    "U1",
    "array",
    "compiled",
    "dense",
    "exp",
    "exponentials",
    "formula",
    "largest_of",
    "log_of",
    "loop",
    "sigmoids",
    "softplus",
    "to_logits",
    "with_counts",
    "with_poisson_counts",
]

# Types are numba's to know.
F4: Any = np.float32
I4: Any = np.int32
I8: Any = np.int64
U1: Any = np.uint8
array: Any = carray

# Division by zero gives an infinity, as in PyTorch.
common: dict[str, Any] = {"error_model": "numpy"}


def _compiler(*freedoms: str, **options: Any) -> Callable[[Callable], Any]:
    """A decorator; ``freedoms`` are what it may do to a formula beyond IEEE's rules."""
    # Tests wrap functions to check their types.
    return lambda function: njit(fastmath=set(freedoms), **options, **common)(unwrap(function))


# In a formula nothing may change the order of terms, which is chosen with care; a sum over a row may.
formula = _compiler("arcp", "contract", "nsz", forceinline=True)
loop = _compiler("arcp", "contract", "nsz", "reassoc", forceinline=True)


def _series(function: Callable[[np.ndarray], np.ndarray], degree: int, ends: tuple[float, float]) -> tuple:
    """Coefficients, the constant first, of a polynomial close to a function everywhere between the ends."""
    found = Chebyshev.interpolate(function, degree, domain=ends).convert(kind=Polynomial)
    return tuple(F4(c) for c in found.coef)


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
# Below, a mean is rounded more than its logarithm.
_LEAST_MEAN = 1e-30
_SQRT_HALF = int(F4(math.sqrt(0.5)).view(I4))
_STIRLING = 4 - 0.5 * math.log(2 * math.pi)


@formula
def exp(x):
    """Exponential of a number up to zero."""
    y = max(x, F4(_LOWEST))
    shifted = F4(y * F4(1 / _LN2) + F4(_ROUND))
    power = shifted - F4(_ROUND)
    f = y - power * F4(_HIGH)
    f = f - power * F4(_LOW)
    p = ((((_EXP[5] * f + _EXP[4]) * f + _EXP[3]) * f + _EXP[2]) * f + _EXP[1]) * f + _EXP[0]
    two_to_power = I4((shifted.view(I4) + 127) << 23).view(F4)
    exponential = (p * f * f + f + F4(1)) * two_to_power
    # A number that is none stays so.
    return exponential if x > F4(_LOWEST) or x != x else F4(0)


@formula
def _split(x):
    """The power k of two, and 2^-k, which brings a positive number to between sqrt(1/2) and sqrt(2)."""
    power = I4((F4(x).view(I4) - _SQRT_HALF) >> 23)
    return F4(power), I4((127 - power) << 23).view(F4)


@formula
def _bend(f):
    """``log(1+f) - f`` for 1+f between sqrt(1/2) and sqrt(2)."""
    p = (((_LOG[8] * f + _LOG[7]) * f + _LOG[6]) * f + _LOG[5]) * f + _LOG[4]
    p = (((p * f + _LOG[3]) * f + _LOG[2]) * f + _LOG[1]) * f + _LOG[0]
    square = f * f
    return p * f * square - F4(0.5) * square


@formula
def log_of(x):
    """Logarithm of a positive number."""
    power, back = _split(x)
    f = x * back - F4(1)
    return power * F4(_LN2) + (f + _bend(f))


@formula
def log1p(x):
    """Logarithm of ``1+x``, exact for small x too, as f is then x itself."""
    power, back = _split(x + F4(1))
    f = x * back + (back - F4(1))
    return power * F4(_LN2) + (f + _bend(f))


@formula
def dense(r):
    """``log(1+r)``, ``r/(1+r)`` and the second less the first, for r from zero."""
    power, back = _split(r + F4(1))
    f = r * back + (back - F4(1))
    bend = _bend(f)
    log = power * F4(_LN2) + (f + bend)
    part = r / (F4(1) + r)
    # For small r, where f is r, the difference without its cancelling terms.
    less = -r * part - bend if power == F4(0) else part - log
    return log, part, less


@formula
def _tail(i):
    """What Stirling's series adds to the log gamma function of ``1/i``; see `chreode.likelihoods.closed`."""
    s = i * i
    return (((s * F4(-1 / 1680) + F4(1 / 1260)) * s - F4(1 / 360)) * s + F4(1 / 12)) * i


@formula
def _tail_slope(i):
    """What it adds to the digamma function."""
    s = i * i
    return ((s * F4(-1 / 252) + F4(1 / 120)) * s - F4(1 / 12)) * s - F4(0.5) * i


@formula
def rising(x, theta):
    """As `chreode.likelihoods.closed.rising` of one count, value and slope, but less ``x log(w/v)``.

    What is left of the value is small beside the counts; where it is not, rounding costs deep cells nats.
    """
    t, z, v = theta + F4(3), x + theta, x + F4(4)
    w = x + t
    log = log1p(x / t)
    above = ((x + F4(6)) * x + F4(11)) * x + F4(6)
    below = ((z + F4(3)) * z + F4(2)) * z
    # Divided first: the product of three thetas and three counts leaves float32.
    product = above / below * theta * (theta + F4(1)) * (theta + F4(2))
    i, j = F4(1) / w, F4(1) / t
    value = (t - F4(0.5)) * log - F4(3.5) * log_of(v)
    value = value + (_tail(i) - _tail(j) - _tail(F4(1) / v) + F4(_STIRLING) + log_of(product))
    slope = (_tail_slope(i) - _tail_slope(j) + log) * theta
    slope += ((t - F4(1)) * theta * F4(3) + F4(2)) / ((theta + F4(1)) * (theta + F4(2)))
    slope -= ((z + F4(2)) * z * F4(3) + F4(2)) * theta / below
    return value, slope


@loop
def largest_of(row):
    """The largest entry, compared as integers, whose order is that of the floats: so it is vectorised."""
    bits = row.view(I4)
    largest = I4(-(2**31))
    for j in range(len(bits)):
        b = I4(bits[j] ^ ((bits[j] >> 31) & 0x7FFFFFFF))
        largest = b if b > largest else largest
    return I4(I4(largest) ^ ((I4(largest) >> 31) & 0x7FFFFFFF)).view(F4)


@loop
def exponentials(row, largest, out):
    """Exponentials of a row less its largest entry, and their sum."""
    total = F4(0)
    for j in range(len(row)):
        out[j] = exp(row[j] - largest)
        total += out[j]
    return total


@formula
def sigmoids(x):
    """``1/(1+exp(-x))`` and ``1/(1+exp(x))``, each as exact however small it is."""
    small = exp(-abs(x))
    likely = F4(1) / (F4(1) + small)
    rare = small * likely
    return (likely, rare) if x > 0 else (rare, likely)


@formula
def softplus(x):
    """``log(1+exp(x))`` and its slope."""
    small = exp(-abs(x))
    return max(x, F4(0)) + log1p(small), (F4(1) if x > 0 else small) / (F4(1) + small)


@loop
def with_counts(x, logit, mean, theta, log_scale):
    """Value and gradient to log mu of one cell's non-zeros, and each one's to log mu and log theta.

    The last two take the place of ``mean`` and ``theta``.
    """
    value, total = F4(0), F4(0)
    for k in range(len(x)):
        t, whole = theta[k], mean[k] + theta[k]
        factorial, slope = rising(x[k], t)
        # What each molecule adds is the logarithm of one number, near 1 where counts are as expected. Only
        # a mean that leaves float32 enters by its logarithm.
        there = mean[k] > F4(_LEAST_MEAN)
        log = log_of((x[k] + t + F4(3)) / (x[k] + F4(4)) * (mean[k] if there else F4(1)) / whole)
        value += factorial + x[k] * (log if there else log + (logit[k] + log_scale))
        mean[k] = t * x[k] / whole
        total += mean[k]
        theta[k] = slope - mean[k]
    return value, total


@loop
def with_poisson_counts(x, logit, log_scale):
    """Value of one cell's non-zeros under Poisson, ``sum x log mu - log x!``, and their sum.

    With v = x+4 Stirling's series holds for ``log x! = log Gamma(v) - log (x+1)(x+2)(x+3)``.
    """
    value, total = F4(0), F4(0)
    for k in range(len(x)):
        v = x[k] + F4(4)
        log, ratio = log_of(v), F4(1) / v
        lower = ((x[k] + F4(6)) * x[k] + F4(11)) * x[k] + F4(6)
        # As log v is taken off log mu, neither term is large.
        value += x[k] * ((logit[k] + log_scale) - log) + (x[k] + F4(_STIRLING))
        value += log_of(lower) - F4(3.5) * log - _tail(ratio)
        total += x[k]
    return value, total


@loop
def to_logits(share, pull, total):
    """Gradient to the logits of one cell, in the place of the shares, from that to log mu less its pull."""
    for j in range(len(share)):
        share[j] = -pull[j] - share[j] * total


def compiled(function: Callable) -> Any:
    """A function of `chreode.openmp.ADDRESSES`, compiled once on a machine and kept there."""
    # What is kept is made anew when the function's own file changes, but not when this one does.
    path = function.__code__.co_filename
    kept = Path(path).stat().st_mtime >= Path(__file__).stat().st_mtime
    signature = types.void(ADDRESSES)
    try:
        return cfunc(signature, cache=kept, **common)(unwrap(function))
    except RuntimeError:  # no folder to keep the result in
        return cfunc(signature, **common)(unwrap(function))
