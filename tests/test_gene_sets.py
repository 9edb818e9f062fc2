"""Gene sets are read as they are written, or refused with a reason."""

from __future__ import annotations

import gzip

import pytest

from chreode.errors import InputError
from chreode.io.gene_sets import gene_sets, read_gmt

TEXT = "A\thttps://example.org\tISG15\tIFIT1\tISG15\t\nsome name\t\tACTB\n\n"
SETS = {"A": ("ISG15", "IFIT1"), "some name": ("ACTB",)}


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.encode("utf-8-sig"),
        gzip.compress(TEXT.encode(), mtime=0),
    ],
    ids=["plain", "windows", "marked", "gzipped"],
)
def test_a_file_is_read(tmp_path, content):
    path = tmp_path / "sets.gmt"
    path.write_bytes(content)
    assert dict(read_gmt(path)) == dict(gene_sets(str(path))) == SETS
    with pytest.raises(TypeError):
        read_gmt(path)["B"] = ("C",)  # pyright: ignore[reportIndexIssue]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "found none"),
        (b"\n\n", "found none"),
        (b"<html>sign in</html>\n", "line 1 of sets.gmt without"),
        (b"gene,set\nA,B\n", "line 1 of sets.gmt without"),
        (b"A\tno genes\n", "found none in 'A'"),
        (b"A\tx\tG1\nA\ty\tG2\n", "'A' twice \\(line 2\\)"),
        ("Gène\tx\tG1\n".encode("latin-1"), "UTF-8"),
        ("A\tx\tG1\n".encode("utf-16"), "UTF-8"),
        (b"A\tx\tG1\0\n", "binary"),
        (gzip.compress(TEXT.encode(), mtime=0)[:-12], "cut short"),
        (gzip.compress(TEXT.encode(), mtime=0)[:12] + b"????????????", "cut short"),
        # What running a file would do.
        (b"cos\nsystem\n(S'exit 1'\ntR.", "line 1 of sets.gmt without"),
    ],
)
def test_another_file_is_refused(tmp_path, content, says):
    path = tmp_path / "sets.gmt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_gmt(path)


def test_other_things_are_refused(tmp_path):
    with pytest.raises(InputError, match="found no file"):
        read_gmt(tmp_path / "nowhere.gmt")
    with pytest.raises(InputError, match="found no file"):
        read_gmt(tmp_path)
    for wrong, says in ((3, "found int"), ({}, "found none"), ({"A": []}, "'A'"), ({"A": 3}, "as a list")):
        with pytest.raises(InputError, match=says):
            gene_sets(wrong)
    assert dict(gene_sets({"A": "ISG15"})) == {"A": ("ISG15",)}


def test_published_sets(shared):
    hallmark = read_gmt(shared / "resources" / "h.all.v7.0.symbols.gmt")
    assert len(hallmark) == 50
    assert "ISG15" in hallmark["HALLMARK_INTERFERON_ALPHA_RESPONSE"]
    reactome = read_gmt(shared / "resources" / "ReactomePathways.gmt")
    assert len(reactome) > 2000
    assert all(reactome.values())
