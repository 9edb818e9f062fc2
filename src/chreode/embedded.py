"""Cells, their codes, and the model that explains them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from chreode.axes import Float, Int, Tensor
from chreode.cells import Cells, Reading
from chreode.errors import InputError
from chreode.expected import blank, expected, totals
from chreode.generate import again
from chreode.intervene import average, do
from chreode.posterior import posterior
from chreode.words import listing, many, nearest
from chreode.written import write

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import anndata as ad
    import mudata as md

    from chreode.layout import Layout
    from chreode.model import LatentModel
    from chreode.parts import Observed

__all__ = ["Embedded"]

_KEPT = ("size", "present", "covariates", "panels", "panel")  # of cells, in a saved model
_LIMIT = 2_000_000_000  # bytes of an array that expected() will build


class Embedded:
    """Cells with their codes under a model; what `chreode.fit` and ``model.project`` give.

    Parameters
    ----------
    module
        The model.
    cells
        Without counts after loading from disk.
    codes
        By latent, ``n x d``.
    code
        The latent meant by "the embedding".
    recipe
        Its name, for keys.
    trained
        Which cells the model was trained on, ``n``.
    """

    def __init__(
        self,
        module: LatentModel,
        cells: Cells,
        codes: Mapping[str, Tensor],
        *,
        code: str,
        recipe: str,
        trained: np.ndarray,
    ) -> None:
        self.module, self.cells, self.codes = module, cells, dict(codes)
        self.code, self.recipe, self.trained = code, recipe, trained

    def __len__(self) -> int:
        return len(self.cells)

    def __repr__(self) -> str:
        return f"Embedded({many(len(self), 'cell')} by {self.recipe}, {int(self.trained.sum())} trained)"

    @property
    def names(self) -> np.ndarray:
        """Cell names, in the file's order."""
        return self.cells.names

    @property
    def embedding(self) -> np.ndarray:
        """The main latent's codes, ``n x d``."""
        return self.codes[self.code].cpu().numpy()

    @property
    def embeddings(self) -> dict[str, np.ndarray]:
        """The codes of every latent."""
        return {name: value.cpu().numpy() for name, value in self.codes.items()}

    def level_names(self, column: str) -> np.ndarray:
        """A column of the cells as the user wrote it."""
        return self.cells.level_names(column)

    def density(self) -> Any:
        """The mixture density of the main latent's codes.

        Raises
        ------
        InputError
            When the prior has no components.
        """
        prior = self.module.latents[self.code].prior
        if int(prior.count) == 0:
            msg = (
                f"Expected a prior with components; found {type(prior).__name__} in recipe {self.recipe}. "
                "Use a recipe with a mixture prior, such as scdgd."
            )
            raise InputError(msg)
        return prior.mixture()

    @torch.no_grad()
    def probabilities(self) -> np.ndarray:
        """Probability of each component of the prior given the code, ``n x k``; refuses as `density` does."""
        return self.density().responsibilities(self.codes[self.code]).cpu().numpy()

    def components(self) -> np.ndarray:
        """The most probable component of each cell, 0 to k - 1."""
        return self.probabilities().argmax(1)

    @property
    def component_names(self) -> list[str]:
        """What the components are called: the levels of a supervised prior, else 0 to k - 1."""
        latent = self.module.latents[self.code]
        names = [str(k) for k in range(int(latent.prior.count))]
        if latent.column:
            levels = self.cells.layout.resolve(latent.column).levels
            names[: len(levels)] = levels
        return names

    @torch.no_grad()
    def decode(self, z: Float[Tensor, "n d"], modality: str | None = None) -> Observed:
        """The distribution that codes of the main latent decode to, at size 1 and average covariates."""
        cells = blank(self.cells.layout, len(z))
        codes = {
            name: z if name == self.code else average(self, name).expand(len(z), -1)
            for name in self.module.latents
        }
        return self.module.decode(codes, cells)[self.modality(modality)]

    def expected(
        self,
        modality: str | None = None,
        *,
        size: float | Literal["predicted"] | None = None,
        features: Sequence[str] | None = None,
        borrow: bool = True,
    ) -> np.ndarray:
        """What the decoder expects in every cell.

        Features that no trained cell of a cell's batch, or level of another covariate, was measured in are
        decoded under the levels that were, and averaged (over ten levels at most): what a level does to
        features that it never met, the model does not know.

        Parameters
        ----------
        modality
            The first by default.
        size
            Size factor to decode at. Of counts, 1 gives proportions (less what dropout loses, where the
            likelihood has it) and is the default, 10,000 gives counts per ten thousand. Of zeros and ones,
            how many ones a cell has; by default as many as the average cell (under ``accessibility``; 1 under
            likelihoods of counts). Proteins with a background are counts whatever it is. ``"predicted"``
            decodes each cell at its own `totals`, of a modality that was not measured, say.
        features
            Names; all by default.
        borrow
            Whether levels borrow from others as above; False decodes all features under the cell's own.

        Raises
        ------
        InputError
            When the array would exceed 2 GB; `expected_chunks` gives it in parts.
        """
        columns = self.columns(self.modality(modality), features)
        n_features = len(self.cells.layout.modalities[self.modality(modality)].names)
        width = n_features if columns is None else len(columns)
        if 4 * len(self) * width > _LIMIT:
            msg = (
                f"Expected an array of at most 2 GB; found {len(self)} cells x {width} features. "
                "Ask for fewer features=, or walk through expected_chunks()."
            )
            raise InputError(msg)
        chunks = self.expected_chunks(modality, size=size, features=features, borrow=borrow)
        parts = [part for _, part in chunks]
        return np.concatenate(parts) if parts else np.zeros((0, width), dtype=np.float32)

    def expected_chunks(
        self,
        modality: str | None = None,
        *,
        size: float | Literal["predicted"] | None = None,
        features: Sequence[str] | None = None,
        borrow: bool = True,
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """`expected`, a few cells at a time: pairs of rows and values."""
        name = self.modality(modality)
        yield from expected(self, name, size=size, columns=self.columns(name, features), borrow=borrow)

    def totals(self, modality: str | None = None) -> np.ndarray:
        """How many molecules, or ones, to expect of a modality in each cell: the median, ``n``.

        From the cell's code and from how many there are of its other modalities, not from its own in this
        one: see `chreode.decoders.totals.Totals`. A likelihood of counts is given the total; where a modality
        was not measured there is none, and this takes its place.

        Parameters
        ----------
        modality
            The first by default.

        Raises
        ------
        InputError
            When values are continuous, or the model is not one of several modalities.
        """
        return totals(self, self.modality(modality))

    def do(self, **levels: str | float | None) -> Embedded:
        """The same codes under other levels: ``embedded.do(batch="plate 2").expected()``.

        Raises
        ------
        InputError
            For a column that does not condition the decoder, or a level that the model does not know.
        """
        return do(self, levels)

    def replace(
        self, *, cells: Cells, codes: Mapping[str, Tensor] | None = None, code: str | None = None
    ) -> Embedded:
        """Other cells, other codes, or another main latent."""
        codes, code = self.codes if codes is None else codes, code or self.code
        return Embedded(self.module, cells, codes, code=code, recipe=self.recipe, trained=self.trained)

    def of_latent(self, latent: str | None) -> Embedded:
        """The cells that have a latent, with it for their main one; None is that which is.

        Parameters
        ----------
        latent
            One of ``embeddings``.

        Raises
        ------
        InputError
            When there is no such latent.

        Examples
        --------
        >>> import chreode as ch
        >>> cells = ch.read(ch.simulate(90, 20, batches=2, seed=0), covariates="batch")
        >>> model = ch.fit(cells, ch.recipes.patches(dim=3, private=1), epochs=1, progress=False)
        >>> model.embedded.embedding.shape[1], model.embedded.of_latent("batch").embedding.shape[1]
        (3, 2)
        """
        if latent is None or latent == self.code:
            return self
        if latent not in self.codes:
            msg = f"Expected a latent of {self.recipe} ({listing(self.codes)}); found {latent!r}."
            raise InputError(msg + nearest(latent, self.codes))
        other = self.replace(cells=self.cells, code=latent)
        only = self.module.latents[latent].only
        return other if only is None else other.pick((only(self.cells) > 0).cpu().numpy())

    def pick(self, which: Any) -> Embedded:
        """Some of these cells.

        Parameters
        ----------
        which
            A mask over the cells, or positions.

        Raises
        ------
        InputError
            For a mask of another length, or positions out of range.
        """
        given = np.asarray(which)
        rows = np.flatnonzero(given) if given.dtype == bool else given.astype(np.int64).ravel()
        whole = given.ndim == 1 and (given.dtype != bool or len(given) == len(self))
        if not whole or (len(rows) and not 0 <= rows.min() <= rows.max() < len(self)):
            msg = (
                f"Expected a mask of {len(self)} cells, or positions among them; found an array of shape "
                f"{given.shape}. Compare a column with a level: embedded.level_names('cell_type') == 'B'."
            )
            raise InputError(msg)
        some, at = torch.from_numpy(rows), {n: z[rows] for n, z in self.codes.items()}
        return Embedded(
            self.module, self.cells[some], at, code=self.code, recipe=self.recipe, trained=self.trained[rows]
        )

    def uncertainty(self) -> np.ndarray:
        """How well each dimension of the code is known: standard deviations of its posterior, ``n x d``.

        Of an encoder's answer or a table of Gaussians; else of Laplace's approximation at the code. See
        `chreode.posterior.posterior`, also for what is refused.
        """
        return posterior(self).variance.sqrt().cpu().numpy()

    def sample(self, *, seed: int = 0, uncertain: bool = True) -> ad.AnnData | md.MuData:
        """Draw the same cells again: what the model would have measured of them.

        Codes are drawn from their posteriors, then values at the cells' own totals, batches and covariates:
        samples of the posterior predictive, to hold against what was measured.

        Parameters
        ----------
        seed
            Of all that is drawn.
        uncertain
            Whether codes are drawn; else they stay as they are, which needs no counts.

        Raises
        ------
        InputError
            When codes are to be drawn and the cells have no counts, as after loading.
        """
        return again(self, generator=torch.Generator().manual_seed(seed), uncertain=uncertain)

    def write(
        self,
        adata: ad.AnnData | Mapping[str, ad.AnnData],
        *,
        expected: Sequence[str] = (),
        key: str | None = None,
    ) -> None:
        """Write into the user's AnnData, whose cells must be these, in any order; or into several, by name.

        ``obsm["X_<recipe>"]`` the embedding, ``obs["<recipe>_component"]`` the component by name,
        ``obsm["<recipe>_probabilities"]``, and ``uns["chreode"]``, provenance as a JSON string. Plain
        arrays only, so that the file opens in R too.

        Parameters
        ----------
        adata
            What was read.
        expected
            Modalities of which all cells also get what is `expected`, those that lack them too, as a table
            with the names of the features: ``obsm["<recipe>_expected_<modality>"]``; of counts, per ten
            thousand.
        key
            Stands for ``<recipe>`` in all names, so that cells under another level, say, do not take the
            place of those measured.

        Raises
        ------
        InputError
            When a cell of the table is not among these, and as `expected` does.
        """
        write(self, adata, expected=expected, key=key)

    def tensors(self) -> dict[str, Tensor]:
        """What a saved model keeps of these cells: codes, sizes, panels, covariates; never counts."""
        kept = {f"codes.{k}": v for k, v in self.codes.items()}
        for field in _KEPT:
            kept |= {f"{field}.{k}": v for k, v in getattr(self.cells, field).items()}
        return kept | {"trained": torch.from_numpy(self.trained.copy())}

    @classmethod
    def from_tensors(
        cls,
        module: LatentModel,
        layout: Layout,
        kept: Mapping[str, Tensor],
        *,
        names: Sequence[str],
        code: str,
        recipe: str,
        reading: Reading,
    ) -> Embedded:
        """What `tensors` kept, without counts."""

        def under(field: str) -> dict[str, Any]:
            return {k.removeprefix(f"{field}."): v for k, v in kept.items() if k.startswith(f"{field}.")}

        parts: dict[str, Any] = {field: under(field) for field in _KEPT}
        cells = Cells(layout, names=names, measured={}, reading=reading, **parts)
        trained = kept["trained"].numpy() if "trained" in kept else np.zeros(0, dtype=bool)
        return cls(module, cells, under("codes"), code=code, recipe=recipe, trained=trained)

    def modality(self, modality: str | None) -> str:
        """The modality that is meant: the first where none is named.

        Raises
        ------
        InputError
            When there is none of this name.
        """
        known = list(self.cells.layout.modalities)
        if modality is not None and modality not in known:
            msg = f"Expected a modality ({', '.join(known)}); found {modality!r}. Name one of these."
            raise InputError(msg)
        return modality or known[0]

    def columns(self, modality: str, features: Sequence[str] | None) -> Int[Tensor, " f"] | None:
        """Positions of features in a modality, by name or symbol; None for all of them.

        Raises
        ------
        InputError
            For a name that it does not have.
        """
        if features is None:
            return None
        described = self.cells.layout.modalities[modality]
        where = {name: i for i, name in enumerate(described.symbols)} | {
            n: i for i, n in enumerate(described.names)
        }
        lost = [name for name in features if name not in where]
        holding = [
            m for m, d in self.cells.layout.modalities.items() if lost and lost[0] in (*d.names, *d.symbols)
        ]
        if holding:
            msg = (
                f"Expected features of {modality!r}; found {lost[0]!r}, of {holding[0]!r}. Name the "
                f"modality: expected({holding[0]!r}, features=...)."
            )
            raise InputError(msg)
        if lost:
            msg = (
                f"Expected features the model knows; found {listing(lost, limit=5)}."
                f"{nearest(lost[0], where)} See layout.modalities[...].names."
            )
            raise InputError(msg)
        return torch.tensor([where[name] for name in features], dtype=torch.int64)
