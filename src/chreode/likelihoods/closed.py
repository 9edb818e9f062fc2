"""The count likelihoods in closed form: values and gradients, dense part and non-zeros."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

from chreode.axes import Float, Tensor
from chreode.likelihoods.sparse import NonZeros, blocks, masked, shares

__all__ = ["rising", "score_negative_binomial", "score_poisson", "score_zero_inflated"]

_LOG_LOST = -80.0
# The size of a cell without counts: its logarithm and inverse must not meet 0 * inf.
NO_SIZE = 1e-20
# From this theta on the dense gradient to theta is a difference of nearly equal numbers.
_NEARLY_POISSON = 1e4
# Counts up to this one are looked up.
_DEPTH = 8

Scored = tuple[Tensor, list[Tensor | None]]


def score_poisson(
    entries: NonZeros,
    mask: Tensor | None,
    inputs: tuple[Tensor, ...],
    wanted: tuple[bool, ...],
    weight: Tensor | None,
) -> Scored:
    r"""Score of `Poisson`.

    Its dense part is :math:`-s`, as proportions sum to one; to the logits :math:`x - \rho \sum x`.
    """
    raw, size = inputs
    logits, size = masked(raw, mask), size.clamp_min(NO_SIZE)
    share, log_total = shares(logits)
    x = entries.value
    log_mu = entries.pick(logits).add_(entries.of_rows(size.log() - log_total))
    value = entries.sum_rows(log_mu.mul_(x).sub_(torch.lgamma(x + 1))).sub_(size)
    gradients: list[Tensor | None] = [None, None]
    if any(wanted):
        total = entries.sum_rows(x)
        if wanted[0]:
            gradients[0] = share.mul_(-total[:, None])
            entries.add_to(share, x)
        if wanted[1]:
            gradients[1] = (total - size) / size
    return value, gradients


def score_negative_binomial(
    entries: NonZeros,
    mask: Tensor | None,
    inputs: tuple[Tensor, ...],
    wanted: tuple[bool, ...],
    weight: Tensor | None,
    *,
    free: bool = False,
) -> Scored:
    r"""Score of `NegativeBinomial`; with :math:`r = \mu/\theta`, its dense part is :math:`-\theta\log(1+r)`.

    With :math:`e` the gradient to :math:`\log\mu`, that to the logits is :math:`e - \rho \sum e`; where the
    means are ``free`` it is :math:`e` alone.
    """
    raw, size, log_theta = inputs
    logits, size = masked(raw, mask).contiguous(), size.clamp_min(NO_SIZE)
    share, log_total = shares(logits)
    theta = log_theta.exp()
    at, pull, slope = _at_counts(entries, logits, size.log() - log_total, theta, wanted)
    value = entries.sum_rows(at)
    if pull is None:
        _dense_value(share, size, theta, value)
        return value, [None, None, None]
    by_log_mu = entries.sum_rows(pull)
    by_theta = _dense_gradients(
        entries, pull, share, size, theta, value, by_log_mu, weight, wanted, free=free
    )
    by_size = by_log_mu / size if wanted[1] else None
    return value, [share if wanted[0] else None, by_size, _summed(entries, by_theta, slope, weight)]


def score_zero_inflated(
    entries: NonZeros,
    mask: Tensor | None,
    inputs: tuple[Tensor, ...],
    wanted: tuple[bool, ...],
    weight: Tensor | None,
) -> Scored:
    r"""Score of `ZeroInflatedNegativeBinomial`.

    With :math:`a = -\theta\log(1+\mu/\theta)` and dropout logits :math:`d`, clamped to at least -80, its
    dense part is :math:`\log[\sigma(d)/\sigma(d-a)]`. At the non-zeros stand the negative binomial's part
    and :math:`-\mathrm{softplus}(d-a)`, which together with the dense part make :math:`\log(1-\pi)` plus
    its log probability.
    """
    raw, size, log_theta = inputs
    size = size.clamp_min(NO_SIZE)
    logits = masked(raw[:, : len(log_theta)], mask).contiguous()
    # A copy, which becomes its own gradient. Clamped, its sigmoid never leaves float32.
    dropout = raw[:, len(log_theta) :].clamp(min=_LOG_LOST).contiguous()
    share, log_total = shares(logits)
    theta = log_theta.exp()
    at, pull, slope = _at_counts(entries, logits, size.log() - log_total, theta, wanted)
    there = entries.of_columns(theta)
    ratio = entries.pick(share).mul_(entries.of_rows(size)).div_(there)
    log = ratio.log1p()
    surplus = entries.pick(dropout).addcmul_(there, log)
    # A stored zero is a zero like any other.
    seen = (entries.value > 0).to(raw.dtype)
    value = entries.sum_rows(at.sub_(F.softplus(surplus).mul_(seen)))
    if pull is None:
        _mixed_blocks((share, dropout), size, theta, value, None, weight)
        return value, [None, None, None]
    lost = torch.sigmoid(surplus).mul_(seen)
    bend = ratio.div_(ratio + 1)
    pull.sub_(bend.mul(lost).mul_(there))
    if slope is not None:
        slope.add_(bend.sub_(log).mul_(lost).mul_(there))
    by_log_mu = entries.sum_rows(pull)
    by_theta = _mixed_blocks((share, dropout), size, theta, value, by_log_mu, weight)
    gradient = None
    if wanted[0]:
        entries.add_to(share, pull)
        entries.add_to(dropout, lost.neg_())
        gradient = torch.cat([share, dropout], 1)
    by_size = by_log_mu / size if wanted[1] else None
    return value, [gradient, by_size, _summed(entries, by_theta if wanted[2] else None, slope, weight)]


def _summed(
    entries: NonZeros, dense: Tensor | None, slope: Tensor | None, weight: Tensor | None
) -> Tensor | None:
    if dense is None or slope is None:
        return None
    slope = slope if weight is None else slope.mul_(entries.of_rows(weight))
    return dense.add_(entries.sum_columns(slope))


def _at_counts(
    entries: NonZeros, logits: Tensor, log_scale: Tensor, theta: Tensor, wanted: tuple[bool, ...]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Value, gradient to log mu and gradient to log theta of the negative binomial's non-zeros.

    The value is ``log [G(x+theta) / G(theta) x!] + x log [mu/(theta+mu)]``, taken as the rising factorial
    less ``x log(theta+3)``, and ``x log [mu (theta+3)/(theta+mu)]``: so neither logarithm is large.
    """
    x = entries.value
    log_mu = entries.pick(logits).add_(entries.of_rows(log_scale))
    there = entries.of_columns(theta)
    total = log_mu.exp().add_(there)
    value, slope = _rising_of(entries, theta, there, slope=wanted[2])
    value.addcmul_((there + 3).div_(total).log_().add_(log_mu), x)
    if not any(wanted):
        return value, None, None
    pull = there.mul_(x).div_(total)
    return value, pull, None if slope is None else slope.sub_(pull)


def _rising_of(
    entries: NonZeros, theta: Tensor, there: Tensor, *, slope: bool
) -> tuple[Tensor, Tensor | None]:
    """`rising` of the non-zeros, ``there`` the theta of each; that of small counts, most, is looked up.

    For each feature and each count up to a few, the factorial is a short sum. The table has about as many
    entries as there are non-zeros.
    """
    x = entries.value
    depth = min(_DEPTH, max(1, len(x) // max(2 * len(theta), 1)))
    # Looking for the counts beyond the table would make a GPU wait.
    if x.device.type != "cpu":
        return rising(x, there, slope=slope)
    # A stored value that is no count is not in the table either.
    count = x.long().clamp_(0, depth)
    beyond = np.flatnonzero((count != x).numpy())
    if 2 * len(beyond) > len(x):
        return rising(x, there, slope=slope)
    beyond = torch.from_numpy(beyond)
    where = count.mul_(len(theta)).add_(entries.col)
    values, slopes = _table(theta, depth)
    value = values.take(where)
    change = slopes.take(where) if slope else None
    if len(beyond):
        some = rising(x.take(beyond), there.take(beyond), slope=slope)
        value.index_copy_(0, beyond, some[0])
        if change is not None and some[1] is not None:
            change.index_copy_(0, beyond, some[1])
    return value, change


def _table(theta: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Both of `rising` for counts 0, 1, ..., depth (rows) and all features, row after row."""
    step = torch.arange(depth, dtype=theta.dtype, device=theta.device)[:, None]
    above = theta + step
    values = torch.zeros(depth + 1, len(theta), dtype=theta.dtype, device=theta.device)
    slopes = torch.zeros_like(values)
    torch.cumsum((above / (theta + 3)).div_(step + 1).log_(), 0, out=values[1:])
    torch.cumsum(theta / above, 0, out=slopes[1:])
    return values.view(-1), slopes.view(-1)


def _dense_value(share: Tensor, size: Tensor, theta: Tensor, value: Tensor) -> None:
    inverse = 1 / theta
    for rows, _ in blocks(share):
        ratio = share[rows].mul_(inverse).mul_(size[rows, None])
        value[rows] -= torch.mv(ratio.log1p_(), theta)


def _dense_gradients(
    entries: NonZeros,
    pull: Tensor,
    share: Tensor,
    size: Tensor,
    theta: Tensor,
    value: Tensor,
    by_log_mu: Tensor,
    weight: Tensor | None,
    wanted: tuple[bool, ...],
    *,
    free: bool,
) -> Tensor | None:
    """Add the dense part to ``value`` and ``by_log_mu``; turn ``share`` into the gradient to the logits."""
    inverse = 1 / theta
    # As large as a block; of no rows where there are no cells, as on a rank that owns none of a minibatch.
    largest, _ = next(blocks(share), (slice(0, 0), []))
    tilt = torch.zeros_like(share[largest]) if wanted[2] else None
    exact = _of_nearly_poisson(share, size, theta, weight) if wanted[2] else None
    # Threads share out rows: only sums along them leave each thread its own memory, so those over cells wait
    # for the end, and matrix-vector products, which share out columns, are avoided. Where cores have no
    # common cache this halves the time.
    minus = -theta
    for rows, (ratio, log) in blocks(share, scratch=2):
        part = share[rows]
        torch.mul(part, inverse, out=ratio).mul_(size[rows, None])
        torch.log1p(ratio, out=log).mul_(minus)
        value[rows] += log.sum(1)
        _accumulate(tilt, log, weight, rows, 1)
        # From here -theta r/(1+r), in the memory of both.
        bend = ratio.div_(torch.add(ratio, 1, out=log)).mul_(minus)
        by_log_mu[rows] += bend.sum(1)
        _accumulate(tilt, bend, weight, rows, -1)
        if wanted[0]:
            torch.addcmul(bend, part, by_log_mu[rows, None], value=0 if free else -1, out=part)
            # While the block is in the cache.
            entries.add_to(share, pull, rows)
    if tilt is None:
        return None
    by_theta = tilt.sum(0)
    return by_theta if exact is None else by_theta.index_copy_(0, *exact)


def _of_nearly_poisson(
    share: Tensor, size: Tensor, theta: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """The features of large theta, seldom any, and their dense gradient to log theta.

    It is ``theta [r/(1+r) - log(1+r)]``, whose terms cancel where r is small: a series takes their place.
    Finding the features would make a GPU wait.
    """
    if share.device.type != "cpu":
        return None
    deep = (theta > _NEARLY_POISSON).nonzero().squeeze(1)
    if not len(deep):
        return None
    r = share.index_select(1, deep) * size[:, None] / theta[deep]
    series = -r * r * (1 / 2 - r * (2 / 3 - r * (3 / 4 - r * (4 / 5 - r * 5 / 6))))
    change = torch.where(r < 0.02, series, r / (1 + r) - r.log1p())
    return deep, theta[deep] * _over_cells(change, weight)


def _over_cells(matrix: Tensor, weight: Tensor | None) -> Tensor:
    return matrix.sum(0) if weight is None else torch.mv(matrix.t(), weight)


def _accumulate(total: Tensor | None, block: Tensor, weight: Tensor | None, rows: slice, sign: int) -> None:
    if total is None:
        return
    total = total[: len(block)]
    if weight is None:
        total.add_(block, alpha=sign)
    else:
        total.addcmul_(block, weight[rows, None], value=sign)


def _mixed_blocks(
    outputs: tuple[Tensor, Tensor],
    size: Tensor,
    theta: Tensor,
    value: Tensor,
    by_log_mu: Tensor | None,
    weight: Tensor | None,
) -> Tensor:
    """Add the dense part to ``value``; given ``by_log_mu``, turn ``outputs`` into their gradients."""
    share, dropout = outputs
    inverse = 1 / theta
    by_theta = torch.zeros_like(theta)
    weight = torch.ones_like(size) if weight is None else weight
    for rows, (ratio, log, surplus, lost, prior, work) in blocks(share, scratch=6):
        part, lack = share[rows], dropout[rows]
        torch.mul(part, inverse, out=ratio).mul_(size[rows, None])
        torch.log1p(ratio, out=log)
        torch.addcmul(lack, log, theta, out=surplus)
        torch.sigmoid(surplus, out=lost)
        torch.sigmoid(lack, out=prior)
        value[rows] += torch.div(prior, lost, out=work).log_().sum(1)
        if by_log_mu is None:
            continue
        torch.sub(lost, prior, out=lack)
        there = torch.sigmoid(surplus.neg_(), out=lost)
        bend = ratio.div_(torch.add(ratio, 1, out=prior))
        by_theta.add_(torch.mv(torch.sub(bend, log, out=log).mul_(there).t(), weight[rows]))
        bend.mul_(there)
        by_log_mu[rows] -= torch.mv(bend, theta)
        part.mul_(by_log_mu[rows, None].neg()).addcmul_(bend, theta, value=-1)
    return by_theta.mul_(theta)


def rising(
    x: Float[Tensor, " nnz"], theta: Float[Tensor, " nnz"], *, slope: bool
) -> tuple[Float[Tensor, " nnz"], Float[Tensor, " nnz"] | None]:
    r"""The rising factorial of a negative binomial, without cancellation from theta = 1e-9 to 1e9.

    .. math::
        \log\frac{\Gamma(x+\theta)}{\Gamma(\theta)\,x!} - x\log(\theta+3), \qquad
        \theta\,[\psi(x+\theta) - \psi(\theta)]

    Both gamma functions are shifted by three, where Stirling's series has settled, and their difference is
    taken term by term, so that one formula without branches holds for every :math:`\theta` and
    :math:`x \ge 0`: with :math:`t = \theta + 3`, :math:`w = x + t` and :math:`c` the tail of the series,

    .. math::
        \log\frac{\Gamma(w)}{\Gamma(t)} = (w-\tfrac12)\log(1+x/t) + x\log t - x + c(w) - c(t).

    Parameters
    ----------
    x
        Counts.
    theta
        Inverse dispersion of each one's feature.
    slope
        Whether the second is wanted.

    Examples
    --------
    >>> import torch
    >>> value, slope = rising(torch.tensor([1.0, 2.0]), torch.tensor([1e-6, 1e6]), slope=True)
    >>> slope
    tensor([1.0000, 2.0000])
    """
    t = theta + 3
    z = x + theta
    w = x + t
    log = torch.log1p(x / t)
    # The factorial's own shift; -x of one series cancels with the other's.
    v = x + 4
    value = (w - 0.5).mul_(log).sub_((x + 3.5).mul_(v.log()))
    i = torch.stack([w, t, v]).reciprocal_()
    s = i * i
    tail = _tail(i, s)
    value.add_(tail[0]).sub_(tail[1]).sub_(tail[2]).add_(4 - 0.5 * math.log(2 * math.pi))
    above = (x + 6).mul_(x).add_(11).mul_(x).add_(6)
    below = (z + 3).mul_(z).add_(2).mul_(z)
    # Divided first: the product of three thetas and three counts leaves float32.
    product = above.div_(below).mul_(theta).mul_(theta + 1).mul_(theta + 2)
    value.add_(product.log_())
    if not slope:
        return value, None
    tail = _digamma_tail(i[:2], s[:2])
    change = (tail[0] - tail[1]).add_(log).mul_(theta)
    change.add_((t - 1).mul_(theta).mul_(3).add_(2).div_((theta + 1).mul_(theta + 2)))
    change.sub_((z + 2).mul_(z).mul_(3).add_(2).mul_(theta).div_(below))
    return value, change


def _tail(i: Tensor, s: Tensor) -> Tensor:
    # 1/12z - 1/360z^3 + 1/1260z^5 - 1/1680z^7, of 1/z and its square: for z >= 3 off by less than 5e-8.
    return (s / -1680).add_(1 / 1260).mul_(s).sub_(1 / 360).mul_(s).add_(1 / 12).mul_(i)


def _digamma_tail(i: Tensor, s: Tensor) -> Tensor:
    # Its derivative, -1/2z - 1/12z^2 + 1/120z^4 - 1/252z^6.
    return (s / -252).add_(1 / 120).mul_(s).sub_(1 / 12).mul_(s).sub_(i, alpha=0.5)
