"""Scrublet's scores of one matrix of counts, in the peers' environment: file, expected rate, seed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import scrublet

path, rate, seed = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
peer = scrublet.Scrublet(sp.csc_matrix(sp.load_npz(path)), expected_doublet_rate=rate, random_state=seed)
scores, _ = peer.scrub_doublets(min_counts=2, min_cells=3, min_gene_variability_pctl=85, n_prin_comps=30)
np.save(path.with_suffix(".out.npy"), scores)
