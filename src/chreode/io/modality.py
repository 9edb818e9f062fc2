"""One modality of a source: which features are read, and their values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from chreode.axes import Bool, Float, Tensor
from chreode.cells import CSR, Measured
from chreode.errors import InputError
from chreode.io.features import by_column, by_deviance, by_name
from chreode.io.gather import Room, gather, gather_dense
from chreode.io.match import match
from chreode.io.regions import PossibleRegions
from chreode.io.survey import EXACT, Survey, silent, survey
from chreode.layout import Covariate, Modality
from chreode.words import listing, many

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from chreode.io.columns import Column
    from chreode.io.schema import Asked
    from chreode.io.source import Field, Part, Source

__all__ = ["Read", "absent", "learn_modality", "reuse_modality"]

DENSE = 16 << 20
"""Bytes up to which continuous values are held dense however many are zero."""

# Up to this mean, counts in regions say little more than open.
_NEARLY = 1.5
_ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "feature_id")


class Read(NamedTuple):
    """One modality of all cells of a source.

    Parameters
    ----------
    modality
        Its features.
    measured
        Its values.
    size
        Size factors, ``n``.
    present
        Which cells were measured in it, ``n``.
    mask
        Which values are known, ``n x g`` (or the same for all cells, ``1 x g``); None for all.
    messages
        What there was to say.
    n_source_features, missing, unknown
        As in `chreode.cells.Reading`.
    """

    modality: Modality
    measured: Measured
    size: Float[Tensor, " n"]
    present: Bool[Tensor, " n"]
    mask: Bool[Tensor, "n g"] | None = None
    messages: tuple[str, ...] = ()
    n_source_features: int = 0
    missing: int = 0
    unknown: int = 0


class Chosen(NamedTuple):
    """Where each feature of the source goes, and what the modality is then."""

    target: np.ndarray
    modality: Modality
    messages: tuple[str, ...] = ()


def learn_modality(
    part: Part, asked: Asked, room: Room, *, batch: Column | None, one_of: int, n: int
) -> Read:
    """Read a modality to train on: its features are taken from the source.

    Of several modalities, one that holds zeros and ones alone is read as binary.

    Parameters
    ----------
    part
        The modality.
    asked
        Layer, features and values.
    room
        Where the arrays are put.
    batch
        Of every cell of the whole source; None without batches.
    one_of
        How many modalities the source has.
    n
        How many cells.
    """
    source = part.source
    field = source.field(asked.counts)
    refuse_names(source, field)
    fixed = None if isinstance(asked.features, int) else _choose(source, field, asked)
    of = asked.modality if one_of > 1 else None
    group = None if batch is None else batch.values.numpy()
    group = group if group is None or part.rows is None else group[part.rows]
    found = survey(field, source, key=asked.counts or "X", values=asked.values, of=of, group=group)
    chosen = fixed or _most_variable(field, asked, found, group)
    if not found.by_feature[chosen.target >= 0].any():
        msg = (
            f"Expected values in the {chosen.modality.n_features:,} chosen features; found nothing but zeros."
        )
        raise InputError(msg + " Choose other features.")
    if one_of > 1 and asked.open and found.largest == 1:
        said = f"Every value of {source.name} is 0 or 1: it is read as binary."
        chosen = chosen._replace(
            modality=replace(chosen.modality, kind="binary"), messages=(*chosen.messages, said)
        )
    elif one_of > 1 and asked.open:
        said = _nearly_binary(field, found, source.name, layer=asked.counts)
        chosen = chosen._replace(messages=(*chosen.messages, *said))
    if batch is not None and group is not None and asked.values != "continuous":
        said = _filled_in(field, silent(found, group), source.name, batch.covariate)
        chosen = chosen._replace(messages=(*chosen.messages, *said))
    return _whole(part, field, chosen, found, room, one_of=one_of, n=n)


def reuse_modality(part: Part, asked: Asked, known: Modality, room: Room, *, one_of: int, n: int) -> Read:
    """Read a modality for a model: its features are the model's."""
    source = part.source
    if one_of > 1 and not len(source.cells):
        return absent(known, n)
    field = source.field(asked.counts)
    refuse_names(source, field)
    matched = match(field, known)
    key, of = asked.counts or "X", asked.modality if one_of > 1 else None
    found = survey(field, source, key=key, values=asked.values, empty=one_of > 1, of=of)
    if not found.by_feature.any():
        said = f"There is nothing but zeros in {source.name}: taken as not measured."
        return absent(known, n)._replace(messages=(said,))
    read = _whole(
        part, field, Chosen(matched.target, known, matched.messages), found, room, one_of=one_of, n=n
    )
    missing, unknown = int((~matched.found).sum()), int((matched.target < 0).sum())
    mask = read.mask
    if not matched.found.all():
        had = torch.from_numpy(matched.found)[None]
        mask = had if mask is None else mask & had
    return read._replace(mask=mask, missing=missing, unknown=unknown)


def absent(known: Modality, n: int) -> Read:
    """A modality in which no cell was measured."""
    size = torch.ones(n) if known.kind == "continuous" else torch.zeros(n)
    return Read(known, CSR.empty(n, known.n_features), size, torch.zeros(n, dtype=torch.bool))


def refuse_names(source: Source, field: Field) -> None:
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


def _choose(source: Source, field: Field, asked: Asked) -> Chosen:
    """All features, those a column marks, or those named."""
    every = np.arange(len(field.features))
    if isinstance(asked.features, str):
        every = by_column(field, asked.features, also=source.features)
    elif isinstance(asked.features, tuple):
        every = by_name(field, asked.features)
    return _kept(field, asked, every)


def _most_variable(field: Field, asked: Asked, found: Survey, group: np.ndarray | None) -> Chosen:
    """The most variable features by deviance."""
    keep = asked.features if isinstance(asked.features, int) else 0
    g = len(field.features)
    if asked.values != "counts":
        msg = f"Expected counts to find the most variable features; found values={asked.values!r}."
        raise InputError(msg + " Give a column of the feature table or a list of names.")
    group = np.zeros(len(found.total), dtype=np.int64) if group is None else group
    chosen = _kept(field, asked, by_deviance(field.matrix, keep, total=found.total, group=group))
    return chosen if keep <= g else chosen._replace(
        messages=(f"{keep:,} features were asked for; the source has {g:,}, which were all kept.",)
    )  # fmt: skip


def _kept(field: Field, asked: Asked, kept: Iterable[int] | np.ndarray) -> Chosen:
    kept = np.asarray(kept)
    target = np.full(len(field.features), -1, dtype=np.int64)
    target[kept] = np.arange(len(kept))
    symbols = () if field.symbols is None else tuple(field.symbols[kept].tolist())
    return Chosen(target, Modality(tuple(field.features.names[kept].tolist()), asked.values, symbols))


def _whole(
    part: Part, field: Field, chosen: Chosen, found: Survey, room: Room, *, one_of: int, n: int
) -> Read:
    """The values of every cell of the source, also of those that this modality lacks."""
    modality, source = chosen.modality, part.source
    measured, size = _measure(field, chosen, found, room)
    said = list(chosen.messages)
    if modality.kind == "counts" and found.largest > EXACT:
        said.append(
            f"Counts above {EXACT:,} (the largest is {found.largest:,.0f}) are rounded to 32-bit floats."
        )
    present = torch.ones(len(size), dtype=torch.bool)
    mask = None
    if modality.kind == "continuous" and isinstance(measured, Tensor) and bool(measured.isnan().any()):
        mask = ~measured.isnan()
        measured = measured.nan_to_num(0.0)
        present = mask.any(1)
        said.append(
            f"{int((~mask).sum()):,} of {mask.numel():,} values of {source.name} are missing (NaN): they are "
            "left out."
        )
    if modality.kind != "continuous":
        # Of one modality, a cell without counts is still a cell; of several, it was not measured in this one.
        present = size > 0 if one_of > 1 else present
        said += _empty(source, size, one_of)
    if part.rows is not None:
        rows = torch.from_numpy(part.rows)
        if isinstance(measured, CSR):
            measured = measured.spread(rows, n)
        else:
            measured = torch.zeros(n, measured.shape[1]).index_copy_(0, rows, measured)
        everyone = torch.ones(n) if modality.kind == "continuous" else torch.zeros(n)
        size = everyone.index_copy_(0, rows, size)
        present = torch.zeros(n, dtype=torch.bool).index_copy_(0, rows, present)
        if mask is not None:
            mask = torch.ones(n, mask.shape[1], dtype=torch.bool).index_copy_(0, rows, mask)
    read = Read(modality, measured, size, present, mask, messages=tuple(said))
    return read._replace(n_source_features=len(field.features))


def _nearly_binary(field: Field, found: Survey, name: str, *, layer: str | None) -> tuple[str, ...]:
    """What to say of counts in regions that are nearly all 1."""
    mean = found.total.sum() / max(found.by_cell.sum(), 1)
    few = field.features.only(np.arange(min(20, len(field.features))))
    if found.largest <= 1 or mean >= _NEARLY or not PossibleRegions.of_names(few.names).known.all():
        return ()
    where = f"layers[{layer!r}]" if layer else "X"
    said = (
        f"Where there is a count in {name} it is {mean:.2f} in the mean, {found.largest:g} at most: it is "
        "read as counts. To model open and closed regions instead, set all to 1: "
        f"adata.{where} = (adata.{where} > 0).astype('float32')."
    )
    return (said,)


def _filled_in(
    field: Field, silent: Mapping[int, np.ndarray], name: str, batch: Covariate
) -> tuple[str, ...]:
    """What to say of batches whose zeros are perhaps not measurements."""
    return tuple(
        f"Of {len(field.features):,} features of {name}, {len(features):,} are zero in every cell of "
        f"{batch.column} {batch.levels[b]!r}, but not in others (first: "
        f"{listing(field.features.names[features], limit=3)}). If they were not measured there, as where "
        "tables with other features were concatenated, read these apart: chreode.read({'a': ..., 'b': ...})."
        for b, features in silent.items()
    )


def _measure(field: Field, chosen: Chosen, found: Survey, room: Room) -> tuple[Measured, Tensor]:
    """The values, and the size factors."""
    width, n = chosen.modality.n_features, field.matrix.shape[0]
    nnz = int(found.by_feature[chosen.target >= 0].sum())
    if chosen.modality.kind == "continuous":
        missing = np.isnan(found.largest)
        if missing or 2 * nnz >= n * width or 4 * n * width <= DENSE:
            return gather_dense(field.matrix, target=chosen.target, width=width, room=room), torch.ones(n)
        csr, _ = gather(field.matrix, target=chosen.target, width=width, nnz=nnz, room=room)
        return csr, torch.ones(n)
    return gather(field.matrix, target=chosen.target, width=width, nnz=nnz, room=room)


def _empty(source: Source, size: Tensor, one_of: int) -> list[str]:
    empty = (size == 0).numpy()
    if not empty.any():
        return []
    first = listing(source.cells.names[empty][:3])
    if one_of > 1:
        cells = many(int(empty.sum()), "cell")
        return [f"{cells} without a count in {source.name} (first: {first}): taken as not measured in it."]
    return [
        f"{int(empty.sum()):,} of {len(empty):,} cells have no count in the features read (first: "
        f"{first}): they are kept and get a code at the prior's mode."
    ]
