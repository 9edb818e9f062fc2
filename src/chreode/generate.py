"""Cells drawn from a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chreode.embedded import Embedded, blank

if TYPE_CHECKING:
    import anndata as ad

__all__ = ["sample"]


def sample(embedded: Embedded, n: int, *, component: int | None, generator: torch.Generator) -> ad.AnnData:
    """Draw codes from the prior, totals and covariates from the training cells, then values.

    A total is that of a random training cell of the same component (of any, where the prior has none),
    since big cell types have big totals; its batch and covariates come along.
    """
    import anndata as ad
    import pandas as pd
    import scipy.sparse as sp

    prior = embedded.module.latents[embedded.code].prior
    density = prior.mixture()
    layout = embedded.cells.layout
    modality = next(iter(layout.modalities))
    obs = pd.DataFrame(index=pd.Index([f"sample_{i}" for i in range(n)]))
    if int(prior.count):
        if component is None:
            odds = density.log_weights.exp()
            chosen = torch.multinomial(odds, n, replacement=True, generator=generator)
        else:
            chosen = torch.full((n,), component)
        z = _codes_of(density, chosen, generator)
        obs["component"] = pd.Categorical(np.asarray(embedded.component_names)[chosen.numpy()])
        donors = _donors(torch.from_numpy(embedded.components()), embedded.trained, chosen, generator)
    else:
        z = density.sample(n, generator)
        trained = torch.from_numpy(np.flatnonzero(embedded.trained))
        donors = trained[torch.randint(len(trained), (n,), generator=generator)]
    parts = []
    for at in range(0, n, 512):
        some = donors[at : at + 512]
        cells = blank(layout, len(some)).replace(
            size={m: s[some] for m, s in embedded.cells.size.items()},
            covariates={c: v[some] for c, v in embedded.cells.covariates.items()},
        )
        drawn = embedded.module.decoder({embedded.code: z[at : at + 512]}, cells)[modality].sample(generator)
        parts.append(sp.csr_matrix(drawn.cpu().numpy()))
    for column in layout.covariates:
        obs[column] = embedded.level_names(column)[donors.numpy()]
    described = layout.modalities[modality]
    var = pd.DataFrame(
        {"symbol": described.symbols} if described.symbols else {}, index=pd.Index(described.names)
    )
    return ad.AnnData(sp.vstack(parts, format="csr"), obs=obs, var=var)


def _codes_of(density: Any, chosen: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    z = torch.zeros(len(chosen), density.means.shape[1])
    for k in chosen.unique().tolist():
        mine = chosen == k
        z[mine] = density.sample(int(mine.sum()), generator, component=k)
    return z


def _donors(
    components: torch.Tensor, trained: np.ndarray, chosen: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """A training cell for each draw, of the same component where it has any."""
    everyone = torch.from_numpy(np.flatnonzero(trained))
    donors = everyone[torch.randint(len(everyone), (len(chosen),), generator=generator)]
    for k in chosen.unique().tolist():
        pool = everyone[components[everyone] == k]
        if len(pool):
            mine = chosen == k
            donors[mine] = pool[torch.randint(len(pool), (int(mine.sum()),), generator=generator)]
    return donors
