"""How codes are distributed before anything is measured."""

from chreode.priors.ball import Ball, BallDensity
from chreode.priors.conditional import ConditionalDensity, ConditionalNormal
from chreode.priors.gaussians import MixtureDensity
from chreode.priors.hierarchy import HierarchyDensity, LabelHierarchy
from chreode.priors.labelled import LabelledDensity, LabelledMixture
from chreode.priors.mixture import Mixture
from chreode.priors.normal import Flat, FlatDensity, NormalDensity, ShiftedNormal, StandardNormal
from chreode.priors.placement import count_communities
from chreode.priors.softball import Softball
from chreode.priors.switched import SwitchedDensity, SwitchedNormal
from chreode.priors.vamp import VampPrior
from chreode.priors.weights import weight_precision

__all__ = [
    "PRIORS",
    "Ball",
    "BallDensity",
    "ConditionalDensity",
    "ConditionalNormal",
    "Flat",
    "FlatDensity",
    "HierarchyDensity",
    "LabelHierarchy",
    "LabelledDensity",
    "LabelledMixture",
    "Mixture",
    "MixtureDensity",
    "NormalDensity",
    "ShiftedNormal",
    "Softball",
    "StandardNormal",
    "SwitchedDensity",
    "SwitchedNormal",
    "VampPrior",
    "count_communities",
    "weight_precision",
]

PRIORS = {
    "ball": Ball,
    "conditional": ConditionalNormal,
    "hierarchy": LabelHierarchy,
    "labelled": LabelledMixture,
    "mixture": Mixture,
    "normal": StandardNormal,
    "softball": Softball,
    "switched": SwitchedNormal,
    "vamp": VampPrior,
}
