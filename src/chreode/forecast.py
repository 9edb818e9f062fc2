"""Where cells go: codes moved along the dynamics of a model to times that nobody measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chreode.axes import Bool, Float, Tensor
from chreode.courses import held_still, line_of, refuse_unheld
from chreode.dynamics.clamp import Clamp
from chreode.errors import InputError
from chreode.words import listing, many, nearest

if TYPE_CHECKING:
    from chreode.dynamics import Motion
    from chreode.embedded import Embedded

__all__ = [
    "KnockOut",
    "asked",
    "before",
    "clamped",
    "decoded",
    "expected_features",
    "motion_of",
    "trajectories",
]

KnockOut = str | Sequence[str] | Mapping[str, float]
"""Names of features that are held at 0, or the value of each by name."""

_CELLS = 4096  # moved at a time
_OPERATORS = 1 << 24  # entries of their operators, at most
_LIMIT = 2_000_000_000  # bytes of expected values


def motion_of(embedded: Embedded) -> Motion:
    """The dynamics of the model.

    Raises
    ------
    InputError
        When it has none.
    """
    if embedded.module.dynamics is None:
        msg = (
            f"Expected a model of how cells move in time, such as cell_mnn; found {embedded.recipe}. Fit one "
            "to cells that were read with time=COLUMN (--time)."
        )
        raise InputError(msg)
    return embedded.module.dynamics


def asked(embedded: Embedded, times: Sequence[float]) -> Float[np.ndarray, " k"]:
    """Times as numbers that the dynamics of the model can answer for.

    Raises
    ------
    InputError
        For a time before the first measured one, times that are not finite numbers, or a model without
        dynamics.
    """
    first, wanted = motion_of(embedded).times[0], _numbers(times)
    if (wanted < first).any():
        msg = (
            f"Expected times from the first measured one on, {first:g}; found {wanted.min():g}. Of what was "
            "before it the model knows nothing: ask for a later time."
        )
        raise InputError(msg)
    return wanted


def before(embedded: Embedded, to: float) -> Bool[np.ndarray, " n"]:
    """Which cells are of the last measured time before another, of their course.

    Raises
    ------
    InputError
        When no time was measured before it, or the model was saved without its cells.
    """
    first = motion_of(embedded).times[0]
    if not first < _numbers([to])[0]:
        msg = f"Expected a time after the first measured one, {first:g}; found {to:g}. Ask for a later one."
        raise InputError(msg)
    if not len(embedded):
        msg = "Expected a model that was saved with its cells; found none. Give cells that set out (--from)."
        raise InputError(msg)
    time, followed = embedded.cells.time.cpu().numpy(), embedded.cells.followed.cpu().numpy()
    last = np.full(int(followed.max()) + 1, -np.inf, dtype=time.dtype)
    earlier = time < np.float32(to)
    np.maximum.at(last, followed[earlier], time[earlier])
    return time == last[followed]


@torch.no_grad()
def trajectories(
    embedded: Embedded,
    times: Sequence[float],
    *,
    which: Bool[np.ndarray, " n"] | None = None,
    clamp: Clamp | None = None,
    progress: bool = False,
) -> Float[np.ndarray, "k m d"]:
    """Codes of cells at each of some times, every cell from its own time on (or back).

    Features that a cell's perturbation holds stay where they are.

    Parameters
    ----------
    embedded
        Cells with times, and their codes.
    times
        In any order, none before the first measured one.
    which
        Which of the cells; None for all.
    clamp
        What features are held at, see `clamped`.
    progress
        Whether to show a bar.

    Raises
    ------
    InputError
        For a time before the first measured one, also of a cell that sets out, times that are not finite
        numbers, cells without times, or a model without dynamics.
    """
    from tqdm.auto import tqdm

    motion, wanted = motion_of(embedded), asked(embedded, times)
    rows = torch.arange(len(embedded))[slice(None) if which is None else torch.from_numpy(which)]
    start, codes = _starts(embedded)[rows], embedded.codes[embedded.code][rows]
    held = motion.features(embedded.cells)[rows]
    step = max(1, min(_CELLS, _OPERATORS // codes.shape[1] ** 2))
    parts = [some for feature in held.unique() for some in (held == feature).nonzero()[:, 0].split(step)]
    found = np.zeros((len(wanted), *codes.shape), dtype=np.float32)
    for here in tqdm(parts, desc="move cells", unit="chunk", disable=not progress):
        still = held_still(embedded.module, embedded.code, int(held[here[0]]))
        z, now, plane = codes[here], start[here], still
        if clamp is not None:
            plane = clamp.beside(still, z)
            z = plane.nearest(z)
        for k in np.argsort(wanted, kind="stable"):
            then = torch.full_like(now, float(wanted[k]))
            moved = motion(z, now, then, clamp=plane)
            found[k, here] = moved.cpu().numpy()
            # An operator that is taken once is that of where the cell set out.
            z, now = (z, now) if motion.once else (moved, then)
    return found


def clamped(embedded: Embedded, knock_out: KnockOut) -> Clamp | None:
    r"""The states at which features have the values that they are held at; None of no features.

    .. math:: \bar x_j + L_j z = v_j

    with ``L`` the loadings of the features on codes: of coordinates the features themselves, or those that
    they lead back to, of principal components the axes, in whose units (log-normalised, of counts) the values
    are.

    Parameters
    ----------
    embedded
        Cells of the model.
    knock_out
        Names of features, held at 0; or the value of each by name.

    Raises
    ------
    InputError
        For a feature that the model does not know, a value that is not a finite number, or features that
        the codes cannot hold apart, or not at all.
    """
    motion_of(embedded)
    if not knock_out:
        return None
    named = [knock_out] if isinstance(knock_out, str) else knock_out
    held: dict[str, Any] = {**named} if isinstance(named, Mapping) else dict.fromkeys(named, 0.0)
    columns = _positions(embedded, list(held))
    line = line_of(embedded.module, embedded.code)
    refuse_unheld(line, columns, list(held))
    values = torch.tensor(_finite(held), dtype=line.weight.dtype)
    return Clamp(line.weight[columns], values - line.mean[columns])


def _positions(embedded: Embedded, names: list[str]) -> list[int]:
    where = embedded.cells.layout.modalities[embedded.modality(None)].positions
    if lost := [name for name in names if name not in where]:
        msg = (
            f"Expected features the model knows; found {listing(lost, limit=5)}.{nearest(lost[0], where)} "
            "See layout.modalities[...].names."
        )
        raise InputError(msg)
    return [where[name] for name in names]


def _finite(held: Mapping[str, float]) -> list[float]:
    for name, value in held.items():
        if not isinstance(value, (int, float)) or not np.isfinite(value):
            msg = f"Expected a finite number that {name!r} is held at; found {value!r}. Give one, such as 0."
            raise InputError(msg)
    return [float(value) for value in held.values()]


@torch.no_grad()
def decoded(embedded: Embedded, codes: Float[np.ndarray, "k m d"]) -> Float[np.ndarray, "k m g"]:
    """What is expected at codes of cells at several times: proportions, of counts; values, of others.

    Of coordinates these are the features that they were read in place of, where these were there.

    Raises
    ------
    InputError
        When that is more than 2 GB.
    """
    names = expected_features(embedded)
    shape = (*codes.shape[:2], len(names))
    if 4 * np.prod(shape, dtype=np.int64) > _LIMIT:
        msg = (
            f"Expected values of at most 2 GB; found {shape[0] * shape[1]:,} cells x {shape[2]:,} features. "
            "Ask for fewer cells or times."
        )
        raise InputError(msg)
    back = _read_back(embedded)
    found = np.zeros(shape, dtype=np.float32)
    for k, z in enumerate(codes):
        for at in range(0, len(z), _CELLS):
            some = torch.from_numpy(z[at : at + _CELLS])
            found[k, at : at + _CELLS] = back(some).cpu().numpy()
    return found


def _read_back(embedded: Embedded) -> Callable[[Tensor], Tensor]:
    """From codes to what is expected of features."""
    described = embedded.cells.layout.modalities[embedded.modality(None)]
    if not described.readout:
        return lambda z: embedded.decode(z).proportions
    line, n = line_of(embedded.module, embedded.code), described.n_features
    return lambda z: line.mean[n:] + z @ line.weight[n:].T


def expected_features(embedded: Embedded) -> tuple[str, ...]:
    """Names of the features that codes are decoded to."""
    described = embedded.cells.layout.modalities[embedded.modality(None)]
    return described.readout or described.names


def _starts(embedded: Embedded) -> Tensor:
    start = embedded.cells.time
    if missing := int((~start.isfinite()).sum()):
        column: Any = embedded.cells.layout.in_role("time")
        msg = (
            f"Expected the time of every cell that sets out, in column {column.column!r}; found "
            f"{many(missing, 'cell')} without one. Fill them in, or leave these cells out."
        )
        raise InputError(msg)
    first = motion_of(embedded).times[0]
    if early := int((start < torch.tensor(first, dtype=start.dtype)).sum()):
        msg = (
            f"Expected cells that set out at the first measured time or later, {first:g}; found "
            f"{many(early, 'cell')} before it, where the model knows nothing. Leave these cells out."
        )
        raise InputError(msg)
    return start


def _numbers(times: Sequence[float]) -> np.ndarray:
    try:
        wanted = np.asarray(times, dtype=np.float64)
    except (TypeError, ValueError):
        wanted = np.full(1, np.nan)
    if wanted.ndim != 1 or not len(wanted) or not np.isfinite(wanted).all():
        msg = f"Expected times as finite numbers; found {times!r}. Give one, or a list of them."
        raise InputError(msg)
    return wanted
