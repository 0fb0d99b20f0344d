"""Claims T15-T24 as properties: both sides by dense NumPy, the bound by the library."""

from math import log, sqrt

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from decaf_theory import bounds
from decaf_theory.lowrank import Factors, align, balance, gauge, product
from decaf_theory.measure import NORMS, sigma_max
from decaf_theory.methods import METHODS
from decaf_theory.topology import TOPOLOGIES
from tests.mixes import EPS, assert_near, gaussian, mix, slack

ORDER = {"fro": "fro", "op": 2, "nuc": "nuc"}

BRANCHES = (
    *("generic", "rank-deficient", "tie", "heavy weight", "gauge-rotated", "one agent"),
    *("scale", "near consensus", "opposite"),
)


@st.composite
def drawn(draw):
    """One neighbourhood: B [m, d, r], A [m, r, k] and one stochastic row [1, m]."""
    branch = draw(st.sampled_from(BRANCHES))
    event(branch)
    d, k = draw(st.sampled_from([(2, 5), (5, 2), (4, 3), (3, 7), (6, 4)]))
    r, seed = draw(st.integers(1, min(d, k))), draw(st.integers(0, 2**20))
    m = 1 if branch == "one agent" else draw(st.integers(2, 4))
    B, A = gaussian(m, d, k, r, seed=seed)
    Pi = np.random.default_rng(seed).dirichlet(np.ones(m))[None]
    if branch == "rank-deficient":
        B[:, :, -1] = 0.0
    if branch == "tie":
        B, A = np.zeros_like(B), np.zeros_like(A)
        for j in range(m):
            B[j, j % d, 0] = A[j, 0, j % k] = 1.0
        Pi = np.full((1, m), 1 / m)
    if branch == "heavy weight":
        Pi = np.full((1, m), 10.0 ** -draw(st.integers(1, 12)) / m)
        Pi[0, 0] = 1 - Pi[0, 1:].sum()
    if branch == "gauge-rotated":
        R = np.linalg.qr(gaussian(m, r, r, r, seed=seed).B)[0]
        B, A = gauge(Factors(np.repeat(B[:1], m, 0), np.repeat(A[:1], m, 0)), R)
    if branch == "scale":
        power = 10.0 ** draw(st.integers(-8, 8))
        B, A = power * B, power * A
    if branch == "near consensus":
        B, A = B[:1] + 1e-4 * B, A[:1] + 1e-4 * A
    if branch == "opposite":
        sign = np.where(np.arange(m) % 2, -1.0, 1.0)[:, None, None]
        B, A = sign * B[:1], sign * A[:1]
    return Factors(B, A), Pi


def dense(factors, Pi):
    """M, P = TSVD_r(M), Q = Bbar Abar and all singular values of M, by NumPy alone."""
    M = mix(factors, Pi)[0]
    U, S, Vh = np.linalg.svd(M, full_matrices=False)
    r = factors.rank
    Q = np.tensordot(Pi[0], factors.B, 1) @ np.tensordot(Pi[0], factors.A, 1)
    return M, (U[:, :r] * S[:r]) @ Vh[:r], Q, S


def norms(X):
    return {norm: np.linalg.norm(X, order) for norm, order in ORDER.items()}


@given(drawn())
def test_t15_the_error_is_the_norm_of_the_dropped_values(case):
    factors, Pi = case
    M, P, _, S = dense(factors, Pi)
    tail, room = S[factors.rank :], slack(factors, Pi)
    error = norms(M - P)
    assert error["fro"] == pytest.approx(sqrt(np.sum(tail**2)), abs=room)
    assert error["op"] == pytest.approx(max(tail, default=0.0), abs=room)
    assert error["nuc"] == pytest.approx(np.sum(tail), abs=2 * room)
    d, k = factors.shape
    rank = bounds.mix_rank(m=Pi.shape[1], r=factors.rank, d=d, k=k)
    assert np.all(S[rank:] <= room)


@given(drawn())
def test_t16_the_error_stays_below_its_worst_case(case):
    factors, Pi = case
    _, _, _, S = dense(factors, Pi)
    c, r, room = float(np.max(sigma_max(factors))), factors.rank, slack(factors, Pi)
    tail = S[r:]
    error = {"op": max(tail, default=0.0), "fro": sqrt(np.sum(tail**2)), "nuc": np.sum(tail)}
    letters = {"c": c, "r": r, "n": min(factors.shape), "pi_max": float(Pi.max())}
    for norm, value in error.items():
        assert value <= bounds.truncation_worst_case(norm=norm, **letters) + 2 * room


@given(drawn())
def test_t17_truncation_never_loses_to_averaging_or_to_one_agent(case):
    factors, Pi = case
    M, P, Q, S = dense(factors, Pi)
    room, r = slack(factors, Pi) + slack(factors, np.eye(Pi.shape[1])), factors.rank
    for rival in (Q, *product(factors)):
        for norm in NORMS:
            assert norms(M - P)[norm] <= norms(M - rival)[norm] + 4 * room
        values = np.linalg.svd(M - rival, compute_uv=False)
        assert np.all(S[r:] <= values[: len(S) - r] + 4 * room)


@given(drawn())
def test_t18_the_methods_differ_by_phi_or_two_times_the_interference(case):
    factors, Pi = case
    M, P, Q, _ = dense(factors, Pi)
    room, c = slack(factors, Pi), float(np.max(sigma_max(factors)))
    for norm in NORMS:
        bound = bounds.decaf_dlora_difference(interference=norms(M - Q)[norm], norm=norm)
        assert norms(P - Q)[norm] <= bound + 4 * room
        worst_case = bounds.decaf_dlora_worst_case(c=c, r=factors.rank, norm=norm)
        assert norms(P - Q)[norm] <= worst_case + 4 * room
        letters = {"mix": norms(M)[norm], "reflected": norms(M - 2 * Q)[norm]}
        assert norms(P - Q)[norm] <= bounds.decaf_dlora_by_norms(**letters) + 4 * room
        letters = {"c": c, "r": factors.rank, "m": Pi.shape[1], "pi_max": float(Pi.max())}
        heavy = bounds.decaf_dlora_heavy(norm=norm, **letters)
        assert heavy <= worst_case
        assert norms(P - Q)[norm] <= heavy + 4 * room
    K = np.linalg.matrix_rank(Q)
    if 1 <= K <= factors.rank < min(factors.shape):
        event("Q below rank r" if K < factors.rank else "Q of rank r")
        letters = {"K": int(K), "r": factors.rank, "n": min(factors.shape)}
        constant = bounds.decaf_dlora_lower_rank(**letters)
        # what matrix_rank calls zero is off by max(d, k) eps |Q|
        assert norms(P - Q)["fro"] <= constant * norms(M - Q)["fro"] + 10 * room


@given(st.integers(0, 2**20), st.integers(1, 3), st.floats(0.5, 1), st.floats(0, 1))
def test_t18_two_agents_lose_at_most_tau_by_interference_and_truncation_together(
    seed, r, heavy, toward
):
    d, k = r + 2, r + 1
    B, A = (
        np.linalg.qr(X if X.shape[-2] > r else X.mT)[0] for X in gaussian(2, d, k, r, seed=seed)
    )
    A = A.mT
    B[1], A[1] = (toward * -X[0] + (1 - toward) * X[1] for X in (B, A))  # still of norm <= 1
    factors, Pi = Factors(B, A), np.array([[heavy, 1 - heavy]])
    M, P, Q, _ = dense(factors, Pi)
    lost = norms(M - Q)["nuc"] + norms(M - P)["nuc"]
    event("within 1 % of the bound" if lost > 0.99 * 4 * heavy * (1 - heavy) * r else "below it")
    bound = bounds.interference_worst_case(c=1.0, q=r, pi_max=heavy, norm="nuc")
    assert lost <= bound + 4 * slack(factors, Pi)


@given(drawn(), st.integers(-6, -1), st.integers(0, 2**20))
def test_t19_the_truncation_moves_by_its_condition_number(case, power, seed):
    factors, Pi = case
    M, P, _, S = dense(factors, Pi)
    r = factors.rank
    gap = S[r - 1] - (S[r] if r < len(S) else 0.0)
    room = slack(factors, Pi)
    dM = np.random.default_rng(seed).standard_normal(M.shape)
    dM *= 10.0**power * gap / np.linalg.norm(dM, 2)
    if not gap > 1e6 * room:
        event("no gap")
        return
    event("a gap")
    U, T, Vh = np.linalg.svd(M + dM, full_matrices=False)
    moved = np.linalg.norm((U[:, :r] * T[:r]) @ Vh[:r] - P)
    e = float(np.linalg.norm(dM, 2))
    sigma_next = S[r] if r < len(S) else 0.0
    factor = bounds.tsvd_perturbation(sigma_r=S[r - 1], sigma_next=sigma_next, e=e)
    sharper = 0.5 + (S[r - 1] + sigma_next) / (4 * e) * log(gap / (gap - 2 * e))
    assert sharper <= factor * (1 + 1e-9)
    assert moved <= sharper * np.linalg.norm(dM) + 4 * factor * room


@given(drawn(), st.integers(0, 2**20))
def test_t20_decaf_sees_no_gauge(case, seed):
    factors, Pi = case
    m, r = Pi.shape[1], factors.rank
    R = np.linalg.qr(gaussian(m, r, r, r, seed=seed).B)[0] * np.linspace(1, 2, r)
    other = gauge(factors, R)
    M, _, _, S = dense(factors, Pi)
    room = slack(factors, Pi) + 2 * slack(other, Pi)
    mixed = METHODS["decaf"].mix(other, Pi, 0)
    residual = np.linalg.norm(M - product(mixed)[0])
    assert residual == pytest.approx(sqrt(np.sum(S[r:] ** 2)), abs=4 * room)
    assert_near(mix(other, Pi)[0], M, room)


@given(drawn(), st.integers(0, 2**20))
def test_t20_balanced_factors_are_as_near_as_their_products(case, seed):
    left = Factors(case[0].B[0], case[0].A[0])
    r, (d, k) = left.rank, left.shape
    right = gaussian(1, d, k, r, seed=seed).map(lambda X: X[0])
    Z, other = balance(left), balance(right)
    near = align(other, Z)
    gap = np.sqrt(np.sum((near.B - Z.B) ** 2) + np.sum((near.A - Z.A) ** 2))
    sigma_r = max(np.linalg.svd(product(X), compute_uv=False)[r - 1] for X in (left, right))
    apart = float(np.linalg.norm(product(left) - product(right)))
    bound = bounds.factor_distance(product_distance=apart, sigma_r=float(sigma_r))
    size = np.linalg.norm(Z.B) + np.linalg.norm(other.B)
    # rounding of products moves the distance by its root over sigma_r, here of size one at least
    assert gap <= bound * (1 + 1e-9) + 100 * EPS * size


@given(drawn(), st.integers(0, 2**20))
def test_t20_turned_onto_a_reference_averaging_errs_by_the_spread_at_most(case, seed):
    factors, Pi = case
    r, (d, k) = factors.rank, factors.shape
    Z, other = balance(factors), gaussian(1, d, k, r, seed=seed)
    agents = product(Z)
    for reference in (Z.map(lambda X: X[:1]), balance(other)):
        near = align(Z, reference.map(lambda X: np.broadcast_to(X, (len(agents), *X.shape[1:]))))
        M, _, Q, _ = dense(near, Pi)
        apart = np.linalg.norm(agents - product(reference), axis=(-2, -1))
        letters = {"spread": float(Pi[0] @ apart), "mean_square": float(Pi[0] @ apart**2)}
        sigma_r = float(np.linalg.svd(product(reference)[0], compute_uv=False)[r - 1])
        bound = bounds.aligned_interference(sigma_r=sigma_r, **letters)
        size = sum(np.sum(X**2) for X in (*Z, *reference))
        assert np.linalg.norm(M - Q) <= bound * (1 + 1e-9) + 100 * EPS * size


@given(drawn())
def test_t21_the_error_is_of_second_order_near_a_common_product(case):
    factors, Pi = case
    M, P, _, S = dense(factors, Pi)
    r, agents = factors.rank, product(factors)
    for reference in (agents[0], P):
        apart = agents - reference
        delta = float(max(np.linalg.norm(X, 2) for X in apart))
        sigma_r = float(np.linalg.svd(reference, compute_uv=False)[r - 1])
        room = slack(factors, np.eye(Pi.shape[1]))
        if delta > sigma_r / 2 or sigma_r < 1e6 * room:
            event("condition fails")
            continue
        event("condition holds")
        mean_square = float(Pi[0] @ np.sum(apart**2, axis=(-2, -1)))
        bound = bounds.truncation_second_order(
            mean_square=mean_square,
            square_mean=float(np.sum((M - reference) ** 2)),
            sigma_r=sigma_r,
            delta=delta,
        )
        assert sqrt(np.sum(S[r:] ** 2)) <= bound + 4 * room


@given(drawn(), st.integers(0, 2**20))
def test_t21_global_the_error_is_of_second_order_without_a_neighbourhood(case, seed):
    factors, Pi = case
    M, P, _, S = dense(factors, Pi)
    r, agents = factors.rank, product(factors)
    room = slack(factors, np.eye(Pi.shape[1]))
    error = np.sum(S[r:])

    def mean_square(reference):
        return float(Pi[0] @ np.sum((agents - reference) ** 2, axis=(-2, -1)))

    # a distance that is off by `room` moves the bound by sqrt(r) of it, as does the spectrum
    spread = bounds.truncation_by_spread(mean_square=mean_square(P), kept=S[:r].tolist())
    assert error <= spread + 4 * (1 + sqrt(r)) * room
    random = product(gaussian(1, *factors.shape, r, seed=seed))[0]
    for reference in (P, agents[-1], random, 1.5 * P + room * random):
        U, p, Vh = np.linalg.svd(reference, full_matrices=False)
        reference = (U[:, :r] * p[:r]) @ Vh[:r]
        larger = max(S[r - 1], p[r - 1])
        if larger <= 1e6 * room:
            event("sigma_r vanishes")
            continue
        event("sigma_r is there")
        square, size = mean_square(reference), np.linalg.norm(reference)
        bound = bounds.truncation_by_reference(
            mean_square=square,
            misalignment=max(0.0, float(S[:r] @ p[:r] - np.sum(M * reference))),
            sigma_r=S[r - 1],
            reference_r=p[r - 1],
        )
        moved = (sqrt(square) + room + 4 * size) * room / larger
        # the divisor is off by `room`, a millionth of it
        assert error <= bound * (1 + 2e-6) + 2 * (room + moved)
        # the same in the form without the misalignment
        least = 2 * larger * error + np.sum(S[r:] ** 2) + np.sum((S[:r] - p[:r]) ** 2)
        lhs = square + np.sum((M - reference) ** 2)
        whole = np.linalg.norm(M) + size + sqrt(square)
        # five terms, products of two numbers of at most `whole`, sums of at most four: 4 room each
        assert least <= lhs + 5 * 2 * 4 * room * (whole + room)


@given(drawn(), st.integers(0, 2**20))
def test_t23_a_gradient_step_never_raises_the_rank_of_the_mix(case, seed):
    factors, Pi = case
    _, _, _, S = dense(factors, Pi)
    room = slack(factors, Pi)
    rank = int(np.sum(S[: factors.rank] > room))
    B, A = (X[0] for X in METHODS["decaf"].mix(factors, Pi, 0))
    g = np.random.default_rng(seed).standard_normal(factors.shape)
    after = (B - 0.3 * g @ A.T) @ (A - 0.3 * B.T @ g)
    beyond = np.linalg.svd(after, compute_uv=False)[rank:]
    # dead pairs hold |b||a| <= room, which the step scales as a live pair
    grown = (1 + 0.3 * np.linalg.norm(g)) ** 2
    assert np.all(beyond <= 10 * factors.rank * grown * room)


@given(drawn(), st.sampled_from(["complete", "ring", "path", "star"]))
def test_t24_means_change_by_exactly_what_mixing_loses(case, topology):
    factors, _ = case
    N = factors.B.shape[0]
    Pi = TOPOLOGIES[topology](N) if N > 2 else np.full((N, N), 1 / N)
    room = slack(factors, Pi)
    dlora, decaf = (METHODS[name].mix(factors, Pi, 0) for name in ("dlora", "decaf"))
    for before, after in zip(factors, dlora, strict=True):
        assert_near(after.mean(0), before.mean(0), 10 * N * EPS * np.max(np.abs(before)))
    mean = product(factors).mean(0)
    lost, errors = np.zeros_like(mean), np.zeros_like(mean)
    for i in range(N):
        M, P, Q, _ = dense(factors, Pi[i : i + 1])
        lost += (M - Q) / N
        errors += (M - product(decaf)[i]) / N
        assert np.linalg.norm(M - product(decaf)[i]) <= np.linalg.norm(M - P) + 4 * room
    assert_near(product(dlora).mean(0) - mean, -lost, 4 * room)
    assert_near(product(decaf).mean(0) - mean, -errors, 4 * room)
