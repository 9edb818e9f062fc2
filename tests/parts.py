"""One table of instances: what the laws of recipes are tested on. A new recipe adds a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import scipy.sparse as sp

from chreode import recipes
from chreode.io.read import read

if TYPE_CHECKING:
    from collections.abc import Callable

    from chreode.cells import Cells
    from chreode.recipe import Recipe

__all__ = ["RECIPES", "table", "tiny"]


def table(
    n_cells: int = 120, n_features: int = 40, *, groups: int = 3, batches: int = 2, seed: int = 0
) -> ad.AnnData:
    """Counts of a few well separated groups, some of whose genes a batch changes."""
    rng = np.random.default_rng(seed)
    group, batch = rng.integers(groups, size=n_cells), rng.integers(batches, size=n_cells)
    logits = (
        rng.normal(0, 1.5, (groups, n_features))[group] + rng.normal(0, 0.3, (batches, n_features))[batch]
    )
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    depth = rng.lognormal(6, 0.3, n_cells)
    counts = rng.poisson(share * depth[:, None] * rng.gamma(5, 0.2, (n_cells, n_features)))
    adata = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)))
    adata.obs_names = [f"cell {i}" for i in range(n_cells)]
    adata.var_names = [f"gene {j}" for j in range(n_features)]
    adata.obs["type"] = [f"type {g}" for g in group]
    adata.obs["plate"] = [f"plate {b}" for b in batch]
    adata.obs["age"] = rng.normal(40, 10, n_cells)
    adata.obs["day"] = rng.integers(3, size=n_cells)
    return adata


def tiny(**arguments: object) -> Cells:
    """The table as cells, with batch, label and a continuous covariate."""
    return read(table(), batch="plate", label="type", covariates=["age"], time="day", **arguments)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "scdgd": lambda: recipes.scdgd(dim=4, hidden=(8,)),
    "scdgd, K given": lambda: recipes.scdgd(dim=4, hidden=(8,), components=3),
    "scdgd, linear decoder": lambda: recipes.scdgd(dim=4, hidden=(), components=3),
    "scdgd, zero inflated": lambda: recipes.scdgd(dim=4, hidden=(8,), likelihood="zinb", components=3),
    "scdgd, Poisson": lambda: recipes.scdgd(dim=4, hidden=(8,), likelihood="poisson", components=3),
    "scdgd, supervised": lambda: recipes.scdgd(dim=4, hidden=(8,), supervised=True),
    "scdgd, learned by gradient": lambda: recipes.scdgd(dim=4, hidden=(8,), components=3, learn="gradient"),
    "scdgd, as published": lambda: recipes.scdgd(
        dim=4,
        hidden=(8, 8, 8),
        components=3,
        init="zero",
        noise=0.0,
        update="epoch",
        prior_weight="cells",
        theta_floor=1.0,
    ),
    "dgd, normal prior": lambda: recipes.dgd(dim=4, hidden=(8,), mixture=False),
    "dgd, mixture": lambda: recipes.dgd(dim=4, hidden=(8,), components=3),
    "multidgd": lambda: recipes.multidgd(dim=4, hidden=(8, 8), components=3),
    "vae": lambda: recipes.vae(dim=4, hidden=(8,)),
    "vae, linear": lambda: recipes.vae(dim=4, hidden=()),
    "beta_vae": lambda: recipes.beta_vae(dim=4, hidden=(8,), beta=2.0),
    "vad": lambda: recipes.vad(dim=4, hidden=(8,)),
    "vad, mixture": lambda: recipes.vad(dim=4, hidden=(8,), mixture=True, components=3),
    "vae, VampPrior": lambda: recipes.vae(dim=4, hidden=(8,), prior="vamp", inputs=10),
    "dhsic_vae": lambda: recipes.dhsic_vae(dim=4, hidden=(8,), penalty=10.0),
    "scvae": lambda: recipes.scvae(dim=4, hidden=(8,), components=3),
    "glo": lambda: recipes.glo(dim=4, hidden=(8,)),
    "gon": lambda: recipes.gon(dim=4, hidden=(8,)),
    "autoencoder": lambda: recipes.autoencoder(dim=4, hidden=(8,)),
    "ldvae": lambda: recipes.ldvae(dim=4, hidden=(8,)),
    "scvi": lambda: recipes.scvi(dim=4, hidden=(8,)),
    "scvi, deep, batch encoded": lambda: recipes.scvi(
        dim=4, hidden=(8, 8), likelihood="nb", encode_batch=True
    ),
    "scanvi": lambda: recipes.scanvi(dim=4, hidden=(8,)),
    "scanvi, deep, linear classifier": lambda: recipes.scanvi(
        dim=4, hidden=(8, 8), likelihood="nb", classifier=(), encode_batch=True
    ),
    "totalvi": lambda: recipes.totalvi(dim=4, hidden=(8,)),
    "totalvi, proteins": lambda: recipes.totalvi(dim=4, hidden=(8,), likelihood={"rna": "protein"}),
    "multivi": lambda: recipes.multivi(dim=4, hidden=(8, 8)),
    "multivi, product": lambda: recipes.multivi(dim=4, hidden=(8,), combine="product", encode_batch=True),
    "patches": lambda: recipes.patches(dim=4, hidden=(8,), attributes=("type", "plate")),
    "patches, free": lambda: recipes.patches(dim=4, hidden=(8,), attributes=("type",), inference="free"),
    "multigroupvi": lambda: recipes.multigroupvi(dim=4, private=2, hidden=(8,), group="type"),
    "contrastivevi": lambda: recipes.contrastivevi(
        dim=4, private=2, hidden=(8,), background="type 0", condition="type"
    ),
    "contrastivevi, free": lambda: recipes.contrastivevi(
        dim=4, private=2, hidden=(8,), background="type 0", condition="type", inference="free"
    ),
    "trvae": lambda: recipes.trvae(dim=4, hidden=(8,), attributes=("type", "plate")),
    "trvae, free, hidden": lambda: recipes.trvae(
        dim=4, hidden=(8, 8), attributes=("type",), inference="free", on="hidden"
    ),
    "cpa": lambda: recipes.cpa(dim=4, hidden=(8,), attributes=("plate", "age")),
    "biolord": lambda: recipes.biolord(dim=4, hidden=(8,), attributes=("type", "age")),
    "biolord, encoder": lambda: recipes.biolord(
        dim=4, hidden=(8,), attributes=("type",), inference="encoder"
    ),
    "lord": lambda: recipes.lord(dim=4, private=3, hidden=(8,), attribute="type"),
    "invae": lambda: recipes.invae(dim=4, hidden=(8,), attributes=("type", "age")),
    "flatvi": lambda: recipes.flatvi(dim=4, hidden=(8,), cells=8),
    "pca": lambda: recipes.pca(dim=4),
    "factor_analysis": lambda: recipes.factor_analysis(dim=4),
    "zifa": lambda: recipes.zifa(dim=4),
    "mofa": lambda: recipes.mofa(dim=4),
    "cell_mnn": lambda: recipes.cell_mnn(dim=4, hidden=(8,)),
    "cell_mnn, as published": lambda: recipes.cell_mnn(dim=4, hidden=(8,), affine=False, steps=0),
    "neural_ode": lambda: recipes.neural_ode(dim=4, hidden=(8,)),
    "flecs": lambda: recipes.flecs(steps=1),
    "flow_matching": lambda: recipes.flow_matching(dim=4, hidden=(8,)),
    "flow_matching, independent": lambda: recipes.flow_matching(dim=4, hidden=(8,), coupling="independent"),
    "flow_matching, unbalanced": lambda: recipes.flow_matching(dim=4, hidden=(8,), coupling="unbalanced"),
    "sf2m": lambda: recipes.sf2m(dim=4, hidden=(8,)),
    "metric_flow_matching": lambda: recipes.metric_flow_matching(dim=4, hidden=(8,)),
    "metric_flow_matching, rbf": lambda: recipes.metric_flow_matching(dim=4, hidden=(8,), metric="rbf"),
    "neural_ode, sinkhorn": lambda: recipes.neural_ode(dim=4, hidden=(8,), distance="sinkhorn"),
    "autodecoder": lambda: recipes.autodecoder(dim=4, hidden=(8,)),
    "autodecoder, encoder": lambda: recipes.autodecoder(dim=4, hidden=(8,), inference="encoder"),
    "autodecoder, linear": lambda: recipes.autodecoder(dim=4, hidden=()),
    "autodecoder, linear encoder": lambda: recipes.autodecoder(dim=4, hidden=(), inference="encoder"),
}
