"""Compiled loops on the threads that PyTorch itself computes with."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import llvmlite.binding
import numpy as np
import torch
from numba import types

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chreode.axes import Tensor

__all__ = ["ADDRESSES", "run", "thread_count", "thread_number", "threads", "worth_it"]

ADDRESSES = types.CPointer(types.voidptr)
"""The one argument, for numba, of a function that `run` takes."""


def _found() -> Any | None:
    """The OpenMP library that PyTorch loaded, where it has GNU's entry; Intel's and LLVM's on Linux do."""
    try:
        library = ctypes.CDLL(None)
        library.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        library.GOMP_parallel.restype = None
        _ = library.omp_get_thread_num, library.omp_get_num_threads
    except (AttributeError, OSError, TypeError):
        return None
    return library


_LIBRARY = _found()
_integer = ctypes.CFUNCTYPE(ctypes.c_int)
# Without OpenMP these two answer; the names keep them alive.
_first, _only = _integer(lambda: 0), _integer(lambda: 1)


def _known(name: str, function: Any) -> Any:
    llvmlite.binding.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
    return types.ExternalFunction(name, types.int32())


thread_number = _known("chreode_thread_number", _LIBRARY.omp_get_thread_num if _LIBRARY else _first)
"""Number of the thread that asks, from 0; for compiled functions."""
thread_count = _known("chreode_thread_count", _LIBRARY.omp_get_num_threads if _LIBRARY else _only)
"""How many threads `run` the function; for compiled functions."""


def threads() -> int:
    """Threads that `run` uses: PyTorch's, or one where its OpenMP library has no entry for others."""
    return torch.get_num_threads() if _LIBRARY else 1


def worth_it() -> bool:
    """Whether compiled loops are faster than PyTorch's passes: by about four times, on as many threads."""
    return 4 * threads() >= torch.get_num_threads()


def run(address: int, arguments: Sequence[Tensor]) -> None:
    """Call a compiled function once on each thread.

    PyTorch's own threads are woken, so that none waits for a core which another pool of threads keeps busy,
    and each finds in its cache what it wrote there before.

    Parameters
    ----------
    address
        Of a function of `ADDRESSES` that asks `thread_number` which part is its own.
    arguments
        Contiguous tensors on the CPU, whose memory it is given. Nothing checks their types.
    """
    pointers = np.array([each.data_ptr() for each in arguments], dtype=np.uintp)
    if _LIBRARY:
        _LIBRARY.GOMP_parallel(address, pointers.ctypes.data, threads(), 0)
    else:
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(pointers.ctypes.data)
