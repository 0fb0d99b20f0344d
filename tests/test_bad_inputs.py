"""The inputs of docs/reliability.md, one test per case: an error, or the correct result."""

import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from decaf_theory import bounds
from decaf_theory.bench.lapack import THRESHOLD, matrix, mixes, ranks, ratio
from decaf_theory.lowrank import Factors, mix_factors, pad_rank, product
from decaf_theory.problems import PROBLEMS
from decaf_theory.simulate import (
    Config,
    DeadStartWarning,
    DisconnectedWarning,
    SimulationError,
    simulate,
)
from decaf_theory.topology import TOPOLOGIES, check_mixing_matrix, require_mixing, sqrt_rho
from decaf_theory.topology.checks import NegativeWeightWarning
from decaf_theory.tsvd import PATHS, tsvd, tsvd_of_mix

EPS = np.finfo(np.float64).eps
MEAN = np.full((3, 3), 1 / 3)
N, D, R, K = 3, 6, 2, 5
paths = pytest.mark.parametrize("path", PATHS)


RING = TOPOLOGIES["ring"](4)


def same_values(found, wanted):
    """Assert that two ways agree: each is within 1e-13 sigma_1 of the truth (see `tsvd.core`)."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-13 * np.max(wanted))


def gaussian(N=N, d=D, r=R, k=K, seed=0):
    rng = np.random.default_rng(seed)
    return Factors(rng.standard_normal((N, d, r)), rng.standard_normal((N, r, k)))


def as_one(M):
    """Return factors of one agent whose product is M."""
    return Factors(np.array(M, dtype=float)[None], np.eye(M.shape[1])[None])


def error_of(M, found, rank):
    """Return LAPACK's ratio of a truncation of the matrix M."""
    return ratio(np.asarray(M, dtype=float), found, rank)


# ---------------------------------------------------------------- the truncated SVD


@paths
def test_case_01_zero_matrix(path):
    found = tsvd_of_mix(Factors(np.zeros((N, D, R)), np.zeros((N, R, K))), MEAN, R, method=path)
    assert not found.singular_values.any()
    assert all((X == 0).all() for X in found.factors)


@paths
def test_case_02_identity(path):
    found = tsvd_of_mix(as_one(np.eye(4)), np.eye(1), 4, method=path)
    assert error_of(np.eye(4), found, 4) < THRESHOLD


@paths
def test_case_03_repeated_singular_values(path):
    M = np.diag([3.0, 2.0, 2.0, 1.0])
    found = tsvd_of_mix(as_one(M), np.eye(1), 3, method=path)
    assert error_of(M, found, 3) < THRESHOLD
    # the plane of the pair, whatever basis of it came out: one condition number, 1/(2 - 1)
    P = product(found.factors)[0]
    np.testing.assert_allclose(P, np.diag([3.0, 2.0, 2.0, 0.0]), rtol=0, atol=THRESHOLD * 3 * EPS)


@paths
def test_case_04_rank_below_r(path):
    M = np.outer(np.arange(1.0, 7), np.arange(1.0, 6))
    found = tsvd_of_mix(as_one(M), np.eye(1), 3, method=path)
    assert error_of(M, found, 3) < THRESHOLD
    assert all(np.isfinite(X).all() for X in found.factors)


@paths
def test_case_05_r_beyond_the_matrix(path):
    with pytest.raises(
        ValueError, match=r"rank must be in 1 \.\.\. min\(d, k\) = 5 .*got 6; take 5"
    ):
        tsvd_of_mix(gaussian(), MEAN, 6, method=path)


@pytest.mark.parametrize("rank", [0, -1])
def test_case_06_r_below_one(rank):
    with pytest.raises(ValueError, match=rf"rank must be in 1 .*got {rank}; take 1"):
        tsvd_of_mix(gaussian(), MEAN, rank)


@pytest.mark.parametrize("rank", [1.5, 2.0, True, "2", None])
def test_case_07_r_not_an_integer(rank):
    with pytest.raises(ValueError, match=r"rank must be an integer, got .*; convert it with int"):
        tsvd_of_mix(gaussian(), MEAN, rank)


@pytest.mark.parametrize("sizes", [(3, 0, 2, 5), (3, 6, 2, 0), (0, 6, 2, 5), (3, 6, 0, 5)])
def test_case_08_empty_axis(sizes):
    with pytest.raises(ValueError, match=r"with no empty axis, got B .*; stack the agents"):
        tsvd_of_mix(gaussian(*sizes), MEAN, 1)
    with pytest.raises(
        ValueError, match=r"M must be \[\.\.\., d, k\] with d, k >= 1.*; leave empty"
    ):
        tsvd(np.zeros((0, 3)), 1)


@paths
@pytest.mark.parametrize("shape", [(1, 7), (7, 1)])
def test_case_09_single_rows_and_columns(path, shape):
    M = np.random.default_rng(1).standard_normal(shape)
    found = tsvd_of_mix(as_one(M), np.eye(1), 1, method=path)
    assert error_of(M, found, 1) < THRESHOLD


@paths
def test_case_10_scales_that_cancel(path):
    B, A = gaussian()
    plain = tsvd_of_mix(Factors(B, A), MEAN, R, method=path)
    found = tsvd_of_mix(Factors(B * 2.0**498, A * 2.0**-498), MEAN, R, method=path)
    # powers of two change no digit, but may change which way the panel path takes
    same_values(found.singular_values, plain.singular_values)
    assert all(np.isfinite(X).all() for X in found.factors)


@paths
def test_case_11_overflow(path):
    B, A = gaussian()
    with pytest.raises(ValueError, match="overflows float64; scale the factors down"):
        tsvd_of_mix(Factors(B * 1e200, A * 1e200), MEAN, R, method=path)


@paths
def test_case_12_subnormal_entries(path):
    least = 5e-324
    found = tsvd_of_mix(
        Factors(np.full((3, 4, 1), least), np.ones((3, 1, 4))), MEAN, 1, method=path
    )
    # sigma_1 = 4 least, of which a subnormal holds whole multiples of least only
    assert found.singular_values[0, 0] == 4 * least


def test_case_13_condition_1e16():
    wanted = [each for each in mixes(np.float64) if each[0][0].endswith("geometric")]
    assert wanted
    for path in PATHS:
        for case, M, factors, Pi in wanted:
            for rank in ranks(*M.shape):
                found = tsvd_of_mix(factors, Pi, rank, method=path)
                assert ratio(M, found, rank) < THRESHOLD, (path, case)


@paths
def test_case_14_nan(path):
    B, A = (np.stack([X, X]) for X in gaussian())
    B[1, 2, 0, 0] = np.nan
    with pytest.raises(
        ValueError, match=r"factors of agent 2 at batch index \(1,\) hold nan or inf"
    ):
        tsvd_of_mix(Factors(B, A), MEAN, R, method=path)
    Pi = np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])
    found = tsvd_of_mix(Factors(B, A), Pi, R, method=path, on_nonfinite="skip")
    assert found.info.skipped == ((1, 1),)
    assert np.isnan(found.singular_values[1, 1]).all()
    assert np.isfinite(found.singular_values[0]).all()
    # an agent without weight changes nothing, in a mix of factors as in one of products
    assert np.isfinite(mix_factors(Factors(B, A), Pi).B[:, 0]).all()


@paths
def test_case_15_infinity(path):
    B, A = gaussian()
    A[1, 0, 0] = np.inf
    with pytest.raises(ValueError, match=r"factors of agent 1 hold nan or inf; on_nonfinite="):
        tsvd_of_mix(Factors(B, A), MEAN, R, method=path)
    with pytest.raises(ValueError, match=r"M must be finite, got nan or inf at batch index \(1,\)"):
        tsvd(A, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_case_16_half_types(dtype):
    B, A = (torch.from_numpy(X).to(dtype) for X in gaussian())
    found = tsvd_of_mix(Factors(B, A), MEAN, R)
    assert {X.dtype for X in (*found.factors, found.singular_values)} == {dtype}
    exact = tsvd_of_mix(Factors(*(X.double().numpy() for X in (B, A))), MEAN, R)
    # computed in float32, rounded once to the narrow type
    error = np.abs(found.singular_values.double().numpy() - exact.singular_values)
    assert (error <= 2 * torch.finfo(dtype).eps * exact.singular_values).all()
    weights = torch.eye(3, dtype=torch.bfloat16)
    check_mixing_matrix(weights)
    assert mix_factors(gaussian(), weights).B.dtype == np.float64


@pytest.mark.parametrize("kind", [np.int64, np.bool_, np.longdouble])
def test_case_17_integers(kind):
    B, A = (np.ones(X.shape).astype(kind) for X in gaussian())
    call = re.escape("must be a real floating-point array of at most 64 bits, got dtype ")
    for function in (
        lambda: tsvd_of_mix(Factors(B, A), MEAN, 1),
        lambda: mix_factors(Factors(B, A), MEAN),
        lambda: tsvd(B, 1),
    ):
        with pytest.raises(ValueError, match=call + ".*; convert it first"):
            function()
    if kind is not np.longdouble:
        with pytest.raises(ValueError, match=call):
            tsvd_of_mix(Factors(torch.from_numpy(B), torch.from_numpy(A)), MEAN, 1)
    with pytest.raises(ValueError, match=r"must be plain, got numpy\.ma"):
        mix_factors(Factors(*(np.ma.masked_array(X) for X in gaussian())), MEAN)


def test_case_18_complex_numbers():
    B, A = gaussian()
    with pytest.raises(ValueError, match=r"factors\.B must be a real .* got dtype complex128"):
        tsvd_of_mix(Factors(B + 0j, A), MEAN, 1)
    for function in (tsvd_of_mix, lambda f, Pi, rank: mix_factors(f, Pi)):
        with pytest.raises(
            ValueError, match="Pi must be real, got dtype complex128; give a matrix"
        ):
            function(Factors(B, A), MEAN + 0j, 1)


@paths
def test_case_19_views(path):
    B, A = gaussian()
    wanted = tsvd_of_mix(Factors(B, A), MEAN, R, method=path)
    wide = np.zeros((N, 2 * D, R))
    wide[:, ::2] = B
    turned = np.ascontiguousarray(A[..., ::-1])[..., ::-1]
    ordered = np.asfortranarray(B)
    ordered.setflags(write=False)
    for view in (Factors(wide[:, ::2], turned), Factors(ordered, A)):
        before = [X.copy() for X in view]
        found = tsvd_of_mix(view, MEAN, R, method=path)
        # BLAS may sum in another order
        same_values(found.singular_values, wanted.singular_values)
        assert all(np.array_equal(X, Y) for X, Y in zip(view, before, strict=True))


@paths
@pytest.mark.parametrize(("d", "k"), [(3, 9), (9, 3)])
def test_case_20_both_shapes(path, d, k):
    factors = gaussian(d=d, k=k)
    M = product(factors).mean(axis=0)
    found = tsvd_of_mix(factors, MEAN[:1], R, method=path)
    assert found.factors.B.shape == (1, d, R)
    assert found.factors.A.shape == (1, R, k)
    # the mix itself rounds: three products of size |B| |A|, some 5 |M|
    assert error_of(M, found, R) < THRESHOLD


@paths
def test_case_21_repeats(path):
    B, A = (np.stack([X, 2 * X, -X]) for X in gaussian())
    first, again = (tsvd_of_mix(Factors(B, A), MEAN, R, method=path) for _ in range(2))
    for X, Y in zip(first.factors, again.factors, strict=True):
        np.testing.assert_array_equal(X, Y)
    for at in range(3):
        single = tsvd_of_mix(Factors(B[at], A[at]), MEAN, R, method=path)
        np.testing.assert_allclose(
            first.singular_values[at], single.singular_values, rtol=THRESHOLD * EPS
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: not compared with one")
def test_case_22_gpu():
    found = tsvd_of_mix(Factors(*(torch.from_numpy(X).cuda() for X in gaussian())), MEAN, R)
    wanted = tsvd_of_mix(gaussian(), MEAN, R)
    same_values(found.singular_values.cpu().numpy(), wanted.singular_values)


# ---------------------------------------------------------------- mixing and problems


def test_case_23_pi_not_symmetric():
    cycle = np.roll(np.eye(4), 1, axis=0)
    with pytest.raises(ValueError, match=r"Pi must be symmetric for sqrt_rho, got Pi\[0, 3\] = 1"):
        sqrt_rho(cycle)
    check_mixing_matrix(cycle)  # it mixes nothing wrong: rows and columns sum to one


def test_case_24_rows_off_from_one():
    for off, passes in ((1e-3, False), (1e-12, True)):
        Pi = TOPOLOGIES["ring"](4)
        Pi[0, 1] += off
        if passes:
            check_mixing_matrix(Pi)
            continue
        with pytest.raises(ValueError, match=r"must sum to one, got 1\.001 in row 0; divide each"):
            check_mixing_matrix(Pi)


def test_case_25_negative_weight():
    with pytest.warns(NegativeWeightWarning, match=r"Pi\[0, 1\] = -0\.5 is negative"):
        check_mixing_matrix(np.array([[1.5, -0.5], [-0.5, 1.5]]))


def problem(N=4):
    return PROBLEMS["P3"](N=N, d=5, k=3)


def test_case_26_disconnected():
    config = Config(problem=problem(), Pi=np.eye(4), rank=2, lr=0.1, steps=3)
    with pytest.warns(DisconnectedWarning, match="falls into 4 components"):
        assert simulate(config).status == "finished"
    with pytest.raises(ValueError, match=r"Assumption 5 fails: sqrt\(rho\) = 1, .* disconnected; "):
        require_mixing(np.eye(4))


def test_case_27_smallest_graphs():
    assert TOPOLOGIES["ring"](1).tolist() == [[1.0]]
    ring = TOPOLOGIES["ring"](2)
    assert (ring.sum(axis=0) == 1).all()
    assert (ring.sum(axis=1) == 1).all()


def test_case_28_bipartite():
    swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    trace = simulate(Config(problem=problem(2), Pi=swap, rank=2, lr=0.1, steps=3))
    assert trace.status == "finished"
    message = "Assumption 5 fails: sqrt(rho) = 1, the graph is bipartite without self-weights"
    with pytest.raises(ValueError, match=re.escape(message)):
        require_mixing(swap)


def test_case_29_unequal_ranks():
    B, A = gaussian()
    with pytest.raises(ValueError, match=r"equal leading axes, .*; pad smaller ranks"):
        tsvd_of_mix(Factors(B[..., :1], A), MEAN, R)
    padded = pad_rank(Factors(B[..., :1], A[:, :1]), R)
    np.testing.assert_array_equal(product(padded), B[..., :1] @ A[:, :1])


def test_case_30_sizes_that_differ():
    with pytest.raises(ValueError, match=r"Pi must be \[n, 3\] for 3 agents, got shape \(4, 4\); "):
        tsvd_of_mix(gaussian(), np.eye(4), 1)
    with pytest.raises(ValueError, match=r"Pi must be \[n, 3\] for 3 agents, got shape \(4, 4\); "):
        mix_factors(gaussian(), np.eye(4))
    with pytest.raises(ValueError, match=r"Pi must be 4 x 4 for 4 agents, .* one row"):
        Config(problem=problem(), Pi=np.eye(3), rank=2, lr=0.1, steps=1)


def test_case_31_dead_start():
    settings = {"problem": problem(), "Pi": np.eye(4), "rank": 2, "lr": 0.1, "steps": 1}
    with pytest.warns(DeadStartWarning, match="use order='step_first' or zero_directions='keep'"):
        Config(**settings, order="mix_first")
    with pytest.raises(ValueError, match=r"'combine' is not defined for decaf.*use 'step_first'"):
        Config(**settings, order="combine")


def test_case_32_large_step():
    with pytest.warns(
        bounds.StepSizeWarning, match=r"not applicable: lr L = 2 must be at most 1; "
    ):
        bound = bounds.dsgd_rate(F_gap=1, lr=2, T=9, L=1, sigma=0, N=2, Xi=0)
    assert bound == np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bounds.dsgd_rate(F_gap=1, lr=1, T=9, L=1, sigma=0, N=2, Xi=0) < np.inf


@pytest.mark.parametrize("what", ["loss", "grad"])
def test_case_33_nan_on_the_way(what):
    calls = []

    def poisoned(W):
        value = getattr(problem(), what)(W).copy()
        if W.shape[-3] == 4:
            calls.append(1)
            value[0, 2] = np.nan if len(calls) > 3 else value[0, 2]
        return value

    config = Config(
        problem=replace(problem(), **{what: poisoned}), Pi=RING, rank=2, lr=0.1, steps=9
    )
    with pytest.raises(SimulationError, match="of agent 2 in run 0 not finite at step 3") as caught:
        simulate(config)
    assert caught.value.trace.status == "nonfinite"
    assert np.isfinite(caught.value.trace.loss).all()
    assert all(np.isfinite(X).all() for X in caught.value.trace.final)


def test_case_34_divergence():
    trace = simulate(Config(problem=problem(), Pi=RING, rank=2, lr=100.0, steps=50))
    assert trace.status == "diverged"
    assert len(trace.step) > 1
    with pytest.raises(ValueError, match="diverged and is no data"):
        trace.require_finished()


def test_case_35_zero_data():
    still = replace(
        problem(),
        loss=lambda W: np.zeros(W.shape[:-2]),
        grad=np.zeros_like,
    )
    trace = simulate(Config(problem=still, Pi=MEAN4, rank=2, lr=0.1, steps=5)).require_finished()
    assert not trace.loss.any()
    assert all(np.isfinite(X).all() for X in trace.final)
    M = matrix("zero", 5, 4, np.float64)
    assert not tsvd(M, 2).singular_values.any()


MEAN4 = np.full((4, 4), 1 / 4)
