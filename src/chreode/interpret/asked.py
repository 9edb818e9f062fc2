"""What a question is put to: cells with their counts, the columns that describe them, and groups of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chreode.cells import CSR, Cells
from chreode.embedded import Embedded
from chreode.errors import InputError
from chreode.io.opening import open_source
from chreode.io.read import read
from chreode.words import level_name, listing, many, nearest

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = ["Asked", "asked_of", "column_level"]

OWN = "component"
"""What the model's own components are called, where no column is."""


@dataclass(frozen=True)
class Asked:
    """Cells with counts, and what is known of them.

    Parameters
    ----------
    cells
        With what was measured.
    embedded
        The same cells under a model; None where there is none.
    source
        Where further columns are looked up; None where there is no such place.
    """

    cells: Cells
    embedded: Embedded | None
    source: Any

    def __len__(self) -> int:
        return len(self.cells)

    def own(self, column: str) -> bool:
        """Whether a column is not one, but means the model's own components."""
        embedded = self.embedded
        known = embedded is not None and bool(int(embedded.module.latents[embedded.code].prior.count))
        return column == OWN and known and column not in self.cells.layout.covariates

    def levels(self, column: str) -> np.ndarray:
        """The level of each cell as text, None where it is unknown, ``n``.

        Raises
        ------
        InputError
            When there is no such column among those that were read, nor in the source, or it holds numbers.
        """
        covariate = self.cells.layout.find(column)
        if covariate is not None and not covariate.categorical:
            msg = f"Expected a column of levels; found {column!r}, which holds numbers. Cut it into levels,"
            raise InputError(msg + " as text, first.")
        if covariate is not None:
            return self.cells.level_names(column)
        if self.embedded is not None and self.own(column):
            return np.asarray(self.embedded.component_names, dtype=object)[self.embedded.components()]
        return self._of_source(column)

    def of_level(self, column: str, level: str) -> np.ndarray:
        """The mask of a level.

        Raises
        ------
        InputError
            When no cell has it, and as `levels` does.
        """
        levels = self.levels(column)
        mask = levels == level
        if not mask.any():
            known = sorted({str(one) for one in levels[levels != None]})  # noqa: E711  (by element)
            msg = (
                f"Expected a level of {column!r} ({listing(known)}); found {level!r}.{nearest(level, known)}"
            )
            raise InputError(msg + " Name one of these.")
        return mask

    def group(self, group: str | np.ndarray, *, name: str) -> tuple[np.ndarray, str]:
        """The cells of ``COLUMN=LEVEL``, or of a mask, and the column (empty for a mask).

        Raises
        ------
        InputError
            When it is neither, or holds no cell.
        """
        if isinstance(group, str):
            column, level = column_level(group, name=name)
            return self.of_level(column, level), column
        mask = np.asarray(group)
        if mask.dtype != bool or mask.shape != (len(self),) or not mask.any():
            found = f"{mask.dtype} of shape {mask.shape}" if mask.dtype != bool or mask.ndim != 1 else ""
            found = found or f"{many(int(mask.sum()), 'cell')} of a mask of {len(mask):,}"
            msg = (
                f"Expected {name} as COLUMN=LEVEL, or a mask of {len(self):,} cells that is somewhere true; "
                f"found {found}. Give one of these."
            )
            raise InputError(msg)
        return mask, ""

    def counts(self, modality: str | None) -> tuple[str, sp.csr_matrix, np.ndarray, np.ndarray]:
        """A modality's name, its counts, the cells that were measured in it, and the features that all were.

        Raises
        ------
        InputError
            For values that are not counts (or zeros and ones), or no such modality.
        """
        known = list(self.cells.layout.modalities)
        name = modality or known[0]
        if name not in known:
            msg = f"Expected a modality ({', '.join(known)}); found {modality!r}. Name one of these."
            raise InputError(msg)
        measured = self.cells.measured[name]
        if not isinstance(measured, CSR):
            msg = (
                f"Expected counts, which can be summed over cells; found {name!r}, of continuous values. Name"
            )
            raise InputError(msg + " another modality, or read counts.")
        present = self.cells.present[name].cpu().numpy()
        everywhere = np.ones(measured.width, dtype=bool)
        if name in self.cells.panels:
            used = self.cells.panel[name][self.cells.present[name]].unique()
            everywhere = self.cells.panels[name][used].all(0).cpu().numpy()
        return name, measured.scipy(), present, everywhere

    def replace(self, *, cells: Cells, embedded: Embedded | None) -> Asked:
        """The same columns, of the same cells with other counts or codes."""
        return Asked(cells, embedded, self.source)

    def _of_source(self, column: str) -> np.ndarray:
        import pandas as pd

        read_columns = list(self.cells.layout.covariates)
        if self.source is None or isinstance(self.source, (dict, Cells)):
            own = f", {OWN!r}" if self.own(OWN) else ""
            msg = (
                f"Expected a column that was read ({listing(read_columns)}{own}); found {column!r}."
                f"{nearest(column, read_columns)} Name one of these, or give source= a table that has it."
            )
            raise InputError(msg)
        with open_source(self.source) as opened:
            if column not in opened.cells.columns:
                there = list(dict.fromkeys([*read_columns, *opened.cells.columns]))
                msg = f"Expected a column of the cells ({listing(there)}); found {column!r}."
                raise InputError(msg + f"{nearest(column, there)} Name one of these.")
            values, names = opened.cells.column(column), opened.cells.names
        found = pd.Series(np.asarray(values.astype(object)), index=pd.Index(names)).reindex(self.cells.names)
        missing = found.isna().to_numpy()
        text = [None if lost else level_name(one) for one, lost in zip(found, missing, strict=True)]
        return np.asarray(text, dtype=object)


def column_level(text: str, *, name: str, such_as: str = "'cell_type=B cell'") -> tuple[str, str]:
    """The parts of ``COLUMN=LEVEL``.

    Raises
    ------
    InputError
        When either is missing, saying what ``name`` should be, ``such_as``.
    """
    column, _, level = text.partition("=")
    if not column or not level:
        msg = f"Expected {name} as COLUMN=LEVEL; found {text!r}. Write {such_as}, say."
        raise InputError(msg)
    return column, level


def asked_of(cells: Any, *, source: Any = None, counted: bool = True) -> Asked:
    """The cells that a question is put to, with their counts.

    Parameters
    ----------
    cells
        `Cells`, an `Embedded`, or a `FittedModel`, which stands for its own.
    source
        The same cells with their counts, in any order, for what was loaded without; also for columns that
        were not read. Anything `chreode.read` takes.
    counted
        Whether the counts are needed.

    Raises
    ------
    InputError
        When it is something else, there are no counts, or the source lacks cells.
    """
    held = getattr(cells, "embedded", cells)
    if not isinstance(held, (Cells, Embedded)):
        msg = f"Expected Cells, an Embedded or a FittedModel; found {type(cells).__name__}. Fit a model,"
        raise InputError(msg + " or read cells with chreode.read(...).")
    embedded = held if isinstance(held, Embedded) else None
    here = held.cells if isinstance(held, Embedded) else held
    if not len(here):
        msg = "Expected a model that was saved with its cells; found none. Save it with cells=True."
        raise InputError(msg)
    if counted and not here.measured:
        if source is None:
            msg = "Expected cells with counts; found a loaded model, which keeps none. Give source= the data."
            raise InputError(msg)
        here = _with_counts(here, source)
        embedded = embedded and embedded.replace(cells=here)
    return Asked(here, embedded, source)


def _with_counts(cells: Cells, source: Any) -> Cells:
    """The cells with what was measured in them according to a source."""
    import pandas as pd

    found = read(source, like=cells)
    order = pd.Index(found.names).get_indexer(pd.Index(cells.names))
    if (order < 0).any():
        lost = listing(cells.names[order < 0], limit=3)
        msg = f"Expected a source with the {many(len(cells), 'cell')} of the model; found it without {lost}."
        raise InputError(msg + " Give the data that was fitted.")
    fields = ("measured", "size", "present", "panels", "panel")
    here = found[torch.from_numpy(order)]
    return cells.replace(**{name: getattr(here, name) for name in fields})
