"""Loadings of linear Gaussian models by expectation-maximisation: most likely, or sparse and relevant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from chreode.axes import Float, Tensor
from chreode.infer.gaussian import posterior
from chreode.infer.principal import LEAST, leading, moments, usual
from chreode.infer.values import Block, blocks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from chreode.cells import Cells
    from chreode.infer.gaussian import View

__all__ = ["likelihood_factors", "sparse_factors"]

_TURNS = 500
_DENSE = 20  # rounds before loadings may be exactly zero
_WORTH = 0.5  # of a feature's variance: a factor that explains less is shared by none
_FEW = 1e-6
_ENTRIES = 1_000_000  # of what was measured, that decide how fast dropout decays


@dataclass
class Sums:
    """What codes, each with a one behind it (``D = d + 1``), and values of one modality add up to.

    Parameters
    ----------
    cross
        Values times codes, ``g x D``.
    moment
        Expected products of codes, over the cells a feature was measured in, ``g x D x D``.
    square
        Squared values, ``g``.
    kept
        With dropout: `moment` over the cells in which a feature is not zero.
    """

    cross: Tensor
    moment: Tensor
    square: Tensor
    kept: Tensor | None

    @property
    def count(self) -> Float[Tensor, " g"]:
        """Cells that a feature was measured in, at least 1."""
        return self.moment[:, -1, -1].clamp_min(1)


def expected(views: dict[str, View], cells: Cells) -> tuple[dict[str, Sums], float]:
    """The sums over all cells under their posterior, and the log density of all values."""
    sums: dict[str, Sums] = {}
    total = 0.0
    for _, some in blocks(cells):
        found = posterior(views, some)
        total += float(found.log_prob.sum())
        code = torch.cat([found.mean, torch.ones_like(found.mean[:, :1])], 1)
        product = code[:, :, None] * code[:, None, :]
        product[:, :-1, :-1] += found.covariance
        for m, view in views.items():
            _add(sums, m, Block(some, m, sparse=view.dropout), code, product, dropout=view.dropout)
    return sums, total


def _add(
    sums: dict[str, Sums], m: str, block: Block, code: Tensor, product: Tensor, *, dropout: bool
) -> None:
    flat = product.reshape(len(product), -1)
    kept = None
    if dropout:
        there = block.entries.with_value(torch.ones_like(block.entries.value))
        kept = torch.from_numpy(there.scipy().T @ flat.numpy()).reshape(-1, *product.shape[1:])
    square = block.squared().turned_times(block.present[:, None])[:, 0]
    new = Sums(block.turned_times(code), block.by_feature(product), square, kept)
    if m not in sums:
        sums[m] = new
        return
    old = sums[m]
    old.cross += new.cross
    old.moment += new.moment
    old.square += new.square
    if old.kept is not None and kept is not None:
        old.kept += kept


def _start(views: dict[str, View], cells: Cells, *, seed: int) -> dict[str, Tensor]:
    """Loadings at the principal components of standardised values; returns every feature's variance."""
    means, variances = {}, {}
    for m in views:
        means[m], variance = moments(cells, m)
        variances[m] = usual(variance)
    scales = {m: variance.sqrt() for m, variance in variances.items()}
    axes, along = leading(cells, means, scales, dim=_dim(views), seed=seed)
    for m, view in views.items():
        view.mean.copy_(means[m])
        view.weight.copy_(axes[m] * along * scales[m][:, None])
        # At least half of a feature's variance is noise at first: the rounds that follow decide.
        left = variances[m] - view.weight.double().square().sum(1)
        view.noise.copy_(left.maximum(0.5 * variances[m]))
        view.spread.zero_()
    return variances


def _simple(views: dict[str, View], variances: dict[str, Tensor]) -> None:
    """Turn the loadings to where few of them are far from zero (varimax): a likelihood does not mind."""
    scales = {m: variance.sqrt()[:, None] for m, variance in variances.items()}
    whole = torch.cat([view.weight.double() / scales[m] for m, view in views.items()])
    turn = torch.eye(whole.shape[1], dtype=torch.float64)
    for _ in range(_TURNS):
        now = whole @ turn
        left, _, right = torch.linalg.svd(whole.T @ (now**3 - now * now.square().mean(0)))
        before, turn = turn, left @ right
        if float((turn - before).abs().max()) < 1e-8:
            break
    _turn(views, turn)


def _canonical(views: dict[str, View]) -> Float[Tensor, "d d"]:
    """Factors by how much they say: :math:`W^\\top \\Psi^{-1} W` becomes diagonal, the largest first."""
    weights = [(view.weight.double(), view.noise.double()) for view in views.values()]
    _, axes = torch.linalg.eigh(
        torch.stack([weight.T @ (weight / noise[:, None]) for weight, noise in weights]).sum(0)
    )
    return axes.flip(1)


def _turn(views: dict[str, View], turn: Float[Tensor, "d d"]) -> None:
    """Turn the factors; the largest loading of each becomes positive."""
    whole = torch.cat([view.weight.double() @ turn for view in views.values()])
    signs = whole.gather(0, whole.abs().argmax(0, keepdim=True)).sign()
    for view in views.values():
        view.weight.copy_(view.weight.double() @ turn * signs)
        view.spread.copy_(view.spread.double() @ turn.square())


def _dim(views: dict[str, View]) -> int:
    return next(iter(views.values())).weight.shape[1]


def _shown(rounds: int, *, progress: bool) -> Iterable[int]:
    from tqdm.auto import tqdm

    return tqdm(range(rounds), desc="factors", unit="round", disable=not progress)


def likelihood_factors(
    views: dict[str, View],
    cells: Cells,
    *,
    seed: int,
    rounds: int = 500,
    tolerance: float = 1e-5,
    progress: bool = False,
) -> list[float]:
    r"""Maximise the marginal likelihood: factor analysis, with or without dropout.

    .. math:: (w_j, m_j) = \Big(\sum_i E[\tilde z_i \tilde z_i^\top]\Big)^{-1} \sum_i E[y_{ij} \tilde z_i],
              \qquad \psi_j = \frac1n \sum_i E\big[(y_{ij} - w_j^\top z_i - m_j)^2\big]

    where :math:`\tilde z = (z, 1)` and, with dropout, :math:`y` of a zero is what it may have been, and
    :math:`\lambda` solves :math:`\sum_{x=0} E[y^2] = \sum_{x \ne 0} x^2 / (e^{\lambda x^2} - 1)`.

    Parameters
    ----------
    views
        To be changed in place.
    cells
        Prepared.
    seed
        Of the start.
    rounds
        At most.
    tolerance
        Stop when a round gains less than this, in nats a cell.
    progress
        Whether to show a bar.

    Returns
    -------
    Log density of all values before each round, which never falls.
    """
    variances = _start(views, cells, seed=seed)
    squares = {m: _squares(m, cells, seed=seed) for m, view in views.items() if view.dropout}
    for m, (square, _) in squares.items():
        views[m].decay.fill_(float(1 / square.mean().clamp_min(1e-6)) if len(square) else 1.0)
    history: list[float] = []
    for _ in _shown(rounds, progress=progress):
        sums, total = expected(views, cells)
        history.append(total)
        if len(history) > 1 and total - history[-2] < tolerance * len(cells):
            break
        for m, view in views.items():
            _maximise(view, sums[m], variances[m], squares.get(m))
    _turn(views, _canonical(views))
    return history


def _maximise(view: View, sums: Sums, variance: Tensor, squares: tuple[Tensor, float] | None) -> None:
    """Means, loadings, noise and the decay of one modality."""
    old = torch.cat([view.weight, view.mean[:, None]], 1).double()
    cross, square = sums.cross, sums.square
    if sums.kept is not None and squares is not None:
        twice = 2 * view.decay.double() * view.noise.double()
        shrunk, left = 1 / (1 + twice), view.noise.double() / (1 + twice)
        lost = torch.einsum("gab,gb->ga", sums.moment - sums.kept, old)
        cross = cross + shrunk[:, None] * lost
        dropped = shrunk.square() * (lost * old).sum(1) + left * (sums.moment - sums.kept)[:, -1, -1]
        square = square + dropped
        view.decay.fill_(_decay(*squares, float(dropped.sum())))
    ridge = 1e-9 * torch.eye(old.shape[1], dtype=torch.float64) * sums.count[:, None, None]
    new = torch.linalg.solve(sums.moment + ridge, cross[:, :, None])[:, :, 0]
    view.weight.copy_(new[:, :-1])
    view.mean.copy_(new[:, -1])
    view.noise.copy_(((square - (new * cross).sum(1)) / sums.count).maximum(LEAST * variance))


def _squares(m: str, cells: Cells, *, seed: int) -> tuple[Tensor, float]:
    """Squared values that are not zero (a random million at most), and how many each stands for."""
    value = torch.cat([Block(some, m, sparse=True).entries.value for _, some in blocks(cells)])
    value = value[value != 0].square()
    if len(value) <= _ENTRIES:
        return value, 1.0
    some = torch.randint(len(value), (_ENTRIES,), generator=torch.Generator().manual_seed(seed))
    return value[some], len(value) / _ENTRIES


def _decay(square: Tensor, weight: float, dropped: float) -> float:
    """How fast dropout decays, where what was dropped has these squares in sum; between 1e-6 and 1e6."""
    from scipy.optimize import brentq

    x = square.numpy()

    def slope(log_decay: float) -> float:
        with np.errstate(over="ignore"):
            return weight * float((x / np.expm1(np.exp(log_decay) * x)).sum()) - dropped

    low, high = np.log(1e-6), np.log(1e6)
    if slope(low) <= 0:
        return 1e-6
    return 1e6 if slope(high) >= 0 else float(np.exp(cast("float", brentq(slope, low, high, xtol=1e-8))))


def sparse_factors(
    views: dict[str, View],
    cells: Cells,
    *,
    seed: int,
    rounds: int = 500,
    tolerance: float = 1e-4,
    progress: bool = False,
) -> list[float]:
    r"""Factors whose relevance to each modality is found by evidence, with spike-and-slab loadings.

    .. math:: w_{jk} = s_{jk} \hat w_{jk}, \quad s_{jk} \sim \mathrm{Bernoulli}(\theta_{mk}), \quad
              \hat w_{jk} \sim N(0, \alpha_{mk}^{-1})

    Parameters
    ----------
    views
        To be changed in place.
    cells
        Prepared.
    seed
        Of the start.
    rounds
        At most.
    tolerance
        Stop when a round gains less than this, in nats a cell.
    progress
        Whether to show a bar.

    Returns
    -------
    The evidence lower bound before each round.
    """
    variances = _start(views, cells, seed=seed)
    _simple(views, variances)
    rules = {m: _Sparse(view, variances[m]) for m, view in views.items()}
    history: list[float] = []
    settled = 0  # the first round after which the bound may be compared
    for number in _shown(rounds, progress=progress):
        sums, total = expected(views, cells)
        history.append(total - sum(rule.divergence() for rule in rules.values()))
        if number > max(settled, _DENSE) and history[-1] - history[-2] < tolerance * len(cells):
            dropped = [rules[m].drop(sums[m]) for m in views]
            if not any(dropped):
                break
            settled = number + 1
        for m, rule in rules.items():
            rule.update(sums[m], sparse=number >= _DENSE)
    worth = torch.stack([rules[m].worth(sums[m]) / len(variances[m]) for m in views]).sum(0)
    _turn(views, torch.eye(len(worth), dtype=torch.float64)[:, worth.argsort(descending=True, stable=True)])
    return history


class _Sparse:
    """Spike-and-slab loadings of one modality, one factor after the other."""

    def __init__(self, view: View, variance: Float[Tensor, " g"]) -> None:
        self.view, self.variance = view, variance
        g, d = view.weight.shape
        self.on = torch.ones(g, d, dtype=torch.float64)
        self.slab = view.weight.double().clone()
        self.precision = torch.full((g, d), 1e6, dtype=torch.float64)
        self.alpha = 1 / self.slab.square().mean(0).clamp_min(1e-6)
        self.theta = torch.full((d,), 0.5, dtype=torch.float64)
        self.sparse = False
        self.dropped = torch.zeros(d, dtype=torch.bool)

    def worth(self, sums: Sums) -> Float[Tensor, " d"]:
        """What each factor explains, in units of the mean variance of a feature."""
        size = (sums.moment.diagonal(dim1=1, dim2=2) / sums.count[:, None])[:, :-1]
        return ((self.on * self.slab).square() * size).sum(0) / self.variance.mean()

    def drop(self, sums: Sums) -> bool:
        """Drop factors that explain less than half a feature, for good; whether there were any."""
        new = (self.worth(sums) < _WORTH) & ~self.dropped
        self.dropped |= new
        return bool(new.any())

    def update(self, sums: Sums, *, sparse: bool) -> None:
        view, self.sparse = self.view, sparse
        precise = 1 / view.noise.double()
        weight = self.on * self.slab
        mean = view.mean.double()
        products, codes = sums.moment[:, :-1, :-1], sums.moment[:, :-1, -1]
        self.on[:, self.dropped] = self.slab[:, self.dropped] = weight[:, self.dropped] = 0
        for k in (~self.dropped).nonzero()[:, 0].tolist():
            others = torch.einsum("gd,gd->g", products[:, k], weight) - products[:, k, k] * weight[:, k]
            left = precise * (sums.cross[:, k] - mean * codes[:, k] - others)
            self.precision[:, k] = precise * products[:, k, k] + self.alpha[k]
            self.slab[:, k] = left / self.precision[:, k]
            if sparse:
                odds = torch.logit(self.theta[k]) + 0.5 * (
                    self.alpha[k].log() - self.precision[:, k].log() + self.slab[:, k] * left
                )
                self.on[:, k] = torch.sigmoid(odds)
            weight[:, k] = self.on[:, k] * self.slab[:, k]
        second = self.on * (self.slab.square() + 1 / self.precision)
        spread = second - weight.square()
        mean = (sums.cross[:, -1] - (weight * codes).sum(1)) / sums.count
        whole = torch.cat([weight, mean[:, None]], 1)
        rest = sums.square - 2 * (whole * sums.cross).sum(1)
        rest = rest + torch.einsum("ga,gab,gb->g", whole, sums.moment, whole)
        rest = rest + (spread * products.diagonal(dim1=1, dim2=2)).sum(1)
        view.noise.copy_((rest / sums.count).maximum(LEAST * self.variance))
        view.weight.copy_(weight)
        view.spread.copy_(spread)
        view.mean.copy_(mean)
        self.alpha = (self.on.sum(0) + _FEW) / (second.sum(0) + _FEW)
        if sparse:
            self.theta = ((self.on.sum(0) + 1) / (len(weight) + 2)).clamp(1e-6, 1 - 1e-6)

    def divergence(self) -> float:
        alpha, on = self.alpha, self.on
        slab = alpha * (self.slab.square() + 1 / self.precision) - 1 - alpha.log() + self.precision.log()
        value = 0.5 * (on * slab).sum()
        if self.sparse:
            xlog = torch.special.xlogy
            value = value + (xlog(on, on / self.theta) + xlog(1 - on, (1 - on) / (1 - self.theta))).sum()
        return float(value)
