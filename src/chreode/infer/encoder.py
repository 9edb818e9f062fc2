"""Networks that read a cell's values and answer with its code, or with a Gaussian over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from chreode.axes import Float, Tensor
from chreode.cells import CSR, Cells
from chreode.infer.posterior import GaussianPosterior
from chreode.infer.sparse_linear import SparseLinear
from chreode.layers import Layers, has_bias
from chreode.parts import Code, Given

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from chreode.layers import Norm
    from chreode.layout import Layout

__all__ = ["Encoder", "VariationalEncoder"]

_LEAST = 1e-4  # variance of a code


def entered(
    cells: Cells, modality: str, *, factor: Float[Tensor, " n"] | None = None
) -> CSR | Float[Tensor, "n g"]:
    """What an encoder reads of a modality: nothing of what a panel did not measure, even where it is stored.

    Counts enter as :math:`\\log(1 + f_i x_{ig})`, with the factor of each cell (1 if there is none), other
    values as they are.
    """
    values, mask = cells.measured[modality], cells.mask(modality)
    if not isinstance(values, CSR):
        return values if mask is None else torch.where(mask, values, 0.0)
    entries = values.value
    if mask is not None:
        entries = entries * mask[values.row, values.col.long()]
    if cells.layout.modalities[modality].kind == "counts":
        entries = torch.log1p(entries if factor is None else entries * factor[values.row])
    return values.with_value(entries)


class Encoder(nn.Module):
    """A network from a cell's values to its code.

    .. math:: h_0 = \\mathrm{act}(W_0 u_i + b_0 + c_i), \\quad h_l = \\mathrm{act}(W_l h_{l-1} + b_l), \\quad
              z_i = W h_L + b

    with :math:`u_{ig} = \\log(1 + 10^4\\,x_{ig}/s_i)` for counts; other values enter as they are. Features
    that a panel did not measure add nothing.

    Parameters
    ----------
    layout
        The features of the first modality are read.
    dim
        Dimensions ``d`` of the code.
    hidden
        Widths of the hidden layers; none makes it linear.
    norm, dropout
        Of the hidden layers, as in `chreode.layers.Layers`.
    scaled
        Whether counts are brought to 10,000 a cell first; else :math:`u_{ig} = \\log(1 + x_{ig})`.
    columns
        The conditions it sees, :math:`c_i` (`chreode.layers.Conditions`); none by default, so that a batch
        it was not trained with needs nothing.
    """

    free = False  # the code is a function of the values

    def __init__(
        self,
        layout: Layout,
        dim: int,
        *,
        hidden: Sequence[int] = (100,),
        norm: Norm = "none",
        dropout: float = 0.0,
        scaled: bool = True,
        columns: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.modality = next(iter(layout.modalities))
        described = layout.modalities[self.modality]
        self.counts, self.scaled = described.kind == "counts", scaled
        self.n_features = described.n_features
        self.widths = [*hidden, dim]
        bias = has_bias(norm) if hidden else True
        first = SparseLinear(described.n_features, self.widths[0], bias=bias)
        # A linear encoder has no units: its one layer gives the code.
        self.layers = (
            Layers(first, layout, hidden, columns=columns, deep=True, norm=norm, dropout=dropout)
            if hidden
            else None
        )
        self.output = nn.Linear(hidden[-1], dim) if hidden else first

    def forward(self, cells: Cells, given: Given | None = None) -> Code:
        """Encode the cells."""
        return Code(self.answer(self.read(cells), cells))

    def read(self, cells: Cells) -> CSR | Float[Tensor, "n g"]:
        """The values that enter the first layer."""
        factor = 1e4 / cells.size[self.modality].clamp(min=1) if self.counts and self.scaled else None
        return entered(cells, self.modality, factor=factor)

    def answer(self, values: CSR | Float[Tensor, "n g"], cells: Cells | None) -> Float[Tensor, "n d"]:
        """The code for values that enter the first layer; cells are needed where conditions are seen."""
        return self.output(values if self.layers is None else self.layers(values, cells))

    def propose(self, cells: Cells) -> Float[Tensor, "n d"]:
        """The code itself."""
        return self(cells).z


def gaussian(answer: Float[Tensor, "n dd"]) -> GaussianPosterior:
    """The posterior whose mean and log variance are the two halves of an encoder's answer."""
    mean, log_variance = answer.chunk(2, dim=1)
    return GaussianPosterior(mean, log_variance.exp() + _LEAST)


class VariationalEncoder(nn.Module):
    """A Gaussian over each cell's code, from an encoder of twice as many dimensions.

    .. math:: q(z_i \\mid x_i) = N\\big(m,\\ \\operatorname{diag}(e^{u} + 10^{-4})\\big), \\qquad
              (m, u) = e(x_i)

    In training a code is drawn from it, else it is the mean.

    Parameters
    ----------
    encoder
        Its first half of dimensions is the mean, the second the log variance.
    around
        A prior whose mean and scale in each cell are the encoder's origin and unit, so that an answer of zero
        is the prior itself; None for 0 and 1.
    start
        Finds the codes that it is taught before the fit (`chreode.lessons.teach_encoders`), as of
        `chreode.infer.VariationalCodebook`; None for none.
    """

    free = False

    def __init__(self, encoder: nn.Module, *, around: nn.Module | None = None, start: Any = None) -> None:
        super().__init__()
        self.encoder = encoder
        self._around: Any = (around,)  # the latent's, whose state is not saved twice
        self._start: Any = (start,)  # of no use after the fit, and not saved
        self.cite = () if start is None else start.cite

    @property
    def start(self) -> Any:
        """Finds the codes that it is taught before the fit, or None."""
        return self._start[0]

    def forward(self, cells: Cells, given: Given | None = None) -> Code:
        """Encode the cells."""
        posterior = gaussian(self.encoder(cells).z)
        if self._around[0] is not None:
            prior = self._around[0](cells)
            mean = prior.mean + prior.scale * posterior.mean
            posterior = GaussianPosterior(mean, prior.scale.square() * posterior.variance)
        return Code(posterior.sample() if self.training else posterior.mean, posterior, centre=posterior.mean)

    def of_values(self, values: Float[Tensor, "n g"]) -> GaussianPosterior:
        """The posterior for values as an encoder reads them, of no cell in particular."""
        return gaussian(self.encoder.answer(values, None))  # type: ignore[operator]

    def propose(self, cells: Cells) -> Float[Tensor, "n d"]:
        """The mean."""
        return self(cells).centre
