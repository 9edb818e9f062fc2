"""What each dimension of the code, and each component, does to every feature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from chreode.errors import InputError
from chreode.interpret.loadings import dimension_names, loadings
from chreode.perturb.response import decodings

if TYPE_CHECKING:
    import pandas as pd

    from chreode.axes import Float, Tensor

__all__ = ["component_scores", "dimension_scores", "mean_jacobian"]


def dimension_scores(
    model: Any, modality: str | None = None, *, latent: str | None = None, progress: bool = True
) -> pd.DataFrame:
    """How each feature changes along each dimension: loadings where there are any, else `mean_jacobian`.

    Parameters
    ----------
    model, modality, latent, progress
        As of `mean_jacobian`.

    Raises
    ------
    InputError
        As `mean_jacobian` does.

    Examples
    --------
    >>> import chreode as ch
    >>> cells = ch.read(ch.simulate(90, 20, components=2, seed=0))
    >>> model = ch.fit(cells, ch.recipes.pca(dim=2), epochs=1, progress=False)
    >>> dimension_scores(model).equals(ch.loadings(model))
    True
    """
    embedded = getattr(model, "embedded", model).of_latent(latent)
    infer, decoder = embedded.module.latents[embedded.code].infer, embedded.module.decoder
    linear = hasattr(infer, "linear") or hasattr(decoder, "loadings")
    return loadings(embedded, modality) if linear else mean_jacobian(embedded, modality, progress=progress)


def mean_jacobian(
    model: Any, modality: str | None = None, *, latent: str | None = None, progress: bool = True
) -> pd.DataFrame:
    r"""How each feature changes along each dimension of the code, on average over cells.

    .. math:: \bar J_{gk} = \frac1n \sum_i \frac{\partial \log \rho_g(z_i)}{\partial z_{ik}}

    with :math:`\rho_g` the share of the total that is expected of feature g under the cell's own batch and
    covariates; the expected value itself where values are continuous. Of a linear decoder of counts these are
    its loadings, less a number for each dimension. Directions that turn round between cells cancel.

    Parameters
    ----------
    model
        A `chreode.FittedModel` or `chreode.Embedded`; no counts are needed.
    modality
        The first by default.
    latent
        Whose dimensions, the mean over the cells that have it; the main one by default.
    progress
        Whether to show a bar.

    Returns
    -------
    pandas.DataFrame
        Features x dimensions, per unit of the code.

    Raises
    ------
    InputError
        When there is no such modality or latent, or no cell, as of a model that was saved without.

    Examples
    --------
    >>> import chreode as ch
    >>> cells = ch.read(ch.simulate(90, 20, components=2, seed=0))
    >>> model = ch.fit(cells, ch.recipes.scdgd(dim=2, components=2), epochs=3, progress=False)
    >>> mean_jacobian(model, progress=False).shape
    (20, 2)
    """
    from tqdm.auto import tqdm

    embedded, name = _asked(model, modality)
    embedded = embedded.of_latent(latent)
    dim = embedded.codes[embedded.code].shape[1]
    kind = embedded.cells.layout.modalities[name].kind
    total: Any = 0.0
    with tqdm(total=len(embedded), desc="derivatives", unit="cell", disable=not progress) as bar:
        for z, decode in decodings(embedded, torch.arange(len(embedded)), copies=dim):

            def slope(along: Tensor, z: Tensor = z, decode: Any = decode) -> Tensor:
                # Summed over cells inside: what leaves is one value a feature.
                def level(x: Tensor) -> Tensor:
                    return _scale(decode(x)[name].proportions, kind).sum(0)

                return torch.func.jvp(level, (z,), (along,))[1]

            axes = torch.eye(dim, dtype=z.dtype, device=z.device)[:, None].expand(dim, *z.shape)
            with torch.no_grad():
                total = total + torch.func.vmap(slope)(axes).double()
            bar.update(len(z))
    return _table(embedded, name, total / len(embedded), dimension_names(embedded), "dimension")


@torch.no_grad()
def component_scores(model: Any, modality: str | None = None) -> pd.DataFrame:
    r"""How each feature differs between each component's mean and the average cell.

    .. math:: \ell_{gk} = \log \rho_g(\mu_k) - \log \frac1n \sum_i \rho_g(z_i)

    decoded under average batches and covariates; the difference of expected values where these are
    continuous.

    Parameters
    ----------
    model, modality
        As of `mean_jacobian`.

    Returns
    -------
    pandas.DataFrame
        Features x components, by name.

    Raises
    ------
    InputError
        As `mean_jacobian` does, and when the prior has no components.

    Examples
    --------
    >>> import chreode as ch
    >>> cells = ch.read(ch.simulate(90, 20, components=2, seed=0))
    >>> model = ch.fit(cells, ch.recipes.scdgd(dim=2, components=2), epochs=3, progress=False)
    >>> component_scores(model).columns.tolist()
    ['0', '1']
    """
    embedded, name = _asked(model, modality)
    kind = embedded.cells.layout.modalities[name].kind
    codes = embedded.codes[embedded.code]
    average: Any = sum(embedded.decode(z, name).proportions.double().sum(0) for z in codes.split(512))
    means = embedded.decode(embedded.density().means, name).proportions.double()
    scores = _scale(means, kind) - _scale(average / len(codes), kind)
    return _table(embedded, name, scores, embedded.component_names, "component")


def _asked(model: Any, modality: str | None) -> tuple[Any, str]:
    embedded = getattr(model, "embedded", model)
    if not len(embedded):
        msg = "Expected a model that was saved with its cells; found none. Save it with cells=True."
        raise InputError(msg)
    return embedded, embedded.modality(modality)


def _scale(values: Float[Tensor, "*n g"], kind: str) -> Float[Tensor, "*n g"]:
    """Logarithms, unless values may be negative."""
    return values if kind == "continuous" else values.clamp_min(torch.finfo(values.dtype).tiny).log()


def _table(embedded: Any, modality: str, scores: Tensor, names: Any, what: str) -> pd.DataFrame:
    import pandas as pd

    features = pd.Index(embedded.cells.layout.modalities[modality].names, name=modality)
    return pd.DataFrame(scores.cpu().numpy().T, index=features, columns=pd.Index(list(names), name=what))
