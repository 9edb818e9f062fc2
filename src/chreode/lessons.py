"""What encoders are taught before the fit."""

from __future__ import annotations

import torch
from torch import nn

from chreode.axes import Tensor
from chreode.loop import Call, run_here
from chreode.model import LatentModel, Trace
from chreode.objective import Objective, Term
from chreode.plan import Event, Moment, Plan
from chreode.recipe import Build

__all__ = ["teach_encoders"]

_STEPS, _LR = 200, 2e-3  # at least one epoch


def teach_encoders() -> Event:
    r"""Before the first epoch: encoders that have a start answer with it, as free codes begin there.

    .. math:: L = \frac{1}{n} \sum_i \sum_l \lVert m_l(x_i) - z_{il} \rVert^2 / (d_l v_l)

    over the latents :math:`l` with means :math:`m_l` of their posteriors, starts :math:`z_{il}` of ``d_l``
    dimensions and the variance :math:`v_l` of these, with all other parts at rest.
    """

    def do(moment: Moment) -> None:
        cells = moment.cells
        pupils = {n: latent for n, latent in moment.model.latents.items() if not latent.infer.free}
        pupils = {
            n: latent for n, latent in pupils.items() if getattr(latent.infer, "start", None) is not None
        }
        if not pupils:
            return
        aims = {name: latent.infer.start.learn(cells, seed=moment.seed) for name, latent in pupils.items()}
        variance = {name: z.var().clamp(min=1e-3) for name, z in aims.items()}

        def missed(_: LatentModel, trace: Trace) -> Tensor:
            off = {name: trace.codes[name].centre - z[trace.cells.index] for name, z in aims.items()}
            return torch.stack([x.square().mean(1) / variance[name] for name, x in off.items()]).sum(0)

        rates = {**dict.fromkeys(Plan().lr, 0.0), "encoder": _LR}
        plan = Plan(epochs=1, lr=rates, weight_decay=0.0, stop=None).with_steps(_STEPS, n_cells=len(cells))
        lesson = Build(LatentModel(pupils, _Silent()), Objective(Term("missed", missed)), plan)
        call = Call(plan.epochs, moment.seed, "cpu", progress=moment.progress, named="teach encoders")
        run_here(lesson, cells, call)
        moment.model.zero_grad()

    return Event("teach encoders", do, at="start")


class _Silent(nn.Module):
    """A decoder that is not asked."""

    def forward(self, z: dict[str, Tensor], cells: object) -> dict[str, Tensor]:
        return {}
