"""Optimal-transport flow matching by torchcfm, at the settings of its own single-cell example.

Run by `dynamics_speed.py` in the peers' environment, with ``torchcfm`` and ``pot`` beside what is there:
a file of coordinates and times in, seconds and distances at every 500 steps out.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import ot
import torch
from torchcfm.conditional_flow_matching import ExactOptimalTransportConditionalFlowMatcher
from torchcfm.models.models import MLP

STEPS, BATCH, NOISE, RATE = 10_000, 256, 0.1, 1e-4
EVERY = 500


def moved(model: torch.nn.Module, z: torch.Tensor, start: float, end: float) -> torch.Tensor:
    """By the Runge-Kutta method of order 4, in ten steps."""

    def slope(state: torch.Tensor, t: float) -> torch.Tensor:
        return model(torch.cat([state, torch.full((len(state), 1), t)], 1))

    h = (end - start) / 10
    with torch.no_grad():
        for k in range(10):
            t = start + k * h
            k1 = slope(z, t)
            k2 = slope(z + h / 2 * k1, t + h / 2)
            k3 = slope(z + h / 2 * k2, t + h / 2)
            k4 = slope(z + h * k3, t + h)
            z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return z


def train(path: Path) -> None:
    """Train without one time, and say from time to time how far predictions of it are."""
    job = np.load(path)
    z, t, out = torch.from_numpy(job["z"]).float(), job["t"], float(job["out"])
    torch.manual_seed(int(job["seed"]))
    np.random.seed(int(job["seed"]))  # noqa: NPY002 (the peer draws from it)
    instants = [float(u) for u in np.unique(t) if u != out]
    groups = [z[torch.from_numpy(t == u)] for u in instants]
    observed = z[torch.from_numpy(t == out)].double().numpy()
    before = max(u for u in instants if u < out)
    model = MLP(dim=z.shape[1], time_varying=True, w=64)
    adam = torch.optim.Adam(model.parameters(), RATE)
    matcher = ExactOptimalTransportConditionalFlowMatcher(sigma=NOISE)
    spent, seconds, distances = 0.0, [], []
    for step in range(1, STEPS + 1):
        began = time.perf_counter()
        adam.zero_grad()
        times, states, slopes = [], [], []
        for k in range(len(groups) - 1):
            first, last = (g[torch.randint(len(g), (BATCH,))] for g in groups[k : k + 2])
            share, state, slope = matcher.sample_location_and_conditional_flow(first, last)
            gap = instants[k + 1] - instants[k]
            times.append(instants[k] + share * gap)
            states.append(state)
            slopes.append(slope / gap)
        found = model(torch.cat([torch.cat(states), torch.cat(times)[:, None]], 1))
        (found - torch.cat(slopes)).square().mean().backward()
        adam.step()
        spent += time.perf_counter() - began
        if step % EVERY == 0:
            predicted = moved(model, groups[instants.index(before)], before, out).double().numpy()
            weights = (np.full(len(s), 1 / len(s)) for s in (predicted, observed))
            cost = ot.dist(predicted, observed, metric="euclidean")
            seconds.append(spent)
            distances.append(ot.emd2(*weights, cost, numItermax=10**7))
    np.savez(path.with_suffix(".out.npz"), seconds=seconds, distances=distances)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        train(Path(name))
