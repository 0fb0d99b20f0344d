"""The panel path: what it promises on hard cases, and both sides of every switch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decaf_theory import tsvd
from decaf_theory.lowrank import Factors, gauge
from decaf_theory.tsvd import PATHS, core, jacobi, tsvd_of_mix
from tests.mixes import EPS, assert_near, gaussian, mix, rows, slack

# on CUDA tensors stay tensors, and cores are solved by Jacobi rotations: both are run on the CPU
KINDS = ["numpy", "torch", "torch as on CUDA"]
PROMISED = {np.float64: 1e-13, np.float32: 1e-6}
D, K, R = 40, 30, 2


def orthonormal(n, r, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, r)))[0]


def hard_case(name):
    """Return factors [3, D, R], [3, R, K] and weights [2, 3]."""
    (B, A), Pi = gaussian(3, D, K, R), rows(2, 3)
    if "consensus" in name:
        B, A = (np.repeat(X[:1], 3, axis=0) for X in (B, A))
        if "near" in name:
            (dB, dA) = gaussian(3, D, K, R, seed=1)
            B, A = B + 1e-6 * dB, A + 1e-6 * dA
    if name == "other gauges of one product":
        B, A = gauge(
            Factors(B, A).map(lambda X: np.repeat(X[:1], 3, axis=0)), gaussian(3, R, R, R, seed=2).B
        )
    if name == "rank-deficient":
        B[:, :, 1] = B[:1, :, 0]
    if name == "graded":
        scales = np.logspace(0, -12, 3 * R).reshape(3, 1, R)
        B = orthonormal(D, 3 * R).reshape(D, 3, R).swapaxes(0, 1) * scales
        A = orthonormal(K, 3 * R).T.reshape(3, R, K)
    if name == "ill-conditioned":
        B = B[:, :, :1] + np.array([1e-8, -1e-8]) * B
    if name == "cancelling":
        B[1], A[1], Pi = -B[0] * (1 + 1e-9), A[0], np.array([[0.5, 0.5, 1e-10]])
    if name == "tie":
        B = orthonormal(D, 3 * R).reshape(D, 3, R).swapaxes(0, 1)
        A, Pi = orthonormal(K, 3 * R).T.reshape(3, R, K), np.full((2, 3), 1 / 3)
    if name == "zero":
        B = 0 * B
    if name == "one agent zero":
        B[1], A[1] = 0, 0
    if name == "large scale":
        B, A = B * 1e15, A * 1e15
    if name == "small scale":
        B, A = B * 1e-15, A * 1e-15
    if name == "opposite scales":
        B, A = (
            B * np.array([1e30, 1e-30, 1])[:, None, None],
            A / np.array([1e30, 1e-30, 1])[:, None, None],
        )
    if name == "subnormal":
        B, A = B * 1e-43, A
    if name == "heavy weight":
        Pi = np.array([[1.0, 1e-9, 1e-7], [1e-3, -1.0, 0.0]])
    return Factors(B, A), Pi


HARD = [
    *("random", "consensus", "near consensus", "other gauges of one product", "rank-deficient"),
    *("graded", "ill-conditioned", "cancelling", "tie", "zero", "one agent zero", "large scale"),
    *("small scale", "opposite scales", "subnormal", "heavy weight"),
]


def as_kind(factors, kind, monkeypatch):
    if kind == "torch as on CUDA":
        monkeypatch.setattr(tsvd, "on_host", lambda factors: factors)
        monkeypatch.setattr(core, "own_solver", lambda C: jacobi.svd)
    return factors if kind == "numpy" else factors.map(torch.from_numpy)


def errors(factors, Pi, truncated):
    """Return the largest of four errors and sigma_1, per row: values, residual, both balances.

    Against a dense float64 computation from the same, already rounded, factors.
    """
    rank = truncated.singular_values.shape[-1]
    M = mix(factors.map(lambda X: X.astype(np.float64)), Pi)
    values = np.linalg.svd(M, compute_uv=False)
    B, A = (X.astype(np.float64) for X in truncated.factors)
    kept, tail = (X.astype(np.float64) for X in truncated[1:3])
    found = np.concatenate([kept, tail], axis=-1)
    S = kept[..., None] * np.eye(rank)
    gaps = [
        np.max(np.abs(found - values[..., : found.shape[-1]]), axis=-1),
        np.linalg.norm(M - B @ A, 2, axis=(-2, -1)) - values[..., rank],
        np.linalg.norm(B.swapaxes(-1, -2) @ B - S, 2, axis=(-2, -1)),
        np.linalg.norm(A @ A.swapaxes(-1, -2) - S, 2, axis=(-2, -1)),
    ]
    return np.max(gaps, axis=0), values[..., 0]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("method", ["auto", *PATHS])
@pytest.mark.parametrize("name", HARD)
def test_hard_cases_keep_the_promise_on_every_path(name, method, dtype):
    (B, A), Pi = hard_case(name)
    factors = Factors(B.astype(dtype), A.astype(dtype))
    truncated = tsvd_of_mix(factors, Pi, R, method=method)
    error, first = errors(factors, Pi, truncated)
    # the reference itself is off by rounding of the parts, which exceeds sigma_1 if they cancel;
    # beside numbers at the lower end of a type its spacing is all that can be asked for
    unit = EPS if dtype == np.float64 or method in ("auto", "panel") else np.finfo(dtype).eps
    parts = slack(factors.map(lambda X: X.astype(np.float64)), Pi) * unit / EPS
    spacing = float(np.finfo(dtype).smallest_subnormal) * D
    assert np.all(
        error <= PROMISED[dtype] * first + (parts if name == "cancelling" else 0) + spacing
    )


def as_numpy(truncated):
    return truncated._replace(
        factors=truncated.factors.map(np.asarray),
        singular_values=np.asarray(truncated.singular_values),
        tail=np.asarray(truncated.tail),
    )


def reasons(truncated):
    return {reason for reason, _ in truncated.info.fell_back}


def parted(t, dtype=np.float64):
    """Return two parts of size one that differ by t from cancelling each other."""
    (B, A) = Factors(orthonormal(D, 3 * R), orthonormal(K, 3 * R).T)
    second = -B[:, :R] + t * B[:, R : 2 * R]
    return Factors(
        np.stack([B[:, :R], second]).astype(dtype),
        np.stack([A[:R], A[:R] + t * A[R : 2 * R]]).astype(dtype),
    ), np.ones((1, 2))


def leaning(t, dtype=np.float64):
    """Return nearly dependent columns, b and b + t c, against orthogonal rows."""
    B, A = orthonormal(D, 2), orthonormal(K, 2).T
    return Factors(
        np.stack([B[:, :1], B[:, :1] + t * B[:, 1:]]).astype(dtype), A[:, None].astype(dtype)
    ), np.ones((1, 2))


def steep(t, dtype=np.float64):
    """Return agents whose products have the singular values 1 and t, in directions of their own."""
    B, A = orthonormal(D, 2), orthonormal(K, 2).T
    return Factors(
        np.stack([B[:, :1], t * B[:, 1:]]).astype(dtype), A[:, None].astype(dtype)
    ), np.ones((1, 2))


def scaled(power, dtype=np.float64):
    B, A = gaussian(2, D, K, R)
    return Factors((B * 2.0**power).astype(dtype), (A * 2.0**-power).astype(dtype)), rows(1, 2)


SWITCHES = [
    (parted, np.float64, 1.0, 1e-4, 1, "cancellation"),
    (parted, np.float32, 1e-2, 1e-5, 1, "conditioning"),
    (steep, np.float64, 1e-1, 1e-8, 2, "grading"),
    (leaning, np.float64, 2e-1, 1e-3, 1, "conditioning"),
    (scaled, np.float64, 480, 520, 2, "range"),
    (scaled, np.float64, -480, -520, 2, "range"),
    (scaled, np.float32, 95, 110, 2, "range"),
    (scaled, np.float32, -95, -110, 2, "range"),
]


@pytest.mark.parametrize(("family", "dtype", "mild", "severe", "rank", "reason"), SWITCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_element_beyond_a_condition_is_redone_and_named(
    family, dtype, mild, severe, rank, reason, kind, monkeypatch
):
    for knob, expected in ((mild, set()), (severe, {reason})):
        factors, Pi = family(knob, dtype)
        truncated = tsvd_of_mix(as_kind(factors, kind, monkeypatch), Pi, rank, method="panel")
        assert reasons(truncated) == expected
        error, first = errors(factors, Pi, as_numpy(truncated))
        exact = factors.map(lambda X: X.astype(np.float64))
        parts = slack(exact, Pi) if family is parted else 0.0
        assert np.all(error <= PROMISED[dtype] * first + parts)


@pytest.mark.parametrize("knob", np.logspace(-12, 0, 25))
@pytest.mark.parametrize("family", [parted, leaning, steep])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_promise_holds_all_the_way_through_the_switches(family, knob, dtype):
    factors, Pi = family(knob, dtype)
    for rank in (1, 2):
        error, first = errors(factors, Pi, tsvd_of_mix(factors, Pi, rank, method="panel"))
        parts = slack(factors.map(lambda X: X.astype(np.float64)), Pi)
        assert np.all(error <= PROMISED[dtype] * first + parts)


@pytest.mark.parametrize("distance", [1e-1, 1e-4, 1e-8, 1e-15])
def test_consensus_sends_nothing_back_to_qr(distance):
    (B, A), (dB, dA) = gaussian(1, D, K, R), gaussian(4, D, K, R, seed=1)
    factors, Pi = Factors(B + distance * dB, A + distance * dA), rows(4, 4)
    truncated = tsvd_of_mix(factors, Pi, R, method="panel")
    assert reasons(truncated) == set()
    error, first = errors(factors, Pi, truncated)
    assert np.all(error <= 1e-13 * first)


def test_torch_gradients_go_by_qr():
    factors = gaussian(2, D, K, R).map(lambda X: torch.from_numpy(X).requires_grad_())
    truncated = tsvd_of_mix(factors, rows(1, 2), R)
    assert truncated.info.path == "qr"
    truncated.singular_values.sum().backward()
    assert factors.B.grad.abs().sum() > 0


def test_an_indefinite_gram_matrix_still_has_a_factor():
    V = orthonormal(4, 4)
    G = (V * [-1e-15, 0.5, 1.0, 2.0]) @ V.T
    L = core.factorize(
        np.stack([G, np.eye(4)]), np.sqrt(np.stack([np.diagonal(G), np.ones(4)])), 1e-16
    )
    # eigenvectors of 4 x 4 of norm 2: 2 n eps of it, see `solver_error`
    assert_near(L @ L.swapaxes(-1, -2), np.stack([G, np.eye(4)]), 2 * 4 * 2 * EPS)


@pytest.mark.parametrize("small", [1e-2, 1e-3, 2e-5, 1e-5])
@pytest.mark.parametrize("kind", ["numpy", "torch as on CUDA"])
def test_weights_over_decades_keep_the_balance(small, kind, monkeypatch):
    """LAPACK's SVD of such a core is right to 100 u of sigma_1 alone, which turns small columns."""
    Pi = np.array([[1.0, 1.0, small, small]])
    for seed in range(40):
        factors = gaussian(4, 8, 9, 1, seed=seed)
        found = tsvd_of_mix(as_kind(factors, kind, monkeypatch), Pi, 3, method="panel")
        error, first = errors(factors, Pi, as_numpy(found))
        assert np.all(error <= PROMISED[np.float64] * first)


@pytest.mark.parametrize("N", [24, 64, 128])
def test_many_agents_in_consensus_keep_the_digits_of_float32(N):
    factors = gaussian(1, 30, 24, 2).map(lambda X: np.repeat(X.astype(np.float32), N, 0))
    Pi = np.full((1, N), 1 / N)
    for rank in (1, 2):
        error, first = errors(factors, Pi, tsvd_of_mix(factors, Pi, rank, method="panel"))
        assert np.all(error <= PROMISED[np.float32] * first)


@st.composite
def spectra(draw):
    """Return factors with drawn spectra, on a drawn graph, and a rank."""
    N, r, seed = draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.integers(0, 2**20))
    d, k = draw(st.tuples(st.integers(8, 24), st.integers(8, 24)).filter(lambda x: x[0] != x[1]))
    steep, apart = (
        draw(st.sampled_from([0.0, 1.0, 4.0, 10.0])),
        draw(st.sampled_from([1, 1e-3, 1e-9])),
    )
    (B, A), (dB, dA) = gaussian(1, d, k, r, seed=seed), gaussian(N, d, k, r, seed=seed + 1)
    factors = Factors((B + apart * dB) * np.logspace(0, -steep, r), A + apart * dA)
    Pi = rows(N, N, seed) * (np.random.default_rng(seed).random((N, N)) < draw(st.floats(0.3, 1)))
    return factors, Pi, draw(st.integers(1, min(d, k)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", HARD)
def test_hard_cases_keep_the_promise_as_on_cuda(name, dtype, monkeypatch):
    (B, A), Pi = hard_case(name)
    factors = Factors(B.astype(dtype), A.astype(dtype))
    tensors = as_kind(factors, "torch as on CUDA", monkeypatch)
    truncated = as_numpy(tsvd_of_mix(tensors, Pi, R, method="panel"))
    error, first = errors(factors, Pi, truncated)
    exact = slack(factors.map(lambda X: X.astype(np.float64)), Pi)
    spacing = float(np.finfo(dtype).smallest_subnormal) * D
    allowed = PROMISED[dtype] * first + (exact if name == "cancelling" else 0) + spacing
    assert np.all(error <= allowed)


@given(spectra(), st.sampled_from([np.float64, np.float32]))
def test_the_residual_is_the_optimal_one_for_any_graph_rank_shape_and_spectrum(drawn, dtype):
    factors, Pi, rank = drawn
    factors = factors.map(lambda X: X.astype(dtype))
    found = tsvd_of_mix(factors, Pi, rank, method="panel")
    M = mix(factors.map(lambda X: X.astype(np.float64)), Pi)
    values = np.pad(np.linalg.svd(M, compute_uv=False), ((0, 0), (0, 1)))
    B, A = (X.astype(np.float64) for X in found.factors)
    allowed = PROMISED[dtype] * values[:, 0] + slack(factors, Pi)
    S = found.singular_values[..., None] * np.eye(rank)
    for gap in (
        np.linalg.norm(M - B @ A, 2, axis=(-2, -1)) - values[:, rank],
        np.linalg.norm(B.swapaxes(-1, -2) @ B - S, 2, axis=(-2, -1)),
        np.linalg.norm(A @ A.swapaxes(-1, -2) - S, 2, axis=(-2, -1)),
        np.max(np.abs(found.singular_values - values[:, :rank]), axis=-1),
    ):
        assert np.all(gap <= allowed)
    theirs = tsvd_of_mix(factors.map(torch.from_numpy), Pi, rank, method="panel")
    assert np.all(
        np.abs(theirs.singular_values.numpy() - found.singular_values) <= 2 * allowed[:, None]
    )
