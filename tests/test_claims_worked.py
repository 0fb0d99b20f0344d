"""One instance of each claim on smoothness and interference: its row by formulas in plain NumPy.

No two letters are equal and nothing is extremal, so that none can stand for another.
"""

import numpy as np
import pytest

from tests.claim_rows import exactly, replayed
from tests.dense import ORDER, PI, WEIGHTS, agents, balanced, blocks, mix, size, truncated
from verification.claim import Context
from verification.claims.interference import dlora_path

# ---------------------------------------------------------------- smoothness


def points(d, k, r, c):
    """Two points of Omega_c, stored, and their factors."""
    (B, B_end), (A, A_end) = agents(d, k, r, m=2, top=c)
    stored = {"c": c, "B": B, "A": A, "B_end": B_end, "A_end": A_end}
    return stored, (B, A), (B_end, A_end)


@pytest.mark.parametrize("norm", ["sum", "euclid"])
def test_t1_is_the_move_of_the_product_against_that_of_the_factors(norm):
    stored, (B, A), (C, D) = points(4, 3, 2, c=1.7)
    constant = {"sum": 1, "euclid": np.sqrt(2)}[norm] * 0.6 * 1.7
    moved = 0.6 * size(B @ A - C @ D)
    bound = constant * blocks(B - C, A - D, norm)
    replayed("T1", {**stored, "s": 0.6, "norm": norm}, moved, bound)


@pytest.mark.parametrize("norm", ["sum", "euclid", "max"])
@pytest.mark.parametrize("name", ["T2", "T2-sharp"])
def test_t2_is_the_change_of_the_factor_gradient_against_its_constant(name, norm):
    stored, (B, A), (C, D) = points(4, 3, 2, c=1.7)
    rng = np.random.default_rng(1)
    L, s, c, r = 0.8, 0.6, 1.7, 2
    g = rng.standard_normal((4, 3))
    move = rng.standard_normal((4, 3))
    h = g + 0.9 * L * s * size(B @ A - C @ D) * move / size(move)
    G = 1.1 * max(size(g, "op"), size(h, "op"))
    change = s * (g @ A.T - h @ D.T), s * (B.T @ g - C.T @ h)
    constant = s * (2 * L * s * c**2 * (np.sqrt(r) if name == "T2" else 1) + G)
    instance = {**stored, "L": L, "G": G, "s": s, "g": g, "h": h, "norm": norm}
    replayed(name, instance, blocks(*change, norm), constant * blocks(B - C, A - D, norm))
    if name == "T2-sharp" and norm == "euclid":
        measured, bound = blocks(*change, "sum"), np.sqrt(2) * constant * blocks(B - C, A - D, norm)
        replayed("T4-mixed", instance, measured, bound)


def test_t5_is_the_factor_gradient_against_that_of_the_weights():
    (B, _), (A, _) = agents(4, 3, 2, m=2, top=1.7)
    g = np.random.default_rng(1).standard_normal((4, 3))
    measured = 0.6 * blocks(g @ A.T, B.T @ g, "euclid")
    instance = {"s": 0.6, "c": 1.7, "B": B, "A": A, "g": g}
    replayed("T5", instance, measured, np.sqrt(2) * 0.6 * 1.7 * size(g))


def test_t6_is_the_change_of_the_gradient_in_B_alone():
    (B, C), (A, _) = agents(4, 3, 2, m=2)
    s, L = 0.75, 1.25
    measured = s**2 * L * size((B - C) @ A @ A.T)
    replayed(
        "T6", {"A": A, "B": B, "B_end": C}, measured, s**2 * L * size(A, "op") ** 2 * size(B - C)
    )


@pytest.mark.parametrize("method", ["dlora", "decaf"])
def test_t7_is_the_largest_singular_value_of_the_mixed_factors(method):
    B, A = agents(4, 3, 2)
    M, Bbar, Abar = mix(B, A, WEIGHTS)
    left, right = (Bbar, Abar) if method == "dlora" else balanced(M, 2)
    measured = max(size(left, "op"), size(right, "op"))
    instance = {"B": B, "A": A, "weights": WEIGHTS, "c": 2.0, "method": method}
    replayed("T7", instance, measured, 2.0)


# ---------------------------------------------------------------- interference


@pytest.mark.parametrize("norm", ORDER)
def test_t9_is_the_interference_against_the_two_panels(norm):
    B, A = agents(4, 5, 2)
    M, Bbar, Abar = mix(B, A, WEIGHTS)
    X = np.concatenate([np.sqrt(p) * (b - Bbar) for p, b in zip(WEIGHTS, B, strict=True)], axis=1)
    Y = np.concatenate([np.sqrt(p) * (a - Abar) for p, a in zip(WEIGHTS, A, strict=True)], axis=0)
    bound = {
        "fro": min(size(X, "op") * size(Y), size(X) * size(Y, "op")),
        "op": size(X, "op") * size(Y, "op"),
        "nuc": size(X) * size(Y),
    }[norm]
    instance = {"B": B, "A": A, "weights": WEIGHTS, "norm": norm}
    replayed("T9", instance, size(M - Bbar @ Abar, norm), bound)


def test_t10_is_the_mean_nuclear_norm_against_the_consensus_distances():
    B, A = agents(4, 5, 2)
    lost = [M - Bbar @ Abar for M, Bbar, Abar in (mix(B, A, row) for row in PI)]
    Xi = [np.sum((X - X.mean(axis=0)) ** 2) / 3 for X in (A, B)]
    least = np.sort(abs(np.linalg.eigvalsh(PI)))[0]
    bound = (1 - least**2) * np.sqrt(Xi[0] * Xi[1])
    measured = np.mean([size(X, "nuc") for X in lost])
    replayed("T10", {"Pi": PI, "B": B, "A": A}, measured, bound)


SHAPES = [(4, 5, 2), (5, 2, 3), (2, 5, 3)]  # r, then k, then d is the least


@pytest.mark.parametrize("norm", ORDER)
@pytest.mark.parametrize(("d", "k", "r"), SHAPES)
def test_t11_is_the_interference_against_the_least_of_the_three_sizes(d, k, r, norm):
    B, A = agents(d, k, r)
    for row, tau in ((WEIGHTS, 1.0), (np.array([0.6, 0.3, 0.1]), 4 * 0.6 * 0.4)):
        M, Bbar, Abar = mix(B, A, row)
        q = min(d, k, r)
        bound = {"fro": np.sqrt(q), "op": 1, "nuc": q}[norm] * 4 * tau
        instance = {"B": B, "A": A, "weights": row, "c": 2.0, "norm": norm}
        replayed("T11", instance, size(M - Bbar @ Abar, norm), bound)


@pytest.mark.parametrize(("r", "zeta"), [(1, 0.1), (2, 0.0), (3, 0.1)])
def test_t11_odd_knows_how_far_the_weights_are_from_two_halves(r, zeta):
    row = np.array([0.45, 0.35, 0.2])  # .45 against .55
    B, A = agents(5, 4, r)
    M, Bbar, Abar = mix(B, A, row)
    instance = {"B": B, "A": A, "weights": row, "c": 2.0, "norm": "fro"}
    bound = 4 * np.sqrt(r - 1 + (1 - zeta**2) ** 2)
    replayed("T11-rank-one" if r == 1 else "T11-odd", instance, size(M - Bbar @ Abar), bound)


@pytest.mark.parametrize("norm", ORDER)
def test_t13_is_the_difference_of_the_two_mixes_against_that_of_the_sign_pair(norm):
    B, A = agents(4, 5, 3)
    M, Bbar, Abar = mix(B, A, WEIGHTS)
    measured = size(truncated(M, 3)[0] - Bbar @ Abar, norm)
    bound = {"fro": np.sqrt(3), "op": 1, "nuc": 3}[norm] * 4
    replayed("T13", {"B": B, "A": A, "weights": WEIGHTS, "c": 2.0, "norm": norm}, measured, bound)


def stepped(runs, lr, rounds, noise=None):
    """Play DLoRA: the factors before and after each step, by plain sums."""
    N = len(runs.Pi)
    B, A = np.stack([runs.start.B] * N), np.stack([runs.start.A] * N)
    for t in range(rounds):
        g = runs.s * B @ A - runs.targets + (0 if noise is None else noise[t])
        after = B - lr * runs.s * g @ A.mT, A - lr * runs.s * B.mT @ g
        yield (B, A), after
        B, A = (np.tensordot(runs.Pi, X, 1) for X in after)


def lost(runs, B, A):
    """s times the mean over agents of |I_i|_*."""
    mixed = [mix(B, A, row) for row in runs.Pi]
    return runs.s * np.mean([size(M - Bbar @ Abar, "nuc") for M, Bbar, Abar in mixed])


def path_limit(runs, lr, c):
    """T14's bound with q and S of the order that combines."""
    values = np.sort(np.linalg.eigvalsh(runs.Pi))[:-1]
    q, S = 1 / (1 - max(abs(values))), sum(1 / (1 - values**2))
    largest = max(size(W, "op") for W in runs.targets)
    L = runs.s * (2 * runs.s * c**2 + runs.s * c**2 + largest)
    apart = runs.targets - runs.targets.mean(axis=0)
    kappa = np.sqrt(np.mean(np.sum(apart**2, axis=(1, 2))))
    drift = runs.sigma * np.sqrt(S / len(runs.Pi)) + kappa * q
    return (lr * drift / (1 - lr * L * q)) ** 2 * runs.s**3 * c**2


def test_t14_takes_c_where_the_gradients_are_taken_and_norms_where_products_are_mixed():
    runs = dlora_path.network_runs(Context("worked"), "path", "fitted")
    for lr in (0.005, 0.01):
        ((B, A), after) = next(stepped(runs, lr, 1))
        c = max(size(X, "op") for pair in (B, A) for X in pair)
        grown = max(size(X, "op") for pair in after for X in pair)
        assert abs(grown / c - 1) > 1e-5
        row = dlora_path.along_path(
            Context("worked"), "one step", runs._replace(lr=np.array([lr])), last=1
        )
        assert row.assumptions_held
        assert row.measured == exactly(lost(runs, *after))
        assert row.bound == exactly(path_limit(runs, lr, c))


def test_t14_takes_the_mean_over_paths_of_noise_and_the_largest_c_of_any():
    runs = dlora_path.sign_noise(Context("worked"), "ring", 2)
    lr = float(runs.lr[0])
    found, c = [], 0.0
    for path in range(len(runs.lr)):
        paths = list(stepped(runs, lr, 2, runs.noise[:, path]))
        found.append([lost(runs, *after) for _, after in paths])
        c = max(c, *(size(X, "op") for at, _ in paths for pair in at for X in pair))
    row = dlora_path.along_path(Context("worked"), "noise", runs)
    assert row.measured == exactly(max(np.mean(found, axis=0)))
    assert row.bound == exactly(path_limit(runs, lr, c))
