"""Encoders of several modalities, whichever a cell has: joined at the first layer, or at the end."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from chreode.axes import Bool, Float, Tensor
from chreode.cells import CSR, Cells
from chreode.infer.encoder import Encoder, entered, gaussian
from chreode.infer.posterior import GaussianPosterior
from chreode.infer.sparse_linear import SparseLinear
from chreode.layers import Layers, has_bias
from chreode.named import Named
from chreode.parts import Code, Given

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from chreode.layers import Norm
    from chreode.layout import Layout

__all__ = ["ExpertEncoder", "FusedEncoder", "kept"]


def kept(there: Bool[Tensor, "m n"], drop: float) -> Bool[Tensor, "m n"]:
    """Which modalities of each cell a step sees: all, or with probability ``drop`` a random one of them."""
    if not drop:
        return there
    luck = torch.rand(there.shape, device=there.device).masked_fill(~there, -1.0)
    every = torch.rand(there.shape[1], device=there.device) >= drop
    return there & ((luck == luck.max(0).values) | every)


class FusedLinear(nn.Module):
    """One linear layer of all modalities, of which a cell may lack some.

    .. math:: h_i = b + \\sum_{m\\ \\text{present}} (u_{im} - \\bar u_m)\\, W_m

    with :math:`u_{im}` the values and :math:`\\bar u_m` their mean over the training cells. A modality that a
    cell lacks, or a feature that its panel did not measure, thus enters as it is in the average cell.
    Counts enter as :math:`\\log(1 + x_{ig} / (1 + \\bar x_i))`, with the cell's mean count of its panel's
    features, other values as they are. The product stays sparse: :math:`\\bar u_m W_m` is one row.

    Parameters
    ----------
    layout
        Its modalities are read.
    hidden
        Output units.
    bias
        Whether :math:`b` is added.
    drop
        Probability that a cell of several modalities is read, in a step of training, in one of them only.
    """

    parts: Any
    usual: Any

    def __init__(self, layout: Layout, hidden: int, *, bias: bool = True, drop: float = 0.0) -> None:
        super().__init__()
        widths = {m: described.n_features for m, described in layout.modalities.items()}
        self.drop = drop
        self.parts = Named({m: SparseLinear(width, hidden, bias=False) for m, width in widths.items()})
        self.bias = nn.Parameter(torch.zeros(hidden)) if bias else None
        for i, width in enumerate(widths.values()):
            self.register_buffer(f"mean_{i}", torch.zeros(width))

    def forward(self, cells: Cells) -> Float[Tensor, "n h"]:
        """The sum over the modalities that each cell has."""
        there = torch.stack([cells.present[m] for m in self.parts])
        if self.training:
            there = kept(there, self.drop)
        sums = []
        for i, (modality, linear) in enumerate(self.parts.items()):
            units = linear(_balanced(cells, modality)) - self._average(i, modality, linear, cells)
            sums.append(units * there[i, :, None])
        total = torch.stack(sums).sum(0)
        return total if self.bias is None else total + self.bias

    def _average(self, i: int, modality: str, linear: SparseLinear, cells: Cells) -> Float[Tensor, "#n h"]:
        """What the average cell gives, in the features of each cell's panel."""
        mean = self.get_buffer(f"mean_{i}")
        if modality not in cells.panels:
            return (mean @ linear.weight)[None]
        return ((cells.panels[modality] * mean) @ linear.weight)[cells.panel[modality]]

    @torch.no_grad()
    def centre(self, cells: Cells) -> None:
        """Take the means of these cells' values, each over the cells that were measured in the feature."""
        for i, modality in enumerate(self.parts):
            values = _balanced(cells, modality)
            total = values.sum_columns() if isinstance(values, CSR) else values.sum(0)
            present = cells.present[modality]
            number = present.sum()
            if modality in cells.panels:
                panels = cells.panels[modality]
                number = torch.bincount(cells.panel[modality][present], minlength=len(panels)).to(total) @ (
                    panels.to(total)
                )
            self.get_buffer(f"mean_{i}").copy_(total / number.clamp(min=1))


def _balanced(cells: Cells, modality: str) -> CSR | Float[Tensor, "n g"]:
    """Counts over one more than the cell's mean count, so that panels of any width give alike values."""
    described = cells.layout.modalities[modality]
    if described.kind != "counts":
        return entered(cells, modality)
    width = described.n_features
    if modality in cells.panels:
        width = cells.panels[modality].sum(1)[cells.panel[modality]].clamp(min=1)
    return entered(cells, modality, factor=1 / (1 + cells.size[modality] / width))


class FusedEncoder(nn.Module):
    """A network from what was measured of a cell, in any of its modalities, to its code.

    .. math:: h_0 = \\mathrm{act}\\Big(b_0 + c_i + \\sum_{m\\ \\text{present}} (u_{im} - \\bar u_m) W_m\\Big),
              \\quad h_l = \\mathrm{act}(W_l h_{l-1} + b_l), \\quad z_i = W h_L + b

    The first layer is that of the concatenated modalities (`FusedLinear`).

    Parameters
    ----------
    layout
        Its modalities are read.
    dim
        Dimensions ``d`` of the code.
    hidden
        Widths of the hidden layers, at least one.
    norm, dropout
        Of the hidden layers, as in `chreode.layers.Layers`.
    drop
        Probability that a cell of several modalities is read, in a step of training, in one of them only: so
        the network learns what to say of cells that lack some, even if no training cell does.
    columns
        The conditions it sees; none by default, so that a batch it was not trained with needs nothing.

    Examples
    --------
    >>> import torch
    >>> from chreode.cells import CSR, Cells
    >>> from chreode.layout import Layout, Modality
    >>> layout = Layout(2, {"rna": Modality(("A", "B", "C")), "prot": Modality(("CD3", "CD4"))})
    >>> cells = Cells(
    ...     layout,
    ...     names=["1", "2"],
    ...     measured={"rna": CSR.of([[1, 0, 4], [0, 2, 1]]), "prot": CSR.of([[9, 1], [0, 0]])},
    ...     present={"rna": torch.tensor([True, True]), "prot": torch.tensor([True, False])},
    ... )
    >>> encoder = FusedEncoder(layout, 2, hidden=(4,))
    >>> encoder.centre(cells)
    >>> encoder(cells).z.shape
    torch.Size([2, 2])
    """

    free = False  # the code is a function of the values

    def __init__(
        self,
        layout: Layout,
        dim: int,
        *,
        hidden: Sequence[int] = (128,),
        norm: Norm = "none",
        dropout: float = 0.0,
        drop: float = 0.0,
        columns: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.first = FusedLinear(layout, hidden[0], bias=has_bias(norm), drop=drop)
        how = {"columns": columns, "deep": True, "norm": norm, "dropout": dropout}
        self.layers = Layers(self.first, layout, hidden, **how)
        self.output = nn.Linear(hidden[-1], dim)

    def forward(self, cells: Cells, given: Given | None = None) -> Code:
        """Encode the cells."""
        return Code(self.output(self.layers(cells, cells)))

    def propose(self, cells: Cells) -> Float[Tensor, "n d"]:
        """The code itself."""
        return self(cells).z

    def centre(self, cells: Cells) -> None:
        """Before training: the values of the average cell."""
        self.first.centre(cells)


class ExpertEncoder(nn.Module):
    """A Gaussian over each cell's code, put together from those of the modalities that it has.

    .. math:: q_{im} = N(m_{im}, \\mathrm{diag}\\,v_{im}), \\qquad
              \\text{average:}\\ q_i = N\\Big(\\frac{1}{M_i} \\sum_m m_{im},\\
              \\frac{1}{M_i} \\sum_m v_{im}\\Big), \\qquad
              \\text{product:}\\ q_i \\propto N(0, I) \\prod_m q_{im}

    over the :math:`M_i` modalities that are present; what a cell lacks is left out exactly. Of a cell
    without any it is the standard normal. In training a code is drawn from it, else it is the mean.

    Parameters
    ----------
    layout
        Its modalities are read.
    dim
        Dimensions ``d`` of the code.
    hidden
        Widths of the hidden layers of each modality's network.
    dropout
        Of the hidden units.
    combine
        ``average`` or ``product``.
    drop
        Probability that a cell of several modalities is read, in a step of training, in one of them only.
    columns
        The conditions that the networks see.

    Notes
    -----
    Units are normalised in each cell (``norm="layer"``): batches of cells some of which lack the modality
    would normalise by what was not measured.
    """

    free = False
    encoders: Any

    def __init__(
        self,
        layout: Layout,
        dim: int,
        *,
        hidden: Sequence[int] = (128,),
        dropout: float = 0.0,
        combine: Literal["average", "product"] = "average",
        drop: float = 0.0,
        columns: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.combine, self.drop, self.dim = combine, drop, dim
        alone = {m: replace(layout, modalities={m: described}) for m, described in layout.modalities.items()}
        how = {"hidden": hidden, "norm": "layer", "dropout": dropout, "columns": columns}
        self.encoders = Named({m: Encoder(one, 2 * dim, **how) for m, one in alone.items()})

    def forward(self, cells: Cells, given: Given | None = None) -> Code:
        """Encode the cells."""
        experts = {m: gaussian(encoder(cells).z) for m, encoder in self.encoders.items()}
        there = torch.stack([cells.present[m] for m in experts])
        if self.training:
            there = kept(there, self.drop)
        posterior = self._together(experts, there[:, :, None])
        return Code(posterior.sample() if self.training else posterior.mean, posterior, centre=posterior.mean)

    def _together(
        self, experts: Mapping[str, GaussianPosterior], there: Bool[Tensor, "m n 1"]
    ) -> GaussianPosterior:
        means = torch.stack([q.mean for q in experts.values()])
        variances = torch.stack([q.variance for q in experts.values()])
        if self.combine == "product":
            precision = there / variances
            total = 1 + precision.sum(0)
            return GaussianPosterior((precision * means).sum(0) / total, 1 / total, experts=experts)
        number = there.sum(0)
        mean, variance = ((there * each).sum(0) / number.clamp(min=1) for each in (means, variances))
        return GaussianPosterior(mean, variance + (number == 0), experts=experts)

    def propose(self, cells: Cells) -> Float[Tensor, "n d"]:
        """The mean."""
        return self(cells).centre
