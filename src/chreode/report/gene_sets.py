"""Which gene sets stand out along dimensions, in components and in predicted responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from chreode.interpret.enrichment import enrichment
from chreode.interpret.naming import readable

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from chreode.report.private import Response

__all__ = ["gene_sets_section"]

FDR = 0.05
SETS = 5  # of a dimension, component or response
_KINDS = {"response": "Responses", "component": "Components", "dimension": "Dimensions of the code"}


def gene_sets_section(
    model: Any,
    gene_sets: str | os.PathLike[str] | None,
    *,
    modality: str,
    responses: Sequence[Response],
    progress: bool = False,
) -> dict[str, Any] | None:
    """The sets that stand out most, by kind; None where no sets are given.

    Parameters
    ----------
    model
        A `chreode.FittedModel`.
    gene_sets
        A GMT file.
    modality
        Whose features are ranked.
    responses
        From `private.responses_of`.
    progress
        Whether to show a bar.

    Raises
    ------
    InputError
        For a file that holds no sets of the model's features, as `chreode.enrichment` does.
    """
    if gene_sets is None:
        return None
    found = [enrichment(model, gene_sets, modality=modality, progress=progress)]
    called = _symbols(model, modality)
    for one in responses:
        ranked: Any = one.change.rename(index=called)
        ranked = ranked.loc[~ranked.index.duplicated()]
        ranked.columns = [f"{group}, {one.before} to {one.after}" for group in ranked.columns]
        if (ranked.max() > ranked.min()).all():  # a decoder that does not see the level says nothing
            found.append(enrichment(ranked, gene_sets).assign(kind="response"))
    table = pd.concat(found, ignore_index=True)
    passed = table.loc[table["q_value"] <= FDR].sort_values(by="p_value", kind="stable")
    kinds = []
    for kind, title in _KINDS.items():
        names = table.loc[table["kind"] == kind, "name"].drop_duplicates()
        if len(names):
            cards = [_card(passed, kind, name) for name in names]
            kinds.append({"title": title, "names": len(names), "cards": [c for c in cards if c["rows"]]})
    return {"kinds": kinds, "background": found[0].attrs["features"], "fdr": f"{100 * FDR:g}"}


def _symbols(model: Any, modality: str) -> dict[str, str]:
    """What sets may call each feature."""
    described = model.layout.modalities[modality]
    return dict(zip(described.names, described.symbols or described.names, strict=True))


def _card(passed: pd.DataFrame, kind: str, name: str) -> dict[str, Any]:
    mine = passed.loc[(passed["kind"] == kind) & (passed["name"] == name)].head(SETS)
    rows = [
        {
            "set": readable(str(row["set"])),
            "up": row["direction"] == "up",
            "q": f"{row['q_value']:.1g}",
            "genes": str(row["leading"]),
        }
        for row in mine.to_dict("records")
    ]
    return {"name": str(name), "rows": rows}
