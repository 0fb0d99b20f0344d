"""Claims T8-T13: the rows of the figure, and properties by hypothesis."""

from collections import Counter
from itertools import product as cartesian

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from decaf_theory import bounds
from decaf_theory.lowrank import Factors
from decaf_theory.measure import interference
from decaf_theory.topology import TOPOLOGIES, mixing_eigenvalues
from tests.claim_rows import rows_of
from verification.claims.interference import mix_difference

EPS = np.finfo(float).eps
NORMS = {"fro": "fro", "op": 2, "nuc": "nuc"}


def test_the_curves_of_the_first_figure_are_all_there():
    rows = [row for row in rows_of("T13") if row.params.get("family") == "sign pair"]
    met = Counter(
        (row.params["scaling"], row.params["norm"], row.params["quantity"]) for row in rows
    )
    scalings, quantities = mix_difference.SCALE, ("difference", "relative difference", "adapter")
    assert met == Counter(
        dict.fromkeys(cartesian(scalings, NORMS, quantities), len(mix_difference.RANKS))
    )


def test_the_difference_of_the_figure_is_that_of_dense_mixes():
    rng = np.random.default_rng(5)
    B, A = rng.standard_normal((3, 6, 2)), rng.standard_normal((3, 2, 4))
    pi = np.array([0.5, 0.3, 0.2])
    mix = mix_difference.Mix("dense", Factors(B[None], A[None]), pi[None])
    for norm, order in NORMS.items():
        found = mix_difference.spectra(mix, 2).norms(norm)
        P, Q, M = dense_mixes(B, A, pi)
        # three SVDs of 6 x 4 matrices of size |M|
        rounding = 100 * EPS * np.linalg.norm(M)
        assert found.difference[0, 0] == pytest.approx(np.linalg.norm(P - Q, order), abs=rounding)
        assert found.mix[0, 0] == pytest.approx(np.linalg.norm(M, order), abs=rounding)
        adapter = np.linalg.norm(B[0] @ A[0], order)
        assert found.adapter[0, 0] == pytest.approx(adapter, abs=rounding)


def dense_mixes(B, A, pi):
    """P = TSVD_r(M), Q = Bbar Abar and M of B [m, d, r], A [m, r, k]."""
    M = np.einsum("j,jdr,jrk->dk", pi, B, A)
    U, S, Vh = np.linalg.svd(M, full_matrices=False)
    r = A.shape[1]
    Q = np.tensordot(pi, B, 1) @ np.tensordot(pi, A, 1)
    return (U[:, :r] * S[:r]) @ Vh[:r], Q, M


# ---------------------------------------------------------------- properties


BRANCHES = (
    "generic",
    "rank-deficient",
    "tie",
    "heavy weight",
    "gauge-rotated",
    "one agent",
    "scales",
    "near consensus",
    "opposite",
)


@st.composite
def mixes(draw, branch):
    """One neighbourhood of the branch: B [m, d, r], A [m, r, k], weights [m]."""
    d, k = draw(st.sampled_from([(1, 1), (2, 5), (5, 2), (4, 3), (3, 7), (6, 6)]))
    r = draw(st.integers(1, 5 if branch == "rank-deficient" else min(d, k)))
    m = 1 if branch == "one agent" else draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    B, A, pi = (
        rng.standard_normal((m, d, r)),
        rng.standard_normal((m, r, k)),
        rng.dirichlet([1] * m),
    )
    if branch == "rank-deficient":
        B[::2, :, -1], A[1::2, 0] = 0.0, 0.0
    elif branch == "tie":
        B, A, pi = orthonormal(B), orthonormal(A), np.full(m, 1 / m)
    elif branch == "heavy weight":
        light = 10.0 ** draw(st.integers(-12, -1))
        pi = np.array([1 - light] + [light / (m - 1)] * (m - 1))
    elif branch == "gauge-rotated":
        R = orthonormal(rng.standard_normal((m, r, r)))
        B, A = B[:1] @ R.mT, R @ A[:1]
    elif branch == "scales":
        B, A = B * 10.0 ** draw(st.integers(-8, 8)), A * 10.0 ** draw(st.integers(-8, 8))
    elif branch == "near consensus":
        size = 10.0 ** draw(st.integers(-12, -2))
        B, A = B[:1] + size * B, A[:1] + size * A
    elif branch == "opposite":
        sign = np.where(np.arange(m) % 2 == 0, 1.0, -1.0)[:, None, None]
        B, A = sign * orthonormal(B[:1]), sign * orthonormal(A[:1])
    event(f"{branch}, {'d = k' if d == k else 'd != k'}")
    return B, A, pi


def orthonormal(X):
    U, _, Vh = np.linalg.svd(X, full_matrices=False)
    return U @ Vh


def direct_interference(B, A, pi):
    """M - Bbar Abar and its rounding: sums of m r products, ten times their size times eps."""
    I = np.einsum("j,jdr,jrk->dk", pi, B, A) - np.tensordot(pi, B, 1) @ np.tensordot(pi, A, 1)  # noqa: E741
    size = np.linalg.norm(B, axis=(1, 2)).max() * np.linalg.norm(A, axis=(1, 2)).max()
    m, d, r = B.shape
    return I, 10 * (m * r + max(d, A.shape[2])) * EPS * size


each_branch = pytest.mark.parametrize("branch", BRANCHES)  # drawn first, so that each is met
some = settings(max_examples=settings.default.max_examples // 2)  # of each branch


@each_branch
@some
@given(data=st.data())
def test_interference_is_the_cross_covariance_and_the_sum_over_pairs(branch, data):
    B, A, pi = data.draw(mixes(branch))
    direct, rounding = direct_interference(B, A, pi)
    covariance = interference(Factors(B, A), pi[None])[0]
    dB, dA = B[:, None] - B[None], A[:, None] - A[None]
    pairs = np.einsum("i,j,ijdr,ijrk->dk", pi, pi, dB, dA) / 2
    assert np.linalg.norm(covariance - direct) <= rounding
    assert np.linalg.norm(pairs - direct) <= len(pi) * rounding


@each_branch
@some
@given(data=st.data())
def test_consensus_distances_bound_interference(branch, data):
    B, A, pi = data.draw(mixes(branch))
    direct, rounding = direct_interference(B, A, pi)
    root = np.sqrt(pi)[:, None, None]
    X = np.concatenate(root * (B - np.tensordot(pi, B, 1)), axis=1)
    Y = np.concatenate(root * (A - np.tensordot(pi, A, 1)), axis=0)
    (X_op, X_fro), (Y_op, Y_fro) = ((np.linalg.norm(Z, 2), np.linalg.norm(Z)) for Z in (X, Y))
    limits = {
        "nuc": bounds.interference_nuclear(V_A=Y_fro**2, V_B=X_fro**2),
        "fro": bounds.interference_frobenius(X_op=X_op, X_fro=X_fro, Y_op=Y_op, Y_fro=Y_fro),
        "op": bounds.interference_operator(X_op=X_op, Y_op=Y_op),
    }
    for norm, order in NORMS.items():
        # |.|_* adds min(d, k) singular values, each off by the rounding of the matrix
        slip = min(direct.shape) * rounding + 100 * EPS * X_fro * Y_fro
        assert np.linalg.norm(direct, order) <= limits[norm] + slip


@each_branch
@some
@given(data=st.data(), c=st.sampled_from([1e-8, 0.5, 1.0, 1e8]))
def test_on_omega_interference_and_the_difference_of_the_mixes_are_bounded(branch, data, c):
    B, A, pi = data.draw(mixes(branch))
    B, A = (c * X / max(np.linalg.norm(X, 2, axis=(1, 2)).max(), 1e-300) for X in (B, A))
    direct, rounding = direct_interference(B, A, pi)
    (m, d, r), k = B.shape, A.shape[2]
    q, pi_max = min(r, d, k), min(float(pi.max()), 1.0)
    slip = min(d, k) * rounding + 100 * max(d, k, m * r) * EPS * q * c**2
    P, Q, _ = dense_mixes(B, A, pi)
    for norm, order in NORMS.items():
        letters = {"c": c, "q": q, "norm": norm}
        most = bounds.interference_worst_case(pi_max=pi_max, **letters)
        assert np.linalg.norm(direct, order) <= most + slip
        if r <= min(d, k):
            most = bounds.decaf_dlora_worst_case(c=c, r=r, norm=norm)
            assert np.linalg.norm(P - Q, order) <= most + slip


@st.composite
def networks(draw, branch):
    """Factors of a network of the branch: Pi, B [N, d, r], A [N, r, k]."""
    topology = draw(st.sampled_from(("complete", "ring", "path", "star", "exponential")))
    N, d, k, r = (draw(st.integers(*ends)) for ends in ((1, 8), (1, 5), (1, 5), (1, 3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    B, A = rng.standard_normal((N, d, r)), rng.standard_normal((N, r, k))
    if branch == "mirrored":
        A = B.mT
    elif branch == "outlier":
        B[1:], A[1:] = B[:1], A[:1]
    elif branch == "scales":
        B, A = B * 10.0 ** draw(st.integers(-8, 8)), A * 10.0 ** draw(st.integers(-8, 8))
    elif branch == "consensus":
        B[:], A[:] = B[:1], A[:1]
    event(f"{branch}, {topology}")
    return TOPOLOGIES[topology](N), B, A


@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)
def test_at_rank_one_interference_is_bounded_by_how_evenly_the_weights_split(shares, d, seed):
    pi = np.array(shares) / sum(shares)
    event("heavy" if pi.max() > 0.5 else "light")
    rng = np.random.default_rng(seed)
    b, a = rng.standard_normal((len(pi), d)), rng.standard_normal((len(pi), d + 1))
    b, a = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (b, a))
    direct, rounding = direct_interference(b[:, :, None], a[:, None, :], pi)
    limit = bounds.interference_by_weights(c=1, r=1, pi=pi.tolist())
    for order in (2, "fro"):
        assert np.linalg.norm(direct, order) <= limit + d * rounding


@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=6),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
)
def test_no_orthogonal_matrices_sum_to_less_than_their_gap(shares, r, seed):
    """Descent on the sum from random ones; gaps that are exact are reached from above only."""
    pi = np.array(shares) / sum(shares)
    event(f"{len(pi)} agents, r = {r}")
    rng = np.random.default_rng(seed)
    turns = np.linalg.qr(rng.standard_normal((len(pi), r, r)))[0]
    for t in range(40):
        # each in turn against the sum of the others, which leaves | |sum| - pi_j | of its values
        j = t % len(pi)
        rest = np.tensordot(np.delete(pi, j), np.delete(turns, j, axis=0), 1)
        U, _, Vh = np.linalg.svd(rest)
        turns[j] = -U @ Vh
    least = np.linalg.norm(np.tensordot(pi, turns, 1), 2)
    gap = bounds.orthogonal_gap(r=r, pi=pi.tolist())
    assert gap <= bounds.sign_gap(pi=pi.tolist())
    # sums of m terms, an SVD of size r, and weights that sum to one up to m eps
    assert least >= gap - 20 * (len(pi) + r) * EPS


@pytest.mark.parametrize("branch", ["generic", "mirrored", "outlier", "scales", "consensus"])
@some
@given(data=st.data())
def test_the_chain_of_network_bounds_is_ordered(branch, data):
    Pi, B, A = data.draw(networks(branch))
    N = len(Pi)
    means = [direct_interference(B, A, row) for row in Pi]
    mean = np.mean([np.linalg.norm(direct, "nuc") for direct, _ in means])
    # agents' weights sum to one up to N eps, which moves I by as much of |B| |A|
    slip = max(rounding for _, rounding in means) * (N + min(B.shape[1], A.shape[2]))
    Xi = {name: np.sum((X - X.mean(axis=0)) ** 2) / N for name, X in (("A", A), ("B", B))}
    spread = {}
    for name, X in (("A", A), ("B", B)):
        flat = (X - X.mean(axis=0)).reshape(N, -1)
        spread[name] = max(np.trace(flat.T @ (np.eye(N) - Pi @ Pi) @ flat), 0.0)
        local = sum(row @ np.sum((X - np.tensordot(row, X, 1)) ** 2, axis=(1, 2)) for row in Pi)
        size = np.sum(X**2)
        assert local == pytest.approx(spread[name], abs=20 * (N + flat.shape[1]) * EPS * size)
    least = min(abs(mixing_eigenvalues(Pi)), default=0.0)
    chain = [
        mean,
        bounds.interference_network(spread_A=spread["A"], spread_B=spread["B"], N=N),
        bounds.interference_consensus(lam_min=least, Xi_A=Xi["A"], Xi_B=Xi["B"]),
        bounds.interference_half(Xi_w=Xi["A"] + Xi["B"]),
    ]
    slip += 100 * N * EPS * np.sqrt(np.sum(A**2) * np.sum(B**2)) + 10 * EPS * chain[-1]
    assert np.all(np.diff(chain) >= -slip)


@given(st.sampled_from([(1, 2, 1), (2, 1, 1), (1, 1, 2)]), st.integers(1, 2), st.floats(0, 1))
def test_the_mean_square_of_interference_is_exact_for_signs(sizes, m, share):
    d, k, r = sizes
    event(f"m = {m}")
    pi = [1.0] if m == 1 else [share, 1 - share]
    squares = []
    for entries in cartesian((-1.0, 1.0), repeat=m * r * (d + k)):
        B = np.reshape(entries[: m * d * r], (m, d, r))
        A = 3 * np.reshape(entries[m * d * r :], (m, r, k))
        squares.append(np.sum(direct_interference(B, A, np.array(pi))[0] ** 2))
    letters = {"d": d, "k": k, "r": r, "tau_A": 3.0, "tau_B": 1.0, "pi": pi}
    # entries are sums of m r terms of size 3, relative to the largest square, (3 r)^2 d k
    rounding = 50 * EPS * 9 * r**2 * d * k
    expected = bounds.interference_mean_square(**letters)
    assert np.mean(squares) == pytest.approx(expected, abs=rounding)
