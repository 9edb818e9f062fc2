"""Recipes that come to nothing once 200 cells or fewer train, in a module that another process can import."""

from __future__ import annotations

import os

from chreode.errors import InputError
from chreode.recipe import recipe


@recipe(code="cell")
def refusing(layout):
    """Refuse the cells that train."""
    if layout.n_cells <= 200:
        msg = f"Expected other cells; found {layout.n_cells}. Bring some."
        raise InputError(msg)


@recipe(code="cell")
def dying(layout):
    """End the process as the system does for want of memory."""
    if layout.n_cells <= 200:
        os.kill(os.getpid(), 9)
