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
from chreode.io.read import read
from chreode.io.schema import listing
from chreode.recipe import named
from chreode.words import level_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from chreode.axes import Tensor
    from chreode.recipe import Recipe

__all__ = ["from_scvi", "translated"]

# The recipe of each model, and, by argument, the values that it can be translated from.
_RECIPES = {"SCVI": "scvi", "LinearSCVI": "ldvae"}
_BOTH: dict[str, tuple[Any, ...]] = {
    "dispersion": ("gene",),
    "gene_likelihood": ("nb", "zinb", "poisson"),
    "latent_distribution": ("normal",),
}
_ARGUMENTS: dict[str, dict[str, tuple[Any, ...]]] = {
    "SCVI": {
        **_BOTH,
        "use_observed_lib_size": (True,),
        "use_batch_norm": ("both",),
        "use_layer_norm": ("none",),
        "batch_representation": ("one-hot",),
        "deeply_inject_covariates": (True,),
    },
    "LinearSCVI": _BOTH,
}
_EPSILON = 1e-3  # of batch normalisation
_SET_UP = ("size_factor_key", "categorical_covariate_keys", "continuous_covariate_keys")


def from_scvi(model: Any) -> FittedModel:
    """Read a trained ``scvi.model.SCVI`` or ``LinearSCVI`` with its cells; nothing is trained again.

    Encoder, decoder, dispersions and the state of batch normalisation are those of the model, so that codes
    and likelihoods are the same. Everything that a fitted `chreode.recipes.scvi` (or `chreode.recipes.ldvae`)
    offers works from there on, among it cells of unseen batches, and saving without a pickle. Totals that
    were a latent variable there are the observed ones here, which a warning says.

    Parameters
    ----------
    model
        A trained ``scvi.model.SCVI`` or ``scvi.model.LinearSCVI``, whose ``adata`` has the cells.

    Raises
    ------
    InputError
        For another model, one that is not trained, or one with parts that chreode has not: another
        dispersion than one a gene, SCVI's latent library size, further covariates, layer normalisation.
    """
    given, setup = _refused_unless_known(model), model.registry_["setup_args"]
    mapping = model.registry_["field_registries"]["batch"]["state_registry"]["categorical_mapping"]
    batch = setup.get("batch_key") if len(mapping) > 1 else None
    cells = read(model.adata, counts=setup.get("layer"), batch=batch, label=setup.get("labels_key"))
    recipe = named(
        _RECIPES[model.registry_["model_name"]],
        {
            "dim": given["n_latent"],
            "hidden": (given["n_hidden"],) * given["n_layers"],
            "likelihood": given["gene_likelihood"],
            "dropout": given["dropout_rate"],
            "encode_batch": bool(given.get("encode_covariates", False)),
        },
    )
    trained = np.zeros(len(cells), dtype=bool)
    trained[np.asarray(model.train_indices)] = True
    layout = replace(cells.layout, n_cells=int(trained.sum()))
    module = recipe.build(layout).model
    levels = list(layout.covariates[batch].levels) if batch else []
    order = [[level_name(name) for name in mapping].index(level) for level in levels]
    state = translated(model.module.state_dict(), recipe, batches=order)
    missing, unexpected = module.load_state_dict(state, strict=False)
    if unexpected or any(".seen." not in name for name in missing):
        msg = f"Expected the weights of {recipe.name}; found others ({listing([*missing, *unexpected])})."
        raise InputError(msg + " Was this model made by another version of scvi-tools than 1.4?")
    module.decoder.readout.seen["rna"].note(cells)
    module.eval()
    found = FittedModel(
        module, layout=layout, reading=cells.reading, recipe=recipe, history=_history(model.history)
    )
    found.embedded = found.embed(cells, trained=trained, codes=posthoc.codes_of_all(module, cells, trained))
    return found


def translated(
    state: Mapping[str, Tensor], recipe: Recipe, *, batches: Sequence[int] = ()
) -> dict[str, Tensor]:
    """Weights of scvi-tools' SCVI or LinearSCVI under the names of chreode's.

    What is added before batch normalisation is taken off the running mean instead: the bias, and the mean of
    what one-hot batches add, since `chreode.layers.Conditions` have mean zero.

    Parameters
    ----------
    state
        The state of ``SCVI.module``.
    recipe
        `chreode.recipes.scvi` or `chreode.recipes.ldvae` with the same layers.
    batches
        Position in scvi-tools of each level, in chreode's order; empty without batches.
    """
    encoder, decoder = "latents.cell.infer.encoder", "decoder.hidden"
    seen = list(batches) if recipe.arguments["encode_batch"] else []
    found = _layers(state, "z_encoder.encoder", f"{encoder}.layers", batches=seen)
    first = f"{encoder}.layers.linear.0.weight"
    found[first] = found[first].T.contiguous()
    for part in ("weight", "bias"):
        both = [state[f"z_encoder.{which}_encoder.{part}"] for which in ("mean", "var")]
        found[f"{encoder}.output.{part}"] = torch.cat(both)
    inflated = recipe.arguments["likelihood"] == "zinb"
    if recipe.name == "scvi":
        found |= _layers(state, "decoder.px_decoder", f"{decoder}.layers", batches=list(batches))
        names = ["decoder.px_scale_decoder.0", *(["decoder.px_dropout_decoder"] if inflated else [])]
        outputs = {part: [state[f"{name}.{part}"] for name in names] for part in ("weight", "bias")}
    else:
        names = ["decoder.factor_regressor", *(["decoder.px_dropout_decoder"] if inflated else [])]
        blocks = [_linear(state, name, batches=list(batches)) for name in names]
        outputs = {part: [block[part] for block in blocks] for part in ("weight", "bias")}
        if batches:
            offsets = torch.cat([block["offsets"] for block in blocks], 1)
            found["decoder.readout.offsets.rna.vectors.0"] = offsets
    for part, parts in outputs.items():
        found[f"decoder.readout.outputs.rna.{part}"] = torch.cat(parts)
    if recipe.arguments["likelihood"] != "poisson":
        found["decoder.readout.heads.rna.log_theta"] = state["px_r"]
    return found


def _linear(state: Mapping[str, Tensor], name: str, *, batches: Sequence[int]) -> dict[str, Tensor]:
    """A linear layer whose outputs are normalised by batch, as one that needs no normalising."""
    linear, norm = (f"{name}.fc_layers.Layer 0.{part}" for part in (0, 1))
    weight = state[f"{linear}.weight"]
    bias = state.get(f"{linear}.bias", weight.new_zeros(len(weight)))
    if f"{norm}.running_var" in state:
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _EPSILON).sqrt()
        weight = weight * scale[:, None]
        bias = (bias - state[f"{norm}.running_mean"]) * scale + state[f"{norm}.bias"]
    if not batches:
        return {"weight": weight, "bias": bias}
    offsets = weight[:, -len(batches) :].T[list(batches)]
    return {"weight": weight[:, : -len(batches)], "bias": bias + offsets.mean(0), "offsets": offsets}


def _layers(
    state: Mapping[str, Tensor], theirs: str, ours: str, *, batches: Sequence[int]
) -> dict[str, Tensor]:
    """Hidden layers: weights, what batches add, and batch normalisation."""
    found: dict[str, Tensor] = {}
    number = 0
    while f"{theirs}.fc_layers.Layer {number}.0.weight" in state:
        linear, norm = (f"{theirs}.fc_layers.Layer {number}.{part}" for part in (0, 1))
        weight, gone = state[f"{linear}.weight"], state[f"{linear}.bias"]
        if batches:
            shift = weight[:, -len(batches) :].T[list(batches)]
            weight, gone = weight[:, : -len(batches)], gone + shift.mean(0)
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
        msg = (
            f"Expected a model of scvi-tools' {' or '.join(_RECIPES)}; found {name or type(model).__name__}."
        )
        raise InputError(msg + " Give a trained scvi.model.SCVI or scvi.model.LinearSCVI.")
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
