"""Which peaks, or genes, go with a gene, by what a decoder expects when the gene falls silent."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from chreode.embedded import Embedded
from chreode.errors import InputError
from chreode.io.genes import distance_to_start, read_genes
from chreode.io.regions import regions_of
from chreode.io.source import Table
from chreode.memory import kept_memory
from chreode.perturb.null import judge, matched_genes
from chreode.perturb.response import SIGN_STEP, Push, mean_level, spread
from chreode.settle import frozen
from chreode.threads import threads_for
from chreode.words import listing, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["linkage", "linkage_figure"]

_CELLS = 500  # in which the gene is compared with others


def linkage(
    embedded: Any,
    gene: str | Sequence[str],
    *,
    direction: Literal["silence", "activate"] = "silence",
    modality: str = "atac",
    window: float | None = None,
    cells: Any = None,
    genes: pd.DataFrame | str | Path | None = None,
    step: Literal["gradient", "sign"] = "gradient",
    fraction: float = 0.1,
    null: int = 100,
    seed: int = 0,
) -> pd.DataFrame:
    r"""What the model expects of every peak, or gene, when a gene falls silent.

    .. math::

        g_i = \nabla_z \log \rho_j(z_i), \qquad
        \delta_i = -f \sqrt{\tfrac1N \textstyle\sum_l \lVert z_l - \bar z \rVert^2}\;
        \frac{g_i}{\lVert g_i \rVert}, \qquad
        e_q = \frac1n \sum_{i:\, x_{ij} > 0} \big[ E_q(z_i + \delta_i) - E_q(z_i) \big]

    The code of each cell that expresses gene ``j`` moves in the direction in which the gene's expected
    proportion :math:`\rho_j` falls fastest, by a fraction ``f`` of the spread of the codes (the root mean
    square distance from their mean), as far in every cell and for every gene. :math:`E_q` is what the
    decoder expects: a proportion of the total for counts, a probability for zeros and ones. Of several
    genes the mean log proportion falls. Codes of covariates, the cells' conditions and all weights stay.

    An effect is compared with those of ``null`` random genes of similar mean expression on the same
    feature, in the same cells (500 at random, where there are more), all by the derivative at the code:
    see `chreode.perturb.null.judge`. The effects themselves come from whole steps, in all cells.

    What this can know: the code has a few tens of dimensions, and everything that moves does so along
    them. Peaks that share a programme with the gene cannot be told from its direct targets, nor the gene
    from the others of its programme: a link says that the two go together across cells, not that one
    acts on the other. Where the likelihood is a softmax (counts) the modality's total is constant, so that
    closing some peaks opens others; the Bernoulli likelihood of zeros and ones has no such constraint, nor
    has ``nb_free`` of counts. The standard error is over cells, for the decoder as it is; it does not know
    that the fit could have come out otherwise.

    Parameters
    ----------
    embedded
        Cells under a model: an `Embedded`; a `FittedModel` stands for its own.
    gene
        Name or symbol; several act together. A feature of any modality will do.
    direction
        ``"silence"`` or its mirror, ``"activate"``.
    modality
        The one whose response is asked for; it may be the gene's own, and then leaves out the gene.
    window
        Only features within so many base pairs of the start of transcription. Needs ``genes``.
    cells
        Which cells to move, a mask of ``n``; None for those that express the gene (one of them at least):
        by their counts, or without counts those whose expected proportion is above the median.
    genes
        An annotation in the assembly of the peaks, for distances: a file, or what
        `chreode.io.genes.read_genes` read.
    step
        ``"gradient"`` as above, or ``"sign"`` as published: every coordinate moves by 0.01 (one step of Adam
        on the loss of a zero count of that gene alone), whatever the size of the gradient.
    fraction
        Length of the step ``f``, > 0; not used by the sign step.
    null
        Random genes to compare with, >= 20.
    seed
        Of the random genes and cells.

    Returns
    -------
    One row a feature, the smallest ``p_value`` first: ``effect`` (negative: it closes); ``relative``, the
    effect over what is expected before; ``standard_error`` over cells; ``p_value``, two-sided; ``q_value``
    (Benjamini-Hochberg, within the window); ``distance`` in base pairs from the start of transcription,
    negative upstream, NaN where unknown. ``attrs``: ``gene``, ``direction``, ``modality``, ``step``,
    ``step_length`` (in units of the code), ``cells`` (how many), ``null_genes``, ``inflation`` (of the
    statistic, see `judge`) and ``log_change`` of the gene itself (of a continuous one: its change).

    Raises
    ------
    InputError
        For a gene, modality or choice that does not exist, a window without distances, no cells, or fewer
        genes than are to be compared with.

    Notes
    -----
    Beyond the paper (doi:10.1038/s41467-024-53340-z): the gradient's size counts, not only its signs;
    the step has the same length for every gene; effects are tested; cells pass in blocks. The published
    step also decays the code by 1e-4 of itself, which changes hardly a sign, and is left out.

    References
    ----------
    Schuster et al. (2024), multiDGD. https://doi.org/10.1038/s41467-024-53340-z

    Examples
    --------
    >>> import chreode as ch
    >>> from chreode.io.simulate_multiome import simulate_multiome
    >>> cells = ch.read(simulate_multiome(60, 40, 80, seed=1))
    >>> recipe = ch.recipes.multidgd(dim=3, components=2)
    >>> model = ch.fit(cells, recipe, epochs=2, progress=False)
    >>> links = ch.linkage(model, "gene7", null=20)
    >>> links.shape, links.columns.tolist()[:3]
    ((80, 6), ['effect', 'relative', 'standard_error'])
    """
    embedded = _held(embedded)
    names = [gene] if isinstance(gene, str) else list(gene)
    _check(embedded, modality, direction=direction, step=step, fraction=fraction)
    genes = _annotation(genes)
    source, columns = _located(embedded, names)
    distance = _distances(embedded, source, columns, modality=modality, genes=genes, window=window)
    rows = _moved(embedded, source, columns, cells=cells)
    codes = embedded.codes[embedded.code]
    length = fraction * spread(codes) if step == "gradient" else None
    push = Push(embedded, source, modality, length)
    way = -1 if direction == "silence" else 1
    rng = np.random.default_rng(seed)
    here = torch.from_numpy(np.sort(rng.permutation(rows)[:_CELLS]))
    with frozen(embedded.module), threads_for(len(here) * embedded.cells.layout.width), kept_memory():
        level = mean_level(embedded, here, source).cpu().numpy()
        others = matched_genes(level, columns, null=null, rng=rng)
        sets = [torch.from_numpy(chosen) for chosen in (columns, *others)]
        linear = way * push.linear(here, sets).cpu().numpy()
        change = push.finite(torch.from_numpy(rows), sets[0], way=way)
    expected = (change.before / change.cells).cpu().numpy()
    verdict = judge(linear[0], linear[1:], expected)
    values = {"effect": change.mean, "standard_error": change.standard_error}
    values = {name: value.cpu().numpy() for name, value in values.items()} | {"p_value": verdict.p_value}
    keep = np.ones(len(distance), bool) if window is None else np.abs(distance) <= window
    keep[columns if source == modality else []] = False
    links = _table(embedded, modality, values | {"expected": expected, "distance": distance}, keep)
    known = np.asarray(embedded.cells.layout.modalities[source].names, dtype=object)
    links.attrs = {
        "gene": gene if isinstance(gene, str) else names,
        "direction": direction,
        "modality": modality,
        "step": step,
        "step_length": SIGN_STEP * codes.shape[1] ** 0.5 if length is None else length,
        "cells": len(rows),
        "null_genes": sorted(set(known[others].ravel().tolist())),
        "inflation": verdict.inflation,
        "log_change": change.level,
    }
    return links


def linkage_figure(links: pd.DataFrame, *, fdr: float = 0.1) -> Figure:
    """Effects along the genome around the gene, with those that pass a false discovery rate marked.

    Parameters
    ----------
    links
        What `linkage` returned, with distances.
    fdr
        Largest ``q_value`` that is marked.

    Raises
    ------
    InputError
        When no feature has a distance.
    """
    from matplotlib.figure import Figure

    near = links.dropna(subset=["distance"])
    if near.empty:
        msg = (
            "Expected links with distances from the start of transcription; found none. Give linkage genes= "
            "(a table of chreode.io.genes.read_genes) and features that are regions."
        )
        raise InputError(msg)
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    passed = (near["q_value"] <= fdr).to_numpy()
    kilobases = near["distance"].to_numpy() / 1000
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.axvline(0, color="0.6", linewidth=0.8, linestyle=":")
    for chosen, colour, size, label in (
        (~passed, "0.55", 10, "others"),
        (passed, "#c0392b", 22, f"q ≤ {fdr:g}"),
    ):
        axes.scatter(kilobases[chosen], near["effect"].to_numpy()[chosen], s=size, c=colour, label=label)
    gene = links.attrs.get("gene", "the gene")
    name = gene if isinstance(gene, str) else ", ".join(gene)
    verb = "silenced" if links.attrs.get("direction") == "silence" else "activated"
    axes.set_xlabel(f"Distance from the start of {name} (kb; negative upstream)")
    axes.set_ylabel(f"Change when {verb}")
    axes.legend(frameon=False)
    return figure


def _annotation(genes: Any) -> pd.DataFrame | None:
    if isinstance(genes, (str, os.PathLike)):
        return read_genes(Path(genes))
    if genes is not None and not {"chromosome", "tss", "strand"} <= set(getattr(genes, "columns", ())):
        msg = (
            "Expected genes= to be the file of an annotation (GTF, BED or CSV), or what "
            f"chreode.io.genes.read_genes read; found {type(genes).__name__} without columns chromosome, tss "
            "and strand. Give the file."
        )
        raise InputError(msg)
    return genes


def _held(given: Any) -> Embedded:
    found = getattr(given, "embedded", given)
    if not isinstance(found, Embedded):
        msg = (
            f"Expected a fitted model, or what its project() returns; found {type(given).__name__}. "
            "Fit these cells first."
        )
        raise InputError(msg)
    return found


def _check(embedded: Embedded, modality: str, *, direction: str, step: str, fraction: float) -> None:
    known = list(embedded.cells.layout.modalities)
    if modality not in known:
        msg = f"Expected a modality of the model ({', '.join(known)}); found {modality!r}. Name one of these."
        raise InputError(msg)
    for name, value, choices in (
        ("direction", direction, ("silence", "activate")),
        ("step", step, ("gradient", "sign")),
    ):
        if value not in choices:
            msg = f"Expected {name} to be {' or '.join(map(repr, choices))}; found {value!r}. Choose one."
            raise InputError(msg)
    if not 0 < fraction < float("inf"):
        msg = f"Expected a positive fraction of the codes' spread; found fraction={fraction}. Give 0.1, say."
        raise InputError(msg)


def _located(embedded: Embedded, names: Sequence[str]) -> tuple[str, np.ndarray]:
    """The first modality that has all of these features, and where it has them."""
    lost: list[tuple[int, str, dict[str, int]]] = []
    for modality, described in embedded.cells.layout.modalities.items():
        where = {name: i for i, name in enumerate(described.symbols)}
        where |= {name: i for i, name in enumerate(described.names)}
        absent = [name for name in names if name not in where]
        if names and not absent:
            return modality, np.unique([where[name] for name in names])
        lost.append((len(absent), modality, where))
    _, modality, where = min(lost, key=lambda entry: entry[0])
    absent = [name for name in names if name not in where]
    hint = nearest(absent[0], where) if absent else ""
    msg = (
        f"Expected genes that the model knows; found {listing(absent, limit=5)}.{hint} Name features of "
        f"{modality!r}, as in layout.modalities[{modality!r}].names."
    )
    raise InputError(msg)


def _moved(embedded: Embedded, source: str, columns: np.ndarray, *, cells: Any) -> np.ndarray:
    """Positions of the cells whose codes move."""
    if cells is not None:
        mask = np.asarray(cells)
        if mask.dtype != bool or mask.shape != (len(embedded),):
            msg = (
                f"Expected cells= to be a mask of {len(embedded)} cells, true or false; found {mask.dtype} "
                f"of shape {mask.shape}. Give such as embedded.level_names('label') == 'B cell'."
            )
            raise InputError(msg)
    else:
        mask = _expressing(embedded, source, columns)
    if not mask.any():
        found = "no cell that expresses the gene" if cells is None else "a mask that is nowhere true"
        msg = f"Expected cells to move; found {found}. Choose another gene, or name cells with cells=."
        raise InputError(msg)
    return np.flatnonzero(mask)


def _expressing(embedded: Embedded, source: str, columns: np.ndarray) -> np.ndarray:
    described = embedded.cells.layout.modalities[source]
    measured: Any = embedded.cells.measured.get(source)
    if measured is None:
        logging.getLogger(__name__).warning(
            "No counts are at hand, as after loading: cells that are expected to have most of the gene move, "
            "not those that express it. Project the data, or name cells with cells=."
        )
    if measured is None or described.kind == "continuous":
        names = [described.names[j] for j in columns]
        level = embedded.expected(source, features=names).sum(1)
        return level > np.median(level)
    mask = np.zeros(len(embedded), dtype=bool)
    if isinstance(measured, torch.Tensor):
        return (measured[:, columns] > 0).any(1).cpu().numpy()
    hit = torch.isin(measured.col, torch.from_numpy(columns).to(measured.col)) & (measured.value > 0)
    mask[measured.row[hit].cpu().numpy()] = True
    return mask


def _distances(
    embedded: Embedded,
    source: str,
    columns: np.ndarray,
    *,
    modality: str,
    genes: pd.DataFrame | None,
    window: float | None,
) -> np.ndarray:
    """Base pairs from each feature to the nearest start of these genes; NaN where unknown."""
    layout = embedded.cells.layout
    found = np.full(layout.modalities[modality].n_features, np.nan)
    regions = regions_of(Table(np.asarray(layout.modalities[modality].names, dtype=object)))
    if window is not None and (genes is None or regions is None):
        lack = "no genes=" if genes is None else f"features of {modality!r} whose names are no regions"
        msg = (
            "Expected a table of genes, and peaks with names such as 'chr1:1000-1500', for "
            f"window={window:g}; found {lack}. Give genes=chreode.io.genes.read_genes(...) and such peaks, "
            "or leave window out."
        )
        raise InputError(msg)
    if genes is None or regions is None:
        return found
    for j in columns:
        one = distance_to_start(regions, _row_of(genes, layout.modalities[source], int(j)))
        closer = np.isnan(found) | (np.abs(one) < np.abs(found))
        found = np.where(closer, one, found)
    return found


def _row_of(genes: pd.DataFrame, described: Any, j: int) -> Any:
    """The gene's row of the table, by symbol or by identifier."""
    name = described.names[j]
    for known in (described.symbols[j] if described.symbols else name, name):
        if known in genes.index:
            return genes.loc[known]
    if "id" in genes.columns:
        row = np.flatnonzero(genes["id"].to_numpy() == name)
        if len(row):
            return genes.iloc[row[0]]
    msg = (
        f"Expected {name!r} in the table of genes ({len(genes):,}); found no such symbol or identifier."
        f"{nearest(name, genes.index)} Add the gene, or leave genes= out."
    )
    raise InputError(msg)


def _table(
    embedded: Embedded, modality: str, values: dict[str, np.ndarray], keep: np.ndarray
) -> pd.DataFrame:
    import pandas as pd
    from scipy.stats import false_discovery_control

    names = pd.Index(embedded.cells.layout.modalities[modality].names, name=modality)
    frame = pd.DataFrame(values, index=names).iloc[np.flatnonzero(keep)]
    p_value = frame["p_value"].to_numpy()
    q_value = false_discovery_control(p_value) if len(p_value) else p_value
    frame = frame.assign(relative=frame["effect"] / frame["expected"], q_value=q_value)
    order = np.lexsort((-frame["effect"].abs().to_numpy(), p_value))
    columns = ["effect", "relative", "standard_error", "p_value", "q_value", "distance"]
    return frame.iloc[order][columns]
