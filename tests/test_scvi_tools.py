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
LABELLED = ["labels, batches", "labels, linear classifier", "labels, two layers"]
MODELS = {"SCVI": ch.recipes.scvi, "LinearSCVI": ch.recipes.ldvae, "SCANVI": ch.recipes.scanvi}


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    with safe_open(FIXTURE, "pt") as stored:
        words = {k: json.loads(v) for k, v in stored.metadata().items()}
        return words | {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118


def under(kept: dict[str, Any], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in kept.items() if k.startswith(prefix)}


def table(kept: dict[str, Any]) -> ad.AnnData:
    cells = ad.AnnData(sp.csr_matrix(kept["counts"].numpy()))
    names = [f"cell {i}" for i in range(cells.n_obs)]
    cells.obs = pd.DataFrame({"batch": kept["batch"], "type": kept["type"]}, index=names)
    cells.var_names = [f"gene {j}" for j in range(cells.n_vars)]
    return cells


def rebuilt(kept: dict[str, Any], case: str) -> tuple[ch.Cells, LatentModel, Step]:
    """The model of a case in double precision, and its cells."""
    facts = json.loads(kept[f"{case}/facts"])
    adata = table(kept)
    if case in LABELLED:
        # Levels in the order of scvi-tools: that of the categories.
        adata.obs["type"] = pd.Categorical(adata.obs["type"], categories=kept[f"{case}/labels"])
    named = {"label": "type", "unlabelled": "Unknown"} if case in LABELLED else {}
    cells = ch.read(adata, batch="batch" if facts["batches"] else None, **named)
    hidden = (facts["n_hidden"],) * facts["n_layers"]
    classifier = {"classifier": () if facts.get("linear_classifier") else hidden}
    recipe = MODELS[facts.get("model", "SCVI")](
        dim=facts["n_latent"],
        hidden=hidden,
        likelihood=facts["gene_likelihood"],
        dropout=facts["dropout_rate"],
        encode_batch=facts.get("encode_covariates", False),
        **(classifier if case in LABELLED else {}),
    )
    build = recipe.build(cells.layout)
    module = build.model.double().eval()
    levels = {"batches": 3 if facts["batches"] else 0, "labels": 3}
    missing, unexpected = module.load_state_dict(
        translated(under(kept, f"{case}/state/"), recipe, **levels), strict=False
    )
    assert not unexpected
    assert all(".seen." in name or name.endswith(".labelled") for name in missing)
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


@pytest.mark.parametrize("case", LABELLED)
def test_a_model_with_labels_says_the_same_here(kept: dict[str, Any], case: str) -> None:
    """Its loss averages over the labels, also in cells that have one; here these are hidden for that."""
    cells, module, step = rebuilt(kept, case)
    said, hidden = under(kept, f"{case}/said/"), cells.do(label=None)
    with torch.no_grad():
        trace = module(hidden)
        q, prior = trace.codes["cell"].posterior, module.latents["cell"].prior
        close(q.mean, said["mean"])
        close(q.variance, said["variance"])
        close(prior.label_probabilities(q.mean), said["probabilities"])
        close(prior.mixture().bounds(q.mean), said["bounds"])
        # The mean in place of the sample.
        apart = -trace.observed["rna"].log_prob(cells.measured["rna"])
        close(apart + module.prior("cell", trace).kl(q, q.mean), said["loss at the mean"])
        terms = step(hidden, float(len(cells)))
        close(terms["reconstruction"] + terms["kl"], said["loss at the mean"].mean())
        # The same noise, of both codes.
        z = q.mean + q.variance.sqrt() * kept[f"{case}/noise"]
        drawn = module.trace({"cell": z}, cells)
        noise = kept[f"{case}/second noise"].view(3, len(cells), -1).transpose(0, 1)
        apart = -drawn.observed["rna"].log_prob(cells.measured["rna"])
        close(apart + q.log_prob(z) - prior.mixture().log_prob(z, noise), said["loss at the noise"])
        # Labels that are known.
        known = (cells.covariates["type"] >= 0).double()
        lost = step.objective.terms[-1].of(module, module(cells)) * prior.labelled
        close(lost.sum() / known.sum(), said["classification"].squeeze())


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
        levels = {"batch": ["a", "b", "c"] if key else [0], "labels": kept.get(f"{case}/labels", [0])}
        self.registry_ = {
            "model_name": facts.get("model", "SCVI"),
            "setup_args": {"layer": "counts", "batch_key": key, "labels_key": None},
            "field_registries": {
                field: {"state_registry": {"categorical_mapping": np.asarray(names, dtype=object)}}
                for field, names in levels.items()
            },
        }
        if case in LABELLED:
            self.registry_["setup_args"] |= {"labels_key": "type", "unlabeled_category": "Unknown"}
        state = {k: v.float() for k, v in under(kept, f"{case}/state/").items()}
        self.module = type("Module", (), {"state_dict": lambda _: state, "n_labels": 3})()
        self.train_indices = np.arange(4, 40)
        self.history = {"elbo_train": pd.DataFrame({"elbo_train": [3.0, 2.0]})}
        for name, value in changes.items():
            where = self.registry_["setup_args"] if name.endswith("keys") else given
            where[name] = value


@pytest.mark.parametrize("case", CASES + LABELLED)
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


@pytest.mark.parametrize("case", LABELLED)
def test_labels_are_read_with_it(kept: dict[str, Any], case: str) -> None:
    model = ch.from_scvi(Trained(kept, case))
    assert model.embedded.component_names == ["z", "x", "y"]
    expected = kept[f"{case}/said/probabilities"].numpy()
    np.testing.assert_allclose(model.embedded.probabilities(), expected, rtol=1e-3, atol=1e-5)
    expected = [None if level == "Unknown" else level for level in kept["type"]]
    assert model.embedded.level_names("type").tolist() == expected


def test_levels_that_no_cell_has_stay_known(kept: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """As of a model that was given some of its cells, or trained with a category that is not used."""
    case = "nb, batches"
    whole, theirs = ch.from_scvi(Trained(kept, case)), Trained(kept, case)
    chosen = np.flatnonzero(theirs.adata.obs["batch"] == "b")
    theirs.adata = theirs.adata[chosen].copy()
    part = ch.from_scvi(theirs)
    assert "other cells" in caplog.text
    assert part.embedded.trained.all()
    assert part.layout.covariates["batch"].levels == ("a", "b", "c")
    np.testing.assert_array_equal(part.embedded.embedding, whole.embedded.embedding[chosen])
    for level in ("a", "b", "c", None):
        expected = whole.embedded.do(batch=level).expected()[chosen]
        np.testing.assert_allclose(part.embedded.do(batch=level).expected(), expected, rtol=1e-6)


def test_levels_are_told_apart_by_name(kept: dict[str, Any]) -> None:
    """Whatever their order in scvi-tools."""
    case = "nb, batches"
    turned, theirs = {"a": "z", "b": "y", "c": "x"}, Trained(kept, case)
    theirs.adata.obs["batch"] = theirs.adata.obs["batch"].map(turned)
    registry = theirs.registry_["field_registries"]["batch"]["state_registry"]
    registry["categorical_mapping"] = np.asarray(["z", "y", "x"], dtype=object)
    expected = ch.from_scvi(Trained(kept, case)).embedded
    np.testing.assert_array_equal(ch.from_scvi(theirs).embedded.expected(), expected.expected())


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
    loadings = model.module.decoder.loadings("rna", "cell")
    assert loadings.shape == (24, 3)


def test_weights_that_do_not_fit_are_refused(kept: dict[str, Any]) -> None:
    theirs = Trained(kept, "two layers")
    theirs.init_params_["non_kwargs"]["n_layers"] = 3
    with pytest.raises(ch.InputError, match="another version of scvi-tools"):
        ch.from_scvi(theirs)
