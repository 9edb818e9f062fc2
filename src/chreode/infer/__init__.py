"""How codes are inferred: looked up, or encoded."""

from chreode.infer.codebook import Codebook, VariationalCodebook
from chreode.infer.contrast import Block, ContrastiveStart, PrivateStart
from chreode.infer.coordinates import Coordinates
from chreode.infer.distilled import DistilledEncoder
from chreode.infer.encoder import Encoder, VariationalEncoder
from chreode.infer.factors import likelihood_factors, sparse_factors
from chreode.infer.fused import ExpertEncoder, FusedEncoder
from chreode.infer.gaussian import LinearGaussian
from chreode.infer.joint_start import JointStart
from chreode.infer.levels import LevelCodes
from chreode.infer.noisy import NoisyEncoder
from chreode.infer.origin import GradientOrigin
from chreode.infer.principal import PrincipalComponents
from chreode.infer.start import PrincipalStart, remove_batches

__all__ = [
    "Block",
    "Codebook",
    "ContrastiveStart",
    "Coordinates",
    "DistilledEncoder",
    "Encoder",
    "ExpertEncoder",
    "FusedEncoder",
    "GradientOrigin",
    "JointStart",
    "LevelCodes",
    "LinearGaussian",
    "NoisyEncoder",
    "PrincipalComponents",
    "PrincipalStart",
    "PrivateStart",
    "VariationalCodebook",
    "VariationalEncoder",
    "likelihood_factors",
    "remove_batches",
    "sparse_factors",
]
