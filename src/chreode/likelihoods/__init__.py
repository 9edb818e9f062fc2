"""Likelihood heads: from a decoder's raw outputs to the distribution of what was measured.

A head is called with the raw outputs (``n x outputs*g``), the cells' sizes and the mask of measured
features, and returns a distribution with ``log_prob(CSR | dense)``, ``mean``, ``variance``,
``proportions``, ``zero_probability`` and ``sample(generator)``. Its ``kinds`` name the data it holds.
"""

from torch import nn

from chreode.likelihoods.accessibility import Accessibility
from chreode.likelihoods.binary import Bernoulli
from chreode.likelihoods.continuous import Normal
from chreode.likelihoods.counts import NegativeBinomial, ZeroInflatedNegativeBinomial
from chreode.likelihoods.dropped import DroppedNormal
from chreode.likelihoods.free import FreeNegativeBinomial
from chreode.likelihoods.poisson import Poisson
from chreode.likelihoods.protein import ProteinMixture

__all__ = [
    "Accessibility",
    "Bernoulli",
    "DroppedNormal",
    "FreeNegativeBinomial",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "ProteinMixture",
    "ZeroInflatedNegativeBinomial",
    "heads",
    "usual",
]

heads: dict[str, type[nn.Module]] = {
    "nb": NegativeBinomial,
    "nb_free": FreeNegativeBinomial,
    "poisson": Poisson,
    "zinb": ZeroInflatedNegativeBinomial,
    "bernoulli": Bernoulli,
    "accessibility": Accessibility,
    "normal": Normal,
    "protein": ProteinMixture,
}

# The head of each kind of values, where none is named.
usual = {"counts": "nb", "binary": "bernoulli", "continuous": "normal"}
