"""A simulated bipartite regulatory network, and how well codes recover its regulators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chreode.errors import InputError
from chreode.io.simulate import draws_for, refuse, softmax

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["load", "network", "recovery"]


def network(
    n_cells: int,
    n_features: int = 100,
    *,
    regulators: int = 10,
    targets: int = 10,
    noise: float = 0.1,
    depth: float | None = None,
    seed: int = 0,
) -> AnnData:
    r"""Draw expression from a bipartite network: hidden regulators, and genes that add their activities.

    .. math::

        y_{ij} = \sum_r a_{ir} W_{rj} + \varepsilon_{ij}, \quad a_{ir} \sim U(0, 1), \quad
        \varepsilon_{ij} \sim N(0, \mathrm{noise}^2)

    every regulator having ``targets`` genes with weights of random sign and size in [0.5, 1.5], every
    gene at least one regulator. Whether the regulators can be found depends on the `load`.

    Parameters
    ----------
    n_cells, n_features
        Cells ``n`` and genes ``g``, >= 1. To measure by training size, draw all cells once, train on the
        first ones and score the codes projected for the others.
    regulators
        Hidden regulators ``m``, at least 1.
    targets
        Genes of each regulator, 1 to ``g``.
    noise
        Standard deviation of the noise, >= 0.
    depth
        None gives ``y``; a number gives Poisson counts of so many molecules a cell in proportion to
        ``exp(y)``.
    seed
        Non-negative integer.

    Returns
    -------
    AnnData
        ``X`` (float32, or CSR counts); ``obsm['code']`` the activities, ``varm['loadings']`` the weights
        (g x m), ``uns['simulation']['load']`` the load of all its cells.

    Raises
    ------
    InputError
        When an argument is out of its range.

    Notes
    -----
    After the regulatory networks simulated in the reference; distributions and sizes are our own.

    References
    ----------
    Schuster and Krogh (2021). A manifold learning perspective on representation learning. Entropy
    23(11), 1403. doi:10.3390/e23111403

    Examples
    --------
    >>> cells = network(50, 40, regulators=4)
    >>> cells.shape, round(cells.uns["simulation"]["load"], 2)
    ((50, 40), 5.56)
    """
    for name, value in (("n_cells", n_cells), ("n_features", n_features), ("regulators", regulators)):
        refuse(name, value, least=1)
    refuse("noise", noise, least=0)
    if not 1 <= targets <= n_features:
        msg = f"Expected targets from 1 to the number of features ({n_features}); found {targets}."
        raise InputError(msg)
    import scipy.sparse as sp
    from anndata import AnnData

    draws = draws_for(seed, "network")
    weights = np.zeros((regulators, n_features))
    for row in weights:
        chosen = draws.choice(n_features, targets, replace=False)
        row[chosen] = draws.uniform(0.5, 1.5, targets) * draws.choice([-1.0, 1.0], targets)
    orphans = np.flatnonzero(~weights.any(0))
    weights[draws.integers(regulators, size=len(orphans)), orphans] = draws.uniform(0.5, 1.5, len(orphans))
    activity = draws.random((n_cells, regulators))
    values = activity @ weights + noise * draws.standard_normal((n_cells, n_features))
    if depth is None:
        measured = values.astype(np.float32)
    else:
        measured = sp.csr_matrix(draws.poisson(depth * softmax(values)).astype(np.int32))
    adata = AnnData(measured)
    adata.obsm["code"], adata.varm["loadings"] = activity, weights.T.copy()
    adata.uns["simulation"] = {"load": load(n_cells, n_features, regulators=regulators), "seed": seed}
    return adata


def load(n_cells: int, n_features: int, *, regulators: int) -> float:
    r"""Values for each free parameter of a linear decoder without an encoder.

    .. math:: \alpha = \frac{n g}{n m + m g}

    with ``n m`` codes and ``m g`` weights to find from ``n g`` values. Below 1 there are more unknowns
    than values, and the regulators cannot be determined.

    Parameters
    ----------
    n_cells, n_features, regulators
        Cells ``n``, genes ``g`` and regulators ``m``.

    Examples
    --------
    >>> load(11, 100, regulators=10) < 1 < load(12, 100, regulators=10)
    True
    """
    return n_cells * n_features / (regulators * (n_cells + n_features))


def recovery(code: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How much of each true factor linear regression reads out of codes: cross-validated R², one a factor.

    Even cells predict odd ones and the other way round, so that a wide code gains nothing by chance.

    Parameters
    ----------
    code
        Learned codes, n x d.
    truth
        True factors (regulators, programmes, codes), n x m.

    Examples
    --------
    >>> truth = np.random.default_rng(0).standard_normal((100, 2))
    >>> recovery(truth @ [[1.0, 2.0], [0.5, -1.0]], truth).round(3).tolist()
    [1.0, 1.0]
    """
    design = np.column_stack([np.ones(len(code)), code])
    predicted = np.empty_like(truth, dtype=np.float64)
    for held, used in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        predicted[held] = design[held] @ np.linalg.lstsq(design[used], truth[used], rcond=None)[0]
    return 1 - ((truth - predicted) ** 2).sum(0) / ((truth - truth.mean(0)) ** 2).sum(0)
