"""What codes, components and groups of cells mean: loadings, markers, differences between donors."""

from __future__ import annotations

from chreode.interpret.abundance import abundance, abundance_figure
from chreode.interpret.differential import de, volcano_figure
from chreode.interpret.fates import fates
from chreode.interpret.interactions import interactions
from chreode.interpret.loadings import loadings, variance_explained
from chreode.interpret.markers import markers
from chreode.interpret.pseudobulk import pseudobulk

__all__ = [
    "abundance",
    "abundance_figure",
    "de",
    "fates",
    "interactions",
    "loadings",
    "markers",
    "pseudobulk",
    "variance_explained",
    "volcano_figure",
]
