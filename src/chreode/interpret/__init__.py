"""What codes, components and groups of cells mean: differences, with donors as replicates."""

from __future__ import annotations

from chreode.interpret.differential import de, volcano_figure
from chreode.interpret.pseudobulk import pseudobulk

__all__ = ["de", "pseudobulk", "volcano_figure"]
