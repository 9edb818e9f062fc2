"""What jaxtyping's hook checks in every test (see ``--jaxtyping-packages`` in pyproject.toml).

Shapes of tensors, and nothing else: beartype refuses ``weight=1`` where ``float`` is written. The hook
decorates every function, those within functions anew at each call; one without a shape in its signature is
left as it is, which spares the tests a third of their time.
"""

from __future__ import annotations

import inspect
import re
import typing
from functools import partial

import jaxtyping
from beartype import beartype
from jaxtyping import AbstractArray

WRITTEN = re.compile(r"\b(?:Bool|Float|Int|Shaped)\[")  # of a hint that is not evaluated


def tensors(function):
    """Beartype that sees only the annotations with shapes in them."""
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if _has_shape(hint)}
    return beartype(function) if function.__annotations__ else function


def only_shaped(decorator):
    """Jaxtyping's decorator, which leaves functions and dataclasses without shapes alone."""

    def chosen(one, *, typechecker):
        hints = getattr(one.__init__ if inspect.isclass(one) else one, "__annotations__", {})
        return decorator(one, typechecker=typechecker) if any(map(_has_shape, hints.values())) else one

    return lambda *, typechecker: partial(chosen, typechecker=typechecker)


def _has_shape(hint: object) -> bool:
    if isinstance(hint, str):
        return WRITTEN.search(hint) is not None
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_has_shape(inner) for inner in typing.get_args(hint))


jaxtyping.jaxtyped = only_shaped(jaxtyping.jaxtyped)  # where the hook looks it up
