"""What a model expects when something is changed: which peaks close when a gene falls silent."""

from chreode.perturb.answers import response, response_figure
from chreode.perturb.counterfactual import counterfactual
from chreode.perturb.linkage import linkage, linkage_figure

__all__ = ["counterfactual", "linkage", "linkage_figure", "response", "response_figure"]
