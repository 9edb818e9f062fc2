"""What a user holds: a fitted model and its embedded cells."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chreode import posthoc, storage
from chreode.axes import Tensor
from chreode.embedded import Embedded
from chreode.errors import InputError
from chreode.io.read import read
from chreode.loop import Call
from chreode.subset import refit
from chreode.train import check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import anndata as ad
    import mudata as md
    import pandas as pd

    from chreode.cells import Cells, Reading
    from chreode.evaluate.outliers import Reference
    from chreode.forecast import KnockOut
    from chreode.infer.distilled import DistilledEncoder
    from chreode.layout import Layout
    from chreode.model import LatentModel
    from chreode.recipe import Recipe

__all__ = ["FittedModel"]


class FittedModel:
    """A model with everything it knows: layout, schema, recipe, history and its embedded cells.

    Made by `chreode.fit` and `chreode.load`.

    Parameters
    ----------
    module
        Latents and decoder.
    layout
        Names, kinds and sizes of the training data.
    reading
        How it was read; reused by `project`.
    recipe
        Name and arguments.
    history
        One row an epoch.
    encoders
        Distilled encoder by latent, if there are any.
    """

    def __init__(
        self,
        module: LatentModel,
        *,
        layout: Layout,
        reading: Reading,
        recipe: Recipe,
        history: pd.DataFrame,
        encoders: Mapping[str, DistilledEncoder] | None = None,
    ) -> None:
        self.module = module
        self.layout = layout
        self.reading = reading
        self.recipe = recipe
        self.history = history
        self.encoders = dict(encoders or {})
        self.embedded: Embedded  # set once, by fit and load
        self.reference: Reference | None = None  # set by load, which has no counts to compute it from

    def __repr__(self) -> str:
        codes = {n: v.shape[1] for n, v in self.embedded.codes.items()}
        return f"FittedModel({self.recipe.name}, {len(self.embedded)} cells, codes {codes})"

    @property
    def code(self) -> str:
        """The latent that is meant by "the embedding"."""
        return self.recipe.definition.code

    @cached_property
    def components(self) -> int:
        """Components of the prior in use; 0 where it has none."""
        return int(self.module.latents[self.code].prior.count)

    def embed(self, cells: Cells, *, trained: np.ndarray, codes: Mapping[str, Tensor]) -> Embedded:
        """Cells and their codes, with all the verbs."""
        return Embedded(self.module, cells, codes, code=self.code, recipe=self.recipe.name, trained=trained)

    def project(self, source: Any, *, refine: int | None = None, progress: bool = False) -> Embedded:
        """Embed new cells; decoder and priors stay as they are.

        A supervised prior places cells by their labels where they have any. A batch, or a level of a
        covariate, that the model was not trained with is unknown; `chreode.add_levels` gives it a component.

        Parameters
        ----------
        source
            Anything `chreode.read` takes; the training schema is reused and features are matched by name.
        refine
            Steps at most. None: until converged, or none after an encoder, of the model or distilled.
        progress
            Whether to show a bar.

        Returns
        -------
        Embedded
            The new cells, in their order.
        """
        cells = read(source, like=self)
        show = "project" if progress else None
        codes = posthoc.project(
            self.module, cells, encoders=self.encoders, refine=refine, labelled=True, show=show
        )
        return self.embed(cells, trained=np.zeros(len(cells), dtype=bool), codes=codes)

    def forecast(
        self,
        source: Any = None,
        *,
        to: float,
        knock_out: KnockOut = (),
        expected: bool = False,
        progress: bool = False,
    ) -> np.ndarray:
        """Where cells are at another time, by the dynamics of the model.

        A feature that is knocked out stays at its value: a coordinate itself; of principal components, the
        code sets out at the nearest one at which they expect the value, and moves among such codes only.

        Parameters
        ----------
        source
            Anything `chreode.read` takes, with the times at which its cells set out. None takes the fitted
            cells of the last measured time before ``to``, in their order.
        to
            The time: between measured ones or beyond the last, not before the first.
        knock_out
            Features held at 0, ``"GATA1"`` or several; or at values, ``{"GATA1": 1.5}``, in the units of what
            was read (of counts, ``log1p`` of their share times 10,000).
        expected
            Whether to decode what is found: values of the features (proportions, of counts) and not codes.
        progress
            Whether to show a bar.

        Returns
        -------
        Codes, ``n x d``, or expected values, ``n x g``.

        Raises
        ------
        InputError
            For a model without dynamics, a time before the first, cells without times, or features to knock
            out that the model does not know or cannot hold.
        """
        from chreode.forecast import before

        which = before(self.embedded, to) if source is None else None
        source = self.embedded if source is None else source
        how: Any = {"knock_out": knock_out, "expected": expected, "progress": progress}
        return self._paths(source, [to], which=which, **how)[0]

    def fates(self, source: Any = None, **how: Any) -> pd.DataFrame:
        """How probable it is that each cell ends near each label; `chreode.fates` has the arguments."""
        from chreode.interpret.fates import fates

        return fates(self, source, **how)

    def trajectories(
        self,
        source: Any,
        times: Sequence[float],
        *,
        knock_out: KnockOut = (),
        expected: bool = False,
        progress: bool = False,
    ) -> np.ndarray:
        """Where cells are at each of some times, every cell from its own time on; as `forecast`.

        Returns
        -------
        Codes, ``k x n x d`` for ``k`` times, or expected values, ``k x n x g``.
        """
        return self._paths(source, times, knock_out=knock_out, expected=expected, progress=progress)

    def _paths(
        self,
        source: Any,
        times: Sequence[float],
        *,
        which: np.ndarray | None = None,
        knock_out: KnockOut,
        expected: bool,
        progress: bool,
    ) -> np.ndarray:
        from chreode.forecast import asked, clamped, decoded, trajectories

        asked(self.embedded, times)  # refuses times, as the next features, before cells are read
        clamp = clamped(self.embedded, knock_out)
        embedded = source if isinstance(source, Embedded) else self.project(source, progress=progress)
        codes = trajectories(embedded, times, which=which, clamp=clamp, progress=progress)
        return decoded(self.embedded, codes) if expected else codes

    def predict_labels(self, source: Any = None, *, seed: int = 0, progress: bool = False) -> pd.DataFrame:
        """The label of each cell with calibrated probabilities, and how unusual the cell is.

        `chreode.evaluate.predict_labels` has the arguments and says how.
        """
        from chreode.evaluate.labels import predict_labels

        return predict_labels(self, source, seed=seed, progress=progress)

    def subset(
        self,
        which: Any,
        *,
        epochs: int | None = None,
        seed: int = 0,
        progress: bool = True,
        **arguments: Any,
    ) -> FittedModel:
        """A model of some of the fitted cells: codes and components anew, under the same decoder.

        For clusters within a cluster: components are placed where these cells' codes are, as many as the data
        say (or ``components=``). Codes of an encoder, and any prior but a mixture, stay as they are.

        Parameters
        ----------
        which
            A mask over the cells of `embedded`, or their positions.
        epochs, seed, progress
            As of `chreode.fit`.
        **arguments
            Of the recipe, to change some: ``components=5``.

        Raises
        ------
        InputError
            Without counts, as after loading, or with fewer than two cells.
        """
        some = self.embedded.pick(which)
        if set(some.cells.layout.modalities) - set(some.cells.measured):
            msg = "Expected cells with their counts; found none, as after loading. Fit again, or project the "
            raise InputError(msg + "cells: model.project(source).")
        if "components" in self.recipe.arguments:
            arguments = {"components": None, **arguments}
        recipe = replace(
            self.recipe, arguments=self.recipe.definition.check({**self.recipe.arguments, **arguments})
        )
        call = Call(epochs=epochs, seed=seed, device="cpu", validation=0.0, progress=progress)
        check(some.cells, recipe, call)
        trained = refit(self.module, recipe, some.cells, some.codes, call=call)
        model = FittedModel(
            trained.build.model,
            layout=replace(self.layout, n_cells=len(some)),
            reading=self.reading,
            recipe=recipe,
            history=trained.history,
        )
        everyone = np.ones(len(some), dtype=bool)
        codes = posthoc.codes_of_all(model.module, some.cells, everyone)
        model.embedded = model.embed(some.cells, trained=everyone, codes=codes)
        return model

    @torch.no_grad()
    def component_means(self, modality: str | None = None) -> np.ndarray:
        """What each component's mean decodes to: expected proportions, ``k x g``.

        Raises
        ------
        InputError
            When the prior has no components.
        """
        means = self.embedded.density().means
        return self.embedded.decode(means, modality).proportions.cpu().numpy()

    @torch.no_grad()
    def sample(self, n: int, *, component: int | None = None, seed: int = 0) -> ad.AnnData | md.MuData:
        """Draw cells from the model: a code from the prior, a total from the training cells, counts.

        Parameters
        ----------
        n
            Number of cells, at least 1.
        component
            Draw from this component only.
        seed
            Of all that is drawn.

        Returns
        -------
        AnnData, or MuData of several modalities
            Sparse values in ``X``, ``obs["component"]`` where the prior has components: its number, or its
            level in a supervised fit.

        Raises
        ------
        InputError
            When there is nothing to draw, or no such component.
        """
        from chreode.generate import sample

        if n < 1:
            msg = f"Expected n of at least 1; found {n}. Ask for one cell or more."
            raise InputError(msg)
        self._check_component(component)
        return sample(self.embedded, n, component=component, generator=torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def score(self, source: Any, *, modality: str | None = None, seed: int = 0) -> dict[str, float]:
        """How well held-out molecules of these cells are explained.

        Counts are thinned into binomial halves, codes inferred from one half, the other half scored. Labels
        are hidden while codes are inferred, so that a supervised model is judged on counts alone.

        Parameters
        ----------
        source
            Cells the model was not trained on; anything `chreode.read` takes.
        modality
            Whose molecules are scored, the first by default; codes are inferred from all modalities.
        seed
            Of the thinning.

        Returns
        -------
        dict
            ``nats_per_molecule``, of the training cells' ``mean_profile``, the ``gain`` between them, and
            how many ``molecules`` were scored. For values that are not counts: nats per value.
        """
        from chreode.evaluate.held_out import scores

        name = self.embedded.modality(modality)
        return scores(self, read(source, like=self), modalities=[name], seed=seed)[name]

    def write(self, adata: ad.AnnData | Mapping[str, ad.AnnData], *, expected: Sequence[str] = ()) -> None:
        """Write embedding, components and provenance into the user's data; see `Embedded.write`."""
        self.embedded.write(adata, expected=expected)

    def cite(self) -> str:
        """BibTeX for exactly the parts used."""
        return storage.cite([self.recipe.name], self.module.modules())

    @property
    def summary(self) -> dict[str, Any]:
        """The facts of this fit as JSON values."""
        return {
            "recipe": self.recipe.to_json(),
            "cells": len(self.embedded),
            "trained": int(self.embedded.trained.sum()),
            "components": self.components,
            "epochs": len(self.history),
            "seconds": float(self.history["seconds"].iloc[-1]) if len(self.history) else 0.0,
            "reading": self.reading.to_json(),
            "versions": storage.versions(),
        }

    def save(self, folder: str | Path, *, cells: bool = True) -> None:
        """Write the model: weights, schema, layout, history; never counts.

        Parameters
        ----------
        folder
            A new folder, or a saved model to replace.
        cells
            Whether names, codes, sizes and covariates of the fitted cells go along.
        """
        weights = {
            k: v for k, v in self.module.state_dict().items() if cells or not k.endswith("infer.weight")
        }
        for latent, encoder in self.encoders.items():
            weights |= {f"encoders.{latent}.{k}": v for k, v in encoder.state_dict().items()}
        facts = {
            "recipe": self.recipe.to_json(),
            "layout": self.layout.to_json(),
            "reading": self.reading.to_json(),
            "encoders": {latent: encoder.widths for latent, encoder in self.encoders.items()},
            "names": [str(name) for name in self.embedded.names] if cells else [],
            "versions": storage.versions(),
        }
        files = {"model.safetensors": weights}
        if cells:
            from chreode.evaluate.outliers import kept_reference

            files["cells.safetensors"] = self.embedded.tensors() | kept_reference(self)
        storage.write_folder(folder, facts=facts, files=files, table=self.history.to_csv(index=False))

    def _check_component(self, component: int | None) -> None:
        if not self.embedded.trained.any():
            msg = (
                "Expected a model that was saved with its cells; found none, so no totals to draw. Save with "
                "cells=True."
            )
            raise InputError(msg)
        if component is not None and not self.components:
            msg = f"Expected a model with components; found {self.recipe.name} without. Leave component out."
            raise InputError(msg)
        if component is not None and not 0 <= component < self.components:
            msg = (
                f"Expected a component from 0 to {self.components - 1}; found {component}. Choose one of "
                "these."
            )
            raise InputError(msg)
