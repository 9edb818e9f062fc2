"""Entropic optimal transport: the potentials that say which cells are paired, and how much of each is."""

from __future__ import annotations

import torch

from chreode.axes import Float, Tensor

__all__ = ["own_potential", "potentials", "softmin"]

_ROUND = 20  # iterations between looks, by products alone
_OWN = 30  # of a sample with itself, each of which at least halves the error


def softmin(
    cost: Float[Tensor, "n m"], potential: Float[Tensor, " m"], weights: Float[Tensor, " m"], epsilon: float
) -> Float[Tensor, " n"]:
    r""":math:`-\epsilon \log \sum_j b_j \exp((g_j - C_{ij}) / \epsilon)`, for each row."""
    return -epsilon * ((potential - cost) / epsilon + weights.log()).logsumexp(1)


@torch.no_grad()
def potentials(
    cost: Float[Tensor, "n m"],
    *,
    weights: tuple[Float[Tensor, " n"], Float[Tensor, " m"]],
    epsilon: float,
    penalty: float = float("inf"),
    tolerance: float = 1e-4,
    most: int = 2000,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
    r"""Potentials of the entropic plan, by Sinkhorn's iteration.

    .. math:: \min_P\ \langle C, P \rangle + \epsilon\,\mathrm{KL}(P \,\|\, a b^\top)
              + \lambda\,\mathrm{KL}(P 1 \,\|\, a) + \lambda\,\mathrm{KL}(P^\top 1 \,\|\, b), \qquad
              P_{ij} = a_i b_j\,e^{(f_i + g_j - C_{ij}) / \epsilon}

    with the marginals held where :math:`\lambda` is infinite. The width falls from the largest cost to
    :math:`\epsilon` in logarithms; the rest are products with a kernel that is taken anew now and then.

    Parameters
    ----------
    cost
        :math:`C`.
    weights
        :math:`a` and :math:`b`, above 0, each of sum 1.
    epsilon
        Above 0, in units of the cost.
    penalty
        :math:`\lambda`, above 0, in units of the cost.
    tolerance
        Largest change of a logarithm of a scaling in an iteration at which it ends; of a held marginal, the
        relative error.
    most
        Iterations at most.

    References
    ----------
    Cuturi (2013), doi:10.48550/arXiv.1306.0895; Chizat et al. (2018), doi:10.1090/mcom/3303 (relaxed
    marginals, and the kernel that absorbs potentials); Sejourne et al. (2022), doi:10.48550/arXiv.2201.00730
    (the shift between potentials).
    """
    a, b = weights
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    width = max(float(cost.max()), epsilon)
    while True:
        give = 1 / (1 + width / penalty)
        f = give * softmin(cost, g, b, width)
        g = give * softmin(cost.T, f, a, width)
        if width <= epsilon:
            break
        width = max(width / 4, epsilon)
    # With relaxed marginals scalings are damped, and drawn to potentials of 0.
    give = 1 / (1 + epsilon / penalty)
    for _ in range(0, most, _ROUND):
        kernel = torch.exp((f[:, None] + g - cost) / epsilon)
        there, back = kernel * b, kernel.T * a
        pull_f, pull_g = (torch.exp(-(1 - give) * p / epsilon) for p in (f, g))
        u, v, before = torch.ones_like(f), torch.ones_like(g), torch.ones_like(f)
        for _ in range(_ROUND):
            before = u
            u = pull_f * (there @ v) ** -give
            v = pull_g * (back @ u) ** -give
        f, g = f + epsilon * u.log(), g + epsilon * v.log()
        shift = f.new_zeros(())
        if penalty < float("inf"):
            # What one potential has too much of, the other lacks: iterations alone take long to find out.
            shift = (
                penalty / 2 * ((a.log() - f / penalty).logsumexp(0) - (b.log() - g / penalty).logsumexp(0))
            )
            f, g = f + shift, g - shift
        if (u / before).log().abs().max() < tolerance and shift.abs() < tolerance * epsilon:
            break
    return f, g


@torch.no_grad()
def own_potential(
    cost: Float[Tensor, "n n"], *, weights: Float[Tensor, " n"], epsilon: float
) -> Float[Tensor, " n"]:
    """Either potential of the entropic plan of a sample with itself; they are equal.

    Averaged with the one before, a step of Sinkhorn's iteration converges however small epsilon is. As a
    cell costs nothing from itself, no exponential is too large.

    References
    ----------
    Feydy et al. (2019), doi:10.48550/arXiv.1810.08278, who average potentials.
    """
    kernel = torch.exp(-cost / epsilon) * weights
    u = torch.ones_like(weights)
    for _ in range(_OWN):
        u = (u / (kernel @ u)).sqrt()
    return epsilon * u.log()
