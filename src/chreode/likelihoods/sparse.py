"""The sparse-exact path: what all likelihood heads share.

A log probability is a dense part, which needs no counts, plus a correction at the non-zeros. A head writes a
`Score`: the value and its gradients in closed form, computed together. `log_prob` joins it to autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from chreode.axes import Bool, Float, Int, Shaped, Tensor
from chreode.cells import CSR, Measured
from chreode.csr import repeat
from chreode.errors import InputError

__all__ = ["NonZeros", "Score", "blocks", "centre", "known", "log_prob", "masked", "of_panel", "shares"]

Score = Callable[[tuple[Tensor, ...], tuple[bool, ...], Tensor | None], tuple[Tensor, list[Tensor | None]]]
"""``score(inputs, wanted, weight) -> (value, gradients)``.

``inputs`` are the decoder's raw outputs (``n x m``), the sizes (``n``), then parameters of features (``g``
each). ``value`` is the log probability of each cell; a gradient is None where it is not wanted. Gradients of
the first two are those of each cell's own value; those of parameters are summed over cells with ``weight``
(all ones when it is None).
"""

# Floats a block of rows may hold: 32 rows of 20,000 features. Larger ones leave the cache, smaller ones pay
# for more calls.
_BLOCK = 640_000


class NonZeros:
    """The entries a minibatch stores, with the places they have in a dense matrix.

    Parameters
    ----------
    csr
        The measured values.
    dtype
        Type of ``value``.
    """

    __slots__ = ("_csr", "_places", "crow", "shape", "value")

    crow: Int[Tensor, " rows"]
    value: Float[Tensor, " nnz"]

    def __init__(self, csr: CSR, dtype: torch.dtype) -> None:
        self._csr, self.shape, self.crow = csr, csr.shape, csr.crow
        self.value = csr.value.to(dtype).contiguous()
        self._places: tuple[Tensor, Tensor] | None = None

    @property
    def narrow(self) -> Int[Tensor, " nnz"]:
        """The feature of each, in 32 bits."""
        return self._csr.col.int()

    @property
    def col(self) -> Int[Tensor, " nnz"]:
        """The feature of each."""
        return self._placed()[0]

    @property
    def flat(self) -> Int[Tensor, " nnz"]:
        """The place of each in a dense matrix."""
        return self._placed()[1]

    def _placed(self) -> tuple[Tensor, Tensor]:
        if self._places is None:
            col = self._csr.col.long()
            starts = torch.arange(self.shape[0], device=self.crow.device) * self.shape[1]
            self._places = col, self.of_rows(starts).add_(col)
        return self._places

    @classmethod
    def of(
        cls, measured: Measured, *, mask: Bool[Tensor, "n g"] | None, like: Float[Tensor, "n g"]
    ) -> NonZeros:
        """From a `CSR` or a dense matrix, for outputs ``like``; entries of masked features are left out.

        Raises
        ------
        InputError
            When the shape is not that of the distribution.
        """
        if tuple(measured.shape) != tuple(like.shape):
            msg = (
                f"Expected values of {len(like)} cells by {like.shape[1]} features; found "
                f"{measured.shape[0]} by {measured.shape[1]}. "
                "Score the cells this distribution was decoded for."
            )
            raise InputError(msg)
        csr = measured if isinstance(measured, CSR) else _sparse(measured)
        if mask is not None:
            csr = _within(csr, mask)
        return cls(csr, like.dtype)

    def pick(self, matrix: Float[Tensor, "n g"]) -> Float[Tensor, " nnz"]:
        """A dense matrix at the non-zeros."""
        return matrix.take(self.flat)  # in parallel, which index_select is not

    def of_rows(self, vector: Shaped[Tensor, " n"]) -> Shaped[Tensor, " nnz"]:
        """The value of each non-zero's cell."""
        return repeat(vector, self.crow.diff(), len(self.value))

    def of_columns(self, vector: Float[Tensor, " g"]) -> Float[Tensor, " nnz"]:
        """The value of each non-zero's feature."""
        return vector.take(self.col)

    def sum_rows(self, values: Float[Tensor, " nnz"]) -> Float[Tensor, " n"]:
        """Sums over each cell's non-zeros."""
        if values.device.type != "cpu":
            return torch.segment_reduce(values, "sum", offsets=self.crow, initial=0)
        # NumPy is four times faster at this than torch, but knows no empty segment.
        crow = self.crow.numpy()
        filled = np.flatnonzero(crow[1:] > crow[:-1])
        total = values.new_zeros(self.shape[0])
        if len(filled):
            total.numpy()[filled] = np.add.reduceat(values.detach().numpy(), crow[:-1][filled])
        return total

    def sum_columns(self, values: Float[Tensor, " nnz"]) -> Float[Tensor, " g"]:
        """Sums over each feature's non-zeros."""
        return values.new_zeros(self.shape[1]).scatter_add_(0, self.col, values)

    def added(self, matrix: Float[Tensor, "n g"], values: Float[Tensor, " nnz"]) -> Float[Tensor, "n g"]:
        """A dense matrix with something added at the non-zeros; gradients reach both."""
        return matrix.reshape(-1).index_add(0, self.flat, values).view(matrix.shape)

    def add_to(
        self, matrix: Float[Tensor, "n g"], values: Float[Tensor, " nnz"], rows: slice | None = None
    ) -> None:
        """Add at the non-zeros of a dense matrix (of some of its rows only), in place."""
        here = slice(None)
        if rows is not None and (rows.start, rows.stop) != (0, self.shape[0]):
            here = slice(int(self.crow[rows.start]), int(self.crow[rows.stop]))
        # Not scatter_add_: one thread would write to the rows of all. No place is met twice.
        flat, where = matrix.view(-1), self.flat[here]
        flat.index_copy_(0, where, flat.take(where).add_(values[here]))


def _sparse(matrix: Float[Tensor, "n g"]) -> CSR:
    row, col = matrix.nonzero(as_tuple=True)
    crow = torch.zeros(len(matrix) + 1, dtype=torch.int64, device=matrix.device)
    torch.cumsum(torch.count_nonzero(matrix, 1), 0, out=crow[1:])
    return CSR(crow, col, matrix[row, col], matrix.shape[1])


def _within(csr: CSR, mask: Bool[Tensor, "n g"]) -> CSR:
    keep = mask.reshape(-1).index_select(0, csr.row * csr.width + csr.col.long())
    if bool(keep.all()):
        return csr
    crow = torch.zeros_like(csr.crow)
    torch.cumsum(torch.bincount(csr.row[keep], minlength=len(csr)), 0, out=crow[1:])
    return CSR(crow, csr.col[keep], csr.value[keep], csr.width)


def masked(logits: Float[Tensor, "n g"], mask: Bool[Tensor, "n g"] | None) -> Float[Tensor, "n g"]:
    """Logits with those of masked features so low that a softmax gives them nothing.

    They stay finite, so that a cell without a single measured feature gives no NaN.
    """
    if mask is None:
        return logits
    return torch.where(mask, logits, torch.finfo(logits.dtype).min / 4)


def known(size: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The sizes; one of counts where none is known, as zeros and ones may have none."""
    return size.nan_to_num(1.0)


def centre(bias: Float[Tensor, " g"], total: Float[Tensor, " g"]) -> None:
    """Set output biases, in place, to the profile of these totals."""
    # Half a molecule for features never seen, so that their logit is finite.
    bias.copy_((total + 0.5).log())
    bias.sub_(bias.mean())


def of_panel(
    values: Float[Tensor, " g"], mask: Bool[Tensor, "n g"] | None
) -> Float[Tensor, " n"] | Float[Tensor, ""]:
    """The sum of a vector over the features each cell was measured in; one for all cells without a mask."""
    return values.sum() if mask is None else mask.to(values.dtype) @ values


def shares(logits: Float[Tensor, "n g"]) -> tuple[Float[Tensor, "n g"], Float[Tensor, " n"]]:
    """The softmax and the logarithm of its denominator, with one exponential an entry.

    The largest entry tells the denominator: ``log sum exp(l) = max l - log max softmax(l)``.
    """
    share, log_total = torch.empty_like(logits), logits.amax(1)
    # By the blocks of what follows, so that each thread finds there what it wrote here.
    for rows, _ in blocks(logits):
        torch.softmax(logits[rows], 1, out=share[rows])
        log_total[rows] -= share[rows].amax(1).log_()
    return share, log_total


def blocks(matrix: Float[Tensor, "n g"], *, scratch: int = 0) -> Iterator[tuple[slice, list[Tensor]]]:
    """Slices of rows that fit the cache (all rows where there is none to fit), each with working memory.

    The working memory, ``scratch`` matrices of the slice's shape, is the same for every slice: memory asked
    for again and again is cleared by the system again and again.
    """
    n, width = matrix.shape
    step = max(n, 1) if matrix.device.type != "cpu" else min(max(1, _BLOCK // max(width, 1)), max(n, 1))
    memory = [matrix.new_empty(step, width) for _ in range(scratch)]
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        yield rows, [each[: rows.stop - start] for each in memory]


def log_prob(score: Score, *inputs: Tensor) -> Float[Tensor, " n"]:
    """The log probability of each cell, differentiable (once) in the raw outputs, sizes and parameters.

    Gradients are computed together with the value, while blocks of rows are in the cache. Those of the
    parameters are summed assuming that all cells weigh the same; where the incoming gradient says
    otherwise they are computed again with its weights, so that they are exact in both cases. A head without
    sizes passes ones: cells of size zero are taken to have no part in the parameters.
    """
    if torch.is_grad_enabled() and any(i.requires_grad for i in inputs):
        return _LogProb.apply(score, *inputs)  # pyright: ignore[reportReturnType]
    return score(inputs, (False,) * len(inputs), None)[0]


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx, score: Score, *inputs: Tensor) -> Tensor:  # noqa: ANN001
        value, ctx.gradients = score(inputs, ctx.needs_input_grad[1:], None)
        ctx.score = score
        ctx.save_for_backward(*inputs)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN001
        wanted = ctx.needs_input_grad[1:]
        gradients, ctx.gradients = ctx.gradients, None
        shared = _shared(grad, ctx.saved_tensors[1])
        weight = grad if shared is None else None
        # A second backward pass finds the gradients used up: they are scaled in place below.
        if gradients is None:
            gradients = ctx.score(ctx.saved_tensors, wanted, weight)[1]
        elif shared is None and any(wanted[2:]):
            again = ctx.score(ctx.saved_tensors, (False, False, *wanted[2:]), weight)[1]
            gradients = [*gradients[:2], *again[2:]]
        raw, size, *parameters = gradients
        # Training takes the gradient of a sum; looking for that would make a GPU wait.
        ones = shared is not None and shared.device.type == "cpu" and bool(shared == 1)
        if raw is not None and not ones:
            raw.mul_(grad[:, None])
        if size is not None:
            size.mul_(grad)
        if shared is not None:
            parameters = [p if p is None else p.mul_(shared) for p in parameters]
        return None, raw, size, *parameters


def _shared(grad: Float[Tensor, " n"], size: Float[Tensor, " n"]) -> Float[Tensor, ""] | None:
    """The weight of all cells whose size is above zero; None when they differ.

    The others (cells without counts, or not measured in this modality) leave no trace in the parameters.
    """
    if len(grad) and grad.stride(0) == 0:
        return grad[0]
    if grad.device.type != "cpu":
        # Looking at the values would make the GPU wait.
        return None
    grad = grad[size > 0]
    if not len(grad):
        return grad.new_zeros(())
    return grad[0] if bool((grad == grad[0]).all()) else None
