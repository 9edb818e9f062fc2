"""Codes that belong to levels: gates, switched and conditional priors, critics, and what they recover."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression

import chreode as ch
from chreode.companion import Companion
from chreode.errors import InputError
from chreode.gated import Gate
from chreode.infer.posterior import GaussianPosterior
from chreode.interpret.attribute_scores import attribute_scores
from chreode.model import Latent, LatentModel
from chreode.penalties import Critic, adversarial
from chreode.priors import ConditionalNormal, StandardNormal, SwitchedNormal
from parts import table, tiny


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some(n: int = 40, **known: bool) -> ch.Embedded:
    cells = ch.read(table(n), batch="plate", label="type")
    if known.get("unknown"):
        level = cells.covariates["type"].clone()
        level[::4] = -1
        cells = cells.replace(covariates={**cells.covariates, "type": level})
    return cells


class Sum(torch.nn.Module):
    """A decoder that shows what it is given."""

    def forward(self, z: dict, cells: object) -> dict:
        return {name: value.clone() for name, value in z.items()}


def test_a_gate_opens_for_its_levels_alone() -> None:
    cells = some(unknown=True)
    gate = Gate(cells.layout, "type", ["type 1", "type 2"], dims=(2, 3))
    names = cells.level_names("type")
    np.testing.assert_array_equal(gate(cells).numpy(), np.isin(names.astype(str), ["type 1", "type 2"]))
    with pytest.raises(InputError, match=r"'type'.*found 'type 9'"):
        Gate(cells.layout, "type", ["type 9"], dims=(2, 3))


def test_a_closed_code_is_zero_to_the_decoder_and_nothing_to_the_prior() -> None:
    cells = some()
    gate = Gate(cells.layout, "type", ["type 0"], dims=(2, 3))
    free = torch.nn.Identity()
    latents = {"shared": Latent(free, StandardNormal(2)), "own": Latent(free, StandardNormal(3), only=gate)}
    model = LatentModel(latents, Sum())
    z = {"shared": torch.randn(40, 2), "own": torch.randn(40, 3)}
    trace, has = model.trace(z, cells), gate(cells)
    assert 0 < has.sum() < 40
    assert torch.equal(trace.observed["shared"], z["shared"])
    assert torch.equal(trace.observed["own"], z["own"] * has[:, None])
    plain = StandardNormal(3)()
    density = model.prior("own", trace)
    torch.testing.assert_close(density.log_prob(z["own"]), has * plain.log_prob(z["own"]))
    posterior = GaussianPosterior(z["own"], torch.rand(40, 3) + 0.1)
    torch.testing.assert_close(density.kl(posterior, z["own"]), has * plain.kl(posterior, z["own"]))


def test_a_companion_finds_the_law_of_one_code_given_another() -> None:
    z = torch.randn(20_000, 3, generator=generator())
    slope = torch.tensor([[1.0, 0.0], [0.5, -1.0], [0.0, 2.0]])
    noise = torch.randn(20_000, 2, generator=generator(1)) @ torch.tensor([[0.5, 0.2], [0.0, 0.3]])
    t = torch.tensor([3.0, -1.0]) + z @ slope + noise
    weight = (torch.arange(20_000) % 2).float()
    t[::2] = 100.0  # of no weight
    companion = Companion(3, 2)
    companion.learn(z, t, weight)
    torch.testing.assert_close(companion.slope, slope, atol=0.03, rtol=0.0)
    torch.testing.assert_close(companion.level, torch.tensor([3.0, -1.0]), atol=0.03, rtol=0.0)
    draws = companion(torch.zeros(50_000, 3), generator(2)) - companion.level
    torch.testing.assert_close(draws.T.cov(), noise[1::2].T.cov(), atol=0.01, rtol=0.0)
    untouched = Companion(3, 2)
    untouched.learn(z, t, torch.zeros(20_000))
    assert not untouched(z).any()


def switched() -> tuple[ch.Embedded, SwitchedNormal]:
    cells = some(unknown=True)
    return cells, SwitchedNormal(cells.layout, "type", 2, n_shared=3)


def test_a_switched_prior_is_the_product_of_its_blocks() -> None:
    cells, prior = switched()
    z = torch.randn(40, 6, generator=generator())
    level = cells.covariates["type"].numpy()

    def log_prob(k: int) -> np.ndarray:
        on = np.repeat(np.arange(3) == k, 2)
        return stats.norm(np.where(on, 3.0, 0.0), np.where(on, 1.0, 0.1)).logpdf(z.numpy()).sum(1)

    each = np.stack([log_prob(k) for k in range(3)], 1)
    known = each[np.arange(40), level.clip(0)]
    mean = np.logaddexp.reduce(each, 1) - np.log(3)
    np.testing.assert_allclose(prior(cells).log_prob(z), np.where(level < 0, mean, known), rtol=1e-4)
    assert torch.equal(
        prior.modes(), torch.tensor([[3.0, 3, 0, 0, 0, 0], [0, 0, 3, 3, 0, 0], [0, 0, 0, 0, 3, 3]])
    )


def test_a_switched_divergence_agrees_with_draws() -> None:
    cells, prior = switched()
    density = prior(cells)
    posterior = GaussianPosterior(density.mean + 0.1, density.scale.square() * 1.5)
    found = density.kl(posterior, posterior.mean)
    source = generator()
    draws = [posterior.sample(source) for _ in range(1000)]
    sampled = torch.stack([posterior.log_prob(z) - density.log_prob(z) for z in draws]).mean(0)
    known = cells.covariates["type"] >= 0
    torch.testing.assert_close(found[known], sampled[known], atol=0.25, rtol=0.02)


def test_codes_of_a_new_level_are_those_its_cells_have() -> None:
    cells, prior = switched()
    shared = torch.randn(40, 3, generator=generator())
    own = prior(cells).mean.clone()
    at = cells.covariates["type"] == 1
    own[at, 2:4] = 2.0 + shared[at, :2]
    prior.pair(shared, own, cells, total=lambda value: value)
    after = cells.do(type="type 1")
    moved = prior.transport(shared, own, before=cells, after=after)
    torch.testing.assert_close(moved[at], own[at])
    torch.testing.assert_close(moved[~at][:, 2:4], 2.0 + shared[~at, :2], atol=0.2, rtol=0.0)
    assert not moved[~at][:, [0, 1, 4, 5]].any()
    drawn = [prior.transport(shared, own, before=cells, after=after, draw=generator(s)) for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    unknown = prior.transport(shared, own, before=after, after=cells.do(type=None))
    torch.testing.assert_close(unknown, torch.ones_like(unknown))


def test_a_conditional_prior_is_a_normal_of_each_cell() -> None:
    cells = some(unknown=True)
    prior = ConditionalNormal(cells.layout, ["type", "batch"], 2)
    for vector in prior.sums.vectors:
        vector.data.normal_(generator=generator())
    density, z = prior(cells), torch.randn(40, 2, generator=generator(1))
    scale = (0.5 * density.log_variance).exp()
    law = torch.distributions.Normal(density.mean, scale)
    torch.testing.assert_close(density.log_prob(z), law.log_prob(z).sum(1))
    posterior = GaussianPosterior(z, torch.rand(40, 2, generator=generator(2)) + 0.1)
    other = torch.distributions.Normal(z, posterior.variance.sqrt())
    torch.testing.assert_close(density.kl(posterior, z), torch.distributions.kl_divergence(other, law).sum(1))
    nothing = prior(cells.do(type=None, batch=None))
    assert not nothing.mean.any()
    assert not nothing.log_variance.any()
    same = (cells.covariates["type"] == 1) & (cells.covariates["plate"] == 0)
    assert (density.mean[same] == density.mean[same][0]).all()


def test_a_critic_learns_by_its_loss_and_codes_by_what_it_knows_beyond_chance() -> None:
    critic = Critic(2, 2, hidden=(4,))
    critic.count(torch.tensor([30.0, 10.0]))
    z = torch.randn(6, 2, generator=generator(), requires_grad=True)
    levels = torch.tensor([0, 0, 1, 1, -1, 0])
    value = adversarial(critic, z, levels, weight=2.0)
    entropy = torch.nn.functional.cross_entropy(critic(z), levels, ignore_index=-1, reduction="none")
    torch.testing.assert_close(value, entropy)
    plain = torch.autograd.grad(entropy.sum(), [*critic.parameters(), z])
    ours = torch.autograd.grad(value.sum(), [*critic.parameters(), z])
    for a, b in zip(plain[:-1], ours[:-1], strict=True):
        torch.testing.assert_close(a, b)
    chance = torch.tensor([30.0, 10.0]).div(40).log()
    knows = (-entropy > chance[levels.clamp(min=0)]) & (levels >= 0)
    assert knows.any()
    assert not knows.all()
    torch.testing.assert_close(ours[-1], -2.0 * plain[-1] * knows[:, None])


def test_codes_cannot_run_away_from_a_critic() -> None:
    """Unbounded, they are driven ever further to where the critic is sure of the wrong level."""
    levels = torch.arange(200) % 2
    z = torch.randn(200, 2, generator=generator())
    z[:, 0] += 2.0 * levels
    furthest = float(z.abs().max())
    z.requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        critic = Critic(2, 2, hidden=(16,))
    steps = torch.optim.Adam([{"params": critic.parameters(), "lr": 3e-3}, {"params": [z], "lr": 1e-2}])
    gaps = []
    for _ in range(900):
        steps.zero_grad()
        adversarial(critic, z, levels).mean().backward()
        steps.step()
        gaps.append(float((z[levels == 1].mean(0) - z[levels == 0].mean(0)).detach().norm()))
    assert np.mean(gaps[600:]) < 0.7
    assert float(z.detach().abs().max()) < furthest


def columns() -> ad.AnnData:
    adata = table(120)
    adata.obs["again"] = adata.obs["type"].map({f"type {k}": f"kind {k}" for k in range(3)})
    adata.obs["run"] = np.where(adata.obs["type"] == "type 0", "first", "second")
    adata.obs["one"] = "only"
    return adata


def fit(covariates: list[str], recipe: object, **read: str) -> None:
    ch.fit(ch.read(columns(), covariates=covariates, **read), recipe, epochs=1, progress=False)


def test_levels_of_few_cells_are_named() -> None:
    adata = columns()
    adata.obs["drug"] = np.where(np.arange(120) < 4, "new", "old")
    cells = ch.read(adata, covariates=["drug"])
    with pytest.warns(
        UserWarning, match=r"found fewer of 'new' \(as few as 4\): what is said of these levels"
    ):
        ch.fit(cells, ch.recipes.patches(dim=2, hidden=(4,)), epochs=1, progress=False)


def test_attributes_that_cannot_be_told_apart_are_named() -> None:
    small = {"dim": 2, "hidden": (4,)}
    with pytest.raises(InputError, match=r"'type' and 'again' divide the cells in the same way"):
        fit(["type", "again"], ch.recipes.patches(**small))
    with pytest.warns(UserWarning, match=r"'type' 'type 0' share a level of 'run'"):
        fit(["type"], ch.recipes.patches(**small), batch="run")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(["type"], ch.recipes.patches(**small), batch="plate")


@pytest.mark.parametrize(
    ("covariates", "recipe", "says"),
    [
        ([], lambda: ch.recipes.patches(), "covariate as attribute; found no column that was read. Read the"),
        (
            ["age"],
            lambda: ch.recipes.patches(),
            r"found 'age', which holds numbers\. .*\['age'\]\.astype\(str",
        ),
        (["age"], lambda: ch.recipes.multigroupvi(), "or let group= name a column"),
        (["one"], lambda: ch.recipes.patches(), "differs between cells; found one level"),
        (["age"], lambda: ch.recipes.patches(attributes="age"), r"a continuous column, .*astype\(str"),
        (["type"], lambda: ch.recipes.patches(attributes=("kind",)), "found 'kind'"),
        (
            ["type", "plate"],
            lambda: ch.recipes.multigroupvi(),
            "Expected one group; found 'type', 'plate'",
        ),
        (["type"], lambda: ch.recipes.contrastivevi(background="ctrl"), "Name the level of the controls"),
    ],
)
def test_bad_attributes_are_refused(covariates: list[str], recipe: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        fit(covariates, recipe())


def programmes(n: int = 800, *, seed: int = 0) -> tuple[ad.AnnData, dict[str, list[str]]]:
    """Three types that two groups share; each group has a programme of fifty genes that its cells vary in."""
    rng = np.random.default_rng(seed)
    kind, group = rng.integers(3, size=n), rng.integers(2, size=n)
    logits = rng.normal(0, 1, 300) + rng.normal(0, 1.0, (3, 300))[kind]
    genes = rng.permutation(300)[:100].reshape(2, 50)
    for g in (0, 1):
        along = rng.choice([-1.0, 1.0], size=50)
        logits[:, genes[g]] += np.where(group == g, 1.2 * rng.normal(size=n), 0.0)[:, None] * along
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    adata = ad.AnnData(
        sp.csr_matrix(rng.poisson(share * rng.lognormal(7.5, 0.2, n)[:, None]).astype(np.float32))
    )
    adata.obs["group"], adata.obs["kind"] = np.array(["a", "b"])[group], np.array(["x", "y", "z"])[kind]
    return adata, {level: [str(j) for j in genes[g]] for g, level in enumerate("ab")}


def test_private_programmes_are_found() -> None:
    adata, genes = programmes()
    recipe = ch.recipes.multigroupvi(dim=5, private=2, hidden=(64,))
    model = ch.fit(ch.read(adata, covariates=["group"]), recipe, epochs=150, seed=0, progress=False)
    scores = attribute_scores(model, attribute="group", progress=False)
    for level, truth in genes.items():
        first = scores[(scores["level"] == level) & (scores["rank"] <= 50)]["feature"]
        assert np.isin(first, truth).mean() >= 0.9, level


def test_cells_without_levels_are_decoded_from_what_is_shared() -> None:
    recipe = ch.recipes.multigroupvi(dim=2, private=2, hidden=(8,), group="type")
    model = ch.fit(tiny(), recipe, epochs=3, progress=False)
    embedded = model.embedded.do(type=None)
    other = embedded.replace(
        cells=embedded.cells,
        codes={name: z if name == "shared" else z + 1.0 for name, z in embedded.codes.items()},
    )
    np.testing.assert_array_equal(embedded.expected(), other.expected())


def test_private_codes_that_pass_by_do_the_same_whatever_the_shared_code_is():
    cells = ch.read(ch.simulate(60, 20, batches=2, seed=0), covariates=["batch"])
    effects = {}
    for mixing in (0.0, 1.0):
        recipe = ch.recipes.patches(dim=3, hidden=(8,), mixing=mixing)
        model = ch.fit(cells, recipe, epochs=3, seed=0, progress=False)
        here = model.embedded.pick(model.embedded.level_names("batch") == "batch0")
        blocks = here.codes["batch"].clone()
        blocks[:] = blocks[:1]
        ends = []
        for shift in (0.0, 2.0):
            codes = {**here.codes, "batch": blocks + shift}
            ends.append(np.log(here.replace(cells=here.cells, codes=codes).expected()))
        change = ends[1] - ends[0]
        # Of proportions but for what they are divided by.
        effects[mixing] = (change - change.mean(1, keepdims=True)).std(0).max()
    assert effects[0.0] < 1e-4 < 1e-2 < effects[1.0]


def test_a_strong_condition_leaves_the_shared_code_where_private_codes_are_not_about_zero():
    rng = np.random.default_rng(3)
    drug = rng.integers(2, size=500)
    base, effect = rng.normal(0, 1, 60), np.zeros(60)
    effect[:20] = rng.choice([-3.0, 3.0], 20)
    logits = base + rng.normal(0, 0.7, (500, 1)) * rng.normal(0, 1, 60) + drug[:, None] * effect
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(800 * share).astype(np.float32)))
    adata.obs["condition"] = np.array(["ctrl", "stim"])[drug]
    told = {}
    for location in (0.0, 1.0):
        how = {"dim": 4, "private": 6, "hidden": (32,), "location": location, "inference": "free"}
        recipe = ch.recipes.contrastivevi(background="ctrl", **how)
        model = ch.fit(ch.read(adata[:400].copy(), covariates=["condition"]), recipe, seed=0, progress=False)
        new = model.project(adata[400:].copy(), progress=False).embedding
        probe = LogisticRegression().fit(model.embedded.embedding, drug[:400])
        told[location] = probe.score(new, drug[400:])
    assert told[0.0] > 0.85
    assert told[1.0] < told[0.0] - 0.1
