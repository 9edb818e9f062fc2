"""The methods, by the names of their papers; each is a few parts put together."""

from chreode.recipes.autodecoder import autodecoder
from chreode.recipes.dgd import dgd, scdgd

__all__ = ["autodecoder", "dgd", "scdgd"]
