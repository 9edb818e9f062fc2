"""One self-contained page about a fitted model, for a browser that need not be online."""

from __future__ import annotations

import platform
import shlex
from base64 import b64encode
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.io.write import atomic_path
from chreode.report import modalities, sections
from chreode.report.draw import number
from chreode.report.flow_section import flow_section
from chreode.report.gene_sets import gene_sets_section
from chreode.report.maps import package_version, project_2d
from chreode.report.pack import axis, pack_text, plain
from chreode.report.palette import CATEGORICAL, OTHER, SEQUENTIAL_DARK, SEQUENTIAL_LIGHT, UNKNOWN
from chreode.report.private import private_codes, responses_of, responses_section
from chreode.report.regulation_section import regulation_section
from chreode.report.score_tables import scores_section
from chreode.report.variables import choose_features, columns_of, feature_values

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from chreode.cells import Cells

__all__ = ["PACKAGES", "collect", "render", "write_report"]

SHOWN = 50_000
SCRIPTS = ("map.js", "legend.js", "codes.js", "page.js")
PACKAGES = ("chreode", "torch", "numpy", "anndata", "scipy", "scikit-learn", "umap-learn")


def collect(
    model: Any,
    cells: Cells,
    scores: Mapping[str, Any],
    command: str | Sequence[str],
    *,
    title: str = "",
    gene_sets: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Gather everything the page shows, as JSON values.

    Parameters
    ----------
    model
        A `chreode.FittedModel`.
    cells
        The cells as read, in the order of ``model.embedded``; observed values need their counts.
    scores
        Numbers by name, or by group and name.
    command
        What was typed.
    title
        Heading of the page; the source's name when empty.
    gene_sets
        A GMT file, whose sets are held against dimensions, components and responses.
    seed
        Of the map, and of the draw of cells when there are more than 50,000.
    progress
        Whether to show a bar while the map is drawn.

    Raises
    ------
    InputError
        When ``cells`` are not the cells of the model, or there are none.
    """
    embedded = model.embedded
    _check(np.asarray(embedded.names), cells)
    known = model.layout.modalities  # what was read may hold more
    modality = "rna" if "rna" in known else next(iter(known))
    found = sections.components_of(model, cells, modality=modality, seed=seed)
    rows = np.arange(len(cells))
    if len(rows) > SHOWN:
        rows = np.sort(np.random.default_rng(seed).choice(len(rows), SHOWN, replace=False))
    xy, method = project_2d(np.asarray(embedded.embedding)[rows], seed, progress=progress)
    payload = _payload(embedded, cells, found, modality=modality, rows=rows, xy=xy)
    marked = modalities.other_markers(model, cells, found, modality=modality)
    codes = modalities.codes_section(model, cells, rows=rows, columns=payload["columns"])
    if modalities.several(model):
        payload["features"]["modality"] = modality
        payload["others"] = modalities.other_features(embedded, cells, marked, rows=rows)
    private = private_codes(model, cells, rows=rows, columns=payload["columns"])
    if codes or private:
        payload["codes"] = [{"colour": code["colour"], "xy": code["xy"]} for code in [*codes, *private]]
    responses = responses_of(model, cells, modality=modality, seed=seed)
    context = {
        "title": title or Path(cells.reading.source).name,
        "read": sections.read_section(cells, brief=modalities.several(model)),
        "modalities": modalities.modalities_section(model, cells),
        "codes": codes,
        "private": private,
        "responses": responses_section(responses),
        "gene_sets": gene_sets_section(
            model, gene_sets, modality=modality, responses=responses, progress=progress
        ),
        "flow": flow_section(model, seed=seed, progress=progress),
        "regulation": regulation_section(model, seed=seed, progress=progress),
        "recipe": sections.recipe_section(model, cells),
        "training": sections.training_section(model.history),
        "method": method,
        "shown": len(rows),
        "example": (payload["features"]["symbols"] or payload["features"]["names"])[0],
        "components": sections.components_section(cells, found),
        "graph": sections.graph_section(found, rows=rows, xy=xy),
        "markers": sections.markers_section(found, kind=cells.layout.modalities[modality].kind)
        | {"modality": modality},
        "other_markers": modalities.other_markers_section(cells, found, marked),
        "scores": scores_section(scores),
        "cite": model.cite(),
        "command": command if isinstance(command, str) else shlex.join(command),
        "versions": {"python": platform.python_version()} | {p: package_version(p) for p in PACKAGES},
        "payload": payload,
    }
    return plain(context)


def _check(names: np.ndarray, cells: Cells) -> None:
    if len(cells) == 0:
        msg = "Expected cells to report on; found none. Give a model with its cells (saved with cells=True)."
        raise InputError(msg)
    if len(names) != len(cells) or not np.array_equal(names.astype(str), np.asarray(cells.names).astype(str)):
        msg = (
            f"Expected the cells this model was fitted to ({len(names):,}, in the same order); found "
            f"{len(cells):,} cells with other names or in another order. Pass the cells given to fit, or "
            "model.embedded.cells."
        )
        raise InputError(msg)


def _payload(
    embedded: Any,
    cells: Cells,
    found: sections.Components,
    *,
    modality: str,
    rows: np.ndarray,
    xy: np.ndarray,
) -> dict[str, Any]:
    """What the page's script draws."""
    described = cells.layout.modalities[modality]
    features = choose_features(
        found.markers,
        found.means,
        sizes=found.sizes,
        measured=cells.measured.get(modality),
        n_cells=len(rows),
        n_features=described.n_features,
    )
    expected = np.asarray(embedded.expected(modality, features=[described.names[i] for i in features]))
    columns = columns_of(
        cells,
        rows=rows,
        components=found.of,
        names=found.names,
        hints=found.hints,
        probability=found.probability,
        trained=np.asarray(embedded.trained, dtype=bool),
    )
    return {
        "n": len(rows),
        "xy": [axis(values) for values in xy.T],
        "names": pack_text(np.asarray(embedded.names)[rows].tolist()),
        "columns": columns,
        "features": feature_values(
            cells, expected, modality=modality, features=features, rows=rows, means=found.means
        ),
        "colours": {
            "categorical": CATEGORICAL,
            "other": OTHER,
            "unknown": UNKNOWN,
            "light": SEQUENTIAL_LIGHT,
            "dark": SEQUENTIAL_DARK,
        },
    }


def render(context: Mapping[str, Any]) -> str:
    """Fill the page; every name and label is escaped, and no script but the page's own may run.

    Parameters
    ----------
    context
        From `collect`; the date of making is added when it is absent.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = Path(__file__).parent
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters["number"] = number
    values = {"made": datetime.now(UTC).date().isoformat()} | dict(context)
    return environment.get_template("page.html.j2").render(
        values,
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        digest=b64encode(sha256(script.encode()).digest()).decode("ascii"),
    )


def write_report(
    path: str | os.PathLike[str],
    *,
    model: Any,
    cells: Cells,
    scores: Mapping[str, Any],
    command: str | Sequence[str],
    title: str = "",
    gene_sets: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Path:
    """Write the page about a fitted model: one file that needs no other, nor a network.

    It is written beside and renamed, so that a page of before stays whole when anything fails.

    Parameters
    ----------
    path
        Of the page; its folder is made when absent.
    model, cells, scores, command, title, gene_sets, progress
        As in `collect`.

    Returns
    -------
    pathlib.Path
        The path.

    Raises
    ------
    InputError
        When ``cells`` are not the cells of the model, or the path cannot be written.
    """
    about: dict[str, Any] = {"title": title, "gene_sets": gene_sets, "progress": progress}
    text = render(collect(model, cells, scores, command, **about))
    with atomic_path(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)
