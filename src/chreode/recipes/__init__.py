"""The methods, by the names of their papers; each is a few parts put together."""

from chreode.recipes.autodecoder import autodecoder, autoencoder
from chreode.recipes.dgd import dgd, scdgd
from chreode.recipes.free import glo, gon, vad
from chreode.recipes.fused import multivi, totalvi
from chreode.recipes.joint import multidgd
from chreode.recipes.linear import factor_analysis, mofa, pca, zifa
from chreode.recipes.scanvi import scanvi
from chreode.recipes.trajectory import cell_mnn, flow_matching, neural_ode
from chreode.recipes.vae import beta_vae, dhsic_vae, ldvae, scvae, scvi, vae

__all__ = [
    "autodecoder",
    "autoencoder",
    "beta_vae",
    "cell_mnn",
    "dgd",
    "dhsic_vae",
    "factor_analysis",
    "flow_matching",
    "glo",
    "gon",
    "ldvae",
    "mofa",
    "multidgd",
    "multivi",
    "neural_ode",
    "pca",
    "scanvi",
    "scdgd",
    "scvae",
    "scvi",
    "totalvi",
    "vad",
    "vae",
    "zifa",
]
