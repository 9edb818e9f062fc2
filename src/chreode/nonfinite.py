"""What is said when the loss stops being a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chreode.cells import Cells
    from chreode.model import LatentModel

__all__ = ["NonFinite", "explain"]


class NonFinite(RuntimeError):
    """The loss stopped being a number; the message names term, step, cells and features."""


@torch.no_grad()
def explain(model: LatentModel, cells: Cells, terms: Mapping[str, float], *, epoch: int, step: int) -> str:
    """Which term, step, cells and features are concerned in a loss that is not finite."""
    bad = [name for name, value in terms.items() if not abs(value) < float("inf")]
    trace = model(cells)
    culprits, features = [], []
    for modality, observed in trace.observed.items():
        wrong = ~torch.isfinite(observed.log_prob(cells.measured[modality]))
        culprits += [str(name) for name in cells.names[wrong.cpu().numpy()]]
        columns = (~torch.isfinite(observed.mean)).any(0).nonzero().squeeze(1).tolist()
        features += [cells.layout.modalities[modality].names[j] for j in columns]
    for code in trace.codes.values():
        wrong = ~torch.isfinite(code.centre).all(1)
        culprits += [str(name) for name in cells.names[wrong.cpu().numpy()]]

    def few(items: list[str]) -> str:
        unique = list(dict.fromkeys(items))
        more = f" and {len(unique) - 5} more" if len(unique) > 5 else ""
        return (", ".join(unique[:5]) or "none singled out") + more

    return (
        f"Expected a finite loss; found {', '.join(bad)} not finite in epoch {epoch}, "
        f"step {step}. Cells: {few(culprits)}. Features: {few(features)}. "
        "Look at these cells and features, or lower the learning rate."
    )
