"""A decoder by the widths of its hidden layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chreode.decoders.linear import Linear
from chreode.decoders.mlp import MLP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from chreode.layout import Layout

__all__ = ["layered"]


def layered(
    layout: Layout,
    inputs: Mapping[str, int],
    *,
    heads: Mapping[str, Callable[[int], nn.Module]],
    hidden: Sequence[int],
) -> Linear | MLP:
    """A perceptron with these hidden layers; a linear decoder where there are none.

    Parameters
    ----------
    layout
        Features, kinds and conditions.
    inputs
        Dimensions of each latent, by name.
    heads
        Likelihood head by modality.
    hidden
        Widths of the hidden layers.
    """
    if not hidden:
        return Linear(layout, inputs, heads=heads)
    return MLP(layout, inputs, heads=heads, hidden=hidden)
