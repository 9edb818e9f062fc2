"""The one training loop."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, cast

import torch

from chreode.axes import Tensor
from chreode.cells import Cells
from chreode.checkpoint import differences, read_checkpoint, write_checkpoint
from chreode.errors import InputError
from chreode.loop import Call, mix, run, seeded
from chreode.plan import Moment
from chreode.recipe import Recipe
from chreode.settle import encoded

if TYPE_CHECKING:
    import pandas as pd
    from lightning_fabric import Fabric

    from chreode.recipe import Build

__all__ = ["Trained", "begin", "check", "train"]

_PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true")


@dataclass(frozen=True)
class Trained:
    """What training leaves.

    Parameters
    ----------
    build
        Model (on the CPU, in evaluation mode), objective and plan.
    rows
        Positions of the cells that trained, in codebook order.
    held_out
        Positions of the validation cells.
    history
        One row an epoch: ``epoch``, ``seconds``, ``loss``, every term, ``validation`` (nats per held-out
        molecule; missing between looks) and ``event``.
    """

    build: Build
    rows: Tensor
    held_out: Tensor
    history: pd.DataFrame


def check(cells: Cells, recipe: Recipe, call: Call) -> None:
    """Refuse what cannot work before anything is trained."""
    if not isinstance(cells, Cells):
        msg = (
            f"Expected Cells from chreode.read; found {type(cells).__name__}. Call chreode.read(source) "
            "first."
        )
        raise InputError(msg)
    if not isinstance(recipe, Recipe):
        found = getattr(recipe, "__name__", type(recipe).__name__)
        msg = (
            f"Expected a recipe such as chreode.recipes.scdgd(); found {found}. Call it, with or without "
            "arguments."
        )
        raise InputError(msg)
    devices = {
        "auto": True,
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    for name in ("epochs", "seed", "devices"):
        value = getattr(call, name)
        if not isinstance(value, Integral) and not (name == "epochs" and value is None):
            msg = f"Expected {name} as a whole number; found {value!r}. Write {name}=10, say."
            raise InputError(msg)
    rules = {
        "epochs": (call.epochs is None or call.epochs >= 1, "at least 1, or None"),
        "seed": (0 <= call.seed < 2**32, "from 0 to 4,294,967,295"),
        "device": (
            devices.get(call.device, False),
            f"among {', '.join(d for d, there in devices.items() if there)}",
        ),
        "devices": (call.devices >= 1, "at least 1"),
        "precision": (call.precision in _PRECISIONS, f"among {', '.join(_PRECISIONS)}"),
        "validation": (0 <= call.validation < 1, "from 0 to below 1"),
    }
    for name, (holds, expected) in rules.items():
        if not holds:
            msg = f"Expected {name} {expected}; found {getattr(call, name)!r}. Give a value in this range."
            raise InputError(msg)
    if len(cells) * (1 - call.validation) < 2:
        msg = (
            f"Expected at least two cells to train on; found {len(cells)}. Give more cells, or validation=0."
        )
        raise InputError(msg)


def split(cells: Cells, validation: float, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of training and validation cells; cells without a count are in neither."""
    rows = cells.counted.nonzero().squeeze(1)
    generator = torch.Generator().manual_seed(mix(seed, 101))
    shuffled = rows[torch.randperm(len(rows), generator=generator)]
    n_held = round(validation * len(rows))
    return shuffled[n_held:].sort().values, shuffled[:n_held].sort().values


def train(cells: Cells, recipe: Recipe, call: Call) -> Trained:
    """Fit a recipe to cells.

    The loop of every method: minibatches in an order that is a function of (seed, epoch); terms of the
    objective averaged over the minibatch; one fused AdamW for the parts and a row-sparse Adam for free
    codes; events between epochs; early stopping on the held-out molecules of validation cells.
    """
    from lightning_fabric import Fabric

    rows, held = split(cells, call.validation, call.seed)
    build, training = _built(recipe, cells[rows], call.seed)
    if build.plan.stop is None and len(held):  # nothing would look at them
        rows, held = split(cells, 0.0, call.seed)
        build, training = _built(recipe, cells[rows], call.seed)
    plan = replace(build.plan, epochs=call.epochs or build.plan.epochs)
    build = replace(build, plan=plan)
    facts = _facts(cells, recipe, replace(call, epochs=plan.epochs))
    found = read_checkpoint(call.checkpoint) if call.checkpoint else None
    if found is not None and (changed := differences(facts["call"], found[1]["call"])):
        msg = (
            f"Expected the call that began the run in {call.checkpoint}; found a changed one: "
            f"{'; '.join(changed)}. "
            "Repeat the first call to resume it, or choose another folder."
        )
        raise InputError(msg)
    if found is None:
        begin(build, training, mix(call.seed, 11), progress=call.progress)
    fabric = Fabric(
        accelerator=_accelerator(call.device),
        devices=call.devices,
        strategy=_strategy(call.devices),
        precision="32-true" if call.precision == "auto" else call.precision,  # type: ignore[arg-type]
    )
    work = (training, cells[held] if len(held) else None, replace(call, epochs=plan.epochs), facts, found)
    if call.devices == 1:
        tensors, history = run(fabric, build, *work)
    else:
        with tempfile.TemporaryDirectory() as folder:
            fabric.launch(
                cast("Any", _rank), _Parcel(recipe, plan.epochs, build.model.state_dict(), folder, *work)
            )
            left = read_checkpoint(folder)
        if left is None:
            msg = (
                "Expected the fitted weights of the first process; found none: a process was ended from "
                "outside."
            )
            raise RuntimeError(msg)
        tensors, history = left[0], left[1]["history"]
    build.model.to("cpu").load_state_dict(tensors)
    build.model.eval().zero_grad(set_to_none=True)
    import pandas as pd

    return Trained(build, rows, held, pd.DataFrame(history))


def _built(recipe: Recipe, cells: Cells, seed: int) -> tuple[Build, Cells]:
    """What a recipe makes for the cells that train, and these with codebook rows."""
    training = cells.numbered()
    with seeded(mix(seed, 7)):
        return recipe.build(training.layout), training


def begin(build: Build, cells: Cells, seed: int, *, progress: bool) -> None:
    """What happens before the first epoch, with all cells at hand."""

    def codes(latent: str) -> Tensor:
        infer = build.model.latents[latent].infer
        return infer.codes if infer.free else encoded(build.model, latent, cells)

    for event in build.plan.events:
        if event.at == "start":
            event.do(Moment(build.model, cells, codes=codes, seed=seed, progress=progress))


class _Parcel:
    """What another process is sent; not a dataclass, since Fabric would try to rebuild one field by field."""

    def __init__(
        self, recipe: Recipe, epochs: int, start: dict[str, Tensor], folder: str, cells: Cells, *work: Any
    ) -> None:
        self.recipe, self.epochs, self.start = recipe, epochs, start
        self.folder, self.cells, self.work = folder, cells, work


def _rank(fabric: Fabric, parcel: _Parcel) -> None:
    """One of several processes: builds the recipe for itself, since terms and events are closures.

    What was learned goes back by a file: more than a few kilobytes in the launcher's queue would wait for a
    reader that waits for this process.
    """
    warnings.filterwarnings("ignore", module="lightning_fabric")  # of this process only
    build = parcel.recipe.build(parcel.cells.layout)
    build.model.load_state_dict(parcel.start)
    build = replace(build, plan=replace(build.plan, epochs=parcel.epochs))
    tensors, history = run(fabric, build, parcel.cells, *parcel.work)
    if fabric.global_rank == 0:
        write_checkpoint(parcel.folder, tensors, {"history": history})


def _strategy(devices: int) -> Any:
    if devices == 1:
        return "auto"
    from lightning_fabric.strategies import DDPStrategy

    with warnings.catch_warnings():
        # Its replacement would sync buffers at the start, and codes are buffers that each rank owns.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
        # Spawned, not forked: a fork after OpenMP has run hangs.
        return DDPStrategy(start_method="spawn", broadcast_buffers=False)


def _accelerator(device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _facts(cells: Cells, recipe: Recipe, call: Call) -> dict[str, Any]:
    names = hashlib.sha256("\n".join(map(str, cells.names)).encode()).hexdigest()[:16]
    total = {m: float(size.double().sum()) for m, size in cells.size.items()}
    said = {k: getattr(call, k) for k in ("epochs", "seed", "device", "devices", "precision", "validation")}
    data = {"cells": names, "features": cells.layout.fingerprint, "totals": total}
    return {"call": {**said, "recipe": recipe.to_json(), "data": data}, "finished": False}
