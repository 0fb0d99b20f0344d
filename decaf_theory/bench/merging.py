"""Merging adapters into one: the kernel against the other ways in use, on the same factors.

A merge is one row of weights. Every way does the matrices of a case one by one, as the matrices of
a model are merged; three take turns, so that none finds its own factors in the nearest cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from decaf_theory.bench import accuracy, memory, peers
from decaf_theory.bench.cases import Case, Inputs, draw, on_torch
from decaf_theory.bench.race import Build, Limit, Peer, Settings, entrants, race
from decaf_theory.bench.rows import Row, skipped, verdict
from decaf_theory.lowrank import Factors

CASES = (
    Case(768, 768, 16, 8, "merge", layers=3),
    Case(4096, 4096, 16, 6, "merge", layers=3),
    Case(4096, 1024, 16, 6, "merge", layers=3),
    Case(4096, 4096, 4, 10, "merge", layers=3),
)
LARGE = 1024  # a dense SVD of more rows takes up to a minute: it runs once, and no error is asked
SMALL = Case(24, 20, 2, 3, "merge")


class Way(NamedTuple):
    """A way to merge. whole: it keeps the rank of all adapters together, no SVD cuts it."""

    build: Build
    backends: tuple[str, ...] = ("numpy", "torch")
    whole: bool = False


def named(library: str) -> str:
    """Return a library's name with its version, if it is installed."""
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return library


SVD = f"{named('peft')} svd"
WAYS = {
    "ours": Way(peers.kernel),
    "QR + core SVD": Way(peers.qr_loop),
    "core space": Way(peers.core_space),
    f"{named('peft')} cat": Way(partial(peers.peft, combination="cat"), ("torch",), whole=True),
    SVD: Way(peers.peft, ("torch",)),
}


def merges(goal: str, settings: Settings) -> Iterator[Row]:
    """Yield times, errors and added memory of every way; of a quick run the first case's times."""
    limits = [Limit(role, "ours") for role in WAYS if role != "ours"]
    for case in CASES[:1] if settings.quick else CASES:
        field = [peer(role, case) for role in WAYS]
        yield from race(goal, case, field, limits, settings)
        yield from errors(goal, case, settings)
        if settings.device == "cpu" and not settings.quick:
            yield from peaks(goal, case)


def peer(role: str, case: Case) -> Peer:
    """Return a way as it is timed; a dense SVD does one matrix of the case."""
    build, backends, _ = WAYS[role]
    if role == SVD:
        return Peer(role, build, backends, float(case.layers), once=case.d > LARGE)
    return Peer(role, one_by_one(build), backends)


def one_by_one(build: Build) -> Build:
    """Return what does the layers one after the other, each as if it were alone."""

    def built(inputs: Inputs) -> Callable[[], list[Any]]:
        B, A = inputs.factors
        one = [Factors(B[at : at + 1], A[at : at + 1]) for at in range(len(B))]
        runs = [build(inputs._replace(factors=factors)) for factors in one]
        return lambda: [run() for run in runs]

    return built


def errors(goal: str, case: Case, settings: Settings) -> Iterator[Row]:
    """Yield the error of every way for one matrix, over sigma_1: that of a QR loop in float64.

    Of a way that keeps all of the mean, its difference from all of it. One value per backend.
    """
    alone = case._replace(layers=1)
    inputs = draw(alone)
    for role, (build, backends, whole) in WAYS.items():
        if role == SVD and case.d > LARGE:
            continue
        best = accuracy.reference(inputs._replace(rank=case.N * case.r if whole else case.r))[0]
        found = entrants(alone, [Peer(role, build, backends)], settings.device)[0]
        values = [accuracy.difference(only(contestant.run()), best) for contestant in found]
        if values:
            yield verdict(goal, alone.label, f"{role}: error", values)


def only(found: Any) -> Factors:
    """Return the factors [d, r] and [r, k] of the one matrix that was merged."""
    factors: Factors = found[0] if isinstance(found, list) else found
    return factors.map(lambda X: X.reshape(X.shape[-2:]))


def peaks(goal: str, case: Case) -> Iterator[Row]:
    """Yield what every way adds to resident memory at its peak, the result among it."""
    alone = case._replace(layers=1)
    code = "from decaf_theory.bench.merging import tell"
    for role in WAYS:
        measure = f"{role}: added MB"
        try:
            found = memory.told_by(f"{code}; tell({role!r}, {tuple(alone)})")
        except ValueError as problem:
            yield skipped(goal, alone.label, measure, str(problem))
            continue
        yield {"kind": "memory", "goal": goal, "case": alone.label, "role": role, **found}
        yield verdict(goal, alone.label, measure, [found["added"] / 1e6])


def tell(role: str, sizes: tuple[Any, ...]) -> None:
    """Merge one matrix once and print the bytes that it adds; for a process of its own."""
    build, backends, _ = WAYS[role]
    inputs, small = draw(Case(*sizes)), draw(SMALL)
    if backends[0] == "torch":
        inputs, small = on_torch(inputs, "cpu"), on_torch(small, "cpu")
    build(small)()  # so that the libraries are loaded
    run = build(inputs)
    memory.reset_peak()
    before = memory.resident("VmRSS")
    found = run()
    added = memory.resident("VmHWM") - before
    results = sum(X.nbytes for X in only(found))
    print(json.dumps({"results": results, "added": added}))
