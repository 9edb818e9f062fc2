"""scvi-tools' totalVI at its defaults on the cells of one split; run by the peers' Python: `proteins.py`.

    peers/bin/python benchmarks/totalvi_peer.py JOB.npz OUT.npz

``JOB`` holds RNA and proteins of the cells that are fitted, RNA of those that are tested, and the ``way``:

- *zeros*: one batch of the fitted cells; what the encoder gets of a tested cell is its RNA and zeros;
- *copies*: each fitted cell twice, in the batch "both" and, with zero proteins, in the batch "rna"; tested
  cells enter in "rna" and are decoded as in "both" (a cell that decides when to stop may have its copy
  trained on);
- *along*: the tested cells' RNA is fitted along in the batch "rna", with zero proteins, as the tutorials of
  scvi-tools have it for cells without proteins: for this one the tested cells are not new.

totalVI takes a protein that is zero throughout a batch for missing there: it leaves it out of the
likelihood, and mixes the batches by a classifier of the codes. ``load_query_data`` is no other way for these
data: with one batch in the reference its layers have no weights for batches, so that those of "both" would
be drawn at random when "rna" is added; and training on the query would fit weights to the tested cells.

``OUT`` gets codes of the fitted cells, and proteins of the tested cells with and without background: means
over 25 draws of their codes. Without is what totalVI calls denoised, with is what it expects to be counted.
"""

from __future__ import annotations

import sys
import time
import warnings

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import scvi
from multivi_peer import Clock
from scvi_fit import unpack

DRAWS = 25


def table(rna: np.ndarray, proteins: np.ndarray, *, batch: str) -> mudata.MuData:
    """Some cells of one batch."""
    obs = pd.DataFrame({"batch": batch}, index=[f"{batch}{i}" for i in range(len(rna))])
    both = {}
    for name, x in (("rna", rna), ("prot", proteins)):
        var = pd.DataFrame(index=[f"{name}{j}" for j in range(x.shape[1])])
        both[name] = ad.AnnData(x.astype(np.float32), obs=obs.copy(), var=var)
    return mudata.MuData(both)


def stacked(tables: list[mudata.MuData]) -> mudata.MuData:
    """Tables one after the other."""
    return mudata.MuData({m: ad.concat([one[m] for one in tables]) for m in ("rna", "prot")})


def main(job: str, out: str) -> None:
    warnings.simplefilter("ignore")
    stored = np.load(job)
    way, epochs = str(stored["way"]), int(stored["epochs"])
    scvi.settings.seed = int(stored["seed"])
    rna, proteins, others = (unpack(n, stored).toarray() for n in ("fit_rna", "fit_prot", "test_rna"))
    none = np.zeros((len(others), proteins.shape[1]))
    fitted = table(rna, proteins, batch="both")
    tested = table(others, none, batch="both" if way == "zeros" else "rna")
    copies = {"zeros": [], "copies": [table(rna, np.zeros_like(proteins), batch="rna")], "along": [tested]}
    mdata = stacked([fitted, *copies[way]])
    modalities = {"rna_layer": "rna", "protein_layer": "prot", "batch_key": "rna"}
    scvi.model.TOTALVI.setup_mudata(mdata, batch_key="batch", modalities=modalities)
    model = scvi.model.TOTALVI(mdata)
    clock = Clock()
    start = time.perf_counter()
    model.train(callbacks=[clock], accelerator="cpu", **({"max_epochs": epochs} if epochs else {}))
    found = {"seconds": np.asarray(clock.ticks) - start, "codes": model.get_latent_representation(fitted)}
    one = [str(mdata["rna"].var_names[0])]  # of the genes, which nobody asks for here, only one
    for name, background in (("counted", True), ("denoised", False)):
        _, expected = model.get_normalized_expression(
            tested,
            n_samples=DRAWS,
            gene_list=one,
            transform_batch="both",
            include_protein_background=background,
            return_numpy=True,
        )
        found[name] = np.asarray(expected, dtype=np.float32)
    np.savez(out, **found)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
