"""What parts exchange: codes, what a latent may look at, and the two kinds of distribution.

It stands below the parts so that they need not know the model that joins them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from chreode.axes import Float, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from chreode.cells import CSR

__all__ = ["Code", "Density", "Given", "Observed"]


@runtime_checkable
class Density(Protocol):
    """What a prior returns: something with a log density over codes."""

    def log_prob(self, z: Float[Tensor, "n d"], /) -> Float[Tensor, " n"]:
        """Log density of each code, in nats."""
        ...

    def sample(self, n: int, generator: torch.Generator, /) -> Float[Tensor, "n d"]:
        """Draw codes."""
        ...

    def kl(self, posterior: Any, z: Float[Tensor, "n d"], /) -> Float[Tensor, " n"]:
        """How far a posterior is from it, in nats: in closed form, or by the codes ``z`` drawn from it."""
        ...


@runtime_checkable
class Observed(Protocol):
    """What a likelihood head returns: the distribution of one modality's values in each cell."""

    def log_prob(self, measured: CSR | Tensor, /) -> Float[Tensor, " n"]:
        """Log probability of what was measured, summed over the features of the panel, in nats."""
        ...

    def sample(self, generator: torch.Generator, /) -> Float[Tensor, "n g"]:
        """Draw values."""
        ...

    @property
    def proportions(self) -> Float[Tensor, "n g"]:
        """Expected share of the total, for counts; the mean, for other values."""
        ...

    @property
    def mean(self) -> Float[Tensor, "n g"]:
        """Expected values (with the cell's size factor)."""
        ...


class Code:
    """The code of each cell in one latent, and its posterior where inference has one.

    Parameters
    ----------
    z
        What the decoder sees.
    posterior
        Its distribution, where inference has one.
    centre
        The code itself, where ``z`` is a noisy copy of it; the prior judges the centre.
    """

    __slots__ = ("centre", "posterior", "z")

    def __init__(
        self, z: Float[Tensor, "n d"], posterior: Any = None, *, centre: Float[Tensor, "n d"] | None = None
    ) -> None:
        self.z = z
        self.posterior = posterior
        self.centre = z if centre is None else centre


class Given:
    """What a latent may look at when it is inferred: the latents before it, and the joint energy.

    Parameters
    ----------
    codes
        Latents inferred before, by name.
    energy
        Negative log joint of a candidate code for the latent being inferred, per cell.
    decode
        What a candidate code decodes to, by modality; it can be differentiated more than once.
    """

    __slots__ = ("codes", "decode", "energy")

    def __init__(
        self,
        codes: Mapping[str, Code],
        energy: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Mapping[str, Any]],
    ) -> None:
        self.codes, self.energy, self.decode = codes, energy, decode
