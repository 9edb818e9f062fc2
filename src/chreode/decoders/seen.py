"""Which features cells of each level were measured in, and which levels lend those that were not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from chreode.axes import Bool, Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chreode.cells import Cells
    from chreode.layout import Layout

__all__ = ["Seen"]

_LENDERS = 10


class Seen(nn.Module):
    """Which features of a modality the cells of each batch, and level of a covariate, were measured in.

    What a level does to a feature that none of its cells was measured in, the data do not say: a decoder
    extrapolates. Under the levels whose cells were it need not, and their mean is what an average level does.

    Parameters
    ----------
    layout
        Its categorical ``conditions`` are used. Until `note`, every level has seen everything.
    modality
        Whose features.

    Examples
    --------
    >>> import torch
    >>> from chreode.cells import Cells
    >>> from chreode.layout import Covariate, Layout, Modality
    >>> layout = Layout(2, {"prot": Modality(("CD3", "CD4"))}, {"set": Covariate("set", "batch", ("a", "b"))})
    >>> panels = {"prot": torch.tensor([[True, False], [True, True]])}
    >>> seen, both = Seen(layout, "prot"), torch.tensor([0, 1])
    >>> seen.note(
    ...     Cells(layout, names=["1", "2"], measured={}, present={"prot": both == both},
    ...           covariates={"set": both}, panels=panels, panel={"prot": both})
    ... )
    >>> seen.lenders({"set": 0})
    [({'set': 1}, tensor([False,  True]))]
    """

    def __init__(self, layout: Layout, modality: str) -> None:
        super().__init__()
        self.modality = modality
        self.columns = [c.column for c in layout.conditions.values() if c.categorical]
        n_features = layout.modalities[modality].n_features
        for i, column in enumerate(self.columns):
            everything = torch.ones(len(layout.covariates[column].levels), n_features, dtype=torch.bool)
            self.register_buffer(f"levels_{i}", everything)

    def of(self, column: str) -> Bool[Tensor, "c g"]:
        """Which features each level of a column was measured in."""
        return self.get_buffer(f"levels_{self.columns.index(column)}")

    @property
    def everything(self) -> bool:
        """Whether every level was measured in every feature."""
        return all(bool(self.of(column).all()) for column in self.columns)

    def note(self, cells: Cells, *, since: Mapping[str, int] | None = None) -> None:
        """Take down what the levels of these cells were measured in; other levels stay as they were.

        Parameters
        ----------
        cells
            With their panels.
        since
            By column, the first level to take down; None for all levels of all columns.
        """
        present = cells.present[self.modality]
        panels = cells.panels.get(self.modality)
        for column in self.columns:
            level, table = cells.covariates[column], self.of(column)
            first = 0 if since is None else since.get(column, len(table))
            for k in level[level >= first].unique():
                here = present & (level == k)
                if panels is None:
                    table[k] = here.any()
                else:
                    table[k] = panels[cells.panel[self.modality][here].unique()].any(0)

    def lenders(
        self, levels: Mapping[str, int], wanted: Bool[Tensor, " g"] | None = None
    ) -> list[tuple[dict[str, int], Bool[Tensor, " g"]]]:
        """Levels to decode under in place of a cell's own, and the features that each lends.

        Every level that was measured in what is missing lends it, up to ten that were in most. Where several
        columns lack a feature, the others go along: each as the level that was measured in most of it.

        Parameters
        ----------
        levels
            The cell's, by column; -1 for unknown, which lacks nothing.
        wanted
            Features that are asked for; None for all.
        """
        own = {column: self.of(column)[k] for column, k in levels.items() if k >= 0}
        if not own:
            return []
        missing = ~torch.stack(list(own.values())).all(0)
        missing = missing if wanted is None else missing & wanted
        lacking = [column for column, seen in own.items() if (missing & ~seen).any()]
        if not lacking:
            return []
        lenders = []
        many = (self.of(lacking[0]) & missing).sum(1)
        for first in many.argsort(descending=True, stable=True)[:_LENDERS].tolist():
            taken, lent = {lacking[0]: first}, missing & self.of(lacking[0])[first]
            for column in lacking[1:]:
                taken[column] = int((self.of(column) & lent).sum(1).argmax())
                lent = lent & self.of(column)[taken[column]]
            if lent.any():
                lenders.append((taken, lent))
        return lenders
