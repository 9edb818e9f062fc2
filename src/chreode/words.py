"""How numbers and nouns go together in what is told."""

from __future__ import annotations

import numpy as np

__all__ = ["level_name", "many"]


def many(number: int, one: str, several: str | None = None) -> str:
    """A number with its noun.

    Parameters
    ----------
    number
        How many.
    one, several
        What follows 1, and what follows any other number; by default the same with an s.

    Examples
    --------
    >>> many(1, "epoch"), many(2638, "cell"), many(0, "feature was", "features were")
    ('1 epoch', '2,638 cells', '0 features were')
    """
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def level_name(level: object) -> str:
    """What a level is called: a whole number that became a float is still whole.

    Examples
    --------
    >>> level_name(2.0), level_name(b"a"), level_name(0.5)
    ('2', 'a', '0.5')
    """
    if isinstance(level, (float, np.floating)) and float(level).is_integer():
        return str(int(level))
    return level.decode() if isinstance(level, bytes) else str(level)
