"""Faults of the network in a simulation: weighted means, agents that miss rounds, new graphs."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from decaf_theory.lowrank import Factors, product
from decaf_theory.methods import METHODS, base, tracking
from decaf_theory.problems import PROBLEMS, approximation
from decaf_theory.simulate import Config, simulate
from decaf_theory.topology import SCHEDULES, TOPOLOGIES, reversible

EPS = np.finfo(np.float64).eps
N, D, K = 4, 5, 3
TARGET = [5, 3, 2, 1]
SHARES = np.array(TARGET) / 11
P = reversible(TOPOLOGIES["ring"](N), TARGET)
CYCLE = np.eye(N) / 2 + np.roll(np.eye(N), 1, axis=1) * [[0.4], [0.2], [0.4], [0.2]]
CYCLE += np.diag(1 - CYCLE.sum(axis=1))
PROBLEM = PROBLEMS["P3"](N=N, d=D, k=K)
ON_GRAPHS = [name for name, m in METHODS.items() if "server" not in (m.meets, m.pools)]
# a tuned method asks for the spectrum of a symmetric graph
KEEPING = [name for name in ON_GRAPHS if METHODS[name].keeps[0] == "B" and not METHODS[name].tuned]


def gaussian(seed=0):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((N, 2, K))
    return Factors(rng.standard_normal((N, D, 2)), A)


def run_of(method="dlora", **changes):
    defaults = {"problem": PROBLEM, "Pi": P, "target": TARGET, "lr": 0.1, "steps": 10}
    start = gaussian()
    if "A" in METHODS[method].fixed if isinstance(method, str) else False:
        start = start._replace(A=np.repeat(start.A[:1], N, axis=0))
    return Config(method=method, **{**defaults, "start": start, **changes})


# ---------------------------------------------------------------- weighted means


@pytest.mark.parametrize("method", KEEPING)
def test_mixing_keeps_the_weighted_mean(method):
    config = run_of(method, lr=0.0, steps=6)
    begun = simulate(replace(config, steps=0)).final
    found = simulate(config).final
    for name in {"B", "A"} & set(METHODS[method].keeps):
        before, after = (np.einsum("i,riab->rab", SHARES, getattr(X, name)) for X in (begun, found))
        # six mixes of four terms each
        assert np.abs(after - before).max() <= 100 * EPS * np.abs(before).max()
    if METHODS[method].meets == "graph":
        assert np.abs(found.B - begun.B).max() > 0.1


def test_decentralized_sgd_minimizes_the_weighted_sum_and_not_the_uniform_one():
    config = run_of("dsgd", steps=400, record_every=400)
    trace = simulate(config)
    W = product(trace.final)[0] + PROBLEM.W0
    targets = W - PROBLEM.grad(W)  # of |W - W_i*|^2 / 2
    weighted, uniform = (
        np.einsum("i,iab->ab", w, W - targets) for w in (SHARES, np.full(N, 1 / N))
    )
    # 400 steps contract by 0.9 each
    assert np.linalg.norm(weighted) <= 1e-13 * np.linalg.norm(targets)
    assert np.linalg.norm(uniform) > 0.01 * np.linalg.norm(targets)
    assert trace.gradient[0, -1] <= (1e-13 * np.linalg.norm(targets)) ** 2


def test_a_trace_records_means_with_the_weights():
    trace = simulate(run_of("decaf", steps=3))
    factors = trace.final.map(lambda X: X[0])
    W = product(factors) + PROBLEM.W0
    mean = np.einsum("i,iab->ab", SHARES, W)
    square = [
        np.sum((product(factors) - np.einsum("i,iab->ab", SHARES, product(factors))) ** 2, (1, 2)),
        *(np.sum((X - np.einsum("i,iab->ab", SHARES, X)) ** 2, (1, 2)) for X in factors),
    ]
    expected = {
        "loss": SHARES @ PROBLEM.loss(mean[None]),
        "agent_loss": SHARES @ PROBLEM.loss(W),
        "gradient": np.sum(np.einsum("i,iab->ab", SHARES, PROBLEM.grad(mean[None])) ** 2),
        "consensus_products": SHARES @ square[0],
        "consensus_factors": SHARES @ (square[1] + square[2]),
        "adapter_norm": SHARES @ np.linalg.norm(product(factors), axis=(1, 2)),
    }
    for name, value in expected.items():
        assert getattr(trace, name)[0, -1] == pytest.approx(value, rel=200 * EPS), name
    uniform = simulate(run_of("decaf", steps=3, target=None, Pi=TOPOLOGIES["ring"](N)))
    assert uniform.loss[0, 0] != trace.loss[0, 0]
    assert uniform.interference[0, 1] != trace.interference[0, 1]


def test_equal_weights_are_no_weights():
    ring = TOPOLOGIES["ring"](N)
    plain, equal = (simulate(run_of("decaf", Pi=ring, target=t)) for t in (None, [3] * N))
    for name in ("loss", "agent_loss", "gradient", "consensus_factors", "interference"):
        found, expected = (getattr(trace, name) for trace in (equal, plain))
        np.testing.assert_allclose(found, expected, rtol=1e3 * EPS, atol=1e3 * EPS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": None}, r"columns of Pi must sum to one, .* is simulated with Config\(target"),
        ({"Pi": CYCLE}, "Pi must be reversible for target: .* others would need push-sum"),
        (
            {"Pi": CYCLE, "target": None},
            "columns of Pi must sum to one, .* others would need push-",
        ),
        ({"target": [1, 2, 3, 4]}, "Pi must be reversible for target"),
        ({"target": [1, 2, 3]}, "target must be 4 numbers for 4 agents"),
        ({"target": [1, 2, 3, -1]}, "target must be finite and > 0, got -1 for agent 3"),
        ({"Pi": lambda t: CYCLE}, "Pi must be reversible for target: .* push-sum in round 0$"),
        ({"method": "fedavg"}, "target must be None for fedavg, whose server counts agents alike"),
        ({"method": "centralized"}, "target must be None for centralized"),
        ({"method": "tad_lora"}, "columns of Pi must sum to one"),
    ],
)
def test_a_mean_that_would_not_be_kept_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        simulate(run_of(**changes))


# ---------------------------------------------------------------- agents that miss rounds


@pytest.mark.parametrize("method", ["dlora", "decaf", "gradient_tracking", "decaf_ef"])
def test_an_agent_that_misses_a_round_sends_nothing_and_keeps_what_it_has(method):
    schedule = SCHEDULES["stragglers"](N, p=0.4, seed=3)
    config = run_of(method, Pi=schedule, target=None, lr=0.0, steps=1)
    alone = 0
    for t in range(6):
        Pi = schedule(t)
        found = simulate(replace(config, Pi=lambda _, Pi=Pi: Pi))
        start = gaussian()
        links = np.count_nonzero(Pi) - np.count_nonzero(Pi.diagonal())
        number = 2 if method == "gradient_tracking" else 1
        assert found.comm_bytes[0, -1] == links * 8 * 2 * (D + K) * number
        for i in np.flatnonzero(Pi.diagonal() == 1):
            alone += 1
            before, after = (product(F)[i] for F in (start, found.final.map(lambda X: X[0])))
            # balanced anew by methods that mix products
            assert np.abs(after - before).max() <= 100 * EPS * np.abs(before).max()
    assert alone >= 2


# ---------------------------------------------------------------- one graph for all rounds


@pytest.mark.parametrize(
    "schedule",
    [
        SCHEDULES["stragglers"](N),
        SCHEDULES["one_peer_hypercube"](N),
        lambda t: TOPOLOGIES["ring"](N),
    ],
)
def test_choco_refuses_graphs_that_change(schedule):
    for method in ("choco", tracking_of_choco()):
        with pytest.raises(
            ValueError, match=r"^\w+ needs one graph for all rounds, as agents keep"
        ):
            run_of(method, Pi=schedule, target=None)
    run_of("choco", Pi=TOPOLOGIES["ring"](N), target=None)


def tracking_of_choco():
    """A method made of CHOCO, which inherits what it cannot do."""
    return replace(METHODS["choco"], name="mine", step=tracking(METHODS["dlora"]).step)


def test_what_choco_knows_is_wrong_on_a_graph_that_changes():
    # the reason: an agent keeps the sum of what its neighbours of past rounds sent
    config = run_of("choco", Pi=TOPOLOGIES["ring"](N), target=None, lr=0.0, steps=40)
    unchecked = replace(METHODS["choco"], name="unchecked", one_graph=False)
    kept, lost = (
        simulate(replace(config, method=method, Pi=Pi)).final
        for method, Pi in (
            ("choco", TOPOLOGIES["ring"](N)),
            (unchecked, SCHEDULES["one_peer_exponential"](N)),
        )
    )
    begun = gaussian().B.mean(axis=0)
    # forty mixes of five terms each
    assert np.abs(kept.B[0].mean(axis=0) - begun).max() <= 400 * EPS
    spread = np.ptp(kept.B[0], axis=0).max(), np.ptp(lost.B[0], axis=0).max()
    assert spread[0] < 0.1 * spread[1]


# ---------------------------------------------------------------- memory and checks of schedules


def peak_of(steps):
    problem = approximation(np.zeros((2**13, 1, 1)))
    schedule = SCHEDULES["one_peer_exponential"](2**13, sparse=True)
    config = Config(
        problem=problem,
        method="dlora",
        Pi=schedule,
        rank=1,
        lr=0.1,
        steps=steps,
        record_every=steps,
        record=("loss",),
    )
    tracemalloc.start()
    simulate(config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_graphs_that_are_made_anew_are_not_kept():
    a_graph = 12 * 2 * 2**13 + 4 * 2**13
    # of the last round's, this round's and what is checked
    assert peak_of(40) <= peak_of(2) + 4 * a_graph


def test_graphs_that_come_again_are_checked_once(monkeypatch):
    counted = []
    count = base.messages_of
    monkeypatch.setattr(base, "messages_of", lambda *a: counted.append(a) or count(*a))
    graphs = [TOPOLOGIES["path"](N), TOPOLOGIES["ring"](N)]
    simulate(run_of(Pi=lambda t: graphs[t % 2], target=None, steps=20))
    assert len(counted) == 2
    counted.clear()
    simulate(run_of(Pi=lambda t: graphs[t % 2].copy(), target=None, steps=20))
    assert len(counted) == 20
    counted.clear()
    simulate(run_of(Pi=lambda t: graphs[t % 2].tolist(), target=None, steps=4))
    assert len(counted) == 4
