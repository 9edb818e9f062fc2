"""Which genes answer to the part of the code that belongs to the levels of an attribute alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from chreode.axes import Int, Tensor
from chreode.errors import InputError
from chreode.expected import expected
from chreode.interpret.asked import asked_of
from chreode.words import listing

if TYPE_CHECKING:
    import pandas as pd

    from chreode.embedded import Embedded

__all__ = ["Off", "attribute_scores"]

Off = Callable[[Mapping[str, Tensor], Int[Tensor, " n"]], Mapping[str, Tensor]] | Mapping[str, Any]
"""Codes with the private part off, from codes and their rows; or the value of each latent that is off."""


def attribute_scores(
    model: Any,
    *,
    attribute: str,
    off: Off | None = None,
    by: Literal["magnitude", "spread"] = "magnitude",
    modality: str | None = None,
    source: Any = None,
    progress: bool = True,
) -> pd.DataFrame:
    r"""How much each feature of a level's cells hangs on the private part of their code.

    .. math:: \delta_{ig} = \log_2 \rho_g(s_i, p_i) - \log_2 \rho_g(s_i, p_{\mathrm{off}}), \qquad
              \bar\delta_{\ell g} = \operatorname*{mean}_{i \in \ell} \delta_{ig}, \qquad
              m_{\ell g} = \Big(\operatorname*{mean}_{i \in \ell} \delta_{ig}^2\Big)^{1/2}, \qquad
        s_{\ell g}^2 = m_{\ell g}^2 - \bar\delta_{\ell g}^2

    with :math:`\rho` the expected shares of the total under a cell's own batch and covariates (the expected
    values themselves, and their difference, where values are continuous), s the shared and p the private
    code. The mean tells what the level does to all its cells. A private programme that some cells have and
    others lack, or that goes both ways around "off", has a mean near 0; the magnitude m sees both. A rise of
    one feature lowers the shares of all others a little.

    Off is no level: what sets two levels apart may stand under either, with opposite signs, or be split
    between both, and so may the features of one level's programme be found by mean and magnitude in another
    level. The spread :math:`s_{\ell g}` among the level's cells cannot: it finds programmes that vary within
    the level, and misses what is the same in all its cells.

    Parameters
    ----------
    model
        A `chreode.FittedModel` or `chreode.Embedded`; no counts are needed.
    attribute
        Column whose levels have private parts; cells of unknown level are left out.
    off
        What is private and how it is off: values by latent, ``{"private": 0.0}``, a number or one a
        dimension; or a function from the codes by latent and the cells' rows to such codes. None takes the
        codes that belong to the attribute's levels, at zero (of `patches`, `multigroupvi`, `contrastivevi`).
    by
        What features are ranked by: ``magnitude``, all that hangs on the private code, or ``spread``, what of
        it differs from cell to cell.
    modality
        The first by default.
    source
        A table with the column, where it was not read.
    progress
        Whether to show a bar.

    Returns
    -------
    pandas.DataFrame
        One row a level and feature: ``level``, ``feature``, ``log2_fold_change`` (:math:`\bar\delta`;
        ``change`` of continuous values) with its ``standard_error`` over the level's cells (NaN of one cell),
        ``magnitude`` (:math:`m`), ``spread`` (:math:`s`), ``rank`` within the level from 1 on, ``cells``.
        Levels as they come, then by rank; levels whose cells have no private code, as of a background, are
        left out.

    Raises
    ------
    InputError
        For a column, latent or modality that is not there, codes of another shape, or a model without cells.

    References
    ----------
    Weinberger, Lopez, Huetter and Regev (2022), multiGroupVI, doi:10.1101/2022.12.13.520349. Deviation:
    theirs ranks genes by the likelihood of their counts with and without the private code, which grows with
    expression; this by the change of what is expected, and needs no counts.

    Examples
    --------
    >>> import chreode as ch
    >>> cells = ch.read(ch.simulate(90, 20, components=2, seed=0), label="component")
    >>> model = ch.fit(cells, ch.recipes.scdgd(dim=2, components=2), epochs=3, progress=False)
    >>> table = attribute_scores(model, attribute="component", off={"cell": 0.0}, progress=False)
    >>> table.groupby("level")["rank"].max().tolist()
    [20, 20]
    """
    import pandas as pd

    asked = asked_of(model, source=source, counted=False)
    if asked.embedded is None:
        msg = "Expected a fitted model, or what its project() returns; found Cells. Fit these cells first."
        raise InputError(msg)
    embedded, name = asked.embedded, asked.embedded.modality(modality)
    levels = asked.levels(attribute)
    number, names = pd.factorize(levels, sort=True)
    if not len(names):
        msg = f"Expected cells of known {attribute!r}; found none. Name another column."
        raise InputError(msg)
    if by not in ("magnitude", "spread"):
        msg = f"Expected by='magnitude' or by='spread'; found by={by!r}. Name one of them."
        raise InputError(msg)
    if off is None:
        off = _private(embedded, attribute)
    changed = embedded.replace(cells=embedded.cells, codes=_codes_off(embedded, off))
    n = np.bincount(number[number >= 0])[:, None]
    mean, square = _sums(embedded, changed, name, number, len(names), progress=progress) / n
    size = {"magnitude": np.sqrt(square), "spread": np.sqrt(np.maximum(square - mean**2, 0))}
    with np.errstate(invalid="ignore", divide="ignore"):
        error = size["spread"] / np.sqrt(n - 1)
    tables = []
    continuous = embedded.cells.layout.modalities[name].kind == "continuous"
    effect = "change" if continuous else "log2_fold_change"
    for k, level in enumerate(names):
        if square.any() and not square[k].any():
            continue  # nothing of its cells is private
        order = np.argsort(-size[by][k], kind="stable")
        features = np.asarray(embedded.cells.layout.modalities[name].names, dtype=object)[order]
        columns = {"level": level, "feature": features, effect: mean[k, order]}
        columns |= {"standard_error": error[k, order]} | {key: v[k, order] for key, v in size.items()}
        tables.append(pd.DataFrame(columns).assign(rank=np.arange(1, len(order) + 1), cells=int(n[k, 0])))
    return pd.concat(tables, ignore_index=True)


def _private(embedded: Embedded, attribute: str) -> dict[str, float]:
    """The latents that belong to levels of an attribute, off."""
    column = embedded.cells.layout.resolve(attribute).column
    latents = embedded.module.latents.items()
    found = {
        name: 0.0
        for name, latent in latents
        if column in (getattr(latent.only, "column", None), getattr(latent.prior, "attribute", None))
    }
    if not found:
        known = [latent for latent in embedded.codes if latent != embedded.code]
        msg = f"Expected a model in which cells have codes of their own for levels of {column!r}, as of "
        msg += f"patches, multigroupvi or contrastivevi; found {embedded.recipe}. "
        raise InputError(
            msg
            + (
                f"Say what is private, of {listing(known)}: off={{{known[0]!r}: 0.0}}."
                if known
                else "Fit one of these recipes."
            )
        )
    return found


def _codes_off(embedded: Embedded, off: Off) -> dict[str, Tensor]:
    codes = embedded.codes
    found = off if isinstance(off, Mapping) else off(codes, torch.arange(len(embedded)))
    fitting = {name: _like(codes[name], value) for name, value in found.items() if name in codes}
    whole = {name: value for name, value in fitting.items() if value is not None}
    wrong = [name for name in found if name not in whole]
    if wrong or not found:
        known = ", ".join(f"{name} of {z.shape[1]} dimensions" for name, z in codes.items())
        msg = f"Expected off to give codes of the model's latents ({known}); found {listing(wrong) or 'none'}"
        raise InputError(msg + ", of another name or shape. Give {latent: 0.0}, say.")
    return {**codes, **whole}


def _like(codes: Tensor, value: Any) -> Tensor | None:
    """One value, or one a dimension, or one a cell, for all cells; None where that cannot be."""
    try:
        return torch.as_tensor(value).to(codes).expand_as(codes)
    except RuntimeError:
        return None


def _sums(
    embedded: Embedded, changed: Embedded, modality: str, number: np.ndarray, k: int, *, progress: bool
) -> np.ndarray:
    """Changes and their squares summed over the cells of each level, 2 x levels x features."""
    from tqdm.auto import tqdm

    g = embedded.cells.layout.modalities[modality].n_features
    continuous = embedded.cells.layout.modalities[modality].kind == "continuous"
    sums = np.zeros((2, k, g))
    asked: dict[str, Any] = {"size": None, "columns": None, "borrow": False, "what": "proportions"}
    blocks = zip(*(expected(one, modality, **asked) for one in (embedded, changed)), strict=True)
    with tqdm(total=len(embedded), desc="decoding", unit="cell", disable=not progress) as bar:
        for (rows, here), (_, without) in blocks:
            here, without = (np.asarray(values, dtype=np.float64) for values in (here, without))
            if not continuous:
                tiny = np.finfo(np.float32).tiny
                here, without = np.log2(np.maximum(here, tiny)), np.log2(np.maximum(without, tiny))
            change = here - without
            member = (number[rows, None] == np.arange(k)).astype(np.float64).T
            sums += np.stack([member @ change, member @ change**2])
            bar.update(len(change))
    return sums
