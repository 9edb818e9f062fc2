"""Models of scvi-tools say the same here as there (`benchmarks/scvi_parity.py` wrote what they say)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from safetensors import safe_open

import chreode as ch
from chreode.objective import Step
from chreode.scvi_tools import translated

if TYPE_CHECKING:
    from chreode.model import LatentModel

FIXTURE = Path(__file__).with_name("fixtures") / "scvi.safetensors"
LIKELIHOODS = ("nb", "zinb", "poisson")
CASES = [f"{one}, {batches}" for one in LIKELIHOODS for batches in ("batches", "one batch")]
CASES += ["two layers", "encoded batch", "linear, batches", "linear, inflated", "linear, one batch"]


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    with safe_open(FIXTURE, "pt") as stored:
        words = {k: json.loads(v) for k, v in stored.metadata().items()}
        return words | {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118


def under(kept: dict[str, Any], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in kept.items() if k.startswith(prefix)}


def table(kept: dict[str, Any]) -> ad.AnnData:
    cells = ad.AnnData(sp.csr_matrix(kept["counts"].numpy()))
    cells.obs = pd.DataFrame({"batch": kept["batch"]}, index=[f"cell {i}" for i in range(cells.n_obs)])
    cells.var_names = [f"gene {j}" for j in range(cells.n_vars)]
    return cells


def rebuilt(kept: dict[str, Any], case: str) -> tuple[ch.Cells, LatentModel, Step]:
    """The model of a case in double precision, and its cells."""
    facts = json.loads(kept[f"{case}/facts"])
    cells = ch.read(table(kept), batch="batch" if facts["batches"] else None)
    make = ch.recipes.ldvae if "model" in facts else ch.recipes.scvi
    recipe = make(
        dim=facts["n_latent"],
        hidden=(facts["n_hidden"],) * facts["n_layers"],
        likelihood=facts["gene_likelihood"],
        dropout=facts["dropout_rate"],
        encode_batch=facts.get("encode_covariates", False),
    )
    build = recipe.build(cells.layout)
    module = build.model.double().eval()
    order = list(range(3)) if facts["batches"] else []
    missing, unexpected = module.load_state_dict(
        translated(under(kept, f"{case}/state/"), recipe, batches=order), strict=False
    )
    assert not unexpected
    assert all(".seen." in name for name in missing)
    counts, size = cells.measured["rna"], cells.size["rna"]
    exact = cells.replace(
        measured={"rna": counts.with_value(counts.value.double())}, size={"rna": size.double()}
    )
    return exact, module, Step(module, build.objective)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("case", CASES)
def test_a_model_says_the_same_here(kept: dict[str, Any], case: str) -> None:
    cells, module, step = rebuilt(kept, case)
    said = under(kept, f"{case}/said/")
    with torch.no_grad():
        trace = module(cells)
        close(trace.codes["cell"].posterior.mean, said["mean"])
        close(trace.codes["cell"].posterior.variance, said["variance"])
        # The mean in place of the sample.
        divergence, apart = said["divergence"], said["reconstruction at the mean"]
        close(-trace.observed["rna"].log_prob(cells.measured["rna"]), apart)
        terms = step(cells, float(len(cells)))
        close(terms["reconstruction"], apart.mean())
        close(terms["kl"], divergence.mean())
        close(sum(terms.values(), torch.zeros(())), (apart + divergence).mean())
        # The same noise.
        q = trace.codes["cell"].posterior
        drawn = module.trace({"cell": q.mean + q.variance.sqrt() * kept[f"{case}/noise"]}, cells)
        close(-drawn.observed["rna"].log_prob(cells.measured["rna"]), said["reconstruction at the noise"])


def test_batches_may_stand_in_another_order(kept: dict[str, Any]) -> None:
    """The columns of one-hot batches follow the levels, whatever their order."""
    case = "nb, batches"
    cells, module, _ = rebuilt(kept, case)
    recipe = ch.recipes.scvi(dim=3, hidden=(7,), likelihood="nb")
    turned = translated(under(kept, f"{case}/state/"), recipe, batches=[2, 0, 1])
    level = cells.covariates["batch"]
    with torch.no_grad():
        before = module.trace({"cell": torch.zeros(40, 3).double()}, cells).observed["rna"].proportions
        module.load_state_dict(turned, strict=False)
        moved = cells.replace(covariates={"batch": (level + 1) % 3})
        after = module.trace({"cell": torch.zeros(40, 3).double()}, moved).observed["rna"].proportions
    close(after, before)


class Trained:
    """What `from_scvi` reads of a ``scvi.model.SCVI``, without scvi-tools."""

    def __init__(self, kept: dict[str, Any], case: str, **changes: Any) -> None:
        facts = json.loads(kept[f"{case}/facts"])
        given = {k: v for k, v in facts.items() if k not in ("batches", "model")}
        more = {k: given.pop(k) for k in ("encode_covariates", "bias") if k in given}
        self.adata, self.is_trained = table(kept), True
        self.adata.layers["counts"] = self.adata.X.copy()
        self.adata.X = np.log1p(self.adata.X)
        self.init_params_ = {"non_kwargs": given, "kwargs": {"kwargs": more}}
        key = "batch" if facts["batches"] else None
        levels = np.asarray(["a", "b", "c"] if key else [0], dtype=object)
        self.registry_ = {
            "model_name": facts.get("model", "SCVI"),
            "setup_args": {"layer": "counts", "batch_key": key, "labels_key": None},
            "field_registries": {"batch": {"state_registry": {"categorical_mapping": levels}}},
        }
        state = {k: v.float() for k, v in under(kept, f"{case}/state/").items()}
        self.module = type("Module", (), {"state_dict": lambda _: state})()
        self.train_indices = np.arange(4, 40)
        self.history = {"elbo_train": pd.DataFrame({"elbo_train": [3.0, 2.0]})}
        for name, value in changes.items():
            where = self.registry_["setup_args"] if name.endswith("keys") else given
            where[name] = value


@pytest.mark.parametrize("case", CASES)
def test_a_model_is_read_with_its_cells(kept: dict[str, Any], case: str, tmp_path: Path) -> None:
    theirs = Trained(kept, case)
    model = ch.from_scvi(theirs)
    mean = kept[f"{case}/said/mean"].numpy()
    np.testing.assert_allclose(model.embedded.embedding, mean, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(model.embedded.trained, np.arange(40) >= 4)
    assert model.history["loss"].tolist() == [3.0, 2.0]
    new = theirs.adata[:5].copy()
    np.testing.assert_allclose(model.project(new).embedding, mean[:5], rtol=1e-3, atol=1e-5)
    model.save(tmp_path / "saved")
    again = ch.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.embedded.embedding, model.embedded.embedding)
    np.testing.assert_array_equal(again.embedded.expected(), model.embedded.expected())


def test_what_cannot_be_read_is_refused(kept: dict[str, Any]) -> None:
    def refused(model: Any, *said: str) -> None:
        with pytest.raises(ch.InputError) as error:
            ch.from_scvi(model)
        assert all(words in str(error.value) for words in said)

    refused(3, "SCVI", "found int")
    refused(Trained(kept, CASES[0], dispersion="gene-batch"), "dispersion", "'gene-batch'", "fit it anew")
    refused(Trained(kept, CASES[0], use_layer_norm="both"), "use_layer_norm", "'both'")
    refused(Trained(kept, CASES[0], continuous_covariate_keys=["age"]), "continuous_covariate_keys", "'age'")
    untrained = Trained(kept, CASES[0])
    untrained.is_trained = False
    refused(untrained, "train()")
    other = Trained(kept, CASES[0])
    other.registry_["model_name"] = "TOTALVI"
    refused(other, "found TOTALVI")


def test_latent_totals_are_spoken_of(kept: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    theirs = Trained(kept, "linear, batches", use_observed_lib_size=False)
    model = ch.from_scvi(theirs)
    assert "observed ones" in caplog.text
    mean = kept["linear, batches/said/mean"].numpy()
    np.testing.assert_allclose(model.embedded.embedding, mean, rtol=1e-3, atol=1e-5)
    loadings = model.module.decoder.loadings("rna")
    assert loadings.shape == (24, 3)


def test_weights_that_do_not_fit_are_refused(kept: dict[str, Any]) -> None:
    theirs = Trained(kept, "two layers")
    theirs.init_params_["non_kwargs"]["n_layers"] = 3
    with pytest.raises(ch.InputError, match="another version of scvi-tools"):
        ch.from_scvi(theirs)
