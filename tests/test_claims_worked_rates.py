"""One instance of each claim on rates: its row is that of moments summed step by step in NumPy."""

from functools import partial

import numpy as np
import pytest

from tests.claim_rows import replayed
from tests.dense import PI, Path, case, sharp
from verification.claims.rates import error_feedback, joint_errors, mixing_errors
from verification.evidence import NEAR

LAM, *REST = np.sort(abs(np.linalg.eigvalsh(PI)))[:-1][::-1]
STEPS = 7


def network(order):
    """q and S of PI."""
    squares = np.array([LAM, *REST]) ** 2
    if order == "MS":
        return LAM / (1 - LAM), np.sum(squares / (1 - squares))
    return 1 / (1 - LAM), np.sum(1 / (1 - squares))


def played(stored, order, steps):
    """The path of `steps` rounds of one order."""
    path = Path(stored)
    for _ in range(steps):
        path.step(**({"after": path.Pi} if order == "MS" else {"before": path.Pi}))
    return path


def consensus(lr, L, sigma, kappa, q, S):
    return (lr * (sigma * np.sqrt(S / 3) + kappa * q) / (1 - lr * L * q)) ** 2


@pytest.mark.parametrize("order", ["MS", "CB"])
def test_t25_is_the_largest_spread_and_the_mean_gradient_in_three_forms(order):
    lr = 0.03
    for scale in (1.0, 0.01):  # the spread of agents that agree on the minimizer is soon largest
        stored = case(lr, spread=scale)
        L, sigma, gap = Path(stored).letters
        path = played(stored, order, STEPS)
        kappa, (q, S) = max(path.kappa) ** 0.5, network(order)
        Xi = consensus(lr, L, sigma, kappa, q, S)
        replay = partial(replayed, "T25", stored, order=order, steps=STEPS)
        replay(max(path.Xi), Xi)
        gradient = np.mean(path.gradient)
        first = 2 * gap / (lr * STEPS) + lr * L * sigma**2 / 3
        replay(gradient, first + L**2 * np.mean(path.Xi), part="mean gradient, measured Xi")
        replay(gradient, first + L**2 * Xi, part="mean gradient, bound on Xi")
        textbook = 8 * lr**2 * L**2 * (sigma**2 * S / 3 + (kappa * q) ** 2)
        replay(gradient, first + textbook, part="mean gradient, textbook")
    assert max(path.Xi) > 1.01 * path.Xi[-1]


@pytest.mark.parametrize("u", [0.4, 1.6])
@pytest.mark.parametrize("order", ["MS", "CB"])
def test_t25_sharp_is_the_root_of_its_quadratic(order, u):
    L, sigma, gap = Path(case()).letters
    lr = u / L
    path = played(case(lr), order, STEPS)
    R = 2 * gap / (lr * STEPS) + u * sigma**2 / 3
    bound = sharp(u, R, L * np.mean(path.Xi) ** 0.5)
    replayed("T25-sharp", case(lr), np.mean(path.gradient), bound, order=order, steps=STEPS)


@pytest.mark.parametrize("quiet", [False, True])
def test_t28_takes_its_step_from_the_horizon_and_kappa_from_all_steps(quiet):
    T, order = 400, "MS"  # 20 blocks of 20 steps, so that no step beyond T counts
    lr = np.sqrt(3 / T)
    # without noise, or of agents alike, kappa is known; from (1, 1) it grows for 300 steps
    stored = {**case(lr, quiet=quiet, alike=not quiet), "x0": [1.0, 1.0]}
    L, sigma, gap = Path(stored).letters
    path = played(stored, order, T)
    q, S = network(order)
    kappa = max(path.kappa) ** 0.5
    last = 4 * 3 * L**2 / T * (sigma * np.sqrt(S / 3) + kappa * q) ** 2
    bound = (2 * gap + L * sigma**2) / np.sqrt(3 * T) + last
    elsewhere = {**stored, "lr": 99.0}
    replayed("T28", elsewhere, np.mean(path.gradient), bound, order=order, steps=T)


# ---------------------------------------------------------------- errors of mixing


def erring(lr, steps, dependent):
    """A stored case with errors K y + k + G xi, its path, and the roots of E|ebar|^2, E|e~|^2."""
    rng = np.random.default_rng(5)
    K, k = 0.02 * rng.standard_normal((6, 6)), 0.05 * rng.standard_normal(6)
    G = 0.02 * rng.standard_normal((6, 6)) if dependent else np.zeros((6, 6))
    stored = case(lr)
    path = Path(stored)
    noise = path.block(path.noise)
    to_mean, apart = (np.kron(M, np.eye(2)) for M in (np.full((1, 3), 1 / 3), np.eye(3) - 1 / 3))
    squares = []
    for _ in range(steps):
        squares.append(
            [
                path.expected(R @ K, -R @ k) + np.trace(R @ G @ noise @ G.T @ R.T)
                for R in (to_mean, apart)
            ]
        )
        path.step(after=path.Pi, own=(K, k), push=G)
    errors = {"K": K.tolist(), "k": k.tolist(), "G": G.tolist(), "dependent": dependent}
    return {**stored, **errors, "steps": steps}, path, np.array(squares)


@pytest.mark.parametrize("dependent", [False, True])
@pytest.mark.parametrize("u", [0.3, 1.5])
def test_t29_and_its_sharper_forms_hold_the_errors_as_they_are(dependent, u):
    L, sigma, gap = Path(case()).letters
    lr = u / L
    stored, path, squares = erring(lr, STEPS, dependent)
    gradient, Xi = np.mean(path.gradient), np.mean(path.Xi)
    a, e, s = L * Xi**0.5, np.mean(squares[:, 0]) ** 0.5 / lr, sigma / np.sqrt(3)
    R = 2 * gap / (lr * STEPS) + u * s**2
    plain = R + u * s**2 + 2 * a**2 + 2 * e**2 if dependent else R + (a + e) ** 2
    if u <= 1:
        replayed("T29", stored, gradient, plain)
    replayed("T29-sharp", stored, gradient, sharp(u, R, a, e, 2 * u * e * s * dependent))
    cross = 2 * u * e * (np.hypot(a, s) - a) * dependent
    replayed("T29-joint", stored, gradient, sharp(u, R, a, e, cross))


@pytest.mark.parametrize("dependent", [False, True])
def test_t29_bounds_the_largest_spread_by_the_largest_deviation_of_the_errors(dependent):
    lr = 0.05
    L, sigma, _ = Path(case()).letters
    stored, path, squares = erring(lr, STEPS, dependent)
    q, S = network("MS")
    kappa, apart = max(path.kappa) ** 0.5, max(squares[:, 1]) ** 0.5
    drift = lr * (sigma * np.sqrt(S / 3) + kappa * q) + apart / (np.sqrt(3) * (1 - LAM))
    bound = (drift / (1 - lr * L * q)) ** 2
    replayed("T29", stored, max(path.Xi), bound, part="E Xi_t")


def test_the_cross_term_of_t29_sharp_is_reached_by_two_agents():
    instance = joint_errors.in_common()
    row = mixing_errors.replay(instance, joint_errors.with_cross_term)
    assert (1 - NEAR) * row.bound <= row.measured <= row.bound + row.rounding


# ---------------------------------------------------------------- rests, rounds, graphs


def test_what_t30_cone_leaves_is_the_price_of_the_cone_and_not_of_the_rank():
    target = error_feedback.OF_RANK
    assert np.linalg.svd(target, compute_uv=False)[2] == 0  # rank 2 reaches it
    P = np.diag([1.0, 1.0, 0.0])
    for _ in range(200):
        turn = np.eye(3) - 0.1 * (P - target)
        P = turn @ P @ turn
    left = np.sum((P - target) ** 2) / 2
    # an eigenvalue p of target -1/2 falls by (0.95 - p/10)^2 a step; sums of numbers of size one
    slip = 10 * np.finfo(float).eps
    assert 1 / 8 - slip <= left <= (1 / 2 + 0.95**400) ** 2 / 2 + slip


@pytest.mark.parametrize("order", ["MS", "CB"])
def test_t34_counts_a_convex_loss_as_convex_not_as_strongly_convex(order):
    lr = 0.02
    for concave in (False, True):
        stored = case(lr, quiet=True)
        if concave:
            stored["H"][0] = [[2.0, 0.3], [0.3, -0.25]]
        L, _, gap = Path(stored).letters
        H = np.array(stored["H"])
        m = max(0.0, -np.linalg.eigvalsh(H).min())
        assert bool(m > 0) is concave
        path = played(stored, order, 3000)
        q, S = network(order)
        Xi = consensus(lr, L, 0.0, path.kappa[-1] ** 0.5, q, S)
        bound = 2 * gap / (lr * STEPS) + ((L + m) / 2) ** 2 * Xi
        replayed("T34", stored, path.gradient[-1], bound, order=order, steps=STEPS)


@pytest.mark.parametrize("K", [1, 3])
def test_t35_takes_the_largest_of_all_local_points(K):
    lr, rounds = 0.02, 4
    path = Path(case(lr))
    for t in range(K * rounds):
        path.step(after=path.Pi if t % K == K - 1 else None)
    L, sigma, _ = Path(case()).letters
    q, S = network("MS")
    q, S = K * q + K - 1, K * S + (K - 1) * 2
    bound = consensus(lr, L, sigma, max(path.kappa) ** 0.5, q, S)
    replayed("T35", case(lr), max(path.Xi), bound, K=K, rounds=rounds)


@pytest.mark.parametrize("K", [1, 3])
def test_r6_looks_at_the_points_after_a_mix(K):
    lr, rounds = 0.02, 4
    stored = case(lr, quiet=True)
    path = Path(stored)
    for t in range(K * rounds):
        path.step(after=path.Pi if t % K == K - 1 else None)
    L = Path(stored).letters[0]
    growth = (1 + lr * L) ** K
    kappa = max(path.kappa) ** 0.5
    bound = LAM * np.sqrt(3) * kappa / L * (growth - 1) / (1 - LAM * growth)
    measured = np.sqrt(3 * max(path.Xi[::K]))
    replayed("R6", stored, measured, bound, K=K, rounds=rounds)


def test_t36_has_the_constants_of_its_momentum():
    lr, beta = 0.02, 0.4
    stored = case(lr)
    path = Path(stored)
    n = 6
    P, H, noise = np.kron(path.Pi, np.eye(2)), path.block(path.H), path.block(path.noise)
    pull = np.block([[np.eye(n), np.zeros((n, n))], [H, beta * np.eye(n)]])
    push = np.block([[P, -lr * P], [np.zeros((n, n)), np.eye(n)]])
    mean, cov = np.concatenate([path.mean, np.zeros(n)]), np.zeros((2 * n, 2 * n))
    into = np.concatenate([np.zeros((n, n)), np.eye(n)])
    for _ in range(STEPS):
        path.mean, path.cov = mean[:n], cov[:n, :n]
        path.record()
        mean = push @ (pull @ mean - into @ path.b.ravel())
        cov = push @ (pull @ cov @ pull.T + into @ noise @ into.T) @ push.T
    L, sigma, _ = Path(stored).letters
    values = np.linalg.eigvalsh(PI)[:-1]
    weights = values * (1 + values * beta) / ((1 - values**2) * (1 - beta**2))
    S = np.sum(weights * values / (1 - values * beta))
    bound = consensus(lr, L, sigma, max(path.kappa) ** 0.5, LAM / (1 - LAM) / (1 - beta), S)
    replayed("T36", stored, max(path.Xi), bound, beta=beta, steps=STEPS)


def test_t37_takes_the_slowest_graph_of_a_sequence():
    lr = 0.02
    graphs = [PI, np.full((3, 3), 1 / 3), PI[::-1, ::-1]] * 2
    path = Path(case(lr))
    for Pi in graphs:
        path.step(after=Pi)
    L, sigma, _ = Path(case()).letters
    S = 2 * LAM**2 / (1 - LAM**2)
    bound = consensus(lr, L, sigma, max(path.kappa) ** 0.5, LAM / (1 - LAM), S)
    replayed("T37", case(lr), max(path.Xi), bound, Pis=[Pi.tolist() for Pi in graphs])


def test_r5_counts_the_mixes():
    A = np.random.default_rng(0).standard_normal((3, 2, 4))
    mixed = A
    for _ in range(5):
        mixed = np.tensordot(PI, mixed, 1)
    apart = [np.linalg.norm(X - X.mean(axis=0)) for X in (A, mixed)]
    instance = {"A": A.tolist(), "Pi": PI.tolist(), "rounds": 5}
    replayed("R5", instance, apart[1], LAM**5 * apart[0])
