"""The goals of whole runs and of mixing alone: G5, G6, G7. Times are those of one agent's step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from decaf_theory.arrays import Host
from decaf_theory.bench import decent, simulation
from decaf_theory.bench.race import Limit, Settings, compete
from decaf_theory.bench.rows import Row, skipped, verdict
from decaf_theory.bench.simulation import Runs
from decaf_theory.bench.timing import Contestant
from decaf_theory.lowrank import mean_over_agents
from decaf_theory.simulate import Config, simulate
from decaf_theory.topology import TOPOLOGIES

DLORA = Runs("dlora", 32, 32, 4, N=10, runs=16, steps=200)
DSGD = Runs("dsgd", 64, 1, 1, N=10, runs=64, steps=100)
# both sides round each of 200 contracting steps by some 40 eps, for sums of at most 64 terms
SAME = 1e-12


def ours(role: str, config: Config) -> Contestant:
    """Return the simulator on all runs of a configuration."""
    work = config.problem.N * config.steps * config.runs
    return Contestant(role, "numpy", lambda: simulate(config), 1 / work)


def by_hand(role: str, config: Config, loop: Callable[[], object], backend: str) -> Contestant:
    """Return a loop over the agents of one run."""
    return Contestant(role, backend, loop, 1 / (config.problem.N * config.steps))


def g5(settings: Settings) -> Iterator[Row]:
    """The simulator against loops over agents, and the cost of recording every step."""
    if settings.device != "cpu":
        yield skipped("G5", DLORA.label, "NumPy loop / ours", f"does not run on {settings.device}")
        return
    for case in (DLORA, DLORA._replace(noise=0.1)):
        config = simulation.lora(case)
        curves = simulation.lora(case, record_every=1)
        everything = simulation.lora(case, record_every=1, record=None)
        numpy_loop, torch_loop = simulation.numpy_loop(config), simulation.torch_loop(config)
        batched_loop = simulation.batched_loop(config)
        field = [
            ours("ours", config),
            ours("recording curves", curves),
            ours("recording all", everything),
            by_hand("NumPy loop", config, numpy_loop, "numpy"),
        ]
        limits = [
            Limit("NumPy loop", "ours", ">=", 12),
            Limit("recording curves", "ours", "<=", 1.5),
            Limit("recording all", "ours"),
        ]
        if not case.noise:
            field.append(by_hand("autograd", config, torch_loop, "torch"))
            limits.append(Limit("autograd", "ours", ">=", 80))
            # what no loop can beat that makes the same products
            work = case.N * case.steps * case.runs
            field.append(Contestant("bare arithmetic", "numpy", batched_loop, 1 / work))
            limits.append(Limit("NumPy loop", "bare arithmetic"))
        yield from compete("G5", case, field, limits, settings)
        if not case.noise:
            yield same_losses(case, config, [numpy_loop(), torch_loop(), batched_loop()])


def same_losses(case: Runs, config: Config, losses: list[float]) -> Row:
    """Return the verdict on the loops' final losses, compared with the simulator's first run."""
    best = float(simulate(config).require_finished().agent_loss[0, -1])
    worst = max(abs(loss - best) / best for loss in losses)
    return verdict("G5", case.label, "difference of losses", [worst], "<=", SAME)


class Mixing(NamedTuple):
    """The size of each agent's message on a sparse ring; roles say how many agents there are."""

    numbers: int
    dtype: str

    @property
    def label(self) -> str:
        """The case in words."""
        return f"{self.numbers} numbers per agent, sparse ring, {self.dtype}"


FEW, MANY = 10**4, 10**5


def g6(settings: Settings) -> Iterator[Row]:
    """A mix on a sparse ring against a copy into new memory, at 1e4 and at 1e5 agents."""
    limits = [
        Limit("few", "copy of few", "<=", 3.5),
        Limit("many", "copy of many", "<=", 3.5),
        Limit("many", "few", "<=", 1.2),
        Limit("copy of many", "copy of few"),
    ]
    for case in (Mixing(64, "float32"), Mixing(64, "float64")):
        if settings.device == "cpu":
            field = [*mixers(case, FEW, "few"), *mixers(case, MANY, "many")]
            yield from compete("G6", case, field, limits, settings)
        else:
            yield skipped("G6", case.label, "many / few", f"does not run on {settings.device}")


def mixers(case: Mixing, N: int, role: str) -> list[Contestant]:
    """Return the mix and the copy for N agents."""
    X = np.random.default_rng(0).standard_normal((N, 1, case.numbers)).astype(case.dtype)
    Pi = TOPOLOGIES["ring"](N, sparse=True)
    return [
        Contestant(role, "numpy", lambda: mean_over_agents(X, Pi), 1 / N),
        Contestant(f"copy of {role}", "numpy", X.copy, 1 / N),
    ]


def g7(settings: Settings) -> Iterator[Row]:
    """DSGD on quadratics against decent-bench, which runs in a process of its own."""
    one = DSGD._replace(runs=1)
    measures = ("decent-bench / ours", "decent-bench / batched", "difference of iterates")
    try:
        if settings.device != "cpu":
            raise decent.Absent(f"does not run on {settings.device}")
        given = simulation.draw_quadratics(one.N, one.d)
        letters = {"lr": simulation.LR, "steps": one.steps}
        peer = decent.Peer({**{k: v.tolist() for k, v in given._asdict().items()}, **letters})
    except decent.Absent as reason:
        for measure in measures:
            yield skipped("G7", one.label, measure, str(reason))
        return
    config, batch = simulation.dsgd(one, given), simulation.dsgd(DSGD, given)
    field = [
        ours("ours", config),
        ours("batched", batch),
        by_hand("decent-bench", config, peer.run, "numpy"),
    ]
    limits = [
        Limit("decent-bench", "ours", ">=", 25),
        Limit("decent-bench", "batched", ">=", 80),
    ]
    both = settings._replace(clock=lambda: settings.clock() + peer.seconds)
    yield from compete("G7", one, field, limits, both)
    error = max(iterate_error(c, peer.run()) for c in (config, batch))
    peer.close()
    yield verdict("G7", one.label, measures[2], [error], "<=", SAME)


def iterate_error(config: Config, theirs: Host) -> float:
    """Return the largest difference of an agent's last iterate, over the largest iterate."""
    final = simulate(config).require_finished().final
    x = (final.B @ final.A)[..., 0]
    return float(np.max(np.abs(x - theirs)) / np.max(np.abs(theirs)))
