"""One run of a comparison: fit a recipe to its part of the cells, score it on what it was not shown."""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.evaluate import leiden
from chreode.evaluate.in_parts import embedding_in_parts, molecules_in_parts
from chreode.evaluate.neighbours import nearest
from chreode.fit import fit
from chreode.io.write import atomic_path
from chreode.loop import mix
from chreode.memory import peak_resident
from chreode.nonfinite import NonFinite
from chreode.parcel import read_cells
from chreode.recipe import named
from chreode.split import Split

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chreode.cells import Cells
    from chreode.comparison import Result
    from chreode.fitted import FittedModel
    from chreode.layout import Role
    from chreode.recipe import Recipe

__all__ = [
    "Trial",
    "carry_out",
    "fail",
    "read_result",
    "score_given",
    "told",
    "work",
    "write_result",
]

NEIGHBOURS = 15
_WARM = 64  # cells of a fit that is not timed


@dataclass(frozen=True)
class Trial:
    """One run that is asked for.

    Parameters
    ----------
    name
        What the recipe, or the embedding, is called in the comparison.
    recipe
        None for an embedding that was made elsewhere.
    seed
        Of the fit.
    subset
        Whether it is fitted to the subset; such a run is compared with a fit of all, and not scored.
    """

    name: str
    recipe: Recipe | None
    seed: int = 0
    subset: bool = False

    def to_json(self) -> dict[str, Any]:
        """What is written in the results, and what another process makes the trial of."""
        made = None if self.recipe is None else self.recipe.to_json()
        module = None if self.recipe is None else self.recipe.definition.build.__module__
        of = {"name": self.name, "recipe": made, "module": module}
        return {**of, "seed": self.seed, "subset": self.subset}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Trial:
        """Make it of what `to_json` gave; its recipe registers itself when its module is imported."""
        values = dict(values)
        module, made = values.pop("module"), values.pop("recipe")
        if made is not None:
            importlib.import_module(module)
            made = named(made["name"], made["arguments"])
        return cls(recipe=made, **values)


def carry_out(
    trial: Trial, cells: Cells, split: Split, *, training: Mapping[str, Any], seed: int, measure: bool
) -> Result:
    """Fit, and score.

    Parameters
    ----------
    trial
        What is asked for, with a recipe.
    cells
        All of them.
    split
        What each is for.
    training
        ``epochs``, ``device`` and ``validation`` of `chreode.fit`.
    seed
        Of thinning and scores, the same for every run.
    measure
        Whether this process does nothing else, so that its memory can be measured; a fit of a few cells comes
        first then, so that loading libraries and compiling count for neither memory nor time.
    """
    if trial.recipe is None:
        msg = f"an embedding is scored by score_given, not fitted: {trial.name}"
        raise ValueError(msg)
    rows = split.subset if trial.subset else split.fitted
    fitted = cells[rows]
    if measure:
        # Whatever is wrong with a fit is told of the real one.
        with suppress(Exception):
            fit(fitted[slice(0, _WARM)], trial.recipe, progress=False, **{**training, "epochs": 1})
    before, start = peak_resident(reset=True), time.perf_counter()
    model = fit(fitted, trial.recipe, seed=trial.seed, progress=False, **training)
    seconds, after = time.perf_counter() - start, peak_resident()
    facts = {
        "seconds": seconds,
        "memory": (after - before) / 2**20 if measure and before and after else None,
        "epochs": len(model.history),
        "dimensions": int(model.embedded.embedding.shape[1]),
        "components": model.components,
        "taught": _taught(model),
    }
    components = model.embedded.components() if model.components else None
    codes = model.embedded.embedding
    scored, arrays = _score_codes(trial, codes, cells, split, components=components, seed=seed)
    if not trial.subset:
        scores, parts = molecules_in_parts(model, cells[split.test], fitted, seed=mix(seed, 227))
        scored = {"scores": scores | scored["scores"], "parts": parts | scored["parts"]}
    return facts | scored, arrays


def score_given(trial: Trial, codes: np.ndarray, cells: Cells, split: Split, *, seed: int) -> Result:
    """Score an embedding that was made elsewhere.

    Parameters
    ----------
    trial
        Its name.
    codes
        Of all cells.
    cells, split, seed
        As of `carry_out`.
    """
    facts, arrays = _score_codes(trial, codes[split.fitted.numpy()], cells, split, seed=seed)
    return facts | {"dimensions": codes.shape[1]}, arrays


def _taught(model: FittedModel) -> bool:
    """Whether the label took part in the fit, so that agreement with it proves nothing."""
    label = model.layout.in_role("label")
    if label is None:
        return False
    return any(getattr(part, "column", "") in (label.column, "label") for part in model.module.modules())


def _score_codes(
    trial: Trial,
    codes: np.ndarray,
    cells: Cells,
    split: Split,
    *,
    components: np.ndarray | None = None,
    seed: int,
) -> Result:
    """Score codes of fitted cells (not of a subset), cluster them, find neighbours, draw them."""
    rows = (split.subset if trial.subset else split.fitted).numpy()
    sampled = np.searchsorted(rows, split.sample.numpy())
    sample = codes[sampled]
    arrays: dict[str, np.ndarray] = {
        "codes": np.asarray(codes, dtype=np.float32),
        "clusters": leiden(sample, seed=seed).astype(np.int32),
        "neighbours": nearest(sample, NEIGHBOURS).astype(np.int32),
    }
    if components is not None:
        arrays["components"] = components[sampled].astype(np.int32)
    if trial.subset:
        return {"scores": {}, "parts": {}}, arrays
    scores, parts = embedding_in_parts(
        codes,
        part=split.part.numpy(),
        labels=_levels(cells, "label", rows),
        batches=_levels(cells, "batch", rows),
        components=components,
        before=split.before.numpy(),
        seed=seed,
    )
    return {"scores": scores, "parts": parts}, arrays


def _levels(cells: Cells, role: Role, rows: np.ndarray) -> np.ndarray | None:
    covariate = cells.layout.in_role(role)
    if covariate is None or not covariate.categorical:
        return None
    return cells.level_names(covariate.column)[rows]


def fail(reason: str, trace: str = "") -> Result:
    """What a run leaves that came to nothing."""
    return {"error": " ".join(reason.split()), "traceback": trace}, {}


def write_result(path: str | Path, result: Result) -> None:
    """Write a run's facts and arrays into a folder, whole or not at all.

    Parameters
    ----------
    path
        The folder; one that is there is replaced.
    result
        From `carry_out`, `score_given` or `fail`.
    """
    facts, arrays = result
    with atomic_path(path) as beside:
        beside.mkdir()
        np.savez_compressed(beside / "arrays.npz", **arrays)  # pyright: ignore[reportArgumentType]
        (beside / "run.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


def read_result(path: str | Path) -> Result | None:
    """Read what `write_result` wrote; None where nothing is."""
    path = Path(path)
    if not (path / "run.json").is_file():
        return None
    facts = json.loads((path / "run.json").read_text(encoding="utf-8"))
    with np.load(path / "arrays.npz") as arrays:
        return facts, dict(arrays)


def work(folder: str | Path) -> None:
    """Carry out what another process asks for, a line of JSON at a time, until it asks no more or is gone.

    Parameters
    ----------
    folder
        Of ``split.safetensors`` and the cells.
    """
    from safetensors.torch import load_file

    asked: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    cells, split = read_cells(folder), Split(**load_file(Path(folder) / "split.safetensors"))
    while True:
        job = json.loads(asked.get())
        try:
            trial, how = Trial.from_json(job["trial"]), {"training": job["training"], "seed": job["seed"]}
            result = carry_out(trial, cells, split, **how, measure=True)
        except Exception as error:
            result = told(error)
        write_result(job["place"], result)


def _listen(asked: SimpleQueue[str]) -> None:
    """Hear the other process, and end this one with it: its end of the pipe closes then."""
    for line in sys.stdin:
        asked.put(line)
    os._exit(0)


def told(error: Exception) -> Result:
    """A failure with its reason: a sentence where it is the user's to mend, else the kind of error too."""
    known = isinstance(error, (InputError, NonFinite))
    reason = str(error) if known else f"{type(error).__name__}: {error}"
    return fail(reason, "" if known else traceback.format_exc())


if __name__ == "__main__":
    work(sys.argv[1])
