"""Recipes that come to nothing, in a module that another process can import."""

from __future__ import annotations

import os

from chreode.errors import InputError
from chreode.recipe import recipe


@recipe(code="cell")
def refusing(layout):
    """Refuse the cells."""
    msg = f"Expected other cells; found {layout.n_cells}. Bring some."
    raise InputError(msg)


@recipe(code="cell")
def dying(layout):
    """End the process as the system does for want of memory."""
    os.kill(os.getpid(), 9)
