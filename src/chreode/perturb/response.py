"""How what a decoder expects changes when the codes of some cells move; everything else stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from chreode.axes import Float, Int, Tensor
from chreode.expected import blank

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from chreode.cells import Cells
    from chreode.embedded import Embedded
    from chreode.parts import Observed

    Decode = Callable[[Tensor], Mapping[str, Observed]]

__all__ = ["SIGN_STEP", "Change", "Push", "decodings", "mean_level", "spread"]

SIGN_STEP = 0.01
"""What the published method moves every coordinate by: the first step of Adam at its learning rate."""

_ENTRIES = 2**24  # of a block of cells by features, 64 MB in single precision


class Change(NamedTuple):
    """What a push changes, summed over cells: one value a feature of the modality."""

    cells: int
    before: Float[Tensor, " q"]
    change: Float[Tensor, " q"]
    squares: Float[Tensor, " q"]
    level: float

    @property
    def mean(self) -> Float[Tensor, " q"]:
        """Mean change over cells."""
        return self.change / self.cells

    @property
    def standard_error(self) -> Float[Tensor, " q"]:
        """Standard error of the mean over cells; NaN for one cell."""
        variance = (self.squares - self.change.square() / self.cells).clamp(min=0) / (self.cells - 1)
        return (variance / self.cells).sqrt() if self.cells > 1 else torch.full_like(self.change, torch.nan)


@dataclass(frozen=True)
class Push:
    r"""Moves the code of each cell so that a set of genes rises, by as much in every cell.

    .. math:: g_i = \nabla_z \frac1{|G|} \sum_{j \in G} \log \rho_j(z_i), \qquad
              \delta_i = \ell \frac{g_i}{\lVert g_i \rVert} \quad\text{or}\quad
              \delta_i = 0.01\,\mathrm{sign}(g_i)

    For one gene the sign needs no likelihood: of the negative binomial, Poisson and Bernoulli, the loss
    :math:`-\log p(x = 0)` rises with the proportion and with nothing else that depends on the code.

    Parameters
    ----------
    embedded
        Cells, codes and model.
    source, target
        Modality of the genes, and the one whose response is asked for.
    length
        Length of the step in units of the code, at least 0; None for the sign step.
    """

    embedded: Embedded
    source: str
    target: str
    length: float | None

    def finite(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " j"], *, way: int) -> Change:
        """Change from a whole step in those cells: ``way`` is 1 to raise the genes, -1 to lower them."""
        total: Any = 0.0
        risen = 0.0
        for z, decode in decodings(self.embedded, rows):
            step = way * self._steps(self._gradients(z, decode, [columns]))[:, 0]
            with torch.no_grad():
                here, there = decode(z), decode(z + step)
                before = here[self.target].mean.double()
                change = there[self.target].mean.double() - before
                risen += float((self._level(there, columns) - self._level(here, columns)).sum())
            total = total + torch.stack([before.sum(0), change.sum(0), change.square().sum(0)])
        before, change, squares = total.unbind()
        return Change(len(rows), before, change, squares, risen / len(rows))

    def linear(self, rows: Int[Tensor, " n"], sets: Sequence[Int[Tensor, " j"]]) -> Float[Tensor, "s q"]:
        r"""Mean change by the derivative at the codes themselves, for many sets of genes at once.

        .. math:: \frac1n \sum_i \sum_k \frac{\partial E_q(z_i)}{\partial z_{ik}} \delta_{ik}

        Derivatives along each of the ``d`` coordinates serve all sets, so that a hundred more of them cost
        a hundred gradients of the genes' own modality and one matrix product, not a hundred decodings.
        """
        dim = self.embedded.codes[self.embedded.code].shape[1]
        total: Any = 0.0
        for z, decode in decodings(self.embedded, rows, copies=dim):
            steps = self._steps(self._gradients(z, decode, sets))

            def slope(along: Tensor, z: Tensor = z, decode: Decode = decode) -> Tensor:
                return torch.func.jvp(lambda x: decode(x)[self.target].mean, (z,), (along,))[1]

            axes = torch.eye(dim, dtype=z.dtype, device=z.device)[:, None].expand(dim, *z.shape)
            with torch.no_grad():
                # All axes at once, so that the decoder's own values are computed once.
                slopes = torch.func.vmap(slope)(axes).flatten(0, 1)
                total = total + (steps.permute(1, 2, 0).flatten(1) @ slopes).double()
        return total / len(rows)

    def steps(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " j"]) -> Float[Tensor, "n d"]:
        """The moves themselves."""
        blocks = decodings(self.embedded, rows)
        return torch.cat([self._steps(self._gradients(z, decode, [columns]))[:, 0] for z, decode in blocks])

    def _level(self, observed: Mapping[str, Observed], columns: Tensor) -> Float[Tensor, " n"]:
        """What is pushed: the genes' mean log expectation, or their mean where values may be negative."""
        values = observed[self.source].mean[:, columns]
        if self.embedded.cells.layout.modalities[self.source].kind != "continuous":
            values = values.clamp_min(torch.finfo(values.dtype).tiny).log()
        return values.mean(1)

    def _gradients(self, z: Tensor, decode: Decode, sets: Sequence[Tensor]) -> Float[Tensor, "n s d"]:
        with torch.enable_grad():
            leaf = z.detach().clone().requires_grad_()
            observed = decode(leaf)
            levels = [self._level(observed, columns).sum() for columns in sets]
            # Each walks back through the genes' own modality alone.
            return torch.stack([torch.autograd.grad(a, leaf, retain_graph=True)[0] for a in levels], 1)

    def _steps(self, gradients: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:
        if self.length is None:
            return SIGN_STEP * gradients.sign()
        norm = gradients.norm(dim=2, keepdim=True)
        return self.length * gradients / norm.clamp_min(torch.finfo(norm.dtype).tiny)


def spread(codes: Float[Tensor, "n d"]) -> float:
    """Root mean square distance of codes from their mean."""
    return float((codes - codes.mean(0)).square().sum(1).mean().sqrt())


@torch.no_grad()
def mean_level(embedded: Embedded, rows: Int[Tensor, " n"], modality: str) -> Float[Tensor, " g"]:
    """Mean of what is expected of every feature over some cells."""
    parts = [decode(z)[modality].mean.double().sum(0) for z, decode in decodings(embedded, rows)]
    return torch.stack(parts).sum(0) / len(rows)


def decodings(embedded: Embedded, rows: Tensor, *, copies: int = 1) -> Iterator[tuple[Tensor, Decode]]:
    """Codes of a few cells at a time, and what decodes such codes under those cells' conditions."""
    layout = embedded.cells.layout
    most = max(16, min(512, _ENTRIES // max(copies * layout.width, 1)))
    for here in rows.split(most):
        codes = {name: value[here] for name, value in embedded.codes.items()}
        covariates = {name: value[here] for name, value in embedded.cells.covariates.items()}
        cells = blank(layout, len(here)).to(codes[embedded.code].device).replace(covariates=covariates)

        def decode(z: Tensor, codes: dict = codes, cells: Cells = cells) -> Mapping[str, Observed]:
            return embedded.module.decode({**codes, embedded.code: z}, cells)

        yield codes[embedded.code], decode
