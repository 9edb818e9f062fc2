"""Solvers of fields: they converge at their order, go back where they came from, agree with references."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
import torch

from chreode.dynamics.fields import LocallyLinear, Perceptron
from chreode.dynamics.linearised import Linearised
from chreode.dynamics.solve import dormand_prince, exponential, rk4

D = 3
TURN = torch.tensor([[0.1, -2.0, 0.0], [2.0, 0.1, 0.3], [0.0, -0.3, -0.5]], dtype=torch.float64)


def pendulum(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A driven oscillator, neither linear nor autonomous."""
    x, v, w = z.T
    return torch.stack([v, -torch.sin(x) + 0.3 * torch.cos(2 * t), x - 0.5 * w], 1)


SEEN = torch.tensor([[0.6, 0.8, 0.0], [-0.8, 0.6, 0.0]], dtype=torch.float64)


def operator(z: torch.Tensor, t: torch.Tensor, sight: torch.Tensor | None = None) -> Linearised:
    """A locally linear field that changes with state and time."""
    a = TURN[..., None] * (1 + 0.3 * torch.sin(t) + 0.2 * torch.tanh(z[:, 0]))
    b = torch.stack([torch.cos(t), z[:, 0] * 0 + 0.5, -torch.sin(z[:, 1])])
    sight = torch.eye(D, dtype=z.dtype) if sight is None else sight
    return Linearised(a[:, : len(sight)], sight, b)


def linear(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return operator(z, t).velocity(z)


def states(n: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cells that start and end at times of their own."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, D, generator=generator, dtype=torch.float64)
    start = torch.rand(n, generator=generator, dtype=torch.float64)
    return z, start, start + 0.5 + torch.rand(n, generator=generator, dtype=torch.float64)


def precise(field, z, start, end):
    return dormand_prince(field, z, start, end, rtol=1e-12, atol=1e-13)


def walked(step, z, start, end, *, steps):
    """The way of each cell in steps of equal length."""
    h = (end - start) / steps
    for number in range(steps):
        z = step(z, start + number * h, start + (number + 1) * h)
    return z


WAYS = {
    "rk4": (partial(rk4, linear), 4),
    "exponential": (partial(exponential, operator), 1),
    "trapezoid": (partial(exponential, operator, trapezoid=True), 2),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_error_falls_as_the_order_says(way):
    step, order = WAYS[way]
    given = states()
    truth = precise(linear, *given)
    errors = [float((walked(step, *given, steps=steps) - truth).norm()) for steps in (16, 32, 64)]
    for coarse, fine in itertools.pairwise(errors):
        assert np.log2(coarse / fine) == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize("way", WAYS)
def test_back_in_time_leads_to_where_a_cell_came_from(way):
    step, order = WAYS[way]
    z, start, end = states()
    steps = {4: 100, 2: 300, 1: 3000}[order]
    there = walked(step, z, start, end, steps=steps)
    assert (there - z).norm() > 1
    torch.testing.assert_close(walked(step, there, end, start, steps=steps), z, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_adaptive_steps_agree_with_torchdiffeq_to_the_tolerance(tolerance):
    torchdiffeq = pytest.importorskip("torchdiffeq")
    z, start, end = states()
    ours = dormand_prince(pendulum, z, start, end, rtol=tolerance, atol=tolerance)
    for i in range(len(z)):
        one = start[i : i + 1]
        theirs = torchdiffeq.odeint(
            lambda t, state, one=one: pendulum(state, t.expand_as(one)),
            z[i : i + 1],
            torch.stack([start[i], end[i]]),
            rtol=1e-12,
            atol=1e-13,
            method="dopri5",
        )[-1]
        assert float((ours[i] - theirs).abs().max()) < 20 * tolerance


def test_adaptive_steps_agree_with_scipy():
    from scipy.integrate import solve_ivp

    z, start, end = states()
    ours = precise(pendulum, z, start, end)
    for i in range(len(z)):
        found = solve_ivp(
            lambda t, y: pendulum(torch.from_numpy(y)[None], torch.tensor([t]))[0].numpy(),
            (float(start[i]), float(end[i])),
            z[i].numpy(),
            rtol=1e-11,
            atol=1e-12,
        )
        np.testing.assert_allclose(ours[i].numpy(), found.y[:, -1], atol=1e-8)


@pytest.mark.parametrize("seen", [torch.eye(D, dtype=torch.float64), SEEN])
@pytest.mark.parametrize("far", [1.0, 20.0])
def test_a_constant_operator_is_solved_exactly_in_one_step(seen, far):
    z, start, end = states()
    end = start + far * (end - start)
    still = operator(z * 0, start * 0, seen)
    got = exponential(lambda z, t: still, z, start, end)
    bordered = torch.zeros(len(z), D + 1, D + 1, dtype=torch.float64)
    bordered[:, :D, :D], bordered[:, :D, D] = still.operator(), still.offset.T
    moved = torch.linalg.matrix_exp(bordered * (end - start)[:, None, None])
    expected = torch.einsum("nij,nj->ni", moved[:, :D, :D], z) + moved[:, :D, D]
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_what_is_pulled_is_solved_to_second_order():
    """Halves of the pull before and after, along a plane or all of the state."""
    z, start, _ = states()
    plane = torch.diag(torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))
    for along in (None, plane):
        near = operator(z, start)._replace(pull=torch.linspace(0.1, 1, len(z)).double(), plane=along)
        errors = []
        for h in (0.1, 0.05):
            exact = precise(lambda z, t, near=near: near.velocity(z), z, start * 0, start * 0 + h)
            errors.append(float((near.move(z, torch.full_like(start, h)) - exact).norm()))
        assert np.log2(errors[0] / errors[1]) == pytest.approx(3, abs=0.3)  # of a step; one order less in all


def test_a_cell_that_has_no_way_to_go_stays():
    z, start, _ = states()
    for got in (
        rk4(linear, z, start, start),
        dormand_prince(linear, z, start, start),
        exponential(operator, z, start, start),
    ):
        torch.testing.assert_close(got, z)


def test_gradients_reach_the_field_through_every_solver():
    torch.manual_seed(0)
    field, z = LocallyLinear(D, hidden=(8,)), torch.randn(5, D)
    start, end = torch.zeros(5), torch.ones(5)
    solvers = (
        lambda: walked(partial(exponential, field.operator, trapezoid=True), z, start, end, steps=2),
        lambda: walked(partial(rk4, field), z, start, end, steps=2),
        lambda: dormand_prince(field, z, start, end),
    )
    found = []
    for solve in solvers:
        field.zero_grad()
        solve().square().sum().backward()
        found.append(torch.cat([p.grad.reshape(-1) for p in field.parameters() if p.grad is not None]))
        assert len(found[-1]) == sum(p.numel() for p in field.parameters())
    for other in found[:2]:
        torch.testing.assert_close(other, found[2], rtol=0.1, atol=0.05 * float(found[2].abs().max()))


def test_a_field_that_explodes_is_refused_by_name():
    z = torch.ones(2, 1, dtype=torch.float64)
    with pytest.raises(ArithmeticError, match="Expected to solve the field in 200 steps"):
        dormand_prince(lambda z, t: z**3, z, torch.zeros(2), torch.full((2,), 5.0), most=200)


@pytest.mark.parametrize("kind", [Perceptron, LocallyLinear])
def test_no_cell_leaves_twice_the_reach_of_a_field(kind):
    """However the weights are, and over several times the interval."""
    torch.manual_seed(1)
    field = kind(D, hidden=(16,))
    with torch.no_grad():
        for p in field.parameters():
            p.normal_(0, 1.0)
        field.reach.fill_(2.0)
        z = torch.randn(50, D)
        z = z / z.norm(dim=1, keepdim=True) * torch.rand(50, 1) * 2
        z = walked(partial(rk4, field), z, torch.zeros(50), torch.full((50,), 4.0), steps=1600)
    assert z.norm(dim=1).max() < 4.05
    assert z.norm(dim=1).max() > 2  # else nothing was held back


def test_within_reach_a_field_is_what_it_was():
    torch.manual_seed(0)
    field, z, t = LocallyLinear(D, hidden=(8,)), torch.randn(20, D), torch.rand(20)
    with torch.no_grad():
        free = field(z, t)
        field.reach.fill_(float(z.norm(dim=1).max()))
        assert torch.equal(field(z, t), free)


@pytest.mark.parametrize("rank", [None, 2])
def test_the_operator_moves_cells_as_the_velocity_says_and_stays_below_its_bound(rank):
    torch.manual_seed(0)
    field, z, t = LocallyLinear(D, hidden=(8,), bound=3.0, rank=rank), torch.randn(20, D), torch.rand(20)
    with torch.no_grad():
        field.layers[-1].weight.normal_(0, 100.0)
        near = field.operator(z, t)
        a = near.operator()
        torch.testing.assert_close(torch.einsum("nij,nj->ni", a, z) + near.offset.T, field(z, t))
        values = torch.linalg.svdvals(a)
        root_mean_square = values.square().mean(1).sqrt()
    assert root_mean_square.max() <= 3.0 + 1e-4
    assert root_mean_square.max() > 2.9
    assert int((values > 1e-3 * values.max()).sum(1).max()) == (rank or D)
