"""Bad input, as files on disk through the command line: a paragraph, exit code 2, and nothing left behind."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from commandline import QUICK, chreode, contents, normalised, small

OUT = ("--out", "run")
ABSENT = "cuda" if sys.platform == "darwin" else "mps"


def saved(adata: ad.AnnData, name: str = "bad.h5ad") -> str:
    adata.write_h5ad(name)
    return name


def with_value(value: float) -> ad.AnnData:
    adata = small()
    adata.X[3, 5] = value
    return adata


def changed(**obs: object) -> ad.AnnData:
    adata = small()
    for name, values in obs.items():
        adata.obs[name] = values
    return adata


# ---- files that are not what they should be; each returns what is typed after `chreode fit`


def no_such_file():
    saved(small(), "pbmc.h5ad")
    return ["pmbc.h5ad"]


def no_such_folder():
    return ["nowhere/pbmc.h5ad"]


def empty_file():
    Path("bad.h5ad").touch()
    return ["bad.h5ad"]


def text_file():
    Path("bad.h5ad").write_text("cell,GENE0\ncell0,1\n")
    return ["bad.h5ad"]


def truncated_file():
    whole = Path(saved(small())).read_bytes()
    Path("bad.h5ad").write_bytes(whole[: len(whole) // 2])
    return ["bad.h5ad"]


def other_hdf5():
    with h5py.File("bad.h5", "w") as file:
        file["weights"] = np.zeros(3)
    return ["bad.h5"]


def mudata_file():
    with h5py.File("bad.h5mu", "w") as file:
        file.create_group("mod/rna")
    return ["bad.h5mu"]


def incomplete_10x():
    with h5py.File("bad.h5", "w") as file:
        file["matrix/barcodes"] = np.array([b"A", b"C"])
    return ["bad.h5"]


def empty_folder():
    Path("bad").mkdir()
    return ["bad"]


def tenx(cells: int = 30, genes: int = 20, barcodes: int = 30) -> Path:
    folder = Path("tenx")
    folder.mkdir()
    scipy.io.mmwrite(folder / "matrix.mtx", sp.csc_matrix(small(cells, genes=genes).X.T.astype(int)))
    (folder / "barcodes.tsv").write_text("".join(f"AC{i}-1\n" for i in range(barcodes)))
    with gzip.open(folder / "features.tsv.gz", "wt") as file:
        file.writelines(f"ENSG{j:011d}\tGENE{j}\tGene Expression\n" for j in range(genes))
    return folder


def tenx_without_barcodes():
    (tenx() / "barcodes.tsv").unlink()
    return ["tenx"]


def tenx_of_two_runs():
    tenx(barcodes=31)
    return ["tenx"]


def tenx_truncated():
    matrix = tenx() / "matrix.mtx"
    matrix.write_text(matrix.read_text()[:300])
    return ["tenx"]


def damaged_zarr():
    small().write_zarr("bad.zarr")
    shutil.rmtree("bad.zarr/obs")
    return ["bad.zarr"]


def contradictory_shapes():
    saved(small())
    with h5py.File("bad.h5ad", "r+") as file:
        file["X"].attrs["shape"] = (119, 40)
        file["X/indptr"][-1] = 0
    return ["bad.h5ad"]


def duplicated_cells():
    adata = small()
    adata.obs_names = ["twin", "twin", *adata.obs_names[2:]]
    return [saved(adata)]


def duplicated_genes():
    adata = small()
    adata.var_names = ["ACTB", "ACTB", *adata.var_names[2:]]
    return [saved(adata)]


def layer_of_counts():
    adata = normalised(small())
    adata.layers["raw_counts"] = small().X
    return [saved(adata)]


def scaled():
    adata = normalised(small())
    adata.X = adata.X.toarray() - adata.X.toarray().mean(0)
    return [saved(adata)]


def dense_text():
    saved(small())
    with h5py.File("bad.h5ad", "r+") as file:
        del file["X"]
        file["X"] = np.full((120, 40), b"many")
    return ["bad.h5ad"]


def missing_batches():
    donor = small().obs["donor"].astype(object)
    donor.iloc[:7] = None
    return [saved(changed(donor=donor)), "--batch", "donor"]


def infinite_covariate():
    return [saved(changed(age=np.where(np.arange(120) == 4, np.inf, 30.0))), "--covariate", "age"]


def many_batches():
    adata = changed(n_counts_all=np.arange(120) % 60)
    return [saved(adata), "--batch", "n_counts_all"]


def nothing_marked():
    adata = small()
    adata.var["chosen"] = False
    return [saved(adata), "--features", "chosen"]


def of_file(*options: str, adata: ad.AnnData | None = None):
    """What is wrong is in the options, or in an AnnData."""
    return lambda: [saved(small() if adata is None else adata), *options]


# What is typed, and words of what was expected, what was found and the remedy.
FITS = {
    "no such file": (no_such_file, ["no file of this name", "Did you mean 'pbmc.h5ad'"]),
    "no such folder": (no_such_folder, ["no folder nowhere"]),
    "empty file": (empty_file, ["an empty file"]),
    "text file": (text_file, ["cannot be opened as HDF5", "cut off"]),
    "truncated file": (truncated_file, ["damaged or incomplete", "again"]),
    "other HDF5": (other_hdf5, ["'weights'", "write_h5ad"]),
    "bare MuData": (mudata_file, ["MuData", "no tables in 'rna'"]),
    "incomplete 10x file": (incomplete_10x, ["without 'data'", "again"]),
    "empty folder": (empty_folder, ["a folder with none"]),
    "10x without barcodes": (tenx_without_barcodes, ["barcodes.tsv", "found none"]),
    "10x of two runs": (tenx_of_two_runs, ["31 barcodes", "different runs"]),
    "10x truncated": (tenx_truncated, ["MatrixMarket", "damaged"]),
    "damaged zarr": (damaged_zarr, ["zarr", "Expected"]),
    "contradictory shapes": (contradictory_shapes, ["damaged"]),
    "no cells": (of_file(adata=small()[:0].copy()), ["0 cells x 40"]),
    "no genes": (of_file(adata=small()[:, :0].copy()), ["120 cells x 0"]),
    "one cell": (of_file("--set", "components=1", adata=small()[:1].copy()), ["two cells", "found 1"]),
    "fewer cells than components": (of_file("--set", "components=500"), ["as many components", "500"]),
    "duplicated cells": (duplicated_cells, ["'twin'", "obs_names_make_unique"]),
    "duplicated genes": (duplicated_genes, ["'ACTB'", "var_names_make_unique"]),
    "negative values": (of_file(adata=with_value(-2)), ["negative values (-2 for cell 'cell3'", "GENE5"]),
    "NaN": (of_file(adata=with_value(np.nan)), ["found NaN", "cell3"]),
    "infinite values": (of_file(adata=with_value(np.inf)), ["found infinite", "cell3"]),
    "log-normalised": (of_file(adata=normalised(small())), ["log-normalised", "--values continuous"]),
    "log-normalised, counts in a layer": (layer_of_counts, ["log-normalised", "--counts raw_counts"]),
    "scaled": (scaled, ["negative", "scaled or centred"]),
    "only zeros": (of_file(adata=ad.AnnData(sp.csr_matrix((9, 4), dtype="f4"))), ["nothing but zeros"]),
    "text for numbers": (dense_text, ["Expected numbers in X"]),
    "no such layer": (
        of_file("--counts", "cuonts"),
        ["layer 'cuonts'", "found 'X'", "leave --counts out to read X"],
    ),
    "no raw": (of_file("--counts", "raw"), ["'raw'", "found 'X'"]),
    "no such batch": (of_file("--batch", "doner"), ["column 'doner'", "Did you mean 'donor'"]),
    "no such label": (of_file("--label", "cell_type"), ["'cell_type'", "found columns 'type', 'donor'"]),
    "no such covariate": (of_file("--covariate", "sex"), ["'sex'", "'age'"]),
    "missing batches": (missing_batches, ["7 of 120 cells", "'cell0'"]),
    "a label nobody has": (
        of_file("--label", "type", adata=changed(type=np.full(120, np.nan))),
        ["found none in any cell"],
    ),
    "a batch of fractions": (of_file("--batch", "age"), ["Expected categories", "as a covariate"]),
    "a batch for every other cell": (
        many_batches,
        ["'n_counts_all'", "found 60 levels in 120 cells", "--covariate"],
    ),
    "infinite covariate": (infinite_covariate, ["finite", "1 infinite"]),
    "a column in two roles": (of_file("--batch", "donor", "--label", "donor"), ["'donor' more than once"]),
    "no such feature column": (of_file("--features", "hvg"), ["'hvg'", "found 'chosen'"]),
    "a feature column of numbers": (of_file("--features", "0"), ["at least one feature", "--features 0"]),
    "no feature marked": (nothing_marked, ["none marked"]),
    "negative features": (of_file("--features", "-3"), ["at least one feature"]),
    "unknown kind": (of_file("--values", "count"), ["counts, binary, continuous", "'count'"]),
    "counts as binary": (of_file("--values", "binary"), ["only 0 and 1"]),
    "a likelihood that does not fit": (
        of_file("--values", "continuous"),
        ["likelihood", "continuous values"],
    ),
    "supervised without label": (of_file("--set", "supervised=true"), ["label", "supervised=True"]),
    "unknown recipe": (of_file("--recipe", "scdg"), ["Did you mean 'scdgd'"]),
    "both kinds of quotes": (
        of_file("--unlabelled", "a'b\"c"),
        ["--label beside --unlabelled 'a'", "found none"],
    ),
    "recipe in capitals": (of_file("--recipe", "scDGD"), ["Did you mean 'scdgd'?"]),
    "unknown argument": (of_file("--set", "component=3"), ["Did you mean 'components'"]),
    "argument of another library": (of_file("--set", "n_hidden=128"), ["It is called 'hidden' here"]),
    "argument of reading": (of_file("--set", "batch_key=donor"), ["--batch", "batch="]),
    "argument chosen by the data": (
        of_file("--set", "components=four"),
        ["'components'", "found 'four'", "The default is chosen by the data."],
    ),
    "option given twice": (of_file("--batch", "n", "--batch", "donor"), ["--batch once", "found it 2 times"]),
    "argument without value": (of_file("--set", "components"), ["--set components=9"]),
    "argument of wrong type": (of_file("--set", "dim=wide"), ["'dim'", "found 'wide'", "default is 20"]),
    "argument out of range": (of_file("--set", "noise=-1"), ["'noise'", "greater than or equal to 0"]),
    "no epochs": (of_file("--epochs", "0"), ["--epochs of at least 1", "found 0"]),
    "epochs in words": (of_file("--epochs", "many"), ["'--epochs'", "valid integer", "--help"]),
    "negative seed": (of_file("--seed", "-1"), ["--seed from 0", "found -1"]),
    "all cells for validation": (of_file("--validation", "1"), ["--validation from 0 to below 1"]),
    "unknown device": (of_file("--device", "tpu"), ["auto, cpu, cuda, mps", "found tpu"]),
    "absent device": (of_file("--device", ABSENT), [f"Expected a {ABSENT} device", "found none"]),
    "unknown option": (of_file("--epoch", "3"), ["--epoch", "fit --help"]),
    "two files": (of_file("more.h5ad"), ["more.h5ad", "fit --help"]),
}


def refused(done, words):
    """One paragraph on standard error, exit code 2, no traceback; all the words are in it."""
    assert done.code == 2, done
    assert re.fullmatch(r"Error: [^\n]+\n", done.err), done.err
    assert "Traceback" not in done.err + done.out
    for word in words:
        assert word in done.err, f"{word!r} is not in {done.err}"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", FITS)
def test_bad_input_to_fit_is_refused(what, tmp_path):
    make, words = FITS[what]
    typed = make()
    before = contents(tmp_path)
    quick = QUICK[:-2] if "--epochs" in typed else QUICK  # which an option given twice would be
    refused(chreode("fit", *quick, *typed, *OUT), words)
    assert contents(tmp_path) == before


def test_there_are_more_than_thirty_kinds():
    assert len(FITS) > 30


# ---- places to write to


def test_a_file_is_no_folder(tmp_path):
    Path("run").write_text("mine")
    refused(chreode("fit", saved(small()), *OUT), ["Expected a folder", "found a file"])
    assert Path("run").read_text() == "mine"


def test_a_folder_with_other_things_is_never_touched(tmp_path):
    Path("run").mkdir()
    Path("run/thesis.tex").write_text("mine")
    saved(small())
    before = contents(tmp_path)
    refused(chreode("fit", "bad.h5ad", *OUT), ["found other things", "left as it is"])
    refused(chreode("fit", "bad.h5ad", *OUT, "--overwrite"), ["found other things"])
    refused(chreode("demo", *OUT), ["found other things"])
    assert contents(tmp_path) == before


def test_a_folder_below_a_file_cannot_be_made(tmp_path):
    saved(small())
    before = contents(tmp_path)
    refused(chreode("fit", "bad.h5ad", "--out", "bad.h5ad/run"), ["can be written to"])
    assert contents(tmp_path) == before


def test_an_empty_folder_stays_when_a_fit_is_refused(tmp_path):
    Path("run").mkdir()
    refused(chreode("fit", "nothing.h5ad", *OUT), ["no file"])
    assert contents(tmp_path) == {"run": (0, 0)}


def test_parents_that_were_made_go_too(tmp_path):
    refused(chreode("fit", "nothing.h5ad", "--out", "a/b/c"), ["no file"])
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 99, "call": {}}', '{"format": 1}'])
def test_a_damaged_mark_is_refused(text, tmp_path):
    Path("run").mkdir()
    Path("run/chreode.json").write_text(text)
    refused(chreode("fit", saved(small()), *OUT), ["run", "found"])
    assert Path("run/chreode.json").read_text() == text


def test_missing_out_is_told():
    refused(chreode("fit", "some.h5ad"), ["--out", "chreode fit --help"])


@pytest.mark.parametrize("name", ["--batch", "--label", "--counts", "--out", "--recipe", "--seed"])
def test_options_of_one_value_are_taken_once(name):
    typed = ["fit", "some.h5ad", name, "1", name, "2"]
    refused(chreode(*typed), [f"Expected {name} once; found it 2 times"])
    refused(chreode("sample", "run", "-n", "1", "--cells", "2", *OUT), ["--cells once"])


@pytest.mark.parametrize("typed", [["fti"], ["--fast"], ["fit"], ["project", "run"], ["export", "run"]])
def test_wrong_commands_are_refused(typed):
    refused(chreode(*typed), [])


# ---- commands on a finished run


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    small().write_h5ad(folder / "cells.h5ad")
    done = chreode(
        "fit", folder / "cells.h5ad", *QUICK, "--label", "type", "--no-report", "--out", folder / "run"
    )
    assert done.code == 0, done.err
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def others_genes() -> ad.AnnData:
    adata = small(20)
    adata.var_names = [f"ENSG{j:011d}" for j in range(adata.n_vars)]
    return adata


def other_species() -> ad.AnnData:
    adata = small(20)
    adata.var_names = [name.capitalize() for name in adata.var_names]
    return adata


NEW = {
    "no shared feature": (others_genes, (), ["found none of them", "Rename"]),
    "another species": (other_species, (), ["another species"]),
    "log-normalised": (lambda: normalised(small(20)), (), ["log-normalised"]),
    "negative steps": (small, ("--refine", "-1"), ["--refine of at least 0"]),
    "no such layer": (small, ("--counts", "spliced"), ["layer 'spliced'"]),
    "no such label column": (small, ("--label", "kind"), ["'kind'"]),
}


@pytest.mark.parametrize("what", NEW)
def test_bad_new_cells_are_refused(what, run, tmp_path):
    make, options, words = NEW[what]
    saved(make(), "new.h5ad")
    before = contents(tmp_path)
    refused(chreode("project", run, "new.h5ad", *options, "--out", "codes.h5ad"), words)
    assert contents(tmp_path) == before


BAD_OUT = {
    "another suffix": ("codes.csv", ["a .h5ad file", "codes.h5ad"]),
    "a file that is there": ("new.h5ad", ["found one that is there already", "--overwrite"]),
    "a folder": ("run/model.h5ad", ["found a folder"]),
    "below a file": ("new.h5ad/codes.h5ad", ["folder"]),
}


@pytest.mark.parametrize("command", ["project", "sample"])
@pytest.mark.parametrize("what", BAD_OUT)
def test_bad_places_for_cells_are_refused(what, command, run, tmp_path):
    out, words = BAD_OUT[what]
    saved(small(20), "new.h5ad")
    Path("run/model.h5ad").mkdir()
    before = contents(tmp_path)
    refused(chreode(command, run, *(["new.h5ad"] if command == "project" else []), "--out", out), words)
    assert contents(tmp_path) == before


SAMPLES = {
    "no cells": (("-n", "0"), ["-n from 1", "found 0"]),
    "no such component": (("--component", "3"), ["from 0 to 2", "found 3"]),
    "negative seed": (("--seed", "-4"), ["--seed from 0"]),
}


@pytest.mark.parametrize("what", SAMPLES)
def test_bad_samples_are_refused(what, run, tmp_path):
    options, words = SAMPLES[what]
    before = contents(tmp_path)
    refused(chreode("sample", run, *options, "--out", "drawn.h5ad"), words)
    assert contents(tmp_path) == before


def without_weights(run: Path) -> None:
    (run / "model" / "model.safetensors").unlink()


def damaged_weights(run: Path) -> None:
    weights = run / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])


def later_format(run: Path) -> None:
    facts = json.loads((run / "model" / "model.json").read_text())
    (run / "model" / "model.json").write_text(json.dumps(facts | {"format": 2}))


def unknown_recipe(run: Path) -> None:
    facts = json.loads((run / "model" / "model.json").read_text())
    facts["recipe"]["name"] = "mine"
    (run / "model" / "model.json").write_text(json.dumps(facts))


def unfinished(run: Path) -> None:
    facts = json.loads((run / "chreode.json").read_text())
    (run / "chreode.json").write_text(json.dumps(facts | {"finished": False}))


def unmarked(run: Path) -> None:
    (run / "chreode.json").unlink()


RUNS = {
    "without weights": (without_weights, ["no model.json and model.safetensors"]),
    "damaged weights": (damaged_weights, ["damaged"]),
    "later format": (later_format, ["format 1", "found 2"]),
    "unknown recipe": (unknown_recipe, ["Expected a recipe", "'mine'"]),
    "unfinished": (unfinished, ["interrupted", "chreode fit"]),
    "unmarked": (unmarked, ["no chreode.json", "chreode fit FILE --out DIR"]),
    "absent": (shutil.rmtree, ["found nothing"]),
}


@pytest.mark.parametrize("what", RUNS)
def test_bad_runs_are_refused(what, run, tmp_path):
    break_it, words = RUNS[what]
    break_it(run)
    saved(small(20), "new.h5ad")
    before = contents(tmp_path)
    for typed in (
        ["project", run, "new.h5ad", "--out", "codes.h5ad"],
        ["sample", run, "--out", "drawn.h5ad"],
        ["report", run],
        ["export", run, "--csv"],
        ["link", run, "GENE1"],
    ):
        refused(chreode(*typed), words)
    assert contents(tmp_path) == before


def test_a_report_on_other_cells_is_refused(run, tmp_path):
    saved(small(119), "fewer.h5ad")
    saved(small(120, genes=39), "narrower.h5ad")
    before = contents(tmp_path)
    refused(chreode("report", run, "--data", "fewer.h5ad"), ["119"])
    refused(chreode("report", run, "--data", "narrower.h5ad"), ["other features", "--data"])
    refused(chreode("report", run, "--data", "nothing.h5ad"), ["no file"])
    assert contents(tmp_path) == before


def test_tables_are_not_replaced_unasked(run, tmp_path):
    Path("tables").mkdir()
    Path("tables/codes.csv").write_text("mine")
    before = contents(tmp_path)
    refused(chreode("export", run, "--csv", "--out", "tables"), ["codes.csv", "--overwrite"])
    refused(chreode("export", run), ["--csv"])
    assert contents(tmp_path) == before


# ---- the machine


TYPED = "import sys; from chreode.cli import main; sys.exit(main())"


def process(*arguments: object, before: str = "") -> subprocess.CompletedProcess:
    typed = [sys.executable, "-c", f"{before}\n{TYPED}", *map(str, arguments)]
    return subprocess.run(typed, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_a_process_ends_with_one_paragraph_and_code_two(tmp_path):
    done = process("fit", saved(normalised(small())), *OUT)
    assert done.returncode == 2
    assert re.fullmatch(r"Error: [^\n]+log-normalised[^\n]+\n", done.stderr), done.stderr
    assert not Path("run").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are of POSIX")
def test_a_full_disk_is_told_in_a_paragraph(tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))"
    saved(small())
    done = process("fit", "bad.h5ad", *QUICK, "--no-report", *OUT, before=limit)
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(r"Error: Expected room on the disk[^\n]+\n", done.stderr), done.stderr
    assert not Path("run").exists()
