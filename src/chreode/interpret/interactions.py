"""Which feature speeds up or slows down which, read off a learned field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from chreode.axes import Float, Tensor
from chreode.errors import InputError
from chreode.forecast import motion_of
from chreode.infer import PrincipalComponents
from chreode.words import listing, many, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from chreode.dynamics import Motion
    from chreode.embedded import Embedded

__all__ = ["connected", "interactions", "jacobians", "operators"]

_PAIRS = 4_000_000  # rows of a table, at most
_CELLS = 4096  # at a time
_EVERYONE = "all"


class Basis(NamedTuple):
    """Names of the features, and how codes lead to them, ``g x d``."""

    names: list[str]
    loadings: np.ndarray


def jacobians(model: Any, rows: np.ndarray | None = None) -> Float[np.ndarray, "n d d"]:
    r"""How the velocity of each fitted cell changes with its code.

    .. math:: J_{ab} = \frac{\partial \dot z_a}{\partial z_b}

    The derivative of the field itself, at each cell's code and time: of a locally linear field it is not the
    operator ``A(z, t)``, of which infinitely many give the same velocities.

    Parameters
    ----------
    model
        A fitted model with dynamics, or its embedded cells.
    rows
        Positions of the cells; all by default.

    Raises
    ------
    InputError
        For a model without dynamics, or one that was saved without its cells.
    """

    def slopes(motion: Motion, z: Tensor, t: Tensor) -> Tensor:
        z = z.clone().requires_grad_()
        with torch.enable_grad():
            velocity = motion.velocity(z, t)
            return torch.stack([torch.autograd.grad(v, z, retain_graph=True)[0] for v in velocity.sum(0)], 1)

    return _at_cells(model, rows, slopes)


def operators(model: Any, rows: np.ndarray | None = None) -> Float[np.ndarray, "n d d"]:
    r"""The operator ``A(z, t)`` of a locally linear field at each fitted cell, per unit of time.

    .. math:: \frac{dz}{dt} = A(z, t)\,(z - m) + b(z, t)

    with m the mean of the codes. Infinitely many ``A`` give the same velocities, with another ``b`` for each:
    what a code does to a velocity is what `jacobians` say.

    Parameters
    ----------
    model, rows
        As of `jacobians`.

    Raises
    ------
    InputError
        For a model whose field has no operator, or one that was saved without its cells.
    """

    def matrices(motion: Motion, z: Tensor, t: Tensor) -> Tensor:
        return motion.field.operator(motion.inside(z), motion.clock(t)).operator() / motion.interval

    embedded: Embedded = getattr(model, "embedded", model)
    if not hasattr(motion_of(embedded).field, "operator"):
        msg = f"Expected a field with an operator, as of cell_mnn; found that of {embedded.recipe}."
        raise InputError(msg + " Read its Jacobian: chreode.interpret.interactions.jacobians.")
    return _at_cells(embedded, rows, matrices)


@torch.no_grad()
def _at_cells(
    model: Any, rows: np.ndarray | None, of: Callable[[Motion, Tensor, Tensor], Tensor]
) -> Float[np.ndarray, "n d d"]:
    """Matrices of the field at the codes and times of fitted cells, some at a time."""
    embedded: Embedded = getattr(model, "embedded", model)
    motion = motion_of(embedded)
    _refuse_none(embedded)
    codes, times = embedded.codes[embedded.code].detach(), embedded.cells.time
    chosen = torch.arange(len(codes)) if rows is None else torch.as_tensor(rows)
    if not len(chosen):
        return np.zeros((0, codes.shape[1], codes.shape[1]), np.float32)
    return np.concatenate([of(motion, codes[some], times[some]).numpy() for some in chosen.split(_CELLS)])


def interactions(
    model: Any,
    *,
    groups: str | None = None,
    loadings: Any = None,
    regulators: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    draws: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    r"""How each feature changes the velocity of each other, on average over the cells of a group.

    .. math:: \frac{\partial \dot x}{\partial x} = L\,J\,L^{+}, \qquad x = \bar x + L z

    with ``J`` the Jacobian of the field (`jacobians`) and :math:`L^{+}` the pseudo-inverse of the loadings.
    The loadings hold whatever scaling lies between codes and features: of standardised components they are
    the components times the standard deviations.

    What snapshots do not tell, this does not either: among the many fields that lead from one time's cells to
    the next one's it shows the one that was learned. See which entries several models, from several seeds,
    agree on.

    Parameters
    ----------
    model
        With dynamics; or several of the same cells, fitted from several seeds.
    groups
        Column whose levels are told apart; None for all cells together. Cells of unknown level are left out.
    loadings
        Features by coordinates: a table whose index names the features, or an array. None: the principal
        components of a model of counts; of coordinates, these themselves, or the features that they lead
        back to where ``regulators`` or ``targets`` name some.
    regulators, targets
        Names of features; all by default.
    draws
        Bootstrap samples of the cells that say how stable a sign is, of one model; of several it is how many
        of them agree.
    seed
        Of the bootstrap.

    Returns
    -------
    DataFrame
        ``group``, ``regulator``, ``target``, ``effect`` (change of the target's velocity, per unit of time,
        by a unit of the regulator), ``sign`` (1 or -1), ``spread`` (standard deviation of the effect over
        draws or models) and ``stability`` (share of draws or models with this sign); strongest first.

    Raises
    ------
    InputError
        For a model without dynamics or cells, models of different cells, a group or feature that is not
        there, loadings of too few columns, no draws, or a table of more than four million pairs.

    References
    ----------
    Cell-MNN (2025), doi:10.48550/arXiv.2510.02903, which reads ``A`` and leaves out the scaling.
    """
    import pandas as pd

    every = list(model) if isinstance(model, (list, tuple)) else [model]
    models: list[Embedded] = [getattr(one, "embedded", one) for one in every]
    _refuse_others(models)
    if draws < 1:
        msg = f"Expected at least one draw; found draws={draws}. Use 100 or more."
        raise InputError(msg)
    named = {*(regulators or ()), *(targets or ())}
    basis, told_apart = _basis(models[0], loadings, named), _groups(models[0], groups)
    rows, columns = _chosen(basis, targets, "targets"), _chosen(basis, regulators, "regulators")
    if len(rows) * len(columns) * len(told_apart) > _PAIRS:
        msg = (
            f"Expected at most {_PAIRS:,} pairs; found {len(columns):,} regulators, {len(rows):,} targets "
            f"and {many(len(told_apart), 'group')}. Name some with regulators= and targets=."
        )
        raise InputError(msg)
    out, back = basis.loadings[rows], np.linalg.pinv(basis.loadings)[:, columns]
    rng, tables = np.random.default_rng(seed), []
    for group, members in told_apart.items():
        each = [jacobians(one, members) for one in models]
        effect = out @ np.mean([j.mean(0) for j in each], 0) @ back
        means = _resampled(each[0], draws, rng) if len(each) == 1 else np.stack([j.mean(0) for j in each])
        table = _table(group, effect, means, out, back)
        table["regulator"] = np.asarray(basis.names)[columns[table["regulator"]]]
        table["target"] = np.asarray(basis.names)[rows[table["target"]]]
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def connected(model: Any, *, most: int = 25) -> list[str]:
    r"""Names of the features that take most part in the interactions of all cells, the first the most.

    .. math:: \Big(\sum_{j \ne i} E_{ij}^2 + E_{ji}^2\Big)^{1/2}, \qquad E = L\,\bar J\,L^{+}

    with the mean Jacobian, as of `interactions`; of any number of features, since ``E`` is never made.

    Parameters
    ----------
    model
        A fitted model with dynamics, or its embedded cells.
    most
        How many, at most.

    Raises
    ------
    InputError
        For a model without dynamics or cells.
    """
    basis = _basis(getattr(model, "embedded", model), None)
    out, back = basis.loadings, np.linalg.pinv(basis.loadings).T
    mean = jacobians(model).mean(0).astype(np.float64)
    by_target, by_regulator = out @ mean, back @ mean.T
    own = (by_target * back).sum(1)
    of_targets = (by_target @ (back.T @ back) * by_target).sum(1) - own**2
    of_regulators = (by_regulator @ (out.T @ out) * by_regulator).sum(1) - own**2
    part = of_targets + of_regulators
    order = np.argsort(-part, kind="stable")[:most]
    return [basis.names[i] for i in order if part[i] > 1e-9 * own[i] ** 2]


def _resampled(each: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Means over bootstrap samples of cells."""
    n = len(each)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=draws)
    return np.einsum("bn,nij->bij", drawn / n, each)


def _table(
    group: str, effect: np.ndarray, means: np.ndarray, out: np.ndarray, back: np.ndarray
) -> pd.DataFrame:
    """One row a pair, by positions, the strongest first."""
    import pandas as pd

    total, square, agree = (np.zeros_like(effect) for _ in range(3))
    for mean in means:
        one = out @ mean @ back
        total, square = total + one, square + one**2
        agree += np.sign(one) == np.sign(effect)
    n = len(means)
    spread = np.sqrt(np.maximum(square / n - (total / n) ** 2, 0))
    order = np.argsort(-np.abs(effect), axis=None, kind="stable")
    target, regulator = np.unravel_index(order, effect.shape)
    return pd.DataFrame(
        {
            "group": group,
            "regulator": regulator,
            "target": target,
            "effect": effect.ravel()[order],
            "sign": np.sign(effect.ravel()[order]).astype(int),
            "spread": spread.ravel()[order],
            "stability": (agree / n).ravel()[order],
        }
    )


def _refuse_none(embedded: Embedded) -> None:
    if not len(embedded):
        msg = "Expected a model that was saved with its cells; found none. Save it with cells=True."
        raise InputError(msg)


def _refuse_others(models: Sequence[Embedded]) -> None:
    """Refuse models whose Jacobians cannot be averaged: of other cells, or in other coordinates."""
    if not models:
        msg = "Expected a model, or several; found none. Give those that were fitted."
        raise InputError(msg)
    for model in models:
        motion_of(model)
        _refuse_none(model)
    first, *others = (model.codes[model.code] for model in models)
    close = 1e-3 * float(first.abs().max())
    for number, codes in enumerate(others, 2):
        if codes.shape != first.shape or not torch.allclose(codes, first, rtol=0, atol=close):
            msg = (
                f"Expected models of the same cells in the same coordinates; found others in model {number}. "
                "Fit all to the cells of one chreode.read, from several seeds."
            )
            raise InputError(msg)


def _basis(embedded: Embedded, loadings: Any, named: set[str] | None = None) -> Basis:
    """Features and their loadings: those given, those of a model of features, or, of coordinates, themselves.

    Where features are named that coordinates lead back to, all of these.
    """
    infer = embedded.module.latents[embedded.code].infer
    dim, modalities = embedded.codes[embedded.code].shape[1], embedded.cells.layout.modalities
    if loadings is None and isinstance(infer, PrincipalComponents):
        names = modalities[infer.modalities[0]].names
        return Basis(list(names), infer.axes.double().numpy())
    if loadings is None:
        described = next(iter(modalities.values()))
        if described.readout and named and not named <= set(described.names):
            return Basis(list(described.readout), infer.loadings.double().numpy())
        return Basis(list(described.names), np.eye(dim))
    values = np.asarray(loadings, dtype=np.float64)
    names = getattr(loadings, "index", None)
    if values.ndim != 2 or values.shape[1] < dim or not np.isfinite(values).all():
        msg = (
            f"Expected finite loadings, features by {dim} coordinates; found {values.shape}. Give those of "
            "the coordinates that were read, times their scales where these were standardised."
        )
        raise InputError(msg)
    called = [str(i) for i in range(len(values))] if names is None else [str(name) for name in names]
    return Basis(called, values[:, :dim])


def _chosen(basis: Basis, wanted: Sequence[str] | None, argument: str) -> np.ndarray:
    if wanted is None:
        return np.arange(len(basis.names))
    place = {name: at for at, name in enumerate(basis.names)}
    if missing := [name for name in wanted if name not in place]:
        msg = (
            f"Expected features of the model in {argument}; found {listing(missing)}."
            f"{nearest(str(missing[0]), basis.names)} Name some of {listing(basis.names)}."
        )
        raise InputError(msg)
    return np.asarray([place[name] for name in wanted])


def _groups(embedded: Embedded, groups: str | None) -> dict[str, np.ndarray]:
    """Positions of the cells of each level."""
    if groups is None:
        return {_EVERYONE: np.arange(len(embedded))}
    levels = embedded.level_names(groups)
    known = [level for level in dict.fromkeys(levels) if level is not None and level == level]
    if not known:
        msg = f"Expected cells with a known level of {groups!r}; found none. Name another column."
        raise InputError(msg)
    # Times sort as numbers, and 2.0 is written 2.
    named = {level: level if isinstance(level, str) else str(level).removesuffix(".0") for level in known}
    return {named[level]: np.flatnonzero(levels == level) for level in sorted(known)}
