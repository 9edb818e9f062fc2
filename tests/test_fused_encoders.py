"""Encoders of several modalities: what a cell lacks is left out exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import distributions

from chreode.cells import CSR, Cells
from chreode.infer import Encoder, ExpertEncoder, FusedEncoder
from chreode.infer.fused import kept
from chreode.layout import Layout, Modality
from chreode.loop import seeded

N, GENES, PROTEINS = 40, 30, 6
HOW = {"fused": FusedEncoder, "average": ExpertEncoder, "product": ExpertEncoder}


def layout() -> Layout:
    features = {"rna": (GENES, "counts"), "prot": (PROTEINS, "counts"), "adt": (4, "continuous")}
    return Layout(N, {m: Modality(tuple(f"{m} {j}" for j in range(g)), k) for m, (g, k) in features.items()})


def cells(*, seed: int = 0, panels: bool = False) -> Cells:
    """A third of the cells lack the proteins, another the RNA; half of them were measured in a panel."""
    rng = np.random.default_rng(seed)
    which = torch.arange(N) % 3
    present = {"rna": which != 1, "prot": which != 2, "adt": torch.ones(N, dtype=torch.bool)}
    counts = {"rna": rng.poisson(2.0, (N, GENES)), "prot": rng.poisson(20.0, (N, PROTEINS))}
    some = {"panels": {}, "panel": {}}
    if panels:
        masks = torch.ones(2, PROTEINS, dtype=torch.bool)
        masks[1, 4:] = False
        some = {"panels": {"prot": masks}, "panel": {"prot": torch.arange(N) % 2}}
        counts["prot"] = counts["prot"] * masks[torch.arange(N) % 2].numpy()
    measured: dict[str, Any] = {
        m: CSR.of((x * present[m].numpy()[:, None]).astype(np.float32)) for m, x in counts.items()
    }
    measured["adt"] = torch.from_numpy(rng.normal(size=(N, 4)).astype(np.float32))
    return Cells(layout(), names=[str(i) for i in range(N)], measured=measured, present=present, **some)


def made(name: str, **arguments: Any) -> Any:
    if name != "fused":
        arguments["combine"] = name
    with seeded(0):
        return HOW[name](layout(), 6, hidden=(16,), **arguments).eval()


def answer(encoder: Any, some: Cells) -> torch.Tensor:
    return encoder(some).centre.detach()


@pytest.mark.parametrize("name", HOW)
def test_what_a_cell_lacks_is_not_looked_at(name):
    encoder, some = made(name), cells()
    stored = cells(seed=1)
    for m in ("rna", "prot"):
        lacking = ~some.present[m]
        mixed = torch.where(lacking[:, None], 7.0, some.measured[m].dense())
        stored = some.replace(measured={**some.measured, m: CSR.of(mixed.numpy())}, size=some.size)
        torch.testing.assert_close(answer(encoder, stored), answer(encoder, some))
    # ... and what it has is.
    other = some.replace(measured={**some.measured, "adt": some.measured["adt"] + 1})
    assert ((answer(encoder, other) - answer(encoder, some)).abs().sum(1) > 0).all()


@pytest.mark.parametrize("name", HOW)
def test_features_that_a_panel_lacks_are_not_looked_at(name):
    encoder, some = made(name), cells(panels=True)
    full = some.measured["prot"].dense() + 3.0 * ~some.mask("prot")
    stored = some.replace(measured={**some.measured, "prot": CSR.of(full.numpy())}, size=some.size)
    torch.testing.assert_close(answer(encoder, stored), answer(encoder, some))


@pytest.mark.parametrize("name", HOW)
def test_sparse_or_dense_and_alone_or_among_others_is_the_same(name):
    encoder, some = made(name), cells()
    rows = torch.tensor([5, 3, 17])
    torch.testing.assert_close(answer(encoder, some[rows]), answer(encoder, some)[rows])


def test_a_modality_or_feature_that_a_cell_lacks_enters_as_the_average():
    encoder, some = made("fused"), cells(panels=True)
    encoder.centre(some)
    first, m = encoder.first, 1
    values = torch.log1p(
        some.measured["prot"].dense() / (1 + some.size["prot"] / some.mask("prot").sum(1))[:, None]
    )
    known = some.mask("prot") & some.present["prot"][:, None]
    mean = torch.stack([values[known[:, j], j].mean() for j in range(PROTEINS)])
    torch.testing.assert_close(first.get_buffer(f"mean_{m}"), mean)
    filled = torch.where(known, values, mean)
    rest = some.replace(present={**some.present, "prot": torch.zeros(N, dtype=torch.bool)})
    units = first(some) - first(rest)
    torch.testing.assert_close(units, (filled - mean) @ first.parts["prot"].weight, rtol=1e-4, atol=1e-5)


def test_experts_are_averaged_or_multiplied_over_those_that_are_there():
    some = cells()
    both = {name: made(name)(some).posterior for name in ("average", "product")}
    experts = both["average"].experts
    assert list(experts) == ["rna", "prot", "adt"]
    for i in range(6):
        there = [q for m, q in experts.items() if some.present[m][i]]
        means, variances = (
            torch.stack([getattr(q, what)[i] for q in there]) for what in ("mean", "variance")
        )
        torch.testing.assert_close(both["average"].mean[i], means.mean(0))
        torch.testing.assert_close(both["average"].variance[i], variances.mean(0))
        precision = 1 + (1 / variances).sum(0)
        torch.testing.assert_close(both["product"].variance[i], 1 / precision)
        torch.testing.assert_close(both["product"].mean[i], (means / variances).sum(0) / precision)


@pytest.mark.parametrize("name", ["average", "product"])
def test_a_cell_without_anything_is_the_prior(name):
    some = cells()
    nothing = some.replace(present={m: torch.zeros(N, dtype=torch.bool) for m in some.present})
    posterior = made(name)(nothing).posterior
    torch.testing.assert_close(posterior.mean, torch.zeros(N, 6))
    torch.testing.assert_close(posterior.variance, torch.ones(N, 6))


def test_divergence_of_two_gaussians_is_that_of_torch():
    one, two = list(made("average")(cells()).posterior.experts.values())[:2]
    reference = distributions.kl_divergence(
        *(distributions.Normal(q.mean, q.variance.sqrt()) for q in (one, two))
    )
    torch.testing.assert_close(one.kl(two), reference.sum(1))


def test_dropping_leaves_one_modality_of_those_that_are_there():
    there = torch.rand(3, 20_000, generator=torch.Generator().manual_seed(0)) < 0.6
    with seeded(0):
        left = kept(there, 0.5)
    assert not (left & ~there).any()
    several, number = there.sum(0) > 1, left.sum(0)
    assert (number[~several] == there.sum(0)[~several]).all()
    assert abs(float((number[several] == 1).float().mean()) - 0.5) < 0.02
    assert kept(there, 0.0) is there


def test_an_encoder_of_one_modality_leaves_out_what_its_panel_does():
    """A random half of binary features judges a model: its encoder must not see it."""
    names = tuple(f"peak {j}" for j in range(20))
    values = torch.bernoulli(torch.full((8, 20), 0.4), generator=torch.Generator().manual_seed(0))
    seen = torch.arange(20)[None] % 2 == 0
    some = Cells(
        Layout(8, {"atac": Modality(names, "binary")}),
        names=[str(i) for i in range(8)],
        measured={"atac": CSR.of(values.numpy())},
        panels={"atac": seen},
        panel={"atac": torch.zeros(8, dtype=torch.int64)},
    )
    hidden = some.replace(measured={"atac": CSR.of((values * seen).numpy())})
    encoder = Encoder(some.layout, 3, hidden=(4,))
    torch.testing.assert_close(encoder(some).z, encoder(hidden).z)
