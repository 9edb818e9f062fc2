"""What tries to tell levels from codes, and how codes answer to it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import nn

from chreode.axes import Float, Int, Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Critic", "adversarial"]


class Critic(nn.Module):
    """A small network that tells the levels of a column from codes.

    Parameters
    ----------
    dim
        Dimensions of a code.
    n_levels
        Levels of the column.
    hidden
        Widths of its hidden layers.
    """

    log_share: Tensor

    def __init__(self, dim: int, n_levels: int, *, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        pairs = itertools.pairwise([dim, *hidden])
        layers = [part for a, b in pairs for part in (nn.Linear(a, b), nn.ReLU())]
        self.layers = nn.Sequential(*layers, nn.Linear([dim, *hidden][-1], n_levels))
        self.register_buffer("log_share", torch.full((n_levels,), -float(torch.tensor(n_levels).log())))

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Log odds of the levels for each code."""
        return self.layers(z)

    @torch.no_grad()
    def count(self, number: Float[Tensor, " k"]) -> None:
        """Take the share of the cells that each level has: what could be said without looking at codes."""
        self.log_share.copy_((number.clamp(min=1) / number.clamp(min=1).sum()).log())


def adversarial(
    critic: Critic, z: Float[Tensor, "n d"], levels: Int[Tensor, " n"], *, weight: float = 1.0
) -> Float[Tensor, " n"]:
    r"""The critic's loss, through which codes learn to be of no use to it: gradient reversal, bounded.

    .. math::
        \min_r\ \mathbb{E}\,[-\log r(y \mid z)], \qquad
        \min_z\ \lambda\,\mathbb{E} \max\Big(0,\ \log \frac{r(y \mid z)}{\pi_y}\Big)

    Both at once: the value is the critic's cross-entropy, and its gradient by the codes is that of the
    second. A code that the critic tells no better than the share :math:`\pi_y` of its level does has nothing
    left to gain. Without this bound codes would run to where the critic is sure of a *wrong* level, and tell
    as much.

    Parameters
    ----------
    critic
        Its parameters get the gradient of the first.
    z
        Codes.
    levels
        Level of each cell; -1, unknown, counts nothing.
    weight
        :math:`\lambda`, at least 0.

    References
    ----------
    Ganin et al. (2016), Domain-adversarial training of neural networks, doi:10.48550/arXiv.1505.07818.
    """
    told = nn.functional.cross_entropy(critic(z.detach()), levels, ignore_index=-1, reduction="none")
    held = {name: value.detach() for name, value in critic.named_parameters()}
    logits = torch.func.functional_call(critic, held, (z,))
    seen = nn.functional.cross_entropy(logits, levels, ignore_index=-1, reduction="none")
    chance = -critic.log_share[levels.clamp(min=0)]
    gain = weight * (chance - seen).clamp(min=0) * (levels >= 0)
    return told + gain - gain.detach()
