"""One self-contained page about a comparison of recipes, for a browser that need not be online."""

from __future__ import annotations

import io
import platform
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.comparison import NOISE
from chreode.io.write import atomic_path
from chreode.recipe import registry
from chreode.report.draw import MINUS, number, ticks
from chreode.report.maps import package_version
from chreode.report.page import PACKAGES
from chreode.report.palette import UNKNOWN, categorical, colour_of

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping, Sequence

    from chreode.comparison import Comparison

__all__ = ["dots", "intervals", "write_page"]

WIDTH, LEFT, RIGHT, ROW, BOTTOM = 340.0, 116.0, 16.0, 24.0, 24.0
GROUPS = {
    "Held-out molecules": {
        "gain": ("gain", "nats a held-out molecule, over one profile for all cells; higher is better"),
        "nats_per_molecule": ("nats", "a held-out molecule; lower is better"),
        "nats_per_value": ("nats", "a held-out value; lower is better"),
    },
    "Label": {
        "clustering": ("clustering", "mean of ARI and NMI of Leiden and k-means clusters with the label"),
        "leiden_ari": ("Leiden ARI", "at resolution 1; 1 is perfect, 0 is chance"),
        "kmeans_ari": ("k-means ARI", "as many clusters as labels"),
        "component_ari": ("components ARI", "the model's own mixture, number not given"),
        "neighbour_accuracy": ("label told by neighbours", "share of cells"),
        "label_lisi": ("label LISI", "purity of neighbourhoods; 0 is chance"),
    },
    "Batch": {
        "integration": ("integration", "scIB: 0.6 label + 0.4 batch"),
        "scib_bio": ("scIB label", "what is kept of the labels"),
        "scib_batch": ("scIB batch", "how little is left of the batches"),
        "batch_mixing": ("batch mixing", "within label; 1 is as by chance"),
    },
    "Cost": {
        "seconds": ("seconds", "of one fit, by the clock: what else the machine did is in it"),
        "memory": ("memory, MB", "the most that a fit adds"),
    },
}
STABILITY = {
    "seeds_clusters": "clusters, between seeds",
    "seeds_components": "components, between seeds",
    "seeds_neighbours": "neighbours, between seeds",
    "subset_clusters": "clusters, all and 80 %",
    "subset_components": "components, all and 80 %",
    "subset_neighbours": "neighbours, all and 80 %",
}


def write_page(
    path: str | os.PathLike[str],
    found: Comparison,
    *,
    levels: Mapping[str, np.ndarray],
    maps: Mapping[str, np.ndarray],
) -> Path:
    """Write the page about a comparison: one file that needs no other, nor a network.

    Parameters
    ----------
    path
        Of the page.
    found
        From `chreode.compare`.
    levels
        By column, the level of each cell that maps show; None for unknown.
    maps
        By recipe or embedding, the coordinates of these cells, ``n x 2``.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    style = (folder / "page.css").read_text(encoding="utf-8")
    text = environment.get_template("comparison.html.j2").render(
        _context(found), maps=_maps(levels, maps), style=Markup(style)
    )
    with atomic_path(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def _context(found: Comparison) -> dict[str, Any]:
    names, table = found.names, found.table
    reasons: Any = table["failed"]
    colours = {name: colour_of(i) for i, name in enumerate(names)}
    failed = [(name, reason) for name, reason in reasons.items() if reason]
    return {
        "title": Path(found.data["source"]).name,
        "data": found.data,
        "noise": NOISE,
        "names": [(name, colours[name]) for name in names],
        "recipes": _recipes(found),
        "verdicts": [_verdict(found, verdict, colours) for verdict in found.verdicts],
        "groups": [group for name in GROUPS if (group := _group(found, name, colours))],
        "stability": _stability(found),
        "failed": failed,
        "versions": {"python": platform.python_version()} | {p: package_version(p) for p in PACKAGES},
        "made": datetime.now(UTC).date().isoformat(),
    }


def _recipes(found: Comparison) -> list[tuple[str, str, str, str]]:
    """Name, what it is, dimensions and epochs of each; a range where fits stopped at different ones."""
    rows = []
    for name in found.names:
        facts = [f for f, _ in found.results if f["trial"]["name"] == name]
        made = facts[0]["trial"]["recipe"]
        what = registry[made["name"]].summary if made else "Embedding that was given, and is not fitted."
        rows.append((name, what, _range(facts, "dimensions"), _range(facts, "epochs")))
    return rows


def _range(facts: Sequence[Mapping[str, Any]], key: str) -> str:
    values = {f[key] for f in facts if f.get(key) is not None and not f["trial"]["subset"]}
    ends = sorted({min(values), max(values)}) if values else [None]
    return "\N{EN DASH}".join(number(end) for end in ends)


def _verdict(found: Comparison, verdict: Any, colours: Mapping[str, str]) -> dict[str, Any]:
    rows: Any = found.differences(verdict.purpose)
    rows = rows[(rows["recipe"] == verdict.leader) & ~rows["against"].isin(verdict.excluded)]
    chart = intervals(rows.to_dict("records"), colours=colours) if len(rows) else None
    state = "" if not verdict.leader else "wins" if verdict.winner else "no winner"
    return {
        "purpose": verdict.purpose,
        "leader": verdict.leader,
        "state": state,
        "sentence": verdict.sentence.replace("95 %", "95\N{NO-BREAK SPACE}%"),
        "chart": chart,
    }


def _scale(low: float, high: float) -> tuple[Any, list[tuple[float, str]]]:
    """Where values lie across a chart, and its ticks."""
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - pad, high + pad

    def place(value: float) -> float:
        return round(LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)

    # One mark alone would not say how long the axis is; five parts always have two of them.
    marks = next(found for about in (3, 4, 5) if len(found := ticks(low, high, about=about)) > 1)
    return place, [(place(v), f"{v:g}".replace("-", MINUS)) for v in marks]


def _short(names: Collection[str], limit: int = 15) -> dict[str, str]:
    """Names cut in their middle, or elsewhere where that makes two of them the same."""
    cuts = [{n: _cut(n, head, limit) for n in names} for head in (limit // 2, limit - 1, limit - 5, 4)]
    return next((cut for cut in cuts if len(set(cut.values())) == len(cut)), cuts[0])


def _cut(name: str, head: int, limit: int) -> str:
    return name if len(name) <= limit else f"{name[:head]}…{name[len(name) - limit + 1 + head :]}"


def intervals(rows: Sequence[Mapping[str, Any]], *, colours: Mapping[str, str]) -> dict[str, Any]:
    """Geometry of a chart of differences: a row for each that the leader is compared with, and a line at 0.

    Parameters
    ----------
    rows
        ``against``, ``difference``, ``low``, ``high`` (which may be missing) and ``within_noise``.
    colours
        By name.

    Examples
    --------
    >>> row = {"against": "b", "difference": 1.0, "low": 0.5, "high": 1.5, "within_noise": False}
    >>> chart = intervals([row], colours={"b": "#000000"})
    >>> chart["zero"] < chart["rows"][0]["low"] < chart["rows"][0]["x"] < chart["rows"][0]["high"]
    True
    """
    ends = [0.0] + [row[k] for row in rows for k in ("difference", "low", "high") if np.isfinite(row[k])]
    place, marks = _scale(min(ends), max(ends))
    drawn, short = [], _short(colours)
    for i, row in enumerate(rows):
        known = bool(np.isfinite(row["low"]))
        drawn.append(
            {
                "name": row["against"],
                "short": short[row["against"]],
                "y": ROW * i + 16.0,
                "x": place(row["difference"]),
                "low": place(row["low"]) if known else None,
                "high": place(row["high"]) if known else None,
                "within": row["within_noise"],
                "colour": colours[row["against"]],
                "words": f"{number(row['difference'], 3)}"
                + (f" ({number(row['low'], 3)} to {number(row['high'], 3)})" if known else ""),
            }
        )
    bottom = ROW * len(rows) + 6.0
    return {
        "width": WIDTH, "height": bottom + BOTTOM, "bottom": bottom, "zero": place(0.0),
        "rows": drawn, "ticks": marks,
    }  # fmt: skip


def dots(values: Mapping[str, Sequence[float]], *, colours: Mapping[str, str]) -> dict[str, Any] | None:
    """Geometry of a chart of runs: a row for each recipe, a dot for each run, a stroke at the mean.

    Parameters
    ----------
    values
        Of the runs, by recipe; what is missing is left out.
    colours
        By name.

    Examples
    --------
    >>> chart = dots({"a": [1.0, 3.0], "b": []}, colours={"a": "#000000", "b": "#ffffff"})
    >>> [row["name"] for row in chart["rows"]], chart["rows"][0]["mean"] == sum(chart["rows"][0]["dots"]) / 2
    (['a'], True)
    """
    known = {name: [v for v in each if np.isfinite(v)] for name, each in values.items()}
    known = {name: each for name, each in known.items() if each}
    if not known:
        return None
    every, short = [v for each in known.values() for v in each], _short(colours)
    place, marks = _scale(min(every), max(every))
    rows = [
        {
            "name": name,
            "short": short[name],
            "y": ROW * i + 16.0,
            "dots": [place(v) for v in each],
            "mean": place(float(np.mean(each))),
            "words": ", ".join(number(float(v)) for v in each),
            "colour": colours[name],
        }
        for i, (name, each) in enumerate(known.items())
    ]
    bottom = ROW * len(rows) + 6.0
    return {"width": WIDTH, "height": bottom + BOTTOM, "bottom": bottom, "rows": rows, "ticks": marks}


def _group(found: Comparison, name: str, colours: Mapping[str, str]) -> dict[str, Any] | None:
    """Charts and a table of the scores that belong together; None where no run has any of them."""
    runs = found.runs[(found.runs["cells"] == "all") & (found.runs["failed"] == "")]
    charts = []
    for score, (title, meaning) in GROUPS[name].items():
        if score not in runs:
            continue
        values = {n: runs.loc[runs["recipe"] == n, score].tolist() for n in found.names}
        if not found.data.get("label"):
            meaning = meaning.removeprefix("within label; ")
        if chart := dots(values, colours=colours):
            charts.append({"score": score, "title": title, "meaning": meaning, "chart": chart})
    if not charts:
        return None
    columns = [chart["title"] for chart in charts]
    rows = [(n, [_around(found.table.loc[n], chart["score"]) for chart in charts]) for n in found.names]
    return {"name": name, "charts": charts, "columns": columns, "rows": rows}


def _around(row: Any, score: str) -> str:
    """A mean with its standard deviation, to the digits that the scores of one kind share."""
    mean, spread = row[score], row[f"{score}_sd"]
    if not np.isfinite(mean):
        return "–"
    decimals = 0 if score == "memory" else 1 if score == "seconds" else 3
    words = f"{mean:,.{decimals}f}".replace("-", MINUS)
    return f"{words} ± {spread:,.{decimals}f}" if np.isfinite(spread) else words


def _stability(found: Comparison) -> dict[str, Any] | None:
    columns = [name for name in STABILITY if name in found.table]
    if not columns:
        return None
    rows = []
    for name, row in found.table[columns].iterrows():
        if row.notna().any():
            rows.append(
                (
                    name,
                    [
                        None if np.isnan(v) else abs(round(float(v), 2)) if v > -0.005 else float(v)
                        for v in row
                    ],
                )
            )
    return {"columns": [STABILITY[name] for name in columns], "rows": rows}


def _maps(levels: Mapping[str, np.ndarray], maps: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Pictures by column, with a legend."""
    drawn = []
    for column, values in levels.items():
        names = sorted({str(v) for v in values if v is not None})
        colours = dict(zip(names, categorical(len(names)), strict=True))
        of_cells = [UNKNOWN if v is None else colours[str(v)] for v in values]
        pictures = [{"name": name, "png": _picture(xy, of_cells)} for name, xy in maps.items()]
        drawn.append({"column": column, "legend": list(colours.items()), "pictures": pictures})
    return drawn


def _picture(xy: np.ndarray, colours: Sequence[str]) -> str:
    """A scatter plot as a PNG in base64; cells in random order, so that none lies on top by its kind."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2, 3.2), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    order = np.random.default_rng(0).permutation(len(xy))
    size = float(np.clip(6000 / max(len(xy), 1), 1.0, 12.0))
    axes.scatter(*xy[order].T, c=[colours[i] for i in order], s=size, linewidths=0, alpha=0.85)
    file = io.BytesIO()
    figure.savefig(file, format="png", transparent=True)
    return b64encode(file.getvalue()).decode("ascii")
