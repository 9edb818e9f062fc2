"""How numbers and nouns go together in what is told."""

from __future__ import annotations

__all__ = ["many"]


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
