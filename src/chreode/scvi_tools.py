"""Models that scvi-tools trained, read into chreode's parts."""

from __future__ import annotations

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

# What `scvi` here has no part for, by argument: the values it can be translated from.
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "dispersion": ("gene",),
    "gene_likelihood": ("nb", "zinb", "poisson"),
    "latent_distribution": ("normal",),
    "use_observed_lib_size": (True,),
    "use_batch_norm": ("both",),
    "use_layer_norm": ("none",),
    "batch_representation": ("one-hot",),
    "deeply_inject_covariates": (True,),
}
_SET_UP = ("size_factor_key", "categorical_covariate_keys", "continuous_covariate_keys")


def from_scvi(model: Any) -> FittedModel:
    """Read a trained ``scvi.model.SCVI`` with its cells; nothing is trained again.

    Encoder, decoder, dispersions and the state of batch normalisation are those of the model, so that codes
    and likelihoods are the same. Everything that a fitted `chreode.recipes.scvi` offers works from there on,
    among it cells of unseen batches, and saving without a pickle.

    Parameters
    ----------
    model
        A trained ``scvi.model.SCVI``, whose ``adata`` has the cells.

    Raises
    ------
    InputError
        For another model, one that is not trained, or one with parts that chreode's `scvi` has not: another
        dispersion than one a gene, a latent library size, further covariates, layer normalisation.
    """
    given, setup = _refused_unless_scvi(model), model.registry_["setup_args"]
    mapping = model.registry_["field_registries"]["batch"]["state_registry"]["categorical_mapping"]
    batch = setup.get("batch_key") if len(mapping) > 1 else None
    cells = read(model.adata, counts=setup.get("layer"), batch=batch, label=setup.get("labels_key"))
    recipe = named(
        "scvi",
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
    module.load_state_dict(translated(model.module.state_dict(), recipe, batches=order), strict=False)
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
    """Weights of scvi-tools' SCVI under the names of chreode's.

    What is added before batch normalisation is taken off the running mean instead: the bias, and the mean of
    what one-hot batches add, since `chreode.layers.Conditions` have mean zero.

    Parameters
    ----------
    state
        The state of ``SCVI.module``.
    recipe
        `chreode.recipes.scvi` with the same layers.
    batches
        Position in scvi-tools of each level, in chreode's order; empty without batches.
    """
    encoder, decoder = "latents.cell.infer", "decoder.hidden"
    seen = list(batches) if recipe.arguments["encode_batch"] else []
    found = _layers(state, "z_encoder.encoder", f"{encoder}.layers", batches=seen)
    found |= _layers(state, "decoder.px_decoder", f"{decoder}.layers", batches=list(batches))
    first = f"{encoder}.layers.linear.0.weight"
    found[first] = found[first].T.contiguous()
    outputs = ["decoder.px_scale_decoder.0"]
    if recipe.arguments["likelihood"] == "zinb":
        outputs.append("decoder.px_dropout_decoder")
    for part in ("weight", "bias"):
        both = [state[f"z_encoder.{which}_encoder.{part}"] for which in ("mean", "var")]
        found[f"{encoder}.output.{part}"] = torch.cat(both)
        found[f"decoder.readout.outputs.rna.{part}"] = torch.cat(
            [state[f"{name}.{part}"] for name in outputs]
        )
    if recipe.arguments["likelihood"] != "poisson":
        found["decoder.readout.heads.rna.log_theta"] = state["px_r"]
    return found


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


def _refused_unless_scvi(model: Any) -> dict[str, Any]:
    """The arguments that a trained SCVI was made with."""
    name = getattr(model, "registry_", {}).get("model_name")
    if name != "SCVI":
        msg = f"Expected a model of scvi-tools' SCVI; found {name or type(model).__name__}."
        raise InputError(msg + " Give a trained scvi.model.SCVI.")
    if not model.is_trained:
        msg = "Expected a trained model; found one that is not. Call its train() first, or fit with chreode."
        raise InputError(msg)
    given = {**model.init_params_["non_kwargs"]}
    for more in model.init_params_["kwargs"].values():
        given |= more
    for argument, known in _ARGUMENTS.items():
        if given.get(argument, known[0]) not in known:
            msg = f"Expected {argument} to be {listing(known)}; found {given[argument]!r}."
            raise InputError(msg + " chreode's scvi has no part for it: fit it anew with chreode.")
    setup = model.registry_["setup_args"]
    for argument in _SET_UP:
        if setup.get(argument):
            msg = f"Expected a model set up without {argument}; found {setup[argument]!r}."
            raise InputError(msg + " Its columns cannot be translated yet: fit it anew with chreode.")
    return given


def _history(history: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Its losses, one row an epoch."""
    import pandas as pd

    loss = history["elbo_train"].iloc[:, 0].to_numpy(dtype=float)
    unknown = np.full(len(loss), np.nan)
    columns = {"loss": loss, "seconds": unknown, "validation": unknown, "event": ""}
    return pd.DataFrame({"epoch": np.arange(1, len(loss) + 1), **columns})
