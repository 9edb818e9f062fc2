"""The runs of a comparison, in a process of their own: one that is killed spoils no other."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chreode.comparison import PURPOSES
from chreode.parcel import write_cells
from chreode.trial import carry_out, fail, read_result, score_given, told, write_result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    from chreode.cells import Cells
    from chreode.comparison import Result
    from chreode.split import Split
    from chreode.trial import Trial

__all__ = ["Trials"]

# Of each run, the first of these is told.
FIRST = (*PURPOSES["reconstruction"].scores, *PURPOSES["clustering"].scores)


class Trials:
    """Carries out trials of which no result is kept yet.

    Parameters
    ----------
    cells, split
        What every run is given.
    kept
        Where results are.
    training, seed, isolate
        As of `chreode.compare`.
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
            Whether to show a bar; a line is logged of each that ends.
        """
        from tqdm.auto import tqdm

        results, logger = [], logging.getLogger(__name__)
        with (
            _Worker(self.cells, self.split) as worker,
            tqdm(total=len(trials), desc="compare", unit="run", disable=not progress) as bar,
        ):
            for number, trial in enumerate(trials, 1):
                bar.set_postfix_str(_words(trial))
                place = self.kept / _file_name(trial)
                result = kept = read_result(place)
                if result is None or result[0].get("error"):
                    if self.isolate and trial.recipe is not None:
                        asked = {"trial": trial.to_json(), "training": self.training, "seed": self.seed}
                        result = worker.do(asked, place, meanwhile=bar.refresh)
                    else:
                        result = self._here(trial, given)
                        write_result(place, result)
                facts, arrays = result
                if facts.get("error"):
                    bar.clear()
                    logger.warning("%s failed: %s", _words(trial), facts["error"])
                else:
                    came = f"{_told(facts)}{', kept from before' if result is kept else ''}"
                    logger.info("%s (%d of %d): %s", _words(trial), number, len(trials), came)
                results.append(({**facts, "trial": trial.to_json()}, arrays))
                bar.update()
        return results

    def _here(self, trial: Trial, given: Mapping[str, np.ndarray]) -> Result:
        """Do it in this process."""
        try:
            if trial.recipe is None:
                return score_given(trial, given[trial.name], self.cells, self.split, seed=self.seed)
            how = {"training": self.training, "seed": self.seed, "measure": False}
            return carry_out(trial, self.cells, self.split, **how)
        except Exception as error:
            return told(error)


class _Worker:
    """Another process that carries out one trial after another, started when it is needed.

    Its result tells that a trial is done. When the process has died instead, the next trial gets a new one.
    It ends by itself when this process is gone.
    """

    def __init__(self, cells: Cells, split: Split) -> None:
        self.cells, self.split = cells, split
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> _Worker:
        self.holder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.folder = Path(self.holder.name)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self.holder.cleanup()

    def do(self, asked: Mapping[str, Any], place: Path, *, meanwhile: Callable[[], object]) -> Result:
        """Have it done; ``meanwhile`` is called about once a second."""
        shutil.rmtree(place, ignore_errors=True)
        process = self._running()
        looks = 0
        try:
            assert process.stdin
            process.stdin.write(json.dumps({**asked, "place": str(place)}) + "\n")
            process.stdin.flush()
            while process.poll() is None and not (place / "run.json").is_file():
                time.sleep(0.1)
                looks += 1
                if looks % 10 == 0:
                    meanwhile()
        except BrokenPipeError:
            process.wait()
        result = read_result(place)
        if result is None:
            result = fail(_ended(process.wait(), (self.folder / "said.txt").read_text(errors="replace")))
            write_result(place, result)
        if sys.platform != "linux":
            self.end()  # elsewhere the most memory of a process is that of its whole life
        return result

    def _running(self) -> subprocess.Popen[str]:
        from safetensors.torch import save_file

        if self.process is not None and self.process.poll() is None:
            return self.process
        self.end()
        if not (self.folder / "split.safetensors").exists():
            write_cells(self.folder, self.cells)
            save_file(self.split.tensors(), self.folder / "split.safetensors")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "chreode.trial", str(self.folder)]
        with (self.folder / "said.txt").open("w", encoding="utf-8") as said:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=said, stderr=said, env=environment, text=True
            )
        return self.process

    def end(self) -> None:
        """End the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if self.process.stdin:
                self.process.stdin.close()
            self.process = None


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


def _told(facts: Mapping[str, Any]) -> str:
    """What came of a run, in a few words."""
    scores = facts.get("scores", {})
    said = [f"{name.replace('_', ' ')} {scores[name]:.3f}" for name in FIRST if name in scores][:1]
    seconds = facts.get("seconds")
    return ", ".join([*said, *([] if seconds is None else [f"{seconds:.0f} s"])]) or "scored"


def _file_name(trial: Trial) -> str:
    """A folder's name for one trial: readable, and of this recipe with these arguments only."""
    which = json.dumps(trial.to_json()["recipe"] or trial.name, sort_keys=True)
    of = "embedding" if trial.recipe is None else "subset" if trial.subset else f"seed-{trial.seed}"
    return f"{re.sub(r'[^A-Za-z0-9.=-]+', '_', trial.name)[:60]}-{of}-{zlib.crc32(which.encode()):08x}"
