"""Peaks by name and by column."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from chreode.errors import InputError
from chreode.io.regions import Regions, normal_chromosome, parse_regions, regions_of
from chreode.io.source import Table

SPELLINGS = {
    "chr1:1000-1500": ("chr1", 1000, 1500),
    "chr1-1000-1500": ("chr1", 1000, 1500),
    "chr1_1000_1500": ("chr1", 1000, 1500),
    "chr1.1000.1500": ("chr1", 1000, 1500),
    "chr1_1000-1500": ("chr1", 1000, 1500),
    "chr1:1000..1500": ("chr1", 1000, 1500),
    "1:1000-1500": ("1", 1000, 1500),
    "1-1000-1500": ("1", 1000, 1500),
    "chr1:1,000-1,500": ("chr1", 1000, 1500),
    "chr1-1e+05-100500": ("chr1", 100_000, 100_500),
    "chr1-1.2e+07-12000500": ("chr1", 12_000_000, 12_000_500),
    "chr1:1000-1500:+": ("chr1", 1000, 1500),
    "  chr1:1000-1500\n": ("chr1", 1000, 1500),
    "chrX:5-10": ("chrX", 5, 10),
    "chr2L_5_10": ("chr2L", 5, 10),
    "GL000194.1:100-200": ("GL000194.1", 100, 200),
    "GL000194.1-100-200": ("GL000194.1", 100, 200),
    "GL000194.1_100_200": ("GL000194.1", 100, 200),
    "GL000194.1.100.200": ("GL000194.1", 100, 200),
    "chrUn_KI270711v1_100_600": ("chrUn_KI270711v1", 100, 600),
    "chr1_KI270706v1_random-100-600": ("chr1_KI270706v1_random", 100, 600),
    "scaffold_12_100_200": ("scaffold_12", 100, 200),
    "hs37d5-0-200": ("hs37d5", 0, 200),
    "GRCh38_chr1:1000-1500": ("GRCh38_chr1", 1000, 1500),
    "atac:1-9963-10665": ("1", 9963, 10665),
    "ATAC peaks:chr1:1000-1500": ("chr1", 1000, 1500),
    "chromatin:chr1-1000-1500": ("chr1", 1000, 1500),
}

NOT_REGIONS = [
    "CD19", "HLA-A", "RP11-34P13.7", "ENSG00000210082.2", "chr1", "chr1:1000", "chr1:1000-", ":1000-1500",
    "GL000194.1:100", "KI270711.1_100", "chr1:100-200-300", "X:100-200-300", "chr1:1.5-3", "chr1:1.5e+00-3",
    "chr1:" + "9" * 30 + "-5", "chr 1:10-20", "", "nan", "chr1:१-२",
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), SPELLINGS.items(), ids=repr)
def test_every_spelling(name, expected):
    found = parse_regions([name])
    assert (found.spelling[0], found.start[0], found.end[0]) == expected


def test_many_names_keep_their_order():
    found = parse_regions(pd.Index(SPELLINGS))
    rows = zip(found.spelling, found.start.tolist(), found.end.tolist(), strict=True)
    assert list(rows) == list(SPELLINGS.values())
    assert set(found.chromosome) == {normal_chromosome(name) for name, *_ in SPELLINGS.values()}


@pytest.mark.parametrize("name", NOT_REGIONS, ids=repr)
def test_what_is_no_region(name):
    with pytest.raises(InputError, match=r"Expected .*; found 1 of 2 that is not .*\. Rename"):
        parse_regions(["chr1:5-10", name])


def test_the_first_few_that_are_no_regions_are_named():
    names = ["chr1:5-10", *(f"gene{i}" for i in range(1500))]
    with pytest.raises(InputError, match=r"found 1,500 of 1,501 that are not \('gene0', .* and 1,492 more\)"):
        parse_regions(names)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chr1:10-5", "end after it starts; found 1 of 2 that does not ('chr1:10-5')"),
        ("chr1_10_10", "end after it starts; found 1 of 2 that does not ('chr1:10-10')"),
        ("chr1:-5-10", "start at 0 or later; found 1 of 2 that does not ('chr1:-5-10')"),
        ("chr1--5-10", "start at 0 or later; found 1 of 2 that does not ('chr1:-5-10')"),
        ("chr1_-5_10", "start at 0 or later; found 1 of 2 that does not ('chr1:-5-10')"),
    ],
)
def test_impossible_regions(name, expected):
    with pytest.raises(InputError) as error:
        parse_regions(["chr2:5-10", name])
    assert expected in str(error.value)


def test_200_000_names_take_little_time():
    names = np.asarray([f"chr{i % 22 + 1}:{50 * i:,}-{50 * i + 400:,}" for i in range(200_000)], dtype=object)
    start = time.process_time()
    found = parse_regions(names)
    assert time.process_time() - start < 8
    np.testing.assert_array_equal(found.start, 50 * np.arange(200_000))


@pytest.mark.parametrize("name", ["1-" * 20_000, "-5" * 20_000, "1" * 40_000, "chr1:" * 5_000, "a" * 40_000])
def test_long_nonsense_takes_little_time(name):
    start = time.process_time()
    with pytest.raises(InputError):
        parse_regions([name])
    assert time.process_time() - start < 2


def test_regions_do_not_change():
    start = np.asarray([5, 10])
    found = Regions.of(np.asarray(["chr1", "chr2"], dtype=object), start, np.asarray([8, 12]))
    start[0] = 7
    assert found.start.tolist() == [5, 10]
    with pytest.raises(ValueError, match="read-only"):
        found.start[0] = 7
    with pytest.raises(AttributeError):
        found.start = start


def test_regions_are_chosen_by_array():
    found = parse_regions(["chr1:5-10", "chrM:10-20", "2:0-1"])
    assert len(found) == 3
    assert found.start.dtype == found.end.dtype == np.int64
    assert found[np.asarray([2, 0])].chromosome.tolist() == ["2", "1"]
    assert found[found.on("MT")].spelling.tolist() == ["chrM"]
    assert found[1:].centre.tolist() == [15.0, 0.5]
    assert found.on("chr2").tolist() == [False, False, True]
    assert len(found[found.on("chr9")]) == 0
    assert len(parse_regions([])) == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [("chrM", "MT"), ("M", "MT"), ("mt", "MT"), ("Chr3", "3"), (" CHRX ", "X"), ("CHR_HG7", "CHR_HG7")],
)
def test_normal_chromosome(name, expected):
    assert normal_chromosome(name) == expected


COLUMNS = {
    "muon": {"interval": ["chr1:1000-1500", "chrX:5-10"]},
    "BED": {"chrom": ["chr1", "chrX"], "chromStart": [1000, 5], "chromEnd": [1500, 10]},
    "GRanges": {
        "seqnames": pd.Categorical(["chr1", "chrX"]), "start": [1000, 5], "end": [1500, 10],
        "width": [501, 6], "strand": ["*", "*"],
    },
    "upper case": {"Chromosome": ["chr1", "chrX"], "Start": [1000.0, 5.0], "End": [1500.0, 10.0]},
    "text": {"chr": ["chr1", "chrX"], "chr_start": ["1,000", "5"], "chr_end": ["1500", "10"]},
    "stop": {"CHR": ["chr1", "chrX"], "start": [1000, 5], "stop": [1500, 10]},
    "nullable": {"chr": ["chr1", "chrX"], "start": pd.array([1000, 5], "Int64"), "stop": [1500, 10]},
}  # fmt: skip


def table(names, **columns) -> Table:
    return Table.of(pd.DataFrame(columns, index=names))


@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("names", [["peak1", "peak2"], ["chr7:1-2", "chr8:1-2"]])
def test_columns_win_over_names(columns, names):
    found = regions_of(table(names, **columns))
    assert found.spelling.tolist() == ["chr1", "chrX"]
    assert (found.start.tolist(), found.end.tolist()) == ([1000, 5], [1500, 10])


def test_a_chromosome_can_be_a_number():
    found = regions_of(table(["a", "b"], chrom=[1.0, 2.0], start=[1, 2], end=[3, 4]))
    assert found.chromosome.tolist() == ["1", "2"]


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"interval": ["chr1:1000-1500", None]},
        {"interval": ["chr1:1000-1500", "NA"]},
        {"chrom": ["chr1", "chrX"], "start": [1000, 5]},
        {"chrom": ["chr1", "chrX"], "start": [1000, np.nan], "end": [1500, 10]},
        {"chrom": ["chr1", "chrX"], "start": pd.array([1000, None], "Int64"), "end": [1500, 10]},
        {"chrom": ["chr1", ""], "start": [1000, 5], "end": [1500, 10]},
        {"chrom": ["chr1", "chrX"], "start": [1000, np.inf], "end": [1500, 10]},
        {"chrom": ["chr1", "chrX"], "start": [1000, 5.5], "end": [1500, 10]},
        {"genome": ["GRCh38", "GRCh38"]},
    ],
    ids=repr,
)
def test_names_where_columns_are_incomplete(columns):
    assert regions_of(table(["chr7:1-2", "chr8:1-2"], **columns)).spelling.tolist() == ["chr7", "chr8"]
    if len(columns) == 3 or "interval" in columns:
        with pytest.raises(InputError, match=r"columns? .* of 1 and none for 1 \('peak2'\)"):
            regions_of(table(["peak1", "peak2"], **columns))


def test_features_without_regions():
    assert regions_of(table(["CD19", "MS4A1"])) is None
    assert regions_of(table(["CD19", "MS4A1"], start=[1, 2], end=[2, 3])) is None
    # symbols of immunoglobulin genes have the form of a region
    assert regions_of(table(["CD19", "IGHV3-33-2", "Ighv2-6-8", "Igkv4-57-1"])) is None


def test_some_regions_are_refused():
    with pytest.raises(InputError, match=r"names of 1 and none for 2 \('CD19', 'IGHV3'\)\. Drop"):
        regions_of(table(["chr1:5-10", "CD19", "IGHV3"]))


def test_real_peaks(shared):
    import h5py
    from anndata.io import read_elem

    path = shared / "a549_scicar_dex.h5mu"
    if not path.is_file():
        pytest.skip("a549_scicar_dex.h5mu is not among the shared data")
    with h5py.File(path, "r") as file:
        frame = read_elem(file["mod/atac/var"])
        rna = read_elem(file["mod/rna/var"])
    peaks = regions_of(Table.of(frame))
    assert len(peaks) == len(frame) == 52_761
    assert {"1", "22", "X", "Y", "GL000191.1", "hs37d5"} <= set(peaks.spellings)
    assert regions_of(Table.of(rna)) is None
