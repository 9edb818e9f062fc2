"""Held-out molecules of cells under a fitted model, beside what must be beaten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chreode import posthoc
from chreode.cells import CSR, Cells
from chreode.evaluate.fidelity import coverage, label_profile_nats, mean_profile_nats, rmse, zero_fraction
from chreode.held_out import halves, nats

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import scipy.sparse as sp

    from chreode.axes import Tensor
    from chreode.parts import Observed

__all__ = ["scores"]

_CHUNK = 512
_DRAWN = 1_000_000  # entries of cells x features that coverage draws for


def scores(
    model: Any, cells: Cells, *, modalities: Sequence[str], seed: int = 0
) -> dict[str, dict[str, float]]:
    r"""Score held-out molecules of cells that a model did not train on, modality by modality.

    What was measured is thinned into binomial halves; codes are inferred from one half of every modality (by
    the model's encoders where it has some), and the other half is scored, in cells that have the modality:

    .. math:: -\frac{\sum_{ig} x_{ig} \log \rho_{ig}}{\sum_{ig} x_{ig}}

    Parameters
    ----------
    model
        A `chreode.FittedModel`.
    cells
        Read for this model, with counts, not among those that trained.
    modalities
        Which of them to score.
    seed
        Of the thinning and the draws.

    Returns
    -------
    By modality. For counts ``nats_per_molecule``; ``mean_profile``, the score of one profile for all cells,
    and ``gain``, how much lower the model's is; where the model was fitted with labels ``label_profile`` and
    ``label_gain``, the same for the mean profile of the cell's label; ``molecules`` and ``cells`` scored;
    ``zero_fraction_observed``, ``zero_fraction_expected`` and ``zero_fraction_gene_error`` of the scored
    half; ``negative_log_likelihood`` of the scored half, in nats a cell, dispersion included; ``rmse`` of its
    counts scaled to 10,000 a cell; ``coverage_90`` of its central 90 % predictive intervals, over about a
    million entries of random cells.

    Profiles are of the counts of the training cells. A model loaded from disk has none: its profiles are what
    the decoder expects of the training cells, and are called ``mean_decoded_profile`` and
    ``label_decoded_profile``.

    For other values ``nats_per_value``, ``values`` and ``cells``: a random half of the features is scored.

    Raises
    ------
    InputError
        When there is no molecule to score.
    """
    generator = torch.Generator().manual_seed(seed)
    first, second = halves(cells, generator)
    codes = posthoc.project(model.module, first, encoders=model.encoders)
    return {m: _score(model, second, codes, m, generator, seed) for m in modalities}


def _score(
    model: Any, second: Cells, codes: dict[str, Tensor], modality: str, generator: torch.Generator, seed: int
) -> dict[str, float]:
    here = second.present[modality]
    second, codes = second[here], {name: z[here] for name, z in codes.items()}
    prediction = _Prediction(model.module, second, codes, modality)
    spent = [prediction.nats(rows) for rows in _slices(len(second))]
    nats_spent, number = (float(sum(part[i] for part in spent)) for i in (0, 1))
    measured = second.measured[modality]
    if second.layout.modalities[modality].kind != "counts" or not isinstance(measured, CSR):
        return {"nats_per_value": nats_spent / max(number, 1.0), "values": int(number), "cells": len(second)}
    test = measured.scipy()[:, prediction.features]
    by_profile = _profiles(model.embedded, second, test, prediction.features, modality)
    value = nats_spent / max(number, 1.0)
    found = {"nats_per_molecule": value, **by_profile}
    found |= {_gain(name): profile - value for name, profile in by_profile.items()}
    zeros = zero_fraction(test, prediction.zeros, block=_CHUNK)
    some = np.random.default_rng(seed).permutation(len(second))[: max(20, _DRAWN // max(1, test.shape[1]))]
    drawn = _Prediction(model.module, second[some], {k: z[some] for k, z in codes.items()}, modality)
    return {
        **found,
        "molecules": int(number),
        "cells": len(second),
        "zero_fraction_observed": zeros["observed"],
        "zero_fraction_expected": zeros["expected"],
        "zero_fraction_gene_error": zeros["gene_error"],
        "negative_log_likelihood": -sum(map(prediction.log_prob, _slices(len(second)))) / len(second),
        "rmse": rmse(test, prediction.proportions, block=_CHUNK),
        "coverage_90": coverage(test[some], lambda rows: drawn.draw(rows, generator), level=0.9),
    }


def _gain(profile: str) -> str:
    return "gain" if profile.startswith("mean") else "label_gain"


def _slices(n: int) -> Iterator[slice]:
    for at in range(0, n, _CHUNK):
        yield slice(at, min(at + _CHUNK, n))


class _Prediction:
    """What codes predict of cells, a slice at a time; the last slice is kept, since draws repeat it."""

    def __init__(self, module: Any, cells: Cells, codes: dict[str, Tensor], modality: str) -> None:
        self.module, self.cells, self.codes, self.modality = module, cells, codes, modality
        mask = cells.panels.get(modality)
        width = cells.layout.modalities[modality].n_features
        self.features = np.arange(width) if mask is None else np.flatnonzero(mask.all(0).numpy())
        self.kept: tuple[slice, Observed] | None = None

    @torch.no_grad()
    def observed(self, rows: slice) -> Any:
        if self.kept is None or self.kept[0] != rows:
            z = {name: value[rows] for name, value in self.codes.items()}
            observed: Any = self.module.trace(z, self.cells[rows]).observed[self.modality]
            # Where it is not given the total, it is of whole cells, and these are halves.
            self.kept = rows, observed.thinned(0.5) if hasattr(observed, "thinned") else observed
        return self.kept[1]

    def nats(self, rows: slice) -> tuple[float, float]:
        return nats(self.observed(rows), self.cells[rows], self.modality)

    def log_prob(self, rows: slice) -> float:
        return float(self.observed(rows).log_prob(self.cells[rows].measured[self.modality]).double().sum())

    def proportions(self, rows: slice) -> np.ndarray:
        share = self.observed(rows).proportions.numpy()[:, self.features]
        return share / np.maximum(share.sum(1, keepdims=True), 1e-30)

    def zeros(self, rows: slice) -> np.ndarray:
        return self.observed(rows).zero_probability.numpy()[:, self.features]

    def draw(self, rows: slice, generator: torch.Generator) -> np.ndarray:
        return self.observed(rows).sample(generator).numpy()[:, self.features]


def _profiles(
    embedded: Any, cells: Cells, test: sp.csr_matrix, features: np.ndarray, modality: str
) -> dict[str, float]:
    """Nats of the mean profile, and of the label's where there are labels."""
    if not embedded.trained.any():
        return {}
    label = embedded.cells.layout.in_role("label")
    label = label if label is not None and label.categorical else None
    sums = _sums(embedded, modality, label)[:, features]
    decoded = "" if modality in embedded.cells.measured else "_decoded"
    found = {f"mean{decoded}_profile": mean_profile_nats(sums, test)}
    if label is not None:
        levels = [*label.levels, None]
        of_test = cells.level_names(label.column)
        found[f"label{decoded}_profile"] = label_profile_nats(sums, levels, test, of_test)
    return found


def _sums(embedded: Any, modality: str, label: Any) -> sp.csr_matrix:
    """The training cells added up by label, ``(c + 1) x g``: profiles need no more of them.

    The last row is of cells without a label. Without counts, what the decoder expects of the cells' totals.
    """
    import scipy.sparse as sp

    n, g = len(embedded), embedded.cells.layout.modalities[modality].n_features
    levels = 0 if label is None else len(label.levels)
    group = np.full(n, levels) if label is None else embedded.cells.covariates[label.column].numpy().copy()
    group[group < 0] = levels
    sums = np.zeros((levels + 1, g))
    measured: Any = embedded.cells.measured.get(modality)
    size = embedded.cells.size[modality].numpy()
    counted = measured is not None
    for rows, expected in ((r, None) for r in _slices(n)) if counted else embedded.expected_chunks(modality):
        chosen = np.flatnonzero(embedded.trained[rows])
        block: Any = (
            measured.take(torch.from_numpy(chosen + rows.start)).scipy()
            if expected is None
            else expected[chosen] * size[rows][chosen, None]
        )
        place = (group[rows][chosen], np.arange(len(chosen)))
        member: Any = sp.csr_matrix((np.ones(len(chosen)), place), shape=(levels + 1, len(chosen)))
        sums += member @ block
    return sp.csr_matrix(sums)
