"""What jaxtyping's hook checks in every test (see ``--jaxtyping-packages`` in pyproject.toml).

Shapes of tensors, and nothing else: beartype refuses ``weight=1`` where ``float`` is written.
"""

from __future__ import annotations

import typing

from beartype import beartype
from jaxtyping import AbstractArray


def tensors(function):
    """Beartype that sees only the annotations with shapes in them."""
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if _has_shape(hint)}
    return beartype(function) if function.__annotations__ else function


def _has_shape(hint: object) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_has_shape(inner) for inner in typing.get_args(hint))
