"""What G5, G6 and G7 time: both sides do the same work. No speed is tested here."""

import os
import sys
from textwrap import dedent

import numpy as np
import pytest

from decaf_theory.bench import decent, simulation, whole
from decaf_theory.bench.race import Settings
from decaf_theory.bench.simulation import Runs
from decaf_theory.bench.timing import interleaved
from decaf_theory.simulate import simulate, start_factors
from decaf_theory.topology import TOPOLOGIES
from tests.test_bench import FakeClock

EPS = np.finfo(float).eps
LORA = Runs("dlora", 6, 5, 2, N=4, runs=3, steps=8)
DSGD = Runs("dsgd", 3, 1, 1, N=4, runs=2, steps=8)
# each step rounds sums of at most d + k + r + 3 products, and does not expand errors
ROUNDING = LORA.steps * (LORA.d + LORA.k + LORA.r + 3) * EPS


def ticking():
    clock = FakeClock()

    def tick():
        clock.now += 1.0
        return clock.now

    return Settings(True, "cpu", tick, 1)


# ---------------------------------------------------------------- G5


@pytest.mark.parametrize(
    "loop", [simulation.numpy_loop, simulation.torch_loop, simulation.batched_loop]
)
def test_a_loop_by_hand_ends_where_the_simulator_does(loop):
    config = simulation.lora(LORA)
    trace = simulate(config)
    assert list(trace.step) == [0, LORA.steps]
    run = loop(config)
    assert run() == pytest.approx(trace.agent_loss[0, -1], rel=ROUNDING)
    assert run() == run()  # it starts again
    assert trace.agent_loss[0, -1] < 0.99 * trace.agent_loss[0, 0]  # there is something to compute


def test_the_noise_of_the_loop_is_the_problems():
    """One step of one agent, whose only neighbour is itself."""
    case = LORA._replace(N=1, runs=1, steps=1, noise=0.3)
    config = simulation.lora(case)
    B, A = (X[0, 0] for X in start_factors(config))
    target = simulation.targets(config.problem)[0]
    sign = 2.0 * np.random.default_rng(0).integers(0, 2, target.shape) - 1.0
    g = B @ A - target + case.noise * sign
    B, A = B - simulation.LR * g @ A.T, A - simulation.LR * B.T @ g
    expected = np.sum((B @ A - target) ** 2) / 2
    assert simulation.numpy_loop(config)() == pytest.approx(expected, rel=ROUNDING)


def test_losses_that_differ_fail():
    config = simulation.lora(LORA)
    exact = float(simulate(config).agent_loss[0, -1])
    assert whole.same_losses(LORA, config, [exact, exact * (1 + 1e-13)])["status"] == "ok"
    assert whole.same_losses(LORA, config, [exact, exact * (1 + 1e-11)])["fails"]


def test_times_are_those_of_one_agents_step():
    clock = FakeClock()
    config, mixers = simulation.lora(LORA), whole.mixers(whole.Mixing(3, "float64"), 5, "few")
    field = [
        whole.ours("ours", config)._replace(run=clock.work("ours", 960.0)),
        whole.by_hand("loop", config, clock.work("loop", 64.0), "numpy"),
        *(mixer._replace(run=clock.work("mix", 20.0)) for mixer in mixers),
    ]
    timed = interleaved(field, clock, rounds=1)
    assert [t.seconds for t in timed] == [[10.0], [2.0], [4.0], [4.0]]


# ---------------------------------------------------------------- G6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_mix_and_a_copy_are_of_the_same_numbers(dtype):
    mix, copy = (c.run() for c in whole.mixers(whole.Mixing(3, dtype), 7, "few"))
    assert mix.dtype == copy.dtype == dtype
    expected = np.einsum("ij,jab->iab", TOPOLOGIES["ring"](7), copy.astype(float))
    assert np.max(np.abs(mix - expected)) <= 4 * np.finfo(dtype).eps * np.max(np.abs(copy))


# ---------------------------------------------------------------- G7


@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_the_quadratics_are_those_of_their_letters(leading):
    given = simulation.draw_quadratics(4, 3)
    problem = simulation.problem(given)
    W = np.random.default_rng(1).standard_normal((*leading, 4, 3, 1))
    H, b, x = given.H, given.b, W[..., 0]
    slope = np.einsum("ipq,...iq->...ip", H, x)
    allowed = 20 * EPS * np.max(np.abs(H)) * np.max(np.abs(x)) ** 2
    assert np.max(np.abs(problem.grad(W)[..., 0] - slope - b)) <= allowed
    assert np.max(np.abs(problem.loss(W) - np.sum(x * (slope / 2 + b), axis=-1))) <= allowed
    assert np.max(np.abs(H - np.swapaxes(H, 1, 2))) == 0
    assert problem.constants.L == np.max(np.linalg.eigvalsh(H))


def test_the_least_loss_of_the_quadratics_is_that_of_the_mean():
    given = simulation.draw_quadratics(4, 3)
    problem = simulation.problem(given)
    mean_H, mean_b = given.H.mean(axis=0), given.b.mean(axis=0)
    best = np.linalg.solve(mean_H, -mean_b)[:, None]
    F = problem.loss(np.stack([best] * 4)).mean()
    rounding = 100 * EPS * np.linalg.cond(mean_H) * abs(F)
    assert problem.constants.F_star == pytest.approx(F, abs=rounding)


def test_dsgd_is_the_iteration_that_the_peer_documents():
    given = simulation.draw_quadratics(DSGD.N, DSGD.d)
    config, Pi, x = simulation.dsgd(DSGD, given), TOPOLOGIES["ring"](DSGD.N), given.start
    for _ in range(DSGD.steps):
        x = Pi @ x - simulation.LR * (np.einsum("ipq,iq->ip", given.H, x) + given.b)
    assert whole.iterate_error(config, x) <= DSGD.steps * 20 * EPS
    assert whole.iterate_error(config, x + np.eye(DSGD.N, DSGD.d)) >= 0.1


FAKE = """
    import json, sys
    data = json.loads(input())
    print(json.dumps({"version": %r}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"seconds": 2.0, "x": data["start"]}), flush=True)
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Put a program in the peer's place, run by this interpreter."""

    def install(text):
        program = tmp_path / "program.py"
        program.write_text(dedent(text))
        monkeypatch.setattr(decent, "PROGRAM", program)
        monkeypatch.setenv(decent.VARIABLE, sys.executable)

    return install


def test_the_peer_counts_its_own_seconds(fake):
    fake(FAKE % decent.VERSION)
    peer = decent.Peer({"start": [[1.0, 2.0]]}, os.environ)
    assert [peer.run().tolist() for _ in range(3)] == [[[1.0, 2.0]]] * 3
    peer.close()
    assert peer.seconds == 6.0


HERE = {decent.VARIABLE: sys.executable}


@pytest.mark.parametrize(
    ("environment", "program", "message"),
    [
        ({}, "", f"{decent.VARIABLE} names no Python with decent-bench 0.3.0"),
        ({decent.VARIABLE: "/no/python"}, "", "/no/python does not start: No such file"),
        (
            HERE,
            "import no_such_peer",
            "No module named 'no_such_peer'",
        ),
        (HERE, FAKE % "0.2.3", "has decent-bench 0.2.3, not 0.3.0"),
        (HERE, "input()", "failed: it ended"),
    ],
)
def test_a_peer_that_cannot_run_says_why(environment, program, message, fake, monkeypatch):
    fake(program)
    with pytest.raises(decent.Absent, match=message):
        decent.Peer({"start": []}, environment)
    monkeypatch.delenv(decent.VARIABLE)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    rows = list(whole.g7(ticking()))
    assert [row["status"] for row in rows] == ["skipped"] * 3
    assert all(message in row["reason"] for row in rows)


@pytest.mark.skipif(decent.VARIABLE not in os.environ, reason=f"{decent.VARIABLE} is not set")
def test_decent_bench_has_our_iterates():
    given = simulation.draw_quadratics(DSGD.N, DSGD.d)
    data = {name: x.tolist() for name, x in given._asdict().items()}
    peer = decent.Peer({**data, "lr": simulation.LR, "steps": DSGD.steps})
    for _ in range(2):
        error = whole.iterate_error(simulation.dsgd(DSGD, given), peer.run())
        assert error <= DSGD.steps * 20 * EPS
    peer.close()
    assert peer.seconds > 0


# ---------------------------------------------------------------- the goals


def test_the_goals_judge_every_ratio_that_is_asked_for(fake, monkeypatch):
    """On a clock that ticks once for each look; the peer's seconds count too."""
    fake(FAKE % decent.VERSION)
    monkeypatch.setattr(whole, "DLORA", LORA)
    monkeypatch.setattr(whole, "DSGD", DSGD)
    monkeypatch.setattr(whole, "FEW", 5)
    monkeypatch.setattr(whole, "MANY", 10)
    found = {
        (row["goal"], row["measure"]): row["reached"]
        for goal in (whole.g5, whole.g6, whole.g7)
        for row in goal(ticking())
        if row["kind"] == "verdict"
    }
    assert found.pop(("G5", "difference of losses")) <= ROUNDING
    assert found.pop(("G7", "difference of iterates")) > 0.1  # this peer does not move
    assert found == {
        ("G5", "NumPy loop / ours"): LORA.runs,
        ("G5", "recording curves / ours"): 1.0,
        ("G5", "recording all / ours"): 1.0,
        ("G5", "NumPy loop / bare arithmetic"): LORA.runs,
        ("G5", "autograd / ours"): LORA.runs,
        ("G6", "few / copy of few"): 1.0,
        ("G6", "many / copy of many"): 1.0,
        ("G6", "many / few"): 0.5,
        ("G6", "copy of many / copy of few"): 0.5,
        ("G7", "decent-bench / ours"): 3.0,
        ("G7", "decent-bench / batched"): 3.0 * DSGD.runs,
    }


@pytest.mark.parametrize("goal", [whole.g5, whole.g6, whole.g7])
def test_on_cuda_these_goals_are_skipped(goal):
    rows = list(goal(ticking()._replace(device="cuda")))
    assert {row["status"] for row in rows} == {"skipped"}
    assert {row["reason"] for row in rows} == {"does not run on cuda"}
