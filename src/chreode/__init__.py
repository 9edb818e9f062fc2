"""Latent-variable models of single cells: read, fit, project, write.

This is the front door. It opens a room only when it is asked for: importing chreode imports neither torch
nor any library of the field.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chreode import evaluate, recipes, report
    from chreode.compare import compare
    from chreode.distil import distil
    from chreode.embedded import Embedded
    from chreode.errors import InputError
    from chreode.evaluate.doublets import doublets
    from chreode.fit import fit
    from chreode.fitted import FittedModel
    from chreode.interpret import abundance, de, fates, interactions, markers, pseudobulk
    from chreode.interpret.enrichment import enrichment
    from chreode.interpret.loadings import loadings, variance_explained
    from chreode.interpret.match import match
    from chreode.interpret.naming import name_dimensions
    from chreode.interpret.proteins import foreground
    from chreode.interpret.resolution import multiresolution
    from chreode.io import datasets
    from chreode.io.gene_sets import read_gmt
    from chreode.io.read import read
    from chreode.io.simulate import simulate
    from chreode.levels import add_levels
    from chreode.load import load
    from chreode.perturb import counterfactual, linkage, response
    from chreode.recipe import recipe
    from chreode.scvi_tools import from_scvi
    from chreode.storage import cite

__version__ = "0.1.0"
__all__ = [
    "Embedded",
    "FittedModel",
    "InputError",
    "abundance",
    "add_levels",
    "cite",
    "compare",
    "counterfactual",
    "datasets",
    "de",
    "distil",
    "doublets",
    "enrichment",
    "evaluate",
    "fates",
    "fit",
    "foreground",
    "from_scvi",
    "interactions",
    "linkage",
    "load",
    "loadings",
    "markers",
    "match",
    "multiresolution",
    "name_dimensions",
    "pseudobulk",
    "read",
    "read_gmt",
    "recipe",
    "recipes",
    "report",
    "response",
    "simulate",
    "variance_explained",
]

# Where each name lives: "module:attribute", or a whole module.
_WHERE = {
    "Embedded": "chreode.embedded:Embedded",
    "FittedModel": "chreode.fitted:FittedModel",
    "InputError": "chreode.errors:InputError",
    "abundance": "chreode.interpret.abundance:abundance",
    "add_levels": "chreode.levels:add_levels",
    "cite": "chreode.storage:cite",
    "compare": "chreode.compare:compare",
    "counterfactual": "chreode.perturb.counterfactual:counterfactual",
    "datasets": "chreode.io.datasets",
    "de": "chreode.interpret.differential:de",
    "distil": "chreode.distil:distil",
    "doublets": "chreode.evaluate.doublets:doublets",
    "enrichment": "chreode.interpret.enrichment:enrichment",
    "evaluate": "chreode.evaluate",
    "fates": "chreode.interpret.fates:fates",
    "fit": "chreode.fit:fit",
    "foreground": "chreode.interpret.proteins:foreground",
    "from_scvi": "chreode.scvi_tools:from_scvi",
    "interactions": "chreode.interpret.interactions:interactions",
    "linkage": "chreode.perturb.linkage:linkage",
    "load": "chreode.load:load",
    "loadings": "chreode.interpret.loadings:loadings",
    "markers": "chreode.interpret.markers:markers",
    "match": "chreode.interpret.match:match",
    "multiresolution": "chreode.interpret.resolution:multiresolution",
    "name_dimensions": "chreode.interpret.naming:name_dimensions",
    "pseudobulk": "chreode.interpret.pseudobulk:pseudobulk",
    "read": "chreode.io.read:read",
    "read_gmt": "chreode.io.gene_sets:read_gmt",
    "recipe": "chreode.recipe:recipe",
    "recipes": "chreode.recipes",
    "report": "chreode.report",
    "response": "chreode.perturb.answers:response",
    "simulate": "chreode.io.simulate:simulate",
    "variance_explained": "chreode.interpret.loadings:variance_explained",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        msg = f"module 'chreode' has no attribute {name!r}; it has {', '.join(__all__)}"
        raise AttributeError(msg)
    module, _, attribute = _WHERE[name].partition(":")
    found = importlib.import_module(module)
    if attribute:
        found = getattr(found, attribute)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


class _FrontDoor(ModuleType):
    """Keeps ``chreode.fit`` the function when Python binds the submodule of that name to its package."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and ":" in _WHERE.get(name, "")):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _FrontDoor
