"""What is imported is declared, what is declared is imported, and every version is pinned."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEVER_IMPORTED = {"pynndescent"}  # a bound on what umap-learn brings


def normal(name: str) -> str:
    """The name of a distribution as indexes compare them (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name).group()).lower()


def third_party() -> set[str]:
    """Top-level modules that the sources import and that are not the standard library's or ours."""
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"chreode"}


def declared() -> set[str]:
    required, optional = PROJECT["dependencies"], PROJECT["optional-dependencies"]
    return {normal(line) for line in chain(required, *optional.values())}


def test_imports_are_declared():
    provides = packages_distributions()
    undeclared = {
        module
        for module in third_party()
        if not {normal(name) for name in provides.get(module, [module])} & declared()
    }
    assert not undeclared


def test_declared_are_imported():
    provides = packages_distributions()
    used = {normal(name) for module in third_party() for name in provides.get(module, [module])}
    required = {normal(line) for line in PROJECT["dependencies"]}
    assert required - used <= NEVER_IMPORTED


def test_every_dependency_has_a_lower_bound():
    assert [line for line in PROJECT["dependencies"] if ">=" not in line] == []


@pytest.mark.parametrize("distribution", sorted(declared()))
def test_dependencies_and_what_they_need_are_pinned(distribution):
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {normal(line): line for line in lines if not line.startswith("#")}
    assert re.fullmatch(r"[\w.-]+==[\w.!]+", pinned[distribution])
    try:
        needs = requires(distribution) or []
    except ModuleNotFoundError:
        pytest.skip(f"{distribution} is optional, and not installed")
    always = {normal(line) for line in needs if ";" not in line}
    assert always <= pinned.keys()
