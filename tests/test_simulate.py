"""The loop against a naive one, identities between methods, and batches, streams and arrays."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy import sparse

from decaf_theory.lowrank import Factors, product
from decaf_theory.methods import METHODS
from decaf_theory.problems import PROBLEMS, approximation, entry_noise
from decaf_theory.rng import generator
from decaf_theory.simulate import (
    Config,
    Trace,
    simulate,
    start_factors,
)
from decaf_theory.topology import TOPOLOGIES

EPS = np.finfo(np.float64).eps
HELD = ("status", "step", "final", "memory", "note")
QUANTITIES = [f.name for f in fields(Trace) if f.name not in HELD]
# the methods that `naive` writes out
NAIVE = ("dsgd", "local", "centralized", "fedavg", "dlora", "dlora_fa", "decaf")


def gaussian_start(*, N, d, k, r, seed=0, shared=False):
    rng = np.random.default_rng(seed)
    B, A = rng.standard_normal((N, d, r)) / 2, rng.standard_normal((N, r, k)) / 2
    return Factors(np.stack([B[0]] * N), np.stack([A[0]] * N)) if shared else Factors(B, A)


def naive(method, problem, Pi, start, *, lr, s, steps, order, K=1, seed=0):
    """Return the agents' W after each round for one run: lists, loops, nothing of the library."""
    N, d, k = problem.N, problem.d, problem.k
    rng = generator(seed, "noise", 0)
    B, A = [b.copy() for b in start.B], [a.copy() for a in start.A]
    if method == "dsgd":
        B, A, s = [s * b @ a for b, a in zip(B, A, strict=True)], [np.eye(k)] * N, 1.0

    def mix(B, A):
        if method in ("local", "centralized"):
            return B, A
        weights = np.full((N, N), 1 / N) if method == "fedavg" else Pi
        if method == "decaf":
            M = [sum(weights[i, j] * B[j] @ A[j] for j in range(N)) for i in range(N)]
            svds = [np.linalg.svd(m) for m in M]
            r = len(A[0])
            return (
                [U[:, :r] * np.sqrt(S[:r]) for U, S, _ in svds],
                [np.sqrt(S[:r])[:, None] * Vh[:r] for _, S, Vh in svds],
            )
        mixed_B = [sum(weights[i, j] * B[j] for j in range(N)) for i in range(N)]
        if method in ("dsgd", "dlora_fa"):
            return mixed_B, A
        return mixed_B, [sum(weights[i, j] * A[j] for j in range(N)) for i in range(N)]

    def gradients(B, A):
        noise = problem.noise(rng, (N, d, k)) if problem.noise else np.zeros((N, d, k))
        W = np.stack([problem.W0 + s * b @ a for b, a in zip(B, A, strict=True)])
        g = problem.grad(W) + noise
        if method == "centralized":
            g = [sum(g) / N] * N
        frozen = method in ("dsgd", "dlora_fa")
        grad_A = [0 * a if frozen else s * b.T @ x for b, a, x in zip(B, A, g, strict=True)]
        return [s * x @ a.T for a, x in zip(A, g, strict=True)], grad_A

    def step(B, A, grad):
        moved = [
            [x - lr * g for x, g in zip(*pair, strict=True)]
            for pair in zip((B, A), grad, strict=True)
        ]
        return moved[0], moved[1]

    if order == "mix_first":
        B, A = mix(B, A)
    path = [np.stack([problem.W0 + s * b @ a for b, a in zip(B, A, strict=True)])]
    for _ in range(steps):
        if order == "combine":
            B, A = step(*mix(B, A), gradients(B, A))
        else:
            for _ in range(K):
                B, A = step(B, A, gradients(B, A))
            B, A = mix(B, A)
        path.append(np.stack([problem.W0 + s * b @ a for b, a in zip(B, A, strict=True)]))
    return np.stack(path)


def points(config, trace):
    """Return the agents' final points, [runs, N, d, k]."""
    return config.problem.W0 + config.scale * product(trace.final)


@pytest.mark.parametrize("method", NAIVE)
@pytest.mark.parametrize(
    ("order", "K"), [("step_first", 1), ("mix_first", 1), ("combine", 1), ("step_first", 3)]
)
@pytest.mark.parametrize("tau", [0.0, 0.3])
@pytest.mark.parametrize(("d", "k", "s"), [(5, 3, 1.0), (3, 6, 0.5)])
def test_every_method_and_order_is_the_naive_loop(method, order, K, tau, d, k, s):
    if order == "combine" and METHODS[method].space == "products":
        return
    problem = PROBLEMS["P3"](N=4, d=d, k=k, tau=tau)
    shared = method in ("dlora_fa", "centralized")
    start = gaussian_start(N=4, d=d, k=k, r=2, shared=shared)
    config = Config(
        problem=problem,
        method=method,
        Pi=TOPOLOGIES["path"](4),
        s=s,
        lr=0.2,
        steps=5,
        order=order,
        local_steps=K,
        start=start,
    )
    trace = simulate(config)
    path = naive(method, problem, config.Pi, start, lr=0.2, s=s, steps=5, order=order, K=K)
    # 5 K steps of contractions; products of size 10 or less, truncations of condition below 100
    tolerance = 1000 * 5 * K * max(d, k) * EPS * 10
    np.testing.assert_allclose(points(config, trace)[0], path[-1], rtol=0, atol=tolerance)
    mean = path.mean(axis=1)
    F = problem.loss(mean[:, None]).mean(axis=-1)
    np.testing.assert_allclose(trace.loss[0], F, rtol=0, atol=tolerance * 10)
    np.testing.assert_array_equal(trace.step, np.arange(6))


def test_dsgd_is_ten_lines_of_matrix_gossip():
    problem = PROBLEMS["P10"](tau=0.1)
    Pi = TOPOLOGIES["ring"](4)
    W = np.zeros((4, 6, 2))
    rng = generator(7, "noise", 0)
    for _ in range(20):
        W = W - 0.3 * (problem.grad(W) + problem.noise(rng, W.shape))
        W = np.tensordot(Pi, W, axes=1)
    trace = simulate(Config(problem=problem, method="dsgd", Pi=Pi, lr=0.3, steps=20, seed=7))
    np.testing.assert_allclose(trace.final.B[0], W, rtol=0, atol=20 * 20 * EPS)


# ---------------------------------------------------------------- identities between methods


def run_of(method, **changes):
    problem = changes.pop("problem", PROBLEMS["P3"](tau=0.2, d=4, k=3))
    defaults = {"Pi": TOPOLOGIES["path"](4), "rank": 2, "lr": 0.1, "steps": 10, "runs": 2}
    config = Config(problem=problem, method=method, **{**defaults, **changes})
    return config, simulate(config)


def test_centralized_is_one_agent_on_the_mean_objective():
    problem = PROBLEMS["P3"](d=4, k=3)
    _, many = run_of("centralized", problem=problem)
    mean = -problem.grad(np.zeros((1, 4, 3))).mean(axis=0)
    _, one = run_of("local", problem=approximation(mean[None]), Pi=np.eye(1))
    for X, Y in zip(many.final, one.final, strict=True):
        np.testing.assert_allclose(X, np.broadcast_to(Y, X.shape), rtol=0, atol=1000 * EPS)
    spread = problem.constants.F_star
    np.testing.assert_allclose(many.loss, one.loss + spread, rtol=100 * EPS)


@pytest.mark.parametrize("K", [1, 3])
def test_fedavg_is_dlora_on_the_complete_graph_with_the_same_local_steps(K):
    _, server = run_of("fedavg", local_steps=K)
    _, graph = run_of("dlora", local_steps=K, Pi=TOPOLOGIES["complete"](4))
    for name in set(QUANTITIES) - {"comm_bytes"}:
        # ten rounds of means of four in another order; contractions, numbers of size ten or less
        np.testing.assert_allclose(
            getattr(server, name), getattr(graph, name), rtol=0, atol=10 * K * 4 * 10 * 10 * EPS
        )
    assert not np.array_equal(server.loss, run_of("dlora", local_steps=K)[1].loss)


@pytest.mark.parametrize("order", ["step_first", "mix_first", "combine"])
def test_dlora_fa_on_P3_is_dsgd_on_P5_noise_included(order):
    inner = PROBLEMS["P3"](d=4, k=5, tau=0.3, seed=1)
    outer = PROBLEMS["P5"](d=4, k=5, r=2, s=0.5, tau=0.3, seed=1)
    from decaf_theory.problems.frozen import frozen_A

    A = np.stack([frozen_A(r=2, k=5, seed=1)] * 4)
    run = {"Pi": TOPOLOGIES["ring"](4), "lr": 0.2, "steps": 15, "order": order}
    start = Factors(np.zeros((4, 4, 2)), A)
    frozen = simulate(Config(problem=inner, method="dlora_fa", s=0.5, start=start, **run))
    matrix = simulate(Config(problem=outer, method="dsgd", **run))
    np.testing.assert_allclose(frozen.final.B, matrix.final.B, rtol=0, atol=1000 * EPS)
    np.testing.assert_allclose(frozen.loss, matrix.loss, rtol=1000 * EPS)
    np.testing.assert_array_equal(frozen.interference, 0.0)
    np.testing.assert_array_equal(frozen.truncation, 0.0)


def test_decaf_at_full_rank_is_exact_product_gossip():
    # r = min(d, k): nothing is truncated, the mean product moves by the local steps alone
    _, trace = run_of("decaf", rank=3, lr=0.0, start=gaussian_start(N=4, d=4, k=3, r=3))
    assert np.all(trace.truncation == 0)
    # 10 rounds, each a sum of N r = 12 terms and a QR of d = 4 rows
    np.testing.assert_allclose(trace.loss / trace.loss[:, :1], 1.0, rtol=10 * 20 * 16 * EPS)
    assert trace.consensus_products[0, -1] < trace.consensus_products[0, 0] / 10


# a mix leaves these agents more than their factors: copies of the others, a residual, an anchor, W
KEEPING = {"choco", "decaf_ef", "air_fedavg", "flora", "fedex_lora", "rac_lora", "fedhl", "fed_sb"}


@pytest.mark.parametrize("method", [name for name in METHODS if name not in KEEPING])
def test_mixing_first_is_stepping_first_from_the_mixed_start(method):
    equal = method == "centralized" or (METHODS[method].fixed and method != "dsgd")
    start = gaussian_start(N=4, d=4, k=3, r=2, shared=equal)
    config, first = run_of(method, order="mix_first", start=start)
    mixed = METHODS[method].mix(start_factors(config), config.Pi, 0)
    if method == "dsgd":
        mixed = Factors(mixed.B[0], mixed.A[0])
        _, second = run_of(method, problem=config.problem, start=mixed)
    else:
        _, second = run_of(method, problem=config.problem, start=mixed)
    for name in set(QUANTITIES) - {"comm_bytes", "interference", "truncation"}:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    a_round = first.comm_bytes[0, 0]
    assert (a_round > 0) == (METHODS[method].meets != "none")
    np.testing.assert_array_equal(first.comm_bytes, second.comm_bytes + a_round)


# ---------------------------------------------------------------- batches, streams, arrays


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_three_runs_is_three_singles(method):
    K = 2 if method == "la_lora" else 1  # B trains in the second local step
    _, three = run_of(method, runs=3, local_steps=K)
    _, one = run_of(method, runs=1, local_steps=K)
    for name in QUANTITIES:
        # LAPACK and BLAS may sum a batch in another order
        np.testing.assert_allclose(
            getattr(three, name)[:1], getattr(one, name), rtol=1e-12, atol=1e-13
        )
    assert not np.array_equal(three.loss[0], three.loss[1])  # runs have their own noise and start


def test_methods_ranks_and_step_sizes_meet_the_same_noise():
    seen = []

    def listening(rng, shape):
        drawn = entry_noise(0.1)(rng, shape)
        seen[-1].append(drawn)
        return drawn

    problem = replace(PROBLEMS["P3"](d=4, k=3), noise=listening)
    for method, changes in (
        ("dlora", {}),
        ("decaf", {"rank": 1}),
        ("dsgd", {"lr": 0.3}),
        ("dlora", {"order": "combine"}),
    ):
        seen.append([])
        run_of(method, problem=problem, steps=3, **changes)
    for other in seen[1:]:
        np.testing.assert_array_equal(seen[0], other)
    seen.append([])
    run_of("dlora", problem=problem, steps=3, seed=1)
    assert not np.any(np.array(seen[0]) == np.array(seen[-1]))


def test_noise_can_be_switched_off():
    _, quiet = run_of("dlora", noise=False)
    _, exact = run_of("dlora", problem=PROBLEMS["P3"](d=4, k=3))
    np.testing.assert_array_equal(quiet.loss, exact.loss)


@pytest.mark.parametrize("local_steps", [1, 2])
def test_given_draws_take_the_place_of_the_problems(local_steps):
    _, drawn = run_of("decaf", runs=2, steps=3, local_steps=local_steps)
    streams = [generator(0, "noise", run) for run in range(2)]
    draws = [entry_noise(0.2)(stream, (64, 4, 4, 3)) for stream in streams]
    noise = np.stack(draws, axis=1)[: 3 * local_steps]
    problem = PROBLEMS["P3"](d=4, k=3)
    more = {"runs": 2, "steps": 3, "local_steps": local_steps, "noise": noise}
    _, same = run_of("decaf", problem=problem, **more)
    np.testing.assert_array_equal(same.loss, drawn.loss)
    _, other = run_of("decaf", problem=problem, **more | {"noise": -noise})
    assert not np.any(other.loss[:, 1:] == same.loss[:, 1:])


def test_equal_configurations_give_equal_bits():
    for method in METHODS:
        (_, first), (_, second) = run_of(method), run_of(method)
        for name in QUANTITIES:
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


# what depends on the signs of singular vectors, which rounding may choose
OF_SIGNS = {"consensus_factors", "interference"}


@pytest.mark.parametrize("method", METHODS)
def test_torch_runs_the_same_loop(method):
    start = gaussian_start(N=4, d=4, k=3, r=2, shared=True)
    _, expected = run_of(method, start=start)
    _, found = run_of(method, start=start.map(torch.tensor))
    assert isinstance(found.final.B, torch.Tensor)
    assert found.final.B.dtype == torch.float64
    for name in set(QUANTITIES) - (OF_SIGNS if method == "odelora" else set()):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("method", METHODS)
def test_float32_stays_float32(method):
    start = gaussian_start(N=4, d=4, k=3, r=2, shared=True)
    narrow = start.map(lambda X: X.astype(np.float32))
    _, trace = run_of(method, start=narrow)
    assert trace.final.B.dtype == trace.final.A.dtype == np.float32
    _, wide = run_of(method, start=start)
    np.testing.assert_allclose(trace.loss, wide.loss, rtol=1e-4)
    if METHODS[method].meets == "graph" and method != "choco":  # places keep their size
        np.testing.assert_array_equal(2 * trace.comm_bytes, wide.comm_bytes)


@pytest.mark.parametrize("method", ["dlora", "decaf", "dsgd"])
def test_a_sparse_Pi_runs_as_the_dense_one(method):
    _, dense = run_of(method)
    _, thin = run_of(method, Pi=sparse.csr_array(TOPOLOGIES["path"](4)))
    for name in QUANTITIES:
        np.testing.assert_allclose(
            getattr(thin, name), getattr(dense, name), rtol=1e-10, atol=1e-13
        )


def test_the_default_start_is_loras_and_ranks_share_its_rows():
    problem, Pi = PROBLEMS["P3"](d=4, k=3), TOPOLOGIES["path"](4)
    small, large = (
        start_factors(Config(problem=problem, Pi=Pi, rank=r, lr=0.1, steps=0, runs=2))
        for r in (1, 3)
    )
    for B, A in (small, large):
        np.testing.assert_array_equal(B, 0.0)
        np.testing.assert_array_equal(A, A[:, :1].repeat(4, axis=1))
    np.testing.assert_array_equal(small.A, large.A[:, :, :1])
    assert not np.any(large.A[0] == large.A[1])


def test_full_matrix_starts_at_the_product_of_the_given_factors():
    start = gaussian_start(N=4, d=4, k=3, r=2)
    _, matrix = run_of("dsgd", start=start, s=0.5, steps=0)
    _, factors = run_of("dlora", start=start, s=0.5, steps=0)
    for name in ("loss", "agent_loss", "gradient", "adapter_norm"):
        np.testing.assert_allclose(getattr(matrix, name), getattr(factors, name), rtol=20 * EPS)
