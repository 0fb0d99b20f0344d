"""Random mixes and the facts that define a balanced truncation; shared by the kernel's tests."""

import tracemalloc

import numpy as np
import scipy.sparse as sp

from decaf_theory.lowrank import Factors

EPS = float(np.finfo(np.float64).eps)


def gaussian(N, d, k, r, *batch, seed=0):
    """Return Gaussian factors B [*batch, N, d, r], A [*batch, N, r, k]."""
    rng = np.random.default_rng(seed)
    return Factors(rng.standard_normal((*batch, N, d, r)), rng.standard_normal((*batch, N, r, k)))


def rows(n, N, seed=0):
    """Return n stochastic rows."""
    return np.random.default_rng(seed).dirichlet(np.ones(N), size=n)


def sparse_star(N):
    """Return the Metropolis weights of a star, agent 0 in the middle: 3 N - 2 entries."""
    hub, leaves = np.zeros(N, dtype=int), np.arange(1, N)
    rows = np.concatenate([hub, leaves, leaves])
    columns = np.concatenate([np.arange(N), hub[1:], leaves])
    weights = np.repeat([1 / N, 1 - 1 / N], [2 * N - 1, N - 1])
    return sp.csr_array((weights, (rows, columns)), shape=(N, N))


def most_memory(call):
    """Return the result of a call, and the most bytes that it held at a time."""
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def mix(factors, Pi):
    """Return M_i = sum_j pi_ij B_j A_j by one loop, apart from the library."""
    B, A = factors
    return np.stack(
        [sum(w * B[..., j, :, :] @ A[..., j, :, :] for j, w in enumerate(row)) for row in Pi],
        axis=-3,
    )


def slack(factors, Pi):
    """Return ten times the longest sum, in eps of sum_j |pi_j||B_j||A_j|: a backward error."""
    sizes = np.linalg.norm(factors.B, axis=(-2, -1)) * np.linalg.norm(factors.A, axis=(-2, -1))
    longest = max(*factors.shape, factors.rank * factors.B.shape[-3])
    return 10 * longest * EPS * np.max(sizes @ np.abs(np.asarray(Pi)).T, initial=0.0)


def assert_near(left, right, allowed):
    """Assert equal shapes and entries within `allowed`; NaN is never close."""
    assert np.shape(left) == np.shape(right)
    assert np.max(np.abs(np.asarray(left) - np.asarray(right)), initial=0.0) <= allowed


def assert_truncation_of(M, truncated, rank, allowed):
    """Assert what defines a balanced truncation: kept, dropped, residual, balance."""
    values = np.linalg.svd(M, compute_uv=False)
    B, A = truncated.factors
    assert B.shape == (*M.shape[:-1], rank)
    assert A.shape == (*M.shape[:-2], rank, M.shape[-1])
    kept, tail = truncated.singular_values, truncated.tail
    width = tail.shape[-1]
    assert_near(kept, values[..., :rank], allowed)
    assert_near(tail, values[..., rank : rank + width], allowed)
    assert np.all(values[..., rank + width :] <= allowed)
    residual = np.linalg.svd(M - B @ A, compute_uv=False)
    dropped = np.concatenate([values[..., rank:], np.zeros((*M.shape[:-2], rank))], axis=-1)
    assert_near(residual, dropped, 2 * allowed)
    diagonal = kept[..., :, None] * np.eye(rank)
    assert_near(B.swapaxes(-1, -2) @ B, diagonal, allowed)
    assert_near(A @ A.swapaxes(-1, -2), diagonal, allowed)


def assert_same_result(left, right):
    """Assert equal bits of two truncations."""
    for x, y in zip((*left.factors, *left[1:3]), (*right.factors, *right[1:3]), strict=True):
        assert np.array_equal(x, y)
