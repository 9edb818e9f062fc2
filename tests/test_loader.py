"""Minibatches are a pure function of (seed, epoch); thinning is binomial."""

from __future__ import annotations

import pytest
import torch

from chreode.cells import CSR
from chreode.errors import InputError
from chreode.io import minibatches, stream, thin


@pytest.mark.parametrize("n", [1, 2, 3, 7, 128, 129, 257, 1000])
@pytest.mark.parametrize("size", [1, 2, 16, 128])
def test_minibatches_partition_the_cells_evenly(n, size):
    cut = minibatches(n, size=size, seed=3, epoch=5)
    assert torch.cat(cut).sort().values.tolist() == list(range(n))
    lengths = [len(rows) for rows in cut]
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) <= max(size, 3 if size == 2 else size)
    if n > 1 and size > 1:
        assert min(lengths) > 1


def test_order_depends_on_seed_and_epoch_alone():
    torch.manual_seed(0)
    one = minibatches(50, size=8, seed=1, epoch=2)
    torch.rand(10)
    two = minibatches(50, size=8, seed=1, epoch=2)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    orders = {
        tuple(torch.cat(minibatches(50, size=8, seed=s, epoch=e)).tolist())
        for s in range(5)
        for e in range(5)
    }
    assert len(orders) == 25
    assert torch.cat(minibatches(50, size=50, seed=1, epoch=2)).equal(torch.cat(one))


def test_streams_differ_and_are_stable():
    assert stream(0, 1).initial_seed() != stream(1, 0).initial_seed() != stream(0).initial_seed()
    assert stream(7, 3).initial_seed() == 2530781778362038830


def test_impossible_cuts_are_refused():
    for wrong in ({"n": 3, "size": 0}, {"n": 0, "size": 4}):
        with pytest.raises(InputError, match="Expected size"):
            minibatches(wrong.pop("n"), seed=0, epoch=0, **wrong)


def test_thinning_keeps_every_molecule_and_no_zero():
    generator = torch.Generator().manual_seed(0)
    counts = CSR.of(torch.poisson(torch.full((40, 30), 0.7), generator=generator).numpy())
    one, other = thin(counts, generator, fraction=0.3)
    assert torch.equal(one.dense() + other.dense(), counts.dense())
    for part in (one, other):
        assert (part.value > 0).all()
        assert part.value.dtype == torch.float32
        assert part.shape == counts.shape
        assert part.crow[-1] == len(part.value) == len(part.col)


def test_thinned_counts_have_binomial_mean_and_variance():
    n, fraction = 40_000, 0.3
    for count in (1.0, 5.0, 200.0, 3e6):
        counts = CSR(torch.arange(n + 1), torch.zeros(n, dtype=torch.int32), torch.full((n,), count), 1)
        part = thin(counts, torch.Generator().manual_seed(1), fraction=fraction)[0].dense().double()
        mean, variance = fraction * count, fraction * (1 - fraction) * count
        assert abs(part.mean() - mean) < 5 * (variance / n) ** 0.5
        assert part.var() == pytest.approx(variance, rel=0.05)


def test_thinning_is_reproducible_and_checks_its_fraction():
    counts = CSR.of([[5, 0, 9], [0, 2, 100]])
    one, two = (thin(counts, torch.Generator().manual_seed(4))[0].dense() for _ in range(2))
    assert torch.equal(one, two)
    for fraction in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            thin(counts, torch.Generator(), fraction=fraction)
