"""The one training loop."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from chreode.axes import Tensor
from chreode.cells import Cells
from chreode.checkpoint import differences, read_checkpoint
from chreode.errors import InputError
from chreode.loop import Call, mix, run, seeded
from chreode.plan import Moment
from chreode.recipe import Build, Recipe

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Trained", "train"]


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


def split(cells: Cells, validation: float, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of training and validation cells; cells without a count are in neither."""
    counted = [m for m, d in cells.layout.modalities.items() if d.kind == "counts"]
    useful = torch.ones(len(cells), dtype=torch.bool)
    if counted:
        useful = torch.stack([cells.size[m] > 0 for m in counted]).any(0)
    rows = useful.nonzero().squeeze(1)
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
    training = cells[rows].numbered()
    with seeded(mix(call.seed, 7)):
        build = recipe.build(training.layout)
    plan = replace(build.plan, epochs=call.epochs or build.plan.epochs)
    build = replace(build, plan=plan)
    facts = _facts(cells, recipe, replace(call, epochs=plan.epochs))
    found = read_checkpoint(call.checkpoint) if call.checkpoint else None
    if found is not None and (changed := differences(facts["call"], found[1]["call"])):
        msg = (
            f"Expected the call that began the run in {call.checkpoint}; found a changed one: {'; '.join(changed)}. "
            "Repeat the first call to resume it, or choose another folder."
        )
        raise InputError(msg)
    if found is None:
        for event in plan.events:
            if event.at == "start":
                model = build.model
                codes = lambda latent: model.latents[latent].infer.weight  # noqa: E731
                event.do(Moment(model, training, codes=codes, seed=mix(call.seed, 11)))
    fabric = Fabric(
        accelerator=_accelerator(call.device),
        devices=call.devices,
        strategy=_strategy(call.devices),
        precision=call.precision,  # type: ignore[arg-type]
    )
    work = (build, training, cells[held] if len(held) else None, replace(call, epochs=plan.epochs), facts, found)
    tensors, history = run(fabric, *work) if call.devices == 1 else fabric.launch(run, *work)
    build.model.to("cpu").load_state_dict(tensors)
    build.model.eval()
    import pandas as pd

    return Trained(build, rows, held, pd.DataFrame(history))


def _strategy(devices: int) -> Any:
    if devices == 1:
        return "auto"
    from lightning_fabric.strategies import DDPStrategy

    # Spawned, not forked: a fork after OpenMP has run hangs.
    return DDPStrategy(start_method="spawn", broadcast_buffers=False)


def _accelerator(device: str) -> str:
    if device != "auto":
        return "cuda" if device.startswith("cuda") else device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _facts(cells: Cells, recipe: Recipe, call: Call) -> dict[str, Any]:
    names = hashlib.sha256("\n".join(map(str, cells.names)).encode()).hexdigest()[:16]
    total = {m: float(size.double().sum()) for m, size in cells.size.items()}
    said = {k: getattr(call, k) for k in ("epochs", "seed", "device", "devices", "precision", "validation")}
    data = {"cells": names, "features": cells.layout.fingerprint, "totals": total}
    return {"call": {**said, "recipe": recipe.to_json(), "data": data}, "finished": False}


