"""Real ranks for test_distributed: this program forks them, all scenes at a time.

    python -m tests.ranks DIRECTORY

A rank of a scene leaves what it printed in SCENE.RANK.txt and .err, its exit code in codes.json.
"""

import gc
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import decaf_theory
from decaf_theory.distributed import Neighbourhood, by_blocks, run
from decaf_theory.distributed.neighbourhood import blocks_of
from decaf_theory.distributed.running import rule_of
from decaf_theory.faults import without_traceback
from decaf_theory.lowrank import Factors
from decaf_theory.methods import METHODS, Clock, choco, heavy_ball, noisy
from decaf_theory.methods.state import message_bytes
from decaf_theory.problems import PROBLEMS, Problem
from decaf_theory.simulate import Config, simulate
from decaf_theory.topology import SCHEDULES, TOPOLOGIES

SUITED = [m.name for m in METHODS.values() if (m.meets, m.pools) == ("graph", "none")]
GRAPHS = {
    "ring": TOPOLOGIES["ring"],
    "complete": TOPOLOGIES["complete"],
    "bipartite": TOPOLOGIES["bipartite"],
    "one peer": SCHEDULES["one_peer_hypercube"],
}
SHORT, LONG = 5.0, 60.0  # seconds: for ranks that must give up, and for those that must not


def configs() -> Iterator[tuple[str, Config]]:
    """Yield what must come out bit for bit as in one process, by name."""
    for graph, of in GRAPHS.items():
        for name in SUITED:
            rule = METHODS[name]
            Pi = of(4)
            if callable(Pi) and (rule.one_graph or rule.tuned):
                continue
            yield f"{name} on {graph}", config(method=name, Pi=Pi)
    yield "directed", config(Pi=SCHEDULES["one_peer_exponential"](4))
    yield "two local steps", config(local_steps=2)
    yield "mixes first", config(order="mix_first", start=gaussian(4))
    yield "keeps directions", config(zero_directions="keep")
    yield "combines", config(method="dlora", order="combine")
    yield "two runs", config(method="gradient_tracking", runs=2, lr=[0.1, 0.2])
    yield "SoRA", config(form="sora")
    yield "its own noise", config(method=noisy(METHODS["dlora"], 0.1))
    yield "six agents", config(6)
    yield "six agents of unequal rank", config(6, ranks=[1, 2, 2, 1, 2, 1], method="dlora")


def gaussian(N: int) -> Factors:
    rng = np.random.default_rng(1)
    return Factors(rng.standard_normal((N, 5, 2)), rng.standard_normal((N, 2, 4)))


def config(N: int = 4, **changes: object) -> Config:
    problem = PROBLEMS["P3"](N=N, d=5, k=4, tau=0.1)
    usual = {"Pi": TOPOLOGIES["ring"](N), "rank": 2, "lr": 0.1, "steps": 3, "method": "decaf"}
    return Config(problem=problem, **usual | {"seed": 3} | changes)


def dyadic(name: str) -> Config:
    """Two rounds in which every sum of numbers is exact in float64, whatever its order."""
    rules = {"heavy_ball": heavy_ball(METHODS["dlora"], 0.5), "choco": choco(0.25, 0.5)}
    rng = np.random.default_rng(5)
    targets = rng.integers(-2, 3, (4, 3, 2)).astype(float)
    problem = Problem(
        "small integers",
        *(4, 3, 2),
        loss=lambda W: 0.5 * ((W - targets) ** 2).sum(axis=(-2, -1)),
        grad=lambda W: W - targets,
    )
    A = np.broadcast_to(rng.integers(-1, 2, (1, 2, 2)), (4, 2, 2)).astype(float)
    start = Factors(rng.integers(-1, 2, (4, 3, 2)).astype(float), A)
    ring = np.array([[2, 1, 0, 1], [1, 2, 1, 0], [0, 1, 2, 1], [1, 0, 1, 2]]) / 4
    rule = rules.get(name, METHODS[name])
    return Config(problem=problem, method=rule, Pi=ring, start=start, lr=0.25, steps=2)


def equal(rank: int) -> int:
    """Run everything; rank 0 prints how far it is from the simulations, and the bytes."""
    for name, asked in configs():
        blocks = blocks_of(asked.problem.N, 4)
        rule = by_blocks(rule_of(asked), blocks)
        alike = replace(asked, method=rule, form=None, zero_directions="drop")
        report(name, asked, alike)
    for name in SUITED:
        if METHODS[name].space == "factors":
            report(f"{name} exactly", dyadic(name), dyadic(name))
    row = {"name": "model", **of_a_model(rank)}
    if rank == 0:
        print(json.dumps(row))
    return 0


def report(name: str, asked: Config, alike: Config) -> None:
    ran = run(asked, timeout=LONG)
    every = [None] * 4
    dist.all_gather_object(every, ran)
    if dist.get_rank() == 0:
        trace = simulate(replace(alike, record=("loss",)))
        arrays = [
            (np.concatenate([getattr(r.state.factors, part) for r in every], axis=-3), final)
            for part, final in trace.final._asdict().items()
        ]
        row = {
            "name": name,
            "far": max(float(np.abs(X - Y).max()) for X, Y in arrays),
            "moved": bool(np.abs(arrays[0][1]).max() > 0),
            "sent": sum(r.sent_bytes for r in every),
            "declared": int(trace.comm_bytes[0, -1]),
        }
        print(json.dumps(row), flush=True)


def of_a_model(rank: int) -> dict[str, object]:
    """Mix two sites of torch tensors of unlike dtypes, as an own loop does."""
    torch.manual_seed(0)
    sites = {
        "q": Factors(torch.randn(4, 6, 2), torch.randn(4, 2, 3)),
        "v": Factors(torch.randn(4, 3, 1).double(), torch.randn(4, 1, 7).double()),
    }
    rule, Pi = METHODS["choco"], TOPOLOGIES["ring"](4)
    mine = {site: pair.map(lambda X: X[[rank]].requires_grad_()) for site, pair in sites.items()}
    served = Neighbourhood(rule, Pi, mine, timeout=LONG)
    far, sent = 0.0, 0
    states = {site: rule.begin(pair) for site, pair in sites.items()}
    for t in range(3):
        mine = served.mix(mine, t)
        for site, state in states.items():
            sent += 2 * message_bytes(rule.send(state, Clock(t)))
            states[site] = by_blocks(rule, [[0], [1], [2], [3]]).exchange(state, Pi, Clock(t)).state
            for X, Y in zip(mine[site], states[site].factors, strict=True):
                far = max(far, float((X - Y[[rank]]).detach().abs().max()))
    kinds = sorted({str(X.dtype) for pair in mine.values() for X in pair})
    return {"far": far, "moved": True, "sent": served.sent_bytes, "declared": sent, "kinds": kinds}


def loop(rank: int, *, timeout: float = LONG, rule: str = "decaf", lr: float = 0.1, at=None) -> int:
    """Mix six rounds on a ring of as many ranks; at(t, factors) is called before each."""
    N = int(os.environ["WORLD_SIZE"])
    rng = np.random.default_rng(rank)
    factors = Factors(rng.standard_normal((1, 4, 2)), rng.standard_normal((1, 2, 3)))
    Pi, settings = TOPOLOGIES["ring"](N), {"lr": lr}
    served = Neighbourhood(METHODS[rule], Pi, factors, timeout=timeout, settings=settings)
    for t in range(6):
        if at is not None:
            at(t, factors)
        factors = served.mix(factors, t)
    return 0


def dead(rank: int) -> int:
    def at(t: int, factors: Factors) -> None:
        if (rank, t) == (1, 2):
            os.kill(os.getpid(), signal.SIGKILL)

    return loop(rank, at=at)


def slow(rank: int) -> int:
    def at(t: int, factors: Factors) -> None:
        if (rank, t) == (1, 2):
            time.sleep(SHORT + 2)

    return loop(rank, timeout=SHORT, at=at)


def nonfinite(rank: int) -> int:
    def at(t: int, factors: Factors) -> None:
        if (rank, t) == (1, 2):
            factors.A[0, 1, 1] = np.nan

    return loop(rank, at=at)


def other_method(rank: int) -> int:
    return loop(rank, rule="dlora" if rank == 2 else "decaf")


def other_step(rank: int) -> int:
    return loop(rank, lr=0.2 if rank == 1 else 0.1)


def other_version(rank: int) -> int:
    if rank == 2:
        decaf_theory.__version__ = "0.0.1"
    return loop(rank)


def own_steps(rank: int) -> int:
    return loop(rank, rule="heavy_ball")


def missing(rank: int) -> int:
    return 0 if rank == 2 else loop(rank, timeout=SHORT)


def own_loop(rank: int) -> int:
    """Run the example as torchrun would."""
    import runpy

    runpy.run_path(str(Path(__file__).parent.parent / "examples" / "own_loop.py"))
    return 0


SCENES = {
    equal: 4,
    dead: 4,
    slow: 3,
    nonfinite: 4,
    other_method: 3,
    other_step: 2,
    other_version: 3,
    own_steps: 1,
    missing: 3,
    own_loop: 2,
}


def started(scene, rank: int, port: int, directory: Path) -> int:
    """Fork a rank; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    for number, kind in ((1, "txt"), (2, "err")):
        file = os.open(directory / f"{scene.__name__}.{rank}.{kind}", os.O_CREAT | os.O_WRONLY)
        os.dup2(file, number)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= place | {"RANK": str(rank), "WORLD_SIZE": str(SCENES[scene])}
    code = without_traceback(lambda: scene(rank), known=(ValueError,))
    if scene in (dead, nonfinite):
        sys.exit(code)  # to the end of the interpreter, where nothing may hang either
    sys.stdout.flush()
    os._exit(code)  # which saves a second


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(directory: Path) -> None:
    pids = {}
    gc.freeze()  # the forks share what is loaded
    for scene, size in SCENES.items():
        port = free_port()
        for rank in range(size):
            pids[started(scene, rank, port, directory)] = (scene.__name__, rank)
    codes: dict[str, list[int]] = {scene.__name__: [0] * size for scene, size in SCENES.items()}
    for pid, (name, rank) in pids.items():
        codes[name][rank] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    (directory / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
