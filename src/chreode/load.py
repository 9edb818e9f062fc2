"""Loading a model that was saved."""

from __future__ import annotations

from pathlib import Path

from chreode import storage
from chreode.cells import Reading
from chreode.embedded import Embedded
from chreode.errors import InputError
from chreode.fitted import FittedModel
from chreode.infer.distilled import DistilledEncoder
from chreode.layout import Layout
from chreode.recipe import Recipe, named

__all__ = ["load"]


def load(folder: str | Path, *, recipe: Recipe | None = None) -> FittedModel:
    """Load a model that `FittedModel.save` wrote; nothing in the folder is run.

    Parameters
    ----------
    folder
        Where it is: what was saved, or the folder of a finished ``chreode fit``.
    recipe
        Needed only for a recipe that is not chreode's own: the recipe it was fitted with.

    Raises
    ------
    InputError
        When the folder is not a whole model of a format this version reads, or its recipe is unknown.
    """
    import pandas as pd

    facts, tensors = storage.read_folder(folder)
    layout = Layout.from_json(facts["layout"])
    recipe = recipe or named(facts["recipe"]["name"], facts["recipe"]["arguments"])
    module = recipe.build(layout).model
    weights = tensors["model.safetensors"]
    encoders = {}
    for latent, widths in facts["encoders"].items():
        prefix = f"encoders.{latent}."
        encoders[latent] = DistilledEncoder(layout, widths[-1], hidden=widths[:-1]).eval()
        encoders[latent].load_state_dict(
            {k.removeprefix(prefix): weights.pop(k) for k in list(weights) if k.startswith(prefix)}
        )
    missing, unexpected = module.load_state_dict(weights, strict=False)
    if unexpected or any(not name.endswith("infer.weight") for name in missing):
        msg = (
            f"Expected the weights of {recipe.name} with these arguments in {folder}; found others "
            f"(missing: {missing[:3]}, unexpected: {unexpected[:3]}). Give the recipe it was fitted with."
        )
        raise InputError(msg)
    module.eval()
    model = FittedModel(
        module,
        layout=layout,
        reading=Reading.from_json(facts["reading"]),
        recipe=recipe,
        history=pd.read_csv(Path(folder) / "history.csv"),
        encoders=encoders,
    )
    stored = tensors.get("cells.safetensors", {})
    from chreode.evaluate.outliers import Reference

    model.reference = Reference.from_tensors(stored)
    model.embedded = Embedded.from_tensors(
        module,
        layout,
        stored,
        names=facts["names"],
        code=model.code,
        recipe=recipe.name,
        reading=model.reading,
    )
    return model
