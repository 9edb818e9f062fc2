"""From codes to the distribution of what was measured."""

from chreode.decoders.bypass import Bypass
from chreode.decoders.hidden import Hidden
from chreode.decoders.joint import Joint
from chreode.decoders.layered import layered
from chreode.decoders.linear import Linear
from chreode.decoders.mlp import MLP
from chreode.decoders.readout import Readout
from chreode.decoders.summed import Summed

__all__ = ["MLP", "Bypass", "Hidden", "Joint", "Linear", "Readout", "Summed", "layered"]
