"""The papers to cite, as BibTeX, by key."""
# ruff: noqa: E501  (titles are not broken)

__all__ = ["references"]

references = {
    "chreode": """@software{chreode,
  title = {chreode: latent-variable models of single cells},
  year = {2026},
  note = {Python package}
}""",
    "scdgd": """@article{schuster2023scdgd,
  title = {The deep generative decoder: MAP estimation of representations improves modelling of single-cell RNA data},
  author = {Schuster, Viktoria and Krogh, Anders},
  journal = {Bioinformatics},
  volume = {39},
  number = {9},
  pages = {btad497},
  year = {2023},
  doi = {10.1093/bioinformatics/btad497}
}""",
    "autodecoder": """@article{schuster2021manifold,
  title = {A Manifold Learning Perspective on Representation Learning: Learning Decoder and Representations without an Encoder},
  author = {Schuster, Viktoria and Krogh, Anders},
  journal = {Entropy},
  volume = {23},
  number = {11},
  pages = {1403},
  year = {2021},
  doi = {10.3390/e23111403}
}""",
}
references["dgd"] = references["scdgd"]
