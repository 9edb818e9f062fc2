"""Rows of sparse counts: every road gives the same."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from chreode.cells import CSR

ROWS = {
    "some": [3, 0, 5],
    "again": [2, 2, 2],
    "empty ones": [1, 4],
    "none": [],
    "all": [0, 1, 2, 3, 4, 5],
}


def matrix() -> sp.csr_matrix:
    dense = np.random.default_rng(0).poisson(0.7, (6, 9)).astype(np.float32)
    dense[[1, 4]] = 0
    return sp.csr_matrix(dense)


@pytest.mark.parametrize("wide", [False, True], ids=["32 bits", "64 bits"])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_rows_are_those_of_the_dense_matrix(rows: list[int], wide: bool) -> None:
    csr = CSR.of(matrix())
    if wide:  # which SciPy cannot share, so that another road is taken
        csr = CSR(csr.crow, csr.col.long(), csr.value, csr.width)
    taken = csr.take(torch.tensor(rows, dtype=torch.int64))
    assert torch.equal(taken.dense(), csr.dense()[rows])
    assert torch.equal(taken.row, taken.dense().nonzero()[:, 0])
    assert taken.crow.dtype == torch.int64


@pytest.mark.parametrize("wide", [False, True], ids=["32 bits", "64 bits"])
def test_columns_become_rows(wide: bool) -> None:
    csr = CSR.of(matrix())
    if wide:
        csr = CSR(csr.crow, csr.col.long(), csr.value, csr.width)
    turned = csr.transposed()
    assert turned.shape == (9, 6)
    assert torch.equal(turned.dense(), csr.dense().T)
    assert turned.crow.dtype == torch.int64
    grad = torch.randn(4, 6).T  # not contiguous
    found = csr.transposed_product(grad)
    assert torch.allclose(found, csr.dense().T @ grad)
    assert found.is_contiguous()


@pytest.mark.parametrize("wide", [False, True], ids=["32 bits", "64 bits"])
def test_products_with_dense_matrices(wide: bool) -> None:
    csr = CSR.of(matrix())
    if wide:
        csr = CSR(csr.crow, csr.col.long(), csr.value, csr.width)
    weight = torch.randn(9, 3)
    assert torch.allclose(csr @ weight, csr.dense() @ weight, atol=1e-6)
    double = csr.with_value(csr.value.double())
    assert torch.allclose(double.transposed_product(torch.eye(6).double()), double.dense().T)


def test_scipy_shares_the_memory() -> None:
    csr = CSR.of(matrix())
    other = csr.scipy()
    assert np.shares_memory(other.data, csr.value.numpy())
    assert np.shares_memory(other.indices, csr.col.numpy())
    assert (other != matrix()).nnz == 0
