"""Which gene sets stand out along each dimension of the code, and in each component."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.embedded import Embedded
from chreode.errors import InputError
from chreode.interpret.directions import component_scores, dimension_scores
from chreode.io.gene_sets import gene_sets as sets_of
from chreode.words import listing, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    import scipy.sparse as sp

__all__ = ["enrichment"]

_LEADING = 10  # genes named of a set


def enrichment(
    scores: Any,
    gene_sets: Any,
    *,
    modality: str | None = None,
    latent: str | None = None,
    correlation: float = 0.01,
    least: int = 5,
    most: int = 500,
    progress: bool = True,
) -> pd.DataFrame:
    r"""Test which gene sets have higher, or lower, scores than all other features.

    The features are ranked along each dimension, and the ranks of a set's m features are held against those
    of the other :math:`n - m` (Mann and Whitney):

    .. math::

        z = \frac{U - m(n - m)/2}{\sigma}, \qquad
        \sigma^2 = \frac{m (n - m)}{2\pi} \Big[ \tfrac{\pi}{2} + \tfrac{\pi}{6}(n - m - 1)
        + (m - 1)(n - m - 1) \arcsin \tfrac{\rho}{2} + (m - 1) \arcsin \tfrac{1 + \rho}{2} \Big] (1 - t)

    with t what ties take away and :math:`\rho` the correlation between two features of a set, as which genes
    of a pathway vary together from experiment to experiment. At 0 this is the test of Mann and Whitney, which
    takes features for independent and finds too much in large sets. The test is competitive: a set is
    compared with the other features of the model (the background), not with no effect, and it is two-sided.

    Parameters
    ----------
    scores
        A table of features x dimensions (of loadings, fold changes), or of `chreode.response` or
        `chreode.interpret.attribute_scores`, whose changes are taken by group; or a `chreode.FittedModel` or
        `chreode.Embedded`, of which every dimension is tested by `chreode.interpret.dimension_scores`, and
        every component, where there are any, by `chreode.interpret.component_scores`.
    gene_sets
        The path of a GMT file, or a mapping from names to genes, which are called as the features are, or
        as their symbols.
    modality, latent
        Of a model: the first, and the main one, by default.
    correlation
        :math:`\rho`, in [0, 1).
    least, most
        Sets with fewer or more of their genes among the features are left out.
    progress
        Whether to show a bar where derivatives are taken.

    Returns
    -------
    pandas.DataFrame
        One row a set and dimension: ``kind`` (``dimension`` or ``component``), ``name`` of the dimension,
        ``set``, ``direction`` (``up`` or ``down``), ``z``, ``p_value``, ``q_value`` (Benjamini-Hochberg, over
        the sets of a dimension), ``auc`` (how often a feature of the set has the higher score of two),
        ``difference`` (of mean scores), ``found`` of ``size`` genes, ``leading`` (the most extreme ten on the
        set's side of the middle). By dimension, then p-value. ``attrs``: ``left_out``, how many sets had too
        ``few`` or too ``many`` genes; ``features``, the size of the background; ``correlation``.

    Raises
    ------
    InputError
        For scores that are not finite numbers of features of different names, sets that cannot be read, and
        when no set is left.

    References
    ----------
    Wu and Smyth (2012), CAMERA, doi:10.1093/nar/gks461, in its version with ranks. Deviation: one small
    correlation for all sets, as is usual (0.01), in place of one estimated for each.

    Examples
    --------
    >>> import pandas as pd
    >>> scores = pd.DataFrame({"z0": range(20)}, index=[f"g{i}" for i in range(20)])
    >>> table = enrichment(scores, {"top": ["g19", "g18", "g17", "g16", "g15"]})
    >>> table[["set", "direction", "auc", "found"]].values.tolist()
    [['top', 'up', 1.0, 5]]
    """
    import pandas as pd

    if not 0 <= correlation < 1 or not 1 <= least <= most:
        found = f"correlation={correlation}, least={least}, most={most}"
        msg = f"Expected a correlation in [0, 1) and 1 <= least <= most; found {found}. Leave them out."
        raise InputError(msg)
    sets = sets_of(gene_sets)
    tables, place = _scores_of(scores, modality, latent, progress=progress)
    first = next(iter(tables.values()))
    members = _members(sets, place, len(first))
    n_found = members.getnnz(1)
    # A set of every feature has nothing to be compared with.
    kept = np.flatnonzero((n_found >= least) & (n_found <= min(most, len(first) - 1)))
    if not len(kept):
        raise InputError(_none_left(sets, place, n_found, least, most))
    called = np.asarray(list(sets), dtype=object)[kept]
    size = np.array([len(genes) for genes in sets.values()])[kept]
    parts = [
        _tested(table, members[kept], called, size, correlation).assign(kind=kind)
        for kind, table in tables.items()
    ]
    result = pd.concat(parts, ignore_index=True)
    result.insert(0, "kind", result.pop("kind"))
    few = int((n_found < least).sum())
    result.attrs = {
        "left_out": {"few": few, "many": len(sets) - few - len(kept)},
        "features": len(first),
        "correlation": correlation,
    }
    return result


def _scores_of(
    scores: Any, modality: str | None, latent: str | None, *, progress: bool
) -> tuple[dict[str, pd.DataFrame], Mapping[str, int]]:
    """Tables of features x dimensions by kind, all of the same features, and where these are by name."""
    embedded = getattr(scores, "embedded", scores)
    if isinstance(embedded, Embedded):
        embedded = embedded.of_latent(latent)
        name = embedded.modality(modality)
        tables = {"dimension": dimension_scores(embedded, name, progress=progress)}
        if int(embedded.module.latents[embedded.code].prior.count):
            tables["component"] = component_scores(embedded, name)
        n = len(tables["dimension"])
        place = {g: j for g, j in embedded.cells.layout.modalities[name].positions.items() if j < n}
    elif hasattr(scores, "columns") and hasattr(scores, "index"):
        scores = _wide(scores)
        tables = {"dimension": scores}
        place = {str(gene): j for j, gene in enumerate(scores.index)}
        if len(place) < len(scores):
            twice = scores.index[scores.index.duplicated()].unique()
            msg = f"Expected features of different names; found {listing(twice, limit=3)} more than once."
            raise InputError(msg + " Keep one of each.")
    else:
        msg = f"Expected a model, or a table of features x dimensions; found {type(scores).__name__}. Give"
        raise InputError(msg + " what chreode.loadings returns, say.")
    for kind, table in tables.items():
        _refuse_scores(table, kind)
    return tables, place


def _wide(table: pd.DataFrame) -> pd.DataFrame:
    """Features x groups, of a table with a row for each feature of each group."""
    group = next((name for name in ("group", "level") if name in table), None)
    effect = next((name for name in ("log2_fold_change", "change") if name in table), None)
    if group is None or effect is None or "feature" not in table:
        return table
    return table.pivot(index="feature", columns=group, values=effect)


def _refuse_scores(table: pd.DataFrame, kind: str) -> None:
    if not table.shape[0] or not table.shape[1]:
        msg = f"Expected scores of features along dimensions; found a table of {table.shape}. Give another."
        raise InputError(msg)
    twice = table.columns[table.columns.astype(str).duplicated()]
    if len(twice):
        msg = f"Expected columns of different names; found {listing(twice, limit=3)} more than once."
        raise InputError(msg + " Rename them.")
    lost = [name for name, dtype in table.dtypes.items() if dtype.kind not in "fiub"]
    if not lost:
        finite = np.isfinite(table.to_numpy(dtype=np.float64)).all(0)
        lost = list(table.columns[~finite])
    if lost:
        msg = f"Expected scores that are finite numbers; found others in {kind} {listing(lost, limit=3)}."
        raise InputError(msg + " Drop such columns, or such features.")


def _members(sets: Mapping[str, tuple[str, ...]], place: Mapping[str, int], n: int) -> sp.csr_matrix:
    """Which features belong to which set, sets x features."""
    import scipy.sparse as sp

    columns = [sorted({place[gene] for gene in genes if gene in place}) for genes in sets.values()]
    pointers = np.cumsum([0, *(len(some) for some in columns)])
    indices = np.concatenate([np.asarray(some, dtype=np.int64) for some in columns])
    return sp.csr_matrix((np.ones(len(indices)), indices, pointers), shape=(len(sets), n))


def _none_left(
    sets: Mapping[str, tuple[str, ...]], place: Mapping[str, int], n_found: np.ndarray, least: int, most: int
) -> str:
    if n_found.max() == 0:
        gene = next(iter(sets.values()))[0]
        return (
            f"Expected gene sets of the features ({listing(place, limit=3)}); found none of them in any set, "
            f"but {gene!r}.{nearest(gene, place)} Name genes as the features are named."
        )
    return (
        f"Expected a set with {least} to {most} of its genes among {len(place):,} features; found sets with "
        f"{n_found.min()} to {n_found.max()}. Give other sets, or change least= or most=."
    )


def _tested(
    table: pd.DataFrame, members: sp.csr_matrix, called: np.ndarray, size: np.ndarray, correlation: float
) -> pd.DataFrame:
    """All sets along all dimensions of a table."""
    import pandas as pd
    from scipy.stats import false_discovery_control, norm, rankdata

    values = table.to_numpy(dtype=np.float64)
    n, dims = values.shape
    found = members.getnnz(1)
    m = found[:, None].astype(np.float64)
    ranks = rankdata(values, axis=0)
    above = members @ ranks - m * (m + 1) / 2
    deviation = np.sqrt(_variance(m, n, correlation) * _untied(ranks))
    z = (above - m * (n - m) / 2) / np.where(deviation > 0, deviation, 1)
    p_value = 2 * norm.sf(np.abs(z))
    sums = members @ values
    difference = sums / m - (values.sum(0) - sums) / (n - m)
    leading = np.stack([_leading(members, ranks[:, k], z[:, k], table.index) for k in range(dims)], axis=1)
    order = np.argsort(-np.abs(z), axis=0, kind="stable").T.ravel()
    dim = np.repeat(np.arange(dims), len(called))
    chosen = (order, dim)
    return pd.DataFrame(
        {
            "name": np.asarray([str(one) for one in table.columns], dtype=object)[dim],
            "set": called[order],
            "direction": np.where(z[chosen] >= 0, "up", "down"),
            "z": z[chosen],
            "p_value": p_value[chosen],
            "q_value": false_discovery_control(p_value, axis=0)[chosen],
            "auc": (above / (m * (n - m)))[chosen],
            "difference": difference[chosen],
            "found": found[order],
            "size": size[order],
            "leading": leading[chosen],
        }
    )


def _variance(m: np.ndarray, n: int, correlation: float) -> np.ndarray:
    """Of the number of pairs in which the set's feature is above, its features being correlated."""
    rest = n - m
    alike = np.arcsin(correlation / 2) * (rest - 1) + np.arcsin((correlation + 1) / 2)
    return m * rest / (2 * np.pi) * (np.pi / 2 + np.pi / 6 * (rest - 1) + (m - 1) * alike)


def _untied(ranks: np.ndarray) -> np.ndarray:
    """What ties leave of the variance, by dimension."""
    n = len(ranks)
    left = []
    for column in ranks.T:
        ties = np.unique(column, return_counts=True)[1].astype(np.float64)
        left.append(1 - (ties**3 - ties).sum() / (float(n) ** 3 - n))
    return np.asarray(left)


def _leading(members: Any, ranks: np.ndarray, z: np.ndarray, features: pd.Index) -> np.ndarray:
    """The features of each set that are furthest on its side of the middle."""
    rows = np.repeat(np.arange(members.shape[0]), np.diff(members.indptr))
    outward = (ranks[members.indices] - (len(ranks) + 1) / 2) * np.where(z >= 0, 1, -1)[rows]
    order = np.lexsort((-outward, rows))  # the places of each set stay its own
    names = np.asarray(features.astype(str), dtype=object)[members.indices[order]]
    names[outward[order] <= 0] = ""
    joined = np.full(members.shape[0], "", dtype=object)
    for j in range(_LEADING):
        at = members.indptr[:-1] + j
        some = np.flatnonzero(at < members.indptr[1:])
        next_ones = names[at[some]]
        joined[some] += np.where(next_ones == "", "", (", " if j else "") + next_ones)
    return joined
