"""Every code block of the README and the documentation runs, on a small data set, as a reader would run it.

The blocks of a page run in their order, in a folder of the page's own that holds ``pbmc.h5ad``,
``new.h5ad``, ``course.h5ad``, ``multiome.h5mu``, ``citeseq.h5mu``, ``new_donor.h5mu`` and ``genes.gtf``.
Blocks of ``python`` share their names; each line of a block of ``sh`` is a command.
What cannot run in a test says so, and why, in the line before: ``<!-- not run: it installs -->``.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(p for p in DOCS.rglob("*.md") if not {"api", "_build"} & set(p.relative_to(DOCS).parts)),
]
RUN = ("python", "sh")
SHOWN = ("text", "{eval-rst}", "{include}", "{toctree}")  # languages of blocks that nobody would run

BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n+)?```(?P<language>[^\s`]*)[^\n]*\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """A fenced block: where it is, what it is, and why it is not run, if it is not."""

    line: int
    language: str
    code: str
    reason: str | None


def blocks(text: str) -> list[Block]:
    return [
        Block(text.count("\n", 0, m.start("code")) + 1, m["language"], m["code"], m["reason"])
        for m in BLOCK.finditer(text)
    ]


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """Counts of 240 and 60 cells with 80 genes, four types, three donors; ``X`` is log-normalised."""
    import anndata as ad
    import pandas as pd

    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("small")
    profiles = rng.gamma(0.5, size=(4, 80))
    for name, n in (("pbmc", 240), ("new", 60)):
        kind = rng.integers(4, size=n)
        counts = rng.poisson(400 * profiles[kind] / profiles.sum(1)[kind, None]).astype(np.float32)
        adata = ad.AnnData(
            np.log1p(1e4 * counts / counts.sum(1, keepdims=True)),
            obs=pd.DataFrame(
                {
                    "donor": pd.Categorical([f"donor_{i}" for i in 1 + rng.integers(3, size=n)]),
                    "cell_type": pd.Categorical([f"type_{k}" for k in kind]),
                    "treatment": pd.Categorical(np.where(np.arange(n) % 2, "drug", "none")),
                },
                index=[f"{name}_{i}" for i in range(n)],
            ),
            var=pd.DataFrame(index=[f"GENE{j}" for j in range(80)]),
            layers={"counts": counts},
        )
        adata.write_h5ad(folder / f"{name}.h5ad")
        if name == "pbmc":
            course(adata, kind).write_h5ad(folder / "course.h5ad")
    multiome(adata).write(folder / "multiome.h5mu")
    multiome(adata, other=citeseq(adata)).write(folder / "citeseq.h5mu")
    adata.obs["donor"] = "donor_4"
    multiome(adata).write(folder / "new_donor.h5mu")
    starts = [
        f'chr1\ta\tgene\t{500 * j + 1}\t{500 * j + 400}\t.\t+\t.\tgene_id "GENE{j}";\n' for j in range(80)
    ]
    (folder / "genes.gtf").write_text("".join(starts))
    return folder


def course(adata, kind):
    """The same cells, measured on a day that goes with their type, with ten principal components."""
    timed = adata.copy()
    timed.obs["day"] = np.array([0.0, 1.0, 3.0, 3.0])[kind]
    u, s, _ = np.linalg.svd(adata.X - adata.X.mean(0), full_matrices=False)
    timed.obsm["X_pca"] = (u * s)[:, :10]
    return timed


def multiome(adata, *, other=None):
    """The same cells with 40 peaks beside the genes, or with another modality."""
    import anndata as ad
    import mudata

    open_ = (adata.layers["counts"][:, :40] > 2).astype(np.float32)
    atac = ad.AnnData(open_, obs=adata.obs[[]])
    atac.var_names = [f"chr1:{1000 * j}-{1000 * j + 500}" for j in range(40)]
    rna = ad.AnnData(adata.layers["counts"], obs=adata.obs, var=adata.var)
    with mudata.set_options(pull_on_update=False):
        return mudata.MuData({"rna": rna, **({"atac": atac} if other is None else {"prot": other})})


def citeseq(adata):
    """Counts of four proteins, each of which one type has."""
    import anndata as ad

    has = adata.obs["cell_type"].cat.codes.to_numpy()[:, None] == np.arange(4)
    counts = np.random.default_rng(0).negative_binomial(4, 4 / (4 + np.where(has, 60.0, 10.0)))
    proteins = ad.AnnData(counts.astype(np.float32), obs=adata.obs[[]])
    proteins.var_names = ["CD3", "CD4", "CD8", "CD19"]
    return proteins


@pytest.fixture
def beside_data(small, tmp_path, monkeypatch) -> Path:
    """A folder of one's own, with the data."""
    for file in small.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_shell(code: str) -> None:
    """Each line as a command; ``chreode`` in this process, which spares the start of Python and torch."""
    for line in filter(None, (line.split("#")[0].strip() for line in code.splitlines())):
        words = shlex.split(line)
        if words[0] == "chreode":
            from chreode.cli import main

            assert main(words[1:]) == 0, line
            continue
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert not done.returncode, f"{line}\n{done.stdout}\n{done.stderr}"


def run_python(code: str, names: dict, where: str) -> None:
    exec(compile(code, where, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_run(page, beside_data):
    names: dict = {"__name__": "__main__"}
    text = page.read_text(encoding="utf-8")
    for block in blocks(text):
        if block.reason or block.language not in RUN:
            continue
        where = f"{page.relative_to(ROOT)}:{block.line}"
        try:
            if block.language == "python":
                run_python(block.code, names, where)
            else:
                run_shell(block.code)
        except Exception as error:
            error.add_note(f"in the block at {where}")
            raise


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_run_or_says_why_not(page):
    text = page.read_text(encoding="utf-8")
    found = blocks(text)
    assert len(found) * 2 == len(re.findall(r"^\s*```", text, re.MULTILINE)), "a block that is not seen"
    unknown = {block.language for block in found} - {*RUN, *SHOWN}
    assert not unknown


def test_blocks_are_seen():
    text = "# Title\n\n```python\na = 1\n```\n\n<!-- not run: it installs -->\n```sh\npip install x\n```\n"
    first, second = blocks(text)
    assert first == Block(4, "python", "a = 1\n", None)
    assert (second.language, second.reason) == ("sh", "it installs")


def test_a_failing_command_fails():
    with pytest.raises(AssertionError, match="exit"):
        run_shell(f"{shlex.quote(sys.executable)} -c 'import sys; sys.exit(\"exit\")'")
