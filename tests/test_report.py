"""The report: what it gathers, that it cannot be broken by names, and that it works in a browser."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from base64 import b64decode
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch

from chreode.cells import Cells, Covariate, Layout, Modality, Reading
from chreode.csr import CSR
from chreode.errors import InputError
from chreode.report import (
    collect,
    component_by_level,
    components_graph,
    figures,
    markers_of,
    project_2d,
    render,
    write_report,
)
from chreode.report.draw import graph, line_charts, number, ticks
from chreode.report.pack import fold, pack, quantise, unpack
from chreode.report.palette import CATEGORICAL

TYPES = ("B cells", "CD4 T cells", "CD8 T cells", "NK cells", "Monocytes")
NASTY = '</script><img src=x onerror="window.pwned=1">'


class FakeEmbedded:
    """Cells in clusters, decoded by what each cluster expects."""

    def __init__(self, cells, codes, components, means):
        self.cells, self.embedding, self.means = cells, codes, means
        self._components, self.names = components, cells.names
        self.trained = np.arange(len(cells)) % 10 != 0

    def components(self):
        return self._components

    def probabilities(self):
        p = np.full((len(self.cells), len(self.means)), 0.02)
        p[np.arange(len(p)), self._components] = 1 - 0.02 * (p.shape[1] - 1)
        return p

    def expected(self, modality=None, *, size=1.0, features=None):
        names = list(self.cells.layout.modalities[modality or "rna"].names)
        columns = slice(None) if features is None else [names.index(f) for f in features]
        return size * self.means[self._components][:, columns].astype(np.float32)


class FakeModel:
    """What the report asks of a `FittedModel`."""

    def __init__(self, cells, codes, components, means, supervised=False):
        self.embedded = FakeEmbedded(cells, codes, components, means)
        self.layout, self.reading = cells.layout, cells.reading
        self.recipe = SimpleNamespace(name="scdgd", arguments={"dim": codes.shape[1], "supervised": supervised})
        epoch = np.arange(1, 41)
        self.history = pd.DataFrame(
            {
                "epoch": epoch,
                "seconds": 0.3 * epoch,
                "loss": 900 + 400 * np.exp(-epoch / 6),
                "reconstruction": 880 + 390 * np.exp(-epoch / 6),
                "prior": 20 + 10 * np.exp(-epoch / 6),
                "hyperprior": 0.1 + 0 * epoch,
                "validation": [5.0 + 0.4 * np.exp(-e / 5) + 0.002 * e if e % 4 == 0 else None for e in epoch],
                "event": ["" if e != 12 else "place_means" for e in epoch],
            }
        )

    def component_means(self, modality=None):
        return self.embedded.means

    def cite(self):
        return "@article{schuster2023,\n  title={The Deep Generative Decoder}\n}"


def made(n=600, g=80, *, d=2, seed=0, counts=True, **changes):
    """A model and its cells: five clusters, two of them near, ten markers each."""
    rng = np.random.default_rng(seed)
    k = len(TYPES)
    components = rng.integers(0, k, n)
    centres = rng.normal(size=(k, d)) * 6
    centres[2] = centres[1] + 2.2
    codes = (centres[components] + rng.normal(size=(n, d))).astype(np.float32)
    profile = np.tile(rng.gamma(0.6, 1.0, g) + 0.01, (k, 1))
    for c in range(k):
        profile[c, 10 * c : 10 * c + 10] *= rng.uniform(4, 20, 10)
    means = profile / profile.sum(1, keepdims=True)
    x = rng.poisson(means[components] * rng.lognormal(6, 0.3, n)[:, None])
    names = [f"GENE{i}" for i in range(g)]
    label = Covariate("cell_type", "label", TYPES)
    batch = Covariate("donor", "batch", ("d1", "d2", "d3"))
    age = Covariate("age", "covariate", location=50.0, scale=10.0)
    layout = Layout(n, {"rna": Modality(tuple(names))}, {c.column: c for c in (batch, age, label)})
    labels = np.where(rng.random(n) < 0.03, -1, np.where(rng.random(n) < 0.05, rng.integers(0, k, n), components))
    cells = Cells(
        changes.pop("layout", layout),
        names=[f"cell{i}" for i in range(n)],
        measured={"rna": CSR.of(x)},
        covariates={
            "donor": torch.from_numpy(rng.integers(0, 3, n)),
            "age": torch.from_numpy(rng.normal(size=n).astype(np.float32)),
            "cell_type": torch.from_numpy(labels),
        },
        reading=Reading("pbmc.h5ad", {"counts": "counts", "label": "cell_type"}, ("3 cells hold no count.",), 2000),
    )
    model = FakeModel(cells, codes, components, means, **changes)
    return model, cells if counts else cells.replace(measured={})


SCORES = {
    "nats_per_molecule": 5.05,
    "component_ari": np.float32(0.71),
    "own_number": float("nan"),
    "by embedding": {"scdgd": {"ari": 0.7, "nmi": 0.8}, "PCA": {"ari": 0.6}},
}
