"""The runs of a comparison, each in a process of its own: one that is killed spoils no other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chreode.parcel import write_cells
from chreode.trial import carry_out, fail, read_result, score_given, told, write_result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from chreode.cells import Cells
    from chreode.comparison import Result
    from chreode.split import Split
    from chreode.trial import Trial

__all__ = ["Trials"]


class Trials:
    """Carries out trials of which no result is kept yet, each in a process of its own.

    Parameters
    ----------
    cells, split
        What every run is given.
    kept
        Where results are.
    training, seed, isolate
        As of `compare`.
    """

    def __init__(
        self, cells: Cells, split: Split, kept: Path, *, training: Mapping[str, Any], seed: int, isolate: bool
    ) -> None:
        self.cells, self.split, self.kept = cells, split, kept
        self.training, self.seed, self.isolate = dict(training), seed, isolate

    def all(
        self, trials: Sequence[Trial], given: Mapping[str, np.ndarray], *, progress: bool
    ) -> list[Result]:
        """The results of trials, in their order.

        Parameters
        ----------
        trials
            Whatever of them has a result is not done again, unless it failed.
        given
            Embeddings that were made elsewhere, by name.
        progress
            Whether to show a bar.
        """
        from tqdm.auto import tqdm

        results = {}
        with (
            tempfile.TemporaryDirectory() as job,
            tqdm(total=len(trials), desc="compare", unit="run", disable=not progress) as bar,
        ):
            written = False
            for trial in trials:
                bar.set_postfix_str(_words(trial))
                place = self.kept / _file_name(trial)
                result = read_result(place)
                if result is None or result[0].get("error"):
                    if self.isolate and trial.recipe is not None and not written:
                        self._write(Path(job))
                        written = True
                    result = self._one(trial, given, Path(job), place, bar)
                facts, arrays = result
                results[trial.name, trial.seed, trial.subset] = {**facts, "trial": trial.to_json()}, arrays
                bar.update()
        return list(results.values())

    def _write(self, job: Path) -> None:
        from safetensors.torch import save_file

        write_cells(job, self.cells)
        save_file(self.split.tensors(), job / "split.safetensors")

    def _one(self, trial: Trial, given: Mapping[str, np.ndarray], job: Path, place: Path, bar: Any) -> Result:
        if self.isolate and trial.recipe is not None:
            return self._apart(trial, job, place, bar)
        try:
            if trial.recipe is None:
                result = score_given(trial, given[trial.name], self.cells, self.split, seed=self.seed)
            else:
                how = {"training": self.training, "seed": self.seed, "measure": False}
                result = carry_out(trial, self.cells, self.split, **how)
        except Exception as error:
            result = told(error)
        write_result(place, result)
        return result

    def _apart(self, trial: Trial, job: Path, place: Path, bar: Any) -> Result:
        """Have another process do it, which writes its result itself and ends when this one does."""
        asked = {"trial": trial.to_json(), "training": self.training, "seed": self.seed}
        (job / "job.json").write_text(json.dumps(asked), encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "chreode.trial", str(job), str(place)]
        with (job / "said.txt").open("w+", encoding="utf-8", errors="replace") as said:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=said, stderr=said, env=environment
            )
            try:
                while process.poll() is None:
                    try:
                        process.wait(timeout=1)
                    except subprocess.TimeoutExpired:
                        bar.refresh()
            finally:
                process.kill()
                process.wait()
                if process.stdin:
                    process.stdin.close()
            result = read_result(place)
            if result is not None:
                return result
            said.seek(0)
            result = fail(_ended(process.returncode, said.read()))
        write_result(place, result)
        return result


def _ended(code: int, said: str) -> str:
    """Why a process left no result."""
    if code < 0 or code in (137, 0xC0000005):
        return f"its process was ended from outside (signal {abs(code)}), perhaps for want of memory"
    last = said.strip().splitlines()[-1:] or ["nothing"]
    return f"its process ended with code {code} and said: {last[0]}"


def _words(trial: Trial) -> str:
    if trial.recipe is None:
        return trial.name
    return f"{trial.name}, {'subset' if trial.subset else f'seed {trial.seed}'}"


def _file_name(trial: Trial) -> str:
    """A folder's name for one trial: readable, and of this recipe with these arguments only."""
    which = json.dumps(trial.to_json()["recipe"] or trial.name, sort_keys=True)
    of = "embedding" if trial.recipe is None else "subset" if trial.subset else f"seed-{trial.seed}"
    return f"{re.sub(r'[^A-Za-z0-9.=-]+', '_', trial.name)[:60]}-{of}-{zlib.crc32(which.encode()):08x}"
