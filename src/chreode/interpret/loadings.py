"""Linear factors: how features load on them, and how much of each modality they explain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from chreode.errors import InputError
from chreode.infer.values import Block, blocks, prepared

if TYPE_CHECKING:
    import pandas as pd

    from chreode.axes import Float, Tensor
    from chreode.cells import Cells

__all__ = ["dimension_names", "loadings", "variance_explained"]


def loadings(model: Any, modality: str | None = None, *, latent: str | None = None) -> pd.DataFrame:
    r"""How each feature changes along each dimension of the code, features x factors.

    Of `pca`, `factor_analysis`, `zifa` and `mofa` these are the loadings that the codes come from, on
    log-normalised counts, or on other values as they are. Of another model with a linear decoder, such as
    `ldvae`, they are the change of each feature's log proportion (or other natural parameter).

    Parameters
    ----------
    model
        A `chreode.FittedModel` or `chreode.Embedded`.
    modality
        The first by default.
    latent
        Whose dimensions; the main one by default.

    Raises
    ------
    InputError
        When the decoder is not linear, or there is no such modality or latent.

    Examples
    --------
    >>> import chreode as ch
    >>> cells = ch.read(ch.datasets.pbmc68k(), label="bulk_labels")
    >>> model = ch.fit(cells, ch.recipes.pca(dim=2), epochs=1, progress=False)
    >>> ch.loadings(model).shape
    (765, 2)
    """
    import pandas as pd

    embedded = getattr(model, "embedded", model).of_latent(latent)
    name = embedded.modality(modality)
    infer, decoder = embedded.module.latents[embedded.code].infer, embedded.module.decoder
    if hasattr(infer, "linear"):
        weight = infer.linear(name).weight
    elif hasattr(decoder, "loadings"):
        weight = decoder.loadings(name, embedded.code)
    else:
        msg = (
            f"Expected a linear decoder, whose weights are loadings; found {type(decoder).__name__} in "
            f"recipe {embedded.recipe}. Use a linear recipe, such as mofa or ldvae."
        )
        raise InputError(msg)
    columns = pd.Index(dimension_names(embedded), name="factor")
    index = pd.Index(embedded.cells.layout.modalities[name].names, name=name)
    return pd.DataFrame(weight.cpu().numpy(), index=index, columns=columns)


def dimension_names(embedded: Any) -> list[Any] | range:
    """What the dimensions of the main code are called: by number, and in blocks by their level too."""
    prior, dim = embedded.module.latents[embedded.code].prior, embedded.codes[embedded.code].shape[1]
    attribute = getattr(prior, "attribute", None)
    if attribute is None:
        return range(dim)
    levels = embedded.cells.layout.resolve(attribute).levels
    return [f"{level} {k}" for level in levels for k in range(dim // len(levels))]


def variance_explained(model: Any) -> pd.DataFrame:
    r"""Share of each modality's variance that each factor explains by itself, and all of them together.

    .. math:: R^2_{mk} = 1 - \frac{\sum_{ij} (u_{imj} - b_{mj} - w_{mjk} z_{ik})^2}
                                  {\sum_{ij} (u_{imj} - b_{mj})^2}

    over the values that were measured, of log-normalised counts, or of other values as they are.

    Parameters
    ----------
    model
        A `chreode.FittedModel`, or a `chreode.Embedded` with its counts, of `pca`, `factor_analysis`, `zifa`
        or `mofa`. A model loaded from disk has no counts: give ``model.project(source)``.

    Returns
    -------
    pandas.DataFrame
        Factors x modalities; the last row, ``total``, is of all factors together.

    Raises
    ------
    InputError
        When codes do not come from linear factors, or counts are not at hand.

    Examples
    --------
    >>> import chreode as ch
    >>> cells = ch.read(ch.datasets.pbmc68k(), label="bulk_labels")
    >>> model = ch.fit(cells, ch.recipes.pca(dim=2), epochs=1, progress=False)
    >>> list(ch.variance_explained(model).index)
    [0, 1, 'total']
    """
    import pandas as pd

    embedded = getattr(model, "embedded", model)
    infer = embedded.module.latents[embedded.code].infer
    if not hasattr(infer, "linear"):
        msg = (
            f"Expected codes that come from linear factors; found those of recipe {embedded.recipe}. Use "
            "pca, factor_analysis, zifa or mofa."
        )
        raise InputError(msg)
    if not embedded.cells.measured:
        msg = "Expected cells with their values; found none, as in a model loaded from disk. "
        raise InputError(msg + "Give them: variance_explained(model.project(source)).")
    codes = embedded.codes[embedded.code].double()
    found = {m: _explained(embedded.cells, codes, m, infer) for m in infer.modalities}
    index = pd.Index([*range(codes.shape[1]), "total"], name="factor")
    return pd.DataFrame({m: value.numpy() for m, value in found.items()}, index=index)


def _explained(cells: Cells, codes: Float[Tensor, "n d"], modality: str, infer: Any) -> Float[Tensor, " d+1"]:
    """Of one modality: of each factor, then of all."""
    line = infer.linear(modality)
    mean, weight = line.mean.double(), line.weight.double()
    total, gains = torch.zeros(()).double(), torch.zeros(codes.shape[1] + 1).double()
    for rows, some in blocks(cells):
        block = Block(prepared(some, [modality], per=infer.per), modality)
        z = codes[rows] * block.present[:, None]
        square = block.squared().times(torch.ones_like(mean)[:, None])[:, 0]
        linear = block.times(torch.cat([mean[:, None], weight], 1))
        total += (square - 2 * linear[:, 0] + block.by_cell(mean.square()[:, None])[:, 0]).sum()
        along = 2 * z * (linear[:, 1:] - block.by_cell(mean[:, None] * weight))
        gram = block.products(weight, weight)
        gains[:-1] += (along - z.square() * gram.diagonal(dim1=1, dim2=2)).sum(0)
        gains[-1] += along.sum() - torch.einsum("na,nab,nb->", z, gram, z)
    return gains / total.clamp_min(1e-12)
