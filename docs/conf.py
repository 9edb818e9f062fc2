"""How the documentation is built: ``make docs``; the reference is written from the sources, room by room."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import chreode

project = "chreode"
author = "The chreode developers"
copyright = "2026, The chreode developers"
release = version = chreode.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}

html_theme = "pydata_sphinx_theme"
html_title = "chreode"
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False}
html_show_sourcelink = False

default_role = "py:obj"
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"


def write_reference(folder: Path) -> None:
    """One page a room, one section a module, so that a new module needs no line anywhere."""
    rooms: dict[str, list[str]] = {}
    for found in pkgutil.walk_packages(chreode.__path__, "chreode."):
        room = found.name.split(".")[1]
        rooms.setdefault(room if Path(chreode.__path__[0], room).is_dir() else "spine", []).append(found.name)
    folder.mkdir(exist_ok=True)
    for room, modules in rooms.items():
        lines = [f"# {room}", ""]
        for name in modules:
            if not hasattr(importlib.import_module(name), "__path__"):
                lines += [f"## {name}", "", "```{eval-rst}", f".. automodule:: {name}", "```", ""]
            else:
                lines += ["```{eval-rst}", f".. automodule:: {name}", "   :no-members:", "```", ""]
        page = folder / f"{room}.md"
        text = "\n".join(lines)
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


write_reference(Path(__file__).parent / "api")
