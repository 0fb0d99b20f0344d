"""One instance of each claim on truncation: its row by formulas in plain NumPy."""

import numpy as np
import pytest

from decaf_theory.lowrank import Factors, product
from tests.claim_rows import exactly, replayed
from tests.dense import ORDER, WEIGHTS, agents, balanced, blocks, mix, size, truncated, turned_onto
from verification.claims.truncation import beats_averaging, error_feedback
from verification.instances.mixes import Mix


@pytest.mark.parametrize("norm", ORDER)
@pytest.mark.parametrize(("d", "k", "r"), [(7, 5, 2), (3, 5, 2), (5, 3, 2)])
def test_t16_is_the_tail_against_the_worst_case_of_the_smaller_side(d, k, r, norm):
    B, A = agents(d, k, r)
    n = min(d, k)
    for row in (WEIGHTS, np.array([0.4, 0.35, 0.25])):
        tail = truncated(mix(B, A, row)[0], r)[1][r:]
        error = {"fro": np.sqrt(np.sum(tail**2)), "op": tail[0], "nuc": np.sum(tail)}[norm]
        flat = np.sqrt(r) / 2 if n >= 2 * r else r * np.sqrt(n - r) / n
        p, others = min(r, n - r), 1 - max(row)
        bound = {
            "op": min(r / (r + 1), others),
            "fro": min(flat, np.sqrt(p) * others),
            "nuc": min(r * (n - r) / n, p * others),
        }[norm]
        instance = {"B": B, "A": A, "weights": row, "c": 2.0, "norm": norm}
        replayed("T16", instance, error, 4 * bound)


def test_t17_is_the_tail_against_the_interference():
    B, A = agents(5, 4, 2)
    M, Bbar, Abar = mix(B, A, WEIGHTS)
    tail = truncated(M, 2)[1][2:]
    instance = {"B": B, "A": A, "weights": WEIGHTS}
    replayed("T17", instance, np.sqrt(np.sum(tail**2)), size(M - Bbar @ Abar))


def test_t17_compares_with_the_nearest_agent_in_each_norm():
    B, A = agents(5, 4, 2)
    M = mix(B, A, WEIGHTS)[0]
    tail = truncated(M, 2)[1][2:]
    of_tail = {"fro": np.sqrt(np.sum(tail**2)), "op": tail[0], "nuc": np.sum(tail)}
    rows = beats_averaging._against_an_agent(Mix("", Factors(B[None], A[None]), WEIGHTS[None]))
    for row in rows:
        norm = row.params["norm"]
        nearest = min(size(M - b @ a, norm) for b, a in zip(B, A, strict=True))
        assert row.measured == exactly(of_tail[norm])
        assert row.bound == exactly(nearest)


@pytest.mark.parametrize("norm", ORDER)
def test_t18_is_the_difference_of_the_mixes_against_the_interference(norm):
    B, A = agents(5, 4, 2)
    M, Bbar, Abar = mix(B, A, WEIGHTS)
    constant = (1 + np.sqrt(5)) / 2 if norm == "fro" else 2
    instance = {"B": B, "A": A, "weights": WEIGHTS, "norm": norm}
    measured = size(truncated(M, 2)[0] - Bbar @ Abar, norm)
    replayed("T18", instance, measured, constant * size(M - Bbar @ Abar, norm))


def test_t18_rank_knows_the_rank_of_the_compared_matrix():
    rng = np.random.default_rng(0)
    M, B, A = rng.standard_normal((6, 5)), rng.standard_normal((6, 1)), rng.standard_normal((1, 5))
    h = 1 / (3 - 1 + 1)  # p = min(K, n - r) = 1
    u = (h + np.sqrt(h**2 + 4 * h)) / 2
    measured = size(truncated(M, 3)[0] - B @ A)
    bound = np.sqrt(1 + u) * size(M - B @ A)
    replayed("T18-rank", {"M": M, "B": B, "A": A, "rank": 3}, measured, bound)


def test_t19_takes_the_change_in_operator_norm_inside_and_in_frobenius_norm_outside():
    rng = np.random.default_rng(3)
    M, dM = rng.standard_normal((2, 5, 4))
    r = 2
    P, S = truncated(M, r)
    gap = S[r - 1] - S[r]
    dM *= 0.3 * gap / size(dM, "op")
    e = size(dM, "op")
    assert size(dM) > 1.2 * e
    moved = size(truncated(M + dM, r)[0] - P)
    instance = {"M": M, "N": M + dM, "rank": r}
    replayed("T19", instance, moved, (S[r - 1] - e) / (gap - 2 * e) * size(dM))
    constant = 0.5 + (S[r - 1] + S[r]) / (4 * e) * np.log(gap / (gap - 2 * e))
    replayed("T19", {**instance, "part": "integrated"}, moved, constant * size(dM))
    (U, _, Vh), (V, T, Wh) = np.linalg.svd(M), np.linalg.svd(M + dM)
    sines = size(U[:, r:].T @ V[:, :r]), size(Vh[r:] @ Wh[:r].T)
    bound = np.sqrt(2) * size(dM) / (T[r - 1] - S[r])
    replayed("T19", {**instance, "part": "spaces"}, np.hypot(*sines), bound)


def test_t20_distance_takes_the_larger_of_both_least_singular_values():
    B, A = agents(5, 4, 2, m=2)
    for scale in (1.0, 3.0):
        products = scale * B[0] @ A[0], B[1] @ A[1]
        sigma = max(truncated(P, 2)[1][1] for P in products)
        left, right = (balanced(P, 2) for P in products)
        near = turned_onto(right, left)
        gap = blocks(left[0] - near[0], left[1] - near[1], "euclid")
        stored = {"B": np.stack([scale * B[0], B[1]]), "A": A, "weights": [0.5, 0.5]}
        bound = (1 + np.sqrt(2)) / sigma * size(products[0] - products[1]) ** 2
        replayed("T20-distance", stored, gap**2, bound)


def test_t21_takes_the_farthest_agent_and_the_least_kept_singular_value():
    common, apart = agents(5, 4, 2, m=1, top=3.0), agents(5, 4, 2, top=0.3, seed=1)
    size_of = np.array([1.0, 0.4, 0.2])[:, None, None]
    B, A = (X + size_of * Y for X, Y in zip(common, apart, strict=True))
    P0 = common[0][0] @ common[1][0]
    M = mix(B, A, WEIGHTS)[0]
    off = [b @ a - P0 for b, a in zip(B, A, strict=True)]
    squares = sum(p * size(X) ** 2 for p, X in zip(WEIGHTS, off, strict=True)) + size(M - P0) ** 2
    delta = max(size(X, "op") for X in off)
    sigma = truncated(P0, 2)[1][1]
    tail = truncated(M, 2)[1][2:]
    instance = {"B": B, "A": A, "weights": WEIGHTS, "reference": P0}
    bound = squares / (2 * (sigma - delta))
    replayed("T21", instance, np.sqrt(np.sum(tail**2)), bound)


@pytest.mark.parametrize("rounds", [100, 101, 1000])
def test_t22_agreement_rests_in_the_cycle_of_two_rounds_of_its_exact_map(rounds):
    found = error_feedback.instance()
    B, A, Pi = (np.array(found[name]) for name in ("B", "A", "Pi"))
    w, tilt = Pi[0, 0], B[0, 1, 0]
    a, b = (1 + tilt) ** 2 / 2, (1 - tilt) ** 2 / 2
    m = (a + b) / 2
    R = m * (1 - w) / (1 + w)
    c = np.sqrt(R**2 - (a - b) ** 2 / 4)
    # sigma_1 = m + R along a direction at half the angle of (a - b, 2 c)
    along, across = (m + R) * (1 + (a - b) / (2 * R)) / 2, (m + R) * c / (2 * R)
    away = np.sqrt((along - a) ** 2 + 2 * across**2 + (m + R - along - b) ** 2)
    row = error_feedback.replay({**found, "rounds": rounds})
    # 20 roundings of size one a round: what they do to c is forgotten, but a and b drift by them;
    # by both the derivatives of the distances below are less than 12
    slip = 12 * 20 * rounds * np.finfo(float).eps
    assert row.measured == pytest.approx(away, abs=slip)
    one, other = product(error_feedback.fed_back(Factors(B, A), Pi, rounds).factors)
    apart = np.sqrt(2) * c * (1 + m / R)
    assert np.linalg.norm(one - other) == pytest.approx(apart, abs=slip)
    assert apart == pytest.approx(0.58, abs=0.005)  # two digits, as the statement says


def test_t22_agreement_cannot_be_tended_to_from_near_it():
    a, b, w, c = 1.05**2 / 2, 0.95**2 / 2, 0.75, 1e-6
    means = np.array([[[a, c], [c, b]], [[a, -c], [-c, b]]])
    kept = np.stack([truncated(M, 1)[0] for M in means])
    first = w * kept[0] + (1 - w) * kept[1] + means[0] - kept[0]
    slope = (b - a / 2) / (b - a)  # of the statement, at the eigenvalue 1/2 of Pi
    # 1/R falls short of 2/(a - b) by 2 (c/(a - b))^2 of it; and 20 roundings of size one
    slip = 2 * (c / (a - b)) ** 2 * (1 - w) * (a + b) / (a - b) + 20 * np.finfo(float).eps / c
    assert first[0, 1] / c == pytest.approx(slope, abs=slip)
    assert slope == pytest.approx(-1.76, abs=0.005)


def test_t30_is_the_distance_of_the_turned_output_against_both_terms():
    B, A = agents(5, 4, 2)
    for scale in (1.0, 3.0):  # unbalanced means, whose sigma_r is the smaller
        M, Bbar, Abar = mix(scale * B, A, WEIGHTS)
        P, S = truncated(M, 2)
        near = turned_onto(balanced(M, 2), (Bbar, Abar))
        e = blocks(near[0] - Bbar, near[1] - Abar, "euclid")
        sigma_Q = truncated(Bbar @ Abar, 2)[1][1]
        first = np.sqrt((1 + np.sqrt(2)) / max(S[1], sigma_Q)) * size(P - Bbar @ Abar)
        second = size(Bbar.T @ Bbar - Abar @ Abar.T) / np.sqrt(8 * sigma_Q)
        instance = {"B": scale * B, "A": A, "weights": WEIGHTS}
        replayed("T30", instance, e, first + second)


# ---------------------------------------------------------------- other methods


def test_r1_is_the_tail_against_what_is_outside_the_rows():
    rng = np.random.default_rng(0)
    W, A = rng.standard_normal((5, 4)), rng.standard_normal((2, 4))
    V = np.linalg.qr(A.T)[0]
    tail = truncated(W, 2)[1][2:]
    replayed("R1", {"W": W, "A": A}, np.sqrt(np.sum(tail**2)), size(W - W @ V @ V.T))
