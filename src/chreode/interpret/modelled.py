"""What a decoder expects of two groups of cells: the model's own fold change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from chreode.posterior import posterior

if TYPE_CHECKING:
    from chreode.axes import Tensor
    from chreode.embedded import Embedded

__all__ = ["model_change"]

_CELLS = 1000  # of each group


@torch.no_grad()
def model_change(
    embedded: Embedded,
    first: np.ndarray,
    second: np.ndarray,
    *,
    modality: str,
    keep: str,
    draws: int,
    rng: np.random.Generator,
    progress: bool = False,
) -> dict[str, np.ndarray]:
    r"""Log ratio of what the decoder expects in two groups under an average batch, in natural logarithms.

    .. math:: \log \frac{\overline{E_g(z_i)}_{i \in 1}}{\overline{E_g(z_i)}_{i \in 2}}

    The quantiles of that ratio over draws of all codes from their posteriors (`chreode.posterior.posterior`)
    say how well the codes are known, of a decoder that is taken as it is; they know nothing of donors.

    Parameters
    ----------
    embedded
        With counts.
    first, second
        Masks of the cells, ``n``; a thousand of each at most are decoded, drawn at random.
    modality
        Of the model.
    keep
        A column whose levels stay as they are, since the groups are told apart by it.
    draws
        From the posterior.
    rng
        Of all that is random.
    progress
        Whether to show a bar over the draws.

    Returns
    -------
    ``estimate``, ``lower`` and ``upper`` (95 %), ``g`` each.
    """
    from tqdm.auto import trange

    rows = [np.sort(rng.permutation(np.flatnonzero(mask))[:_CELLS]) for mask in (first, second)]
    batch = embedded.cells.layout.in_role("batch")
    moved = embedded if batch is None or batch.column == keep else embedded.do(**{batch.column: None})
    sides = [_Side(embedded, moved, torch.from_numpy(one)) for one in rows]
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    bar = trange(draws, desc="draws", disable=not progress)
    ratios = np.stack([_ratio(sides, modality, generator) for _ in bar])
    lower, upper = np.quantile(ratios, [0.025, 0.975], axis=0)
    return {"estimate": _ratio(sides, modality, None), "lower": lower, "upper": upper}


class _Side:
    """Some cells under an average batch, and the posterior of their codes under their own."""

    def __init__(self, embedded: Embedded, moved: Embedded, rows: Tensor) -> None:
        self.embedded = moved.replace(
            cells=moved.cells[rows], codes={name: z[rows] for name, z in moved.codes.items()}
        )
        self.code = embedded.code
        self.posterior = posterior(embedded, rows)

    def mean(self, modality: str, generator: torch.Generator | None) -> np.ndarray:
        """Mean of what is expected, at the codes or at a draw of them."""
        embedded = self.embedded
        if generator is not None:
            codes = {**embedded.codes, self.code: self.posterior.sample(generator)}
            embedded = embedded.replace(cells=embedded.cells, codes=codes)
        parts = embedded.expected_chunks(modality)
        return np.sum([part.sum(0, dtype=np.float64) for _, part in parts], axis=0) / len(embedded)


def _ratio(sides: list[_Side], modality: str, generator: torch.Generator | None) -> np.ndarray:
    one, two = (np.maximum(side.mean(modality, generator), 1e-30) for side in sides)
    return np.log(one) - np.log(two)
