"""The front door is light: what it imports, and how long that takes, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache

import pytest

HEAVY = {"anndata", "lightning", "lightning_fabric", "matplotlib", "mudata", "plotly", "scanpy", "sklearn"}

REPORT = """
import json, sys, time
{before}
known, start = set(sys.modules), time.process_time()
{code}
seconds = time.process_time() - start
packages = sorted({{name.split(".")[0] for name in set(sys.modules) - known}})
print(json.dumps([seconds, time.process_time(), packages]))
"""


def measured(code: str, *, before: str = "") -> tuple[float, float, set[str]]:
    """CPU seconds of the code and of the whole process, and the top-level packages the code imported."""
    script = REPORT.format(before=before, code=code)
    # As users have it: compiled once, whatever whoever runs the tests has said of bytecode.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    took, whole, packages = json.loads(done.stdout.splitlines()[-1])
    return took, whole, set(packages)


FRONT_DOOR = "import chreode as ch; ch.read, ch.fit, ch.load, ch.recipes, ch.datasets, ch.cite, ch.distil"

HELP = """
from chreode.cli import main
sys.argv = ["chreode", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


@cache
def thrice(code: str, before: str = "") -> list[tuple[float, float, set[str]]]:
    return [measured(code, before=before) for _ in range(3)]


def test_importing_chreode_imports_no_library():
    _, _, packages = measured("import chreode")
    assert not packages & (HEAVY | {"torch", "numpy", "pandas", "scipy", "rich", "typer"})


def test_help_needs_no_torch():
    packages = thrice(HELP)[0][2]
    assert not packages & (HEAVY | {"torch", "numpy", "pandas", "scipy"})
    assert "chreode" in packages


def test_help_answers_in_half_a_second():
    assert min(whole for _, whole, _ in thrice(HELP)) < 0.5


def test_front_door_waits_with_heavy_libraries():
    packages = thrice(FRONT_DOOR, "import torch")[0][2]
    assert not packages & HEAVY
    assert "chreode" in packages


def test_front_door_adds_less_than_a_third_of_a_second_to_torch():
    # The least of several: what else the machine does only ever adds.
    assert min(measured(FRONT_DOOR, before="import torch")[0] for _ in range(8)) < 0.3


@pytest.mark.parametrize("first", ["import chreode.fitted", "import chreode.recipe, chreode.storage", ""])
def test_names_are_what_they_say_whatever_was_imported_before(first):
    code = f"""
import sys
{first}
import chreode as ch
for name in ("fit", "load", "read", "distil", "cite", "simulate", "recipe"):
    assert callable(getattr(ch, name)), name
for name in ("recipes", "datasets", "evaluate", "report"):
    assert type(getattr(ch, name)).__name__ == "module", name
assert set(ch.__all__) <= set(dir(ch))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_says_what_there_is():
    import chreode

    with pytest.raises(AttributeError, match=r"no attribute 'reed'; it has .*read"):
        chreode.reed  # noqa: B018
