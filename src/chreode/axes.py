"""The letters every tensor's shape is written in, and the aliases that use them.

===  ==========================================
n    cells (of a minibatch or a data set)
g    features of one modality
d    dimensions of a code
k    components of a mixture
c    levels of a covariate
t    times
m    modalities
s    samples
===  ==========================================

A signature says ``Float[Tensor, "n g"]``; the shapes are checked in the tests, where
``pytest`` installs jaxtyping's import hook with beartype, and cost nothing elsewhere.
"""

from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

__all__ = ["Bool", "Float", "Int", "Shaped", "Tensor"]
