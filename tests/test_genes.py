"""Genes from files, and how far regions lie from where their transcription starts."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest

from chreode.errors import InputError
from chreode.io.genes import distance_to_start, read_genes
from chreode.io.regions import Regions, parse_regions, regions_of
from chreode.io.source import Table

ENSEMBL = """ensgene,entrez,symbol,chr,start,end,strand,biotype,description
E1,1,PLUS,1,101,900,1,protein_coding,"one, two"
E2,2,MINUS,X,101,900,-1,protein_coding,
E3,3,TWICE,HSCHR6_MHC_COX,11,20,1,protein_coding,
E4,4,TWICE,6,51,60,1,protein_coding,
E5,5,TWICE,7,71,80,1,protein_coding,
E6,6,,MT,1,2,1,rRNA,
E7,7,PATCH,HG7_PATCH,1,2,1,protein_coding,
"""
GTF = "".join(
    f"{chromosome}\thavana\t{kind}\t{start}\t{end}\t.\t{strand}\t.\t{said}\n"
    for chromosome, kind, start, end, strand, said in [
        ("chr1", "gene", 101, 900, "+", 'gene_id "E1"; gene_version "5"; gene_name "PLUS"; tag "basic";'),
        ("chr1", "transcript", 101, 900, "+", 'gene_id "E1"; transcript_id "T1"; gene_name "PLUS";'),
        ("chrX", "gene", 101, 900, "-", 'gene_name "MINUS"; gene_id "E2"'),
        ("HSCHR6_MHC_COX", "gene", 11, 20, "+", 'gene_id "E3"; gene_name "TWICE";'),
        ("chr6", "gene", 51, 60, "+", 'gene_id "E4"; gene_name "TWICE";'),
        ("chr7", "gene", 71, 80, "+", 'gene_id "E5"; gene_name "TWICE";'),
        ("chrM", "gene", 1, 2, "+", 'gene_id "E6"; gene_biotype "rRNA";'),
        ("HG7_PATCH", "gene", 1, 2, "+", 'gene_id "E7"; gene_name "PATCH";'),
    ]
)
BED = "".join(
    f"{chromosome}\t{start}\t{end}\t{symbol}\t0\t{strand}\n"
    for chromosome, start, end, symbol, strand in [
        ("chr1", 100, 900, "PLUS", "+"),
        ("chrX", 100, 900, "MINUS", "-"),
        ("HSCHR6_MHC_COX", 10, 20, "TWICE", "+"),
        ("chr6", 50, 60, "TWICE", "+"),
        ("chr7", 70, 80, "TWICE", "+"),
        ("chrM", 0, 2, "E6", "+"),
        ("HG7_PATCH", 0, 2, "PATCH", "+"),
    ]
)
FILES = {
    "genes.csv": ENSEMBL,
    "tabs.txt": ENSEMBL.replace("one, two", "one").replace(",", "\t"),
    "windows.csv": ENSEMBL.replace("\n", "\r\n"),
    "genes.gtf": "#!genome-build GRCh38\n" + GTF + "###\n",
    "windows.gtf": GTF.replace("\n", "\r\n"),
    "genes.bed": "# made by hand\ntrack name=genes\n" + BED,
    "spaces.bed": BED.replace("\t", " "),
    "biomart.txt": ENSEMBL.replace("one, two", "one")
    .replace(
        "ensgene,entrez,symbol,chr,start,end,strand",
        "Gene stable ID,NCBI,Gene name,Chromosome/scaffold name,Gene start (bp),Gene end (bp),Strand",
    )
    .replace(",", "\t"),
}


def written(path, content, *, zipped=False):
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if zipped else data)
    return path


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "zipped"])
@pytest.mark.parametrize("name", FILES)
def test_every_file_tells_the_same(tmp_path, name, zipped):
    genes = read_genes(written(tmp_path / (name + ".gz" * zipped), FILES[name], zipped=zipped))
    expected = pd.DataFrame(
        {
            "chromosome": ["1", "X", "6", "MT", "HG7_PATCH"],
            "start": [100, 100, 50, 0, 0],
            "end": [900, 900, 60, 2, 2],
            "strand": [1, -1, 1, 1, 1],
            "tss": [100, 899, 50, 0, 0],
            "id": ["E1", "E2", "E4", "E6", "E7"],
        },
        index=pd.Index(["PLUS", "MINUS", "TWICE", "E6", "PATCH"], name="symbol", dtype=object),
    )
    expected = expected.drop(columns="id") if name.endswith(".bed") else expected
    pd.testing.assert_frame_equal(genes, expected)
    assert genes.attrs == {"duplicates": 2, "incomplete": 0}
    assert genes["start"].dtype == genes["tss"].dtype == np.int64


def test_genes_without_strand_or_name_are_left_out(tmp_path):
    text = BED + "chr1\t5\t9\tNOSTRAND\t0\t.\nchr1\t5\t9\t.\t0\t+\n"
    genes = read_genes(written(tmp_path / "genes.bed", text))
    assert "NOSTRAND" not in genes.index
    assert genes.attrs == {"duplicates": 2, "incomplete": 2}


def test_a_gene_on_patches_only_keeps_the_first(tmp_path):
    text = "HG7\t5\t9\tA\t0\t+\nHG8\t6\t9\tA\t0\t+\n"
    assert read_genes(written(tmp_path / "genes.bed", text))["start"].tolist() == [5]


NO_GENE = GTF.replace("\tgene\t", "\texon\t")
GFF = "chr1\thavana\tgene\t101\t900\t.\t+\t.\tID=gene:E1;Name=PLUS;gene_id=E1\n"
BAD = {
    "empty": ("", "found no lines"),
    "only comments": ("# nothing\n\n", "found no lines"),
    "another kind": ("hello\nworld\n", "found one that begins with 'hello'"),
    "not text": (b"\x89HDF\r\n\x1a\n\xff\xfe", "found none that can be read"),
    "cut short": (gzip.compress(GTF.encode())[:-20], "found none that can be read"),
    "damaged": (gzip.compress(GTF.encode())[:15] + b"\x00" * 40, "found none that can be read"),
    "a column less": ("symbol,chr,start,end\nA,1,5,9\n", "Expected columns for 'strand' in"),
    "header alone": ("symbol,chr,start,end,strand\n", "Expected genes with a name and a strand"),
    "short line": (ENSEMBL + "E8,8,SHORT,1\n", "found fewer in 1 line ('E8 8 SHORT 1')"),
    "words": (ENSEMBL + "E8,8,A,1,five,9,1,x,\n", "found 1 gene without ('1 five 9 1 A E8')"),
    "backwards": (ENSEMBL + "E8,8,A,1,90,9,1,x,\n", "Expected every region to end after it starts"),
    "from 0": (ENSEMBL + "E8,8,A,1,0,9,1,x,\n", "Expected every region to start at 0 or later"),
    "three columns": ("chr1\t5\t9\n", "Expected 6 columns in every line of"),
    "no strand": ("chr1\t5\t9\tA\t0\t.\n", "Expected genes with a name and a strand"),
    "no genes": (NO_GENE, "in GTF, genes have lines of kind 'gene'"),
    "GFF3": (GFF, "in GTF, genes have lines of kind 'gene' with gene_id"),
    "short GTF line": (GTF + "chr1\thavana\tgene\t5\n", "Expected 9 columns in every line of"),
}


@pytest.mark.parametrize(("content", "expected"), BAD.values(), ids=BAD)
def test_bad_files(tmp_path, content, expected):
    with pytest.raises(InputError) as error:
        read_genes(written(tmp_path / "genes", content))
    message = str(error.value)
    assert message.startswith("Expected ")
    assert "; found " in message
    assert expected in message


@pytest.mark.parametrize("name", ["absent.gtf", ".", "no/folder.gtf"])
def test_no_file(tmp_path, name):
    with pytest.raises(InputError, match="found none that can be read"):
        read_genes(str(tmp_path / name))


def nearest_base(start: int, end: int, gene: pd.Series) -> int:
    """The distance by its definition: over all bases of the region."""
    return min((gene["strand"] * (base - gene["tss"]) for base in range(start, end)), key=abs)


@pytest.mark.parametrize("symbol", ["PLUS", "MINUS"])
def test_distances_by_their_definition(tmp_path, symbol):
    gene = read_genes(written(tmp_path / "genes.bed", BED)).loc[symbol]
    draws = np.random.default_rng(0)
    start = draws.integers(0, 1100, 300)
    end = start + draws.integers(1, 60, 300)
    chromosome = np.full(300, f"chr{gene['chromosome']}", dtype=object)
    found = distance_to_start(Regions.of(chromosome, start, end), gene)
    assert found.dtype == np.float64
    assert found.tolist() == [nearest_base(a, b, gene) for a, b in zip(start, end, strict=True)]


@pytest.mark.parametrize("strand", [1, -1, "+", "-"])
def test_upstream_is_negative(strand):
    sign = 1 if strand in (1, "+") else -1
    gene = pd.Series({"chromosome": "chrM", "tss": 1000, "strand": strand})
    peaks = parse_regions(["MT:800-900", "M:990-1000", "chrMT:1000-1001", "chrM:1001-1100", "chr1:990-1010"])
    found = distance_to_start(peaks, gene)
    assert found[:4].tolist() == [-101 * sign, -sign, 0, sign]
    assert np.isnan(found[4])


@pytest.mark.parametrize("wrong", [{"strand": 0}, {"strand": "."}, {"start_site": 5}])
def test_a_gene_must_have_a_start_and_strand(wrong):
    gene = pd.Series({"chromosome": "1", "tss": 1000, "strand": 1} | wrong)
    gene = gene.drop("tss") if "start_site" in wrong else gene
    with pytest.raises(InputError, match=r"Expected a gene with chromosome, tss and strand .* Give a row"):
        distance_to_start(parse_regions(["chr1:5-10"]), gene)


def resource(shared, name):
    path = shared / name
    if not path.is_file():
        pytest.skip(f"{name} is not among the shared data")
    return path


@pytest.mark.parametrize(
    ("assembly", "symbol", "expected"),
    [
        ("grch37", "TP53", ("17", 7565096, 7590856, -1, 7590855, "ENSG00000141510")),
        ("grch38", "TP53", ("17", 7661778, 7687538, -1, 7687537, "ENSG00000141510")),
        ("grcm38", "Gata1", ("X", 7825498, 7844310, -1, 7844309, "ENSMUSG00000031162")),
    ],
)
def test_ensembl_tables(shared, assembly, symbol, expected):
    genes = read_genes(resource(shared, f"resources/{assembly}_genes.csv.gz"))
    assert tuple(genes.loc[symbol]) == expected
    assert genes.index.is_unique
    assert len(genes) > 50_000
    assert genes.attrs["duplicates"] > 0
    # no symbol makes a table of genes one of regions
    assert regions_of(Table.of(genes[["id"]])) is None


def test_real_promoters_are_open(shared):
    import h5py
    from anndata.io import read_elem

    genes = read_genes(resource(shared, "resources/grch37_genes.csv.gz"))
    with h5py.File(resource(shared, "a549_scicar_dex.h5mu"), "r") as file:
        peaks = regions_of(Table.of(read_elem(file["mod/atac/var"])))
        names = read_elem(file["mod/rna/var"]).index
    known = [name for name in names if name in genes.index]
    at_start = [(distance_to_start(peaks, genes.loc[name]) == 0).any() for name in known[:200]]
    assert np.mean(at_start) > 0.5  # open promoters: chance gives about 1 %
