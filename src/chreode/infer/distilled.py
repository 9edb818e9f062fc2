"""An encoder that was trained after the fit, and the steps that bring its answer to the best code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.infer.encoder import Encoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chreode.layout import Layout

__all__ = ["DistilledEncoder"]


class DistilledEncoder(nn.Module):
    """An encoder, and the information that a molecule has on the code that it gives.

    .. math:: \\Delta z_i = -(s_i F + P)^{-1} \\nabla E_i

    is the step of Fisher scoring down the energy, the negative log joint of code and counts. The matrices are
    those of the average cell, so that a step costs one gradient: :math:`F` is the expected information of a
    molecule, :math:`P` that of the prior. One basis :math:`V` makes both diagonal,
    :math:`V^T P V = 1` and :math:`V^T F V = \\operatorname{diag}(\\lambda)`, and no system is solved:
    :math:`(s_i F + P)^{-1} = V \\operatorname{diag}\\big((1 + s_i \\lambda)^{-1}\\big) V^T`.

    Parameters
    ----------
    layout
        The features of its one modality are read.
    dim
        Dimensions ``d`` of the code.
    hidden, dropout
        As in `Encoder`.
    """

    basis: Float[Tensor, "d d"]
    informed: Float[Tensor, " d"]

    def __init__(
        self, layout: Layout, dim: int, *, hidden: Sequence[int] = (256,), dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.encoder = Encoder(layout, dim, hidden=hidden, dropout=dropout)
        self.register_buffer("basis", torch.eye(dim))
        self.register_buffer("informed", torch.zeros(dim))

    @property
    def widths(self) -> list[int]:
        """Widths of the encoder's hidden layers, and the dimensions of the code."""
        return self.encoder.widths

    def inform(self, molecule: Float[Tensor, "d d"], prior: Float[Tensor, "d d"]) -> None:
        """Set the information of a molecule and that of the prior."""
        # A prior may be flat in a direction; this keeps the steps there finite.
        least = 1e-4 * (1 + prior.diagonal().mean()) * torch.eye(len(prior))
        root = torch.linalg.inv(torch.linalg.cholesky(prior + least))
        informed, turned = torch.linalg.eigh(root @ molecule @ root.T)
        self.basis.copy_(root.T @ turned)
        self.informed.copy_(informed.clamp(min=0))

    def step(
        self, slope: Float[Tensor, "n d"], size: Float[Tensor, " n"], length: Float[Tensor, "n 1"]
    ) -> Float[Tensor, "n d"]:
        """So much of the step for the gradient of the *log joint*, in cells of so many molecules.

        It is cut to :math:`\\Delta z^T (s F + P) \\Delta z \\le d`, the mean of that square under a Gaussian
        posterior: the quadratic form that the step is made for describes the energy no further.
        """
        turned = slope @ self.basis
        whole = turned / (1 + size[:, None] * self.informed)
        square = (whole * turned).sum(1, keepdim=True)
        most = (len(self.informed) / square.clamp(min=1e-12)).sqrt()
        return torch.minimum(length, most) * (whole @ self.basis.T)
