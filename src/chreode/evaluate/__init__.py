"""Honest scores: pure functions of arrays.

`fidelity` asks how well predictions hold molecules, `clustering` and `integration` what an embedding keeps
of labels and loses of batches, `marginals` whether samples look like cells, `disentangled` what blocks of a
code tell, `response` how right a predicted change is; `score_embedding` gathers what applies,
`integration_scores` the scores of scIB.
"""

from chreode.evaluate.changes import change_scores, effect_weights
from chreode.evaluate.clustering import (
    agreement,
    ari,
    component_table,
    kmeans,
    leiden,
    neighbour_accuracy,
    nmi,
)
from chreode.evaluate.disentangled import information_gap, probe_blocks
from chreode.evaluate.fidelity import (
    coverage,
    label_profile_nats,
    mean_profile_nats,
    nats_per_molecule,
    pit_coverage,
    rmse,
    zero_fraction,
)
from chreode.evaluate.graphs import connected_share, fuzzy_graph
from chreode.evaluate.integration import (
    batch_accuracy,
    batch_mixing,
    graph_connectivity,
    label_lisi,
    lisi,
    silhouette_batch,
)
from chreode.evaluate.labels import calibration_error, predict_labels
from chreode.evaluate.local import clisi, ilisi, kbet, kbet_per_label, weighted_lisi
from chreode.evaluate.marginals import compare_components, compare_samples, dispersion_bias, two_sample_auc
from chreode.evaluate.matrices import Rows
from chreode.evaluate.medoids import k_medoids
from chreode.evaluate.neighbours import neighbourhoods
from chreode.evaluate.response import cell_scores, mean_change, response_scores, split_half_ceiling
from chreode.evaluate.scib import integration_scores, pcr_comparison
from chreode.evaluate.scores import score_embedding
from chreode.evaluate.silhouettes import bras, isolated_labels, silhouette_label

__all__ = [
    "Rows",
    "agreement",
    "ari",
    "batch_accuracy",
    "batch_mixing",
    "bras",
    "calibration_error",
    "cell_scores",
    "change_scores",
    "clisi",
    "compare_components",
    "compare_samples",
    "component_table",
    "connected_share",
    "coverage",
    "dispersion_bias",
    "effect_weights",
    "fuzzy_graph",
    "graph_connectivity",
    "ilisi",
    "information_gap",
    "integration_scores",
    "isolated_labels",
    "k_medoids",
    "kbet",
    "kbet_per_label",
    "kmeans",
    "label_lisi",
    "label_profile_nats",
    "leiden",
    "lisi",
    "mean_change",
    "mean_profile_nats",
    "nats_per_molecule",
    "neighbour_accuracy",
    "neighbourhoods",
    "nmi",
    "pcr_comparison",
    "pit_coverage",
    "predict_labels",
    "probe_blocks",
    "response_scores",
    "rmse",
    "score_embedding",
    "silhouette_batch",
    "silhouette_label",
    "split_half_ceiling",
    "two_sample_auc",
    "weighted_lisi",
    "zero_fraction",
]
