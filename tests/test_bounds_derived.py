"""Bounds against what they are made of: series, enumerations, extremal examples, brute force."""

from itertools import product
from math import cos, exp, log, pi, sin, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decaf_theory import bounds
from decaf_theory.rng import generator

EPS = 2.0**-52
positive = st.floats(0.05, 20)
seeds = st.integers(0, 10**6)


def nuclear(M):
    return np.linalg.norm(M, "nuc")


# ---------------------------------------------------------------- smoothness


@given(c=positive, s=positive, w=st.floats(-20, 20))
def test_L_star_is_the_largest_hessian_of_the_scalar_model(c, s, w):
    # f(x) = (x - w)^2 / 2 at x = s a b: L = 1 and |f'| <= s c^2 + |w| on |a|, |b| <= c
    sharp = bounds.smoothness_sharp(L=1, c=c, G=s * c**2 + abs(w), s=s)
    grid = np.linspace(-c, c, 9)
    norms = [
        np.linalg.norm([[(s * b) ** 2, h], [h, (s * a) ** 2]], 2)
        for a, b in product(grid, grid)
        for h in [s * s * a * b + s * (s * a * b - w)]
    ]
    # a 2 x 2 norm of numbers below the sharp constant, each of a few roundings
    assert max(norms) == pytest.approx(sharp, rel=32 * EPS)


@given(L=positive, eta=positive, c=positive, G=positive, r=st.integers(1, 64))
def test_the_gap_is_the_ratio_of_the_two_constants(L, eta, c, G, r):
    s = eta / r
    paper = bounds.lemma1_smoothness(L=L, C=s * c, c=c, G=G, s=s, r=r)
    sharp = bounds.smoothness_sharp(L=L, c=c, G=G, s=s)
    assert bounds.lemma1_gap(L=L, eta=eta, c=c, G=G, r=r) == pytest.approx(
        paper / sharp, rel=32 * EPS
    )
    assert paper >= bounds.lemma1_without_rank(L=L, C=s * c, c=c, G=G, s=s) * (1 - 8 * EPS)


@given(L=positive, eta=positive, c=positive, G=positive)
def test_no_rank_has_a_larger_gap_than_the_worst(L, eta, c, G):
    letters = dict(L=L, eta=eta, c=c, G=G)
    r, worst = bounds.lemma1_gap_worst(**letters)
    h = 0.01  # a scan of log r; the second derivative of log(gap) in it is at least -1/4,
    scan = [bounds.lemma1_gap(**letters, r=exp(x)) for x in np.arange(0, log(r) + 2, h)]
    assert worst * exp(-(h**2) / 8) <= max(scan) <= worst * (1 + 8 * EPS)
    assert bounds.lemma1_gap(**letters, r=r) == pytest.approx(worst, rel=16 * EPS)


def test_the_huber_loss_attains_L_star_and_the_mixed_constant():
    L, G, s, c = 3.0, 2.0, 0.7, 1.5

    def gradient(a, b):
        slope = np.clip(L * (s * a * b - s * c**2) + G, -G, G)
        return s * slope * np.array([b, a])

    t = 1e-5 * c  # the quotient falls by less than 3 t / (2 c) of itself and rounds by eps c / t
    difference = gradient(c, c) - gradient(c - t, c - t)
    displacement = np.array([t, t])
    sharp = bounds.smoothness_sharp(L=L, c=c, G=G, s=s)
    ratio = np.linalg.norm(difference) / np.linalg.norm(displacement) / sharp
    assert 1 - 2e-5 <= ratio <= 1
    mixed = bounds.smoothness_mixed_norm(L=L, c=c, G=G, s=s)
    ratio = np.abs(difference).sum() / np.linalg.norm(displacement) / mixed
    assert 1 - 2e-5 <= ratio <= 1


def test_the_isotropic_variance_is_the_mean_over_all_signs():
    rng, s, tau, d, k, r = generator(0, "signs"), 0.5, 3.0, 2, 3, 2
    B, A = rng.standard_normal((d, r)), rng.standard_normal((r, k))
    noises = tau * np.array(list(product([-1.0, 1.0], repeat=d * k))).reshape(-1, d, k)
    squares = [np.sum((s * B.T @ x) ** 2) + np.sum((s * x @ A.T) ** 2) for x in noises]
    norms = dict(A_norm=np.linalg.norm(A), B_norm=np.linalg.norm(B))
    exact = bounds.isotropic_factor_variance(s=s, tau=tau, d=d, k=k, **norms)
    assert np.mean(squares) == pytest.approx(exact, rel=1e-14)


def test_factor_gradients_reach_their_bound_at_aligned_factors():
    s, c, g = 0.5, 1.5, 3.0
    u, v = np.eye(4)[:, :1], np.eye(5)[:, :1]
    gradient = g * u @ v.T
    blocks = s * (c * u).T @ gradient, s * gradient @ (c * v)
    norm = sqrt(sum(np.sum(block**2) for block in blocks))
    assert norm == pytest.approx(bounds.factor_gradient(s=s, c=c, g=g), rel=8 * EPS)
    at_c = bounds.product_lipschitz(s=s, c=c, norm="sum")
    assert bounds.product_lipschitz(s=s, c=c, norm="euclid") == pytest.approx(
        sqrt(2) * at_c, rel=4 * EPS
    )


# ---------------------------------------------------------------- interference


def panels(rng, weights, d, r, k, symmetric):
    A = rng.standard_normal((len(weights), r, k))
    B = A.swapaxes(1, 2) if symmetric else rng.standard_normal((len(weights), d, r))
    root = np.sqrt(weights)[:, None, None]
    X = root * (B - np.einsum("j,jab->ab", weights, B))
    Y = root * (A - np.einsum("j,jab->ab", weights, A))
    return np.hstack(list(X)), np.vstack(list(Y))


@pytest.mark.parametrize("symmetric", [False, True])
def test_norms_of_the_interference_stay_below_those_of_its_panels(symmetric):
    weights = np.array([0.5, 0.3, 0.2])
    X, Y = panels(generator(1, "panels"), weights, 5, 2, 4, symmetric)
    fro = [np.linalg.norm(Z) for Z in (X, Y)]
    op = [np.linalg.norm(Z, 2) for Z in (X, Y)]
    slack = [
        bounds.interference_nuclear(V_A=fro[1] ** 2, V_B=fro[0] ** 2) - nuclear(X @ Y),
        bounds.interference_operator(X_op=op[0], Y_op=op[1]) - np.linalg.norm(X @ Y, 2),
        bounds.interference_frobenius(X_op=op[0], X_fro=fro[0], Y_op=op[1], Y_fro=fro[1])
        - np.linalg.norm(X @ Y),
    ]
    # X X' has the nuclear norm |X|_F^2 and the operator norm |X|_op^2
    rounding = 16 * EPS * fro[0] * fro[1]
    assert all(value >= -rounding for value in slack)
    assert (max(np.abs(slack[:2])) <= rounding) == symmetric


def test_the_network_bounds_are_reached_at_the_least_eigenvalue():
    N = 6
    shift = np.roll(np.eye(N), 1, axis=1)
    Pi = np.eye(N) / 2 + (shift + shift.T) / 4  # eigenvalues (1 + cos(2 pi j / 6)) / 2: 3/4, 1/4, 0
    for j, least in ((2, 0.25), (3, 0.0)):
        scale = np.cos(2 * pi * j * np.arange(N) / N)
        A = scale[:, None, None] * np.eye(2, 3)
        mean = np.einsum("ij,jab->iab", Pi, A)
        mixed = np.einsum("ij,jba,jbc->iac", Pi, A, A)
        measured = np.mean([nuclear(M - a.T @ a) for M, a in zip(mixed, mean, strict=True)])
        Xi = np.sum((A - A.mean(axis=0)) ** 2) / N
        flat = A.reshape(N, -1)
        spread = np.sum(flat * ((np.eye(N) - Pi @ Pi) @ flat))
        assert measured == pytest.approx(
            bounds.interference_consensus(lam_min=least, Xi_A=Xi, Xi_B=Xi), rel=1e-13
        )
        assert measured == pytest.approx(
            bounds.interference_network(spread_A=spread, spread_B=spread, N=N), rel=1e-13
        )
    assert measured == pytest.approx(bounds.interference_half(Xi_w=2 * Xi), rel=1e-13)


def variance(weights, points):
    points = np.asarray(points)
    return weights @ np.abs(points) ** 2 - np.abs(weights @ points) ** 2


@pytest.mark.parametrize(
    "weights", [[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.9, 0.1], [1.0], [0.625, 0.125, 0.125, 0.125]]
)
def test_tau_is_the_largest_variance_over_signs_for_a_heavy_agent(weights):
    largest = max(variance(np.array(weights), x) for x in product([-1, 1], repeat=len(weights)))
    assert bounds.tau(pi_max=weights[0]) == pytest.approx(largest, abs=4 * EPS)


@pytest.mark.parametrize("weights", [[1 / 3, 1 / 3, 1 / 3], [0.4, 0.3, 0.3], [0.45, 0.35, 0.2]])
def test_tau_is_one_where_the_weights_close_a_triangle(weights):
    a, b, c = weights  # the angles of a triangle of these sides, by the law of cosines
    beta = pi - np.arccos((a**2 + b**2 - c**2) / (2 * a * b))
    gamma = -pi + np.arccos((a**2 + c**2 - b**2) / (2 * a * c))
    points = np.exp(1j * np.array([0, beta, gamma]))
    assert variance(np.array(weights), points) == pytest.approx(1, abs=16 * EPS)
    assert bounds.tau(pi_max=max(weights)) == 1


@pytest.mark.parametrize(("d", "k", "r"), [(2, 1, 1), (1, 2, 2)])
def test_random_interference_is_the_mean_over_all_signs(d, k, r):
    weights, tau_A, tau_B = np.array([0.7, 0.3]), 2.0, 3.0
    A = tau_A * np.array(list(product([-1.0, 1.0], repeat=2 * r * k))).reshape(-1, 1, 2, r, k)
    B = tau_B * np.array(list(product([-1.0, 1.0], repeat=2 * d * r))).reshape(1, -1, 2, d, r)
    M = np.einsum("j,xyjdr,xyjrk->xydk", weights, B + 0 * A[..., :1, :1], A + 0 * B[..., :1, :1])
    means = [np.einsum("j,xyjab->xyab", weights, Z) for Z in (B, A)]
    letters = dict(d=d, k=k, r=r, tau_A=tau_A, tau_B=tau_B, pi=list(weights))
    size = M.shape[0] * M.shape[1]
    assert np.sum((M - means[0] @ means[1]) ** 2) / size == pytest.approx(
        bounds.interference_mean_square(**letters), rel=1e-13
    )
    assert np.sum(M**2) / size == pytest.approx(bounds.mix_mean_square(**letters), rel=1e-13)


@pytest.mark.parametrize("m", [1, 2, 5])
def test_equal_weights_interfere_by_the_share_of_the_others(m):
    letters = dict(d=3, k=4, r=2, tau_A=1, tau_B=1, pi=[1 / m] * m)
    ratio = bounds.interference_mean_square(**letters) / bounds.mix_mean_square(**letters)
    assert ratio == pytest.approx((m - 1) / m, abs=8 * EPS)


@given(c=positive, q=st.integers(1, 9), pi_max=st.floats(0.01, 1))
def test_the_worst_cases_obey_the_order_of_the_norms(c, q, pi_max):
    op, fro, nuc = (
        bounds.interference_worst_case(c=c, q=q, pi_max=pi_max, norm=norm)
        for norm in ("op", "fro", "nuc")
    )
    assert fro**2 == pytest.approx(op * nuc, rel=16 * EPS)
    assert nuc == pytest.approx(q * op, rel=8 * EPS)


# ---------------------------------------------------------------- truncation


def tail(spectrum, r, norm):
    return {"op": np.max, "fro": np.linalg.norm, "nuc": np.sum}[norm](spectrum[r:])


@pytest.mark.parametrize("norm", ["op", "fro", "nuc"])
@pytest.mark.parametrize(("r", "n"), [(1, 2), (1, 5), (2, 3), (3, 4), (3, 5), (3, 6), (3, 8)])
def test_the_truncation_error_is_the_largest_tail_of_an_admitted_spectrum(r, n, norm):
    # decreasing spectra in [0, 1] that sum to at most r: a tail norm is convex, hence largest at a
    # vertex, which is a ones, then b times x = min(1, (r - a)/b), then zeros
    spectra = [
        np.r_[np.ones(a), np.full(b, min(1, (r - a) / b)), np.zeros(n - a - b)]
        for a in range(r + 1)
        for b in range(1, n - a + 1)
    ]
    largest = max(tail(spectrum, r, norm) for spectrum in spectra)
    bound = bounds.truncation_worst_case(c=1, r=r, n=n, pi_max=1e-9, norm=norm)
    assert bound == pytest.approx(largest, rel=16 * EPS)
    # heavy agent: its product is a candidate, the rest has at most p singular values 1 - pi_max
    p, rest = min(r, n - r), 1 / 64
    bound = bounds.truncation_worst_case(c=1, r=r, n=n, pi_max=1 - rest, norm=norm)
    assert bound == pytest.approx(tail(np.full(p, rest), 0, norm), rel=16 * EPS)


def test_the_golden_ratio_is_attained_and_never_passed():
    # M = I_2, its tie broken to E_11, against phi_g E_22
    g = bounds.GOLDEN_RATIO
    P, Q = np.diag([1.0, 0]), np.diag([0, g])
    bound = bounds.decaf_dlora_difference(interference=np.linalg.norm(np.eye(2) - Q), norm="fro")
    assert np.linalg.norm(P - Q) == pytest.approx(bound, rel=8 * EPS)
    rng = generator(2, "pairs")
    for _ in range(200):
        M, Q = (
            rng.standard_normal((3, 4)),
            rng.standard_normal((3, 1)) @ rng.standard_normal((1, 4)),
        )
        U, sigma, Vt = np.linalg.svd(M, full_matrices=False)
        P = sigma[0] * U[:, :1] @ Vt[:1]
        for norm, size in (("fro", None), ("op", 2), ("nuc", "nuc")):
            gap = np.linalg.norm(M - Q, size)
            bound = bounds.decaf_dlora_difference(interference=gap, norm=norm)
            assert np.linalg.norm(P - Q, size) < bound


def truncated(M, r):
    U, sigma, Vt = np.linalg.svd(M)
    return (U[:, :r] * sigma[:r]) @ Vt[:r]


def test_the_condition_of_the_truncation_is_its_slope_in_the_worst_direction():
    M, direction = np.diag([3.0, 2, 1])[:, :2], np.zeros((3, 2))
    direction[0, 1] = direction[1, 0] = 1  # u_r v_{r+1}' + u_{r+1} v_r'
    t = 1e-6  # central difference: error t^2 from the curvature, eps/t from rounding
    slope = (truncated(M + t * direction, 1) - truncated(M - t * direction, 1)) / (2 * t)
    ratio = np.linalg.norm(slope) / np.linalg.norm(direction)
    assert ratio == pytest.approx(bounds.tsvd_condition(sigma_r=3, sigma_next=2), rel=1e-9)


@given(seed=seeds, e=st.floats(1e-3, 0.45))
def test_a_perturbation_below_half_the_gap_is_bounded(seed, e):
    rng = generator(seed, "perturbation")
    M, dM = np.diag([3.0, 2, 1]), rng.standard_normal((3, 3))
    dM *= e / np.linalg.norm(dM, 2)
    ratio = np.linalg.norm(truncated(M + dM, 1) - truncated(M, 1)) / np.linalg.norm(dM)
    bound = bounds.tsvd_perturbation(sigma_r=3, sigma_next=2, e=e)
    assert ratio <= bound
    # the factor integrated exactly along the segment (T19) lies below, the local one below that
    integrated = 0.5 + 5 / (4 * e) * log(1 / (1 - 2 * e))
    assert bounds.tsvd_condition(sigma_r=3, sigma_next=2) <= integrated <= bound


def test_wedins_constant_is_attained():
    # diag(e, 0) -> diag(e, 1): both leading spaces turn by 90 degrees, gap 1 - 0, |dM|_F = 1
    assert bounds.wedin(e_fro=1, gap=1) == pytest.approx(sqrt(1 + 1), rel=2 * EPS)


def test_the_factor_distance_is_attained():
    # P = E_11, P' = x E_22, x = sqrt 2 - 1: orthogonal balanced factors, distance^2 = 2 + 2 x
    x = sqrt(2) - 1
    bound = bounds.factor_distance(product_distance=sqrt(1 + x**2), sigma_r=1)
    assert bound == pytest.approx(sqrt(2 + 2 * x), rel=8 * EPS)


def test_the_second_order_truncation_is_reached_by_two_close_vectors():
    theta = 1e-3
    u = [np.array([[cos(a)], [sin(a)]]) for a in (theta, -theta)]
    P0, products = np.diag([1.0, 0]), [x @ x.T for x in u]
    error = np.linalg.svd((products[0] + products[1]) / 2, compute_uv=False)[1]
    bound = bounds.truncation_second_order(
        mean_square=np.mean([np.sum((P - P0) ** 2) for P in products]),
        square_mean=np.sum((sum(products) / 2 - P0) ** 2),
        sigma_r=1,
        delta=max(np.linalg.norm(P - P0, 2) for P in products),
    )
    # error sin^2; bound (2 sin^2 + O(theta^4)) / (2 (1 - sin))
    assert 1 - 2 * theta < error / bound < 1


spectra = st.lists(st.floats(0.01, 100), min_size=1, max_size=4).map(lambda x: sorted(x)[::-1])


@given(kept=spectra, mean_square=positive, seed=seeds)
def test_the_spread_is_the_best_reference_of_the_mean_s_singular_vectors(kept, mean_square, seed):
    bound = bounds.truncation_by_spread(mean_square=mean_square, kept=kept)
    rng = generator(seed, "references")

    def by(values):
        # |P_j - P0|^2 = |P_j - P|^2 + |P - P0|^2 on average, P0 in the singular vectors of P
        apart = sum((s - p) ** 2 for s, p in zip(kept, values, strict=True))
        return bounds.truncation_by_reference(
            mean_square=mean_square + apart,
            misalignment=0,
            sigma_r=kept[-1],
            reference_r=values[-1],
        )

    for _ in range(20):
        values = sorted(np.array(kept) * np.exp(rng.normal(size=len(kept))))[::-1]
        assert bound <= by(values) * (1 + 64 * EPS)
    # the least: all values raised to a common level, found by halving
    low, high = kept[-1], kept[0] + sqrt(mean_square)
    for _ in range(100):
        level = (low + high) / 2
        raised = [max(s, level) for s in kept]
        deficit = sum((p - s) * level for s, p in zip(kept, raised, strict=True))
        spent = mean_square + sum((s - p) ** 2 for s, p in zip(kept, raised, strict=True))
        low, high = (level, high) if 2 * deficit < spent else (low, level)
    assert by([max(s, low) for s in kept]) == pytest.approx(bound, rel=64 * EPS)
    assert bound <= mean_square / (2 * kept[-1]) * (1 + 64 * EPS)


@pytest.mark.parametrize(("shared", "q", "n"), [(0, 1, 2), (2, 1, 3), (1, 2, 5), (0, 3, 4)])
def test_the_spread_is_attained_at_every_rank(shared, q, n):
    # n agents share 2 in `shared` directions, and hold 1 in q of n others, in turn
    others = np.array([[(i - j) % n < q for i in range(n)] for j in range(n)], dtype=float)
    products = [np.diag([2.0] * shared + list(x)) for x in others]
    values = np.diagonal(np.mean(products, axis=0))
    r = shared + q
    P = np.diag(np.where(np.arange(shared + n) < r, values, 0))
    bound = bounds.truncation_by_spread(
        mean_square=np.mean([np.sum((X - P) ** 2) for X in products]), kept=list(values[:r])
    )
    assert bound == pytest.approx(np.sum(values[r:]), rel=64 * EPS)
