"""A round on a GPU against the bytes that it must move, and against what torch offers there.

The floor is the time in which a copy at the bandwidth of the same minute moves the bytes of a
round: each factor read twice (Gram matrices, outputs), each output written once. Times are medians,
by CUDA's events on CUDA, of runs that go through copies of the inputs so many that no cache holds
them; so a time is that of a call as training makes it, launches and waits included.
"""

from __future__ import annotations

import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import cycle, islice
from typing import NamedTuple, TypeAlias

from decaf_theory import extras
from decaf_theory.bench import peers
from decaf_theory.bench.cases import Case, Inputs, draw, on_torch
from decaf_theory.bench.race import Settings
from decaf_theory.bench.rows import Row, skipped, verdict
from decaf_theory.lowrank import Factors

GOAL = "gpu"
CACHE = 2**28  # bytes: copies of the inputs fill it several times over on today's GPUs
COPIES = 64  # of the inputs, at most
COPIED = 2**32  # bytes of the buffer whose copy gives the bandwidth
BUDGET = 1.0  # seconds of a contestant
RUNS = (3, 50)  # of a contestant, at least and at most
SHAPES = ((100, 10, 10), (300, 900, 100), (1000, 60, 3), (8716, 3, 2))  # pytorch issue 86234
CASES = tuple(
    Case(d, d, r, 10, "ring", layers=layers)
    for layers, d, r in ((1, 4096, 4), (12, 4096, 4), (64, 4096, 4), (36, 768, 2), (12, 4096, 16))
)
Run: TypeAlias = Callable[[], object]


class Sizes(NamedTuple):
    """What is timed."""

    cases: Sequence[Case] = CASES
    shapes: Sequence[tuple[int, int, int]] = SHAPES
    copied: int = COPIED


SMALL = Sizes((Case(256, 256, 4, 10, "ring", layers=2),), ((2, 3, 2), (3, 70, 3)), 2**24)


def goal(settings: Settings) -> Iterator[Row]:
    """A round on a GPU over its byte floor, and against batched QR, dense and randomized SVDs."""
    if settings.device == "cpu":
        yield skipped(GOAL, "a round on a GPU", "ours / byte floor", "runs on cuda")
        return
    yield from measured(settings.device, Sizes())


def measured(device: str, sizes: Sizes) -> Iterator[Row]:
    """Yield the rows of all cases and shapes on a device of torch."""
    bytes_a_second = bandwidth(device, sizes.copied)
    yield verdict(GOAL, f"copy of {sizes.copied:,} bytes", "GB/s", [bytes_a_second / 1e9])
    for case in sizes.cases:
        yield from attempted(GOAL, case.label, round_of(case, device, bytes_a_second))
    for shape in sizes.shapes:
        label = f"batch {shape[0]} x {shape[1]} x {shape[2]} float32"
        yield from attempted(GOAL, label, batch_of(shape, label, device))


def attempted(goal: str, case: str, rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows of one case; an error fails that case, with its traceback, and no other."""
    try:
        yield from rows
    except Exception as error:
        traceback.print_exc()
        yield {**skipped(goal, case, "all that follows", repr(error)[:200]), "fails": True}


def bandwidth(device: str, size: int) -> float:
    """Return the bytes that a copy of `size` bytes reads and writes in a second, at its median."""
    import torch

    one, other = (torch.zeros(size // 4, device=device) for _ in range(2))
    return 2 * size / statistics.median(seconds([lambda: other.copy_(one)], device))


def moved(inputs: Inputs) -> int:
    """Return the bytes that a round must move: factors twice, outputs once."""
    (B, A), rows = inputs.factors, len(inputs.Pi)
    L, _, d, _ = B.shape
    read = sum(X.numel() * X.element_size() for X in (B, A))
    return int(2 * read + L * rows * inputs.rank * (d + A.shape[-1]) * B.element_size())


def round_of(case: Case, device: str, bytes_a_second: float) -> Iterator[Row]:
    """Yield a round's time over the floor, and what others take for the same over ours."""
    inputs = rotated(on_torch(draw(case), device))
    floor = moved(inputs[0]) / bytes_a_second
    ours = seconds([peers.kernel(x) for x in inputs], device)
    label = case.label
    yield verdict(GOAL, label, "ours, ms", [1e3 * t for t in ours])
    yield verdict(GOAL, label, "ours / byte floor", [t / floor for t in ours])
    others: dict[str, tuple[Callable[[Inputs], Run], float]] = {"batched QR": (batched_qr, 1.0)}
    if case.layers == 1 or case.d <= 1024:  # of one agent and layer, and seconds of a large one
        each = float(case.layers * case.N)
        others |= {"dense SVD": (peers.dense, each), "svd_lowrank": (peers.svd_lowrank, each)}
    for name, (build, times) in others.items():
        theirs = seconds([build(x) for x in inputs], device)
        mine = statistics.median(ours)
        yield verdict(GOAL, label, f"{name} / ours", [times * t / mine for t in theirs])


def batch_of(shape: tuple[int, int, int], label: str, device: str) -> Iterator[Row]:
    """Yield torch's time for the SVDs of a batch of small matrices over that of the own solver."""
    import torch

    generator = torch.Generator().manual_seed(0)
    A = torch.randn(*shape, generator=generator).to(device)
    theirs = seconds([partial(torch.linalg.svd, A, full_matrices=False)], device)
    yield verdict(GOAL, label, "torch's SVD, ms", [1e3 * t for t in theirs])
    if reason := unsolved(max(shape[1:]), device):
        yield skipped(GOAL, label, "torch's SVD / ours", reason)
        return
    from decaf_theory.tsvd.jacobi_triton import svd

    mine = statistics.median(seconds([partial(svd, A)], device))
    yield verdict(GOAL, label, "torch's SVD / ours", [t / mine for t in theirs])


def unsolved(side: int, device: str) -> str:
    """Return why the Triton solver cannot be timed; empty if it can. The CPU interprets it."""
    if side > 64:
        return "the own solver takes sides <= 64"
    return extras.no_interpreter() if device == "cpu" else extras.missing("triton")


def batched_qr(inputs: Inputs) -> Callable[[], Factors]:
    """Return thin QRs of the neighbours' stacks and SVDs of the cores, batched, in torch alone."""
    import torch

    (stack, A), r = inputs.factors, inputs.rank
    near = [inputs.neighbours(i) for i in range(len(inputs.Pi))]
    at = torch.tensor([[int(j) for j in own] for own in near], device=A.device)
    weights = torch.tensor([[inputs.Pi[i, j] for j in own] for i, own in enumerate(near)])
    w = weights.to(A)[..., None, None]

    def run() -> Factors:
        X = (w * stack[:, at]).transpose(2, 3).flatten(-2)  # [L, n, d, m r]
        Y = A[:, at].flatten(2, 3).mT
        Q, R = torch.linalg.qr(X)
        P, T = torch.linalg.qr(Y)
        U, S, Vh = torch.linalg.svd(R @ T.mT)
        root = S[..., :r].sqrt()
        B = Q @ (U[..., :r] * root[..., None, :])
        return Factors(B, (root[..., None] * Vh[..., :r, :]) @ P.mT)

    return run


def rotated(inputs: Inputs) -> list[Inputs]:
    """Return copies of the inputs that together exceed the caches."""
    size = sum(X.numel() * X.element_size() for X in inputs.factors)
    number = min(COPIES, -(-CACHE // size))
    return [inputs._replace(factors=inputs.factors.map(lambda X: X.clone())) for _ in range(number)]


def seconds(runs: Sequence[Run], device: str, budget: float = BUDGET) -> list[float]:
    """Return the times of runs taken in turn, as many as RUNS and the budget allow.

    The first run, which compiles and fills caches of handles, is left out; if it alone takes the
    budget, one more is all.
    """
    took = timed(runs[0], device)
    if took > budget:
        return [timed(runs[-1], device)]
    found: list[float] = []
    for run in islice(cycle(runs), RUNS[1]):
        found.append(timed(run, device))
        if len(found) >= RUNS[0] and sum(found) > budget:
            break
    return found


def timed(run: Run, device: str) -> float:
    """Return the seconds of a run, on CUDA between two events."""
    if device == "cpu":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    import torch

    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    events[0].record()
    run()
    events[1].record()
    torch.cuda.synchronize()
    return float(events[0].elapsed_time(events[1])) / 1e3
