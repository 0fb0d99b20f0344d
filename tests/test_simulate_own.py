"""A loss, a graph and a method of one's own: what the simulator takes, and what it charges."""

import itertools
import textwrap
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

import decaf_theory.simulate
from decaf_theory import bounds
from decaf_theory.lowrank import Factors, mix_factors, product
from decaf_theory.measure import interference_norm
from decaf_theory.methods import METHODS, Clock, Method, adf_lora, tracking
from decaf_theory.methods.factor import average_factors
from decaf_theory.problems import PROBLEMS, Problem, approximation
from decaf_theory.simulate import Config, simulate, start_factors, visits
from decaf_theory.topology import SCHEDULES, TOPOLOGIES

EPS = np.finfo(np.float64).eps
PI = TOPOLOGIES["path"](4)
P3 = PROBLEMS["P3"](d=5, k=3)


def gaussian(*, N=4, d=5, k=3, r=2, seed=0):
    rng = np.random.default_rng(seed)
    return Factors(rng.standard_normal((N, d, r)) / 2, rng.standard_normal((N, r, k)) / 2)


def run_of(method="dlora", **changes):
    defaults = {"problem": P3, "Pi": PI, "start": gaussian(), "lr": 0.1, "steps": 10}
    return Config(**{**defaults, "method": method, **changes})


# ---------------------------------------------------------------- a loss of one's own


def logistic(N=3, d=2, k=3):
    """Agents with f_i(W) = mean log(1 + exp(-y <X, W>)), and nothing proved of them."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, 6, d, k))
    y = rng.choice([-1.0, 1.0], (N, 6))

    def margins(W):
        return y * np.einsum("nmdk,...ndk->...nm", X, np.broadcast_to(W, (*W.shape[:-3], N, d, k)))

    def loss(W):
        return np.log1p(np.exp(-margins(W))).mean(axis=-1)

    def grad(W):
        share = -y / (1 + np.exp(margins(W)))
        return np.einsum("...nm,nmdk->...ndk", share, X) / 6

    return Problem("logistic", N, d, k, loss, grad)


def test_a_problem_of_which_nothing_is_proved_runs_and_its_loss_falls():
    config = Config(
        problem=logistic(), method="decaf", Pi=TOPOLOGIES["ring"](3), rank=2, lr=0.5, steps=40
    )
    trace = simulate(config).require_finished()
    assert trace.loss[0, -1] < 0.9 * trace.loss[0, 0]
    np.testing.assert_array_equal(config.problem.W0, np.zeros((2, 3)))


def test_divergence_is_found_without_constants_too():
    unknown = Problem("P3", 4, 5, 3, P3.loss, P3.grad)
    trace = simulate(run_of("dsgd", problem=unknown, lr=2.5, steps=200))
    known = simulate(run_of("dsgd", lr=2.5, steps=200))
    assert trace.status == known.status == "diverged"
    np.testing.assert_array_equal(trace.loss, known.loss)
    assert "1/L*" in known.note
    hint = "; lr = 2.5 may be too large (no limit is known, as the problem's constants lack L); "
    assert trace.note.endswith(hint + "try a smaller lr")


def test_a_bound_that_needs_an_unknown_constant_says_so():
    constants = logistic().constants
    assert constants.L is None
    with pytest.raises(ValueError, match=r"L is unknown \(None\), and this bound needs it"):
        bounds.safe_step(L=constants.L, q=1.0)


def test_noise_may_depend_on_the_point_and_the_agent():
    size = np.arange(1.0, 5.0)[:, None, None]

    def at(draws, W):
        return size * draws * W

    problem = replace(P3, noise=lambda rng, shape: rng.standard_normal(shape), noise_at=at)
    found = simulate(run_of(problem=problem, steps=1, seed=5))
    state = gaussian()
    W = product(state)
    from decaf_theory.rng import generator

    draws = generator(5, "noise", 0).standard_normal((64, 4, 5, 3))[0]
    g = P3.grad(W) + size * draws * W
    stepped = Factors(state.B - 0.1 * g @ state.A.mT, state.A - 0.1 * state.B.mT @ g)
    mixed = mix_factors(stepped, PI)
    for X, Y in zip(found.final, mixed, strict=True):
        np.testing.assert_allclose(X[0], Y, rtol=0, atol=100 * EPS)


# ---------------------------------------------------------------- step sizes, graphs, ranks


def test_one_step_size_per_run_is_as_many_runs():
    start = gaussian()
    both = simulate(run_of("decaf", runs=2, lr=[0.1, 0.3], start=start))
    for run, lr in enumerate((0.1, 0.3)):
        alone = simulate(run_of("decaf", lr=lr, start=start))
        # contractions of numbers of size ten or less, summed in another order
        np.testing.assert_allclose(both.loss[run], alone.loss[0], rtol=0, atol=1e4 * EPS)


def test_a_step_size_may_be_a_function_of_the_round():
    falling = simulate(run_of(lr=lambda t: 0.2 / (1 + t), steps=3)).final
    by_hand = gaussian()
    for t in range(3):
        config = run_of(lr=0.2 / (1 + t), steps=1, start=by_hand)
        by_hand = simulate(config).final.map(lambda X: X[0])
    for X, Y in zip(falling, by_hand, strict=True):
        np.testing.assert_array_equal(X[0], Y)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": [0.1, 0.2]}, r"lr must be one number or one for each of 1 runs, got shape \(2,\)"),
        ({"lr": lambda t: -1.0}, "lr must be finite and >= 0, got -1.0"),
        ({"Pi": lambda t: np.eye(3)}, "Pi must be 4 x 4"),
        ({"ranks": [1, 2]}, "ranks must hold one rank for each of 4 agents, got 2"),
        ({"ranks": [1, 2, 3, 1]}, r"ranks\[2\] must be in 1 ... rank = 2"),
        ({"ranks": [1, 2, True, 1]}, r"ranks\[2\] must be an integer"),
        ({"ranks": [1, 1, 1, 1], "method": "dsgd"}, "ranks must not be given for dsgd"),
        ({"record": ["loss", "Xi"]}, "record must name some of .*, got 'Xi'"),
    ],
)
def test_a_bad_setting_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        run_of(**changes)


def test_a_graph_may_change_with_the_round_and_be_sparse():
    graphs = [TOPOLOGIES["path"](4), TOPOLOGIES["complete"](4)]
    thin = [sparse.csr_array(Pi) for Pi in graphs]
    found = simulate(run_of(Pi=lambda t: thin[t % 2], steps=2))
    first = simulate(run_of(Pi=graphs[0], steps=1)).final.map(lambda X: X[0])
    second = simulate(run_of(Pi=graphs[1], steps=1, start=first))
    for X, Y in zip(found.final, second.final, strict=True):
        np.testing.assert_allclose(X, Y, rtol=0, atol=100 * EPS)
    message = 8 * (5 + 3) * 2
    # 6 directed links on the path, 12 on the complete graph
    np.testing.assert_array_equal(found.comm_bytes[0], message * np.array([0, 6, 18]))
    again = simulate(run_of(Pi=lambda t: graphs[1] if t else graphs[0], steps=2))
    np.testing.assert_array_equal(again.comm_bytes, found.comm_bytes)


def test_a_directed_round_is_heard_one_way_and_keeps_the_mean():
    schedule = SCHEDULES["one_peer_exponential"](4)
    state = start_factors(run_of(start=gaussian()))
    for t in range(2):  # 0: i hears i + 1, 1: i hears i + 2
        mixed = simulate(run_of(Pi=lambda _, t=t: schedule(t), start=gaussian(), lr=0.0, steps=1))
        for X, Y in zip(state, mixed.final, strict=True):
            np.testing.assert_array_equal(Y, (X + np.roll(X, -(2**t), axis=1)) / 2)
        # 4 directed links, one message each
        assert mixed.comm_bytes[0, -1] == 4 * 8 * (5 + 3) * 2
    thin = SCHEDULES["one_peer_exponential"](4, sparse=True)
    for method in ("dlora", "decaf"):
        found, same = (simulate(run_of(method, Pi=Pi, steps=6)) for Pi in (schedule, thin))
        np.testing.assert_allclose(found.loss, same.loss, rtol=1e4 * EPS)


RANDOM = ["pairwise_gossip", "random_matching", "dropped_links", "erdos_renyi_redrawn"]


@pytest.mark.parametrize("name", RANDOM)
def test_random_rounds_run_by_their_seed(name):
    def run(seed):
        return simulate(run_of("decaf", Pi=SCHEDULES[name](4, seed=seed), steps=8))

    np.testing.assert_array_equal(run(0).loss, run(0).loss)
    assert run(1).loss[0, -1] != run(0).loss[0, -1]
    charged = np.diff(run(0).comm_bytes[0]) / (8 * (5 + 3) * 2)
    schedule = SCHEDULES[name](4, seed=0)
    links = [
        np.count_nonzero(schedule(t)) - np.count_nonzero(schedule(t).diagonal()) for t in range(8)
    ]
    np.testing.assert_array_equal(charged, links)


def test_a_bad_graph_of_a_later_round_is_refused_then():
    config = run_of(Pi=lambda t: PI if t < 2 else 0.9 * PI, steps=5)
    with pytest.raises(ValueError, match="rows of Pi must sum to one"):
        simulate(config)


@pytest.mark.parametrize("method", ["dlora", "decaf"])
def test_agents_of_unequal_rank_stay_within_their_ranks(method):
    ranks = [1, 2, 1, 2]
    start = start_factors(run_of(method, ranks=ranks))
    for agent, r in enumerate(ranks):
        assert not np.any(start.B[0, agent, :, r:])
        assert not np.any(start.A[0, agent, r:])
    trace = simulate(run_of(method, ranks=ranks, steps=5))
    for agent, r in enumerate(ranks):
        B, A = (X[0, agent] for X in trace.final)
        assert not np.any(B[:, r:])
        assert not np.any(A[r:])
        assert np.any(B[:, :r])
    equal = simulate(run_of(method, ranks=[2, 2, 2, 2], steps=5))
    free = simulate(run_of(method, steps=5))
    np.testing.assert_array_equal(equal.loss, free.loss)
    assert trace.loss[0, -1] != free.loss[0, -1]


# ---------------------------------------------------------------- a method of one's own


def every_fifth(clock):
    return clock.round % 5 == 4


def never(clock):
    return False


@pytest.mark.parametrize("method", ["dlora", "decaf"])
def test_a_method_is_charged_only_for_the_rounds_in_which_it_mixes(method):
    rare = replace(METHODS[method], name="rare", mixes=every_fifth)
    trace = simulate(run_of(rare, steps=11))
    a_mix = 6 * 8 * (5 + 3) * 2
    np.testing.assert_array_equal(trace.comm_bytes[0], a_mix * (np.arange(12) // 5))
    mixed = np.arange(12) % 5 == 0
    mixed[0] = False
    assert np.all(trace.interference[0, mixed] > 0)
    assert np.all(trace.interference[0, ~mixed] == 0)
    if method == "decaf":
        assert np.all(trace.truncation[0, mixed] > 0)
        assert np.all(trace.truncation[0, ~mixed] == 0)


def test_the_interference_is_that_of_the_factors_that_were_mixed():
    rare = replace(METHODS["dlora"], name="rare", mixes=every_fifth)
    steps = list(visits(run_of(rare, steps=5)))
    assert all(visit.mix.before is None for visit in steps[:5])
    expected = interference_norm(steps[5].mix.before.map(lambda X: X[0]), PI).mean()
    trace = simulate(run_of(rare, steps=5))
    assert trace.interference[0, 5] == pytest.approx(expected, rel=100 * EPS)


def test_a_method_that_never_mixes_is_local_training():
    alone = simulate(run_of(replace(METHODS["dlora"], name="alone", mixes=never)))
    local = simulate(run_of("local"))
    np.testing.assert_array_equal(alone.loss, local.loss)
    assert not np.any(alone.comm_bytes)


def test_gradient_tracking_reaches_the_optimum_where_dsgd_settles_next_to_it():
    problem = PROBLEMS["P10"]()
    run = {"problem": problem, "Pi": TOPOLOGIES["ring"](4), "lr": 0.2, "steps": 600, "start": None}
    exact, plain = (
        simulate(run_of(tracking(METHODS["dsgd"], ("B",)), **run)),
        simulate(run_of("dsgd", **run)),
    )
    F_star = problem.constants.F_star
    # converged: what is left is the rounding of losses of size one
    assert abs(exact.loss[0, -1] - F_star) <= 100 * EPS
    assert plain.loss[0, -1] - F_star > 1e-6
    # trackers travel too
    np.testing.assert_array_equal(exact.comm_bytes, 2 * plain.comm_bytes)


def test_a_method_with_phases_trains_one_factor_at_a_time():
    steps = list(visits(run_of(adf_lora(2), steps=6)))
    for before, after in itertools.pairwise(steps):
        mixed = mix_factors(before.factors.map(lambda X: X[0]), PI)
        still = {
            name: np.allclose(X, Y[0], rtol=0, atol=10 * EPS)
            for name, X, Y in zip(("B", "A"), mixed, after.factors, strict=True)
        }
        assert still == {"B": before.step // 2 % 2 == 1, "A": before.step // 2 % 2 == 0}


def test_a_graph_may_average_gradients_too():
    pooled = Method("pooled", average_factors, keeps=("B", "A"), pools="graph")
    trace = simulate(run_of(pooled, steps=1))
    g = P3.grad(product(gaussian()))
    state = gaussian()
    slopes = mix_factors(Factors(g @ state.A.mT, state.B.mT @ g), PI)
    stepped = Factors(state.B - 0.1 * slopes.B, state.A - 0.1 * slopes.A)
    for X, Y in zip(trace.final, mix_factors(stepped, PI), strict=True):
        np.testing.assert_allclose(X[0], Y, rtol=0, atol=100 * EPS)
    assert trace.comm_bytes[0, 1] == 2 * 6 * 8 * (5 + 3) * 2


# ---------------------------------------------------------------- watching a run


def test_a_run_ends_where_its_watch_says_so():
    seen = []

    def watch(visit):
        seen.append(visit.step)
        return visit.agent_loss.mean() < 0.5

    trace = simulate(run_of(steps=200), watch)
    full = simulate(run_of(steps=200))
    assert trace.status == "stopped"
    assert trace.step[-1] == seen[-1] < 200
    assert trace.agent_loss[0, -1] < 0.5 <= trace.agent_loss[0, -2]
    np.testing.assert_array_equal(trace.loss, full.loss[:, : seen[-1] + 1])
    with pytest.raises(ValueError, match="the run ended stopped"):
        trace.require_finished()


def test_a_watch_that_never_stops_a_run_changes_nothing():
    trace = simulate(run_of(), lambda visit: None)
    np.testing.assert_array_equal(trace.require_finished().loss, simulate(run_of()).loss)


def test_only_what_is_asked_for_is_recorded():
    trace = simulate(run_of(record=("loss", "sigma_max")))
    everything = simulate(run_of())
    np.testing.assert_array_equal(trace.loss, everything.loss)
    np.testing.assert_array_equal(trace.sigma_max, everything.sigma_max)
    assert trace.interference is None
    np.testing.assert_array_equal(trace.comm_bytes, everything.comm_bytes)


# ---------------------------------------------------------------- many agents


def crowd(N, d=8, k=8):
    rng = np.random.default_rng(0)
    problem = approximation(rng.standard_normal((N, d, k)))
    start = Factors(np.zeros((N, d, 1)), np.broadcast_to(rng.standard_normal((1, 1, k)), (N, 1, k)))
    return problem, start


@pytest.mark.slow
@pytest.mark.parametrize(("name", "N"), [("ring", 10**5), ("star", 10**4)])
@pytest.mark.parametrize("method", ["dsgd", "dlora"])
def test_many_agents_on_a_sparse_graph_take_memory_in_proportion(name, N, method):
    problem, start = crowd(N)
    Pi = TOPOLOGIES[name](N, sparse=True)
    config = Config(
        problem=problem,
        method=method,
        Pi=Pi,
        start=start,
        lr=0.1,
        steps=3,
        record_every=3,
        record=("loss", "gradient", "consensus_factors", "interference"),
    )
    tracemalloc.start()
    trace = simulate(config).require_finished()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert trace.loss[0, -1] < trace.loss[0, 0]
    # in units of one d x k matrix per agent: W, gradient, their like at the mean, and a few more
    assert peak <= 16 * N * 64 * 8


def test_the_clock_of_a_method_counts_rounds_and_local_steps():
    clocks = []

    def trains(clock):
        clocks.append(clock)
        return ("B", "A")

    listening = replace(METHODS["dlora"], name="listening", trains=trains)
    simulate(run_of(listening, steps=2, local_steps=3))
    assert clocks[-6:] == [Clock(t, h, 3) for t in range(2) for h in range(3)]


def test_the_examples_of_the_documentation_run():
    text = decaf_theory.simulate.__doc__
    code = textwrap.dedent("\n".join(line for line in text.splitlines() if line[:4] == "    "))
    names = {}
    exec(code, names)
    assert names["trace"].status == "stopped"
    assert names["trace"].loss[0, -1] < names["trace"].loss[0, 0]
