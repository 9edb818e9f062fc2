"""What flows: `Cells`, what was measured in them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chreode.axes import Bool, Float, Int, Tensor
from chreode.csr import CSR
from chreode.errors import InputError
from chreode.layout import Layout, Modality, encode
from chreode.words import many

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from chreode.layout import Role

__all__ = ["CSR", "Cells", "Reading", "pair_numbers"]

_ROUNDS = 50
_LEAST = 1e-9  # what is divided by


@dataclass(frozen=True)
class Reading:
    """How `Cells` were read: the arguments, and what there was to say.

    Parameters
    ----------
    source
        What was read, as the user named it.
    schema
        The arguments of `chreode.read` as JSON values (``counts``, ``batch``, ``label``,
        ``covariates``, ``features``, ``values``), reused by ``like=``.
    messages
        Sentences for the user: empty cells, stripped versions, missing features.
    n_source_features
        Features in the source before any selection.
    missing, unknown
        With ``like=``: features of the model that the source lacks; features of the source that the
        model does not know.
    """

    source: str
    schema: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[str, ...] = ()
    n_source_features: int = 0
    missing: int = 0
    unknown: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values that `from_json` reads back."""
        return {**asdict(self), "messages": list(self.messages)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Reading:
        """Read what `to_json` wrote."""
        return cls(**{**values, "messages": tuple(values["messages"])})


Measured = CSR | Tensor


class Cells:
    """Cells and what was measured in them; a minibatch is simply fewer of them.

    Immutable: every change makes another `Cells` that shares the memory.

    Parameters
    ----------
    layout
        Names, kinds and sizes.
    names
        Cell names, ``n`` of them.
    index
        Row of each cell in a codebook, ``n``.
    measured
        By modality, a `CSR` or a dense ``n x g`` tensor (continuous values only).
    size
        By modality, the size factor of each cell: its total over the features its panel measured
        (1 for a continuous modality).
    present
        By modality, whether the cell was measured in it at all.
    covariates
        By column, level numbers (int64, -1 for unknown) or standardised values (float32, NaN for
        unknown).
    panels
        By modality, which features each panel measured, ``p x g``; absent when all were.
    panel
        By modality, the panel of each cell, ``n``.
    readout
        Of coordinates that were read in place of features: sums over all cells that say how these go with
        them (`chreode.io.regression.Regression`); else empty.
    reading
        How these cells were read.
    """

    __slots__ = (
        "covariates",
        "index",
        "layout",
        "measured",
        "names",
        "panel",
        "panels",
        "present",
        "reading",
        "readout",
        "size",
    )

    layout: Layout
    names: np.ndarray
    index: Int[Tensor, " n"]
    measured: Mapping[str, Measured]
    size: Mapping[str, Float[Tensor, " n"]]
    present: Mapping[str, Bool[Tensor, " n"]]
    covariates: Mapping[str, Tensor]
    panels: Mapping[str, Bool[Tensor, "p g"]]
    panel: Mapping[str, Int[Tensor, " n"]]
    readout: Mapping[str, Tensor]
    reading: Reading

    def __init__(
        self,
        layout: Layout,
        *,
        names: Sequence[str] | np.ndarray,
        measured: Mapping[str, Measured],
        size: Mapping[str, Tensor] | None = None,
        index: Tensor | None = None,
        present: Mapping[str, Tensor] | None = None,
        covariates: Mapping[str, Tensor] | None = None,
        panels: Mapping[str, Tensor] | None = None,
        panel: Mapping[str, Tensor] | None = None,
        readout: Mapping[str, Tensor] | None = None,
        reading: Reading | None = None,
    ) -> None:
        n = len(names)

        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("layout", layout)
        put("names", names if isinstance(names, np.ndarray) else np.asarray(names, dtype=object))
        put("measured", dict(measured))
        put("index", torch.arange(n) if index is None else index)
        put(
            "size",
            {m: _size(layout.modalities[m], x) for m, x in measured.items()} if size is None else dict(size),
        )
        put(
            "present",
            {m: torch.ones(n, dtype=torch.bool) for m in self.size} if present is None else dict(present),
        )
        put("covariates", dict(covariates or {}))
        put("panels", dict(panels or {}))
        put("panel", dict(panel or {}))
        put("readout", dict(readout or {}))
        put("reading", reading or Reading(source="memory"))

    def __setattr__(self, name: str, value: object) -> None:
        msg = f"Cells are immutable; use cells.replace({name}=...) to get other ones."
        raise AttributeError(msg)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process gets the same cells: what is immutable cannot be filled in field by field.
        return _restore, ({name: getattr(self, name) for name in self.__slots__},)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        parts = [many(len(self), "cell")]
        for name, m in self.layout.modalities.items():
            parts.append(f"{name}: {many(m.n_features, 'feature')} ({m.kind})")
        for c in self.layout.covariates.values():
            levels = f" ({many(len(c.levels), 'level')})" if c.categorical else ""
            parts.append(f"{c.role} {c.column!r}{levels}")
        return f"Cells({', '.join(parts)})"

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.index.device

    def replace(self, **changes: Any) -> Cells:
        """Other `Cells` with some fields changed."""
        return _restore({name: getattr(self, name) for name in self.__slots__} | changes)

    def __getitem__(self, rows: Tensor | np.ndarray | slice) -> Cells:
        """The given cells (positions, a mask or a slice), in the given order."""
        if isinstance(rows, slice):
            rows = torch.arange(len(self))[rows]
        rows = torch.as_tensor(rows)
        if rows.dtype == torch.bool:
            rows = rows.nonzero().squeeze(1)
        if len(rows) == len(self) and torch.equal(rows.cpu(), torch.arange(len(self))):
            return self  # which nothing can change
        here = rows.to(self.device)

        def some(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {k: v[here] for k, v in tensors.items()}

        return Cells(
            self.layout,
            names=self.names[rows.cpu().numpy()],
            measured={m: x.take(here) if isinstance(x, CSR) else x[here] for m, x in self.measured.items()},
            size=some(self.size),
            index=self.index[here],
            present=some(self.present),
            covariates=some(self.covariates),
            panels=self.panels,
            panel=some(self.panel),
            readout=self.readout,
            reading=self.reading,
        )

    def to(self, device: torch.device | str) -> Cells:
        """The same cells on another device."""
        moved = {
            name: {k: v.to(device) for k, v in getattr(self, name).items()}
            for name in ("measured", "size", "present", "covariates", "panels", "panel", "readout")
        }
        return self.replace(index=self.index.to(device), **moved)

    @property
    def counted(self) -> Bool[Tensor, " n"]:
        """Which cells say something: by a count in some modality, or by another they were measured in."""
        kinds = self.layout.modalities.items()
        there = [self.size[m] > 0 if d.kind == "counts" else self.present[m] for m, d in kinds]
        return torch.stack(there).any(0) if there else torch.ones_like(self.index, dtype=torch.bool)

    def column_sums(self, modality: str) -> Float[Tensor, " g"]:
        """Sum of what was measured of each feature."""
        measured = self.measured[modality]
        return measured.sum_columns() if isinstance(measured, CSR) else measured.sum(0)

    @property
    def time(self) -> Float[Tensor, " n"]:
        """When each cell was measured; NaN where that is unknown.

        Raises
        ------
        InputError
            When the cells were read without times.
        """
        column = self.layout.in_role("time")
        if column is None:
            msg = "Expected cells with times; found none. Read them with time=COLUMN (--time)."
            raise InputError(msg)
        return self.covariates[column.column]

    @property
    def snapshot(self) -> Int[Tensor, " n"]:
        """Which of the layout's times each cell was measured at; -1 where it is none of them."""
        time = self.time  # which refuses cells without any
        column: Any = self.layout.in_role("time")
        times = torch.tensor(column.times, dtype=time.dtype, device=self.device)
        at = torch.searchsorted(times, time.nan_to_num(float("inf"))).clamp_max(len(times) - 1)
        return torch.where(times[at] == time, at, -1)

    @property
    def growth(self) -> Float[Tensor, " n"] | None:
        """Growth rate of each cell, per unit of time; None where cells were read without."""
        column = self.layout.in_role("growth")
        return None if column is None else self.covariates[column.column]

    @property
    def course(self) -> Int[Tensor, " n"]:
        """Which course each cell is of; -1 where that is unknown, or there is one alone."""
        return self._levels("course")

    @property
    def perturbation(self) -> Int[Tensor, " n"]:
        """Level of each cell's perturbation; -1 where none is known, or read."""
        return self._levels("perturbation")

    @property
    def samples(self) -> Int[Tensor, " n"]:
        """A number for each time, course and perturbation together, by which cells were drawn."""
        return pair_numbers(self.snapshot, self.followed)

    @property
    def followed(self) -> Int[Tensor, " n"]:
        """A number for each course and perturbation together, whose cells become each other."""
        return pair_numbers(self.course, self.perturbation)

    def _levels(self, role: Role) -> Int[Tensor, " n"]:
        column = self.layout.in_role(role)
        return torch.full_like(self.index, -1) if column is None else self.covariates[column.column]

    def times_measured(self, modality: str) -> Float[Tensor, " g"]:
        """How many cells each feature was measured in."""
        there = self.present[modality]
        if modality not in self.panels:
            return there.sum().float().expand(self.layout.modalities[modality].n_features)
        panels = self.panels[modality].float()
        return torch.bincount(self.panel[modality][there], minlength=len(panels)).float() @ panels

    def whole_sums(self, modality: str) -> Float[Tensor, " g"]:
        r"""`column_sums` as if every panel had all features: of what one lacks, the other cells tell.

        .. math:: t_g \frac{\sum_p d_p}{\sum_{p \ni g} d_p}, \qquad
                  d_p = s_p \Big/ \sum_{g \in p} \rho_g \ \text{(of counts)}

        with :math:`t_g` the sums, :math:`\rho` the shares that come out and :math:`s_p` the counts of panel
        p; of values that are not counts, :math:`d_p` is its number of cells. Panels may differ in depth:
        these shares have the largest multinomial likelihood, and are found by iteration.
        """
        total = self.column_sums(modality)
        if modality not in self.panels:
            return total
        panels, there = self.panels[modality].to(total), self.present[modality]
        panel = self.panel[modality][there]
        weight = torch.bincount(panel, minlength=len(panels)).to(total)
        if self.layout.modalities[modality].kind == "counts":
            size = torch.zeros_like(weight).index_add_(0, panel, self.size[modality][there].to(total))
            for _ in range(_ROUNDS):
                rate = total / (weight @ panels).clamp(min=_LEAST)
                share = panels @ rate / rate.sum().clamp(min=_LEAST)
                weight = size / share.clamp(min=_LEAST)
        return total * (weight.sum() / (weight @ panels).clamp(min=_LEAST))

    def mask(self, modality: str) -> Bool[Tensor, "n g"] | None:
        """Which features each cell's panel measured; None when all were."""
        if modality not in self.panels:
            return None
        return self.panels[modality][self.panel[modality]]

    def only(self, *modalities: str) -> Cells:
        """The same cells in some of their modalities."""
        layout = replace(self.layout, modalities={m: self.layout.modalities[m] for m in modalities})

        def some(values: Mapping[str, Any]) -> dict[str, Any]:
            return {m: values[m] for m in modalities if m in values}

        fields = ("measured", "size", "present", "panels", "panel")
        return self.replace(layout=layout, **{name: some(getattr(self, name)) for name in fields})

    def resampled(self, *, seed: int = 0) -> Cells:
        """As many cells, drawn again with replacement: another data set, as it were (the bootstrap).

        Names of cells that come again end in ``.2``, ``.3`` and so on.
        """
        rows = np.sort(np.random.default_rng(seed).integers(len(self), size=len(self)))
        first = np.searchsorted(rows, rows)
        again = np.arange(len(rows)) - first
        drawn = self[rows]
        names = [f"{name}.{k + 1}" if k else name for name, k in zip(drawn.names, again, strict=True)]
        return drawn.replace(names=np.asarray(names, dtype=object))

    def numbered(self) -> Cells:
        """The same cells with codebook rows 0, 1, 2, ... and a layout that counts them."""
        layout = replace(self.layout, n_cells=len(self))
        return self.replace(layout=layout, index=torch.arange(len(self), device=self.device))

    def do(self, /, **levels: str | float | None) -> Cells:
        """The same cells under other levels: ``cells.do(batch="plate 2")``; None means unknown.

        Raises
        ------
        InputError
            For a column that was not read, or a level that the layout does not know.
        """
        changed = dict(self.covariates)
        for name, level in levels.items():
            covariate = self.layout.resolve(name)
            changed[covariate.column] = torch.full_like(changed[covariate.column], encode(covariate, level))
        return self.replace(covariates=changed)

    def level_names(self, column: str) -> np.ndarray:
        """The column as the user wrote it: level names (None for unknown) or values, ``n``."""
        covariate = self.layout.resolve(column)
        values = self.covariates[covariate.column].cpu().numpy()
        if not covariate.categorical:
            return values * covariate.scale + covariate.location
        return np.asarray([*covariate.levels, None], dtype=object)[values]


def pair_numbers(one: Int[Tensor, " n"], other: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """A number from 0 for each pair of numbers there is, in their order."""
    if not len(one):
        return one
    # Much faster than unique columns.
    one, other = one - one.min(), other - other.min()
    return (one * (other.max() + 1) + other).unique(return_inverse=True)[1]


def _restore(fields: dict[str, Any]) -> Cells:
    return Cells(fields.pop("layout"), **fields)


def _size(modality: Modality, measured: Measured) -> Tensor:
    if modality.kind == "continuous":
        return torch.ones(len(measured))
    return measured.sum_rows() if isinstance(measured, CSR) else measured.sum(1)
