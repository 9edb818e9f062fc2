"""What a user's data is given of embedded cells: codes, components, expected values, provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chreode import storage
from chreode.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import numpy as np
    import pandas as pd

    from chreode.axes import Int

__all__ = ["write"]


def write(
    embedded: Any,
    adata: ad.AnnData | Mapping[str, ad.AnnData],
    *,
    expected: Sequence[str],
    key: str | None,
) -> None:
    """Write into the user's AnnData, or several by name; see `chreode.embedded.Embedded.write`."""
    prefix = _key(key or embedded.recipe)
    several: Mapping[str, ad.AnnData] = adata if isinstance(adata, Mapping) else {"": adata}
    places = [(one, _positions(embedded, one, name)) for name, one in several.items()]
    tables = {name: _expected_table(embedded, name) for name in expected}
    for one, position in places:
        _write(embedded, one, position, prefix)
        for name, table in tables.items():
            one.obsm[_key(f"{prefix}_expected_{name}")] = table.iloc[position].set_axis(one.obs_names)


def _expected_table(embedded: Any, modality: str) -> pd.DataFrame:
    import pandas as pd

    described = embedded.cells.layout.modalities[embedded.modality(modality)]
    size = 10_000 if described.kind == "counts" else None
    return pd.DataFrame(embedded.expected(modality, size=size), columns=pd.Index(described.names))


def _positions(embedded: Any, adata: ad.AnnData, name: str = "") -> Int[np.ndarray, " n"]:
    """Where the cells of a table, which was read under a name, are among these."""
    import pandas as pd

    known, cells = pd.Index(embedded.names), pd.Index(adata.obs_names.astype(str))
    position = known.get_indexer(cells)
    if name and (position < 0).any():
        position = known.get_indexer(f"{name}:" + cells)
    if not (position < 0).any():
        return position
    lost, after = cells[position < 0], {str(cell).partition(":")[2] for cell in embedded.names}
    msg = f"Expected a table of the embedded cells; found {len(lost)} others ({', '.join(lost[:3])}, ...). "
    if after.issuperset(cells):
        msg += "Several sets were read by name: write({'a': ..., 'b': ...}) as they were read."
    elif known.isin(cells).all():
        msg += "Write into these alone: some = adata[embedded.names].copy(), then embedded.write(some)."
    else:
        msg += "Write into the data that was read, or project these cells first."
    raise InputError(msg)


def _key(name: str) -> str:
    """A name of an entry: HDF5 takes a slash for a group."""
    return name.replace("/", "_")


def _write(embedded: Any, adata: ad.AnnData, position: Int[np.ndarray, " n"], key: str) -> None:
    import pandas as pd

    for name, value in embedded.embeddings.items():
        adata.obsm[f"X_{key}" if name == embedded.code else _key(f"X_{key}_{name}")] = value[position]
    if int(embedded.module.latents[embedded.code].prior.count) > 0:
        probabilities = embedded.probabilities()[position]
        adata.obsm[f"{key}_probabilities"] = probabilities
        chosen = pd.Categorical.from_codes(probabilities.argmax(1), categories=embedded.component_names)
        adata.obs[f"{key}_component"] = chosen
    adata.obs[f"{key}_trained"] = embedded.trained[position]
    adata.uns["chreode"] = json.dumps(
        {
            "recipe": embedded.recipe,
            "reading": embedded.cells.reading.to_json(),
            "versions": storage.versions(),
        }
    )
