"""Scrublet's scores in the peers' environment, of any number of: file of counts, expected rate, seed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import scrublet

for file, rate, seed in zip(*[iter(sys.argv[1:])] * 3, strict=True):
    peer = scrublet.Scrublet(
        sp.csc_matrix(sp.load_npz(file)), expected_doublet_rate=float(rate), random_state=int(seed)
    )
    scores, _ = peer.scrub_doublets(verbose=False)
    np.save(Path(file).with_suffix(".out.npy"), scores)
