"""Whether compiled likelihoods are there, and worth it."""

from __future__ import annotations

import importlib
import logging
from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from types import ModuleType

    from chreode.axes import Float, Tensor

__all__ = ["compiled_for"]


def compiled_for(raw: Float[Tensor, "n m"], name: str = "fused") -> ModuleType | None:
    """The file of this name in this room, where it can score outputs of this kind faster than PyTorch."""
    if raw.device.type != "cpu" or raw.dtype != torch.float32:
        return None
    found = load(name)
    return found if found is not None and importlib.import_module("chreode.openmp").worth_it() else None


@cache
def load(name: str) -> ModuleType | None:
    """Import it when it is first needed: numba takes long to load and, once on a machine, to compile."""
    try:
        return importlib.import_module(f"chreode.likelihoods.{name}")
    except Exception as problem:
        logging.getLogger(__name__).warning(
            "Likelihoods could not be compiled, so training is slower: %s", problem
        )
        return None
