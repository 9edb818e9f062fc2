"""Honest scores: pure functions of arrays.

`fidelity` asks how well predictions hold molecules, `clustering` and `integration` what an embedding keeps
of labels and loses of batches, `marginals` whether samples look like cells; `score_embedding` gathers what
applies.
"""

from chreode.evaluate.clustering import (
    agreement,
    ari,
    component_table,
    kmeans,
    leiden,
    neighbour_accuracy,
    nmi,
)
from chreode.evaluate.fidelity import (
    coverage,
    label_profile_nats,
    mean_profile_nats,
    nats_per_molecule,
    pit_coverage,
    rmse,
    zero_fraction,
)
from chreode.evaluate.integration import (
    batch_accuracy,
    batch_mixing,
    graph_connectivity,
    label_lisi,
    lisi,
    silhouette_batch,
)
from chreode.evaluate.marginals import compare_components, compare_samples, dispersion_bias, two_sample_auc
from chreode.evaluate.matrices import Rows
from chreode.evaluate.scores import score_embedding

__all__ = [
    "Rows",
    "agreement",
    "ari",
    "batch_accuracy",
    "batch_mixing",
    "compare_components",
    "compare_samples",
    "component_table",
    "coverage",
    "dispersion_bias",
    "graph_connectivity",
    "kmeans",
    "label_lisi",
    "label_profile_nats",
    "leiden",
    "lisi",
    "mean_profile_nats",
    "nats_per_molecule",
    "neighbour_accuracy",
    "nmi",
    "pit_coverage",
    "rmse",
    "score_embedding",
    "silhouette_batch",
    "two_sample_auc",
    "zero_fraction",
]
