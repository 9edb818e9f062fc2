"""chreode: latent-variable models of single cells."""
