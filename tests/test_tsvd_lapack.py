"""LAPACK's test of its own SVD drivers, run on the kernel; see `decaf_theory.bench.lapack`."""

import numpy as np
import pytest

from decaf_theory.bench.lapack import SIZES, THRESHOLD, TYPES, cases, matrix, mixes, ranks, ratio
from decaf_theory.lowrank import Factors
from decaf_theory.tsvd import PATHS, tsvd, tsvd_of_mix


def test_there_are_323_cases_of_which_102_have_an_empty_side():
    assert len(TYPES) == len(set(TYPES)) == 17
    assert len(SIZES) == len(set(SIZES)) == 19
    assert len(cases()) == 323
    assert sum(0 in (d, k) for _, d, k in cases()) == 102


def ratios(path, dtype):
    """Return the largest ratio of each case that has no empty side, over three ranks."""
    return {
        case: max(
            ratio(M, tsvd_of_mix(factors, Pi, rank, method=path), rank) for rank in ranks(*M.shape)
        )
        for case, M, factors, Pi in mixes(dtype)
    }


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_mix_is_the_matrix_to_the_last_bit(dtype):
    for case, M, (B, A), Pi in mixes(dtype):
        assert np.array_equal(np.einsum("j,jab->ab", Pi[0].astype(dtype), B @ A), M), case


def test_singular_values_that_do_not_decrease_have_no_ratio():
    M = np.diag([2.0, 1.0])
    found = tsvd(M[None], 2)
    assert ratio(M, found, 2) < THRESHOLD
    assert ratio(M, found._replace(singular_values=found.singular_values[:, ::-1]), 2) == np.inf
    assert ratio(M, found._replace(singular_values=-found.singular_values), 2) == np.inf


def test_every_fault_of_a_truncation_raises_its_ratio():
    M = np.diag([2.0, 1.0, 0.5])
    found = tsvd(M[None], 1)
    B, A = found.factors
    turned = B + 1e-3 * 2**0.5 * np.eye(3)[None, :, 1:2]  # residual 1 + 2e-6, B'B = 2 + 2e-6
    faults = {
        "direction": found._replace(factors=Factors(turned / (1 + 1e-6) ** 0.5, A)),
        "balance": found._replace(factors=Factors(B * 1.001, A / 1.001)),
        "tail": found._replace(tail=found.tail * (1 + 1e-9)),
        "end of the tail": found._replace(tail=found.tail[:, :1]),
    }
    assert ratio(M, found, 1) < 1
    assert {name for name, fault in faults.items() if ratio(M, fault, 1) > THRESHOLD} == set(faults)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("path", ["auto", *PATHS])
def test_every_path_passes_lapacks_test_of_its_own_svd(path, dtype):
    found = ratios(path, dtype)
    assert len(found) == 221
    assert {case: value for case, value in found.items() if not value < THRESHOLD} == {}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("path", ["auto", *PATHS])
def test_the_102_cases_with_an_empty_side_are_the_named_error(path, dtype):
    for d, k in {(d, k) for _, d, k in cases() if 0 in (d, k)}:
        factors = Factors(np.ones((2, d, 1), dtype), np.ones((2, 1, k), dtype))
        with pytest.raises(ValueError, match="no empty axis"):
            tsvd_of_mix(factors, np.ones((1, 2)), 1, method=path)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_dense_oracle_passes_it_too(dtype):
    for kind, d, k in cases():
        M = matrix(kind, d, k, dtype)
        if 0 in (d, k):
            with pytest.raises(ValueError, match="with d, k >= 1"):
                tsvd(M, 1)
            continue
        rank = (min(d, k) + 1) // 2
        truncated = tsvd(M[None], rank)
        assert ratio(M, truncated, rank) < THRESHOLD, (kind, d, k)


def test_a_naive_gram_matrix_fails_it():
    """The protocol can fail: squared singular values lose what lies below sqrt(ulp)."""
    failures = 0
    for kind, d, k in cases():
        if 0 in (d, k) or kind.endswith(("huge", "tiny", "zero", "identity")):
            continue
        M = matrix(kind, d, k, np.float64)
        p = min(d, k)
        values = np.sqrt(np.abs(np.linalg.eigvalsh(M @ M.T if d <= k else M.T @ M)))[::-1]
        exact = np.linalg.svd(M, compute_uv=False)
        gap = np.max(np.abs(values - exact)) / (max(d, k) * np.finfo(np.float64).eps * exact[0])
        failures += gap >= THRESHOLD and p > 1
    assert failures > 20
