"""Methods that merge into W0 or keep all of W: what they keep exactly, and what a trace says."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decaf_theory import measure
from decaf_theory.lowrank import Factors, product
from decaf_theory.methods import METHODS, Clock, fed_sb, flora, limiting_ranks, rac_lora
from decaf_theory.methods.merged import mean_of_products
from decaf_theory.problems import approximation
from decaf_theory.simulate import Config, SimulationError, simulate, visits
from decaf_theory.topology import TOPOLOGIES

EPS = np.finfo(np.float64).eps
N, D, K, R = 4, 5, 3, 2
PROBLEM = approximation(np.random.default_rng(5).standard_normal((N, D, K)))
MERGING = ("flora", "fedex_lora", "rac_lora")


def factors(*, seed=0, shared="", d=D, k=K, r=R, agents=N):
    rng = np.random.default_rng(seed)
    both = Factors(rng.standard_normal((agents, d, r)), rng.standard_normal((agents, r, k)))
    return both._replace(**{part: np.stack([getattr(both, part)[0]] * agents) for part in shared})


def config(method, **changes):
    """Return a run of eight rounds from equal A, and equal B where the method starts from one."""
    rule = METHODS[method] if isinstance(method, str) else method
    start = factors(shared="BA" if rule.confined else "A")
    settings = {"start": start, "lr": 0.05, "steps": 8, "Pi": TOPOLOGIES["ring"](N), **changes}
    return Config(problem=PROBLEM, method=method, **settings)


def run(method, **changes):
    return simulate(config(method, **changes)).require_finished()


def update(method, state):
    """Return W - W0 in units of B A."""
    return method.form.update(state, 1.0)


@st.composite
def mixes(draw):
    """Draw a method that is exact, the state before a mix, with a base, and rows of weights."""
    name = draw(st.sampled_from([*MERGING, "fed_sb"]))
    d, k = draw(st.sampled_from([(1, 3), (4, 2), (3, 6)]))
    r, n, seed = (draw(st.integers(1, top)) for top in (min(d, k), 5, 2**32 - 1))
    method, rng = METHODS[name], np.random.default_rng(seed)
    shared = "BA" if method.confined else "A" if "A" in method.fixed else ""
    state = method.begin(factors(seed=seed, shared=shared, d=d, k=k, r=r, agents=n))
    if method.confined:  # every agent has its own R between the frozen factors
        own = state.factors._replace(B=state.memory["frame"] @ rng.standard_normal((n, r, r)))
        state = state._replace(factors=own)
    if not method.form.factored:
        base = np.stack([rng.standard_normal((d, k))] * n)
        state = state._replace(memory={**state.memory, "base": base})
    weights = rng.dirichlet(np.ones(n), draw(st.sampled_from([1, n])))
    return method, state, weights


@given(mixes())
def test_a_mix_gives_each_agent_the_mean_of_W_exactly(drawn):
    method, state, weights = drawn
    before = update(method, state)
    after = update(method, method.exchange(state, weights, Clock()).state)
    expected = np.einsum("ij,jab->iab", weights, before)
    n, (d, k), r = state.agents, state.factors.shape, state.factors.rank
    norms = [np.linalg.norm(X, axis=(1, 2)).max() for X in state.factors]
    # sums of n r terms, of n matrices and of a base, and of d terms in products with a frame
    slip = 20 * (max(d, k) + n * r) * EPS * (math.prod(norms) + np.abs(before).max())
    assert np.abs(after - expected).max() <= slip


@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_a_mean_of_products_by_one_product_for_each_row(n, r, seed):
    pairs, rng = factors(seed=seed, r=r, agents=n), np.random.default_rng(seed)
    for rows in (1, n):
        weights = rng.dirichlet(np.ones(n), rows)
        found = mean_of_products(pairs, weights)
        expected = np.einsum("ij,jab->iab", weights, product(pairs))
        slip = 4 * n * r * EPS * np.abs(pairs.B).max() * np.abs(pairs.A).max()
        assert np.abs(found - expected).max() <= slip


def test_sum_product_and_product_sum_differ_by_what_fedex_merges():
    # SP of Aggregation-Broadcast is FedAvg, PS the exact mean
    state, rows = factors(), np.full((1, N), 1 / N)
    method = METHODS["fedex_lora"]
    mixed = method.exchange(method.begin(state), rows, Clock()).state
    apart = update(method, mixed) - product(METHODS["fedavg"].mix(state, TOPOLOGIES["ring"](N)))
    I = measure.interference(state, rows)  # noqa: E741
    assert np.linalg.norm(I) > 1
    np.testing.assert_allclose(apart, np.stack([I[0]] * N), rtol=0, atol=200 * EPS)


def test_each_broadcast_is_the_nearest_to_the_clients_in_its_sense():
    """Aggregation-Broadcast's conditions: SP's factors (weak), PS's matrix (strong)."""
    state, weights = (
        factors(),
        np.array([0.4, 0.3, 0.2, 0.1])[:N] / np.sum([0.4, 0.3, 0.2, 0.1][:N]),
    )
    rows = weights[None]
    sum_product = METHODS["dlora"].mix(state, rows)
    method = METHODS["fedex_lora"]
    mixed = method.receive(method.begin(state), state._asdict(), rows, Clock()).state
    rng = np.random.default_rng(0)
    clients = {"weak": state, "strong": (product(state),)}
    broadcast = {"weak": sum_product, "strong": (update(method, mixed)[:1],)}
    for sense, own in clients.items():

        def apart(found, own=own):
            squares = [np.sum((X - Y) ** 2, axis=(-2, -1)) for X, Y in zip(found, own, strict=True)]
            return float(weights @ np.sum(squares, axis=0))

        best = apart(broadcast[sense])
        for size in (1e-3, 1.0):
            moves = [size * rng.standard_normal(X.shape) for X in broadcast[sense]]
            moved = [X + Z for X, Z in zip(broadcast[sense], moves, strict=True)]
            # a quadratic about its minimum grows by the square of what it is moved by
            expected = best + sum(float(np.sum(Z**2)) for Z in moves)
            # sums of N d k squares of differences
            assert apart(moved) == pytest.approx(expected, rel=4 * N * D * K * EPS)
    # each is not the nearest in the other sense
    other = float(weights @ np.sum((product(sum_product) - product(state)) ** 2, axis=(-2, -1)))
    assert other > apart(broadcast["strong"]) + 0.1


@pytest.mark.parametrize("name", MERGING)
def test_the_base_is_one_matrix_for_all_agents(name):
    for visit in visits(config(name, steps=3)):
        base = visit.state.memory["base"]
        assert base.shape == (1, N, D, K)
        assert base.strides[1] == 0


def test_what_is_drawn_anew_is_equal_at_all_and_named_by_seed_and_round():
    found = [run(flora(seed), steps=steps).final.A for seed, steps in ((0, 1), (0, 2), (1, 1))]
    for A in found:
        np.testing.assert_array_equal(A, np.broadcast_to(A[:1, :1], A.shape))
    assert not any(np.any(found[0] == other) for other in found[1:])
    np.testing.assert_array_equal(run(flora(), steps=1, runs=2).final.A[:1], found[0])


def test_ranks_need_not_be_equal_where_products_are_stacked():
    rule = limiting_ranks(METHODS["flora"], [1, 2, 2, 1])
    trace = run("flora", ranks=[1, 2, 2, 1], steps=1, lr=0.0)
    start = product(config("flora", ranks=[1, 2, 2, 1]).start)
    assert rule.name == "flora"
    cut = factors(shared="A").map(np.copy)
    cut.B[[0, 3], :, 1] = 0.0
    assert not np.array_equal(product(cut), start)
    assert np.abs(trace.memory["base"][0] - product(cut).mean(0)).max() <= 50 * EPS
    assert not np.any(trace.final.A[0, [0, 3], 1])
    assert np.all(trace.final.A[0, 1:3, 1] != 0)


# ---------------------------------------------------------------- blocks


def test_each_block_adds_r_to_the_rank_which_stays_that_of_one_block_otherwise():
    chain, one = run("rac_lora", start=None, rank=1), run("ffa_lora", start=None, rank=1)
    np.testing.assert_array_equal(chain.numerical_rank[0], [0, 1, 2, 3, 3, 3, 3, 3, 3])
    np.testing.assert_array_equal(one.numerical_rank[0], [0] + [1] * 8)
    assert chain.loss[0, -1] < one.loss[0, -1]


@pytest.mark.parametrize("period", [0, 1.5])
def test_a_block_lasts_whole_rounds(period):
    with pytest.raises(ValueError, match=rf"period must be a whole .* got {period}"):
        rac_lora(period)


# ---------------------------------------------------------------- a server with all of W

RANKS = [1, 1, 2, 3]


def fedhl(**changes):
    start = factors(r=3)
    return run("fedhl", start=start, **changes)


def test_the_server_moves_only_where_clients_do():
    # the first mix gives the server what the clients hold; without steps all later ones add zero
    short, long = (fedhl(ranks=RANKS, lr=0.0, steps=steps) for steps in (1, 8))
    W, later = short.memory["server"][0, 0], long.memory["server"][0, 0]
    # eight sums of four differences, and a truncation each, with weights up to one
    assert np.abs(later - W).max() <= 8 * 50 * D * EPS * np.linalg.norm(W)
    S = np.linalg.svd(W, compute_uv=False)
    assert np.min(-np.diff(S)) > 0.1 * S[0]
    own = np.linalg.svd(product(long.final)[0], compute_uv=False)
    expected = np.stack([np.where(np.arange(3) < r, S, 0.0) for r in RANKS])
    np.testing.assert_allclose(own, expected, rtol=0, atol=8 * 50 * D * EPS * S[0])
    # averages of truncated products (R3), and of factors cut and weighed by size, shrink instead
    for method in ("flexlora", "hetlora"):
        shrunk = run(method, start=factors(r=3), ranks=RANKS, lr=0.0, steps=8)
        assert np.linalg.norm(product(shrunk.final)[0, 3]) < 0.9 * np.linalg.norm(own[3]), method


def test_at_full_rank_the_server_averages_W():
    state = METHODS["fedhl"].begin(factors(r=3))
    row = METHODS["fedhl"].weights(None, N, Clock())
    for t in range(3):
        moved = factors(seed=t, r=3).map(lambda E, X: X + 0.1 * E, state.factors)
        state = METHODS["fedhl"].exchange(state._replace(factors=moved), row, Clock(t)).state
        mean = product(moved).mean(axis=0)
        size = np.abs(moved.B).max() * np.abs(moved.A).max()
        for W in (state.memory["server"], product(state.factors)):
            assert np.abs(W - mean).max() <= 50 * D * EPS * size


def test_a_graph_has_no_server():
    method = replace(METHODS["fedhl"], meets="graph")
    with pytest.raises(ValueError, match="fedhl has one server, so weights must be one row"):
        run(method)


@pytest.mark.parametrize("ranks", [(1, 1, 2, 3), (1, 1, 2, 2)])
def test_clients_that_drop_more_weigh_less(ranks):
    start = factors(r=max(ranks))
    trace = run("fedhl", start=start, ranks=ranks, steps=1, lr=0.0)
    method = limiting_ranks(METHODS["fedhl"], ranks)
    state = method.begin(start)
    state = state._replace(factors=trace.final.map(lambda X: X[0]), memory=last_memory(trace))
    W = state.memory["server"][0]
    e = np.linalg.norm(W - product(state.factors), axis=(1, 2)) ** 2
    p = 1 / (e + 1e-6)
    moved = state._replace(factors=state.factors._replace(B=1.5 * state.factors.B))
    after = method.exchange(moved, method.weights(None, N, Clock()), Clock(1)).state
    moves = 0.5 * product(state.factors)
    expected = W + np.tensordot(p / p.sum(), moves, 1)
    assert p[2] > 2 * p[0]
    # weights that have the condition of a sum of squares, all of one sign
    assert np.abs(after.memory["server"][0] - expected).max() <= 500 * EPS * np.abs(W).max()


def last_memory(trace):
    """Return what the method keeps, of the first run."""
    return {
        name: kept.map(lambda X: X[0]) if isinstance(kept, Factors) else kept[0]
        for name, kept in trace.memory.items()
    }


# ---------------------------------------------------------------- a small square matrix


def test_a_frame_that_is_all_of_the_space_leaves_ffa_lora():
    problem = approximation(np.random.default_rng(3).standard_normal((N, 2, K)))
    start = factors(shared="BA", d=2)
    one, other = (
        simulate(Config(problem=problem, method=m, start=start, lr=0.05, steps=8))
        for m in ("fed_sb", "ffa_lora")
    )
    for X, Y in zip(one.final, other.final, strict=True):
        # eight rounds, each with two more products with an orthonormal matrix
        np.testing.assert_allclose(X, Y, rtol=0, atol=8 * 50 * EPS * np.abs(Y).max())


@pytest.mark.parametrize("to", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_the_frame_is_drawn_where_B_is_zero_and_that_of_B_elsewhere(to):
    given = factors(shared="BA").map(to)
    zero = given._replace(B=0 * given.B)
    for start, seed in ((given, 0), (zero, 0), (zero, 1)):
        frame = np.asarray(fed_sb(seed).begin(start).memory["frame"])
        np.testing.assert_allclose(frame.mT @ frame, [np.eye(R)] * N, rtol=0, atol=50 * EPS)
        B = np.asarray(start.B)
        assert np.abs(B - frame @ (frame.mT @ B)).max() <= 50 * EPS * max(1, np.abs(B).max())
        assert np.abs(frame[:, R:]).max() > 0.1  # no axes of the coordinates
    drawn = [fed_sb(seed).begin(zero).memory["frame"] for seed in (0, 1)]
    assert not np.allclose(drawn[0], drawn[1])


def test_local_steps_stay_in_the_columns_of_the_frame():
    alone = replace(METHODS["fed_sb"], mixes=lambda clock: False)  # a mix would lead back
    start, B = factors(shared="BA"), run(alone).final.B
    frame = METHODS["fed_sb"].begin(start).memory["frame"]
    assert np.abs(B - start.B).max() > 0.1
    slip = 8 * 50 * EPS * np.abs(B).max()
    assert np.abs(B - frame @ (frame.mT @ B)).max() <= slip


def test_agents_that_do_not_start_from_one_B_are_refused():
    with pytest.raises(ValueError, match=r"start\.B must be equal at all agents: fed_sb moves in"):
        config("fed_sb", start=factors(shared="A"))


# ---------------------------------------------------------------- what a trace says


@pytest.mark.parametrize("name", MERGING)
def test_what_is_recorded_is_that_of_W_with_what_was_merged(name):
    s = 0.5
    trace = run(name, s=s, steps=3)
    for visit in visits(config(name, s=s, steps=3)):
        t = visit.step
        W = s * (visit.state.memory["base"] + product(visit.factors))[0]
        mean = W.mean(axis=0)
        spread = ((W - mean) ** 2).sum() / N / s**2
        expected = {
            "loss": PROBLEM.loss(mean[None]).mean(),
            "agent_loss": PROBLEM.loss(W).mean(),
            "gradient": np.sum(PROBLEM.grad(mean[None]).mean(axis=0) ** 2),
            "consensus_products": spread,
            "adapter_norm": np.linalg.norm(W, axis=(1, 2)).mean(),
            "numerical_rank": np.linalg.matrix_rank(W, tol=1e-12).min(),
        }
        for quantity, value in expected.items():
            found = getattr(trace, quantity)[0, t]
            assert found == pytest.approx(value, rel=100 * D * EPS, abs=100 * D * EPS)
    assert trace.numerical_rank[0, -1] == 3 > R
    np.testing.assert_array_equal(trace.memory["base"], visit.state.memory["base"])


@pytest.mark.parametrize("name", MERGING)
def test_a_merge_of_bad_numbers_is_found_by_name(name):
    with pytest.raises(SimulationError, match="not finite at step"):
        run(name, lr=1e200)


@pytest.mark.parametrize("name", MERGING)
def test_factors_alone_and_gradients_at_replaced_ones_are_refused(name):
    with pytest.raises(ValueError, match=rf"{name} has W - W0 = s \(base \+ B A\), which its"):
        METHODS[name].mix(factors(shared="A"), np.full((N, N), 1 / N))
    with pytest.raises(
        ValueError, match=f"order 'combine' is not defined for {name}, which merges"
    ):
        config(name, order="combine")
