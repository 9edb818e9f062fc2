"""Cells drawn from a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chreode.expected import blank
from chreode.posterior import posterior

if TYPE_CHECKING:
    import anndata as ad
    import mudata as md
    import pandas as pd

__all__ = ["again", "sample"]


def sample(
    embedded: Any, n: int, *, component: int | None, generator: torch.Generator
) -> ad.AnnData | md.MuData:
    """Draw codes from the prior, totals and covariates from the training cells, then values.

    A total is that of a random training cell of the same component (of any, where the prior has none),
    since big cell types have big totals; its batch and covariates, and their codes, come along. Several
    modalities make a MuData; a cell has those that its donor has.
    """
    import pandas as pd

    prior = embedded.module.latents[embedded.code].prior
    density = prior.mixture()
    layout = embedded.cells.layout
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
    for column in layout.covariates:
        obs[column] = embedded.level_names(column)[donors.numpy()]
    return _drawn(embedded, z, donors, obs, generator)


def again(embedded: Any, *, generator: torch.Generator, uncertain: bool = True) -> ad.AnnData | md.MuData:
    """Draw the same cells again: codes from their posteriors, or as they are, then values at their totals."""
    import pandas as pd

    rows = torch.arange(len(embedded))
    z = posterior(embedded).sample(generator) if uncertain else embedded.codes[embedded.code]
    obs = pd.DataFrame(
        {column: embedded.level_names(column) for column in embedded.cells.layout.covariates},
        index=pd.Index(embedded.names.astype(str)),
    )
    return _drawn(embedded, z, rows, obs, generator)


@torch.no_grad()
def _drawn(
    embedded: Any, z: torch.Tensor, donors: torch.Tensor, obs: pd.DataFrame, generator: torch.Generator
) -> ad.AnnData | md.MuData:
    """Values of codes whose totals, covariates and other codes are those of some of the cells."""
    import anndata as ad
    import pandas as pd
    import scipy.sparse as sp

    layout = embedded.cells.layout
    others = {name: value for name, value in embedded.codes.items() if name != embedded.code}
    parts: dict[str, list[Any]] = {m: [] for m in layout.modalities}
    for at in range(0, len(z), 512):
        some = donors[at : at + 512]
        cells = blank(layout, len(some)).replace(
            size={m: s[some] for m, s in embedded.cells.size.items()},
            covariates={c: v[some] for c, v in embedded.cells.covariates.items()},
        )
        codes = {embedded.code: z[at : at + 512]} | {name: value[some] for name, value in others.items()}
        for m, observed in embedded.module.decode(codes, cells).items():
            parts[m].append(sp.csr_matrix(observed.sample(generator).cpu().numpy()))
    drawn: dict[str, ad.AnnData] = {}
    for m, described in layout.modalities.items():
        symbols = {"symbol": described.symbols} if described.symbols else {}
        var = pd.DataFrame(symbols, index=pd.Index(described.names))
        drawn[m] = ad.AnnData(sp.vstack(parts[m], format="csr"), obs=obs.copy(), var=var)
    if len(drawn) == 1:
        return drawn.popitem()[1]
    import mudata as md

    there = {m: embedded.cells.present[m][donors].numpy() for m in drawn}
    with md.set_options(pull_on_update=False):
        both = md.MuData({m: adata[there[m]].copy() for m, adata in drawn.items()})
    both.obs = obs.loc[both.obs_names]
    return both


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
