"""The command line does what it says: a run's folder, resuming, replacing, and what uses a finished run."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.io
from safetensors.torch import load_file

import chreode as ch
from chreode.nonfinite import NonFinite
from commandline import QUICK, chreode, contents, small

READING = ("--label", "type", "--batch", "donor", "--covariate", "age")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def typed(*arguments: object) -> str:
    """Type a command that works; returns what it printed."""
    done = chreode(*arguments)
    assert done.code == 0, done.err
    assert done.err == ""
    return done.out


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a data file and a finished run on it."""
    folder = tmp_path_factory.mktemp("finished")
    small().write_h5ad(folder / "cells.h5ad")
    typed("fit", folder / "cells.h5ad", *QUICK, *READING, "--seed", "3", "--out", folder / "run")
    return folder


@pytest.fixture
def run(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder / "run", tmp_path / "run"))


def bits(run: Path) -> dict[str, bytes]:
    files = [load_file(run / "model" / name) for name in ("model.safetensors", "cells.safetensors")]
    return {f"{i}/{k}": v.numpy().tobytes() for i, file in enumerate(files) for k, v in file.items()}


# ---- what a fit leaves


def test_a_run_holds_what_was_promised(folder):
    found = {p.name for p in (folder / "run").iterdir()}
    assert found == {"model", "cells.h5ad", "report.html", "history.csv", "scores.json", "chreode.json"}
    assert json.loads((folder / "run/chreode.json").read_text())["finished"] is True


def test_the_model_is_that_of_the_same_call_in_python(folder):
    cells = ch.read(folder / "cells.h5ad", label="type", batch="donor", covariates="age")
    recipe = ch.recipes.scdgd(components=3, dim=2, hidden=(8,))
    model = ch.fit(cells, recipe, epochs=4, seed=3, progress=False)
    loaded = ch.load(folder / "run/model")
    np.testing.assert_array_equal(loaded.embedded.embedding, model.embedded.embedding)
    assert loaded.recipe == model.recipe


def test_cells_are_the_input_with_codes(folder):
    before, after = ad.read_h5ad(folder / "cells.h5ad"), ad.read_h5ad(folder / "run/cells.h5ad")
    assert (before.X != after.X).nnz == 0
    pd.testing.assert_frame_equal(before.obs, after.obs[before.obs.columns])
    pd.testing.assert_frame_equal(before.var, after.var)
    embedded = ch.load(folder / "run/model").embedded
    np.testing.assert_array_equal(after.obsm["X_scdgd"], embedded.embedding)
    assert after.obs["scdgd_component"].astype(int).tolist() == embedded.components().tolist()
    assert json.loads(after.uns["chreode"])["recipe"] == "scdgd"


def test_history_has_a_row_an_epoch(folder):
    history = pd.read_csv(folder / "run/history.csv")
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert {"seconds", "loss", "reconstruction", "validation"} <= set(history.columns)


def test_scores_are_honest(folder):
    scores = json.loads((folder / "run/scores.json").read_text())
    held = scores["held_out"]
    assert held["cells"] == 12
    assert held["gain"] == pytest.approx(held["mean_profile"] - held["nats_per_molecule"])
    assert held["label_gain"] == pytest.approx(held["label_profile"] - held["nats_per_molecule"])
    assert 0.6 < held["coverage_90"] <= 1
    assert {"component_ari", "neighbour_accuracy", "batch_mixing"} <= set(scores["embedding"])
    assert scores["fit"]["components placed"] == 3
    assert scores["fit"]["seed"] == 3
    assert "decided when to stop" in scores["note"]


def test_the_report_says_what_was_typed(folder):
    page = (folder / "run/report.html").read_text(encoding="utf-8")
    assert "--label type --batch donor --covariate age --seed 3" in page


def test_no_report_and_no_validation():
    small().write_h5ad("cells.h5ad")
    out = typed("fit", "cells.h5ad", *QUICK, "--no-report", "--validation", "0", "--out", "run")
    assert "report.html" not in out
    assert not Path("run/report.html").exists()
    assert "held_out" not in json.loads(Path("run/scores.json").read_text())


@pytest.mark.parametrize("kind", ["10x", "zarr"])
def test_other_kinds_of_input(kind):
    adata = small(60)
    if kind == "zarr":
        adata.write_zarr("data")
    else:
        Path("data").mkdir()
        scipy.io.mmwrite("data/matrix.mtx", adata.X.T.astype(int))
        Path("data/genes.tsv").write_text("".join(f"ENSG{j}\t{n}\n" for j, n in enumerate(adata.var_names)))
        Path("data/barcodes.tsv").write_text("\n".join(adata.obs_names))
    typed("fit", "data", *QUICK, "--features", "30", "--no-report", "--out", "run")
    written = ad.read_h5ad("run/cells.h5ad")
    assert written.shape == (60, 40)
    assert (written.X != adata.X).nnz == 0
    assert written.obs_names.tolist() == adata.obs_names.tolist()
    assert "X_scdgd" in written.obsm


def test_values_that_are_not_counts():
    adata = small()
    adata.X = np.log1p(adata.X.toarray())
    adata.write_h5ad("cells.h5ad")
    quick = [part for part in QUICK if part not in ("components=3",)]
    del quick[quick.index("--set")]
    typed("fit", "cells.h5ad", *quick, "--values", "continuous", "--recipe", "dgd", "--out", "run")
    scores = json.loads(Path("run/scores.json").read_text())
    assert np.isfinite(scores["held_out"]["nats_per_value"])


def test_a_recipe_without_components():
    small().write_h5ad("cells.h5ad")
    options = ("--recipe", "autodecoder", "--set", "dim=2", "--set", "hidden=[8]", "--epochs", "2")
    assert "no components" in typed("fit", "cells.h5ad", *options, "--out", "run")
    assert "has no components" in typed("export", "run", "--csv")
    assert sorted(p.name for p in Path("run/csv").iterdir()) == ["codes.csv"]
    done = chreode("sample", "run", "--component", "0", "--out", "drawn.h5ad")
    assert done.code == 2
    assert "Leave --component out" in done.err
    assert "Expected a prior to draw codes from" in chreode("sample", "run", "--out", "drawn.h5ad").err
    assert not Path("drawn.h5ad").exists()


# ---- a folder that is there


def test_a_finished_run_is_replaced_only_when_told(run, folder):
    typed_before = (
        "fit",
        folder / "cells.h5ad",
        *QUICK,
        *READING,
        "--seed",
        "4",
        "--no-report",
        "--out",
        run,
    )
    before = contents(run)
    done = chreode(*typed_before)
    assert done.code == 2
    assert "--overwrite" in done.err
    assert contents(run) == before
    old = bits(run)
    typed(*typed_before, "--overwrite")
    assert bits(run) != old
    assert not (run / "report.html").exists()


def test_a_refused_overwrite_leaves_the_run_as_it_was(run, folder):
    before, said = contents(run), (run / "chreode.json").read_text()
    for options in (("--set", "components=999"), ("--counts", "nothing"), ("--set", "supervised=true")):
        done = chreode("fit", folder / "cells.h5ad", *QUICK, *options, "--out", run, "--overwrite")
        assert done.code == 2
        now = contents(run)
        assert {k: v for k, v in now.items() if k != "chreode.json"} == {
            k: v for k, v in before.items() if k != "chreode.json"
        }
        assert (run / "chreode.json").read_text() == said


LONG = (
    "--set",
    "components=3",
    "--set",
    "dim=2",
    "--set",
    "hidden=[8]",
    "--epochs",
    "500",
    "--validation",
    "0",
)
# Whoever runs the tests in the background may have made all of them deaf to interrupts.
MAIN = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
MAIN += "from chreode.cli import main; sys.exit(main())"


def interrupted(how: signal.Signals, *arguments: object) -> tuple[int, str]:
    """Type a command in another process, and send it a signal after its next checkpoint."""
    checkpoint = Path("run/checkpoint/checkpoint.safetensors")
    first = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    command = [sys.executable, "-c", MAIN, *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        until = time.monotonic() + 120
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == first:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < until, "no checkpoint was written"
            time.sleep(0.005)
        process.send_signal(how)
        said = process.communicate()[1]
    return process.returncode, said


@pytest.mark.skipif(sys.platform == "win32", reason="signals are of POSIX")
def test_interrupted_and_killed_it_resumes_to_the_same_bits():
    small().write_h5ad("cells.h5ad")
    call = ("fit", "cells.h5ad", *LONG, "--no-report")
    code, said = interrupted(signal.SIGINT, *call, "--out", "run")
    assert (code, said) == (130, "Interrupted; the same command goes on from there.\n")
    code, _ = interrupted(signal.SIGKILL, *call, "--out", "run")
    assert code == -signal.SIGKILL

    # Unfinished: nothing uses it, and only the same call resumes it.
    assert "interrupted" in chreode("export", "run", "--csv").err
    before = contents(Path("run"))
    done = chreode(*call, "--seed", "5", "--out", "run")
    assert done.code == 2
    assert "seed was 0 and is 5" in done.err
    assert "--overwrite" in done.err
    assert contents(Path("run")) == before

    assert "Resuming" in typed(*call, "--out", "run")
    typed(*call, "--out", "whole")
    assert bits(Path("run")) == bits(Path("whole"))
    assert not Path("run/checkpoint").exists()


def stop_with(error: BaseException, *, after_checkpoint: bool):
    """A fit that trains a little, perhaps, and then fails."""

    def fit(*_: object, checkpoint: Path, **__: object) -> None:
        if after_checkpoint:
            checkpoint.mkdir(parents=True)
            (checkpoint / "checkpoint.safetensors").write_bytes(b"some training")
        raise error

    return fit


FAILURES = {
    "not finite": (NonFinite("Expected a finite loss; found nan."), True, 2, "finite loss", False),
    "interrupted early": (KeyboardInterrupt(), False, 130, "nothing had been trained yet", False),
    "interrupted": (KeyboardInterrupt(), True, 130, "goes on from there", True),
    "memory": (MemoryError("4 GB"), True, 2, "Expected enough memory", True),
    "memory of the device": (RuntimeError("CUDA out of memory. Tried 4 GB"), True, 2, "enough memory", True),
    "disk": (OSError(28, "No space left on device"), True, 2, "room on the disk", True),
    "disk, by HDF5": (OSError("Can't write (errno = 28, error message = 'No space')"), True, 2, "disk", True),
    "permission": (PermissionError(13, "Permission denied", "a"), False, 2, "allowed", False),
}


@pytest.mark.parametrize("what", FAILURES)
def test_what_fails_while_fitting_is_told(what, monkeypatch):
    error, after_checkpoint, code, words, kept = FAILURES[what]
    monkeypatch.setattr("chreode.fitting.fit_cells", stop_with(error, after_checkpoint=after_checkpoint))
    small().write_h5ad("cells.h5ad")
    done = chreode("fit", "cells.h5ad", *QUICK, "--out", "run")
    assert done.code == code
    assert words in done.err
    assert done.err.count("\n") == 1
    assert Path("run").exists() == kept


def test_a_bug_shows_its_traceback(monkeypatch):
    monkeypatch.setattr("chreode.fitting.fit_cells", stop_with(ZeroDivisionError(), after_checkpoint=False))
    small().write_h5ad("cells.h5ad")
    with pytest.raises(ZeroDivisionError):
        chreode("fit", "cells.h5ad", *QUICK, "--out", "run")
    assert not Path("run").exists()


def test_overwrite_begins_an_unfinished_run_anew(run, folder):
    facts = json.loads((run / "chreode.json").read_text())
    (run / "chreode.json").write_text(json.dumps(facts | {"finished": False}))
    (run / "checkpoint").mkdir()
    (run / "checkpoint/checkpoint.safetensors").write_bytes(b"cannot be read")
    call = ("fit", folder / "cells.h5ad", *QUICK, *READING, "--seed", "3", "--out", run)
    assert "cannot be read" in chreode(*call).err
    old = bits(run)
    typed(*call, "--overwrite")
    assert bits(run) == old


# ---- what uses a finished run


def test_project_writes_a_copy_with_codes(run):
    new = small(30, seed=5)[:, ::-1].copy()
    new.layers["spliced"] = new.X.copy()
    new.X = new.X.log1p()
    new.write_h5ad("new.h5ad")
    out = typed("project", run, "new.h5ad", "--counts", "spliced", "--out", "codes.h5ad")
    assert "30 cells" in out
    written = ad.read_h5ad("codes.h5ad")
    assert (written.X != new.X).nnz == 0
    embedded = ch.load(run / "model").project(
        ch.read("new.h5ad", like=ch.load(run / "model"), counts="spliced")
    )
    np.testing.assert_array_equal(written.obsm["X_scdgd"], embedded.embedding)
    assert not written.obs["scdgd_trained"].any()
    assert chreode("project", run, "new.h5ad", "--counts", "spliced", "--out", "codes.h5ad").code == 2
    typed(
        "project",
        run,
        "new.h5ad",
        "--counts",
        "spliced",
        "--refine",
        "0",
        "--out",
        "codes.h5ad",
        "--overwrite",
    )
    assert (ad.read_h5ad("codes.h5ad").obsm["X_scdgd"] != embedded.embedding).any()


def test_a_saved_model_alone_can_project(run):
    small(10, seed=5).write_h5ad("new.h5ad")
    typed("project", run / "model", "new.h5ad", "--out", "codes.h5ad")
    assert ad.read_h5ad("codes.h5ad").obsm["X_scdgd"].shape == (10, 2)


def test_load_takes_the_folder_of_a_run(run):
    np.testing.assert_array_equal(ch.load(run).embedded.embedding, ch.load(run / "model").embedded.embedding)


def test_sample_draws_what_was_asked(run):
    typed("sample", run, "-n", "17", "--component", "1", "--seed", "2", "--out", "a.h5ad")
    typed("sample", run, "-n", "17", "--component", "1", "--seed", "2", "--out", "b.h5ad")
    typed("sample", run, "-n", "17", "--component", "1", "--seed", "3", "--out", "c.h5ad")
    a, b, c = (ad.read_h5ad(f"{name}.h5ad") for name in "abc")
    assert a.shape == (17, 40)
    assert set(a.obs["component"]) == {"1"}
    assert (a.X != b.X).nnz == 0
    assert (a.X != c.X).nnz > 0


def test_export_is_what_the_model_says(run):
    typed("export", run, "--csv", "--out", "tables")
    embedded = ch.load(run / "model").embedded
    codes, components, probabilities = (
        pd.read_csv(f"tables/{name}.csv", index_col="cell")
        for name in ("codes", "components", "probabilities")
    )
    assert codes.index.tolist() == embedded.names.tolist()
    np.testing.assert_allclose(codes, embedded.embedding, rtol=1e-6)
    np.testing.assert_allclose(probabilities, embedded.probabilities(), atol=1e-6)
    assert components["component"].tolist() == embedded.components().tolist()
    assert components["trained"].tolist() == embedded.trained.tolist()
    typed("export", run, "--csv", "--out", "tables", "--overwrite")


def test_the_report_can_be_made_again(run, folder):
    page = (run / "report.html").read_text(encoding="utf-8")
    (run / "report.html").unlink()
    typed("report", run)
    assert (run / "report.html").read_text(encoding="utf-8") == page


def test_the_report_can_be_made_when_the_file_has_gone(tmp_path):
    small().write_h5ad("cells.h5ad")
    typed("fit", "cells.h5ad", *QUICK, "--no-report", "--out", "run")
    Path("cells.h5ad").rename("moved.h5ad")
    typed("report", "run")
    Path("run/report.html").unlink()
    Path("run/cells.h5ad").unlink()
    done = chreode("report", "run")
    assert done.code == 2
    assert "--data" in done.err
    typed("report", "run", "--data", "moved.h5ad")
    assert Path("run/report.html").exists()


# ---- the rest


def test_recipes_are_listed_with_citations():
    out = typed("recipes")
    for name in ("scdgd", "dgd", "autodecoder"):
        assert re.search(rf"│ {name} ", out)
    assert "Schuster" in out
    assert "10.1093/bioinformatics/" in out
    assert "components" in typed("recipes", "scdgd")


@pytest.mark.parametrize("recipe", ["scdgd", "dgd"])
def test_arguments_are_listed_with_their_meanings(recipe, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    out = typed("recipes", recipe)
    assert re.search(r"│ dim +│ 20 +│ Dimensions of a code\. ", out)
    assert re.search(r"│ components +│ chosen by the data +│ How many; ", out)
    assert re.search(r'│ prior_weight .*\(cells\) once a cell .* with learn="gradient"', out)
    assert "As of" not in out


def test_an_argument_without_a_default_is_listed_as_required(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert re.search(
        r"│ background +│ none: required +│ The level without", typed("recipes", "contrastivevi")
    )
    small().write_h5ad("cells.h5ad")
    done = chreode("fit", "cells.h5ad", "--recipe", "contrastivevi", "--out", "run")
    assert done.code == 2
    assert "--set background=ctrl" in done.err


def test_warnings_of_chreode_alone_are_told_in_a_paragraph(monkeypatch):
    adata = small()
    adata.obs["site"] = [f"{kind}, {i % 2}" for i, kind in enumerate(adata.obs["type"])]
    adata.write_h5ad("cells.h5ad")
    # Compiled code has no line of its own: its warnings are put down to the line of chreode that calls it.
    compiled = staticmethod(partial(warnings.warn, "of compiled code", UserWarning))
    monkeypatch.setattr("chreode.fitting.Run.finish", compiled)
    options = ("--recipe", "patches", "--set", "dim=2", "--set", "hidden=[8]", "--epochs", "1", "--no-report")
    done = chreode("fit", "cells.h5ad", *options, "--covariate", "type", "--batch", "site", "--out", "run")
    assert done.code == 0
    assert re.fullmatch(r"Warning: No cells of 'type' [^\n]* share a level of 'site' [^\n]*\n", done.err)


def test_one_of_a_thing_is_told_in_the_singular():
    small().write_h5ad("cells.h5ad")
    one = ("--set", "components=1", "--set", "dim=2", "--set", "hidden=[8]", "--epochs", "1")
    assert "Fitted scdgd: 1 component, 1 epoch." in typed(
        "fit", "cells.h5ad", *one, "--no-report", "--out", "run"
    )
    assert "Wrote 1 cell drawn" in typed("sample", "run", "-n", "1", "--out", "drawn.h5ad")


def test_version():
    assert typed("--version") == f"chreode {ch.__version__}\n"


def test_nothing_typed_shows_the_help():
    assert typed() == typed("--help")
    assert "project" in typed("-h")


def test_demo_prints_scores_against_labels(monkeypatch):
    few = ch.datasets.pbmc68k()[:28, :120].copy()  # so few need no UMAP
    monkeypatch.setattr("chreode.io.datasets.pbmc68k", lambda: few.copy())
    for _ in range(2):
        out = typed("demo", "--out", "demo")
        assert "against labels (ARI)" in out
        assert "CD19+ B" in out
        assert str(Path("demo/report.html").absolute()) in out.replace("\n", "")
    typed("report", "demo")
    small().write_h5ad("cells.h5ad")
    typed("fit", "cells.h5ad", *QUICK, "--no-report", "--out", "run")
    assert "--overwrite" in chreode("demo", "--out", "run").err
