"""Memory: kept where it is asked for again and again, and how much of it was ever held."""

from __future__ import annotations

import ctypes
import re
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["cells_at_a_time", "kept_memory", "peak_resident"]

# glibc's names for what `mallopt` sets: from how much free memory on some is given back, and from what size
# on memory is asked of the system by itself.
_TRIM, _MAP = -1, -3
# Where glibc's own adjustment of both ends.
_USUAL = 32 << 20
_MOST = 2**31 - 1
# Entries of a block of cells by features: several arrays of this size are worked with.
_ENTRIES = 128 * 20_000
# The settings are the process's: a look at held-out cells must not end what the fit around it began.
_inside: list[bool] = []


def cells_at_a_time(width: int, *, most: int = 512) -> int:
    """How many cells by so many features are worked on at a time: up to ``most``, at least 96.

    Fewer would spend their time on what is done once a call for each feature, such as rounding the weights.

    Examples
    --------
    >>> cells_at_a_time(2_000), cells_at_a_time(50_000)
    (512, 96)
    """
    return max(96, min(most, _ENTRIES // max(1, width)))


@contextmanager
def kept_memory() -> Iterator[None]:
    """Inside, large arrays that are freed are used again.

    Otherwise the C library gives arrays above 32 MB back to the system at once and asks for them anew at the
    next step, and the system clears every page: a third of the time of a step over 50,000 peaks. Elsewhere
    than under glibc nothing changes.
    """
    library = _glibc()
    if library is None or _inside:
        yield
        return
    library.malloc_trim(0)
    library.mallopt(_MAP, _MOST)
    library.mallopt(_TRIM, _MOST)
    _inside.append(True)
    try:
        yield
    finally:
        _inside.pop()
        library.mallopt(_MAP, _USUAL)
        library.mallopt(_TRIM, 2 * _USUAL)
        library.malloc_trim(0)


def _glibc() -> Any | None:
    try:
        library = ctypes.CDLL(None)
        _ = library.mallopt, library.malloc_trim, library.gnu_get_libc_version
    except (AttributeError, OSError, TypeError):
        return None
    return library


def peak_resident(*, reset: bool = False) -> int | None:
    """The most memory that this process has held, in bytes; None where the system does not say.

    Parameters
    ----------
    reset
        Whether to begin anew from what is held now, after what is free was given back; Linux alone can,
        elsewhere the most of the whole life of the process is told.

    Examples
    --------
    >>> peak_resident() is None or peak_resident() > 2**20
    True
    """
    if sys.platform == "linux":
        if reset:
            if library := _glibc():
                library.malloc_trim(0)
            with suppress(OSError):  # some containers do not allow it
                Path("/proc/self/clear_refs").write_text("5")
        with suppress(OSError):
            found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
            if found:
                return int(found[1]) * 1024
    if sys.platform == "win32":
        return _windows_peak()
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _windows_peak() -> int | None:
    from ctypes import wintypes

    class Counters(ctypes.Structure):
        _fields_ = (
            ("size", wintypes.DWORD),
            ("faults", wintypes.DWORD),
            ("peak", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 7),
        )

    counters = Counters(size=ctypes.sizeof(Counters))
    kernel: Any = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined]
    kernel.GetCurrentProcess.restype = wintypes.HANDLE
    kernel.K32GetProcessMemoryInfo.argtypes = (wintypes.HANDLE, ctypes.POINTER(Counters), wintypes.DWORD)
    found = kernel.K32GetProcessMemoryInfo(
        kernel.GetCurrentProcess(), ctypes.byref(counters), ctypes.sizeof(Counters)
    )
    return int(counters.peak) if found else None
