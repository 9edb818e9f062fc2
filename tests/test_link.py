"""The command that tells which peaks go with a gene: what Python says, written, drawn and told."""

from __future__ import annotations

import shutil
from pathlib import Path

import matplotlib.image
import mudata
import numpy as np
import pandas as pd
import pytest

import chreode as ch
from chreode.io.genes import read_genes
from chreode.io.simulate_multiome import Multiome, simulate_multiome
from commandline import QUICK, chreode, contents, small

FIT = (
    "--recipe",
    "multidgd",
    "--label",
    "component",
    "--set",
    "dim=4",
    "--set",
    "components=2",
    "--epochs",
    "3",
    "--seed",
    "2",
)
FEW = ("--null", "30")
WINDOW = ("--genes", "genes.bed", "--window", "400000")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A file of two modalities, where its genes start, and a finished run on it."""
    folder = tmp_path_factory.mktemp("finished")
    world = Multiome(dim=3, depth=300, atac_depth=30, gene_share=0.2, peak_share=0.2)
    paired = simulate_multiome(200, 60, 90, components=2, batches=2, world=world, seed=3)
    with mudata.set_options(pull_on_update=False):
        paired.write(folder / "cells.h5mu")
    rows = paired["rna"].var.reset_index(names="name")[["chromosome", "start", "end", "name"]]
    rows = rows.assign(score=0, strand=paired["rna"].var["strand"].to_numpy())
    rows.to_csv(folder / "genes.bed", sep="\t", header=False, index=False)
    done = chreode("fit", folder / "cells.h5mu", *FIT, "--no-report", "--out", folder / "run")
    assert done.code == 0, done.err
    return folder


@pytest.fixture(autouse=True)
def run(folder, tmp_path, monkeypatch) -> Path:
    """A copy of the run, in a folder of one's own with the annotation."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(folder / "genes.bed", "genes.bed")
    return Path(shutil.copytree(folder / "run", "run"))


def typed(*arguments: object) -> str:
    done = chreode("link", *arguments)
    assert (done.code, done.err) == (0, "")
    return " ".join(done.out.split())


def table(path: str) -> pd.DataFrame:
    return pd.read_csv(path, index_col=0)


@pytest.fixture(scope="module")
def model(folder) -> ch.FittedModel:
    """The same fit in Python, which still has the counts."""
    recipe = ch.recipes.multidgd(dim=4, components=2)
    cells = ch.read(folder / "cells.h5mu", label="component")
    return ch.fit(cells, recipe, epochs=3, seed=2, progress=False)


def same(written: pd.DataFrame, links: pd.DataFrame) -> None:
    assert written.columns.tolist() == links.columns.tolist()
    pd.testing.assert_frame_equal(written.loc[links.index], links, rtol=1e-4, atol=1e-9, check_names=False)


def test_the_table_is_what_python_says_after_the_fit(model):
    said = typed("run", "gene7", *FEW)
    links = ch.linkage(model, "gene7", null=30)
    same(table("run/links/gene7.csv"), links)
    assert f"gene7 silenced in {links.attrs['cells']} cells that express it" in said
    assert not Path("run/links/gene7.png").exists()
    assert "No figure along the genome: add --genes FILE" in said


def test_options_are_those_of_python(model):
    options = ("--direction", "activate", "--step", "sign", "--seed", "5", *FEW)
    said = typed("run", "gene7", "gene9", *options, *WINDOW, "--out", "tables/both.csv")
    asked = {"direction": "activate", "step": "sign", "seed": 5, "null": 30, "window": 400_000}
    links = ch.linkage(model, ["gene7", "gene9"], genes=read_genes("genes.bed"), **asked)
    same(table("tables/both.csv"), links)
    assert f"gene7 and gene9 activated in {links.attrs['cells']} cells" in said
    assert f"of {len(links)} features of atac within 400,000 bp" in said
    typed("run", "gene7", *FEW, "--modality", "rna", "--fraction", "0.3", "--out", "genes.csv")
    same(table("genes.csv"), ch.linkage(model, "gene7", null=30, modality="rna", fraction=0.3))


def test_cells_of_a_level_are_moved(model):
    level = model.embedded.level_names("component")[0]
    said = typed("run", "gene7", *FEW, "--cells", f"component={level}")
    mask = model.embedded.level_names("component") == level
    same(table("run/links/gene7.csv"), ch.linkage(model, "gene7", null=30, cells=mask))
    assert f"gene7 silenced in {mask.sum()} cells of component={level}:" in said


def test_a_figure_is_drawn_where_distances_are_known():
    said = typed("run", "gene7", *FEW, *WINDOW)
    assert "with a figure in gene7.png" in said
    assert matplotlib.image.imread("run/links/gene7.png").std() > 0.01
    first = Path("run/links/gene7.png").read_bytes()
    typed("run", "gene7", *FEW, "--genes", "genes.bed", "--overwrite")
    assert Path("run/links/gene7.png").read_bytes() != first
    typed("run", "gene7", *FEW, "--overwrite")
    assert sorted(path.name for path in Path("run/links").iterdir()) == ["gene7.csv"]


def test_a_window_without_features_is_told():
    text = Path("genes.bed").read_text().replace("chr", "chr9")
    Path("far.bed").write_text(text)
    said = typed("run", "gene7", *FEW, "--genes", "far.bed", "--window", "1000")
    assert "0 of 0 features" in said
    assert "no feature of atac lies in the window" in said
    assert table("run/links/gene7.csv").empty
    said = typed("run", "gene7", *FEW, "--genes", "far.bed", "--overwrite")
    assert "none lies on the gene's chromosome" in said


def crafted(*_: object, **__: object) -> pd.DataFrame:
    """Twelve links, three of which pass, the third exactly."""
    q_value = np.asarray([1e-4, 0.02, 0.1, *np.linspace(0.11, 1, 9)])
    columns = {"effect": -1e-3, "relative": -0.25, "standard_error": 1e-4, "p_value": q_value / 10}
    names = pd.Index([f"chr1:{j}000-{j}500" for j in range(12)], name="atac")
    links = pd.DataFrame({**columns, "q_value": q_value, "distance": np.nan}, index=names)
    links.attrs = {"gene": "gene7", "direction": "silence", "cells": 1}
    return links


def test_the_strongest_are_told_and_what_they_mean(monkeypatch):
    monkeypatch.setattr("chreode.linking.linkage", crafted)
    said = typed("run", "gene7")
    assert "gene7 silenced in 1 cell that" in said
    assert "3 of 12 features of atac significant at a false discovery rate of 0.1" in said
    assert all(f"chr1:{j}000-{j}500" in said for j in range(10))
    assert "chr1:10000-10500" not in said
    assert "-25.0%" in said
    assert "share a programme with gene7 cannot be told from its direct targets" in said


def test_counts_are_found_or_asked_for(folder):
    facts = Path("run/chreode.json")
    facts.write_text(facts.read_text().replace("cells.h5mu", "gone.h5mu"))
    typed("run", "gene7", *FEW, "--out", "copy.csv")
    Path("run/cells.h5mu").unlink()
    done = chreode("link", "run", "gene7", *FEW)
    assert done.code == 2
    assert "--data FILE" in done.err
    typed("run", "gene7", *FEW, "--data", folder / "cells.h5mu", "--out", "given.csv")
    pd.testing.assert_frame_equal(table("given.csv"), table("copy.csv"))


def test_a_model_alone_moves_the_cells_of_which_it_expects_most(folder):
    said = typed("run/model", "gene7", *FEW, "--out", "alone.csv")
    assert "gene7 silenced in 100 cells in which the model expects most of it" in said
    same(table("alone.csv"), ch.linkage(ch.load("run/model"), "gene7", null=30))
    typed("run/model", "gene7", *FEW, "--data", folder / "cells.h5mu", "--out", "counted.csv")
    typed("run", "gene7", *FEW, "--out", "run.csv")
    pd.testing.assert_frame_equal(table("counted.csv"), table("run.csv"))


def test_names_that_are_no_file_names_are_written():
    peak = ch.load("run").layout.modalities["atac"].names[0]
    typed("run", peak, "--modality", "rna", *FEW)
    assert Path(f"run/links/{peak.replace(':', '_')}.csv").exists()


# ---- what is refused, before anything is done


def test_without_atac_the_only_other_modality_answers(folder):
    with mudata.set_options(pull_on_update=False):
        paired = mudata.read_h5mu(folder / "cells.h5mu")
        mudata.MuData({"peaks": paired["atac"], "rna": paired["rna"]}).write("peaks.h5mu")
    fit = ("fit", "peaks.h5mu", "--recipe", "multidgd", "--epochs", "1", "--no-report", "--out", "other")
    assert chreode(*fit).code == 0
    said = typed("other", "gene7", *FEW)
    assert "of 90 features of peaks" in said
    assert len(table("other/links/gene7.csv")) == 90
    done = chreode("link", "other", "nothing", *FEW)
    assert done.code == 2
    assert "Add --modality rna" in done.err


def one_modality() -> None:
    small().write_h5ad("rna.h5ad")
    assert chreode("fit", "rna.h5ad", *QUICK, "--no-report", "--out", "alone").code == 0


def without_cells() -> None:
    ch.load("run").save("bare", cells=False)


def fewer_cells() -> None:
    with mudata.set_options(pull_on_update=False):
        mudata.read_h5mu("run/cells.h5mu")[:150].copy().write("fewer.h5mu")


def a_table_there() -> None:
    Path("mine.csv").write_text("mine")


def a_figure_there() -> None:
    Path("drawn.png").write_text("mine")


def nothing() -> None:
    pass


REFUSED = {
    "unknown gene": (nothing, ["run", "Gene7"], ["found 'Gene7'", "mean 'gene7'"]),
    "no gene": (nothing, ["run"], ["GENE", "chreode link --help"]),
    "no folder": (nothing, ["nowhere", "gene7"], ["found nothing", "chreode fit FILE --out DIR"]),
    "no fit": (nothing, [".", "gene7"], ["no chreode.json", "chreode fit FILE --out DIR"]),
    "one modality": (one_modality, ["alone", "GENE7"], ["--modality", "(rna)", "'atac'", "multidgd"]),
    "unknown modality": (nothing, ["run", "gene7", "--modality", "adt"], ["(rna, atac)", "'adt'"]),
    "no such direction": (nothing, ["run", "gene7", "--direction", "up"], ["'silence'", "'up'"]),
    "no such step": (nothing, ["run", "gene7", "--step", "adam"], ["'gradient'", "'adam'"]),
    "fraction": (nothing, ["run", "gene7", "--fraction", "0"], ["positive fraction"]),
    "seed": (nothing, ["run", "gene7", "--seed", "-1"], ["--seed from 0"]),
    "null": (nothing, ["run", "gene7", "--null", "60"], ["59 other genes for null=60"]),
    "window alone": (nothing, ["run", "gene7", "--window", "1e5"], ["--genes with --window 100000"]),
    "window": (nothing, ["run", "gene7", "--genes", "genes.bed", "--window", "0"], ["--window", "above 0"]),
    "no annotation": (nothing, ["run", "gene7", "--genes", "none.gtf"], ["GTF", "none.gtf"]),
    "no regions": (nothing, ["run", "gene7", "--modality", "rna", *WINDOW], ["whose names are no regions"]),
    "not annotated": (
        lambda: Path("other.bed").write_text("chr1\t100\t900\tA\t0\t+\n"),
        ["run", "gene7", "--genes", "other.bed"],
        ["'gene7' in the table of genes"],
    ),
    "no column": (
        nothing,
        ["run", "gene7", "--cells", "donor=1"],
        ["COLUMN=LEVEL", "('component')", "'donor=1'"],
    ),
    "no level": (nothing, ["run", "gene7", "--cells", "label=9"], ["--cells label=", "found '9'"]),
    "no cells": (without_cells, ["bare", "gene7", "--out", "a.csv"], ["saved with its cells"]),
    "other cells": (fewer_cells, ["run", "gene7", "--data", "fewer.h5mu"], ["200 cells", "150 other cells"]),
    "suffix": (nothing, ["run", "gene7", "--out", "a.tsv"], ["a .csv file", "a.csv"]),
    "table there": (a_table_there, ["run", "gene7", "--out", "mine.csv"], ["mine.csv", "--overwrite"]),
    "figure there": (a_figure_there, ["run", "gene7", "--out", "drawn.csv"], ["drawn.png", "--overwrite"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_linked_is_refused(what, tmp_path):
    prepare, arguments, words = REFUSED[what]
    prepare()
    few = () if "--null" in arguments else FEW
    before = contents(tmp_path)
    done = chreode("link", *arguments, *few)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert all(word in done.err for word in words), done.err
    assert contents(tmp_path) == before


def test_a_failure_while_drawing_leaves_what_was_there(monkeypatch, tmp_path):
    def broken(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    typed("run", "gene7", *FEW, *WINDOW)
    before = contents(tmp_path)
    monkeypatch.setattr("chreode.linking.linkage_figure", broken)
    done = chreode("link", "run", "gene7", *FEW, "--genes", "genes.bed", "--overwrite")
    assert done.code == 2
    assert "room on the disk" in done.err
    assert contents(tmp_path) == before
