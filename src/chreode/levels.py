"""Batches and covariates' levels that a model was not trained with: each gets a component of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from chreode.cells import Cells
from chreode.decoders.seen import Seen
from chreode.errors import InputError
from chreode.fitted import FittedModel
from chreode.io.read import read
from chreode.priors import LabelledMixture
from chreode.settle import infer_codes
from chreode.words import listing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chreode.axes import Tensor
    from chreode.layout import Layout
    from chreode.model import LatentModel

__all__ = ["add_levels"]

_ROUNDS = 10
# A mean that moves less than this share of its component's standard deviation has arrived.
_ARRIVED = 0.02
_STEPS = 50


def add_levels(model: FittedModel, source: Any, *, progress: bool = False) -> FittedModel:
    r"""A model that also knows the levels of new cells: each gets a component, which alone is fitted.

    .. math:: y_{ic} \sim N(\nu_{c, \text{new}}, \sigma_c^2 I), \qquad
              \nu_{c, \text{new}} \leftarrow \frac{1}{n} \sum_{i\ \text{in new}} y_{ic}

    The codes of the new cells are found with every weight as it is, first with the level unknown, then under
    their component, whose mean follows them until it stays. Its width is the mean of the known levels':
    codes and width that both move would shrink together. What the model says of cells of known levels does
    not change.

    Parameters
    ----------
    model
        With a code for each level of its covariates (`chreode.recipes.multidgd`). Stays as it is.
    source
        Cells of new levels, anything `chreode.read` takes in one table; cells of known levels may be among
        them.
    progress
        Whether to show bars.

    Returns
    -------
    FittedModel
        ``project(source)`` places the new cells under their own levels, and ``do(site="new")`` decodes any
        cell under one. A distilled encoder does not know new levels and is left out.

    Raises
    ------
    InputError
        When there are no new levels, or when the decoder's weights would have to learn them.

    References
    ----------
    Schuster et al. (2024), multiDGD. https://doi.org/10.1038/s41467-024-53340-z. Deviations: there one
    component is added for all new cells, the one of twenty drawn at random that most of them choose, and its
    mean and width are learned by gradient descent beside the codes.
    """
    cells = source if isinstance(source, Cells) else read(source, like=model, add_levels=True)
    grown = _grown(model, cells.layout)
    layout = replace(model.layout, covariates=cells.layout.covariates)
    module = _widened(model, layout)
    of_new = torch.stack([cells.covariates[c] >= known for c, known in grown.items()]).any(0)
    some = cells[of_new]
    for seen in (part for part in module.modules() if isinstance(part, Seen)):
        seen.note(some, since=grown)
    codes = infer_codes(module, _unknown(some, grown), show="new cells" if progress else None)
    for round_ in range(_ROUNDS):
        if _follow(module, some, codes, grown) < _ARRIVED:
            break
        show = f"round {round_ + 1}" if progress else None
        codes = infer_codes(module, some, start=codes, steps=_STEPS, show=show)
    wider = FittedModel(
        module, layout=layout, reading=model.reading, recipe=model.recipe, history=model.history
    )
    old = model.embedded
    fitted = old.cells.replace(layout=replace(old.cells.layout, covariates=layout.covariates))
    wider.embedded = wider.embed(fitted, trained=old.trained, codes=old.codes)
    wider.reference = model.reference
    return wider


def _grown(model: FittedModel, layout: Layout) -> dict[str, int]:
    """How many levels the model knows of each column that has new ones."""
    levels = {column: c.levels for column, c in layout.covariates.items()}
    both = {column: (c.levels, levels.get(column)) for column, c in model.layout.covariates.items()}
    if any(found is None or found[: len(known)] != known for known, found in both.values()):
        msg = (
            f"Expected cells that were read for this model, with {listing(both)}; found other columns or "
            "levels. Give the source itself, or ch.read(source, like=model, add_levels=True)."
        )
        raise InputError(msg)
    grown = {c: len(known) for c, (known, found) in both.items() if found != known}
    if not grown:
        conditions = [c for c in model.layout.conditions.values() if c.categorical]
        known = "; ".join(f"{c.column!r}: {listing(c.levels)}" for c in conditions)
        found = (
            f"none beside those it knows ({known})" if known else "a model fitted without batch or covariates"
        )
        msg = (
            f"Expected cells of levels that the model does not know; found {found}. Project them without "
            "adding levels."
        )
        raise InputError(msg)
    coded = {latent.column for latent in model.module.latents.values()}
    if weighted := [column for column in grown if column not in coded]:
        msg = (
            f"Expected a model with a code for each level of {listing(weighted)}, such as multidgd's; found "
            f"{model.recipe.name}, whose weights would have to learn the new ones. Project the cells with "
            "their level unknown (model.project(source)), or fit again with them."
        )
        raise InputError(msg)
    return grown


def _widened(model: FittedModel, layout: Layout) -> LatentModel:
    """The same model with room for more levels, which begin as the average of the known ones."""
    module = model.recipe.build(layout).model
    state, known = module.state_dict(), model.module.state_dict()
    for name, value in known.items():
        if state[name].shape == value.shape:
            state[name] = value.clone()
            continue
        if value.dtype == torch.bool:
            state[name][: len(value)] = value  # what levels were measured in
            continue
        # Rows of levels: of a prior's parameters, and of how far a batch's codes were moved at the start.
        state[name] = value.mean(0, keepdim=True).expand(state[name].shape).clone()
        state[name][: len(value)] = value
        if name.endswith(".shift"):
            state[name][len(value) :] = 0.0
        if name.endswith("prior.mixture.logits"):
            # Equal weights stay equal: they matter to cells of unknown level alone.
            state[name][len(value) :] = value.exp().mean().log()
    module.load_state_dict(state)
    for latent in module.latents.values():
        if isinstance(latent.prior, LabelledMixture):
            latent.prior.mixture.count.fill_(latent.prior.mixture.components)
    return module.eval()


def _unknown(cells: Cells, grown: Mapping[str, int]) -> Cells:
    """The same cells, whose new levels are unknown."""
    old = {c: v.masked_fill(v >= grown[c], -1) if c in grown else v for c, v in cells.covariates.items()}
    return cells.replace(covariates=old)


@torch.no_grad()
def _follow(
    module: LatentModel, cells: Cells, codes: Mapping[str, Tensor], grown: Mapping[str, int]
) -> float:
    """Move every new component to its cells' codes; the furthest move, in standard deviations."""
    furthest = 0.0
    for name, latent in module.latents.items():
        if latent.column not in grown:
            continue
        mixture, level = latent.prior.mixture, cells.covariates[latent.column]
        deviation = mixture().covariances.diagonal(dim1=1, dim2=2).mean(1).sqrt()
        for new in range(grown[latent.column], mixture.components):
            if (level == new).any():
                mean = codes[name][level == new].mean(0)
                moved = (mean - mixture.means[new]).norm() / deviation[new]
                mixture.means[new] = mean
                furthest = max(furthest, float(moved))
    return furthest
