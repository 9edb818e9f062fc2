"""Optimisers: fused Adam for the parts, a row-sparse Adam for free codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from chreode.axes import Tensor
from chreode.decoders.product import Product

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chreode.infer.codebook import Codebook, VariationalCodebook
    from chreode.model import LatentModel
    from chreode.plan import Plan

__all__ = ["CodeAdam", "codebooks", "cool", "optimiser", "weigh_priors"]


def codebooks(model: LatentModel) -> dict[str, Codebook | VariationalCodebook]:
    """The free codes of a model, by latent."""
    return {name: latent.infer for name, latent in model.latents.items() if latent.infer.free}


def optimiser(model: LatentModel, plan: Plan) -> torch.optim.Optimizer | None:
    """Adam over decoder, encoders, priors, dynamics and critics, each at its own rate; None for nothing.

    It climbs: gradients are those of minus the loss. Matrices of weights decay, apart from the gradient
    (AdamW); those of a `Product` that has a prior follow its gradient instead, see `weigh_priors`.
    """
    parts = {
        "decoder": model.decoder.parameters(),
        "encoder": (p for latent in model.latents.values() for p in latent.infer.parameters()),
        "prior": (p for latent in model.latents.values() for p in latent.prior.parameters()),
        "dynamics": model.dynamics.parameters() if model.dynamics else (),
        "critic": model.critics.parameters(),
    }
    shrunk = _shrunk(model)
    groups = []
    for name, parameters in parts.items():
        learn = [p for p in parameters if p.requires_grad]
        decay = 0.0 if name == "prior" else plan.weight_decay
        # Biases, offsets' scales and dispersions are not shrunk: only matrices of weights are.
        for chosen, factor in (
            ([p for p in learn if p.ndim > 1 and p not in shrunk], decay),
            ([p for p in learn if p.ndim <= 1], 0.0),
        ):
            if chosen:
                way = {"weight_decay": factor, "decoupled_weight_decay": True}
                groups.append({"params": chosen, "lr": plan.lr[name], **way})
        groups += [{"params": [p], "lr": plan.lr[name]} for p in learn if p in shrunk]
    # The fused kernel steps all parameters in one pass; the default loops cost more than the products.
    # Gradients are those of the sum over a minibatch; epsilon is meant for the mean's.
    return torch.optim.Adam(groups, fused=True, maximize=True, eps=1e-8 * plan.minibatch) if groups else None


def cool(adam: torch.optim.Optimizer, factor: float) -> None:
    """Learn at this share of the rates at first, at most all of them."""
    for group in adam.param_groups:
        group["lr"] = group.setdefault("first_lr", group["lr"]) * min(1.0, factor)


def weigh_priors(adam: torch.optim.Optimizer, model: LatentModel, *, share: float) -> None:
    """Let weights that have a prior follow its gradient, in a step on a ``share`` of the cells.

    The fused kernel adds it to the likelihood's, which costs nothing; a term of the loss would be another
    pass over all weights.
    """
    precision = {weight: float(precision) for weight, precision in _shrunk(model).items()}
    for group in adam.param_groups:
        if not group["decoupled_weight_decay"]:
            group["weight_decay"] = precision[group["params"][0]] * share


def _shrunk(model: LatentModel) -> dict[Tensor, Tensor]:
    """The weights that have a prior, and its precision."""
    products = [module for module in model.modules() if isinstance(module, Product)]
    return {p.weight: p.precision for p in products if p.precision is not None}


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
        codebook: Codebook | VariationalCodebook,
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
        """Step the rows just visited by the gradient of minus the loss, or keep it for the epoch's end."""
        if self.codebook.visited is None:
            return
        index, rows = self.codebook.visited
        self.codebook.visited = None
        if rows.grad is None:
            return
        if self._sum is not None:
            self._sum[index] -= rows.grad
        else:
            self._move(index, -rows.grad)

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
        moved = self.codebook.weight.index_select(0, index).sub_(step, alpha=self.lr)
        self.codebook.weight.index_copy_(0, index, self.codebook.allowed(moved))

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take the moments of a checkpoint."""
        for name, value in state.items():
            self.state[name].copy_(value)
