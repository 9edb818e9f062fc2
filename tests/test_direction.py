"""Imports go one way, down this table; those inside functions and for type checkers too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "src" / "chreode"

# Each line may import from the lines above it, and from its own. This is the one place that says so.
ORDER = [
    ["axes", "errors", "memory", "named", "openmp", "rounding", "threads", "words"],
    ["csr", "layout"],
    ["cells"],
    ["parts", "layers", "companion"],
    ["io"],
    ["gated"],
    ["infer", "priors", "decoders", "likelihoods", "penalties", "dynamics"],
    ["model"],
    ["courses"],
    ["bridging", "moving", "objective"],
    ["plan"],
    ["recipe"],
    ["optim", "checkpoint", "settle", "held_out", "nonfinite", "parcel"],
    ["scoring"],
    ["events", "crossing"],
    ["loop"],
    ["lessons"],
    ["train"],
    ["posthoc", "split", "subset"],
    ["references"],
    ["storage"],
    ["expected", "intervene", "posterior", "written"],
    ["generate"],
    ["embedded"],
    ["forecast"],
    ["evaluate", "perturb", "interpret"],
    ["fitted"],
    ["distil", "fit", "load"],
    ["levels", "scvi_tools"],
    ["recipes"],
    ["comparison"],
    ["report"],
    ["folder"],
    ["trial"],
    ["trials"],
    ["compare"],
    [
        "commands",
        "comparing",
        "counterfactual_commands",
        "fitting",
        "linking",
        "matching_commands",
        "testing_commands",
    ],
    ["__main__", "cli", "cli_analysis", "cli_options"],  # which may also ask the front door
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}


def module_name(path: Path) -> str:
    """``chreode.io.read`` for ``src/chreode/io/read.py``; a package is named without ``__init__``."""
    parts = ["chreode", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported(source: str, module: str, *, package: bool = False) -> set[str]:
    """The modules of chreode that a source imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")
            parents = parents[: len(parents) - node.level + package] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            # `from chreode.io import read` names a module, `from chreode.cells import Cells` an attribute.
            submodules = {f"{base}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= submodules if len(submodules) == len(node.names) else submodules | {base}
    return {name for name in found if name.split(".")[0] == "chreode"}


def upward(source: str, module: str, *, package: bool = False) -> list[str]:
    """Every import that does not go down the table."""
    level = LEVEL[module.split(".")[1]]
    wrong = []
    for name in sorted(imported(source, module, package=package)):
        room = name.split(".")[1] if "." in name else None
        if (len(ORDER) - 1 if room is None else LEVEL.get(room, len(ORDER))) > level:
            wrong.append(f"{module} imports {name}")
    return wrong


def imports_of(module: str) -> set[str]:
    path = MODULES[module]
    return imported(path.read_text(encoding="utf-8"), module, package=path.name == "__init__.py")


INSIDE = [name for name in MODULES if name != "chreode"]  # the front door may name every room


def test_every_room_has_a_place():
    assert {name.split(".")[1] for name in INSIDE} <= LEVEL.keys()


@pytest.mark.parametrize("module", INSIDE)
def test_imports_go_down(module):
    path = MODULES[module]
    wrong = upward(path.read_text(encoding="utf-8"), module, package=path.name == "__init__.py")
    assert not wrong, "\n".join(wrong)


def test_no_circle():
    below = {name: imports_of(name) & MODULES.keys() - {name} for name in INSIDE}
    while ends := {name for name in below if not below[name] or not any(name in b for b in below.values())}:
        below = {name: names - ends for name, names in below.items() if name not in ends}
    assert not below, f"modules that import each other: {below}"


@pytest.mark.parametrize(
    "source",
    [
        "from chreode.cli import main",
        "import chreode.fitted",
        "def f():\n    from chreode.recipes import dgd",
        "from __future__ import annotations\nif TYPE_CHECKING:\n    from chreode.model import Trace",
        "from ..model import Trace",
        "from .. import model",
        "import chreode",
        "from chreode import model",
    ],
)
def test_an_upward_import_is_seen(source):
    assert upward(source, "chreode.io.schema")


@pytest.mark.parametrize(
    "source",
    ["from chreode.axes import Float", "from . import read", "from ..cells import Cells", "import torch"],
)
def test_a_downward_import_is_allowed(source):
    assert not upward(source, "chreode.io.schema")
