"""Identities between the methods of the table, and each one's own property."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decaf_theory import measure
from decaf_theory.lowrank import Factors, product
from decaf_theory.methods import (
    METHODS,
    Clock,
    adf_lora,
    choco,
    fedrot,
    heavy_ball,
    limiting_ranks,
    rac_lora,
    tad_lora,
    tracking,
    within_ranks,
)
from decaf_theory.methods.aligned import polar
from decaf_theory.methods.compressed import from_entries, largest_entries
from decaf_theory.methods.turns import by_turns, switching_interval
from decaf_theory.problems import approximation
from decaf_theory.simulate import Config, simulate
from decaf_theory.topology import SCHEDULES, TOPOLOGIES

EPS = np.finfo(np.float64).eps
N, D, K, R = 4, 5, 3, 2
RING, COMPLETE = TOPOLOGIES["ring"](N), TOPOLOGIES["complete"](N)
PROBLEM = approximation(np.random.default_rng(5).standard_normal((N, D, K)))
STEPS = 8


def factors(*, seed=0, shared="", r=R):
    """Return factors of which the `shared` ones are equal at all agents."""
    rng = np.random.default_rng(seed)
    both = Factors(rng.standard_normal((N, D, r)), rng.standard_normal((N, r, K)))
    equal = {part: np.stack([getattr(both, part)[0]] * N) for part in shared}
    return both._replace(**equal)


def run(method, Pi=RING, *, shared="", **changes):
    settings = {"start": factors(shared=shared), "lr": 0.05, "steps": STEPS, "Pi": Pi, **changes}
    return simulate(Config(problem=PROBLEM, method=method, **settings)).require_finished()


def assert_same_run(one, other):
    # eight rounds of sums of at most 4 x 2 terms; steps of 0.05 hardly amplify their roundings
    for X, Y in zip(one.final, other.final, strict=True):
        np.testing.assert_allclose(X, Y, rtol=0, atol=STEPS * 50 * EPS * np.abs(Y).max())


DLORA, FEDAVG = METHODS["dlora"], METHODS["fedavg"]
# what is the same run, from factors of which these are equal at all agents
SAME = {
    "momentum 0 is none": (heavy_ball(DLORA, 0.0), DLORA, ""),
    "momentum keeps what the method keeps": (
        heavy_ball(METHODS["la_lora"], 0.0),
        METHODS["la_lora"],
        "",
    ),
    "all entries at once are no compression": (choco(1.0, 1.0), DLORA, ""),
    "no rotation is FedAvg": (fedrot(0.0), FEDAVG, ""),
    "a period without end freezes A": (adf_lora(np.inf), METHODS["dlora_fa"], "A"),
    "no graph at all never switches": (tad_lora().on(np.eye(N)), adf_lora(np.inf), ""),
    "ranks that all agents have limit nothing": (limiting_ranks(DLORA, [R] * N), DLORA, ""),
    "a block without end is that of FFA-LoRA": (rac_lora(np.inf), METHODS["ffa_lora"], "A"),
    "equal ranks are one group": (METHODS["raflora"], FEDAVG, ""),
    "by a server, only the factor that trained changes": (
        METHODS["rolora"],
        replace(adf_lora(1), meets="server"),
        "A",
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_two_names_of_one_run(name):
    one, other, shared = SAME[name]
    assert_same_run(run(one, shared=shared), run(other, shared=shared))


ON_COMPLETE = {"fedavg": "dlora", "ffa_lora": "dlora_fa", "flexlora": "decaf"}


@pytest.mark.parametrize(("server", "graph"), ON_COMPLETE.items())
def test_a_server_is_the_complete_graph(server, graph):
    one, other = run(server, shared="A"), run(graph, COMPLETE, shared="A")
    if METHODS[graph].space == "factors":
        assert_same_run(one, other)
        return
    # products, with the condition of a truncation whose gap is checked
    before = [simulate_mean(steps) for steps in range(1, STEPS + 1)]
    gaps = [(S[R - 1] - S[R]) / S[0] for S in before]
    assert min(gaps) > 1e-3
    gap = np.abs(product(one.final) - product(other.final)).max()
    assert gap <= STEPS * 50 * EPS / min(gaps) * np.abs(product(other.final)).max()


def simulate_mean(steps):
    """Return the singular values of the mean product that the last of these rounds truncated."""
    agents = run("flexlora", shared="A", steps=steps - 1).final.map(lambda X: X[0])
    W = product(agents)
    G = PROBLEM.grad(W)
    stepped = (agents.B - 0.05 * G @ agents.A.mT) @ (agents.A - 0.05 * agents.B.mT @ G)
    return np.linalg.svd(stepped.mean(axis=0), compute_uv=False)


def test_tracking_of_one_agent_is_the_gradient():
    problem = approximation(np.ones((1, D, K)))
    start = factors().map(lambda X: X[:1])
    settings = {"problem": problem, "Pi": np.eye(1), "start": start, "lr": 0.05, "steps": STEPS}
    one, other = (
        simulate(Config(method=method, **settings)) for method in (tracking(DLORA), DLORA)
    )
    assert_same_run(one, other)


def test_sum_of_products_less_product_of_sums_is_the_interference():
    state = factors(r=K)  # of full rank, so that nothing is truncated
    gap = product(METHODS["flexlora"].mix(state, RING)) - product(FEDAVG.mix(state, RING))
    found = np.linalg.norm(gap, axis=(1, 2))
    np.testing.assert_allclose(found, measure.interference_norm(state, COMPLETE), rtol=1e4 * EPS)


# ---------------------------------------------------------------- turns


@pytest.mark.parametrize("period", [1, 3])
def test_turns_last_as_many_rounds_as_they_say(period):
    trained = [by_turns(period)(Clock(t)) for t in range(3 * period)]
    assert trained == [("B",)] * period + [("A",)] * period + [("B",)] * period


def test_the_interval_grows_as_the_graph_thins():
    rings = [tad_lora(2.0).on(TOPOLOGIES["ring"](n)).trains for n in (4, 8, 16, 32)]
    lengths = [next(t for t in range(10**4) if trains(Clock(t)) == ("A",)) for trains in rings]
    assert lengths == sorted(set(lengths))
    for n, length in zip((4, 8, 16, 32), lengths, strict=True):
        lam = max(abs(1 / 3 + 2 / 3 * np.cos(2 * np.pi * np.array([1, n // 2]) / n)))
        assert length == max(1, round(2 / np.sqrt(1 - lam**2)))
    assert switching_interval(1.0) == np.inf
    assert switching_interval(0.0) == 1
    with pytest.raises(ValueError, match=r"constant must be > 0, got 0"):
        switching_interval(0.5, 0.0)
    for period in (0, 1.5, -1):
        with pytest.raises(ValueError, match=rf"period must be a whole .* got {period}"):
            by_turns(period)


def test_the_simulator_gives_the_graph_to_the_method_and_refuses_a_schedule():
    ring = TOPOLOGIES["ring"](32)
    problem = approximation(np.random.default_rng(0).standard_normal((32, D, K)))
    config = Config(problem=problem, method="tad_lora", Pi=ring, rank=1, lr=0.1, steps=1)
    assert config.rule.trains(Clock(switching_interval(0.99))) == METHODS["tad_lora"].on(
        ring
    ).trains(Clock(switching_interval(0.99)))
    assert config.rule.trains(Clock(1)) == ("B",)
    assert METHODS["tad_lora"].trains(Clock(1)) == ("A",)  # on the complete graph
    changing = replace(config, Pi=SCHEDULES["one_peer_hypercube"](32))
    with pytest.raises(ValueError, match="tad_lora takes its parameters from one graph"):
        _ = changing.rule


def test_frozen_factors_that_are_not_mixed_drift_apart():
    def interference(method):
        return run(method, shared="A", steps=9).interference[0, 1:]

    server = interference("rolora")
    assert np.all(server <= 50 * EPS)
    # on a graph A is no longer equal after its first turn
    graph = interference(replace(METHODS["rolora"], meets="graph"))
    assert graph[0] <= 50 * EPS
    assert np.all(graph[1:] > 1e-3)


def test_only_the_rows_agree_where_A_alone_is_shared():
    start = factors()
    mixed = METHODS["fedsa_lora"].mix(start, RING)
    np.testing.assert_array_equal(mixed.B, start.B)
    assert np.abs(mixed.A - mixed.A[:1]).max() == 0
    # all products have one row space, of r dimensions
    rows = product(mixed).reshape(N * D, K)
    S = np.linalg.svd(rows, compute_uv=False)
    assert S[R - 1] > 0.1
    assert S[R] <= 20 * N * D * EPS * S[0]


# ---------------------------------------------------------------- compression


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([0.25, 0.5, 1.0]), st.integers(0, 99))
def test_the_entries_that_travel_are_the_largest(a, b, share, seed):
    X = np.random.default_rng(seed).standard_normal((2, 3, a, b))
    values, places = largest_entries(X, share)
    m = int(np.ceil(share * a * b))
    assert values.shape == places.shape == (2, 3, 1, m)
    found = from_entries(values, places, X)
    kept = found != 0
    np.testing.assert_array_equal(found[kept], X[kept])
    assert np.all(kept.sum(axis=(-2, -1)) == m)
    assert np.all(np.abs(X - found).max((-2, -1)) <= np.abs(values).min((-2, -1)))
    tensor = torch.tensor(X)
    again = from_entries(*largest_entries(tensor, share), tensor)
    np.testing.assert_array_equal(again.numpy(), found)


def test_compressed_gossip_keeps_the_means_and_reaches_consensus():
    short, long = (run("choco", lr=0.0, steps=steps) for steps in (10, 300))
    start = factors()
    for X, Y in zip(long.final, start, strict=True):
        assert np.abs(X[0].mean(0) - Y.mean(0)).max() <= 300 * N * 10 * EPS * np.abs(Y).max()
    assert long.consensus_factors[0, -1] < 1e-6 * short.consensus_factors[0, 0]
    whole = run("dlora", lr=0.0, steps=10)  # all of the factors travel, which is faster
    assert short.consensus_factors[0, -1] > 10 * whole.consensus_factors[0, -1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: choco(0.0, 0.5), r"share must be in \(0, 1\], got 0.0"),
        (lambda: choco(0.5, 1.5), r"gamma must be in \(0, 1\], got 1.5"),
        (lambda: heavy_ball(METHODS["tad_lora"], 0.5), r"so tad_lora.on\(Pi\)"),
        (lambda: tracking(METHODS["tad_lora"]), r"so tad_lora.on\(Pi\)"),
        (lambda: tracking(METHODS["decaf"]), "mean of the factors it sends, which decaf's is not"),
        (lambda: heavy_ball(DLORA, 1.0), r"beta must be in \[0, 1\), got 1.0"),
        (lambda: fedrot(1.1), r"softness must be in \[0, 1\], got 1.1"),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------- gauges


def rotations(seed, n=N, r=R):
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, r, r)))[0]
    Q[..., 0] *= np.sign(np.linalg.det(Q))[:, None]
    return Q


def turned(state, Q):
    return Factors(state.B @ Q, Q.mT @ state.A)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.booleans())
def test_the_polar_factor_is_the_best_rotation(seed, r, reflections):
    rng = np.random.default_rng(seed)
    M = rng.standard_normal((3, r, r))
    found = polar(M, reflections=reflections)
    np.testing.assert_allclose(found.mT @ found, [np.eye(r)] * 3, rtol=0, atol=50 * EPS)
    if not reflections:
        assert np.all(np.linalg.det(found) > 0)
    best = np.einsum("nab,nab->n", found, M)
    S = np.linalg.svd(M, compute_uv=False)
    least = S[:, -1] * np.where(np.linalg.det(M) > 0, 0, 2) * (not reflections)
    np.testing.assert_allclose(best, S.sum(1) - least, rtol=0, atol=50 * r * EPS * S[:, 0].max())
    others = np.einsum("nab,mab->nm", M, rotations(seed, 20, r))
    assert np.all(others <= best[:, None] + 100 * EPS * S[:, :1])


def test_the_polar_factor_of_zero_is_none_and_nan_passes_through():
    for to in (np.asarray, torch.tensor):
        M = to(np.stack([np.zeros((2, 2)), np.full((2, 2), np.nan), np.diag([2.0, 1.0])]))
        np.testing.assert_allclose(np.asarray(polar(M)), [np.eye(2)] * 3, rtol=0, atol=4 * EPS)


@pytest.mark.parametrize("t", [0, 1])
@given(seed=st.integers(0, 2**32 - 1))
def test_equal_products_in_any_rotation_are_a_fixed_point_of_fedrot(t, seed):
    equal = factors(seed=seed, shared="BA")
    method = METHODS["fedrot"]
    state = method.begin(equal)
    own = state._replace(factors=turned(equal, rotations(seed)))
    mixed = method.exchange(own, method.weights(None, N, Clock(t)), Clock(t)).state
    looked = equal.B[0].T @ equal.B[0] if t else equal.A[0] @ equal.A[0].T
    condition = np.linalg.cond(looked)
    for X, Y in zip(mixed.factors, equal, strict=True):
        assert np.abs(X - Y).max() <= 200 * EPS * condition * np.abs(Y).max()


@pytest.mark.parametrize("t", [0, 1])
def test_fedrot_sees_stretches_but_no_rotation(t):
    reference, drifted = factors(seed=1, shared="BA"), factors(seed=1, shared="BA")
    drift = factors(seed=2)
    drifted = drifted.map(lambda X, E: X + 0.1 * E, drift)
    method = METHODS["fedrot"]
    state = method.begin(reference)
    weights = method.weights(None, N, Clock(t))

    def mixed(own):
        return method.exchange(state._replace(factors=own), weights, Clock(t)).state.factors

    plain = product(mixed(drifted))
    same = product(mixed(turned(drifted, rotations(0))))
    assert np.abs(same - plain).max() <= 1000 * EPS * np.abs(plain).max()
    stretch = 2.0 ** np.arange(N)[:, None, None] * np.array([1.0, 0.5])
    other = Factors(drifted.B * stretch, drifted.A / stretch.mT)
    assert np.abs(product(mixed(other)) - plain).max() > 0.01
    # plain averaging sees the rotation
    means = product(FEDAVG.mix(drifted, RING))
    assert np.abs(product(FEDAVG.mix(turned(drifted, rotations(0)), RING)) - means).max() > 0.01


# ---------------------------------------------------------------- unequal ranks

RANKS = (1, 1, 2, 2)


@pytest.mark.parametrize(("method", "share"), [("fedavg", 0.5), ("raflora", 1.0)])
def test_energy_beyond_the_shared_rank_decays_under_plain_averaging_alone(method, share):
    rule = limiting_ranks(METHODS[method], RANKS)
    start = within_ranks(factors(), RANKS)
    state, weights = rule.begin(start), rule.weights(None, N, Clock())
    second = start.B[2:, :, 1].mean(0), start.A[2:, 1].mean(0)
    for t in range(1, 5):
        state = rule.exchange(state, weights, Clock()).state
        B, A = state.factors
        for X, Y in ((B[3, :, 1], second[0]), (A[3, 1], second[1])):
            np.testing.assert_allclose(X, share**t * Y, rtol=0, atol=t * 20 * EPS * np.abs(Y).max())
        assert not np.any(B[:2, :, 1])
        assert not np.any(A[:2, 1])


def test_a_direction_at_the_start_of_lora_belongs_to_those_whose_rank_has_it():
    start = within_ranks(factors(), RANKS)
    start = start._replace(B=0 * start.B)
    rule = limiting_ranks(METHODS["raflora"], RANKS)
    mixed = rule.exchange(rule.begin(start), rule.weights(None, N, Clock()), Clock()).state.factors
    np.testing.assert_allclose(mixed.A[3, 1], start.A[2:, 1].mean(0), rtol=0, atol=20 * EPS)


def test_larger_updates_weigh_more_and_equal_ones_alike():
    state = factors()
    norms = np.linalg.norm(product(state), axis=(1, 2))
    equal = state._replace(B=state.B / norms[:, None, None])
    for X, Y in zip(METHODS["hetlora"].mix(equal, RING), FEDAVG.mix(equal, RING), strict=True):
        np.testing.assert_allclose(X, Y, rtol=0, atol=100 * EPS * np.abs(Y).max())
    weights = norms / norms.sum()
    found = METHODS["hetlora"].mix(state, RING)
    for X, Y in zip(found, state, strict=True):
        expected = np.tensordot(weights, Y, 1)
        np.testing.assert_allclose(X[0], expected, rtol=0, atol=100 * EPS * np.abs(Y).max())
    nothing = state._replace(B=0 * state.B)
    np.testing.assert_allclose(
        METHODS["hetlora"].mix(nothing, RING).A, FEDAVG.mix(nothing, RING).A, rtol=4 * EPS
    )


def test_a_server_of_products_gives_dead_directions_back_and_limits_ranks():
    start = factors(shared="A")
    start = start._replace(B=start.B * np.array([1.0, 0.0]))
    trace = run("flexlora", start=start, zero_directions="keep", steps=1, lr=0.0)
    np.testing.assert_array_equal(trace.final.A[0, :, 1], start.A[:, 1])
    limited = run("flexlora", start=start, ranks=[1, 2, 2, 1], steps=2)
    assert not np.any(limited.final.B[0, [0, 3], :, 1])
    assert np.all(np.abs(limited.final.B[0, [1, 2], :, 1]).max(-1) > 0)
