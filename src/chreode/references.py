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
    "harmony": """@article{korsunsky2019harmony,
  title = {Fast, sensitive and accurate integration of single-cell data with Harmony},
  author = {Korsunsky, Ilya and Millard, Nghia and Fan, Jean and others},
  journal = {Nature Methods},
  volume = {16},
  pages = {1289--1296},
  year = {2019},
  doi = {10.1038/s41592-019-0619-0}
}""",
    "cpca": """@article{abid2018contrastive,
  title = {Exploring patterns enriched in a dataset with contrastive principal component analysis},
  author = {Abid, Abubakar and Zhang, Martin J. and Bagaria, Vivek K. and Zou, James},
  journal = {Nature Communications},
  volume = {9},
  pages = {2134},
  year = {2018},
  doi = {10.1038/s41467-018-04608-8}
}""",
    "scvi": """@article{lopez2018scvi,
  title = {Deep generative modeling for single-cell transcriptomics},
  author = {Lopez, Romain and Regier, Jeffrey and Cole, Michael B. and Jordan, Michael I. and Yosef, Nir},
  journal = {Nature Methods},
  volume = {15},
  pages = {1053--1058},
  year = {2018},
  doi = {10.1038/s41592-018-0229-2}
}""",
    "cellmnn": """@misc{bassewitz2025cellmnn,
  title = {Learning Explicit Single-Cell Dynamics Using ODE Representations},
  author = {von Bassewitz, Jan-Philipp and Pervez, Adeel and Fumero, Marco and Robinson, Matthew and
            Karaletsos, Theofanis and Locatello, Francesco},
  year = {2025},
  eprint = {2510.02903},
  archivePrefix = {arXiv},
  doi = {10.48550/arXiv.2510.02903}
}""",
    "flecs": """@misc{bertin2025flecs,
  title = {A Scalable Gene Network Model of Regulatory Dynamics in Single Cells},
  author = {Bertin, Paul and Viviano, Joseph D. and Tejada-Lapuerta, Alejandro and Wang, Weixu and
            Bauer, Stefan and Theis, Fabian J. and Bengio, Yoshua},
  year = {2025},
  eprint = {2503.20027},
  archivePrefix = {arXiv},
  doi = {10.48550/arXiv.2503.20027}
}""",
    "neuralode": """@inproceedings{chen2018neuralode,
  title = {Neural Ordinary Differential Equations},
  author = {Chen, Ricky T. Q. and Rubanova, Yulia and Bettencourt, Jesse and Duvenaud, David},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2018},
  doi = {10.48550/arXiv.1806.07366}
}""",
    "otcfm": """@article{tong2024otcfm,
  title = {Improving and generalizing flow-based generative models with minibatch optimal transport},
  author = {Tong, Alexander and Fatras, Kilian and Malkin, Nikolay and Huguet, Guillaume and Zhang, Yanlei and
            Rector-Brooks, Jarrid and Wolf, Guy and Bengio, Yoshua},
  journal = {Transactions on Machine Learning Research},
  year = {2024},
  doi = {10.48550/arXiv.2302.00482}
}""",
    "sf2m": """@inproceedings{tong2024sf2m,
  title = {Simulation-Free {Schr\\"odinger} Bridges via Score and Flow Matching},
  author = {Tong, Alexander and Malkin, Nikolay and Fatras, Kilian and Atanackovic, Lazar and Zhang, Yanlei and
            Huguet, Guillaume and Wolf, Guy and Bengio, Yoshua},
  booktitle = {International Conference on Artificial Intelligence and Statistics},
  year = {2024},
  doi = {10.48550/arXiv.2307.03672}
}""",
    "mfm": """@inproceedings{kapusniak2024mfm,
  title = {Metric Flow Matching for Smooth Interpolations on the Data Manifold},
  author = {Kapu{\\'s}niak, Kacper and Potaptchik, Peter and Reu, Teodora and Zhang, Leo and Tong, Alexander and
            Bronstein, Michael and Bose, Avishek Joey and Di Giovanni, Francesco},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
  doi = {10.48550/arXiv.2405.14780}
}""",
    "vae": """@inproceedings{kingma2014vae,
  title = {Auto-Encoding Variational Bayes},
  author = {Kingma, Diederik P. and Welling, Max},
  booktitle = {International Conference on Learning Representations},
  year = {2014},
  doi = {10.48550/arXiv.1312.6114}
}""",
    "beta_vae": """@inproceedings{higgins2017betavae,
  title = {beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework},
  author = {Higgins, Irina and Matthey, Loic and Pal, Arka and Burgess, Christopher and Glorot, Xavier and Botvinick, Matthew and Mohamed, Shakir and Lerchner, Alexander},
  booktitle = {International Conference on Learning Representations},
  year = {2017},
  url = {https://openreview.net/forum?id=Sy2fzU9gl}
}""",
    "vad": """@article{zadeh2019vad,
  title = {Variational Auto-Decoder: A Method for Neural Generative Modeling from Incomplete Data},
  author = {Zadeh, Amir and Lim, Yao-Chong and Liang, Paul Pu and Morency, Louis-Philippe},
  journal = {arXiv preprint},
  year = {2019},
  doi = {10.48550/arXiv.1903.00840}
}""",
    "ldvae": """@article{svensson2020ldvae,
  title = {Interpretable factor models of single-cell RNA-seq via variational autoencoders},
  author = {Svensson, Valentine and Gayoso, Adam and Yosef, Nir and Pachter, Lior},
  journal = {Bioinformatics},
  volume = {36},
  number = {11},
  pages = {3418--3421},
  year = {2020},
  doi = {10.1093/bioinformatics/btaa169}
}""",
    "pca": """@article{hotelling1933pca,
  title = {Analysis of a complex of statistical variables into principal components},
  author = {Hotelling, Harold},
  journal = {Journal of Educational Psychology},
  volume = {24},
  pages = {417--441},
  year = {1933},
  doi = {10.1037/h0071325}
}""",
    "factor_analysis": """@article{rubin1982em,
  title = {EM algorithms for ML factor analysis},
  author = {Rubin, Donald B. and Thayer, Dorothy T.},
  journal = {Psychometrika},
  volume = {47},
  number = {1},
  pages = {69--76},
  year = {1982},
  doi = {10.1007/BF02293851}
}""",
    "zifa": """@article{pierson2015zifa,
  title = {ZIFA: Dimensionality reduction for zero-inflated single-cell gene expression analysis},
  author = {Pierson, Emma and Yau, Christopher},
  journal = {Genome Biology},
  volume = {16},
  pages = {241},
  year = {2015},
  doi = {10.1186/s13059-015-0805-z}
}""",
    "mofa": """@article{argelaguet2020mofa,
  title = {MOFA+: a statistical framework for comprehensive integration of multi-modal single-cell data},
  author = {Argelaguet, Ricard and Arnol, Damien and Bredikhin, Danila and Deloro, Yonatan and Velten, Britta and Marioni, John C. and Stegle, Oliver},
  journal = {Genome Biology},
  volume = {21},
  pages = {111},
  year = {2020},
  doi = {10.1186/s13059-020-02015-1}
}""",
    "multidgd": """@article{schuster2024multidgd,
  title = {multiDGD: a versatile deep generative model for multi-omics data},
  author = {Schuster, Viktoria and Dann, Emma and Krogh, Anders and Teichmann, Sarah A.},
  journal = {Nature Communications},
  year = {2024},
  doi = {10.1038/s41467-024-53340-z}
}""",
}
references["totalvi"] = """@article{gayoso2021totalvi,
  title = {Joint probabilistic modeling of single-cell multi-omic data with totalVI},
  author = {Gayoso, Adam and Steier, Zo{\\"e} and Lopez, Romain and Regier, Jeffrey and Nazor, Kristopher L. and Streets, Aaron and Yosef, Nir},
  journal = {Nature Methods},
  volume = {18},
  pages = {272--282},
  year = {2021},
  doi = {10.1038/s41592-020-01050-x}
}"""
references["multivi"] = """@article{ashuach2023multivi,
  title = {MultiVI: deep generative model for the integration of multimodal data},
  author = {Ashuach, Tal and Gabitto, Mariano I. and Koodli, Rohan V. and Saldi, Giuseppe-Antonio and Jordan, Michael I. and Yosef, Nir},
  journal = {Nature Methods},
  volume = {20},
  pages = {1222--1231},
  year = {2023},
  doi = {10.1038/s41592-023-01909-9}
}"""
references["scanvi"] = """@article{xu2021scanvi,
  title = {Probabilistic harmonization and annotation of single-cell transcriptomics data with deep generative models},
  author = {Xu, Chenling and Lopez, Romain and Mehlman, Edouard and Regier, Jeffrey and Jordan, Michael I. and Yosef, Nir},
  journal = {Molecular Systems Biology},
  volume = {17},
  number = {1},
  pages = {e9620},
  year = {2021},
  doi = {10.15252/msb.20209620}
}"""
references["scvae"] = """@article{gronbech2020scvae,
  title = {scVAE: variational auto-encoders for single-cell gene expression data},
  author = {Gr{\\o}nbech, Christopher Heje and Vording, Maximillian Fornitz and Timshel, Pascal N. and S{\\o}nderby, Casper Kaae and Pers, Tune H. and Winther, Ole},
  journal = {Bioinformatics},
  volume = {36},
  number = {16},
  pages = {4415--4422},
  year = {2020},
  doi = {10.1093/bioinformatics/btaa293}
}"""
references["vamp"] = """@inproceedings{tomczak2018vamp,
  title = {VAE with a VampPrior},
  author = {Tomczak, Jakub M. and Welling, Max},
  booktitle = {International Conference on Artificial Intelligence and Statistics},
  year = {2018},
  doi = {10.48550/arXiv.1705.07120}
}"""
references["glo"] = """@inproceedings{bojanowski2018glo,
  title = {Optimizing the Latent Space of Generative Networks},
  author = {Bojanowski, Piotr and Joulin, Armand and Lopez-Paz, David and Szlam, Arthur},
  booktitle = {International Conference on Machine Learning},
  year = {2018},
  doi = {10.48550/arXiv.1707.05776}
}"""
references["gon"] = """@inproceedings{bondtaylor2021gon,
  title = {Gradient Origin Networks},
  author = {Bond-Taylor, Sam and Willcocks, Chris G.},
  booktitle = {International Conference on Learning Representations},
  year = {2021},
  doi = {10.48550/arXiv.2007.02798}
}"""
references["hsic_vae"] = """@inproceedings{lopez2018hsic,
  title = {Information Constraints on Auto-Encoding Variational Bayes},
  author = {Lopez, Romain and Regier, Jeffrey and Jordan, Michael I. and Yosef, Nir},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2018},
  doi = {10.48550/arXiv.1805.08672}
}"""
references["dhsic_vae"] = """@article{lotfollahi2021ood,
  title = {Out-of-distribution prediction with disentangled representations for single-cell RNA sequencing data},
  author = {Lotfollahi, Mohammad and Dony, Leander and Agarwala, Harshita and Theis, Fabian},
  journal = {bioRxiv},
  year = {2021},
  doi = {10.1101/2021.09.01.458535}
}"""
references["patches"] = """@article{beker2024patches,
  title = {Patches: A Representation Learning framework for Decoding Shared and Condition-Specific Transcriptional Programs in Wound Healing},
  author = {Beker, Ozgur and Amador, Dreyton and Pomarino Nima, Jose Francisco and Van Deursen, Simon and Woappi, Yvon and Dumitrascu, Bianca},
  journal = {bioRxiv},
  year = {2024},
  doi = {10.1101/2024.12.23.630186}
}"""
references["csvae"] = """@inproceedings{klys2018csvae,
  title = {Learning Latent Subspaces in Variational Autoencoders},
  author = {Klys, Jack and Snell, Jake and Zemel, Richard},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2018},
  doi = {10.48550/arXiv.1812.06190}
}"""
references["multigroupvi"] = """@inproceedings{weinberger2022multigroupvi,
  title = {Disentangling shared and group-specific variations in single-cell transcriptomics data with {multiGroupVI}},
  author = {Weinberger, Ethan and Lopez, Romain and Huetter, Jan-Christian and Regev, Aviv},
  booktitle = {Machine Learning in Computational Biology},
  year = {2022},
  doi = {10.1101/2022.12.13.520349}
}"""
references["contrastivevi"] = """@article{weinberger2023contrastivevi,
  title = {Isolating salient variations of interest in single-cell data with {contrastiveVI}},
  author = {Weinberger, Ethan and Lin, Chris and Lee, Su-In},
  journal = {Nature Methods},
  volume = {20},
  pages = {1336--1345},
  year = {2023},
  doi = {10.1038/s41592-023-01955-3}
}"""
references["ivae"] = """@inproceedings{khemakhem2020ivae,
  title = {Variational Autoencoders and Nonlinear {ICA}: A Unifying Framework},
  author = {Khemakhem, Ilyes and Kingma, Diederik P. and Monti, Ricardo Pio and Hyvarinen, Aapo},
  booktitle = {International Conference on Artificial Intelligence and Statistics},
  year = {2020},
  doi = {10.48550/arXiv.1907.04809}
}"""
references["trvae"] = """@article{lotfollahi2020trvae,
  title = {Conditional out-of-distribution generation for unpaired data using transfer {VAE}},
  author = {Lotfollahi, Mohammad and Naghipourfar, Mohsen and Theis, Fabian J. and Wolf, F. Alexander},
  journal = {Bioinformatics},
  volume = {36},
  pages = {i610--i617},
  year = {2020},
  doi = {10.1093/bioinformatics/btaa800}
}"""
references["cpa"] = """@article{lotfollahi2023cpa,
  title = {Predicting cellular responses to complex perturbations in high-throughput screens},
  author = {Lotfollahi, Mohammad and Klimovskaia Susmelj, Anna and De Donno, Carlo and others},
  journal = {Molecular Systems Biology},
  volume = {19},
  pages = {e11517},
  year = {2023},
  doi = {10.15252/msb.202211517}
}"""
references["biolord"] = """@article{piran2024biolord,
  title = {Disentanglement of single-cell data with biolord},
  author = {Piran, Zoe and Cohen, Niv and Hoshen, Yedid and Nitzan, Mor},
  journal = {Nature Biotechnology},
  volume = {42},
  pages = {1678--1683},
  year = {2024},
  doi = {10.1038/s41587-023-02079-x}
}"""
references["lord"] = """@inproceedings{gabbay2020lord,
  title = {Demystifying Inter-Class Disentanglement},
  author = {Gabbay, Aviv and Hoshen, Yedid},
  booktitle = {International Conference on Learning Representations},
  year = {2020},
  doi = {10.48550/arXiv.1906.11796}
}"""
references["invae"] = """@misc{aliee2023invae,
  title = {Conditionally Invariant Representation Learning for Disentangling Cellular Heterogeneity},
  author = {Aliee, Hananeh and Kapl, Ferdinand and Hediyeh-Zadeh, Soroor and Theis, Fabian J.},
  year = {2023},
  doi = {10.48550/arXiv.2307.00558}
}"""
references["flatvi"] = """@inproceedings{palma2025flatvi,
  title = {Enforcing Latent {Euclidean} Geometry in Single-Cell {VAEs} for Manifold Interpolation},
  author = {Palma, Alessandro and Rybakov, Sergei and Hetzel, Leon and Guennemann, Stephan and Theis, Fabian J.},
  booktitle = {International Conference on Machine Learning},
  year = {2025},
  doi = {10.48550/arXiv.2507.11789}
}"""
references["dgd"] = references["scdgd"]
