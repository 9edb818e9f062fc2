"""Gene sets, from GMT files or as they are given."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from chreode.errors import InputError
from chreode.words import listing

__all__ = ["gene_sets", "read_gmt"]


def gene_sets(source: Any) -> Mapping[str, tuple[str, ...]]:
    """The genes of each set, of a GMT file or of a mapping.

    Parameters
    ----------
    source
        A path (see `read_gmt`), or a mapping from a set's name to its genes.

    Returns
    -------
    A mapping that cannot be changed, sets and genes in their order; a gene counts once in a set.

    Raises
    ------
    InputError
        When it is neither, holds no set, or a set holds no gene.

    Examples
    --------
    >>> dict(gene_sets({"response": ["ISG15", "IFIT1", "ISG15"]}))
    {'response': ('ISG15', 'IFIT1')}
    """
    if isinstance(source, (str, Path)):
        return read_gmt(source)
    if not isinstance(source, Mapping):
        msg = f"Expected gene sets; found {type(source).__name__}. Give the path of a GMT file, or a mapping"
        raise InputError(msg + ' such as {"response": ["ISG15", "IFIT1"]}.')
    try:
        listed = {
            str(name): [genes] if isinstance(genes, str) else list(genes) for name, genes in source.items()
        }
    except TypeError:
        msg = "Expected the genes of each set as a list; found something else. Give names of genes, such as"
        raise InputError(msg + ' {"response": ["ISG15", "IFIT1"]}.') from None
    return _checked({name: [str(gene) for gene in genes] for name, genes in listed.items()}, "the mapping")


def read_gmt(path: str | Path) -> Mapping[str, tuple[str, ...]]:
    """Read the gene sets of a GMT file, plain or gzipped.

    Each line has a set's name, a description, which is not kept, and its genes, separated by tabs, as
    MSigDB, Reactome and Enrichr give them. The text is UTF-8.

    Parameters
    ----------
    path
        Of the file.

    Returns
    -------
    A mapping that cannot be changed from names to genes, sets and genes in their order; a gene counts once
    in a set.

    Raises
    ------
    InputError
        When there is no such file, it is not text of this form, a set holds no gene, or two sets have one
        name.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "sets.gmt")
    ...     written = path.write_text("response\\thttps://example.org\\tISG15\\tIFIT1\\n")
    ...     dict(read_gmt(path))
    {'response': ('ISG15', 'IFIT1')}
    """
    path = Path(path).expanduser()
    if not path.is_file():
        msg = f"Expected gene sets in a file; found no file {str(path)!r}. Give the path of a GMT file."
        raise InputError(msg)
    found: dict[str, list[str]] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        name, *rest = (field.strip() for field in line.split("\t"))
        if not rest or not name:
            msg = (
                "Expected a name, a description and genes, separated by tabs, in each line; found line "
                f"{number} of {path.name} without. Give a GMT file."
            )
            raise InputError(msg)
        if name in found:
            msg = f"Expected sets of different names in {path.name}; found {name!r} twice (line {number})."
            raise InputError(msg + " Rename one of them, or join the two.")
        found[name] = rest[1:]
    return _checked(found, path.name)


def _text(path: Path) -> str:
    packed = path.read_bytes()
    try:
        if packed.startswith(b"\x1f\x8b"):
            packed = gzip.decompress(packed)
    except (EOFError, OSError, zlib.error):
        msg = f"Expected a whole gzipped file; found {path.name} cut short or damaged. Get it again."
        raise InputError(msg) from None
    try:
        text = packed.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"Expected text in UTF-8 in {path.name}; found byte {error.start} to be something else."
        raise InputError(msg + " Save it as UTF-8, or give another file.") from None
    if "\0" in text:
        msg = f"Expected text in {path.name}; found a binary file. Give a GMT file."
        raise InputError(msg)
    return text


def _checked(sets: Mapping[str, list[str]], where: str) -> Mapping[str, tuple[str, ...]]:
    if not sets:
        msg = f"Expected gene sets; found none in {where}. Give another."
        raise InputError(msg)
    found = {name: tuple(dict.fromkeys(gene for gene in genes if gene)) for name, genes in sets.items()}
    empty = [name for name, genes in found.items() if not genes]
    if empty:
        msg = f"Expected genes in each set; found none in {listing(empty, limit=3)} of {where}."
        raise InputError(msg + " Leave such sets out.")
    return MappingProxyType(found)
