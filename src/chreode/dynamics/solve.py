"""Where cells go: numerical solution of ``dz/dt = f(z, t)``, each cell between two times of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch

from chreode.axes import Float, Tensor
from chreode.dynamics.linearised import Linearised

__all__ = ["Operator", "Velocity", "dormand_prince", "exponential", "rk4"]

Velocity = Callable[[Tensor, Tensor], Tensor]
"""``velocity(z, t)``: of ``n x d`` states at ``n`` times, ``n x d``."""

Operator = Callable[[Tensor, Tensor], Linearised]
"""``operator(z, t)``: the field near ``n x d`` states at ``n`` times."""

_LEAST, _MOST = 0.2, 10.0  # by which an adaptive step may change


def rk4(
    velocity: Velocity,
    z: Float[Tensor, "n d"],
    start: Float[Tensor, " n"],
    end: Float[Tensor, " n"],
) -> Float[Tensor, "n d"]:
    """Move cells by one step of the classical Runge-Kutta method of order 4.

    Parameters
    ----------
    velocity
        The field.
    z
        States at ``start``.
    start, end
        Times of each cell; an end before the start goes back in time.

    Returns
    -------
    States at ``end``.

    Examples
    --------
    >>> import torch
    >>> z = rk4(lambda z, t: -z, torch.ones(1, 1), torch.zeros(1), torch.full((1,), 0.1))
    >>> round(float(z), 5)
    0.90484
    """
    h = end - start
    wide = h[:, None]
    k1 = velocity(z, start)
    k2 = velocity(z + wide / 2 * k1, start + h / 2)
    k3 = velocity(z + wide / 2 * k2, start + h / 2)
    k4 = velocity(z + wide * k3, start + h)
    return z + wide / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


# Dormand and Prince (1980): each row, what earlier slopes add to the state at which the next is taken.
_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# The fifth order's weights less the fourth's.
_ERROR = (
    35 / 384 - 5179 / 57600,
    0.0,
    500 / 1113 - 7571 / 16695,
    125 / 192 - 393 / 640,
    -2187 / 6784 + 92097 / 339200,
    11 / 84 - 187 / 2100,
    -1 / 40,
)


def dormand_prince(
    velocity: Velocity,
    z: Float[Tensor, "n d"],
    start: Float[Tensor, " n"],
    end: Float[Tensor, " n"],
    *,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    most: int = 10_000,
) -> Float[Tensor, "n d"]:
    r"""Move cells by the method of Dormand and Prince, of order 5, in steps as long as its error allows.

    Between the fifth and the embedded fourth order every cell's root mean square difference is at most
    :math:`\mathrm{atol} + \mathrm{rtol} \max(|z|, |z'|)` in each step. All cells take the same share of
    their way in a step.

    Parameters
    ----------
    velocity, z, start, end
        As of `rk4`.
    rtol, atol
        Relative and absolute tolerance of a step.
    most
        Steps at most, those that are taken back included.

    Raises
    ------
    ArithmeticError
        When ``most`` steps do not suffice: the field is stiff, or grows without bound.

    References
    ----------
    Dormand and Prince (1980), doi:10.1016/0771-050X(80)90013-3.
    """
    span = end - start
    if not bool((span != 0).any()):
        return z

    def slope(state: Tensor, done: float) -> Tensor:
        return velocity(state, start + done * span) * span[:, None]

    first = slope(z, 0.0)
    done, step = 0.0, _first_step(slope, z, first, rtol=rtol, atol=atol)
    for _ in range(most):
        step = min(step, 1.0 - done)
        slopes = [first]
        new = z
        for node, stage in zip(_NODES, _STAGES, strict=True):
            new = z + step * _sum(stage, slopes)
            slopes.append(slope(new, done + node * step))
        error = _norm(step * _sum(_ERROR, slopes), z, new, rtol=rtol, atol=atol)
        if error <= 1:
            done, z, first = done + step, new, slopes[-1]
            if done >= 1.0 - 1e-12:
                return z
        longer = 0.9 * max(error, 1e-10) ** -0.2  # nothing of one that is infinite
        step *= min(_MOST, max(_LEAST, longer))
    msg = (
        f"Expected to solve the field in {most:,} steps; found {done:.2%} of the way done. It is stiff or "
        "grows without bound: allow a greater error, or take steps of equal length."
    )
    raise ArithmeticError(msg)


def _sum(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    parts = [w * k for w, k in zip(weights, slopes, strict=True) if w]
    return torch.stack(parts).sum(0)


@torch.no_grad()
def _norm(error: Tensor, z: Tensor, new: Tensor, *, rtol: float, atol: float) -> float:
    """The largest error of a cell, in units of what is tolerated."""
    scaled = error / (atol + rtol * z.abs().maximum(new.abs()))
    worst = float(scaled.square().mean(1).max().sqrt())
    return worst if worst == worst else float("inf")


@torch.no_grad()
def _first_step(slope: Callable, z: Tensor, first: Tensor, *, rtol: float, atol: float) -> float:
    """A first step whose error is likely to be tolerated (Hairer, Norsett and Wanner, II.4)."""
    size, speed = (_norm(x, z, z, rtol=rtol, atol=atol) for x in (z, first))
    guess = 1e-6 if min(size, speed) < 1e-5 else 0.01 * size / speed
    guess = min(guess, 1.0)
    bend = _norm(slope(z + guess * first, guess) - first, z, z, rtol=rtol, atol=atol) / guess
    most = max(speed, bend)
    return min(1.0, 100 * guess, max(1e-6, guess * 1e-3) if most <= 1e-15 else (0.01 / most) ** 0.2)


def exponential(
    operator: Operator,
    z: Float[Tensor, "n d"],
    start: Float[Tensor, " n"],
    end: Float[Tensor, " n"],
    *,
    trapezoid: bool = False,
) -> Float[Tensor, "n d"]:
    r"""Move cells by one step, the exponential of the operator that holds where it begins.

    .. math:: z(t+h) = e^{Ah} z + h\,\varphi(Ah)\,b, \qquad \varphi(M) = \int_0^1 e^{sM}\,ds

    which is exact where ``A`` and ``b`` do not change, and of order 1 where they do; with ``trapezoid`` they
    are the mean of those at both ends, the far one found by a step with the near ones, and it is
    of order 2. The exponential's action is that of `chreode.dynamics.Linearised`: no matrix is made.

    Parameters
    ----------
    operator
        Of the field.
    z, start, end
        As of `rk4`.
    trapezoid
        Whether the operator is the mean of those at both ends; else that at the start, as Cell-MNN was
        published.

    References
    ----------
    Al-Mohy and Higham (2011), doi:10.1137/100788860, who sum the same series.

    Examples
    --------
    >>> import torch
    >>> from chreode.dynamics import Linearised
    >>> turn = Linearised(torch.tensor([[[0.0], [-1.0]], [[1.0], [0.0]]]), torch.eye(2), torch.zeros(2, 1))
    >>> z, begin, quarter = torch.tensor([[1.0, 0.0]]), torch.zeros(1), torch.full((1,), torch.pi / 2)
    >>> exponential(lambda z, t: turn, z, begin, quarter).abs().round(decimals=4)
    tensor([[0., 1.]])
    """
    h = end - start
    here = operator(z, start)
    if trapezoid:
        here = here.between(operator(here.move(z, h), start + h))
    return here.move(z, h)
