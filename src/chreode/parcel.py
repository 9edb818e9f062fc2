"""Cells as plain files for another process of ours: tensors and JSON, nothing that runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chreode.cells import CSR, Cells, Reading
from chreode.layout import Layout

if TYPE_CHECKING:
    from chreode.axes import Tensor

__all__ = ["read_cells", "write_cells"]

TENSORS, FACTS = "cells.safetensors", "cells.json"
_FIELDS = ("size", "present", "covariates", "panels", "panel", "readout")


def write_cells(folder: str | Path, cells: Cells) -> None:
    """Write cells with what was measured in them.

    Parameters
    ----------
    folder
        It exists.
    cells
        On the CPU.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {"index": cells.index}
    widths = {}
    for name, measured in cells.measured.items():
        if isinstance(measured, CSR):
            widths[name] = measured.width
            for part in ("crow", "col", "value"):
                tensors[f"measured.{name}.{part}"] = getattr(measured, part)
        else:
            tensors[f"measured.{name}"] = measured
    for field in _FIELDS:
        tensors |= {f"{field}.{name}": value for name, value in getattr(cells, field).items()}
    facts = {
        "layout": cells.layout.to_json(),
        "reading": cells.reading.to_json(),
        "names": [str(name) for name in cells.names],
        "widths": widths,
    }
    # The format refuses views of shared memory, which slices of cells are.
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, Path(folder) / TENSORS)
    (Path(folder) / FACTS).write_text(json.dumps(facts), encoding="utf-8")


def read_cells(folder: str | Path) -> Cells:
    """Read what `write_cells` wrote; several processes share the memory of one file.

    Parameters
    ----------
    folder
        Where they were written.
    """
    from safetensors.torch import load_file

    tensors = load_file(Path(folder) / TENSORS)
    facts = json.loads((Path(folder) / FACTS).read_text(encoding="utf-8"))
    layout, widths = Layout.from_json(facts["layout"]), facts["widths"]

    def measured(name: str) -> CSR | Tensor:
        if name not in widths:
            return tensors[f"measured.{name}"]
        crow, col, value = (tensors[f"measured.{name}.{part}"] for part in ("crow", "col", "value"))
        return CSR(crow, col, value, widths[name])

    def under(field: str) -> dict[str, Any]:
        return {k.removeprefix(f"{field}."): v for k, v in tensors.items() if k.startswith(f"{field}.")}

    return Cells(
        layout,
        names=facts["names"],
        index=tensors["index"],
        measured={name: measured(name) for name in layout.modalities},
        reading=Reading.from_json(facts["reading"]),
        **{field: under(field) for field in _FIELDS},
    )
