"""What a model expects when something is changed: which peaks close when a gene falls silent."""

from chreode.perturb.linkage import linkage, linkage_figure

__all__ = ["linkage", "linkage_figure"]
