"""A run's folder: what marks it as ours, which call made it, and how far it is."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chreode.checkpoint import NAME, differences
from chreode.errors import InputError
from chreode.io.read import read
from chreode.io.write import atomic_path
from chreode.nonfinite import NonFinite
from chreode.storage import is_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from chreode.cells import Cells
    from chreode.fitted import FittedModel

__all__ = [
    "MARK",
    "Run",
    "check_fresh",
    "file_name",
    "fitted_cells",
    "fresh_file",
    "fresh_table",
    "kept_counts",
    "model_folder",
    "new_folder",
    "write_json",
]

MARK = "chreode.json"
FORMAT = 1


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    with atomic_path(path) as beside:
        beside.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def new_folder(path: Path, *, keep: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Make a folder with its parents; when anything fails inside, what was made disappears with its content.

    Parameters
    ----------
    path
        It may exist, and stays then.
    keep
        Asked when something failed: whether what was made shall stay.

    Raises
    ------
    InputError
        When it cannot be made or written to.
    """
    made = [p for p in (path, *path.parents) if not p.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".{MARK}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        _remove(made)
        msg = f"Expected a folder that can be written to at {path}; found that it cannot ({error.strerror})."
        raise InputError(msg + " Give another folder.") from error
    try:
        yield
    except BaseException:
        if not keep():
            _remove(made)
        raise


def _remove(made: list[Path]) -> None:
    """Remove folders that were made, deepest first; only the deepest may hold anything."""
    for number, path in enumerate(made):
        if number == 0:
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def check_fresh(path: Path, *, suffix: str, overwrite: bool) -> None:
    """Refuse a path that does not name a new file of a kind.

    Raises
    ------
    InputError
        For another suffix, or a file that is there already (unless ``overwrite``).
    """
    if path.suffix != suffix:
        msg = f"Expected --out to name a {suffix} file; found {path.name!r}."
        msg += f" Write for example {path.stem}{suffix}."
        raise InputError(msg)
    if path.is_dir() or (path.exists() and not overwrite):
        what = "a folder" if path.is_dir() else "one that is there already"
        msg = f"Expected --out to name a new file; found {what} at {path}. Give another name"
        raise InputError(msg + ("." if path.is_dir() else ", or add --overwrite."))


@contextmanager
def fresh_file(path: Path, *, suffix: str, overwrite: bool) -> Iterator[Path]:
    """Give a path to write at, beside ``path``, which it replaces when all went well.

    Raises
    ------
    InputError
        Before anything is done: as `check_fresh` does, or for a folder that cannot be written to.
    """
    check_fresh(path, suffix=suffix, overwrite=overwrite)
    with atomic_path(path) as beside:
        yield beside


@contextmanager
def fresh_table(path: Path, *, overwrite: bool) -> Iterator[tuple[Path, Path]]:
    """Give paths to write a table and its figure at, beside the ``.csv`` and the ``.png`` that they replace.

    Raises
    ------
    InputError
        As `fresh_file` does, for either.
    """
    picture = path.with_suffix(".png")
    check_fresh(picture, suffix=".png", overwrite=overwrite)
    with fresh_file(path, suffix=".csv", overwrite=overwrite) as beside, atomic_path(picture) as drawn:
        yield beside, drawn


def file_name(*parts: str) -> str:
    """A name that every file system takes, of what tells a result from others."""
    return re.sub(r"[^\w.+=-]", "_", "_".join(parts))[:150]


class Run:
    """The folder of one fit, or of one comparison.

    Parameters
    ----------
    path
        It may not exist yet.
    command
        Whose it is.

    Raises
    ------
    InputError
        When it is a file, holds other things than a run, or its mark is damaged.
    """

    def __init__(self, path: Path, *, command: str = "fit") -> None:
        self.path = path.expanduser().absolute()
        self.mark = self.path / MARK
        self.checkpoint = self.path / "checkpoint"
        self.facts: dict[str, Any] = {}
        if self.path.is_file():
            msg = f"Expected a folder at {self.path}; found a file. Give another folder."
            raise InputError(msg)
        if self.mark.is_file():
            self.facts = self._read()
        elif self.path.is_dir() and any(self.path.iterdir()):
            what = "a saved model" if is_model(self.path) else "other things"
            msg = (
                f"Expected a new folder, or one of an earlier chreode {command}, at {self.path}; found "
                f"{what} in it, left as it is. Give another folder."
            )
            raise InputError(msg)

    def _read(self) -> dict[str, Any]:
        try:
            facts = json.loads(self.mark.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            msg = f"Expected to read {self.mark}; found it damaged ({error})."
            msg += f" Remove {self.path}, or give another folder."
            raise InputError(msg) from None
        if (
            not isinstance(facts, dict)
            or facts.get("format") != FORMAT
            or not isinstance(facts.get("call"), dict)
        ):
            found = facts.get("format") if isinstance(facts, dict) else type(facts).__name__
            msg = (
                f"Expected a run of format {FORMAT} at {self.path}; found {found!r}. "
                "Use the version of chreode that made it, or give another folder."
            )
            raise InputError(msg)
        return facts

    @property
    def finished(self) -> bool:
        """Whether everything was written."""
        return bool(self.facts.get("finished"))

    @property
    def resumable(self) -> bool:
        """Whether some training is kept."""
        return (self.checkpoint / NAME).is_file()

    def check(self, call: Mapping[str, Any], *, overwrite: bool) -> None:
        """Refuse to replace a finished run, or to resume another one, unless told to overwrite.

        Raises
        ------
        InputError
            Naming what differs between the calls.
        """
        if not self.facts or overwrite:
            return
        if self.finished:
            msg = f"Expected a new folder, or an unfinished run; found a finished run in {self.path}. "
            raise InputError(msg + "Give another folder, or add --overwrite to replace the run.")
        if changed := differences(call, self.facts["call"]):
            msg = (
                f"Expected the call that began the unfinished run in {self.path}; found a changed one: "
                f"{'; '.join(changed)}. Repeat the first call to resume it, give another folder, or add "
                "--overwrite to begin anew."
            )
            raise InputError(msg)

    @contextmanager
    def training(self, facts: Mapping[str, Any], *, overwrite: bool) -> Iterator[Path]:
        """Mark the folder as this call's, unfinished, and give the place of its checkpoints.

        When the call is refused, or nothing was trained, what the mark said before it says again.

        Parameters
        ----------
        facts
            ``call``, and whatever else there is to remember; `check` has passed.
        overwrite
            Whether to begin anew where something was trained.
        """
        before = dict(self.facts)
        resumes = bool(before) and not self.finished and not overwrite
        if not resumes:
            shutil.rmtree(self.checkpoint, ignore_errors=True)
            self._write({"format": FORMAT, "finished": False, **facts})
        try:
            yield self.checkpoint
        except BaseException as error:
            if not resumes and (isinstance(error, (InputError, NonFinite)) or not self.resumable):
                shutil.rmtree(self.checkpoint, ignore_errors=True)
                self._write(before)
            raise

    def finish(self) -> None:
        """Mark the run as finished; its checkpoint is not needed any more."""
        self._write({**self.facts, "finished": True})
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    def _write(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        if facts:
            write_json(self.mark, facts)
        else:
            self.mark.unlink(missing_ok=True)


def model_folder(path: Path) -> tuple[Path, dict[str, Any]]:
    """Where the model of a finished run is, and the run's facts; a folder of a model alone will do.

    Raises
    ------
    InputError
        When there is no model, or the run is unfinished.
    """
    path = path.expanduser()
    if is_model(path):
        return path, {}
    if not (path / MARK).is_file():
        found = "a file" if path.is_file() else "no chreode.json in it" if path.is_dir() else "nothing"
        msg = f"Expected the folder of a chreode fit at {path}; found {found}."
        msg += " Make one with: chreode fit FILE --out DIR"
        raise InputError(msg)
    run = Run(path)
    if not run.finished:
        msg = f"Expected a finished run in {path}; found one that was interrupted."
        msg += f" Finish it with: {run.facts.get('command')}"
        raise InputError(msg)
    return path / "model", run.facts


def fitted_cells(path: Path, facts: Mapping[str, Any], *, model: FittedModel, data: Path | None) -> Cells:
    """Read again the cells that were fitted, with their counts.

    Parameters
    ----------
    path
        Of a finished run.
    facts
        What `model_folder` knows of it.
    model
        Its model, whose schema is reused.
    data
        Where they are; None takes the file that was fitted, or the run's own copy.

    Raises
    ------
    InputError
        When there are none, or they have other features.
    """
    cells = read(data or kept_counts(path.expanduser(), facts), **model.reading.schema)
    if set(model.layout.modalities) < set(cells.layout.modalities):
        cells = cells.only(*model.layout.modalities)
    if dict(cells.layout.modalities) != dict(model.layout.modalities):
        fitted = f" ({facts['call']['file']})" if facts else ""
        msg = (
            f"Expected the cells that were fitted; found other features in {cells.reading.source}. "
            f"Give the file that was fitted{fitted} with --data."
        )
        raise InputError(msg)
    return cells


def kept_counts(path: Path, facts: Mapping[str, Any]) -> Path:
    """The file that was fitted, or the annotated copy of it.

    Parameters
    ----------
    path, facts
        As `fitted_cells` takes them.

    Raises
    ------
    InputError
        When neither is there.
    """
    fitted = [Path(facts["call"]["file"])] if facts else []
    places = [*fitted, path / "cells.h5ad", path / "cells.h5mu"]
    for place in places:
        if place.exists():
            return place
    msg = f"Expected the cells that were fitted at {places[0]}; found nothing. Name them with --data FILE."
    raise InputError(msg)
