"""What gene sets make of dimensions and components: names, and a figure of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["enrichment_figure", "name_dimensions", "readable"]

_COLLECTIONS = (
    "HALLMARK",
    "REACTOME",
    "KEGG_MEDICUS",
    "KEGG",
    "GOBP",
    "GOCC",
    "GOMF",
    "WP",
    "BIOCARTA",
    "PID",
)  # the longer of two that begin alike stands first
_ABBREVIATED = {"AKT", "DNA", "JAK", "KRAS", "MTOR", "MYC", "RNA", "TNFA", "UV"}


def name_dimensions(table: pd.DataFrame, *, fdr: float = 0.05) -> pd.DataFrame:
    """Propose a name for each dimension and component: the set that stands out most, where one does.

    Parameters
    ----------
    table
        What `chreode.enrichment` returned.
    fdr
        Largest ``q_value`` that gives a name, in (0, 1).

    Returns
    -------
    pandas.DataFrame
        One row a dimension or component: ``kind``, ``name``, ``proposed`` (``-`` where no set stands out),
        and of that set ``direction``, ``set`` and ``q_value``.

    Raises
    ------
    InputError
        For another table, or an fdr out of range.

    Examples
    --------
    >>> import chreode as ch
    >>> import pandas as pd
    >>> scores = pd.DataFrame({"z0": range(40)}, index=[f"g{i}" for i in range(40)])
    >>> sets = {"HALLMARK_INTERFERON_ALPHA_RESPONSE": [f"g{i}" for i in range(8)]}
    >>> name_dimensions(ch.enrichment(scores, sets))[["name", "proposed", "direction"]].values.tolist()
    [['z0', 'Interferon alpha response', 'down']]
    """
    _refuse_table(table, fdr)
    table = table.reset_index(drop=True)
    best = table.loc[table["z"].abs().groupby([table["kind"], table["name"]], sort=False).idxmax()]
    best = best[["kind", "name", "set", "direction", "q_value"]].reset_index(drop=True)
    best.insert(2, "proposed", [readable(name) for name in best["set"]])
    nameless = best["q_value"] > fdr
    best.loc[nameless, ["proposed", "set", "direction"]] = "-"
    return best


def readable(name: str) -> str:
    """A set's name without its collection and underscores, where it is written in capitals.

    Examples
    --------
    >>> readable("HALLMARK_TNFA_SIGNALING_VIA_NFKB"), readable("HALLMARK_P53_PATHWAY")
    ('TNFA signaling via NFKB', 'P53 pathway')
    >>> readable("ABC transporter disorders")
    'ABC transporter disorders'
    """
    if name != name.upper() or "_" not in name:
        return name
    for collection in _COLLECTIONS:
        if name.startswith(collection + "_"):
            name = name.removeprefix(collection + "_") or name
            break
    text = " ".join(_word(word) for word in name.split("_") if word)
    return text[:1].upper() + text[1:]


def _word(word: str) -> str:
    short = word in _ABBREVIATED or any(c.isdigit() for c in word) or not set("AEIOUY") & set(word)
    return word if short else word.lower()


def enrichment_figure(table: pd.DataFrame, *, fdr: float = 0.05, sets: int = 20) -> Figure:
    """Dots of sets x dimensions: larger the smaller the q-value, coloured by direction and effect.

    Parameters
    ----------
    table
        What `chreode.enrichment` returned.
    fdr
        Dots of at most this ``q_value`` are outlined, in (0, 1).
    sets
        How many are shown: those that stand out most anywhere.

    Raises
    ------
    InputError
        For another table, or an fdr or a number of sets out of range.

    Examples
    --------
    >>> import chreode as ch
    >>> import pandas as pd
    >>> scores = pd.DataFrame({"z0": range(20)}, index=[f"g{i}" for i in range(20)])
    >>> table = ch.enrichment(scores, {"top": ["g19", "g18", "g17", "g16", "g15"]})
    >>> enrichment_figure(table).axes[0].get_yticklabels()[0].get_text()
    'top'
    """
    from matplotlib.figure import Figure

    _refuse_table(table, fdr)
    if sets < 1:
        msg = f"Expected at least one set to show; found sets={sets}. Leave it out for 20."
        raise InputError(msg)
    order = np.argsort(-table["z"].abs().to_numpy(), kind="stable")
    rows = list(dict.fromkeys(table["set"].to_numpy()[order]))[:sets]
    shown: Any = table[np.isin(table["set"].to_numpy(), rows)]
    columns = list(dict.fromkeys(zip(table["kind"], table["name"], strict=True)))
    x = np.array([columns.index(pair) for pair in zip(shown["kind"], shown["name"], strict=True)])
    y = np.array([rows.index(name) for name in shown["set"]])
    strength = -np.log10(shown["q_value"].to_numpy().clip(1e-10))  # no dot grows for ever
    passed = (shown["q_value"] <= fdr).to_numpy()
    figure = Figure(figsize=(4.5 + 0.3 * len(columns), 1.8 + 0.24 * len(rows)), layout="constrained")
    axes = figure.subplots()
    dots = axes.scatter(
        x,
        y,
        s=6 + 16 * strength,
        c=2 * shown["auc"].to_numpy() - 1,
        cmap="RdBu_r",
        vmin=-1,
        vmax=1,
        edgecolors=np.where(passed, "black", "none").tolist(),
        linewidths=0.8,
    )
    axes.set_xticks(range(len(columns)), [f"{kind} {name}" for kind, name in columns], rotation=90)
    axes.set_yticks(range(len(rows)), [readable(name) for name in rows])
    axes.set_xlim(-0.6, len(columns) - 0.4)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_axisbelow(True)
    axes.grid(color="0.93", linewidth=0.6)
    figure.colorbar(dots, ax=axes, label="effect (2 AUC − 1)", shrink=0.6)
    for value in (1, 2, 5, 10):
        axes.scatter([], [], s=6 + 16 * value, c="0.6", label=f"{value}")
    figure.legend(title="−log10 q", frameon=False, loc="outside upper center", ncols=4)
    return figure


def _refuse_table(table: Any, fdr: float) -> None:
    needed = ["kind", "name", "set", "direction", "z", "q_value", "auc"]
    if not hasattr(table, "columns") or not set(needed) <= set(table.columns) or not len(table):
        msg = f"Expected what chreode.enrichment returns; found {type(table).__name__} of another form."
        raise InputError(msg + " Call it first.")
    if not 0 < fdr < 1:
        msg = f"Expected an fdr in (0, 1); found {fdr}. Give 0.05, say."
        raise InputError(msg)
