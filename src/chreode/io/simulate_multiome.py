"""Simulated cells with expression and chromatin accessibility, and the truth of what links the two."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from chreode.errors import InputError
from chreode.io.mosaic import mudata_of
from chreode.io.simulate import _means, blocks, draws_for, refuse, softmax

if TYPE_CHECKING:
    import scipy.sparse as sp
    from anndata import AnnData
    from mudata import MuData
    from pandas import DataFrame

__all__ = ["Multiome", "simulate_multiome", "true_links"]

# In base pairs: a peak's width, and how far from the start of transcription its direct peaks may lie.
_WIDTH, _REACH = 500, 250_000
# Base pairs of genome per gene and, at least, per peak: about a mammal's density of genes, so that the
# neighbourhood of a gene also holds peaks that have nothing to do with it.
_PER_GENE, _PER_PEAK = 100_000, 10_000
_MOST_DIRECT = 5


@dataclass(frozen=True)
class Multiome:
    """What `simulate_multiome` draws cells from and how it measures them, apart from its own arguments.

    Parameters
    ----------
    dim
        Dimension of the code, >= 1.
    programmes
        Programmes, >= 1; each is driven by a random direction of the code and drives genes and peaks.
    gene_share, peak_share
        Fraction of the genes, and of the peaks, that belong to each programme, in (0, 1]. By default two
        in three belong to none.
    strength
        Mean absolute log fold change of a programme's gene or peak when its activity grows by one
        standard deviation of the codes within a component, >= 0.
    direct_share
        Fraction of the genes that have direct peaks (one to five each), in [0, 1].
    direct
        Standard deviation, over cells, of the log fold change that a gene and its direct peaks share
        beyond all programmes, >= 0.
    separation
        Least distance between two component means, in standard deviations within a component, >= 0.
    balance
        Concentration of the Dirichlet that draws the components' weights, > 0; large is equal weights.
        Weights below a third of the mean are raised to it.
    depth, theta, atac_depth
        Medians, > 0: of the molecules a cell, of the genes' inverse dispersion (variance = mean +
        mean²/theta), and of the fragments in peaks a cell, of which there are a few more than open peaks.
    depth_spread, theta_spread, atac_spread
        Standard deviations of their logarithms, >= 0.
    binary
        Whether a peak is measured as open (1, at least one fragment) or not (0); else its fragments.
    batch_effect
        Standard deviation of a batch's log fold change of a gene or peak, >= 0.
    chromosomes
        Chromosomes, >= 1.
    """

    dim: int = 10
    programmes: int = 20
    gene_share: float = 0.02
    peak_share: float = 0.02
    strength: float = 0.3
    direct_share: float = 0.3
    direct: float = 0.6
    separation: float = 8.0
    balance: float = 5.0
    depth: float = 2000.0
    theta: float = 4.0
    atac_depth: float = 500.0
    depth_spread: float = 0.4
    theta_spread: float = 0.5
    atac_spread: float = 0.4
    binary: bool = True
    batch_effect: float = 0.3
    chromosomes: int = 5

    def __post_init__(self) -> None:
        values = asdict(self)
        for name in ("dim", "programmes", "chromosomes"):
            refuse(name, values[name], least=1)
        for name in ("gene_share", "peak_share", "balance", "depth", "theta", "atac_depth"):
            refuse(name, values[name], above=0)
        for name, value in values.items():
            refuse(name, value, least=0)
        for name in ("gene_share", "peak_share", "direct_share"):
            if values[name] > 1:
                msg = f"Expected {name} of at most 1; found {values[name]}. It is a fraction of the features."
                raise InputError(msg)


def simulate_multiome(
    n_cells: int,
    n_genes: int = 1000,
    n_peaks: int = 5000,
    *,
    components: int = 6,
    batches: int = 1,
    world: Multiome | None = None,
    seed: int = 0,
) -> MuData:
    r"""Draw expression and accessibility of the same cells from known programmes and known direct links.

    .. math::

        k_i \sim \pi, \quad z_i \sim N(m_{k_i}, I), \quad a_{ip} = z_i \cdot d_p, \quad u_{ij} \sim N(0, 1)

        \rho_i = \mathrm{softmax}_j \Big( b_j + \sum_p a_{ip} W_{jp} + \delta u_{ij} [Q_j \neq \emptyset]
            + B_{j c_i} \Big), \quad x_{ij} \sim \mathrm{NB}(s_i \rho_{ij}, \theta_j)

        \lambda_i = t_i \, \mathrm{softmax}_q \Big( b'_q + \sum_p a_{ip} V_{qp}
            + \delta \sum_{j: q \in Q_j} u_{ij} + B'_{q c_i} \Big), \quad
        f_{iq} \sim \mathrm{Poisson}(\lambda_{iq}), \quad y_{iq} = [f_{iq} > 0]

    (or ``y = f``) with log-normal library sizes ``s`` (molecules) and ``t`` (fragments), sparse programmes
    ``W`` and ``V``, and the direct peaks ``Q_j`` of gene ``j``: at most five, within 250 kb of where its
    transcription starts, none with two genes. No programme knows the activity ``u``, and to be direct says
    nothing of a peak's programmes. The world depends on ``seed``, the number of features, components and
    batches and on ``world``, not on ``n_cells``: with more cells the first ones stay the same. Memory
    beyond the result is that of a block of rows.

    Parameters
    ----------
    n_cells, n_genes, n_peaks
        Cells ``n``, genes ``g`` and peaks ``q``, >= 1. At most half of the peaks are direct, so with few
        peaks fewer genes have any.
    components
        Components ``K`` of the mixture, >= 1.
    batches
        Experimental batches ``c``, >= 1, drawn independently of the components.
    world
        Everything else.
    seed
        Non-negative integer.

    Returns
    -------
    MuData
        ``rna`` and ``atac``, counts (CSR, int32) in ``X``. Both have ``obs``: ``component``, ``batch``,
        ``size`` (s, t). ``var``: ``base`` (b), ``chromosome``, ``start`` and ``end`` (from 0, end excluded);
        of genes also ``theta``, ``tss``, ``strand``; of peaks also ``target``, the gene of which it is a
        direct peak, or an empty string. ``varm``: ``member`` (boolean CSR, features x p), ``loadings``
        (W, V; CSR, features x p, signed), ``batch_effect`` (B, features x c, mean zero over batches).
        Of the whole: ``obs``: ``component``, ``batch``. ``obsm['code']``: ``z``. ``uns['simulation']``:
        ``weights``, ``means``, ``programmes`` (d, dim x p), ``direct`` (delta), ``seed``.

    Raises
    ------
    InputError
        When an argument is out of its range.

    Examples
    --------
    >>> mdata = simulate_multiome(100, 50, 200, components=3, world=Multiome(atac_depth=20), seed=1)
    >>> mdata["rna"].shape, mdata["atac"].shape, mdata.obsm["code"].shape
    ((100, 50), (100, 200), (100, 10))
    """
    world = world or Multiome()
    counted = {"n_cells": n_cells, "n_genes": n_genes, "n_peaks": n_peaks}
    counted |= {"components": components, "batches": batches}
    for name, value in counted.items():
        refuse(name, value, least=1)
    truth = _mixture(components, world=world, seed=seed)
    obs, code = _cells(n_cells, truth=truth, batches=batches, world=world, seed=seed)
    genes, peaks = _genome(n_genes, n_peaks, world=world, seed=seed)
    rna = _part("rna", genes, obs, share=world.gene_share, world=world, seed=seed)
    atac = _part("atac", peaks, obs, share=world.peak_share, world=world, seed=seed)
    # Not by matrix product: its last bit depends on how many rows there are.
    activity = np.einsum("id,dp->ip", code, truth["programmes"])
    _measure(rna, atac, activity=activity, world=world, seed=seed)
    mdata = mudata_of({"rna": rna, "atac": atac}, obs)
    mdata.obsm["code"] = code
    mdata.uns["simulation"] = truth
    return mdata


def true_links(mdata: MuData, *, level: Literal["programme", "direct"] = "programme") -> sp.csr_matrix:
    """Which peaks are linked to which genes in the world that the cells were drawn from.

    At level ``programme`` a peak is linked to every gene with which it shares a programme, at level
    ``direct`` to the gene of which it is a direct peak. Features may have been left out since.

    Parameters
    ----------
    mdata
        Cells of `simulate_multiome`, or of `chreode.io.mosaic.mosaic`.
    level
        ``"programme"`` or ``"direct"``.

    Returns
    -------
    csr_matrix
        Boolean, genes x peaks, true where there is a link.

    Raises
    ------
    InputError
        When there is no such level, or no truth in the object.

    Examples
    --------
    >>> mdata = simulate_multiome(10, 50, 200, seed=1)
    >>> true_links(mdata, level="direct").shape
    (50, 200)
    """
    if level not in ("programme", "direct"):
        msg = f'Expected level "programme" or "direct"; found {level!r}. Name one of the two.'
        raise InputError(msg)
    if not {"rna", "atac"} <= set(mdata.mod) or "target" not in mdata["atac"].var:
        found = f"{', '.join(mdata.mod) or 'no modality'} without its truth"
        msg = f"Expected rna and atac of simulate_multiome; found {found}. No other cells' links are known."
        raise InputError(msg)
    import scipy.sparse as sp

    rna, atac = mdata["rna"], mdata["atac"]
    if level == "programme":
        of_gene, of_peak = (sp.csr_matrix(part.varm["member"], dtype=bool) for part in (rna, atac))
        links = sp.csr_matrix(of_gene @ of_peak.T)
    else:
        gene = rna.var_names.get_indexer(atac.var["target"].astype(str))
        peak = np.flatnonzero(gene >= 0)
        links = sp.csr_matrix((np.ones(len(peak), bool), (gene[peak], peak)), (rna.n_vars, atac.n_vars))
    links.sort_indices()
    return links


def _mixture(components: int, *, world: Multiome, seed: int) -> dict[str, Any]:
    """Weights and means of the components and directions of the programmes."""
    draws = draws_for(seed, "multiome", "world")
    weights = np.maximum(draws.dirichlet(np.full(components, world.balance)), 1 / (3 * components))
    means = _means(draws, components=components, separation=world.separation, away=np.zeros(world.dim))
    directions = draws.standard_normal((world.dim, world.programmes))
    directions /= np.linalg.norm(directions, axis=0)
    truth = {"weights": weights / weights.sum(), "means": means, "programmes": directions}
    return truth | {"direct": world.direct, "seed": seed}


def _cells(
    n_cells: int, *, truth: dict[str, Any], batches: int, world: Multiome, seed: int
) -> tuple[DataFrame, np.ndarray]:
    """What both modalities know of the cells, and the codes."""
    from pandas import Categorical, DataFrame, Index

    uniform = draws_for(seed, "multiome", "parts").random(n_cells)
    component = np.searchsorted(truth["weights"].cumsum()[:-1], uniform)
    noise = draws_for(seed, "multiome", "code").standard_normal((n_cells, world.dim))
    batch = draws_for(seed, "multiome", "batch").integers(batches, size=n_cells)
    columns = {
        "component": Categorical.from_codes(component, [str(k) for k in range(len(truth["weights"]))]),
        "batch": Categorical.from_codes(batch, [f"batch{c}" for c in range(batches)]),
    }
    obs = DataFrame(columns, index=Index([f"cell{i}" for i in range(n_cells)]))
    return obs, truth["means"][component] + noise


def _genome(n_genes: int, n_peaks: int, *, world: Multiome, seed: int) -> tuple[DataFrame, DataFrame]:
    """Where genes and peaks lie, in the order of the genome, and each direct peak's gene."""
    from pandas import Categorical, DataFrame, Index

    draws = draws_for(seed, "multiome", "genome")
    genome = max(n_genes * _PER_GENE, n_peaks * _PER_PEAK)
    # The margins hold the neighbourhood and the body of the outermost genes.
    slots = -(-genome // (world.chromosomes * _WIDTH)) + 2 * _REACH // _WIDTH
    length = slots * _WIDTH
    where = draws.integers(world.chromosomes, size=n_genes) * length
    where = np.sort(where + draws.integers(_REACH, length - _REACH, size=n_genes))
    regulated = draws.random(n_genes) < world.direct_share
    number = np.where(regulated, draws.integers(1, _MOST_DIRECT + 1, size=n_genes), 0)
    owner = draws.permutation(np.repeat(np.arange(n_genes), number))[: n_peaks // 2]
    least, beyond = np.zeros(n_peaks, np.int64), np.full(n_peaks, world.chromosomes * slots)
    least[: len(owner)] = -(-(where[owner] - _REACH) // _WIDTH)
    beyond[: len(owner)] = (where[owner] + _REACH) // _WIDTH
    slot = _distinct(draws, least, beyond)
    target = np.append(owner, np.full(n_peaks - len(owner), n_genes))[np.argsort(slot)]
    chromosome, start = np.divmod(np.sort(slot) * _WIDTH, length)
    names = [f"chr{c + 1}" for c in range(world.chromosomes)]
    peaks = {"chromosome": Categorical.from_codes(chromosome, names), "start": start, "end": start + _WIDTH}
    peaks["target"] = np.array([f"gene{j}" for j in range(n_genes)] + [""], dtype=object)[target]
    labels = [f"{names[c]}:{s}-{s + _WIDTH}" for c, s in zip(chromosome, start, strict=True)]
    chromosome, tss = np.divmod(where, length)
    body = draws.lognormal(np.log(20_000), 1.0, size=n_genes).clip(_WIDTH, _REACH).astype(np.int64)
    forward = draws.random(n_genes) < 0.5
    genes = {"chromosome": Categorical.from_codes(chromosome, names)}
    genes |= {"start": np.where(forward, tss, tss + 1 - body), "end": np.where(forward, tss + body, tss + 1)}
    genes |= {"tss": tss, "strand": Categorical.from_codes(1 - forward.astype(int), ["+", "-"])}
    return DataFrame(genes, Index([f"gene{j}" for j in range(n_genes)])), DataFrame(peaks, Index(labels))


def _distinct(draws: np.random.Generator, least: np.ndarray, beyond: np.ndarray) -> np.ndarray:
    """Integers in ``[least, beyond)``, no two the same; the earlier of two keeps its own."""
    drawn = draws.integers(least, beyond)
    while len(first := np.unique(drawn, return_index=True)[1]) < len(drawn):
        again = np.setdiff1d(np.arange(len(drawn)), first)
        drawn[again] = draws.integers(least[again], beyond[again])
    return drawn


def _part(name: str, var: DataFrame, obs: DataFrame, *, share: float, world: Multiome, seed: int) -> AnnData:
    """One modality before it is measured: depths of the cells, bases and loadings of the features."""
    import scipy.sparse as sp
    from anndata import AnnData

    draws, by_cell = draws_for(seed, "multiome", name), draws_for(seed, "multiome", "size", name)
    if name == "rna":
        base, median, deviation = 1.5, world.depth, world.depth_spread
        var["theta"] = world.theta * np.exp(world.theta_spread * draws.standard_normal(len(var)))
    else:
        base, median, deviation = 1.0, world.atac_depth, world.atac_spread
    var["base"] = base * draws.standard_normal(len(var))
    size = median * np.exp(deviation * by_cell.standard_normal(len(obs)))
    part = AnnData(obs=obs.assign(size=size), var=var)
    member = draws.random((len(var), world.programmes)) < share
    # Away from zero: of a member that hardly moves, no method could say that it is one.
    absolute = world.strength * draws.uniform(0.5, 1.5, size=member.shape)
    sign = np.where(draws.random(member.shape) < 0.5, -1.0, 1.0)
    shift = world.batch_effect * draws.standard_normal((len(var), len(obs["batch"].cat.categories)))
    part.varm["member"] = sp.csr_matrix(member)
    part.varm["loadings"] = sp.csr_matrix(np.where(member, sign * absolute, 0.0))
    part.varm["batch_effect"] = shift - shift.mean(1, keepdims=True)
    return part


def _logits(part: AnnData, activity: np.ndarray, rows: slice) -> np.ndarray:
    """Logarithms of the proportions of some cells up to a constant, without direct links."""
    level = part.obs["batch"].cat.codes.to_numpy()[rows]
    logits = part.var["base"].to_numpy() + np.asarray(part.varm["batch_effect"]).T[level]
    logits += (part.varm["loadings"] @ activity[rows].T).T
    return logits


def _measure(rna: AnnData, atac: AnnData, *, activity: np.ndarray, world: Multiome, seed: int) -> None:
    """Give both modalities their counts, block by block."""
    import scipy.sparse as sp

    target = rna.var_names.get_indexer(atac.var["target"])
    direct = np.flatnonzero(target >= 0)
    owners, owner = np.unique(target[direct], return_inverse=True)
    molecules, fragments = (part.obs["size"].to_numpy()[:, None] for part in (rna, atac))
    theta = rna.var["theta"].to_numpy()
    expression, accessibility = [], []
    for number, rows in enumerate(blocks(rna.n_obs, rna.n_vars + atac.n_vars)):
        shape = (rows.stop - rows.start, len(owners))
        shared = world.direct * draws_for(seed, "multiome", "direct", number).standard_normal(shape)
        logits = _logits(rna, activity, rows)
        logits[:, owners] += shared
        mean = softmax(logits) * molecules[rows]
        gamma = draws_for(seed, "multiome", "gamma", number)
        mean *= gamma.standard_gamma(np.broadcast_to(theta, mean.shape)) / theta
        counts = draws_for(seed, "multiome", "poisson", number).poisson(mean)
        expression.append(sp.csr_matrix(counts, dtype=np.int32))
        logits = _logits(atac, activity, rows)
        logits[:, direct] += shared[:, owner]
        counts = draws_for(seed, "multiome", "open", number).poisson(softmax(logits) * fragments[rows])
        accessibility.append(sp.csr_matrix(counts > 0 if world.binary else counts, dtype=np.int32))
    rna.X, atac.X = sp.vstack(expression, format="csr"), sp.vstack(accessibility, format="csr")
