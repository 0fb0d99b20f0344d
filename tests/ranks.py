"""Real ranks for test_distributed: this program forks them, all scenes at a time.

    python -m tests.ranks DIRECTORY

A rank of a scene leaves what it printed in SCENE.RANK.txt and .err, its exit code in codes.json.
"""

import ctypes
import gc
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
import torch._dynamo  # as an optimizer's first step does: once, for all forks
import torch.distributed as dist

import decaf_theory
from decaf_theory.distributed import (
    Neighbourhood,
    RankError,
    by_blocks,
    enter,
    neighbourhood,
    run,
)
from decaf_theory.distributed.__main__ import main as command
from decaf_theory.distributed.collective import of_everyone
from decaf_theory.distributed.neighbourhood import blocks_of
from decaf_theory.distributed.restart import arrays_of
from decaf_theory.distributed.running import rule_of
from decaf_theory.faults import without_traceback
from decaf_theory.lowrank import Factors, mean_over_agents
from decaf_theory.methods import METHODS, Clock, choco, heavy_ball, noisy
from decaf_theory.methods.state import message_bytes
from decaf_theory.problems import PROBLEMS, Problem
from decaf_theory.simulate import Config, simulate
from decaf_theory.topology import SCHEDULES, TOPOLOGIES
from paper_checks import finetune, mixing, ranks
from paper_checks.run import Run
from tests import paper_runs
from tests.other_order import other_order
from verification import harness

finetune.load_task = paper_runs.task
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
    overlap()
    for name, settings in TRAINED.items():
        row = {"name": f"training {name}", **trained(settings)}
        if rank == 0:
            print(json.dumps(row))
    return 0


def report(name: str, asked: Config, alike: Config) -> None:
    ran = run(asked, timeout=LONG)
    every = [None] * dist.get_world_size()
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


def overlap() -> None:
    """Print what happens in which order in two rounds of "combine": served, late, and trained."""
    seen: list[str] = []

    def noted(what: str, of: object, name: str, patched: object) -> None:
        usual = getattr(of, name)

        def call(*args: object, **more: object) -> object:
            seen.append(what)
            return usual(*args, **more)

        patched.setattr(of, name, call)

    with pytest.MonkeyPatch.context() as patched:
        noted("post", neighbourhood, "post", patched)
        noted("wait", neighbourhood, "wait", patched)
        noted("compute", finetune, "gradients", patched)
        asked = config(method="dlora", order="combine", steps=2)
        grad = asked.problem.grad
        problem = replace(asked.problem, grad=lambda W: seen.append("compute") or grad(W))
        for early in (True, False):
            run(replace(asked, problem=problem), timeout=LONG, overlap=early)
            seen.append("then")
        settings = {"mix__agents": 4, "mix__method": "dlora", "train__order": "combine"}
        with TemporaryDirectory() as folder:
            every = {"mix__every": 1, "train__steps": 2}
            finetune.finetune(paper_runs.config(**settings | every), Path(folder), ranks=LONG)
    if dist.get_rank() == 0:
        row = {"name": "overlap", "far": 0, "moved": True, "sent": 1, "declared": 1}
        print(json.dumps(row | {"seen": seen}))


TRAINED = {
    "decaf": {"mix__moments": "rotate", "train__optimizer": "adamw"},
    "combine": {"mix__method": "dlora", "train__order": "combine"},
    "gradient_tracking": {"mix__method": "gradient_tracking", "train__order": "mix_first"},
    "sora": {"mix__method": "dlora", "mix__form": "sora", "lora__equal_start": False},
    "six agents": {"mix__agents": 6, "mix__method": "decaf", "observe__share": 0.5},
}


def trained(settings: dict[str, object]) -> dict[str, object]:
    """Train the harness's smallest network at ranks, and in one process in their order of sums."""
    usual = {"mix__agents": 4, "train__sequential": True, "train__steps": 5, "observe__every": 9}
    config = paper_runs.config(**usual | settings)
    with TemporaryDirectory() as folder:
        run = finetune.finetune(config, Path(folder), ranks=LONG)
        held = {name: X.numpy() for name, X in ranks.tensors(run).items()}
        stored = (Path(folder) / "rows.jsonl").read_bytes() if run.first else b""
        sent = json.loads((Path(folder) / "run.json").read_bytes())["ranks"] if run.first else None
    every = [None] * 4
    dist.all_gather_object(every, held)
    if not run.first:
        return {}
    with TemporaryDirectory() as folder, in_the_order_of(sent["agents"]):
        alone = finetune.finetune(config, Path(folder))
        rows = (Path(folder) / "rows.jsonl").read_bytes()
    far = 0.0
    for name, X in ranks.tensors(alone).items():
        own = [part[name] for part in every]
        Y = own[0] if name in run.ranks.shared else np.concatenate(own)
        far = max(far, float(np.abs(X.numpy() - Y).max()))
    same = rows == stored or config.observe.share is not None  # else the clock has a say
    moved = bool(alone.stacked.layers[0].B.any()) and len(alone.records) > 1
    counts = {"sent": sent["sent_bytes"], "declared": alone.sent}
    return {"far": far if same else math.inf, "moved": moved, **counts}


@contextmanager
def in_the_order_of(blocks: list[list[int]]) -> Iterator[None]:
    """Let agents of one process mix in blocks, each over those that it hears alone."""
    usual = finetune.meeting

    def meeting(run: Run, clock: Clock) -> mixing.Meet:
        rule = by_blocks(run.config.mix.rule, blocks)

        def meet(states, heads):
            changes = ((old, rule.exchange(old, run.Pi, clock).state) for old in states)
            return changes, (torch.cat([mean(X, block) for block in blocks]) for X in heads)

        def mean(X: torch.Tensor, block: list[int]) -> torch.Tensor:
            near = np.flatnonzero(run.Pi[block].any(axis=0))
            rows = X[near].reshape(len(near), 1, -1)
            found = mean_over_agents(rows, run.Pi[np.ix_(block, near)])
            return found.reshape(len(block), *X.shape[1:])

        return meet

    finetune.meeting = meeting
    try:
        yield
    finally:
        finetune.meeting = usual


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


def late(rank: int) -> int:
    """Say something to everyone; rank 1 does so too late."""
    enter(SHORT)
    time.sleep(SHORT + 2 if rank == 1 else 0)
    of_everyone(rank, "as all spoke")
    return 0


def nonfinite(rank: int) -> int:
    def at(t: int, factors: Factors) -> None:
        if (rank, t) == (1, 2):
            factors.A[0, 1, 1] = np.nan

    return loop(rank, at=at)


def overflown(rank: int) -> int:
    """Serve a problem of four agents by steps that are too large."""
    run(config(4, lr=1e200), timeout=LONG)
    return 0


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


def other_rounds(rank: int) -> int:
    """Mix on graphs of which the one of round 9, and no earlier one, differs at rank 1."""
    served = SCHEDULES["one_peer_hypercube"](2)
    other = np.full((2, 2), 0.25) + 0.5 * np.eye(2)

    def graph(t: int) -> np.ndarray:
        return other if (rank, t) == (1, 9) else served(t)

    factors = Factors(*np.ones((2, 1, 1, 1)))
    mixing = Neighbourhood(METHODS["dlora"], graph, factors, timeout=LONG)
    for t in range(12):
        factors = mixing.mix(factors, t)
        print(t)
    return 0


def timed(rank: int) -> int:
    """Time rounds as the command does."""
    return command(["--method", "dlora", "--overlap", "--steps", "3", "--timeout", str(LONG)])


def own_loop(rank: int) -> int:
    """Run the example as torchrun would."""
    import runpy

    runpy.run_path(str(Path(__file__).parent.parent / "examples" / "own_loop.py"))
    return 0


# ---------------------------------------------------------------- two hosts

WIRE = ("10.77.0.1", "10.77.0.2")  # in namespaces of their own


def two_hosts(rank: int) -> int:
    """Serve a problem by ranks in two namespaces, which a wire joins."""
    number = int(os.environ["HOST"])
    with open(f"/var/run/netns/{host_name(number, rank)}") as namespace:
        assert ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0) == 0
    os.environ |= {"MASTER_ADDR": WIRE[0], "GLOO_SOCKET_IFNAME": "eth0"}
    asked = config(2)
    alike = replace(asked, method=by_blocks(rule_of(asked), blocks_of(2, 2)))
    report("two hosts", asked, alike)
    return 0


def host_name(number: int, rank: int) -> str:
    return f"decaf-{number}-{rank}"


@contextmanager
def hosts() -> Iterator[str]:
    """Yield why there cannot be two namespaces here; "" where there are, inside."""
    if os.geteuid() or not shutil.which("ip"):
        yield "network namespaces need root, and ip"
        return
    one, other = (host_name(os.getpid(), rank) for rank in (0, 1))
    lines = [f"netns add {one}", f"netns add {other}"]
    lines += [f"-n {one} link add eth0 type veth peer name eth0 netns {other}"]
    for name, address in zip((one, other), WIRE, strict=True):
        lines += [f"-n {name} addr add {address}/24 dev eth0"]
        lines += [f"-n {name} link set {device} up" for device in ("lo", "eth0")]
    done = [subprocess.run(["ip", *line.split()], capture_output=True) for line in lines]
    owner = os.getpid()
    os.environ["HOST"] = str(owner)
    try:
        yield "".join(d.stderr.decode() for d in done)
    finally:
        for name in (one, other) if os.getpid() == owner else ():  # and not a fork of it
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


# ---------------------------------------------------------------- restarts, of which SAVED is left

SAVED = Path("saved")  # in the directory


def on_its_way(**changes: object) -> Config:
    problem = PROBLEMS["P3"](N=3, d=5, k=4, tau=0.1)
    usual = {"rank": 2, "lr": 0.1, "steps": 7, "seed": 3, "method": "choco"}
    return Config(problem=problem, Pi=TOPOLOGIES["ring"](3), **usual | changes)


TRAINING = {
    "train__steps": 8,
    "mix__every": 1,
    "mix__method": "choco",
    "train__optimizer": "adamw",
    "observe__every": 4,
}


def killed(rank: int) -> int:
    """Serve a problem; rank 1 ends in round 5, when all hold those after 2 and 4."""
    asked, rounds = on_its_way(), []

    def grad(W: np.ndarray) -> np.ndarray:
        rounds.append(1)
        if (rank, len(rounds)) == (1, 6):
            os.kill(os.getpid(), signal.SIGKILL)
        return asked.problem.grad(W)

    problem = replace(asked.problem, grad=grad)
    run(replace(asked, problem=problem), timeout=LONG, folder=SAVED / "run", every=2)
    return 0


def killed_training(rank: int) -> int:
    """Train; rank 1 ends in step 5, when all hold what was after 2 and 4."""

    usual = finetune.gradients

    def gradients(run: Run, t: int) -> torch.Tensor:
        if (rank, t) == (1, 5):
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(run, t)

    finetune.gradients = gradients
    finetune.finetune(paper_runs.config(**TRAINING), SAVED / "training", ranks=LONG)
    return 0


def killed_measuring(rank: int) -> int:
    """Train; rank 1 ends as all agents are gathered for the measurements at a mix."""
    usual = ranks.at_first

    def at_first(value: object, doing: str) -> object:
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(value, doing)

    ranks.at_first = at_first
    finetune.finetune(paper_runs.config(**TRAINING), SAVED / "measuring", ranks=LONG)
    return 0


def restarted(rank: int) -> int:
    """Go on where the others were ended, and do the same undisturbed.

    Rank 2's last file is damaged, so that all hold what was after round 2 only.
    """
    if rank == 2:
        path = SAVED / "run" / "rank-2-round-000000004.ckpt"
        path.write_bytes(path.read_bytes()[:-1])
    found = run(on_its_way(), timeout=LONG, folder=SAVED / "run", every=2)
    whole = run(on_its_way(), timeout=LONG)
    arrays = arrays_of(whole.state)
    for name, X in arrays_of(found.state).items():
        np.testing.assert_array_equal(X, arrays[name])
    print(len(arrays), len(found.seconds), found.sent_bytes == whole.sent_bytes)
    other = on_its_way(seed=4)
    try:
        run(other, timeout=LONG, folder=SAVED / "run", every=2)
    except RankError as error:
        print(error)
    if rank == 1:
        for path in (SAVED / "run").glob("rank-1-*"):
            path.unlink()
    run(on_its_way(), timeout=LONG, folder=SAVED / "run", every=2)
    return 0


def restarted_training(rank: int) -> int:
    """Go on where the others were ended, and train the same undisturbed.

    Rank 2's last file is lost, so that all hold what was after step 2 only.
    """
    if rank == 2:
        (SAVED / "training" / "rank-2" / "checkpoint" / "step-000000004.ckpt").unlink()
    taken: list[int] = []

    def show(step: int, record: object) -> None:
        taken.append(step)

    config = paper_runs.config(**TRAINING)
    found = finetune.finetune(config, SAVED / "training", ranks=LONG, show=show)
    whole = finetune.finetune(config, SAVED / "undisturbed", ranks=LONG)
    tensors = ranks.tensors(whole)
    for name, X in ranks.tensors(found).items():
        torch.testing.assert_close(X, tensors[name], rtol=0, atol=0)
    if rank == 0:
        for name in ("rows.jsonl", "rounds.jsonl"):
            one, other = ((SAVED / f / name).read_bytes() for f in ("training", "undisturbed"))
            assert one == other
        one, other = (
            json.loads((SAVED / f / "run.json").read_bytes()) for f in ("training", "undisturbed")
        )
        assert one["ranks"] == other["ranks"]
    print(len(tensors), taken)
    return 0


SCENES = {
    equal: 4,
    dead: 4,
    slow: 3,
    late: 3,
    nonfinite: 4,
    overflown: 2,
    other_method: 3,
    other_step: 2,
    other_version: 3,
    other_rounds: 2,
    other_order: 4,
    own_steps: 1,
    missing: 3,
    timed: 2,
    own_loop: 2,
    killed: 3,
    killed_training: 3,
    killed_measuring: 3,
}
AFTER = {restarted: 3, restarted_training: 3}  # when those have ended


def started(scene, rank: int, size: int, port: int, directory: Path) -> int:
    """Fork a rank; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    os.chdir(directory)
    for number, kind in ((1, "txt"), (2, "err")):
        file = os.open(f"{scene.__name__}.{rank}.{kind}", os.O_CREAT | os.O_WRONLY)
        os.dup2(file, number)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= place | {"RANK": str(rank), "WORLD_SIZE": str(size)}
    code = without_traceback(lambda: scene(rank), known=(ValueError,))
    if scene in (dead, nonfinite):
        sys.exit(code)  # to the end of the interpreter, where nothing may hang either
    sys.stdout.flush()
    os._exit(code)  # which saves a second


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def played(scenes: dict[object, int], directory: Path) -> dict[str, list[int]]:
    """Return the exit codes of the ranks of scenes, all of which run at the same time."""
    pids = {}
    for scene, size in scenes.items():
        port = free_port()
        for rank in range(size):
            pids[started(scene, rank, size, port, directory)] = (scene.__name__, rank)
    codes: dict[str, list[int]] = {scene.__name__: [0] * size for scene, size in scenes.items()}
    for pid, (name, rank) in pids.items():
        codes[name][rank] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return codes


def main(directory: Path) -> None:
    harness.code()  # which each fork would read all sources for
    gc.freeze()  # the forks share what is loaded
    with hosts() as missing:
        codes = played(SCENES | ({} if missing else {two_hosts: 2}), directory)
    codes |= played(AFTER, directory)
    (directory / "hosts.txt").write_text(missing)
    (directory / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
