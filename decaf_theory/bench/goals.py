"""The goals: what each one times or checks, and the limit it is held to.

A goal is a generator of rows: verdicts, and the measurements behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

from decaf_theory.bench import accuracy, gpu, memory, merging, peers, whole
from decaf_theory.bench.cases import Case, Inputs, draw, on_torch
from decaf_theory.bench.race import Limit, Peer, Settings, entrants, race
from decaf_theory.bench.rows import Row, skipped, verdict
from decaf_theory.tsvd import PATHS


def layer_peers(case: Case) -> list[Peer]:
    """Return what every goal on layers times."""
    return [
        Peer("ours", peers.kernel),
        Peer("batched QR", peers.batched_qr),
        Peer("QR loop", peers.qr_loop),
        Peer("GEMM floor", peers.floor),
        Peer("copy", peers.copy),
    ]


def krylov(case: Case) -> list[Peer]:
    """Return scipy's Krylov solvers; they do one layer."""
    layers = float(case.layers)
    return [
        Peer(solver.upper(), partial(peers.svds, solver=solver), ("numpy",), layers)
        for solver in ("propack", "arpack")
    ]


def dense(case: Case, size: int | None = None) -> Peer:
    """Return the dense SVD of one agent, scaled to all agents and layers.

    Measured once and as it is, or at `size` and then scaled by d^3 as well.
    """
    times = float(case.N * case.layers)
    if size is None:
        return Peer("dense SVD", peers.dense, ("torch",), times, once=case.d > 1024)
    small = case._replace(d=size, k=size, layers=1)

    def build(x: Inputs) -> Callable[[], object]:
        inputs = draw(small)
        device = getattr(x.factors.B, "device", "cpu")
        return peers.dense(on_torch(inputs, str(device)))

    return Peer("dense SVD", build, ("torch",), times * (case.d / size) ** 3)


def error(goal: str, case: Case, settings: Settings) -> Row:
    """Return the verdict on the kernel's error against a QR loop in float64."""
    inputs = draw(case)
    if settings.device != "cpu":
        inputs = on_torch(inputs, settings.device)
    found = accuracy.layer_error(inputs)
    return verdict(goal, case.label, "error / sigma_1", [found], "<=", 5e-7)


COPY = Limit("ours", "copy")
ROOM = Limit("QR loop", "GEMM floor")  # methods that treat whole stacks gain no more than that
BATCHED = Limit("batched QR", "ours")
LLAMA = Case(4096, 4096, 4, 10, "ring")
CLIP = Case(768, 768, 2, 10, "ring", layers=36)


def g1(settings: Settings) -> Iterator[Row]:
    """A LLaMA-2-7B layer on a ring; for comparison, a layer of a dozen at once."""
    field = [*layer_peers(LLAMA), *krylov(LLAMA), dense(LLAMA, 1024 if settings.quick else None)]
    limits = [
        BATCHED._replace(relation=">=", limit=3),
        Limit("QR loop", "ours", ">=", 5),
        Limit("PROPACK", "ours", ">=", 25),
        Limit("ARPACK", "ours", ">=", 25),
        Limit("dense SVD", "ours", ">=", 1e5),
        Limit("ours", "GEMM floor", "<=", 1.5),
        *(ROOM, COPY),
    ]
    yield from race("G1", LLAMA, field, limits, settings)
    yield error("G1", LLAMA, settings)
    dozen = LLAMA._replace(layers=12)
    told = [BATCHED, Limit("QR loop", "ours"), Limit("ours", "GEMM floor"), ROOM]
    yield from race("G1", dozen, layer_peers(dozen), told, settings)


def g2(settings: Settings) -> Iterator[Row]:
    """The same on the complete graph, and near consensus; for comparison, rows that differ."""
    for graph, apart in (
        ("complete", 1.0),
        ("complete", 1e-3),
        ("unequal", 1.0),
        ("unequal", 1e-3),
    ):
        case = LLAMA._replace(graph=graph, apart=apart)
        limits = [Limit("QR loop", "ours"), Limit("ours", "GEMM floor"), BATCHED, ROOM, COPY]
        if graph == "complete":
            limits[:2] = [
                Limit("QR loop", "ours", ">=", 12),
                Limit("ours", "GEMM floor", "<=", 2.5 if apart == 1 else 2.0),
            ]
        yield from race("G2", case, layer_peers(case), limits, settings)
        yield error("G2", case, settings)


def g3(settings: Settings) -> Iterator[Row]:
    """The 36 layers of CLIP ViT-B/16."""
    limits = [
        BATCHED._replace(relation=">=", limit=3),
        Limit("QR loop", "ours", ">=", 10),
        Limit("dense SVD", "ours", ">=", 8000),
        Limit("ours", "GEMM floor", "<=", 2),
        *(ROOM, COPY),
    ]
    yield from race("G3", CLIP, [*layer_peers(CLIP), dense(CLIP)], limits, settings)
    yield error("G3", CLIP, settings)


def g4(settings: Settings) -> Iterator[Row]:
    """Small matrices in float64, 64 runs at once."""
    for d, least in ((32, 3), (64, 10), (128, 35)):
        case = Case(d, d, 4, 10, "ring", "float64", layers=64)
        backend = ("numpy",) if settings.device == "cpu" else ("torch",)
        field = [*layer_peers(case), Peer("batched SVD", peers.dense_batched, backend)]
        limits = [Limit("batched SVD", "ours", ">=", least), BATCHED]
        yield from race("G4", case, field, limits, settings)


# ---------------------------------------------------------------- accuracy


def g8(settings: Settings) -> Iterator[Row]:
    """LAPACK's protocol and the hard cases, every path and dtype."""
    device = None if settings.device == "cpu" else settings.device
    for dtype, promised in (("float32", 1e-6), ("float64", 1e-13)):
        for path in ("auto", *PATHS):
            passed, worst, where = accuracy.protocol(path, dtype, device)
            case = f"LAPACK's matrices, {path}, {dtype}"
            yield {**verdict("G8", case, "cases", [passed], ">=", 323, margin=0), "path": path}
            row = verdict("G8", case, "worst ratio", [worst], "<=", 50, margin=0)
            yield {**row, "where": where, "path": path}
        for name, inputs in accuracy.hard_cases(dtype).items():
            yield from hard(name, inputs, dtype, promised, device)


def hard(
    name: str, inputs: Inputs, dtype: str, promised: float, device: str | None
) -> Iterator[Row]:
    """Yield the errors of one hard case: judged for the path that the kernel chooses."""
    of = "residual" if name in accuracy.BY_RESIDUAL else "product"
    judged_by = "terms" if name in accuracy.BY_TERMS else "sigma_1"
    case = f"{name}, {dtype}"
    for path in ("auto", *PATHS):
        found = accuracy.hard_error(name, inputs, path, device)
        for scale, value in (("sigma_1", found.over_sigma), ("terms", found.over_terms)):
            measure = f"{of} error / {scale}"
            if path != "auto":
                row: Row = {"kind": "error", "goal": "G8", "case": case, "measure": measure}
                yield {**row, "path": path, "dtype": dtype, "value": value}
            elif scale == judged_by:
                yield verdict("G8", case, measure, [value], "<=", promised)
            elif scale == "sigma_1":
                yield verdict("G8", case, measure, [value])


# ---------------------------------------------------------------- peers, memory, sizes


def g9(settings: Settings) -> Iterator[Row]:
    """What libraries ship today, on the same factors; then merges of some adapters into one."""
    for d, least in ((768, 500),) if settings.quick else ((768, 500), (2048, 5000)):
        case = Case(d, d, 4, 4, "ring")
        agents = float(case.N)
        field = [
            Peer("ours", peers.kernel),
            Peer("peft svd", peers.peft, ("torch",), agents),
            Peer("dense aggregation", peers.dense_aggregation, ("torch",), agents),
            Peer("svd_lowrank", peers.svd_lowrank, ("torch",), agents),
            Peer("randomized_svd", peers.randomized_svd, ("numpy",), agents),
        ]
        limits = [
            Limit("peft svd", "ours", ">=", least),
            Limit("dense aggregation", "ours", ">=", 400),
            *(Limit(peer.role, "ours") for peer in field[3:]),
        ]
        yield from race("G9", case, field, limits, settings)
        yield from peer_errors("G9", case, field, settings)
    yield from merging.merges("G9", settings)


def peer_errors(goal: str, case: Case, field: Sequence[Peer], settings: Settings) -> Iterator[Row]:
    """Yield each peer's error against a QR loop in float64, for the first agent."""
    best = accuracy.reference(draw(case))[0]
    for contestant in entrants(case, field, settings.device)[0]:
        found: Any = contestant.run()
        if contestant.role == "ours":
            found = found.map(lambda X: X[0, 0])
        value = accuracy.difference(found, best)
        row = {"kind": "error", "goal": goal, "case": case.label, "measure": "error / sigma_1"}
        yield {**row, "role": contestant.role, "backend": contestant.backend, "value": value}


def g10(settings: Settings) -> Iterator[Row]:
    """Memory of a round of LLaMA-2-7B: 64 matrices, 10 agents; results not counted."""
    measure = memory.added_bytes if settings.device == "cpu" else memory.added_on_cuda
    case = LLAMA._replace(layers=64)
    try:
        found = [
            measure(case.layers, case.N, case.d, case.k, case.r) for _ in range(settings.rounds)
        ]
    except ValueError as problem:
        yield skipped("G10", case.label, "added MB", str(problem))
        return
    for one in found:
        yield {"kind": "memory", "goal": "G10", "case": case.label, **one}
    added = [one["added"] / 1e6 for one in found]
    yield verdict("G10", case.label, "added MB", added, "<=", 64)


def sizes(settings: Settings) -> Iterator[Row]:
    """Times against size, for figures; a quick run leaves out what takes long."""
    for d in (256, 512, 1024, 2048, 4096):
        case = LLAMA._replace(d=d, k=d)
        full = [dense(case)] if d <= (256 if settings.quick else 2048) else []
        field = [*layer_peers(case)[:2], *full, *layer_peers(case)[2:]]
        if d <= 512 or not settings.quick:
            field += krylov(case)
        limits = [
            BATCHED._replace(relation=">=", limit=1),
            *(Limit(peer.role, "ours") for peer in full),
            *(Limit("QR loop", "ours"), Limit("ours", "GEMM floor")),
        ]
        yield from race("sizes", case, field, limits, settings)


Goal: TypeAlias = Callable[[Settings], Iterator[Row]]
GOALS: dict[str, Goal] = {
    **{"G1": g1, "G2": g2, "G3": g3, "G4": g4, "G5": whole.g5, "G6": whole.g6, "G7": whole.g7},
    **{"G8": g8, "G9": g9, "G10": g10},
    "sizes": sizes,
    "gpu": gpu.goal,
}
