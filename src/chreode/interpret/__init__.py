"""What codes, components and groups of cells mean: loadings, markers, differences between donors."""

from __future__ import annotations

from chreode.interpret.abundance import abundance, abundance_figure
from chreode.interpret.attribute_scores import attribute_scores
from chreode.interpret.differential import de, volcano_figure
from chreode.interpret.directions import component_scores, dimension_scores, mean_jacobian
from chreode.interpret.enrichment import enrichment
from chreode.interpret.fates import fates
from chreode.interpret.interactions import interactions
from chreode.interpret.loadings import loadings, variance_explained
from chreode.interpret.markers import markers
from chreode.interpret.match import match
from chreode.interpret.matches import Matches, match_figure
from chreode.interpret.naming import enrichment_figure, name_dimensions
from chreode.interpret.pseudobulk import pseudobulk
from chreode.interpret.resolution import correlation_figure, multiresolution

__all__ = [
    "Matches",
    "abundance",
    "abundance_figure",
    "attribute_scores",
    "component_scores",
    "correlation_figure",
    "de",
    "dimension_scores",
    "enrichment",
    "enrichment_figure",
    "fates",
    "interactions",
    "loadings",
    "markers",
    "match",
    "match_figure",
    "mean_jacobian",
    "multiresolution",
    "name_dimensions",
    "pseudobulk",
    "variance_explained",
    "volcano_figure",
]
