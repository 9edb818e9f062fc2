"""The methods, by the names of their papers; each is a few parts put together."""

from chreode.recipes.autodecoder import autodecoder
from chreode.recipes.dgd import dgd, scdgd
from chreode.recipes.fused import multivi, totalvi
from chreode.recipes.joint import multidgd
from chreode.recipes.scanvi import scanvi
from chreode.recipes.vae import beta_vae, ldvae, scvi, vad, vae

__all__ = [
    "autodecoder",
    "beta_vae",
    "dgd",
    "ldvae",
    "multidgd",
    "multivi",
    "scanvi",
    "scdgd",
    "scvi",
    "totalvi",
    "vad",
    "vae",
]
