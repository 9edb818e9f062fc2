"""Training: stopping, events, checkpoints, resuming, refusing."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import chreode as ch
from chreode.checkpoint import read_checkpoint
from chreode.errors import InputError
from chreode.loop import _Rank
from chreode.nonfinite import NonFinite
from chreode.plan import Stop
from chreode.recipe import Build, Recipe
from parts import table, tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess

    from chreode.layout import Layout

HERE = Path(__file__).parent
LIFE = textwrap.dedent("""
    import torch
    from parts import tiny
    import chreode as ch
    torch.set_num_threads(1)
    recipe = ch.recipes.scdgd(dim=4, hidden=(8,), components=3)
    model = ch.fit(tiny(), recipe, epochs=300, seed=3, checkpoint="{name}-checkpoint", progress=False)
    model.save("{name}-model")
""")
# What a fit imports, most of a life's time: imported once, in the process that all lives are forked from.
IMPORTED = ["chreode.fit", "chreode.recipes", "anndata", "lightning_fabric", "numba", "sklearn.decomposition"]


def small(**arguments: object) -> object:
    return ch.recipes.scdgd(**{"dim": 4, "hidden": (8,), "components": 3, **arguments})


def test_history_has_a_row_an_epoch_and_says_what_happened() -> None:
    history = ch.fit(tiny(), small(), epochs=8, progress=False).history
    assert {
        "epoch",
        "loss",
        "reconstruction",
        "prior",
        "hyperprior",
        "validation",
        "event",
        "seconds",
    } <= set(history)
    assert list(history["epoch"]) == list(range(1, len(history) + 1))
    assert (history["event"] == "place components").sum() == 1
    np.testing.assert_allclose(
        history["loss"], history[["reconstruction", "prior", "hyperprior"]].sum(axis=1), rtol=1e-5
    )


def test_without_validation_every_cell_trains_for_all_epochs() -> None:
    model = ch.fit(tiny(), small(), epochs=7, validation=0, progress=False)
    assert model.embedded.trained.all()
    assert len(model.history) == 7
    assert model.history["validation"].isna().all()


def test_early_stopping_moves_on_to_the_placement_then_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, Stop(every=1, patience=2, margin=10.0))
    history = ch.fit(tiny(), small(), epochs=100, progress=False).history
    # Three looks at most in either phase: the first sets the mark, two more do not beat it by ten nats.
    assert len(history) == 6
    assert list(history["event"]).count("place components") == 1


def test_the_best_weights_of_the_phase_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, Stop(every=1, patience=100, margin=0.0))
    seen: list[float] = []
    original = _Rank._held_out

    def spoiled(self: _Rank) -> float:
        # Every look pretends to be worse than the one before.
        seen.append(original(self))
        return float(len(seen))

    monkeypatch.setattr(_Rank, "_held_out", spoiled)
    recipe = ch.recipes.dgd(dim=4, hidden=(8,), mixture=False)
    stopped = ch.fit(tiny(), recipe, epochs=1, progress=False)
    seen.clear()
    longer = ch.fit(tiny(), recipe, epochs=9, progress=False)
    assert len(seen) == 9
    for a, b in zip(stopped.module.parameters(), longer.module.parameters(), strict=True):
        assert torch.equal(a, b)


def impatient(monkeypatch: pytest.MonkeyPatch, stop: Stop) -> None:
    original = Recipe.build

    def build(self: Recipe, layout: Layout) -> Build:
        made = original(self, layout)
        return replace(made, plan=replace(made.plan, stop=stop))

    monkeypatch.setattr(Recipe, "build", build)


def test_fitting_leaves_global_random_states_alone() -> None:
    torch.manual_seed(5)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy())  # noqa: NPY002
    ch.fit(tiny(), small(), epochs=2, progress=False)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_cells_without_counts_are_kept_at_the_prior_mode() -> None:
    adata = table()
    emptied = adata.X.tolil()
    emptied[5] = 0
    adata.X = emptied.tocsr()
    cells = ch.read(adata)
    assert any("count" in m for m in cells.reading.messages)
    model = ch.fit(cells, small(), epochs=8, progress=False)
    assert not model.embedded.trained[5]
    density = model.module.latents["cell"].prior.mixture()
    mode = density.means[density.log_prob(density.means).argmax()]
    here = torch.from_numpy(model.embedded.embedding[5:6])
    assert density.log_prob(here) >= density.log_prob(mode[None]) - 1e-3


def test_a_cell_without_counts_stays_at_zero_without_a_prior() -> None:
    adata = table()
    emptied = adata.X.tolil()
    emptied[[5, 9]] = 0
    adata.X = emptied.tocsr()
    for inference in ("codes", "encoder"):
        recipe = ch.recipes.autodecoder(dim=4, hidden=(8,), inference=inference)
        model = ch.fit(ch.read(adata), recipe, epochs=3, progress=False)
        found = model.embedded.embedding
        assert np.abs(found[[5, 9]]).max() == 0
        assert (np.abs(np.delete(found, [5, 9], axis=0)).max(1) > 0).all()
    distilled = ch.distil(ch.fit(ch.read(adata), small(), epochs=8, progress=False), epochs=2, progress=False)
    prior = distilled.module.latents["cell"].prior
    assert distilled.project(adata).embedding[5].tolist() == prior.modes()[0].tolist()


def test_a_changed_call_is_refused_with_the_difference_named(tmp_path: Path) -> None:
    ch.fit(tiny(), small(), epochs=2, checkpoint=tmp_path, progress=False)
    with pytest.raises(InputError, match=r"seed was 1 and is 0|seed was 0 and is 1"):
        ch.fit(tiny(), small(), epochs=2, seed=1, checkpoint=tmp_path, progress=False)
    with pytest.raises(InputError, match="components"):
        ch.fit(tiny(), small(components=2), epochs=2, checkpoint=tmp_path, progress=False)


def test_a_finished_checkpoint_returns_its_model(tmp_path: Path) -> None:
    first = ch.fit(tiny(), small(), epochs=3, checkpoint=tmp_path, progress=False)
    stamp = (tmp_path / "checkpoint.safetensors").stat().st_mtime_ns
    again = ch.fit(tiny(), small(), epochs=3, checkpoint=tmp_path, progress=False)
    assert (tmp_path / "checkpoint.safetensors").stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(first.embedded.embedding, again.embedded.embedding)


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], BaseProcess]:
    """Begin a life: a process of its own that fits, or goes on from its checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)

    def run(name: str) -> BaseProcess:
        Path(f"{name}.py").write_text(LIFE.format(name=name))
        process = context.Process(target=runpy.run_path, args=(f"{name}.py",))
        process.start()
        return process

    return run


def test_killed_at_ten_moments_and_resumed_the_bits_are_the_same(begin: Callable[[str], BaseProcess]) -> None:
    whole = begin("whole")
    whole.join()
    assert whole.exitcode == 0
    rng = np.random.default_rng()  # really random: any moment must do
    checkpoint = Path("killed-checkpoint/checkpoint.safetensors")
    kills = 0
    for _ in range(40):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = begin("killed")
        # Wait until this process itself has written, so that every life gets somewhere.
        while process.is_alive() and (checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0) == before:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        if process.is_alive() and kills < 10:
            process.kill()
            kills += 1
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert kills == 10
    for file in ("model.safetensors", "cells.safetensors"):
        assert Path("killed-model", file).read_bytes() == Path("whole-model", file).read_bytes()
    assert read_checkpoint("killed-checkpoint")[1]["finished"]


def test_a_loss_that_is_not_finite_names_term_step_cells_and_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = Recipe.build

    def poisoned(self: Recipe, layout: Layout) -> Build:
        build = original(self, layout)
        with torch.no_grad():
            build.model.decoder.readout.outputs["rna"].weight[7] = float("nan")
        return build

    monkeypatch.setattr(Recipe, "build", poisoned)
    with pytest.raises(NonFinite, match=r"reconstruction.*epoch 1, step 1.*cell \d+.*gene "):
        ch.fit(tiny(), small(), epochs=2, progress=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"epochs": 0}, "epochs at least 1"),
        ({"epochs": "5"}, "epochs as a whole number; found '5'"),
        ({"validation": 1.0}, "validation from 0 to below 1"),
        ({"devices": 0}, "devices at least 1"),
        ({"precision": "foo"}, "precision among auto, 32-true, .*; found 'foo'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ch.fit(tiny(), small(), **arguments)


def test_more_components_than_cells_are_refused() -> None:
    with pytest.raises(InputError, match="at most as many components"):
        ch.fit(tiny(), small(components=500))


def test_a_recipe_that_was_not_called_is_explained() -> None:
    with pytest.raises(InputError, match="Call it"):
        ch.fit(tiny(), ch.recipes.scdgd)


TWO = textwrap.dedent("""
    import sys
    import torch
    sys.path.insert(0, sys.argv[1])
    from parts import table
    import chreode as ch
    if __name__ == "__main__":
        torch.set_num_threads(1)
        cells = ch.read(table(121), batch="plate")
        recipe = ch.recipes.scdgd(dim=4, hidden=(8,), components=3, noise=0.0)
        for devices in (1, 2):
            # 121 cells are one minibatch: a step on all of the data.
            model = ch.fit(cells, recipe, epochs=1, devices=devices, validation=0, progress=False)
            model.save(f"{sys.argv[2]}/{devices}")
        longer = ch.fit(cells, recipe, epochs=6, devices=2, progress=False)
        longer.save(f"{sys.argv[2]}/longer")
""")


def test_two_devices_take_the_step_of_one(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, str(script), str(HERE), str(tmp_path)], env=environment, check=True, timeout=400
    )
    one, two = ch.load(tmp_path / "1"), ch.load(tmp_path / "2")
    for (name, a), (_, b) in zip(
        one.module.state_dict().items(), two.module.state_dict().items(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=name)
    # Unequal shards (61 and 60 cells) over several epochs, with looks and events.
    longer = ch.load(tmp_path / "longer")
    assert len(longer.embedded) == 121
    assert longer.components == 3
    assert np.isfinite(longer.project(table(15, seed=2)).embedding).all()
