"""Reading cells: everything that can be checked is checked here, before any training."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from chreode.axes import Tensor
from chreode.cells import CSR, Cells, Layout, Modality, Reading
from chreode.errors import InputError
from chreode.io.columns import Column, learn, reuse
from chreode.io.features import by_column, by_deviance, by_name
from chreode.io.gather import Room, gather, gather_dense
from chreode.io.match import match
from chreode.io.opening import open_source
from chreode.io.schema import Schema, listing
from chreode.io.survey import EXACT, Survey, survey

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from anndata import AnnData

    from chreode.io.source import Field, Source

__all__ = ["Fitted", "read"]

MODALITY = "rna"
DENSE = 16 << 20
"""Bytes up to which continuous values are held dense however many are zero."""


@runtime_checkable
class Fitted(Protocol):
    """What ``like=`` needs of a model: what it was trained on."""

    layout: Layout
    reading: Reading


def read(
    source: str | os.PathLike[str] | AnnData | Cells,
    *,
    counts: str | None = None,
    batch: str | None = None,
    label: str | None = None,
    covariates: str | Sequence[str] = (),
    features: str | Iterable[str] | int | None = None,
    values: str = "counts",
    like: Fitted | None = None,
) -> Cells:
    """Read cells from an AnnData, a file or a folder; nothing in the source is changed.

    Files are read in blocks and never made dense. When the non-zeros would take more than half of the
    memory available, they are put in temporary files that are mapped to memory and disappear with the cells.

    Parameters
    ----------
    source
        An AnnData, the path of an h5ad file, of a 10x ``.h5`` file (Cell Ranger 2 or 3), of a 10x folder
        (``matrix.mtx``, ``features.tsv`` or ``genes.tsv``, ``barcodes.tsv``, gzipped or not) or of a zarr
        store; or `Cells` that were read before. (A view of a backed AnnData is loaded; give its file to
        have it read in blocks.)
    counts
        Layer that holds the values, ``"raw"`` for ``adata.raw``; ``X`` by default.
    batch
        Column of the experimental batch, known for every cell.
    label
        Column of labels, for scores and tables; missing ones are unknown.
    covariates
        Columns that condition the decoder. Numbers are continuous and standardised, all else are levels;
        missing ones are unknown.
    features
        Which features: a boolean column of the feature table, a list of names (kept in its order), or how
        many of the most variable ones by deviance within batches; all by default.
    values
        ``counts`` (0, 1, 2, ...), ``binary`` (0 and 1) or ``continuous`` (anything finite).
    like
        A model (or `Cells`): its features, levels and scales are reused, so that the cells can be projected.
        Features are matched by name, then by symbol, then with Ensembl versions left out; those missing are
        masked. ``counts``, ``batch`` and ``label`` default to the model's and may name others here.

    Returns
    -------
    Immutable `Cells`; ``cells.reading.messages`` says in sentences what there was to say.

    Raises
    ------
    InputError
        When the source is not what was expected, with what was found and the remedy.

    Examples
    --------
    >>> import chreode.io.datasets as datasets
    >>> cells = read(datasets.pbmc68k(), label="bulk_labels")
    >>> cells
    Cells(700 cells, rna: 765 features (counts), label 'bulk_labels' (10 levels))
    """
    schema = Schema.of(
        counts=counts, batch=batch, label=label, covariates=covariates, features=features, values=values
    )
    cells = _read(source, schema, like=like)
    if cells is not source:
        for message in cells.reading.messages:
            logging.getLogger(__name__).warning(message)
    return cells


def _read(
    source: object, schema: Schema, *, like: Fitted | None = None, memory_limit: int | None = None
) -> Cells:
    """`read` with the arguments checked, and a limit in bytes of memory for the non-zeros."""
    if like is not None and not isinstance(like, Fitted):
        msg = (
            f"Expected like to be a fitted model or Cells; found {type(like).__name__}. Load a model with "
            "ch.load."
        )
        raise InputError(msg)
    if isinstance(source, Cells) and (like is None or _same(source.layout, like.layout)):
        return source
    room = Room(memory_limit)
    with open_source(source) as opened:
        if like is None:
            return _learn(opened, schema, room)
        return _reuse(opened, schema, like, room)


class Chosen(NamedTuple):
    """Where each feature of the source goes, and what the modality is then."""

    target: np.ndarray
    modality: Modality
    messages: tuple[str, ...] = ()
    missing: int = 0
    unknown: int = 0


def _learn(source: Source, schema: Schema, room: Room) -> Cells:
    """Read cells to train on: features, levels and scales are taken from them."""
    field = source.field(schema.counts)
    _refuse_names(source, field)
    columns = [learn(source, name, role=role) for name, role in schema.roles]
    fixed = None if isinstance(schema.features, int) else _choose(source, field, schema)
    survey_ = survey(field, source, key=schema.counts or "X", values=schema.values)
    group = next((c.values.numpy() for c in columns if c.covariate.role == "batch"), None)
    chosen = fixed or _most_variable(field, schema, survey_, group)
    if not survey_.by_feature[chosen.target >= 0].any():
        msg = (
            f"Expected values in the {chosen.modality.n_features:,} chosen features; found nothing but zeros."
        )
        raise InputError(msg + " Choose other features.")
    return _cells(source, field, schema, columns, chosen, survey_, room)


def _reuse(source: Source, schema: Schema, like: Fitted, room: Room) -> Cells:
    """Read cells for a model: features, levels and scales are the model's."""
    (name, modality), *others = like.layout.modalities.items()
    if others or name != MODALITY:
        msg = (
            f"Expected a model of one modality called {MODALITY!r}; found {listing(like.layout.modalities)}."
        )
        raise InputError(msg)
    asked = {"batch": schema.batch, "label": schema.label}
    schema, said = _inherited(schema, source, like)
    field = source.field(schema.counts)
    _refuse_names(source, field)
    columns = [reuse(source, c, column=asked.get(c.role)) for c in like.layout.covariates.values()]
    matched = match(field, modality)
    survey_ = survey(field, source, key=schema.counts or "X", values=schema.values)
    chosen = Chosen(
        matched.target,
        modality,
        said + matched.messages,
        int((~matched.found).sum()),
        int((matched.target < 0).sum()),
    )
    cells = _cells(source, field, schema, columns, chosen, survey_, room)
    if matched.found.all():
        return cells
    panels = {MODALITY: torch.from_numpy(matched.found)[None]}
    return cells.replace(panels=panels, panel={MODALITY: torch.zeros(len(cells), dtype=torch.int64)})


def _inherited(schema: Schema, source: Source, like: Fitted) -> tuple[Schema, tuple[str, ...]]:
    """The model's schema, changed where this call names another field."""
    if schema.covariates or schema.features is not None:
        msg = "Expected the model to say which covariates and features are read; found them given with like=."
        raise InputError(msg + " Leave covariates and features out.")
    kind = like.layout.modalities[MODALITY].kind
    if schema.values not in ("counts", kind):
        msg = (
            f"Expected values={kind!r}, as the model was trained; found {schema.values!r}. Leave values out."
        )
        raise InputError(msg)
    said: list[str] = []
    changes: dict[str, str | None] = {}
    for role, column in (("batch", schema.batch), ("label", schema.label)):
        known = next((c.column for c in like.layout.covariates.values() if c.role == role), None)
        changes[role] = column or known
        if column and known is None:
            changes[role] = None
            said.append(f"The model knows no {role}: column {column!r} was not read.")
    trained = like.reading.schema.get("counts")
    counts = schema.counts or trained
    if schema.counts is None and trained not in (None, *source.fields) and list(source.fields) == ["X"]:
        counts = None
        said.append(f"The model was trained on layer {trained!r}; here there is only X, which was read.")
    known = tuple(c.column for c in like.layout.covariates.values() if c.role == "covariate")
    given = replace(
        schema, counts=counts, covariates=known, values=kind, batch=changes["batch"], label=changes["label"]
    )
    return given, tuple(said)


def _choose(source: Source, field: Field, schema: Schema) -> Chosen:
    """All features, those a column marks, or those named."""
    every = np.arange(len(field.features))
    if isinstance(schema.features, str):
        every = by_column(field, schema.features, also=source.features)
    elif isinstance(schema.features, tuple):
        every = by_name(field, schema.features)
    return _kept(field, schema, every)


def _most_variable(field: Field, schema: Schema, found: Survey, group: np.ndarray | None) -> Chosen:
    """The most variable features by deviance."""
    keep = schema.features if isinstance(schema.features, int) else 0
    g = len(field.features)
    if schema.values != "counts":
        msg = f"Expected counts to find the most variable features; found values={schema.values!r}."
        raise InputError(msg + " Give a column of the feature table or a list of names.")
    group = np.zeros(len(found.total), dtype=np.int64) if group is None else group
    chosen = _kept(field, schema, by_deviance(field.matrix, keep, total=found.total, group=group))
    return chosen if keep <= g else chosen._replace(
        messages=(f"{keep:,} features were asked for; the source has {g:,}, which were all kept.",)
    )  # fmt: skip


def _kept(field: Field, schema: Schema, kept: np.ndarray) -> Chosen:
    target = np.full(len(field.features), -1, dtype=np.int64)
    target[kept] = np.arange(len(kept))
    symbols = () if field.symbols is None else tuple(field.symbols[kept].tolist())
    return Chosen(target, Modality(tuple(field.features.names[kept].tolist()), schema.values, symbols))


def _refuse_names(source: Source, field: Field) -> None:
    """Refuse an empty matrix and names borne twice."""
    n, g = len(source.cells), len(field.features)
    if not n or not g:
        msg = (
            f"Expected at least one cell and one feature in {source.name}; found {n:,} cells x {g:,} "
            "features."
        )
        raise InputError(msg + " Check how it was filtered.")
    unique = [column for column, v in field.features.aliases(_ID_COLUMNS).items() if len(set(v)) == len(v)]
    by_id = f"adata.var_names = adata.var[{unique[0]!r}]" if unique else "adata.var_names_make_unique()"
    for what, names, remedy in (
        ("cell", source.cells.names, "adata.obs_names_make_unique()"),
        ("feature", field.features.names, by_id),
    ):
        seen, times = np.unique(names.astype(str), return_counts=True)
        if len(seen) < len(names):
            twice = seen[times > 1]
            msg = (
                f"Expected every {what} name once in {source.name}; found {len(twice):,} more than once "
                f"({listing(twice, limit=3)}). Call {remedy} first."
            )
            raise InputError(msg)


_ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "feature_id")


def _cells(
    source: Source,
    field: Field,
    schema: Schema,
    columns: list[Column],
    chosen: Chosen,
    found: Survey,
    room: Room,
) -> Cells:
    measured, size = _measure(field, chosen, found, room)
    n = len(source.cells)
    said = [*source.messages, *chosen.messages, *(m for column in columns for m in column.messages)]
    if schema.values == "counts" and found.largest > EXACT:
        said.append(
            f"Counts above {EXACT:,} (the largest is {found.largest:,.0f}) are rounded to 32-bit floats."
        )
    if schema.values != "continuous":
        said += _empty(source, size)
    if room.spilled:
        said.append(
            f"{room.spilled / 1e6:,.1f} MB of values exceed the memory set aside and were put on disk."
        )
    covariates = {column.covariate.column: column for column in columns}
    return Cells(
        Layout(n, {MODALITY: chosen.modality}, {name: c.covariate for name, c in covariates.items()}),
        names=source.cells.names,
        measured={MODALITY: measured},
        size={MODALITY: size},
        covariates={name: c.values for name, c in covariates.items()},
        reading=Reading(
            source=source.name,
            schema=schema.to_json(),
            messages=tuple(said),
            n_source_features=len(field.features),
            missing=chosen.missing,
            unknown=chosen.unknown,
        ),
    )


def _measure(field: Field, chosen: Chosen, found: Survey, room: Room) -> tuple[CSR | Tensor, Tensor]:
    """The values, and the size factors."""
    width, n = chosen.modality.n_features, field.matrix.shape[0]
    nnz = int(found.by_feature[chosen.target >= 0].sum())
    if chosen.modality.kind == "continuous":
        if 2 * nnz >= n * width or 4 * n * width <= DENSE:
            return gather_dense(field.matrix, target=chosen.target, width=width, room=room), torch.ones(n)
        csr, _ = gather(field.matrix, target=chosen.target, width=width, nnz=nnz, room=room)
        return csr, torch.ones(n)
    return gather(field.matrix, target=chosen.target, width=width, nnz=nnz, room=room)


def _empty(source: Source, size: Tensor) -> list[str]:
    empty = (size == 0).numpy()
    if not empty.any():
        return []
    number = int(empty.sum())
    return [
        f"{number:,} of {len(empty):,} cells have no count in the features read (first: "
        f"{listing(source.cells.names[empty][:3])}): they are kept and get a code at the prior's mode."
    ]


def _same(one: Layout, other: Layout) -> bool:
    return dict(one.modalities) == dict(other.modalities) and dict(one.covariates) == dict(other.covariates)
