"""Atomic checkpoints: one file that holds tensors and JSON, written beside and renamed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chreode.axes import Tensor
from chreode.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NAME", "differences", "read_checkpoint", "write_checkpoint"]

NAME = "checkpoint.safetensors"


def write_checkpoint(folder: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write both to ``folder``; a kill at any moment leaves the old checkpoint or the new one, whole."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(f".{NAME}.*"):
        stale.unlink()  # left by a run that was killed while it wrote
    beside = folder / f".{NAME}.{os.getpid()}"
    try:
        # A clone where tensors share memory: the format stores each by itself.
        whole = {k: v.detach().cpu().clone() for k, v in tensors.items()}
        save_file(whole, beside, {"chreode": json.dumps(facts)})
        with beside.open("rb+") as written:
            os.fsync(written.fileno())
        beside.replace(folder / NAME)
    finally:
        beside.unlink(missing_ok=True)


def read_checkpoint(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts of a folder's checkpoint; None where there is none.

    Raises
    ------
    InputError
        When the file is not a checkpoint of chreode's.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["chreode"])
            return {key: file.get_tensor(key) for key in file.keys()}, facts  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        msg = (
            f"Expected a checkpoint in {path}; found a file that cannot be read ({error}). Delete it to "
            "start anew."
        )
        raise InputError(msg) from None


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What differs between two calls, one phrase each."""
    named = []
    for key in sorted(set(expected) | set(found)):
        a, b = expected.get(key), found.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            named += [f"{key}.{phrase}" for phrase in differences(a, b)]
        elif a != b:
            named.append(f"{key} was {b!r} and is {a!r}")
    return named
