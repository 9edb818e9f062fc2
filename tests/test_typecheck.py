"""Shapes in signatures are checked in the tests, and only they cost time."""

from __future__ import annotations

import importlib
import inspect
import typing
from dataclasses import is_dataclass

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from chreode.cells import Cells, pair_numbers
from chreode.dynamics import rk4
from chreode.perturb.null import Verdict
from chreode.words import many
from typecheck import _has_shape

MODULES = (
    "cells",
    "csr",
    "dynamics.motion",
    "dynamics.solve",
    "infer.codebook",
    "interpret.interactions",
    "likelihoods.counts",
    "priors.mixture",
)


def test_a_wrong_shape_is_refused():
    z, t = torch.ones(2, 1), torch.zeros(3)
    with pytest.raises(TypeCheckError, match="rk4"):
        rk4(lambda z, t: z, z, t, t)
    with pytest.raises(TypeCheckError, match="pair_numbers"):
        pair_numbers(torch.ones(2, 1, dtype=torch.int64), torch.ones(2, dtype=torch.int64))
    with pytest.raises(TypeCheckError, match="Verdict"):
        Verdict(np.zeros(2), np.zeros(3), inflation=1.0)


def functions(module):
    """All functions of a module, and those of its classes."""
    for one in vars(module).values():
        if getattr(one, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(one):
            yield one
        elif inspect.isclass(one):
            inside = [f.fget if isinstance(f, property) else f for f in vars(one).values()]
            # What dataclasses write is checked by its own test.
            yield from (f for f in inside if inspect.isfunction(f) and not is_dataclass(one))


def checked(function) -> bool:
    """Whether jaxtyping's wrapper is among those around a function."""
    while function is not None and function.__code__.co_name != "wrapped_fn":
        function = getattr(function, "__wrapped__", None)
    return function is not None


@pytest.mark.parametrize("name", MODULES)
def test_what_has_shapes_is_checked(name):
    shaped = 0
    for function in functions(importlib.import_module(f"chreode.{name}")):
        try:
            hints = typing.get_type_hints(inspect.unwrap(function))
        except NameError:  # of names for type checkers alone
            continue
        if any(map(_has_shape, hints.values())):
            assert checked(function), function
            shaped += 1
    assert shaped


def test_what_has_none_is_left_as_it_was_written():
    assert not checked(many)
    assert not checked(Cells.__setattr__)
    assert checked(rk4)
