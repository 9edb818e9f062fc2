"""Several recipes on the same cells, each fitted with several seeds and scored on what it was not shown."""

from __future__ import annotations

import json
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.checkpoint import differences
from chreode.comparison import PURPOSES, Comparison
from chreode.errors import InputError
from chreode.folder import FORMAT, Run, new_folder, write_json
from chreode.io.obsm import read_embedding
from chreode.io.write import atomic_path
from chreode.loop import Call, seeded
from chreode.recipe import Recipe, named
from chreode.split import Split
from chreode.train import check
from chreode.trial import Trial
from chreode.trials import Trials

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chreode.cells import Cells
    from chreode.comparison import Result

__all__ = ["compare"]

DATA = {
    "cells": "names of cells",
    "features": "features",
    "totals": "values",
    "covariates": "columns of cells",
}


def compare(
    cells: Cells,
    recipes: Sequence[str | Recipe],
    *,
    seeds: int = 3,
    embeddings: Sequence[str] | Mapping[str, Any] = (),
    purpose: str | None = None,
    out: str | Path | None = None,
    epochs: int | None = None,
    seed: int = 0,
    device: str = "auto",
    validation: float = 0.1,
    isolate: bool = True,
    overwrite: bool = False,
    command: str = "",
    progress: bool = True,
) -> Comparison:
    """Fit several recipes to the same cells, score them side by side, and say what is within noise.

    A tenth of the cells, the same for all, is never given to a fit: half of their molecules infers their
    codes, the other half is scored. Embeddings are scored on the other cells. Each recipe is fitted once more
    to four fifths of these, to see what stays the same.

    Parameters
    ----------
    cells
        From `chreode.read`; read with a label and a batch to have clustering and integration judged.
    recipes
        Names, or recipes with arguments.
    seeds
        How many fits of each recipe; at least 2 for anything to be said about noise.
    embeddings
        Keys of ``obsm`` in the file that was read, of embeddings to score beside; or arrays by name,
        ``n x d`` in the order of the cells.
    purpose
        ``reconstruction``, ``clustering`` or ``integration``: what a winner is asked for; all by default.
    out
        A folder, in which every finished run is kept, and tables and a page are written. The same call on it
        goes on where it stood (a run that was under way begins again, one that failed is tried again);
        recipes, embeddings and seeds may be added.
    epochs, device, validation
        As of `chreode.fit`.
    seed
        Of the split and the scores; fits have the seeds 0, 1, 2, ...
    isolate
        Whether each fit runs in a process of its own. Its memory can then be measured, and one that is killed
        spoils no other. A recipe defined in a notebook or a script can only be fitted in this process.
    overwrite
        Whether to begin anew in a folder of another comparison.
    command
        What to write on the page as the way to do it again.
    progress
        Whether to show a bar.

    Returns
    -------
    Comparison
        ``table``, ``runs``, ``winner(purpose)``, ``differences(purpose)``.

    Raises
    ------
    InputError
        Before anything is fitted: for arguments out of range, an unknown recipe or embedding, a recipe that
        these cells do not suit, too few cells, or a folder of another comparison, with the difference named.
        A recipe that fails later does not raise; its row says why.

    Examples
    --------
    >>> import chreode as ch
    >>> cells = ch.read(ch.datasets.pbmc68k(), label="bulk_labels")
    >>> found = compare(
    ...     cells, ["autodecoder"], seeds=2, epochs=2, isolate=False, progress=False, purpose="reconstruction"
    ... )
    >>> found.winner("reconstruction").sentence
    'For reconstruction only autodecoder was scored.'
    """
    chosen = _recipes(recipes, isolate=isolate)
    training = {"epochs": epochs, "device": device, "validation": validation}
    _check(cells, chosen, Call(**training, seed=seed), seeds=seeds, purpose=purpose)
    split = Split.draw(cells, seed=seed)
    given = _embeddings(cells, embeddings, chosen)
    call = _call(cells, seed, training)
    with ExitStack() as stack:
        folder = None if out is None else _folder(Path(out), call, command=command, overwrite=overwrite)
        if folder is not None:
            stack.enter_context(new_folder(folder.path, keep=lambda: True))
            write_json(folder.mark, folder.facts)
        kept = folder.path / "runs" if folder else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trials = Trials(cells, split, kept, training=training, seed=seed, isolate=isolate)
        results = trials.all(_asked(chosen, given, seeds), given, progress=progress)
        found = Comparison(
            results,
            purposes=[purpose] if purpose else list(PURPOSES),
            data=_data(cells, split, seeds=seeds, training=training, command=command),
        )
        if folder is not None:
            maps = _maps(results, split, seed=seed, progress=progress)
            _write(found, folder, levels=_levels(cells, split), maps=maps)
    return found


def _recipes(recipes: Sequence[str | Recipe], *, isolate: bool) -> dict[str, Recipe]:
    """Recipes by what they are called: the name, and the arguments that are not the default."""
    listed = [recipes] if isinstance(recipes, (str, Recipe)) else list(recipes)
    found: dict[str, Recipe] = {}
    for each in listed:
        recipe = named(each) if isinstance(each, str) else each
        if not isinstance(recipe, Recipe):
            msg = f"Expected recipes by name or from chreode.recipes; found {each!r}. Call it, or name it."
            raise InputError(msg)
        usual = recipe.definition.check({})
        changed = {k: v for k, v in recipe.arguments.items() if v != usual[k]}
        name = ":".join([recipe.name, *(f"{k}={_brief(v)}" for k, v in changed.items())])
        if name in found:
            msg = f"Expected each recipe once; found {name} twice. Leave one out, or change an argument."
            raise InputError(msg)
        if isolate and recipe.definition.build.__module__ == "__main__":
            msg = (
                f"Expected recipes that another process can import; found {recipe.name}, defined in this "
                "script. Put it into a module, or compare with isolate=False."
            )
            raise InputError(msg)
        found[name] = recipe
    if not found:
        msg = "Expected at least one recipe; found none. Name for example 'scdgd' and 'scvi'."
        raise InputError(msg)
    return found


def _brief(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _check(
    cells: Cells,
    recipes: Mapping[str, Recipe],
    call: Call,
    *,
    seeds: int,
    purpose: str | None,
) -> None:
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        msg = f"Expected a number of seeds of at least 1; found {seeds!r}. Three are usual."
        raise InputError(msg)
    if purpose is not None and purpose not in PURPOSES:
        msg = f"Expected a purpose ({', '.join(PURPOSES)}); found {purpose!r}. Leave it out to judge all."
        raise InputError(msg)
    for name, recipe in recipes.items():
        check(cells, recipe, call)
        _check_build(cells, name, recipe)
    roles = {"clustering": ("label",), "integration": ("label", "batch")}
    for role in roles.get(purpose or "", ()):
        covariate = cells.layout.in_role(role)
        if covariate is None or len(covariate.levels) < 2:
            there = "none" if covariate is None else f"one level in {covariate.column!r}"
            msg = (
                f"Expected cells read with a {role} of two levels or more to judge {purpose}; found {there}. "
                f"Read them with {role}=COLUMN."
            )
            raise InputError(msg)


def _check_build(cells: Cells, name: str, recipe: Recipe) -> None:
    """Refuse a recipe that refuses such cells, for want of a label for example."""
    if not recipe.definition.joint:
        cells = cells.only(next(iter(cells.layout.modalities)))
    try:
        with seeded(0):
            recipe.build(cells.layout)
    except Exception as error:  # what else may be wrong with it is told of its runs
        if isinstance(error, InputError):
            msg = f"{error} Or leave {name} out."
            raise InputError(msg) from None


def _embeddings(
    cells: Cells, embeddings: Sequence[str] | Mapping[str, Any], recipes: Mapping[str, Recipe]
) -> dict[str, np.ndarray]:
    """Arrays by name, checked against the cells."""
    if isinstance(embeddings, Mapping):
        found = {name: np.asarray(values) for name, values in embeddings.items()}
    else:
        keys = [embeddings] if isinstance(embeddings, str) else list(embeddings)
        found = {key: read_embedding(cells.reading.source, key) for key in keys}
    for name, values in found.items():
        if values.ndim != 2 or len(values) != len(cells) or not np.isfinite(values).all():
            what = (
                "values that are not finite"
                if values.ndim == 2 and len(values) == len(cells)
                else values.shape
            )
            msg = (
                f"Expected embedding {name!r} as finite numbers, {len(cells)} cells x dimensions; found "
                f"{what}. Leave it out, or give it in the order of the cells."
            )
            raise InputError(msg)
        if name in recipes:
            msg = f"Expected embeddings with names of their own; found {name!r}, a recipe. Rename it."
            raise InputError(msg)
    return found


def _asked(recipes: Mapping[str, Recipe], given: Mapping[str, np.ndarray], seeds: int) -> list[Trial]:
    """The first seed of every recipe comes first, so that failures are seen early."""
    trials = [Trial(name, recipe, seed=seed) for seed in range(seeds) for name, recipe in recipes.items()]
    trials += [Trial(name, recipe, subset=True) for name, recipe in recipes.items()]
    return trials + [Trial(name, None) for name in given]


def _call(cells: Cells, seed: int, training: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same for runs to be comparable."""
    layout = cells.layout
    names = zlib.crc32("\n".join(map(str, cells.names)).encode())
    total = {m: float(size.double().sum()) for m, size in cells.size.items()}
    roles = {role: getattr(layout.in_role(role), "column", None) for role in ("batch", "label")}
    levels = {
        c: zlib.crc32(values.contiguous().numpy().tobytes()) for c, values in sorted(cells.covariates.items())
    }
    data = {"cells": names, "features": layout.fingerprint, "totals": total, "covariates": levels}
    call = {
        "kind": "compare",
        "source": cells.reading.source,
        **roles,
        "data": data,
        "seed": seed,
        **training,
    }
    return json.loads(json.dumps(call))


def _folder(out: Path, call: Mapping[str, Any], *, command: str, overwrite: bool) -> Run:
    """The folder of the comparison, with what its mark shall say."""
    run = Run(out, command="compare")
    if run.facts and run.facts["call"].get("kind") != "compare":
        msg = (
            f"Expected a new folder, or one of an earlier chreode compare; found a fit in {run.path}. Give "
            "another folder."
        )
        raise InputError(msg)
    if overwrite:
        shutil.rmtree(run.path / "runs", ignore_errors=True)
    elif run.facts and (changed := _changed(call, run.facts["call"])):
        msg = (
            f"Expected the call that began the comparison in {run.path}; found a changed one: "
            f"{'; '.join(changed)}. Repeat the first call to go on (recipes, embeddings and seeds may be "
            "added), give another folder, or overwrite (--overwrite) to begin anew."
        )
        raise InputError(msg)
    run.facts = {"format": FORMAT, "finished": False, "call": dict(call), "command": command}
    return run


def _changed(call: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """What differs from the first call, one phrase each; of the data only where nothing else explains it."""
    named = differences({**call, "data": None}, {**before, "data": None})
    return named or [
        f"other {what}" for key, what in DATA.items() if call["data"][key] != before["data"][key]
    ]


def _data(
    cells: Cells, split: Split, *, seeds: int, training: Mapping[str, Any], command: str
) -> dict[str, Any]:
    """What is known of the comparison, for its page."""
    roles = {role: getattr(cells.layout.in_role(role), "column", "") for role in ("label", "batch")}
    sizes = {name: len(getattr(split, name)) for name in ("fitted", "test", "subset", "sample")}
    return {
        "source": cells.reading.source,
        "messages": list(cells.reading.messages),
        "cells": len(cells),
        "features": {m: d.n_features for m, d in cells.layout.modalities.items()},
        **roles,
        **sizes,
        "seeds": seeds,
        "training": dict(training),
        "command": command,
    }


def _levels(cells: Cells, split: Split) -> dict[str, np.ndarray]:
    """Label and batch of the sampled cells, by column."""
    found = {}
    for role in ("label", "batch"):
        covariate = cells.layout.in_role(role)
        if covariate is not None and covariate.categorical:
            found[covariate.column] = cells.level_names(covariate.column)[split.sample.numpy()]
    return found


def _maps(results: Sequence[Result], split: Split, *, seed: int, progress: bool) -> dict[str, np.ndarray]:
    """Two coordinates of the sampled cells, by the first fit of each recipe."""
    from chreode.report.maps import project_2d

    sampled = np.searchsorted(split.fitted.numpy(), split.sample.numpy())
    maps: dict[str, np.ndarray] = {}
    for facts, arrays in results:
        trial = facts["trial"]
        if trial["name"] not in maps and not trial["subset"] and "codes" in arrays:
            maps[trial["name"]] = project_2d(arrays["codes"][sampled], seed, progress=progress)[0]
    return maps


def _write(
    found: Comparison, folder: Run, *, levels: Mapping[str, np.ndarray], maps: Mapping[str, np.ndarray]
) -> None:
    """Tables and page; each whole or not there."""
    from chreode.report.comparing import write_page

    tables = {"table": found.table, "runs": found.runs.set_index("recipe")}
    tables |= {f"differences_{p}": found.differences(p).set_index("recipe") for p in found.purposes}
    for name, table in tables.items():
        with atomic_path(folder.path / f"{name}.csv") as beside:
            table.to_csv(beside, lineterminator="\n")
    verdicts = {
        v.purpose: {"winner": v.winner, "tied": v.tied, "sentence": v.sentence} for v in found.verdicts
    }
    write_json(folder.path / "verdicts.json", verdicts)
    write_page(folder.path / "report.html", found, levels=levels, maps=maps)
    folder.finish()
