"""The command that asks a finished run which features go with a gene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

import chreode.recipes  # noqa: F401  (registers chreode's own)
from chreode.errors import InputError
from chreode.folder import check_fresh, file_name, fitted_cells, fresh_file, model_folder
from chreode.io.genes import read_genes
from chreode.io.write import atomic_path
from chreode.load import load
from chreode.perturb.linkage import linkage, linkage_figure
from chreode.words import listing, many

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from chreode.embedded import Embedded
    from chreode.fitted import FittedModel

__all__ = ["link"]

_FDR = 0.1
_SHOWN = 10


def link(
    folder: Path,
    names: Sequence[str],
    out: Path | None,
    *,
    genes: Path | None,
    only: str | None,
    data: Path | None,
    overwrite: bool,
    asked: Mapping[str, Any],
) -> None:
    """Write which features go with a gene as CSV, draw them along the genome, print the strongest.

    Parameters
    ----------
    folder
        Of a finished run.
    names
        Genes; several act together.
    out
        The CSV file to write, its figure beside; None is ``links/GENE.csv`` in the folder.
    genes
        Where genes start: an annotation, as `chreode.io.genes.read_genes` takes it.
    only
        ``COLUMN=LEVEL`` of the cells to move; None takes those that express the gene.
    data
        The cells with their counts; None takes the file that was fitted, or the run's own copy.
    overwrite
        Whether what is there already may be replaced.
    asked
        ``direction``, ``modality`` (None for atac, or the only other one), ``window``, ``step``,
        ``fraction``, ``null`` and ``seed`` of `linkage`.
    """
    _check(asked, genes)
    where, facts = model_folder(folder)
    out = out or folder.expanduser() / "links" / f"{file_name('+'.join(names))}.csv"
    picture = out.with_suffix(".png")
    check_fresh(picture, suffix=".png", overwrite=overwrite)
    with fresh_file(out, suffix=".csv", overwrite=overwrite) as beside:
        starts = None if genes is None else read_genes(genes)
        model = load(where)
        asked = {**asked, "modality": _modality(model, asked["modality"], names)}
        counted = bool(facts) or data is not None
        chosen = None if only is None else _of_level(model.embedded, only)
        embedded = _with_counts(folder, facts, model=model, data=data) if counted else model.embedded
        gene = names[0] if len(names) == 1 else names
        links = linkage(embedded, gene, genes=starts, cells=chosen, **asked)
        links.to_csv(beside, lineterminator="\n")
        drawn = _draw(links, picture)
    which = "that express it" if counted else "in which the model expects most of it (no counts are at hand)"
    _tell(links, asked, which=which if only is None else f"of {only}")
    print(f"Written to {out}{f', with a figure in {picture.name}' if drawn else ''}.")
    if not drawn:
        print(_no_figure(links, asked["modality"], genes))


def _check(asked: Mapping[str, Any], genes: Path | None) -> None:
    """Refuse what needs no model to be refused."""
    window = asked["window"]
    if window is not None and not 0 < window < float("inf"):
        msg = f"Expected --window in base pairs, above 0; found {window}. Give 500000, say."
        raise InputError(msg)
    if window is not None and genes is None:
        msg = f"Expected --genes with --window {window:g}; found none. Name an annotation (GTF, BED or CSV)"
        raise InputError(msg + " in the assembly of the peaks, or leave --window out.")
    if not 0 <= asked["seed"] < 2**32:
        msg = f"Expected --seed from 0 to 4,294,967,295; found {asked['seed']}. Give another number."
        raise InputError(msg)


def _modality(model: FittedModel, asked: str | None, names: Sequence[str]) -> str:
    """The modality whose response is asked for; refuse one that the model does not know."""
    known = list(model.layout.modalities)
    modality = asked or "atac"
    if asked is None and "atac" not in known and len(known) > 1:
        others = [m for m, d in model.layout.modalities.items() if not {*names} & {*d.names, *d.symbols}]
        if len(others) != 1:
            msg = (
                f"Expected --modality to say what should answer ({', '.join(known)}); found none. Add "
                f"--modality {known[-1]}."
            )
            raise InputError(msg)
        modality = others[0]
    if modality not in known:
        other = " A recipe of several modalities, such as multidgd, links genes to peaks."
        msg = (
            f"Expected --modality among those of the model ({', '.join(known)}); found {modality!r}. Add "
            f"--modality {known[-1]}.{other if len(known) == 1 else ''}"
        )
        raise InputError(msg)
    if not len(model.embedded):
        msg = "Expected a model that was saved with its cells; found none. Save it with cells=True."
        raise InputError(msg)
    return modality


def _of_level(embedded: Embedded, only: str) -> np.ndarray:
    """The mask of ``COLUMN=LEVEL``, of a column that was fitted with."""
    (column, _, level), layout = only.partition("="), embedded.cells.layout
    covariate = layout.find(column)
    if covariate is None or not covariate.categorical:
        known = listing([name for name, c in layout.covariates.items() if c.categorical]) or "none"
        msg = (
            f"Expected --cells COLUMN=LEVEL, of a column that was fitted with ({known}); found {only!r}. "
            "Name one of these, or fit with --label."
        )
        raise InputError(msg)
    mask = embedded.level_names(covariate.column) == level
    if not mask.any():
        msg = (
            f"Expected --cells {column}= with a level that fitted cells have ({listing(covariate.levels)}); "
            f"found {level!r}. Name one of these."
        )
        raise InputError(msg)
    return mask


def _with_counts(
    folder: Path, facts: Mapping[str, Any], *, model: FittedModel, data: Path | None
) -> Embedded:
    """The fitted cells with their counts, which tell the cells that express a gene."""
    cells, embedded = fitted_cells(folder, facts, model=model, data=data), model.embedded
    if not np.array_equal(cells.names, embedded.names):
        msg = (
            f"Expected the {many(len(embedded), 'cell')} that were fitted, in their order; found "
            f"{many(len(cells), 'other cell')} in {cells.reading.source}. Give the file that was fitted with "
            "--data."
        )
        raise InputError(msg)
    return embedded.replace(cells=embedded.cells.replace(measured=cells.measured))


def _draw(links: pd.DataFrame, picture: Path) -> bool:
    """Draw links along the genome, where any has a place there; whether so."""
    if np.isnan(links["distance"].to_numpy()).all():
        # What may be replaced would show other links than the table.
        picture.unlink(missing_ok=True)
        return False
    with atomic_path(picture) as beside:
        linkage_figure(links, fdr=_FDR).savefig(beside, dpi=200)
    return True


def _tell(links: pd.DataFrame, asked: Mapping[str, Any], *, which: str) -> None:
    """How many links there are, the strongest, and what they can mean."""
    facts, modality = links.attrs, asked["modality"]
    gene = facts["gene"] if isinstance(facts["gene"], str) else " and ".join(facts["gene"])
    verb = "silenced" if asked["direction"] == "silence" else "activated"
    cells = many(facts["cells"], "cell")
    passed = int((links["q_value"] <= _FDR).sum())
    near = f" within {asked['window']:,.0f} bp" if asked["window"] is not None else ""
    print(
        f"{gene} {verb} in {cells} {which}: {passed:,} of {many(len(links), 'feature')} of {modality}{near} "
        f"significant at a false discovery rate of {_FDR:g}."
    )
    if len(links):
        Console().print(_strongest(links, modality))
    print(
        f"A link says that the two go together across cells, not that one acts on the other: features that "
        f"share a programme with {gene} cannot be told from its direct targets."
    )


def _strongest(links: pd.DataFrame, modality: str) -> Table:
    table = Table(title=f"The {many(min(_SHOWN, len(links)), 'smallest p-value')}")
    table.add_column(modality, overflow="fold")
    located = bool(links["distance"].notna().any())
    for name in ("effect", "relative", "p", "q", *(["bp from start"] if located else [])):
        table.add_column(name, justify="right", no_wrap=True)
    columns = ["effect", "relative", "p_value", "q_value", "distance"]
    top = links.head(_SHOWN)
    for name, values in zip(top.index, top[columns].to_numpy(), strict=True):
        effect, relative, p, q, distance = values
        numbers = [f"{effect:+.2g}", f"{relative:+.1%}", f"{p:.2g}", f"{q:.2g}"]
        if located:
            numbers.append(f"{distance:+,.0f}" if np.isfinite(distance) else "")
        table.add_row(Text(str(name)), *numbers)
    return table


def _no_figure(links: pd.DataFrame, modality: str, genes: Path | None) -> str:
    """Why nothing was drawn."""
    if genes is None:
        return "No figure along the genome: add --genes FILE, an annotation in the assembly of the peaks."
    if links.empty:
        return f"No figure along the genome: no feature of {modality} lies in the window."
    return (
        f"No figure along the genome: the features of {modality} are no regions, or none lies on the gene's "
        "chromosome."
    )
