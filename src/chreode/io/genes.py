"""Genes and their transcription start sites from an annotation, and how far regions lie from them."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.axes import Float
from chreode.errors import InputError
from chreode.io.regions import (
    REGION_COLUMNS,
    STANDARD_CHROMOSOME,
    PossibleRegions,
    known_column,
    text_or_empty,
)
from chreode.io.source import IDS, SYMBOLS
from chreode.words import listing, many

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from chreode.io.regions import Regions

__all__ = ["distance_to_start", "read_genes"]

GENE_COLUMNS = REGION_COLUMNS | {
    "strand": ("strand",),
    "symbol": (*SYMBOLS, "gene name", "external_gene_name", "hgnc_symbol", "gene"),
    "id": ("ensgene", *IDS, "gene stable id", "ensembl_gene_id"),
}
STRANDS = {"+": 1, "1": 1, "+1": 1, "-": -1, "-1": -1}
NO_DATA = ("#", "track", "browser")
GENE_FILE = "a GTF file, a BED file of 6 columns or a table with chromosome, start, end, strand and symbol"


def read_genes(path: str | Path) -> pd.DataFrame:
    r"""Genes and their transcription start sites from an annotation, plain or gzipped.

    Read are GTF files (the ``gene`` lines), BED files of 6 columns and tables with a header, such as
    Ensembl's. A gene without a symbol goes by its identifier. Of a symbol that several genes bear, the
    first on a standard chromosome (not a patch, haplotype or scaffold) is kept, otherwise the first.

    Parameters
    ----------
    path
        The file, recognised by its content; in the assembly that the peaks are in.

    Returns
    -------
    One gene a row, by symbol: ``chromosome`` (without ``chr``), ``start``, ``end``, ``strand`` (1 or -1),
    ``tss`` (the first base transcribed) and, unless the file is BED, ``id``. Positions count from 0 and
    ``end`` is not part of the gene, whatever the file. ``attrs`` tells how many rows were left out:
    ``duplicates`` of a symbol, and ``incomplete`` ones without name or strand.

    Raises
    ------
    InputError
        When there is no file, it is damaged or none of these, or it holds no gene or an impossible one.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "genes.bed"
    ...     _ = path.write_text("chr1\t100\t900\tA\t0\t+\nchr2\t100\t900\tB\t0\t-\n")
    ...     read_genes(path)[["chromosome", "tss"]].T.to_dict("list")
    {'A': ['1', 100], 'B': ['2', 899]}
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            opened = gzip.open if file.read(2) == b"\x1f\x8b" else open
        with opened(path, "rt", encoding="utf-8-sig", newline="") as lines:
            first = next((line for line in lines if line.strip() and not line.startswith(NO_DATA)), "")
            values, counted_from = _parse(first, lines, str(path))
    except (EOFError, OSError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        msg = (
            f"Expected {GENE_FILE} at {path}; found none that can be read ({error}). "
            "Check the path, or copy the file again."
        )
        raise InputError(msg) from error
    return _one_a_symbol(values, counted_from, str(path))


def distance_to_start(regions: Regions, gene: pd.Series) -> Float[np.ndarray, " g"]:
    r"""Signed distance in base pairs of regions from the transcription start site of a gene.

    .. math:: d_j = \sigma \left[ \max(\mathrm{start}_j - t, 0) - \max(t - (\mathrm{end}_j - 1), 0) \right]

    with ``t`` the start site and ``σ`` the strand: the distance from the start site to the nearest base of
    the region, 0 when it lies inside, negative upstream of the gene and positive downstream.

    Parameters
    ----------
    regions
        Such as peaks, ``g``.
    gene
        Its ``chromosome``, ``tss`` and ``strand``: a row of `read_genes`, in the assembly of the regions.

    Returns
    -------
    Distances, ``g``; NaN on other chromosomes.

    Raises
    ------
    InputError
        When the gene lacks one of the three, or its strand is neither 1 nor -1.

    Examples
    --------
    >>> import pandas as pd
    >>> from chreode.io.regions import parse_regions
    >>> gene = pd.Series({"chromosome": "1", "tss": 1000, "strand": -1})
    >>> peaks = parse_regions(["chr1:800-901", "chr1:950-1050", "chr1:1200-1300", "chr2:950-1050"])
    >>> distance_to_start(peaks, gene).tolist()
    [100.0, 0.0, -200.0, nan]
    """
    strand = STRANDS.get(str(gene.get("strand")))
    if strand is None or not {"chromosome", "tss"} <= set(gene.index):
        msg = f"Expected a gene with chromosome, tss and strand (1 or -1); found {gene.to_dict()}."
        raise InputError(msg + " Give a row of read_genes(...).")
    start_site = int(gene["tss"])
    after = np.maximum(regions.start - start_site, 0)
    before = np.maximum(start_site - (regions.end - 1), 0)
    return np.where(regions.on(str(gene["chromosome"])), strand * (after - before), np.nan)


def _parse(first: str, rest: Iterable[str], where: str) -> tuple[dict[str, list[str]], int]:
    """What a file says of genes, by column, and from where it counts; its first line tells what it is."""
    fields, words, header = first.split("\t"), first.split(), next(iter(_split(first, [first])), [])
    if len(fields) >= 9 and fields[3].isdigit() and fields[4].isdigit():
        return _parse_gtf(chain([first], rest), where), 1
    if len(words) >= 3 and words[1].isdigit() and words[2].isdigit():
        lines = (line.strip() for line in chain([first], rest) if not line.startswith(NO_DATA))
        rows = [line.split("\t" if "\t" in first else None) for line in lines if line]
        return _by_column(
            rows, {"chromosome": 0, "start": 1, "end": 2, "symbol": 3, "strand": 5}, 6, where
        ), 0
    places = {name: known_column(header, known) for name, known in GENE_COLUMNS.items()}
    absent = [name for name, column in places.items() if column is None and name != "id"]
    if {"start", "end"} & set(absent):
        found = f"one that begins with {first.strip()[:80]!r}" if first else "no lines"
        msg = f"Expected {GENE_FILE} at {where}; found {found}. Give one of these."
        raise InputError(msg)
    if absent:
        msg = f"Expected columns for {listing(absent)} in {where}; found {listing(header, limit=30)}."
        raise InputError(msg + " Add or rename them.")
    at = {name: header.index(column) for name, column in places.items() if column is not None}
    return _by_column(_split(first, rest), at, len(header), where), 1


def _split(first: str, lines: Iterable[str]) -> list[list[str]]:
    rows = csv.reader(lines, delimiter="\t" if "\t" in first else ",")
    return [[cell.strip() for cell in row] for row in rows if row]


def _parse_gtf(lines: Iterable[str], where: str) -> dict[str, list[str]]:
    # fifty times as many lines are for parts of genes: these are not split
    rows = [line.split("\t") for line in lines if "\tgene\t" in line]
    values = _by_column(rows, {"chromosome": 0, "start": 3, "end": 4, "strand": 6, "said": 8}, 9, where)
    said = values.pop("said")
    for name, key in (("id", "gene_id"), ("symbol", "gene_name")):
        attribute = re.compile(rf'(?:^|;)\s*{key} "?([^";]+)')
        values[name] = [found[1].strip() if (found := attribute.search(line)) else "" for line in said]
    return values


def _by_column(rows: list[list[str]], places: dict[str, int], width: int, where: str) -> dict[str, list[str]]:
    """Columns out of lines."""
    short = [" ".join(row)[:60] for row in rows if len(row) < width]
    if short:
        msg = (
            f"Expected {width} columns in every line of {where}; found fewer in {many(len(short), 'line')} "
            f"({listing(short, limit=2)}). Complete or drop them."
        )
        raise InputError(msg)
    return {name: [row[at] for row in rows] for name, at in places.items()}


def _one_a_symbol(values: dict[str, list[str]], counted_from: int, where: str) -> pd.DataFrame:
    import pandas as pd

    found = PossibleRegions.of_columns(*(values[name] for name in ("chromosome", "start", "end")))
    if not found.known.all():
        lines = [" ".join(values[name][at] for name in values) for at in np.flatnonzero(~found.known)]
        msg = (
            f"Expected a chromosome and whole numbers as start and end of every gene in {where}; found "
            f"{many(len(lines), 'gene')} without ({listing(lines, limit=2)}). Correct or drop them."
        )
        raise InputError(msg)
    regions = found.regions(counted_from=counted_from)
    symbol = text_or_empty(values["symbol"])
    strand = np.asarray([STRANDS.get(sign, 0) for sign in values["strand"]])
    columns: dict[str, Any] = {
        "chromosome": regions.chromosome,
        "start": regions.start,
        "end": regions.end,
        "strand": strand,
        "tss": np.where(strand > 0, regions.start, regions.end - 1),
    }
    if "id" in values:
        columns["id"] = text_or_empty(values["id"])
        symbol = np.where(symbol == "", columns["id"], symbol)
    complete = np.flatnonzero((symbol != "") & (strand != 0))
    if not len(complete):
        msg = (
            f"Expected genes with a name and a strand in {where}; found none. Give another file: in GTF, "
            "genes have lines of kind 'gene' with gene_id \"...\", as those of Ensembl, GENCODE and RefSeq."
        )
        raise InputError(msg)
    elsewhere = [STANDARD_CHROMOSOME.fullmatch(name) is None for name in regions.chromosome[complete]]
    ranked = complete[np.argsort(elsewhere, kind="stable")]
    kept = np.sort(ranked[~pd.Index(symbol[ranked]).duplicated()])
    genes = pd.DataFrame(columns, index=pd.Index(symbol, name="symbol", dtype=object)).iloc[kept]
    genes.attrs = {"duplicates": len(complete) - len(kept), "incomplete": len(symbol) - len(complete)}
    return genes
