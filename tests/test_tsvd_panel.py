"""The panel path: what it promises on hard cases, and both sides of every switch."""

import importlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decaf_theory import tsvd
from decaf_theory.lowrank import Factors, gauge, product
from decaf_theory.tsvd import PATHS, core, jacobi, panel, tsvd_of_mix
from tests.mixes import EPS, assert_near, assert_same_result, gaussian, mix, rows, slack

redo = importlib.import_module("decaf_theory.tsvd.redo")  # the package's `redo` is its function
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
            Factors(*(np.repeat(X[:1], 3, axis=0) for X in (B, A))), gaussian(3, R, R, R, seed=2).B
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
    return factors if kind == "numpy" else Factors(*map(torch.from_numpy, factors))


def errors(factors, Pi, truncated):
    """Return the largest of four errors and sigma_1, per row: values, residual, both balances.

    Against a dense float64 computation from the same, already rounded, factors.
    """
    rank = truncated.singular_values.shape[-1]
    M = mix(Factors(*(X.astype(np.float64) for X in factors)), Pi)
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
    parts = slack(Factors(*(X.astype(np.float64) for X in factors)), Pi) * unit / EPS
    spacing = float(np.finfo(dtype).smallest_subnormal) * D
    assert np.all(
        error <= PROMISED[dtype] * first + (parts if name == "cancelling" else 0) + spacing
    )


def as_numpy(truncated):
    return truncated._replace(
        factors=Factors(*map(np.asarray, truncated.factors)),
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
    (steep, np.float64, 1e-4, 1e-8, 2, "grading"),
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
        exact = Factors(*(X.astype(np.float64) for X in factors))
        parts = slack(exact, Pi) if family is parted else 0.0
        assert np.all(error <= PROMISED[dtype] * first + parts)


@pytest.mark.parametrize("knob", np.logspace(-12, 0, 25))
@pytest.mark.parametrize("family", [parted, leaning, steep])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_promise_holds_all_the_way_through_the_switches(family, knob, dtype):
    factors, Pi = family(knob, dtype)
    for rank in (1, 2):
        error, first = errors(factors, Pi, tsvd_of_mix(factors, Pi, rank, method="panel"))
        parts = slack(Factors(*(X.astype(np.float64) for X in factors)), Pi)
        assert np.all(error <= PROMISED[dtype] * first + parts)


@pytest.mark.parametrize("distance", [1e-1, 1e-4, 1e-8, 1e-15])
def test_consensus_sends_nothing_back_to_qr(distance):
    (B, A), (dB, dA) = gaussian(1, D, K, R), gaussian(4, D, K, R, seed=1)
    factors, Pi = Factors(B + distance * dB, A + distance * dA), rows(4, 4)
    truncated = tsvd_of_mix(factors, Pi, R, method="panel")
    assert reasons(truncated) == set()
    error, first = errors(factors, Pi, truncated)
    assert np.all(error <= 1e-13 * first)


def test_one_element_of_many_falls_back_alone():
    factors, Pi = gaussian(4, D, K, R, 3), rows(5, 4)
    clean = tsvd_of_mix(factors, Pi, R, method="panel")
    B, A = (X.copy() for X in factors)
    B[1, 2] *= 1e200
    A[1, 2] *= 1e-200
    Pi[:2, 2] = 0.0
    found = tsvd_of_mix(Factors(B, A), Pi, R, method="panel")
    assert found.info.fell_back == tuple(("range", (1, i)) for i in (2, 3, 4))
    expected = tsvd_of_mix(factors, Pi, R, method="panel")
    assert expected.info.fell_back == clean.info.fell_back == ()
    assert_near(product(found.factors), product(expected.factors), 100 * slack(factors, Pi))
    kept = np.ones((3, 5), dtype=bool)
    kept[1, 2:] = False
    for x, y in zip(
        (*found.factors, *found[1:3]), (*expected.factors, *expected[1:3]), strict=True
    ):
        assert np.array_equal(x[kept], y[kept])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("power", "refused"), [(180, ()), (220, (("range", (0,)),))])
def test_products_at_the_ends_of_the_range_keep_their_digits(power, refused, sign):
    factors, Pi, size = (
        gaussian(3, D, K, R),
        np.array([[0.5, 0.5, 0], [0, 0, 1]]),
        2.0 ** (sign * power),
    )
    factors.B[0, :, 1] = 0.0
    plain = tsvd_of_mix(factors, Pi, R, method="qr")
    found = tsvd_of_mix(scaled_up(factors, size), Pi, R, method="panel")
    assert found.info.fell_back == refused
    allowed = slack(factors, Pi)
    for row, unit in ((0, size**2), (1, 1.0)):
        assert_near(found.singular_values[row] / unit, plain.singular_values[row], allowed)


def scaled_up(factors, size):
    """Return the factors of three agents with those of the first two multiplied by `size`."""
    return Factors(*(X * np.array([size, size, 1.0])[:, None, None] for X in factors))


def test_a_product_beyond_the_range_is_named():
    Pi = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    with pytest.raises(ValueError, match=r"product at index \(0,\) overflows float64"):
        tsvd_of_mix(scaled_up(gaussian(3, D, K, R), 2.0**508), Pi * 2.0**20, R, method="panel")


def test_a_sparse_row_falls_back_alone_too():
    factors = gaussian(6, D, K, R)
    allowed = slack(factors, np.eye(6))
    factors.B[3] *= 1e200
    factors.A[3] *= 1e-200
    Pi = (np.eye(6) + np.roll(np.eye(6), 1, axis=1)) / 2
    found = tsvd_of_mix(factors, Pi, R, method="panel")
    assert found.info.fell_back == (("range", (2,)), ("range", (3,)))
    expected = tsvd_of_mix(factors, Pi, R, method="qr")
    assert_near(found.singular_values, expected.singular_values, allowed)


def test_skipping_and_falling_back_go_together():
    factors, Pi = gaussian(4, D, K, R), np.eye(4)
    factors.A[0, 0, 0] = np.nan
    factors.B[2] *= 1e200
    factors.A[2] *= 1e-200
    found = tsvd_of_mix(factors, Pi, R, method="panel", on_nonfinite="skip")
    assert found.info[1:] == (3, ((0,),), (("range", (2,)),))
    with pytest.raises(ValueError, match="factors of agent 0 hold nan or inf"):
        tsvd_of_mix(factors, Pi, R, method="panel")


@pytest.mark.parametrize("N", [3, 7])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_shared_and_gathered_stacks_agree(N, dtype, monkeypatch):
    factors = Factors(*(X.astype(dtype) for X in gaussian(N, D, K, R, 2)))
    Pi = rows(N, N) * (np.eye(N) + np.roll(np.eye(N), 1, axis=1))
    found = []
    for shared in (True, False):
        monkeypatch.setattr(panel, "shares_stack", lambda *sizes, shared=shared: shared)
        found.append(tsvd_of_mix(factors, Pi, R, method="panel"))
        assert found[-1].info.fell_back == ()
    exact = Factors(*(X.astype(np.float64) for X in factors))
    allowed = 10 * slack(exact, Pi) * np.finfo(dtype).eps / EPS
    assert_near(found[0].singular_values, found[1].singular_values, allowed)
    assert_near(product(found[0].factors), product(found[1].factors), 10 * allowed)


def test_a_stack_is_shared_where_agents_are_few_and_gathered_on_large_sparse_graphs():
    assert panel.shares_stack(10, 10, 3, 4, 4)
    assert panel.shares_stack(10, 1, 9, 4, 4)
    assert not panel.shares_stack(10_000, 10_000, 3, 4, 4)
    assert not panel.shares_stack(1000, 1, 3, 4, 4)


@pytest.mark.parametrize("N", [3, 60])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_agents_who_mix_with_nobody_keep_their_product(N, dtype):
    """One direction a row: of a stack that is shared, and of stacks of their own."""
    factors = Factors(*(X.astype(dtype) for X in gaussian(N, D, K, 1, 2)))
    assert panel.shares_stack(N, N, 1, 1, 1) is (N == 3)
    found = tsvd_of_mix(factors, np.eye(N), 1, method="panel")
    size = np.linalg.norm(factors.B, axis=-2) * np.linalg.norm(factors.A, axis=-1)
    # one product and one root each of numbers that are right to their last digits, then BA
    allowed = 10 * np.finfo(dtype).eps * np.max(size)
    assert_near(found.singular_values, size, allowed)
    assert_near(product(found.factors), product(factors), allowed)


def test_the_switch_lies_where_the_costs_are_equal():
    """As many rows as agents, rank = r = 4: 3/2 N <= m (m/2 + 5)."""
    for m, N in ((40, 666), (30, 400)):  # at 666.7, and at 400 exactly
        assert panel.shares_stack(N, N, m, 4, 4)
        assert not panel.shares_stack(N + 1, N + 1, m, 4, 4)
    # one row of m = 20, r = 2, rank 4: N^2/2 + 2 N <= 20 (10 + 2 + 8) = 400
    assert panel.shares_stack(26, 1, 20, 2, 4)
    assert not panel.shares_stack(27, 1, 20, 2, 4)


def recorded(module, name, monkeypatch):
    """Return a list that grows by the results and arguments of every call of a function."""
    calls, function = [], getattr(module, name)

    def spy(*arguments):
        calls.append((function(*arguments), arguments))
        return calls[-1][0]

    monkeypatch.setattr(module, name, spy)
    return calls


WIDE_AND_TALL = pytest.mark.parametrize(("d", "k"), [(D, K), (K, D)])


@WIDE_AND_TALL
@pytest.mark.parametrize("shared", [True, False])
def test_blocks_are_as_large_as_they_may_be(d, k, shared, monkeypatch):
    factors, N, m = gaussian(5, d, k, R, 7), 5, 2
    Pi = np.eye(N) + np.roll(np.eye(N), 1, axis=1)
    stack = (N if shared else m) * R * D  # the longer side decides
    for room, layers_or_rows in ((stack, 1), (3 * stack - 1, 2), (3 * stack, 3), (0, 1)):
        monkeypatch.setattr(panel, "BLOCK", room)
        monkeypatch.setattr(panel, "shares_stack", lambda *sizes: shared)
        with monkeypatch.context() as own:
            stacks = recorded(panel, "_stack", own)
            tsvd_of_mix(factors, Pi, R, method="panel")
        most = max(len(found) if shared else found.shape[1] for found, _ in stacks)
        assert most == layers_or_rows
        assert max(found.size for found, _ in stacks) == most * stack


@WIDE_AND_TALL
def test_the_core_is_told_the_longer_side(d, k, monkeypatch):
    calls = recorded(panel, "solve_core", monkeypatch)
    tsvd_of_mix(gaussian(3, d, k, R), rows(2, 3), R, method="panel")
    ((_, (G, unfit, weights, rank, longest, precision)),) = calls
    assert (G.shape, unfit.shape, weights.shape) == ((2, 1, 1, 6, 6), (1, 1, 6), (2, 6))
    assert (rank, longest, precision.double) == (R, D, True)


@pytest.mark.parametrize(("d", "k"), [(64, K), (K, 64)])
@pytest.mark.parametrize("small", ["B", "A"])
def test_squares_that_may_have_lost_digits_are_left_to_qr(d, k, small):
    """Of a sum of max(d, k) squares: each is off by up to 2^-1074, together by eps of the least."""
    least = 8 * 2.0**-511
    for factor, expected in ((0.995, {"range"}), (1.0, set())):
        B, A = np.zeros((1, d, 1)), np.zeros((1, 1, k))
        B[0, 0], A[0, 0, 0] = np.array([least * factor, 1 / least])[:: 1 if small == "B" else -1]
        found = tsvd_of_mix(Factors(B, A), np.ones((1, 1)), 1, method="panel")
        assert reasons(found) == expected
        assert_near(found.singular_values, [[factor]], 10 * EPS)


@pytest.mark.parametrize("distinct", [False, True])
def test_equal_rows_share_their_core_and_sub_blocks_are_cut_only_where_needed(
    distinct, monkeypatch
):
    cut, solved = (recorded(panel, name, monkeypatch) for name in ("_of_rows", "solve_core"))
    tsvd_of_mix(
        gaussian(3, D, K, R), rows(3, 3) if distinct else np.ones((3, 3)), R, method="panel"
    )
    assert cut == []
    assert len(solved[0][1][2]) == (3 if distinct else 1)


@WIDE_AND_TALL
@pytest.mark.parametrize("shared", [True, False])
def test_what_is_redone_goes_in_blocks_and_into_its_place(d, k, shared, monkeypatch):
    """Layers 0, 2, 3 and 4 of a complete graph; on a ring the rows that use an agent of theirs."""
    N, m, L = 4, 4 if shared else 2, 6
    factors = gaussian(N, d, k, R, L)
    Pi = rows(3, N) if shared else (np.eye(N) + np.roll(np.eye(N), 1, axis=1))[:3] * 0.25
    expected = tsvd_of_mix(factors, Pi, R, method="qr")
    for layer, agent in ((0, 1), (2, 3), (3, 0), (4, 2)):
        factors.B[layer, agent] *= 2.0**700
        factors.A[layer, agent] *= 2.0**-700
    monkeypatch.setattr(redo, "BLOCK", 3 * m * R * D)
    calls = recorded(redo, "qr_rows", monkeypatch)
    found = tsvd_of_mix(factors, Pi, R, method="panel")
    again = [at for _, at in found.info.fell_back]
    assert {layer for layer, _ in again} == {0, 2, 3, 4}
    stacks = len({layer for layer, _ in again}) if shared else len(again)
    assert [len(panels.B) for _, (panels, *_) in calls] == [3] * (stacks // 3) + [stacks % 3] * (
        stacks % 3 > 0
    )
    allowed = 10 * slack(gaussian(N, d, k, R, L), Pi)
    assert_near(found.singular_values, expected.singular_values, allowed)
    assert_near(found.tail, expected.tail, allowed)
    assert_near(product(found.factors), product(expected.factors), 10 * allowed)


@pytest.mark.parametrize("shared", [True, False])
def test_blocks_change_no_bit(shared, monkeypatch):
    factors = gaussian(5, D, K, R, 4)
    Pi = rows(5, 5) * (np.eye(5) + np.roll(np.eye(5), 1, axis=1))
    monkeypatch.setattr(panel, "shares_stack", lambda *sizes: shared)
    whole = tsvd_of_mix(factors, Pi, R, method="panel")
    for block, chunk in ((1, 1), (1000, 700)):
        monkeypatch.setattr(panel, "BLOCK", block)
        monkeypatch.setattr(panel, "CHUNK", chunk)
        assert_same_result(tsvd_of_mix(factors, Pi, R, method="panel"), whole)


@pytest.mark.parametrize("method", PATHS)
def test_equal_rows_of_a_complete_graph_are_computed_once_and_are_separate_arrays(method):
    factors, Pi = gaussian(3, D, K, R, 2), np.full((3, 3), 1 / 3)
    found = tsvd_of_mix(factors, Pi, R, method=method)
    one = tsvd_of_mix(factors, Pi[:1], R, method=method)
    assert found.info.elements == 6
    for x, y in zip((*found.factors, *found[1:3]), (*one.factors, *one[1:3]), strict=True):
        for i in range(3):
            assert np.array_equal(x[:, i], y[:, 0])
    found.factors.B[:, 0] = 0.0
    assert found.factors.B[:, 1].any()


def test_torch_gradients_go_by_qr():
    factors = Factors(*(torch.from_numpy(X).requires_grad_() for X in gaussian(2, D, K, R)))
    truncated = tsvd_of_mix(factors, rows(1, 2), R)
    assert truncated.info.path == "qr"
    truncated.singular_values.sum().backward()
    assert factors.B.grad.abs().sum() > 0


def test_an_indefinite_gram_matrix_still_has_a_factor():
    V = orthonormal(4, 4)
    G = (V * [-1e-15, 0.5, 1.0, 2.0]) @ V.T
    L = core._cholesky(
        np.stack([G, np.eye(4)]), np.sqrt(np.stack([np.diagonal(G), np.ones(4)])), 1e-16
    )
    assert_near(L @ L.swapaxes(-1, -2), np.stack([G, np.eye(4)]), 10 * EPS)


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
    exact = slack(Factors(*(X.astype(np.float64) for X in factors)), Pi)
    spacing = float(np.finfo(dtype).smallest_subnormal) * D
    allowed = PROMISED[dtype] * first + (exact if name == "cancelling" else 0) + spacing
    assert np.all(error <= allowed)


@given(spectra(), st.sampled_from([np.float64, np.float32]))
def test_the_residual_is_the_optimal_one_for_any_graph_rank_shape_and_spectrum(drawn, dtype):
    factors, Pi, rank = drawn
    factors = Factors(*(X.astype(dtype) for X in factors))
    found = tsvd_of_mix(factors, Pi, rank, method="panel")
    M = mix(Factors(*(X.astype(np.float64) for X in factors)), Pi)
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
    theirs = tsvd_of_mix(Factors(*map(torch.from_numpy, factors)), Pi, rank, method="panel")
    assert np.all(
        np.abs(theirs.singular_values.numpy() - found.singular_values) <= 2 * allowed[:, None]
    )
