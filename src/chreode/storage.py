"""Models on disk: safetensors and JSON, nothing that runs."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chreode.axes import Tensor
from chreode.errors import InputError
from chreode.io.write import atomic_path
from chreode.recipe import registry
from chreode.references import references

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["FORMAT", "cite", "is_model", "read_folder", "versions", "write_folder"]

FORMAT = 1


def versions() -> dict[str, str]:
    """Versions of Python, chreode and what the numbers depend on."""
    packages = ("chreode", "torch", "numpy", "scipy", "anndata", "scanpy", "scikit-learn", "lightning-fabric")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def cite(recipes: Iterable[str], parts: Iterable[object] = ()) -> str:
    """BibTeX for chreode and the papers of the named recipes and of parts that name some, each once."""
    keys = ["chreode", *(key for name in recipes for key in registry[name].cite)]
    keys += [key for part in parts for key in getattr(part, "cite", ())]
    return "\n\n".join(dict.fromkeys(references[key] for key in keys))


def is_model(folder: str | Path) -> bool:
    """Whether a folder is a saved model."""
    return (Path(folder) / "model.json").is_file() and (Path(folder) / "model.safetensors").is_file()


def write_folder(
    folder: str | Path, *, facts: Mapping[str, Any], files: Mapping[str, Mapping[str, Tensor]], table: str
) -> None:
    """Write a model's folder beside its place, then rename it there.

    Parameters
    ----------
    folder
        Replaced if it is a saved model; refused if it is anything else.
    facts
        JSON values for ``model.json``.
    files
        Tensors by file name.
    table
        The history as CSV.

    Raises
    ------
    InputError
        When something that is not a saved model is in the way.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    if folder.exists() and not is_model(folder) and (folder.is_file() or any(folder.iterdir())):
        msg = (
            f"Expected a new folder or a saved model at {folder}; found something else. Choose another place."
        )
        raise InputError(msg)
    with atomic_path(folder) as beside:
        beside.mkdir(parents=True)
        for name, tensors in files.items():
            save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, beside / name)
        (beside / "history.csv").write_text(table)
        (beside / "model.json").write_text(json.dumps({"format": FORMAT, **facts}, indent=1))


def read_folder(folder: str | Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """The facts and tensors of a saved model; runs nothing from it.

    Raises
    ------
    InputError
        When the folder is missing, not a model, damaged, or of a newer format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    # The folder of a run holds its model.
    folder = folder / "model" if not is_model(folder) and is_model(folder / "model") else folder
    if not is_model(folder):
        what = "no such folder" if not folder.exists() else "no model.json and model.safetensors in it"
        msg = (
            f"Expected a model saved by chreode at {folder}; found {what}. Save one with model.save(folder)."
        )
        raise InputError(msg)
    try:
        facts = json.loads((folder / "model.json").read_text())
        tensors = {path.name: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    except (json.JSONDecodeError, SafetensorError, UnicodeDecodeError) as error:
        msg = f"Expected a whole model at {folder}; found a damaged file ({error}). Restore it from a copy."
        raise InputError(msg) from None
    if facts.get("format") != FORMAT:
        msg = (
            f"Expected model format {FORMAT} at {folder}; found {facts.get('format')!r}. "
            "Use the version of chreode that saved it, or a newer one."
        )
        raise InputError(msg)
    return facts, tensors
