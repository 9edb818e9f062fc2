"""Simulated cells whose truth is known: codes, components, programmes, batches, library sizes, dropout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

__all__ = ["World", "difficult", "proportions", "simulate"]

# Entries of one dense block: 16 MB as float64, so that no cells x features array is ever built.
_BLOCK = 2**21


def refuse(name: str, value: float, *, least: float = -np.inf, above: float = -np.inf) -> None:
    """Refuse a number below ``least``, or not above ``above``."""
    if value < least or value <= above:
        bound = f"of at least {least}" if value < least else f"above {above}"
        msg = f"Expected {name} {bound}; found {value}."
        raise InputError(msg)


@dataclass(frozen=True)
class World:
    """What simulated cells live in and how they are measured, apart from what `simulate` asks for.

    Parameters
    ----------
    dim
        Dimension of the code, >= 1.
    programmes
        Gene programmes, >= 1; each is driven by a random direction of the code.
    share
        Fraction of the features that belong to each programme, in (0, 1].
    strength
        Standard deviation of the log fold change of a programme's gene when its activity grows by one
        standard deviation of the codes within a component, >= 0.
    shared_axis
        Standard deviation of the codes along one direction in which components do not differ (a state
        such as the cell cycle), > 0; along every other direction it is 1.
    balance
        Concentration of the Dirichlet that draws the components' weights, > 0; large is equal weights.
        Weights below a third of the mean are raised to it.
    depth, depth_spread
        Median of the molecules a cell, > 0, and standard deviation of their logarithm, >= 0.
    theta, theta_spread
        Median over genes of the inverse dispersion (variance = mean + mean²/theta), > 0, and standard
        deviation of its logarithm, >= 0.
    batch_effect
        Standard deviation of a batch's log fold change of a gene, >= 0.
    """

    dim: int = 10
    programmes: int = 20
    share: float = 0.1
    strength: float = 0.3
    shared_axis: float = 1.0
    balance: float = 5.0
    depth: float = 2000.0
    depth_spread: float = 0.4
    theta: float = 4.0
    theta_spread: float = 0.5
    batch_effect: float = 0.3

    def __post_init__(self) -> None:
        for name in ("dim", "programmes"):
            refuse(name, getattr(self, name), least=1)
        for name in ("share", "shared_axis", "balance", "depth", "theta"):
            refuse(name, getattr(self, name), above=0)
        for name in ("strength", "depth_spread", "theta_spread", "batch_effect"):
            refuse(name, getattr(self, name), least=0)
        if self.share > 1:
            msg = f"Expected a share in (0, 1]; found {self.share}."
            raise InputError(msg)


# Where k-means on principal components is right about three cells in four: see `difficult`.
_DIFFICULT = World(shared_axis=2.7, depth=800.0, depth_spread=0.6, balance=20.0)


def simulate(
    n_cells: int,
    n_features: int = 2000,
    *,
    components: int = 8,
    separation: float = 8.0,
    batches: int = 1,
    dropout: float = 0.0,
    world: World | None = None,
    seed: int = 0,
) -> AnnData:
    r"""Draw counts of cells from a known Gaussian mixture, decoder and negative binomial.

    .. math::

        k_i \sim \pi, \quad z_i \sim N(m_{k_i}, \Sigma), \quad
        \rho_i = \mathrm{softmax}(b + z_i A W + B_{c_i}), \quad
        x_{ij} \sim \mathrm{NB}(s_i \rho_{ij}, \theta_j) \cdot \mathrm{Bernoulli}(1 - \mathrm{dropout})

    with sparse programmes ``W`` and log-normal library sizes ``s``. The world depends on ``seed``, the
    number of features, components and batches and on ``world``, not on ``n_cells``: with more cells the
    first ones stay the same. Memory beyond the result is that of a block of rows.

    Parameters
    ----------
    n_cells, n_features
        Cells ``n`` and features ``g``, >= 1.
    components
        Components ``K`` of the mixture, >= 1.
    separation
        Least distance between two component means, in standard deviations within a component, >= 0.
    batches
        Experimental batches ``c``, >= 1, drawn independently of the components.
    dropout
        Probability that an entry is set to zero whatever its count, in [0, 1).
    world
        Everything else.
    seed
        Non-negative integer.

    Returns
    -------
    AnnData
        Counts (CSR, int32) in ``X``. ``obs``: ``component``, ``batch``, ``size`` (library size before
        dropout). ``obsm['code']``: ``z``. ``var``: ``base`` (b), ``theta``. ``varm``: ``loadings`` (W,
        g x p), ``batch_effect`` (B, g x c, mean zero over batches), ``component_centre`` (g x K,
        proportions decoded at each component's mean code) and ``component_average`` (g x K, mean of the
        proportions of the component's cells), both without batch effect. ``uns['simulation']``:
        ``weights``, ``means``, ``covariance``, ``programmes`` (A, d x p), ``dropout``, ``seed``.

    Raises
    ------
    InputError
        When an argument is out of its range.

    Examples
    --------
    >>> cells = simulate(100, 50, components=3, seed=1)
    >>> cells.X.shape, cells.obsm["code"].shape, cells.varm["component_centre"].shape
    ((100, 50), (100, 10), (50, 3))
    """
    world = world or World()
    counted = {"n_cells": n_cells, "n_features": n_features, "components": components, "batches": batches}
    for name, value in counted.items():
        refuse(name, value, least=1)
    refuse("separation", separation, least=0)
    if not 0 <= dropout < 1:
        msg = f"Expected a dropout in [0, 1); found {dropout}."
        raise InputError(msg)
    from anndata import AnnData
    from pandas import Categorical, DataFrame, Index

    truth, var, varm = _world(
        n_features, components=components, separation=separation, batches=batches, world=world, seed=seed
    )
    truth["dropout"] = dropout
    component = np.searchsorted(truth["weights"].cumsum()[:-1], draws_for(seed, "component").random(n_cells))
    noise = draws_for(seed, "code").standard_normal((n_cells, world.dim))
    code = truth["means"][component] + noise @ _root(truth["covariance"])
    batch = draws_for(seed, "batch").integers(batches, size=n_cells)
    size = world.depth * np.exp(world.depth_spread * draws_for(seed, "size").standard_normal(n_cells))
    obs = DataFrame(
        {
            "component": Categorical.from_codes(component, [str(k) for k in range(components)]),
            "batch": Categorical.from_codes(batch, [f"batch{c}" for c in range(batches)]),
            "size": size,
        },
        index=Index([f"cell{i}" for i in range(n_cells)]),
    )
    index = Index([f"gene{j}" for j in range(n_features)])
    adata = AnnData(obs=obs, var=DataFrame(var, index=index), uns={"simulation": truth})
    adata.obsm["code"] = code
    adata.varm.update(varm)
    centres = softmax(var["base"] + truth["means"] @ truth["programmes"] @ varm["loadings"].T)
    adata.varm["component_centre"] = centres.T
    adata.X, averages = _measure(adata, component=component, dropout=dropout, seed=seed)
    adata.varm["component_average"] = averages.T
    return adata


def difficult(seed: int = 0, *, n_cells: int = 4000) -> AnnData:
    """Cells that principal components do not separate well although the counts hold the components.

    Eight components of unequal weight, a long axis common to all, shallow cells of uneven depth: k-means
    (true K) on 20 principal components of log-normalised counts reaches an adjusted Rand index of 0.7
    to 0.9 (less when features are scaled), `chreode.io.oracle.oracle` is right on more than 98 % of them.

    Parameters
    ----------
    seed
        Of the world and of the cells.
    n_cells
        Cells.

    Examples
    --------
    >>> difficult(0, n_cells=50).shape
    (50, 1000)
    """
    return simulate(n_cells, 1000, components=8, separation=6.0, world=_DIFFICULT, seed=seed)


def proportions(adata: AnnData, rows: slice | np.ndarray | None = None, *, batch: bool = True) -> np.ndarray:
    """The true proportions of some cells of `simulate`, n x g, with or without their batch's effect.

    Examples
    --------
    >>> cells = simulate(20, 30, components=2)
    >>> bool(np.allclose(proportions(cells, slice(0, 5)).sum(1), 1))
    True
    """
    rows = slice(None) if rows is None else rows
    activity = np.asarray(adata.obsm["code"])[rows] @ adata.uns["simulation"]["programmes"]
    logits = adata.var["base"].to_numpy() + activity @ np.asarray(adata.varm["loadings"]).T
    if batch:
        logits = (
            logits + np.asarray(adata.varm["batch_effect"]).T[adata.obs["batch"].cat.codes.to_numpy()[rows]]
        )
    return softmax(logits)


def draws_for(seed: int, *purpose: str | int) -> np.random.Generator:
    """A generator of its own for every purpose, so that one draw never moves another."""
    words = [int.from_bytes(p.encode()[:8], "little") if isinstance(p, str) else p for p in purpose]
    return np.random.default_rng([seed, *words])


def _world(
    n_features: int, *, components: int, separation: float, batches: int, world: World, seed: int
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Parameters of the mixture, columns of ``var`` and entries of ``varm``."""
    draws = draws_for(seed, "world")
    weights = draws.dirichlet(np.full(components, world.balance))
    weights = np.maximum(weights, 1 / (3 * components))
    direction = draws.standard_normal(world.dim)
    direction /= np.linalg.norm(direction)
    covariance = np.eye(world.dim) + (world.shared_axis**2 - 1) * np.outer(direction, direction)
    means = _means(draws, components=components, separation=separation, away=direction)
    activity = draws.standard_normal((world.dim, world.programmes))
    activity /= np.linalg.norm(activity, axis=0)
    member = draws.random((n_features, world.programmes)) < world.share
    loadings = np.where(member, world.strength * draws.standard_normal(member.shape), 0.0)
    shift = world.batch_effect * draws.standard_normal((n_features, batches))
    truth = {"weights": weights / weights.sum(), "means": means}
    truth |= {"covariance": covariance, "programmes": activity, "seed": seed}
    var = {
        "base": 1.5 * draws.standard_normal(n_features),
        "theta": world.theta * np.exp(world.theta_spread * draws.standard_normal(n_features)),
    }
    return truth, var, {"loadings": loadings, "batch_effect": shift - shift.mean(1, keepdims=True)}


def _means(draws: np.random.Generator, *, components: int, separation: float, away: np.ndarray) -> np.ndarray:
    """Component means whose least distance is ``separation``: the most even of 200 draws.

    They do not differ along the unit vector ``away`` (unless there is no other direction).
    """
    if components == 1:
        return np.zeros((1, len(away)))
    above = np.triu_indices(components, 1)
    level = np.eye(len(away)) - np.outer(away, away) if len(away) > 1 else np.eye(1)

    def least(points: np.ndarray) -> float:
        return float(np.linalg.norm(points[:, None] - points, axis=-1)[above].min())

    best = max((draws.standard_normal((components, len(away))) @ level for _ in range(200)), key=least)
    return (best - best.mean(0)) * (separation / least(best))


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values)) @ vectors.T


def softmax(logits: np.ndarray) -> np.ndarray:
    """Exponentials of every row, divided by their sum."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def blocks(n_cells: int, n_features: int) -> Iterator[slice]:
    """Slices of rows whose dense blocks stay small."""
    rows = max(1, _BLOCK // n_features)
    return (slice(start, min(start + rows, n_cells)) for start in range(0, n_cells, rows))


def _measure(adata: AnnData, *, component: np.ndarray, dropout: float, seed: int) -> tuple[Any, np.ndarray]:
    """Counts in CSR, block by block, and the mean proportions of every component's cells (K x g)."""
    import scipy.sparse as sp

    components = len(adata.uns["simulation"]["weights"])
    size, theta = adata.obs["size"].to_numpy(), adata.var["theta"].to_numpy()
    level = adata.obs["batch"].cat.codes.to_numpy()
    factor = np.exp(np.asarray(adata.varm["batch_effect"]).T)
    total = np.zeros((components, adata.n_vars))
    parts = []
    for number, rows in enumerate(blocks(adata.n_obs, adata.n_vars)):
        rho = proportions(adata, rows, batch=False)
        np.add.at(total, component[rows], rho)
        rho *= factor[level[rows]]
        mean = rho * (size[rows] / rho.sum(1))[:, None]
        mean *= draws_for(seed, "gamma", number).standard_gamma(np.broadcast_to(theta, mean.shape)) / theta
        counts = draws_for(seed, "poisson", number).poisson(mean).astype(np.int32)
        if dropout > 0:
            counts[draws_for(seed, "dropout", number).random(counts.shape) < dropout] = 0
        parts.append(sp.csr_matrix(counts))
    members = np.maximum(np.bincount(component, minlength=components), 1)
    return sp.vstack(parts, format="csr"), total / members[:, None]
