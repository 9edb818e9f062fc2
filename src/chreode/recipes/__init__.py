"""The methods, by the names of their papers; each is a few parts put together."""

from chreode.recipes.attributes import biolord, cpa, lord, trvae
from chreode.recipes.autodecoder import autodecoder, autoencoder
from chreode.recipes.bridges import flow_matching, metric_flow_matching, sf2m
from chreode.recipes.dgd import dgd, scdgd
from chreode.recipes.flat import flatvi
from chreode.recipes.free import glo, gon, vad
from chreode.recipes.fused import multivi, totalvi
from chreode.recipes.groups import contrastivevi, multigroupvi, patches
from chreode.recipes.invariant import invae
from chreode.recipes.joint import multidgd
from chreode.recipes.linear import factor_analysis, mofa, pca, zifa
from chreode.recipes.regulation import flecs
from chreode.recipes.scanvi import scanvi
from chreode.recipes.trajectory import cell_mnn, neural_ode
from chreode.recipes.vae import beta_vae, dhsic_vae, ldvae, scvae, scvi, vae

__all__ = [
    "autodecoder",
    "autoencoder",
    "beta_vae",
    "biolord",
    "cell_mnn",
    "contrastivevi",
    "cpa",
    "dgd",
    "dhsic_vae",
    "factor_analysis",
    "flatvi",
    "flecs",
    "flow_matching",
    "glo",
    "gon",
    "invae",
    "ldvae",
    "lord",
    "metric_flow_matching",
    "mofa",
    "multidgd",
    "multigroupvi",
    "multivi",
    "neural_ode",
    "patches",
    "pca",
    "scanvi",
    "scdgd",
    "scvae",
    "scvi",
    "sf2m",
    "totalvi",
    "trvae",
    "vad",
    "vae",
    "zifa",
]
