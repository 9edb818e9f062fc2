"""How codes are inferred: looked up, or encoded."""

from chreode.infer.codebook import Codebook
from chreode.infer.encoder import Encoder
from chreode.infer.start import PrincipalStart, remove_batches

__all__ = ["Codebook", "Encoder", "PrincipalStart", "remove_batches"]
