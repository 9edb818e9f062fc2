"""A prior made of posteriors: the encoder's answers to inputs that are learned."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.priors.gaussians import MixtureDensity

if TYPE_CHECKING:
    from chreode.cells import Cells
    from chreode.infer.encoder import VariationalEncoder

__all__ = ["VampPrior"]


class VampPrior(nn.Module):
    """A mixture of the posteriors of pseudo-cells.

    .. math:: p(z) = \\frac1K \\sum_k q(z \\mid u_k)

    whose values :math:`u_k`, as the encoder reads them, are learned with everything else. They begin at
    random training cells (`start`). The encoder answers without dropout and by the running statistics of its
    normalisation.

    Parameters
    ----------
    encoder
        Of the cells; it sees no conditions. It is the model's own and not a part of the prior.
    dim
        Dimensions of a code ``d``.
    inputs
        How many pseudo-cells ``k``, at least 1.

    Notes
    -----
    Pseudo-cells are no clusters, so that ``count`` is 0: they give no components. Values are not kept in the
    range of real ones (published: by a hard tanh, for images).

    References
    ----------
    Tomczak and Welling (2018), VAE with a VampPrior, doi:10.48550/arXiv.1705.07120.
    """

    cite: ClassVar[tuple[str, ...]] = ("vamp",)
    count = 0

    def __init__(self, encoder: VariationalEncoder, dim: int, *, inputs: int = 50) -> None:
        super().__init__()
        self.dim = dim
        # In a tuple it is no part: its weights are saved and stepped once, where it belongs.
        self._encoder = (encoder,)
        n_features: Any = encoder.encoder.n_features
        self.inputs = nn.Parameter(torch.zeros(inputs, n_features))

    def forward(self, cells: Cells | None = None, given: Any = None) -> MixtureDensity:
        """The density of the codes of ``cells``, the same for all of them."""
        encoder = self._encoder[0]
        training = encoder.training
        encoder.eval()
        posterior = encoder.of_values(self.inputs)
        encoder.train(training)
        equal = torch.full((len(self.inputs),), -math.log(len(self.inputs))).to(self.inputs)
        return MixtureDensity(equal, posterior.mean, posterior.variance.log())

    def mixture(self) -> MixtureDensity:
        """The density of the codes of any cell."""
        return self()

    @torch.no_grad()
    def start(self, values: Float[Tensor, "n g"], generator: torch.Generator) -> None:
        """Begin at these values, and at some of them twice where there are fewer than pseudo-cells."""
        rows = torch.randint(len(values), (len(self.inputs),), generator=generator)
        rows[: len(values)] = torch.randperm(len(values), generator=generator)[: len(rows)]
        self.inputs.copy_(values[rows.to(values.device)])

    def log_hyper(self) -> Float[Tensor, ""]:
        """Zero: pseudo-cells have no prior of their own."""
        return torch.zeros(())

    @torch.no_grad()
    def modes(self) -> Float[Tensor, "k d"]:
        """Means of the posteriors of pseudo-cells."""
        return self().means
