"""Reading cells: everything that can be checked is checked here, before any training."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chreode.axes import Tensor
from chreode.cells import Cells, Reading
from chreode.errors import InputError
from chreode.io.check import (
    refuse_constant,
    refuse_courses,
    refuse_growth,
    refuse_perturbations,
    refuse_single_times,
    refuse_unlinked,
)
from chreode.io.columns import Column, labelled, learn, reuse
from chreode.io.coordinates import at_coordinates
from chreode.io.gather import Room
from chreode.io.join import join
from chreode.io.modality import Read, absent, learn_modality, reuse_modality
from chreode.io.opening import open_source
from chreode.io.schema import INHERITED, Schema
from chreode.io.source import MODALITY
from chreode.io.wanted import Fitted, inherited, parts_of
from chreode.layout import Layout
from chreode.words import listing

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from anndata import AnnData
    from mudata import MuData

    from chreode.io.source import Source

__all__ = ["read"]


def read(
    source: str | os.PathLike[str] | AnnData | MuData | Cells | Mapping[str, Any],
    *,
    counts: str | Mapping[str, str | None] | None = None,
    batch: str | None = None,
    label: str | None = None,
    covariates: str | Sequence[str] = (),
    features: str | Iterable[str] | int | Mapping[str, Any] | None = None,
    values: str | Mapping[str, str] | None = None,
    modalities: str | Sequence[str] = (),
    unlabelled: str | None = None,
    time: str | None = None,
    coordinates: str | None = None,
    dims: int | None = None,
    growth: str | None = None,
    course: str | None = None,
    perturbation: str | None = None,
    like: Fitted | None = None,
    add_levels: bool = False,
) -> Cells:
    """Read cells from an AnnData, a MuData, a file or a folder; nothing in the source is changed.

    Several modalities are read from a MuData, and from an AnnData or a 10x file whose ``feature_types`` say
    so (``rna``, ``atac``, ``prot``). A cell that a modality lacks, or that has no count in it, was not
    measured in it. Of several modalities, one that holds zeros and ones alone is binary.

    Files are read in blocks and never made dense. When the non-zeros would take more than half of the
    memory available, they are put in temporary files that are mapped to memory and disappear with the cells.

    Parameters
    ----------
    source
        An AnnData or MuData, the path of an h5ad or h5mu file, of a 10x ``.h5`` file (Cell Ranger 2 or 3),
        of a 10x folder (``matrix.mtx``, ``features.tsv`` or ``genes.tsv``, ``barcodes.tsv``, gzipped or
        not) or of a zarr store; or `Cells` that were read before. (A view of a backed AnnData is loaded; give
        its file to have it read in blocks.) Or several of these by name: they are joined by the names of
        their features, those that one lacks are masked in its cells, and ``batch="source"`` tells them apart.
    counts
        Layer that holds the values, ``"raw"`` for ``adata.raw``; ``X`` by default. Of several modalities, one
        for each: ``{"rna": "counts"}``; so with ``features`` and ``values``.
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
        ``counts`` (0, 1, 2, ...), the default, ``binary`` (0 and 1) or ``continuous`` (anything finite;
        NaN is missing).
    modalities
        Those to read; all by default. Of a source that does not say what it holds, its name (``rna`` by
        default).
    unlabelled
        Level of the label that means that there is none: ``"Unknown"``, say.
    time
        Column of the times at which cells were measured: numbers, of several cells each.
    coordinates
        An entry of ``obsm`` (``"X_pca"``) that is read in place of the features, as continuous values; for
        dynamics, which need no counts. A file that holds nothing else will do.
    dims
        Its first so many dimensions; all by default.
    growth
        Column of the growth rates of cells, births less deaths per unit of time: dynamics take a cell of rate
        g for ``exp(g t)`` cells after a time t. `chreode.dynamics.growth_rates` estimates them.
    course
        Column whose levels are followed apart, by one field: cells of a replicate, a lineage or a data set
        become cells of the same.
    perturbation
        Column of the feature that is held where it is in a cell, as by a knock-out: dynamics move such cells
        in all other directions alone. One more level at most, and missing values, mean that nothing is held.
    like
        A model (or `Cells`): its features, levels and scales are reused, so that the cells can be projected.
        Features are matched by name, then by symbol, then with Ensembl versions left out; those missing are
        masked. ``counts``, ``batch``, ``label`` and the columns of dynamics default to the model's and may
        name others here.
    add_levels
        With ``like``, of one table: levels of batch and covariates that the model does not know come after
        those it knows, for `chreode.add_levels`; by default they are unknown.

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
        counts=counts,
        batch=batch,
        label=label,
        covariates=covariates,
        features=features,
        values=values,
        modalities=modalities,
        unlabelled=unlabelled,
        time=time,
        coordinates=coordinates,
        dims=dims,
        growth=growth,
        course=course,
        perturbation=perturbation,
    )
    if unlabelled is not None and label is None and like is None:
        msg = f"Expected label= beside unlabelled={unlabelled!r}; found none. Name the column of the labels."
        raise InputError(msg)
    if add_levels and (like is None or isinstance(source, Mapping)):
        found = "no model" if like is None else "several tables"
        msg = f"Expected add_levels=True with one table and like=model; found {found}. Leave it out."
        raise InputError(msg)
    if isinstance(source, Mapping):
        cells = _several(source, schema, like)
    else:
        cells = _read(source, schema, like=like, add_levels=add_levels)
    if cells is not source:
        if like is None:
            refuse_constant(cells)
            refuse_single_times(cells)
            refuse_growth(cells)
            refuse_courses(cells)
            refuse_perturbations(cells)
            refuse_unlinked(cells)
        for message in cells.reading.messages:
            logging.getLogger(__name__).warning(message)
    return cells


def _read(
    source: object,
    schema: Schema,
    *,
    like: Fitted | None = None,
    memory_limit: int | None = None,
    alone: bool = True,
    add_levels: bool = False,
) -> Cells:
    """`read` with the arguments checked, and a limit in bytes of memory for the non-zeros.

    A source that is not ``alone`` may lack modalities that something is asked of.
    """
    if like is not None and not isinstance(like, Fitted):
        msg = (
            f"Expected like to be a fitted model or Cells; found {type(like).__name__}. Load a model with "
            "ch.load."
        )
        raise InputError(msg)
    if isinstance(source, Cells) and (like is None or _same(source.layout, like.layout)):
        return source
    room = Room(memory_limit)
    with open_source(source) as found:
        opened, schema = at_coordinates(found, schema, like)
        if alone:
            schema.refuse_unknown(opened.parts or schema.modalities or [MODALITY], opened.name)
        if like is None:
            return _learn(opened, schema if alone else _known(opened, schema), room)
        return _reuse(opened, schema, like, room, add_levels=add_levels)


def _several(sources: Mapping[str, Any], schema: Schema, like: Fitted | None) -> Cells:
    """Several sources as one, told apart by the column "source"."""
    if not sources:
        msg = "Expected sources by name; found an empty dictionary. Give {'a': path, 'b': path}."
        raise InputError(msg)
    within = schema
    roles = [name for name, _ in schema.roles]
    if "source" in roles:
        given: Any = {role: None for role in INHERITED if getattr(schema, role) == "source"}
        others = tuple(name for name in schema.covariates if name != "source")
        within = replace(schema, covariates=others, **given)
    read = {str(name): _read(one, within, like=like, alone=False) for name, one in sources.items()}
    schema.refuse_unknown({m for one in read.values() for m in one.layout.modalities}, listing(sources))
    columns = {column for one in read.values() for column in one.layout.covariates}
    for name, _ in within.roles:
        if like is None and name not in columns:
            msg = f"Expected a column {name!r} with values in one of {listing(sources)}; found none."
            raise InputError(msg + " Leave it out, or name another.")
    trained = like.layout.covariates.get("source") if like else None
    role = trained.role if trained else dict(schema.roles).get("source")
    return join(read, role=role, like=like.layout if like else None, schema=schema)


def _known(source: Source, schema: Schema) -> Schema:
    """Without the columns that this one of several sources does not know, and may: they are missing."""

    def known(name: str | None, unlabelled: str | None = None) -> bool:
        if name not in source.cells.columns:
            return False
        return not labelled(source.cells.column(str(name)), unlabelled).isna().all()

    covariates = tuple(name for name in schema.covariates if known(name))
    label = schema.label if known(schema.label, schema.unlabelled) else None
    apart: Any = {
        role: name if known(name) else None
        for role, name in (("course", schema.course), ("perturbation", schema.perturbation))
    }
    return replace(schema, label=label, covariates=covariates, **apart)


def _learn(source: Source, schema: Schema, room: Room) -> Cells:
    """Read cells to train on: features, levels and scales are taken from them."""
    parts = parts_of(source, schema)
    n = len(source.cells)
    columns = [learn(source, name, role=role, unlabelled=schema.unlabelled) for name, role in schema.roles]
    batch = next((c for c in columns if c.covariate.role == "batch"), None)
    read = {
        name: learn_modality(part, schema.of_modality(name), room, batch=batch, one_of=len(parts), n=n)
        for name, part in parts.items()
    }
    return _cells(source, schema, columns, read, room)


def _reuse(source: Source, schema: Schema, like: Fitted, room: Room, *, add_levels: bool) -> Cells:
    """Read cells for a model: features, levels and scales are the model's."""
    known = like.layout.modalities
    asked = {role: getattr(schema, role) for role in INHERITED}
    schema, parts, said = inherited(schema, source, like)
    columns = [
        reuse(source, c, column=asked.get(c.role), add_levels=add_levels, unlabelled=schema.unlabelled)
        for c in like.layout.covariates.values()
    ]
    n, read = len(source.cells), {}
    for name, modality in known.items():
        if name not in parts:
            said += (
                f"No cell was measured in {name}, which the model knows: codes are found from the rest.",
            )
            read[name] = absent(modality, n)
            continue
        one = schema.of_modality(name)
        read[name] = reuse_modality(parts[name], one, modality, room, one_of=len(known), n=n)
    return _cells(source, schema, columns, read, room, said=said)


def _cells(
    source: Source,
    schema: Schema,
    columns: list[Column],
    read: Mapping[str, Read],
    room: Room,
    *,
    said: tuple[str, ...] = (),
) -> Cells:
    n = len(source.cells)
    messages = [*source.messages, *said]
    messages += [m for one in read.values() for m in one.messages]
    messages += [m for column in columns for m in column.messages]
    if room.spilled:
        messages.append(
            f"{room.spilled / 1e6:,.1f} MB of values exceed the memory set aside and were put on disk."
        )
    covariates = {column.covariate.column: column for column in columns}
    modalities = {name: one.modality for name, one in read.items()}
    if source.readout is not None:
        modalities = {name: replace(m, readout=source.readout.names) for name, m in modalities.items()}
    panels = {name: _panels(one.mask, n) for name, one in read.items() if one.mask is not None}
    return Cells(
        Layout(
            n,
            modalities,
            {name: c.covariate for name, c in covariates.items()},
        ),
        names=source.cells.names,
        measured={name: one.measured for name, one in read.items()},
        size={name: one.size for name, one in read.items()},
        present={name: one.present for name, one in read.items()},
        covariates={name: c.values for name, c in covariates.items()},
        panels={name: which for name, (which, _) in panels.items()},
        panel={name: panel for name, (_, panel) in panels.items()},
        readout=source.readout and source.readout.tensors(),
        reading=Reading(
            source=source.name,
            schema=schema.to_json(),
            messages=tuple(messages),
            n_source_features=sum(one.n_source_features for one in read.values()),
            missing=sum(one.missing for one in read.values()),
            unknown=sum(one.unknown for one in read.values()),
        ),
    )


def _panels(mask: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The distinct rows of a mask, and which of them each cell has."""
    if len(mask) == 1:
        return mask, torch.zeros(n, dtype=torch.int64)
    which, panel = np.unique(mask.numpy(), axis=0, return_inverse=True)
    return torch.from_numpy(which), torch.from_numpy(panel.reshape(-1))


def _same(one: Layout, other: Layout) -> bool:
    return dict(one.modalities) == dict(other.modalities) and dict(one.covariates) == dict(other.covariates)
