"""Models that scvi-tools trained, read into parts of chreode."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chreode import posthoc
from chreode.errors import InputError
from chreode.fitted import FittedModel
from chreode.io.columns import reuse
from chreode.io.opening import open_source
from chreode.io.read import read
from chreode.layout import Covariate
from chreode.recipe import named
from chreode.words import level_name, listing, many

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from chreode.axes import Tensor
    from chreode.cells import Cells
    from chreode.layout import Role
    from chreode.recipe import Recipe

__all__ = ["from_scvi", "translated"]

# The recipe of each model, and, by argument, the values that it can be translated from.
_RECIPES = {"SCVI": "scvi", "LinearSCVI": "ldvae", "SCANVI": "scanvi"}
_ALL: dict[str, tuple[Any, ...]] = {
    "dispersion": ("gene",),
    "gene_likelihood": ("nb", "zinb", "poisson"),
    "latent_distribution": ("normal",),
    "log_variational": (True,),
}
_DEEP: dict[str, tuple[Any, ...]] = {
    **_ALL,
    "use_observed_lib_size": (True,),
    "use_batch_norm": ("both",),
    "use_layer_norm": ("none",),
    "batch_representation": ("one-hot",),
    "deeply_inject_covariates": (True,),
}
_ARGUMENTS: dict[str, dict[str, tuple[Any, ...]]] = {
    "SCVI": _DEEP,
    "LinearSCVI": _ALL,
    "SCANVI": {**_DEEP, "classifier_parameters": (None, {}), "use_labels_groups": (False,)},
}
_EPSILON = 1e-3  # of batch normalisation
_SET_UP = ("size_factor_key", "categorical_covariate_keys", "continuous_covariate_keys")


def from_scvi(model: Any) -> FittedModel:
    """Read a trained SCVI, LinearSCVI or SCANVI of scvi-tools with its cells; nothing is trained again.

    Encoder, decoder, dispersions, the classifier and the state of batch normalisation are those of the model,
    so that codes, likelihoods and probabilities of labels are the same. Everything that a fitted
    `chreode.recipes.scvi` (`chreode.recipes.ldvae`, `chreode.recipes.scanvi`) offers works from there on,
    among it cells of unseen batches, and saving without a pickle. Totals that were a latent variable there
    are the observed ones here, which a warning says. Batches and labels that scvi-tools knows are known here
    too, also where none of the model's cells is of them.

    Parameters
    ----------
    model
        A trained ``scvi.model.SCVI``, ``LinearSCVI`` or ``SCANVI``, whose ``adata`` has the cells.

    Raises
    ------
    InputError
        For another model, one that is not trained, or one with parts that chreode has not: another
        dispersion than one a gene, SCVI's latent library size, further covariates, layer normalisation.
    """
    given, name = _refused_unless_known(model), model.registry_["model_name"]
    cells = _cells(model)
    batch, label = (cells.layout.in_role(role) for role in ("batch", "label"))
    arguments = {
        "dim": given["n_latent"],
        "hidden": (given["n_hidden"],) * given["n_layers"],
        "likelihood": given["gene_likelihood"],
        "dropout": given["dropout_rate"],
        "encode_batch": bool(given.get("encode_covariates", False)),
    }
    if name == "SCANVI":
        arguments["classifier"] = () if given.get("linear_classifier") else arguments["hidden"]
    recipe = named(_RECIPES[name], arguments)
    trained = _trained(model, len(cells))
    layout = replace(cells.layout, n_cells=int(trained.sum()))
    module = recipe.build(layout).model
    levels = {"batches": len(batch.levels) if batch else 0, "labels": len(label.levels) if label else 0}
    state = translated(model.module.state_dict(), recipe, **levels)
    missing, unexpected = module.load_state_dict(state, strict=False)
    if unexpected or any(".seen." not in name and not name.endswith(".labelled") for name in missing):
        msg = f"Expected the weights of {recipe.name}; found others ({listing([*missing, *unexpected])})."
        raise InputError(msg + " Was this model made by another version of scvi-tools than 1.4?")
    module.eval()
    found = FittedModel(
        module, layout=layout, reading=cells.reading, recipe=recipe, history=_history(model.history)
    )
    found.embedded = found.embed(cells, trained=trained, codes=posthoc.codes_of_all(module, cells, trained))
    return found


def _cells(model: Any) -> Cells:
    """The cells of a model, with the levels that it knows in its order; some of them no cell may have."""
    setup, known = model.registry_["setup_args"], {}
    unlabelled = setup.get("unlabeled_category")
    fields: dict[Role, tuple[str, str]] = {"batch": ("batch_key", "batch")}
    if unlabelled is not None:
        fields["label"] = ("labels_key", "labels")
    for role, (key, field) in fields.items():
        mapping = model.registry_["field_registries"][field]["state_registry"]["categorical_mapping"]
        levels = tuple(level_name(one) for one in mapping)
        # What stands for no label is the last, and not one of the module's own.
        levels = levels[: model.module.n_labels] if role == "label" else levels
        if setup.get(key) and len(levels) > 1:
            known[setup[key]] = Covariate(setup[key], role, levels=levels)
    label = setup.get("labels_key")
    cells = read(model.adata, counts=setup.get("layer"), label=None if label in known else label)
    with open_source(model.adata) as opened:
        values = {name: reuse(opened, covariate).values for name, covariate in known.items()}
    layout = replace(cells.layout, covariates={**known, **cells.layout.covariates})
    said = {"batch": setup.get("batch_key"), "label": label}
    said["unlabelled"] = None if unlabelled is None else level_name(unlabelled)
    reading = replace(cells.reading, schema={**cells.reading.schema, **said})
    return cells.replace(layout=layout, covariates={**values, **cells.covariates}, reading=reading)


def _trained(model: Any, n: int) -> np.ndarray:
    """Which of ``n`` cells it was trained on; all, where it has been given others since."""
    rows = np.asarray(model.train_indices)
    if len(rows) and rows.max() >= n:
        logging.getLogger(__name__).warning(
            "The model was trained on other cells than it was given since: these %s are taken as trained.",
            many(n, "cell"),
        )
        rows = np.arange(n)
    trained = np.zeros(n, dtype=bool)
    trained[rows] = True
    return trained


def translated(
    state: Mapping[str, Tensor], recipe: Recipe, *, batches: int = 0, labels: int = 0
) -> dict[str, Tensor]:
    """Weights of scvi-tools' SCVI, LinearSCVI or SCANVI under the names of chreode's.

    What is added before batch normalisation is taken off the running mean instead: the bias, and the mean of
    what one-hot batches add, since `chreode.layers.Conditions` have mean zero.

    Parameters
    ----------
    state
        The state of ``SCVI.module``.
    recipe
        `chreode.recipes.scvi`, `chreode.recipes.ldvae` or `chreode.recipes.scanvi` with the same layers.
    batches, labels
        How many levels there are, in the same order here and there.
    """
    encoder, decoder = "latents.cell.infer.encoder", "decoder.hidden"
    seen = batches if recipe.arguments["encode_batch"] else 0
    found = _layers(state, "z_encoder.encoder", f"{encoder}.layers", levels=seen)
    first = f"{encoder}.layers.linear.0.weight"
    found[first] = found[first].T.contiguous()
    found |= _both(state, "z_encoder", "encoder", f"{encoder}.output")
    inflated = recipe.arguments["likelihood"] == "zinb"
    more = ["decoder.px_dropout_decoder"] if inflated else []
    if recipe.name == "ldvae":
        blocks = [_linear(state, name, levels=batches) for name in ("decoder.factor_regressor", *more)]
        outputs = {part: [block[part] for block in blocks] for part in ("weight", "bias")}
        if batches:
            offsets = torch.cat([block["offsets"] for block in blocks], 1)
            found["decoder.readout.offsets.rna.vectors.0"] = offsets
    else:
        found |= _layers(state, "decoder.px_decoder", f"{decoder}.layers", levels=batches)
        names = ["decoder.px_scale_decoder.0", *more]
        outputs = {part: [state[f"{name}.{part}"] for name in names] for part in ("weight", "bias")}
    for part, parts in outputs.items():
        found[f"decoder.readout.outputs.rna.{part}"] = torch.cat(parts)
    if recipe.arguments["likelihood"] != "poisson":
        found["decoder.readout.heads.rna.log_theta"] = state["px_r"]
    return found | (_hierarchy(state, labels=labels) if recipe.name == "scanvi" else {})


def _hierarchy(state: Mapping[str, Tensor], *, labels: int) -> dict[str, Tensor]:
    """The prior of SCANVI: classifier, and the two networks of the second code."""
    prior, theirs = "latents.cell.prior", "classifier.classifier"
    found = {f"{prior}.log_weights": state["y_prior"][0].log()}
    for part, name in (("encoder", "encoder_z2_z1"), ("decoder", "decoder_z1_z2")):
        found |= _layers(state, f"{name}.{part}", f"{prior}.{part}.layers", levels=labels)
        found |= _both(state, name, part, f"{prior}.{part}.output")
    found |= _layers(state, f"{theirs}.0", f"{prior}.classifier.layers")
    last = 0 if f"{theirs}.0.weight" in state else 1  # a linear classifier has no layers before
    for part in ("weight", "bias"):
        found[f"{prior}.classifier.output.{part}"] = state[f"{theirs}.{last}.{part}"]
    return found


def _both(state: Mapping[str, Tensor], theirs: str, kind: str, ours: str) -> dict[str, Tensor]:
    """The output that gives the mean and log variance of a Gaussian."""
    return {
        f"{ours}.{part}": torch.cat([state[f"{theirs}.{which}_{kind}.{part}"] for which in ("mean", "var")])
        for part in ("weight", "bias")
    }


def _linear(state: Mapping[str, Tensor], name: str, *, levels: int) -> dict[str, Tensor]:
    """A linear layer whose outputs are normalised by batch, as one that needs no normalising."""
    linear, norm = (f"{name}.fc_layers.Layer 0.{part}" for part in (0, 1))
    weight = state[f"{linear}.weight"]
    bias = state.get(f"{linear}.bias", weight.new_zeros(len(weight)))
    if f"{norm}.running_var" in state:
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _EPSILON).sqrt()
        weight = weight * scale[:, None]
        bias = (bias - state[f"{norm}.running_mean"]) * scale + state[f"{norm}.bias"]
    if not levels:
        return {"weight": weight, "bias": bias}
    offsets = weight[:, -levels:].T
    return {"weight": weight[:, :-levels], "bias": bias + offsets.mean(0), "offsets": offsets}


def _layers(state: Mapping[str, Tensor], theirs: str, ours: str, *, levels: int = 0) -> dict[str, Tensor]:
    """Hidden layers: weights, what batches or labels add, and batch normalisation."""
    found: dict[str, Tensor] = {}
    number = 0
    while f"{theirs}.fc_layers.Layer {number}.0.weight" in state:
        linear, norm = (f"{theirs}.fc_layers.Layer {number}.{part}" for part in (0, 1))
        weight, gone = state[f"{linear}.weight"], state[f"{linear}.bias"]
        if levels:
            shift = weight[:, -levels:].T
            weight, gone = weight[:, :-levels], gone + shift.mean(0)
            found[f"{ours}.conditions.{number}.vectors.0"] = shift.contiguous()
        found[f"{ours}.linear.{number}.weight"] = weight.contiguous()
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            value = state[f"{norm}.{part}"]
            found[f"{ours}.after.{number}.0.{part}"] = value - gone if part == "running_mean" else value
        number += 1
    return found


def _refused_unless_known(model: Any) -> dict[str, Any]:
    """The arguments that a trained model was made with."""
    name = getattr(model, "registry_", {}).get("model_name")
    if name not in _RECIPES:
        msg = f"Expected a model of scvi-tools' {listing(_RECIPES)}; found {name or type(model).__name__}."
        raise InputError(msg + " Give a trained scvi.model.SCVI, LinearSCVI or SCANVI.")
    if not model.is_trained:
        msg = "Expected a trained model; found one that is not. Call its train() first, or fit with chreode."
        raise InputError(msg)
    given = {**model.init_params_["non_kwargs"]}
    for more in model.init_params_["kwargs"].values():
        given |= more
    for argument, known in _ARGUMENTS[name].items():
        if given.get(argument, known[0]) not in known:
            msg = f"Expected {argument} to be {listing(known)}; found {given[argument]!r}."
            raise InputError(msg + " chreode has no part for it: fit it anew with chreode.")
    setup = model.registry_["setup_args"]
    for argument in _SET_UP:
        if setup.get(argument):
            msg = f"Expected a model set up without {argument}; found {setup[argument]!r}."
            raise InputError(msg + " Its columns cannot be translated yet: fit it anew with chreode.")
    if not given.get("use_observed_lib_size", True):
        logging.getLogger(__name__).warning(
            "The totals of cells were a latent variable of this %s; here they are the observed ones.", name
        )
    return given


def _history(history: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Its losses, one row an epoch."""
    import pandas as pd

    loss = history["elbo_train"].iloc[:, 0].to_numpy(dtype=float)
    unknown = np.full(len(loss), np.nan)
    columns = {"loss": loss, "seconds": unknown, "validation": unknown, "event": ""}
    return pd.DataFrame({"epoch": np.arange(1, len(loss) + 1), **columns})
