"""Optimisers: fused AdamW for the parts, a row-sparse Adam for free codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from chreode.axes import Tensor
from chreode.infer.codebook import Codebook

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chreode.model import LatentModel
    from chreode.plan import Plan

__all__ = ["CodeAdam", "codebooks", "optimiser"]


def codebooks(model: LatentModel) -> dict[str, Codebook]:
    """The free codes of a model, by latent."""
    return {
        name: latent.infer for name, latent in model.latents.items() if isinstance(latent.infer, Codebook)
    }


def optimiser(model: LatentModel, plan: Plan) -> torch.optim.Optimizer | None:
    """AdamW over decoder, encoders and priors, each at its own learning rate; None with nothing to learn."""
    parts = {
        "decoder": (model.decoder.parameters(), plan.weight_decay),
        "encoder": (
            (p for latent in model.latents.values() for p in latent.infer.parameters()),
            plan.weight_decay,
        ),
        "prior": ((p for latent in model.latents.values() for p in latent.prior.parameters()), 0.0),
    }
    groups = []
    for name, (parameters, decay) in parts.items():
        # Biases, offsets' scales and dispersions are not shrunk: only matrices of weights are.
        learn = [p for p in parameters if p.requires_grad]
        for matrices in (True, False):
            chosen = [p for p in learn if (p.ndim > 1) == matrices]
            if chosen:
                groups.append(
                    {"params": chosen, "lr": plan.lr[name], "weight_decay": decay if matrices else 0.0}
                )
    # The fused kernel steps all parameters in one pass; the default loops cost more than the products.
    # Gradients are those of the sum over a minibatch; epsilon is meant for the mean's.
    return torch.optim.AdamW(groups, fused=True, eps=1e-8 * plan.minibatch) if groups else None


class CodeAdam:
    """Adam that touches only the rows of a codebook that were visited.

    Each row has its own moments and its own count of visits :math:`t_i`:

    .. math::
        m \\leftarrow \\beta_1 m + (1-\\beta_1) g, \\quad v \\leftarrow \\beta_2 v + (1-\\beta_2) g^2,
        \\quad z \\leftarrow z - \\eta \\frac{m/(1-\\beta_1^{t})}{\\sqrt{v/(1-\\beta_2^{t})} + \\epsilon}

    Parameters
    ----------
    codebook
        Whose rows are stepped.
    lr
        Step length, in units of the code.
    betas
        Decay of the moments.
    update
        ``visit``: step at every visit; ``epoch``: sum the gradients and step every row once an epoch.
    """

    def __init__(
        self,
        codebook: Codebook,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        update: str = "visit",
    ) -> None:
        self.codebook, self.lr, self.betas, self.update = codebook, lr, betas, update
        weight = codebook.weight
        self.state = {
            "m": torch.zeros_like(weight),
            "v": torch.zeros_like(weight),
            "t": torch.zeros(len(weight), device=weight.device),
        }
        self._sum = torch.zeros_like(weight) if update == "epoch" else None

    def step(self) -> None:
        """Take the gradient of the rows just visited, and step them (or keep it for the epoch's end)."""
        if self.codebook.visited is None:
            return
        index, rows = self.codebook.visited
        self.codebook.visited = None
        if rows.grad is None:
            return
        if self._sum is not None:
            self._sum[index] += rows.grad
        else:
            self._move(index, rows.grad)

    def end_epoch(self) -> None:
        """Step every row by the epoch's gradient, where codes are stepped once an epoch."""
        if self._sum is not None:
            self._move(torch.arange(len(self._sum), device=self._sum.device), self._sum)
            self._sum.zero_()

    @torch.no_grad()
    def _move(self, index: Tensor, grad: Tensor) -> None:
        b1, b2 = self.betas
        m, v, t = (self.state[name].index_select(0, index) for name in ("m", "v", "t"))
        m, v, t = m.lerp_(grad, 1 - b1), v.lerp_(grad.square(), 1 - b2), t.add_(1)
        for name, value in (("m", m), ("v", v), ("t", t)):
            self.state[name].index_copy_(0, index, value)
        t = t[:, None]
        step = m.div_(1 - b1**t).div_(v.div_(1 - b2**t).sqrt_().add_(1e-12))
        self.codebook.weight.index_add_(0, index, step, alpha=-self.lr)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take the moments of a checkpoint."""
        for name, value in state.items():
            self.state[name].copy_(value)
