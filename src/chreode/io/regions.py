"""Regions of the genome, such as peaks, from the names or the columns of features."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chreode.axes import Bool, Float, Int
from chreode.errors import InputError
from chreode.io.source import text
from chreode.words import listing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from chreode.io.source import Table

__all__ = [
    "REGION_COLUMNS",
    "STANDARD_CHROMOSOME",
    "PossibleRegions",
    "Regions",
    "known_column",
    "normal_chromosome",
    "parse_regions",
    "regions_of",
    "text_or_empty",
]

# R pastes 100000 as 1e+05
NUMBER = r"(?:[0-9](?:\.[0-9]+)?e\+0[0-9]|[0-9][0-9,]{0,14})"
# GL000194.1 ends in a dot and a number, so that a dot separates only where there are two
FIRST_SEPARATOR = rf"(?::|_(?=-?{NUMBER}[-_])|-(?=-?{NUMBER}-)|\.(?=-?{NUMBER}\.))"
# MuData puts the name of the modality before that of a peak
MODALITY_PREFIX = r"(?:(?!chr[0-9XYMU])[A-Za-z]{3}[\w ]*:)?"
REGION = re.compile(
    rf"\s*{MODALITY_PREFIX}([^\s:]+?){FIRST_SEPARATOR}(-?{NUMBER})(?:\.\.|[-_.])({NUMBER})(?::[-+*])?\s*",
    re.ASCII,
)
# IGHV3-33-2 is a gene: names speak of regions when some are on one of these
STANDARD_CHROMOSOME = re.compile(r"[0-9]{1,2}[ABLR]?|[IVX]{1,5}|[WXYZ]|MT")

REGION_COLUMNS = {
    "chromosome": ("chromosome", "chrom", "chr", "seqnames", "chromosome_name", "chromosome/scaffold name"),
    "start": ("start", "chromstart", "chr_start", "start_position", "gene start (bp)"),
    "end": ("end", "chromend", "stop", "chr_end", "end_position", "gene end (bp)"),
}
NO_VALUE = {"", ".", "NA", "nan", "None"}


@dataclass(frozen=True, eq=False)
class Regions:
    """Stretches of chromosomes, one a feature; positions count from 0, as in BED files and names of peaks.

    Parameters
    ----------
    code
        Position in ``spellings`` of the chromosome of each region, ``g``.
    spellings
        Chromosomes as the user writes them.
    start, end
        First position and the one after the last, in base pairs, ``g``.

    Raises
    ------
    InputError
        When one starts before 0 or does not end after it starts.

    Examples
    --------
    >>> peaks = parse_regions(["chr1:1000-1500", "chrM:5-10"])
    >>> len(peaks), peaks.spelling.tolist(), peaks.chromosome.tolist(), peaks.centre.tolist()
    (2, ['chr1', 'chrM'], ['1', 'MT'], [1250.0, 7.5])
    >>> peaks[np.asarray([1])].end.tolist()
    [10]
    """

    code: Int[np.ndarray, " g"]
    spellings: tuple[str, ...]
    start: Int[np.ndarray, " g"]
    end: Int[np.ndarray, " g"]

    def __post_init__(self) -> None:
        for name in ("code", "start", "end"):
            own = np.array(getattr(self, name), dtype=np.int64)
            own.setflags(write=False)
            object.__setattr__(self, name, own)
        for wrong, wanted in (
            (self.start < 0, "start at 0 or later"),
            (self.end <= self.start, "end after it starts"),
        ):
            if not wrong.any():
                continue
            places = zip(self.spelling[wrong], self.start[wrong], self.end[wrong], strict=True)
            labels = [f"{chromosome}:{start}-{end}" for chromosome, start, end in places]
            msg = (
                f"Expected every region to {wanted}; found {len(labels):,} of {len(self):,} that "
                f"{'does' if len(labels) == 1 else 'do'} not ({listing(labels)}). Correct or drop them."
            )
            raise InputError(msg)

    @classmethod
    def of(cls, chromosomes: np.ndarray, start: np.ndarray, end: np.ndarray) -> Regions:
        """From the chromosome, start and end of each region."""
        spellings, code = np.unique(np.asarray(chromosomes, dtype=str), return_inverse=True)
        return cls(code, tuple(spellings.tolist()), start, end)

    def __len__(self) -> int:
        return len(self.code)

    def __getitem__(self, rows: np.ndarray | slice) -> Regions:
        return Regions(self.code[rows], self.spellings, self.start[rows], self.end[rows])

    @property
    def spelling(self) -> np.ndarray:
        """Chromosome of each region as the user writes it."""
        return np.asarray(self.spellings, dtype=object)[self.code]

    @property
    def chromosome(self) -> np.ndarray:
        """Chromosome of each region in the form in which chromosomes are compared."""
        return np.asarray([normal_chromosome(name) for name in self.spellings], dtype=object)[self.code]

    @property
    def centre(self) -> Float[np.ndarray, " g"]:
        """Middle of each region in base pairs."""
        return (self.start + self.end) / 2

    def on(self, chromosome: str) -> Bool[np.ndarray, " g"]:
        """Which regions lie on a chromosome, however it is written."""
        wanted = normal_chromosome(chromosome)
        same = [normal_chromosome(name) == wanted for name in self.spellings]
        return np.asarray(same, dtype=bool)[self.code]


def normal_chromosome(name: str) -> str:
    """The form in which chromosomes are compared: without ``chr``, the mitochondrial one ``MT``.

    Examples
    --------
    >>> [normal_chromosome(name) for name in ("chr1", "1", "chrM", "MT", "GL000194.1", "CHR_HG2002_PATCH")]
    ['1', '1', 'MT', 'MT', 'GL000194.1', 'CHR_HG2002_PATCH']
    """
    short = re.sub(r"^chr(?=[^_])", "", name.strip(), flags=re.IGNORECASE)
    return "MT" if short.upper() in {"M", "MT"} else short


def parse_regions(names: Iterable[object]) -> Regions:
    """Regions from the names of peaks.

    A name is chromosome, start and end, such as ``chr1:1000-1500``, ``chr1-1000-1500``,
    ``chr1_1000_1500``, ``chr1.1000.1500`` or ``1:1,000-1,500``; a strand after it (``:+``) and the name
    of a modality before it (``atac:``) are left out.

    Parameters
    ----------
    names
        One name a region.

    Returns
    -------
    As many regions, in the same order.

    Raises
    ------
    InputError
        When a name is not a region, or a region starts before 0 or does not end after it starts.

    Examples
    --------
    >>> peaks = parse_regions(["chr1:1,000-1,500", "GL000194.1-100-200"])
    >>> peaks.chromosome.tolist(), peaks.start.tolist(), peaks.end.tolist()
    (['1', 'GL000194.1'], [1000, 100], [1500, 200])
    """
    plain = text(names)
    found = PossibleRegions.of_names(plain)
    others = plain[~found.known]
    if len(others):
        msg = (
            "Expected the name of every peak to be a region such as 'chr1:1000-1500'; found "
            f"{len(others):,} of {len(plain):,} that {'is' if len(others) == 1 else 'are'} not "
            f"({listing(others)}). Rename or drop them, or keep chromosome, start and end as columns of the "
            "feature table."
        )
        raise InputError(msg)
    return found.regions()


def regions_of(table: Table) -> Regions | None:
    """Regions of features: from columns of their table that hold them all, otherwise from their names.

    Parameters
    ----------
    table
        Features. Read are a column ``interval`` (``chr1:1000-1500``), or a chromosome (``chrom``, ``chr``,
        ``chromosome``, ``seqnames``) with its start (``start``, ``chromStart``, ``chr_start``) and end
        (``end``, ``chromEnd``, ``stop``, ``chr_end``), in upper or lower case, positions as written.

    Returns
    -------
    As many regions, in the same order; None when neither columns nor names have any. Names alone count
    when all are regions or some lie on a standard chromosome: the gene IGHV3-33-2 is no region.

    Raises
    ------
    InputError
        When some features have a region and others have not, or a region starts before 0 or does not end
        after it starts.

    Examples
    --------
    >>> from chreode.io.source import Table
    >>> columns = {name: np.asarray([value]) for name, value in (("Chr", "2"), ("start", 10), ("stop", 60))}
    >>> regions_of(Table.of_columns(np.asarray(["peak1"]), columns)).centre.tolist()
    [35.0]
    >>> regions_of(Table(np.asarray(["CD19", "MS4A1"]))) is None
    True
    """
    partly: dict[str, np.ndarray] = {}
    for where, found in _readings(table):
        if found.known.all():
            return found.regions()
        chromosomes = set(found.chromosome[found.known])
        if any(STANDARD_CHROMOSOME.fullmatch(normal_chromosome(name)) for name in chromosomes):
            partly[where] = found.known
    if not partly:
        return None
    where, known = max(partly.items(), key=lambda item: item[1].sum())
    msg = (
        f"Expected all {len(table):,} features to have a region, or none; found one in the {where} of "
        f"{int(known.sum()):,} and none for {int((~known).sum()):,} ({listing(table.names[~known])}). Drop "
        "these, or keep peaks and genes apart as two modalities."
    )
    raise InputError(msg)


class PossibleRegions(NamedTuple):
    """Chromosome, start and end as far as they could be read: empty or NaN where not."""

    chromosome: np.ndarray
    start: np.ndarray
    end: np.ndarray

    @classmethod
    def of_names(cls, names: Iterable[str]) -> PossibleRegions:
        """From names such as ``chr1:1000-1500``."""
        found = (REGION.fullmatch(name) for name in names)
        groups = [("", "", "") if one is None else one.groups() for one in found]
        chromosome, start, end = zip(*groups, strict=True) if groups else ((), (), ())
        return cls(np.asarray(chromosome, dtype=object), _numbers(start), _numbers(end))

    @classmethod
    def of_columns(cls, chromosome: Any, start: Any, end: Any) -> PossibleRegions:
        """From columns of text or numbers, as they are in a file or table."""
        return cls(text_or_empty(chromosome), _positions(start), _positions(end))

    @property
    def known(self) -> np.ndarray:
        """Which of them could be read."""
        return (self.chromosome != "") & np.isfinite(self.start) & np.isfinite(self.end)

    def regions(self, *, counted_from: int = 0) -> Regions:
        """As regions, when all are known; counted from 1, the end is part of each."""
        start, end = self.start.astype(np.int64), self.end.astype(np.int64)
        return Regions.of(self.chromosome, start - counted_from, end)


def known_column(columns: Iterable[str], known: Iterable[str]) -> str | None:
    """The column that bears the first of the known names, in upper or lower case.

    Examples
    --------
    >>> known_column(["Stop", "Start"], ("start", "chromstart"))
    'Start'
    """
    folded = {name.casefold(): name for name in reversed(tuple(columns))}
    return next((folded[name] for name in known if name in folded), None)


def text_or_empty(values: Any) -> np.ndarray:
    """A column as text, empty where there is no value.

    Examples
    --------
    >>> text_or_empty([" chr1", "NA", None]).tolist()
    ['chr1', '', '']
    """
    import pandas as pd

    column: Any = pd.Series(values)
    if column.dtype.kind == "f" and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")  # chromosomes 1, 2, ... beside a missing one
    words = (word.strip() for word in text(column.astype(object).where(column.notna(), "")))
    return np.asarray(["" if word in NO_VALUE else word for word in words], dtype=object)


def _readings(table: Table) -> Iterator[tuple[str, PossibleRegions]]:
    """What the columns of a table, then its names, say of regions, and where they say it."""
    interval = known_column(table.columns, ("interval",))
    if interval is not None:
        yield f"column {interval!r}", PossibleRegions.of_names(text_or_empty(table.column(interval)))
    three = [known_column(table.columns, known) for known in REGION_COLUMNS.values()]
    columns = [table.column(name) for name in three if name is not None]
    if len(columns) == len(three):
        yield f"columns {listing(three)}", PossibleRegions.of_columns(*columns)
    yield "names", PossibleRegions.of_names(table.names)


def _positions(values: Any) -> np.ndarray:
    import pandas as pd

    column: Any = pd.Series(values)
    if column.dtype.kind in "iuf":
        return _whole(column.to_numpy(dtype=np.float64, na_value=np.nan))
    return _numbers(text_or_empty(column))


def _numbers(words: Iterable[str]) -> np.ndarray:
    import pandas as pd

    plain = np.asarray([word.replace(",", "") for word in words], dtype=object)
    return _whole(np.asarray(pd.to_numeric(plain, errors="coerce"), dtype=np.float64))


def _whole(numbers: np.ndarray) -> np.ndarray:
    """NaN in place of what is no position, or none that a float holds exactly."""
    return np.where((np.abs(numbers) < 2**53) & (np.floor(numbers) == numbers), numbers, np.nan)
