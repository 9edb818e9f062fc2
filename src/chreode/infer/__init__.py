"""How codes are inferred: looked up, or encoded."""

from chreode.infer.codebook import Codebook, VariationalCodebook
from chreode.infer.encoder import Encoder, VariationalEncoder
from chreode.infer.fused import ExpertEncoder, FusedEncoder
from chreode.infer.joint_start import JointStart
from chreode.infer.start import PrincipalStart, remove_batches

__all__ = [
    "Codebook",
    "Encoder",
    "ExpertEncoder",
    "FusedEncoder",
    "JointStart",
    "PrincipalStart",
    "VariationalCodebook",
    "VariationalEncoder",
    "remove_batches",
]
