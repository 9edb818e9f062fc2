"""How cells move in time: fields, their solution, and what is matched to observed snapshots."""

from chreode.dynamics.clamp import Clamp
from chreode.dynamics.coupling import interpolate, pairs, transport
from chreode.dynamics.fields import LocallyLinear, Perceptron
from chreode.dynamics.growth import growth_rates
from chreode.dynamics.linearised import Linearised
from chreode.dynamics.matching import mmd, sinkhorn
from chreode.dynamics.motion import Motion
from chreode.dynamics.solve import dormand_prince, exponential, rk4

__all__ = [
    "Clamp",
    "Linearised",
    "LocallyLinear",
    "Motion",
    "Perceptron",
    "dormand_prince",
    "exponential",
    "growth_rates",
    "interpolate",
    "mmd",
    "pairs",
    "rk4",
    "sinkhorn",
    "transport",
]
