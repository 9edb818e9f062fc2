"""Whether cells are like those of a fit: how many of its held-out cells are less unusual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chreode import posthoc
from chreode.axes import Float, Int, Tensor
from chreode.errors import InputError
from chreode.memory import cells_at_a_time
from chreode.settle import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chreode.cells import Cells

__all__ = ["Reference", "hidden_codes", "kept_reference", "outliers", "reference_of", "surprise"]

_REFERENCE = 1000  # held-out cells, at most
_KNOWN = 20_000  # training cells among which neighbours are looked for, at most
_NEIGHBOURS = 10
_DRAWS = 10


@dataclass(frozen=True)
class Reference:
    """Fitted cells that new ones are compared with: held-out ones, or trained ones where none were held out.

    Kept with a saved model, which has no counts to compute it from.

    Parameters
    ----------
    rows
        Their positions among the fitted cells, ``r``.
    codes
        By latent, inferred without looking at labels, ``r x d``.
    surprise
        Of each, ``r``, as `surprise` says.
    """

    rows: Int[Tensor, " r"]
    codes: Mapping[str, Float[Tensor, "r d"]]
    surprise: Float[Tensor, " r"]

    def tensors(self) -> dict[str, Tensor]:
        """Flat, for a file that `from_tensors` reads."""
        codes = {f"reference.codes.{name}": value for name, value in self.codes.items()}
        return {"reference.rows": self.rows, "reference.surprise": self.surprise, **codes}

    @classmethod
    def from_tensors(cls, kept: Mapping[str, Tensor]) -> Reference | None:
        """What `tensors` wrote among others; None where there is none."""
        if "reference.rows" not in kept:
            return None
        start = "reference.codes."
        codes = {name.removeprefix(start): value for name, value in kept.items() if name.startswith(start)}
        return cls(kept["reference.rows"], codes, kept["reference.surprise"])


def reference_of(model: Any) -> Reference:
    """The reference of a `chreode.FittedModel`: what was saved with it, or computed from its counts.

    Raises
    ------
    InputError
        When there is neither.
    """
    if model.reference is not None:
        return model.reference
    embedded = model.embedded
    if not embedded.cells.measured or not embedded.trained.any():
        msg = (
            "Expected a model that was saved with its cells and read with a label; found none to compare new "
            "cells with. Fit with label=COLUMN, and save with cells=True."
        )
        raise InputError(msg)
    held_out = np.flatnonzero(~embedded.trained)
    candidates = held_out if len(held_out) else np.arange(len(embedded))
    chosen = np.random.default_rng(0).permutation(len(candidates))[:_REFERENCE]
    rows = torch.from_numpy(np.sort(candidates[chosen]))
    cells = embedded.cells[rows]
    codes = hidden_codes(model, cells, {name: value[rows] for name, value in embedded.codes.items()})
    return Reference(rows, codes, surprise(model.module, cells, codes))


def kept_reference(model: Any) -> dict[str, Tensor]:
    """What a saved model keeps to predict labels with: its reference, where it was read with a label."""
    label, embedded = model.layout.in_role("label"), model.embedded
    there = model.reference is not None or (bool(embedded.cells.measured) and embedded.trained.any())
    return reference_of(model).tensors() if there and label is not None and label.categorical else {}


def hidden_codes(
    model: Any, cells: Cells, codes: Mapping[str, Tensor], *, show: str | None = None
) -> dict[str, Tensor]:
    """Codes that do not know the labels: those given, unless a prior places cells by their labels.

    Raises
    ------
    InputError
        When they must be inferred, and the cells have no counts.
    """
    label = cells.layout.in_role("label")
    columns = {latent.column for latent in model.module.latents.values()}
    if label is None or not columns & {label.column, "label"}:
        return dict(codes)
    if not (cells.covariates[label.column] >= 0).any():
        return dict(codes)
    _refuse_without_counts(cells)
    return posthoc.project(model.module, cells, encoders=model.encoders, show=show)


def _refuse_without_counts(cells: Cells) -> None:
    if not cells.measured:
        msg = (
            "Expected cells with their counts; found those of a loaded model, which has none. Give the data: "
            "predict_labels(source)."
        )
        raise InputError(msg)


def surprise(
    module: Any,
    cells: Cells,
    codes: Mapping[str, Float[Tensor, "n d"]],
    *,
    seed: int = 0,
    show: str | None = None,
) -> Float[Tensor, " n"]:
    r"""How much less probable a cell's values are than what its own code would produce.

    .. math:: t_i = \frac{E[\log p(\tilde x \mid z_i)] - \log p(x_i \mid z_i)}
                         {\mathrm{sd}[\log p(\tilde x \mid z_i)]}, \qquad \tilde x \sim p(x \mid z_i)

    Mean and deviation are of ten draws under the cell's own totals and covariates, so that a shallow cell is
    compared with shallow ones.

    Parameters
    ----------
    module
        The model.
    cells
        With counts.
    codes
        By latent.
    seed
        Of the draws.
    show
        What a progress bar says; None shows none.
    """
    from tqdm.auto import tqdm

    _refuse_without_counts(cells)
    generator = torch.Generator().manual_seed(seed)
    chunk = cells_at_a_time(cells.layout.width)
    found = [torch.zeros(0)]
    with frozen(module), torch.no_grad():
        for at in tqdm(range(0, len(cells), chunk), desc=show, disable=show is None, unit="chunk"):
            some = cells[slice(at, at + chunk)]
            observed = module.trace({name: z[at : at + chunk] for name, z in codes.items()}, some).observed

            def log_prob(values: Mapping[str, Any], some: Cells = some, observed: Any = observed) -> Tensor:
                parts = [observed[m].log_prob(x) * some.present[m] for m, x in values.items()]
                return torch.stack(parts).sum(0)

            drawn = torch.stack(
                [log_prob({m: o.sample(generator) for m, o in observed.items()}) for _ in range(_DRAWS)]
            )
            below = drawn.mean(0) - log_prob({m: some.measured[m] for m in observed})
            found.append(below / drawn.std(0).clamp(min=1e-6))
    return torch.cat(found)


def outliers(
    model: Any,
    cells: Cells,
    codes: Mapping[str, Float[Tensor, "n d"]],
    reference: Reference,
    *,
    rows: Int[Tensor, " n"] | None = None,
    seed: int = 0,
    show: str | None = None,
) -> Float[np.ndarray, " n"]:
    r"""The share of the fit's held-out cells that are less unusual than each cell, in [0, 1).

    .. math:: o_i = 1 - p(e_i), \qquad e_i = -\log p(d_i) - \log p(t_i), \qquad
              p(s) = \frac{1 + \#\{j : s_j \ge s\}}{1 + r}

    with :math:`d` the distance of a code to the tenth nearest one among the cells that trained, :math:`t` the
    `surprise` of its values, and :math:`j` the :math:`r` held-out cells (at most 1,000; where none were held
    out, cells that trained). Cells like those of the fit are spread evenly over [0, 1): 5 % of them are above
    0.95.

    Parameters
    ----------
    model
        A `chreode.FittedModel`.
    cells
        With counts.
    codes
        By latent, inferred without looking at labels.
    reference
        From `reference_of`.
    rows
        Positions among the fitted cells, where the cells are of these; a cell is not its own neighbour.
    seed
        Of the draws.
    show
        What a progress bar says; None shows none.

    References
    ----------
    Sun, Ming, Zhu and Li (2022), Out-of-distribution detection with deep nearest neighbors,
    doi:10.48550/arXiv.2204.06507; Bates, Candès, Lei, Romano and Sesia (2023), Testing for outliers with
    conformal p-values, doi:10.1214/22-AOS2244. Their combination is chreode's own.
    """
    code = model.code
    distance = _Distance(model.embedded, code)
    known = [distance(reference.codes[code], reference.rows), reference.surprise.numpy()]
    new = [distance(codes[code], rows), surprise(model.module, cells, codes, seed=seed, show=show).numpy()]
    of_known = -np.log([_among(one, one) for one in known]).sum(0)
    of_new = -np.log([_p_value(one, of) for one, of in zip(new, known, strict=True)]).sum(0)
    return 1.0 - _p_value(of_new, of_known)


def _p_value(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Share of reference cells at least as extreme, the new one counted among them."""
    return (1 + len(among) - np.searchsorted(np.sort(among), values, side="left")) / (1 + len(among))


def _among(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The same for cells that are among the reference already."""
    return (len(among) - np.searchsorted(np.sort(among), values, side="left")) / len(among)


class _Distance:
    """Distance of codes to the tenth nearest of the cells that trained, themselves left out."""

    def __init__(self, embedded: Any, code: str) -> None:
        from sklearn.neighbors import NearestNeighbors

        trained = np.flatnonzero(embedded.trained)
        some = np.random.default_rng(0).permutation(trained)[:_KNOWN]
        self.inside = np.zeros(len(embedded), dtype=bool)
        self.inside[some] = True
        self.number = min(_NEIGHBOURS, len(some) - 1)
        self.nearest = NearestNeighbors(n_neighbors=self.number + 1)
        self.nearest.fit(embedded.codes[code][torch.from_numpy(some)].numpy())

    def __call__(self, z: Float[Tensor, "n d"], rows: Int[Tensor, " n"] | None) -> np.ndarray:
        if not len(z):
            return np.zeros(0)
        far, _ = self.nearest.kneighbors(z.numpy())
        own = np.zeros(len(z), dtype=bool) if rows is None else self.inside[rows.numpy()]
        return np.where(own, far[:, self.number], far[:, self.number - 1])
